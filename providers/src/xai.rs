//! xAI's images: OpenAI's routes with ratios and tiers in place of sizes. A picture that was
//! blocked is an item of a reply with HTTP 200, and what a call costs stands beside the items.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    Usage, WireRequest, body,
    money::Money,
    reply::{self, text},
    said::{Said, refused},
};

/// xAI's dialect.
pub(crate) struct Xai;

/// How many of the ticks that xAI counts money in make a nano-dollar: a dollar has 10^10.
const TICKS: u64 = 10;

impl Adapter for Xai {
    fn name(&self) -> &'static str {
        "xai"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        fields.insert("model".to_owned(), call.upstream.into());
        let pictures = fields.get_mut("images").and_then(Value::as_array_mut);
        for picture in pictures.into_iter().flatten().filter_map(Value::as_object_mut) {
            picture.insert("type".to_owned(), "image_url".into());
        }
        let edits = call.deployment.task.takes_pictures();
        let url = call.endpoint(if edits { "/images/edits" } else { "/images/generations" });
        let request = WireRequest::post_json(url, &Value::Object(fields));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        _job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if !reply.is_success() {
            return Err(refused(sent, reply, |said| told(reply.status, said)));
        }
        output(call, reply).map(Step::Done)
    }
}

fn output(call: &Call<'_>, reply: &Reply) -> Result<Output, UpstreamError> {
    let answer: Value = reply.json()?;
    let items = answer.get("data").and_then(Value::as_array);
    let items =
        items.ok_or_else(|| UpstreamError::malformed("the provider's reply has no data"))?;
    if items.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the provider drew no picture"));
    }
    let pictures =
        items.iter().map(|item| picture(call, item)).collect::<Result<Vec<Picture>, _>>()?;
    if pictures.iter().all(|picture| picture.withheld) {
        let message = "the picture was blocked by the provider's moderation";
        return Err(UpstreamError::new(Fault::Moderated, message));
    }
    let ticks = answer.pointer("/usage/cost_in_usd_ticks").and_then(Value::as_u64);
    let billed = ticks.and_then(|ticks| i64::try_from(ticks.div_ceil(TICKS)).ok());
    let usage = Usage { billed: billed.map(Money::from_nanos), ..Usage::default() };
    Ok(Output { pictures, usage, quality: None })
}

fn picture(call: &Call<'_>, item: &Value) -> Result<Picture, UpstreamError> {
    if item.get("respect_moderation") == Some(&Value::Bool(false)) {
        return Ok(Picture::refused());
    }
    let source = Source::of(text(item, "b64_json"), text(item, "url"))
        .ok_or_else(|| UpstreamError::malformed("the provider's reply names no picture"))?;
    let revised_prompt = reply::revised(call, text(item, "revised_prompt"));
    Ok(Picture { revised_prompt, ..Picture::new(source) })
}

/// What `{"code", "error": "text"}` says beside its status; the codes are kinds of gRPC's.
fn told(status: u16, said: &Said) -> Option<Fault> {
    match status {
        // A bad key is a bad request here.
        400 if said.speaks_of(&["api key"]) => Some(Fault::Credential),
        400 if said.speaks_of(&["model not found"]) => Some(Fault::UnknownModel),
        403 | 429 if said.speaks_of(&["credits", "spending limit"]) => Some(Fault::Balance),
        _ => None,
    }
}
