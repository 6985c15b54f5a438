//! Jobs that another process began: after a crash, or beside a replica that is gone.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use providers::RemoteJob;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Engine, job::Job, lease::RENEW, millis, risk, run::Payload};
use crate::{
    crash::{Point, point},
    db::{DbError, Durability, Value},
    error::{Code, Error},
    jobs::{Act, AttemptState, Done, JobRow, row::JOB_HEAD},
    tenant::Grant,
};

/// How often jobs without an owner are looked for, beside other replicas.
const LOOK: Duration = Duration::from_secs(3);
/// A job that was written down this long ago is known to its process, or its answer was lost.
const SETTLED: Duration = Duration::from_secs(10);
/// Jobs taken over at once.
const MOST_TAKEN: i64 = 200;

impl Engine {
    /// Takes over everything unfinished in a SQLite file, which belongs to this process alone;
    /// beside other replicas, reads the clock they share. To be awaited before anybody is heard:
    /// a repeat must find the job that it belongs to.
    pub async fn inherit(self: &Arc<Self>) -> Result<(), DbError> {
        if self.lease.is_shared() {
            return self.read_clock().await;
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
            let unanswered = self.unanswered.lock().remove(&row.id);
            let adopted = if unanswered {
                // Its caller was told that nothing was sent, and nothing was.
                self.let_go(&row).await
            } else {
                self.resume(&row).await
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
        for attempt in &mut attempts {
            attempt.state = AttemptState::Failed;
        }
        job.restore(attempts);
        let message = "the database did not answer, so nothing was sent; try again";
        self.conclude(&job, Err(Error::new(Code::StoreUnavailable, message))).await;
        Ok(())
    }

    async fn renew(&self) {
        let begun = Instant::now();
        if let Err(error) = self.read_clock().await {
            tracing::warn!(%error, "the lease on running jobs was not renewed");
            return;
        }
        let until = self.lease.end();
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
        // What other replicas put at risk counts for this one too.
        match risk::suspended(self.desk.db(), risk::today()).await {
            Ok(sum) => self.risk.see(sum),
            Err(error) => tracing::debug!(%error, "what is at risk today was not read"),
        }
    }

    async fn read_clock(&self) -> Result<(), DbError> {
        let begun = Instant::now();
        let millis = self.desk.db().clock().await?;
        self.lease.set_clock(begun + begun.elapsed() / 2, millis);
        Ok(())
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
        let now = if alone { i64::MAX } else { self.lease.now() };
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
            lease_until: self.lease.end(),
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
}
