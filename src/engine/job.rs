//! A picture job from plan to result, and the table of the jobs that this process works on.
//!
//! A caller only watches its job: one that hangs up leaves the job running, for the provider
//! will be paid in any case. What is needed to go on with a job after this process is in the
//! database ([`crate::jobs`]); here is what the process itself needs.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use providers::{
    Reply,
    catalog::Task,
    media::{Format, Size},
    money::{Cost, Money},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{millis, request::Adjustment};
use crate::{
    db::Durability,
    error::Error,
    jobs::{AttemptRow, AttemptState, JobRow},
    media::blob::Blob,
    store::Kept,
    tenant::Grant,
};

/// One try of one deployment, for the caller's eyes.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct AttemptRecord {
    /// `provider/model`.
    pub deployment: String,
    /// `ok`, or what went wrong.
    pub outcome: Cow<'static, str>,
    /// How long it took.
    pub ms: u64,
}

/// One delivered picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivered {
    /// The bytes; `None` once they are only in the store.
    #[serde(skip)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MissingPicture {
    /// Which of the pictures asked for.
    pub index: usize,
    /// The error code it would have been alone.
    pub code: Cow<'static, str>,
    /// Why.
    pub message: String,
}

/// A finished job with at least one picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// What is charged.
    pub cost: Option<Cost>,
    /// What of it is for which provider.
    pub shares: Vec<Share>,
    /// The provider's quality word, where it is known.
    pub quality: Option<String>,
    /// Background asked for.
    pub background: Option<String>,
    /// What was asked, as kept beside the pictures: no words, and pictures by their digests.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Whether links were asked for.
    pub wants_url: bool,
    /// Whether the simulator drew it.
    pub simulated: bool,
    /// Tokens counted, if any.
    pub usage: providers::Usage,
    /// Time spent waiting for providers.
    #[serde(skip)]
    pub upstream: Duration,
}

/// A provider's part of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// The provider.
    pub provider: String,
    /// Pictures it delivered.
    pub pictures: u32,
    /// What the client pays for them.
    pub cost: Option<Cost>,
}

impl Success {
    /// Whether every picture is in the store.
    pub fn is_kept(&self) -> bool {
        self.pictures.iter().all(|p| p.kept.is_some())
    }
}

/// What a job came to.
pub type Outcome = Result<Arc<Success>, Arc<Error>>;

/// A job that this process works on or follows.
#[derive(Debug)]
pub struct Job {
    /// `job_` and a time-ordered id.
    pub id: String,
    /// Who asked.
    pub grant: Arc<Grant>,
    /// What it is for, such as `image.generate`.
    pub task: String,
    /// The model asked for.
    pub model: String,
    /// The request that began it.
    pub request_id: String,
    /// SHA-256 of the prompt, in hex: kept beside the pictures, where the prompt is not.
    pub prompt_sha256: String,
    /// SHA-256 of what was asked, to recognise a repeat.
    pub fingerprint: Vec<u8>,
    /// When it began.
    pub created_at: SystemTime,
    /// When it must be done.
    pub deadline_at: SystemTime,
    /// How often it changed hands.
    pub epoch: i64,
    /// When this process began with it.
    pub begun: Instant,
    /// What the client may be charged at most.
    pub held: Money,
    /// Whether the simulator draws it.
    pub simulated: bool,
    /// Held while its pictures are put away: two at once would be in each other's way.
    pub keeping: tokio::sync::Mutex<()>,
    /// Fires when its owner wants it ended.
    pub cancel: CancellationToken,
    full: AtomicBool,
    live: Mutex<Live>,
    done: watch::Sender<Option<Outcome>>,
}

#[derive(Debug, Default)]
struct Live {
    finished_at: Option<SystemTime>,
    abandoned: bool,
    sent: bool,
    captured: bool,
    attempts: Vec<AttemptRow>,
    queue_position: Option<u64>,
    /// Ids of the provider's jobs that are its own.
    remotes: Vec<String>,
    /// Attempts that listen for what their provider pushes.
    pushes: BTreeMap<i64, mpsc::Sender<Push>>,
}

/// What a provider pushed.
#[derive(Debug)]
pub struct Push {
    /// What it says.
    pub reply: Reply,
    /// Told once that is written down.
    pub heard: oneshot::Sender<()>,
}

/// How long a provider that pushes is kept waiting; they give up after 15 s and more.
const HEARD: Duration = Duration::from_secs(10);
/// Pushes that may wait to be read; providers repeat what is lost.
const PUSHES: usize = 8;

/// What makes a job.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// Who asks.
    pub grant: &'a Arc<Grant>,
    /// What it is for.
    pub task: Task,
    /// The model asked for.
    pub model: &'a str,
    /// The request.
    pub request_id: &'a str,
    /// Its text.
    pub prompt: &'a str,
    /// SHA-256 of what was asked.
    pub fingerprint: [u8; 32],
    /// How long it may take.
    pub deadline: Duration,
    /// What the client may be charged at most.
    pub held: Money,
    /// Whether the simulator draws it.
    pub simulated: bool,
    /// Whether its records must outlive the machine's power.
    pub durability: Durability,
}

impl Job {
    /// A job that has just begun.
    pub fn new(new: &NewJob<'_>) -> Arc<Self> {
        let now = SystemTime::now();
        Arc::new(Self {
            id: format!("job_{}", uuid::Uuid::now_v7().simple()),
            grant: Arc::clone(new.grant),
            task: new.task.name().to_owned(),
            model: new.model.to_owned(),
            request_id: new.request_id.to_owned(),
            prompt_sha256: hex::encode(Sha256::digest(new.prompt.as_bytes())),
            fingerprint: new.fingerprint.to_vec(),
            created_at: now,
            deadline_at: now + new.deadline,
            epoch: 1,
            begun: Instant::now(),
            keeping: tokio::sync::Mutex::default(),
            held: new.held,
            simulated: new.simulated,
            cancel: CancellationToken::new(),
            full: AtomicBool::new(new.durability == Durability::Full),
            live: Mutex::default(),
            done: watch::Sender::new(None),
        })
    }

    /// A stored job, taken up again or followed. `prompt` is empty where only its outcome counts.
    pub fn stored(row: &JobRow, grant: Arc<Grant>, prompt: &str) -> Arc<Self> {
        let held = row.legs.iter().find(|leg| leg.account.starts_with("credit:"));
        Arc::new(Self {
            id: row.id.clone(),
            grant,
            task: row.task.clone(),
            model: row.model.clone(),
            request_id: row.request_id.clone(),
            prompt_sha256: hex::encode(Sha256::digest(prompt.as_bytes())),
            fingerprint: row.fingerprint.clone(),
            created_at: millis::at(row.created_at),
            deadline_at: millis::at(row.deadline_at),
            epoch: row.epoch,
            begun: Instant::now(),
            keeping: tokio::sync::Mutex::default(),
            held: Money::from_nanos(held.map_or(0, |leg| leg.amount)),
            simulated: row.simulated,
            cancel: asked_to_end(row),
            full: AtomicBool::new(true),
            live: Mutex::new(Live {
                finished_at: row.finished_at.map(millis::at),
                abandoned: row.abandoned,
                captured: row.settled,
                ..Live::default()
            }),
            done: watch::Sender::new(None),
        })
    }

    /// How durable its records must be.
    pub fn durability(&self) -> Durability {
        if self.full.load(Ordering::Relaxed) { Durability::Full } else { Durability::Process }
    }

    /// From here on its records must outlive the machine's power.
    pub fn raise_durability(&self, to: Durability) {
        if to == Durability::Full {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// Says what it came to.
    pub fn finish(&self, outcome: Outcome) {
        self.live.lock().finished_at.get_or_insert_with(SystemTime::now);
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

    /// When it was over.
    pub fn finished_at(&self) -> Option<SystemTime> {
        self.live.lock().finished_at
    }

    /// A place in the row of those who wait for it.
    pub fn watch(&self) -> Watch {
        Watch(self.done.subscribe())
    }

    /// Whether anyone waits for it.
    pub fn is_watched(&self) -> bool {
        self.done.receiver_count() > 0
    }

    /// How many wait for it.
    pub fn watchers(&self) -> usize {
        self.done.receiver_count()
    }

    /// Says that the caller went away without the answer, so that a repeat may join; or that it
    /// has got it. Gives whether that is news.
    pub fn set_abandoned(&self, abandoned: bool) -> bool {
        std::mem::replace(&mut self.live.lock().abandoned, abandoned) != abandoned
    }

    /// Whether its caller went away.
    pub fn is_abandoned(&self) -> bool {
        self.live.lock().abandoned
    }

    /// Says that all of the answer went out.
    pub fn set_sent(&self) {
        self.live.lock().sent = true;
    }

    /// Whether all of the answer went out.
    pub fn was_sent(&self) -> bool {
        self.live.lock().sent
    }

    /// Says that its charge is written down. Gives whether it was not before.
    pub fn set_captured(&self) -> bool {
        !std::mem::replace(&mut self.live.lock().captured, true)
    }

    /// Whether its charge is written down.
    pub fn is_captured(&self) -> bool {
        self.live.lock().captured
    }

    /// Jobs ahead of it at the provider, as last heard.
    pub fn queue_position(&self) -> Option<u64> {
        self.live.lock().queue_position
    }

    /// Notes how many jobs are ahead of it.
    pub fn set_queue_position(&self, position: Option<u64>) {
        self.live.lock().queue_position = position;
    }

    /// Notes the id of a provider's job that is its own.
    pub fn note_remote(&self, id: &str) {
        self.live.lock().remotes.push(id.to_owned());
    }

    /// From here on what is pushed to an attempt is for the receiver.
    pub fn expect_pushes(&self, attempt: i64) -> mpsc::Receiver<Push> {
        let (sender, receiver) = mpsc::channel(PUSHES);
        self.live.lock().pushes.insert(attempt, sender);
        receiver
    }

    /// Hands a push to the attempt it is for. True once what it says is written down, or where
    /// nobody needs it any more; else the provider must send it again, for some tell the end of a
    /// job in no other way.
    pub async fn push(&self, attempt: i64, reply: Reply) -> bool {
        let (heard, answer) = oneshot::channel();
        let sender = self.live.lock().pushes.get(&attempt).cloned();
        if sender.is_some_and(|sender| sender.try_send(Push { reply, heard }).is_ok()) {
            let answer = tokio::time::timeout(HEARD, answer).await;
            return matches!(answer, Ok(Ok(()))) || self.finished_at().is_some();
        }
        let row = self.change_attempt(attempt, |_| ());
        let waits =
            |row: AttemptRow| matches!(row.state, AttemptState::Intent | AttemptState::Accepted);
        self.finished_at().is_some() || !row.is_some_and(waits)
    }

    /// Puts attempts in place that were written down before.
    pub fn restore(&self, attempts: Vec<AttemptRow>) {
        self.live.lock().attempts = attempts;
    }

    /// Its attempts, as they now are.
    pub fn attempts(&self) -> Vec<AttemptRow> {
        self.live.lock().attempts.clone()
    }

    /// Adds an attempt; its number is set.
    pub fn add_attempt(&self, mut row: AttemptRow) -> AttemptRow {
        let mut live = self.live.lock();
        row.number = live.attempts.len() as i64;
        live.attempts.push(row.clone());
        row
    }

    /// Changes an attempt, and gives it as it now is.
    pub fn change_attempt(
        &self,
        number: i64,
        change: impl FnOnce(&mut AttemptRow),
    ) -> Option<AttemptRow> {
        let mut live = self.live.lock();
        let row = live.attempts.iter_mut().find(|row| row.number == number)?;
        change(row);
        Some(row.clone())
    }

    /// Attempts still on their way to the provider or working there.
    pub fn live_attempts(&self) -> Vec<AttemptRow> {
        let live = self.live.lock();
        live.attempts.iter().filter(|row| AttemptState::is_live(row.state)).cloned().collect()
    }

    /// Lets go of bytes that the store never took, once no repeat can join any more.
    fn let_go(&self) {
        let Some(Ok(success)) = self.outcome() else { return };
        if success.pictures.iter().any(|p| p.blob.is_some()) {
            let mut success = Success::clone(&success);
            success.pictures.iter_mut().for_each(|p| p.blob = None);
            self.replace(Ok(Arc::new(success)));
        }
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

/// The jobs of this process: those that run, and those that lately ended.
#[derive(Debug, Default)]
pub struct Jobs {
    /// By id, which is by age.
    table: Mutex<BTreeMap<String, Arc<Job>>>,
}

/// Jobs remembered at most; the database knows the others.
const MOST_JOBS: usize = 10_000;
/// A repeat of a finished request by the SDK joins it for this long.
pub const JOIN_WINDOW: Duration = Duration::from_mins(15);

impl Jobs {
    /// Adds a job; when there are too many, the oldest that is over is forgotten.
    pub fn add(&self, job: &Arc<Job>) {
        let mut table = self.table.lock();
        table.insert(job.id.clone(), Arc::clone(job));
        if table.len() > MOST_JOBS {
            let over = table.values().find(|job| job.finished_at().is_some() && job.is_captured());
            let oldest = over.map(|job| job.id.clone());
            oldest.and_then(|id| table.remove(&id));
        }
    }

    /// Forgets a job.
    pub fn remove(&self, id: &str) {
        self.table.lock().remove(id);
    }

    /// Forgets jobs that the database has and no repeat can join any more. Walks the whole table,
    /// so it is called now and then and not for every job.
    pub fn sweep(&self, now: SystemTime) {
        let recent = |job: &Arc<Job>| {
            job.finished_at()
                .is_none_or(|at| now.duration_since(at).is_ok_and(|age| age < JOIN_WINDOW))
        };
        let mut table = self.table.lock();
        table.retain(|_, job| recent(job) || !job.is_captured());
        for job in table.values().filter(|job| !recent(job) && job.is_captured()) {
            job.let_go();
        }
    }

    /// Whether a provider's job belongs to one of these already.
    pub fn has_remote(&self, id: &str) -> bool {
        let table = self.table.lock();
        table.values().any(|job| job.live.lock().remotes.iter().any(|known| known == id))
    }

    /// A job by id, whosever it is.
    pub fn any(&self, id: &str) -> Option<Arc<Job>> {
        self.table.lock().get(id).cloned()
    }

    /// A key's job by id.
    pub fn get(&self, key: &str, id: &str) -> Option<Arc<Job>> {
        self.any(id).filter(|job| job.grant.key_id == key)
    }

    /// The job that a repeat by the SDK belongs to, and a place among those who wait for it: the
    /// same key asked the same, and the caller has gone. Each lost caller is joined once.
    pub fn join(&self, key: &str, fingerprint: &[u8]) -> Option<(Arc<Job>, Watch)> {
        let now = SystemTime::now();
        let table = self.table.lock();
        // The latest: those before it may have been answered after all.
        let job = table.values().rev().find(|job| {
            job.grant.key_id == key
                && job.fingerprint == fingerprint
                && match job.finished_at() {
                    // While it runs, nobody but its caller watches it.
                    None => job.is_abandoned() || !job.is_watched(),
                    Some(at) => {
                        job.is_abandoned()
                            && now.duration_since(at).is_ok_and(|age| age < JOIN_WINDOW)
                    }
                }
        })?;
        job.set_abandoned(false);
        // Watched before the table is free again, so that no other repeat joins too.
        Some((Arc::clone(job), job.watch()))
    }
}

/// Fired already where its owner wanted the job ended before it changed hands.
fn asked_to_end(row: &JobRow) -> CancellationToken {
    let token = CancellationToken::new();
    if row.cancel_asked {
        token.cancel();
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(prompt: &str) -> Arc<Job> {
        Job::new(&NewJob {
            task: Task::ImageGenerate,
            grant: &Arc::new(Grant::open()),
            model: "m",
            request_id: "r",
            prompt,
            fingerprint: [0; 32],
            deadline: Duration::from_mins(1),
            held: Money::ZERO,
            simulated: false,
            durability: Durability::Process,
        })
    }

    fn end(job: &Job) {
        job.finish(Err(Arc::new(Error::internal("a test"))));
        job.set_captured();
    }

    #[test]
    fn the_table_forgets_what_is_over_and_never_what_runs() {
        let jobs = Jobs::default();
        let running = job("runs");
        jobs.add(&running);
        let first = job("first");
        end(&first);
        jobs.add(&first);
        for _ in 0..MOST_JOBS {
            let other = job("other");
            end(&other);
            jobs.add(&other);
        }
        assert!(jobs.get("open", &running.id).is_some(), "a running job was forgotten");
        assert!(jobs.any(&first.id).is_none(), "the oldest finished job is still there");
        let unwritten = job("unwritten");
        unwritten.finish(Err(Arc::new(Error::internal("a test"))));
        jobs.add(&unwritten);
        jobs.sweep(SystemTime::now() + Duration::from_hours(2));
        assert!(jobs.any(&running.id).is_some());
        assert!(jobs.any(&unwritten.id).is_some(), "forgotten before it was written down");
        assert_eq!(jobs.table.lock().len(), 2);
        assert!(jobs.get("other", &running.id).is_none(), "another key sees it");
    }
}
