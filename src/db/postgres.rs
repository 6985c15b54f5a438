//! PostgreSQL: a pool that writes and a pool that reads.
//!
//! Transactions are READ COMMITTED: whoever reads before writing locks the rows first, see
//! [`super::Tx::lock`]. A server that is gone is noticed at checkout or at BEGIN, within a second.

mod fault;
mod pool;
mod statements;
mod types;

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::{DbError, DbSettings, Durability, Row, Tx, TxEngine, Value, migrate, spoiled_error};
pub(super) use fault::{fault, silent};
use pool::{Lent, Pools};
pub(super) use statements::Statements;
use statements::answered;

/// The oldest server whose words we use.
const OLDEST: i64 = 14;

/// How long a server is waited for until it counts as gone.
const PATIENCE: Duration = Duration::from_millis(800);

/// How long the answer to BEGIN is waited for at least.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// How often work is done again that deadlocked or could not be put in order.
const RETRIES: u32 = 5;

/// An open PostgreSQL database.
#[derive(Clone)]
pub(super) struct Postgres(Arc<Pools>);

impl Postgres {
    pub(super) async fn open(settings: &DbSettings) -> Result<Self, DbError> {
        let pools = Pools::new(settings)?;
        let lent = pools.writer().await?;
        let version = lent
            .query_one("SELECT current_setting('server_version_num')::bigint / 10000", &[])
            .await
            .and_then(|row| row.try_get::<_, i64>(0))
            .map_err(fault)?;
        if version < OLDEST {
            return Err(DbError::Settings(format!(
                "the server is PostgreSQL {version}; {OLDEST} is the oldest this program works with"
            )));
        }
        migrate::postgres(&lent, migrate::MIGRATIONS).await?;
        lent.give_back();
        Ok(Self(Arc::new(pools)))
    }

    pub(super) async fn query(
        &self,
        sql: Cow<'static, str>,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, DbError> {
        loop {
            let lent = self.0.reader().await?;
            let fresh = lent.is_fresh();
            let mut statements = Statements::new(&lent);
            let lasting = matches!(sql, Cow::Borrowed(_));
            let found = statements.read(&sql, lasting, &params).await;
            let (lost, healthy) = (statements.lost, statements.healthy);
            if healthy {
                lent.give_back();
            }
            // A connection may have died in the pool, and a read may be repeated.
            if !lost || fresh {
                return found;
            }
        }
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
        let postgres = self.clone();
        // On a task of its own: a caller that leaves must not cut a transaction in two.
        match tokio::spawn(async move { postgres.run(durability, work).await }).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(DbError::unavailable("this process is stopping")),
            },
        }
    }

    async fn run<T, F>(&self, durability: Durability, mut work: F) -> Result<T, DbError>
    where
        F: for<'t> FnMut(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T, DbError>> + Send,
        T: Send,
    {
        for retry in 0.. {
            // Dropped in any other way than by giving it back, the connection is closed, and the
            // server rolls back.
            let lent = self.begin(durability).await?;
            let mut tx = Tx { engine: TxEngine::Postgres(Statements::new(&lent)), spoiled: false };
            let done = work(&mut tx).await;
            let Tx { engine: TxEngine::Postgres(statements), spoiled } = tx else { break };
            let (mut again, healthy) = (statements.again, statements.healthy);
            let done = match done {
                Ok(_) if spoiled => Err(spoiled_error()),
                done => done,
            };
            let failed = match done {
                Ok(value) => match answered(lent.batch_execute("COMMIT")).await {
                    Ok(Ok(())) => {
                        lent.give_back();
                        return Ok(value);
                    }
                    Ok(Err(error)) => {
                        again = fault::is_repeatable(&error);
                        let lost = fault::is_lost(&error);
                        let error = fault(error);
                        if lost { error.ambiguous() } else { error }
                    }
                    Err(error) => error.ambiguous(),
                },
                Err(error) => {
                    if healthy
                        && matches!(answered(lent.batch_execute("ROLLBACK")).await, Ok(Ok(())))
                    {
                        lent.give_back();
                    }
                    error
                }
            };
            if !again || retry == RETRIES {
                return Err(failed);
            }
            // Not all at the same moment again.
            let random = u64::from(getrandom::u32().unwrap_or_default());
            sleep(Duration::from_millis(random % (4 << retry))).await;
        }
        Err(spoiled_error())
    }

    /// A connection with a transaction on it. The server is alive, or this fails within a second.
    async fn begin(&self, durability: Durability) -> Result<Lent, DbError> {
        let sql = match durability {
            Durability::Process => "BEGIN; SET LOCAL synchronous_commit = off",
            Durability::Full => "BEGIN",
        };
        let begun = Instant::now();
        loop {
            let lent = self.0.writer().await?;
            // What the pool took is not waited for again.
            let deadline = (begun + PATIENCE).max(Instant::now() + LEAST_PATIENCE);
            match timeout_at(deadline, lent.batch_execute(sql)).await {
                Ok(Ok(())) => return Ok(lent),
                // It died in the pool; nothing was sent on it.
                Ok(Err(error)) if fault::is_lost(&error) && !lent.is_fresh() => {}
                Ok(Err(error)) => return Err(fault(error)),
                Err(_) => return Err(silent()),
            }
        }
    }
}
