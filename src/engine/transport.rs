//! Sends what an adapter asks for, with the key, and reads replies into small texts and blobs.
//!
//! Nothing is retried here. Every failure says whether the request can have reached the
//! provider, because that decides whether a paid submit may be repeated.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use providers::{Body, Reply, ReplyBody, WireRequest};
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
    redirect::Policy,
};

use super::{
    lift::Lifter,
    outgoing::{Inputs, Outgoing},
    sign::{SignError, Signer, Unsigned},
};
use crate::media::blob::{Blob, BlobWriter, Budget, Encoding};

/// A submit goes out on a connection idle for less than this: a keep-alive race is the
/// commonest way to lose track of a paid request.
const FRESH: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest binary reply taken.
const LARGEST_MEDIA: u64 = 256 * 1024 * 1024;

/// Why a reply did not come.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing was sent: safe to repeat anywhere.
    #[error("the provider could not be reached")]
    NotSent(#[source] Box<dyn StdError + Send + Sync>),
    /// It may have been sent and acted on.
    #[error("the connection to the provider broke off")]
    MaybeSent(#[source] Box<dyn StdError + Send + Sync>),
    /// Those who sign us in do not take our credential: nothing was sent.
    #[error("{0}")]
    Refused(SignError),
    /// No answer in time; it may have been acted on.
    #[error("the provider did not answer in time")]
    Timeout,
}

/// The connections to providers.
#[derive(Clone, Debug)]
pub struct Transport {
    client: Client,
    budget: Arc<Budget>,
}

/// How to speak to one provider.
#[derive(Clone, Debug)]
pub struct Access {
    /// The key's header, and its value with the prefix.
    pub key: Option<(HeaderName, HeaderValue)>,
    /// What signs requests, where there is no key.
    pub signer: Option<Arc<Signer>>,
    /// Headers of every request.
    pub headers: HeaderMap,
    /// Longest wait for the head of an answer, and between two pieces of its body.
    pub timeout: Duration,
}

impl Transport {
    /// Opens no connection yet. Redirects are never followed and no proxy of the environment is
    /// used: the key must not travel where the operator did not send it.
    pub fn new(budget: Arc<Budget>) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(FRESH)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, budget })
    }

    /// The memory replies may take together.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Sends one request, its pictures filled in, and reads the whole reply.
    pub(crate) async fn send(
        &self,
        access: &Access,
        request: &WireRequest,
        inputs: &Inputs,
    ) -> Result<(Reply, Vec<Blob>), TransportError> {
        let response = self.open(access, request, inputs).await?;
        let read = read(response, &self.budget, access.timeout);
        read.await
    }

    /// Sends one request and hands over the response once its head is there, for event streams.
    pub(crate) async fn open(
        &self,
        access: &Access,
        request: &WireRequest,
        inputs: &Inputs,
    ) -> Result<Response, TransportError> {
        let builder = self.build(access, request, inputs).await?;
        match tokio::time::timeout(access.timeout, builder.send()).await {
            Ok(Ok(response)) => {
                if let Some(signer) = access.signer.as_ref().filter(|_| response.status() == 401) {
                    signer.forget().await;
                }
                Ok(response)
            }
            Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                Err(TransportError::NotSent(error.into()))
            }
            Ok(Err(error)) => Err(TransportError::MaybeSent(error.into())),
            Err(_) => Err(TransportError::Timeout),
        }
    }

    async fn build(
        &self,
        access: &Access,
        request: &WireRequest,
        inputs: &Inputs,
    ) -> Result<RequestBuilder, TransportError> {
        let not_sent = |e: Box<dyn StdError + Send + Sync>| TransportError::NotSent(e);
        let method =
            Method::from_bytes(request.method.as_bytes()).map_err(|e| not_sent(e.into()))?;
        let mut headers = access.headers.clone();
        for (name, value) in &request.headers {
            let value = HeaderValue::from_str(value).map_err(|e| not_sent(e.into()))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        if let Some((name, value)) = &access.key {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("mediagate/", env!("CARGO_PKG_VERSION"))),
        );
        let body = match &request.body {
            Body::Empty => None,
            Body::Json(json) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Some(Outgoing::json(json, inputs))
            }
            Body::Form(parts) => {
                let boundary = format!("mediagate-{}", uuid::Uuid::new_v4().simple());
                let kind = format!("multipart/form-data; boundary={boundary}");
                let kind = HeaderValue::from_str(&kind).map_err(|e| not_sent(e.into()))?;
                headers.insert(CONTENT_TYPE, kind);
                Some(Outgoing::form(&boundary, parts, inputs).map_err(|e| not_sent(e.into()))?)
            }
        };
        if let Some(body) = &body {
            // A stream without a length would go out in chunks, which not every provider takes.
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        if let Some(signer) = &access.signer {
            let unsigned = Unsigned {
                method: request.method,
                url: &request.url,
                headers: &headers,
                body: body.as_ref(),
            };
            let signed =
                signer.sign(&self.client, unsigned).await.map_err(|error| match error {
                    SignError::Refused(_) => TransportError::Refused(error),
                    SignError::Unreachable(_) | SignError::Unsigned(_) => not_sent(error.into()),
                })?;
            headers.extend(signed);
        }
        let builder = self.client.request(method, &request.url).headers(headers);
        Ok(match body {
            Some(body) => builder.body(body.into_body()),
            None => builder,
        })
    }
}

/// Reads a whole response: JSON with its long strings lifted, media as one blob.
async fn read(
    mut response: Response,
    budget: &Arc<Budget>,
    timeout: Duration,
) -> Result<(Reply, Vec<Blob>), TransportError> {
    let status = response.status().as_u16();
    let headers: Vec<(String, String)> = response
        .headers()
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let kind = content_type(response.headers());
    let is_media = kind.starts_with("image/") || kind == "application/octet-stream";
    let broken = |e: Box<dyn StdError + Send + Sync>| TransportError::MaybeSent(e);
    let next = async |response: &mut Response| match tokio::time::timeout(timeout, response.chunk())
        .await
    {
        Ok(chunk) => chunk.map_err(|e| broken(e.into())),
        Err(_) => Err(TransportError::Timeout),
    };
    if is_media && response.status().is_success() {
        let mut writer = BlobWriter::new(Encoding::Raw, budget);
        while let Some(chunk) = next(&mut response).await? {
            if writer.len() + chunk.len() as u64 > LARGEST_MEDIA {
                return Err(broken("the reply is too large".into()));
            }
            writer.push(chunk).map_err(|e| broken(e.into()))?;
        }
        let reply = Reply { status, headers, body: ReplyBody::Media(0) };
        return Ok((reply, vec![writer.finish()]));
    }
    let json = kind.is_empty() || kind.contains("json");
    let mut lifter = Lifter::new(json, budget);
    let mut seen = 0;
    while let Some(chunk) = next(&mut response).await? {
        seen += chunk.len() as u64;
        if seen > LARGEST_MEDIA {
            return Err(broken("the reply is too large".into()));
        }
        lifter.push(&chunk).map_err(|e| broken(e.into()))?;
    }
    let (text, blobs) = lifter.finish();
    Ok((Reply { status, headers, body: ReplyBody::Text(text) }, blobs))
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(value);
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
