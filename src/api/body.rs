//! Reads a JSON body within its limit.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};

use crate::error::{Code, Error};

/// How long a body may stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole body, refused at the first byte beyond the limit.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Error> {
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes");
        Error::new(Code::RequestTooLarge, message)
    };
    if announced(headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = body;
    let mut whole = BytesMut::new();
    let stalled = |_| {
        Error::new(Code::InvalidRequest, "the body did not arrive; nothing came for ten seconds")
    };
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.map_err(stalled)? {
        let frame = frame
            .map_err(|e| Error::new(Code::InvalidRequest, "the body ended early").because(e))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// How long the body says it is.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses a body that does not say it is JSON.
pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), Error> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media != "application/json" && !media.ends_with("+json") {
        return Err(Error::new(
            Code::UnsupportedMediaType,
            format!("the content type is {media:?}; send application/json"),
        ));
    }
    Ok(())
}

/// A JSON object out of a body.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, Error> {
    expect_json(headers)?;
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::new(Code::InvalidRequest, "the body is JSON, but not an object")),
        Err(error) => {
            Err(Error::new(Code::InvalidRequest, format!("the body is not JSON: {error}")))
        }
    }
}
