//! Luma's Dream Machine: generations asked after by their id, or held for with `sync`.

use std::time::Duration;

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    commission::{Told, asked, commission, gate, hook, stamp, text},
    exchange::{Exchange, Problem, bytes, check_key, json as reply},
    files,
    jobs::{Job, State},
    studio,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    match x.segments().as_slice() {
        ["dream-machine", "v1", "generations", "image"] => submit(x).await,
        ["dream-machine", "v1", "generations", id] => {
            check_key(x.authorization("bearer"))?;
            let job = asked(x, id)?;
            match x.method {
                Method::GET => Ok(reply(200, &generation(x, &job))),
                Method::DELETE => {
                    x.sim.jobs.cancel(id);
                    Ok(bytes(StatusCode::NO_CONTENT, "application/json", ""))
                }
                _ => Err(Problem::Method(x.joined())),
            }
        }
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

async fn submit(x: &Exchange) -> Result<Response, Problem> {
    gate(x, true)?;
    let object = x.json()?;
    let model = text(&object, "model").to_owned();
    let wanted = commission(x, &model, &object)?;
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    let hook = hook(&object, "callback_url")?;
    let held = object.get("sync") == Some(&Value::Bool(true));
    let most = object.get("sync_timeout").and_then(Value::as_f64).unwrap_or(60.0);
    let job = studio::take(x, &model, object.into(), wanted.outcome(x), hook).await;
    if held {
        let patience = Duration::try_from_secs_f64(most).unwrap_or_default();
        sleep_until(job.ends().min(Instant::now() + patience)).await;
    }
    Ok(reply(201, &generation(x, &job)))
}

/// The whole of a generation: the answer to every request, and what is pushed.
pub(crate) fn generation(x: &Exchange, job: &Job) -> Value {
    let (state, reason) = match (job.state(), &job.work) {
        (State::Queued, _) => ("queued", None),
        (State::Running, _) => ("dreaming", None),
        (_, Ok(_)) => ("completed", None),
        (_, Err(Problem::Moderated)) => ("failed", Some("Output moderated")),
        (_, Err(_)) => ("failed", Some("Generation failed")),
    };
    let assets = match state {
        "completed" => {
            json!({"video": null, "image": files::url(x, job, 0), "progress_video": null})
        }
        _ => Value::Null,
    };
    let mut request = job.request.clone();
    request["generation_type"] = "image".into();
    if request.get("callback_url").is_none() {
        request["callback_url"] = Value::Null;
    }
    json!({
        "id": job.id,
        "generation_type": "image",
        "state": state,
        "failure_reason": reason,
        "created_at": stamp(x, job.created),
        "assets": assets,
        "model": job.model,
        "request": request,
    })
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, words) = match problem {
        Problem::NoKey | Problem::WrongKeyForm => (403, "Not authenticated"),
        Problem::BadKey => (403, "Invalid API key"),
        Problem::NoCredit => (402, "Insufficient credits"),
        Problem::Moderated => (400, "Advanced moderation failed: prompt failed moderation"),
        Problem::NoModel(_) | Problem::Retired(_) => (400, told.words.as_str()),
        Problem::NoJob(_) => (404, "Generation not found"),
        _ => (told.status, told.words.as_str()),
    };
    Told::hinted(problem, reply(status, &json!({"detail": words})))
}
