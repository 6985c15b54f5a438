//! The auditor: an account that does not equal its transfers is closed, the rest go on.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    db::{Db, DbError, Durability, Value},
    usage::fold,
};

/// How often the books are checked.
const EVERY: Duration = Duration::from_mins(10);

/// Checks the books now and then, until told to stop.
pub async fn run(
    db: Db,
    frozen: prometheus_client::metrics::counter::Counter,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match check(&db).await {
            Ok(accounts) => {
                frozen.inc_by(accounts.len() as u64);
                for account in accounts {
                    tracing::error!(account, "the balance does not equal its transfers: frozen");
                }
            }
            Err(error) => tracing::warn!(%error, "the books could not be checked"),
        }
    }
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
