//! The one guarded door to URLs that came out of a reply or from a client.
//!
//! Such a URL is hostile until shown otherwise: it may lead into the operator's own network.
//! So it must be https on port 443 without credentials, its name must resolve to public
//! addresses only, and what is dialled is the very address that was judged. Redirects are
//! followed by hand, a few, each judged anew. Nothing authenticates. Pairs in `[fetch] allow`
//! are excepted from the scheme, port and address rules.
//!
//! All refusals look the same, [`FetchError::Refused`]; the reason goes to the log alone.

mod address;
mod post;
mod target;

use std::{
    error::Error as _,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture, stream};
use http::{HeaderMap, StatusCode, header};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use tokio::time::{Instant, timeout, timeout_at};
use url::Host;

pub use address::is_public;
use target::{Gate, Target};
pub use target::{HostPort, ParseHostPortError};

/// How long a body may stand still, or run below the minimum rate.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes ring the process's TLS provider; every HTTP client needs one. Harmless when repeated.
pub fn install_tls() {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What may be fetched, and for how long one waits.
#[derive(Clone, Debug)]
pub struct FetchRules {
    /// Pairs excepted from the https, port and public-address rules.
    pub allow: Vec<HostPort>,
    /// Where this process listens; never fetched from, allowed or not.
    pub own_listeners: Vec<SocketAddr>,
    /// Redirects followed before giving up.
    pub max_redirects: usize,
    /// Name resolution, connection and TLS handshake together.
    pub connect_timeout: Duration,
    /// One fetch, from the first name resolved to the last byte.
    pub total_timeout: Duration,
    /// Bytes per second below which a body counts as stalled.
    pub min_rate: u64,
    /// Bytes of body taken at most.
    pub max_bytes: u64,
}

impl Default for FetchRules {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            own_listeners: Vec::new(),
            max_redirects: 3,
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            min_rate: 1024,
            max_bytes: 256 << 20,
        }
    }
}

/// Why nothing, or not all, was fetched. None of them holds the URL: it may be signed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that may be fetched. One answer for every reason.
    #[error("the URL may not be fetched: it must be public https, or stand in [fetch] allow")]
    Refused,
    /// 403, 404 or 410: the link is no longer good.
    #[error("the link is no longer good: it was answered with {0}")]
    Expired(u16),
    /// Any other status that is not success.
    #[error("the server answered with {0}")]
    Upstream(u16),
    /// An answer that is against the rules of HTTP, or not what was asked for.
    #[error("the server's answer is of no use: {0}")]
    Malformed(&'static str),
    /// The body ended early. It may be taken up where it ended.
    #[error("the body ended early")]
    Truncated,
    /// Not connected, not answered or not finished in time.
    #[error("the server took too long")]
    Timeout,
    /// No connection.
    #[error("the server could not be reached")]
    Connect(#[source] reqwest::Error),
    /// More redirects than are followed.
    #[error("too many redirects")]
    TooManyRedirects,
    /// More bytes than are taken.
    #[error("the body is longer than {0} bytes")]
    TooLarge(u64),
    /// No room on disk for what memory could not hold.
    #[error("the download could not be put aside")]
    Spool(#[source] std::io::Error),
}

impl FetchError {
    /// A refusal; only the log learns why.
    fn refused(reason: &'static str) -> Self {
        tracing::debug!(reason, "fetch refused");
        Self::Refused
    }
}

/// A fetcher that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client; are CA certificates installed (ca-certificates)?")]
pub struct SetupError(#[source] reqwest::Error);

/// Fetches URLs that nobody vouches for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Arc<Gate>,
    lookup: Arc<dyn Lookup>,
    /// Dials public addresses only.
    public: Client,
    /// Dials anything; for targets in the allow list. Absent where the list is empty.
    allowed: Option<Client>,
    rules: FetchRules,
}

impl Fetcher {
    /// A fetcher that keeps to these rules.
    pub fn new(rules: FetchRules) -> Result<Self, SetupError> {
        Self::with(rules, Arc::new(SystemLookup), 443)
    }

    fn with(rules: FetchRules, lookup: Arc<dyn Lookup>, port: u16) -> Result<Self, SetupError> {
        install_tls();
        let gate = Arc::new(Gate {
            allow: rules.allow.clone(),
            own_listeners: rules.own_listeners.clone(),
            port,
        });
        let client = |allowed| {
            Client::builder()
                .redirect(redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .connect_timeout(rules.connect_timeout)
                .user_agent(concat!("mediagate/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Guard {
                    gate: Arc::clone(&gate),
                    lookup: Arc::clone(&lookup),
                    allowed,
                })
                .build()
                .map_err(SetupError)
        };
        let public = client(false)?;
        let allowed = if rules.allow.is_empty() { None } else { Some(client(true)?) };
        Ok(Self(Arc::new(Inner { gate, lookup, public, allowed, rules })))
    }

    /// Fetches a URL, from byte `from` on where a first part is already there. The body is read
    /// with [`Fetched::next_chunk`].
    ///
    /// A server that does not do ranges answers from the start: see [`Fetched::offset`].
    pub async fn get(&self, url: &str, from: Option<u64>) -> Result<Fetched, FetchError> {
        let deadline = Instant::now() + self.0.rules.total_timeout;
        let response = timeout_at(deadline, self.follow(url, from))
            .await
            .map_err(|_| FetchError::Timeout)??;
        self.accept(response, from, deadline)
    }

    /// Sends, and follows redirects to the first answer that is none.
    async fn follow(&self, url: &str, from: Option<u64>) -> Result<Response, FetchError> {
        let mut target = self.0.gate.admit(url)?;
        for _ in 0..=self.0.rules.max_redirects {
            let response = self.send(&target, from).await?;
            let Some(next) = redirect_of(&response)? else { return Ok(response) };
            target = self.0.gate.admit_redirect(&target.url, &next)?;
        }
        Err(FetchError::TooManyRedirects)
    }

    async fn send(&self, target: &Target, from: Option<u64>) -> Result<Response, FetchError> {
        let client = self.client(target).await?;
        let mut request =
            client.get(target.url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if let Some(from) = from.filter(|n| *n > 0) {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(connect_error)
    }

    /// The client that dials only what this target may lead to.
    async fn client(&self, target: &Target) -> Result<&Client, FetchError> {
        let inner = &self.0;
        match (&inner.allowed, target.allowed) {
            (Some(client), true) => {
                self.refuse_own(target).await?;
                Ok(client)
            }
            _ => Ok(&inner.public),
        }
    }

    /// Refuses an allowed name that leads to one of our own listeners. The guard of the
    /// connection cannot: it is not told the port.
    async fn refuse_own(&self, target: &Target) -> Result<(), FetchError> {
        let inner = &self.0;
        if inner.gate.own_listeners.is_empty() {
            return Ok(());
        }
        let (Some(Host::Domain(name)), Some(port)) =
            (target.url.host(), target.url.port_or_known_default())
        else {
            return Ok(());
        };
        let answer = timeout(inner.rules.connect_timeout, inner.lookup.lookup(name.to_owned()));
        // A name that does not resolve fails where it is dialled.
        for ip in answer.await.ok().and_then(Result::ok).unwrap_or_default() {
            inner.gate.admit_address(ip, port, true)?;
        }
        Ok(())
    }

    fn accept(
        &self,
        response: Response,
        from: Option<u64>,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let headers = response.headers();
        let from = from.unwrap_or(0);
        let offset = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if from > 0 && range_start(headers) == Some(from) => from,
            StatusCode::PARTIAL_CONTENT => {
                return Err(FetchError::Malformed("a part that was not asked for"));
            }
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(FetchError::Expired(response.status().as_u16()));
            }
            other => return Err(FetchError::Upstream(other.as_u16())),
        };
        let encoded = headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
        if encoded {
            return Err(FetchError::Malformed("a compressed body, though none was accepted"));
        }
        let length = response.content_length();
        let max_bytes = self.0.rules.max_bytes;
        if length.is_some_and(|n| n > max_bytes) {
            return Err(FetchError::TooLarge(max_bytes));
        }
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok(Fetched {
            content_type,
            length,
            offset,
            status: response.status().as_u16(),
            received: 0,
            pace: Pace::new(self.0.rules.min_rate, deadline),
            max_bytes,
            response,
        })
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Fetched {
    /// What the server says it is. Not to be believed.
    pub content_type: Option<String>,
    /// Bytes this body will have, if the server says so.
    pub length: Option<u64>,
    /// Where in the whole this body starts: what was asked for, or 0 where the server does not
    /// do ranges.
    pub offset: u64,
    /// 200, or 206 from an offset.
    pub status: u16,
    received: u64,
    max_bytes: u64,
    pace: Pace,
    response: Response,
}

impl Fetched {
    /// The next bytes, or none at the very end. An error is final; after
    /// [`FetchError::Truncated`] a new [`get`](Fetcher::get) may take up from
    /// `offset` + [`received`](Self::received).
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let chunk = self.pace.wait(self.response.chunk()).await?;
        // The HTTP library holds the body against its declared length.
        let Some(chunk) = chunk.map_err(|error| body_error(&error))? else { return Ok(None) };
        self.received += chunk.len() as u64;
        if self.received > self.max_bytes {
            return Err(FetchError::TooLarge(self.max_bytes));
        }
        self.pace.count(chunk.len());
        Ok(Some(chunk))
    }

    /// Bytes of this body read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The body as a stream; it ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static {
        stream::try_unfold(self, |mut fetched| async move {
            Ok(fetched.next_chunk().await?.map(|chunk| (chunk, fetched)))
        })
    }
}

/// Ends a transfer that is too slow. Waiting spends patience, bytes that arrive restore it; time
/// the reader spends elsewhere costs nothing.
#[derive(Debug)]
struct Pace {
    deadline: Instant,
    min_rate: u64,
    left: Duration,
}

impl Pace {
    fn new(min_rate: u64, deadline: Instant) -> Self {
        Self { deadline, min_rate: min_rate.max(1), left: PATIENCE }
    }

    /// Waits for the network, no longer than patience and the whole fetch allow.
    async fn wait<T>(&mut self, read: impl Future<Output = T>) -> Result<T, FetchError> {
        let start = Instant::now();
        let end = self.deadline.min(start + self.left);
        let answer = timeout_at(end, read).await.map_err(|_| FetchError::Timeout)?;
        self.left = self.left.saturating_sub(start.elapsed());
        Ok(answer)
    }

    fn count(&mut self, bytes: usize) {
        let earned = Duration::from_millis(bytes as u64 * 1000 / self.min_rate);
        self.left = (self.left + earned).min(PATIENCE);
    }
}

/// Where an answer sends the caller, if it does.
fn redirect_of(response: &Response) -> Result<Option<String>, FetchError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    match location {
        Some(location) => Ok(Some(location.to_owned())),
        None => Err(FetchError::Malformed("a redirect to nowhere")),
    }
}

/// The first byte of `content-range: bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

fn connect_error(error: reqwest::Error) -> FetchError {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<NotPublic>() {
            return FetchError::Refused;
        }
        source = cause.source();
    }
    if error.is_timeout() { FetchError::Timeout } else { FetchError::Connect(error.without_url()) }
}

fn body_error(error: &reqwest::Error) -> FetchError {
    if error.is_timeout() { FetchError::Timeout } else { FetchError::Truncated }
}

/// Turns a name into addresses. Replaced in tests.
trait Lookup: Send + Sync + fmt::Debug {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The machine's own resolver.
#[derive(Debug)]
struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A name that led somewhere it must not.
#[derive(Debug, thiserror::Error)]
#[error("not a public address")]
struct NotPublic;

/// Resolves for the connection itself, so that what is dialled is what was judged.
struct Guard {
    gate: Arc<Gate>,
    lookup: Arc<dyn Lookup>,
    allowed: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let answer = self.lookup.lookup(name.as_str().to_owned());
        let gate = Arc::clone(&self.gate);
        let allowed = self.allowed;
        Box::pin(async move {
            let addresses = answer.await?;
            for ip in addresses.iter().filter(|_| !allowed) {
                gate.admit_address(*ip, gate.port, false).map_err(|_| NotPublic)?;
            }
            let dialled = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(dialled) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
