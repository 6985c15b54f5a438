//! A picture job from plan to result, and the table of jobs of this process.
//!
//! A caller only watches its job: one that hangs up leaves the job running, for the provider
//! will be paid in any case. What was asked for as a link or whose caller has gone is kept in
//! the store.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use providers::{
    media::{Format, Size},
    money::Cost,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::request::Adjustment;
use crate::{error::Error, media::blob::Blob, store::Kept};

/// One try of one deployment, for the caller's eyes.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct AttemptRecord {
    /// `provider/model`.
    pub deployment: String,
    /// `ok`, or what went wrong.
    pub outcome: &'static str,
    /// How long it took.
    pub ms: u64,
}

/// One delivered picture.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The bytes; `None` once they are only in the store.
    pub blob: Option<Blob>,
    /// Where the store has them.
    pub kept: Option<Kept>,
    /// Their format.
    pub format: Format,
    /// Their size.
    pub size: Size,
    /// Bytes of media.
    pub bytes: u64,
    /// Given for what was kept or converted.
    pub sha256: Option<String>,
    /// The seed it was drawn with.
    pub seed: Option<u64>,
    /// The prompt as the provider rewrote it.
    pub revised_prompt: Option<String>,
    /// Whether a C2PA manifest is among the bytes.
    pub c2pa: bool,
}

/// One picture that did not come.
#[derive(Clone, Debug, Serialize)]
pub struct MissingPicture {
    /// Which of the pictures asked for.
    pub index: usize,
    /// The error code it would have been alone.
    pub code: &'static str,
    /// Why.
    pub message: String,
}

/// A finished job with at least one picture.
#[derive(Clone, Debug)]
pub struct Success {
    /// The public name.
    pub model: String,
    /// The provider of the first picture.
    pub provider: String,
    /// The deployment of the first picture.
    pub deployment: String,
    /// The pictures.
    pub pictures: Vec<Delivered>,
    /// Those that did not come.
    pub failures: Vec<MissingPicture>,
    /// Every try.
    pub attempts: Vec<AttemptRecord>,
    /// What is different from what was asked.
    pub adjustments: Vec<Adjustment>,
    /// What is to be paid.
    pub cost: Option<Cost>,
    /// The provider's quality word, where it is known.
    pub quality: Option<String>,
    /// Background asked for.
    pub background: Option<String>,
    /// Whether links were asked for.
    pub wants_url: bool,
    /// Whether the simulator drew it.
    pub simulated: bool,
    /// Tokens counted, if any.
    pub usage: providers::Usage,
    /// Time spent waiting for providers.
    pub upstream: Duration,
}

/// What a job came to.
pub type Outcome = Result<Arc<Success>, Arc<Error>>;

/// A job as others see it.
#[derive(Debug)]
pub struct Job {
    /// `job_` and a time-ordered id.
    pub id: String,
    /// The key's name; others do not see the job.
    pub tenant: String,
    /// The model asked for.
    pub model: String,
    /// The request that began it.
    pub request_id: String,
    /// SHA-256 of the prompt, in hex: kept beside the pictures, where the prompt is not.
    pub prompt_sha256: String,
    /// SHA-256 of what was asked, to recognise a repeat.
    pub fingerprint: [u8; 32],
    /// When it began.
    pub created_at: SystemTime,
    /// When it must be done.
    pub deadline_at: SystemTime,
    /// When it was over.
    pub finished_at: Mutex<Option<SystemTime>>,
    /// Whether the caller went away before it had the answer.
    pub abandoned: Mutex<bool>,
    done: watch::Sender<Option<Outcome>>,
}

impl Job {
    /// A job that has just begun.
    pub fn new(
        tenant: &str,
        model: &str,
        request_id: &str,
        prompt: &str,
        fingerprint: [u8; 32],
        deadline: Duration,
    ) -> Arc<Self> {
        let now = SystemTime::now();
        Arc::new(Self {
            id: format!("job_{}", uuid::Uuid::now_v7().simple()),
            tenant: tenant.to_owned(),
            model: model.to_owned(),
            request_id: request_id.to_owned(),
            prompt_sha256: hex::encode(Sha256::digest(prompt.as_bytes())),
            fingerprint,
            created_at: now,
            deadline_at: now + deadline,
            finished_at: Mutex::new(None),
            abandoned: Mutex::new(false),
            done: watch::Sender::new(None),
        })
    }

    /// Says what it came to.
    pub fn finish(&self, outcome: Outcome) {
        *self.finished_at.lock() = Some(SystemTime::now());
        self.done.send_replace(Some(outcome));
    }

    /// Puts a lighter account of the same outcome in its place.
    pub fn replace(&self, outcome: Outcome) {
        self.done.send_replace(Some(outcome));
    }

    /// What it came to, if it is over.
    pub fn outcome(&self) -> Option<Outcome> {
        self.done.borrow().clone()
    }

    /// A place in the row of those who wait for it.
    pub fn watch(&self) -> Watch {
        Watch(self.done.subscribe())
    }

    /// Says that the caller went away without the answer: a repeat may join.
    pub fn abandon(&self) {
        *self.abandoned.lock() = true;
    }

    /// Lets go of bytes that the store never took, once no repeat can join any more.
    fn let_go(&self, now: SystemTime) {
        let over = (*self.finished_at.lock())
            .is_some_and(|at| now.duration_since(at).is_ok_and(|age| age >= JOIN_WINDOW));
        if !over {
            return;
        }
        let Some(Ok(success)) = self.outcome() else { return };
        if success.pictures.iter().any(|p| p.blob.is_some()) {
            let mut success = Success::clone(&success);
            success.pictures.iter_mut().for_each(|p| p.blob = None);
            self.replace(Ok(Arc::new(success)));
        }
    }

    /// Whether anyone waits for it.
    pub fn is_watched(&self) -> bool {
        self.done.receiver_count() > 0
    }
}

/// Somebody who waits for a job; a job without any is kept for later.
#[derive(Debug)]
pub struct Watch(watch::Receiver<Option<Outcome>>);

impl Watch {
    /// What the job came to; `None` if it was dropped unfinished.
    pub async fn outcome(mut self) -> Option<Outcome> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// The jobs of this process, running and lately finished.
#[derive(Debug)]
pub struct Jobs {
    /// By id, which is by age.
    table: Mutex<BTreeMap<String, Arc<Job>>>,
    retention: Duration,
}

/// Jobs remembered at most.
const MOST_JOBS: usize = 10_000;
/// A repeat of a finished request by the SDK joins it for this long.
const JOIN_WINDOW: Duration = Duration::from_mins(15);

impl Jobs {
    /// An empty table whose finished jobs are forgotten after `retention`.
    pub fn new(retention: Duration) -> Self {
        Self { table: Mutex::default(), retention }
    }

    /// Adds a job; when there are too many, the oldest that is over is forgotten.
    pub fn add(&self, job: &Arc<Job>) {
        let mut table = self.table.lock();
        table.insert(job.id.clone(), Arc::clone(job));
        if table.len() > MOST_JOBS {
            let over = table.values().find(|job| job.finished_at.lock().is_some());
            let oldest = over.map(|job| job.id.clone());
            oldest.and_then(|id| table.remove(&id));
        }
    }

    /// Forgets jobs past their time, and bytes that no repeat can ask for any more. Walks the
    /// whole table, so it is called now and then and not for every job.
    pub fn sweep(&self, now: SystemTime) {
        let mut table = self.table.lock();
        let fresh = |job: &Arc<Job>| {
            job.finished_at
                .lock()
                .is_none_or(|at| now.duration_since(at).is_ok_and(|age| age < self.retention))
        };
        table.retain(|_, job| fresh(job));
        for job in table.values() {
            job.let_go(now);
        }
    }

    /// A tenant's job by id.
    pub fn get(&self, tenant: &str, id: &str) -> Option<Arc<Job>> {
        self.table.lock().get(id).filter(|job| job.tenant == tenant).cloned()
    }

    /// A tenant's jobs, newest first; those of one request where it is named.
    pub fn list(&self, tenant: &str, request_id: Option<&str>) -> Vec<Arc<Job>> {
        let mut jobs: Vec<Arc<Job>> = self
            .table
            .lock()
            .values()
            .filter(|j| j.tenant == tenant && request_id.is_none_or(|r| j.request_id == r))
            .cloned()
            .collect();
        jobs.sort_by(|a, b| b.id.cmp(&a.id));
        jobs
    }

    /// The job that a repeat by the SDK belongs to, and a place among those who wait for it: the
    /// same tenant asked the same, and the caller has gone. Each lost caller is joined once.
    pub fn join(&self, tenant: &str, fingerprint: &[u8; 32]) -> Option<(Arc<Job>, Watch)> {
        let now = SystemTime::now();
        let table = self.table.lock();
        let job = table.values().find(|job| {
            job.tenant == tenant
                && job.fingerprint == *fingerprint
                && match *job.finished_at.lock() {
                    // While it runs, nobody but its caller watches it.
                    None => *job.abandoned.lock() || !job.is_watched(),
                    Some(at) => {
                        *job.abandoned.lock()
                            && now.duration_since(at).is_ok_and(|age| age < JOIN_WINDOW)
                    }
                }
        })?;
        *job.abandoned.lock() = false;
        // Watched before the table is free again, so that no other repeat joins too.
        Some((Arc::clone(job), job.watch()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(prompt: &str) -> Arc<Job> {
        Job::new("t", "m", "r", prompt, [0; 32], Duration::from_mins(1))
    }

    fn failed() -> Outcome {
        Err(Arc::new(Error::internal("a test")))
    }

    #[test]
    fn the_table_forgets_what_is_over_and_never_what_runs() {
        let jobs = Jobs::new(Duration::from_hours(1));
        let running = job("runs");
        jobs.add(&running);
        let first = job("first");
        first.finish(failed());
        jobs.add(&first);
        for _ in 0..MOST_JOBS {
            let other = job("other");
            other.finish(failed());
            jobs.add(&other);
        }
        assert_eq!(jobs.list("t", None).len(), MOST_JOBS);
        assert!(jobs.get("t", &running.id).is_some(), "a running job was forgotten");
        assert!(jobs.get("t", &first.id).is_none(), "the oldest finished job is still there");
        jobs.sweep(SystemTime::now() + Duration::from_hours(2));
        assert_eq!(jobs.list("t", None).len(), 1);
        assert!(jobs.get("other", &running.id).is_none(), "another tenant sees it");
    }
}
