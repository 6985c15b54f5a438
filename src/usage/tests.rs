//! Questions asked of both engines, with rows as the ledger writes them.

mod alert;
mod budgets;
mod credits;
mod large;
mod ledger;
mod report;

use crate::{
    db::{Db, Durability, Value},
    usage::{amount, params::Params},
};

/// Runs statements in one transaction.
pub(super) async fn run(db: &Db, statements: Vec<(&'static str, Vec<Value>)>) {
    db.transaction(Durability::Process, move |tx| {
        let statements = statements.clone();
        Box::pin(async move {
            for (sql, params) in &statements {
                tx.execute(sql, params).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
}

/// A query string.
pub(super) fn params(query: &str) -> Params {
    Params::new(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}

/// A row of use: day, organisation, project, key, model, provider, label, value, unit, requests,
/// quantity, amount.
pub(super) type Used = (
    i64,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    [i64; 3],
);

pub(super) async fn use_up(db: &Db, rows: &[Used]) {
    let sql = "INSERT INTO usage_day (day, org, project, api_key, model, provider, label, value, \
               unit, requests, quantity, amount) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let rows = rows.iter().map(|(day, a, b, c, d, e, f, g, h, sums)| {
        let mut row: Vec<Value> = vec![(*day).into()];
        row.extend([a, b, c, d, e, f, g, h].map(|text| Value::from(*text)));
        row.extend(sums.map(Value::from));
        (sql, row)
    });
    run(db, rows.collect()).await;
}

/// Stores a balance: id, organisation, unit, posted, pending, cap.
pub(super) async fn account(
    db: &Db,
    id: &str,
    unit: &str,
    posted: i64,
    pending: i64,
    cap: Option<i64>,
) {
    let sql = "INSERT INTO account (id, org, unit, posted, pending, cap, ceiling) \
               VALUES ($1, 'default', $2, $3, $4, $5, $6)";
    let row = vec![id.into(), unit.into(), posted.into(), pending.into(), cap.into(), cap.into()];
    run(db, vec![(sql, row)]).await;
}

/// A transfer: id, kind, unit, debit, credit, amount, hold and how much it held.
pub(super) type Moved = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    i64,
    Option<(&'static str, i64)>,
);

/// Writes transfers of the default organisation, a second apart.
pub(super) async fn transfer(db: &Db, moved: &[Moved]) {
    let sql = "INSERT INTO transfer (id, kind, org, unit, debit, credit, amount, hold, held, job, \
               memo, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let rows =
        moved.iter().zip(0_i64..).map(|((id, kind, unit, debit, credit, amount, hold), n)| {
            let job = id.split_once(['-', ':']).map(|(job, _)| job).filter(|job| *job != "fund");
            let row = vec![
                (*id).into(),
                (*kind).into(),
                if debit.starts_with("system:") && credit.starts_with("system:") {
                    ""
                } else {
                    "default"
                }
                .into(),
                (*unit).into(),
                (*debit).into(),
                (*credit).into(),
                (*amount).into(),
                hold.map(|(id, _)| id).into(),
                hold.map(|(_, held)| held).into(),
                job.into(),
                Value::Null,
                (1_000_000 + n * 1000).into(),
            ];
            (sql, row)
        });
    run(db, rows.collect()).await;
}

/// How the database would go about a statement.
pub(super) async fn plan(db: &Db, sql: &str, params: Vec<Value>) -> String {
    let (explain, column) = if db.is_shared() { ("EXPLAIN", 0) } else { ("EXPLAIN QUERY PLAN", 3) };
    let rows = db.query(format!("{explain} {sql}"), params).await.unwrap();
    rows.iter().map(|row| row.text(column).unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn amounts_are_exact_decimals() {
    for (unit, value, text) in [
        ("usd", 1, "0.000000001"),
        ("usd", -1_500_000_000, "-1.500000000"),
        ("usd", i64::MIN, "-9223372036.854775808"),
        ("image", 3_000_000, "3"),
        ("megapixel", 1_048_576, "1.048576"),
        ("megapixel", -500_000, "-0.5"),
        ("text_input_token", i64::MAX, "9223372036854.775807"),
        ("second", 0, "0"),
    ] {
        assert_eq!(amount(unit, value), text);
    }
}
