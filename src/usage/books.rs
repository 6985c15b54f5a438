//! Accounts, the trial balance and drift, as the admin API and the command line show them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{
    amount,
    csv::{Cell, Table},
    fold::{Drift, UnitBalance},
    params::Params,
    sql::Sql,
};
use crate::{
    db::{Db, DbError, Row},
    error::Error,
};

const MOST: u32 = 10_000;
const USUAL: u32 = 100;

/// Which accounts.
#[derive(Clone, Debug)]
pub struct Filter {
    org: Option<String>,
    after: Option<String>,
    limit: u32,
}

impl Filter {
    /// Reads a query string. `org` is the only one the caller may see; with none it may name one.
    pub fn read(params: &mut Params, org: Option<String>) -> Result<Self, Error> {
        let named = params.take("org")?;
        Ok(Self {
            org: org.or(named),
            after: params.take("after")?,
            limit: params.limit(USUAL, MOST)?,
        })
    }

    /// Asks the database. The balance of each account of the page is folded from its transfers
    /// in the same statement.
    pub async fn answer(&self, db: &Db) -> Result<Accounts, DbError> {
        let mut sql = Sql::new(
            "SELECT a.id, a.org, a.unit, a.posted, a.pending, a.cap, a.frozen, \
             (SELECT CAST(COALESCE(SUM(CASE WHEN t.kind IN ('hold', 'release', 'expire') THEN 0 \
             ELSE t.amount END), 0) AS BIGINT) FROM transfer AS t WHERE t.debit = a.id), \
             (SELECT CAST(COALESCE(SUM(CASE WHEN t.kind IN ('hold', 'release', 'expire') THEN 0 \
             ELSE t.amount END), 0) AS BIGINT) FROM transfer AS t WHERE t.credit = a.id), \
             (SELECT CAST(COALESCE(SUM(CASE WHEN t.kind = 'hold' THEN t.amount \
             WHEN t.hold IS NOT NULL THEN -COALESCE(t.held, 0) ELSE 0 END), 0) AS BIGINT) \
             FROM transfer AS t WHERE t.debit = a.id) FROM account AS a",
        );
        sql.maybe("a.org = ", self.org.as_ref()).maybe("a.id > ", self.after.as_ref());
        sql.push(" ORDER BY a.id LIMIT ").bind(i64::from(self.limit) + 1);
        let (sql, params) = sql.finish();
        let rows = db.query(sql, params).await?;
        let mut accounts = rows.iter().map(account).collect::<Result<Vec<_>, _>>()?;
        let more = accounts.len() > self.limit as usize;
        accounts.truncate(self.limit as usize);
        Ok(Accounts { accounts, more })
    }
}

#[derive(Clone, Debug)]
struct Account {
    id: String,
    org: String,
    unit: String,
    posted: i64,
    pending: i64,
    cap: Option<i64>,
    frozen: bool,
    folded_posted: i64,
    folded_pending: i64,
}

fn account(row: &Row) -> Result<Account, DbError> {
    Ok(Account {
        id: row.text(0)?,
        org: row.text(1)?,
        unit: row.text(2)?,
        posted: row.int(3)?,
        pending: row.int(4)?,
        cap: row.opt_int(5)?,
        frozen: row.int(6)? != 0,
        folded_posted: row.int(7)?.saturating_sub(row.int(8)?),
        folded_pending: row.int(9)?,
    })
}

/// A page of accounts.
#[derive(Clone, Debug)]
pub struct Accounts {
    accounts: Vec<Account>,
    more: bool,
}

impl Accounts {
    /// Where the next page begins, if there is one.
    pub fn next(&self) -> Option<&str> {
        self.accounts.last().filter(|_| self.more).map(|account| account.id.as_str())
    }

    /// As the admin API gives it.
    pub fn to_json(&self) -> Json {
        let accounts: Vec<Json> = self
            .accounts
            .iter()
            .map(|account| {
                let text = |n: i64| amount(&account.unit, n);
                json!({
                    "id": account.id,
                    "object": "account",
                    "org": account.org,
                    "unit": account.unit,
                    "posted": text(account.posted),
                    "pending": text(account.pending),
                    "cap": account.cap.map(text),
                    "frozen": account.frozen,
                    "folded": {
                        "posted": text(account.folded_posted),
                        "pending": text(account.folded_pending),
                    },
                })
            })
            .collect();
        json!({ "object": "list", "data": accounts, "has_more": self.more, "next": self.next() })
    }

    /// As a table.
    pub fn to_table(&self) -> Table {
        let titles = [
            "account",
            "org",
            "unit",
            "posted",
            "pending",
            "cap",
            "frozen",
            "folded_posted",
            "folded_pending",
        ];
        let rows = self.accounts.iter().map(|account| {
            let number = |n: i64| Cell::number(amount(&account.unit, n));
            vec![
                Cell::text(&account.id),
                Cell::text(&account.org),
                Cell::text(&account.unit),
                number(account.posted),
                number(account.pending),
                account.cap.map_or(Cell::Empty, number),
                Cell::number(account.frozen),
                number(account.folded_posted),
                number(account.folded_pending),
            ]
        });
        Table { titles: titles.map(str::to_owned).to_vec(), rows: rows.collect() }
    }
}

/// The trial balance as the admin API gives it.
pub fn trial_balance_json(units: &BTreeMap<String, UnitBalance>) -> Json {
    let data: Vec<Json> = units
        .iter()
        .map(|(unit, balance)| {
            let accounts: BTreeMap<&str, String> = balance
                .accounts
                .iter()
                .map(|(account, posted)| (account.as_str(), amount(unit, *posted)))
                .collect();
            let sum = i64::try_from(balance.sum).unwrap_or(i64::MAX);
            json!({ "unit": unit, "accounts": accounts, "sum": amount(unit, sum) })
        })
        .collect();
    let balanced = units.values().all(|balance| balance.sum == 0);
    json!({ "object": "trial_balance", "data": data, "balanced": balanced })
}

/// Drifting accounts as a list.
pub fn drift_json(drift: &[Drift]) -> Json {
    let data: Vec<Json> = drift
        .iter()
        .map(|drift| {
            let pair = |(posted, pending): (i64, i64)| {
                json!({
                    "posted": amount(&drift.unit, posted),
                    "pending": amount(&drift.unit, pending),
                })
            };
            json!({
                "account": drift.account,
                "unit": drift.unit,
                "stored": pair(drift.stored),
                "folded": pair(drift.folded),
            })
        })
        .collect();
    json!({ "object": "list", "data": data })
}
