//! The auditor: an account that does not equal its transfers is closed, the rest go on; and what
//! nobody knows is not forgotten.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    db::{Db, DbError, Durability, Value},
    metrics::BookMetrics,
    tenant,
    usage::{fold, unknown},
};

/// How often the books are checked.
const EVERY: Duration = Duration::from_mins(10);
/// An attempt whose outcome is unknown for longer than this is told of, in milliseconds.
const LONG: i64 = 24 * 60 * 60 * 1000;
/// So many of them are named.
const NAMED: u32 = 20;

/// Checks the books now and then, until told to stop.
pub async fn run(db: Db, metrics: BookMetrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match check(&db).await {
            Ok(accounts) => {
                metrics.frozen.inc_by(accounts.len() as u64);
                for account in accounts {
                    tracing::error!(account, "the balance does not equal its transfers: frozen");
                }
            }
            Err(error) => tracing::warn!(%error, "the books could not be checked"),
        }
        match watch(&db, &metrics, tenant::now()).await {
            Ok(Some(old)) => tracing::warn!(
                attempts = old.first.join(", "),
                more = old.more,
                "nobody knows for more than 24 hours what became of these: look for them on the \
                 provider's invoice, then say so with `mediagate ledger settle`"
            ),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "unknown outcomes could not be counted"),
        }
    }
}

/// Attempts whose outcome is unknown for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Old {
    /// The ids of the oldest.
    pub first: Vec<String>,
    /// Whether there are more.
    pub more: bool,
}

/// Shows how much is in suspense, and gives what has been there for long.
pub async fn watch(db: &Db, metrics: &BookMetrics, now: i64) -> Result<Option<Old>, DbError> {
    let sums = unknown::sums(db).await?;
    metrics.unknown.set(sums.attempts);
    metrics.suspense.set(sums.suspense);
    let mut first = unknown::oldest(db, now.saturating_sub(LONG), NAMED + 1).await?;
    let more = first.len() > NAMED as usize;
    first.truncate(NAMED as usize);
    Ok(Some(Old { first, more }).filter(|old| !old.first.is_empty()))
}

/// Freezes every account that has drifted, and gives those that were not frozen before.
pub async fn check(db: &Db) -> Result<Vec<String>, DbError> {
    let mut frozen = Vec::new();
    for drift in fold::drift(db).await? {
        let account = drift.account.clone();
        let changed = db.transaction(Durability::Full, move |tx| {
            let params: [Value; 1] = [account.as_str().into()];
            Box::pin(async move {
                tx.execute("UPDATE account SET frozen = 1 WHERE id = $1 AND frozen = 0", &params)
                    .await
            })
        });
        if changed.await? > 0 {
            frozen.push(drift.account);
        }
    }
    Ok(frozen)
}
