//! What happens to every request: an id, a guard against panics, and one log line.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::Request,
    http::HeaderValue,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;

use super::{auth::Tenant, render::Rendered};
use crate::error::Error;

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
    pub(super) upstream_ms: u64,
    pub(super) cost_usd: String,
}

/// Wraps every request.
pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response =
        handled.unwrap_or_else(|_| Error::internal("a handler panicked").into_response());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let status = response.status().as_u16();
    let code = response.extensions().get::<Rendered>().map(|r| r.0).unwrap_or_default();
    let key = response.extensions().get::<Tenant>().map(|t| t.name.clone()).unwrap_or_default();
    let ms = begun.elapsed().as_millis() as u64;
    let note = response.extensions().get::<Note>().cloned().unwrap_or_default();
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
        upstream_ms = note.upstream_ms,
        cost_usd = note.cost_usd,
        "request"
    );
    response
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
