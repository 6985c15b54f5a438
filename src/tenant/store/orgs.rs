//! Organisations: who pays.

use serde_json::json;

use super::{Change, Entry, Outcome, Page, Part, StoreError, change, name, new_id, page, permit};
use crate::{
    db::{Db, DbError, Row, Value},
    tenant::{
        DEFAULT, budgets,
        role::{Act, Actor},
    },
};

const WHAT: &str = "organisation";

/// An organisation.
#[derive(Clone, Debug)]
pub struct Org {
    /// `org_...`, or `default`.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whether its calls are paid from credits bought beforehand.
    pub prepaid: bool,
    /// Credits left, in nano-dollars, below which a webhook is sent.
    pub low_balance: Option<i64>,
    /// Unix ms.
    pub created_at: i64,
}

const COLUMNS: &str = "SELECT id, name, prepaid, low_balance, created_at";

fn read(row: &Row) -> Result<Org, DbError> {
    Ok(Org {
        id: row.text(0)?,
        name: row.text(1)?,
        prepaid: row.int(2)? != 0,
        low_balance: row.opt_int(3)?,
        created_at: row.int(4)?,
    })
}

/// Makes an organisation.
pub async fn create(
    db: &Db,
    actor: &Actor,
    called: &str,
    prepaid: bool,
    low_balance: Option<i64>,
    now: i64,
) -> Outcome<Org> {
    let id = new_id("org");
    permit(actor, Act::ManageOrgs, &id, WHAT, &id).map_err(|error| match error {
        // It is nobody's yet, so there is no secret to keep.
        StoreError::NotFound { .. } => StoreError::Denied(
            "organisations are made by an owner above all of them, such as the holder of \
             auth.admin_key"
                .to_owned(),
        ),
        other => other,
    })?;
    let org = Org { id, name: name("name", called)?, prepaid, low_balance, created_at: now };
    let detail = json!({"name": org.name, "prepaid": prepaid});
    let entry = Entry::new(actor, &org.id, "org.create", &org.id, detail);
    change(db, entry, now, move |tx, rev| {
        let org = org.clone();
        Box::pin(async move {
            let row = [
                org.id.as_str().into(),
                org.name.as_str().into(),
                org.prepaid.into(),
                org.low_balance.into(),
                now.into(),
                rev.into(),
            ];
            let sql = "INSERT INTO org (id, name, prepaid, low_balance, created_at, rev) \
                       VALUES ($1, $2, $3, $4, $5, $6)";
            tx.execute(sql, &row).await?;
            Ok(Ok(org))
        })
    })
    .await
}

/// One organisation.
pub async fn get(db: &Db, actor: &Actor, id: &str) -> Outcome<Org> {
    permit(actor, Act::Read, id, WHAT, id)?;
    let sql = format!("{COLUMNS} FROM org WHERE id = $1 AND deleted_at IS NULL");
    let rows = db.query(sql, vec![id.into()]).await?;
    let row = rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?;
    Ok(read(row)?)
}

/// The organisations an operator sees, newest first.
pub async fn list(db: &Db, actor: &Actor, at: &Page) -> Outcome<Part<Org>> {
    let mut wheres = vec!["deleted_at IS NULL".to_owned()];
    let mut params = Vec::new();
    if let Some(own) = &actor.org {
        wheres.push("id = $1".to_owned());
        params.push(own.as_str().into());
    }
    page(db, COLUMNS, "org", &wheres, params, at).await?.read(read)
}

/// What is to be changed; none stays as it is.
#[derive(Clone, Debug, Default)]
pub struct OrgChange {
    /// A new name.
    pub name: Option<String>,
    /// Whether calls are paid beforehand.
    pub prepaid: Option<bool>,
    /// When to warn.
    pub low_balance: Change<i64>,
}

/// Changes an organisation.
pub async fn update(db: &Db, actor: &Actor, id: &str, mut to: OrgChange, now: i64) -> Outcome<Org> {
    permit(actor, Act::ManageOrgs, id, WHAT, id)?;
    to.name = to.name.map(|text| name("name", &text)).transpose()?;
    let detail = json!({
        "name": to.name,
        "prepaid": to.prepaid,
        "low_balance": to.low_balance.given().map(|n| budgets::show_amount(budgets::USD, n)),
    });
    let entry = Entry::new(actor, id, "org.update", id, detail);
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let (id, to) = (id.clone(), to.clone());
        Box::pin(async move {
            let sql = format!("{COLUMNS} FROM org WHERE id = $1 AND deleted_at IS NULL");
            let rows = tx.query(&sql, &[id.as_str().into()]).await?;
            let Some(row) = rows.first() else {
                return Ok(Err(StoreError::not_found(WHAT, id)));
            };
            let mut org = read(row)?;
            org.name = to.name.unwrap_or(org.name);
            org.prepaid = to.prepaid.unwrap_or(org.prepaid);
            to.low_balance.apply(&mut org.low_balance);
            let row = [
                org.id.as_str().into(),
                org.name.as_str().into(),
                org.prepaid.into(),
                org.low_balance.into(),
                rev.into(),
            ];
            let sql = "UPDATE org SET name = $2, prepaid = $3, low_balance = $4, rev = $5 \
                       WHERE id = $1";
            tx.execute(sql, &row).await?;
            Ok(Ok(org))
        })
    })
    .await
}

/// Deletes an organisation with its projects, keys, provider keys and operators. Its books stay.
pub async fn delete(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<()> {
    permit(actor, Act::ManageOrgs, id, WHAT, id)?;
    if id == DEFAULT {
        let message = "the default organisation holds the keys of the configuration and stays";
        return Err(StoreError::invalid("id", message));
    }
    let entry = Entry::new(actor, id, "org.delete", id, json!({}));
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let id = id.clone();
        Box::pin(async move {
            let row = [id.as_str().into(), now.into(), rev.into()];
            let sql = "UPDATE org SET deleted_at = $2, rev = $3 \
                       WHERE id = $1 AND deleted_at IS NULL";
            if tx.execute(sql, &row).await? == 0 {
                return Ok(Err(StoreError::not_found(WHAT, id)));
            }
            for sql in [
                "UPDATE project SET deleted_at = $2, rev = $3 \
                 WHERE org = $1 AND deleted_at IS NULL",
                "UPDATE api_key SET revoked_at = $2, rev = $3 \
                 WHERE org = $1 AND revoked_at IS NULL",
                "UPDATE admin_key SET revoked_at = $2, rev = $3 \
                 WHERE org = $1 AND revoked_at IS NULL",
            ] {
                tx.execute(sql, &row).await?;
            }
            let [id, now, rev] = row;
            let row = [id, now, rev, Value::Bytes(Vec::new())];
            let sql = "UPDATE provider_key SET deleted_at = $2, rev = $3, sealed = $4 \
                       WHERE org = $1 AND deleted_at IS NULL";
            tx.execute(sql, &row).await?;
            Ok(Ok(()))
        })
    })
    .await
}
