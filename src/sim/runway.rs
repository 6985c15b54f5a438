//! Runway: tasks asked after by their id. No request without the version of the API.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    commission::{Told, asked, commission, gate, stamp, text},
    exchange::{Exchange, Problem, bytes, check_key, json as reply},
    files,
    jobs::{Job, State},
    studio,
};

const VERSION: &str = "2024-11-06";

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    check_key(x.authorization("bearer"))?;
    if x.header("x-runway-version") != VERSION {
        return Err(Problem::Rule("X-Runway-Version header must be a known version".to_owned()));
    }
    match x.segments().as_slice() {
        ["v1", "text_to_image"] => {
            gate(x, true)?;
            let object = x.json()?;
            let model = text(&object, "model");
            let wanted = commission(x, model, &object)?;
            let job = studio::take(x, model, Value::Null, wanted.outcome(x), None).await;
            Ok(reply(200, &json!({"id": job.id})))
        }
        ["v1", "tasks", id] => match x.method {
            Method::GET => Ok(reply(200, &task(x, &asked(x, id)?))),
            Method::DELETE => {
                asked(x, id)?;
                x.sim.jobs.cancel(id);
                Ok(bytes(StatusCode::NO_CONTENT, "application/json", ""))
            }
            _ => Err(Problem::Method(x.joined())),
        },
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

fn task(x: &Exchange, job: &Job) -> Value {
    let mut body = json!({"id": job.id, "createdAt": stamp(x, job.created)});
    let mut fail = |code: &str, words: &str| {
        body["failureCode"] = code.into();
        body["failure"] = words.into();
        "FAILED"
    };
    let output = job.fault.as_ref().is_some_and(|f| f.value.as_deref() == Some("output"));
    let status = match (job.state(), &job.work) {
        (State::Queued, _) => "PENDING",
        (State::Cancelled, _) => "CANCELLED",
        (State::Running, _) => {
            body["progress"] = ((job.progress() * 100.0).round() / 100.0).into();
            "RUNNING"
        }
        (State::Done, Ok(recipes)) => {
            body["output"] = (0..recipes.len()).map(|i| files::url(x, job, i)).collect();
            "SUCCEEDED"
        }
        (State::Done, Err(Problem::Moderated)) if output => {
            fail("SAFETY.OUTPUT.IMAGE", "The output was refused by content moderation.")
        }
        (State::Done, Err(Problem::Moderated)) => {
            fail("SAFETY.INPUT.TEXT", "The input was refused by content moderation.")
        }
        (State::Done, Err(_)) => {
            fail("INTERNAL.BAD_OUTPUT.CODE01", "An unexpected error occurred.")
        }
    };
    body["status"] = status.into();
    body
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let status = match problem {
        // An account without credits is told so as of any wrong request.
        Problem::NoCredit | Problem::NoModel(_) | Problem::Retired(_) => 400,
        _ => told.status,
    };
    let words = match problem {
        Problem::NoCredit => "You do not have enough credits to run this task.",
        Problem::Fields(_) => "Validation of body failed",
        _ => &told.words,
    };
    let mut body = json!({"error": words});
    if let Problem::Fields(violations) = problem {
        let issue = |v: &super::schema::Violation| json!({"path": v.path, "message": v.words()});
        body["issues"] = violations.iter().map(issue).collect();
    }
    Told::hinted(problem, reply(status, &body))
}
