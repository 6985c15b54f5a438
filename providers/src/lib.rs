//! All that Mediagate knows about vendors, and nothing that acts.
//!
//! An **adapter** translates: it says what to send, and what a reply means. The engine of the
//! gateway acts: it owns sockets, keys, clocks, retries and prices. So this crate does no IO,
//! and its `Cargo.toml` lacks the crates for it.
//!
//! Reading order: [`media`] and [`money`] are the vocabulary, [`catalog`] the data,
//! [`Adapter`] the contract, [`recovery`] and [`signature`] how a lost job is found again,
//! [`body`] how a call becomes a vendor's fields, then one file per wire dialect.

pub mod body;
pub mod catalog;
pub mod error;
pub mod media;
pub mod money;
pub mod recovery;
pub mod signature;

mod automatic1111;
mod bedrock;
mod bfl;
mod byteplus;
mod comfyui;
mod dashscope;
mod deepinfra;
mod fal;
mod fastapi;
mod fireworks;
mod gemini;
mod ideogram;
mod job;
mod leonardo;
mod luma;
mod minimax;
mod multipart;
mod openai;
mod output;
mod prodia;
mod recraft;
mod replicate;
mod reply;
mod runware;
mod runway;
mod said;
mod stability;
mod time;
mod wire;
mod xai;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use error::{Fault, UpstreamError};
pub use output::{Output, Picture, Source, Usage};
pub use recovery::{Found, Pushed, Recovery, Settled};
pub use signature::Signature;
pub use wire::{Body, Part, PartValue, Reply, ReplyBody, WireRequest, inlined, lifted};

use catalog::Deployment;
use media::{Format, NativeSize};

/// Compiles and runs the example of the page.
#[cfg(doctest)]
#[doc = include_str!("../../docs/adding-a-provider.md")]
struct AddingAProvider;

/// Every dialect, in the order of the documentation. Plain on purpose: a list can be read.
pub const ADAPTERS: &[&dyn Adapter] = &[
    &openai::OpenAi,
    &fal::Fal,
    &replicate::Replicate,
    &bfl::Bfl,
    &gemini::Gemini,
    &stability::Stability,
    &xai::Xai,
    &ideogram::Ideogram,
    &recraft::Recraft,
    &fireworks::Fireworks,
    &luma::Luma,
    &luma::LumaAgents,
    &runway::Runway,
    &deepinfra::DeepInfra,
    &byteplus::BytePlus,
    &runware::Runware,
    &dashscope::DashScope,
    &prodia::Prodia,
    &minimax::MiniMax,
    &leonardo::Leonardo,
    &bedrock::Bedrock,
    &automatic1111::Automatic1111,
    &comfyui::ComfyUi,
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

    /// Whether the vendor works on jobs that outlive the request which submits them.
    fn is_queue(&self) -> bool {
        false
    }

    /// How the job of a submit whose reply was lost is found again, the surest way first. Empty
    /// where there is no way.
    fn recovery(&self) -> &'static [Recovery] {
        &[]
    }

    /// What follows a submit whose reply was lost, where [`Recovery::ClientId`] is declared: the
    /// submit again under the same [`Call::client_ref`], which makes no second job, or the wait
    /// for the job of that name.
    fn again(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        self.begin(call)
    }

    /// A job out of the records, as a step to go on from. Addresses the key may no longer be
    /// sent to are made anew from the job's id, where the dialect can.
    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        if !call.may_follow(&job.status_url) {
            let message = "the job's address is no longer the provider's";
            return Err(UpstreamError::new(Fault::JobLost, message));
        }
        let poll = WireRequest::get(&job.status_url);
        Ok(Step::Wait { job: job.clone(), poll, listen: None })
    }

    /// What a push to [`Call::callback_url`] means; `job` is the vendor's job, where its reply
    /// to the submit arrived. `push` has the status 200. `None` for a push that says nothing of
    /// use, or speaks of another job than `job`.
    ///
    /// The push must have passed the [`signature`](Adapter::signature) first.
    fn callback(
        &self,
        _call: &Call<'_>,
        _job: Option<&RemoteJob>,
        _push: &Reply,
    ) -> Option<Pushed> {
        None
    }

    /// How the vendor signs what it pushes; none where it pushes nothing.
    fn signature(&self) -> Option<&'static Signature> {
        None
    }

    /// The request that lists the jobs taken about `sent_at`, in seconds since 1970.
    fn search(&self, _call: &Call<'_>, _sent_at: u64) -> Option<WireRequest> {
        None
    }

    /// The jobs of such a list that may be this call's, submitted at `sent_at`.
    fn found(
        &self,
        _call: &Call<'_>,
        _sent_at: u64,
        _reply: &Reply,
    ) -> Result<Found, UpstreamError> {
        Ok(Found::default())
    }
}

impl fmt::Debug for dyn Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapter({})", self.name())
    }
}

/// One planned call of one deployment: everything is already in terms the vendor takes.
#[derive(Clone)]
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
    /// Our own name of this submit: letters, digits, `-` and `_`. Sent where the vendor keeps
    /// such a name, and looked for in lists.
    pub client_ref: Option<&'a str>,
    /// Where the vendor is to push the job's end; none asks for no push.
    pub callback_url: Option<&'a str>,
    /// The secret the vendor is to sign that push with, where it takes one of ours.
    pub callback_secret: Option<&'a str>,
}

impl fmt::Debug for Call<'_> {
    /// Without the callback: its address and its secret are credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("deployment", &self.deployment.slug())
            .field("base_url", &self.base_url)
            .field("client_ref", &self.client_ref)
            .finish_non_exhaustive()
    }
}

/// A picture to draw, in the deployment's own terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageCall {
    /// The text.
    pub prompt: String,
    /// The pictures to work from, in the caller's order, as the deployment takes them.
    pub images: Vec<Input>,
    /// What of the first picture is to be edited, as the deployment understands it.
    pub mask: Option<Input>,
    /// The factor of an upscale; `None` lets the vendor choose.
    pub scale: Option<u32>,
    /// The vendor's word for how closely the pictures are kept to.
    pub fidelity: Option<String>,
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

/// A picture that is sent. Its bytes stay with the engine: a body holds a stand-in for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Names the bytes, see [`inlined`] and [`PartValue::Input`]. Random.
    pub token: u64,
    /// Its format.
    pub format: Format,
    /// Its size.
    pub size: media::Size,
    /// Where the vendor can fetch it; given where the deployment takes addresses.
    pub url: Option<String>,
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
    /// Takes a picture to the vendor ahead of the submit. Free, may be repeated.
    Upload,
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
        scheme == "https" && self.hosts.iter().any(|allowed| within(host, allowed))
    }
}

/// Whether a host is `of` or a subdomain of it.
fn within(host: &str, of: &str) -> bool {
    host == of || host.strip_suffix(of).is_some_and(|sub| sub.ends_with('.'))
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
            client_ref: None,
            callback_url: None,
            callback_secret: None,
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
}
