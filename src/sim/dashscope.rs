//! Alibaba Model Studio: messages in, addresses out. Qwen and Z-Image answer at once; Wan does so
//! as well, or is a task.

use axum::response::Response;
use http::Method;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    commission::{Told, asked, commission, gate, stamp, text},
    exchange::{Exchange, Problem, check_key, json as reply},
    files,
    jobs::{Job, State},
    studio,
};

const INSPECTED: &str = "Input data may contain inappropriate content.";

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    match x.segments().as_slice() {
        ["api", "v1", "services", "aigc", service, "generation"] => {
            let known = ["multimodal-generation", "image-generation"].contains(service);
            gate(x, known)?;
            submit(x, *service == "image-generation").await
        }
        ["api", "v1", "tasks", id] if x.method == Method::GET => {
            check_key(x.authorization("bearer"))?;
            let output = match asked(x, id) {
                Ok(job) => task(x, &job),
                // A task nobody knows has a state as well.
                Err(_) => json!({"task_id": id, "task_status": "UNKNOWN"}),
            };
            Ok(reply(200, &json!({"request_id": Uuid::new_v4().to_string(), "output": output})))
        }
        ["api", "v1", "tasks", id, "cancel"] if x.method == Method::POST => {
            check_key(x.authorization("bearer"))?;
            if asked(x, id)?.state() != State::Queued {
                return Err(Problem::Rule("the task is no longer pending".to_owned()));
            }
            x.sim.jobs.cancel(id);
            Ok(reply(200, &json!({"request_id": Uuid::new_v4().to_string()})))
        }
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

/// Message and parameters as one object.
pub(crate) fn flat(mut object: Map<String, Value>) -> Map<String, Value> {
    let messages = object.remove("input").unwrap_or_default();
    let parameters = object.remove("parameters").unwrap_or_default();
    let mut pictures = Vec::new();
    let contents = messages.pointer("/messages/0/content").and_then(Value::as_array);
    for (name, value) in contents.into_iter().flatten().filter_map(Value::as_object).flatten() {
        match name.as_str() {
            "text" => {
                object.insert("prompt".to_owned(), value.clone());
            }
            "image" => pictures.push(value.clone()),
            other => {
                object.insert(other.to_owned(), value.clone());
            }
        }
    }
    if !pictures.is_empty() {
        object.insert("image".to_owned(), pictures.into());
    }
    object.extend(parameters.as_object().cloned().unwrap_or_default());
    object
}

async fn submit(x: &Exchange, of_tasks: bool) -> Result<Response, Problem> {
    let object = flat(x.json()?);
    let model = text(&object, "model").to_owned();
    let wanted = commission(x, &model, &object)?;
    let later = x.header("x-dashscope-async") == "enable";
    if later && wanted.family.word("async") == "refused" {
        let words = "current user api does not support asynchronous calls.";
        return Err(Problem::Rule(words.to_owned()));
    }
    if of_tasks && !later {
        let words = "current user api does not support synchronous calls.";
        return Err(Problem::Rule(words.to_owned()));
    }
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    if later {
        let job = studio::take(x, &model, Value::Null, wanted.outcome(x), None).await;
        let output = json!({"task_id": job.id, "task_status": "PENDING"});
        return Ok(reply(
            200,
            &json!({"request_id": Uuid::new_v4().to_string(), "output": output}),
        ));
    }
    if x.moderated().is_some() {
        return Ok(reply(200, &envelope("DataInspectionFailed", INSPECTED)));
    }
    let size = wanted.order.size;
    let (job, pictures) = studio::work(x, &model, wanted.recipes).await?;
    let usage = json!({"image_count": pictures.len(), "width": size.width, "height": size.height});
    let output = json!({"choices": choices(x, &job, pictures.len())});
    Ok(reply(200, &json!({"request_id": job.id, "output": output, "usage": usage})))
}

fn choices(x: &Exchange, job: &Job, count: usize) -> Value {
    let mut content: Vec<Value> =
        (0..count).map(|i| json!({"image": files::url(x, job, i)})).collect();
    // Z-Image tells the prompt it drew.
    if job.model.starts_with("z-image") {
        content.push(json!({"text": job.prompt}));
    }
    let message = json!({"role": "assistant", "content": content, "reasoning_content": ""});
    json!([{"finish_reason": "stop", "message": message}])
}

fn task(x: &Exchange, job: &Job) -> Value {
    let (status, failure) = match (job.state(), &job.work) {
        (State::Queued, _) => ("PENDING", None),
        (State::Running, _) => ("RUNNING", None),
        (State::Cancelled, _) => ("CANCELED", None),
        (State::Done, Ok(_)) => ("SUCCEEDED", None),
        (State::Done, Err(Problem::Moderated)) => {
            ("FAILED", Some(("DataInspectionFailed", INSPECTED)))
        }
        (State::Done, Err(_)) => ("FAILED", Some(("InternalError", "An internal error occurred"))),
    };
    let mut output = json!({
        "task_id": job.id, "task_status": status, "submit_time": stamp(x, job.created),
        "scheduled_time": stamp(x, job.starts()),
    });
    if let (Ok(recipes), "SUCCEEDED") = (&job.work, status) {
        // A choice for every picture, where a call that is held gives one choice of all.
        let choice = |index| {
            let content = [json!({"type": "image", "image": files::url(x, job, index)})];
            json!({"finish_reason": "stop", "message": {"role": "assistant", "content": content}})
        };
        output["choices"] = (0..recipes.len()).map(choice).collect();
        output["finished"] = true.into();
        output["end_time"] = stamp(x, job.ends()).into();
    }
    if let Some((code, words)) = failure {
        output["code"] = code.into();
        output["message"] = words.into();
    }
    output
}

fn envelope(code: &str, words: &str) -> Value {
    json!({"code": code, "message": words, "request_id": Uuid::new_v4().to_string()})
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let (status, code) = match problem {
        Problem::NoKey | Problem::WrongKeyForm | Problem::BadKey => (401, "InvalidApiKey"),
        Problem::NoCredit => (400, "Arrearage"),
        Problem::RateLimited(_) => (429, "Throttling.RateQuota"),
        Problem::Internal => (500, "InternalError"),
        Problem::Unavailable => (503, "ServiceUnavailable"),
        Problem::Moderated => (400, "DataInspectionFailed"),
        Problem::NoModel(_) | Problem::Retired(_) => (404, "ModelNotFound"),
        _ => (told.status, "InvalidParameter"),
    };
    let words = match problem {
        Problem::Moderated => INSPECTED,
        Problem::NoCredit => "Access denied, please make sure your account is in good standing.",
        _ => &told.words,
    };
    Told::hinted(problem, reply(status, &envelope(code, words)))
}
