//! Tokens for a service account of Google's: a signed claim is exchanged for one (RFC 7523).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{
    Client, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use ring::{rand::SystemRandom, rsa, signature::RSA_PKCS1_SHA256};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Mutex, time::Instant};

use super::SignError;
use crate::config::ServiceAccount;

/// A token is renewed this long before it ends.
const EARLY: Duration = Duration::from_mins(5);
/// How long a claim holds, the longest Google takes.
const CLAIM: u64 = 3600;
/// How long those who give out tokens may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of theirs that is read.
const LARGEST: usize = 64 * 1024;

/// A service account, with the token it got last.
pub(super) struct Account {
    email: String,
    key_id: String,
    key: rsa::KeyPair,
    token_url: String,
    scope: String,
    /// Held while one is fetched, so that all others wait for that one.
    token: Mutex<Option<Token>>,
}

struct Token {
    header: HeaderValue,
    ends: Instant,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    /// In seconds.
    expires_in: u64,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
}

impl fmt::Debug for Account {
    /// Without key and token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("email", &self.email).finish_non_exhaustive()
    }
}

impl Account {
    pub(super) fn new(account: &ServiceAccount, scope: &str) -> Option<Self> {
        Some(Self {
            email: account.email.clone(),
            key_id: account.key_id.clone(),
            key: rsa::KeyPair::from_pkcs8(account.key.expose()).ok()?,
            token_url: account.token_url.clone(),
            scope: scope.to_owned(),
            token: Mutex::default(),
        })
    }

    pub(super) async fn headers(&self, client: &Client) -> Result<HeaderMap, SignError> {
        let mut held = self.token.lock().await;
        let left = |token: &Token| token.ends.saturating_duration_since(Instant::now());
        let fresh = held.as_ref().filter(|token| left(token) > EARLY);
        let header = if let Some(token) = fresh {
            token.header.clone()
        } else {
            match self.fetch(client).await {
                Ok(token) => held.insert(token).header.clone(),
                // The old one still holds: better than failing.
                Err(error) => match held.as_ref().filter(|token| !left(token).is_zero()) {
                    Some(token) => token.header.clone(),
                    None => return Err(error),
                },
            }
        };
        Ok(HeaderMap::from_iter([(AUTHORIZATION, header)]))
    }

    pub(super) async fn forget(&self) {
        *self.token.lock().await = None;
    }

    async fn fetch(&self, client: &Client) -> Result<Token, SignError> {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
            .append_pair("assertion", &self.claim(SystemTime::now())?)
            .finish();
        let asked = Instant::now();
        let sending = client
            .post(&self.token_url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body)
            .timeout(TIMEOUT)
            .send();
        let broken = |e: reqwest::Error| SignError::Unreachable(e.without_url().into());
        let response = sending.await.map_err(broken)?;
        let status = response.status();
        let text = read(response).await?;
        if status.is_client_error() && status.as_u16() != 429 {
            let word = serde_json::from_slice::<Refusal>(&text).unwrap_or_default().error;
            // One of a few words of the standard; anything else is not shown.
            let plain = |c: u8| c.is_ascii_lowercase() || c == b'_';
            let known = !word.is_empty() && word.len() < 40 && word.bytes().all(plain);
            return Err(SignError::Refused(if known { word } else { status.to_string() }));
        }
        if !status.is_success() {
            return Err(SignError::Unreachable(format!("it answered with {status}").into()));
        }
        // What serde says of an answer may quote it.
        let unread = |_| SignError::Unreachable("its answer holds no token".into());
        let given: Given = serde_json::from_slice(&text).map_err(unread)?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", given.access_token))?;
        header.set_sensitive(true);
        // One day at most: no number of theirs may overflow the clock.
        let ends = asked + Duration::from_secs(given.expires_in.min(86_400));
        Ok(Token { header, ends })
    }

    /// The signed claim to be this account (RFC 7515).
    fn claim(&self, now: SystemTime) -> Result<String, SignError> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let head = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let claims = json!({
            "iss": self.email, "scope": self.scope, "aud": self.token_url,
            "iat": now, "exp": now + CLAIM,
        });
        let encode = |part: String| URL_SAFE_NO_PAD.encode(part);
        let message = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| SignError::Unsigned("the private key does not sign".into()))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, SignError> {
    let mut text = Vec::new();
    let broken = |e: reqwest::Error| SignError::Unreachable(e.without_url().into());
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        text.extend_from_slice(&chunk);
        if text.len() > LARGEST {
            return Err(SignError::Unreachable("its answer is too long".into()));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
