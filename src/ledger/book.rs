//! The arithmetic of the ledger, without a database: accounts as loaded, changed in memory, and
//! the transfers that say why.
//!
//! An account holds what was used (`posted`) and what is held (`pending`); both together never
//! exceed its `cap`. Credits are an account with cap zero that funding takes below zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ABSORBED, BUDGETS, COST, EXTERNAL, REVENUE, SUSPENSE, USD, payable};

/// An account as it is to be made when it does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSpec {
    /// `credit:<org>` or `budget:...`.
    pub id: String,
    /// Whose it is.
    pub org: String,
    /// `usd` or a unit of the catalogue.
    pub unit: String,
    /// What may be used of it: nano-dollars, or millionths of the unit. None is no limit.
    pub cap: Option<i64>,
    /// Whether `cap` rules over what is stored: for whoever knows the limit as it now is.
    pub fixed: bool,
}

/// A stored balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub org: String,
    /// What is counted.
    pub unit: String,
    /// What was used, less what was paid in.
    pub posted: i64,
    /// What is held.
    pub pending: i64,
    /// What `posted + pending` may come to.
    pub cap: Option<i64>,
    /// The cap, or what was in use when the cap was lowered below it.
    pub ceiling: Option<i64>,
    /// Set by the auditor when the account does not equal its transfers.
    pub frozen: bool,
}

impl Account {
    fn new(spec: &AccountSpec) -> Self {
        Self {
            id: spec.id.clone(),
            org: spec.org.clone(),
            unit: spec.unit.clone(),
            posted: 0,
            pending: 0,
            cap: spec.cap,
            ceiling: spec.cap,
            frozen: false,
        }
    }

    /// What may still be used; none is no limit.
    pub fn available(&self) -> Option<i64> {
        let used = i128::from(self.posted) + i128::from(self.pending);
        self.cap.map(|cap| i64::try_from(i128::from(cap) - used).unwrap_or(i64::MIN))
    }

    /// Sets the limit. What is in use already stays in use.
    pub fn set_cap(&mut self, cap: Option<i64>) {
        self.cap = cap;
        self.ceiling = cap.map(|cap| cap.max(self.posted.saturating_add(self.pending)));
    }
}

/// What one account holds for a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// The account.
    pub account: String,
    /// What is counted.
    pub unit: String,
    /// How much is held.
    pub amount: i64,
}

/// Why a transfer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferKind {
    /// Credits were bought.
    Fund,
    /// Held for a job.
    Hold,
    /// The job delivered.
    Capture,
    /// The job did not.
    Release,
    /// Given back.
    Refund,
    /// What a provider charges us.
    ProviderCost,
    /// The part of it that no client pays.
    Absorb,
    /// What a provider may charge us.
    Suspense,
    /// Put right by hand, or an opening balance.
    Adjust,
}

impl TransferKind {
    /// The word in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fund => "fund",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Release => "release",
            Self::Refund => "refund",
            Self::ProviderCost => "provider_cost",
            Self::Absorb => "absorb",
            Self::Suspense => "suspense",
            Self::Adjust => "adjust",
        }
    }
}

/// One movement, to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Made of what it is for, so that the same movement cannot be written twice.
    pub id: String,
    /// Why.
    pub kind: TransferKind,
    /// Whose; empty for the operator's own.
    pub org: String,
    /// What is moved.
    pub unit: String,
    /// The account that is charged.
    pub debit: String,
    /// The account that receives.
    pub credit: String,
    /// How much, not below zero.
    pub amount: i64,
    /// The hold that it closes.
    pub hold: Option<String>,
    /// How much that hold was.
    pub held: Option<i64>,
    /// The job.
    pub job: Option<String>,
    /// A note for people.
    pub memo: Option<String>,
    /// When, in Unix milliseconds.
    pub at: i64,
}

/// Why something cannot be booked. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The account has too little left.
    Exceeded {
        /// Which.
        account: String,
        /// What is counted.
        unit: String,
        /// How much was asked of it.
        asked: i64,
        /// How much is left.
        left: i64,
    },
    /// The auditor stopped this account.
    Frozen {
        /// Which.
        account: String,
    },
    /// An amount below zero, or beyond what can be counted.
    Amount,
    /// An account that was not loaded: a fault of ours.
    Missing {
        /// Which.
        account: String,
    },
}

/// What is measured for a capture, by unit: nano-dollars for `usd`, else millionths.
pub type Measured = BTreeMap<String, i64>;

/// Accounts in memory, and what was booked on them.
#[derive(Clone, Debug, Default)]
pub struct Book {
    accounts: BTreeMap<String, Slot>,
    transfers: Vec<Transfer>,
}

#[derive(Clone, Debug)]
struct Slot {
    account: Account,
    /// `posted` as it was loaded.
    before: i64,
    changed: bool,
}

impl Book {
    /// Puts a stored account into the book.
    pub fn load(&mut self, account: Account) {
        let before = account.posted;
        self.accounts.insert(account.id.clone(), Slot { account, before, changed: false });
    }

    /// A fresh account for a spec.
    pub fn fresh(spec: &AccountSpec) -> Account {
        Account::new(spec)
    }

    /// An account.
    pub fn account(&self, id: &str) -> Option<&Account> {
        self.accounts.get(id).map(|slot| &slot.account)
    }

    /// Every account that was changed, in the order of their ids.
    pub fn changed(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().filter(|slot| slot.changed).map(|slot| &slot.account)
    }

    /// Every account whose `posted` was changed, with what it was before.
    pub fn moved(&self) -> impl Iterator<Item = (&Account, i64)> {
        let moved = self.accounts.values().filter(|slot| slot.account.posted != slot.before);
        moved.map(|slot| (&slot.account, slot.before))
    }

    /// Every transfer, in the order they were made.
    pub fn transfers(&self) -> &[Transfer] {
        &self.transfers
    }

    /// Holds what a job may come to on every account of its chain, or on none of them.
    pub fn authorise(
        &mut self,
        job: &str,
        chain: &[(AccountSpec, i64)],
        at: i64,
    ) -> Result<Vec<Leg>, Refusal> {
        for (spec, asked) in chain {
            let slot = self.slot(&spec.id)?;
            if spec.fixed && slot.account.cap != spec.cap {
                slot.account.set_cap(spec.cap);
                slot.changed = true;
            }
            let account = &slot.account;
            if account.frozen {
                return Err(Refusal::Frozen { account: account.id.clone() });
            }
            if *asked < 0 || account.pending.checked_add(*asked).is_none() {
                return Err(Refusal::Amount);
            }
            if let Some(left) = account.available()
                && left < *asked
            {
                return Err(Refusal::Exceeded {
                    account: account.id.clone(),
                    unit: account.unit.clone(),
                    asked: *asked,
                    left,
                });
            }
        }
        let mut legs = Vec::with_capacity(chain.len());
        for (index, (spec, asked)) in chain.iter().enumerate() {
            let slot = self.slot(&spec.id)?;
            slot.account.pending += asked;
            slot.changed = true;
            let (org, unit) = (slot.account.org.clone(), slot.account.unit.clone());
            let leg = Leg { account: spec.id.clone(), unit, amount: *asked };
            let transfer = Transfer {
                id: hold_id(job, index),
                org,
                ..movement(TransferKind::Hold, &leg.unit, &leg.account, counter(&leg), *asked, at)
            };
            self.transfers.push(Transfer { job: Some(job.to_owned()), ..transfer });
            legs.push(leg);
        }
        Ok(legs)
    }

    /// Takes what was measured of what was held, and lets the rest go. Never more than was held:
    /// gives the nano-dollars that were taken.
    pub fn capture(
        &mut self,
        job: &str,
        legs: &[Leg],
        measured: &Measured,
        at: i64,
    ) -> Result<i64, Refusal> {
        if measured.values().any(|amount| *amount < 0) {
            return Err(Refusal::Amount);
        }
        let take = |leg: &Leg| measured.get(&leg.unit).copied().unwrap_or(0).min(leg.amount);
        self.close(job, legs, TransferKind::Capture, take, at)?;
        let paid = legs.iter().find(|leg| is_money(leg));
        Ok(paid.map_or(0, take))
    }

    /// Lets go of everything that was held.
    pub fn release(&mut self, job: &str, legs: &[Leg], at: i64) -> Result<(), Refusal> {
        self.close(job, legs, TransferKind::Release, |leg| leg.amount, at)
    }

    fn close(
        &mut self,
        job: &str,
        legs: &[Leg],
        kind: TransferKind,
        amount: impl Fn(&Leg) -> i64,
        at: i64,
    ) -> Result<(), Refusal> {
        for leg in legs {
            let pending = self.slot(&leg.account)?.account.pending;
            if pending < leg.amount {
                // Somebody changed the balance behind our back: not ours to make worse.
                return Err(Refusal::Frozen { account: leg.account.clone() });
            }
        }
        for (index, leg) in legs.iter().enumerate() {
            let amount = amount(leg);
            let slot = self.slot(&leg.account)?;
            slot.account.pending -= leg.amount;
            if kind == TransferKind::Capture {
                slot.account.posted += amount;
            }
            slot.changed = true;
            let org = slot.account.org.clone();
            let hold = hold_id(job, index);
            let transfer = Transfer {
                id: format!("{job}:{}:{index}", kind.name()),
                org,
                hold: Some(hold),
                held: Some(leg.amount),
                job: Some(job.to_owned()),
                ..movement(kind, &leg.unit, &leg.account, counter(leg), amount, at)
            };
            self.transfers.push(transfer);
        }
        Ok(())
    }

    /// Credits were bought. `id` makes it happen once.
    pub fn fund(
        &mut self,
        account: &str,
        id: &str,
        amount: i64,
        memo: &str,
        at: i64,
    ) -> Result<(), Refusal> {
        let slot = self.slot(account)?;
        let posted = slot.account.posted.checked_sub(amount).filter(|_| amount > 0);
        slot.account.posted = posted.ok_or(Refusal::Amount)?;
        slot.changed = true;
        let org = slot.account.org.clone();
        self.transfers.push(Transfer {
            id: format!("fund:{id}"),
            org,
            memo: Some(memo.to_owned()),
            ..movement(TransferKind::Fund, USD, EXTERNAL, account, amount, at)
        });
        Ok(())
    }

    /// Gives back what was captured for a job, on every account: each leg's amount is what its
    /// capture took.
    pub fn refund(
        &mut self,
        job: &str,
        captured: &[Leg],
        memo: &str,
        at: i64,
    ) -> Result<(), Refusal> {
        for leg in captured {
            let posted = self.slot(&leg.account)?.account.posted;
            posted.checked_sub(leg.amount).ok_or(Refusal::Amount)?;
        }
        for (index, leg) in captured.iter().enumerate() {
            let slot = self.slot(&leg.account)?;
            slot.account.posted -= leg.amount;
            slot.changed = true;
            let (org, amount) = (slot.account.org.clone(), leg.amount);
            self.transfers.push(Transfer {
                id: format!("{job}:refund:{index}"),
                org,
                job: Some(job.to_owned()),
                memo: Some(memo.to_owned()),
                ..movement(TransferKind::Refund, &leg.unit, counter(leg), &leg.account, amount, at)
            });
        }
        Ok(())
    }

    /// A provider is owed for an attempt. None of the operator's own bookings touches a client.
    pub fn owe(&mut self, attempt: &str, job: &str, provider: &str, amount: i64, at: i64) {
        let id = format!("{attempt}:provider_cost");
        self.operator(id, TransferKind::ProviderCost, job, (COST, &payable(provider)), amount, at);
    }

    /// A provider may be owed for an attempt whose outcome nobody knows.
    pub fn suspend(&mut self, attempt: &str, job: &str, provider: &str, amount: i64, at: i64) {
        let id = format!("{attempt}:suspense");
        self.operator(id, TransferKind::Suspense, job, (SUSPENSE, &payable(provider)), amount, at);
    }

    /// The outcome of an attempt in suspense is known by now: what was booked there is taken back.
    pub fn unsuspend(
        &mut self,
        attempt: &str,
        job: &str,
        provider: &str,
        amount: i64,
        memo: &str,
        at: i64,
    ) {
        let id = format!("{attempt}:settled");
        self.operator(id, TransferKind::Adjust, job, (&payable(provider), SUSPENSE), amount, at);
        if let Some(transfer) = self.transfers.last_mut() {
            transfer.memo = Some(memo.to_owned());
        }
    }

    /// A part of what providers are owed for a job or for one of its attempts is paid by no client.
    pub fn absorb(&mut self, what: &str, job: &str, amount: i64, at: i64) {
        let id = format!("{what}:absorb");
        self.operator(id, TransferKind::Absorb, job, (ABSORBED, COST), amount, at);
    }

    fn operator(
        &mut self,
        id: String,
        kind: TransferKind,
        job: &str,
        (debit, credit): (&str, &str),
        amount: i64,
        at: i64,
    ) {
        let moved = movement(kind, USD, debit, credit, amount.max(0), at);
        self.transfers.push(Transfer { id, job: Some(job.to_owned()), ..moved });
    }

    fn slot(&mut self, id: &str) -> Result<&mut Slot, Refusal> {
        self.accounts.get_mut(id).ok_or_else(|| Refusal::Missing { account: id.to_owned() })
    }
}

fn hold_id(job: &str, index: usize) -> String {
    format!("{job}:hold:{index}")
}

/// Whether a leg is the one that pays, and not a limit.
fn is_money(leg: &Leg) -> bool {
    leg.account.starts_with("credit:")
}

fn counter(leg: &Leg) -> &'static str {
    if is_money(leg) { REVENUE } else { BUDGETS }
}

fn movement(
    kind: TransferKind,
    unit: &str,
    debit: &str,
    credit: &str,
    amount: i64,
    at: i64,
) -> Transfer {
    Transfer {
        id: String::new(),
        kind,
        org: String::new(),
        unit: unit.to_owned(),
        debit: debit.to_owned(),
        credit: credit.to_owned(),
        amount,
        hold: None,
        held: None,
        job: None,
        memo: None,
        at,
    }
}
