//! Liveness and readiness.

use std::sync::{Arc, atomic::Ordering};

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::App;
use crate::error::{Code, Error};

/// The process runs.
#[utoipa::path(get, path = "/livez", responses((status = 200, description = "alive", body = Object)))]
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The process takes work: it is not stopping, its stores work, and some provider is on.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "ready", body = Object),
        (status = 503, description = "not ready", body = super::shape::ErrorResponse),
    )
)]
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, Error> {
    if app.draining.load(Ordering::Acquire) {
        return Err(Error::new(Code::Overloaded, "the gateway is stopping"));
    }
    if app.engine.registry.served().is_empty() {
        return Err(Error::new(Code::NoProviderAvailable, "no provider is switched on"));
    }
    if !app.auth.directory().is_current() {
        return Err(Error::new(Code::StoreUnavailable, "the database does not answer"));
    }
    app.engine.store.ready().await.map_err(|error| {
        Error::new(Code::StoreUnavailable, "the output store does not answer").because(error)
    })?;
    Ok(Json(json!({ "status": "ok" })))
}
