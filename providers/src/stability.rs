//! Stability AI's v2beta: forms in, bytes out. Every body is `multipart/form-data`, even without
//! a file, and a picture refused for its content comes blurred with HTTP 200.

use std::time::Duration;

use serde_json::Value;

use crate::{
    Adapter, Body, Call, Fault, RemoteJob, Reply, ReplyBody, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    catalog::Task,
    reply::{self, fault_at, text},
};

/// Stability's dialect.
pub(crate) struct Stability;

/// How long the vendor blocks a key that asked too often, when the reply does not say.
const BLOCK: Duration = Duration::from_mins(1);

impl Adapter for Stability {
    fn name(&self) -> &'static str {
        "stability"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let url = call.endpoint(match call.deployment.task {
            Task::ImageGenerate => "/stable-image/generate/{upstream}",
            Task::ImageUpscale => "/stable-image/upscale/{upstream}",
            _ => "/stable-image/edit/{upstream}",
        });
        let request = WireRequest {
            method: "POST",
            url,
            headers: vec![("accept", "image/*".to_owned())],
            body: Body::Form(body::form(call)),
        };
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        _call: &Call<'_>,
        sent: SendKind,
        _job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if !reply.is_success() {
            return Err(refusal(sent, reply));
        }
        match &reply.body {
            ReplyBody::Media(blob) => reply::drawn_bytes(*blob, reply),
            ReplyBody::Text(_) => {
                let answer: Value = reply.json()?;
                let seed = answer.get("seed").and_then(Value::as_u64);
                let source = text(&answer, "image").map(Source::inline);
                reply::drawn(source, text(&answer, "finish_reason"), seed)
            }
        }
    }
}

/// What a reply that is not 2xx means: `{"id", "name", "errors"}`.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let name = text(&answer, "name");
    let errors = answer
        .get("errors")
        .and_then(Value::as_array)
        .map(|errors| errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "));
    let message = errors.as_deref().filter(|text| !text.is_empty());
    let message = message.or_else(|| text(&answer, "message")).or(name);
    let fault = match reply.status {
        _ if name == Some("content_moderation") => Fault::Moderated,
        status => fault_at(sent, status),
    };
    let error = reply::refusal(fault, reply, message).code(name);
    let block = (fault == Fault::RateLimited).then_some(BLOCK);
    let hint = error.retry_after.or(block);
    error.retry_after(hint)
}
