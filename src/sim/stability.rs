//! Stability AI: `POST /stability/v2beta/stable-image/generate/{ultra|core|sd3}`, multipart in,
//! bytes or JSON out, one picture.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    data::{VendorData, at},
    draw::Veil,
    exchange::{Exchange, Problem, bytes, check_key, json as reply, with},
    form, schema,
    studio::{self, Wish},
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let route = x.segments();
    let product = match route.as_slice() {
        ["v2beta", "stable-image", "generate", product @ ("ultra" | "core" | "sd3")] => *product,
        _ => return Err(Problem::NoRoute(x.joined())),
    };
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    check_key(x.authorization("bearer"))?;
    let as_json = match x.header("accept").split(';').next().unwrap_or_default().trim() {
        "application/json" => true,
        "" | "*/*" | "image/*" => false,
        _ => {
            return Err(Problem::Rule(
                "accept: must be one of image/*, application/json".to_owned(),
            ));
        }
    };
    let texts = fields(x)?;
    let model = match product {
        "sd3" => {
            let named = texts.iter().find(|(name, _)| name == "model");
            named.map_or("sd3.5-large", |(_, model)| model.as_str()).to_owned()
        }
        other => format!("stable-image-{other}"),
    };
    // A model nobody knows is a wrong value of its field, so any of the product's will do.
    let data = VendorData::of(x.vendor);
    let family = data
        .model(&model)
        .filter(|family| family.word("endpoint") == product)
        .or_else(|| data.model("sd3.5-large"))
        .ok_or_else(|| Problem::NoModel(model.clone()))?;
    let object = schema::typed(&family.fields, texts);
    let order = family.order(&object).map_err(Problem::Fields)?;
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    let filtered = x.moderated().is_some();
    let wish = Wish {
        prompt: at(&object, "prompt").and_then(Value::as_str).unwrap_or_default(),
        // Zero asks for a random seed.
        seed: at(&object, "seed").and_then(Value::as_u64).filter(|seed| *seed > 0),
        veil: if filtered { Veil::Blurred } else { Veil::Clear },
        ..Wish::default()
    };
    let recipes = studio::recipes(x, &model, &order, &wish);
    let (job, pictures) = studio::work(x, &model, recipes.clone()).await?;
    let (Some(recipe), Some(picture)) = (recipes.first(), pictures.into_iter().next()) else {
        return Err(Problem::Internal);
    };
    let reason = if filtered { "CONTENT_FILTERED" } else { "SUCCESS" };
    let seed = recipe.scene.seed;
    let response = if as_json {
        let body =
            json!({"image": STANDARD.encode(&picture), "finish_reason": reason, "seed": seed});
        reply(200, &body)
    } else {
        let response = bytes(StatusCode::OK, recipe.mime(), picture);
        with(with(response, "finish-reason", reason), "seed", seed)
    };
    Ok(with(response, "x-request-id", job.id.replace('-', "")))
}

/// The form's texts. The empty file `none` that the vendor's own samples send is no field.
fn fields(x: &Exchange) -> Result<Vec<(String, String)>, Problem> {
    if x.media_type() != "multipart/form-data" {
        return Err(Problem::MediaType(x.media_type()));
    }
    let parts = form::parse(x.header("content-type"), &x.body)
        .map_err(|words| Problem::Rule(format!("body: {words}")))?;
    let mut texts = Vec::new();
    for part in parts {
        if part.file.is_some() {
            if part.content.is_empty() && part.name == "none" {
                continue;
            }
            return Err(Problem::Rule(format!("{}: is an unexpected file", part.name)));
        }
        let text = String::from_utf8(part.content.to_vec())
            .map_err(|_| Problem::Rule(format!("{}: must be text", part.name)))?;
        texts.push((part.name, text));
    }
    Ok(texts)
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let error = |status: u16, name: &str, errors: &[String]| {
        let mut body = Map::new();
        body.insert("id".to_owned(), uuid::Uuid::new_v4().simple().to_string().into());
        body.insert("name".to_owned(), name.into());
        body.insert("errors".to_owned(), errors.into());
        reply(status, &Value::Object(body))
    };
    let one = |status: u16, name: &str, words: &str| error(status, name, &[words.to_owned()]);
    match problem {
        Problem::NoKey | Problem::WrongKeyForm => {
            one(401, "unauthorized", "authorization: is required")
        }
        Problem::BadKey => {
            one(401, "unauthorized", "authorization: invalid or missing header value")
        }
        Problem::NoCredit => one(
            402,
            "payment_required",
            "You lack sufficient credits to make this request. Please purchase more credits at https://platform.stability.ai/account/credits and try again.",
        ),
        Problem::RateLimited(_) => one(
            429,
            "rate_limit_exceeded",
            "You have exceeded the rate limit of 150 requests within a 10 second period, and have been timed out for 60 seconds.",
        ),
        Problem::Internal => one(
            500,
            "internal_error",
            "An unexpected server error has occurred, please try again later.",
        ),
        Problem::Unavailable => one(
            503,
            "service_unavailable",
            "The service is temporarily unavailable, please try again later.",
        ),
        Problem::Moderated => one(
            403,
            "content_moderation",
            "Your request was flagged by our content moderation system, as a result your request was denied and you were not charged.",
        ),
        Problem::MediaType(_) | Problem::Malformed => {
            one(400, "bad_request", "content-type: must be multipart/form-data")
        }
        Problem::NoRoute(_) | Problem::NoModel(_) | Problem::NoJob(_) | Problem::Retired(_) => {
            one(404, "not_found", "The requested resource was not found")
        }
        Problem::Method(_) => one(405, "method_not_allowed", "The method is not allowed"),
        Problem::Rule(words) => one(400, "bad_request", words),
        Problem::Fields(violations) => {
            let errors: Vec<String> =
                violations.iter().map(|v| format!("{}: {}", v.dotted(), v.words())).collect();
            error(400, "bad_request", &errors)
        }
    }
}
