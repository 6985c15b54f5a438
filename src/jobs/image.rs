//! The rows of a transaction: which of them acts must see, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    act::KeyRow,
    row::{AttemptRow, JobRow},
    settle::Suspended,
};
use crate::ledger::{AccountSpec, Book, Leg};

/// Milliseconds of a day.
pub(super) const DAY_MS: i64 = 86_400_000;

/// The rows an act must see.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// Idempotency keys.
    pub keys: BTreeSet<String>,
    /// Jobs.
    pub jobs: BTreeSet<String>,
    /// Accounts, made when they do not exist.
    pub accounts: BTreeMap<String, AccountSpec>,
}

/// The rows of a transaction, as loaded and as changed.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Balances and transfers.
    pub book: Book,
    /// Jobs that exist, without what is sealed in them.
    pub jobs: BTreeMap<String, JobRow>,
    /// What was captured for those that are refunded.
    pub captured: BTreeMap<String, Vec<Leg>>,
    /// Attempts that are to be settled, by their id.
    pub suspended: BTreeMap<String, Suspended>,
    /// Idempotency keys that exist.
    pub keys: BTreeMap<String, KeyRow>,
    /// Those of them that are stored already.
    pub known_keys: BTreeSet<String>,
    /// Jobs to be written for the first time.
    pub new_jobs: BTreeSet<String>,
    /// Jobs whose row is to be changed.
    pub changed_jobs: BTreeSet<String>,
    /// Keys to be written.
    pub changed_keys: BTreeMap<String, KeyRow>,
    /// Attempts to be written, the last state of each.
    pub attempts: BTreeMap<String, AttemptRow>,
    /// Use, added up.
    pub usage: BTreeMap<UsageKey, Sums>,
    /// Cost, added up.
    pub costs: BTreeMap<CostKey, Costs>,
}

/// A row of use by day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// Who pays.
    pub org: String,
    /// Days since 1970.
    pub day: i64,
    /// Whose.
    pub project: String,
    /// By which key.
    pub api_key: String,
    /// The public name.
    pub model: String,
    /// Who made it.
    pub provider: String,
    /// A label's name; empty for the row without one.
    pub label: String,
    /// Its value.
    pub value: String,
    /// What is counted.
    pub unit: String,
}

/// What is added to a row of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests.
    pub requests: i64,
    /// Millionths of the unit.
    pub quantity: i64,
    /// Nano-dollars.
    pub amount: i64,
}

/// A row of cost by day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CostKey {
    /// Days since 1970.
    pub day: i64,
    /// For whom it was made.
    pub org: String,
    /// Who charges it.
    pub provider: String,
    /// Which key was used.
    pub credential: String,
    /// The public name.
    pub model: String,
}

impl CostKey {
    /// The row that an attempt of a job is counted in at a time, Unix milliseconds.
    pub fn of(job: &JobRow, attempt: &AttemptRow, at: i64) -> Self {
        Self {
            day: at.div_euclid(DAY_MS),
            org: job.org.clone(),
            provider: attempt.provider.clone(),
            credential: attempt.credential.clone(),
            model: job.model.clone(),
        }
    }
}

/// What is added to a row of cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Attempts.
    pub requests: i64,
    /// Nano-dollars by our price list.
    pub expected: i64,
    /// Attempts whose provider named a price.
    pub reported_requests: i64,
    /// Nano-dollars as named.
    pub reported: i64,
    /// Nano-dollars that may be owed.
    pub suspense: i64,
}

impl Costs {
    /// Counts an attempt that is owed for: what we expected, and what its provider named.
    pub(super) fn count(&mut self, expected: Option<i64>, reported: Option<i64>) {
        self.requests += 1;
        self.expected = self.expected.saturating_add(expected.unwrap_or(0));
        if let Some(reported) = reported {
            self.reported_requests += 1;
            self.reported = self.reported.saturating_add(reported);
        }
    }
}

impl Image {
    /// Has attempts written as they now are.
    pub(super) fn write_attempts(&mut self, attempts: &[AttemptRow]) {
        for attempt in attempts {
            self.attempts.insert(attempt.id(), attempt.clone());
        }
    }
}
