//! The tables, brought forward to what this program needs; never backward.
//!
//! Each migration is one transaction, and one line in the table `migration`. Several processes may
//! start at once: the first migrates, the others wait and find it done.

use std::{
    iter,
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, TransactionBehavior};
use tokio_postgres::Client;

use super::{DbError, postgres, sqlite::fault};

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

/// Brings a PostgreSQL database forward. After an error the connection must be closed.
pub(super) async fn postgres(client: &Client, migrations: &[&str]) -> Result<(), DbError> {
    while (postgres_version(client).await?.unwrap_or(0) as usize) < migrations.len() {
        // Others that start now wait here. The numbers mean nothing to anybody else.
        let lock = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; \
                    SELECT pg_advisory_xact_lock(7041963, 1)";
        client.batch_execute(lock).await.map_err(postgres::fault)?;
        let version = postgres_version(client).await?;
        if version.is_none() {
            let table = for_postgres(TABLE);
            client.batch_execute(&table).await.map_err(postgres::fault)?;
        }
        if let Some((version, sql)) = next(version, migrations)? {
            client.batch_execute(&for_postgres(sql)).await.map_err(postgres::fault)?;
            client
                .execute("INSERT INTO migration VALUES ($1, $2)", &[&version, &now()])
                .await
                .map_err(postgres::fault)?;
        }
        client.batch_execute("COMMIT").await.map_err(postgres::fault)?;
    }
    next(postgres_version(client).await?, migrations).map(drop)
}

async fn postgres_version(client: &Client) -> Result<Option<i64>, DbError> {
    // Not to_regclass: that asks a cache, which says what was true before the lock was waited for.
    let exists = "SELECT count(*) > 0 FROM pg_catalog.pg_tables \
                  WHERE tablename = 'migration' AND schemaname = ANY(current_schemas(false))";
    let exists: bool = client
        .query_one(exists, &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(postgres::fault)?;
    if !exists {
        return Ok(None);
    }
    client
        .query_one("SELECT coalesce(max(version), 0) FROM migration", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map(Some)
        .map_err(postgres::fault)
}

/// SQLite's words in PostgreSQL's. Text is compared by its bytes, whatever language the server
/// was set up for. Comments and quoted text stay as they are.
fn for_postgres(sql: &str) -> String {
    let mut translated = String::with_capacity(sql.len() + sql.len() / 4);
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        translated.push_str(match token {
            "INTEGER" => "BIGINT",
            "BLOB" => "BYTEA",
            "TEXT" => "TEXT COLLATE \"C\"",
            "STRICT" => {
                rest = rest.strip_prefix(", WITHOUT ROWID").unwrap_or(rest);
                ""
            }
            token => token,
        });
    }
    translated
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
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
