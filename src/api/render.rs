//! Errors as OpenAI's SDKs understand them.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::observe::Note;
use crate::error::Error;

/// The code of a rendered error, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rendered(pub(super) &'static str);

/// The error's JSON body.
pub(super) fn body(error: &Error) -> serde_json::Value {
    let mut body = json!({
        "error": {
            "message": error.message,
            "type": error.code.kind(),
            "param": error.param,
            "code": error.code.name(),
        }
    });
    if let Some(details) = &error.mediagate {
        body["mediagate"] = Value::clone(details);
    }
    body
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (&self).into_response()
    }
}

impl IntoResponse for &Error {
    fn into_response(self) -> Response {
        if let Some(source) = &self.source {
            let mut chain = source.to_string();
            let mut next = source.source();
            while let Some(cause) = next {
                chain.push_str(": ");
                chain.push_str(&cause.to_string());
                next = cause.source();
            }
            tracing::warn!(code = self.code.name(), cause = chain, "request failed");
        }
        let mut response = Response::new(Body::from(body(self).to_string()));
        *response.status_mut() =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let retry = if self.code.should_retry() { "true" } else { "false" };
        headers.insert("x-should-retry", HeaderValue::from_static(retry));
        if let Some(wait) = self.retry_after {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(ms.div_ceil(1000) * 1000));
        }
        if let Some(job) = self.mediagate.as_ref().and_then(|m| m["job_id"].as_str())
            && let Ok(job) = HeaderValue::from_str(job)
        {
            headers.insert("x-mediagate-job-id", job);
        }
        if let Some(details) = &self.mediagate {
            let attempts = details["attempts"].as_array().map_or(&[][..], Vec::as_slice);
            headers.insert("x-mediagate-attempts", HeaderValue::from(attempts.len()));
            let last = attempts.last().and_then(|a| a["deployment"].as_str()).unwrap_or_default();
            response.extensions_mut().insert(Note {
                job: details["job_id"].as_str().unwrap_or_default().to_owned(),
                deployment: last.to_owned(),
                attempts: attempts.len(),
                ..Note::default()
            });
        }
        response.extensions_mut().insert(Rendered(self.code.name()));
        response
    }
}
