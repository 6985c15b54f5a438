//! Repeats of calls: an SDK's own retry takes the place of its lost caller, and an
//! `Idempotency-Key` leads to the job that it began.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Engine,
    job::{JOIN_WINDOW, Job, Watch},
    lookup::{FOLLOW, unavailable},
    millis,
};
use crate::{
    db::{Durability, Value},
    error::{Code, Error},
    jobs::{Act, JobState},
    tenant::Grant,
};

/// How long an answer may be on its way to a repeat before another repeat may have it.
const ANSWER: Duration = Duration::from_secs(30);

impl Engine {
    /// The job that a repeat by an SDK belongs to: of this process, of another replica, or of one
    /// that is gone.
    pub async fn join(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        fingerprint: &[u8; 32],
    ) -> Result<Option<(Arc<Job>, Watch)>, Error> {
        let mut doubtful = self.doubtful(grant, fingerprint).await?;
        loop {
            if let Some(found) = self.join_now(grant, fingerprint).await? {
                return Ok(Some(found));
            }
            if doubtful.is_empty() {
                return Ok(None);
            }
            tokio::time::sleep(FOLLOW).await;
            let known = self.doubtful(grant, fingerprint).await?;
            doubtful.retain(|id, lease| known.get(id) == Some(lease));
        }
    }

    /// Such jobs of other replicas, with the ends of their leases. Their caller may have waited at
    /// a replica that is gone, which is not known before that fails to renew its lease.
    async fn doubtful(
        &self,
        grant: &Grant,
        fingerprint: &[u8; 32],
    ) -> Result<BTreeMap<String, i64>, Error> {
        const SQL: &str = "SELECT id, lease_until FROM job WHERE api_key = $1 AND fingerprint = $2 \
                           AND finished_at IS NULL AND abandoned = 0 AND owner <> $3";
        if !self.lease.is_shared() {
            return Ok(BTreeMap::new());
        }
        let params: Vec<Value> = vec![
            grant.key_id.as_str().into(),
            fingerprint.to_vec().into(),
            self.lease.owner.as_str().into(),
        ];
        let rows = self.desk.db().query(SQL, params).await.map_err(unavailable)?;
        let rows = rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?)));
        rows.collect::<Result<_, _>>().map_err(unavailable)
    }

    /// The job of a caller that is known to be gone.
    async fn join_now(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        fingerprint: &[u8; 32],
    ) -> Result<Option<(Arc<Job>, Watch)>, Error> {
        if let Some((job, watch)) = self.jobs.join(&grant.key_id, fingerprint) {
            if job.finished_at().is_some() {
                // Its answer may be cut off once more: only its end says that it arrived.
                let join = self.take_place(&job.id);
                let _ = self.desk.write(&grant.org, join, Durability::Process).await;
            } else {
                self.note_abandoned(&job);
            }
            return Ok(Some((job, watch)));
        }
        self.join_stored(grant, fingerprint).await
    }

    /// The same, out of the database.
    async fn join_stored(
        self: &Arc<Self>,
        grant: &Arc<Grant>,
        fingerprint: &[u8; 32],
    ) -> Result<Option<(Arc<Job>, Watch)>, Error> {
        let since = millis::now() - JOIN_WINDOW.as_millis() as i64;
        let sql = "SELECT id FROM job WHERE api_key = $1 AND fingerprint = $2 AND abandoned = 1 \
                   AND (finished_at IS NULL OR (finished_at > $3 AND lease_until <= $4)) \
                   AND state IN ('queued', 'running', 'succeeded', 'unknown') \
                   ORDER BY id DESC LIMIT 8";
        let params: Vec<Value> = vec![
            grant.key_id.as_str().into(),
            fingerprint.to_vec().into(),
            since.into(),
            self.lease.now().into(),
        ];
        let rows = self.desk.db().query(sql, params).await.map_err(unavailable)?;
        for row in rows {
            let id = row.text(0).map_err(unavailable)?;
            if self.jobs.any(&id).is_some() {
                // This process knows better than the row whether its caller is gone.
                continue;
            }
            if self.desk.write(&grant.org, self.take_place(&id), Durability::Process).await.is_err()
            {
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

    /// A repeat takes the place of a job's lost caller.
    fn take_place(&self, job: &str) -> Act {
        let now = self.lease.now();
        Act::Join { job: job.to_owned(), now, until: now + ANSWER.as_millis() as i64 }
    }

    /// The id of the job that an `Idempotency-Key` began; none where it is new, or where what it
    /// began failed without a bill and may be tried again.
    pub async fn known(
        &self,
        idempotency: &str,
        fingerprint: &[u8; 32],
    ) -> Result<Option<String>, Error> {
        const SQL: &str = "SELECT i.fingerprint, i.job, j.state FROM idempotency i \
                           JOIN job j ON j.id = i.job WHERE i.id = $1 \
                           AND (i.expires_at > $2 OR j.finished_at IS NULL)";
        let params = vec![idempotency.into(), millis::now().into()];
        let rows = self.desk.db().query(SQL, params).await.map_err(unavailable)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (known, job, state) = (row.bytes(0), row.text(1), row.text(2));
        if known.map_err(unavailable)? != fingerprint {
            return Err(mismatch());
        }
        let state = state.map_err(unavailable)?;
        if [JobState::Failed, JobState::Cancelled].iter().any(|failed| failed.name() == state) {
            return Ok(None);
        }
        job.map(Some).map_err(unavailable)
    }
}

/// What a caller is told that uses a key twice.
pub(super) fn mismatch() -> Error {
    let message = "this Idempotency-Key was used for another request; use a new one";
    Error::new(Code::IdempotencyMismatch, message).param("Idempotency-Key")
}
