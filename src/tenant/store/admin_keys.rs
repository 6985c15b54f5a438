//! Credentials of operators.

use serde_json::json;

use super::{
    Entry, Outcome, Page, Part, StoreError, change, found, keys::hash, name, page, permit, role,
};
use crate::{
    db::{Db, DbError, Row},
    tenant::{
        key::{KeyHash, KeyText, Kind, Pepper, Presented},
        role::{Act, Actor, Role},
    },
};

const WHAT: &str = "admin key";

/// An operator's credential, without its secret.
#[derive(Clone, Debug)]
pub struct AdminKey {
    /// `mga_` and 16 digits.
    pub id: String,
    /// Whose it is; none stands above all organisations.
    pub org: Option<String>,
    /// For people.
    pub name: String,
    /// What it may do there.
    pub role: Role,
    /// Who made it.
    pub created_by: String,
    /// Unix ms.
    pub created_at: i64,
    /// Unix ms.
    pub expires_at: Option<i64>,
    /// Unix ms; a revoked key stays revoked.
    pub revoked_at: Option<i64>,
}

const COLUMNS: &str = "SELECT id, org, name, role, created_by, created_at, expires_at, revoked_at";

fn read(row: &Row) -> Result<AdminKey, DbError> {
    Ok(AdminKey {
        id: row.text(0)?,
        org: Some(row.text(1)?).filter(|org| !org.is_empty()),
        name: row.text(2)?,
        role: role(&row.text(3)?)?,
        created_by: row.text(4)?,
        created_at: row.int(5)?,
        expires_at: row.opt_int(6)?,
        revoked_at: row.opt_int(7)?,
    })
}

/// What [`permit`] is asked about: those above all organisations concern those alone.
fn scope(key: &AdminKey) -> &str {
    key.org.as_deref().unwrap_or_default()
}

/// A credential to be made.
#[derive(Clone, Debug)]
pub struct NewAdminKey {
    /// Whose it is; none stands above all organisations.
    pub org: Option<String>,
    /// For people.
    pub name: String,
    /// What it may do there.
    pub role: Role,
    /// When it ends, Unix ms.
    pub expires_at: Option<i64>,
}

/// Makes a credential. Nobody makes one that may more than they may themselves.
pub async fn create(
    db: &Db,
    pepper: &Pepper,
    actor: &Actor,
    new: NewAdminKey,
    now: i64,
) -> Outcome<(AdminKey, KeyText)> {
    let shown = new.org.as_deref().unwrap_or("above all");
    let org = new.org.as_deref().unwrap_or_default();
    permit(actor, Act::ManageOperators, org, "organisation", shown)?;
    if new.role > actor.role {
        let message = format!("the role {} cannot give {}", actor.role.name(), new.role.name());
        return Err(StoreError::Denied(message));
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(StoreError::invalid("expires_at", "is in the past"));
    }
    let minted = pepper.mint(Kind::Admin)?;
    let key = AdminKey {
        id: minted.id,
        name: name("name", &new.name)?,
        org: new.org,
        role: new.role,
        created_by: actor.id.clone(),
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    let detail = json!({"name": key.name, "role": key.role.name()});
    let entry = Entry::new(actor, scope(&key), "admin_key.create", &key.id, detail);
    let kept = minted.hash;
    let row = key.clone();
    change(db, entry, now, move |tx, rev| {
        let key = row.clone();
        Box::pin(async move {
            if let Some(org) = &key.org {
                let live = "SELECT id FROM org WHERE id = $1 AND deleted_at IS NULL";
                if !found(tx, live, &[org.as_str().into()]).await? {
                    return Ok(Err(StoreError::not_found("organisation", org)));
                }
            }
            let row = [
                key.id.as_str().into(),
                scope(&key).into(),
                key.name.as_str().into(),
                key.role.name().into(),
                kept.bytes().to_vec().into(),
                key.created_by.as_str().into(),
                now.into(),
                key.expires_at.into(),
                rev.into(),
            ];
            let sql = "INSERT INTO admin_key (id, org, name, role, hash, created_by, created_at, \
                       expires_at, rev) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
            tx.execute(sql, &row).await?;
            Ok(Ok(()))
        })
    })
    .await?;
    Ok((key, minted.text))
}

/// Who holds this key, if it is good now. The time does not tell an unknown id from a wrong
/// secret.
pub async fn authenticate(
    db: &Db,
    pepper: &Pepper,
    key: Presented<'_>,
    now: i64,
) -> Result<Option<Actor>, DbError> {
    let rows = db
        .query(
            "SELECT id, org, name, role, created_by, created_at, expires_at, revoked_at, hash \
             FROM admin_key WHERE id = $1",
            vec![key.id.into()],
        )
        .await?;
    let (row, kept) = match rows.first() {
        Some(row) => (Some(read(row)?), hash(&row.bytes(8)?)?),
        None => (None, KeyHash::NONE),
    };
    let is_same = pepper.knows(key, &kept);
    let good =
        |row: &AdminKey| row.revoked_at.is_none() && row.expires_at.is_none_or(|at| now < at);
    Ok(row.filter(|row| is_same & good(row)).map(|row| Actor {
        id: row.id,
        org: row.org,
        role: row.role,
    }))
}

/// One credential, also a revoked one.
pub async fn get(db: &Db, actor: &Actor, id: &str) -> Outcome<AdminKey> {
    let sql = format!("{COLUMNS} FROM admin_key WHERE id = $1");
    let rows = db.query(sql, vec![id.into()]).await?;
    let row = rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?;
    let key = read(row)?;
    permit(actor, Act::Read, scope(&key), WHAT, id)?;
    Ok(key)
}

/// The credentials an operator sees, newest first, also revoked ones.
pub async fn list(db: &Db, actor: &Actor, org: Option<&str>, at: &Page) -> Outcome<Part<AdminKey>> {
    let mut wheres = Vec::new();
    let mut params = Vec::new();
    if let Some(org) = org.or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        wheres.push("org = $1".to_owned());
        params.push(org.into());
    }
    page(db, COLUMNS, "admin_key", &wheres, params, at).await?.read(read)
}

/// Revokes a credential; once is enough, twice does no harm.
pub async fn revoke(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<AdminKey> {
    let mut key = get(db, actor, id).await?;
    permit(actor, Act::ManageOperators, scope(&key), WHAT, id)?;
    if key.revoked_at.is_some() {
        return Ok(key);
    }
    key.revoked_at = Some(now);
    let entry = Entry::new(actor, scope(&key), "admin_key.revoke", id, json!({}));
    change(db, entry, now, move |tx, rev| {
        let key = key.clone();
        Box::pin(async move {
            let row = [key.id.as_str().into(), now.into(), rev.into()];
            let sql = "UPDATE admin_key SET revoked_at = $2, rev = $3 \
                       WHERE id = $1 AND revoked_at IS NULL";
            tx.execute(sql, &row).await?;
            Ok(Ok(key))
        })
    })
    .await
}
