//! Jobs that another process began: after a crash, or beside a replica that is gone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use providers::RemoteJob;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Engine,
    job::{Job, Watch},
    keep::Snapshot,
    lease::{LEASE, RENEW},
    millis,
    run::Payload,
};
use crate::{
    crash::{Point, point},
    db::{DbError, Durability, Value},
    error::{Code, Error},
    jobs::{
        Act, AttemptRow, AttemptState, DeskError, Done, JobRow,
        row::{ATTEMPT_COLUMNS, JOB_COLUMNS, JOB_HEAD},
    },
    tenant::Grant,
};

/// How often jobs without an owner are looked for, beside other replicas.
const LOOK: Duration = Duration::from_secs(3);
/// A job that was written down this long ago is known to its process, or its answer was lost.
const SETTLED: Duration = Duration::from_secs(10);
/// How often a job that another replica drives is looked at.
const FOLLOW: Duration = Duration::from_millis(400);
/// How long an answer may be on its way to a repeat before another repeat may have it.
const ANSWER: Duration = Duration::from_secs(30);
/// Jobs taken over at once.
const MOST_TAKEN: i64 = 200;

impl Engine {
    /// Takes over everything unfinished in a SQLite file, which belongs to this process alone. To
    /// be awaited before anybody is heard: a repeat must find the job that it belongs to.
    pub async fn inherit(self: &Arc<Self>) -> Result<(), DbError> {
        if self.lease.is_shared() {
            return Ok(());
        }
        // Answers that were on their way to a repeat went down with the process that sent them.
        let lent = "UPDATE job SET lease_until = 0 WHERE abandoned = 1 AND lease_until > 0 \
                    AND finished_at IS NOT NULL";
        let freed = self.desk.db().transaction(Durability::Process, move |tx| {
            Box::pin(async move { tx.execute(lent, &[]).await })
        });
        freed.await?;
        self.take_over().await;
        Ok(())
    }

    /// Looks after jobs without a driver, and beside other replicas after those whose owner is
    /// gone, until told to stop.
    pub async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            self.adopt().await;
            if self.lease.is_shared() {
                self.hear_cancels().await;
                self.take_over().await;
            }
        }
    }

    /// Renews the lease on this process' jobs, until told to stop, which is after its last job.
    pub async fn renew_leases(self: Arc<Self>, stop: CancellationToken) {
        if !self.lease.is_shared() {
            return;
        }
        let mut renew = tokio::time::interval(RENEW);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = renew.tick() => self.renew().await,
            }
        }
    }

    /// Goes on with jobs that are this process' by the database and not by its memory: opened or
    /// taken over by a commit whose answer was lost.
    async fn adopt(self: &Arc<Self>) {
        let sql = format!(
            "{JOB_HEAD} WHERE finished_at IS NULL AND owner = $1 AND created_at < $2 \
             ORDER BY id LIMIT {MOST_TAKEN}"
        );
        let before = millis::now() - SETTLED.as_millis() as i64;
        let params = vec![self.lease.owner.as_str().into(), before.into()];
        let rows = self.desk.db().query(sql, params).await.unwrap_or_default();
        for row in rows.iter().filter_map(|row| JobRow::from_row(row).ok()) {
            if self.jobs.any(&row.id).is_some() {
                continue;
            }
            tracing::warn!(job = row.id, "a job without a driver is taken up");
            let adopted = match row.epoch {
                // Opened here: its caller was told that nothing was sent, and nothing was.
                1 => self.let_go(&row).await,
                _ => self.resume(&row).await,
            };
            if let Err(error) = adopted {
                tracing::error!(job = row.id, %error, "it could not be");
            }
        }
    }

    /// Ends a job of which nothing was sent.
    async fn let_go(self: &Arc<Self>, row: &JobRow) -> Result<(), DbError> {
        let job = Job::stored(row, Arc::new(Grant::of_job(row)), "");
        let mut attempts = self.attempts(&row.id).await?;
        attempts.iter_mut().for_each(|attempt| attempt.state = AttemptState::Failed);
        job.restore(attempts);
        let message = "the database did not answer, so nothing was sent; try again";
        self.conclude(&job, Err(Error::new(Code::StoreUnavailable, message))).await;
        Ok(())
    }

    async fn renew(&self) {
        let begun = Instant::now();
        let until = millis::now() + LEASE.as_millis() as i64;
        let owner = self.lease.owner.clone();
        let renewed = self.desk.db().transaction(Durability::Process, move |tx| {
            let params: Vec<Value> = vec![until.into(), owner.as_str().into()];
            Box::pin(async move {
                let sql = "UPDATE job SET lease_until = $1 \
                           WHERE owner = $2 AND finished_at IS NULL";
                tx.execute(sql, &params).await
            })
        });
        match renewed.await {
            Ok(_) => self.lease.renewed(begun),
            Err(error) => tracing::warn!(%error, "the lease on running jobs was not renewed"),
        }
    }

    /// Lets other replicas take over what this one will not finish.
    pub async fn hand_over(&self) {
        if !self.lease.is_shared() {
            return;
        }
        self.lease.give_up();
        let owner = self.lease.owner.clone();
        let handed = self.desk.db().transaction(Durability::Process, move |tx| {
            let params: Vec<Value> = vec![owner.as_str().into()];
            Box::pin(async move {
                let sql = "UPDATE job SET lease_until = 0 WHERE owner = $1 AND finished_at IS NULL";
                tx.execute(sql, &params).await
            })
        });
        if let Err(error) = handed.await {
            tracing::warn!(%error, "running jobs were not handed over; their lease ends by itself");
        }
    }

    async fn take_over(self: &Arc<Self>) {
        // A SQLite file belongs to this process alone: no lease on it is anybody's.
        let alone = !self.lease.is_shared();
        let now = if alone { i64::MAX } else { millis::now() };
        let sql = format!(
            "{JOB_HEAD} WHERE finished_at IS NULL AND lease_until < $1 AND owner <> $2 \
             ORDER BY id LIMIT {MOST_TAKEN}"
        );
        loop {
            let params = vec![now.into(), self.lease.owner.as_str().into()];
            let rows = match self.desk.db().query(sql.clone(), params).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "jobs without an owner could not be looked for");
                    if !alone {
                        return;
                    }
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            let all = rows.len() < MOST_TAKEN as usize;
            // Side by side, so that they are written together.
            join_all(rows.iter().map(|row| async move {
                match JobRow::from_row(row) {
                    Ok(row) => self.take(row, now).await,
                    Err(error) => tracing::error!(%error, "a stored job cannot be read"),
                }
            }))
            .await;
            if all || !alone {
                return;
            }
        }
    }

    async fn take(self: &Arc<Self>, row: JobRow, now: i64) {
        let act = Act::Take {
            job: row.id.clone(),
            owner: self.lease.owner.clone(),
            now,
            lease_until: millis::now() + LEASE.as_millis() as i64,
        };
        point(Point::BeforeTake);
        let taken = if self.lease.is_shared() {
            // Another replica may have been quicker; what was not taken now is seen again.
            self.desk.write(&row.org, act, Durability::Full).await.ok()
        } else {
            self.desk.insist(&row.org, act, Durability::Full).await.ok()
        };
        if let Some(Done::Taken(row)) = taken {
            point(Point::AfterTake);
            self.metrics.taken_over.inc();
            if let Err(error) = self.resume(&row).await {
                tracing::error!(job = row.id, %error, "a job could not be taken up again");
            }
        }
    }

    /// Goes on with a job.
    async fn resume(self: &Arc<Self>, row: &JobRow) -> Result<(), DbError> {
        let grant = Arc::new(Grant::of_job(row));
        let stored = self.stored(&row.id).await?;
        let payload = stored.as_ref().and_then(|row| row.payload.as_deref());
        let payload: Option<Payload> = self.unseal("job.payload", &row.id, payload);
        let prompt = payload.as_ref().map_or("", |p| p.request.prompt.as_str());
        let job = Job::stored(row, grant, prompt);
        let attempts = self.attempts(&row.id).await?;
        let restored = attempts.len();
        for attempt in &attempts {
            let remote: Option<RemoteJob> =
                self.unseal("attempt.remote", &row.id, attempt.remote.as_deref());
            if let Some(remote) = remote {
                job.note_remote(&remote.id);
            }
        }
        job.restore(attempts);
        self.jobs.add(&job);
        tracing::info!(job = row.id, epoch = row.epoch, attempts = restored, "taken over");
        let planned = payload
            .ok_or_else(|| Error::internal("what was asked cannot be read any more"))
            .and_then(|p| Ok((self.plan(&p.request)?, p.request)));
        match planned {
            Ok((mut plan, request)) => {
                self.use_own_keys(&mut plan, &row.project);
                self.start(plan, request, job, restored, None);
            }
            Err(error) => self.conclude(&job, Err(error)).await,
        }
        Ok(())
    }

    /// A job as it is stored.
    pub async fn stored(&self, id: &str) -> Result<Option<JobRow>, DbError> {
        let sql = format!("{JOB_COLUMNS} WHERE id = $1");
        let rows = self.desk.db().query(sql, vec![id.into()]).await?;
        rows.first().map(JobRow::from_row).transpose()
    }

    async fn attempts(&self, job: &str) -> Result<Vec<AttemptRow>, DbError> {
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
    fn outcome(&self, row: &JobRow) -> super::job::Outcome {
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

    /// The job that a repeat by an SDK belongs to: of this process, of another replica, or of one
    /// that is gone.
    pub async fn join(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        fingerprint: &[u8; 32],
    ) -> Result<Option<(Arc<Job>, Watch)>, Error> {
        if let Some((job, watch)) = self.jobs.join(&grant.key_id, fingerprint) {
            if job.finished_at().is_some() {
                // Its answer may be cut off once more: only its end says that it arrived.
                let _ = self.desk.write(&grant.org, join(&job.id), Durability::Process).await;
            } else {
                self.note_abandoned(&job);
            }
            return Ok(Some((job, watch)));
        }
        if let Some(found) = self.join_stored(grant, fingerprint).await? {
            return Ok(Some(found));
        }
        // The caller may have waited at a replica that is gone, which is not known before that
        // fails to renew its lease.
        let sql = "SELECT id, lease_until FROM job WHERE api_key = $1 AND fingerprint = $2 \
                   AND finished_at IS NULL AND abandoned = 0 AND owner <> $3";
        let mut doubtful: Option<BTreeMap<String, i64>> = None;
        while self.lease.is_shared() {
            let params: Vec<Value> = vec![
                grant.key_id.as_str().into(),
                fingerprint.to_vec().into(),
                self.lease.owner.as_str().into(),
            ];
            let rows = self.desk.db().query(sql, params).await.map_err(unavailable)?;
            let rows = rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?)));
            let mut now: BTreeMap<_, _> = rows.collect::<Result<_, _>>().map_err(unavailable)?;
            if let Some(before) = &doubtful {
                now.retain(|id, lease| before.get(id) == Some(lease));
            }
            if now.is_empty() {
                break;
            }
            doubtful = Some(now);
            tokio::time::sleep(FOLLOW).await;
            if let Some(found) = self.join_stored(grant, fingerprint).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The job of a caller that is known to be gone, out of the database.
    async fn join_stored(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        fingerprint: &[u8; 32],
    ) -> Result<Option<(Arc<Job>, Watch)>, Error> {
        let now = millis::now();
        let since = now - super::job::JOIN_WINDOW.as_millis() as i64;
        let sql = "SELECT id FROM job WHERE api_key = $1 AND fingerprint = $2 AND abandoned = 1 \
                   AND (finished_at IS NULL OR (finished_at > $3 AND lease_until <= $4)) \
                   AND state IN ('queued', 'running', 'succeeded', 'unknown') \
                   ORDER BY id DESC LIMIT 8";
        let params: Vec<Value> = vec![
            grant.key_id.as_str().into(),
            fingerprint.to_vec().into(),
            since.into(),
            now.into(),
        ];
        let rows = self.desk.db().query(sql, params).await.map_err(unavailable)?;
        for row in rows {
            let id = row.text(0).map_err(unavailable)?;
            if self.jobs.any(&id).is_some() {
                // This process knows better than the row whether its caller is gone.
                continue;
            }
            if self.desk.write(&grant.org, join(&id), Durability::Process).await.is_err() {
                continue;
            }
            let found = self.find(grant, &id).await;
            if !matches!(found, Ok(Some(_))) {
                // The place is given back: the next repeat is to find it.
                let back = Act::Abandon { job: id, abandoned: true };
                let _ = self.desk.insist(&grant.org, back, Durability::Process).await;
            }
            if let Some(job) = found? {
                job.set_abandoned(false);
                let watch = job.watch();
                return Ok(Some((job, watch)));
            }
        }
        Ok(None)
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

    /// Ends those of this process' jobs that were cancelled through another replica.
    async fn hear_cancels(&self) {
        let sql = "SELECT id FROM job WHERE owner = $1 AND cancel_asked = 1 \
                   AND finished_at IS NULL";
        let rows = self.desk.db().query(sql, vec![self.lease.owner.as_str().into()]).await;
        for row in rows.unwrap_or_default() {
            if let Some(job) = row.text(0).ok().and_then(|id| self.jobs.any(&id)) {
                job.cancel.cancel();
            }
        }
    }

    /// Erases what is past its time.
    pub async fn erase(&self) -> Result<u64, DbError> {
        let mut erased = 0;
        loop {
            let some = self.erase_some().await?;
            erased += some;
            if some == 0 {
                return Ok(erased);
            }
        }
    }

    async fn erase_some(&self) -> Result<u64, DbError> {
        let now = millis::now();
        self.desk
            .db()
            .transaction(Durability::Process, move |tx| {
                Box::pin(async move {
                    let old = "SELECT id FROM job WHERE expires_at < $1 \
                               AND finished_at IS NOT NULL LIMIT 1000";
                    let rows = tx.query(old, &[now.into()]).await?;
                    let erased = rows.len() as u64;
                    for row in rows {
                        let id = row.text(0)?;
                        let params: [Value; 1] = [id.as_str().into()];
                        tx.execute("DELETE FROM attempt WHERE job = $1", &params).await?;
                        tx.execute("DELETE FROM job WHERE id = $1", &params).await?;
                    }
                    let keys = "DELETE FROM idempotency WHERE expires_at < $1";
                    tx.execute(keys, &[now.into()]).await?;
                    Ok(erased)
                })
            })
            .await
    }
}

/// A repeat takes the place of a job's lost caller.
fn join(job: &str) -> Act {
    let now = millis::now();
    Act::Join { job: job.to_owned(), now, until: now + ANSWER.as_millis() as i64 }
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
