//! The thread that writes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use rusqlite::Connection;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    super::{DbError, Durability, Tx, TxEngine, spoiled_error},
    LOCK_PATIENCE, Statements,
    checkpoint::Checkpoints,
    connect,
    readers::stopped,
    statements::{fault, is_broken},
};

/// Transactions that may wait.
const QUEUE: usize = 1024;

/// How long a transaction waits for those before it.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);

/// How long another process's lock is waited for at least, when the queue took the time.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce(&mut Thread) + Send>;

/// The way to the thread. The thread ends when this is dropped.
pub(super) struct Writer(mpsc::Sender<Job>);

impl Writer {
    /// Starts the thread with a connection that is ready.
    pub(super) fn start(path: PathBuf, mut connection: Connection) -> Result<Self, DbError> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let checkpoints = Checkpoints::start(path.clone())?;
        checkpoints.watch(&mut connection).map_err(fault)?;
        thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                let connection = Some(connection);
                let mut thread =
                    Thread { path, checkpoints, connection, synced: None, locked: false };
                while let Some(job) = jobs.blocking_recv() {
                    job(&mut thread);
                }
            })
            .map_err(|error| DbError::outage("no thread can be started for it", error))?;
        Ok(Self(queue))
    }

    pub(super) async fn transaction<T, F>(
        &self,
        durability: Durability,
        mut work: F,
    ) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> FnMut(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, DbError>> + Send + 'static,
    {
        let (answer, mut outcome) = oneshot::channel();
        let queued = Instant::now();
        // Set by whoever is first: the thread that begins, or the caller that gives up.
        let taken = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&taken);
        let job = Box::new(move |thread: &mut Thread| {
            if !answer.is_closed() && !begun.swap(true, Ordering::AcqRel) {
                // Whoever asked may be gone; the work is done all the same.
                let _ = answer.send(thread.transaction(durability, queued, &mut work));
            }
        });
        match timeout(QUEUE_PATIENCE, self.0.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(stopped()),
            Err(_) => return Err(overloaded()),
        }
        let outcome = match timeout(QUEUE_PATIENCE, &mut outcome).await {
            Ok(outcome) => outcome,
            Err(_) if !taken.swap(true, Ordering::AcqRel) => return Err(overloaded()),
            Err(_) => outcome.await,
        };
        match outcome {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(stopped()),
        }
    }
}

fn overloaded() -> DbError {
    DbError::unavailable("more is written than the disk can take; use a faster one, or PostgreSQL")
}

/// What the thread owns.
struct Thread {
    path: PathBuf,
    checkpoints: Checkpoints,
    /// None after it broke, until the next transaction.
    connection: Option<Connection>,
    /// What `PRAGMA synchronous` stands at.
    synced: Option<Durability>,
    /// The last transaction could not begin for another process's lock.
    locked: bool,
}

impl Thread {
    /// One transaction from BEGIN to COMMIT. The outer error is a panic in `work`.
    fn transaction<T, F>(
        &mut self,
        durability: Durability,
        queued: Instant,
        work: &mut F,
    ) -> thread::Result<Result<T, DbError>>
    where
        F: for<'t> FnMut(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, DbError>>,
    {
        let connection = match self.begin(durability, queued) {
            Ok(connection) => connection,
            Err(error) => return Ok(Err(error)),
        };
        let mut tx = Tx { engine: TxEngine::Sqlite(Statements::new(connection)), spoiled: false };
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut tx).now_or_never()));
        let spoiled = tx.spoiled;
        let done = done.map(|done| match done {
            Some(Ok(_)) if spoiled => Err(spoiled_error()),
            Some(done) => done,
            None => Err(DbError::Corrupt(
                "a transaction waited for something else than the database".to_owned(),
            )),
        });
        let (done, healthy) = match done {
            Ok(Ok(value)) => match run(connection, "COMMIT") {
                Ok(()) => (Ok(Ok(value)), true),
                Err(error) => {
                    let broken = is_broken(&error);
                    (Ok(Err(fault(error))), roll_back(connection) && !broken)
                }
            },
            Ok(Err(error)) => {
                let broken = matches!(error, DbError::Unavailable(_));
                (Ok(Err(error)), roll_back(connection) && !broken)
            }
            Err(panic) => (Err(panic), roll_back(connection)),
        };
        if !healthy {
            self.connection = None;
        }
        done
    }

    /// Opens if need be, and begins.
    fn begin(
        &mut self,
        durability: Durability,
        queued: Instant,
    ) -> Result<&mut Connection, DbError> {
        let connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            self.synced = None;
            let mut connection = connect(&self.path)?;
            self.checkpoints.watch(&mut connection).map_err(fault)?;
            connection
        };
        // While another process holds the lock nobody waits for it longer than the first did.
        let left = LOCK_PATIENCE.saturating_sub(queued.elapsed());
        let patience = if self.locked { left } else { left.max(LEAST_PATIENCE) };
        let begun = connection
            .busy_timeout(patience)
            .and_then(|()| match self.synced {
                Some(synced) if synced == durability => Ok(()),
                _ => {
                    let word = match durability {
                        Durability::Process => "NORMAL",
                        Durability::Full => "FULL",
                    };
                    connection.pragma_update(None, "synchronous", word)
                }
            })
            .and_then(|()| run(&connection, "BEGIN IMMEDIATE"));
        self.locked = begun.as_ref().is_err_and(|error| !is_broken(error));
        match begun {
            Ok(()) => {
                self.synced = Some(durability);
                Ok(self.connection.insert(connection))
            }
            Err(error) => {
                self.synced = None;
                if !is_broken(&error) {
                    self.connection = Some(connection);
                }
                Err(fault(error))
            }
        }
    }
}

fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// Whether the connection can be used again. SQLite rolls back by itself when a disk fails it.
fn roll_back(connection: &Connection) -> bool {
    connection.is_autocommit() || run(connection, "ROLLBACK").is_ok()
}
