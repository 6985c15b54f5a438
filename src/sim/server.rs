//! The one router: finds the vendor, the stage and the fault, and answers.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse as _, Response},
    serve::ListenerExt as _,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    Sim, SimSettings,
    exchange::{self, Exchange, Problem},
    faults::{Fault, Kind, magic_word},
    files,
    gallery::Gallery,
    hooks::Hooks,
    jobs::{Job, Jobs},
    schema::Violation,
    vendor::{Stage, Vendor},
};

/// Longest request read. Vendors take less.
const BODY_MAX: usize = 256 << 20;

/// Every vendor under its own path, their files, and `/sim/stats` and `/sim/reset`.
pub fn router(settings: SimSettings) -> Router {
    let sim = Sim {
        jobs: Jobs::new(&settings),
        gallery: Gallery::new(),
        hooks: Hooks::new(),
        secret: *uuid::Uuid::new_v4().as_bytes(),
        settings,
    };
    Router::new().fallback(answer).with_state(Arc::new(sim))
}

/// Serves the simulator until the process ends.
pub async fn serve(listener: TcpListener, settings: SimSettings) -> io::Result<()> {
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "replies may be delayed");
        }
    });
    axum::serve(listener, router(settings)).await
}

async fn answer(State(sim): State<Arc<Sim>>, request: Request) -> Response {
    match take_apart(sim, request).await {
        Ok((x, stage, job)) => play(x, stage, job).await,
        Err(reply) => reply,
    }
}

/// A complaint of the simulator itself, not of a vendor it plays.
fn complain(status: StatusCode, message: &str) -> Response {
    let body = json!({"simulator": {"error": message}});
    exchange::json(status.as_u16(), &body)
}

/// The request as the dialects see it, its stage, and the job it is about.
async fn take_apart(
    sim: Arc<Sim>,
    request: Request,
) -> Result<(Exchange, Stage, Option<Job>), Response> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_MAX)
        .await
        .map_err(|_| complain(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 256 MiB"))?;
    let decoded = |text: &str| {
        url::form_urlencoded::parse(format!("={}", text.replace('+', "%2B")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let mut path: Vec<String> = parts.uri.path().split('/').skip(1).map(decoded).collect();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();

    let mut fault = None;
    let mut prefix = String::new();
    if path.first().is_some_and(|first| first == "x") && path.len() > 2 {
        let switch = path.remove(1);
        path.remove(0);
        let known = switch.parse::<Fault>();
        fault = Some(known.map_err(|e| complain(StatusCode::BAD_REQUEST, &e.to_string()))?);
        prefix = format!("/x/{switch}");
    }
    let word: Vec<&str> = path.iter().map(String::as_str).collect();
    match (parts.method.as_str(), word.as_slice()) {
        ("GET", ["sim", "stats"]) => return Err(exchange::json(200, &sim.jobs.stats())),
        ("POST", ["sim", "reset"]) => {
            sim.jobs.reset();
            return Err(StatusCode::NO_CONTENT.into_response());
        }
        _ => {}
    }
    let is_file = word.first() == Some(&"files");
    path.drain(..usize::from(is_file));
    let vendor = path.first().and_then(|name| Vendor::named(name)).ok_or_else(|| {
        let names = Vendor::ALL.map(Vendor::name).join(", ");
        complain(
            StatusCode::NOT_FOUND,
            &format!("no such path; the first segment is one of {names}, files, sim or x/FAULT"),
        )
    })?;
    path.remove(0);

    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = format!("http://{}{}", host.unwrap_or("localhost"), sim.settings.base_path);
    let mut x = Exchange {
        sim,
        vendor,
        method: parts.method,
        path,
        query,
        headers: parts.headers,
        body,
        origin,
        fault,
    };
    let (stage, job) = if is_file {
        (Stage::File, files::job(&x))
    } else {
        let (stage, id) = vendor.place(&x);
        (stage, id.and_then(|id| x.sim.jobs.get(vendor, &id)))
    };
    x.sim.jobs.count(vendor, stage);
    if x.fault.is_none() {
        x.fault = switched_on(&x, stage, job.as_ref())
            .map_err(|e| complain(StatusCode::BAD_REQUEST, &e.to_string()))?;
    }
    if let Some(fault) = &x.fault
        && let Some(why) = fault.kind.impossible(vendor)
    {
        let message = format!("{} cannot be {}: it {why}", vendor.name(), fault.kind.name());
        return Err(complain(StatusCode::BAD_REQUEST, &message));
    }
    used_up(&mut x, &prefix, stage, job.as_ref());
    Ok((x, stage, job))
}

/// The fault of the job, the one named in the prompt, or one that chance brings.
fn switched_on(
    x: &Exchange,
    stage: Stage,
    job: Option<&Job>,
) -> Result<Option<Fault>, super::UnknownFault> {
    if let Some(job) = job {
        return Ok(job.fault.clone());
    }
    if stage != Stage::Submit {
        return Ok(None);
    }
    if let Some(found) = magic_word(&x.body) {
        return found.map(Some);
    }
    let struck = x.sim.settings.faults.iter().find(|f| x.sim.jobs.happens(f.rate));
    Ok(struck.map(|f| f.fault.clone()).filter(|f| f.kind.impossible(x.vendor).is_none()))
}

/// A fault that comes so many times only is over after them.
fn used_up(x: &mut Exchange, prefix: &str, stage: Stage, job: Option<&Job>) {
    if let Some(fault) = &x.fault
        && let Some(times) = fault.times
        && (fault.hits(stage) || (stage == Stage::Submit && !fault.kind.is_of_transport()))
    {
        let whose = job.map_or(prefix, |job| job.id.as_str());
        if x.sim.jobs.thrown(format!("{whose} {fault}")) >= times {
            x.fault = None;
        }
    }
}

async fn play(x: Exchange, stage: Stage, job: Option<Job>) -> Response {
    let fault = x.fault.clone().filter(|fault| fault.hits(stage));
    let refuse = |problem: Problem| {
        if stage == Stage::File { store_refusal(&problem) } else { x.vendor.refuse(&problem) }
    };
    let Some(fault) = fault else { return regular(&x, stage).await };
    match fault.kind {
        Kind::RateLimited => refuse(Problem::RateLimited(fault.number().unwrap_or(1.0) as u64)),
        Kind::Internal => refuse(Problem::Internal),
        Kind::Unavailable => refuse(Problem::Unavailable),
        Kind::BadKey => refuse(Problem::BadKey),
        Kind::NoCredit => refuse(Problem::NoCredit),
        Kind::Invalid => {
            let words = "is refused because the simulator was told to";
            refuse(Problem::Fields(vec![Violation::rule("prompt", &json!(null), words)]))
        }
        Kind::Hang => std::future::pending().await,
        Kind::AcceptedHang => {
            drop(regular(&x, stage).await);
            std::future::pending().await
        }
        Kind::Accepted500 => {
            drop(regular(&x, stage).await);
            refuse(Problem::Internal)
        }
        Kind::Html => {
            let page = "<!DOCTYPE html><html><body><h1>Welcome to nginx!</h1></body></html>";
            exchange::bytes(StatusCode::OK, "text/html; charset=utf-8", page)
        }
        Kind::Empty => StatusCode::OK.into_response(),
        Kind::Truncated => broken(regular(&x, stage).await, Break::Middle).await,
        Kind::Drop => broken(regular(&x, stage).await, Break::Start).await,
        Kind::Slow => {
            let pause = x.extra_time();
            drop(job);
            trickle(regular(&x, stage).await, pause).await
        }
        _ => regular(&x, stage).await,
    }
}

async fn regular(x: &Exchange, stage: Stage) -> Response {
    if stage == Stage::File {
        return files::answer(x).await;
    }
    match x.vendor.answer(x).await {
        Ok(reply) => reply,
        Err(problem) => x.vendor.refuse(&problem),
    }
}

fn store_refusal(problem: &Problem) -> Response {
    match problem {
        Problem::RateLimited(wait) => {
            let reply = files::refuse(429, "SlowDown", "Please reduce your request rate");
            exchange::with(reply, "retry-after", wait)
        }
        Problem::Unavailable => files::refuse(503, "ServiceUnavailable", "Service is unavailable"),
        Problem::Internal => files::refuse(500, "InternalError", "We encountered an error"),
        _ => files::refuse(403, "AccessDenied", "Access denied"),
    }
}

/// Where a connection breaks.
#[derive(Clone, Copy, PartialEq)]
enum Break {
    /// Before a byte of the reply is sent.
    Start,
    /// In the middle of the body.
    Middle,
}

/// The reply as far as it gets, under the length of the whole.
async fn broken(reply: Response, at: Break) -> Response {
    let (parts, body) = reply.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let kept = if at == Break::Middle { whole.slice(..whole.len() / 2) } else { Bytes::new() };
    let cut = || io::Error::new(io::ErrorKind::ConnectionReset, "the simulator breaks off");
    let pieces = stream::unfold(Some(kept), move |kept| async move {
        let kept = kept?;
        if kept.is_empty() {
            return Some((Err(cut()), None));
        }
        Some((Ok(kept), Some(Bytes::new())))
    });
    // The error must not overtake the bytes on their way to the socket.
    let paced = stream::unfold((Box::pin(pieces), false), |(mut pieces, late)| async move {
        if late {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let piece = futures_util::StreamExt::next(&mut pieces).await?;
        Some((piece, (pieces, true)))
    });
    rebuilt(parts.status, &parts.headers, whole.len(), Body::from_stream(paced))
}

/// The reply in twenty pieces over some time.
async fn trickle(reply: Response, over: Duration) -> Response {
    let (parts, body) = reply.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let step = whole.len().div_ceil(20).max(1);
    let length = whole.len();
    let pieces = stream::unfold(whole, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        tokio::time::sleep(over / 20).await;
        let piece = left.split_to(step.min(left.len()));
        Some((Ok::<_, io::Error>(piece), left))
    });
    rebuilt(parts.status, &parts.headers, length, Body::from_stream(pieces))
}

fn rebuilt(status: StatusCode, headers: &HeaderMap, length: usize, body: Body) -> Response {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    *reply.headers_mut() = headers.clone();
    exchange::with(reply, "content-length", length)
}
