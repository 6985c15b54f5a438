//! Budgets as operators make, change and delete them.

use serde_json::{Map, Value as Json, json};

use super::{alert::field, amount, credits, when, window};
use crate::{
    db::{Db, DbError, Row},
    tenant::{
        Budget, Period, Scope,
        budgets::{
            COLUMNS, NewBudget, check, detail, exists, insert, period_name, read, scope_name,
        },
        role::{Act, Actor},
        store::{Change, Entry, Outcome, Page, Part, StoreError, change, name, page, permit},
    },
};

const WHAT: &str = "budget";

/// A budget and what was used of it in the running period.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The budget.
    pub budget: Budget,
    /// Whose it is.
    pub org: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// What was used and what is held; none for budgets of users, who have one each.
    used: Option<credits::Balance>,
    /// When the next period begins, Unix seconds.
    resets_at: Option<i64>,
}

impl Listed {
    /// As the admin API gives it.
    pub fn to_json(&self) -> Json {
        let budget = &self.budget;
        let mut object = Map::new();
        let mut put = |name: &str, value: Json| object.insert(name.to_owned(), value);
        put("id", json!(budget.id));
        put("object", json!("budget"));
        put("org", json!(self.org));
        put("name", json!(budget.name));
        put("scope", json!(scope_name(budget.scope)));
        put("scope_id", json!(budget.scope_id));
        put("unit", json!(budget.unit));
        put("period", json!(period_name(budget.period)));
        put(&field("limit", &budget.unit), json!(amount(&budget.unit, budget.amount)));
        let (spent, held) = self.used.unzip();
        let shown = |n: Option<i64>| json!(n.map(|n| amount(&budget.unit, n)));
        put(&field("spent", &budget.unit), shown(spent));
        put(&field("held", &budget.unit), shown(held));
        put("alert_percent", json!(budget.alert_percent));
        put("resets_at", json!(self.resets_at));
        put("created_at", json!(self.created_at.div_euclid(1000)));
        Json::Object(object)
    }
}

/// Makes a budget in an organisation. Whoever it is for must exist there. What they have used in
/// the running period counts.
pub async fn create(
    db: &Db,
    actor: &Actor,
    org: &str,
    new: NewBudget,
    now: i64,
) -> Outcome<Listed> {
    let budget = check(actor, org, new)?;
    let id = budget.id.clone();
    let entry = Entry::new(actor, org, "budget.create", &id, detail(&budget));
    let owner = org.to_owned();
    change(db, entry, now, move |tx, rev| {
        let (org, budget) = (owner.clone(), budget.clone());
        Box::pin(async move {
            if !exists(tx, &org, &budget).await? {
                let what = scope_name(budget.scope);
                let message = format!("there is no {what} {:?} here", budget.scope_id);
                return Ok(Err(StoreError::invalid("scope_id", message)));
            }
            insert(tx, rev, &org, &budget, now).await?;
            window::open(tx, &org, &budget, now).await?;
            Ok(Ok(()))
        })
    })
    .await?;
    get(db, actor, &id, now).await
}

fn columns() -> String {
    format!("SELECT {COLUMNS}, org, created_at")
}

fn row(row: &Row) -> Result<Listed, DbError> {
    Ok(Listed {
        budget: read(row)?,
        org: row.text(8)?,
        created_at: row.int(9)?,
        used: None,
        resets_at: None,
    })
}

/// Adds what was used in the period of `now`.
async fn with_use(db: &Db, mut listed: Vec<Listed>, now: i64) -> Result<Vec<Listed>, DbError> {
    let accounts: Vec<Option<String>> =
        listed.iter().map(|one| window::account(&one.budget, None, now)).collect();
    let stored = credits::balances(db, accounts.iter().flatten().cloned().collect()).await?;
    for (one, account) in listed.iter_mut().zip(accounts) {
        one.used = account.map(|account| stored.get(&account).copied().unwrap_or_default());
        one.resets_at = one.budget.period.window(now).1.map(|day| day * (when::DAY_MS / 1000));
    }
    Ok(listed)
}

/// One budget.
pub async fn get(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<Listed> {
    let sql = format!("{} FROM budget WHERE id = $1 AND deleted_at IS NULL", columns());
    let rows = db.query(sql, vec![id.into()]).await?;
    let found = rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?;
    let found = row(found)?;
    permit(actor, Act::Read, &found.org, WHAT, id)?;
    let mut found = with_use(db, vec![found], now).await?;
    found.pop().ok_or_else(|| StoreError::not_found(WHAT, id))
}

/// Which budgets to list; none is all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this organisation.
    pub org: Option<String>,
    /// Of this kind of owner.
    pub scope: Option<Scope>,
    /// Of this owner.
    pub scope_id: Option<String>,
}

/// The budgets an operator sees, newest first.
pub async fn list(
    db: &Db,
    actor: &Actor,
    wanted: &Wanted,
    at: &Page,
    now: i64,
) -> Outcome<Part<Listed>> {
    let mut wheres = vec!["deleted_at IS NULL".to_owned()];
    let mut params = Vec::new();
    if let Some(org) = wanted.org.as_deref().or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        params.push(org.into());
        wheres.push(format!("org = ${}", params.len()));
    }
    if let Some(scope) = wanted.scope {
        params.push(scope_name(scope).into());
        wheres.push(format!("scope = ${}", params.len()));
    }
    if let Some(id) = &wanted.scope_id {
        params.push(id.as_str().into());
        wheres.push(format!("scope_id = ${}", params.len()));
    }
    let part = page(db, &columns(), "budget", &wheres, params, at).await?.read(row)?;
    Ok(Part { items: with_use(db, part.items, now).await?, has_more: part.has_more })
}

/// What is to be changed; none stays as it is. Whose it is and what it counts cannot be: that
/// would be another budget.
#[derive(Clone, Debug, Default)]
pub struct BudgetChange {
    /// A new name.
    pub name: Option<String>,
    /// Nano-dollars, or millionths of the unit.
    pub amount: Option<i64>,
    /// How long until it begins anew.
    pub period: Option<Period>,
    /// When to warn.
    pub alert_percent: Change<u8>,
}

/// Changes a budget. What was used stays used.
pub async fn update(
    db: &Db,
    actor: &Actor,
    id: &str,
    to: BudgetChange,
    now: i64,
) -> Outcome<Listed> {
    let old = get(db, actor, id, now).await?;
    permit(actor, Act::Manage, &old.org, WHAT, id)?;
    let mut budget = old.budget;
    if let Some(new) = &to.name {
        budget.name = name("name", new)?;
    }
    if let Some(amount) = to.amount {
        budget.amount = amount;
    }
    if let Some(period) = to.period {
        budget.period = period;
    }
    to.alert_percent.apply(&mut budget.alert_percent);
    crate::tenant::budgets::check_numbers(&budget)?;
    let entry = Entry::new(actor, &old.org, "budget.update", id, detail(&budget));
    let org = old.org;
    change(db, entry, now, move |tx, rev| {
        let (org, budget) = (org.clone(), budget.clone());
        Box::pin(async move {
            const SQL: &str = "UPDATE budget SET name = $1, amount = $2, period = $3, \
                               alert_percent = $4, rev = $5 WHERE id = $6 AND deleted_at IS NULL";
            let row = [
                budget.name.as_str().into(),
                budget.amount.into(),
                period_name(budget.period).into(),
                budget.alert_percent.map(i64::from).into(),
                rev.into(),
                budget.id.as_str().into(),
            ];
            if tx.execute(SQL, &row).await? == 0 {
                return Ok(Err(StoreError::not_found(WHAT, budget.id)));
            }
            window::open(tx, &org, &budget, now).await?;
            Ok(Ok(()))
        })
    })
    .await?;
    get(db, actor, id, now).await
}

/// Deletes a budget: it limits nothing from then on.
pub async fn delete(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<()> {
    let old = get(db, actor, id, now).await?;
    permit(actor, Act::Manage, &old.org, WHAT, id)?;
    let entry = Entry::new(actor, &old.org, "budget.delete", id, detail(&old.budget));
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let id = id.clone();
        Box::pin(async move {
            const SQL: &str = "UPDATE budget SET deleted_at = $1, rev = $2 \
                               WHERE id = $3 AND deleted_at IS NULL";
            match tx.execute(SQL, &[now.into(), rev.into(), id.as_str().into()]).await? {
                0 => Ok(Err(StoreError::not_found(WHAT, id))),
                _ => Ok(Ok(())),
            }
        })
    })
    .await
}
