//! Black Forest Labs: one path per model, then the `polling_url` of the reply, on a cluster of
//! its own. Any other place to ask answers `Task not found`.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    data::{VendorData, at},
    exchange::{Exchange, Problem, bytes, check_key, json as reply},
    fal::validator_words,
    faults::Kind,
    files,
    hooks::Hook,
    jobs::{Job, State},
    schema::Violation,
    studio::{self, Wish, seconds},
    vendor::Stage,
};

/// The cluster that works on all jobs, as a path behind the vendor's name.
const CLUSTER: &str = "us1";

/// Which request it is, and of which job.
pub(crate) fn place(x: &Exchange) -> (Stage, Option<String>) {
    match (x.method.as_str(), x.segments().as_slice()) {
        ("GET", ["v1", "get_result"] | [_, "v1", "get_result"]) => {
            (Stage::Poll, x.query.get("id").cloned())
        }
        ("POST", _) => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    check_key(Some(x.header("x-key")))?;
    match (x.method.as_str(), x.segments().as_slice()) {
        ("GET", ["v1", "get_result"]) => Ok(not_found(x)),
        ("GET", [cluster, "v1", "get_result"]) => {
            if *cluster != CLUSTER {
                return Err(Problem::NoRoute(x.joined()));
            }
            Ok(poll(x))
        }
        ("POST", ["v1", model @ ..]) if !model.is_empty() => submit(x, &model.join("/")).await,
        (_, ["v1", model]) if VendorData::of(x.vendor).model(model).is_some() => {
            Err(Problem::Method(x.joined()))
        }
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

async fn submit(x: &Exchange, model: &str) -> Result<Response, Problem> {
    let family =
        VendorData::of(x.vendor).model(model).ok_or_else(|| Problem::NoRoute(x.joined()))?;
    let object = x.json()?;
    let order = family.order(&object).map_err(Problem::Fields)?;
    let hook = hook(&object)?;
    let wish = Wish {
        prompt: at(&object, "prompt").and_then(Value::as_str).unwrap_or_default(),
        seed: at(&object, "seed").and_then(Value::as_u64),
        ..Wish::default()
    };
    // A refusal of the content is told when polled, not here.
    let work = match (x.moderated(), x.fault(Kind::Failed)) {
        (Some(_), _) => Err(Problem::Moderated),
        (_, Some(_)) => Err(Problem::Internal),
        _ => Ok(studio::recipes(x, model, &order, &wish)),
    };
    // Credits are counted in hundredths; a megapixel begun is a megapixel.
    let megapixels = order.size.pixels().div_ceil(1 << 20).max(1);
    let first = family.number("cost").unwrap_or_default();
    let more = family.number("more").unwrap_or_default();
    let seen = order.work.as_ref().map_or(0, |work| work.pixels);
    let extra = megapixels - 1 + seen.div_ceil(1 << 20);
    let cost = (first + more * extra as f64) / 100.0;
    let job = studio::take(x, model, Value::Null, work, hook).await;
    let mut body = json!({
        "id": job.id,
        "cost": cost,
        "input_mp": seen as f64 / f64::from(1 << 20),
        "output_mp": order.size.pixels() as f64 / f64::from(1 << 20),
    });
    // Whoever is called back is not told where to ask.
    if let Some(hook) = &job.hook {
        body["status"] = "Pending".into();
        body["webhook_url"] = hook.url.as_str().into();
    } else {
        let url = format!("{}/bfl/{CLUSTER}/v1/get_result?id={}", x.origin, job.id);
        body["polling_url"] = url.into();
    }
    let told = x.fault(Kind::Cost).map(|fault| fault.value.as_deref().unwrap_or("NaN"));
    let told = match told {
        None => return Ok(reply(200, &body)),
        Some("x10") => (cost * 10.0).to_string(),
        Some(text) => text.to_owned(),
    };
    // Not always a value of JSON, so it is put in as text.
    body["cost"] = "@cost".into();
    let text = body.to_string().replace("\"@cost\"", &told);
    Ok(bytes(StatusCode::OK, "application/json", text))
}

/// Where the end of the job is to be pushed, and the secret to sign with.
fn hook(object: &Map<String, Value>) -> Result<Option<Hook>, Problem> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let Some(url) = text("webhook_url") else { return Ok(None) };
    let hook = Hook::at(url).ok_or_else(|| {
        let words = "Input should be a valid URL";
        Problem::Fields(vec![Violation::rule("webhook_url", &url.into(), words)])
    })?;
    Ok(Some(Hook { secret: text("webhook_secret").map(str::to_owned), ..hook }))
}

fn not_found(x: &Exchange) -> Response {
    let id = x.query.get("id").cloned().unwrap_or_default();
    reply(200, &state(&id, "Task not found", None, &Value::Null))
}

/// The answer to a poll, whatever the state.
fn state(id: &str, status: &str, progress: Option<f64>, details: &Value) -> Value {
    json!({
        "id": id, "status": status, "result": null, "progress": progress,
        "details": details, "preview": null,
    })
}

fn poll(x: &Exchange) -> Response {
    let id = x.query.get("id").cloned().unwrap_or_default();
    let Some(job) = x.sim.jobs.get(x.vendor, &id) else { return not_found(x) };
    if job.fault.as_ref().is_some_and(|fault| fault.kind == Kind::Lost) {
        return not_found(x);
    }
    x.sim.jobs.polled(&id);
    let body = match job.state() {
        State::Queued => state(&id, "Pending", None, &Value::Null),
        State::Running => {
            let progress = (job.progress() * 100.0).round() / 100.0;
            state(&id, "Pending", Some(progress), &Value::Null)
        }
        State::Done | State::Cancelled => {
            x.sim.jobs.notice(&id);
            finished(x, &job)
        }
    };
    reply(200, &body)
}

pub(crate) fn finished(x: &Exchange, job: &Job) -> Value {
    let value = job.fault.as_ref().and_then(|fault| fault.value.as_deref());
    let reasons = json!({"Moderation Reasons": ["Violence"]});
    match (&job.work, value) {
        (Ok(recipes), _) => {
            let mut body = state(&job.id, "Ready", Some(1.0), &Value::Null);
            let scene = recipes.first().map(|recipe| &recipe.scene);
            let start = x.sim.jobs.clock(job.starts());
            body["result"] = json!({
                "sample": files::url(x, job, 0),
                "prompt": scene.map(|scene| scene.prompt.clone()),
                "seed": scene.map(|scene| scene.seed),
                "start_time": start,
                "end_time": x.sim.jobs.clock(job.ends()),
                "duration": seconds(job.run),
            });
            body
        }
        (Err(Problem::Moderated), Some("output")) => {
            state(&job.id, "Content Moderated", None, &reasons)
        }
        (Err(Problem::Moderated), _) => state(&job.id, "Request Moderated", None, &reasons),
        (Err(_), Some("Failed")) => state(&job.id, "Failed", None, &Value::Null),
        (Err(_), _) => state(&job.id, "Error", None, &json!({"error": "Generation failed"})),
    }
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let detail = |status: u16, words: &str| reply(status, &json!({"detail": words}));
    match problem {
        Problem::NoKey | Problem::WrongKeyForm => detail(403, "Not authenticated"),
        Problem::BadKey => detail(403, "Not authenticated - Invalid Authentication"),
        Problem::NoCredit => {
            detail(402, "Insufficient credits. Please add credits to your account to continue.")
        }
        Problem::RateLimited(wait) => reply(
            429,
            &json!({
                "error": "rate_limit_exceeded",
                "message": "Too many active tasks. Please wait for some of them to finish.",
                "retry_after": wait,
            }),
        ),
        Problem::Internal => detail(500, "Internal Server Error"),
        Problem::Unavailable => detail(503, "Service Unavailable"),
        Problem::Moderated => detail(422, "Request Moderated"),
        Problem::NoRoute(_) | Problem::NoModel(_) | Problem::NoJob(_) | Problem::Retired(_) => {
            detail(404, "Not Found")
        }
        Problem::Method(_) => detail(405, "Method Not Allowed"),
        Problem::MediaType(_) | Problem::Malformed => {
            let error = json!({
                "type": "model_attributes_type",
                "loc": ["body"],
                "msg": "Input should be a valid dictionary or object to extract fields from",
            });
            reply(422, &json!({"detail": [error]}))
        }
        Problem::Rule(words) => detail(400, words),
        Problem::Fields(violations) => {
            let list: Vec<Value> = violations
                .iter()
                .map(|violation| {
                    let mut loc = vec!["body".to_owned()];
                    loc.extend(violation.path.iter().cloned());
                    let (kind, message) = validator_words(violation);
                    json!({"type": kind, "loc": loc, "msg": message, "input": violation.given})
                })
                .collect();
            reply(422, &json!({"detail": list}))
        }
    }
}
