//! When somebody is to be told: credits run low, a budget is nearly used up or refused a call.
//!
//! Decided in memory, from rules that follow the database; only a crossing writes anything, in
//! the transaction that makes it true.

use std::collections::HashMap;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use providers::money::Money;
use serde_json::{Map, Value as Json, json};

use super::amount;
use crate::{
    db::{Db, DbError, Insert, Tx, Value},
    ledger::{Account, USD},
};

/// What webhooks can be told, by its name in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An organisation's credits fell below its mark.
    CreditsLow,
    /// A budget's share was reached.
    BudgetAlert,
    /// A budget refused a call.
    BudgetExceeded,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::CreditsLow, Self::BudgetAlert, Self::BudgetExceeded];

    /// The `type` of its deliveries.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreditsLow => "credits.low",
            Self::BudgetAlert => "budget.alert",
            Self::BudgetExceeded => "budget.exceeded",
        }
    }

    /// The kind of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A balance before and after something was booked on it.
#[derive(Clone, Copy, Debug)]
pub struct Moved<'a> {
    /// As it is now.
    pub account: &'a Account,
    /// Its `posted` before.
    pub before: i64,
    /// What made it so, such as the job: one crossing is told once.
    pub cause: &'a str,
    /// Unix milliseconds.
    pub at: i64,
}

/// A call that an account had too little left for.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// `budget:...`; credits are told of when they run low.
    pub account: &'a str,
    /// How much was wanted.
    pub asked: i64,
    /// How much was left.
    pub left: i64,
    /// Unix milliseconds.
    pub at: i64,
}

/// Something to tell one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: String,
    webhook: String,
    kind: Kind,
    body: String,
    at: i64,
    once: String,
    /// The account that refused a call.
    refused: Option<String>,
}

/// What is known of a budget.
#[derive(Clone, Debug)]
struct Budget {
    org: String,
    name: String,
    scope: String,
    scope_id: String,
    unit: String,
    period: String,
    amount: i64,
    percent: Option<i64>,
}

/// Who is to be told what; changes with the tenants.
#[derive(Debug, Default)]
struct Rules {
    rev: i64,
    /// By organisation.
    webhooks: HashMap<String, Vec<(String, Vec<Kind>)>>,
    /// By id; only of organisations with a webhook.
    budgets: HashMap<String, Budget>,
    /// By organisation, in nano-dollars.
    low: HashMap<String, i64>,
}

/// A refused call is written down at most this often: the database knows whether it was told.
const REFUSED_EVERY_MS: i64 = 60_000;
/// Refused accounts remembered at once.
const MOST_REFUSED: usize = 10_000;

/// Watches balances. Shared by all that book.
#[derive(Debug, Default)]
pub struct Alerts {
    rules: ArcSwap<Rules>,
    refused: Mutex<HashMap<String, i64>>,
}

impl Alerts {
    /// Reads the rules anew where tenants have changed. To be called every second or so.
    pub async fn refresh(&self, db: &Db) -> Result<(), DbError> {
        let rows =
            db.query("SELECT value FROM revision WHERE name = 'tenants'", Vec::new()).await?;
        let rev = rows.first().map(|row| row.int(0)).transpose()?.unwrap_or(0);
        if rev != self.rules.load().rev {
            self.rules.store(Rules::load(db, rev).await?.into());
        }
        Ok(())
    }

    /// Whom to tell of a booking. Usually nobody, and then nothing is allocated.
    pub fn moved(&self, moved: &Moved<'_>) -> Vec<Event> {
        if moved.account.posted <= moved.before {
            return Vec::new();
        }
        let rules = self.rules.load();
        if rules.webhooks.is_empty() {
            return Vec::new();
        }
        if let Some(org) = moved.account.id.strip_prefix("credit:") {
            return rules.credits_low(org, moved);
        }
        rules.budget_alert(moved)
    }

    /// Whom to tell of a refused call. Nobody, where [`told`](Self::told) says that it was done a
    /// moment ago.
    pub fn refused(&self, refused: &Refused<'_>) -> Vec<Event> {
        let rules = self.rules.load();
        let Some((id, budget, place)) = rules.budget(refused.account) else { return Vec::new() };
        if rules.listeners(&budget.org, Kind::BudgetExceeded).next().is_none() {
            return Vec::new();
        }
        let last = self.refused.lock().get(refused.account).copied();
        if last.is_some_and(|last| (refused.at - last).abs() < REFUSED_EVERY_MS) {
            return Vec::new();
        }
        let mut data = place;
        data.insert(field("asked", &budget.unit), json!(amount(&budget.unit, refused.asked)));
        data.insert(field("left", &budget.unit), json!(amount(&budget.unit, refused.left.max(0))));
        let once = format!("{}:{}", refused.account, budget.amount);
        let data = budget.data(id, data);
        let mut events = rules.events(Kind::BudgetExceeded, &budget.org, &once, &data, refused.at);
        for event in &mut events {
            event.refused = Some(refused.account.to_owned());
        }
        events
    }

    /// Remembers what was committed, so that a budget that refuses a thousand calls a second is
    /// not written down as often.
    pub fn told(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let mut known = self.refused.lock();
        for event in events {
            let Some(account) = &event.refused else { continue };
            if known.len() >= MOST_REFUSED {
                known.clear();
            }
            known.insert(account.clone(), event.at);
        }
    }
}

impl Rules {
    async fn load(db: &Db, rev: i64) -> Result<Self, DbError> {
        let mut rules = Self { rev, ..Self::default() };
        let webhooks = "SELECT id, org, events FROM webhook WHERE deleted_at IS NULL";
        for row in db.query(webhooks, Vec::new()).await? {
            let names: Vec<String> = serde_json::from_str(&row.text(2)?).unwrap_or_default();
            let kinds = names.iter().filter_map(|name| Kind::named(name)).collect();
            rules.webhooks.entry(row.text(1)?).or_default().push((row.text(0)?, kinds));
        }
        if rules.webhooks.is_empty() {
            return Ok(rules);
        }
        let budgets = "SELECT id, org, name, scope, scope_id, unit, period, amount, \
                       alert_percent FROM budget WHERE deleted_at IS NULL \
                       AND org IN (SELECT org FROM webhook WHERE deleted_at IS NULL)";
        for row in db.query(budgets, Vec::new()).await? {
            let budget = Budget {
                org: row.text(1)?,
                name: row.text(2)?,
                scope: row.text(3)?,
                scope_id: row.text(4)?,
                unit: row.text(5)?,
                period: row.text(6)?,
                amount: row.int(7)?,
                percent: row.opt_int(8)?,
            };
            rules.budgets.insert(row.text(0)?, budget);
        }
        let low = "SELECT id, low_balance FROM org WHERE low_balance IS NOT NULL \
                   AND prepaid = 1 AND deleted_at IS NULL";
        for row in db.query(low, Vec::new()).await? {
            rules.low.insert(row.text(0)?, row.int(1)?);
        }
        Ok(rules)
    }

    fn listeners(&self, org: &str, kind: Kind) -> impl Iterator<Item = &str> {
        let all = self.webhooks.get(org).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |(_, kinds)| kinds.contains(&kind)).map(|(id, _)| id.as_str())
    }

    fn credits_low(&self, org: &str, moved: &Moved<'_>) -> Vec<Event> {
        let Some(low) = self.low.get(org).copied() else { return Vec::new() };
        let cap = i128::from(moved.account.cap.unwrap_or(0));
        let left = |posted: i64| cap - i128::from(posted);
        if left(moved.before) < i128::from(low) || left(moved.account.posted) >= i128::from(low) {
            return Vec::new();
        }
        let available = left(moved.account.posted) - i128::from(moved.account.pending);
        let data = json!({
            "org": org,
            "available_usd": Money::from_nanos(i64::try_from(available.max(0)).unwrap_or(i64::MAX)),
            "low_balance_usd": Money::from_nanos(low),
        });
        self.events(Kind::CreditsLow, org, moved.cause, &data, moved.at)
    }

    fn budget_alert(&self, moved: &Moved<'_>) -> Vec<Event> {
        let Some((id, budget, place)) = self.budget(&moved.account.id) else { return Vec::new() };
        let (Some(percent), Some(cap)) = (budget.percent, moved.account.cap) else {
            return Vec::new();
        };
        let reached =
            |posted: i64| i128::from(posted) * 100 >= i128::from(cap) * i128::from(percent);
        if reached(moved.before) || !reached(moved.account.posted) {
            return Vec::new();
        }
        let mut data = place;
        data.insert("alert_percent".to_owned(), json!(percent));
        data.insert(
            field("spent", &budget.unit),
            json!(amount(&budget.unit, moved.account.posted)),
        );
        data.insert(
            field("held", &budget.unit),
            json!(amount(&budget.unit, moved.account.pending)),
        );
        let once = format!("{}:{percent}:{cap}", moved.account.id);
        self.events(Kind::BudgetAlert, &budget.org, &once, &budget.data(id, data), moved.at)
    }

    /// The budget of an account, with the window and the user that the account is for.
    fn budget<'a>(&'a self, account: &'a str) -> Option<(&'a str, &'a Budget, Map<String, Json>)> {
        let rest = account.strip_prefix("budget:")?;
        let (id, rest) = match rest.split_once(':') {
            Some((id, rest)) => (id, Some(rest)),
            None => (rest, None),
        };
        let budget = self.budgets.get(id)?;
        let (window, user) = match rest {
            Some(rest) if budget.period == "total" => (None, Some(rest)),
            Some(rest) => match rest.split_once(':') {
                Some((window, user)) => (Some(window), Some(user)),
                None => (Some(rest), None),
            },
            None => (None, None),
        };
        let mut place = Map::new();
        place.insert("window".to_owned(), json!(window));
        if let Some(user) = user {
            place.insert("user".to_owned(), json!(user));
        }
        Some((id, budget, place))
    }

    /// One event for each webhook that wants to know. `once` tells one occasion from another.
    fn events(&self, kind: Kind, org: &str, once: &str, data: &Json, at: i64) -> Vec<Event> {
        self.listeners(org, kind)
            .map(|webhook| {
                let id = format!("evt_{}", uuid::Uuid::now_v7().simple());
                let body = json!({
                    "id": id,
                    "type": kind.name(),
                    "created": at.div_euclid(1000),
                    "data": data,
                });
                Event {
                    id,
                    webhook: webhook.to_owned(),
                    kind,
                    body: body.to_string(),
                    at,
                    once: format!("{webhook}:{}:{once}", kind.name()),
                    refused: None,
                }
            })
            .collect()
    }
}

impl Budget {
    fn data(&self, id: &str, more: Map<String, Json>) -> Json {
        let mut data = json!({
            "org": self.org,
            "budget": {
                "id": id,
                "name": self.name,
                "scope": self.scope,
                "scope_id": self.scope_id,
                "unit": self.unit,
                "period": self.period,
            },
        });
        if let Some(object) = data.as_object_mut() {
            object.insert(field("limit", &self.unit), json!(amount(&self.unit, self.amount)));
            object.extend(more);
        }
        data
    }
}

/// `spent_usd` for money, `spent` for other units.
pub(super) fn field(name: &str, unit: &str) -> String {
    if unit == USD { format!("{name}_usd") } else { name.to_owned() }
}

static OUTBOX: Insert = Insert {
    into: "outbox (id, webhook, event, body, created_at, next_at, once)",
    columns: 7,
    conflict: "ON CONFLICT (once) DO NOTHING",
};

/// Writes events down, in the transaction of what they tell. The same occasion twice is once.
pub async fn raise(tx: &mut Tx<'_>, events: &[Event]) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<Value>> = events
        .iter()
        .map(|event| {
            vec![
                event.id.as_str().into(),
                event.webhook.as_str().into(),
                event.kind.name().into(),
                event.body.as_str().into(),
                event.at.into(),
                event.at.into(),
                event.once.as_str().into(),
            ]
        })
        .collect();
    tx.insert_many(&OUTBOX, &rows).await
}
