//! Luma Agents: generations asked after by their id, with codes for what went wrong.

use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::{
    commission::{Told, asked, commission, gate, stamp, text},
    exchange::{Exchange, Problem, check_key, json as reply},
    files,
    jobs::{Job, State},
    studio,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    match x.segments().as_slice() {
        ["v1", "generations"] => {
            gate(x, true)?;
            let object = x.json()?;
            let model = text(&object, "model");
            let wanted = commission(x, model, &object)?;
            let job = studio::take(x, model, Value::Null, wanted.outcome(x), None).await;
            Ok(reply(201, &generation(x, &job)))
        }
        ["v1", "generations", id] => {
            check_key(x.authorization("bearer"))?;
            if x.method != Method::GET {
                return Err(Problem::Method(x.joined()));
            }
            Ok(reply(200, &generation(x, &asked(x, id)?)))
        }
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

fn generation(x: &Exchange, job: &Job) -> Value {
    let (state, failure) = match (job.state(), &job.work) {
        (State::Queued, _) => ("queued", None),
        (State::Running, _) => ("processing", None),
        (_, Ok(_)) => ("completed", None),
        (_, Err(Problem::Moderated)) => {
            ("failed", Some(("content_moderated", "The content was refused by moderation")))
        }
        (_, Err(_)) => ("failed", Some(("generation_failed", "The generation failed"))),
    };
    let output = match state {
        "completed" => vec![json!({"type": "image", "url": files::url(x, job, 0)})],
        _ => Vec::new(),
    };
    json!({
        "id": job.id,
        "type": "image",
        "state": state,
        "model": job.model,
        "created_at": stamp(x, job.created),
        "output": output,
        "failure_reason": failure.map(|(_, words)| words),
        "failure_code": failure.map(|(code, _)| code),
    })
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, words) = match problem {
        Problem::NoJob(_) => (404, "Generation not found"),
        Problem::NoModel(_) | Problem::Retired(_) => (400, told.words.as_str()),
        _ => (told.status, told.words.as_str()),
    };
    Told::hinted(problem, reply(status, &json!({"detail": words})))
}
