//! The database: SQLite in a file of its own, or PostgreSQL shared by replicas.
//!
//! SQL is written once, in words both engines know: `$1` placeholders, `ON CONFLICT`,
//! `RETURNING`, explicit columns, no functions of one engine. What differs lives in here, and one
//! conformance suite (`tests`) holds both engines to the same behaviour:
//!
//! - a statement that failed spoils its transaction: nothing of it is committed;
//! - text is compared and sorted by its bytes, and `LIKE` tells upper from lower case;
//! - a value must have the type of its column;
//! - a transaction that has begun runs to its end, even when its caller goes away.

mod error;
mod migrate;
mod postgres;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod value;

use std::{borrow::Cow, fmt, sync::Arc};

use futures_util::future::BoxFuture;

pub use error::{DbError, Outage};
use postgres::Postgres;
use sqlite::Sqlite;
pub use value::{Row, Value};

/// Which database, and how much of it one process may use.
#[derive(Clone)]
pub struct DbSettings {
    /// `sqlite://path` or `postgres://user:password@host/name`.
    pub url: String,
    /// Connections kept at most. SQLite uses one for writing and few for reading.
    pub max_connections: usize,
}

/// Without the URL: it may hold a password.
impl fmt::Debug for DbSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbSettings")
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// What a committed transaction survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The end of this process, however sudden; a power cut may take the last moments.
    Process,
    /// A power cut: it is on the disk before [`Db::transaction`] returns.
    Full,
}

/// One INSERT for rows of one shape, see [`Tx::insert_many`].
#[derive(Debug)]
pub struct Insert {
    /// Table and columns: `"account (id, org)"`.
    pub into: &'static str,
    /// How many columns that names.
    pub columns: usize,
    /// `""`, or what happens to a row that is there already:
    /// `"ON CONFLICT (id) DO UPDATE SET posted = excluded.posted"`. Without placeholders.
    pub conflict: &'static str,
}

impl Insert {
    /// The statement for one row: its placeholders are in the order of the columns.
    fn sql(&self) -> String {
        let values: Vec<String> = (1..=self.columns).map(|n| format!("${n}")).collect();
        format!("INSERT INTO {} VALUES ({}) {}", self.into, values.join(", "), self.conflict)
    }
}

/// Rows, and how they are inserted.
pub type Rows<'r> = (&'static Insert, &'r [Vec<Value>]);

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Db(Arc<Engine>);

enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_shared() { "Db(PostgreSQL)" } else { "Db(SQLite)" })
    }
}

impl Db {
    /// Opens the database and brings its tables up to what this program needs.
    ///
    /// # Errors
    ///
    /// [`DbError::Settings`] for a URL that names no database, for one written by a newer program
    /// and for a server that is too old; [`DbError::Unavailable`] when it cannot be used now.
    pub async fn open(settings: &DbSettings) -> Result<Self, DbError> {
        let engine = if let Some(path) = settings.url.strip_prefix("sqlite://") {
            Engine::Sqlite(Sqlite::open(path, settings.max_connections).await?)
        } else if ["postgres://", "postgresql://"].iter().any(|s| settings.url.starts_with(s)) {
            Engine::Postgres(Postgres::open(settings).await?)
        } else {
            return Err(DbError::Settings(
                "the database URL must begin with sqlite:// or postgres://".to_owned(),
            ));
        };
        Ok(Self(Arc::new(engine)))
    }

    /// Whether other processes may serve from it too: true for PostgreSQL.
    pub fn is_shared(&self) -> bool {
        matches!(&*self.0, Engine::Postgres(_))
    }

    /// Unix milliseconds by the clock of the database: the server's where several processes share
    /// it, else this machine's.
    ///
    /// # Errors
    ///
    /// As [`Db::query`].
    pub async fn clock(&self) -> Result<i64, DbError> {
        const SQL: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
        if !self.is_shared() {
            return Ok(crate::engine::millis::now());
        }
        let rows = self.query(SQL, Vec::new()).await?;
        rows.first()
            .map_or_else(|| Err(DbError::Corrupt("a clock without time".into())), |row| row.int(0))
    }

    /// Reads. Sees everything that was committed before; cannot write.
    ///
    /// Text that lives as long as the program is prepared once; other text each time.
    ///
    /// # Errors
    ///
    /// [`DbError::Unavailable`] when the database cannot be used now, within a second when it is
    /// gone; [`DbError::Corrupt`] for a statement it does not understand.
    pub async fn query(
        &self,
        sql: impl Into<Cow<'static, str>> + Send,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, DbError> {
        #[cfg(debug_assertions)]
        if crate::crash::outage().is_some() {
            return Err(DbError::unavailable("a test made it fail"));
        }
        match &*self.0 {
            Engine::Sqlite(sqlite) => sqlite.query(sql.into(), params).await,
            Engine::Postgres(postgres) => postgres.query(sql.into(), params).await,
        }
    }

    /// Does `work` in one transaction, and commits it if that says `Ok`.
    ///
    /// `work` may be called again when the engine asks for that (deadlock, serialisation), so it
    /// must not change anything outside. It must not wait for anything but the transaction: SQLite
    /// has one writer, which would stand still. A panic in it rolls back and goes on in the caller.
    ///
    /// # Errors
    ///
    /// Whatever `work` said, or [`DbError::Unavailable`]. When the connection breaks during the
    /// commit itself, nobody knows whether it took place; [`Outage::is_ambiguous`] then says so.
    pub async fn transaction<T, F>(&self, durability: Durability, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> FnMut(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, DbError>> + Send + 'static,
    {
        #[cfg(debug_assertions)]
        let outage = crate::crash::outage();
        #[cfg(debug_assertions)]
        if outage == Some(crate::crash::Outage::Before) {
            return Err(DbError::unavailable("a test made it fail"));
        }
        let done = match &*self.0 {
            Engine::Sqlite(sqlite) => sqlite.transaction(durability, work).await,
            Engine::Postgres(postgres) => postgres.transaction(durability, work).await,
        };
        #[cfg(debug_assertions)]
        if outage.is_some() && done.is_ok() {
            return Err(DbError::unavailable("a test lost its answer").ambiguous());
        }
        done
    }
}

/// A transaction under way. Sees its own writes.
#[derive(Debug)]
pub struct Tx<'c> {
    engine: TxEngine<'c>,
    /// A statement failed: nothing of this may be committed.
    spoiled: bool,
}

#[derive(Debug)]
enum TxEngine<'c> {
    Sqlite(sqlite::Statements<'c>),
    Postgres(postgres::Statements<'c>),
}

impl Tx<'_> {
    /// Runs one statement and returns how many rows it changed.
    ///
    /// # Errors
    ///
    /// [`DbError::Conflict`] when a constraint forbids it. After any error the transaction is
    /// spoiled: it will be rolled back whatever else is done in it.
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, DbError> {
        self.whole()?;
        let done = match &mut self.engine {
            TxEngine::Sqlite(tx) => tx.execute(sql, params),
            TxEngine::Postgres(tx) => tx.execute(sql, params).await,
        };
        self.noted(done)
    }

    /// Runs one statement and returns its rows: a SELECT, or anything with RETURNING.
    ///
    /// # Errors
    ///
    /// As [`Tx::execute`].
    pub async fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, DbError> {
        self.whole()?;
        let done = match &mut self.engine {
            TxEngine::Sqlite(tx) => tx.query(sql, params),
            TxEngine::Postgres(tx) => tx.query(sql, params).await,
        };
        self.noted(done)
    }

    /// The rows whose column `key` is among `keys`, in the order of the keys by their bytes,
    /// locked until the transaction ends. `select` ends before WHERE.
    ///
    /// # Errors
    ///
    /// As [`Tx::execute`].
    pub async fn lock(
        &mut self,
        select: &'static str,
        key: &'static str,
        keys: &[String],
    ) -> Result<Vec<Row>, DbError> {
        self.whole()?;
        let done = match &mut self.engine {
            TxEngine::Sqlite(tx) => tx.lock(select, key, keys),
            TxEngine::Postgres(tx) => tx.lock(select, key, keys).await,
        };
        self.noted(done)
    }

    /// Inserts many rows, in their order.
    ///
    /// # Errors
    ///
    /// As [`Tx::execute`]; [`DbError::Corrupt`] for a row that has not `insert.columns` values.
    pub async fn insert_many(
        &mut self,
        insert: &'static Insert,
        rows: &[Vec<Value>],
    ) -> Result<(), DbError> {
        self.insert_all(&[(insert, rows)]).await
    }

    /// Inserts rows of several shapes, one shape after the other. No answer is waited for before
    /// all are sent.
    ///
    /// # Errors
    ///
    /// As [`Tx::insert_many`].
    pub async fn insert_all(&mut self, inserts: &[Rows<'_>]) -> Result<(), DbError> {
        self.whole()?;
        let odd = inserts.iter().find_map(|(insert, rows)| {
            rows.iter().find(|row| row.len() != insert.columns).map(|row| (insert, row))
        });
        let done = if let Some((insert, row)) = odd {
            let (has, wants) = (row.len(), insert.columns);
            Err(DbError::Corrupt(format!(
                "a row for {} has {has} values, not {wants}",
                insert.into
            )))
        } else {
            match &mut self.engine {
                TxEngine::Sqlite(tx) => tx.insert_all(inserts),
                TxEngine::Postgres(tx) => tx.insert_all(inserts).await,
            }
        };
        self.noted(done)
    }

    /// Nothing more can be done in a spoiled transaction, as PostgreSQL has it.
    fn whole(&self) -> Result<(), DbError> {
        if self.spoiled { Err(spoiled_error()) } else { Ok(()) }
    }

    fn noted<T>(&mut self, done: Result<T, DbError>) -> Result<T, DbError> {
        self.spoiled |= done.is_err();
        done
    }
}

fn spoiled_error() -> DbError {
    DbError::Corrupt(
        "a statement failed and the transaction went on; nothing is committed".to_owned(),
    )
}
