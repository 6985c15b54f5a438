//! A project's own keys at providers. Sealed for their row; never shown again.

use serde_json::json;

use super::{
    Entry, Outcome, Page, Part, StoreError, change, found, new_id, page, permit, projects,
};
use crate::{
    config::Secret,
    db::{Db, DbError, Row, Value},
    seal::Sealer,
    tenant::role::{Act, Actor},
};

const WHAT: &str = "provider key";
/// Longest credential of a vendor, in bytes; service accounts are JSON of some 2,400.
const LONGEST: usize = 16 * 1024;

/// A project's own key, without the key.
#[derive(Clone, Debug)]
pub struct ProviderKey {
    /// `pk_...`
    pub id: String,
    /// Whose it is.
    pub org: String,
    /// Where it is used.
    pub project: String,
    /// The provider's id.
    pub provider: String,
    /// Unix ms.
    pub created_at: i64,
}

const COLUMNS: &str = "SELECT id, org, project, provider, created_at";

fn read(row: &Row) -> Result<ProviderKey, DbError> {
    Ok(ProviderKey {
        id: row.text(0)?,
        org: row.text(1)?,
        project: row.text(2)?,
        provider: row.text(3)?,
        created_at: row.int(4)?,
    })
}

/// What a key is sealed for.
pub(in crate::tenant) fn context(id: &str) -> String {
    format!("provider_key:{id}")
}

/// A changed row: the sealed key, or none once it is deleted.
pub(in crate::tenant) struct Changed {
    pub(in crate::tenant) key: ProviderKey,
    pub(in crate::tenant) sealed: Option<Vec<u8>>,
}

/// Every row changed after a revision.
pub(in crate::tenant) async fn since(db: &Db, rev: i64) -> Result<Vec<Changed>, DbError> {
    let sql = format!("{COLUMNS}, sealed, deleted_at FROM provider_key WHERE rev > $1");
    let rows = db.query(sql, vec![rev.into()]).await?;
    rows.iter()
        .map(|row| {
            let is_live = row.opt_int(6)?.is_none();
            let sealed = if is_live { Some(row.bytes(5)?) } else { None };
            Ok(Changed { key: read(row)?, sealed })
        })
        .collect()
}

/// Gives a project its own key at a provider, in place of one it has there. `provider` must be one
/// that exists: the caller knows the catalogue.
pub async fn create(
    db: &Db,
    sealer: &Sealer,
    actor: &Actor,
    project: &str,
    provider: &str,
    secret: &Secret,
    now: i64,
) -> Outcome<ProviderKey> {
    let project = projects::get(db, actor, project).await?;
    permit(actor, Act::Manage, &project.org, "project", &project.id)?;
    let text = secret.expose();
    if text.is_empty() || text.len() > LONGEST || text.trim() != text {
        let message = format!("must be 1 to {LONGEST} bytes without space around it");
        return Err(StoreError::invalid("key", message));
    }
    let key = ProviderKey {
        id: new_id("pk"),
        org: project.org,
        project: project.id,
        provider: provider.to_owned(),
        created_at: now,
    };
    let sealed = sealer.seal(&context(&key.id), text.as_bytes())?;
    let detail = json!({"project": key.project, "provider": key.provider});
    let entry = Entry::new(actor, &key.org, "provider_key.create", &key.id, detail);
    change(db, entry, now, move |tx, rev| {
        let (key, sealed) = (key.clone(), sealed.clone());
        Box::pin(async move {
            let live = "SELECT id FROM project WHERE id = $1 AND deleted_at IS NULL";
            if !found(tx, live, &[key.project.as_str().into()]).await? {
                return Ok(Err(StoreError::not_found("project", key.project)));
            }
            // An old key is not kept, not even sealed.
            let old: [Value; 5] = [
                key.project.as_str().into(),
                key.provider.as_str().into(),
                now.into(),
                rev.into(),
                Value::Bytes(Vec::new()),
            ];
            tx.execute(
                "UPDATE provider_key SET deleted_at = $3, rev = $4, sealed = $5 \
                 WHERE project = $1 AND provider = $2 AND deleted_at IS NULL",
                &old,
            )
            .await?;
            let row = [
                key.id.as_str().into(),
                key.org.as_str().into(),
                key.project.as_str().into(),
                key.provider.as_str().into(),
                sealed.into(),
                now.into(),
                rev.into(),
            ];
            tx.execute(
                "INSERT INTO provider_key (id, org, project, provider, sealed, created_at, rev) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
                &row,
            )
            .await?;
            Ok(Ok(key))
        })
    })
    .await
}

/// One key.
pub async fn get(db: &Db, actor: &Actor, id: &str) -> Outcome<ProviderKey> {
    let sql = format!("{COLUMNS} FROM provider_key WHERE id = $1 AND deleted_at IS NULL");
    let rows = db.query(sql, vec![id.into()]).await?;
    let row = rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?;
    let key = read(row)?;
    permit(actor, Act::Read, &key.org, WHAT, id)?;
    Ok(key)
}

/// The keys an operator sees, newest first.
pub async fn list(
    db: &Db,
    actor: &Actor,
    org: Option<&str>,
    project: Option<&str>,
    at: &Page,
) -> Outcome<Part<ProviderKey>> {
    let mut wheres = vec!["deleted_at IS NULL".to_owned()];
    let mut params: Vec<Value> = Vec::new();
    if let Some(org) = org.or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        params.push(org.into());
        wheres.push(format!("org = ${}", params.len()));
    }
    if let Some(project) = project {
        let project = projects::get(db, actor, project).await?;
        params.push(project.id.into());
        wheres.push(format!("project = ${}", params.len()));
    }
    page(db, COLUMNS, "provider_key", &wheres, params, at).await?.read(read)
}

/// Deletes a key; its sealed text goes too.
pub async fn delete(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<()> {
    let key = get(db, actor, id).await?;
    permit(actor, Act::Manage, &key.org, WHAT, id)?;
    let entry = Entry::new(actor, &key.org, "provider_key.delete", id, json!({}));
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let id = id.clone();
        Box::pin(async move {
            let row = [id.as_str().into(), now.into(), rev.into(), Value::Bytes(Vec::new())];
            let sql = "UPDATE provider_key SET deleted_at = $2, rev = $3, sealed = $4 \
                       WHERE id = $1 AND deleted_at IS NULL";
            match tx.execute(sql, &row).await? {
                0 => Ok(Err(StoreError::not_found(WHAT, id))),
                _ => Ok(Ok(())),
            }
        })
    })
    .await
}
