//! `GET /metrics` on the operator's listener.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};

use super::App;
use crate::error::Error;

/// The metrics, in the text form Prometheus reads.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "OpenMetrics", content_type = "text/plain", body = String))
)]
pub(super) async fn serve(State(app): State<Arc<App>>) -> Result<Response, Error> {
    let text = app.engine.metrics.text().map_err(Error::internal)?;
    let mut response = text.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}
