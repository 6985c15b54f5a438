//! Stability AI's v2beta: forms in, bytes out. Every body is `multipart/form-data`, even without
//! a file, and a picture refused for its content comes blurred with HTTP 200. A few operations
//! answer with the id of a job, whose result is asked for until it is there.

use std::time::Duration;

use serde_json::Value;

use crate::{
    Adapter, Body, Call, Fault, RemoteJob, Reply, ReplyBody, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    catalog::Task,
    reply::{self, fault_at, text},
    wire::escape,
};

/// Stability's dialect.
pub(crate) struct Stability;

/// How long the vendor blocks a key that asked too often, when the reply does not say.
const BLOCK: Duration = Duration::from_mins(1);

impl Adapter for Stability {
    fn name(&self) -> &'static str {
        "stability"
    }

    fn is_queue(&self) -> bool {
        true
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
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if !reply.is_success() {
            return Err(refusal(sent, reply));
        }
        // The result of a job that is not over has this status, whatever its body says.
        if let Some(job) = job.filter(|_| reply.status == 202) {
            return Ok(wait(job.running()));
        }
        match &reply.body {
            ReplyBody::Media(blob) => reply::drawn_bytes(*blob, reply),
            ReplyBody::Text(_) => told(call, job, reply),
        }
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(wait(RemoteJob { state: job.state, ..unseen(call, &job.id) }))
    }
}

/// What an answer in JSON says: a picture, or the id of a job just taken.
fn told(call: &Call<'_>, job: Option<&RemoteJob>, reply: &Reply) -> Result<Step, UpstreamError> {
    let answer: Value = reply.json()?;
    let source = ["image", "result"].iter().find_map(|field| text(&answer, field));
    let reason = text(&answer, "finish_reason");
    let started = text(&answer, "id").filter(|_| source.is_none() && reason.is_none());
    if let (Some(id), None) = (started, job) {
        return Ok(wait(unseen(call, id)));
    }
    let seed = answer.get("seed").and_then(Value::as_u64);
    reply::drawn(source.map(Source::inline), reason, seed)
}

/// The job of an id.
fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/results/{}", call.base_url, escape(id)))
}

/// The result is asked for in the form in which pictures come at once.
fn wait(job: RemoteJob) -> Step {
    let poll = WireRequest::get(&job.status_url).header("accept", "image/*");
    Step::Wait { job, poll, listen: None }
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
