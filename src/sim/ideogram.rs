//! Ideogram: forms in, addresses out. Version 4 has an asynchronous twin.

use axum::response::Response;
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    commission::{Told, asked, commission, stamp, text},
    data::VendorData,
    exchange::{Exchange, Problem, check_key, json as reply},
    files, form,
    jobs::{Job, State},
    schema, studio,
};

/// Fields that hold pictures to draw after, which leave no trace here.
const FILES: [&str; 2] = ["style_reference_images", "character_reference_images"];

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    check_key(Some(x.header("api-key")))?;
    let path = x.segments();
    let (model, later) = match path.as_slice() {
        ["v1", "generations", id] if x.method == Method::GET => {
            return Ok(reply(200, &generation(x, &asked(x, id)?)));
        }
        ["v1", "ideogram-v4", "generate"] => ("ideogram-v4", false),
        ["v1", "ideogram-v4", "async", "generate"] => ("ideogram-v4", true),
        ["v1", "ideogram-v3", "generate"] => ("ideogram-v3/generate", false),
        ["v1", "ideogram-v3", "generate-transparent"] => {
            ("ideogram-v3/generate-transparent", false)
        }
        _ => return Err(Problem::NoRoute(x.joined())),
    };
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    let object = read(x, model)?;
    let wanted = commission(x, model, &object)?;
    combinations(&object, model)?;
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    let style = Some(text(&object, "style_type")).filter(|style| !style.is_empty());
    let mut request = json!({"resolution": wanted.order.size.to_string()});
    if model != "ideogram-v4" {
        request["style_type"] = style.unwrap_or("GENERAL").into();
    }
    let job = studio::take(x, model, request, wanted.outcome(x), None).await;
    if later {
        return Ok(reply(200, &json!({"generation_id": job.id})));
    }
    tokio::time::sleep_until(job.ends()).await;
    x.sim.jobs.notice(&job.id);
    match &job.work {
        Ok(_) | Err(Problem::Moderated) => Ok(reply(200, &finished(x, &job))),
        Err(problem) => Err(problem.clone()),
    }
}

/// The form, with every field in the type of its model's.
fn read(x: &Exchange, model: &str) -> Result<Map<String, Value>, Problem> {
    if x.media_type() != "multipart/form-data" {
        return Err(Problem::MediaType(x.media_type()));
    }
    let parts = form::parse(x.header("content-type"), &x.body)
        .map_err(|words| Problem::Rule(format!("body: {words}")))?;
    let mut texts = Vec::new();
    for part in parts {
        if part.file.is_some() {
            if !FILES.contains(&part.name.as_str()) {
                return Err(Problem::Rule(format!("{}: is an unexpected file", part.name)));
            }
            continue;
        }
        let text = String::from_utf8(part.content.to_vec())
            .map_err(|_| Problem::Rule(format!("{}: must be text", part.name)))?;
        texts.push((part.name, text));
    }
    let family = VendorData::of(x.vendor).model(model);
    let family = family.ok_or_else(|| Problem::NoModel(model.to_owned()))?;
    Ok(schema::typed(&family.fields, texts))
}

/// Fields that exclude each other.
fn combinations(object: &Map<String, Value>, model: &str) -> Result<(), Problem> {
    let both = |one: &str, two: &str| object.contains_key(one) && object.contains_key(two);
    let rule = |words: &str| Err(Problem::Rule(words.to_owned()));
    if both("resolution", "aspect_ratio") {
        return rule("resolution cannot be used with aspect_ratio");
    }
    if both("style_codes", "style_type") {
        return rule("style_codes cannot be used with style_type");
    }
    let prompts = ["text_prompt", "json_prompt"].iter().filter(|f| object.contains_key(**f));
    if model == "ideogram-v4" && prompts.count() != 1 {
        return rule("exactly one of text_prompt and json_prompt must be given");
    }
    Ok(())
}

/// The pictures of a job that is over.
fn finished(x: &Exchange, job: &Job) -> Value {
    let item = |url: Option<String>, seed: u64| {
        let mut item = job.request.clone();
        item["is_image_safe"] = url.is_some().into();
        item["url"] = url.into();
        item["prompt"] = job.prompt.as_str().into();
        item["seed"] = seed.into();
        item
    };
    let data: Vec<Value> = match &job.work {
        Ok(recipes) => recipes
            .iter()
            .enumerate()
            .map(|(index, recipe)| item(Some(files::url(x, job, index)), recipe.scene.seed))
            .collect(),
        Err(_) => vec![item(None, 0)],
    };
    json!({"created": stamp(x, job.created), "data": data})
}

/// The answer to a poll.
fn generation(x: &Exchange, job: &Job) -> Value {
    let mut body = json!({"generation_id": job.id, "status": "pending"});
    match (job.state(), &job.work) {
        (State::Queued | State::Running, _) => {}
        (_, Ok(_) | Err(Problem::Moderated)) => {
            body = finished(x, job);
            body["generation_id"] = job.id.as_str().into();
            body["status"] = "completed".into();
        }
        (_, Err(_)) => {
            body["status"] = "failed".into();
            body["error"] = "The generation failed".into();
        }
    }
    body
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, words) = match problem {
        Problem::Moderated => (422, "The prompt was refused: it is not safe"),
        _ => (told.status, told.words.as_str()),
    };
    Told::hinted(problem, reply(status, &json!({"error": words})))
}
