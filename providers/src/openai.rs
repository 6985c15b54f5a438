//! The OpenAI Images dialect: one synchronous call. Spoken by OpenAI, Azure and Together.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Adapter, Body, Call, Fault, Output, Part, PartValue, Picture, RemoteJob, Reply, SendKind,
    Source, Step, UpstreamError, Usage, WireRequest, body,
    catalog::{InputForm, Task},
    reply::{fault_of, refusal},
};

/// `POST {base}/images/generations`, and `/edits` with JSON or a form.
pub(crate) struct OpenAi;

impl Adapter for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        // Where the path names the model, a second name in the body would only be ignored.
        let named = call.deployment.path.as_deref().is_some_and(|path| path.contains("{upstream}"));
        let model = (!named).then_some(call.upstream);
        let mut request = if sends_files(call) {
            let mut parts = body::form(call);
            parts.extend(model.map(|model| Part {
                name: "model".to_owned(),
                value: PartValue::Text(model.to_owned()),
            }));
            let body = Body::Form(parts);
            WireRequest { body, ..WireRequest::post_json(url(call), &Value::Null) }
        } else {
            let mut fields = body::fields(call);
            fields.extend(model.map(|model| ("model".to_owned(), model.into())));
            WireRequest::post_json(url(call), &Value::Object(fields))
        };
        if let Some(name) = call.client_ref {
            // Makes no repeat safe, but OpenAI's support finds the request by it.
            request = request.header("x-client-request-id", name);
        }
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        _call: &Call<'_>,
        _sent: SendKind,
        _job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if reply.is_success() { output(reply).map(Step::Done) } else { Err(refused(reply)) }
    }
}

fn sends_files(call: &Call<'_>) -> bool {
    let field = call.deployment.wire.images.as_ref();
    field.is_some_and(|field| field.form == InputForm::File) && !call.image.images.is_empty()
}

fn url(call: &Call<'_>) -> String {
    call.endpoint(match call.deployment.task {
        Task::ImageGenerate => "/images/generations",
        Task::ImageVariation => "/images/variations",
        _ => "/images/edits",
    })
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
    // Read leniently: a picture that is paid must not be lost to an odd count.
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    quality: Value,
}

#[derive(Deserialize)]
struct Item {
    b64_json: Option<String>,
    url: Option<String>,
    revised_prompt: Option<String>,
}

fn output(reply: &Reply) -> Result<Output, UpstreamError> {
    let answer: Answer = reply.json()?;
    if answer.data.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the provider drew no picture"));
    }
    let pictures = answer.data.into_iter().map(picture).collect::<Result<_, _>>()?;
    let quality = answer.quality.as_str().filter(|word| *word != "auto").map(str::to_owned);
    Ok(Output { pictures, usage: usage(&answer.usage), quality })
}

fn picture(item: Item) -> Result<Picture, UpstreamError> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let source = Source::of(item.b64_json.as_deref(), item.url.as_deref())
        .ok_or_else(|| UpstreamError::malformed("the provider's reply names no picture"))?;
    Ok(Picture { revised_prompt: filled(item.revised_prompt), ..Picture::new(source) })
}

/// Token counts. Without details all input is text and all output is picture.
fn usage(usage: &Value) -> Usage {
    let count = |name: &str| usage.pointer(name).and_then(Value::as_u64);
    let detail = |side: &str, kind: &str| count(&format!("/{side}_tokens_details/{kind}_tokens"));
    let split =
        |side: &str, usual: &str, other: &str| match (detail(side, usual), detail(side, other)) {
            (None, None) => (count(&format!("/{side}_tokens")), None),
            both => both,
        };
    let (text_input_tokens, image_input_tokens) = split("input", "text", "image");
    let (image_output_tokens, text_output_tokens) = split("output", "image", "text");
    Usage {
        text_input_tokens,
        image_input_tokens,
        text_output_tokens,
        image_output_tokens,
        billed: None,
    }
}

/// `{"error": {message, type, param, code}}`, and Azure's inner object.
fn refused(reply: &Reply) -> UpstreamError {
    let body: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let error = &body["error"];
    let text = |name: &str| error[name].as_str().filter(|text| !text.is_empty());
    let words = text("message").or_else(|| error.as_str());
    let inner = ["innererror", "inner_error"].iter().find_map(|name| error[name]["code"].as_str());
    // Azure writes the status where a code belongs; that says nothing.
    let code = text("code").filter(|code| code.parse::<u16>().is_err());
    let fault = fault(reply.status, code.or_else(|| text("type")), inner, words);
    // Only the vendor's own words can say that the caller is wrong; a proxy's page cannot.
    if fault == Fault::Invalid && words.is_none() {
        return refusal(Fault::Malformed, reply, None);
    }
    refusal(fault, reply, words).code(code.or(inner)).param(text("param"))
}

fn fault(status: u16, code: Option<&str>, inner: Option<&str>, words: Option<&str>) -> Fault {
    if inner == Some("ResponsibleAIPolicyViolation") {
        return Fault::Moderated;
    }
    match code {
        Some(
            "moderation_blocked" | "content_policy_violation" | "content_filter" | "contentFilter",
        ) => Fault::Moderated,
        Some("insufficient_quota" | "billing_hard_limit_reached") => Fault::Balance,
        Some("model_not_found" | "DeploymentNotFound") => Fault::UnknownModel,
        // Together says it in words.
        _ if status == 422 && words.is_some_and(|w| w.to_lowercase().contains("nsfw")) => {
            Fault::Moderated
        }
        _ => fault_of(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplyBody;
    use serde_json::json;

    fn reply(status: u16, body: &str) -> Reply {
        let body = ReplyBody::Text(bytes::Bytes::copy_from_slice(body.as_bytes()));
        Reply { status, headers: Vec::new(), body }
    }

    #[test]
    fn tokens_are_counted_with_and_without_details() {
        let check = |value: Value, want: [Option<u64>; 4]| {
            let u = usage(&value);
            let got = [
                u.text_input_tokens,
                u.image_input_tokens,
                u.text_output_tokens,
                u.image_output_tokens,
            ];
            assert_eq!(got, want, "{value}");
        };
        check(Value::Null, [None; 4]);
        check(json!({"input_tokens": "many"}), [None; 4]);
        check(json!({"input_tokens": 4, "output_tokens": 9}), [Some(4), None, None, Some(9)]);
        check(
            json!({"input_tokens": 42, "output_tokens": 1060,
                "input_tokens_details": {"text_tokens": 40, "image_tokens": 2},
                "output_tokens_details": {"image_tokens": 1056, "text_tokens": 4}}),
            [Some(40), Some(2), Some(4), Some(1056)],
        );
        check(
            json!({"output_tokens": 9, "output_tokens_details": {"image_tokens": 9}}),
            [None, None, None, Some(9)],
        );
    }

    #[test]
    fn refusals_are_told_apart() {
        let check = |status: u16, body: &str, fault: Fault, code: Option<&str>| {
            let error = refused(&reply(status, body));
            assert_eq!((error.fault, error.code.as_deref()), (fault, code), "{status} {body}");
        };
        let said = |code: &str| format!(r#"{{"error":{{"message":"no","code":"{code}"}}}}"#);
        check(400, &said("moderation_blocked"), Fault::Moderated, Some("moderation_blocked"));
        check(400, &said("content_filter"), Fault::Moderated, Some("content_filter"));
        check(400, &said("contentFilter"), Fault::Moderated, Some("contentFilter"));
        let inner = r#"{"error":{"message":"no","code":"BadRequest",
            "innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#;
        check(400, inner, Fault::Moderated, Some("BadRequest"));
        let quota = r#"{"error":{"message":"no","type":"insufficient_quota","code":null}}"#;
        check(429, quota, Fault::Balance, None);
        check(403, &said("model_not_found"), Fault::UnknownModel, Some("model_not_found"));
        check(404, &said("DeploymentNotFound"), Fault::UnknownModel, Some("DeploymentNotFound"));
        check(401, &said("401"), Fault::Credential, None);
        check(422, r#"{"error":{"message":"an nsfw prompt"}}"#, Fault::Moderated, None);
        check(400, r#"{"error":{"message":"nsfw is no size"}}"#, Fault::Invalid, None);
        check(400, r#"{"error":"plain words"}"#, Fault::Invalid, None);
        check(413, "<html>too large</html>", Fault::Malformed, None);
        check(502, "<html>bad gateway</html>", Fault::Server, None);
        check(408, "", Fault::Server, None);
        check(409, "", Fault::Server, None);
        check(302, "", Fault::Malformed, None);
    }

    #[test]
    fn a_success_without_a_picture_is_no_success() {
        for (body, fault) in [
            ("", Fault::Malformed),
            ("<html></html>", Fault::Malformed),
            ("{}", Fault::Malformed),
            (r#"{"error":{"message":"no"}}"#, Fault::Malformed),
            (r#"{"data":[{}]}"#, Fault::Malformed),
            (r#"{"data":[{"b64_json":"","url":null}]}"#, Fault::Malformed),
            (r#"{"data":[]}"#, Fault::Empty),
        ] {
            assert_eq!(output(&reply(200, body)).unwrap_err().fault, fault, "{body}");
        }
    }
}
