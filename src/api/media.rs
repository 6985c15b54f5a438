//! `GET /media/{signed}`: outputs kept in memory or on disk.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use providers::media::Format;

use super::{App, path::Path};
use crate::{
    engine::unix,
    error::{Code, Error},
    store::StoreError,
};

/// A kept output. The link is the permission: signed and expiring.
#[utoipa::path(
    get,
    path = "/media/{signed}",
    params(("signed" = String, Path)),
    responses(
        (status = 200, description = "the picture"),
        (status = 410, description = "kept for its time", body = super::shape::ErrorResponse),
    )
)]
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    Path(signed): Path,
) -> Result<Response, Error> {
    let now = unix(SystemTime::now());
    let opened = app.engine.store.open_signed(&signed, now).await;
    let (head, stream) = opened.map_err(|error| match error {
        StoreError::Expired => Error::new(Code::ResultExpired, "the link has expired"),
        StoreError::Unknown | StoreError::Forged => {
            Error::new(Code::FileNotFound, "there is no such file")
        }
        other => Error::new(Code::StoreUnavailable, "the file cannot be had just now")
            .retry_after(Some(Duration::from_secs(2)))
            .because(other),
    })?;
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(head.mime()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(head.len));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let age = head.expires_at.saturating_sub(now);
    if let Ok(value) = HeaderValue::from_str(&format!("private, max-age={age}, immutable")) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    if head.format == Format::Svg {
        // Vectors may hold scripts: never shown in place.
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    Ok(response)
}
