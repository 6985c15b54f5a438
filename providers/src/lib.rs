//! All that Mediagate knows about vendors, and nothing that acts.
//!
//! An **adapter** translates: it says what to send, and what a reply means. The engine of the
//! gateway acts: it owns sockets, keys, clocks, retries and prices. So this crate does no IO,
//! and its `Cargo.toml` lacks the crates for it.
//!
//! Reading order: [`media`] and [`money`] are the vocabulary, [`catalog`] the data,
//! [`Adapter`] the contract, [`body`] how a call becomes a vendor's fields, then one file per
//! wire dialect.

pub mod body;
pub mod catalog;
pub mod error;
pub mod media;
pub mod money;

mod bfl;
mod fal;
mod fastapi;
mod gemini;
mod openai;
mod replicate;
mod reply;
mod stability;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use error::{Fault, UpstreamError};

use catalog::Deployment;
use media::{Format, NativeSize};

/// Every dialect, in the order of the documentation. Plain on purpose: a list can be read.
pub const ADAPTERS: &[&dyn Adapter] = &[
    &openai::OpenAi,
    &fal::Fal,
    &replicate::Replicate,
    &bfl::Bfl,
    &gemini::Gemini,
    &stability::Stability,
];

/// The adapter of that name.
pub fn adapter(name: &str) -> Option<&'static dyn Adapter> {
    ADAPTERS.iter().copied().find(|a| a.name() == name)
}

/// One wire dialect. Pure: no clock, socket, key, price or retry.
///
/// The engine calls [`begin`](Adapter::begin), sends what it is told, hands every reply to
/// [`advance`](Adapter::advance) and obeys the [`Step`] until it is [`Step::Done`] or an error.
/// Synchronous vendors and job queues are the same loop.
pub trait Adapter: Send + Sync {
    /// The name catalogue files use.
    fn name(&self) -> &'static str;

    /// The first thing to send.
    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError>;

    /// What to do after a reply to a request of kind `sent`. `job` is the vendor's job as last
    /// reported, once there is one.
    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError>;

    /// The request that cancels a job, where the vendor has one.
    fn cancel(&self, _call: &Call<'_>, _job: &RemoteJob) -> Option<WireRequest> {
        None
    }
}

impl std::fmt::Debug for dyn Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Adapter({})", self.name())
    }
}

/// One planned call of one deployment: everything is already in terms the vendor takes.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// What is called.
    pub deployment: &'a Deployment,
    /// The vendor's host and version path, without a trailing slash.
    pub base_url: &'a str,
    /// Hosts, beside that of `base_url`, whose job URLs may be followed with the key: each
    /// stands for itself and its subdomains.
    pub hosts: &'a [String],
    /// The model's name on the wire; differs from the deployment's where an operator renames it.
    pub upstream: &'a str,
    /// The picture wanted.
    pub image: &'a ImageCall,
}

/// A picture to draw, in the deployment's own terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageCall {
    /// The text.
    pub prompt: String,
    /// How many pictures in this one call; never more than the deployment's own limit.
    pub n: u32,
    /// The size to ask for; `None` lets the vendor choose.
    pub size: Option<NativeSize>,
    /// The format to ask for; `None` lets the vendor choose.
    pub format: Option<Format>,
    /// Quality of a lossy format, 0 to 100; only with a format.
    pub compression: Option<u8>,
    /// Sampling seed.
    pub seed: Option<u64>,
    /// What must not be in the picture.
    pub negative_prompt: Option<String>,
    /// The vendor's word for the quality level.
    pub quality: Option<String>,
    /// The vendor's word for the background.
    pub background: Option<String>,
    /// The vendor's word for the moderation level.
    pub moderation: Option<String>,
    /// The vendor's word for the style.
    pub style: Option<String>,
    /// The caller's end user.
    pub user: Option<String>,
    /// Fields passed on as they are.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// What the engine is to do next.
#[expect(clippy::large_enum_variant, reason = "one at a time, moved a few times per attempt")]
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send this and hand over the reply.
    Send {
        /// Which request it is; only a submit costs money.
        kind: SendKind,
        /// The request.
        request: WireRequest,
    },
    /// The vendor is working: ask again later, or listen where it pushes.
    Wait {
        /// The job as the vendor last reported it.
        job: RemoteJob,
        /// The request that asks how it is going.
        poll: WireRequest,
        /// A server-sent event stream of the job's states, where the vendor has one.
        listen: Option<WireRequest>,
    },
    /// The pictures, or where they are.
    Done(Output),
}

/// Which request of an attempt it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendKind {
    /// The one that is paid.
    Submit,
    /// Asks for a job's state. Free, may be repeated.
    Poll,
    /// An event of a job's state stream. Free.
    Listen,
    /// Fetches a finished job's answer. Free, may be repeated.
    Result,
}

/// The vendor's own job. Serialisable, so that it can be kept and taken up again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteJob {
    /// The vendor's id.
    pub id: String,
    /// How far it is.
    pub state: RemoteState,
    /// Jobs ahead of it, if the vendor says so.
    pub queue_position: Option<u64>,
    /// Where to ask for the state.
    pub status_url: String,
    /// Where the answer will be, if not in the state.
    pub result_url: Option<String>,
    /// Where to cancel.
    pub cancel_url: Option<String>,
    /// What the vendor said at the submit that it bills us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billed: Option<money::Money>,
}

/// How far a vendor's job is. Unknown words count as running until the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteState {
    /// Waiting for a worker.
    Queued,
    /// Being worked on.
    Running,
    /// Ended; the answer must still be fetched.
    Finished,
}

/// One HTTP request, without the key: the engine adds it, and only for the vendor's own hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct WireRequest {
    /// `GET`, `POST` or `PUT`.
    pub method: &'static str,
    /// The whole URL.
    pub url: String,
    /// Headers beside authorisation and content type, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent.
    pub body: Body,
}

impl WireRequest {
    /// A `GET` without body.
    pub fn get(url: impl Into<String>) -> Self {
        Self { method: "GET", url: url.into(), headers: Vec::new(), body: Body::Empty }
    }

    /// A `POST` of a JSON value.
    pub fn post_json(url: impl Into<String>, value: &serde_json::Value) -> Self {
        Self {
            method: "POST",
            url: url.into(),
            headers: Vec::new(),
            body: Body::Json(Bytes::from(value.to_string())),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The body of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// None.
    Empty,
    /// `application/json`.
    Json(Bytes),
    /// `multipart/form-data`; the engine chooses the boundary.
    Form(Vec<Part>),
}

/// One part of a form.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The field.
    pub name: String,
    /// What it holds.
    pub value: PartValue,
}

/// The content of a form part.
#[derive(Clone, Debug, PartialEq)]
pub enum PartValue {
    /// Plain text.
    Text(String),
    /// A file.
    File {
        /// The file name sent along.
        name: String,
        /// The media type of the bytes.
        mime: &'static str,
        /// The bytes.
        data: Bytes,
    },
}

/// A vendor's reply. Long strings of a JSON body and binary bodies are lifted into blobs by the
/// engine before an adapter sees it, so a picture is never parsed as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status; 200 for an event of a stream.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ReplyBody,
}

/// The body of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// Text, usually JSON. A string too long to parse is replaced by [`lifted`] and its number.
    Text(Bytes),
    /// Binary media, kept as the blob of this number.
    Media(usize),
}

/// The stand-in for the `index`th string lifted out of a JSON body. The control character makes
/// it unlikely in real data; a vendor that forges one can only name a string of its own reply.
pub fn lifted(index: usize) -> String {
    format!("\u{1}blob:{index}")
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text; empty for media.
    pub fn text(&self) -> &[u8] {
        match &self.body {
            ReplyBody::Text(bytes) => bytes,
            ReplyBody::Media(_) => &[],
        }
    }

    /// The body as JSON of the wanted shape, else [`Fault::Malformed`].
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, UpstreamError> {
        let text = self.text();
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(UpstreamError::malformed("the provider's reply is empty"));
        }
        serde_json::from_slice(text).map_err(|e| {
            UpstreamError::malformed(format!("the provider's reply cannot be read: {e}"))
        })
    }
}

/// What a finished attempt holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The pictures, in the vendor's order. Never empty.
    pub pictures: Vec<Picture>,
    /// What the vendor counted.
    pub usage: Usage,
    /// The quality level the vendor says it used, where `auto` was asked.
    pub quality: Option<String>,
}

/// One picture of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The bytes, or where they are.
    pub source: Source,
    /// The seed it was drawn with, if the vendor says so.
    pub seed: Option<u64>,
    /// The prompt as the vendor rewrote it.
    pub revised_prompt: Option<String>,
    /// Set where the vendor delivered a blackened or blurred picture in place of refused content.
    pub withheld: bool,
}

impl Picture {
    /// A picture with nothing said about it.
    pub fn new(source: Source) -> Self {
        Self { source, seed: None, revised_prompt: None, withheld: false }
    }
}

/// Where a picture's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Base64 text of a reply, short enough not to be lifted.
    Base64(String),
    /// A blob of the reply this output was read from.
    Blob(usize),
    /// To be downloaded, without the key.
    Url(String),
}

impl Source {
    /// What a reply's base64 or data URI field holds: a lifted blob or the text itself.
    pub fn inline(text: &str) -> Self {
        if let Some(index) = text.strip_prefix("\u{1}blob:").and_then(|n| n.parse().ok()) {
            return Self::Blob(index);
        }
        match text.split_once(";base64,") {
            Some((head, data)) if head.starts_with("data:") => Self::Base64(data.to_owned()),
            _ => Self::Base64(text.to_owned()),
        }
    }

    /// What a reply's URL field holds: data URIs are taken inline.
    pub fn link(text: &str) -> Self {
        if text.starts_with("data:") || text.starts_with('\u{1}') {
            Self::inline(text)
        } else {
            Self::Url(text.to_owned())
        }
    }
}

/// What the vendor counted, where it counts tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt's text.
    pub text_input_tokens: Option<u64>,
    /// Tokens of input pictures.
    pub image_input_tokens: Option<u64>,
    /// Tokens of text written.
    pub text_output_tokens: Option<u64>,
    /// Tokens of pictures drawn.
    pub image_output_tokens: Option<u64>,
    /// What the vendor says it bills us for this call.
    pub billed: Option<money::Money>,
}

impl Call<'_> {
    /// `base_url` with the deployment's path, its `{upstream}` filled in.
    pub fn endpoint(&self, default_path: &str) -> String {
        let path = self.deployment.path.as_deref().unwrap_or(default_path);
        format!("{}{}", self.base_url, path.replace("{upstream}", self.upstream))
    }

    /// Whether a job URL out of a reply may be followed with the key: the very origin of
    /// `base_url`, or `https` on one of the vendor's hosts.
    pub fn may_follow(&self, url: &str) -> bool {
        let Some((scheme, host)) = origin(url) else { return false };
        if origin(self.base_url) == Some((scheme, host)) {
            return true;
        }
        scheme == "https"
            && self.hosts.iter().any(|allowed| {
                host == allowed
                    || host.strip_suffix(allowed.as_str()).is_some_and(|sub| sub.ends_with('.'))
            })
    }
}

/// Scheme and authority of an absolute http(s) URL. `None` for anything odd: user info, a
/// backslash, white space or no host.
fn origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let odd = |c: char| c == '@' || c == '\\' || c.is_whitespace() || c.is_control();
    (matches!(scheme, "http" | "https") && !host.is_empty() && !url.contains(odd))
        .then_some((scheme, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_vendors_own_hosts_are_followed() {
        let deployment = Deployment::default();
        let image = ImageCall::default();
        let hosts = ["bfl.ai".to_owned()];
        let call = Call {
            deployment: &deployment,
            base_url: "http://127.0.0.1:9100/bfl/v1",
            hosts: &hosts,
            upstream: "flux",
            image: &image,
        };
        for (url, yes) in [
            ("http://127.0.0.1:9100/other/path?id=1", true),
            ("http://127.0.0.1:9101/bfl/v1", false),
            ("https://127.0.0.1:9100/bfl/v1", false),
            ("https://api.us1.bfl.ai/v1/get_result?id=1", true),
            ("https://bfl.ai/", true),
            ("http://api.us1.bfl.ai/v1", false),
            ("https://evilbfl.ai/v1", false),
            ("https://bfl.ai.evil.example/v1", false),
            ("https://bfl.ai@evil.example/v1", false),
            ("https://evil.example\\.bfl.ai/", false),
            ("file:///etc/passwd", false),
            ("not a url", false),
        ] {
            assert_eq!(call.may_follow(url), yes, "{url}");
        }
    }

    #[test]
    fn inline_sources_are_recognised() {
        assert_eq!(Source::inline(&lifted(3)), Source::Blob(3));
        assert_eq!(Source::inline("data:image/png;base64,AAAA"), Source::Base64("AAAA".into()));
        assert_eq!(Source::link("https://x.example/a"), Source::Url("https://x.example/a".into()));
        assert_eq!(Source::link("data:image/png;base64,AAAA"), Source::Base64("AAAA".into()));
    }
}
