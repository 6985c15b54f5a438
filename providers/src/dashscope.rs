//! Alibaba's DashScope (Model Studio): Qwen and Z-Image answer at once, Wan opens a task that is
//! polled. The prompt is a message; all else are parameters. Errors come with HTTP 200, too.

use serde_json::{Value, json};

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    reply::text,
    said::{Said, refused},
    wire::escape,
};

/// DashScope's dialect.
pub(crate) struct DashScope;

/// Where a model answers at once. Everywhere else a task is opened, and must be asked for by a
/// header that is an error here.
const AT_ONCE: &str = "/services/aigc/multimodal-generation/generation";

impl Adapter for DashScope {
    fn name(&self) -> &'static str {
        "dashscope"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut parameters = body::fields(call);
        let pictures = parameters.remove("image");
        let pictures = pictures.as_ref().and_then(Value::as_array).into_iter().flatten();
        let mut content: Vec<Value> = pictures.map(|picture| json!({"image": picture})).collect();
        content.push(json!({"text": call.image.prompt}));
        let body = json!({
            "model": call.upstream,
            "input": {"messages": [{"role": "user", "content": content}]},
            "parameters": parameters,
        });
        let url = call.endpoint(AT_ONCE);
        let opens_task = !url.ends_with(AT_ONCE);
        let mut request = WireRequest::post_json(url, &body);
        if opens_task {
            request = request.header("x-dashscope-async", "enable");
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
        if !reply.is_success() {
            return Err(refused(sent, reply, |said| told(said.code.as_deref())));
        }
        let answer: Value = reply.json()?;
        if text(&answer, "code").is_some() {
            return Err(failure(&answer));
        }
        let output = answer.get("output").filter(|output| output.is_object());
        let output =
            output.ok_or_else(|| UpstreamError::malformed("the provider's reply has no output"))?;
        let job = match job {
            Some(job) => Some(job.clone()),
            None => text(output, "task_id").map(|id| unseen(call, id)),
        };
        match (text(output, "task_status"), job) {
            (None | Some("SUCCEEDED"), None) | (Some("SUCCEEDED"), _) => pictures(output),
            (Some("FAILED" | "CANCELED"), _) => Err(failure(output)),
            // A task is kept for a day.
            (Some("UNKNOWN"), _) => {
                Err(UpstreamError::new(Fault::JobLost, "the provider no longer knows the task")
                    .code(Some("UNKNOWN")))
            }
            (None | Some("PENDING"), Some(job)) => Ok(job.wait()),
            (Some(_), Some(job)) => Ok(job.running().wait()),
            (Some(_), None) => Err(UpstreamError::malformed("the provider's task has no id")),
        }
    }

    /// Only while the task is waiting; later the vendor refuses, and nothing changes.
    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        let url = format!("{}/cancel", unseen(call, &job.id).status_url);
        Some(WireRequest { method: "POST", ..WireRequest::get(url) })
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(RemoteJob { state: job.state, ..unseen(call, &job.id) }.wait())
    }
}

fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/tasks/{}", call.base_url, escape(id)))
}

/// The pictures of an output: in the contents of its messages, of older models in `results`.
fn pictures(output: &Value) -> Result<Step, UpstreamError> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let choices = list(&output["choices"]).into_iter();
    let mut items: Vec<Value> =
        choices.flat_map(|choice| list(&choice["message"]["content"])).collect();
    items.extend(list(&output["results"]));
    let pictures: Vec<Picture> = items.iter().filter_map(picture).collect();
    if pictures.iter().all(|picture| picture.withheld) {
        return Err(items.iter().find(|item| text(item, "code").is_some()).map_or_else(
            || UpstreamError::new(Fault::Empty, "the provider's reply holds no picture"),
            failure,
        ));
    }
    Ok(Step::Done(Output { pictures, ..Output::default() }))
}

/// One that was refused keeps its place; one that failed is missing.
fn picture(item: &Value) -> Option<Picture> {
    if told(text(item, "code")) == Some(Fault::Moderated) {
        return Some(Picture::refused());
    }
    let address = text(item, "image").or_else(|| text(item, "url"))?;
    Some(Picture::new(Source::link(address)))
}

/// `{"code", "message"}` in place of a picture, of all pictures, or of a task's end.
fn failure(item: &Value) -> UpstreamError {
    let said = Said::of(item);
    let fault = match told(said.code.as_deref()) {
        // It is over: asking again would show the same.
        None | Some(Fault::Server) => Fault::JobFailed,
        Some(fault) => fault,
    };
    said.into_error(fault)
}

/// What a code says beside its status. A code may go on behind a dot.
fn told(code: Option<&str>) -> Option<Fault> {
    let code = code?;
    match code.split('.').next().unwrap_or(code) {
        "DataInspectionFailed" | "data_inspection_failed" => Some(Fault::Moderated),
        "Throttling" => Some(Fault::RateLimited),
        "InvalidApiKey" | "AccessDenied" => Some(Fault::Credential),
        "Arrearage" | "AllocationQuota" => Some(Fault::Balance),
        "ModelNotFound" | "Model" => Some(Fault::UnknownModel),
        "InvalidParameter" | "InvalidURL" | "BadRequest" => Some(Fault::Invalid),
        "InternalError" | "RequestTimeOut" | "SystemError" => Some(Fault::Server),
        _ => None,
    }
}
