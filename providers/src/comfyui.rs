//! ComfyUI: a workflow of the operator's with placeholders goes into the server's own queue.
//!
//! The queue says whether a job waits or runs, the history what came of it. A picture is fetched
//! from the server itself, so there is one a job.

use serde_json::{Map, Value, json};

use crate::{
    Adapter, Body, Call, Fault, Input, Output, Part, PartValue, Picture, RemoteJob, RemoteState,
    Reply, ReplyBody, SendKind, Source, Step, UpstreamError, WireRequest, body,
    reply::{fault_at, refusal, text},
    wire::{escape, with_query},
};

/// `POST {base}/prompt`, then `/queue`, `/history/{id}` and `/view`.
pub(crate) struct ComfyUi;

impl Adapter for ComfyUi {
    fn name(&self) -> &'static str {
        "comfyui"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        // What would be refused is refused before anything is sent.
        let request = submit(call)?;
        Ok(match inputs(call).next() {
            Some((_, input)) => upload(call, input),
            None => Step::Send { kind: SendKind::Submit, request },
        })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if !reply.is_success() {
            return Err(refused(sent, reply));
        }
        match (sent, job, &reply.body) {
            (SendKind::Upload, ..) => uploaded(call, &reply.json()?),
            (SendKind::Submit, ..) => taken(call, &reply.json()?),
            (SendKind::Result, _, ReplyBody::Media(blob)) => {
                let picture = Picture::new(Source::Blob(*blob));
                Ok(Step::Done(Output { pictures: vec![picture], ..Output::default() }))
            }
            (SendKind::Result, Some(job), _) => ended(call, job, &reply.json()?),
            (_, Some(job), _) => Ok(queued(call, job, &reply.json()?)),
            _ => Err(UpstreamError::malformed("a reply to no job")),
        }
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        let status_url = unseen(call, &job.id).status_url;
        Ok(wait(RemoteJob { status_url, ..job.clone() }))
    }

    /// One that waits is taken out of the queue. One that runs is interrupted by its id, which
    /// older servers do not read: they end what runs.
    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        Some(match job.state {
            RemoteState::Queued => {
                let url = format!("{}/queue", call.base_url);
                WireRequest::post_json(url, &json!({"delete": [job.id]}))
            }
            RemoteState::Running => {
                let url = format!("{}/interrupt", call.base_url);
                WireRequest::post_json(url, &json!({"prompt_id": job.id}))
            }
            RemoteState::Finished => return None,
        })
    }
}

/// The pictures to send ahead, under the names of their placeholders.
fn inputs<'a>(call: &Call<'a>) -> impl Iterator<Item = (String, &'a Input)> {
    let image = call.image;
    let named = |(index, input)| match index {
        0 => ("image".to_owned(), input),
        _ => (format!("image_{}", index + 1), input),
    };
    let mask = image.mask.iter().map(|mask| ("mask".to_owned(), mask));
    image.images.iter().enumerate().map(named).chain(mask)
}

/// The name a picture has on the server: its own, so that a repeat replaces it.
fn file_name(input: &Input) -> String {
    format!("mediagate-{:016x}.{}", input.token, input.format.extension())
}

fn upload(call: &Call<'_>, input: &Input) -> Step {
    let file =
        PartValue::Input { name: file_name(input), mime: input.format.mime(), token: input.token };
    let text = |value: &str| PartValue::Text(value.to_owned());
    let parts = [("type", text("input")), ("overwrite", text("true")), ("image", file)];
    let parts = parts.into_iter().map(|(name, value)| Part { name: name.to_owned(), value });
    let request = WireRequest {
        method: "POST",
        url: format!("{}/upload/image", call.base_url),
        headers: Vec::new(),
        body: Body::Form(parts.collect()),
    };
    Step::Send { kind: SendKind::Upload, request }
}

/// One picture is there: the next one, or the job.
fn uploaded(call: &Call<'_>, answer: &Value) -> Result<Step, UpstreamError> {
    let name = text(answer, "name").unwrap_or_default();
    let mut rest = inputs(call).map(|(_, input)| input).skip_while(|i| file_name(i) != name);
    if rest.next().is_none() {
        return Err(UpstreamError::malformed("the server took the picture under another name"));
    }
    Ok(match rest.next() {
        Some(next) => upload(call, next),
        None => Step::Send { kind: SendKind::Submit, request: submit(call)? },
    })
}

fn submit(call: &Call<'_>) -> Result<WireRequest, UpstreamError> {
    let Some(workflow) = &call.deployment.workflow else {
        let message = "the model has no workflow: name one in its row of the catalogue file";
        return Err(UpstreamError::new(Fault::Unsupported, message));
    };
    let mut fields = body::fields(call);
    fields.extend(inputs(call).map(|(name, input)| (name, file_name(input).into())));
    let mut usual = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.entry(name).or_insert(value);
        }
    };
    usual("negative_prompt", Some("".into()));
    usual("prompt", Some("".into()));
    usual("n", Some(1.into()));
    // A workflow with a seed that stays draws nothing new.
    usual("seed", body::chance(call).map(Value::from));
    let size = call.deployment.default_size;
    usual("width", size.map(|size| size.width.into()));
    usual("height", size.map(|size| size.height.into()));
    let mut body = json!({"prompt": filled(workflow, &fields)?});
    if let Some(name) = call.client_ref {
        body["client_id"] = name.into();
    }
    Ok(WireRequest::post_json(format!("{}/prompt", call.base_url), &body))
}

/// A template with its placeholders replaced: a text that is one becomes the value itself, one
/// within a text becomes part of it.
fn filled(template: &Value, fields: &Map<String, Value>) -> Result<Value, UpstreamError> {
    Ok(match template {
        Value::String(text) => return filled_text(text, fields),
        Value::Array(items) => {
            items.iter().map(|item| filled(item, fields)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Object(map) => {
            let each = map.iter().map(|(key, value)| Ok((key.clone(), filled(value, fields)?)));
            Value::Object(each.collect::<Result<Map<_, _>, UpstreamError>>()?)
        }
        other => other.clone(),
    })
}

fn filled_text(template: &str, fields: &Map<String, Value>) -> Result<Value, UpstreamError> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, inner)| Some((before, inner.split_once("}}")?)))
    {
        let name = name.trim();
        let Some(value) = fields.get(name) else {
            let message = format!("the workflow wants {name:?}, which is not given");
            return Err(UpstreamError::new(Fault::Unsupported, message).param(Some(name)));
        };
        if before.is_empty() && after.is_empty() && out.is_empty() {
            return Ok(value.clone());
        }
        out.push_str(before);
        match value {
            Value::String(text) => out.push_str(text),
            other => out.push_str(&other.to_string()),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out.into())
}

fn taken(call: &Call<'_>, answer: &Value) -> Result<Step, UpstreamError> {
    match text(answer, "prompt_id") {
        Some(id) => Ok(wait(unseen(call, id))),
        None => Err(UpstreamError::malformed("the server's reply names no job")),
    }
}

/// The job of an id.
fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/queue", call.base_url))
}

fn wait(job: RemoteJob) -> Step {
    let poll = WireRequest::get(&job.status_url);
    Step::Wait { job, poll, listen: None }
}

/// Where a job stands in the queue; one that is not there any more has ended.
fn queued(call: &Call<'_>, job: &RemoteJob, answer: &Value) -> Step {
    let list = |name: &str| answer[name].as_array().map_or(&[][..], Vec::as_slice);
    let is_it = |entry: &Value| entry[1] == job.id.as_str();
    if list("queue_running").iter().any(is_it) {
        return wait(RemoteJob {
            state: RemoteState::Running,
            queue_position: None,
            ..job.clone()
        });
    }
    let pending = list("queue_pending");
    if let Some(entry) = pending.iter().find(|entry| is_it(entry)) {
        // They are not listed in the order they run in; the number says it.
        let number = entry[0].as_f64();
        let ahead = pending.iter().filter(|other| other[0].as_f64() < number).count();
        let position = Some(ahead as u64 + list("queue_running").len() as u64);
        return wait(RemoteJob {
            state: RemoteState::Queued,
            queue_position: position,
            ..job.clone()
        });
    }
    let url = format!("{}/history/{}", call.base_url, escape(&job.id));
    Step::Send { kind: SendKind::Result, request: WireRequest::get(url) }
}

/// What the history says of a job.
fn ended(call: &Call<'_>, job: &RemoteJob, answer: &Value) -> Result<Step, UpstreamError> {
    let Some(entry) = answer.get(&job.id) else {
        let message = "the server does not know the job any more";
        return Err(UpstreamError::new(Fault::JobLost, message));
    };
    if entry["status"]["status_str"] == "error" {
        let messages = entry["status"]["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let said = messages.iter().find_map(|message| text(&message[1], "exception_message"));
        let message =
            format!("the workflow failed: {}", said.unwrap_or("no reason is given").trim());
        return Err(UpstreamError::new(Fault::JobFailed, message));
    }
    let files: Vec<&Value> = entry["outputs"]
        .as_object()
        .into_iter()
        .flat_map(Map::values)
        .flat_map(|node| node["images"].as_array().into_iter().flatten())
        .collect();
    // What a preview node draws is only temporary.
    let kept = files.iter().find(|file| file["type"] == "output").or(files.first());
    let Some(file) = kept.filter(|file| text(file, "filename").is_some()) else {
        return Err(UpstreamError::new(Fault::Empty, "the workflow ended without a picture"));
    };
    let fields = ["filename", "subfolder", "type"];
    let query = fields.map(|name| (name, file[name].as_str().unwrap_or_default()));
    let url = with_query(&format!("{}/view", call.base_url), &query);
    Ok(Step::Send { kind: SendKind::Result, request: WireRequest::get(url) })
}

/// `{"error": {"type", "message", "details"}, "node_errors"}`.
fn refused(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let error = &answer["error"];
    let nodes = answer["node_errors"].as_object().into_iter().flat_map(Map::values);
    let first = nodes.flat_map(|node| node["errors"].as_array().into_iter().flatten()).next();
    let said = [first.and_then(|e| text(e, "details")), text(error, "details")];
    let said = said.into_iter().flatten().next().or_else(|| text(error, "message"));
    let fault = match (sent, reply.status) {
        // The workflow is the operator's, and so is what it lacks.
        (SendKind::Submit, 400) if said.is_some() => Fault::Unsupported,
        (_, status) => fault_at(sent, status),
    };
    refusal(fault, reply, said).code(text(error, "type"))
}
