//! Runway: a task is opened, asked after by its id, and holds addresses in the end. Its words are
//! in capitals, and a code says why it failed.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, RemoteState, Reply, SendKind, Source, Step,
    UpstreamError, WireRequest, body,
    reply::{self, fault_at, lacks_credits, text},
    wire::escape,
};

/// Runway's dialect.
pub(crate) struct Runway;

impl Adapter for Runway {
    fn name(&self) -> &'static str {
        "runway"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        fields.insert("model".to_owned(), call.upstream.into());
        let url = call.endpoint("/text_to_image");
        let request = WireRequest::post_json(url, &Value::Object(fields));
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
        let answer: Value = reply.json()?;
        let job = match (job, text(&answer, "id")) {
            (Some(job), _) => job.clone(),
            (None, Some(id)) => unseen(call, id),
            (None, None) => {
                return Err(UpstreamError::malformed("the provider's reply names no task"));
            }
        };
        task(job, &answer, reply)
    }

    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        job.delete(call)
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(RemoteJob { state: job.state, ..unseen(call, &job.id) }.wait())
    }
}

fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/tasks/{}", call.base_url, escape(id))).deletable()
}

fn task(job: RemoteJob, answer: &Value, reply: &Reply) -> Result<Step, UpstreamError> {
    let state = match text(answer, "status").unwrap_or_default() {
        "SUCCEEDED" => return done(answer),
        word @ ("FAILED" | "CANCELLED") => return Err(failed(word, answer, reply)),
        // Throttled: it waits for one of our own tasks to end.
        "PENDING" | "THROTTLED" | "" => RemoteState::Queued,
        _ => RemoteState::Running,
    };
    Ok(RemoteJob { state, ..job }.wait())
}

fn done(answer: &Value) -> Result<Step, UpstreamError> {
    let output = answer.get("output").and_then(Value::as_array).into_iter().flatten();
    let urls = output.filter_map(Value::as_str).filter(|url| !url.is_empty());
    let pictures: Vec<Picture> = urls.map(|url| Picture::new(Source::link(url))).collect();
    if pictures.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the task's output holds no picture"));
    }
    Ok(Step::Done(Output { pictures, ..Output::default() }))
}

/// Why a task failed. The codes are paths, and safety may stand anywhere in them.
fn failed(word: &str, answer: &Value, reply: &Reply) -> UpstreamError {
    let code = text(answer, "failureCode");
    let fault = match code {
        Some(code) if code.split('.').any(|part| part == "SAFETY") => Fault::Moderated,
        Some(code) if code.starts_with("ASSET.") => Fault::Invalid,
        _ => Fault::JobFailed,
    };
    let why = format!("the task has {}", word.to_lowercase());
    let why = text(answer, "failure").unwrap_or(&why);
    reply::refusal(fault, reply, Some(why)).code(code.or(Some(word)))
}

/// What a reply that is not 2xx means: `{"error"}`, with `issues` that name the field.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let words = reply::words(&answer);
    let fault = match (sent, reply.status) {
        (SendKind::Submit, 400) if words.as_deref().is_some_and(lacks_credits) => Fault::Balance,
        (sent, status) => fault_at(sent, status),
    };
    let param = answer.pointer("/issues/0/path/0").and_then(Value::as_str);
    reply::refusal(fault, reply, words.as_deref()).param(param)
}
