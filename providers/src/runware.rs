//! Runware: one address that takes a list of tasks, each named by an id of ours. A task is handed
//! over and asked for later, so that a broken connection loses nothing: its id is known before.
//!
//! Results and errors stand side by side in every reply, whatever its status.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Adapter, Call, Fault, Output, Picture, Recovery, RemoteJob, Reply, SendKind, Source, Step,
    UpstreamError, Usage, WireRequest, body,
    catalog::sized,
    media::Size,
    money::Money,
    reply::{self, fault_at, refuses_content, text},
};

/// Runware's dialect.
pub(crate) struct Runware;

impl Adapter for Runware {
    fn name(&self) -> &'static str {
        "runware"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut task: Map<String, Value> = body::fields(call);
        task.insert("taskType".to_owned(), "imageInference".into());
        task.insert("taskUUID".to_owned(), task_id(call)?.into());
        task.insert("model".to_owned(), call.upstream.into());
        task.insert("deliveryMethod".to_owned(), "async".into());
        task.insert("includeCost".to_owned(), true.into());
        if let (None, Some(first)) = (&call.image.size, call.image.images.first()) {
            let size = like(first.size);
            task.insert("width".to_owned(), size.width.into());
            task.insert("height".to_owned(), size.height.into());
        }
        let request = WireRequest::post_json(call.endpoint(""), &json!([task]));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        match job {
            Some(job) => state(call, sent, job, reply),
            None => state(call, sent, &unseen(call, &task_id(call)?), reply),
        }
    }

    fn recovery(&self) -> &'static [Recovery] {
        &[Recovery::ClientId]
    }

    fn again(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        Ok(wait(unseen(call, &task_id(call)?)))
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(wait(RemoteJob { state: job.state, ..unseen(call, &job.id) }))
    }
}

/// The id of the task: our name of the submit, brought into the form of a random UUID.
fn task_id(call: &Call<'_>) -> Result<String, UpstreamError> {
    let name = call.client_ref.ok_or_else(|| {
        UpstreamError::new(Fault::Unsupported, "the submit has no name to call the task by")
    })?;
    // FNV-1a of 128 bits: our names are unique, and the id must be the same at every look-up.
    let hash = name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let version = (hash & !(0xf << 76)) | (0x4 << 76);
    let id = format!("{:032x}", (version & !(0b11 << 62)) | (0b10 << 62));
    let mut parts = Vec::with_capacity(5);
    let mut rest = id.as_str();
    for length in [8, 4, 4, 4] {
        let (part, after) = rest.split_at(length);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    Ok(parts.join("-"))
}

/// A size of the ratio of a picture to work from, for there is none unless it is stated.
fn like(size: Size) -> Size {
    const AREA: u64 = 1024 * 1024;
    const STEP: u32 = 64;
    let near = sized(size.ratio(), AREA, STEP);
    Size::new(near.width.clamp(2 * STEP, 2048), near.height.clamp(2 * STEP, 2048))
}

fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, call.endpoint(""))
}

fn wait(job: RemoteJob) -> Step {
    let ask = json!([{"taskType": "getResponse", "taskUUID": job.id}]);
    let poll = WireRequest::post_json(&job.status_url, &ask);
    Step::Wait { job, poll, listen: None }
}

/// What a reply says of a task: its pictures, why it failed, or that it goes on. An
/// acknowledgement names the task and nothing else.
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
    let ours = |item: &&Value| text(item, "taskUUID").is_none_or(|id| id == job.id);
    let list = |name: &str| answer.get(name).and_then(Value::as_array).into_iter().flatten();
    let pictures: Vec<Picture> = list("data").filter(ours).filter_map(picture).collect();
    if !pictures.is_empty() {
        let usage = Usage { billed: billed(reply, &job.id), ..Usage::default() };
        return Ok(Step::Done(Output { pictures, usage, quality: None }));
    }
    // Some errors come alone, as an object.
    let error = list("errors").find(ours).or_else(|| answer.get("error").filter(|e| e.is_object()));
    if let Some(error) = error {
        return Err(failure(sent, reply, error));
    }
    if !reply.is_success() {
        return Err(reply::refusal(fault_at(sent, reply.status), reply, None));
    }
    if list("data").filter(ours).any(|item| text(item, "status") == Some("success")) {
        return Err(UpstreamError::new(Fault::Empty, "the provider's result holds no picture"));
    }
    match sent {
        SendKind::Submit if list("data").next().is_none() => {
            Err(UpstreamError::malformed("the provider's reply acknowledges no task"))
        }
        SendKind::Submit => Ok(wait(unseen(call, &job.id))),
        _ => Ok(wait(job.running())),
    }
}

fn picture(item: &Value) -> Option<Picture> {
    let data = text(item, "imageBase64Data").or_else(|| text(item, "imageDataURI"));
    let source = Source::of(data, text(item, "imageURL"))?;
    Some(Picture { seed: item.get("seed").and_then(Value::as_u64), ..Picture::new(source) })
}

/// The costs of a reply, read from the text of their numbers.
#[derive(Deserialize)]
struct Costs {
    data: Vec<Cost>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    #[serde(rename = "taskUUID")]
    task: Option<String>,
    cost: Option<Box<RawValue>>,
}

/// What the task's pictures cost together; none where one of them does not say.
fn billed(reply: &Reply, task: &str) -> Option<Money> {
    let costs: Costs = reply.json().ok()?;
    let ours = costs.data.iter().filter(|item| item.task.as_deref().is_none_or(|id| id == task));
    ours.map(|item| Money::of_number(item.cost.as_ref()?.get(), Money::DOLLAR))
        .try_fold(Money::ZERO, |sum, cost| sum.checked_add(cost?))
}

/// `{"code", "message", "parameter", "taskUUID", ...}`. The list of codes is not published, so they
/// are told apart by what they speak of.
fn failure(sent: SendKind, reply: &Reply, error: &Value) -> UpstreamError {
    let code = text(error, "code");
    let word = code.unwrap_or_default().to_ascii_lowercase();
    let message = text(error, "message");
    let speaks_of = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
    let content = ["nsfw", "moderat", "unsafe", "safety", "contentpolicy", "providercontent"];
    let fault = if speaks_of(&content) || message.is_some_and(refuses_content) {
        Fault::Moderated
    } else if speaks_of(&["apikey", "unauthorized"]) {
        Fault::Credential
    } else if speaks_of(&["credit", "balance", "payment"]) {
        Fault::Balance
    } else if speaks_of(&["ratelimit", "toomany", "concurren"]) {
        Fault::RateLimited
    } else if sent != SendKind::Submit && speaks_of(&["notfound", "invalidtaskuuid", "expired"]) {
        Fault::JobLost
    } else if !reply.is_success() && reply.status >= 500 {
        fault_at(sent, reply.status)
    } else if speaks_of(&["invalidmodel", "modelnotfound", "unknownmodel"]) {
        Fault::UnknownModel
    } else if speaks_of(&["invalid", "missing", "unsupported", "required"]) {
        Fault::Invalid
    } else if sent != SendKind::Submit {
        Fault::JobFailed
    } else if reply.is_success() {
        Fault::Server
    } else {
        fault_at(sent, reply.status)
    };
    reply::refusal(fault, reply, message).code(code).param(text(error, "parameter"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageCall, catalog::Deployment};

    #[test]
    fn a_task_is_named_by_a_uuid_that_our_name_leads_to() {
        let (deployment, image) = (Deployment::default(), ImageCall::default());
        let id = |client_ref| {
            task_id(&Call {
                deployment: &deployment,
                base_url: "https://api.runware.ai/v1",
                hosts: &[],
                upstream: "runware:101@1",
                image: &image,
                client_ref,
                callback_url: None,
                callback_secret: None,
            })
        };
        let one = id(Some("img_0198c0de-1")).unwrap();
        assert_eq!(one, id(Some("img_0198c0de-1")).unwrap());
        assert_ne!(one, id(Some("img_0198c0de-2")).unwrap());
        assert_ne!(one, id(Some("img_0198c0df-1")).unwrap());
        for name in ["", "a", "img_0198c0de-1", "img_0198c0de-2"] {
            let id = id(Some(name)).unwrap();
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert!(id[14..].starts_with('4') && "89ab".contains(&id[19..20]), "{id}");
        }
        assert_eq!(id(None).unwrap_err().fault, Fault::Unsupported);
    }

    #[test]
    fn an_edit_without_a_size_keeps_the_ratio_within_what_is_taken() {
        for (given, drawn) in [
            ((1, 1), (1024, 1024)),
            ((4000, 3000), (1152, 896)),
            ((1080, 1920), (768, 1344)),
            ((10_000, 500), (2048, 256)),
            ((1, 1000), (128, 2048)),
        ] {
            assert_eq!(like(Size::new(given.0, given.1)), Size::new(drawn.0, drawn.1), "{given:?}");
        }
    }
}
