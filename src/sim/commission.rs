//! What the dialects of one route share: from a request to its pictures, and plain words for a
//! refusal, which each vendor puts into an envelope of its own.

use std::time::Duration;

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    data::{Family, Order, VendorData},
    draw::Veil,
    encode::Recipe,
    exchange::{Exchange, Problem, check_key, with},
    faults::Kind,
    files,
    hooks::Hook,
    jobs::{Job, State},
    schema::Violation,
    studio::{self, Wish},
    vendor::Stage,
};

/// Where vendors take the text.
const PROMPTS: [&str; 4] = ["prompt", "text_prompt", "promptText", "positivePrompt"];
/// Where they take the seed.
const SEEDS: [&str; 2] = ["seed", "random_seed"];

/// A valid request and the pictures it asks for.
pub(crate) struct Commission {
    /// What its model is.
    pub family: &'static Family,
    /// What is to be drawn.
    pub order: Order,
    /// The pictures.
    pub recipes: Vec<Recipe>,
}

/// Lets through a `POST` with a bearer key.
pub(crate) fn gate(x: &Exchange, route_is_known: bool) -> Result<(), Problem> {
    if !route_is_known {
        return Err(Problem::NoRoute(x.joined()));
    }
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    check_key(x.authorization("bearer"))
}

/// The text of a field, empty if there is none.
pub(crate) fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Checks the fields for a model, and gives the pictures they ask for.
pub(crate) fn commission(
    x: &Exchange,
    model: &str,
    object: &Map<String, Value>,
) -> Result<Commission, Problem> {
    let data = VendorData::of(x.vendor);
    if data.retired.iter().any(|id| id == model) {
        return Err(Problem::Retired(model.to_owned()));
    }
    let family = data.model(model).ok_or_else(|| Problem::NoModel(model.to_owned()))?;
    let order = family.order(object).map_err(Problem::Fields)?;
    let prompt = PROMPTS.iter().find_map(|field| object.get(*field)?.as_str());
    let wish = Wish {
        prompt: prompt.unwrap_or_default(),
        seed: SEEDS.iter().find_map(|field| object.get(*field)?.as_u64()),
        veil: Veil::Clear,
        ..Wish::default()
    };
    let recipes = studio::recipes(x, model, &order, &wish);
    Ok(Commission { family, order, recipes })
}

impl Commission {
    /// What becomes of a job that is asked after: its pictures, or what the switch says.
    pub(crate) fn outcome(&self, x: &Exchange) -> Result<Vec<Recipe>, Problem> {
        match (x.moderated(), x.fault(Kind::Failed)) {
            (Some(_), _) => Err(Problem::Moderated),
            (_, Some(_)) => Err(Problem::Internal),
            _ => Ok(self.recipes.clone()),
        }
    }
}

/// Which request it is where a job is asked after by its id behind `folder`.
pub(crate) fn place(x: &Exchange, folder: &str) -> (Stage, Option<String>) {
    match (x.method.as_str(), x.segments().as_slice()) {
        ("GET", [.., before, id]) if *before == folder => (Stage::Poll, Some((*id).to_owned())),
        ("POST", _) => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// The job that is asked after, unless it is lost.
pub(crate) fn asked(x: &Exchange, id: &str) -> Result<Job, Problem> {
    let lost = |job: &Job| job.fault.as_ref().is_some_and(|fault| fault.kind == Kind::Lost);
    let job = x.sim.jobs.get(x.vendor, id).filter(|job| !lost(job));
    let job = job.ok_or_else(|| Problem::NoJob(id.to_owned()))?;
    x.sim.jobs.polled(id);
    if matches!(job.state(), State::Done | State::Cancelled) {
        x.sim.jobs.notice(id);
    }
    Ok(job)
}

/// The time of a job in the vendors' way of writing it.
pub(crate) fn stamp(x: &Exchange, at: Instant) -> String {
    let time = Duration::from_secs_f64(x.sim.jobs.clock(at));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + time).to_string()
}

/// The format that an `accept` header names, such as `png` of `image/png`.
pub(crate) fn accepted(header: &str) -> Option<&str> {
    let mut kinds = header.split([';', ',', ' ']).filter_map(|kind| kind.strip_prefix("image/"));
    kinds.next().filter(|kind| *kind != "*")
}

/// Waits for a job whose pictures the vendor draws and then keeps to itself.
pub(crate) async fn withheld(x: &Exchange, model: &str) {
    let job = studio::take(x, model, Value::Null, Err(Problem::Moderated), None).await;
    tokio::time::sleep_until(job.ends()).await;
    x.sim.jobs.notice(&job.id);
}

/// The address in a field to which the end of a job is pushed.
pub(crate) fn hook(object: &Map<String, Value>, field: &str) -> Result<Option<Hook>, Problem> {
    let Some(url) = object.get(field).and_then(Value::as_str) else { return Ok(None) };
    let hook = Hook::at(url).ok_or_else(|| {
        Problem::Fields(vec![Violation::rule(field, &url.into(), "must be a URL")])
    })?;
    Ok(Some(hook))
}

/// A picture as OpenAI's likes give it: in base64, or its address.
pub(crate) fn item(x: &Exchange, job: &Job, index: usize, picture: &Bytes, inline: bool) -> Value {
    if inline {
        json!({"b64_json": STANDARD.encode(picture)})
    } else {
        json!({"url": files::url(x, job, index)})
    }
}

/// A refusal in plain words.
pub(crate) struct Told {
    /// The status that most vendors answer with.
    pub status: u16,
    /// The words.
    pub words: String,
    /// The field that is blamed.
    pub field: Option<String>,
}

impl Told {
    /// The words for a problem.
    pub(crate) fn of(problem: &Problem) -> Self {
        let told = |status: u16, words: &str| Self { status, words: words.to_owned(), field: None };
        match problem {
            Problem::NoKey | Problem::WrongKeyForm => told(401, "No API key was provided"),
            Problem::BadKey => told(401, "The API key is invalid"),
            Problem::NoCredit => told(402, "Insufficient balance, please top up your account"),
            Problem::RateLimited(_) => told(429, "Too many requests, please slow down"),
            Problem::Internal => told(500, "Internal server error"),
            Problem::Unavailable => told(503, "The service is temporarily overloaded"),
            Problem::Moderated => {
                told(400, "The request was blocked by content moderation: sensitive content")
            }
            Problem::MediaType(given) => told(415, &format!("Unsupported media type: {given}")),
            Problem::Malformed => told(400, "The body could not be parsed"),
            Problem::NoRoute(path) => told(404, &format!("No such path: {path}")),
            Problem::Method(path) => told(405, &format!("Method not allowed on {path}")),
            Problem::NoModel(model) | Problem::Retired(model) => {
                told(404, &format!("The model {model} does not exist"))
            }
            Problem::NoJob(id) => told(404, &format!("There is no task {id}")),
            Problem::Rule(words) => told(400, words),
            Problem::Fields(violations) => {
                let first = violations.first();
                let field = first.map(Violation::dotted).unwrap_or_default();
                let words = first.map(Violation::words).unwrap_or_default();
                Self { status: 400, words: format!("{field} {words}"), field: Some(field) }
            }
        }
    }

    /// The reply, with the hint that goes with a rate limit.
    pub(crate) fn hinted(problem: &Problem, reply: Response) -> Response {
        match problem {
            Problem::RateLimited(wait) => with(reply, "retry-after", wait),
            _ => reply,
        }
    }
}
