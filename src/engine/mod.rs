//! The engine: the only part that sends, waits, retries and fails over.
//!
//! A request becomes [`candidate`]s on paper. [`run`] opens a [`job`] with what it may come to on
//! [`hold`], [`deliver`] runs its attempts, and each attempt is one [`drive`] of an adapter over the
//! [`transport`], which a [`log`] writes down. [`keep`] puts the pictures away and books the job;
//! [`recover`] takes up what another process began, [`repeat`] leads a call made again to the job
//! of the first, and [`lookup`] shows jobs wherever they are.

pub mod callback;
pub mod callback_auth;
pub mod callback_keys;
pub mod candidate;
mod compose;
pub mod deliver;
mod drive;
mod failure;
mod given;
pub mod hold;
pub mod job;
mod keep;
pub mod lease;
pub(crate) mod lift;
mod listen;
mod log;
mod lookup;
pub mod millis;
mod outgoing;
mod picture;
pub mod poll;
mod recover;
pub mod registry;
mod repeat;
pub mod request;
pub mod risk;
mod run;
mod sign;
pub mod transport;
mod verdict;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use providers::{
    catalog::Task,
    money::{Cost, Money},
};
use tokio_util::task::TaskTracker;

use self::{
    callback::Callbacks,
    candidate::{Candidate, Excluded, PlanLimits},
    deliver::AmbiguityPolicy,
    job::Jobs,
    lease::Lease,
    picture::PictureLimits,
    registry::{Registry, Resolved, Served, Unresolved},
    request::{Adjustment, AdjustmentKind, Given, ImageRequest},
    risk::DayRisk,
    transport::Transport,
};
use crate::{
    error::{Code, Error},
    jobs::Desk,
    media::{blob::Blob, fetch::Fetcher, pool::Pool},
    metrics::Metrics,
    seal::Sealer,
    store::Store,
    tenant::directory::Directory,
};

pub use run::{Asked, Opened};

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
    /// What clients pay on top of providers' prices, in hundredths of a percent.
    pub markup_bp: u32,
    /// How durable the records of jobs are.
    pub durability: JobDurability,
    /// How long a finished job and its outputs are kept.
    pub retention: Duration,
    /// Whether nothing of a request and its result is kept beyond the answer.
    pub zero_retention: bool,
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
            markup_bp: 0,
            durability: JobDurability::default(),
            retention: Duration::from_hours(72),
            zero_retention: false,
            pictures: PictureLimits { max_upscale, max_pixels },
        }
    }
}

/// How durable the records of jobs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobDurability {
    /// `Full` for queued jobs and for what is dear, else `Process`.
    #[default]
    Auto,
    /// They outlive the machine's power.
    Full,
    /// They outlive the process.
    Process,
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
    /// The same for links of callers, which may lead to fewer places.
    pub callers_fetcher: Fetcher,
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
    /// The way to the database.
    pub desk: Desk,
    /// The keys that projects brought along.
    pub directory: Arc<Directory>,
    /// Seals what of a request and its result stands in the database.
    pub sealer: Arc<Sealer>,
    /// Where providers may push to; none where they cannot reach this gateway.
    pub callbacks: Option<Callbacks>,
    /// Whether this process may act on its jobs.
    pub lease: Lease,
    /// What may still be put at risk today.
    pub risk: DayRisk,
    /// Jobs whose opening was not answered by the database: nothing was sent for them.
    pub unanswered: Mutex<BTreeSet<String>>,
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
    /// Gives every candidate of a plan the key that this project brought for its provider. Where
    /// that cannot be opened any more nobody else's is used: the candidate is left out.
    pub(crate) fn use_own_keys(&self, plan: &mut Plan, project: &str) {
        plan.candidates.retain_mut(|candidate| {
            let provider = &candidate.served.deployment.provider;
            let Some(key) = self.directory.provider_key(project, provider) else { return true };
            let own = key
                .secret
                .as_ref()
                .and_then(|secret| candidate.served.with_key(&key.id, secret.expose()));
            let Some(own) = own else {
                tracing::error!(project, provider, key = key.id, "a project's key is of no use");
                return false;
            };
            // Its project pays the provider.
            let cost = candidate.cost.as_ref().map(|_| Cost::default());
            *candidate =
                Arc::new(Candidate { served: Arc::new(own), cost, ..Candidate::clone(candidate) });
            true
        });
    }

    /// A deployment with the credential that a stored attempt was sent with.
    pub(crate) fn with_credential(
        &self,
        served: &Served,
        project: &str,
        credential: &str,
    ) -> Option<Arc<Served>> {
        if credential == registry::OPERATOR {
            return None;
        }
        let key = self.directory.provider_key(project, &served.deployment.provider)?;
        let secret = key.secret.as_ref().filter(|_| key.id == credential)?;
        served.with_key(&key.id, secret.expose()).map(Arc::new)
    }

    /// Looks at a picture that came with a request.
    pub(crate) async fn look(
        &self,
        blob: Blob,
        sha256: String,
        param: &'static str,
    ) -> Result<Given, Error> {
        given::look(self, blob, sha256, param).await
    }

    /// Refuses a mask that marks nothing to edit.
    pub(crate) async fn check_mask(&self, request: &ImageRequest) -> Result<(), Error> {
        let limits = picture::decode_limits(self.settings.pictures);
        given::check_mask(request, &self.pool, limits).await
    }

    /// Refuses names that mean nothing here.
    pub(crate) fn check_models(&self, request: &ImageRequest) -> Result<(), Error> {
        for name in &request.models {
            if let Err(why @ Unresolved::Unknown(_)) = self.registry.resolve(name) {
                return Err(unresolved(name, why));
            }
        }
        Ok(())
    }

    /// Decides who can serve a request and how. Calls nobody.
    pub fn plan(&self, request: &ImageRequest) -> Result<Plan, Error> {
        let limits = PlanLimits {
            max_upscale: self.settings.max_upscale,
            allow_unpriced: self.settings.allow_unpriced,
            lends: !self.settings.zero_retention
                && (self.callbacks.is_some() || self.store.is_bucket()),
            max_pixels: self.settings.max_pixels,
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
            if serving(&resolved.deployments, request.task).next().is_none() {
                missing.get_or_insert(self.incapable(name, request.task));
                continue;
            }
            if plan.model.is_empty() {
                plan.model.clone_from(&resolved.model);
            }
            add_candidates(&mut plan, name, &resolved, request, limits);
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
}

impl Engine {
    /// What a caller is told of a model that does something else.
    fn incapable(&self, name: &str, task: Task) -> Error {
        let mut able: Vec<&str> = Vec::new();
        for served in serving(self.registry.served(), task) {
            if !able.contains(&served.deployment.model.as_str()) {
                able.push(&served.deployment.model);
            }
        }
        able.truncate(8);
        let able = if able.is_empty() { "no model here".to_owned() } else { able.join(", ") };
        let message = format!("{name} does not do {}; {able} does", task.name());
        Error::new(Code::UnsupportedParameter, message).param("model")
    }
}

/// Those that do a task. A picture's variation is also drawn by those that edit pictures, where
/// their vendor has no variations of that model.
fn serving(deployments: &[Arc<Served>], task: Task) -> impl Iterator<Item = &Arc<Served>> {
    deployments.iter().filter(move |served| {
        let own = &served.deployment;
        own.task == task
            || (task == Task::ImageVariation
                && own.task == Task::ImageEdit
                && !deployments.iter().any(|other| {
                    let other = &other.deployment;
                    (&other.provider, &other.model, other.task) == (&own.provider, &own.model, task)
                }))
    })
}

/// Adds a model's deployments to a plan: as candidates, or as excluded with the reason.
fn add_candidates(
    plan: &mut Plan,
    name: &str,
    resolved: &Resolved,
    request: &ImageRequest,
    limits: PlanLimits,
) {
    let choice = &request.providers;
    for served in serving(&resolved.deployments, request.task) {
        let provider = &served.deployment.provider;
        if choice.ignore.contains(provider)
            || (!choice.only.is_empty() && !choice.only.contains(provider))
        {
            continue;
        }
        match candidate::consider(served, request, limits) {
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

/// Seconds since 1970.
pub fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
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
