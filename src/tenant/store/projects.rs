//! Projects: what belongs together within an organisation.

use serde_json::json;

use super::{Entry, Outcome, Page, Part, StoreError, change, found, name, new_id, page, permit};
use crate::{
    db::{Db, DbError, Row, Value},
    tenant::{
        DEFAULT,
        role::{Act, Actor},
    },
};

const WHAT: &str = "project";

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    /// `proj_...`, or `default`.
    pub id: String,
    /// Whose it is.
    pub org: String,
    /// For people; an organisation has it once.
    pub name: String,
    /// Unix ms.
    pub created_at: i64,
}

const COLUMNS: &str = "SELECT id, org, name, created_at";

fn read(row: &Row) -> Result<Project, DbError> {
    Ok(Project { id: row.text(0)?, org: row.text(1)?, name: row.text(2)?, created_at: row.int(3)? })
}

/// Makes a project.
pub async fn create(db: &Db, actor: &Actor, org: &str, called: &str, now: i64) -> Outcome<Project> {
    permit(actor, Act::Manage, org, "organisation", org)?;
    let project = Project {
        id: new_id("proj"),
        org: org.to_owned(),
        name: name("name", called)?,
        created_at: now,
    };
    let detail = json!({"name": project.name});
    let entry = Entry::new(actor, org, "project.create", &project.id, detail);
    change(db, entry, now, move |tx, rev| {
        let project = project.clone();
        Box::pin(async move {
            let org = "SELECT id FROM org WHERE id = $1 AND deleted_at IS NULL";
            if !found(tx, org, &[project.org.as_str().into()]).await? {
                return Ok(Err(StoreError::not_found("organisation", project.org)));
            }
            let taken = [project.org.as_str().into(), project.name.as_str().into()];
            if found(tx, "SELECT id FROM project WHERE org = $1 AND name = $2", &taken).await? {
                let message = format!("{:?} is taken; take another name", project.name);
                return Ok(Err(StoreError::invalid("name", message)));
            }
            let row = [
                project.id.as_str().into(),
                project.org.as_str().into(),
                project.name.as_str().into(),
                now.into(),
                rev.into(),
            ];
            let sql = "INSERT INTO project (id, org, name, created_at, rev) \
                       VALUES ($1, $2, $3, $4, $5)";
            tx.execute(sql, &row).await?;
            Ok(Ok(project))
        })
    })
    .await
}

/// One project.
pub async fn get(db: &Db, actor: &Actor, id: &str) -> Outcome<Project> {
    let sql = format!("{COLUMNS} FROM project WHERE id = $1 AND deleted_at IS NULL");
    let rows = db.query(sql, vec![id.into()]).await?;
    let row = rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?;
    let project = read(row)?;
    permit(actor, Act::Read, &project.org, WHAT, id)?;
    Ok(project)
}

/// A project by its id, or by its name in the operator's organisation.
pub async fn named(db: &Db, actor: &Actor, text: &str) -> Outcome<Project> {
    match get(db, actor, text).await {
        Err(StoreError::NotFound { .. }) => {}
        found => return found,
    }
    let org = actor.org.as_deref().unwrap_or(DEFAULT);
    permit(actor, Act::Read, org, WHAT, text)?;
    let sql = format!("{COLUMNS} FROM project WHERE org = $1 AND name = $2 AND deleted_at IS NULL");
    let rows = db.query(sql, vec![org.into(), text.into()]).await?;
    let row = rows.first().ok_or_else(|| StoreError::not_found(WHAT, text))?;
    Ok(read(row)?)
}

/// The projects an operator sees, newest first; those of one organisation where it is named.
pub async fn list(db: &Db, actor: &Actor, org: Option<&str>, at: &Page) -> Outcome<Part<Project>> {
    let mut wheres = vec!["deleted_at IS NULL".to_owned()];
    let mut params = Vec::new();
    if let Some(org) = org.or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        wheres.push("org = $1".to_owned());
        params.push(org.into());
    }
    page(db, COLUMNS, "project", &wheres, params, at).await?.read(read)
}

/// Gives a project another name.
pub async fn rename(db: &Db, actor: &Actor, id: &str, called: &str, now: i64) -> Outcome<Project> {
    let mut project = get(db, actor, id).await?;
    permit(actor, Act::Manage, &project.org, WHAT, id)?;
    project.name = name("name", called)?;
    let detail = json!({"name": project.name});
    let entry = Entry::new(actor, &project.org, "project.update", id, detail);
    change(db, entry, now, move |tx, rev| {
        let project = project.clone();
        Box::pin(async move {
            let row = [
                project.id.as_str().into(),
                project.org.as_str().into(),
                project.name.as_str().into(),
            ];
            let other = "SELECT id FROM project WHERE id <> $1 AND org = $2 AND name = $3";
            if found(tx, other, &row).await? {
                let message = format!("{:?} is taken; take another name", project.name);
                return Ok(Err(StoreError::invalid("name", message)));
            }
            let row = [project.id.as_str().into(), project.name.as_str().into(), rev.into()];
            let sql = "UPDATE project SET name = $2, rev = $3 \
                       WHERE id = $1 AND deleted_at IS NULL";
            match tx.execute(sql, &row).await? {
                0 => Ok(Err(StoreError::not_found(WHAT, project.id))),
                _ => Ok(Ok(project)),
            }
        })
    })
    .await
}

/// Deletes a project and revokes its keys. Its books stay, and so does its name.
pub async fn delete(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<()> {
    let project = get(db, actor, id).await?;
    permit(actor, Act::Manage, &project.org, WHAT, id)?;
    if id == DEFAULT {
        let message = "the default project holds the keys of the configuration and stays";
        return Err(StoreError::invalid("id", message));
    }
    let entry = Entry::new(actor, &project.org, "project.delete", id, json!({}));
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let id = id.clone();
        Box::pin(async move {
            let row = [id.as_str().into(), now.into(), rev.into()];
            let sql = "UPDATE project SET deleted_at = $2, rev = $3 \
                       WHERE id = $1 AND deleted_at IS NULL";
            if tx.execute(sql, &row).await? == 0 {
                return Ok(Err(StoreError::not_found(WHAT, id)));
            }
            for sql in ["UPDATE api_key SET revoked_at = $2, rev = $3 \
                 WHERE project = $1 AND revoked_at IS NULL"]
            {
                tx.execute(sql, &row).await?;
            }
            let [id, now, rev] = row;
            let row = [id, now, rev, Value::Bytes(Vec::new())];
            let sql = "UPDATE provider_key SET deleted_at = $2, rev = $3, sealed = $4 \
                       WHERE project = $1 AND deleted_at IS NULL";
            tx.execute(sql, &row).await?;
            Ok(Ok(()))
        })
    })
    .await
}
