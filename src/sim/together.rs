//! Together AI: OpenAI's route with `width` and `height`, and URLs unless `base64` is asked.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};

use super::{
    data::{VendorData, at},
    exchange::{Exchange, Problem, check_key, json as reply, with},
    files, openai,
    studio::{self, Wish},
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    if x.segments() != ["v1", "images", "generations"] {
        return Err(Problem::NoRoute(x.joined()));
    }
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    check_key(x.authorization("bearer"))?;
    let object = x.json()?;
    let model = object.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
    let family =
        VendorData::of(x.vendor).model(&model).ok_or_else(|| Problem::NoModel(model.clone()))?;
    let order = family.order(&object).map_err(Problem::Fields)?;
    if x.moderated().is_some() {
        return Err(Problem::Moderated);
    }
    let text = |field: &str| at(&object, field).and_then(Value::as_str);
    let wish = Wish {
        prompt: text("prompt").unwrap_or_default(),
        seed: at(&object, "seed").and_then(Value::as_u64),
        ..Wish::default()
    };
    let recipes = studio::recipes(x, &model, &order, &wish);
    let (job, pictures) = studio::work(x, &model, recipes).await?;
    let inline = text("response_format") == Some("base64");
    let data: Vec<Value> = pictures
        .iter()
        .enumerate()
        .map(|(index, picture)| {
            if inline {
                json!({"index": index, "type": "b64_json", "b64_json": STANDARD.encode(picture)})
            } else {
                json!({"index": index, "type": "url", "url": files::url(x, &job, index)})
            }
        })
        .collect();
    Ok(reply(200, &json!({"id": job.id, "model": model, "object": "list", "data": data})))
}

/// A refusal in Together's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let invalid = "invalid_request_error";
    let error =
        |status: u16, kind: &str, code: Option<&str>, param: Option<&str>, message: &str| {
            let error = json!({"message": message, "type": kind, "param": param, "code": code});
            reply(status, &json!({"id": uuid::Uuid::new_v4().to_string(), "error": error}))
        };
    match problem {
        Problem::NoKey | Problem::WrongKeyForm => {
            error(401, invalid, Some("missing_api_key"), None, "Missing API key")
        }
        Problem::BadKey => error(
            401,
            invalid,
            Some("invalid_api_key"),
            None,
            "Invalid API key provided. You can find your API key at https://api.together.ai/settings/api-keys.",
        ),
        Problem::NoCredit => error(
            402,
            "credit_limit",
            None,
            None,
            "Credit limit exceeded, please add credits to your account",
        ),
        Problem::RateLimited(wait) => {
            let message =
                "You have reached the rate limit specific to this model. Please retry later.";
            let response = error(429, "model_rate_limit", None, None, message);
            let response = with(response, "retry-after", wait);
            let response = with(response, "x-ratelimit-limit", 10);
            with(response, "x-ratelimit-remaining", 0)
        }
        Problem::Internal => error(500, "server_error", None, None, "Internal server error"),
        Problem::Unavailable => error(
            503,
            "service_unavailable",
            None,
            None,
            "The server is overloaded or not ready yet.",
        ),
        Problem::Moderated => error(
            422,
            invalid,
            Some("nsfw_content"),
            Some("prompt"),
            "The prompt may contain NSFW content. Please try again with a different prompt.",
        ),
        Problem::NoModel(model) | Problem::Retired(model) => error(
            404,
            invalid,
            Some("model_not_available"),
            Some("model"),
            &format!(
                "Unable to access model {model}. Please visit https://api.together.ai/models to view the list of supported models."
            ),
        ),
        Problem::NoRoute(path) | Problem::NoJob(path) => {
            error(404, invalid, None, None, &format!("Invalid URL: {path}"))
        }
        Problem::Method(_) => error(405, invalid, None, None, "Method not allowed"),
        Problem::MediaType(_) | Problem::Malformed => error(
            400,
            invalid,
            Some("invalid_json"),
            None,
            "Request body must be valid JSON with content type application/json",
        ),
        Problem::Fields(violations) => {
            let Some(first) = violations.first() else { return refuse(&Problem::Internal) };
            let (message, code) = openai::wording(first);
            error(400, invalid, Some(code), Some(&first.dotted()), &message)
        }
        Problem::Rule(words) => error(400, invalid, None, None, words),
    }
}
