//! What providers cost, by our price list and by their own word: to hold against their invoices.

use std::ops::Range;

use providers::money::Money;
use serde_json::{Map, Value as Json, json};

use super::{
    csv::{Cell, Table},
    params::Params,
    sql::Sql,
    when,
};
use crate::{
    config::nearest,
    db::{Db, DbError, Row},
    error::Error,
};

const MOST: u32 = 10_000;
const GROUPS: [&str; 4] = ["day", "provider", "credential", "model"];

/// Which costs.
#[derive(Clone, Debug)]
pub struct Question {
    days: Range<i64>,
    groups: Vec<&'static str>,
    provider: Option<String>,
    limit: u32,
}

impl Question {
    /// Reads a query string. `now` is Unix milliseconds.
    pub fn read(params: &mut Params, now: i64) -> Result<Self, Error> {
        let (from, to) = (params.take("from")?, params.take("to")?);
        let span = when::span(from.as_deref(), to.as_deref(), now)?;
        let by = params.take("group_by")?;
        let mut groups = Vec::new();
        for name in by.as_deref().unwrap_or("day,provider,model").split(',') {
            let name = name.trim();
            let Some(group) = GROUPS.into_iter().find(|group| *group == name) else {
                let guess = nearest(name, GROUPS)
                    .map_or_else(|| GROUPS.join(", "), |near| format!("did you mean {near:?}?"));
                let message = format!("costs cannot be grouped by {name:?}; {guess}");
                return Err(Error::invalid("group_by", message));
            };
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        Ok(Self {
            days: when::whole_days(&span),
            groups,
            provider: params.take("provider")?,
            limit: params.limit(MOST, MOST)?,
        })
    }

    /// Asks the database.
    pub async fn answer(&self, db: &Db) -> Result<Reconciliation, DbError> {
        let mut sql = Sql::new("SELECT ");
        sql.list(&self.groups).push(
            ", CAST(SUM(requests) AS BIGINT), CAST(SUM(expected) AS BIGINT), \
             CAST(SUM(reported_requests) AS BIGINT), CAST(SUM(reported) AS BIGINT), \
             CAST(SUM(suspense) AS BIGINT) FROM cost_day",
        );
        sql.compare("day >= ", self.days.start).compare("day < ", self.days.end);
        sql.maybe("provider = ", self.provider.as_ref());
        sql.push(" GROUP BY ").list(&self.groups).push(" ORDER BY ").list(&self.groups);
        sql.push(" LIMIT ").bind(i64::from(self.limit) + 1);
        let (sql, params) = sql.finish();
        let rows = db.query(sql, params).await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in &rows {
            lines.push(self.line(row)?);
        }
        let more = lines.len() > self.limit as usize;
        lines.truncate(self.limit as usize);
        Ok(Reconciliation { groups: self.groups.clone(), days: self.days.clone(), lines, more })
    }

    fn line(&self, row: &Row) -> Result<Line, DbError> {
        let mut key = Vec::with_capacity(self.groups.len());
        for (index, group) in self.groups.iter().enumerate() {
            key.push(match *group {
                "day" => when::date_text(row.int(index)?),
                _ => row.text(index)?,
            });
        }
        let n = self.groups.len();
        Ok(Line {
            key,
            requests: row.int(n)?,
            expected: row.int(n + 1)?,
            reported_requests: row.int(n + 2)?,
            reported: row.int(n + 3)?,
            suspense: row.int(n + 4)?,
        })
    }
}

#[derive(Clone, Debug)]
struct Line {
    key: Vec<String>,
    requests: i64,
    expected: i64,
    reported_requests: i64,
    reported: i64,
    suspense: i64,
}

impl Line {
    /// What the provider says more than our price list. Known only where it named the price of
    /// every request.
    fn difference(&self) -> Option<Money> {
        let known = self.reported_requests == self.requests;
        known.then(|| Money::from_nanos(self.reported.saturating_sub(self.expected)))
    }
}

/// Costs as expected and as reported.
#[derive(Clone, Debug)]
pub struct Reconciliation {
    groups: Vec<&'static str>,
    days: Range<i64>,
    lines: Vec<Line>,
    more: bool,
}

impl Reconciliation {
    /// As the admin API gives it.
    pub fn to_json(&self) -> Json {
        let lines: Vec<Json> = self
            .lines
            .iter()
            .map(|line| {
                let keys = self.groups.iter().zip(&line.key);
                let mut object: Map<String, Json> =
                    keys.map(|(group, key)| ((*group).to_owned(), json!(key))).collect();
                for (name, value) in [
                    ("requests", json!(line.requests)),
                    ("expected_usd", json!(Money::from_nanos(line.expected))),
                    ("reported_requests", json!(line.reported_requests)),
                    ("reported_usd", json!(Money::from_nanos(line.reported))),
                    ("suspense_usd", json!(Money::from_nanos(line.suspense))),
                    ("difference_usd", json!(line.difference())),
                ] {
                    object.insert(name.to_owned(), value);
                }
                Json::Object(object)
            })
            .collect();
        json!({
            "object": "list",
            "from": when::date_text(self.days.start),
            "to": when::date_text(self.days.end),
            "data": lines,
            "has_more": self.more,
        })
    }

    /// As a table.
    pub fn to_table(&self) -> Table {
        let sums = [
            "requests",
            "expected_usd",
            "reported_requests",
            "reported_usd",
            "suspense_usd",
            "difference_usd",
        ];
        let titles = self.groups.iter().copied().chain(sums).map(str::to_owned).collect();
        let rows = self.lines.iter().map(|line| {
            let money = |nanos: i64| Cell::number(Money::from_nanos(nanos));
            let mut row: Vec<Cell> = line.key.iter().map(Cell::text).collect();
            row.extend([
                Cell::number(line.requests),
                money(line.expected),
                Cell::number(line.reported_requests),
                money(line.reported),
                money(line.suspense),
                line.difference().map_or(Cell::Empty, Cell::number),
            ]);
            row
        });
        Table { titles, rows: rows.collect() }
    }
}
