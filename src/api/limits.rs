//! How fast a key asks: admitted or told when to come back.

use axum::{
    http::{HeaderName, HeaderValue},
    response::{IntoResponse as _, Response},
};

use super::{App, auth::Tenant};
use crate::{
    error::{Code, Error},
    limit::{self, Ask, Permit, Refused, State, What},
};

/// Counts a call for so many pictures, or refuses it; what is left to the key is for headers.
pub(super) async fn admit(app: &App, tenant: &Tenant, images: u32) -> Result<Vec<State>, Limited> {
    let (key, limits) = (&tenant.grant.key_id, &tenant.grant.limits);
    let ask = |what, limit: Option<u32>, cost| limit.map(|limit| Ask { what, limit, cost });
    let asks: Vec<Ask> = [
        ask(What::Requests, limits.rpm, 1),
        ask(What::Images, limits.ipm, images),
        // How many tokens a picture takes is known afterwards; a key without any left waits.
        ask(What::Tokens, limits.tpm, 0),
    ]
    .into_iter()
    .flatten()
    .collect();
    app.limiter.admit(key, &asks).await.map_err(Limited)
}

/// A place among the key's jobs, where it may have so many at once.
pub(super) async fn enter(app: &App, tenant: &Tenant) -> Result<Option<Permit>, Error> {
    let Some(most) = tenant.grant.limits.max_concurrent else { return Ok(None) };
    let entered = app.limiter.enter(&tenant.grant.key_id, most).await;
    entered.map(Some).map_err(|refused| Limited(refused).into())
}

/// Counts the tokens that a result took.
pub(super) async fn count_tokens(app: &App, tenant: &Tenant, usage: &providers::Usage) {
    let Some(limit) = tenant.grant.limits.tpm else { return };
    let counted = [
        usage.text_input_tokens,
        usage.image_input_tokens,
        usage.text_output_tokens,
        usage.image_output_tokens,
    ];
    let took: u64 = counted.into_iter().flatten().sum();
    let ask = Ask { what: What::Tokens, limit, cost: 0 };
    let took = u32::try_from(took).unwrap_or(u32::MAX);
    app.limiter.correct(&tenant.grant.key_id, ask, took).await;
}

/// A call that came too fast.
pub(super) struct Limited(Refused);

impl From<Limited> for Response {
    fn from(limited: Limited) -> Self {
        let states = limited.0.states().to_vec();
        let mut response = Error::from(limited).into_response();
        tell(&mut response, &states);
        response
    }
}

impl From<Limited> for Error {
    fn from(Limited(refused): Limited) -> Self {
        match refused.retry_after() {
            Some(wait) => {
                Error::new(Code::RateLimitExceeded, refused.to_string()).retry_after(Some(wait))
            }
            // It will never fit, so coming back is no advice.
            None => Error::invalid("n", refused.to_string()),
        }
    }
}

/// Puts what is left to the key into an answer's headers, as OpenAI does.
pub(super) fn tell(response: &mut Response, states: &[State]) {
    for (name, value) in limit::headers(states) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}
