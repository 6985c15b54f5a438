//! Everything that may happen to a job and to money, decided in memory.
//!
//! The desk locks and loads the rows an act names ([`Act::wants`]), lets it decide
//! ([`Act::decide`]), and writes what it changed. An act that is denied changes nothing.

use crate::ledger::{AccountSpec, Leg, Refusal, book::Measured, credit};

use super::{
    image::{CostKey, DAY_MS, Image, UsageKey, Wants},
    row::{AttemptRow, AttemptState, JobRow, JobState},
    settle::Settle,
};

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// A job is written down and what it may come to is held, before anything is sent.
    Open(Box<Open>),
    /// Attempts are written down as they now are.
    Attempts(Attempts),
    /// A job is over.
    Finish(Box<Finish>),
    /// The caller of a job went away without the answer, or got it.
    Abandon {
        /// The job.
        job: String,
        /// Whether it went away.
        abandoned: bool,
    },
    /// A repeat takes the place of a caller that went away.
    Join {
        /// The job.
        job: String,
        /// When, Unix milliseconds.
        now: i64,
        /// Until when nobody else may join a job that is over: its answer is on its way.
        until: i64,
    },
    /// The owner of a job is to end it.
    AskCancel {
        /// The job.
        job: String,
    },
    /// Another process takes over a job whose owner is gone.
    Take {
        /// The job.
        job: String,
        /// The process.
        owner: String,
        /// When, Unix milliseconds.
        now: i64,
        /// Until when the new owner may act.
        lease_until: i64,
    },
    /// Credits were bought.
    Fund {
        /// Makes it happen once.
        id: String,
        /// Whose.
        org: String,
        /// Nano-dollars.
        amount: i64,
        /// For people.
        memo: String,
        /// When, Unix milliseconds.
        at: i64,
    },
    /// What a job was charged is given back.
    Refund {
        /// The job.
        job: String,
        /// For people.
        memo: String,
        /// When, Unix milliseconds.
        at: i64,
    },
    /// What a provider billed for an attempt is known by now.
    Settle(Settle),
}

/// The first persistence point.
#[derive(Clone, Debug)]
pub struct Open {
    /// The job; its legs are filled in by the decision.
    pub job: JobRow,
    /// What is held: each account once.
    pub chain: Vec<(AccountSpec, i64)>,
    /// The submits that are about to be sent.
    pub attempts: Vec<AttemptRow>,
    /// The key under which a repeat finds it.
    pub key: Option<KeyAsk>,
}

/// An `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAsk {
    /// SHA-256 of API key, route and key, in hex.
    pub id: String,
    /// When it is forgotten.
    pub expires_at: i64,
}

/// A use of an `Idempotency-Key`, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// SHA-256 of API key, route and key, in hex.
    pub id: String,
    /// SHA-256 of what was asked.
    pub fingerprint: Vec<u8>,
    /// The job it began.
    pub job: String,
    /// When it is forgotten.
    pub expires_at: i64,
}

/// A change of attempts, by the job's owner.
#[derive(Clone, Debug)]
pub struct Attempts {
    /// The job.
    pub job: String,
    /// The owner's epoch.
    pub epoch: i64,
    /// The attempts as they now are.
    pub attempts: Vec<AttemptRow>,
}

/// The last persistence point.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The job.
    pub job: String,
    /// The owner's epoch.
    pub epoch: i64,
    /// What it came to; a final state.
    pub state: JobState,
    /// What is to be taken of what is held, by unit; only for a success.
    pub measured: Measured,
    /// What is counted as used, by provider and unit; only for a success.
    pub used: Vec<Used>,
    /// Every attempt of the job, as it ended: what they cost the operator is booked by them.
    pub attempts: Vec<AttemptRow>,
    /// What came of it, sealed.
    pub result: Vec<u8>,
    /// What went wrong.
    pub error_code: Option<String>,
    /// Whether no caller has the answer.
    pub abandoned: bool,
    /// When it is erased.
    pub expires_at: i64,
    /// When it was over, Unix milliseconds.
    pub at: i64,
}

/// A line of use, for the sums by day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The provider.
    pub provider: String,
    /// `request`, or a unit of the catalogue.
    pub unit: String,
    /// Requests; only of the unit `request`.
    pub requests: i64,
    /// Millionths of the unit.
    pub quantity: i64,
    /// Nano-dollars charged.
    pub amount: i64,
}

/// What became of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is written down.
    Written,
    /// A job was opened, with these legs.
    Opened(Vec<Leg>),
    /// The key belongs to this job already.
    Known(String),
    /// A job was taken over, with this epoch.
    Taken(Box<JobRow>),
    /// A job was captured: the nano-dollars.
    Captured(i64),
}

/// Why an act was denied. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The ledger does not allow it.
    Ledger(Refusal),
    /// The key was used for another request.
    Mismatch,
    /// There is no such job, or it is not in a state for this.
    NotNow,
    /// The job belongs to another owner by now.
    Fenced,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Ledger(refusal)
    }
}

impl Act {
    /// The job it is about, if it is about one.
    pub fn job(&self) -> Option<&str> {
        match self {
            Self::Open(open) => Some(&open.job.id),
            Self::Attempts(Attempts { job, .. })
            | Self::Abandon { job, .. }
            | Self::Join { job, .. }
            | Self::AskCancel { job }
            | Self::Take { job, .. }
            | Self::Refund { job, .. } => Some(job),
            Self::Finish(finish) => Some(&finish.job),
            Self::Settle(settle) => Some(&settle.job),
            Self::Fund { .. } => None,
        }
    }

    /// When it happens, Unix milliseconds; 0 where nothing is booked.
    pub fn at(&self) -> i64 {
        match self {
            Self::Open(open) => open.job.created_at,
            Self::Finish(finish) => finish.at,
            Self::Fund { at, .. } | Self::Refund { at, .. } => *at,
            Self::Settle(settle) => settle.at,
            _ => 0,
        }
    }

    /// The rows it must see before it can decide. Accounts of a job that is to be settled are
    /// found in the job.
    pub fn wants(&self, wants: &mut Wants) {
        match self {
            Self::Open(open) => {
                if let Some(key) = &open.key {
                    wants.keys.insert(key.id.clone());
                }
                for (spec, _) in &open.chain {
                    wants.accounts.insert(spec.id.clone(), spec.clone());
                }
            }
            Self::Fund { org, .. } => {
                let spec = credit_spec(org);
                wants.accounts.entry(spec.id.clone()).or_insert(spec);
            }
            other => {
                if let Some(job) = other.job() {
                    wants.jobs.insert(job.to_owned());
                }
            }
        }
    }

    /// Whether the accounts of its job's legs are changed.
    pub fn settles(&self) -> bool {
        matches!(self, Self::Finish(_) | Self::Refund { .. })
    }

    /// Decides, and changes the image if it may.
    pub fn decide(&self, image: &mut Image) -> Result<Done, Denied> {
        match self {
            Self::Open(open) => open.decide(image),
            Self::Attempts(change) => {
                let job = mine(image, &change.job, change.epoch)?;
                if job.state.is_final() {
                    return Err(Denied::Fenced);
                }
                image.write_attempts(&change.attempts);
                Ok(Done::Written)
            }
            Self::Finish(finish) => finish.decide(image),
            Self::Abandon { job, abandoned } => {
                let row = image.jobs.get_mut(job).ok_or(Denied::NotNow)?;
                row.abandoned = *abandoned;
                if row.state.is_final() {
                    row.lease_until = 0;
                }
                image.changed_jobs.insert(job.clone());
                Ok(Done::Written)
            }
            Self::Join { job, now, until } => {
                let row = image.jobs.get_mut(job).filter(|row| row.abandoned);
                let row = row.ok_or(Denied::NotNow)?;
                if !row.state.is_final() {
                    row.abandoned = false;
                } else if row.lease_until > *now {
                    return Err(Denied::NotNow);
                } else {
                    // Its answer may be cut off once more: only its end says that it arrived.
                    row.lease_until = *until;
                }
                image.changed_jobs.insert(job.clone());
                Ok(Done::Written)
            }
            Self::AskCancel { job } => {
                let row = image.jobs.get_mut(job).filter(|row| !row.state.is_final());
                row.ok_or(Denied::NotNow)?.cancel_asked = true;
                image.changed_jobs.insert(job.clone());
                Ok(Done::Written)
            }
            Self::Take { job, owner, now, lease_until } => {
                let row = image.jobs.get_mut(job).ok_or(Denied::NotNow)?;
                if row.state.is_final() || row.lease_until > *now {
                    return Err(Denied::NotNow);
                }
                row.owner.clone_from(owner);
                row.epoch += 1;
                row.lease_until = *lease_until;
                // Whoever waited for it waited in the process that is gone.
                row.abandoned = true;
                let taken = row.clone();
                image.changed_jobs.insert(job.clone());
                Ok(Done::Taken(Box::new(taken)))
            }
            Self::Fund { id, org, amount, memo, at } => {
                image.book.fund(&credit(org), id, *amount, memo, *at)?;
                Ok(Done::Written)
            }
            Self::Refund { job, memo, at } => {
                let row = image.jobs.get(job).ok_or(Denied::NotNow)?.clone();
                if row.state != JobState::Succeeded || row.simulated {
                    return Err(Denied::NotNow);
                }
                let captured = image.captured.get(job).map_or(&[][..], Vec::as_slice);
                if captured.is_empty() {
                    // Charged by this very transaction.
                    return Err(Denied::NotNow);
                }
                image.book.refund(job, captured, memo, *at)?;
                Ok(Done::Written)
            }
            Self::Settle(settle) => settle.decide(image),
        }
    }
}

/// The account an organisation pays from, as it is made by its first funding.
pub fn credit_spec(org: &str) -> AccountSpec {
    AccountSpec {
        id: credit(org),
        org: org.to_owned(),
        unit: crate::ledger::USD.to_owned(),
        cap: None,
        fixed: false,
    }
}

/// The job, if it is still this owner's.
fn mine<'a>(image: &'a Image, job: &str, epoch: i64) -> Result<&'a JobRow, Denied> {
    let row = image.jobs.get(job).ok_or(Denied::NotNow)?;
    if row.epoch == epoch { Ok(row) } else { Err(Denied::Fenced) }
}

impl Open {
    fn decide(&self, image: &mut Image) -> Result<Done, Denied> {
        if let Some(ask) = &self.key
            && let Some(known) = image.keys.get(&ask.id)
            // While its job runs it is not forgotten, however long that takes.
            && (known.expires_at > self.job.created_at
                || image.jobs.get(&known.job).is_some_and(|job| !job.state.is_final()))
        {
            if known.fingerprint != self.job.fingerprint {
                return Err(Denied::Mismatch);
            }
            // What failed without a bill may be tried again under the same key.
            let failed = image
                .jobs
                .get(&known.job)
                .is_none_or(|job| matches!(job.state, JobState::Failed | JobState::Cancelled));
            if !failed {
                return Ok(Done::Known(known.job.clone()));
            }
        }
        let legs = image.book.authorise(&self.job.id, &self.chain, self.job.created_at)?;
        let job = JobRow { legs: legs.clone(), ..self.job.clone() };
        if let Some(ask) = &self.key {
            let row = KeyRow {
                id: ask.id.clone(),
                fingerprint: job.fingerprint.clone(),
                job: job.id.clone(),
                expires_at: ask.expires_at,
            };
            image.keys.insert(ask.id.clone(), row.clone());
            image.changed_keys.insert(ask.id.clone(), row);
        }
        image.write_attempts(&self.attempts);
        image.new_jobs.insert(job.id.clone());
        // Others of the same transaction may be about it already.
        image.jobs.insert(job.id.clone(), job);
        Ok(Done::Opened(legs))
    }
}

impl Finish {
    fn decide(&self, image: &mut Image) -> Result<Done, Denied> {
        let row = mine(image, &self.job, self.epoch)?.clone();
        if row.settled && row.state == self.state {
            // Written already; the answer was lost on its way.
            return Ok(Done::Captured(row.charge.unwrap_or(0)));
        }
        if row.settled || row.state.is_final() {
            return Err(Denied::NotNow);
        }
        let captured = if self.state == JobState::Succeeded {
            image.book.capture(&self.job, &row.legs, &self.measured, self.at)?
        } else {
            image.book.release(&self.job, &row.legs, self.at)?;
            0
        };
        // What is not known to have ended may still be billed.
        let ended = self.attempts.iter().cloned().map(|mut attempt| {
            if attempt.state.is_live() {
                attempt.state = AttemptState::Unknown;
            }
            attempt
        });
        let ended: Vec<AttemptRow> = ended.collect();
        image.write_attempts(&ended);
        if !row.simulated {
            self.book_costs(image, &row, &ended, captured);
            if self.state == JobState::Succeeded {
                count(image, &row, &self.used);
            }
        }
        if let Some(job) = image.jobs.get_mut(&self.job) {
            job.state = self.state;
            job.settled = true;
            job.charge = (self.state == JobState::Succeeded).then_some(captured);
            job.finished_at = Some(self.at);
            job.expires_at = self.expires_at;
            job.error_code.clone_from(&self.error_code);
            job.abandoned = self.abandoned;
            job.lease_until = 0;
            job.result = Some(self.result.clone());
        }
        image.changed_jobs.insert(self.job.clone());
        Ok(Done::Captured(captured))
    }

    /// Books what the attempts cost the operator: what was delivered or billed is owed, what
    /// nobody knows may be owed, and what no client pays is carried.
    fn book_costs(&self, image: &mut Image, job: &JobRow, attempts: &[AttemptRow], captured: i64) {
        let mut owed = 0_i64;
        for attempt in attempts {
            let amount = match attempt.state {
                AttemptState::Unknown => attempt.expected,
                AttemptState::Delivered => attempt.billed.or(attempt.expected),
                _ => attempt.billed,
            };
            let Some(amount) = amount else { continue };
            let costs = image.costs.entry(CostKey::of(job, attempt, self.at)).or_default();
            if attempt.state == AttemptState::Unknown {
                costs.suspense = costs.suspense.saturating_add(amount);
                image.book.suspend(&attempt.id(), &job.id, &attempt.provider, amount, self.at);
                continue;
            }
            costs.count(attempt.expected, attempt.billed);
            owed = owed.saturating_add(amount);
            image.book.owe(&attempt.id(), &job.id, &attempt.provider, amount, self.at);
        }
        if owed > captured {
            image.book.absorb(&job.id, &job.id, owed - captured, self.at);
        }
    }
}

/// Adds a job's use to the sums of the day it was asked for, which is the day of its hold.
fn count(image: &mut Image, job: &JobRow, used: &[Used]) {
    let day = job.created_at.div_euclid(DAY_MS);
    let plain = (String::new(), String::new());
    let labels = job.labels.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (label, value) in std::iter::once(plain).chain(labels) {
        for line in used {
            let key = UsageKey {
                org: job.org.clone(),
                day,
                project: job.project.clone(),
                api_key: job.api_key.clone(),
                model: job.model.clone(),
                provider: line.provider.clone(),
                label: label.clone(),
                value: value.clone(),
                unit: line.unit.clone(),
            };
            let sums = image.usage.entry(key).or_default();
            sums.requests += line.requests;
            sums.quantity = sums.quantity.saturating_add(line.quantity);
            sums.amount = sums.amount.saturating_add(line.amount);
        }
    }
}
