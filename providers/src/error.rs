//! What a vendor's refusal means: whose fault it is, and whether anyone may try again.

use std::time::Duration;

/// Why an attempt failed, in terms the engine can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The vendor refused our key (401, 403).
    Credential,
    /// The vendor says our balance is empty (402).
    Balance,
    /// The vendor asks us to slow down (429).
    RateLimited,
    /// The vendor says the request is wrong, and it would be wrong elsewhere too.
    Invalid,
    /// The vendor cannot do this; another might.
    Unsupported,
    /// The prompt, an input or the output was refused for its content.
    Moderated,
    /// The vendor does not know the model or endpoint.
    UnknownModel,
    /// The vendor says it did not take the request (503 before accept).
    Unavailable,
    /// The vendor broke (500, 502, 504 and the like): after a submit nobody knows.
    Server,
    /// An accepted job ended without a picture.
    JobFailed,
    /// The vendor no longer knows the job, or its result is gone.
    JobLost,
    /// The reply cannot be understood: HTML, empty, cut off, fields missing.
    Malformed,
    /// The reply is well formed and holds no picture.
    Empty,
}

impl Fault {
    /// The word used in attempts, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Credential => "credential_refused",
            Self::Balance => "balance_exhausted",
            Self::RateLimited => "rate_limited",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Moderated => "moderated",
            Self::UnknownModel => "unknown_model",
            Self::Unavailable => "unavailable",
            Self::Server => "server_error",
            Self::JobFailed => "job_failed",
            Self::JobLost => "job_lost",
            Self::Malformed => "malformed_reply",
            Self::Empty => "empty_reply",
        }
    }
}

/// A vendor's refusal, understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", fault.name())]
pub struct UpstreamError {
    /// What it means.
    pub fault: Fault,
    /// What the vendor said, fit to show to the caller: no key, no URL, at most 500 characters.
    pub message: String,
    /// The vendor's own error code, if it gave one.
    pub code: Option<String>,
    /// The request field the vendor complains of, if it names one.
    pub param: Option<String>,
    /// How long the vendor asks us to wait.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    /// A refusal with a text for the caller. Long texts are cut at 500 characters.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(500) {
            message.truncate(cut);
        }
        Self { fault, message, code: None, param: None, retry_after: None }
    }

    /// A reply that could not be understood.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Fault::Malformed, message)
    }

    /// Adds the vendor's code.
    #[must_use]
    pub fn code(mut self, code: Option<impl Into<String>>) -> Self {
        self.code = code.map(Into::into);
        self
    }

    /// Adds the field complained of.
    #[must_use]
    pub fn param(mut self, param: Option<impl Into<String>>) -> Self {
        self.param = param.map(Into::into);
        self
    }

    /// Adds the vendor's hint when to come back.
    #[must_use]
    pub fn retry_after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }
}
