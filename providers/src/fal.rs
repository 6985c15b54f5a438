//! fal's queue: submit, follow the URLs it returns, fetch the result.
//!
//! The queue takes any body and has no failed state: a bad field, a refusal and a crash all end
//! as `COMPLETED`, and only the result call tells. So the submit's errors are about the account
//! and the endpoint, and the result's errors are about the job.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, Pushed, Recovery, RemoteJob, RemoteState, Reply,
    SendKind, Signature, Source, Step, UpstreamError, WireRequest, body,
    fastapi::Detail,
    reply::{self, fault_at, text},
    signature::{Algorithm, Encoding, Keys, Signed},
    wire::{escape, with_query},
};

/// fal's queue dialect.
pub(crate) struct Fal;

/// Complaints of a finished job that are not about the request, though their status may be 4xx.
const NOT_THE_CALLER: [&str; 4] = [
    "downstream_service_error",
    "downstream_service_unavailable",
    "generation_timeout",
    "internal_server_error",
];

/// <https://docs.fal.ai/model-endpoints/webhooks>, "Signature verification".
const SIGNATURE: Signature = Signature {
    algorithm: Algorithm::Ed25519,
    keys: Keys::Jwks {
        url: "https://rest.fal.ai/.well-known/jwks.json",
        hosts: &["fal.run", "falrun.com", "fal.ai"],
        path: "/.well-known/jwks.json",
    },
    message: &[
        Signed::Header("x-fal-webhook-request-id"),
        Signed::Text("\n"),
        Signed::Header("x-fal-webhook-user-id"),
        Signed::Text("\n"),
        Signed::Header("x-fal-webhook-timestamp"),
        Signed::Text("\n"),
        Signed::BodySha256,
    ],
    headers: &["x-fal-webhook-signature"],
    prefix: "",
    encoding: Encoding::Hex,
    timestamp: Some("x-fal-webhook-timestamp"),
    tolerance_s: 300,
    required: true,
};

impl Adapter for Fal {
    fn name(&self) -> &'static str {
        "fal"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let fields = Value::Object(body::fields(call));
        let mut url = call.endpoint("/{upstream}");
        if let Some(callback) = call.callback_url {
            url = with_query(&url, &[("fal_webhook", callback)]);
        }
        let request = WireRequest::post_json(url, &fields);
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
            (SendKind::Submit, _) => accepted(call, reply),
            (SendKind::Poll | SendKind::Listen, Some(job)) => status(sent, job, reply),
            (SendKind::Result, Some(job)) => result(call, job, reply),
            _ => Err(UpstreamError::new(Fault::JobLost, "no job is known for this reply")),
        }
    }

    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        let url = job.cancel_url.as_deref().filter(|url| call.may_follow(url))?;
        Some(WireRequest { method: "PUT", ..WireRequest::get(url) })
    }

    fn recovery(&self) -> &'static [Recovery] {
        &[Recovery::Callback]
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        let urls = [Some(&job.status_url), job.result_url.as_ref(), job.cancel_url.as_ref()];
        if urls.into_iter().flatten().all(|url| call.may_follow(url)) {
            return Ok(wait(job.clone()));
        }
        Ok(wait(RemoteJob { state: job.state, ..unseen(call, &job.id) }))
    }

    fn callback(&self, call: &Call<'_>, job: Option<&RemoteJob>, push: &Reply) -> Option<Pushed> {
        let answer: Value = push.json().ok()?;
        let id = text(&answer, "request_id")?;
        // A request that the gateway repeated keeps its first id under another name.
        let ids = [Some(id), text(&answer, "gateway_request_id")];
        let job = match job {
            Some(job) if ids.contains(&Some(&job.id)) => job.clone(),
            Some(_) => return None,
            None => unseen(call, id),
        };
        let done = answer.get("payload").filter(|_| text(&answer, "status") == Some("OK"));
        let pictures = done.map(|payload| output(call, payload));
        let step = match pictures {
            Some(Ok(output)) => Step::Done(output),
            // A push tells a failure by its words alone; the result also by its status.
            _ => fetch(&job),
        };
        Some(Pushed { job, step: Ok(step) })
    }

    fn signature(&self) -> Option<&'static Signature> {
        Some(&SIGNATURE)
    }
}

fn accepted(call: &Call<'_>, reply: &Reply) -> Result<Step, UpstreamError> {
    if !reply.is_success() {
        return Err(refusal(SendKind::Submit, reply));
    }
    let answer: Value = reply.json()?;
    let id = text(&answer, "request_id")
        .ok_or_else(|| UpstreamError::malformed("the provider's reply names no request_id"))?;
    let url =
        |field: &str| text(&answer, field).filter(|url| call.may_follow(url)).map(str::to_owned);
    let built = unseen(call, id);
    let job = RemoteJob {
        queue_position: answer.get("queue_position").and_then(Value::as_u64),
        status_url: url("status_url").unwrap_or(built.status_url),
        result_url: url("response_url").or(built.result_url),
        cancel_url: url("cancel_url").or(built.cancel_url),
        ..built
    };
    Ok(wait(job))
}

/// The job of an id, where it lives if nothing else is said. The sub-path of an endpoint counts
/// for the submit only.
fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    let mut parts = call.upstream.split('/');
    let (owner, alias) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let built = format!("{}/{owner}/{alias}/requests/{}", call.base_url, escape(id));
    RemoteJob {
        id: id.to_owned(),
        state: RemoteState::Queued,
        queue_position: None,
        status_url: format!("{built}/status"),
        cancel_url: Some(format!("{built}/cancel")),
        result_url: Some(built),
        billed: None,
    }
}

fn wait(job: RemoteJob) -> Step {
    let poll = WireRequest::get(&job.status_url);
    let (path, query) = match job.status_url.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (job.status_url.as_str(), String::new()),
    };
    let listen =
        WireRequest::get(format!("{path}/stream{query}")).header("accept", "text/event-stream");
    Step::Wait { job, poll, listen: Some(listen) }
}

fn status(sent: SendKind, job: &RemoteJob, reply: &Reply) -> Result<Step, UpstreamError> {
    if !reply.is_success() {
        return Err(refusal(sent, reply));
    }
    let answer: Value = reply.json()?;
    let state = match text(&answer, "status") {
        Some("COMPLETED") => return Ok(fetch(job)),
        Some("IN_QUEUE") => RemoteState::Queued,
        _ => RemoteState::Running,
    };
    let queue_position = answer
        .get("queue_position")
        .and_then(Value::as_u64)
        .filter(|_| state == RemoteState::Queued);
    Ok(wait(RemoteJob { state, queue_position, ..job.clone() }))
}

fn fetch(job: &RemoteJob) -> Step {
    let url =
        job.result_url.as_deref().unwrap_or_else(|| job.status_url.trim_end_matches("/status"));
    Step::Send { kind: SendKind::Result, request: WireRequest::get(url) }
}

fn result(call: &Call<'_>, job: &RemoteJob, reply: &Reply) -> Result<Step, UpstreamError> {
    if !reply.is_success() {
        let error = refusal(SendKind::Result, reply);
        if error.message.contains("still in progress") {
            let state = RemoteState::Running;
            return Ok(wait(RemoteJob { state, queue_position: None, ..job.clone() }));
        }
        return Err(error);
    }
    output(call, &reply.json()?).map(Step::Done)
}

fn output(call: &Call<'_>, answer: &Value) -> Result<Output, UpstreamError> {
    let pictures = pictures(call, answer);
    if pictures.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the provider's result holds no picture"));
    }
    Ok(Output { pictures, ..Output::default() })
}

fn pictures(call: &Call<'_>, answer: &Value) -> Vec<Picture> {
    let items: Vec<&Value> = match (answer.get("images"), answer.get("image")) {
        (Some(Value::Array(list)), _) => list.iter().collect(),
        (Some(one @ (Value::Object(_) | Value::String(_))), _) | (_, Some(one)) => vec![one],
        _ => Vec::new(),
    };
    let seed = answer.get("seed").and_then(Value::as_u64);
    let revised_prompt = reply::revised(call, text(answer, "prompt"));
    let withheld = |index: usize| {
        ["has_nsfw_concepts", "nsfw_content_detected"].iter().any(|field| match answer.get(field) {
            Some(Value::Array(flags)) => flags.get(index) == Some(&Value::Bool(true)),
            Some(flag) => flag == &Value::Bool(true),
            None => false,
        })
    };
    items
        .into_iter()
        .enumerate()
        .filter_map(|(index, item)| {
            let url = item.as_str().or_else(|| text(item, "url")).filter(|url| !url.is_empty())?;
            Some(Picture {
                source: Source::link(url),
                seed,
                revised_prompt: revised_prompt.clone(),
                withheld: withheld(index),
            })
        })
        .collect()
}

/// What a reply that is not 2xx means. Three shapes: a list of complaints (the model), a flat
/// `detail` with `error_type` (fal's own machinery), and a lone `message`.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let detail = Detail::of(&answer);
    let kind = detail
        .as_ref()
        .and_then(|d| d.kind.as_deref())
        .or_else(|| text(&answer, "error_type"))
        .or_else(|| reply.header("x-fal-error-type"));
    let message = detail
        .as_ref()
        .map(|d| d.message.as_str())
        .filter(|message| !message.is_empty())
        .or_else(|| text(&answer, "message"))
        .or_else(|| text(&answer, "error"))
        .or(kind);
    let param = detail.as_ref().and_then(|d| d.param.as_deref());
    // Only a finished job's own refusal has one of the shapes; a page of some proxy has none.
    let understood = message.is_some() || reply.header("x-fal-request-timeout-type").is_some();
    let of_the_job = sent == SendKind::Result && understood;
    let fault = match reply.status {
        _ if kind == Some("content_policy_violation") => Fault::Moderated,
        403 if message.is_some_and(speaks_of_balance) => Fault::Balance,
        500.. if of_the_job => Fault::JobFailed,
        400 | 405..=428 if of_the_job && (retryable(reply) || is_not_the_callers(kind)) => {
            Fault::JobFailed
        }
        status => fault_at(sent, status),
    };
    reply::refusal(fault, reply, message).code(kind).param(param)
}

fn retryable(reply: &Reply) -> bool {
    ["x-fal-retryable", "x-fal-needs-retry"]
        .iter()
        .filter_map(|name| reply.header(name))
        .any(|value| matches!(value, "true" | "1"))
}

fn is_not_the_callers(kind: Option<&str>) -> bool {
    kind.is_some_and(|kind| NOT_THE_CALLER.contains(&kind))
}

fn speaks_of_balance(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["exhausted", "locked", "balance"].iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    use crate::{ImageCall, ReplyBody, catalog::Deployment};

    fn reply(status: u16, body: &Value) -> Reply {
        let body = ReplyBody::Text(Bytes::from(body.to_string()));
        Reply { status, headers: Vec::new(), body }
    }

    fn with_call<T>(run: impl FnOnce(&Call<'_>) -> T) -> T {
        let (deployment, image) = (Deployment::default(), ImageCall::default());
        run(&Call {
            deployment: &deployment,
            base_url: "http://127.0.0.1:9100/fal",
            hosts: &[],
            upstream: "fal-ai/flux-pro/v1.1/ultra",
            image: &image,
            client_ref: None,
            callback_url: None,
            callback_secret: None,
        })
    }

    #[test]
    fn urls_of_the_reply_are_followed_and_others_are_built() {
        let built = "http://127.0.0.1:9100/fal/fal-ai/flux-pro/requests/r1";
        for (given, status, listen) in [
            (Value::Null, format!("{built}/status"), format!("{built}/status/stream")),
            (
                json!("http://127.0.0.1:9100/other/r1/status?logs=1"),
                "http://127.0.0.1:9100/other/r1/status?logs=1".to_owned(),
                "http://127.0.0.1:9100/other/r1/status/stream?logs=1".to_owned(),
            ),
            (
                json!("http://10.0.0.1/r1/status"),
                format!("{built}/status"),
                format!("{built}/status/stream"),
            ),
        ] {
            let body = json!({"request_id": "r1", "status_url": given});
            let step = with_call(|call| accepted(call, &reply(200, &body)));
            let Ok(Step::Wait { job, poll, listen: Some(stream) }) = step else {
                unreachable!("{step:?}")
            };
            assert_eq!((&poll.url, &stream.url), (&status, &listen));
            assert_eq!(job.status_url, status);
            assert_eq!(job.result_url.as_deref(), Some(built));
        }
    }

    #[test]
    fn flags_of_withheld_pictures_come_in_several_shapes() {
        let url = "https://v3.fal.media/a.png";
        for (mut answer, withheld) in [
            (json!({"has_nsfw_concepts": [false, true]}), [false, true]),
            (json!({"has_nsfw_concepts": [true]}), [true, false]),
            (json!({"nsfw_content_detected": true}), [true, true]),
            (json!({"nsfw_content_detected": [null, true]}), [false, true]),
            (json!({"has_nsfw_concepts": null}), [false, false]),
            (json!({}), [false, false]),
        ] {
            answer["images"] = json!([{"url": url}, url]);
            let found = with_call(|call| pictures(call, &answer));
            assert_eq!(found.iter().map(|p| p.withheld).collect::<Vec<_>>(), withheld, "{answer}");
        }
    }

    #[test]
    fn a_refusal_without_a_known_shape_blames_no_job() {
        let job = SendKind::Result;
        for (sent, status, body, fault) in [
            (job, 500, json!({"detail": "worker died"}), Fault::JobFailed),
            (job, 500, json!({}), Fault::Server),
            (SendKind::Poll, 500, json!({"detail": "worker died"}), Fault::Server),
            (job, 429, json!({"detail": "slow down"}), Fault::RateLimited),
            (job, 401, json!({"detail": "who are you"}), Fault::Credential),
            (job, 404, json!({"detail": "no such request"}), Fault::JobLost),
            (job, 400, json!({"detail": "bad value"}), Fault::Invalid),
        ] {
            assert_eq!(refusal(sent, &reply(status, &body)).fault, fault, "{sent:?} {status}");
        }
    }
}
