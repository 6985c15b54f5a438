//! What a caller is told when pictures did not come.

use std::time::Duration;

use serde_json::json;

use super::{
    Engine, Plan,
    failure::{Class, Failure, INVALID_IMAGE},
    job::{AttemptRecord, MissingPicture},
};
use crate::error::{Code, Error};

/// The longest wait a caller is advised.
const LONGEST_ADVICE: Duration = Duration::from_mins(2);
/// The wait advised where no provider named one.
const USUAL_ADVICE: Duration = Duration::from_secs(5);

impl Plan {
    /// The error of a plan without candidates: what no deployment can honour, and who would.
    pub fn refusal(&self, engine: &Engine) -> Error {
        let Some(first) = self.excluded.first() else {
            return Error::internal("a plan without deployments");
        };
        // The most telling reason: one that all share, else that of the first.
        let mut message = first.reason.clone();
        for other in self.excluded.iter().skip(1).take(4) {
            if other.reason != first.reason {
                message.push_str(&format!("; {}: {}", other.deployment, other.reason));
            }
        }
        if first.code == Code::UnsupportedParameter {
            let able = who_honours(engine, &first.param);
            if !able.is_empty() {
                message.push_str(&format!("; deployments that take it: {}", able.join(", ")));
            }
        }
        Error::new(first.code, message).param(first.param.as_ref())
    }
}

/// A few deployments that honour a parameter.
fn who_honours(engine: &Engine, param: &str) -> Vec<String> {
    let honours = |d: &providers::catalog::Deployment| match param {
        "seed" => d.wire.seed.is_some(),
        "negative_prompt" => d.wire.negative_prompt.is_some(),
        "background" => d.draws_transparent(),
        "quality" => d.wire.quality.is_some(),
        "style" => d.wire.style.is_some(),
        "moderation" => d.wire.moderation.is_some(),
        "output_compression" => d.wire.compression.is_some(),
        _ => false,
    };
    let served = engine.registry.served().iter().filter(|s| honours(&s.deployment));
    served.map(|s| s.slug()).take(5).collect()
}

/// The code a failure has for the caller.
fn code(failure: &Failure) -> Code {
    match failure.class {
        Class::Rejected if failure.outcome == INVALID_IMAGE => Code::InvalidImage,
        Class::Moderated => Code::ContentPolicyViolation,
        Class::Rejected => Code::InvalidRequest,
        Class::Unsupported => Code::UnsupportedParameter,
        Class::RateLimited => Code::ProvidersRateLimited,
        Class::Ambiguous => Code::SubmitOutcomeUnknown,
        Class::ResultLost => Code::ResultLost,
        Class::Deadline => Code::DeadlineExceeded,
        Class::Cancelled => Code::JobCancelled,
        Class::Unwritten => Code::StoreUnavailable,
        Class::Gateway => Code::InternalError,
        Class::NotSent | Class::Operator | Class::Unavailable | Class::Failed => {
            Code::ProvidersExhausted
        }
    }
}

/// One missing picture of a job that delivered others.
pub(crate) fn missing(index: usize, failure: &Failure) -> MissingPicture {
    MissingPicture { index, code: code(failure).name().into(), message: failure.message.clone() }
}

/// What a repeat of a failed job could cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Risk {
    /// Some pictures were paid, though not all came.
    pub(crate) paid: bool,
    /// Some submit's outcome is unknown.
    pub(crate) unknown: bool,
}

/// Which of several failures says most, least first: a refusal beats a lost job, and that a mere
/// outage.
pub(crate) fn rank(failure: &Failure) -> u8 {
    match failure.class {
        Class::Moderated | Class::Cancelled => 0,
        Class::Rejected | Class::Unsupported => 1,
        Class::Ambiguous => 2,
        Class::ResultLost => 3,
        Class::Deadline => 4,
        Class::Unwritten | Class::Gateway => 5,
        Class::NotSent | Class::Operator | Class::Unavailable | Class::Failed => 6,
        Class::RateLimited => 7,
    }
}

/// The error of a job that delivered nothing, or not all where all were required.
/// `soonest` is when a provider that asked to slow down takes work again.
pub(crate) fn error(
    failures: &[Failure],
    attempts: &[AttemptRecord],
    soonest: Option<Duration>,
    risk: Risk,
    job: &str,
) -> Error {
    let Some(worst) = failures.iter().min_by_key(|f| rank(f)) else {
        return Error::internal("a job without pictures or failures");
    };
    let limited = attempts.iter().all(|a| a.outcome == "rate_limited");
    let mut code = code(worst);
    if code == Code::ProvidersRateLimited && (!limited || risk.paid) {
        code = Code::ProvidersExhausted;
    }
    if risk.unknown && matches!(code, Code::ProvidersExhausted | Code::ProvidersRateLimited) {
        // An earlier provider may still draw the picture: a repeat could be paid twice.
        code = Code::SubmitOutcomeUnknown;
    }
    let message = match code {
        Code::ProvidersExhausted => format!("every provider failed; the last: {}", worst.message),
        Code::SubmitOutcomeUnknown => format!(
            "{}; a provider may have accepted the job, so do not repeat it blindly",
            worst.message
        ),
        _ => worst.message.clone(),
    };
    let mut error = Error::new(code, message);
    error.param.clone_from(&worst.param);
    if code == Code::InvalidRequest && worst.param.is_none() {
        error.param = Some("prompt".to_owned());
    }
    if code.should_retry() {
        error.retry_after = Some(soonest.unwrap_or(USUAL_ADVICE).min(LONGEST_ADVICE));
    }
    error.mediagate = Some(Box::new(json!({ "job_id": job, "attempts": attempts })));
    error
}
