//! From a valid order to the pictures of a job: what the dialects share beyond the wire.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::sleep_until;

use super::{
    data::Order,
    draw::{Scene, Veil},
    encode::Recipe,
    exchange::{Exchange, Problem},
    faults::Kind,
    hooks::{self, Hook},
    jobs::{Job, NewJob},
};

/// What a dialect knows about the pictures beside their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// The text.
    pub prompt: &'a str,
    /// The seed, if one was given.
    pub seed: Option<u64>,
    /// Without a background.
    pub transparent: bool,
    /// Quality of a lossy format, 0 to 100.
    pub quality: Option<u8>,
    /// How a safety filter hides them.
    pub veil: Veil,
}

/// The pictures of an order. Without a seed chance gives one below 2^31.
pub(crate) fn recipes(x: &Exchange, model: &str, order: &Order, wish: &Wish<'_>) -> Vec<Recipe> {
    let seed = wish.seed.unwrap_or_else(|| x.sim.jobs.chance() >> 33);
    (0..u64::from(order.count))
        .map(|index| {
            let caption =
                format!("{} / {model}  {}  seed {}", x.vendor.name(), order.size, seed + index);
            Recipe {
                scene: Scene {
                    size: order.size,
                    prompt: wish.prompt.to_owned(),
                    caption,
                    seed: seed.wrapping_add(index),
                    transparent: wish.transparent && order.format.has_alpha(),
                    veil: wish.veil,
                    work: order.work.clone(),
                },
                format: order.format,
                quality: wish.quality.unwrap_or(85),
                harm: x.harm(),
            }
        })
        .collect()
}

/// Takes a job, begins to draw, and sees to it that its end is pushed where that is wanted.
pub(crate) async fn take(
    x: &Exchange,
    model: &str,
    request: Value,
    work: Result<Vec<Recipe>, Problem>,
    hook: Option<Hook>,
) -> Job {
    let request = shortened(request);
    for recipe in work.iter().flatten() {
        x.sim.gallery.order(recipe);
    }
    let job = x.sim.jobs.take(NewJob {
        vendor: x.vendor,
        model,
        prompt: prompt(x, &work),
        request,
        work,
        fault: x.fault.clone(),
        longer: x.extra_time(),
        client_ref: Some(x.header("x-client-request-id")).filter(|name| !name.is_empty()),
        hook,
    });
    hooks::order(x, &job).await;
    job
}

/// A request as it is echoed: vendors put addresses in the place of inline pictures.
fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() > 65_536 => {
            text.chars().take(64).collect::<String>().into()
        }
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(object) => {
            object.into_iter().map(|(name, value)| (name, shortened(value))).collect()
        }
        other => other,
    }
}

/// The text of a request, whether or not it is drawn.
fn prompt(x: &Exchange, work: &Result<Vec<Recipe>, Problem>) -> String {
    if let Ok([first, ..]) = work.as_deref() {
        return first.scene.prompt.clone();
    }
    let body: Value = serde_json::from_slice(&x.body).unwrap_or_default();
    let text = [
        "/prompt",
        "/input/prompt",
        "/promptText",
        "/0/positivePrompt",
        "/config/prompt",
        "/input/messages/0/content/0/text",
    ]
    .iter()
    .find_map(|at| body.pointer(at)?.as_str());
    text.unwrap_or_default().to_owned()
}

/// The whole of a synchronous call: takes the job, waits for its end, gives the pictures.
pub(crate) async fn work(
    x: &Exchange,
    model: &str,
    recipes: Vec<Recipe>,
) -> Result<(Job, Vec<Bytes>), Problem> {
    let failed = x.fault(Kind::Failed).is_some();
    let work = if failed { Err(Problem::Internal) } else { Ok(recipes) };
    let job = take(x, model, Value::Null, work, None).await;
    sleep_until(job.ends()).await;
    let mut pictures = Vec::new();
    for recipe in job.work.clone()? {
        let picture = x.sim.gallery.picture(&recipe).await;
        pictures.push(picture.map_err(|error| {
            tracing::error!(error, "the simulator could not draw");
            Problem::Internal
        })?);
    }
    x.sim.jobs.notice(&job.id);
    Ok((job, pictures))
}

/// Seconds with a fraction.
pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
