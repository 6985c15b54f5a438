//! fal: a queue in front of many models. `POST /fal/{endpoint}`, then status and result by the
//! URLs of the reply, whose paths leave out all but the first two segments of the endpoint.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use serde_json::{Map, Value, json};
use tokio::time::sleep_until;

use super::{
    Sim,
    data::{VendorData, at},
    draw::Veil,
    encode::Recipe,
    exchange::{Exchange, Problem, check_key, json as reply, with},
    faults::Kind,
    files,
    hooks::{self, Hook},
    jobs::{Job, State},
    picture::Flaw,
    schema::{Violation, Wrong},
    studio::{self, Wish, seconds},
    vendor::{Stage, Vendor},
};

/// Which request it is, and of which job.
pub(crate) fn place(x: &Exchange) -> (Stage, Option<String>) {
    match (x.method.as_str(), x.segments().as_slice()) {
        ("GET", [_, _, "requests", id]) => (Stage::Result, Some((*id).to_owned())),
        ("GET", [_, _, "requests", id, "status"] | [_, _, "requests", id, "status", "stream"]) => {
            (Stage::Poll, Some((*id).to_owned()))
        }
        ("PUT", [_, _, "requests", id, "cancel"]) => (Stage::Other, Some((*id).to_owned())),
        ("POST", _) => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    if x.method == http::Method::GET && x.segments() == [".well-known", "jwks.json"] {
        return Ok(reply(200, &x.sim.hooks.jwks()));
    }
    check_key(x.authorization("key"))?;
    let route = x.segments();
    match (x.method.as_str(), route.as_slice()) {
        ("POST", [_, _, ..]) if !route.contains(&"requests") => submit(x).await,
        ("GET", [owner, app, "requests", id]) => Ok(result(x, &find(x, owner, app, id)?).await),
        ("GET", [owner, app, "requests", id, "status"]) => {
            let job = find(x, owner, app, id)?;
            x.sim.jobs.polled(&job.id);
            let body =
                status(&x.sim, &x.origin, &job, x.query.get("logs").is_some_and(|l| l == "1"));
            let code = if is_over(&job) { 200 } else { 202 };
            Ok(with(reply(code, &body), "x-fal-request-id", &job.id))
        }
        ("GET", [owner, app, "requests", id, "status", "stream"]) => {
            let job = find(x, owner, app, id)?;
            x.sim.jobs.polled(&job.id);
            Ok(watch(x, &job))
        }
        ("PUT", [owner, app, "requests", id, "cancel"]) => {
            let job = find(x, owner, app, id)?;
            if is_over(&job) {
                return Ok(reply(400, &json!({"status": "ALREADY_COMPLETED"})));
            }
            x.sim.jobs.cancel(&job.id);
            Ok(reply(202, &json!({"status": "CANCELLATION_REQUESTED"})))
        }
        // The sub-path of an endpoint is for submits only.
        (_, [_, _, .., "requests", _] | [_, _, .., "requests", _, "status"]) => {
            Err(Problem::Method(x.joined()))
        }
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

async fn submit(x: &Exchange) -> Result<Response, Problem> {
    let endpoint = x.path.join("/");
    let family = VendorData::of(x.vendor)
        .model(&endpoint)
        .ok_or_else(|| Problem::NoModel(endpoint.clone()))?;
    let hook = hook(x)?;
    // The queue looks at nothing else: what is wrong comes out with the result.
    let request = x.json();
    let work = request.and_then(|object| {
        let order = family.order(&object).map_err(Problem::Fields)?;
        if x.moderated() == Some("") {
            return Err(Problem::Moderated);
        }
        if x.fault(Kind::Failed).is_some() {
            return Err(Problem::Internal);
        }
        let wish = Wish {
            prompt: at(&object, "prompt").and_then(Value::as_str).unwrap_or_default(),
            seed: at(&object, "seed").and_then(Value::as_u64),
            veil: if x.moderated().is_some() { Veil::Black } else { Veil::Clear },
            transparent: at(&object, "background").and_then(Value::as_str) == Some("transparent"),
            quality: None,
        };
        Ok(studio::recipes(x, &endpoint, &order, &wish))
    });
    let request = serde_json::from_slice(&x.body).unwrap_or(Value::Null);
    let job = studio::take(x, &endpoint, request, work, hook).await;
    let mut body = status(&x.sim, &x.origin, &job, false);
    if let Some(object) = body.as_object_mut() {
        object.remove("logs");
    }
    Ok(with(reply(200, &body), "x-fal-request-id", &job.id))
}

/// Where the end of the job is to be pushed.
fn hook(x: &Exchange) -> Result<Option<Hook>, Problem> {
    let refuse = |field: &str, words: &str| {
        let given = Value::from(x.query.get(field).map(String::as_str));
        Problem::Fields(vec![Violation::rule(field, &given, words)])
    };
    if let Some(odd) = x.query.keys().find(|name| *name != "fal_webhook") {
        return Err(refuse(odd, "is not a known field"));
    }
    let wanted = x.query.get("fal_webhook").map(|url| Hook::at(url));
    wanted.map(|hook| hook.ok_or_else(|| refuse("fal_webhook", "is not a URL"))).transpose()
}

/// What is pushed when a job is over: the result, or its refusal, in an envelope.
pub(crate) async fn push(x: &Exchange, job: &Job) -> Value {
    let (status, payload) = hooks::read(result(x, job).await).await;
    let mut body = json!({
        "request_id": job.id, "gateway_request_id": job.id, "status": "OK", "payload": payload,
    });
    if status >= 300 {
        body["status"] = "ERROR".into();
        body["error"] = format!("Invalid status code: {status}").into();
    }
    body
}

/// The job, if it is known under this owner and application.
fn find(x: &Exchange, owner: &str, app: &str, id: &str) -> Result<Job, Problem> {
    let unknown = || Problem::NoJob(id.to_owned());
    let job = x.sim.jobs.get(x.vendor, id).ok_or_else(unknown)?;
    let lost = job.fault.as_ref().is_some_and(|fault| fault.kind == Kind::Lost);
    if lost || home(&job) != format!("{owner}/{app}") {
        return Err(unknown());
    }
    Ok(job)
}

/// The first two segments of the endpoint.
fn home(job: &Job) -> String {
    job.model.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")
}

fn is_over(job: &Job) -> bool {
    matches!(job.state(), State::Done | State::Cancelled)
}

/// The status object; notes that a finished job was seen.
fn status(sim: &Sim, origin: &str, job: &Job, logs: bool) -> Value {
    let url = format!("{origin}/fal/{}/requests/{}", home(job), job.id);
    let mut body = json!({
        "status": "IN_QUEUE",
        "request_id": job.id,
        "response_url": url,
        "status_url": format!("{url}/status"),
        "cancel_url": format!("{url}/cancel"),
        "logs": null,
    });
    let log = |message: &str| json!([{"message": message, "level": "INFO", "source": "USER"}]);
    match job.state() {
        State::Queued => body["queue_position"] = json!(0),
        State::Running => {
            body["status"] = json!("IN_PROGRESS");
            if logs {
                body["logs"] = log(&format!("{:.0}%", job.progress() * 100.0));
            }
        }
        State::Done | State::Cancelled => {
            sim.jobs.notice(&job.id);
            body["status"] = json!("COMPLETED");
            body["metrics"] = json!({"inference_time": seconds(job.run)});
            if logs {
                body["logs"] = log("100%");
            }
        }
    }
    body
}

/// Server-sent events: the status at once and at each change, until it is over.
fn watch(x: &Exchange, job: &Job) -> Response {
    let (sim, origin) = (Arc::clone(&x.sim), x.origin.clone());
    let id = job.id.clone();
    let events = stream::unfold(Some(None), move |last: Option<Option<State>>| {
        let (sim, origin, id) = (Arc::clone(&sim), origin.clone(), id.clone());
        async move {
            let last = last?;
            let mut job = sim.jobs.get(Vendor::Fal, &id)?;
            match last {
                None => {}
                Some(State::Queued) => sleep_until(job.starts()).await,
                Some(_) => sleep_until(job.ends()).await,
            }
            job = sim.jobs.get(Vendor::Fal, &id).unwrap_or(job);
            let event = format!("data: {}\n\n", status(&sim, &origin, &job, false));
            let next = (!is_over(&job)).then_some(Some(job.state()));
            Some((Ok::<_, std::io::Error>(Bytes::from(event)), next))
        }
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

async fn result(x: &Exchange, job: &Job) -> Response {
    match job.state() {
        State::Queued | State::Running => {
            return reply(400, &json!({"detail": "Request is still in progress"}));
        }
        State::Cancelled => return reply(400, &json!({"detail": "Request was cancelled"})),
        State::Done => x.sim.jobs.notice(&job.id),
    }
    if let (Err(_), Some("infra")) =
        (&job.work, job.fault.as_ref().and_then(|f| f.value.as_deref()))
    {
        let body = json!({"detail": "Runner disconnected", "error_type": "runner_disconnected"});
        return with(reply(503, &body), "x-fal-error-type", "runner_disconnected");
    }
    let recipes = match &job.work {
        Ok(recipes) => recipes,
        Err(problem) => return failed(problem, &job.request),
    };
    let mut images = Vec::new();
    for (index, recipe) in recipes.iter().enumerate() {
        images.push(image(x, job, index, recipe).await);
    }
    let first = recipes.first();
    let family = VendorData::of(x.vendor).model(&job.model);
    let body = match family.map_or("", |family| family.word("reply")) {
        "seeded" => {
            json!({"images": images, "seed": first.map(|recipe| recipe.scene.seed)})
        }
        "described" => json!({"images": images, "description": ""}),
        "plain" => json!({"images": images}),
        "image" => json!({
            "image": images.into_iter().next(),
            "seed": first.map(|recipe| recipe.scene.seed),
        }),
        _ => json!({
            "images": images,
            "timings": {"inference": seconds(job.run)},
            "seed": first.map(|recipe| recipe.scene.seed),
            "has_nsfw_concepts":
                recipes.iter().map(|r| r.scene.veil == Veil::Black).collect::<Vec<_>>(),
            "prompt": first.map(|recipe| recipe.scene.prompt.clone()),
        }),
    };
    with(reply(200, &body), "x-fal-request-id", &job.id)
}

async fn image(x: &Exchange, job: &Job, index: usize, recipe: &Recipe) -> Value {
    let url = if job.request.get("sync_mode") == Some(&Value::Bool(true)) {
        match x.sim.gallery.picture(recipe).await {
            Ok(bytes) => format!("data:{};base64,{}", recipe.mime(), STANDARD.encode(bytes)),
            Err(_) => String::new(),
        }
    } else {
        files::url(x, job, index)
    };
    json!({
        "url": url,
        "content_type": recipe.format.mime(),
        "file_name": format!("{index}.{}", recipe.format.extension()),
        "file_size": x.sim.gallery.weight(recipe),
        "width": recipe.scene.size.width,
        "height": recipe.scene.size.height,
    })
}

/// A model's error: a list of what is wrong.
fn failed(problem: &Problem, request: &Value) -> Response {
    let detail = |loc: Value, kind: &str, message: &str, input: Value| {
        json!({
            "loc": loc, "msg": message, "type": kind,
            "url": format!("https://docs.fal.ai/errors#{kind}"), "ctx": {}, "input": input,
        })
    };
    let (status, list) = match problem {
        Problem::Fields(violations) => {
            let list = violations.iter().map(|v| invalid(v, &detail)).collect();
            (422, list)
        }
        Problem::Moderated => {
            let message = "The content could not be processed because it contained material flagged by a content checker.";
            let list = vec![detail(
                json!(["body", "prompt"]),
                "content_policy_violation",
                message,
                json!({"prompt": request.get("prompt")}),
            )];
            (422, list)
        }
        Problem::MediaType(_) | Problem::Malformed => {
            let message = "Input should be a valid dictionary or object to extract fields from";
            (422, vec![detail(json!(["body"]), "model_attributes_type", message, Value::Null)])
        }
        _ => {
            let list = vec![detail(
                json!(["body"]),
                "internal_server_error",
                "Internal server error",
                json!({}),
            )];
            (500, list)
        }
    };
    let retryable = status >= 500;
    with(reply(status, &json!({"detail": list})), "x-fal-retryable", retryable)
}

/// A field's fault in the words of the validator that fal uses.
fn invalid(violation: &Violation, detail: &impl Fn(Value, &str, &str, Value) -> Value) -> Value {
    let mut loc: Vec<Value> = vec!["body".into()];
    loc.extend(
        violation.path.iter().map(|part| {
            part.parse::<u64>().map_or_else(|_| Value::from(part.as_str()), Value::from)
        }),
    );
    let (kind, message) = validator_words(violation);
    detail(loc.into(), kind, &message, violation.given.clone())
}

/// Type and message of a violation as pydantic words them; BFL uses the same validator.
pub(crate) fn validator_words(violation: &Violation) -> (&'static str, String) {
    match &violation.wrong {
        Wrong::Unknown => ("extra_forbidden", "Extra inputs are not permitted".to_owned()),
        Wrong::Missing => ("missing", "Field required".to_owned()),
        Wrong::Type(kind) => {
            use super::schema::Kind as K;
            let (word, message) = match kind {
                K::String => ("string_type", "Input should be a valid string"),
                K::Integer => ("int_type", "Input should be a valid integer"),
                K::Number => ("float_type", "Input should be a valid number"),
                K::Boolean => ("bool_type", "Input should be a valid boolean"),
                K::Array => ("list_type", "Input should be a valid list"),
                K::Object => ("dict_type", "Input should be a valid dictionary"),
            };
            (word, message.to_owned())
        }
        Wrong::Value(values) => {
            let quoted: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
            ("literal_error", format!("Input should be {}", quoted.join(" or ")))
        }
        Wrong::Below(least) => {
            ("greater_than_equal", format!("Input should be greater than or equal to {least}"))
        }
        Wrong::Above(most) => {
            ("less_than_equal", format!("Input should be less than or equal to {most}"))
        }
        Wrong::Short(least) => {
            ("string_too_short", format!("String should have at least {least} characters"))
        }
        Wrong::Long(most) => {
            ("string_too_long", format!("String should have at most {most} characters"))
        }
        Wrong::Picture(flaw) => {
            let kind = match flaw {
                Flaw::Spelling | Flaw::Download => "file_download_error",
                Flaw::Unreadable => "image_load_error",
                Flaw::Format(_) => "unsupported_image_format",
                Flaw::Heavy(_) => "file_too_large",
                Flaw::Large(_) => "image_too_large",
                Flaw::Small(_) => "image_too_small",
                Flaw::MaskSize(..) | Flaw::MaskAlpha | Flaw::MaskGrey | Flaw::MaskAlone => {
                    "value_error"
                }
            };
            (kind, format!("The image {}", flaw.words()))
        }
        Wrong::Rule(words) => ("value_error", format!("Value error, {words}")),
    }
}

/// A refusal of the queue itself.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let detail = |status: u16, words: &str| reply(status, &json!({"detail": words}));
    match problem {
        Problem::NoKey | Problem::WrongKeyForm => {
            detail(401, "Authentication is required to access this application.")
        }
        Problem::BadKey => detail(401, "Invalid authentication credentials"),
        Problem::NoCredit => detail(
            403,
            "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.",
        ),
        Problem::RateLimited(wait) => with(detail(429, "Too many requests"), "retry-after", wait),
        Problem::Internal => detail(500, "Internal Server Error"),
        Problem::Unavailable => {
            let body = json!({"detail": "Failed to schedule a runner", "error_type": "runner_scheduling_failure"});
            with(reply(503, &body), "x-fal-error-type", "runner_scheduling_failure")
        }
        Problem::NoModel(endpoint) | Problem::Retired(endpoint) => {
            let mut parts = endpoint.splitn(3, '/');
            let _owner = parts.next();
            detail(404, &format!("Application \"{}\" not found", parts.next().unwrap_or(endpoint)))
        }
        Problem::NoRoute(path) => detail(404, &format!("Path {path} not found")),
        Problem::NoJob(_) => detail(404, "Request not found"),
        Problem::Method(_) => detail(405, "Method Not Allowed"),
        other => failed(other, &Value::Object(Map::new())),
    }
}
