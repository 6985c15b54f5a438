//! The audit log: who did what to whom. Append-only, without secrets.

use serde_json::Value as Json;

use super::{Entry, Outcome, Page, Part, permit};
use crate::{
    db::{Db, DbError, Row, Tx, Value},
    tenant::role::{Act, Actor},
};

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// `aud_...`, sorts by time.
    pub id: String,
    /// Unix ms.
    pub at: i64,
    /// An admin key's id, `config` or `cli`.
    pub actor: String,
    /// Whose it concerns.
    pub org: String,
    /// Such as `key.create`.
    pub action: String,
    /// The id of what was changed.
    pub target: String,
    /// What exactly.
    pub detail: Json,
}

/// Writes a line, in the transaction of what it tells.
pub async fn write(tx: &mut Tx<'_>, entry: &Entry, now: i64) -> Result<(), DbError> {
    write_as(tx, super::new_id("aud"), entry, now).await
}

/// Writes a line with an id of its own, once: for what is done elsewhere and may be repeated.
pub async fn write_as(tx: &mut Tx<'_>, id: String, entry: &Entry, now: i64) -> Result<(), DbError> {
    let row = [
        id.into(),
        now.into(),
        entry.actor.as_str().into(),
        entry.org.as_str().into(),
        entry.action.into(),
        entry.target.as_str().into(),
        entry.detail.to_string().into(),
    ];
    tx.execute(
        "INSERT INTO audit (id, at, actor, org, action, target, detail) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING",
        &row,
    )
    .await?;
    Ok(())
}

/// The log as far as the operator may see it, newest first.
pub async fn list(db: &Db, actor: &Actor, org: Option<&str>, page: &Page) -> Outcome<Part<Line>> {
    let mut wheres = Vec::new();
    let mut params: Vec<Value> = Vec::new();
    if let Some(org) = org.or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        params.push(org.into());
        wheres.push("org = $1".to_owned());
    }
    // Its ids sort by time, so the last one seen is cursor enough.
    if let Some(after) = &page.after {
        params.push(after.as_str().into());
        wheres.push(format!("id < ${}", params.len()));
    }
    params.push((i64::from(page.limit) + 1).into());
    let condition = if wheres.is_empty() { "1 = 1".to_owned() } else { wheres.join(" AND ") };
    let sql = format!(
        "SELECT id, at, actor, org, action, target, detail FROM audit WHERE {condition} \
         ORDER BY id DESC LIMIT ${}",
        params.len()
    );
    let mut rows = db.query(sql, params).await?;
    let has_more = rows.len() > page.limit as usize;
    rows.truncate(page.limit as usize);
    Part { items: rows, has_more }.read(line)
}

fn line(row: &Row) -> Result<Line, DbError> {
    let detail = row.text(6)?;
    Ok(Line {
        id: row.text(0)?,
        at: row.int(1)?,
        actor: row.text(2)?,
        org: row.text(3)?,
        action: row.text(4)?,
        target: row.text(5)?,
        detail: serde_json::from_str(&detail)
            .map_err(|e| DbError::Corrupt(format!("an audit line is not JSON: {e}")))?,
    })
}
