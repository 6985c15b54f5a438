//! Luma's two APIs, which are alike: a generation is opened, asked after by its id, and holds
//! addresses in the end. Dream Machine pushes to a callback, unsigned; the Agents API does not.

use serde_json::{Map, Value};

use crate::{
    Adapter, Call, Fault, Output, Picture, Pushed, Recovery, RemoteJob, RemoteState, Reply,
    SendKind, Signature, Source, Step, UpstreamError, WireRequest, body,
    fastapi::Detail,
    reply::{self, fault_at, lacks_credits, refuses_content, text},
    signature::{Algorithm, Encoding, Keys, Signed},
    wire::escape,
};

/// Dream Machine, which sells Photon.
pub(crate) struct Luma;

/// The Agents API, which sells Uni.
pub(crate) struct LumaAgents;

/// Dream Machine signs nothing: the address, which nobody else knows, is the proof.
const UNSIGNED: Signature = Signature {
    algorithm: Algorithm::HmacSha256,
    keys: Keys::OfSubmit,
    message: &[Signed::Body],
    headers: &[],
    prefix: "",
    encoding: Encoding::Hex,
    timestamp: None,
    tolerance_s: 0,
    required: false,
};

impl Adapter for Luma {
    fn name(&self) -> &'static str {
        "luma"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        if let Some(callback) = call.callback_url {
            fields.insert("callback_url".to_owned(), callback.into());
        }
        Ok(submit(call, "/generations/image", fields))
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        step(sent, reply, job, |id| unseen(call, id).deletable())
    }

    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        job.delete(call)
    }

    fn recovery(&self) -> &'static [Recovery] {
        &[Recovery::Callback]
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(RemoteJob { state: job.state, ..unseen(call, &job.id).deletable() }.wait())
    }

    fn callback(&self, call: &Call<'_>, job: Option<&RemoteJob>, push: &Reply) -> Option<Pushed> {
        let answer: Value = push.json().ok()?;
        let id = text(&answer, "id")?;
        let job = match job {
            Some(job) if job.id == id => job.clone(),
            Some(_) => return None,
            None => unseen(call, id).deletable(),
        };
        let step = step(SendKind::Poll, push, Some(&job), |_| job.clone());
        Some(Pushed { job, step })
    }

    fn signature(&self) -> Option<&'static Signature> {
        Some(&UNSIGNED)
    }
}

impl Adapter for LumaAgents {
    fn name(&self) -> &'static str {
        "luma-agents"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        name_source(call, &mut fields);
        Ok(submit(call, "/generations", fields))
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        step(sent, reply, job, |id| unseen(call, id))
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(RemoteJob { state: job.state, ..unseen(call, &job.id) }.wait())
    }
}

fn submit(call: &Call<'_>, path: &str, mut fields: Map<String, Value>) -> Step {
    fields.insert("model".to_owned(), call.upstream.into());
    let request = WireRequest::post_json(call.endpoint(path), &Value::Object(fields));
    Step::Send { kind: SendKind::Submit, request }
}

/// The first picture of an edit is what is edited, the others are to be drawn after; each says
/// what it is.
fn name_source(call: &Call<'_>, fields: &mut Map<String, Value>) {
    let Some(Value::Array(mut pictures)) = fields.remove("image_ref") else { return };
    for (picture, input) in pictures.iter_mut().zip(&call.image.images) {
        if let Value::Object(picture) = picture {
            picture.insert("media_type".to_owned(), input.format.mime().into());
        }
    }
    let mut pictures = pictures.into_iter();
    fields.extend(pictures.next().map(|source| ("source".to_owned(), source)));
    let others: Vec<Value> = pictures.collect();
    if !others.is_empty() {
        fields.insert("image_ref".to_owned(), others.into());
    }
}

fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/generations/{}", call.base_url, escape(id)))
}

/// A generation looks the same in the reply to the submit, to a poll and in a push; `open` makes
/// a job of its id where none is known yet.
fn step(
    sent: SendKind,
    reply: &Reply,
    job: Option<&RemoteJob>,
    open: impl FnOnce(&str) -> RemoteJob,
) -> Result<Step, UpstreamError> {
    if !reply.is_success() {
        return Err(refusal(sent, reply));
    }
    let answer: Value = reply.json()?;
    let state = match text(&answer, "state").unwrap_or_default() {
        "completed" => return done(&answer),
        "failed" => return Err(failed(&answer, reply)),
        "queued" | "" => RemoteState::Queued,
        _ => RemoteState::Running,
    };
    let job = match (job, text(&answer, "id")) {
        (Some(job), _) => job.clone(),
        (None, Some(id)) => open(id),
        (None, None) => {
            return Err(UpstreamError::malformed("the provider's reply names no generation"));
        }
    };
    Ok(RemoteJob { state, ..job }.wait())
}

/// The picture in `assets`, or those in `output`.
fn done(answer: &Value) -> Result<Step, UpstreamError> {
    let asset = answer.get("assets").and_then(|assets| text(assets, "image"));
    let output = answer.get("output").and_then(Value::as_array).into_iter().flatten();
    let urls = asset.into_iter().chain(output.filter_map(|item| text(item, "url")));
    let pictures: Vec<Picture> = urls.map(|url| Picture::new(Source::link(url))).collect();
    if pictures.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the generation holds no picture"));
    }
    Ok(Step::Done(Output { pictures, ..Output::default() }))
}

/// Why a generation failed: a code, or words alone.
fn failed(answer: &Value, reply: &Reply) -> UpstreamError {
    let (code, words) = (text(answer, "failure_code"), text(answer, "failure_reason"));
    let fault = match code {
        Some("content_moderated") => Fault::Moderated,
        Some("budget_exhausted") => Fault::Balance,
        Some("rate_limited") => Fault::RateLimited,
        Some("output_not_found") => Fault::JobLost,
        Some("invalid_request" | "image_too_large" | "unsupported_format" | "corrupt_input") => {
            Fault::Invalid
        }
        None if words.is_some_and(refuses_content) => Fault::Moderated,
        _ => Fault::JobFailed,
    };
    reply::refusal(fault, reply, Some(words.unwrap_or("the generation failed"))).code(code)
}

/// What a reply that is not 2xx means: `{"detail"}` in both of FastAPI's shapes.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let words = reply::words(&answer);
    let said = |test: fn(&str) -> bool| words.as_deref().is_some_and(test);
    let fault = match (sent, reply.status) {
        (SendKind::Submit, 400 | 422) if said(refuses_content) => Fault::Moderated,
        (SendKind::Submit, 400 | 403) if said(lacks_credits) => Fault::Balance,
        (sent, status) => fault_at(sent, status),
    };
    let param = Detail::of(&answer).and_then(|detail| detail.param);
    reply::refusal(fault, reply, words.as_deref()).param(param)
}
