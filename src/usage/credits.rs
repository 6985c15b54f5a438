//! What a key may still spend.

use std::collections::HashMap;

use providers::money::Money;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{alert::field, amount, sql::Sql, when, window};
use crate::{
    db::{Db, DbError, Durability},
    error::{Code, Error},
    jobs::{Act, Denied, Desk, DeskError},
    ledger::{self, Refusal, USD},
    tenant::{Budget, Grant},
};

/// A stored balance: `posted` and `pending`.
pub(super) type Balance = (i64, i64);

/// What a key may spend, and has.
#[derive(Clone, Debug)]
pub struct Credits {
    /// Nano-dollars left of the least of credits and budgets; none is no limit.
    available: Option<i64>,
    /// Nano-dollars held for running jobs of the key.
    held: i64,
    /// Nano-dollars the key was charged since it was made.
    spent: i64,
    budgets: Vec<(Budget, Balance, Option<i64>)>,
}

/// Asks the database what the holder of a key may spend at `now`, Unix milliseconds. Budgets of
/// users are told of the user that is named.
pub async fn of_key(
    db: &Db,
    grant: &Grant,
    user: Option<&str>,
    now: i64,
) -> Result<Credits, DbError> {
    let mut accounts: Vec<(Option<&Budget>, String)> = vec![(None, ledger::credit(&grant.org))];
    for budget in &grant.budgets {
        if let Some(account) = window::account(budget, user, now) {
            accounts.push((Some(budget), account));
        }
    }
    let ids = accounts.iter().map(|(_, account)| account.clone()).collect();
    let stored = balances(db, ids).await?;
    let mut left: Option<i64> = None;
    let mut budgets = Vec::new();
    for (budget, account) in &accounts {
        let (posted, pending) = stored.get(account).copied().unwrap_or_default();
        let cap = match budget {
            Some(budget) => Some(budget.amount).filter(|_| budget.unit == USD),
            None => Some(0).filter(|_| grant.prepaid),
        };
        if let Some(cap) = cap {
            let mine = i128::from(cap) - i128::from(posted) - i128::from(pending);
            let mine = i64::try_from(mine.max(0)).unwrap_or(i64::MAX);
            left = Some(left.map_or(mine, |left| left.min(mine)));
        }
        if let Some(budget) = budget {
            let next = budget.period.window(now).1.map(|day| day * (when::DAY_MS / 1000));
            budgets.push(((*budget).clone(), (posted, pending), next));
        }
    }
    Ok(Credits {
        available: left,
        held: held(db, &grant.key_id).await?,
        spent: spent(db, grant).await?,
        budgets,
    })
}

pub(super) async fn balances(
    db: &Db,
    accounts: Vec<String>,
) -> Result<HashMap<String, Balance>, DbError> {
    if accounts.is_empty() {
        return Ok(HashMap::new());
    }
    let mut sql = Sql::new("SELECT id, posted, pending FROM account WHERE id IN (");
    for (index, account) in accounts.into_iter().enumerate() {
        if index > 0 {
            sql.push(", ");
        }
        sql.bind(account);
    }
    sql.push(")");
    let (sql, params) = sql.finish();
    let rows = db.query(sql, params).await?;
    rows.iter().map(|row| Ok((row.text(0)?, (row.int(1)?, row.int(2)?)))).collect()
}

/// What is held for the running jobs of a key. A job holds the same on every account that counts
/// money.
async fn held(db: &Db, key: &str) -> Result<i64, DbError> {
    const RUNNING: &str = "SELECT legs FROM job WHERE api_key = $1 AND settled = 0 \
                           AND finished_at IS NULL";
    let mut sum = 0_i64;
    for row in db.query(RUNNING, vec![key.into()]).await? {
        let legs: Vec<Json> = serde_json::from_str(&row.text(0)?)
            .map_err(|e| DbError::Corrupt(format!("a job's legs are not JSON: {e}")))?;
        let money = legs.iter().filter(|leg| leg["unit"] == USD);
        let most = money.filter_map(|leg| leg["amount"].as_i64()).max().unwrap_or(0);
        sum = sum.saturating_add(most);
    }
    Ok(sum)
}

async fn spent(db: &Db, grant: &Grant) -> Result<i64, DbError> {
    const SPENT: &str = "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM usage_day \
                         WHERE api_key = $1 AND label = '' AND org = $2";
    let params = vec![grant.key_id.as_str().into(), grant.org.as_str().into()];
    let rows = db.query(SPENT, params).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

impl Credits {
    /// As the API gives it.
    pub fn to_json(&self) -> Json {
        let budgets: Vec<Json> = self
            .budgets
            .iter()
            .map(|(budget, (posted, pending), resets_at)| {
                let mut object = Map::new();
                let amount = |n: i64| json!(amount(&budget.unit, n));
                for (name, value) in [
                    ("name".to_owned(), json!(budget.name)),
                    ("scope".to_owned(), json!(budget.scope)),
                    ("period".to_owned(), json!(budget.period)),
                    ("unit".to_owned(), json!(budget.unit)),
                    (field("limit", &budget.unit), amount(budget.amount)),
                    (field("spent", &budget.unit), amount(*posted)),
                    (field("held", &budget.unit), amount(*pending)),
                    ("resets_at".to_owned(), json!(resets_at)),
                ] {
                    object.insert(name, value);
                }
                Json::Object(object)
            })
            .collect();
        json!({
            "available_usd": self.available.map(Money::from_nanos),
            "held_usd": Money::from_nanos(self.held),
            "spent_usd": Money::from_nanos(self.spent),
            "budgets": budgets,
        })
    }
}

/// Credits that were bought, by the id the buyer gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Funding {
    /// Makes it happen once.
    pub id: String,
    /// Whose.
    pub org: String,
    /// Nano-dollars, above zero.
    pub amount: i64,
    /// For people.
    pub memo: String,
}

impl Funding {
    /// What the ledger calls it; two organisations may use the same id.
    fn ledger_id(&self) -> String {
        format!("{}:{}", self.org, self.id)
    }

    /// Whether it has happened already; an error says that the id stands for something else.
    async fn known(&self, desk: &Desk) -> Result<bool, Error> {
        const SQL: &str = "SELECT credit, amount FROM transfer WHERE id = $1";
        let id = format!("fund:{}", self.ledger_id());
        let rows = desk.db().query(SQL, vec![id.into()]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        if row.text(0)? == ledger::credit(&self.org) && row.int(1)? == self.amount {
            return Ok(true);
        }
        let message = format!("the id {:?} was used for another funding", self.id);
        Err(Error::new(Code::IdempotencyMismatch, message).param("id"))
    }

    /// The id of its line in the audit log, which sorts by the time it was booked at.
    pub async fn log_id(&self, db: &Db) -> Result<String, Error> {
        const SQL: &str = "SELECT at FROM transfer WHERE id = $1";
        let id = format!("fund:{}", self.ledger_id());
        let digest = hex::encode(Sha256::digest(&id));
        let rows = db.query(SQL, vec![id.into()]).await?;
        let at = rows.first().map_or(Ok(0), |row| row.int(0))?;
        Ok(format!("aud_{at:012x}{}", digest.get(..20).unwrap_or_default()))
    }

    /// Books it, once. Gives whether it was new.
    pub async fn book(&self, desk: &Desk, now: i64) -> Result<bool, Error> {
        if self.known(desk).await? {
            return Ok(false);
        }
        let act = Act::Fund {
            id: self.ledger_id(),
            org: self.org.clone(),
            amount: self.amount,
            memo: self.memo.clone(),
            at: now,
        };
        match desk.write(&self.org, act, Durability::Full).await {
            Ok(_) => Ok(true),
            Err(DeskError::Denied(Denied::Ledger(Refusal::Frozen { .. }))) => {
                let message = "the account is closed until its balance was looked into";
                Err(Error::new(Code::LedgerFrozen, message))
            }
            Err(DeskError::Denied(Denied::Ledger(_))) => {
                let message = "the amount is not above zero, or more than an account can hold";
                Err(Error::invalid("amount_usd", message))
            }
            // Somebody else was quicker with the same id.
            Err(DeskError::Denied(_)) if self.known(desk).await? => Ok(false),
            Err(error) => {
                let message = "the database does not answer; come back with the same id";
                Err(Error::new(Code::StoreUnavailable, message).because(error))
            }
        }
    }
}

/// The credits of an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgCredits {
    org: String,
    prepaid: bool,
    low_balance: Option<i64>,
    /// Nano-dollars bought.
    funded: i64,
    posted: i64,
    pending: i64,
}

/// What an organisation bought and used. None where there is no such organisation.
pub async fn of_org(db: &Db, org: &str) -> Result<Option<OrgCredits>, DbError> {
    // One statement, so that what was bought and what is left are of one moment.
    const SQL: &str = "SELECT o.prepaid, o.low_balance, COALESCE(a.posted, 0), \
         COALESCE(a.pending, 0), (SELECT CAST(COALESCE(SUM(t.amount), 0) AS BIGINT) \
         FROM transfer AS t WHERE t.credit = $1 AND t.kind = 'fund') \
         FROM org AS o LEFT JOIN account AS a ON a.id = $2 \
         WHERE o.id = $3 AND o.deleted_at IS NULL";
    let account = ledger::credit(org);
    let params = vec![account.as_str().into(), account.as_str().into(), org.into()];
    let rows = db.query(SQL, params).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(OrgCredits {
        org: org.to_owned(),
        prepaid: row.int(0)? != 0,
        low_balance: row.opt_int(1)?,
        posted: row.int(2)?,
        pending: row.int(3)?,
        funded: row.int(4)?,
    }))
}

impl OrgCredits {
    /// As the admin API gives it. `available_usd` is null where calls are not paid beforehand.
    pub fn to_json(&self) -> Json {
        let left = -(i128::from(self.posted) + i128::from(self.pending));
        let left = i64::try_from(left.max(0)).unwrap_or(i64::MAX);
        json!({
            "object": "credits",
            "org": self.org,
            "prepaid": self.prepaid,
            "available_usd": self.prepaid.then_some(Money::from_nanos(left)),
            "held_usd": Money::from_nanos(self.pending),
            "spent_usd": Money::from_nanos(self.posted.saturating_add(self.funded)),
            "funded_usd": Money::from_nanos(self.funded),
            "low_balance_usd": self.low_balance.map(Money::from_nanos),
        })
    }
}
