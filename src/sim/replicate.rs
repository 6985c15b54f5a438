//! Replicate: predictions, made through an official model or a version, and polled.

use std::time::Duration;

use axum::response::Response;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until};

use super::{
    data::{Family, VendorData, at},
    exchange::{Exchange, Problem, check_key, json as reply, with},
    faults::Kind,
    files,
    hooks::Hook,
    jobs::{Job, State},
    schema::{Violation, Wrong, type_name},
    studio::{self, Wish, seconds},
    vendor::Stage,
};

/// Which request it is, and of which job.
pub(crate) fn place(x: &Exchange) -> (Stage, Option<String>) {
    match (x.method.as_str(), x.segments().as_slice()) {
        ("GET", ["v1", "predictions", id]) => (Stage::Poll, Some((*id).to_owned())),
        ("POST", ["v1", "predictions", id, "cancel"]) => (Stage::Other, Some((*id).to_owned())),
        ("POST", _) => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    check_key(x.authorization("bearer").or_else(|| x.authorization("token")))?;
    match (x.method.as_str(), x.segments().as_slice()) {
        ("POST", ["v1", "models", owner, name, "predictions"]) => {
            let id = format!("{owner}/{name}");
            // A community model has no such path: it is called by its version.
            let official =
                VendorData::of(x.vendor).model(&id).filter(|m| m.word("version").is_empty());
            official.ok_or_else(|| Problem::NoModel(id.clone()))?;
            submit(x, id).await
        }
        // Whatever its name, a deployment of the simulator runs one community model.
        ("POST", ["v1", "deployments", _, _, "predictions"]) => {
            submit(x, "stability-ai/sdxl".to_owned()).await
        }
        ("POST", ["v1", "predictions"]) => {
            let object = x.json()?;
            let version = object.get("version").and_then(Value::as_str).ok_or_else(|| {
                let (path, wrong) = (vec!["version".to_owned()], Wrong::Missing);
                Problem::Fields(vec![Violation { path, wrong, given: Value::Null }])
            })?;
            let model = by_version(x, version).ok_or_else(|| Problem::Fields(vec![
                Violation::rule("version", &version.into(), "The specified version does not exist (or perhaps you don't have permission to use it?)"),
            ]))?;
            submit(x, model).await
        }
        ("GET", ["v1", "models", owner, name]) => {
            let id = format!("{owner}/{name}");
            let data = VendorData::of(x.vendor);
            data.model(&id).ok_or_else(|| Problem::NoModel(id.clone()))?;
            let latest = json!({"id": version_of(data, &id), "cog_version": "0.16.0"});
            Ok(reply(200, &json!({"owner": owner, "name": name, "latest_version": latest})))
        }
        ("GET", ["v1", "webhooks", "default", "secret"]) => {
            Ok(reply(200, &json!({"key": x.sim.hooks.standard_secret()})))
        }
        ("GET", ["v1", "predictions"]) => list(x),
        ("GET", ["v1", "predictions", id]) => {
            let job = find(x, id)?;
            x.sim.jobs.polled(&job.id);
            Ok(reply(200, &prediction(x, &job)))
        }
        ("POST", ["v1", "predictions", id, "cancel"]) => {
            let job = find(x, id)?;
            x.sim.jobs.cancel(&job.id);
            Ok(reply(200, &prediction(x, &find(x, id)?)))
        }
        _ => Err(Problem::NoRoute(x.joined())),
    }
}

/// The model a version belongs to: 64 digits, `owner/name` or `owner/name:digits`.
fn by_version(x: &Exchange, version: &str) -> Option<String> {
    let data = VendorData::of(x.vendor);
    let (name, digits) = match version.split_once(':') {
        Some((name, digits)) => (name, Some(digits)),
        None if version.contains('/') => (version, None),
        None => return data.models().find(|id| version_of(data, id) == version).map(str::to_owned),
    };
    data.model(name)?;
    digits.is_none_or(|digits| version_of(data, name) == digits).then(|| name.to_owned())
}

/// The one version of a model: 64 hexadecimal digits.
fn version_of(data: &VendorData, model: &str) -> String {
    match data.model(model).map(|family| family.word("version")) {
        Some(digits) if !digits.is_empty() => digits.to_owned(),
        _ => hex::encode(Sha256::digest(model.as_bytes())),
    }
}

async fn submit(x: &Exchange, model: String) -> Result<Response, Problem> {
    let data = VendorData::of(x.vendor);
    let family = data.model(&model).ok_or_else(|| Problem::NoModel(model.clone()))?;
    let object = x.json()?;
    let known = ["input", "version", "webhook", "webhook_events_filter", "stream"];
    let unknown = object.keys().find(|key| !known.contains(&key.as_str()));
    let whole = |field: &str, wrong: Wrong| {
        let given = object.get(field).cloned().unwrap_or_default();
        Problem::Fields(vec![Violation { path: vec![field.to_owned()], wrong, given }])
    };
    if let Some(field) = unknown {
        return Err(whole(field, Wrong::Unknown));
    }
    let Some(Value::Object(input)) = object.get("input") else {
        return Err(whole("input", Wrong::Missing));
    };
    let hook =
        hook(&object).map_err(|field| whole(field, Wrong::Rule("is not valid".to_owned())))?;
    let order = family.order(input).map_err(|violations| Problem::Fields(inside(violations)))?;
    let wish = Wish {
        prompt: at(input, "prompt").and_then(Value::as_str).unwrap_or_default(),
        seed: at(input, "seed").and_then(Value::as_u64),
        quality: at(input, "output_quality").and_then(Value::as_u64).map(|q| q as u8),
        ..Wish::default()
    };
    // A refusal of the content is seen in the finished prediction, not at submit.
    let work = match (x.moderated(), x.fault(Kind::Failed)) {
        (Some(_), _) => Err(Problem::Moderated),
        (_, Some(_)) => Err(Problem::Internal),
        _ => Ok(studio::recipes(x, &model, &order, &wish)),
    };
    let job = studio::take(x, &model, Value::Object(input.clone()), work, hook).await;
    let waited = match wait(x) {
        Some(longest) => {
            sleep_until(job.ends().min(Instant::now() + longest)).await;
            job.state() != State::Done
        }
        None => false,
    };
    let status = if waited { 202 } else { 201 };
    let response = reply(status, &prediction(x, &job));
    Ok(with(response, "location", format!("{}/replicate/v1/predictions/{}", x.origin, job.id)))
}

/// Where the end of the prediction is to be pushed; the field that is wrong.
fn hook(object: &Map<String, Value>) -> Result<Option<Hook>, &'static str> {
    let events = match object.get("webhook_events_filter") {
        None => None,
        Some(list) => Some(list.as_array().ok_or("webhook_events_filter")?),
    };
    let known = ["start", "output", "logs", "completed"];
    let mut words = events.into_iter().flatten().map(|word| word.as_str().unwrap_or_default());
    if words.any(|word| !known.contains(&word)) {
        return Err("webhook_events_filter");
    }
    let Some(url) = object.get("webhook") else { return Ok(None) };
    let mut hook = url.as_str().and_then(Hook::at).ok_or("webhook")?;
    hook.muted = events.is_some_and(|list| !list.iter().any(|word| word == "completed"));
    Ok(Some(hook))
}

/// Predictions on a page.
const PAGE: usize = 100;

/// The predictions of late, the newest first, within a window of time if one is given.
fn list(x: &Exchange) -> Result<Response, Problem> {
    let refuse = |field: &str| {
        let given = Value::from(x.query.get(field).map(String::as_str));
        Problem::Fields(vec![Violation::rule(field, &given, "is not valid")])
    };
    let known = ["created_after", "created_before", "cursor"];
    if let Some(odd) = x.query.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(refuse(odd));
    }
    let time = |field: &str| {
        let read = |text: &String| humantime::parse_rfc3339(text).map_err(|_| refuse(field));
        x.query.get(field).map(read).transpose()
    };
    let (after, before) = (time("created_after")?, time("created_before")?);
    let cursor = match x.query.get("cursor") {
        None => 0,
        Some(text) => text.parse::<usize>().map_err(|_| refuse("cursor"))?,
    };
    let known: Vec<Job> = x.sim.jobs.list(x.vendor);
    let mut found = known.iter().filter(|job| {
        let seconds = Duration::try_from_secs_f64(x.sim.jobs.clock(job.created));
        let at = std::time::UNIX_EPOCH + seconds.unwrap_or_default();
        let lost = job.fault.as_ref().is_some_and(|fault| fault.kind == Kind::Lost);
        !lost && after.is_none_or(|after| at >= after) && before.is_none_or(|before| at < before)
    });
    let page: Vec<Value> =
        found.by_ref().skip(cursor).take(PAGE).map(|job| prediction(x, job)).collect();
    let next = found.next().map(|_| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let kept = x.query.iter().filter(|(name, _)| *name != "cursor");
        query.extend_pairs(kept).append_pair("cursor", &(cursor + PAGE).to_string());
        format!("{}/replicate/v1/predictions?{}", x.origin, query.finish())
    });
    Ok(reply(200, &json!({"previous": null, "next": next, "results": page})))
}

/// How long `Prefer: wait` holds the reply.
fn wait(x: &Exchange) -> Option<Duration> {
    let (word, seconds) = match x.header("prefer").split_once('=') {
        Some((word, seconds)) => (word, seconds.parse().ok()?),
        None => (x.header("prefer"), 60),
    };
    (word == "wait").then(|| Duration::from_secs(seconds.clamp(1, 60)))
}

fn inside(violations: Vec<Violation>) -> Vec<Violation> {
    let nest = |mut violation: Violation| {
        violation.path.insert(0, "input".to_owned());
        violation
    };
    violations.into_iter().map(nest).collect()
}

fn find(x: &Exchange, id: &str) -> Result<Job, Problem> {
    let job = x
        .sim
        .jobs
        .get(x.vendor, id)
        .filter(|job| job.fault.as_ref().is_none_or(|fault| fault.kind != Kind::Lost));
    job.ok_or_else(|| Problem::NoJob(id.to_owned()))
}

/// The prediction as it stands; notes that a finished one was seen.
pub(crate) fn prediction(x: &Exchange, job: &Job) -> Value {
    let url = format!("{}/replicate/v1/predictions/{}", x.origin, job.id);
    let at = |instant| {
        let time = Duration::try_from_secs_f64(x.sim.jobs.clock(instant)).unwrap_or_default();
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + time).to_string()
    };
    let state = job.state();
    let family = VendorData::of(x.vendor).model(&job.model);
    let (mut status, mut output, mut error) = ("starting", Value::Null, Value::Null);
    match (state, &job.work) {
        (State::Queued, _) => {}
        (State::Running, _) => status = "processing",
        (State::Cancelled, _) => status = "canceled",
        (State::Done, Ok(recipes)) => {
            status = "succeeded";
            let urls = (0..recipes.len()).map(|i| files::url(x, job, i).into()).collect();
            output = shaped(family, urls);
        }
        (State::Done, Err(problem)) => {
            status = "failed";
            error = failure(problem, job).into();
        }
    }
    let over = matches!(state, State::Done | State::Cancelled);
    if over {
        x.sim.jobs.notice(&job.id);
    }
    let started =
        (state != State::Queued && Instant::now() >= job.starts()).then(|| at(job.starts()));
    let mut body = json!({
        "id": job.id,
        "model": job.model,
        "version": "hidden",
        "input": job.request,
        "logs": "",
        "output": output,
        "data_removed": false,
        "error": error,
        "source": "api",
        "status": status,
        "created_at": at(job.created),
        "started_at": started,
        "completed_at": over.then(|| at(job.cancelled.unwrap_or_else(|| job.ends()))),
        "metrics": if over {
            json!({"predict_time": seconds(job.run), "total_time": seconds(job.queue + job.run)})
        } else {
            json!({})
        },
        "urls": {
            "get": url,
            "cancel": format!("{url}/cancel"),
            "web": format!("https://replicate.com/p/{}", job.id),
        },
    });
    if let Some(hook) = &job.hook {
        body["webhook"] = hook.url.as_str().into();
    }
    body
}

/// The model decides: one string, or a list even of one.
fn shaped(family: Option<&Family>, urls: Vec<Value>) -> Value {
    match family.map_or("", |family| family.word("output")) {
        "string" => urls.into_iter().next().unwrap_or_default(),
        _ => urls.into(),
    }
}

fn failure(problem: &Problem, job: &Job) -> &'static str {
    let code = job.fault.as_ref().and_then(|fault| fault.value.as_deref());
    match (problem, code) {
        (Problem::Moderated, Some("E005")) => {
            "The input or output was flagged as sensitive. Please try again with different inputs. (E005) (sensitive)"
        }
        (Problem::Moderated, _) => {
            "NSFW content detected. Try running it again, or try a different prompt."
        }
        _ => "Prediction interrupted; please retry (code: PA)",
    }
}

/// A field's fault in the words of the validator that Replicate uses.
fn wording(violation: &Violation) -> (String, &'static str, String) {
    let (field, path) = (violation.field(), violation.dotted());
    let parent = path.rsplit_once('.').map_or("(root)", |(parent, _)| parent).to_owned();
    match &violation.wrong {
        Wrong::Unknown => (
            parent,
            "additional_property_not_allowed",
            format!("Additional property {field} is not allowed"),
        ),
        Wrong::Missing => (parent, "required", format!("{field} is required")),
        Wrong::Type(kind) => (
            path,
            "invalid_type",
            format!(
                "Invalid type. Expected: {}, given: {}",
                kind.name(),
                type_name(&violation.given)
            ),
        ),
        Wrong::Value(values) => {
            let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
            let words = format!("{path} must be one of the following: {}", quoted.join(", "));
            (path, "enum", words)
        }
        Wrong::Below(least) => {
            (path, "number_gte", format!("Must be greater than or equal to {least}"))
        }
        Wrong::Above(most) => (path, "number_lte", format!("Must be less than or equal to {most}")),
        Wrong::Short(least) => {
            (path, "string_gte", format!("String length must be greater than or equal to {least}"))
        }
        Wrong::Long(most) => {
            (path, "string_lte", format!("String length must be less than or equal to {most}"))
        }
        Wrong::Picture(_) | Wrong::Rule(_) => (path, "invalid", violation.words()),
    }
}

/// A refusal in Replicate's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let titled = |status: u16, title: &str, detail: &str| {
        reply(status, &json!({"title": title, "detail": detail, "status": status}))
    };
    match problem {
        Problem::NoKey | Problem::WrongKeyForm => {
            titled(401, "Unauthenticated", "You did not pass an authentication token")
        }
        Problem::BadKey => {
            titled(401, "Unauthenticated", "You did not pass a valid authentication token")
        }
        Problem::NoCredit => titled(
            402,
            "Insufficient credit",
            "You have insufficient credit to run this model. Go to https://replicate.com/account/billing#billing to purchase credit. Once you purchase credit, please wait a few minutes before trying again.",
        ),
        // The hint is in the words, nowhere else.
        Problem::RateLimited(wait) => titled(
            429,
            "Too many requests",
            &format!("Request was throttled. Expected available in {wait} seconds."),
        ),
        Problem::Internal => titled(500, "Internal server error", "An unexpected error occurred."),
        Problem::Unavailable => titled(
            503,
            "Service unavailable",
            "The service is temporarily unavailable. Please try again later.",
        ),
        Problem::NoRoute(_) | Problem::NoModel(_) | Problem::NoJob(_) | Problem::Retired(_) => {
            titled(404, "Not found", "The requested resource could not be found.")
        }
        Problem::Method(path) => titled(405, "Method not allowed", path),
        Problem::MediaType(_) => {
            titled(415, "Unsupported media type", "The content type must be application/json.")
        }
        Problem::Malformed => titled(400, "Bad request", "The request body is not valid JSON."),
        Problem::Moderated => titled(422, "Unprocessable entity", "NSFW content detected."),
        Problem::Rule(words) => titled(422, "Unprocessable entity", words),
        Problem::Fields(violations) => {
            let worded: Vec<_> = violations.iter().map(wording).collect();
            let lines: Vec<String> =
                worded.iter().map(|(field, _, words)| format!("- {field}: {words}\n")).collect();
            let detail = lines.concat();
            let fields: Vec<Value> = worded
                .iter()
                .map(|(field, kind, words)| {
                    json!({"type": kind, "field": field, "description": words})
                })
                .collect();
            let mut body = Map::new();
            body.insert("title".to_owned(), "Input validation failed".into());
            body.insert("detail".to_owned(), detail.into());
            body.insert("status".to_owned(), 422.into());
            body.insert("invalid_fields".to_owned(), fields.into());
            reply(422, &Value::Object(body))
        }
    }
}
