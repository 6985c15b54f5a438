//! The accounts of budgets: one for each period, made when it is first needed.
//!
//! What was used is never touched by a change of a limit. Only when a budget begins in the middle
//! of its period is an account opened with what was used in it so far, as a transfer.

use super::{sql::Sql, when};
use crate::{
    db::{DbError, Insert, Tx},
    ledger::{BUDGETS, USD},
    tenant::{Budget, Period, Scope},
};

/// The account of a budget in the period of `at`, Unix milliseconds. None where it is about
/// users and this is not one of them.
pub fn account(budget: &Budget, user: Option<&str>, at: i64) -> Option<String> {
    let id = prefix(budget, at);
    if budget.scope != Scope::User {
        return Some(id);
    }
    let user = user.filter(|user| budget.scope_id == "*" || budget.scope_id == *user)?;
    Some(format!("{id}:{user}"))
}

/// The account without a user.
fn prefix(budget: &Budget, at: i64) -> String {
    match budget.period {
        Period::Total => format!("budget:{}", budget.id),
        _ => format!("budget:{}:{}", budget.id, when::date_text(budget.period.window(at).0)),
    }
}

/// Sets what may be used of an account. What is used or held already stays so: it is never
/// exceeded further.
pub async fn set_cap(tx: &mut Tx<'_>, account: &str, cap: i64) -> Result<(), DbError> {
    const SQL: &str = "UPDATE account SET cap = $1, ceiling = CASE WHEN posted + pending > $2 \
                       THEN posted + pending ELSE $3 END WHERE id = $4";
    tx.execute(SQL, &[cap.into(), cap.into(), cap.into(), account.into()]).await?;
    Ok(())
}

/// Opens the accounts of a budget for the period of `at`, Unix milliseconds, and sets what may be
/// used of those that are open. What a job holds at this moment is not counted: it was allowed
/// before the budget was.
pub async fn open(tx: &mut Tx<'_>, org: &str, budget: &Budget, at: i64) -> Result<(), DbError> {
    let prefix = prefix(budget, at);
    for (user, used) in used(tx, org, budget, at).await? {
        let account = match &user {
            Some(user) => format!("{prefix}:{user}"),
            None => prefix.clone(),
        };
        open_one(tx, org, budget, &account, used.max(0), at).await?;
    }
    if budget.scope == Scope::User {
        // Users who have used nothing by the rollups, but hold something.
        const HOLDERS: &str = "SELECT id FROM account WHERE id >= $1 AND id < $2 ORDER BY id";
        let range = [format!("{prefix}:").into(), format!("{prefix};").into()];
        for row in tx.query(HOLDERS, &range).await? {
            set_cap(tx, &row.text(0)?, budget.amount).await?;
        }
    }
    Ok(())
}

static TRANSFER: Insert = Insert {
    into: "transfer (id, kind, org, unit, debit, credit, amount, memo, at)",
    columns: 9,
    conflict: "",
};

async fn open_one(
    tx: &mut Tx<'_>,
    org: &str,
    budget: &Budget,
    account: &str,
    used: i64,
    at: i64,
) -> Result<(), DbError> {
    const OPEN: &str = "INSERT INTO account (id, org, unit, posted, pending, cap, ceiling) \
                        VALUES ($1, $2, $3, $4, 0, $5, $6) ON CONFLICT (id) DO NOTHING";
    let row = [
        account.into(),
        org.into(),
        budget.unit.as_str().into(),
        used.into(),
        budget.amount.into(),
        budget.amount.max(used).into(),
    ];
    if tx.execute(OPEN, &row).await? == 0 {
        return set_cap(tx, account, budget.amount).await;
    }
    if used == 0 {
        return Ok(());
    }
    let transfer = vec![
        format!("{account}:open").into(),
        "adjust".into(),
        org.into(),
        budget.unit.as_str().into(),
        account.into(),
        BUDGETS.into(),
        used.into(),
        "used before the budget was made".into(),
        at.into(),
    ];
    tx.insert_many(&TRANSFER, &[transfer]).await
}

/// What was used in the period of `at` by whom the budget is for: one sum, or one of each user.
async fn used(
    tx: &mut Tx<'_>,
    org: &str,
    budget: &Budget,
    at: i64,
) -> Result<Vec<(Option<String>, i64)>, DbError> {
    let (first, next) = budget.period.window(at);
    let mut sql = Sql::new(match (budget.scope, budget.unit.as_str()) {
        (Scope::User, USD) => "SELECT value, CAST(SUM(amount) AS BIGINT) FROM usage_day",
        (Scope::User, _) => "SELECT value, CAST(SUM(quantity) AS BIGINT) FROM usage_day",
        (_, USD) => "SELECT NULL, CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM usage_day",
        _ => "SELECT NULL, CAST(COALESCE(SUM(quantity), 0) AS BIGINT) FROM usage_day",
    });
    let whose = Some(&budget.scope_id);
    match budget.scope {
        Scope::Key => drop(sql.maybe("api_key = ", whose).condition("label = ''")),
        Scope::Project => drop(sql.maybe("project = ", whose).condition("label = ''")),
        Scope::Org => drop(sql.condition("label = ''")),
        Scope::User => {
            sql.condition("label = 'user'");
            sql.maybe("value = ", whose.filter(|user| *user != "*"));
        }
    }
    sql.compare("org = ", org).compare("day >= ", first);
    if let Some(next) = next {
        sql.compare("day < ", next);
    }
    if budget.unit != USD {
        sql.compare("unit = ", budget.unit.as_str());
    }
    if budget.scope == Scope::User {
        sql.push(" GROUP BY value ORDER BY value");
    }
    let (sql, params) = sql.finish();
    let rows = tx.query(&sql, &params).await?;
    rows.iter().map(|row| Ok((row.opt_text(0)?, row.int(1)?))).collect()
}
