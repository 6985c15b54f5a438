//! Replicate's predictions: official models by name, everything else by version, and an output
//! whose shape is each model's own.
//!
//! Never `Prefer: wait`: a held connection that breaks would lose a paid job's id.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    Adapter, Call, Fault, Found, Output, Picture, Pushed, Recovery, RemoteJob, RemoteState, Reply,
    SendKind, Signature, Source, Step, UpstreamError, WireRequest, body,
    reply::{self, fault_at, text},
    signature::{Algorithm, Encoding, Keys, Signed},
    time,
    wire::{escape, with_query},
};

/// Replicate's dialect.
pub(crate) struct Replicate;

/// Where any version is called, model or not.
const ANY_VERSION: &str = "/predictions";

/// Fields of an object output that usually hold the pictures, the likeliest first.
const PICTURE_FIELDS: [&str; 7] = ["images", "image", "output", "urls", "url", "files", "file"];

/// How long before and after the moment of a submit its prediction may have been made, seconds:
/// clocks differ, and a request may be held up on its way.
const WINDOW: (u64, u64) = (5, 60);

/// Standard Webhooks, as <https://replicate.com/docs/topics/webhooks/verify-webhook> has it.
const SIGNATURE: Signature = Signature {
    algorithm: Algorithm::HmacSha256,
    keys: Keys::Secret { path: "/webhooks/default/secret" },
    message: &[
        Signed::Header("webhook-id"),
        Signed::Text("."),
        Signed::Header("webhook-timestamp"),
        Signed::Text("."),
        Signed::Body,
    ],
    headers: &["webhook-signature"],
    prefix: "v1,",
    encoding: Encoding::Base64,
    timestamp: Some("webhook-timestamp"),
    tolerance_s: 300,
    required: true,
};

impl Adapter for Replicate {
    fn name(&self) -> &'static str {
        "replicate"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let any_version = match call.deployment.path.as_deref() {
            Some(path) => path == ANY_VERSION,
            None => is_version(call.upstream),
        };
        let path = if any_version { ANY_VERSION } else { "/models/{upstream}/predictions" };
        let mut fields = Map::new();
        if any_version {
            fields.insert("version".to_owned(), call.upstream.into());
        }
        fields.insert("input".to_owned(), body::fields(call).into());
        if let Some(callback) = call.callback_url {
            fields.insert("webhook".to_owned(), callback.into());
            fields.insert("webhook_events_filter".to_owned(), json!(["completed"]));
        }
        let request = WireRequest::post_json(call.endpoint(path), &Value::Object(fields));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if !reply.is_success() {
            return Err(refusal(sent, reply));
        }
        prediction(call, job, reply)
    }

    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        let url = job.cancel_url.as_deref().filter(|url| call.may_follow(url))?;
        Some(WireRequest { method: "POST", ..WireRequest::get(url) })
    }

    fn recovery(&self) -> &'static [Recovery] {
        &[Recovery::Callback, Recovery::Search]
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        let urls = [Some(&job.status_url), job.cancel_url.as_ref()];
        if urls.into_iter().flatten().all(|url| call.may_follow(url)) {
            return Ok(job.clone().wait());
        }
        Ok(unseen(call, &job.id, job.state).wait())
    }

    fn callback(&self, call: &Call<'_>, job: Option<&RemoteJob>, push: &Reply) -> Option<Pushed> {
        let answer: Value = push.json().ok()?;
        let job = match job {
            Some(job) if text(&answer, "id") == Some(&job.id) => job.clone(),
            Some(_) => return None,
            None => accepted(call, &answer, RemoteState::Running).ok()?,
        };
        let step = prediction(call, Some(&job), push);
        Some(Pushed { job, step })
    }

    fn signature(&self) -> Option<&'static Signature> {
        Some(&SIGNATURE)
    }

    fn search(&self, call: &Call<'_>, sent_at: u64) -> Option<WireRequest> {
        let after = time::rfc3339(sent_at.saturating_sub(WINDOW.0));
        let before = time::rfc3339(sent_at.saturating_add(WINDOW.1));
        let window = [("created_after", after.as_str()), ("created_before", &before)];
        Some(WireRequest::get(with_query(&format!("{}/predictions", call.base_url), &window)))
    }

    fn found(&self, call: &Call<'_>, sent_at: u64, reply: &Reply) -> Result<Found, UpstreamError> {
        if !reply.is_success() {
            return Err(refusal(SendKind::Poll, reply));
        }
        let answer: Value = reply.json()?;
        let results = answer.get("results").and_then(Value::as_array).ok_or_else(|| {
            UpstreamError::malformed("the provider's list of predictions has no results")
        })?;
        let mut input = body::fields(call);
        // A list has pictures as addresses or not at all, so they tell nothing apart.
        let wire = &call.deployment.wire;
        for pictures in [&wire.images, &wire.mask].into_iter().flatten() {
            input.remove(&pictures.field);
        }
        let mut found =
            Found { jobs: Vec::new(), complete: answer.get("next").is_none_or(Value::is_null) };
        for result in results.iter().filter(|result| may_be(call, sent_at, result)) {
            let job = accepted(call, result, state(text(result, "status").unwrap_or_default()));
            match (whose(call, &input, result), job) {
                (Whose::Ours, Ok(job)) => return Ok(Found { jobs: vec![job], complete: true }),
                (Whose::Alike, Ok(job)) => found.jobs.push(job),
                (Whose::Other, _) => {}
                (Whose::Unknown, _) | (_, Err(_)) => found.complete = false,
            }
        }
        Ok(found)
    }
}

/// Whose a listed prediction is.
enum Whose {
    /// It names our callback.
    Ours,
    /// It was given what we sent, and does not say by whom.
    Alike,
    /// Somebody else's.
    Other,
    /// Its input was deleted.
    Unknown,
}

/// Whether a listed prediction is of the model and the time of the call.
fn may_be(call: &Call<'_>, sent_at: u64, result: &Value) -> bool {
    let in_time = text(result, "created_at").and_then(time::unix).is_none_or(|at| {
        (sent_at.saturating_sub(WINDOW.0)..=sent_at.saturating_add(WINDOW.1)).contains(&at)
    });
    let (name, digest) = match call.upstream.split_once(':') {
        Some((name, digest)) => (Some(name), Some(digest)),
        None if is_version(call.upstream) => (None, Some(call.upstream)),
        None => (Some(call.upstream), None),
    };
    // A deployment runs a model of any name, and an official model hides its version.
    let has_own_path = call.deployment.path.as_deref().is_some_and(|path| path != ANY_VERSION);
    let same = |field: &str, wanted: Option<&str>| {
        let said = text(result, field).filter(|said| *said != "hidden");
        has_own_path || wanted.is_none() || said.is_none() || said == wanted
    };
    in_time && same("model", name) && same("version", digest)
}

fn whose(call: &Call<'_>, input: &Map<String, Value>, result: &Value) -> Whose {
    if let (Some(webhook), Some(callback)) = (text(result, "webhook"), call.callback_url) {
        let named = call.client_ref.is_some_and(|name| webhook.split('/').any(|s| s == name));
        // Our own host may have been renamed since; the path is as good as a signature.
        let path = |url: &str| Some(url.split_once("://")?.1.split_once('/')?.1.to_owned());
        let ours = path(webhook).is_some_and(|at| path(callback) == Some(at));
        return if named || ours { Whose::Ours } else { Whose::Other };
    }
    match result.get("input") {
        Some(Value::Object(given)) if !given.is_empty() || input.is_empty() => {
            // The vendor may have filled in what we left out.
            let alike = input.iter().all(|(field, value)| given.get(field) == Some(value));
            if alike { Whose::Alike } else { Whose::Other }
        }
        _ => Whose::Unknown,
    }
}

/// Whether an id names a version and not an official model: 64 hex digits, bare or after a colon.
fn is_version(upstream: &str) -> bool {
    upstream.contains(':')
        || (upstream.len() == 64 && upstream.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A prediction looks the same in the reply to the submit, where it may have ended already, and
/// to every poll.
fn prediction(
    call: &Call<'_>,
    job: Option<&RemoteJob>,
    reply: &Reply,
) -> Result<Step, UpstreamError> {
    let answer: Value = reply.json()?;
    let status = text(&answer, "status").unwrap_or_default();
    let state = match status {
        "succeeded" => return done(&answer),
        "failed" => return Err(failed(&answer, reply)),
        "canceled" | "aborted" => {
            let message = format!("the prediction was {status}");
            return Err(reply::refusal(Fault::JobFailed, reply, Some(&message)).code(Some(status)));
        }
        _ => state(status),
    };
    let job = match job {
        Some(job) => RemoteJob { state, ..job.clone() },
        None => accepted(call, &answer, state)?,
    };
    Ok(job.wait())
}

fn state(status: &str) -> RemoteState {
    if status == "starting" { RemoteState::Queued } else { RemoteState::Running }
}

fn accepted(
    call: &Call<'_>,
    answer: &Value,
    state: RemoteState,
) -> Result<RemoteJob, UpstreamError> {
    let id = text(answer, "id")
        .ok_or_else(|| UpstreamError::malformed("the provider's reply names no prediction id"))?;
    let url = |field: &str| {
        let url = answer.get("urls").and_then(|urls| text(urls, field));
        url.filter(|url| call.may_follow(url)).map(str::to_owned)
    };
    let built = unseen(call, id, state);
    Ok(RemoteJob {
        cancel_url: url("cancel").or(built.cancel_url),
        status_url: url("get").unwrap_or(built.status_url),
        ..built
    })
}

/// The prediction of an id, where it lives if nothing else is said.
fn unseen(call: &Call<'_>, id: &str, state: RemoteState) -> RemoteJob {
    let built = format!("{}/predictions/{}", call.base_url, escape(id));
    let cancel_url = Some(format!("{built}/cancel"));
    RemoteJob { state, cancel_url, ..RemoteJob::new(id, built) }
}

fn done(answer: &Value) -> Result<Step, UpstreamError> {
    let mut sources = Vec::new();
    if let Some(output) = answer.get("output") {
        collect(output, &mut sources);
    }
    if sources.is_empty() && answer.get("data_removed") == Some(&Value::Bool(true)) {
        return Err(UpstreamError::new(Fault::JobLost, "the prediction's output was removed"));
    }
    if sources.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the prediction's output holds no picture"));
    }
    let pictures = sources.into_iter().map(Picture::new).collect();
    Ok(Step::Done(Output { pictures, ..Output::default() }))
}

/// Every picture in an output of any shape, in its order.
fn collect(output: &Value, sources: &mut Vec<Source>) {
    match output {
        Value::String(text) => match Source::link(text) {
            Source::Url(url) if !url.starts_with("https://") && !url.starts_with("http://") => {}
            picture => sources.push(picture),
        },
        Value::Array(list) => list.iter().for_each(|item| collect(item, sources)),
        Value::Object(object) => {
            for field in PICTURE_FIELDS {
                let before = sources.len();
                object.get(field).into_iter().for_each(|value| collect(value, sources));
                if sources.len() > before {
                    return;
                }
            }
            object.values().for_each(|value| collect(value, sources));
        }
        _ => {}
    }
}

fn failed(answer: &Value, reply: &Reply) -> UpstreamError {
    let error = answer.get("error").unwrap_or(&Value::Null);
    let said = error.as_str().or_else(|| text(error, "message")).or_else(|| text(error, "detail"));
    let fault =
        if said.is_some_and(speaks_of_safety) { Fault::Moderated } else { Fault::JobFailed };
    reply::refusal(fault, reply, Some(said.unwrap_or("the prediction failed"))).code(Some("failed"))
}

/// A refusal has no code of its own; only its text tells.
fn speaks_of_safety(message: &str) -> bool {
    // `safety_tolerance` and the like are names of fields.
    let message = message.to_ascii_lowercase().replace("safety_", "");
    ["nsfw", "e005", "flagged as sensitive", "safety"].iter().any(|word| message.contains(word))
}

/// What a reply that is not 2xx means: `{"title", "detail", "status"}`, or a lone `error`.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let said = ["detail", "error", "message", "title"].iter().find_map(|f| text(&answer, f));
    let message = said.map(|text| text.trim().trim_start_matches("- "));
    let fault = match reply.status {
        400 | 422 if message.is_some_and(speaks_of_safety) => Fault::Moderated,
        status => fault_at(sent, status),
    };
    let error = reply::refusal(fault, reply, message).param(message.and_then(field));
    let hint = error.retry_after.or_else(|| said.filter(|_| reply.status == 429).and_then(delay));
    error.retry_after(hint)
}

/// The field a complaint such as `input.prompt: required` is about.
fn field(message: &str) -> Option<&str> {
    let name = message.split_once("input.")?.1;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end]).filter(|name| !name.is_empty())
}

/// The delay in a text such as `resets in ~5s` or `try again in 2 minutes`.
fn delay(message: &str) -> Option<Duration> {
    message.match_indices("in ").find_map(|(at, word)| {
        let rest = message[at + word.len()..].trim_start_matches('~');
        let (count, unit) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let count: u64 = count.parse().ok()?;
        match unit.trim_start().chars().next()? {
            's' => Some(Duration::from_secs(count)),
            'm' => Some(Duration::from_secs(count.saturating_mul(60))),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_are_told_from_official_models() {
        let digest = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa";
        for (upstream, yes) in [
            (digest.to_owned(), true),
            (format!("stability-ai/sdxl:{digest}"), true),
            ("black-forest-labs/flux-schnell".to_owned(), false),
            (digest[1..].to_owned(), false),
            (digest.replace('5', "g"), false),
        ] {
            assert_eq!(is_version(&upstream), yes, "{upstream}");
        }
    }

    #[test]
    fn delays_are_read_from_words() {
        for (message, seconds) in [
            ("Your rate limit resets in ~5s.", Some(5)),
            ("Expected available in 12 seconds", Some(12)),
            ("try again in 2 minutes", Some(120)),
            ("retry within 10 tries, then in 3s", Some(3)),
            ("limited to 600 predictions per minute", None),
            ("resets in ~5", None),
            ("resets in a few seconds", None),
            ("in 99999999999999999999s", None),
            ("in ", None),
        ] {
            assert_eq!(delay(message).map(|d| d.as_secs()), seconds, "{message}");
        }
    }

    #[test]
    fn complaints_name_their_field() {
        for (message, param) in [
            ("input.prompt: required", Some("prompt")),
            ("input.num_outputs: must be at most 4", Some("num_outputs")),
            ("version: required", None),
            ("input.: odd", None),
        ] {
            assert_eq!(field(message), param, "{message}");
        }
    }

    #[test]
    fn refusals_for_content_are_told_from_failures() {
        for (message, yes) in [
            ("NSFW content detected", true),
            ("nsfw content", true),
            ("Flagged as sensitive", true),
            ("the model returned E005", true),
            ("blocked by the safety filter", true),
            ("safety_tolerance must be at most 6", false),
            ("CUDA out of memory", false),
        ] {
            assert_eq!(speaks_of_safety(message), yes, "{message}");
        }
    }

    #[test]
    fn pictures_are_found_in_an_output_of_any_shape() {
        let a = "https://replicate.delivery/a.png";
        let b = "https://replicate.delivery/b.png";
        for (output, urls) in [
            (json!(a), vec![a]),
            (json!([a, null, b]), vec![a, b]),
            (json!([{"url": a}, {"url": b}]), vec![a, b]),
            (json!({"images": [a], "thumbnail": b}), vec![a]),
            (json!({"images": [], "image": a}), vec![a]),
            (json!({"left": a, "right": b, "seed": 7}), vec![a, b]),
            (json!("a teapot"), vec![]),
            (json!(null), vec![]),
            (json!({"images": {"count": 0}}), vec![]),
        ] {
            let mut found = Vec::new();
            collect(&output, &mut found);
            let want: Vec<_> = urls.into_iter().map(|u| Source::Url(u.to_owned())).collect();
            assert_eq!(found, want, "{output}");
        }
    }
}
