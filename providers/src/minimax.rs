//! MiniMax: one synchronous JSON call. Every outcome arrives with HTTP 200; a number in
//! `base_resp` says which it is.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    reply::{refusal, text},
    said::refused,
};

/// `POST {base}/image_generation`.
pub(crate) struct MiniMax;

impl Adapter for MiniMax {
    fn name(&self) -> &'static str {
        "minimax"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        fields.insert("model".to_owned(), call.upstream.into());
        let url = call.endpoint("/image_generation");
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
            return Err(refused(sent, reply, |_| None));
        }
        let answer: Value = reply.json()?;
        let outcome = &answer["base_resp"];
        let code = outcome["status_code"].as_i64();
        if let Some(code) = code.filter(|code| *code != 0) {
            let message = text(outcome, "status_msg");
            return Err(refusal(fault(code), reply, message).code(Some(code.to_string())));
        }
        let list = |name: &str| answer["data"][name].as_array().into_iter().flatten();
        let filled = |item: &&str| !item.is_empty();
        let inline = list("image_base64").filter_map(Value::as_str).filter(filled);
        let links = list("image_urls").filter_map(Value::as_str).filter(filled);
        let sources = inline.map(Source::inline).chain(links.map(Source::link));
        let pictures: Vec<Picture> = sources.map(Picture::new).collect();
        if pictures.is_empty() {
            return Err(match (code, answer.get("data")) {
                (None, None) => UpstreamError::malformed("the provider's reply has no data"),
                _ => UpstreamError::new(Fault::Empty, "the provider drew no picture"),
            });
        }
        Ok(Step::Done(Output { pictures, ..Output::default() }))
    }
}

/// What a number other than 0 means.
fn fault(code: i64) -> Fault {
    match code {
        1002 => Fault::RateLimited,
        1004 | 2049 => Fault::Credential,
        1008 => Fault::Balance,
        1026 | 1027 => Fault::Moderated,
        2013 => Fault::Invalid,
        1000 | 1001 | 1013 => Fault::Server,
        _ => Fault::JobFailed,
    }
}
