//! Stability AI: `POST /stability/v2beta/stable-image/{generate|edit|control|upscale}/...`,
//! multipart in, bytes or JSON out, one picture. A few answer with an id, to be asked for.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    data::{VendorData, at},
    draw::Veil,
    encode::Recipe,
    exchange::{Exchange, Problem, bytes, check_key, json as reply, with},
    form::{self, Part},
    given,
    jobs::{Job, State},
    schema,
    studio::{self, Wish},
    vendor::Stage,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let route = x.segments();
    if let ("GET", ["v2beta", "results", id]) = (x.method.as_str(), route.as_slice()) {
        check_key(x.authorization("bearer"))?;
        return result(x, id).await;
    }
    let data = VendorData::of(x.vendor);
    let (kind, product) = match route.as_slice() {
        ["v2beta", "stable-image", kind @ "generate", product @ ("ultra" | "core" | "sd3")] => {
            (*kind, *product)
        }
        ["v2beta", "stable-image", kind, product]
            if data.model(product).is_some_and(|family| family.word("endpoint") == *kind) =>
        {
            (*kind, *product)
        }
        _ => return Err(Problem::NoRoute(x.joined())),
    };
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    check_key(x.authorization("bearer"))?;
    let as_json = wants_json(x)?;
    let parts = parts(x)?;
    let said = |field: &str| {
        let part = parts.iter().find(|part| part.name == field && part.file.is_none());
        part.map(|part| String::from_utf8_lossy(part.content).into_owned())
    };
    let model = match product {
        "sd3" => said("model").unwrap_or_else(|| "sd3.5-large".to_owned()),
        other if kind == "generate" => format!("stable-image-{other}"),
        other => other.to_owned(),
    };
    // A model nobody knows is a wrong value of its field, so any of the product's will do.
    let from_picture = match product {
        "sd3" => said("mode").is_some_and(|mode| mode == "image-to-image"),
        _ => parts.iter().any(|part| part.file.is_some()),
    };
    let family_of = |id: &str| if from_picture { data.worker(id) } else { data.model(id) };
    let endpoint = if kind == "generate" { product } else { kind };
    let family = family_of(&model)
        .or_else(|| data.model(&model))
        .filter(|family| family.word("endpoint") == endpoint)
        .or_else(|| family_of("sd3.5-large"))
        .ok_or_else(|| Problem::NoModel(model.clone()))?;
    let (texts, raws) = given::sort(family.pictures.as_ref(), &parts).map_err(Problem::Fields)?;
    let object = schema::typed(&family.fields, texts);
    let order = family.order_with(&object, raws).map_err(Problem::Fields)?;
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
    if family.extra.get("later").is_some() {
        let job = studio::take(x, &model, Value::Null, Ok(recipes), None).await;
        return Ok(reply(200, &json!({"id": job.id})));
    }
    let (job, pictures) = studio::work(x, &model, recipes.clone()).await?;
    let (Some(recipe), Some(picture)) = (recipes.first(), pictures.into_iter().next()) else {
        return Err(Problem::Internal);
    };
    Ok(drawn(&job, recipe, picture, as_json))
}

/// The picture, or the JSON around it.
fn drawn(job: &Job, recipe: &Recipe, picture: Bytes, as_json: bool) -> Response {
    let filtered = recipe.scene.veil != Veil::Clear;
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
    with(response, "x-request-id", job.id.replace('-', ""))
}

/// The result of a job, once it is there.
async fn result(x: &Exchange, id: &str) -> Result<Response, Problem> {
    let as_json = wants_json(x)?;
    let job = x.sim.jobs.get(x.vendor, id).ok_or_else(|| Problem::NoJob(id.to_owned()))?;
    x.sim.jobs.polled(&job.id);
    if !matches!(job.state(), State::Done) {
        return Ok(reply(202, &json!({"id": job.id, "status": "in-progress"})));
    }
    let recipe = job.work.clone()?.into_iter().next().ok_or(Problem::Internal)?;
    let picture = x.sim.gallery.picture(&recipe).await.map_err(|_| Problem::Internal)?;
    x.sim.jobs.notice(&job.id);
    Ok(drawn(&job, &recipe, picture, as_json))
}

fn wants_json(x: &Exchange) -> Result<bool, Problem> {
    match x.header("accept").split(';').next().unwrap_or_default().trim() {
        "application/json" => Ok(true),
        "" | "*/*" | "image/*" => Ok(false),
        _ => Err(Problem::Rule("accept: must be one of image/*, application/json".to_owned())),
    }
}

/// Which request it is, and of which job.
pub(crate) fn place(x: &Exchange) -> (Stage, Option<String>) {
    match (x.method.as_str(), x.segments().as_slice()) {
        ("GET", ["v2beta", "results", id]) => (Stage::Poll, Some((*id).to_owned())),
        ("POST", _) => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// The form's parts. The empty file `none` that the vendor's own samples send is no field.
fn parts(x: &Exchange) -> Result<Vec<Part<'_>>, Problem> {
    if x.media_type() != "multipart/form-data" {
        return Err(Problem::MediaType(x.media_type()));
    }
    let parts = form::parse(x.header("content-type"), &x.body)
        .map_err(|words| Problem::Rule(format!("body: {words}")))?;
    let empty =
        |part: &Part<'_>| part.file.is_some() && part.content.is_empty() && part.name == "none";
    Ok(parts.into_iter().filter(|part| !empty(part)).collect())
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
