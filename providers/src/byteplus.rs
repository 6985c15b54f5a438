//! BytePlus ModelArk (Volcengine Ark in China): Seedream on OpenAI's route, with errors of single
//! pictures inside a reply with HTTP 200.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    reply::text,
    said::{Said, refused},
};

/// ModelArk's dialect.
pub(crate) struct BytePlus;

impl Adapter for BytePlus {
    fn name(&self) -> &'static str {
        "byteplus"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        fields.insert("model".to_owned(), call.upstream.into());
        let url = call.endpoint("/images/generations");
        let request = WireRequest::post_json(url, &Value::Object(fields));
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
            return Err(refused(sent, reply, |said| told(said.code.as_deref())));
        }
        output(reply)
    }
}

fn output(reply: &Reply) -> Result<Step, UpstreamError> {
    let answer: Value = reply.json()?;
    let items = answer.get("data").and_then(Value::as_array);
    let items = items.ok_or_else(|| {
        let failed = answer.get("error").is_some();
        if failed { failure(&answer) } else { UpstreamError::malformed("the reply has no data") }
    })?;
    let pictures: Vec<Picture> = items.iter().filter_map(picture).collect();
    if pictures.iter().all(|picture| picture.withheld) {
        return Err(items.iter().find(|item| item.get("error").is_some()).map_or_else(
            || UpstreamError::new(Fault::Empty, "the provider drew no picture"),
            failure,
        ));
    }
    Ok(Step::Done(Output { pictures, ..Output::default() }))
}

/// A picture of `data`. One that was refused keeps its place; one that failed is missing.
fn picture(item: &Value) -> Option<Picture> {
    if told(text(&item["error"], "code")) == Some(Fault::Moderated) {
        return Some(Picture::refused());
    }
    let source = Source::of(text(item, "b64_json"), text(item, "url"))?;
    Some(Picture::new(source))
}

/// An error inside a success, in place of a picture.
fn failure(item: &Value) -> UpstreamError {
    let said = Said::of(item);
    let fault = told(said.code.as_deref()).unwrap_or(Fault::JobFailed);
    said.into_error(fault)
}

/// What a code says beside its status.
fn told(code: Option<&str>) -> Option<Fault> {
    let code = code?;
    if code.contains("SensitiveContentDetected") {
        return Some(Fault::Moderated);
    }
    // A code may go on behind a dot, to say what of.
    match code.split('.').next().unwrap_or(code) {
        "AccountOverdueError" | "QuotaExceeded" => Some(Fault::Balance),
        "RateLimitExceeded" => Some(Fault::RateLimited),
        "ModelNotOpen" | "InvalidEndpointOrModel" => Some(Fault::UnknownModel),
        "AuthenticationError" => Some(Fault::Credential),
        "InternalServiceError" => Some(Fault::Server),
        _ => None,
    }
}
