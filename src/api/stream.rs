//! Answers as server-sent events, in the shape OpenAI gives them.
//!
//! A provider that draws without showing its drafts has none to pass on: while it works a comment
//! goes out now and then, which keeps proxies from cutting the line, and at the end each picture
//! comes as the event that completes it. An error after the first byte is an event, too.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{
    App, answer,
    call::{self, Waiting},
    limits, render,
    request::Kind,
};

/// How long a stream is silent at most.
const SILENCE: Duration = Duration::from_secs(10);

/// Which events a stream has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events {
    completed: &'static str,
}

impl Events {
    /// Those of a path.
    pub(super) fn of(kind: Kind) -> Self {
        let completed = match kind {
            Kind::Generation => "image_generation.completed",
            Kind::Edit | Kind::Variation => "image_edit.completed",
        };
        Self { completed }
    }
}

/// A caller that hears events.
struct Listening {
    app: Arc<App>,
    events: Events,
    waiting: Waiting,
    until: tokio::time::Instant,
}

/// Answers at once, and goes on as the job does.
pub(super) fn answer(app: &Arc<App>, events: Events, waiting: Waiting, wait: Duration) -> Response {
    let id = waiting.job.id.clone();
    let until = tokio::time::Instant::now() + wait;
    let listening = Listening { app: Arc::clone(app), events, waiting, until };
    let first = stream::iter([Ok(Bytes::from(format!(": {id} is accepted\n\n")))]).boxed();
    let body = stream::unfold(Some(listening), next).flatten();
    let mut response = Response::new(Body::from_stream(first.chain(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather an answer before they pass it on would undo it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-mediagate-job-id", id);
    }
    response
}

type Piece = stream::BoxStream<'static, Result<Bytes, axum::Error>>;

async fn next(listening: Option<Listening>) -> Option<(Piece, Option<Listening>)> {
    let listening = listening?;
    let left = listening.until.saturating_duration_since(tokio::time::Instant::now());
    let watch = listening.waiting.job.watch();
    let outcome = tokio::select! {
        outcome = watch.outcome() => outcome,
        () = tokio::time::sleep(SILENCE.min(left)) => None,
        () = listening.app.closing.cancelled() => None,
    };
    let over =
        listening.app.closing.is_cancelled() || tokio::time::Instant::now() >= listening.until;
    if outcome.is_none() && !over {
        let comment = stream::iter([Ok(Bytes::from_static(b": the job runs\n\n"))]).boxed();
        return Some((comment, Some(listening)));
    }
    let Listening { app, events, waiting, .. } = listening;
    let Waiting { watch: present, caller, job, line, tenant } = waiting;
    if let Some(Ok(success)) = &outcome {
        limits::count_tokens(&app, &tenant, &success.usage).await;
    }
    let told = match outcome {
        Some(Ok(success)) => {
            let told = answer::events(&app.engine, &job, success, events.completed, line).await;
            if told.as_ref().is_err_and(|e| e.code.should_retry()) {
                app.engine.abandon(&job);
            }
            told.map_err(|error| render::body(&error))
        }
        Some(Err(error)) => Err(render::body(&error)),
        None => {
            app.engine.abandon(&job);
            Err(render::body(&call::still_running(&job)))
        }
    };
    let body = told.unwrap_or_else(|error| {
        Body::from(format!("event: error\ndata: {}\n\n", with_type(error)))
    });
    drop(present);
    caller.answered();
    Some((body.into_data_stream().boxed(), None))
}

/// The error as an event: the same document, with its type.
fn with_type(mut error: serde_json::Value) -> serde_json::Value {
    error["type"] = "error".into();
    error
}
