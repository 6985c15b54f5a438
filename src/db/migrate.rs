//! The tables, brought forward to what this program needs; never backward.
//!
//! Each migration is one transaction, and one line in the table `migration`. Several processes may
//! start at once: the first migrates, the others wait and find it done.

use std::{
    iter,
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, TransactionBehavior};

use super::DbError;
use super::sqlite::fault;

/// In their order, from version 1, in SQLite's words. What was released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql")];

const TABLE: &str =
    "CREATE TABLE migration (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL)";

/// Brings a SQLite database forward.
pub(super) fn sqlite(connection: &mut Connection, migrations: &[&str]) -> Result<(), DbError> {
    // Nothing is locked and nothing written when nothing is to be done.
    while (sqlite_version(connection)?.unwrap_or(0) as usize) < migrations.len() {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
        let version = sqlite_version(&transaction)?;
        if version.is_none() {
            transaction.execute_batch(TABLE).map_err(fault)?;
        }
        if let Some((version, sql)) = next(version, migrations)? {
            transaction.execute_batch(sql).map_err(fault)?;
            transaction
                .execute("INSERT INTO migration VALUES (?1, ?2)", [version, now()])
                .map_err(fault)?;
        }
        transaction.commit().map_err(fault)?;
    }
    next(sqlite_version(connection)?, migrations).map(drop)
}

fn sqlite_version(connection: &Connection) -> Result<Option<i64>, DbError> {
    let exists: bool = connection
        .query_one("SELECT count(*) FROM sqlite_schema WHERE name = 'migration'", [], |row| {
            row.get(0)
        })
        .map_err(fault)?;
    if !exists {
        return Ok(None);
    }
    connection
        .query_one("SELECT coalesce(max(version), 0) FROM migration", [], |row| row.get(0))
        .map(Some)
        .map_err(fault)
}

/// The migration that follows on a version, if any.
fn next<'m>(found: Option<i64>, migrations: &[&'m str]) -> Result<Option<(i64, &'m str)>, DbError> {
    let found = found.unwrap_or(0);
    let known = iter::zip(1.., migrations.iter().copied());
    let newest = known.clone().last().map_or(0, |(version, _)| version);
    if found > newest {
        return Err(DbError::Settings(format!(
            "the database has version {found}, this program knows {newest} at most; run the newer \
             program, or restore the backup made before it"
        )));
    }
    Ok(known.into_iter().find(|(version, _)| *version > found))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
