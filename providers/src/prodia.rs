//! Prodia: one address that takes jobs of every type. The answer is a form: the job, with its seed
//! and its price, and beside it the picture's bytes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, ReplyBody, SendKind, Source, Step,
    UpstreamError, Usage, WireRequest, body,
    money::Money,
    multipart::sections,
    reply::{self, text},
    said::refused,
};

/// Prodia's dialect.
pub(crate) struct Prodia;

impl Adapter for Prodia {
    fn name(&self) -> &'static str {
        "prodia"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        let format = body::accept(call, &mut fields).unwrap_or_else(|| "image/png".to_owned());
        let job = json!({"type": call.upstream, "config": fields});
        let request = WireRequest::post_json(call.endpoint("/job?price=true"), &job)
            .header("accept", format!("multipart/form-data; {format}"));
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
            return Err(refused(sent, reply, |_| None));
        }
        // The bytes alone, where the header was not understood.
        if let ReplyBody::Media(blob) = reply.body {
            return reply::drawn_bytes(blob, reply);
        }
        output(reply).map(Step::Done)
    }
}

fn output(reply: &Reply) -> Result<Output, UpstreamError> {
    let sections = sections(reply)
        .ok_or_else(|| UpstreamError::malformed("the provider's reply is no form, or cut off"))?;
    let part = |name: &str| sections.iter().find(|s| s.name == name).map(|s| s.bytes);
    let job = part("job").unwrap_or_default();
    // Read leniently: a picture that is paid must not be lost to what stands beside it.
    let told: Value = serde_json::from_slice(job).unwrap_or_default();
    let Some(bytes) = part("output").filter(|bytes| !bytes.is_empty()) else {
        return Err(without_picture(&told));
    };
    let seed = told["config"]["seed"].as_u64();
    let picture = Picture { seed, ..Picture::new(Source::Base64(STANDARD.encode(bytes))) };
    let usage = Usage { billed: price(job), ..Usage::default() };
    Ok(Output { pictures: vec![picture], usage, quality: None })
}

/// A job that ended without a picture.
fn without_picture(job: &Value) -> UpstreamError {
    let state = &job["state"];
    match text(state, "current") {
        Some(word @ ("failed" | "error" | "cancelled")) => {
            let said = text(job, "error").or_else(|| text(state, "error"));
            UpstreamError::new(Fault::JobFailed, reply::shown(said.unwrap_or(word)))
        }
        _ => UpstreamError::new(Fault::Empty, "the provider's reply holds no picture"),
    }
}

#[derive(Deserialize)]
struct Job {
    price: Price,
}

#[derive(Deserialize)]
struct Price {
    dollars: Box<RawValue>,
}

/// What the job says it cost, from the text of the number.
fn price(job: &[u8]) -> Option<Money> {
    let job: Job = serde_json::from_slice(job).ok()?;
    Money::of_number(job.price.dollars.get(), Money::DOLLAR)
}
