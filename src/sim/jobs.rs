//! The job table: what was asked, how long it takes, and who has noticed that it is done.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    SimSettings,
    encode::Recipe,
    exchange::Problem,
    faults::{Fault, Kind},
    hooks::Hook,
    rng::Rng,
    tally::Tally,
    vendor::{Stage, Vendor},
};

/// One call of a vendor, through its queue or not.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The vendor's id.
    pub id: String,
    /// Who works on it.
    pub vendor: Vendor,
    /// The vendor's model id.
    pub model: String,
    /// The request, for vendors that echo it.
    pub request: Value,
    /// The pictures, or why there are none.
    pub work: Result<Vec<Recipe>, Problem>,
    /// What is to go wrong on the way.
    pub fault: Option<Fault>,
    /// When it was taken.
    pub created: Instant,
    /// How long it waits.
    pub queue: Duration,
    /// How long it then takes.
    pub run: Duration,
    /// When it was cancelled.
    pub cancelled: Option<Instant>,
    /// When the client was first told that it is over.
    pub noticed: Option<Instant>,
    /// How often its state was asked.
    pub polls: u32,
    /// The text it draws.
    pub prompt: String,
    /// The client's own name of the request, if it gave one.
    pub client_ref: Option<String>,
    /// Where its end is pushed.
    pub hook: Option<Hook>,
    /// How often it was pushed, and the last receiver's status.
    pub pushed: (u32, Option<u16>),
}

/// A job to be taken.
pub(crate) struct NewJob<'a> {
    /// Who works on it.
    pub vendor: Vendor,
    /// The vendor's model id.
    pub model: &'a str,
    /// The text it draws.
    pub prompt: String,
    /// The request, for vendors that echo it.
    pub request: Value,
    /// The pictures, or why there are none.
    pub work: Result<Vec<Recipe>, Problem>,
    /// What is to go wrong on the way.
    pub fault: Option<Fault>,
    /// Time the work takes beyond chance.
    pub longer: Duration,
    /// The client's own name of the request.
    pub client_ref: Option<&'a str>,
    /// Where its end is to be pushed.
    pub hook: Option<Hook>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits.
    Queued,
    /// It is worked on.
    Running,
    /// It is over.
    Done,
    /// It was cancelled in time.
    Cancelled,
}

impl Job {
    /// When it begins to run.
    pub(crate) fn starts(&self) -> Instant {
        self.created + self.queue
    }

    /// When it is over, unless it is cancelled.
    pub(crate) fn ends(&self) -> Instant {
        self.starts() + self.run
    }

    /// How far it is now.
    pub(crate) fn state(&self) -> State {
        let now = Instant::now();
        if self.cancelled.is_some() {
            State::Cancelled
        } else if now >= self.ends() {
            State::Done
        } else if now >= self.starts() {
            State::Running
        } else {
            State::Queued
        }
    }

    /// How much of the run is over, 0 to 1.
    pub(crate) fn progress(&self) -> f64 {
        let run = Instant::now().saturating_duration_since(self.starts());
        (run.as_secs_f64() / self.run.as_secs_f64().max(1e-9)).min(1.0)
    }
}

/// Every job, and what was counted.
pub(crate) struct Jobs {
    queue_s: f64,
    run_s: f64,
    sigma: f64,
    zero: (Instant, SystemTime),
    inner: Mutex<Inner>,
}

struct Inner {
    jobs: HashMap<String, Job>,
    /// What became of the jobs that are forgotten.
    past: Tally,
    counts: BTreeMap<(Vendor, Stage), u64>,
    switched: HashMap<String, u32>,
    rng: Rng,
}

impl Jobs {
    pub(crate) fn new(settings: &SimSettings) -> Self {
        Self {
            queue_s: settings.queue_s,
            run_s: settings.run_s,
            sigma: settings.sigma,
            zero: (Instant::now(), SystemTime::now()),
            inner: Mutex::new(Inner {
                jobs: HashMap::new(),
                past: Tally::default(),
                counts: BTreeMap::new(),
                switched: HashMap::new(),
                rng: Rng::new(settings.seed),
            }),
        }
    }

    /// Takes a job: decides how long it will wait and run.
    pub(crate) fn take(&self, new: NewJob<'_>) -> Job {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let queue = time(inner.rng.lognormal(self.queue_s, self.sigma));
        let run = time(inner.rng.lognormal(self.run_s, self.sigma)) + new.longer;
        // What is not valid or not allowed is refused without being worked on.
        let run = if new.work.is_ok() { run } else { run.min(time(0.05)) };
        let early = new.fault.as_ref().is_some_and(|fault| fault.kind == Kind::CallbackEarly);
        let waits = new.vendor.has_jobs() && !early;
        let job = Job {
            id: new_id(new.vendor),
            vendor: new.vendor,
            model: new.model.to_owned(),
            request: new.request,
            work: new.work,
            fault: new.fault,
            created: Instant::now(),
            queue: if waits { queue } else { Duration::ZERO },
            run: if early { Duration::ZERO } else { run },
            cancelled: None,
            noticed: None,
            polls: 0,
            prompt: new.prompt,
            client_ref: new.client_ref.map(str::to_owned),
            hook: new.hook,
            pushed: (0, None),
        };
        inner.jobs.retain(|_, job| {
            let gone = forgotten(job);
            if gone {
                inner.past.add(job);
            }
            !gone
        });
        inner.jobs.insert(job.id.clone(), job.clone());
        job
    }

    /// A job of a vendor, while it is remembered.
    pub(crate) fn get(&self, vendor: Vendor, id: &str) -> Option<Job> {
        let inner = self.inner.lock();
        inner.jobs.get(id).filter(|job| job.vendor == vendor && !forgotten(job)).cloned()
    }

    /// Notes that its state was asked.
    pub(crate) fn polled(&self, id: &str) {
        if let Some(job) = self.inner.lock().jobs.get_mut(id) {
            job.polls += 1;
        }
    }

    /// Notes that the client was told that it is over.
    pub(crate) fn notice(&self, id: &str) {
        if let Some(job) = self.inner.lock().jobs.get_mut(id) {
            job.noticed.get_or_insert_with(Instant::now);
        }
    }

    /// Notes that its end was pushed, and the receiver's status; 0 if there was none.
    pub(crate) fn pushed(&self, id: &str, status: u16) {
        if let Some(job) = self.inner.lock().jobs.get_mut(id) {
            job.pushed = (job.pushed.0 + 1, Some(status));
        }
    }

    /// The jobs of a vendor that are remembered, the newest first.
    pub(crate) fn list(&self, vendor: Vendor) -> Vec<Job> {
        let inner = self.inner.lock();
        let known = inner.jobs.values().filter(|job| job.vendor == vendor && !forgotten(job));
        let mut jobs: Vec<Job> = known.cloned().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.created));
        jobs
    }

    /// Cancels a job that is not over.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(job) = self.inner.lock().jobs.get_mut(id)
            && matches!(job.state(), State::Queued | State::Running)
        {
            job.cancelled = Some(Instant::now());
        }
    }

    /// Counts a request.
    pub(crate) fn count(&self, vendor: Vendor, stage: Stage) {
        *self.inner.lock().counts.entry((vendor, stage)).or_default() += 1;
    }

    /// How often a switch was thrown before this time.
    pub(crate) fn thrown(&self, switch: String) -> u32 {
        let mut inner = self.inner.lock();
        let times = inner.switched.entry(switch).or_default();
        *times += 1;
        *times - 1
    }

    /// A number that no client can foresee but the same seed repeats.
    pub(crate) fn chance(&self) -> u64 {
        self.inner.lock().rng.draw()
    }

    /// Whether something of this probability happens.
    pub(crate) fn happens(&self, probability: f64) -> bool {
        self.inner.lock().rng.chance(probability)
    }

    /// Forgets everything but the seed's sequence.
    pub(crate) fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.jobs.clear();
        inner.past = Tally::default();
        inner.counts.clear();
        inner.switched.clear();
    }

    /// Seconds since 1970.
    pub(crate) fn clock(&self, at: Instant) -> f64 {
        let since = at.saturating_duration_since(self.zero.0);
        let wall = self.zero.1 + since;
        wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    /// The answer of `/sim/stats`.
    pub(crate) fn stats(&self) -> Value {
        let inner = self.inner.lock();
        let mut tally = inner.past.clone();
        for job in inner.jobs.values() {
            tally.add(job);
        }
        let vendors: serde_json::Map<String, Value> = Vendor::ALL
            .into_iter()
            .map(|vendor| {
                let mut counts: serde_json::Map<String, Value> =
                    [Stage::Submit, Stage::Poll, Stage::Result, Stage::File, Stage::Other]
                        .into_iter()
                        .map(|stage| {
                            let n = inner.counts.get(&(vendor, stage)).copied().unwrap_or(0);
                            (stage.name().to_owned(), n.into())
                        })
                        .collect();
                counts.extend(tally.vendor(vendor));
                (vendor.name().to_owned(), counts.into())
            })
            .collect();
        let mut jobs: Vec<&Job> = inner.jobs.values().collect();
        jobs.sort_by_key(|job| job.created);
        let jobs: Vec<Value> = jobs
            .into_iter()
            .map(|job| {
                json!({
                    "id": job.id,
                    "vendor": job.vendor.name(),
                    "model": job.model,
                    "pictures": job.work.as_ref().map_or(0, Vec::len),
                    "created": self.clock(job.created),
                    "done": self.clock(job.cancelled.unwrap_or_else(|| job.ends())),
                    "cancelled": job.cancelled.is_some(),
                    "first_seen_done": job.noticed.map(|at| self.clock(at)),
                    "polls": job.polls,
                    "prompt": job.prompt,
                    "client_ref": job.client_ref,
                    "callback_url": job.hook.as_ref().map(|hook| &hook.url),
                    "pushes": job.pushed.0,
                    "push_status": job.pushed.1,
                    "billed": Tally::bills(job),
                })
            })
            .collect();
        json!({
            "vendors": vendors,
            "deployments": tally.deployments(),
            "prompts": tally.prompts(),
            "jobs": jobs,
        })
    }
}

/// Vendors forget a job some time after its end.
fn forgotten(job: &Job) -> bool {
    let keep = Duration::from_secs(job.vendor.keeps_s());
    Instant::now() > job.ends() + keep
}

/// An id as the vendor forms it.
fn new_id(vendor: Vendor) -> String {
    let id = uuid::Uuid::new_v4();
    match vendor {
        // 26 letters and digits in lower case.
        Vendor::Replicate => id
            .as_u128()
            .to_be_bytes()
            .iter()
            .chain(uuid::Uuid::new_v4().as_bytes())
            .take(26)
            .map(|byte| char::from(b"abcdefghjkmnpqrstvwxyz0123456789"[usize::from(*byte % 32)]))
            .collect(),
        _ => id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> Jobs {
        Jobs::new(&SimSettings { queue_s: 1.0, run_s: 2.0, sigma: 0.0, ..SimSettings::default() })
    }

    fn take(jobs: &Jobs, vendor: Vendor) -> Job {
        jobs.take(NewJob {
            vendor,
            model: "model",
            prompt: "a fox".to_owned(),
            request: Value::Null,
            work: Ok(Vec::new()),
            fault: None,
            longer: Duration::ZERO,
            client_ref: None,
            hook: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_waits_runs_ends_and_is_forgotten() {
        let jobs = jobs();
        for (vendor, kept) in [(Vendor::Replicate, 3600), (Vendor::Bfl, 600)] {
            let id = take(&jobs, vendor).id;
            let state = || jobs.get(vendor, &id).map(|job| job.state());
            assert_eq!(state(), Some(State::Queued));
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(state(), Some(State::Running));
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(state(), Some(State::Done));
            tokio::time::advance(Duration::from_secs(kept)).await;
            assert_eq!(state(), Some(State::Done));
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(state(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_job_that_is_not_over_can_be_cancelled() {
        let jobs = jobs();
        let (early, late) = (take(&jobs, Vendor::Fal).id, take(&jobs, Vendor::Fal).id);
        jobs.cancel(&early);
        tokio::time::advance(Duration::from_secs(4)).await;
        jobs.cancel(&late);
        assert_eq!(jobs.get(Vendor::Fal, &early).unwrap().state(), State::Cancelled);
        assert_eq!(jobs.get(Vendor::Fal, &late).unwrap().state(), State::Done);
        assert!(jobs.get(Vendor::Bfl, &late).is_none(), "another vendor's job");
    }

    #[test]
    fn ids_have_the_vendors_shape() {
        assert_eq!(new_id(Vendor::Fal).len(), 36);
        let id = new_id(Vendor::Replicate);
        assert!(id.len() == 26 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    }
}
