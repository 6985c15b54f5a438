//! Connections that only read, used from blocking threads.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::{sync::Semaphore, task};

use super::{super::DbError, Row, Value, connect_reader, statements};

/// Opened when needed, kept when they worked.
#[derive(Clone)]
pub(super) struct Readers(Arc<Shared>);

struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// As many as may be in use.
    places: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf, most: usize) -> Self {
        let idle = Mutex::default();
        Self(Arc::new(Shared { path, idle, places: Semaphore::new(most) }))
    }

    pub(super) async fn query(
        &self,
        sql: Cow<'static, str>,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, DbError> {
        let shared = Arc::clone(&self.0);
        let _place = self.0.places.acquire().await.map_err(|_| stopped())?;
        blocking(move || {
            let idle = shared.idle.lock().pop();
            let connection = idle.map_or_else(|| connect_reader(&shared.path), Ok)?;
            let found = match &sql {
                Cow::Borrowed(sql) => statements::rows(&connection, sql, &params),
                Cow::Owned(sql) => statements::rows_once(&connection, sql, &params),
            };
            // One that failed may hold a file that is no longer there.
            if !matches!(found, Err(DbError::Unavailable(_))) {
                shared.idle.lock().push(connection);
            }
            found
        })
        .await
    }
}

/// Runs what waits for a disk where waiting is allowed. A panic goes on in the caller.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DbError> + Send + 'static,
) -> Result<T, DbError> {
    #[expect(clippy::disallowed_methods, reason = "reads are short, and bounded by `places`")]
    let done = task::spawn_blocking(work).await;
    match done {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(stopped()),
        },
    }
}

/// The runtime ends.
pub(super) fn stopped() -> DbError {
    DbError::unavailable("this process is stopping")
}
