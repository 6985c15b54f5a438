//! Erasing jobs that are past their time.

use crate::db::{Db, DbError, Durability, Value};

/// Jobs erased in one transaction.
const TOGETHER: u64 = 1000;

/// Erases what was past its time at `now`, Unix milliseconds; gives how many jobs are gone. A job
/// with an attempt in suspense stays until that is settled, without its content: providers'
/// invoices come later than results are kept.
pub async fn erase(db: &Db, now: i64) -> Result<u64, DbError> {
    let mut erased = 0;
    loop {
        let some = erase_some(db, now).await?;
        erased += some;
        if some < TOGETHER {
            return Ok(erased);
        }
    }
}

async fn erase_some(db: &Db, now: i64) -> Result<u64, DbError> {
    const OLD: &str = "SELECT id FROM job WHERE expires_at < $1 AND finished_at IS NOT NULL \
         AND (simulated = 1 OR NOT EXISTS \
         (SELECT 1 FROM attempt WHERE attempt.job = job.id AND attempt.state = 'unknown')) LIMIT ";
    const CONTENT: &str = "UPDATE job SET payload = NULL, result = NULL, labels = '{}' \
         WHERE expires_at < $1 AND finished_at IS NOT NULL AND result IS NOT NULL \
         AND id IN (SELECT job FROM attempt WHERE state = 'unknown')";
    const KEYS: &str = "DELETE FROM idempotency WHERE expires_at < $1 AND NOT EXISTS \
         (SELECT 1 FROM job WHERE job.id = idempotency.job AND job.finished_at IS NULL)";
    let work = db.transaction(Durability::Process, move |tx| {
        Box::pin(async move {
            let rows = tx.query(&format!("{OLD}{TOGETHER}"), &[now.into()]).await?;
            for row in &rows {
                let id: [Value; 1] = [row.text(0)?.into()];
                tx.execute("DELETE FROM attempt WHERE job = $1", &id).await?;
                tx.execute("DELETE FROM job WHERE id = $1", &id).await?;
            }
            tx.execute(CONTENT, &[now.into()]).await?;
            tx.execute(KEYS, &[now.into()]).await?;
            Ok(rows.len() as u64)
        })
    });
    work.await
}
