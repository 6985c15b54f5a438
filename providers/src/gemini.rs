//! The Gemini `generateContent` dialect: one synchronous JSON call to a chat model that draws.
//!
//! Refusals of content come as HTTP 200 without a picture; the delay of a 429 is in its body.
//! On Vertex AI there is Imagen beside it, with the same errors.

mod imagen;

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Adapter, Call, Fault, Input, Output, Picture, RemoteJob, Reply, SendKind, Source, Step,
    UpstreamError, Usage, WireRequest, body,
    catalog::InputForm,
    reply::{fault_of, refusal, shown},
};

/// `POST {base}/models/{upstream}:generateContent`.
pub(crate) struct Gemini;

/// What a refusal of content is called in `finishReason`.
const REFUSED: &[&str] = &[
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
];

impl Adapter for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        if imagen::speaks(call) {
            return Ok(Step::Send { kind: SendKind::Submit, request: imagen::request(call) });
        }
        let mut fields = body::fields(call);
        // Pictures first: the words speak of what has been seen.
        let parts: Value = call
            .image
            .images
            .iter()
            .map(picture)
            .chain([json!({"text": call.image.prompt})])
            .collect();
        body::put(&mut fields, "contents", json!([{"role": "user", "parts": parts}]));
        body::put(&mut fields, "generationConfig.responseModalities", json!(["IMAGE"]));
        let url = call.endpoint("/models/{upstream}:generateContent");
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
        if reply.is_success() && imagen::speaks(call) {
            imagen::output(call, &reply.json()?).map(Step::Done)
        } else if reply.is_success() {
            output(&reply.json()?).map(Step::Done)
        } else {
            Err(refused(reply))
        }
    }
}

/// A picture to work from.
fn picture(input: &Input) -> Value {
    json!({"inlineData": {"mimeType": input.format.mime(), "data": input.text(InputForm::Base64)}})
}

/// The items of a list, none if it is none.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn output(answer: &Value) -> Result<Output, UpstreamError> {
    let parts = || items(&answer["candidates"]).iter().flat_map(|c| items(&c["content"]["parts"]));
    // Thoughts are drafts, not the answer.
    let pictures: Vec<Picture> = parts()
        .filter(|part| part["thought"] != true)
        .filter_map(|part| {
            ["inlineData", "inline_data"].iter().find_map(|name| part[name]["data"].as_str())
        })
        .filter(|data| !data.is_empty())
        .map(|data| Picture::new(Source::inline(data)))
        .collect();
    if pictures.is_empty() {
        let words = parts().filter(|part| part["thought"] != true);
        let words: Vec<&str> = words.filter_map(|part| part["text"].as_str()).collect();
        return Err(without_picture(answer, &words.join(" ")));
    }
    Ok(Output { pictures, usage: usage(&answer["usageMetadata"]), quality: None })
}

/// Why a reply with status 200 holds no picture.
fn without_picture(answer: &Value, words: &str) -> UpstreamError {
    if let Some(reason) = answer["promptFeedback"]["blockReason"].as_str() {
        let message = format!("the provider refused the prompt ({reason})");
        return UpstreamError::new(Fault::Moderated, message).code(Some(reason));
    }
    if !answer["candidates"].is_array() {
        return UpstreamError::malformed("the provider's reply has no candidates");
    }
    let reasons = || items(&answer["candidates"]).iter().filter_map(|c| c["finishReason"].as_str());
    if let Some(reason) = reasons().find(|reason| REFUSED.contains(reason)) {
        let message = format!("the provider refused the content ({reason})");
        return UpstreamError::new(Fault::Moderated, message).code(Some(reason));
    }
    let message = match shown(words) {
        words if words.is_empty() => "the provider drew no picture".to_owned(),
        words => format!("the provider answered in words and drew no picture: {words}"),
    };
    UpstreamError::new(Fault::Empty, message).code(reasons().find(|reason| *reason != "STOP"))
}

/// Token counts by modality. What no detail explains is text on the way in and picture on the
/// way out.
fn usage(meta: &Value) -> Usage {
    let details = |name: &str, modality: &str| {
        let counts: Vec<u64> = items(&meta[name])
            .iter()
            .filter(|detail| detail["modality"] == modality)
            .filter_map(|detail| detail["tokenCount"].as_u64())
            .collect();
        (!counts.is_empty()).then(|| counts.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)))
    };
    let rest = |total: &str, other: Option<u64>| {
        meta[total].as_u64().map(|total| total.saturating_sub(other.unwrap_or(0)))
    };
    let image_in = details("promptTokensDetails", "IMAGE");
    let text_out = details("candidatesTokensDetails", "TEXT");
    // Thoughts are billed as text written.
    let thoughts = meta["thoughtsTokenCount"].as_u64();
    Usage {
        text_input_tokens: rest("promptTokenCount", image_in),
        image_input_tokens: image_in,
        text_output_tokens: match (text_out, thoughts) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        },
        image_output_tokens: details("candidatesTokensDetails", "IMAGE")
            .or_else(|| rest("candidatesTokenCount", text_out)),
        billed: None,
    }
}

/// `{"error": {code, message, status, details}}`, Google's usual error.
fn refused(reply: &Reply) -> UpstreamError {
    let body: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    // Some of Google's front ends wrap it into a list.
    let error = if body.is_array() { &body[0]["error"] } else { &body["error"] };
    let details = items(&error["details"]);
    let words = error["message"].as_str();
    let status = error["status"].as_str();
    let reason = details.iter().find_map(|d| d["reason"].as_str());
    let bad_key = "API_KEY_INVALID";
    let fault = match status {
        _ if [reason, status].contains(&Some(bad_key)) => Fault::Credential,
        _ if reply.status == 400 && words.is_some_and(|w| w.contains(bad_key)) => Fault::Credential,
        Some("INVALID_ARGUMENT") if words.is_some_and(imagen::blocked) => Fault::Moderated,
        Some("UNAUTHENTICATED" | "PERMISSION_DENIED") => Fault::Credential,
        Some("RESOURCE_EXHAUSTED") => Fault::RateLimited,
        Some("NOT_FOUND") => Fault::UnknownModel,
        Some("UNAVAILABLE") => Fault::Unavailable,
        Some("INTERNAL" | "DEADLINE_EXCEEDED" | "ABORTED" | "UNKNOWN") => Fault::Server,
        // A country or a plan without this model: no fault of the request.
        Some("FAILED_PRECONDITION") => Fault::Unsupported,
        _ => fault_of(reply.status),
    };
    // Only the vendor's own words can say that the caller is wrong; a proxy's page cannot.
    if fault == Fault::Invalid && words.is_none() {
        return refusal(Fault::Malformed, reply, None);
    }
    let field = details.iter().find_map(|d| d["fieldViolations"][0]["field"].as_str());
    let error = refusal(fault, reply, words).code(reason.or(status)).param(field);
    match details.iter().find_map(|d| duration(d["retryDelay"].as_str()?)) {
        Some(delay) => error.retry_after(Some(delay)),
        None => error,
    }
}

/// A protobuf duration: `27s`, `0.5s`.
fn duration(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ReplyBody, lifted};

    #[test]
    fn drafts_are_skipped_and_both_spellings_read() {
        let answer = json!({"candidates": [{"content": {"parts": [
            {"text": "here you are"},
            {"thought": true, "inlineData": {"mimeType": "image/png", "data": "ZHJhZnQ="}},
            {"inlineData": {"mimeType": "image/png", "data": lifted(1)}, "thoughtSignature": "x"},
            {"inline_data": {"mime_type": "image/png", "data": "AAAA"}},
            {"inlineData": {"mimeType": "image/png", "data": ""}},
        ]}, "finishReason": "STOP"}]});
        let sources: Vec<Source> =
            output(&answer).unwrap().pictures.into_iter().map(|p| p.source).collect();
        assert_eq!(sources, [Source::Blob(1), Source::Base64("AAAA".to_owned())]);
    }

    #[test]
    fn a_success_without_a_picture_says_why() {
        let finish = |reason: &str| json!({"candidates": [{"finishReason": reason}]});
        let check = |answer: Value, fault: Fault, code: Option<&str>| {
            let error = output(&answer).unwrap_err();
            assert_eq!((error.fault, error.code.as_deref()), (fault, code), "{answer}");
        };
        for reason in ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY"] {
            let answer = json!({"promptFeedback": {"blockReason": reason}});
            check(answer, Fault::Moderated, Some(reason));
        }
        for reason in REFUSED {
            check(finish(reason), Fault::Moderated, Some(reason));
        }
        check(finish("IMAGE_OTHER"), Fault::Empty, Some("IMAGE_OTHER"));
        check(finish("NO_IMAGE"), Fault::Empty, Some("NO_IMAGE"));
        check(finish("A_NEW_REASON"), Fault::Empty, Some("A_NEW_REASON"));
        check(finish("STOP"), Fault::Empty, None);
        check(json!({"candidates": []}), Fault::Empty, None);
        check(json!({}), Fault::Malformed, None);
        check(json!([1]), Fault::Malformed, None);
        let draft = json!({"candidates": [{"content": {"parts": [
            {"thought": true, "inlineData": {"data": "AAAA"}}]}}]});
        check(draft, Fault::Empty, None);
    }

    #[test]
    fn tokens_are_counted_by_modality() {
        let check = |meta: Value, want: [Option<u64>; 4]| {
            let u = usage(&meta);
            let got = [
                u.text_input_tokens,
                u.image_input_tokens,
                u.text_output_tokens,
                u.image_output_tokens,
            ];
            assert_eq!(got, want, "{meta}");
        };
        check(Value::Null, [None; 4]);
        check(
            json!({"promptTokenCount": 8, "candidatesTokenCount": 1290}),
            [Some(8), None, None, Some(1290)],
        );
        check(
            json!({"promptTokenCount": 266, "candidatesTokenCount": 1302, "thoughtsTokenCount": 100,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8},
                    {"modality": "IMAGE", "tokenCount": 258}],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290},
                    {"modality": "TEXT", "tokenCount": 12}]}),
            [Some(8), Some(258), Some(112), Some(1290)],
        );
        // The vendor's own count of pictures' tokens is believed, whatever the total.
        check(
            json!({"candidatesTokenCount": 1400,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1000},
                    {"modality": "IMAGE", "tokenCount": 290}]}),
            [None, None, None, Some(1290)],
        );
        check(
            json!({"candidatesTokenCount": 1302,
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 12}]}),
            [None, None, Some(12), Some(1290)],
        );
    }

    #[test]
    fn refusals_are_told_apart() {
        let check = |status: u16, body: &str, fault: Fault, delay: Option<u64>| {
            let text = ReplyBody::Text(bytes::Bytes::copy_from_slice(body.as_bytes()));
            let headers = vec![("retry-after".to_owned(), "9".to_owned())];
            let headers = if status == 503 { headers } else { Vec::new() };
            let error = refused(&Reply { status, headers, body: text });
            let delay = delay.map(Duration::from_millis);
            assert_eq!((error.fault, error.retry_after), (fault, delay), "{status} {body}");
        };
        let said = |word: &str| format!(r#"{{"error":{{"message":"no","status":"{word}"}}}}"#);
        check(400, &said("INVALID_ARGUMENT"), Fault::Invalid, None);
        check(400, &said("FAILED_PRECONDITION"), Fault::Unsupported, None);
        check(400, &said("API_KEY_INVALID"), Fault::Credential, None);
        check(401, &said("UNAUTHENTICATED"), Fault::Credential, None);
        check(403, &said("PERMISSION_DENIED"), Fault::Credential, None);
        check(404, &said("NOT_FOUND"), Fault::UnknownModel, None);
        check(429, &said("RESOURCE_EXHAUSTED"), Fault::RateLimited, None);
        check(500, &said("INTERNAL"), Fault::Server, None);
        check(503, &said("UNAVAILABLE"), Fault::Unavailable, Some(9000));
        check(504, &said("DEADLINE_EXCEEDED"), Fault::Server, None);
        check(400, &format!("[{}]", said("INVALID_ARGUMENT")), Fault::Invalid, None);
        check(400, "<html></html>", Fault::Malformed, None);
        check(500, "", Fault::Server, None);
        let delayed = |delay: &str| {
            format!(r#"{{"error":{{"message":"no","details":[{{}},{{"retryDelay":"{delay}"}}]}}}}"#)
        };
        check(429, &delayed("27s"), Fault::RateLimited, Some(27_000));
        check(429, &delayed("0.5s"), Fault::RateLimited, Some(500));
        check(429, &delayed("soon"), Fault::RateLimited, None);
        check(429, &delayed("-1s"), Fault::RateLimited, None);
    }
}
