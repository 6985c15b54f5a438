//! Why an attempt failed, and what that allows next.

use std::time::Duration;

use providers::{Fault, SendKind, UpstreamError};

use super::transport::TransportError;

/// The outcome of an attempt whose request holds a picture that cannot be read.
pub(crate) const INVALID_IMAGE: &str = "invalid_image";

/// What a failure allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing reached the provider: once more here, then elsewhere.
    NotSent,
    /// The provider asks to slow down: after a short hint once more here, else elsewhere.
    RateLimited,
    /// The operator's key, balance or model name: elsewhere, and the operator must know.
    Operator,
    /// The provider did not take it: elsewhere.
    Unavailable,
    /// Nobody knows whether a paid job runs: never again at this provider.
    Ambiguous,
    /// The job ended without a usable picture: elsewhere.
    Failed,
    /// This deployment cannot do it, another may: elsewhere, else the caller's fault.
    Unsupported,
    /// The caller's fault: stop.
    Rejected,
    /// Refused for its content: stop.
    Moderated,
    /// Paid and made, but its bytes cannot be had any more: stop.
    ResultLost,
    /// The deadline passed: stop.
    Deadline,
    /// Its owner ended it, and the provider agreed: stop.
    Cancelled,
    /// It could not be written down, so it was not sent: stop.
    Unwritten,
    /// A fault of the gateway itself: stop.
    Gateway,
}

/// A failed attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What it allows.
    pub(crate) class: Class,
    /// The word in `attempts` and logs.
    pub(crate) outcome: &'static str,
    /// For the caller: no key, no URL.
    pub(crate) message: String,
    /// The field the provider complains of.
    pub(crate) param: Option<String>,
    /// When the provider wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the provider may bill it though nothing came of it.
    pub(crate) owed: bool,
}

impl Failure {
    /// A failure with a text for the caller.
    pub(crate) fn new(class: Class, outcome: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            outcome,
            message: message.into(),
            param: None,
            retry_after: None,
            owed: false,
        }
    }

    /// What a refusal means after a request of this kind. Once a job is accepted, a broken
    /// answer says nothing about the job.
    pub(crate) fn upstream(error: UpstreamError, sent: SendKind) -> Self {
        let submitted = sent == SendKind::Submit;
        let class = match error.fault {
            Fault::Credential | Fault::Balance | Fault::UnknownModel => Class::Operator,
            Fault::RateLimited => Class::RateLimited,
            Fault::Unavailable => Class::Unavailable,
            Fault::Invalid => Class::Rejected,
            Fault::Unsupported => Class::Unsupported,
            Fault::Moderated => Class::Moderated,
            Fault::Server | Fault::Malformed if sent == SendKind::Upload => Class::Unavailable,
            Fault::Server | Fault::Malformed if submitted => Class::Ambiguous,
            Fault::Server | Fault::Malformed => Class::ResultLost,
            Fault::JobFailed | Fault::JobLost | Fault::Empty => Class::Failed,
        };
        Self {
            class,
            outcome: error.fault.name(),
            message: error.message,
            param: error.param,
            retry_after: error.retry_after,
            owed: false,
        }
    }

    /// What a broken connection means after a request of this kind.
    pub(crate) fn transport(error: &TransportError, sent: SendKind) -> Self {
        let submitted = sent == SendKind::Submit;
        let uploaded = sent == SendKind::Upload;
        let (class, outcome) = match error {
            TransportError::Timeout if uploaded => (Class::NotSent, "timeout"),
            TransportError::MaybeSent(_) if uploaded => (Class::NotSent, "connection_lost"),
            TransportError::NotSent(_) if uploaded => (Class::NotSent, "unreachable"),
            TransportError::NotSent(_) if submitted => (Class::NotSent, "unreachable"),
            TransportError::NotSent(_) => (Class::ResultLost, "unreachable"),
            TransportError::Refused(_) => (Class::Operator, Fault::Credential.name()),
            TransportError::MaybeSent(_) if submitted => (Class::Ambiguous, "connection_lost"),
            TransportError::MaybeSent(_) => (Class::ResultLost, "connection_lost"),
            TransportError::Timeout if submitted => (Class::Ambiguous, "timeout"),
            TransportError::Timeout => (Class::ResultLost, "timeout"),
        };
        Self::new(class, outcome, error.to_string())
    }

    /// The deadline passed.
    pub(crate) fn deadline() -> Self {
        Self::new(Class::Deadline, "deadline_exceeded", "the job did not finish in time")
    }

    /// Its owner ended it.
    pub(crate) fn cancelled() -> Self {
        Self::new(Class::Cancelled, "cancelled", "the job was cancelled")
    }

    /// Nobody knows whether a job runs and is billed.
    pub(crate) fn unknown(message: &str) -> Self {
        Self::new(Class::Ambiguous, "unknown", message)
    }

    /// It could not be written down.
    pub(crate) fn unwritten() -> Self {
        let message = "the database does not answer, so nothing was sent; try again in a moment";
        Self::new(Class::Unwritten, "unwritten", message)
    }

    /// Whether another deployment may be tried.
    pub(crate) fn fails_over(&self) -> bool {
        matches!(
            self.class,
            Class::NotSent
                | Class::RateLimited
                | Class::Operator
                | Class::Unavailable
                | Class::Ambiguous
                | Class::Failed
                | Class::Unsupported
        )
    }
}
