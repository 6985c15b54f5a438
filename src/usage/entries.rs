//! The transfers of the ledger, newest first.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

use super::{
    amount,
    csv::{Cell, Table},
    params::Params,
    sql::Sql,
    when,
};
use crate::{
    db::{Db, DbError, Row, Value},
    error::Error,
};

/// Most entries of one answer.
pub const MOST: u32 = 10_000;
const USUAL: u32 = 100;
/// The kinds of transfers, as the database has them.
const KINDS: [&str; 10] = [
    "fund",
    "hold",
    "capture",
    "release",
    "expire",
    "refund",
    "provider_cost",
    "absorb",
    "suspense",
    "adjust",
];

macro_rules! columns {
    () => {
        "id, kind, org, unit, debit, credit, amount, hold, held, job, memo, at FROM transfer"
    };
}

/// Which transfers.
#[derive(Clone, Debug)]
pub struct Filter {
    org: Option<String>,
    account: Option<String>,
    job: Option<String>,
    kind: Option<String>,
    from: Option<i64>,
    to: Option<i64>,
    after: Option<(i64, String)>,
    limit: u32,
}

impl Filter {
    /// Reads a query string. `org` is the only one the caller may see; with none it may name one.
    pub fn read(params: &mut Params, org: Option<String>) -> Result<Self, Error> {
        let time = |param: &str, text: Option<String>| {
            let Some(text) = text else { return Ok(None) };
            when::moment(&text).map(Some).ok_or_else(|| {
                let wanted = "wanted is 2026-09-01, 2026-09-01T12:00:00Z or Unix seconds";
                Error::invalid(param, format!("{text:?} is no time; {wanted}"))
            })
        };
        let named = params.take("org")?;
        let kind = params.take("kind")?;
        if let Some(kind) = kind.as_deref().filter(|kind| !KINDS.contains(kind)) {
            let known = KINDS.join(", ");
            return Err(Error::invalid(
                "kind",
                format!("there is no kind {kind:?}; there are {known}"),
            ));
        }
        let (from, to) = (params.take("from")?, params.take("to")?);
        Ok(Self {
            org: org.or(named),
            account: params.take("account")?,
            job: params.take("job")?,
            kind,
            from: time("from", from)?,
            to: time("to", to)?,
            after: params.take("after")?.map(|text| cursor(&text)).transpose()?,
            limit: params.limit(USUAL, MOST)?,
        })
    }

    fn sql(&self) -> (String, Vec<Value>) {
        let mut sql = Sql::default();
        if self.account.is_some() && self.job.is_none() {
            // Each side has an index of its own; a transfer from an account to itself is one.
            sql.select(concat!("SELECT * FROM (SELECT ", columns!()));
            sql.maybe("debit = ", self.account.as_ref());
            self.rest(&mut sql);
            sql.push(") AS debits UNION ALL ");
            sql.select(concat!("SELECT * FROM (SELECT ", columns!()));
            sql.maybe("credit = ", self.account.as_ref());
            sql.maybe("debit <> ", self.account.as_ref());
            self.rest(&mut sql);
            sql.push(") AS credits ORDER BY at DESC, id DESC LIMIT ");
            sql.bind(i64::from(self.limit) + 1);
        } else {
            sql.select(concat!("SELECT ", columns!()));
            if let Some(account) = &self.account {
                sql.condition("(debit = ").bind(account.as_str());
                sql.push(" OR credit = ").bind(account.as_str()).push(")");
            }
            self.rest(&mut sql);
        }
        sql.finish()
    }

    /// The other conditions, and the order.
    fn rest(&self, sql: &mut Sql) {
        if let Some(job) = &self.job {
            // Every id begins with that of the job or of its attempt, and ids are compared by
            // their bytes: '-' and ':' follow a job's id, ';' comes after both.
            sql.compare("id >= ", format!("{job}-")).compare("id < ", format!("{job};"));
            sql.compare("job = ", job.as_str());
        }
        sql.maybe("org = ", self.org.as_ref()).maybe("kind = ", self.kind.as_ref());
        if let Some(from) = self.from {
            sql.compare("at >= ", from);
        }
        if let Some(to) = self.to {
            sql.compare("at < ", to);
        }
        if let Some((at, id)) = &self.after {
            sql.compare("(at, id) < (", *at).push(", ").bind(id.as_str()).push(")");
        }
        // The sign keeps the planner of a job's few transfers from reading everybody's by time.
        sql.push(if self.job.is_some() {
            " ORDER BY +at DESC, id"
        } else {
            " ORDER BY at DESC, id"
        });
        sql.push(" DESC LIMIT ").bind(i64::from(self.limit) + 1);
    }

    /// Asks the database.
    pub async fn answer(&self, db: &Db) -> Result<Entries, DbError> {
        let (sql, params) = self.sql();
        let rows = db.query(sql, params).await?;
        let mut entries = rows.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let more = entries.len() > self.limit as usize;
        entries.truncate(self.limit as usize);
        Ok(Entries { entries, more })
    }
}

/// One transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    id: String,
    kind: String,
    org: String,
    unit: String,
    debit: String,
    credit: String,
    amount: i64,
    hold: Option<String>,
    held: Option<i64>,
    job: Option<String>,
    memo: Option<String>,
    at: i64,
}

fn entry(row: &Row) -> Result<Entry, DbError> {
    Ok(Entry {
        id: row.text(0)?,
        kind: row.text(1)?,
        org: row.text(2)?,
        unit: row.text(3)?,
        debit: row.text(4)?,
        credit: row.text(5)?,
        amount: row.int(6)?,
        hold: row.opt_text(7)?,
        held: row.opt_int(8)?,
        job: row.opt_text(9)?,
        memo: row.opt_text(10)?,
        at: row.int(11)?,
    })
}

/// A page of transfers.
#[derive(Clone, Debug)]
pub struct Entries {
    entries: Vec<Entry>,
    more: bool,
}

impl Entries {
    /// Where the next page begins, if there is one.
    pub fn next(&self) -> Option<String> {
        let last = self.entries.last().filter(|_| self.more)?;
        Some(next_of(last.at, &last.id))
    }

    /// As the admin API gives it.
    pub fn to_json(&self) -> Json {
        let entries: Vec<Json> = self
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "id": entry.id,
                    "object": "transfer",
                    "kind": entry.kind,
                    "org": entry.org,
                    "unit": entry.unit,
                    "debit": entry.debit,
                    "credit": entry.credit,
                    "amount": amount(&entry.unit, entry.amount),
                    "hold": entry.hold,
                    "held": entry.held.map(|held| amount(&entry.unit, held)),
                    "job": entry.job,
                    "memo": entry.memo,
                    "at": when::moment_text(entry.at),
                })
            })
            .collect();
        json!({ "object": "list", "data": entries, "has_more": self.more, "next": self.next() })
    }

    /// As a table.
    pub fn to_table(&self) -> Table {
        let titles =
            ["at", "kind", "org", "unit", "debit", "credit", "amount", "held", "job", "memo", "id"];
        let text = |text: &Option<String>| text.as_ref().map_or(Cell::Empty, Cell::text);
        let rows = self.entries.iter().map(|entry| {
            let number = |n: i64| Cell::number(amount(&entry.unit, n));
            vec![
                Cell::text(when::moment_text(entry.at)),
                Cell::text(&entry.kind),
                Cell::text(&entry.org),
                Cell::text(&entry.unit),
                Cell::text(&entry.debit),
                Cell::text(&entry.credit),
                number(entry.amount),
                entry.held.map_or(Cell::Empty, number),
                text(&entry.job),
                text(&entry.memo),
                Cell::text(&entry.id),
            ]
        });
        Table { titles: titles.map(str::to_owned).to_vec(), rows: rows.collect() }
    }
}

/// A cursor of a list by time and id.
pub(super) fn next_of(at: i64, id: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!([at, id]).to_string())
}

/// What [`next_of`] gave.
pub(super) fn cursor(text: &str) -> Result<(i64, String), Error> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let parts: Option<(i64, String)> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
    parts.filter(|(_, id)| !id.contains('\0')).ok_or_else(|| {
        let message = "after is not a cursor of this list; pass next of the page before";
        Error::invalid("after", message)
    })
}
