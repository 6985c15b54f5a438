//! A job and its attempts as they are stored.

use std::collections::BTreeMap;

use crate::{
    db::{DbError, Row, Value},
    ledger::Leg,
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in the database and in answers.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one of that word.
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == word)
            }
        }
    };
}

words! {
    /// How far a job is.
    JobState {
        /// Written down, and not begun.
        Queued "queued",
        /// Being worked on.
        Running "running",
        /// Delivered and charged.
        Succeeded "succeeded",
        /// Over without a result and without a charge.
        Failed "failed",
        /// Ended by its owner.
        Cancelled "cancelled",
        /// A provider may have taken it: over for the caller, who pays nothing, and watched.
        Unknown "unknown",
    }
}

impl JobState {
    /// Whether nothing can happen to it any more but being erased.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

words! {
    /// How far one submit is.
    AttemptState {
        /// Written down; it may have been sent.
        Intent "intent",
        /// The provider's job is known.
        Accepted "accepted",
        /// Where its outputs are is known.
        Produced "produced",
        /// Its outputs are ours.
        Delivered "delivered",
        /// Over, and nothing came of it.
        Failed "failed",
        /// Nobody knows whether the provider took it.
        Unknown "unknown",
    }
}

impl AttemptState {
    /// Whether it may still deliver.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Intent | Self::Accepted | Self::Produced)
    }
}

/// A job as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// `job_` and a time-ordered id.
    pub id: String,
    /// Who pays.
    pub org: String,
    /// Whose it is.
    pub project: String,
    /// Which key asked.
    pub api_key: String,
    /// `image.generate`, ...
    pub task: String,
    /// The public name of the model asked for.
    pub model: String,
    /// How far it is.
    pub state: JobState,
    /// The request that began it.
    pub request_id: String,
    /// SHA-256 of what was asked.
    pub fingerprint: Vec<u8>,
    /// When it was made, in Unix milliseconds, like every time here.
    pub created_at: i64,
    /// When it must be over.
    pub deadline_at: i64,
    /// When it was over.
    pub finished_at: Option<i64>,
    /// When it is erased.
    pub expires_at: i64,
    /// The process that drives it.
    pub owner: String,
    /// How often it changed hands; every write names the epoch it belongs to.
    pub epoch: i64,
    /// Until when its owner may act on it.
    pub lease_until: i64,
    /// What is held for it.
    pub legs: Vec<Leg>,
    /// Whether that was captured or let go.
    pub settled: bool,
    /// What the client was charged, in nano-dollars.
    pub charge: Option<i64>,
    /// Whether its caller went away without the answer.
    pub abandoned: bool,
    /// Whether its owner is to end it.
    pub cancel_asked: bool,
    /// Whether the simulator draws it, so that nothing is booked.
    pub simulated: bool,
    /// Names and values that usage is counted by.
    pub labels: BTreeMap<String, String>,
    /// What went wrong.
    pub error_code: Option<String>,
    /// What was asked, sealed.
    pub payload: Option<Vec<u8>>,
    /// What came of it, sealed.
    pub result: Option<Vec<u8>>,
}

/// Every column of a job, in the order of [`JobRow::from_row`].
pub const JOB_COLUMNS: &str = "SELECT id, org, project, api_key, task, model, state, request_id, \
     fingerprint, created_at, deadline_at, finished_at, expires_at, owner, epoch, lease_until, \
     legs, settled, charge, abandoned, cancel_asked, simulated, labels, error_code, payload, \
     result FROM job";

/// The same without what is sealed: for lists, and for rows that are about to change.
pub const JOB_HEAD: &str = "SELECT id, org, project, api_key, task, model, state, request_id, \
     fingerprint, created_at, deadline_at, finished_at, expires_at, owner, epoch, lease_until, \
     legs, settled, charge, abandoned, cancel_asked, simulated, labels, error_code, NULL, NULL \
     FROM job";

fn flag(row: &Row, column: usize) -> Result<bool, DbError> {
    Ok(row.int(column)? != 0)
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, DbError> {
    serde_json::from_str(text)
        .map_err(|e| DbError::Corrupt(format!("not the JSON it should be: {e}")))
}

/// A column of JSON; the types of ours cannot fail to be written.
fn text<T: serde::Serialize>(value: &T) -> Value {
    Value::Text(serde_json::to_string(value).unwrap_or_default())
}

fn state<T>(found: Option<T>, word: &str) -> Result<T, DbError> {
    found.ok_or_else(|| DbError::Corrupt(format!("{word:?} is no state")))
}

impl JobRow {
    /// A job out of [`JOB_COLUMNS`] or [`JOB_HEAD`].
    pub fn from_row(row: &Row) -> Result<Self, DbError> {
        let word = row.text(6)?;
        Ok(Self {
            id: row.text(0)?,
            org: row.text(1)?,
            project: row.text(2)?,
            api_key: row.text(3)?,
            task: row.text(4)?,
            model: row.text(5)?,
            state: state(JobState::named(&word), &word)?,
            request_id: row.text(7)?,
            fingerprint: row.bytes(8)?,
            created_at: row.int(9)?,
            deadline_at: row.int(10)?,
            finished_at: row.opt_int(11)?,
            expires_at: row.int(12)?,
            owner: row.text(13)?,
            epoch: row.int(14)?,
            lease_until: row.int(15)?,
            legs: json(&row.text(16)?)?,
            settled: flag(row, 17)?,
            charge: row.opt_int(18)?,
            abandoned: flag(row, 19)?,
            cancel_asked: flag(row, 20)?,
            simulated: flag(row, 21)?,
            labels: json(&row.text(22)?)?,
            error_code: row.opt_text(23)?,
            payload: row.opt_bytes(24)?,
            result: row.opt_bytes(25)?,
        })
    }

    /// Its columns as values.
    pub fn values(&self) -> Vec<Value> {
        vec![
            self.id.as_str().into(),
            self.org.as_str().into(),
            self.project.as_str().into(),
            self.api_key.as_str().into(),
            self.task.as_str().into(),
            self.model.as_str().into(),
            self.state.name().into(),
            self.request_id.as_str().into(),
            self.fingerprint.clone().into(),
            self.created_at.into(),
            self.deadline_at.into(),
            self.finished_at.into(),
            self.expires_at.into(),
            self.owner.as_str().into(),
            self.epoch.into(),
            self.lease_until.into(),
            text(&self.legs),
            self.settled.into(),
            self.charge.into(),
            self.abandoned.into(),
            self.cancel_asked.into(),
            self.simulated.into(),
            text(&self.labels),
            self.error_code.clone().into(),
            self.payload.clone().into(),
            self.result.clone().into(),
        ]
    }
}

/// One submit to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// The job.
    pub job: String,
    /// 0, 1, 2, ... within the job.
    pub number: i64,
    /// `provider/model`.
    pub deployment: String,
    /// The provider.
    pub provider: String,
    /// Which key of the provider is used: `config`, or the id of a project's own.
    pub credential: String,
    /// The first of the job's outputs it is for.
    pub first: u32,
    /// How many outputs.
    pub count: u32,
    /// The seed of the first.
    pub seed: Option<u64>,
    /// How far it is.
    pub state: AttemptState,
    /// `ok`, or what went wrong.
    pub outcome: Option<String>,
    /// When it was written down, Unix milliseconds.
    pub sent_at: i64,
    /// How long it took.
    pub ms: Option<i64>,
    /// What the catalogue says it costs us, in nano-dollars.
    pub expected: Option<i64>,
    /// What the provider says.
    pub billed: Option<i64>,
    /// The provider's job, sealed.
    pub remote: Option<Vec<u8>>,
    /// Where its outputs are, sealed.
    pub output: Option<Vec<u8>>,
}

/// Every column of an attempt, in the order of [`AttemptRow::from_row`].
pub const ATTEMPT_COLUMNS: &str = "SELECT id, job, number, deployment, provider, credential, \
     first, count, seed, state, outcome, sent_at, ms, expected, billed, remote, output \
     FROM attempt";

impl AttemptRow {
    /// Its id, which vendors are told where they take a reference of ours.
    pub fn id(&self) -> String {
        attempt_id(&self.job, self.number)
    }

    /// An attempt out of [`ATTEMPT_COLUMNS`].
    pub fn from_row(row: &Row) -> Result<Self, DbError> {
        let word = row.text(9)?;
        let small = |column| {
            u32::try_from(row.int(column)?)
                .map_err(|_| DbError::Corrupt("a count is out of range".to_owned()))
        };
        Ok(Self {
            job: row.text(1)?,
            number: row.int(2)?,
            deployment: row.text(3)?,
            provider: row.text(4)?,
            credential: row.text(5)?,
            first: small(6)?,
            count: small(7)?,
            seed: row.opt_text(8)?.and_then(|seed| seed.parse().ok()),
            state: state(AttemptState::named(&word), &word)?,
            outcome: row.opt_text(10)?,
            sent_at: row.int(11)?,
            ms: row.opt_int(12)?,
            expected: row.opt_int(13)?,
            billed: row.opt_int(14)?,
            remote: row.opt_bytes(15)?,
            output: row.opt_bytes(16)?,
        })
    }

    /// Its columns as values.
    pub fn values(&self) -> Vec<Value> {
        vec![
            self.id().into(),
            self.job.as_str().into(),
            self.number.into(),
            self.deployment.as_str().into(),
            self.provider.as_str().into(),
            self.credential.as_str().into(),
            i64::from(self.first).into(),
            i64::from(self.count).into(),
            // Seeds use all 64 bits, and databases do not.
            self.seed.map(|seed| seed.to_string()).into(),
            self.state.name().into(),
            self.outcome.clone().into(),
            self.sent_at.into(),
            self.ms.into(),
            self.expected.into(),
            self.billed.into(),
            self.remote.clone().into(),
            self.output.clone().into(),
        ]
    }
}

/// The id of a job's attempt: letters, digits, `-` and `_`, as vendors take it for a reference.
pub fn attempt_id(job: &str, number: i64) -> String {
    format!("{job}-{number}")
}
