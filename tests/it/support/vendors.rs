//! Answers as the vendors give them, and whole happy conversations.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};

use super::upstream::{IntoReplies, Reply, Upstream};

pub(crate) const OPENAI: &str = "/openai/images/generations";
pub(crate) const TOGETHER: &str = "/together/images/generations";
pub(crate) const GEMINI: &str = "/gemini/models/gemini-2.5-flash-image:generateContent";
pub(crate) const STABILITY: &str = "/stability/stable-image/generate/core";
pub(crate) const FAL: &str = "/fal/fal-ai/flux/dev";
pub(crate) const FAL_STATUS: &str = "/fal/fal-ai/flux/requests/r1/status";
pub(crate) const FAL_STREAM: &str = "/fal/fal-ai/flux/requests/r1/status/stream";
pub(crate) const FAL_RESULT: &str = "/fal/fal-ai/flux/requests/r1";
pub(crate) const BFL: &str = "/bfl/flux-dev";
pub(crate) const BFL_POLL: &str = "/bfl/get_result";
pub(crate) const REPLICATE: &str = "/replicate/models/black-forest-labs/flux-dev/predictions";
pub(crate) const REPLICATE_POLL: &str = "/replicate/predictions/p1";

/// OpenAI's answer with these pictures in base64.
pub(crate) fn openai(pictures: &[Bytes]) -> Reply {
    let data: Vec<Value> =
        pictures.iter().map(|p| json!({"b64_json": STANDARD.encode(p)})).collect();
    Reply::json(200, &json!({"created": 1, "data": data}))
}

/// An error in OpenAI's shape.
pub(crate) fn openai_error(status: u16, code: &str) -> Reply {
    let error =
        json!({"message": format!("refused: {code}"), "type": "x", "param": null, "code": code});
    Reply::json(status, &json!({ "error": error }))
}

/// Gemini's answer with one picture.
pub(crate) fn gemini(picture: &Bytes) -> Reply {
    let part = json!({"inlineData": {"mimeType": "image/png", "data": STANDARD.encode(picture)}});
    let candidate = json!({"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"});
    Reply::json(200, &json!({"candidates": [candidate]}))
}

/// An error in Google's shape.
pub(crate) fn gemini_error(status: u16, word: &str) -> Reply {
    let error = json!({"code": status, "message": "no", "status": word});
    Reply::json(status, &json!({ "error": error }))
}

/// Takes fal's submits as job `r1`, which is finished at once and has this result.
pub(crate) fn fal_job(upstream: &Upstream, result: impl IntoReplies) {
    upstream.on("POST", FAL, fal_accepted());
    upstream.on("GET", FAL_STATUS, Reply::json(200, &json!({"status": "COMPLETED"})));
    upstream.on("GET", FAL_RESULT, result);
}

pub(crate) fn fal_accepted() -> Reply {
    Reply::json(200, &json!({"request_id": "r1", "status": "IN_QUEUE", "queue_position": 0}))
}

/// fal's result with these links.
pub(crate) fn fal_result(links: &[String]) -> Reply {
    let images: Vec<Value> = links.iter().map(|url| json!({ "url": url })).collect();
    Reply::json(200, &json!({"images": images, "seed": 42, "has_nsfw_concepts": []}))
}

/// Takes BFL's submits, and answers questions for the job with these states.
pub(crate) fn bfl_job(upstream: &Upstream, states: impl IntoReplies) {
    let polling_url = upstream.url(&format!("{BFL_POLL}?id=b1"));
    upstream.on("POST", BFL, Reply::json(200, &json!({"id": "b1", "polling_url": polling_url})));
    upstream.on("GET", BFL_POLL, states);
}

/// BFL's state with a link.
pub(crate) fn bfl_ready(link: &str) -> Reply {
    Reply::json(200, &json!({"id": "b1", "status": "Ready", "result": {"sample": link, "seed": 5}}))
}

/// BFL's state of any word.
pub(crate) fn bfl_state(word: &str) -> Reply {
    Reply::json(200, &json!({"id": "b1", "status": word, "result": null}))
}

/// Takes Replicate's submits, and answers questions for the prediction with these.
pub(crate) fn replicate_job(upstream: &Upstream, states: impl IntoReplies) {
    upstream.on("POST", REPLICATE, replicate_state("starting", &Value::Null, None));
    upstream.on("GET", REPLICATE_POLL, states);
}

/// Replicate's prediction.
pub(crate) fn replicate_state(status: &str, output: &Value, error: Option<&str>) -> Reply {
    let prediction = json!({"id": "p1", "status": status, "output": output, "error": error});
    Reply::json(if status == "starting" { 201 } else { 200 }, &prediction)
}
