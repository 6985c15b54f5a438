//! Jobs as callers see them, wherever they are: in this process, in another one, or in the
//! database alone.

use std::{sync::Arc, time::Duration};

use super::{
    Engine,
    job::{Job, Outcome},
    keep::Snapshot,
};
use crate::{
    db::{DbError, Durability, Value},
    error::{Code, Error},
    jobs::{
        Act, AttemptRow, DeskError, JobRow,
        row::{ATTEMPT_COLUMNS, JOB_COLUMNS},
    },
    tenant::Grant,
};

/// How often a job that another replica drives is looked at.
pub(super) const FOLLOW: Duration = Duration::from_millis(400);

impl Engine {
    /// A job as it is stored.
    pub async fn stored(&self, id: &str) -> Result<Option<JobRow>, DbError> {
        let sql = format!("{JOB_COLUMNS} WHERE id = $1");
        let rows = self.desk.db().query(sql, vec![id.into()]).await?;
        rows.first().map(JobRow::from_row).transpose()
    }

    pub(super) async fn attempts(&self, job: &str) -> Result<Vec<AttemptRow>, DbError> {
        let sql = format!("{ATTEMPT_COLUMNS} WHERE job = $1 ORDER BY number");
        let rows = self.desk.db().query(sql, vec![job.into()]).await?;
        rows.iter().map(AttemptRow::from_row).collect()
    }

    /// A key's job, wherever it is: in this process, or in the database. None where there is none
    /// of this key.
    pub async fn find(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        id: &str,
    ) -> Result<Option<Arc<Job>>, Error> {
        if let Some(job) = self.jobs.get(&grant.key_id, id) {
            return Ok(Some(job));
        }
        let row = self.stored(id).await.map_err(unavailable)?;
        let Some(row) = row.filter(|row| row.api_key == grant.key_id) else { return Ok(None) };
        if let Some(job) = self.jobs.get(&grant.key_id, id) {
            return Ok(Some(job));
        }
        let job = Job::stored(&row, Arc::clone(grant), "");
        job.restore(self.attempts(id).await.map_err(unavailable)?);
        if row.state.is_final() {
            job.finish(self.outcome(&row));
        } else {
            self.follow(&job);
        }
        Ok(Some(job))
    }

    /// What a finished job came to.
    fn outcome(&self, row: &JobRow) -> Outcome {
        let snapshot: Option<Snapshot> =
            self.unseal("job.result", &row.id, row.result.as_deref().filter(|r| !r.is_empty()));
        snapshot.map_or_else(
            || {
                let code = row.error_code.as_deref().and_then(Code::named);
                let code = code.unwrap_or(Code::ResultExpired);
                Err(Arc::new(Error::new(code, "nothing more is known about this job")))
            },
            Snapshot::outcome,
        )
    }

    /// Watches a job that another replica drives, as long as anybody waits for it.
    fn follow(self: &Arc<Self>, job: &Arc<Job>) {
        let (engine, job) = (Arc::clone(self), Arc::clone(job));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(FOLLOW).await;
                if Arc::strong_count(&job) == 1 {
                    return;
                }
                if let Some(own) = engine.jobs.any(&job.id) {
                    // Taken over by this very process.
                    if let Some(outcome) = own.watch().outcome().await {
                        job.finish(outcome);
                    }
                    return;
                }
                match engine.stored(&job.id).await {
                    Ok(Some(row)) if row.state.is_final() => {
                        job.set_captured();
                        job.finish(engine.outcome(&row));
                        return;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "a job cannot be looked at just now"),
                }
            }
        });
    }

    /// A key's jobs, newest first: those of one request where it is named.
    pub async fn list(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        request_id: Option<&str>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Arc<Job>>, Error> {
        let mut sql = "SELECT id FROM job WHERE api_key = $1".to_owned();
        let mut params: Vec<Value> = vec![grant.key_id.as_str().into()];
        for (column, value) in [("request_id =", request_id), ("id <", after)] {
            if let Some(value) = value {
                params.push(value.into());
                sql.push_str(&format!(" AND {column} ${}", params.len()));
            }
        }
        sql.push_str(&format!(" ORDER BY created_at DESC, id DESC LIMIT {limit}"));
        let rows = self.desk.db().query(sql, params).await.map_err(unavailable)?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            jobs.extend(self.find(grant, &row.text(0).map_err(unavailable)?).await?);
        }
        Ok(jobs)
    }

    /// Ends a job, wherever it runs. False where it is over.
    pub async fn cancel(self: &Arc<Self>, job: &Arc<Job>) -> Result<bool, Error> {
        if job.finished_at().is_some() {
            return Ok(false);
        }
        job.cancel.cancel();
        let act = Act::AskCancel { job: job.id.clone() };
        match self.desk.write(&job.grant.org, act, Durability::Process).await {
            Ok(_) => Ok(true),
            Err(DeskError::Denied(_)) => Ok(false),
            Err(DeskError::Unavailable(source)) => Err(gone(source)),
        }
    }
}

/// What a caller is told while the database does not answer.
pub(super) fn unavailable(error: DbError) -> Error {
    gone(error)
}

fn gone(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Code::StoreUnavailable, "the database does not answer just now; try again shortly")
        .retry_after(Some(Duration::from_secs(2)))
        .because(error)
}
