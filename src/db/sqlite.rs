//! SQLite: one thread that writes, a few connections that read.
//!
//! The file is in WAL mode, so readers and the writer do not wait for each other, and the command
//! line can work beside a running server. SQLite lets one connection write at a time whatever we
//! do; with one thread for it, transactions wait in a fair queue instead of in busy loops.

mod checkpoint;
mod readers;
mod statements;
mod writer;

use std::{
    borrow::Cow,
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{DbError, Durability, Row, Tx, Value, migrate};
use readers::Readers;
pub(super) use statements::{Statements, fault};
use writer::Writer;

/// How long another process's lock is waited for before a request is refused.
const LOCK_PATIENCE: Duration = Duration::from_millis(900);

/// How long the start waits for another process that is opening the same file.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Prepared statements kept per connection.
const STATEMENTS: usize = 256;

/// Readers beyond this number only fight for the same cores.
const MOST_READERS: usize = 8;

/// An open SQLite database.
pub(super) struct Sqlite {
    writer: Writer,
    readers: Readers,
}

impl Sqlite {
    pub(super) async fn open(path: &str, max_connections: usize) -> Result<Self, DbError> {
        if path.is_empty() {
            return Err(DbError::Settings(
                "the database URL names no file; write sqlite://data/mediagate.db".to_owned(),
            ));
        }
        let path = PathBuf::from(path);
        let opening = path.clone();
        let connection = readers::blocking(move || {
            create(&opening)?;
            let mut connection = connect(&opening)?;
            connection.busy_timeout(START_PATIENCE).map_err(fault)?;
            migrate::sqlite(&mut connection, migrate::MIGRATIONS)?;
            Ok(connection)
        })
        .await?;
        let readers = max_connections.saturating_sub(1).clamp(1, MOST_READERS);
        Ok(Self {
            writer: Writer::start(path.clone(), connection)?,
            readers: Readers::new(path, readers),
        })
    }

    pub(super) async fn query(
        &self,
        sql: Cow<'static, str>,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, DbError> {
        self.readers.query(sql, params).await
    }

    pub(super) async fn transaction<T, F>(
        &self,
        durability: Durability,
        work: F,
    ) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> FnMut(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, DbError>> + Send + 'static,
    {
        self.writer.transaction(durability, work).await
    }
}

/// Makes the directory and the file, which nobody else may read. SQLite gives its side files the
/// mode of the file.
fn create(path: &Path) -> Result<(), DbError> {
    let explain = |error: io::Error| {
        DbError::outage(
            format!("{} cannot be made; check the path, its owner and its mode", path.display()),
            error,
        )
    };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(explain)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(explain(error)),
        _ => Ok(()),
    }
}

/// A connection that may write.
fn connect(path: &Path) -> Result<Connection, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    prepare(&connection).map_err(fault)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(fault)?;
    // What one transaction changes stays in memory until its end; in kB, as it is negative.
    connection.pragma_update(None, "cache_size", -8192).map_err(fault)?;
    // The write-ahead log is cut back to this after a burst.
    connection.pragma_update(None, "journal_size_limit", 64 << 20).map_err(fault)?;
    use_wal(&connection).map_err(fault)?;
    Ok(connection)
}

/// A connection that only reads.
fn connect_reader(path: &Path) -> Result<Connection, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    prepare(&connection).map_err(fault)?;
    connection.pragma_update(None, "query_only", true).map_err(fault)?;
    Ok(connection)
}

/// What every connection needs so that statements mean what they mean to PostgreSQL.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // "name" is a column or an error, never a text.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.pragma_update(None, "case_sensitive_like", true)
}

/// Switches to the write-ahead log. SQLite does not wait for another process that does the same,
/// so this does.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        let switched = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match switched {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < LOCK_PATIENCE =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            switched => return switched.map(drop),
        }
    }
}
