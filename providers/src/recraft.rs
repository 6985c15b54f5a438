//! Recraft: OpenAI's route and reply with fields of its own, and vectors beside pixels. A reply
//! says how many API units were charged.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    Usage, WireRequest, body,
    money::Money,
    reply::{self, fault_of, lacks_credits, refusal, refuses_content, text},
};

/// Recraft's dialect.
pub(crate) struct Recraft;

/// What an API unit is worth in dollars: a thousandth.
const UNIT: Money = Money::from_nanos(1_000_000);

impl Adapter for Recraft {
    fn name(&self) -> &'static str {
        "recraft"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        // The routes that a path names know one model, or have it set.
        if !call.deployment.path.as_deref().is_some_and(|path| path.contains("{upstream}")) {
            fields.entry("model").or_insert_with(|| call.upstream.into());
        }
        let url = call.endpoint("/images/generations");
        let request = WireRequest::post_json(url, &Value::Object(fields));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        _sent: SendKind,
        _job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if reply.is_success() { output(call, reply).map(Step::Done) } else { Err(refused(reply)) }
    }
}

/// The items of `data`, or the one `image` of the routes that work on a picture.
fn output(call: &Call<'_>, reply: &Reply) -> Result<Output, UpstreamError> {
    let answer: Value = reply.json()?;
    let items = match (answer.get("data"), answer.get("image")) {
        (Some(Value::Array(items)), _) => items.as_slice(),
        (_, Some(image @ Value::Object(_))) => std::slice::from_ref(image),
        _ => return Err(UpstreamError::malformed("the provider's reply has no data")),
    };
    let pictures: Vec<Picture> = items.iter().filter_map(|item| picture(call, item)).collect();
    if pictures.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the provider's reply holds no picture"));
    }
    let usage = Usage { billed: reply::billed(reply, "credits", UNIT), ..Usage::default() };
    Ok(Output { pictures, usage, quality: None })
}

fn picture(call: &Call<'_>, item: &Value) -> Option<Picture> {
    let source = Source::of(text(item, "b64_json"), text(item, "url"))?;
    let revised_prompt = reply::revised(call, text(item, "revised_prompt"));
    Some(Picture { revised_prompt, ..Picture::new(source) })
}

/// What a reply that is not 2xx means. There is no published schema: `{"code", "message"}` was
/// seen, and a refused prompt is a bad request whose words alone tell.
fn refused(reply: &Reply) -> UpstreamError {
    let body: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let (code, words) = (text(&body, "code"), reply::words(&body));
    let said = format!("{} {}", code.unwrap_or_default(), words.as_deref().unwrap_or_default());
    let said = said.to_lowercase().replace('_', " ");
    let fault = match reply.status {
        400 | 403 | 422 if refuses_content(&said) => Fault::Moderated,
        400 | 403 if lacks_credits(&said) => Fault::Balance,
        status => fault_of(status),
    };
    refusal(fault, reply, words.as_deref()).code(code)
}
