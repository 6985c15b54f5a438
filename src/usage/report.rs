//! What was used, from the rollups by day alone: a month of a large tenant is read in one scan of
//! an index, however many requests it had.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use providers::money::Money;
use serde_json::{Map, Value as Json, json};

use super::{
    csv::{Cell, Table},
    params::Params,
    quantity,
    sql::Sql,
    when,
};
use crate::{
    config::nearest,
    db::{Db, DbError, Row, Value},
    error::Error,
};

/// Most lines of one answer.
pub const MOST_LINES: u32 = 10_000;
/// Lines of an answer where the caller does not say.
const USUAL_LINES: u32 = 1000;
/// The unit whose rows count requests.
const REQUEST: &str = "request";

/// What the lines of a report are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// An organisation; on the admin listener alone.
    Org,
    /// A day, UTC.
    Day,
    /// A project.
    Project,
    /// A key.
    Key,
    /// A model, by its public name.
    Model,
    /// A provider.
    Provider,
    /// A label and its value.
    Label,
    /// A unit.
    Unit,
}

impl Group {
    const ALL: [Self; 8] = [
        Self::Org,
        Self::Day,
        Self::Project,
        Self::Key,
        Self::Model,
        Self::Provider,
        Self::Label,
        Self::Unit,
    ];

    /// What queries and answers call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Day => "day",
            Self::Project => "project",
            Self::Key => "key",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Label => "label",
            Self::Unit => "unit",
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Org => &["org"],
            Self::Day => &["day"],
            Self::Project => &["project"],
            Self::Key => &["api_key"],
            Self::Model => &["model"],
            Self::Provider => &["provider"],
            Self::Label => &["label", "value"],
            Self::Unit => &["unit"],
        }
    }

    /// What answers call its columns.
    fn titles(self) -> &'static [&'static str] {
        match self {
            Self::Key => &["key"],
            other => other.columns(),
        }
    }

    fn read(name: &str, all_orgs: bool) -> Result<Self, Error> {
        let known = || Self::ALL.into_iter().filter(|g| all_orgs || *g != Self::Org);
        known().find(|g| g.name() == name).ok_or_else(|| {
            let names: Vec<&str> = known().map(Self::name).collect();
            let guess = nearest(name, names.iter().copied())
                .map_or_else(|| names.join(", "), |near| format!("did you mean {near:?}?"));
            Error::invalid("group_by", format!("usage cannot be grouped by {name:?}; {guess}"))
        })
    }
}

/// Whose usage; none of a field is everybody's.
#[derive(Clone, Debug, Default)]
pub struct Whose {
    /// The organisation.
    pub org: Option<String>,
    /// The project.
    pub project: Option<String>,
    /// The key, by its public id.
    pub key: Option<String>,
}

/// A question about usage.
#[derive(Clone, Debug)]
pub struct Question {
    whose: Whose,
    days: Range<i64>,
    groups: Vec<Group>,
    model: Option<String>,
    provider: Option<String>,
    unit: Option<String>,
    label: Option<(String, String)>,
    after: Option<Vec<Value>>,
    limit: u32,
}

impl Question {
    /// Reads a query string. `whose` is what the caller may see; `all_orgs` whether that may be
    /// several organisations. `now` is Unix milliseconds.
    pub fn read(
        params: &mut Params,
        whose: Whose,
        all_orgs: bool,
        now: i64,
    ) -> Result<Self, Error> {
        let (from, to) = (params.take("from")?, params.take("to")?);
        let span = when::span(from.as_deref(), to.as_deref(), now)?;
        let mut groups = Vec::new();
        let by = params.take("group_by")?.unwrap_or_else(|| "day".to_owned());
        for name in by.split(',') {
            let group = Group::read(name.trim(), all_orgs)?;
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let mut labels = params.take_prefixed("label.")?.into_iter();
        let label = labels.next();
        if let Some((name, _)) = labels.next() {
            let message = "usage is kept by one label at a time; filter by one";
            return Err(Error::invalid(format!("label.{name}"), message));
        }
        if label.as_ref().is_some_and(|(name, _)| name.is_empty()) {
            let message = "the label has no name; write label.<name>=<value>";
            return Err(Error::invalid("label.", message));
        }
        let question = Self {
            whose,
            days: when::whole_days(&span),
            model: params.take("model")?,
            provider: params.take("provider")?,
            unit: params.take("unit")?,
            label,
            after: params.take("after")?.map(|text| cursor(&text, &groups)).transpose()?,
            limit: params.limit(USUAL_LINES, MOST_LINES)?,
            groups,
        };
        Ok(question)
    }

    fn columns(&self) -> Vec<&'static str> {
        self.groups.iter().flat_map(|group| group.columns()).copied().collect()
    }

    /// The conditions that lines and total share.
    fn conditions(&self, sql: &mut Sql) {
        sql.maybe("org = ", self.whose.org.as_ref())
            .maybe("project = ", self.whose.project.as_ref())
            .maybe("api_key = ", self.whose.key.as_ref())
            .compare("day >= ", self.days.start)
            .compare("day < ", self.days.end)
            .maybe("model = ", self.model.as_ref())
            .maybe("provider = ", self.provider.as_ref())
            .maybe("unit = ", self.unit.as_ref());
        if let Some((name, value)) = &self.label {
            sql.compare("label = ", name.as_str()).compare("value = ", value.as_str());
        }
    }

    /// The statement that gives the lines, a row for each unit of a line.
    fn lines_sql(&self) -> (String, Vec<Value>) {
        let mut columns = self.columns();
        if !columns.contains(&"unit") {
            columns.push("unit");
        }
        let mut sql = Sql::new("SELECT ");
        sql.list(&columns).push(
            ", CAST(SUM(requests) AS BIGINT), CAST(SUM(quantity) AS BIGINT), \
             CAST(SUM(amount) AS BIGINT) FROM usage_day",
        );
        self.conditions(&mut sql);
        match (&self.label, self.groups.contains(&Group::Label)) {
            (Some(_), _) => {}
            (None, true) => drop(sql.condition("label <> ''")),
            (None, false) => drop(sql.condition("label = ''")),
        }
        if let Some(after) = &self.after {
            sql.condition("(").list(&self.columns()).push(") > (");
            for (index, value) in after.iter().enumerate() {
                if index > 0 {
                    sql.push(", ");
                }
                sql.bind(value.clone());
            }
            sql.push(")");
        }
        sql.push(" GROUP BY ").list(&columns).push(" ORDER BY ").list(&columns);
        sql.push(" LIMIT ").bind(self.most_rows());
        sql.finish()
    }

    /// Rows to read for one answer and the first line of the next. A line has a row per unit;
    /// where that is not enough the answer is shorter, and the cursor goes on from there.
    fn most_rows(&self) -> i64 {
        (i64::from(self.limit) + 1) * 8 + 64
    }

    fn total_sql(&self) -> (String, Vec<Value>) {
        let mut sql = Sql::new("SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM usage_day");
        self.conditions(&mut sql);
        if self.label.is_none() {
            sql.condition("label = ''");
        }
        sql.finish()
    }

    /// Asks the database.
    pub async fn answer(&self, db: &Db) -> Result<Report, DbError> {
        let (sql, params) = self.lines_sql();
        let rows = db.query(sql, params).await?;
        let (sql, params) = self.total_sql();
        let total = match db.query(sql, params).await?.first() {
            Some(row) => row.int(0)?,
            None => 0,
        };
        self.report(&rows, total)
    }

    /// How the database would go about it, a text for each statement.
    #[cfg(test)]
    pub(super) async fn plans(&self, db: &Db) -> Vec<String> {
        let mut plans = Vec::new();
        for (sql, params) in [self.lines_sql(), self.total_sql()] {
            plans.push(super::tests::plan(db, &sql, params).await);
        }
        plans
    }

    fn report(&self, rows: &[Row], total: i64) -> Result<Report, DbError> {
        let count = self.columns().len();
        let by_unit = self.groups.contains(&Group::Unit);
        let first_sum = if by_unit { count } else { count + 1 };
        let unit_at = self.columns().iter().position(|c| *c == "unit").unwrap_or(count);
        let mut lines: Vec<Line> = Vec::new();
        for row in rows {
            let mut key = Vec::with_capacity(count);
            for (index, column) in self.columns().iter().enumerate() {
                key.push(match *column {
                    "day" => Value::Int(row.int(index)?),
                    _ => Value::Text(row.text(index)?),
                });
            }
            if lines.last().is_none_or(|line| line.key != key) {
                lines.push(Line { key, requests: 0, units: Vec::new(), amount: 0 });
            }
            let Some(line) = lines.last_mut() else { continue };
            let unit = row.text(unit_at)?;
            if by_unit || self.unit.is_some() || unit == REQUEST {
                line.requests += row.int(first_sum)?;
            }
            line.amount += row.int(first_sum + 2)?;
            if by_unit || unit != REQUEST {
                line.units.push((unit, row.int(first_sum + 1)?));
            }
        }
        let limit = self.limit as usize;
        let full = rows.len() as u64 >= self.most_rows().unsigned_abs();
        if full {
            // Its last units may be missing.
            lines.pop();
        }
        let more = full || lines.len() > limit;
        lines.truncate(limit);
        let titles = self.groups.iter().flat_map(|group| group.titles()).copied().collect();
        Ok(Report { titles, days: self.days.clone(), lines, total, more })
    }
}

/// An answer about usage.
#[derive(Clone, Debug)]
pub struct Report {
    titles: Vec<&'static str>,
    days: Range<i64>,
    lines: Vec<Line>,
    total: i64,
    more: bool,
}

#[derive(Clone, Debug)]
struct Line {
    key: Vec<Value>,
    requests: i64,
    /// The units in alphabetical order, in millionths.
    units: Vec<(String, i64)>,
    /// Nano-dollars.
    amount: i64,
}

impl Report {
    /// Where the next answer begins, if there is one.
    pub fn next(&self) -> Option<String> {
        let key = &self.lines.last().filter(|_| self.more)?.key;
        let parts: Vec<Json> = key
            .iter()
            .map(|part| match part {
                Value::Int(day) => json!(day),
                Value::Text(text) => json!(text),
                _ => Json::Null,
            })
            .collect();
        Some(URL_SAFE_NO_PAD.encode(Json::Array(parts).to_string()))
    }

    /// As the API gives it. `total_usd` is of the whole span, not of this page.
    pub fn to_json(&self) -> Json {
        let lines: Vec<Json> = self.lines.iter().map(|line| self.line_json(line)).collect();
        json!({
            "object": "list",
            "from": when::date_text(self.days.start),
            "to": when::date_text(self.days.end),
            "data": lines,
            "total_usd": Money::from_nanos(self.total),
            "has_more": self.more,
            "next": self.next(),
        })
    }

    fn line_json(&self, line: &Line) -> Json {
        let mut object = Map::new();
        for (title, part) in self.titles.iter().zip(&line.key) {
            object.insert((*title).to_owned(), json!(shown(part)));
        }
        let units: Map<String, Json> =
            line.units.iter().map(|(unit, n)| (unit.clone(), json!(quantity(*n)))).collect();
        object.insert("requests".to_owned(), json!(line.requests));
        object.insert("units".to_owned(), Json::Object(units));
        object.insert("usd".to_owned(), json!(Money::from_nanos(line.amount)));
        Json::Object(object)
    }

    /// As a table: the groups, the requests, the charge, and a column for every unit.
    pub fn to_table(&self) -> Table {
        let mut units: Vec<&str> =
            self.lines.iter().flat_map(|l| l.units.iter().map(|(unit, _)| unit.as_str())).collect();
        units.sort_unstable();
        units.dedup();
        let fixed = self.titles.iter().copied().chain(["requests", "usd"]);
        let titles = fixed.chain(units.iter().copied()).map(str::to_owned).collect();
        let rows = self.lines.iter().map(|line| {
            let mut row: Vec<Cell> = line.key.iter().map(|part| Cell::text(shown(part))).collect();
            row.push(Cell::number(line.requests));
            row.push(Cell::number(Money::from_nanos(line.amount)));
            row.extend(units.iter().map(|unit| {
                let found = line.units.iter().find(|(name, _)| name == unit);
                found.map_or(Cell::Empty, |(_, n)| Cell::number(quantity(*n)))
            }));
            row
        });
        Table { titles, rows: rows.collect() }
    }
}

fn shown(part: &Value) -> String {
    match part {
        Value::Int(day) => when::date_text(*day),
        Value::Text(text) => text.clone(),
        _ => String::new(),
    }
}

/// Where a page begins: what [`Report::next`] gave for the same groups.
fn cursor(text: &str, groups: &[Group]) -> Result<Vec<Value>, Error> {
    let wrong = || {
        let message = "after is not a cursor of this query; pass next of the page before";
        Error::invalid("after", message)
    };
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    let parts: Vec<Json> = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let columns: Vec<&str> = groups.iter().flat_map(|g| g.columns()).copied().collect();
    if parts.len() != columns.len() {
        return Err(wrong());
    }
    let read = |(column, part): (&&str, Json)| match (*column, part) {
        ("day", Json::Number(day)) => day.as_i64().map(Value::Int),
        ("day", _) => None,
        (_, Json::String(text)) if !text.contains('\0') => Some(Value::Text(text)),
        _ => None,
    };
    columns.iter().zip(parts).map(read).collect::<Option<_>>().ok_or_else(wrong)
}
