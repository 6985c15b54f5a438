//! BytePlus ModelArk: OpenAI's route for Seedream, one picture a call, its faults inside a 200.

use axum::response::Response;
use serde_json::{Value, json};

use super::{
    commission::{Told, commission, gate, item, text, withheld},
    exchange::{Exchange, Problem, json as reply},
    studio,
};

const SENSITIVE: &str =
    "The request failed because the output image may contain sensitive information.";

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    gate(x, x.segments() == ["api", "v3", "images", "generations"])?;
    let object = x.json()?;
    let model = text(&object, "model");
    let wanted = commission(x, model, &object)?;
    if object.get("stream") == Some(&Value::Bool(true)) {
        return Err(Problem::Rule("stream: the simulator does not play this stream".to_owned()));
    }
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    let size = wanted.order.size.to_string();
    let mut tokens = wanted.order.size.pixels() / 256;
    let (created, data) = if x.moderated().is_some() {
        withheld(x, model).await;
        tokens = 0;
        let error = json!({"code": "OutputImageSensitiveContentDetected", "message": SENSITIVE});
        (tokio::time::Instant::now(), vec![json!({"error": error})])
    } else {
        let (job, pictures) = studio::work(x, model, wanted.recipes).await?;
        let inline = text(&object, "response_format") == "b64_json";
        let items = pictures.iter().enumerate().map(|(index, picture)| {
            let mut item = item(x, &job, index, picture, inline);
            item["size"] = size.as_str().into();
            item
        });
        (job.created, items.collect())
    };
    let usage = json!({
        "generated_images": u8::from(tokens > 0), "output_tokens": tokens, "total_tokens": tokens,
    });
    let created = x.sim.jobs.clock(created) as u64;
    Ok(reply(200, &json!({"model": model, "created": created, "data": data, "usage": usage})))
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, code, kind) = match problem {
        Problem::NoKey | Problem::WrongKeyForm | Problem::BadKey => {
            (401, "AuthenticationError", "Unauthorized")
        }
        Problem::NoCredit => (403, "AccountOverdueError", "Forbidden"),
        Problem::RateLimited(_) => {
            (429, "RateLimitExceeded.EndpointRPMExceeded", "TooManyRequests")
        }
        Problem::Internal => (500, "InternalServiceError", "InternalServerError"),
        Problem::Unavailable => (503, "ServiceUnavailable", "ServiceUnavailable"),
        Problem::Moderated => (400, "InputTextSensitiveContentDetected", "BadRequest"),
        Problem::NoModel(_) | Problem::Retired(_) => {
            (404, "InvalidEndpointOrModel.NotFound", "NotFound")
        }
        Problem::Fields(list) if list.iter().any(|v| v.wrong == super::schema::Wrong::Missing) => {
            (400, "MissingParameter", "BadRequest")
        }
        _ => (told.status, "InvalidParameter", "BadRequest"),
    };
    let field = told.field.unwrap_or_default();
    let error = json!({"code": code, "message": told.words, "param": field, "type": kind});
    Told::hinted(problem, reply(status, &json!({"error": error})))
}
