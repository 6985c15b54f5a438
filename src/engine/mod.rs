//! The engine: the only part that sends, waits, retries and fails over.
//!
//! A request becomes [`candidate`]s on paper, a [`job`] runs them through [`deliver`], and each
//! attempt is one [`drive`] of an adapter over the [`transport`].

pub mod callback_auth;
pub mod candidate;
pub mod deliver;
mod drive;
mod failure;
pub mod job;
mod lift;
mod listen;
mod picture;
pub mod poll;
pub mod registry;
pub mod request;
pub mod transport;
mod verdict;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::join_all};

use parking_lot::Mutex;
use providers::money::Money;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::{
    candidate::{Candidate, Excluded, PlanLimits},
    deliver::{AmbiguityPolicy, Delivery, Piece},
    failure::Failure,
    job::{Delivered, Job, Jobs, Success},
    picture::PictureLimits,
    registry::{Registry, Resolved, Unresolved},
    request::{Adjustment, AdjustmentKind, ImageRequest},
    transport::Transport,
    verdict::Risk,
};
use crate::{
    error::{Code, Error},
    media::{fetch::Fetcher, pool::Pool},
    metrics::Metrics,
    store::{KeyParts, ObjectMeta, Store},
};

/// How long the store may take for one picture.
const STORE_PATIENCE: Duration = Duration::from_secs(90);
/// When a caller whose pictures the store did not take is to come back.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// What an operator can set.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    /// Longest time of a picture job.
    pub deadline: Duration,
    /// Most deployments tried for one picture.
    pub max_attempts: u32,
    /// What to do when a submit's outcome is unknown.
    pub ambiguous: AmbiguityPolicy,
    /// Most money put at risk by going on after one.
    pub ambiguous_job_cap: Money,
    /// Whether deployments without a price may be used.
    pub allow_unpriced: bool,
    /// Largest local enlargement, linear.
    pub max_upscale: f64,
    /// Most pixels of a picture that is decoded.
    pub max_pixels: u64,
    pub(crate) pictures: PictureLimits,
}

impl EngineSettings {
    /// Settings with the documented defaults.
    pub fn new(max_upscale: f64, max_pixels: u64) -> Self {
        Self {
            deadline: Duration::from_mins(10),
            max_attempts: 3,
            ambiguous: AmbiguityPolicy::default(),
            ambiguous_job_cap: Money::from_nanos(100_000_000),
            allow_unpriced: false,
            max_upscale,
            max_pixels,
            pictures: PictureLimits { max_upscale, max_pixels },
        }
    }
}

/// The engine and everything it acts through. One per process.
#[derive(Debug)]
pub struct Engine {
    /// Names and deployments.
    pub registry: Registry,
    /// Connections to providers.
    pub transport: Transport,
    /// The guarded door to links out of replies.
    pub fetcher: Fetcher,
    /// Pixel work.
    pub pool: Pool,
    /// Finished pictures.
    pub store: Store,
    /// What an operator can watch.
    pub metrics: Metrics,
    /// Running and lately finished jobs.
    pub jobs: Jobs,
    /// What the operator set.
    pub settings: EngineSettings,
    /// Work that goes on without its caller; waited for at shutdown.
    pub tasks: TaskTracker,
}

/// A request that has been planned for every deployment of its models.
#[derive(Debug)]
pub struct Plan {
    /// The name answers carry.
    pub model: String,
    /// Those that can serve it, in the order they are tried.
    pub candidates: Vec<Arc<Candidate>>,
    /// Those that cannot, and why.
    pub excluded: Vec<Excluded>,
}

impl Engine {
    /// Decides who can serve a request and how. Calls nobody.
    pub fn plan(&self, request: &ImageRequest) -> Result<Plan, Error> {
        let limits = PlanLimits {
            max_upscale: self.settings.max_upscale,
            allow_unpriced: self.settings.allow_unpriced,
        };
        let mut plan = Plan { model: String::new(), candidates: Vec::new(), excluded: Vec::new() };
        let mut missing = None;
        for name in &request.models {
            let resolved = match self.registry.resolve(name) {
                Ok(resolved) => resolved,
                // A mistyped name is never passed over in silence.
                Err(why @ Unresolved::Unknown(_)) => return Err(unresolved(name, why)),
                Err(why) => {
                    missing.get_or_insert(unresolved(name, why));
                    continue;
                }
            };
            if plan.model.is_empty() {
                plan.model.clone_from(&resolved.model);
            }
            add_candidates(&mut plan, name, resolved, request, limits);
        }
        if plan.candidates.is_empty() && plan.excluded.is_empty() {
            return Err(missing.unwrap_or_else(|| {
                Error::new(
                    Code::NoProviderAvailable,
                    "the provider choice of this request leaves no deployment",
                )
                .param("provider")
            }));
        }
        order_by_choice(&mut plan.candidates, request);
        Ok(plan)
    }

    /// Starts a planned job. It goes on when the caller hangs up.
    pub fn start(self: &Arc<Self>, plan: Plan, request: ImageRequest, job: Arc<Job>) {
        self.jobs.add(&job);
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            engine.metrics.running.inc();
            let running = AssertUnwindSafe(engine.run(&plan, &request, &job)).catch_unwind();
            let mut outcome =
                running.await.unwrap_or_else(|_| Err(Error::internal("a job panicked")));
            engine.metrics.running.dec();
            if !job.is_watched() {
                // The caller is gone: what is paid is kept.
                job.abandon();
                if let Ok(success) = &mut outcome {
                    engine.try_to_keep(&job, success).await;
                }
            }
            job.finish(outcome.map(Arc::new).map_err(Arc::new));
        });
    }

    async fn run(&self, plan: &Plan, request: &ImageRequest, job: &Job) -> Result<Success, Error> {
        let delivery = Delivery {
            engine: self,
            request,
            deadline: Instant::now() + self.settings.deadline,
            shared: Mutex::default(),
        };
        let results = delivery.run(&plan.candidates).await;
        let shared = delivery.shared.into_inner();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut failures: Vec<(usize, Failure)> = Vec::new();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(piece) => pieces.push(piece),
                Err(failure) => failures.push((index, failure)),
            }
        }
        let attempts = shared.attempts;
        if pieces.is_empty() || (request.require_all && !failures.is_empty()) {
            let failures: Vec<Failure> = failures.into_iter().map(|(_, f)| f).collect();
            let risk = Risk { paid: !pieces.is_empty(), unknown: shared.at_risk > Money::ZERO };
            return Err(verdict::error(&failures, &attempts, shared.retry_after, risk, &job.id));
        }
        let first = &pieces[0].candidate.served;
        let priced = pieces.iter().any(|p| p.candidate.cost.is_some());
        let mut success = Success {
            model: first.deployment.model.clone(),
            provider: first.deployment.provider.clone(),
            deployment: first.slug(),
            failures: failures.iter().map(|(i, f)| verdict::missing(*i, f)).collect(),
            attempts,
            adjustments: shared.adjustments,
            cost: priced.then_some(shared.cost),
            quality: pieces[0].quality.clone(),
            background: request.background.clone(),
            wants_url: request.wants_url,
            simulated: first.simulated,
            usage: shared.usage,
            upstream: shared.upstream,
            pictures: pieces.into_iter().map(delivered).collect(),
        };
        if request.wants_url {
            self.try_to_keep(job, &mut success).await;
        }
        Ok(success)
    }

    /// Keeps pictures; what the store does not take stays in memory, for it is paid.
    async fn try_to_keep(&self, job: &Job, success: &mut Success) {
        if let Err(error) = self.keep(job, success).await {
            let cause = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::error!(job = job.id, %error, cause, "a result could not be kept yet");
        }
    }

    /// A result whose links are wanted, once everything of it is kept. Where the store still
    /// does not take it, the caller's repeat joins the job and tries again: the paid pictures
    /// wait for it.
    pub async fn kept(&self, job: &Job, success: Arc<Success>) -> Result<Arc<Success>, Error> {
        if success.pictures.iter().all(|p| p.kept.is_some() || p.blob.is_none()) {
            return Ok(success);
        }
        let mut success = Success::clone(&success);
        // Before the attempt: a caller that hangs up meanwhile ends it.
        job.abandon();
        let kept = self.keep(job, &mut success).await;
        let success = Arc::new(success);
        job.replace(Ok(Arc::clone(&success)));
        kept.map_err(|mut error| {
            error.mediagate = Some(Box::new(json!({ "job_id": job.id })));
            error.retry_after(Some(STORE_PAUSE))
        })?;
        *job.abandoned.lock() = false;
        Ok(success)
    }

    /// After an answer: lets go of pictures that were sent, and keeps those of an answer that
    /// was cut off.
    pub fn settle(self: &Arc<Self>, job: &Arc<Job>, sent: bool) {
        let Some(Ok(success)) = job.outcome() else { return };
        if success.pictures.iter().all(|p| p.blob.is_none()) {
            // Without its bytes there is nothing to join.
            if !sent && success.pictures.iter().all(|p| p.kept.is_some()) {
                job.abandon();
            }
            return;
        }
        let mut success = Success::clone(&success);
        if sent {
            for picture in &mut success.pictures {
                picture.blob = None;
            }
            job.replace(Ok(Arc::new(success)));
            return;
        }
        job.abandon();
        let (engine, job) = (Arc::clone(self), Arc::clone(job));
        self.tasks.spawn(async move {
            match engine.keep(&job, &mut success).await {
                Ok(()) => job.replace(Ok(Arc::new(success))),
                Err(error) => tracing::error!(job = job.id, %error, "a cut-off result was lost"),
            }
        });
    }

    /// Puts the pictures of a job into the store, side by side, and lets go of their bytes.
    pub async fn keep(&self, job: &Job, success: &mut Success) -> Result<(), Error> {
        let origin = Origin {
            model: success.model.clone(),
            provider: success.provider.clone(),
            deployment: success.deployment.clone(),
        };
        let puts = success.pictures.iter_mut().enumerate();
        let kept = puts.map(|(index, picture)| self.keep_one(job, &origin, index, picture));
        join_all(kept).await.into_iter().collect()
    }

    async fn keep_one(
        &self,
        job: &Job,
        origin: &Origin,
        index: usize,
        picture: &mut Delivered,
    ) -> Result<(), Error> {
        let Some(blob) = picture.blob.clone().filter(|_| picture.kept.is_none()) else {
            return Ok(());
        };
        let meta = ObjectMeta {
            format: picture.format,
            model: origin.model.clone(),
            provider: origin.provider.clone(),
            deployment: origin.deployment.clone(),
            job: job.id.clone(),
            seed: picture.seed,
            prompt_sha256: Some(job.prompt_sha256.clone()),
            sha256: picture.sha256.clone(),
            created: unix(job.created_at),
        };
        let key = self.store.key(&KeyParts {
            project: &job.tenant,
            date: &date(job.created_at),
            job: &job.id,
            index,
            ext: picture.format.extension(),
        });
        let refused = || Error::new(Code::StoreUnavailable, "the picture could not be kept");
        let put = tokio::time::timeout(STORE_PATIENCE, self.store.put(&key, &meta, &blob));
        let kept = put.await.map_err(|e| refused().because(e))?;
        let kept = kept.map_err(|e| refused().because(e))?;
        picture.sha256 = Some(kept.sha256.clone());
        picture.kept = Some(kept);
        picture.blob = None;
        Ok(())
    }
}

/// Where a job's pictures come from, as kept beside them.
struct Origin {
    model: String,
    provider: String,
    deployment: String,
}

/// Adds a model's deployments to a plan: as candidates, or as excluded with the reason.
fn add_candidates(
    plan: &mut Plan,
    name: &str,
    resolved: Resolved,
    request: &ImageRequest,
    limits: PlanLimits,
) {
    let choice = &request.providers;
    for served in resolved.deployments {
        let provider = &served.deployment.provider;
        if choice.ignore.contains(provider)
            || (!choice.only.is_empty() && !choice.only.contains(provider))
        {
            continue;
        }
        match candidate::consider(&served, request, limits) {
            Ok(_) if resolved.substituted && request.strict => plan.excluded.push(Excluded {
                deployment: served.slug(),
                code: Code::UnsupportedParameter,
                param: "model".into(),
                reason: format!("strict: {name} is retired; {} stands in", resolved.model),
            }),
            Ok(mut candidate) => {
                if resolved.substituted {
                    let reason = format!("{name} is no longer sold");
                    let now = resolved.model.as_str();
                    candidate.adjustments.push(
                        Adjustment::new("model", AdjustmentKind::Substituted, reason)
                            .values(name, now, now),
                    );
                }
                plan.candidates.push(Arc::new(candidate));
            }
            Err(excluded) => plan.excluded.push(excluded),
        }
    }
}

fn delivered(piece: Piece) -> Delivered {
    let ready = piece.ready;
    Delivered {
        bytes: ready.blob.media_len(),
        blob: Some(ready.blob),
        kept: None,
        format: ready.format,
        size: ready.size,
        sha256: ready.sha256,
        seed: piece.seed,
        revised_prompt: piece.revised_prompt,
        c2pa: ready.c2pa,
    }
}

/// Seconds since 1970.
pub fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The day, as `2026-11-21`, in UTC.
fn date(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// What a caller is told of a model name that leads nowhere.
pub fn unresolved(name: &str, why: Unresolved) -> Error {
    match why {
        Unresolved::Unknown(nearest) => Error::new(
            Code::ModelNotFound,
            format!("there is no model {name:?}; the nearest are {}", nearest.join(", ")),
        ),
        Unresolved::NoProvider(sellers) => Error::new(
            Code::NoProviderAvailable,
            format!("no provider of {name:?} is switched on; it is sold by {}", sellers.join(", ")),
        ),
    }
    .param("model")
}

/// Those the request names first, in its order; the rest as they are.
fn order_by_choice(candidates: &mut [Arc<Candidate>], request: &ImageRequest) {
    let order = &request.providers.order;
    candidates.sort_by_key(|c| {
        order.iter().position(|p| *p == c.served.deployment.provider).unwrap_or(order.len())
    });
}
