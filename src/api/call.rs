//! What all calls that make a job have in common: a repeat is recognised, the job is opened, and
//! its caller waits as it prefers.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    App, answer,
    auth::Tenant,
    jobs, limits,
    line::Line,
    stream::{self, Events},
};
use crate::{
    engine::{
        Asked, Opened, Plan,
        job::{Job, Outcome, Watch},
        request::ImageRequest,
    },
    error::{Code, Error},
};

/// Callers that may wait for one job; more are told to come back.
const MOST_WAITING: usize = 128;
const IN_FLIGHT_PAUSE: Duration = Duration::from_secs(1);

/// How a call wants to be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    /// The `Idempotency-Key`.
    key: Option<String>,
    /// Whether the SDK says that it asks again.
    retry: bool,
    /// `Prefer: respond-async`.
    respond_async: bool,
    /// `Prefer: wait=N`.
    wait: Option<Duration>,
}

impl Manner {
    /// Reads the headers.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let mut manner = Self { retry: is_sdk_retry(headers), ..Self::default() };
        if let Some(key) = headers.get("idempotency-key") {
            let visible = key.to_str().ok().filter(|key| {
                (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
            });
            let key = visible.ok_or_else(|| {
                Error::invalid(
                    "Idempotency-Key",
                    "the key must be 1 to 255 visible ASCII characters",
                )
            })?;
            manner.key = Some(key.to_owned());
        }
        let preferences = headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok());
        for preference in preferences.flat_map(|v| v.split(',')).map(str::trim) {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            if name.eq_ignore_ascii_case("respond-async") {
                manner.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") {
                let seconds = value.trim_matches('"').parse().map_err(|_| {
                    Error::invalid("Prefer", "wait is a whole number of seconds, as in wait=60")
                })?;
                manner.wait = Some(Duration::from_secs(seconds));
            }
            // Preferences of others are theirs to ignore.
        }
        Ok(manner)
    }
}

/// Whether the caller's SDK says that it asks again for what it asked before.
fn is_sdk_retry(headers: &HeaderMap) -> bool {
    let count = headers.get("x-stainless-retry-count").and_then(|v| v.to_str().ok());
    count.and_then(|c| c.parse::<u32>().ok()).is_some_and(|c| c > 0)
}

/// SHA-256 of what is asked: the same for the same JSON, however its keys are ordered.
pub(super) fn fingerprint(method: &Method, route: &str, body: &Map<String, Value>) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(method.as_str());
    digest.update([0]);
    digest.update(route);
    digest.update([0]);
    canonical_object(&mut digest, body);
    digest.finalize().into()
}

fn canonical_object(digest: &mut Sha256, object: &Map<String, Value>) {
    let mut fields: Vec<_> = object.iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    digest.update(b"{");
    for (name, value) in fields {
        // Its length keeps a name from running into its value.
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        canonical(digest, value);
    }
    digest.update(b"}");
}

fn canonical(digest: &mut Sha256, value: &Value) {
    match value {
        Value::Object(object) => canonical_object(digest, object),
        Value::Array(items) => {
            digest.update(b"[");
            for item in items {
                canonical(digest, item);
            }
            digest.update(b"]");
        }
        Value::String(text) => {
            digest.update(b"\"");
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        other => {
            digest.update(b"=");
            digest.update(other.to_string());
            digest.update(b";");
        }
    }
}

/// A planned call and who makes it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) tenant: Tenant,
    pub(super) request_id: String,
    /// What its answer goes out on.
    pub(super) line: Option<Line>,
    /// The route's path.
    pub(super) route: &'static str,
    pub(super) manner: Manner,
    pub(super) fingerprint: [u8; 32],
    /// Whether white space is wanted while the job runs.
    pub(super) heartbeat: bool,
    /// Which events are wanted in place of a document.
    pub(super) stream: Option<Events>,
    pub(super) begun: std::time::Instant,
}

impl Call {
    /// The job that the call repeats, if it repeats one. To be asked before anything may refuse
    /// the call: what was granted is not asked for again.
    pub(super) async fn repeated(&self, app: &Arc<App>) -> Result<Option<Seat>, Error> {
        let joins = self.manner.retry && self.tenant.grant.join_retries;
        if self.manner.key.is_none() && !joins {
            return Ok(None);
        }
        // A caller that hangs up meanwhile must not leave a job that is joined by nobody.
        let seeking = self.clone().seek(Arc::clone(app));
        app.engine.tasks.spawn(seeking).await.map_err(Error::internal)?
    }

    /// A job for the call.
    pub(super) async fn open(
        &self,
        app: &Arc<App>,
        plan: Plan,
        request: ImageRequest,
    ) -> Result<Seat, Error> {
        // Nor one that is written down and not begun.
        let opening = self.clone().begin(Arc::clone(app), plan, request);
        app.engine.tasks.spawn(opening).await.map_err(Error::internal)?
    }

    /// Waits for the job and answers, as the caller prefers.
    pub(super) async fn answer(self, app: &Arc<App>, seat: Seat) -> Result<Response, Error> {
        let Seat { caller, job, watch, replayed } = seat;
        let wait = match (self.manner.respond_async, self.manner.wait) {
            (true, wait) => wait.unwrap_or_default().min(app.wait),
            (false, wait) => wait.unwrap_or(app.wait).min(app.wait),
        };
        if let Some(events) = self.stream.filter(|_| !self.manner.respond_async) {
            return Ok(stream::answer(
                app,
                events,
                Waiting { job, caller, watch, line: self.line, tenant: self.tenant },
                wait,
            ));
        }
        let beats = self.heartbeat && !self.manner.respond_async && app.heartbeat < wait;
        let patience = if beats { app.heartbeat } else { wait };
        let waited = tokio::select! {
            waited = tokio::time::timeout(patience, watch.outcome()) => waited.ok(),
            // The process is about to end; the job goes on in the next one.
            () = app.closing.cancelled() => None,
        };
        let outcome = match waited {
            Some(outcome) => outcome,
            None if beats && !app.closing.is_cancelled() => {
                let left = wait.saturating_sub(patience);
                return Ok(beating(app, &job, caller, self.line, self.tenant, left));
            }
            None => {
                caller.answered();
                if self.manner.respond_async {
                    return Ok(accepted(&job));
                }
                app.engine.abandon(&job);
                return Err(still_running(&job));
            }
        };
        if let Some(Ok(success)) = &outcome {
            limits::count_tokens(app, &self.tenant, &success.usage).await;
        }
        let answer = match outcome {
            Some(outcome) => finished(app, &job, outcome, Some(self.begun), self.line).await,
            None => Err(Error::internal("a job ended without a result")),
        };
        caller.answered();
        let mut answer = answer?;
        if replayed {
            let headers = answer.headers_mut();
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        Ok(answer)
    }

    async fn seek(self, app: Arc<App>) -> Result<Option<Seat>, Error> {
        let engine = &app.engine;
        let grant = &self.tenant.grant;
        if let Some(idempotency) = self.idempotency() {
            let known = engine.known(&idempotency, &self.fingerprint).await?;
            return match known {
                Some(id) => self.replay(&app, &id).await.map(Some),
                None => Ok(None),
            };
        }
        let Some((job, watch)) = engine.join(grant, &self.fingerprint).await? else {
            return Ok(None);
        };
        engine.metrics.joins.inc();
        tracing::info!(job = job.id, request_id = self.request_id, "a repeat joined its job");
        Ok(Some(Seat::new(&app, job, watch, false)))
    }

    async fn begin(self, app: Arc<App>, plan: Plan, request: ImageRequest) -> Result<Seat, Error> {
        let asked = Asked {
            grant: Arc::clone(&self.tenant.grant),
            request_id: self.request_id.clone(),
            fingerprint: self.fingerprint,
            idempotency: self.idempotency(),
            permit: limits::enter(&app, &self.tenant).await?,
        };
        match app.engine.open(plan, request, asked).await? {
            Opened::New(job, watch) => Ok(Seat::new(&app, job, watch, false)),
            // Another call with this key was quicker.
            Opened::Known(id) => self.replay(&app, &id).await,
        }
    }

    /// SHA-256 of API key, route and `Idempotency-Key`, in hex.
    fn idempotency(&self) -> Option<String> {
        let key = self.manner.key.as_ref()?;
        let mut digest = Sha256::new();
        for part in [self.tenant.grant.key_id.as_str(), self.route, key.as_str()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Some(hex::encode(digest.finalize()))
    }

    /// A place at the job that the call's `Idempotency-Key` began.
    async fn replay(&self, app: &Arc<App>, id: &str) -> Result<Seat, Error> {
        let known = app.engine.find(&self.tenant.grant, id).await?;
        let job = known.ok_or_else(|| {
            let message = "the result of this Idempotency-Key was kept for its time and is gone";
            Error::new(Code::ResultExpired, message)
        })?;
        if job.finished_at().is_none() && job.watchers() >= MOST_WAITING {
            let message = format!("{MOST_WAITING} callers wait for this job already");
            let error = Error::new(Code::IdempotencyInFlight, message);
            return Err(error.retry_after(Some(IN_FLIGHT_PAUSE)));
        }
        app.engine.metrics.joins.inc();
        let watch = job.watch();
        Ok(Seat::new(app, job, watch, true))
    }
}

/// A caller that is answered while its job runs.
pub(super) struct Waiting {
    /// Let go of before the caller, which counts who is left.
    pub(super) watch: Watch,
    pub(super) caller: Caller,
    pub(super) job: Arc<Job>,
    pub(super) line: Option<Line>,
    pub(super) tenant: Tenant,
}

/// A caller, its job, its place in the job's row, and whether the job was there before.
pub(super) struct Seat {
    // Let go of first: then the row is seen without it.
    watch: Watch,
    caller: Caller,
    job: Arc<Job>,
    replayed: bool,
}

impl Seat {
    fn new(app: &Arc<App>, job: Arc<Job>, watch: Watch, replayed: bool) -> Self {
        let caller = Caller { app: Arc::clone(app), job: Some(Arc::clone(&job)) };
        Self { watch, caller, job, replayed }
    }
}

/// A caller that waits. One that goes away between the end of its job and its answer leaves the
/// job to a repeat.
pub(super) struct Caller {
    app: Arc<App>,
    job: Option<Arc<Job>>,
}

impl Caller {
    /// From here on the answer's body knows whether it arrived.
    pub(super) fn answered(mut self) {
        self.job = None;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // What others wait for too is not lost.
        if let Some(job) = self.job.take().filter(|job| !job.is_watched()) {
            self.app.engine.settle(&job, false);
        }
    }
}

/// The answer of a job that is over.
pub(super) async fn finished(
    app: &App,
    job: &Arc<Job>,
    outcome: Outcome,
    begun: Option<std::time::Instant>,
    line: Option<Line>,
) -> Result<Response, Error> {
    match outcome {
        Ok(success) => {
            let answer = answer::images(&app.engine, job, success, begun, line).await;
            if answer.as_ref().is_err_and(|e| e.code.should_retry()) {
                // The repeat that is advised must find the job again.
                app.engine.abandon(job);
            }
            answer
        }
        // Rendered here, for an outcome is shared and an error is not cloned.
        Err(error) => Ok(error.as_ref().into_response()),
    }
}

/// The error of a job that is not over.
pub(super) fn still_running(job: &Job) -> Error {
    let mut error = Error::new(
        Code::JobStillRunning,
        format!("the job still runs; ask GET /v1/jobs/{} or repeat with the SDK's retry", job.id),
    );
    error.retry_after = Some(Duration::from_secs(5));
    error.mediagate = Some(Box::new(json!({ "job_id": job.id })));
    error
}

/// The answer to a caller that will come for its result.
fn accepted(job: &Job) -> Response {
    let mut response = (StatusCode::ACCEPTED, axum::Json(jobs::describe(job))).into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)) {
        headers.insert(header::LOCATION, location);
    }
    if let Ok(id) = HeaderValue::from_str(&job.id) {
        headers.insert("x-mediagate-job-id", id);
    }
    headers.insert("preference-applied", HeaderValue::from_static("respond-async"));
    response
}

/// An early 200 whose body is white space until the job is over: for proxies that cut idle
/// connections. An error then stands in the body.
fn beating(
    app: &Arc<App>,
    job: &Arc<Job>,
    caller: Caller,
    line: Option<Line>,
    tenant: Tenant,
    left: Duration,
) -> Response {
    let until = tokio::time::Instant::now() + left;
    let present = job.watch();
    let (app, job) = (Arc::clone(app), Arc::clone(job));
    let job_of = Arc::clone(&job);
    let start = Beat { app, job: job_of, caller, line, tenant, until, _present: present };
    let body = futures_util::stream::unfold(Some(start), |beat| async move {
        let beat = beat?;
        let pause = tokio::time::sleep(
            beat.app
                .heartbeat
                .min(beat.until.saturating_duration_since(tokio::time::Instant::now())),
        );
        let watch = beat.job.watch();
        let outcome = tokio::select! {
            outcome = watch.outcome() => outcome,
            () = pause => None,
            () = beat.app.closing.cancelled() => None,
        };
        let over = tokio::time::Instant::now() >= beat.until || beat.app.closing.is_cancelled();
        if outcome.is_none() && !over {
            let space = futures_util::stream::iter([Ok(Bytes::from_static(b" "))]).boxed();
            return Some((space, Some(beat)));
        }
        if let Some(Ok(success)) = &outcome {
            limits::count_tokens(&beat.app, &beat.tenant, &success.usage).await;
        }
        let answer = if let Some(outcome) = outcome {
            finished(&beat.app, &beat.job, outcome, None, beat.line).await
        } else {
            beat.app.engine.abandon(&beat.job);
            Err(still_running(&beat.job))
        };
        let response = answer.unwrap_or_else(axum::response::IntoResponse::into_response);
        beat.caller.answered();
        Some((response.into_body().into_data_stream().boxed(), None))
    });
    let mut response = Response::new(Body::from_stream(body.flatten()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Proxies that gather an answer before they pass it on would undo it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Ok(id) = HeaderValue::from_str(&job.id) {
        headers.insert("x-mediagate-job-id", id);
    }
    response
}

/// A caller that is kept awake.
struct Beat {
    app: Arc<App>,
    job: Arc<Job>,
    /// It waits, also between two beats. Let go of before the caller, which counts who is left.
    _present: Watch,
    caller: Caller,
    line: Option<Line>,
    tenant: Tenant,
    until: tokio::time::Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(body: &str) -> [u8; 32] {
        fingerprint(&Method::POST, "/v1/images/generations", &serde_json::from_str(body).unwrap())
    }

    #[test]
    fn the_same_request_has_the_same_fingerprint_and_no_other() {
        let base = print(r#"{"model":"m","prompt":"a cat","n":1,"x":{"b":[1,2],"a":null}}"#);
        assert_eq!(
            base,
            print(r#"{"x":{"a":null,"b":[1,2]}, "n":1,"prompt":"a cat","model":"m"}"#)
        );
        for other in [
            r#"{"model":"m","prompt":"a cat","n":2,"x":{"b":[1,2],"a":null}}"#,
            r#"{"model":"m","prompt":"a cat","n":1.0,"x":{"b":[1,2],"a":null}}"#,
            r#"{"model":"m","prompt":"a cat","n":1,"x":{"b":[2,1],"a":null}}"#,
            r#"{"model":"m","prompt":"a cat","n":1,"x":{"b":[12],"a":null}}"#,
            r#"{"model":"m","prompt":"a cat","n":"1","x":{"b":[1,2],"a":null}}"#,
            r#"{"model":"m","prompt":"a cat","n":1,"x":{"b":[1,2]}}"#,
        ] {
            assert_ne!(base, print(other), "{other}");
        }
        let body = Map::new();
        let one = fingerprint(&Method::POST, "/v1/a", &body);
        assert_ne!(one, fingerprint(&Method::POST, "/v1/b", &body));
    }

    #[test]
    fn preferences_are_read_and_wrong_ones_named() {
        let manner = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            Manner::of(&map).map_err(|e| e.param.unwrap())
        };
        let wait = |n| Some(Duration::from_secs(n));
        let none = Manner::default();
        assert_eq!(manner(&[]).unwrap(), none);
        assert_eq!(
            manner(&[("prefer", "respond-async, wait=10")]).unwrap(),
            Manner { respond_async: true, wait: wait(10), ..none.clone() }
        );
        assert_eq!(
            manner(&[("prefer", "handling=lenient"), ("prefer", "Wait=\"3\"")]).unwrap(),
            Manner { wait: wait(3), ..none.clone() }
        );
        assert_eq!(manner(&[("prefer", "wait=soon")]).unwrap_err(), "Prefer");
        assert_eq!(manner(&[("prefer", "wait=-1")]).unwrap_err(), "Prefer");
        let long = "k".repeat(256);
        for wrong in ["", "two words", "caf\u{e9}", long.as_str()] {
            let mut map = HeaderMap::new();
            map.insert("idempotency-key", HeaderValue::from_bytes(wrong.as_bytes()).unwrap());
            let error = Manner::of(&map).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("Idempotency-Key"), "{wrong:?}");
        }
        assert_eq!(
            manner(&[("idempotency-key", "a-1"), ("x-stainless-retry-count", "2")]).unwrap(),
            Manner { key: Some("a-1".to_owned()), retry: true, ..none }
        );
    }
}
