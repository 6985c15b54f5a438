//! The desk: acts of many requests written in one transaction.
//!
//! Acts queue up while a transaction is being written, and the next one takes all of them: the
//! rows they name are locked and loaded, each act decides on its own, and what changed is written
//! with one statement for each table. A commit is waited for once, by many. Acts of one
//! organisation stay in one queue, so that they do not wait for each other's row locks.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};

use super::{
    act::{Act, Denied, Done, Finish, KeyRow},
    image::Image,
    load::{load, values},
    row::{JobRow, JobState},
};
use crate::{
    db::{Db, DbError, Durability, Insert, Tx, Value},
    ledger::{Book, Refusal, book::Measured},
    usage::alert::{self, Alerts, Event, Moved, Refused},
};

/// Acts written together at most.
const MOST_ACTS: usize = 256;
/// Acts that may wait; more are refused at once.
const QUEUE: usize = 8192;
/// Transactions written side by side where the database can do that.
const SHARED_QUEUES: usize = 3;
/// An answer that takes longer than this is none: the caller is refused.
const PATIENCE: Duration = Duration::from_millis(950);

/// Why an act was not written.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// It may not be. Nothing was changed.
    #[error("denied: {0:?}")]
    Denied(Denied),
    /// The database does not answer. An act that is about to be sent must not be; one that
    /// records what has happened is to be tried again.
    #[error("the database does not answer")]
    Unavailable(#[source] Arc<DbError>),
}

impl From<Denied> for DeskError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

struct Item {
    act: Act,
    durability: Durability,
    reply: oneshot::Sender<Result<Done, DeskError>>,
}

/// The way to the database for everything that is decided. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    db: Db,
    queues: Arc<[mpsc::Sender<Item>]>,
    alerts: Arc<Alerts>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("job", &self.act.job()).finish_non_exhaustive()
    }
}

impl Desk {
    /// A desk in front of a database. Its tasks end when the last clone is gone.
    pub fn new(db: Db) -> Self {
        let alerts = Arc::new(Alerts::default());
        let queues = if db.is_shared() { SHARED_QUEUES } else { 1 };
        let queues = (0..queues).map(|_| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(serve(db.clone(), Arc::clone(&alerts), receiver));
            sender
        });
        Self { queues: queues.collect(), db, alerts }
    }

    /// Who is to be told of what is booked; to be refreshed as tenants change.
    pub fn alerts(&self) -> &Arc<Alerts> {
        &self.alerts
    }

    /// The database behind it, for questions.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Writes an act, and waits until it is as durable as asked.
    pub async fn write(
        &self,
        org: &str,
        act: Act,
        durability: Durability,
    ) -> Result<Done, DeskError> {
        let (reply, answer) = oneshot::channel();
        let late = || DeskError::Unavailable(Arc::new(DbError::late()));
        let mut hasher = DefaultHasher::new();
        org.hash(&mut hasher);
        let queue = &self.queues[(hasher.finish() % self.queues.len() as u64) as usize];
        queue.try_send(Item { act, durability, reply }).map_err(|_| late())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            _ => Err(late()),
        }
    }

    /// Writes an act that records what has happened, however long the database is away. Gives up
    /// only where the act is denied.
    pub async fn insist(
        &self,
        org: &str,
        act: Act,
        durability: Durability,
    ) -> Result<Done, Denied> {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.write(org, act.clone(), durability).await {
                Ok(done) => return Ok(done),
                Err(DeskError::Denied(denied)) => return Err(denied),
                Err(DeskError::Unavailable(error)) => {
                    tracing::warn!(error = %error, job = act.job(), "not written down yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }
}

async fn serve(db: Db, alerts: Arc<Alerts>, mut queue: mpsc::Receiver<Item>) {
    let mut items = Vec::new();
    while queue.recv_many(&mut items, MOST_ACTS).await > 0 {
        // Whoever gave up has told its caller so: its act must not happen behind its back.
        items.retain(|item| !item.reply.is_closed());
        let batch = std::mem::take(&mut items);
        write_batch(&db, &alerts, batch).await;
    }
}

async fn write_batch(db: &Db, alerts: &Arc<Alerts>, batch: Vec<Item>) {
    let durability = batch.iter().map(|item| item.durability).max().unwrap_or(Durability::Process);
    let mut acts = Vec::with_capacity(batch.len());
    let mut replies = Vec::with_capacity(batch.len());
    for item in batch {
        acts.push(item.act);
        replies.push(item.reply);
    }
    let acts: Arc<[Act]> = acts.into();
    let answers: Vec<Result<Done, DeskError>> =
        match transaction(db, alerts, durability, Arc::clone(&acts)).await {
            Ok(answers) => answers.into_iter().map(|answer| answer.map_err(Into::into)).collect(),
            // One of them breaks a rule of the database: alone, only that one fails.
            Err(DbError::Conflict(rule) | DbError::Corrupt(rule)) if acts.len() > 1 => {
                tracing::debug!(rule, acts = acts.len(), "written one by one");
                let mut answers = Vec::with_capacity(acts.len());
                for act in acts.iter() {
                    answers.push(alone(db, alerts, durability, act.clone()).await);
                }
                answers
            }
            Err(DbError::Conflict(_)) => vec![alone(db, alerts, durability, acts[0].clone()).await],
            Err(error) => {
                let error = Arc::new(error);
                acts.iter().map(|_| Err(DeskError::Unavailable(Arc::clone(&error)))).collect()
            }
        };
    for ((reply, answer), act) in replies.into_iter().zip(answers).zip(acts.iter()) {
        if let Err(Ok(done)) = reply.send(answer)
            && let Some(undo) = undo(act, &done)
            && let Err(error) = alone(db, alerts, durability, undo).await
        {
            // The lease of a job without a driver ends, and whoever takes it over lets go of it.
            tracing::warn!(%error, job = act.job(), "a late write could not be undone");
        }
    }
}

/// What takes back an act whose caller has given up on it: it was told that nothing happened.
fn undo(act: &Act, done: &Done) -> Option<Act> {
    match (act, done) {
        (Act::Open(open), Done::Opened(_)) => Some(Act::Finish(Box::new(Finish {
            job: open.job.id.clone(),
            epoch: open.job.epoch,
            state: JobState::Failed,
            measured: Measured::new(),
            used: Vec::new(),
            attempts: Vec::new(),
            result: Vec::new(),
            error_code: Some(crate::error::Code::StoreUnavailable.name().to_owned()),
            abandoned: false,
            expires_at: open.job.expires_at,
            at: open.job.created_at,
        }))),
        (Act::Join { job, .. }, Done::Written) => {
            Some(Act::Abandon { job: job.clone(), abandoned: true })
        }
        _ => None,
    }
}

/// One act in its own transaction. A conflict is tried once more, for the other side of a race is
/// visible by now; then the database's rule stands.
async fn alone(
    db: &Db,
    alerts: &Arc<Alerts>,
    durability: Durability,
    act: Act,
) -> Result<Done, DeskError> {
    let acts: Arc<[Act]> = vec![act].into();
    let mut result = transaction(db, alerts, durability, Arc::clone(&acts)).await;
    if matches!(result, Err(DbError::Conflict(_))) {
        result = transaction(db, alerts, durability, acts).await;
    }
    match result {
        Ok(mut answers) => {
            answers.pop().map_or(Err(Denied::NotNow.into()), |a| a.map_err(Into::into))
        }
        Err(DbError::Conflict(rule) | DbError::Corrupt(rule)) => {
            tracing::error!(rule, "the database does not take this");
            Err(Denied::NotNow.into())
        }
        Err(error) => Err(DeskError::Unavailable(Arc::new(error))),
    }
}

async fn transaction(
    db: &Db,
    alerts: &Arc<Alerts>,
    durability: Durability,
    acts: Arc<[Act]>,
) -> Result<Vec<Result<Done, Denied>>, DbError> {
    let watch = Arc::clone(alerts);
    let (answers, events) = db
        .transaction(durability, move |tx| {
            let (acts, alerts) = (Arc::clone(&acts), Arc::clone(&watch));
            async move {
                let mut image = load(tx, &acts).await?;
                let answers: Vec<_> = acts.iter().map(|act| act.decide(&mut image)).collect();
                save(tx, &image).await?;
                let events = events(&alerts, &acts, &answers, &image.book);
                alert::raise(tx, &events).await?;
                Ok((answers, events))
            }
            .boxed()
        })
        .await?;
    alerts.told(&events);
    Ok(answers)
}

/// Who is to be told of what these acts booked, or of what refused them.
fn events(
    alerts: &Alerts,
    acts: &[Act],
    answers: &[Result<Done, Denied>],
    book: &Book,
) -> Vec<Event> {
    let at = acts.iter().map(Act::at).max().unwrap_or(0);
    // A job is finished once, so one crossing is told once.
    let finish = acts.iter().find(|act| matches!(act, Act::Finish(_))).and_then(Act::job);
    let mut events = Vec::new();
    if let Some(cause) = finish {
        for (account, before) in book.moved() {
            events.extend(alerts.moved(&Moved { account, before, cause, at }));
        }
    }
    let mut seen = BTreeSet::new();
    for answer in answers {
        if let Err(Denied::Ledger(Refusal::Exceeded { account, asked, left, .. })) = answer
            && seen.insert(account)
        {
            let (asked, left) = (*asked, *left);
            events.extend(alerts.refused(&Refused { account, asked, left, at }));
        }
    }
    events
}

static ACCOUNT: Insert = Insert {
    into: "account (id, org, unit, posted, pending, cap, ceiling, frozen)",
    columns: 8,
    conflict: "ON CONFLICT (id) DO UPDATE SET posted = excluded.posted, \
               pending = excluded.pending, cap = excluded.cap, ceiling = excluded.ceiling",
};
static TRANSFER: Insert = Insert {
    into: "transfer (id, kind, org, unit, debit, credit, amount, hold, held, job, memo, at)",
    columns: 12,
    conflict: "",
};
const JOB_INTO: &str = "job (id, org, project, api_key, task, model, state, request_id, \
     fingerprint, created_at, deadline_at, finished_at, expires_at, owner, epoch, lease_until, \
     legs, settled, charge, abandoned, cancel_asked, simulated, labels, error_code, payload, \
     result)";
static NEW_JOB: Insert = Insert { into: JOB_INTO, columns: 26, conflict: "" };
static JOB: Insert = Insert {
    into: JOB_INTO,
    columns: 26,
    conflict: "ON CONFLICT (id) DO UPDATE SET state = excluded.state, \
               finished_at = excluded.finished_at, expires_at = excluded.expires_at, \
               owner = excluded.owner, epoch = excluded.epoch, \
               lease_until = excluded.lease_until, settled = excluded.settled, \
               charge = excluded.charge, abandoned = excluded.abandoned, \
               cancel_asked = excluded.cancel_asked, error_code = excluded.error_code, \
               payload = CASE WHEN excluded.finished_at IS NULL THEN job.payload END, \
               result = COALESCE(excluded.result, job.result)",
};
static ATTEMPT: Insert = Insert {
    into: "attempt (id, job, number, deployment, provider, credential, first, count, seed, \
           state, outcome, sent_at, ms, expected, billed, remote, output)",
    columns: 17,
    conflict: "ON CONFLICT (id) DO UPDATE SET state = excluded.state, \
               outcome = excluded.outcome, ms = excluded.ms, billed = excluded.billed, \
               remote = excluded.remote, output = excluded.output",
};
static KEY: Insert = Insert {
    into: "idempotency (id, fingerprint, job, expires_at)",
    columns: 4,
    // Only over what was forgotten or failed, which was loaded and locked; a key that another
    // process wrote meanwhile is a conflict.
    conflict: "ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, \
               job = excluded.job, expires_at = excluded.expires_at",
};
static NEW_KEY: Insert =
    Insert { into: "idempotency (id, fingerprint, job, expires_at)", columns: 4, conflict: "" };
static USAGE: Insert = Insert {
    into: "usage_day (org, day, project, api_key, model, provider, label, value, unit, \
           requests, quantity, amount)",
    columns: 12,
    conflict: "ON CONFLICT (org, day, project, api_key, model, provider, label, value, unit) \
               DO UPDATE SET requests = usage_day.requests + excluded.requests, \
               quantity = usage_day.quantity + excluded.quantity, \
               amount = usage_day.amount + excluded.amount",
};
static COST: Insert = Insert {
    into: "cost_day (day, org, provider, credential, model, requests, expected, \
           reported_requests, reported, suspense)",
    columns: 10,
    conflict: "ON CONFLICT (day, org, provider, credential, model) \
               DO UPDATE SET requests = cost_day.requests + excluded.requests, \
               expected = cost_day.expected + excluded.expected, \
               reported_requests = cost_day.reported_requests + excluded.reported_requests, \
               reported = cost_day.reported + excluded.reported, \
               suspense = cost_day.suspense + excluded.suspense",
};

/// Writes what has changed.
async fn save(tx: &mut Tx<'_>, image: &Image) -> Result<(), DbError> {
    let accounts: Vec<_> = image.book.changed().map(values).collect();
    let new_jobs: Vec<_> =
        image.new_jobs.iter().filter_map(|id| image.jobs.get(id)).map(JobRow::values).collect();
    let changed = image.changed_jobs.iter().filter_map(|id| image.jobs.get(id));
    let jobs: Vec<_> = changed.map(JobRow::values).collect();
    let row = |key: &KeyRow| -> Vec<Value> {
        vec![
            key.id.as_str().into(),
            key.fingerprint.clone().into(),
            key.job.as_str().into(),
            key.expires_at.into(),
        ]
    };
    let (old, new): (Vec<&KeyRow>, Vec<&KeyRow>) =
        image.changed_keys.values().partition(|key| image.known_keys.contains(&key.id));
    let old: Vec<_> = old.into_iter().map(row).collect();
    let new: Vec<_> = new.into_iter().map(row).collect();
    let transfers = image.book.transfers().iter().map(|t| -> Vec<Value> {
        vec![
            t.id.as_str().into(),
            t.kind.name().into(),
            t.org.as_str().into(),
            t.unit.as_str().into(),
            t.debit.as_str().into(),
            t.credit.as_str().into(),
            t.amount.into(),
            t.hold.clone().into(),
            t.held.into(),
            t.job.clone().into(),
            t.memo.clone().into(),
            t.at.into(),
        ]
    });
    let transfers: Vec<_> = transfers.collect();
    let attempts: Vec<_> = image.attempts.values().map(super::AttemptRow::values).collect();
    let usage = image.usage.iter().map(|(key, sums)| -> Vec<Value> {
        vec![
            key.org.as_str().into(),
            key.day.into(),
            key.project.as_str().into(),
            key.api_key.as_str().into(),
            key.model.as_str().into(),
            key.provider.as_str().into(),
            key.label.as_str().into(),
            key.value.as_str().into(),
            key.unit.as_str().into(),
            sums.requests.into(),
            sums.quantity.into(),
            sums.amount.into(),
        ]
    });
    let usage: Vec<_> = usage.collect();
    let costs = image.costs.iter().map(|(key, costs)| -> Vec<Value> {
        vec![
            key.day.into(),
            key.org.as_str().into(),
            key.provider.as_str().into(),
            key.credential.as_str().into(),
            key.model.as_str().into(),
            costs.requests.into(),
            costs.expected.into(),
            costs.reported_requests.into(),
            costs.reported.into(),
            costs.suspense.into(),
        ]
    });
    let costs: Vec<_> = costs.collect();
    tx.insert_all(&[
        (&ACCOUNT, &accounts),
        (&NEW_JOB, &new_jobs),
        (&JOB, &jobs),
        (&KEY, &old),
        (&NEW_KEY, &new),
        (&TRANSFER, &transfers),
        (&ATTEMPT, &attempts),
        (&USAGE, &usage),
        (&COST, &costs),
    ])
    .await
}
