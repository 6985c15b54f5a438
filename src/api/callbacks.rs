//! `/callbacks/...`: what providers push when a job is over.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};

use super::{App, body};
use crate::{
    engine::callback::{self, Received},
    error::{Code, Error},
};

/// The longest push that is read; media comes as links.
const LONGEST: usize = 8 * 1024 * 1024;

/// Takes a push. Providers repeat it until they get a 200, so a late or second one gets it too.
pub(super) async fn receive(
    State(app): State<Arc<App>>,
    Path((provider, job, attempt, mac)): Path<(String, String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let unknown = || Error::new(Code::NotFound, "there is no such callback address");
    let attempt: i64 = attempt.parse().map_err(|_| unknown())?;
    let bytes = body::read(&headers, body, LONGEST).await?;
    let named = headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    let push = callback::push(named.collect(), bytes);
    let received = app.engine.receive(&provider, &job, attempt, &mac, push).await;
    app.engine.metrics.callback(&provider, received);
    match received {
        Received::Taken => Ok(StatusCode::OK.into_response()),
        Received::Unknown => Err(unknown()),
        Received::Forged(why) => {
            tracing::warn!(provider, job, why = why.name(), "a forged callback");
            Err(Error::new(Code::InvalidApiKey, why.to_string()))
        }
        Received::Later => {
            let message = "the provider's signature keys cannot be had just now; send it again";
            Err(Error::new(Code::StoreUnavailable, message)
                .retry_after(Some(std::time::Duration::from_secs(5))))
        }
    }
}
