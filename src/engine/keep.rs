//! The end of a job: its pictures are put away, its charge is written down, and its caller is
//! answered.
//!
//! A charge is taken once the pictures are kept, or once all of the answer went out. Records that
//! must outlive the machine's power are written before the answer, the others beside it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Engine, hold,
    job::{Delivered, Job, Outcome, Success},
    millis, unix,
};
use crate::{
    crash::{Point, point},
    db::Durability,
    error::{Code, Error},
    jobs::{Act, Denied, DeskError, JobState, act::Finish},
    store::{KeyParts, ObjectMeta},
};

/// How long the store may take for one picture.
const STORE_PATIENCE: Duration = Duration::from_secs(90);
/// When a caller whose pictures the store did not take is to come back.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause between two tries to put pictures away.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What came of a job, as it is stored: sealed, and without the pictures.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Snapshot {
    /// Its pictures are in the store.
    Success(Box<Success>),
    /// It failed.
    Failure(StoredError),
}

/// An error as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredError {
    code: String,
    message: String,
    param: Option<String>,
    mediagate: Option<Value>,
}

impl Snapshot {
    fn failure(error: &Error) -> Self {
        Self::Failure(StoredError {
            code: error.code.name().to_owned(),
            message: error.message.clone(),
            param: error.param.clone(),
            mediagate: error.mediagate.as_deref().cloned(),
        })
    }

    /// The outcome it stands for.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Success(success) => Ok(Arc::from(success)),
            Self::Failure(stored) => {
                let code = Code::named(&stored.code).unwrap_or(Code::InternalError);
                let mut error = Error::new(code, stored.message);
                error.param = stored.param;
                error.mediagate = stored.mediagate.map(Box::new);
                Err(Arc::new(error))
            }
        }
    }
}

impl Engine {
    /// Ends a job with what it came to.
    pub(super) async fn conclude(
        self: &Arc<Self>,
        job: &Arc<Job>,
        outcome: Result<Success, Error>,
    ) {
        let mut success = match outcome {
            Err(error) => return self.give_up(job, error).await,
            Ok(success) => success,
        };
        if !job.is_watched() {
            job.set_abandoned(true);
        }
        let first = job.durability() == Durability::Full && !self.settings.zero_retention;
        let keeping = job.keeping.lock().await;
        if first || success.wants_url || job.is_abandoned() {
            if let Err(error) = self.keep(job, &mut success).await {
                let cause = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::error!(job = job.id, %error, cause, "a result could not be kept yet");
            } else if !self.capture(job, &success, true).await {
                return;
            }
        }
        job.finish(Ok(Arc::new(success)));
        drop(keeping);
        if !job.is_captured() {
            let (engine, job) = (Arc::clone(self), Arc::clone(job));
            self.tasks.spawn(async move { engine.bring_home(&job).await });
        }
    }

    /// Ends a job that came to nothing: what was held is let go.
    async fn give_up(self: &Arc<Self>, job: &Arc<Job>, error: Error) {
        let error = if job.live_attempts().is_empty() {
            error
        } else {
            // Ended in the middle: whatever was sent may still be billed.
            let message = format!("{}; a provider may have accepted the job", error.message);
            Error { code: Code::SubmitOutcomeUnknown, message, retry_after: None, ..error }
        };
        let state = match error.code {
            Code::SubmitOutcomeUnknown => JobState::Unknown,
            Code::JobCancelled => JobState::Cancelled,
            _ => JobState::Failed,
        };
        let act = self.finish(job, state, &Snapshot::failure(&error), Some(error.code));
        let (org, durability) = (job.grant.org.clone(), job.durability());
        point(Point::BeforeGiveUp);
        match self.desk.write(&org, act.clone(), durability).await {
            Ok(_) => {}
            Err(DeskError::Denied(denied)) => {
                tracing::warn!(job = job.id, ?denied, "a failure was not written down");
                self.jobs.remove(&job.id);
            }
            Err(DeskError::Unavailable(_)) => {
                // Nothing is charged: the caller need not wait for the database.
                let desk = self.desk.clone();
                self.tasks.spawn(async move {
                    let _ = desk.insist(&org, act, durability).await;
                });
            }
        }
        point(Point::AfterGiveUp);
        job.set_captured();
        job.finish(Err(Arc::new(error)));
    }

    fn finish(&self, job: &Job, state: JobState, snapshot: &Snapshot, code: Option<Code>) -> Act {
        let (measured, used) = match snapshot {
            Snapshot::Success(success) => (hold::taken(success), hold::used(success)),
            Snapshot::Failure(_) => Default::default(),
        };
        let now = millis::now();
        Act::Finish(Box::new(Finish {
            job: job.id.clone(),
            epoch: job.epoch,
            state,
            measured,
            used,
            attempts: job.attempts(),
            result: self.seal("job.result", &job.id, snapshot),
            error_code: code.map(|code| code.name().to_owned()),
            abandoned: job.is_abandoned() || !job.was_sent(),
            expires_at: now.saturating_add(self.retention_ms()),
            at: now,
        }))
    }

    /// Writes a job's success and its charge down, in one transaction; waits for the database.
    /// False where another process has the job by now.
    async fn capture(&self, job: &Arc<Job>, success: &Success, first: bool) -> bool {
        let mut light = Success::clone(success);
        light.pictures.iter_mut().for_each(|picture| picture.blob = None);
        if self.settings.zero_retention {
            light.pictures.iter_mut().for_each(|picture| picture.revised_prompt = None);
        }
        let snapshot = Snapshot::Success(Box::new(light));
        let act = self.finish(job, JobState::Succeeded, &snapshot, None);
        let durability = job.durability();
        point(Point::BeforeFinish);
        match self.desk.insist(&job.grant.org, act, durability).await {
            Ok(_) => {
                point(Point::AfterFinish);
                job.set_captured();
                if !first && job.was_sent() {
                    self.note_abandoned(job);
                }
                true
            }
            Err(denied) => {
                tracing::error!(job = job.id, ?denied, "a charge was not written down");
                // What is in the database counts from here on.
                self.jobs.remove(&job.id);
                let error = match denied {
                    Denied::Fenced | Denied::NotNow => taken_over(job),
                    _ => Error::new(
                        Code::LedgerFrozen,
                        "the balance of this account is being checked by the operator",
                    ),
                };
                if job.outcome().is_none() {
                    job.finish(Err(Arc::new(error)));
                }
                false
            }
        }
    }

    /// Sees a result home that its caller may have by now: into the store, then into the books.
    async fn bring_home(self: &Arc<Self>, job: &Arc<Job>) {
        let mut pause = STORE_PAUSE;
        let end = if self.settings.zero_retention {
            // Nobody can join it any more.
            SystemTime::now() + super::job::JOIN_WINDOW
        } else {
            job.deadline_at + self.settings.retention
        };
        loop {
            let keeping = job.keeping.lock().await;
            let Some(Ok(success)) = job.outcome() else { return };
            if !success.is_kept() && !self.settings.zero_retention {
                let mut kept = Success::clone(&success);
                match self.keep(job, &mut kept).await {
                    Ok(()) => job.replace(Ok(Arc::new(kept))),
                    Err(error) => {
                        tracing::error!(job = job.id, %error, "a result could not be kept yet");
                        self.metrics.unkept.inc();
                    }
                }
            }
            drop(keeping);
            let Some(Ok(success)) = job.outcome() else { return };
            if success.is_kept() || job.was_sent() {
                self.capture(job, &success, false).await;
                return;
            }
            if SystemTime::now() > end {
                let message = "the result could not be kept while anyone could have asked for it";
                let error = Error::new(Code::ResultLost, message);
                return self.give_up(job, error).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A result whose links are wanted, once everything of it is kept. Where the store still
    /// does not take it, the caller's repeat joins the job and tries again: the paid pictures
    /// wait for it.
    pub async fn kept(
        self: &Arc<Self>,
        job: &Arc<Job>,
        success: Arc<Success>,
    ) -> Result<Arc<Success>, Error> {
        if success.pictures.iter().all(|p| p.kept.is_some() || p.blob.is_none()) {
            return Ok(success);
        }
        // Before the attempt: a caller that hangs up meanwhile ends it.
        self.abandon(job);
        let keeping = job.keeping.lock().await;
        // Another one may have put them away by now.
        let success = job.outcome().and_then(Result::ok).unwrap_or(success);
        let mut success = Success::clone(&success);
        let kept = self.keep(job, &mut success).await;
        let success = Arc::new(success);
        job.replace(Ok(Arc::clone(&success)));
        drop(keeping);
        kept.map_err(|mut error| {
            error.mediagate = Some(Box::new(json!({ "job_id": job.id })));
            error.retry_after(Some(STORE_PAUSE))
        })?;
        job.set_abandoned(false);
        Ok(success)
    }

    /// After an answer: whether all of it went out, or a repeat may ask for it again.
    pub fn settle(self: &Arc<Self>, job: &Arc<Job>, sent: bool) {
        if sent {
            job.set_sent();
        }
        let Some(Ok(success)) = job.outcome() else {
            if !sent {
                self.abandon(job);
            }
            return;
        };
        if !sent && !success.is_kept() && success.pictures.iter().all(|p| p.blob.is_none()) {
            // Without its bytes there is nothing to join.
            return;
        }
        if sent && self.settings.zero_retention && !success.wants_url {
            let mut light = Success::clone(&success);
            light.pictures.iter_mut().for_each(|picture| picture.blob = None);
            job.replace(Ok(Arc::new(light)));
        }
        if job.set_abandoned(!sent) || job.is_captured() {
            self.note_abandoned(job);
        }
    }

    /// Says that the caller of a job went away, so that its repeat may join on any replica.
    pub fn abandon(self: &Arc<Self>, job: &Arc<Job>) {
        if job.set_abandoned(true) {
            self.note_abandoned(job);
        }
    }

    pub(super) fn note_abandoned(&self, job: &Arc<Job>) {
        let (desk, job) = (self.desk.clone(), Arc::clone(job));
        self.tasks.spawn(async move {
            // As it now is: notes may overtake each other.
            let (id, abandoned) = (job.id.clone(), job.is_abandoned());
            let (org, act) = (&job.grant.org, Act::Abandon { job: id, abandoned });
            // Lost with the process or the database: then a repeat may join that need not.
            let _ = desk.write(org, act, Durability::Process).await;
        });
    }

    /// Puts the pictures of a job into the store, side by side, and lets go of their bytes.
    async fn keep(&self, job: &Job, success: &mut Success) -> Result<(), Error> {
        point(Point::BeforeKeep);
        let origin = Origin {
            model: success.model.clone(),
            provider: success.provider.clone(),
            deployment: success.deployment.clone(),
            parameters: success.parameters.clone(),
            cost_usd: success.cost.as_ref().map(|cost| cost.total().to_string()),
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
        if picture.kept.is_some() {
            return Ok(());
        }
        let Some(blob) = picture.blob.clone() else {
            return Err(Error::new(Code::StoreUnavailable, "the picture is not there any more"));
        };
        let meta = ObjectMeta {
            format: picture.format,
            model: origin.model.clone(),
            provider: origin.provider.clone(),
            deployment: origin.deployment.clone(),
            job: job.id.clone(),
            task: job.task.clone(),
            parameters: origin.parameters.clone(),
            cost_usd: origin.cost_usd.clone(),
            seed: picture.seed,
            prompt_sha256: Some(job.prompt_sha256.clone()),
            sha256: picture.sha256.clone(),
            created: unix(job.created_at),
        };
        let key = self.store.key(&KeyParts {
            project: &job.grant.project,
            date: &date(job.created_at),
            job: &job.id,
            index,
            ext: picture.format.extension(),
        });
        let refused = || Error::new(Code::StoreUnavailable, "the picture could not be kept");
        let put = tokio::time::timeout(
            STORE_PATIENCE,
            self.store.put(&key, &meta, &blob, job.durability()),
        );
        let kept = put.await.map_err(|e| refused().because(e))?;
        let kept = kept.map_err(|e| refused().because(e))?;
        point(Point::MidKeep);
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
    parameters: BTreeMap<String, String>,
    cost_usd: Option<String>,
}

/// The error of a job that another process took over: its caller finds it there.
fn taken_over(job: &Job) -> Error {
    let message = "another replica went on with this job; ask for it again";
    let mut error = Error::new(Code::JobStillRunning, message);
    error.mediagate = Some(Box::new(json!({ "job_id": job.id })));
    error.retry_after(Some(STORE_PAUSE))
}

/// The day, as `2026-11-21`, in UTC.
fn date(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}
