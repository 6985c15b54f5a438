//! Ideogram: forms in, addresses of pictures out. Version 3 answers at once; version 4 is called
//! where it opens a job, for a job survives a broken connection. A refused picture is an item
//! without an address, with HTTP 200.

use serde_json::Value;

use crate::{
    Adapter, Body, Call, Fault, Output, Picture, Pushed, Recovery, RemoteJob, Reply, SendKind,
    Signature, Source, Step, UpstreamError, WireRequest, body,
    fastapi::Detail,
    reply::{self, fault_at, text},
    signature::{Algorithm, Encoding, Keys, Signed},
    wire::{escape, with_query},
};

/// Ideogram's dialect.
pub(crate) struct Ideogram;

/// <https://developer.ideogram.ai/ideogram-api/webhooks>, "Verifying the signature". The page
/// states no tolerance; five minutes are the usual one.
const SIGNATURE: Signature = Signature {
    algorithm: Algorithm::Ed25519,
    keys: Keys::Jwks {
        url: "https://api.ideogram.ai/v1/.well-known/jwks.json",
        hosts: &["ideogram.ai"],
        path: "/.well-known/jwks.json",
    },
    message: &[
        Signed::Header("x-ideogram-webhook-generation-id"),
        Signed::Text("\n"),
        Signed::Header("x-ideogram-webhook-user-id"),
        Signed::Text("\n"),
        Signed::Header("x-ideogram-webhook-timestamp"),
        Signed::Text("\n"),
        Signed::BodySha256,
    ],
    headers: &["x-ideogram-webhook-signature"],
    prefix: "",
    encoding: Encoding::Hex,
    timestamp: Some("x-ideogram-webhook-timestamp"),
    tolerance_s: 300,
    required: true,
};

impl Adapter for Ideogram {
    fn name(&self) -> &'static str {
        "ideogram"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let url = call.endpoint("/{upstream}");
        // Only the routes that open a job take an address to push to.
        let url = match call.callback_url.filter(|_| url.contains("/async/")) {
            Some(callback) => with_query(&url, &[("webhook_url", callback)]),
            None => url,
        };
        let body = Body::Form(body::form(call));
        let request = WireRequest { method: "POST", url, headers: Vec::new(), body };
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
        match job {
            Some(job) => state(call, job, reply, &answer),
            None => accepted(call, reply, &answer),
        }
    }

    fn recovery(&self) -> &'static [Recovery] {
        &[Recovery::Callback]
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(RemoteJob { state: job.state, ..unseen(call, &job.id) }.wait())
    }

    fn callback(&self, call: &Call<'_>, job: Option<&RemoteJob>, push: &Reply) -> Option<Pushed> {
        let answer: Value = push.json().ok()?;
        let id = text(&answer, "generation_id")?;
        let job = match job {
            Some(job) if job.id == id => job.clone(),
            Some(_) => return None,
            None => unseen(call, id),
        };
        let step = state(call, &job, push, &answer);
        Some(Pushed { job, step })
    }

    fn signature(&self) -> Option<&'static Signature> {
        Some(&SIGNATURE)
    }
}

/// The reply to a submit: the pictures, or the job that draws them.
fn accepted(call: &Call<'_>, reply: &Reply, answer: &Value) -> Result<Step, UpstreamError> {
    match (text(answer, "generation_id"), answer.get("data")) {
        (Some(id), _) => state(call, &unseen(call, id), reply, answer),
        (None, Some(_)) => pictures(call, answer),
        (None, None) => {
            Err(UpstreamError::malformed("the provider's reply names no generation and no picture"))
        }
    }
}

fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/generations/{}", call.base_url, escape(id)))
}

/// A generation looks the same in the reply to the submit, to a poll and in a push; the push of
/// a finished one has no status.
fn state(
    call: &Call<'_>,
    job: &RemoteJob,
    reply: &Reply,
    answer: &Value,
) -> Result<Step, UpstreamError> {
    let items = answer.get("data").and_then(Value::as_array);
    let refused = items.is_some_and(|items| items.iter().any(is_refused));
    match text(answer, "status").unwrap_or_default().to_ascii_lowercase().as_str() {
        "completed" => pictures(call, answer),
        "failed" if refused => pictures(call, answer),
        "failed" => {
            let said = reply::words(answer).or_else(|| Some(text(answer, "reason")?.to_owned()));
            let said = said.as_deref().unwrap_or("the generation failed");
            Err(reply::refusal(Fault::JobFailed, reply, Some(said)).code(Some("failed")))
        }
        "" if items.is_some_and(|items| !items.is_empty()) => pictures(call, answer),
        "" => Ok(job.clone().wait()),
        _ => Ok(job.running().wait()),
    }
}

/// The pictures of `data`; those that were refused keep their place.
fn pictures(call: &Call<'_>, answer: &Value) -> Result<Step, UpstreamError> {
    let items = answer.get("data").and_then(Value::as_array).into_iter().flatten();
    let pictures: Vec<Picture> = items.filter_map(|item| picture(call, item)).collect();
    if pictures.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the provider's reply holds no picture"));
    }
    if pictures.iter().all(|picture| picture.withheld) {
        let message = "the provider found the picture not safe and withheld it";
        return Err(UpstreamError::new(Fault::Moderated, message).code(Some("is_image_safe")));
    }
    Ok(Step::Done(Output { pictures, ..Output::default() }))
}

fn picture(call: &Call<'_>, item: &Value) -> Option<Picture> {
    let seed = item.get("seed").and_then(Value::as_u64);
    if is_refused(item) {
        return Some(Picture { seed, ..Picture::refused() });
    }
    let source = Source::link(text(item, "url")?);
    let revised_prompt = reply::revised(call, text(item, "prompt"));
    Some(Picture { seed, revised_prompt, ..Picture::new(source) })
}

fn is_refused(item: &Value) -> bool {
    item.get("is_image_safe") == Some(&Value::Bool(false))
}

/// What a reply that is not 2xx means. The documentation types the body of a 422 alone.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let fault = match (sent, reply.status) {
        // The prompt or a picture given was found not safe.
        (SendKind::Submit, 422) => Fault::Moderated,
        (sent, status) => fault_at(sent, status),
    };
    let param = Detail::of(&answer).and_then(|detail| detail.param);
    reply::refusal(fault, reply, reply::words(&answer).as_deref()).param(param)
}
