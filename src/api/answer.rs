//! A finished job as OpenAI's images answer.
//!
//! The body is a list of pieces: JSON text between the pictures, and the pictures themselves as
//! the buffers or files they lie in. A picture is never copied into a JSON document.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use http_body::Frame;
use providers::{media::Format, money::Cost};
use serde_json::{Map, Value, json};

use super::{line::Line, observe::Note};
use crate::{
    crash::{Point, point},
    engine::{
        Engine,
        job::{Delivered, Job, Success},
        unix,
    },
    error::{Code, Error},
    media::blob::{Blob, Pieces},
};

/// A piece of an answer.
enum Part {
    Text(Bytes),
    Picture(Blob),
}

/// The answer to a call, or to a question for its result.
pub(super) async fn images(
    engine: &Arc<Engine>,
    job: &Arc<Job>,
    success: Arc<Success>,
    begun: Option<std::time::Instant>,
    line: Option<Line>,
) -> Result<Response, Error> {
    point(Point::BeforeAnswer);
    let success = if success.wants_url { engine.kept(job, success).await? } else { success };
    let mut parts = Vec::new();
    let created = unix(job.created_at);
    let mut text = format!("{{\"created\":{created},\"data\":[");
    for (index, picture) in success.pictures.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        let revised = picture
            .revised_prompt
            .as_ref()
            .map(|p| format!(",\"revised_prompt\":{}", json!(p)))
            .unwrap_or_default();
        if success.wants_url {
            let kept = picture.kept.as_ref().ok_or_else(gone)?;
            let url = engine.store.url(kept).await.map_err(unavailable)?;
            text.push_str(&format!("{{\"url\":{}{revised}}}", json!(url)));
        } else {
            text.push_str("{\"b64_json\":\"");
            parts.push(Part::Text(Bytes::from(std::mem::take(&mut text))));
            parts.push(Part::Picture(bytes_of(engine, picture).await?));
            text = format!("\"{revised}}}");
        }
    }
    text.push(']');
    let mut rest = beside(&success);
    if let Some(usage) = usage(&success.usage) {
        rest.insert("usage".into(), usage);
    }
    rest.insert("mediagate".into(), mediagate(job, &success));
    let rest = Value::Object(rest).to_string();
    text.push(',');
    text.push_str(rest.strip_prefix('{').unwrap_or(&rest));
    parts.push(Part::Text(Bytes::from(text)));
    let owner = Owner { engine: Arc::clone(engine), job: Arc::clone(job), line, sent: false };
    let body = AnswerBody::new(parts, owner);
    let length = body.left;
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    details(headers, job, &success, begun);
    response.extensions_mut().insert(Note {
        job: job.id.clone(),
        model: success.model.clone(),
        deployment: success.deployment.clone(),
        attempts: success.attempts.len(),
        upstream: success.upstream,
        cost_usd: success.cost.as_ref().map(|c| c.total().to_string()).unwrap_or_default(),
    });
    Ok(response)
}

/// The events of a finished job: one for each picture, the last with what it took.
pub(super) async fn events(
    engine: &Arc<Engine>,
    job: &Arc<Job>,
    success: Arc<Success>,
    event: &str,
    line: Option<Line>,
) -> Result<Body, Error> {
    let mut parts = Vec::new();
    let created = unix(job.created_at);
    for (index, picture) in success.pictures.iter().enumerate() {
        let head = format!("event: {event}\ndata: {{\"type\":\"{event}\",\"b64_json\":\"");
        parts.push(Part::Text(Bytes::from(head)));
        parts.push(Part::Picture(bytes_of(engine, picture).await?));
        let mut rest = beside(&success);
        rest.insert("created_at".into(), created.into());
        if let Some(prompt) = &picture.revised_prompt {
            rest.insert("revised_prompt".into(), prompt.as_str().into());
        }
        if index + 1 == success.pictures.len() {
            if let Some(usage) = usage(&success.usage) {
                rest.insert("usage".into(), usage);
            }
            rest.insert("mediagate".into(), mediagate(job, &success));
        }
        let rest = Value::Object(rest).to_string();
        let rest = rest.strip_prefix('{').unwrap_or(&rest);
        parts.push(Part::Text(Bytes::from(format!("\",{rest}\n\n"))));
    }
    let owner = Owner { engine: Arc::clone(engine), job: Arc::clone(job), line, sent: false };
    Ok(Body::new(AnswerBody::new(parts, owner)))
}

/// A picture's bytes, wherever they are.
async fn bytes_of(engine: &Engine, picture: &Delivered) -> Result<Blob, Error> {
    match (&picture.blob, &picture.kept) {
        (Some(blob), _) => Ok(blob.clone()),
        (None, Some(kept)) => {
            let budget = engine.transport.budget();
            engine.store.read(kept, budget).await.map_err(unavailable)
        }
        (None, None) => Err(gone()),
    }
}

fn gone() -> Error {
    Error::new(
        Code::ResultExpired,
        "the result was delivered and not kept; ask for response_format url to keep it",
    )
}

fn unavailable(error: crate::store::StoreError) -> Error {
    Error::new(Code::StoreUnavailable, "the picture cannot be had from the store just now")
        .retry_after(Some(Duration::from_secs(2)))
        .because(error)
}

/// What OpenAI echoes of a call.
fn beside(success: &Success) -> Map<String, Value> {
    let mut answer = Map::new();
    // The SDKs check these against OpenAI's own vocabulary: other values stand in `outputs`.
    let mut echo = |name: &str, value: Option<&str>, known: &[&str]| {
        if let Some(value) = value.filter(|v| known.contains(v)) {
            answer.insert(name.to_owned(), value.into());
        }
    };
    if let Some(first) = success.pictures.first().filter(|p| p.format != Format::Svg) {
        let size = first.size.to_string();
        echo("size", Some(&size), &["1024x1024", "1024x1536", "1536x1024"]);
        echo("output_format", Some(first.format.name()), &["png", "webp", "jpeg"]);
    }
    echo("quality", success.quality.as_deref(), &["low", "medium", "high"]);
    echo("background", success.background.as_deref(), &["transparent", "opaque"]);
    answer
}

fn usage(usage: &providers::Usage) -> Option<Value> {
    let (text, image) =
        (usage.text_input_tokens.unwrap_or(0), usage.image_input_tokens.unwrap_or(0));
    let drawn = usage.image_output_tokens?;
    let written = usage.text_output_tokens.unwrap_or(0);
    Some(json!({
        "input_tokens": text + image,
        "output_tokens": drawn + written,
        "total_tokens": text + image + drawn + written,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens_details": {"text_tokens": written, "image_tokens": drawn},
    }))
}

/// The `mediagate` object.
fn mediagate(job: &Job, success: &Success) -> Value {
    let outputs: Vec<Value> = success
        .pictures
        .iter()
        .map(|p| {
            let vector = p.format == Format::Svg;
            json!({
                "width": (!vector).then_some(p.size.width),
                "height": (!vector).then_some(p.size.height),
                "format": p.format.name(),
                "bytes": p.bytes,
                "sha256": p.sha256,
                "seed": p.seed,
                "c2pa": p.c2pa,
                "expires_at": p.kept.as_ref().and_then(|k| k.expires_at),
            })
        })
        .collect();
    json!({
        "job_id": job.id,
        "model": success.model,
        "provider": success.provider,
        "deployment": success.deployment,
        "attempts": success.attempts,
        "adjustments": success.adjustments,
        "failures": success.failures,
        "cost": success.cost.as_ref().map(cost),
        "outputs": outputs,
        "simulated": success.simulated,
    })
}

/// A cost as the API shows it.
pub(super) fn cost(cost: &Cost) -> Value {
    let lines: Vec<Value> = cost
        .lines
        .iter()
        .map(|line| {
            json!({
                "unit": line.unit.name(),
                "quantity": line.quantity.to_string(),
                "rate": {"usd": line.rate.amount.to_string(), "per": line.rate.per},
                "usd": line.amount.to_string(),
            })
        })
        .collect();
    json!({ "usd": cost.total().to_string(), "lines": lines })
}

fn details(
    headers: &mut HeaderMap,
    job: &Job,
    success: &Success,
    begun: Option<std::time::Instant>,
) {
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-mediagate-job-id", &job.id);
    set("x-mediagate-provider", &success.provider);
    set("x-mediagate-model", &success.model);
    set("x-mediagate-attempts", &success.attempts.len().to_string());
    if let Some(cost) = &success.cost {
        set("x-mediagate-cost-usd", &cost.total().to_string());
    }
    if let Some(begun) = begun {
        let own = begun.elapsed().saturating_sub(success.upstream);
        set("x-mediagate-overhead-ms", &format!("{:.1}", own.as_secs_f64() * 1e3));
    }
}

/// Knows whether the caller got all of the answer, and keeps or lets go of the bytes.
struct Owner {
    engine: Arc<Engine>,
    job: Arc<Job>,
    /// What it goes out on, where its caller may ask again.
    line: Option<Line>,
    sent: bool,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let sent = self.sent;
        point(Point::AfterAnswer);
        self.engine.settle(&self.job, sent);
        if let Some(line) = self.line.take().filter(|_| sent) {
            line.handed(&self.engine, &self.job);
        }
    }
}

struct AnswerBody {
    parts: VecDeque<Part>,
    current: Option<Pieces>,
    left: u64,
    owner: Owner,
}

impl AnswerBody {
    fn new(parts: Vec<Part>, owner: Owner) -> Self {
        let lengths = parts.iter().map(|part| match part {
            Part::Text(text) => text.len() as u64,
            Part::Picture(blob) => blob.base64_len(),
        });
        Self { left: lengths.sum(), parts: parts.into(), current: None, owner }
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(pieces) = &mut self.current {
                match pieces.next_base64()? {
                    Some(piece) if piece.is_empty() => continue,
                    Some(piece) => return Ok(Some(piece)),
                    None => self.current = None,
                }
            }
            match self.parts.pop_front() {
                None => return Ok(None),
                Some(Part::Text(text)) => return Ok(Some(text)),
                Some(Part::Picture(blob)) => self.current = Some(blob.pieces()),
            }
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let next = self.next();
        if let Ok(Some(piece)) = &next {
            self.left = self.left.saturating_sub(piece.len() as u64);
            if self.left == 0 {
                self.owner.sent = true;
            } else {
                point(Point::MidAnswer);
            }
        }
        Poll::Ready(next.map(|piece| piece.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}
