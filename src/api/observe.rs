//! What happens to every request: an id, a guard against panics, and one log line.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;

use super::{App, auth::Tenant, render::Rendered};
use crate::{
    error::{Code, Error},
    metrics::RequestLabels,
    tenant::role::Actor,
};

const MOST_HEADERS: usize = 100;
/// Names, values and separators together.
const HEADER_BYTES: usize = 64 * 1024;

/// The request's id: the caller's own, or one of ours.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// What a handler wants in the log line.
#[derive(Clone, Debug, Default)]
pub(super) struct Note {
    pub(super) job: String,
    pub(super) model: String,
    pub(super) deployment: String,
    pub(super) attempts: usize,
    pub(super) upstream: std::time::Duration,
    pub(super) cost_usd: String,
}

/// Wraps every request.
pub(super) async fn observe(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |m| m.as_str().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = if let Err(error) = check_headers(request.headers()) {
        error.into_response()
    } else {
        let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        handled.unwrap_or_else(|_| Error::internal("a handler panicked").into_response())
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let status = response.status().as_u16();
    let code = response.extensions().get::<Rendered>().map(|r| r.0).unwrap_or_default();
    let tenant = response.extensions().get::<Tenant>().map(|t| &t.name);
    let operator = || response.extensions().get::<Actor>().map(|a| &a.id);
    let key = tenant.or_else(operator).cloned().unwrap_or_default();
    let ms = begun.elapsed().as_millis() as u64;
    let note = response.extensions().get::<Note>().cloned().unwrap_or_default();
    let metrics = &app.engine.metrics;
    metrics.requests.get_or_create(&RequestLabels { route, status, code }).inc();
    metrics.request_seconds.observe(begun.elapsed().as_secs_f64());
    if note.attempts > 0 {
        let own = begun.elapsed().saturating_sub(note.upstream);
        metrics.overhead_seconds.observe(own.as_secs_f64());
    }
    // Signed links are bearer secrets.
    let path = if path.starts_with("/media/") { "/media/***" } else { &path };
    tracing::info!(
        request_id = id,
        %method,
        path,
        status,
        code,
        key,
        job = note.job,
        model = note.model,
        deployment = note.deployment,
        attempts = note.attempts,
        ms,
        upstream_ms = note.upstream.as_millis() as u64,
        cost_usd = note.cost_usd,
        "request"
    );
    response
}

fn check_headers(headers: &HeaderMap) -> Result<(), Error> {
    let bytes: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    if headers.len() <= MOST_HEADERS && bytes <= HEADER_BYTES {
        return Ok(());
    }
    let message = format!("at most {MOST_HEADERS} headers of {HEADER_BYTES} bytes together");
    Err(Error::new(Code::HeadersTooLarge, message))
}

fn request_id(request: &Request) -> String {
    let safe = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    request
        .headers()
        .get("x-request-id")
        .and_then(|v| v.to_str().ok())
        .filter(safe)
        .map_or_else(|| format!("req_{}", uuid::Uuid::now_v7().simple()), str::to_owned)
}
