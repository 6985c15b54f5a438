//! DeepInfra's own surface: one synchronous JSON call, pictures as data URIs, and beside them
//! what the call cost and which picture was blackened. Edits are at its OpenAI-compatible one.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    Usage, WireRequest, body,
    money::Money,
    openai::OpenAi,
    reply::{self, text},
    said::refused,
};

/// `POST {base}/inference/{model}`.
pub(crate) struct DeepInfra;

impl Adapter for DeepInfra {
    fn name(&self) -> &'static str {
        "deepinfra"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        if call.deployment.task.takes_pictures() {
            return OpenAi.begin(call);
        }
        let url = call.endpoint("/inference/{upstream}");
        let request = WireRequest::post_json(url, &Value::Object(body::fields(call)));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if call.deployment.task.takes_pictures() && reply.is_success() {
            return OpenAi.advance(call, sent, job, reply);
        }
        if !reply.is_success() {
            return Err(refused(sent, reply, |_| None));
        }
        output(reply).map(Step::Done)
    }
}

fn output(reply: &Reply) -> Result<Output, UpstreamError> {
    let answer: Value = reply.json()?;
    let seed = answer.get("seed").and_then(Value::as_u64);
    let nsfw = |index: usize| answer["nsfw_content_detected"][index] == Value::Bool(true);
    let items = answer.get("images").and_then(Value::as_array).into_iter().flatten();
    let pictures: Vec<Picture> = items
        .enumerate()
        .filter_map(|(index, item)| {
            let data = item.as_str().filter(|data| !data.is_empty())?;
            // The seed is that of the call, hence of its first picture.
            let seed = seed.filter(|_| index == 0);
            Some(Picture { seed, withheld: nsfw(index), ..Picture::new(Source::link(data)) })
        })
        .collect();
    if pictures.is_empty() {
        let state = text(&answer["inference_status"], "status").unwrap_or_default();
        return Err(match state.to_ascii_lowercase().as_str() {
            "failed" => UpstreamError::new(Fault::JobFailed, "the provider says that it failed"),
            _ if answer.get("images").is_none() => {
                UpstreamError::malformed("the provider's reply has no images")
            }
            _ => UpstreamError::new(Fault::Empty, "the provider drew no picture"),
        });
    }
    if pictures.iter().all(|picture| picture.withheld) {
        let message = "the provider withheld the picture for its content";
        return Err(
            UpstreamError::new(Fault::Moderated, message).code(Some("nsfw_content_detected"))
        );
    }
    let billed = reply::billed(reply, "inference_status/cost", Money::DOLLAR);
    Ok(Output { pictures, usage: Usage { billed, ..Usage::default() }, quality: None })
}
