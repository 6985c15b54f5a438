//! AWS Bedrock's `InvokeModel`: one synchronous JSON call, the model in the path.
//!
//! Amazon's own models name their task in the body and say in a success what they withheld;
//! Stability's answer with lists of one, and give the reason where there is no picture.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    catalog::Task,
    reply::{fault_of, refusal, refuses_content, text},
    wire::escape,
};

/// `POST {base}/model/{upstream}/invoke`.
pub(crate) struct Bedrock;

impl Adapter for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        let draws = call.deployment.task != Task::ImageRemoveBackground;
        // Without a seed Amazon's models always take the same one, and draw the same picture.
        if let (true, None, Some(seed)) =
            (draws && is_amazons(call), call.image.seed, body::chance(call))
        {
            body::put(&mut fields, "imageGenerationConfig.seed", seed.into());
        }
        let url = format!("{}/model/{}/invoke", call.base_url, escape(call.upstream));
        let request = WireRequest::post_json(url, &Value::Object(fields));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        _call: &Call<'_>,
        _sent: SendKind,
        _job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if reply.is_success() {
            output(&reply.json()?).map(Step::Done)
        } else {
            Err(refused(reply))
        }
    }
}

/// Whether the task stands in the body.
fn is_amazons(call: &Call<'_>) -> bool {
    call.deployment.wire.set.contains_key("taskType")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn output(answer: &Value) -> Result<Output, UpstreamError> {
    let seeds = items(&answer["seeds"]);
    let pictures: Vec<Picture> = items(&answer["images"])
        .iter()
        .enumerate()
        .filter_map(|(index, data)| {
            let source = Source::inline(data.as_str().filter(|data| !data.is_empty())?);
            let seed = seeds.get(index).and_then(Value::as_u64);
            Some(Picture { seed, ..Picture::new(source) })
        })
        .collect();
    if !pictures.is_empty() {
        return Ok(Output { pictures, ..Output::default() });
    }
    let reason = items(&answer["finish_reasons"]).iter().find_map(Value::as_str);
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        let fault = match reason.to_lowercase() {
            words if words.starts_with("filter") => Fault::Moderated,
            words if words.contains("error") => Fault::JobFailed,
            _ => Fault::Empty,
        };
        let message = format!("the provider drew no picture ({reason})");
        return Err(UpstreamError::new(fault, message));
    }
    // What was drawn and withheld is told beside the pictures that are left.
    if let Some(words) = text(answer, "error") {
        let message = format!("the provider withheld the picture: {words}");
        return Err(UpstreamError::new(Fault::Moderated, message));
    }
    match answer {
        Value::Object(fields) if fields.contains_key("images") || !seeds.is_empty() => {
            Err(UpstreamError::new(Fault::Empty, "the provider's reply holds no picture"))
        }
        _ => Err(UpstreamError::malformed("the provider's reply has no images")),
    }
}

/// `{"message"}`, its kind in a header.
fn refused(reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let words = text(&answer, "message").or_else(|| text(&answer, "Message"));
    let kind = reply.header("x-amzn-errortype").and_then(|kind| kind.split(':').next());
    let says = |what: &str| words.is_some_and(|words| words.to_lowercase().contains(what));
    let fault = match kind {
        _ if reply.status == 400
            && (words.is_some_and(refuses_content) || says("responsible ai")) =>
        {
            Fault::Moderated
        }
        Some("ValidationException") if says("model identifier") => Fault::UnknownModel,
        Some("ValidationException") => Fault::Invalid,
        Some(
            "IncompleteSignatureException"
            | "InvalidSignatureException"
            | "ExpiredTokenException"
            | "UnrecognizedClientException"
            | "AccessDeniedException",
        ) => Fault::Credential,
        Some("ServiceQuotaExceededException" | "ThrottlingException") => Fault::RateLimited,
        Some("ModelNotReadyException") => Fault::Unavailable,
        Some("ModelErrorException") => Fault::JobFailed,
        _ => fault_of(reply.status),
    };
    // Only the vendor's own words can say that the caller is wrong; a proxy's page cannot.
    if fault == Fault::Invalid && words.is_none() {
        return refusal(Fault::Malformed, reply, None);
    }
    refusal(fault, reply, words).code(kind)
}
