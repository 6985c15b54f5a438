//! Attempts whose outcome nobody knows, and what providers may bill for them.
//!
//! Those of jobs that go on are not among them: they may yet be known.

use providers::money::Money;
use serde_json::{Value as Json, json};

use super::{
    entries::{cursor, next_of},
    params::Params,
    sql::Sql,
};
use crate::{
    db::{Db, DbError, Row},
    error::Error,
    ledger::SUSPENSE,
};

const MOST: u32 = 10_000;
const USUAL: u32 = 100;

/// Begins a statement; the index of such attempts serves it, for there the state is a literal.
macro_rules! unknown {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM attempt AS a JOIN job AS j ON j.id = a.job WHERE a.state = 'unknown' \
             AND j.finished_at IS NOT NULL AND j.simulated = 0"
        )
    };
}

/// Which of them.
#[derive(Clone, Debug)]
pub struct Filter {
    org: Option<String>,
    provider: Option<String>,
    after: Option<(i64, String)>,
    limit: u32,
}

impl Filter {
    /// Reads a query string. `org` is the only one the caller may see, if there is one.
    pub fn read(params: &mut Params, org: Option<String>) -> Result<Self, Error> {
        if let Some(state) = params.take("state")?
            && state != "unknown"
        {
            let message = format!(
                "attempts are listed with state=unknown, not {state:?}; \
                 /admin/v1/jobs/{{id}} shows all of a job"
            );
            return Err(Error::invalid("state", message));
        }
        Ok(Self {
            org,
            provider: params.take("provider")?,
            after: params.take("after")?.map(|text| cursor(&text)).transpose()?,
            limit: params.limit(USUAL, MOST)?,
        })
    }

    /// Asks the database, the newest first. `now` is Unix milliseconds.
    pub async fn answer(&self, db: &Db, now: i64) -> Result<Unknown, DbError> {
        let mut sql = Sql::new(unknown!(
            "a.id, a.job, a.number, j.org, j.model, a.deployment, a.provider, a.credential, \
             a.outcome, a.sent_at, a.expected"
        ));
        for (words, value) in [(" AND j.org = ", &self.org), (" AND a.provider = ", &self.provider)]
        {
            if let Some(value) = value {
                sql.push(words).bind(value.as_str());
            }
        }
        if let Some((at, id)) = &self.after {
            sql.push(" AND (a.sent_at, a.id) < (").bind(*at).push(", ");
            sql.bind(id.as_str()).push(")");
        }
        sql.push(" ORDER BY a.sent_at DESC, a.id DESC LIMIT ").bind(i64::from(self.limit) + 1);
        let (sql, params) = sql.finish();
        let rows = db.query(sql, params).await?;
        let mut lines = rows.iter().map(line).collect::<Result<Vec<_>, _>>()?;
        let more = lines.len() > self.limit as usize;
        lines.truncate(self.limit as usize);
        Ok(Unknown { lines, more, now })
    }
}

#[derive(Clone, Debug)]
struct Line {
    id: String,
    job: String,
    number: i64,
    org: String,
    model: String,
    deployment: String,
    provider: String,
    credential: String,
    outcome: Option<String>,
    sent_at: i64,
    expected: Option<i64>,
}

fn line(row: &Row) -> Result<Line, DbError> {
    Ok(Line {
        id: row.text(0)?,
        job: row.text(1)?,
        number: row.int(2)?,
        org: row.text(3)?,
        model: row.text(4)?,
        deployment: row.text(5)?,
        provider: row.text(6)?,
        credential: row.text(7)?,
        outcome: row.opt_text(8)?,
        sent_at: row.int(9)?,
        expected: row.opt_int(10)?,
    })
}

/// A page of them.
#[derive(Clone, Debug)]
pub struct Unknown {
    lines: Vec<Line>,
    more: bool,
    now: i64,
}

impl Unknown {
    /// As the admin API gives it. `expected_usd` is null where the price is unknown.
    pub fn to_json(&self) -> Json {
        let data: Vec<Json> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "id": line.id,
                    "object": "attempt",
                    "job": line.job,
                    "number": line.number,
                    "org": line.org,
                    "model": line.model,
                    "deployment": line.deployment,
                    "provider": line.provider,
                    "credential": line.credential,
                    "state": "unknown",
                    "outcome": line.outcome,
                    "sent_at": line.sent_at.div_euclid(1000),
                    "age_seconds": self.now.saturating_sub(line.sent_at).max(0) / 1000,
                    "expected_usd": line.expected.map(Money::from_nanos),
                })
            })
            .collect();
        let last = self.lines.last().filter(|_| self.more);
        let next = last.map(|line| next_of(line.sent_at, &line.id));
        json!({ "object": "list", "data": data, "has_more": self.more, "next": next })
    }
}

/// How much is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Attempts.
    pub attempts: i64,
    /// Nano-dollars in suspense.
    pub suspense: i64,
}

/// Counts the attempts, and folds the account of what providers may bill for them.
pub async fn sums(db: &Db) -> Result<Sums, DbError> {
    const FOLD: &str = "SELECT CAST(COALESCE((SELECT SUM(amount) FROM transfer \
         WHERE debit = $1), 0) - COALESCE((SELECT SUM(amount) FROM transfer \
         WHERE credit = $2), 0) AS BIGINT)";
    let first = |rows: Vec<Row>| rows.first().map_or(Ok(0), |row| row.int(0));
    let attempts = first(db.query(unknown!("COUNT(*)"), Vec::new()).await?)?;
    let suspense = first(db.query(FOLD, vec![SUSPENSE.into(), SUSPENSE.into()]).await?)?;
    Ok(Sums { attempts, suspense })
}

/// The ids of those that were sent before a time, Unix milliseconds: the oldest first, at most so
/// many.
pub async fn oldest(db: &Db, before: i64, most: u32) -> Result<Vec<String>, DbError> {
    let mut sql = Sql::new(unknown!("a.id"));
    sql.push(" AND a.sent_at < ").bind(before);
    sql.push(" ORDER BY a.sent_at, a.id LIMIT ").bind(i64::from(most));
    let (sql, params) = sql.finish();
    db.query(sql, params).await?.iter().map(|row| row.text(0)).collect()
}
