//! Runware: one address for all tasks, each named by an id of the client. A task is held for, or
//! acknowledged and asked after by its id.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::sleep_until;
use uuid::Uuid;

use super::{
    commission::{Told, asked, commission, gate, text},
    exchange::{Exchange, Problem, json as reply},
    files,
    jobs::{Job, State},
    schema::Violation,
    studio,
    vendor::Stage,
};

/// Which request it is, and of which job.
pub(crate) fn place(x: &Exchange) -> (Stage, Option<String>) {
    match task(x) {
        Ok(task) if text(&task, "taskType") == "getResponse" => {
            (Stage::Poll, named(x, text(&task, "taskUUID")).map(|job| job.id))
        }
        _ if x.method == Method::POST => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// The one task of a request.
fn task(x: &Exchange) -> Result<Map<String, Value>, Problem> {
    if x.media_type() != "application/json" {
        return Err(Problem::MediaType(x.media_type()));
    }
    match serde_json::from_slice(&x.body) {
        Ok(Value::Array(mut tasks)) if tasks.len() == 1 => match tasks.pop() {
            Some(Value::Object(task)) => Ok(task),
            _ => Err(Problem::Malformed),
        },
        Ok(Value::Array(_)) => {
            Err(Problem::Rule("the simulator takes one task at a time".to_owned()))
        }
        _ => Err(Problem::Malformed),
    }
}

/// The newest job that the client gave a name.
fn named(x: &Exchange, name: &str) -> Option<Job> {
    let jobs = x.sim.jobs.list(x.vendor);
    jobs.into_iter().find(|job| job.request.get("taskUUID").and_then(Value::as_str) == Some(name))
}

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    gate(x, x.segments() == ["v1"])?;
    let task = task(x)?;
    let name = text(&task, "taskUUID").to_owned();
    if text(&task, "taskType") == "getResponse" {
        let job = named(x, &name).and_then(|job| asked(x, &job.id).ok());
        let job = job.ok_or_else(|| Problem::NoJob(name))?;
        return Ok(reply(200, &state(x, &job).await));
    }
    let model = text(&task, "model").to_owned();
    let wanted = commission(x, &model, &task)?;
    if Uuid::parse_str(&name).is_err() {
        let violation = Violation::rule("taskUUID", &name.into(), "must be a UUID");
        return Err(Problem::Fields(vec![violation]));
    }
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    // Dollars of a picture: those of its area.
    let area = wanted.order.size.pixels() as f64 / f64::from(1 << 20);
    let mut request = task.clone();
    let each = wanted.family.number("cost").unwrap_or_default() * area;
    request.insert("cost".to_owned(), each.into());
    let job = studio::take(x, &model, request.into(), wanted.outcome(x), None).await;
    if text(&task, "deliveryMethod") == "async" {
        let acknowledged = json!({"taskType": "imageInference", "taskUUID": name});
        return Ok(reply(200, &json!({"data": [acknowledged]})));
    }
    sleep_until(job.ends()).await;
    x.sim.jobs.notice(&job.id);
    Ok(reply(200, &state(x, &job).await))
}

/// Results and errors of a task.
async fn state(x: &Exchange, job: &Job) -> Value {
    let name = &job.request["taskUUID"];
    if job.state() != State::Done {
        let item = json!({"taskType": "imageInference", "taskUUID": name, "status": "processing"});
        return json!({"data": [item]});
    }
    let recipes = match &job.work {
        Ok(recipes) => recipes,
        Err(problem) => {
            let (code, words) = match problem {
                Problem::Moderated => {
                    ("invalidProviderContent", "The content was flagged by the provider.")
                }
                _ => ("timeoutProvider", "The provider took too long."),
            };
            let mut error = complaint(code, words, None);
            error["taskUUID"] = name.clone();
            error["status"] = "error".into();
            return json!({"errors": [error]});
        }
    };
    let told = |field: &str| job.request.get(field);
    let mut data = Vec::new();
    for (index, recipe) in recipes.iter().enumerate() {
        let mut item = json!({
            "taskType": "imageInference", "taskUUID": name, "status": "success",
            "imageUUID": Uuid::new_v4().to_string(), "seed": recipe.scene.seed,
            "NSFWContent": false,
        });
        if told("includeCost") == Some(&Value::Bool(true)) {
            item["cost"] = job.request["cost"].clone();
        }
        let kind = told("outputType").and_then(Value::as_str).unwrap_or("URL");
        if kind == "URL" {
            item["imageURL"] = files::url(x, job, index).into();
        } else if let Ok(picture) = x.sim.gallery.picture(recipe).await {
            let text = STANDARD.encode(picture);
            match kind {
                "dataURI" => {
                    item["imageDataURI"] = format!("data:{};base64,{text}", recipe.mime()).into();
                }
                _ => item["imageBase64Data"] = text.into(),
            }
        }
        data.push(item);
    }
    json!({"data": data})
}

fn complaint(code: &str, words: &str, field: Option<&str>) -> Value {
    let mut error = json!({
        "code": code,
        "message": words,
        "taskType": "imageInference",
        "documentation": "https://runware.ai/docs/en/errors",
    });
    if let Some(field) = field {
        error["parameter"] = field.into();
    }
    error
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, code, field) = match problem {
        Problem::NoKey | Problem::WrongKeyForm | Problem::BadKey => {
            (401, "invalidApiKey", Some("apiKey"))
        }
        Problem::NoCredit => (402, "insufficientCredits", None),
        Problem::RateLimited(_) => (429, "rateLimitExceeded", None),
        Problem::Internal => (500, "internalServerError", None),
        Problem::Unavailable => (503, "providerOverloaded", None),
        Problem::Moderated => (400, "invalidProviderContent", Some("positivePrompt")),
        Problem::NoModel(_) | Problem::Retired(_) => (400, "invalidModel", Some("model")),
        Problem::NoJob(_) => (400, "taskNotFound", Some("taskUUID")),
        _ => (told.status, "invalidParameter", told.field.as_deref()),
    };
    let mut error = complaint(code, &told.words, field);
    if code == "invalidApiKey" {
        error["taskType"] = "authentication".into();
    }
    Told::hinted(problem, reply(status, &json!({"errors": [error]})))
}
