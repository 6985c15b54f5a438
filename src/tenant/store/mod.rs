//! Tenants in the database: every change bumps the revision that running gateways watch, and
//! leaves a line in the audit log, in one transaction.

pub mod admin_keys;
pub mod audit;
pub mod keys;
pub mod orgs;
pub mod projects;
pub mod provider_keys;

use futures_util::future::BoxFuture;
use serde_json::Value as Json;

use super::role::{Act, Actor, Denied, Role};
use crate::{
    db::{Db, DbError, Durability, Tx, Value},
    seal::SealError,
};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("the database does not do it")]
    Db(#[from] DbError),
    /// No such thing, or it belongs to another organisation: nobody can tell which.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// What it would be.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A field cannot be used.
    #[error("{field}: {message}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Why, and what would do.
        message: String,
    },
    /// The role does not allow it.
    #[error("{0}")]
    Denied(String),
    /// The system gives no random numbers.
    #[error("no random numbers are to be had")]
    Random(#[from] getrandom::Error),
    /// Sealing or opening a secret failed.
    #[error("a secret cannot be sealed")]
    Sealed(#[from] SealError),
}

impl StoreError {
    /// A field that cannot be used.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// No such thing here.
    pub fn not_found(what: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound { what, id: id.into() }
    }
}

/// What came of it.
pub type Outcome<T> = Result<T, StoreError>;

/// A line of the audit log, about to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    actor: String,
    org: String,
    action: &'static str,
    target: String,
    detail: Json,
}

impl Entry {
    /// `detail` must hold no secret.
    pub fn new(
        actor: &Actor,
        org: impl Into<String>,
        action: &'static str,
        target: impl Into<String>,
        detail: Json,
    ) -> Self {
        let (org, target) = (org.into(), target.into());
        Self { actor: actor.id.clone(), org, action, target, detail }
    }
}

/// Changes tenants: bumps the revision, does the work with the new one, and writes the audit line
/// if it was done. `work` may be run again where the database asks for it.
pub async fn change<T, F>(db: &Db, entry: Entry, now: i64, work: F) -> Outcome<T>
where
    T: Send + 'static,
    F: for<'t> Fn(&'t mut Tx<'_>, i64) -> BoxFuture<'t, Result<Outcome<T>, DbError>>
        + Clone
        + Send
        + Sync
        + 'static,
{
    db.transaction(Durability::Full, move |tx| {
        let (entry, work) = (entry.clone(), work.clone());
        Box::pin(async move {
            let rev = bump(tx).await?;
            let done = work(tx, rev).await?;
            if done.is_ok() {
                audit::write(tx, &entry, now).await?;
            }
            Ok(done)
        })
    })
    .await?
}

/// The next revision. Its row is locked until the transaction ends, so revisions become visible
/// in their order.
async fn bump(tx: &mut Tx<'_>) -> Result<i64, DbError> {
    let sql = "UPDATE revision SET value = value + 1 WHERE name = 'tenants' RETURNING value";
    let rows = tx.query(sql, &[]).await?;
    let row = rows.first().ok_or_else(|| DbError::Corrupt("revision 'tenants' is gone".into()))?;
    row.int(0)
}

/// Whether a query gives any row.
pub(super) async fn found(
    tx: &mut Tx<'_>,
    sql: &'static str,
    params: &[Value],
) -> Result<bool, DbError> {
    Ok(!tx.query(sql, params).await?.is_empty())
}

/// Refuses what the operator may not do. Of what is elsewhere it only learns that it is not here.
pub fn permit(actor: &Actor, act: Act, org: &str, what: &'static str, id: &str) -> Outcome<()> {
    actor.may(act, org).map_err(|denied| match denied {
        Denied::Elsewhere => StoreError::not_found(what, id),
        Denied::Needs(role) => StoreError::Denied(format!(
            "the role {} does not allow this; it takes {}",
            actor.role.name(),
            role.name()
        )),
        Denied::NeedsAll => StoreError::Denied(
            "this takes an owner above all organisations, such as the holder of auth.admin_key"
                .to_owned(),
        ),
    })
}

/// The organisation an operator means: its own, or the one it names.
pub fn org_of(actor: &Actor, named: Option<&str>) -> Outcome<String> {
    let org = named.or(actor.org.as_deref()).unwrap_or(super::DEFAULT);
    permit(actor, Act::Read, org, "organisation", org)?;
    Ok(org.to_owned())
}

/// A name for people: 1 to 100 characters, none of them a control character.
pub fn name(field: &'static str, text: &str) -> Outcome<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 100 || text.chars().any(char::is_control) {
        let message = "must be 1 to 100 characters without control characters";
        return Err(StoreError::invalid(field, message));
    }
    Ok(text.to_owned())
}

/// An id that sorts by the time it was made.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

/// What becomes of something that may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It goes.
    Clear,
    /// It becomes this.
    To(T),
}

impl<T> Change<T> {
    /// Changes it.
    pub fn apply(self, place: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *place = None,
            Self::To(new) => *place = Some(new),
        }
    }

    /// The new value, if there is one.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Keep | Self::Clear => None,
            Self::To(new) => Some(new),
        }
    }

    /// Whether nothing is said about it.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// Reads the new value.
    pub fn try_map<U, E>(self, read: impl FnOnce(T) -> Result<U, E>) -> Result<Change<U>, E> {
        Ok(match self {
            Self::Keep => Change::Keep,
            Self::Clear => Change::Clear,
            Self::To(new) => Change::To(read(new)?),
        })
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Debug)]
pub struct Page {
    /// At most so many.
    pub limit: u32,
    /// Only what comes after this id.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Part<T> {
    /// At most as many as wanted.
    pub items: Vec<T>,
    /// Whether there is more.
    pub has_more: bool,
}

/// The rows of a list, newest first. `select` goes up to its FROM, `table` has `id` and
/// `created_at`, `wheres` are conditions on `$1`, `$2`, ... with `params`.
pub(crate) async fn page(
    db: &Db,
    select: &str,
    table: &'static str,
    wheres: &[String],
    mut params: Vec<Value>,
    page: &Page,
) -> Outcome<Part<crate::db::Row>> {
    let all: Vec<&str> = wheres.iter().map(String::as_str).collect();
    let mut condition = if all.is_empty() { "1 = 1".to_owned() } else { all.join(" AND ") };
    if let Some(after) = &page.after {
        // The last one seen may be gone by now for the list, but never for the table.
        let mut with_id = params.clone();
        with_id.push(after.as_str().into());
        let at = with_id.len();
        let sql = format!("SELECT created_at FROM {table} WHERE {condition} AND id = ${at}");
        let rows = db.query(sql, with_id).await?;
        let row = rows.first().ok_or_else(|| {
            StoreError::invalid("after", format!("{after:?} is not in this list"))
        })?;
        let created = row.int(0)?;
        params.push(created.into());
        let at = params.len();
        params.push(after.as_str().into());
        let id = params.len();
        condition =
            format!("{condition} AND (created_at < ${at} OR (created_at = ${at} AND id < ${id}))");
    }
    params.push((i64::from(page.limit) + 1).into());
    let limit = params.len();
    let sql = format!(
        "{select} FROM {table} WHERE {condition} ORDER BY created_at DESC, id DESC LIMIT ${limit}"
    );
    let mut items = db.query(sql, params).await?;
    let has_more = items.len() > page.limit as usize;
    items.truncate(page.limit as usize);
    Ok(Part { items, has_more })
}

impl<T> Part<T> {
    /// Reads every row.
    pub(crate) fn read<U>(self, read: impl Fn(&T) -> Result<U, DbError>) -> Outcome<Part<U>> {
        let items = self.items.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Part { items, has_more: self.has_more })
    }
}

/// A role out of the database.
fn role(text: &str) -> Result<Role, DbError> {
    Role::named(text).ok_or_else(|| DbError::Corrupt(format!("{text:?} is no role")))
}
