//! MiniMax: one synchronous route. Every refusal is HTTP 200 with a code in `base_resp`.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    commission::{Told, commission, gate, text},
    exchange::{Exchange, Problem, json as reply},
    files, studio,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    gate(x, x.segments() == ["v1", "image_generation"])?;
    let object = x.json()?;
    let model = text(&object, "model");
    let wanted = commission(x, model, &object)?;
    if x.moderated().is_some() {
        return Err(Problem::Moderated);
    }
    let (job, pictures) = studio::work(x, model, wanted.recipes).await?;
    let data = if text(&object, "response_format") == "base64" {
        let list: Vec<String> = pictures.iter().map(|picture| STANDARD.encode(picture)).collect();
        json!({"image_base64": list})
    } else {
        let list: Vec<String> = (0..pictures.len()).map(|i| files::url(x, &job, i)).collect();
        json!({"image_urls": list})
    };
    let mut body = envelope(0, "success");
    body["id"] = job.id.replace('-', "").into();
    body["data"] = data;
    body["metadata"] = json!({"success_count": pictures.len().to_string(), "failed_count": "0"});
    Ok(reply(200, &body))
}

fn envelope(code: u32, words: &str) -> Value {
    json!({"base_resp": {"status_code": code, "status_msg": words}})
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, code, words) = match problem {
        Problem::NoKey | Problem::WrongKeyForm => {
            (200, 1004, "login fail: Please carry the API secret key in the 'Authorization' field")
        }
        Problem::BadKey => (200, 2049, "invalid api key"),
        Problem::NoCredit => (200, 1008, "insufficient balance"),
        Problem::RateLimited(_) => (200, 1002, "rate limit exceeded"),
        Problem::Moderated => (200, 1026, "input new_sensitive"),
        Problem::Internal => (500, 1000, "unknown error"),
        Problem::Unavailable => (503, 1000, "service unavailable"),
        Problem::NoRoute(_) => (404, 2013, "404 page not found"),
        Problem::Method(_) => (405, 2013, "method not allowed"),
        _ => (200, 2013, told.words.as_str()),
    };
    let words = if code == 2013 { format!("invalid params, {words}") } else { words.to_owned() };
    let mut body = envelope(code, &words);
    body["id"] = Uuid::new_v4().simple().to_string().into();
    Told::hinted(problem, reply(status, &body))
}
