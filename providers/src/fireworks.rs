//! Fireworks: FLUX and the SDXL family answer with the picture's bytes, Kontext with a job whose
//! state is asked for by `POST`, in the words of Black Forest Labs.

use serde_json::{Value, json};

use crate::{
    Adapter, Call, Fault, RemoteJob, Reply, ReplyBody, SendKind, Source, Step, UpstreamError,
    WireRequest, bfl, body,
    reply::{self, text},
    said::refused,
};

/// Fireworks' dialect. Which of the two ways a model answers, its wire says: the format is asked
/// for in the `accept` header where bytes come back.
pub(crate) struct Fireworks;

impl Adapter for Fireworks {
    fn name(&self) -> &'static str {
        "fireworks"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        let accept = body::accept(call, &mut fields);
        let url = call.endpoint("/workflows/{upstream}/text_to_image");
        let mut request = WireRequest::post_json(url, &Value::Object(fields));
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        match (sent, job) {
            (SendKind::Submit, _) if !reply.is_success() => Err(refused(sent, reply, |_| None)),
            (SendKind::Submit, _) => taken(call, reply),
            (_, Some(job)) => state(call, sent, job, reply),
            (_, None) => Err(UpstreamError::new(Fault::JobLost, "no job is known for this reply")),
        }
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        if call.may_follow(&job.status_url) {
            return Ok(wait(job.clone()));
        }
        Ok(wait(RemoteJob { state: job.state, ..unseen(call, &job.id) }))
    }
}

fn taken(call: &Call<'_>, reply: &Reply) -> Result<Step, UpstreamError> {
    if let ReplyBody::Media(blob) = reply.body {
        return reply::drawn_bytes(blob, reply);
    }
    let answer: Value = reply.json()?;
    if let Some(id) = text(&answer, "request_id") {
        return Ok(wait(unseen(call, id)));
    }
    // The base64 it gives to those who ask for JSON, a list or one text.
    let data = answer.get("base64").unwrap_or(&answer);
    let first = data.get(0).unwrap_or(data);
    let data = first.as_str().or_else(|| text(first, "base64"));
    match data.filter(|data| !data.is_empty()) {
        Some(data) => {
            let reason = text(first, "finishReason").or_else(|| reply.header("finish-reason"));
            reply::drawn(Some(Source::inline(data)), reason, None)
        }
        None => Err(UpstreamError::malformed("the provider's reply names no job and no picture")),
    }
}

/// The job of an id, in its first state.
fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/get_result", call.endpoint("/workflows/{upstream}")))
}

fn wait(job: RemoteJob) -> Step {
    let poll = WireRequest::post_json(&job.status_url, &json!({"id": job.id}));
    Step::Wait { job, poll, listen: None }
}

fn state(
    call: &Call<'_>,
    sent: SendKind,
    job: &RemoteJob,
    reply: &Reply,
) -> Result<Step, UpstreamError> {
    let answer: Value = match reply.json() {
        Err(_) if !reply.is_success() => Value::Null,
        parsed => parsed?,
    };
    // A job that is unknown may be a 404 with the same body as a state.
    let end =
        bfl::end(call, job, reply, &answer).filter(|_| matches!(reply.status, 200..=299 | 404));
    match end {
        Some(end) => end,
        None if !reply.is_success() => Err(refused(sent, reply, |_| None)),
        None => Ok(wait(job.running())),
    }
}
