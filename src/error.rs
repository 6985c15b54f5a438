//! The errors callers see, and the one table that decides their status and retry advice.

use std::{error::Error as StdError, fmt, time::Duration};

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $retry:literal $meaning:literal;)*) => {
        /// What went wrong, in the words of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, in the order of `docs/errors.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The `code` of an error body.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The code of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.name() == name)
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The value of `x-should-retry`: whether a repeat is free or joins a running job.
            pub const fn should_retry(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// One sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 400 false "The request is malformed: `param` names the field and the message what would work.";
    InvalidSize "invalid_size" 400 false "No deployment can deliver this size; the message lists sizes that would work.";
    UnsupportedParameter "unsupported_parameter" 400 false "No deployment of this model honours the parameter; the message names those that would.";
    InvalidImage "invalid_image" 400 false "A picture of the request cannot be read, or not used like this.";
    ImageTooLarge "image_too_large" 400 false "A picture of the request has more pixels than are taken.";
    ContentPolicyViolation "content_policy_violation" 400 false "The provider refused the prompt or the picture for its content.";
    InvalidApiKey "invalid_api_key" 401 false "The key is missing, malformed, unknown or revoked.";
    InsufficientCredits "insufficient_credits" 402 false "The organisation's credits do not cover what this call may cost.";
    UnpricedModel "unpriced_model" 402 false "The model has no price, and the operator does not allow unpriced calls.";
    ModelNotAllowed "model_not_allowed" 403 false "The key may not use this model.";
    EndpointNotAllowed "endpoint_not_allowed" 403 false "The key may not use this path, or a web page or foreign host name asked a gateway that runs without keys.";
    ModelNotFound "model_not_found" 404 false "No such model; the message names the three nearest.";
    JobNotFound "job_not_found" 404 false "No such job, or it belongs to another key.";
    FileNotFound "file_not_found" 404 false "No such file, or its link is not one of ours.";
    NotFound "not_found" 404 false "No such path.";
    MethodNotAllowed "method_not_allowed" 405 false "The path takes another method; `allow` names it.";
    JobCancelled "job_cancelled" 409 false "The job was cancelled by its owner; nothing is charged.";
    IdempotencyInFlight "idempotency_in_flight" 409 true "Too many callers wait for the job of this `Idempotency-Key`; come back when it is over.";
    ResultExpired "result_expired" 410 false "The output was kept for its time and is gone.";
    RequestTooLarge "request_too_large" 413 false "The body is larger than this path takes.";
    UnsupportedMediaType "unsupported_media_type" 415 false "The body's content type is not one this path takes.";
    IdempotencyMismatch "idempotency_mismatch" 422 false "The `Idempotency-Key` was used for another request.";
    HeadersTooLarge "headers_too_large" 431 false "The request's headers are too large.";
    RateLimitExceeded "rate_limit_exceeded" 429 true "The key asks faster than it may; `retry-after` says when to come back.";
    BudgetExceeded "budget_exceeded" 429 false "A budget of the key, its user, project or organisation does not cover what this call may use.";
    ProvidersRateLimited "providers_rate_limited" 429 true "Every provider of the model asks to slow down; `retry-after` says for how long.";
    InternalError "internal_error" 500 false "A fault of the gateway itself; the log has the details under the request id.";
    ProvidersExhausted "providers_exhausted" 502 false "Every provider that could do it was tried and failed; `mediagate.attempts` says how.";
    SubmitOutcomeUnknown "submit_outcome_unknown" 502 false "The provider may have accepted the job, so it is not sent again: a repeat could be paid twice.";
    ResultLost "result_lost" 502 false "The picture was made but could not be fetched any more; nothing is charged.";
    Overloaded "overloaded" 503 true "The gateway has no room for more work just now.";
    NoProviderAvailable "no_provider_available" 503 true "The model is known, but no provider of it is switched on.";
    JobStillRunning "job_still_running" 503 true "The wait ended before the job; a repeat by the SDK joins it.";
    StoreUnavailable "store_unavailable" 503 true "The database or the output store does not answer just now; nothing was sent that is not written down.";
    LedgerFrozen "ledger_frozen" 503 false "The balance of this account does not add up, so it is closed until the operator has looked.";
    DeadlineExceeded "deadline_exceeded" 504 false "The job did not finish before its deadline.";
}

impl Code {
    /// The `type` of an error body, as OpenAI names the classes.
    pub const fn kind(self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            402 => "insufficient_quota",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// An error on its way to a caller.
#[derive(Debug)]
pub struct Error {
    /// Which.
    pub code: Code,
    /// For the caller: lower case, says what would fix it.
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// When to come back, where a repeat makes sense.
    pub retry_after: Option<Duration>,
    /// Attempts and job id, shown beside the error.
    pub mediagate: Option<Box<serde_json::Value>>,
    /// For the log only.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a text for the caller.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            mediagate: None,
            source: None,
        }
    }

    /// A malformed request field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message).param(param)
    }

    /// A fault of ours. The caller gets no details.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let mut error = Self::new(
            Code::InternalError,
            "the gateway failed; its log has the details under this request id",
        );
        error.source = Some(source.into());
        error
    }

    /// Names the field at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn retry_after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }

    /// Chains a cause, for the log.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// The table as `docs/errors.md`.
pub fn documentation() -> String {
    let mut page = String::from(
        "# Errors\n\nGenerated from `src/error.rs`; a test keeps it so.\n\n\
         The body is always `{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`, all four \
         present; `mediagate` beside `error` carries attempts and job id. `x-should-retry` is \
         always sent, and the official SDKs obey it; `retry-after` and `retry-after-ms` agree. \
         A provider's refusal of the operator's key or balance is never shown as 401, 402 or \
         403.\n\n\
         | status | code | type | retry | meaning |\n|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        page.push_str(&format!(
            "| {} | `{}` | `{}` | {} | {} |\n",
            code.status(),
            code.name(),
            code.kind(),
            code.should_retry(),
            code.meaning()
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of the test, not of the gateway")]
    fn the_documentation_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, documentation()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(page, documentation(), "run with UPDATE_DOCS=1 to write it anew");
    }

    #[test]
    fn only_free_or_joining_repeats_are_advised() {
        let retried: Vec<&str> =
            Code::ALL.iter().filter(|c| c.should_retry()).map(|c| c.name()).collect();
        assert_eq!(
            retried,
            [
                "idempotency_in_flight",
                "rate_limit_exceeded",
                "providers_rate_limited",
                "overloaded",
                "no_provider_available",
                "job_still_running",
                "store_unavailable"
            ]
        );
    }
}
