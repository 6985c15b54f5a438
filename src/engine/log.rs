//! What one attempt writes down as it goes, so that another process can take it up.

use std::sync::Arc;

use providers::{Output, RemoteJob, Source, money::Money};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{
    Engine,
    job::{Job, Push},
    millis,
    registry::OPERATOR,
};
use crate::{
    crash::{Point, point},
    db::Durability,
    jobs::{Act, AttemptRow, AttemptState, DeskError, act::Attempts, row::attempt_id},
};

/// The records of one attempt.
#[derive(Debug)]
pub(crate) struct Log<'a> {
    pub(super) engine: &'a Engine,
    pub(super) job: &'a Arc<Job>,
    pub(super) number: i64,
}

impl Log<'_> {
    /// The provider took it: its job, and where to ask for it.
    pub(crate) async fn accepted(&self, remote: &RemoteJob) {
        self.job.set_queue_position(remote.queue_position);
        self.job.note_remote(&remote.id);
        let sealed = self.engine.seal("attempt.remote", &self.job.id, remote);
        let changed = self.job.change_attempt(self.number, |row| {
            row.state = AttemptState::Accepted;
            // What a project pays its provider is none of the operator's money.
            let operators = row.credential == OPERATOR;
            row.billed = remote.billed.filter(|_| operators).map(Money::nanos);
            row.remote = Some(sealed);
        });
        self.write(changed).await;
        point(Point::AfterAccepted);
    }

    /// Its outputs are ready to be fetched. What came along with the reply is not written down:
    /// media never goes into the database.
    pub(crate) async fn produced(&self, output: &Output) {
        if !output.pictures.iter().all(|picture| matches!(picture.source, Source::Url(_))) {
            return;
        }
        let sealed = self.engine.seal("attempt.output", &self.job.id, output);
        let changed = self.job.change_attempt(self.number, |row| {
            row.state = AttemptState::Produced;
            row.output = Some(sealed);
        });
        self.write(changed).await;
        point(Point::AfterProduced);
    }

    /// Our name of its submit.
    pub(crate) fn reference(&self) -> String {
        attempt_id(&self.job.id, self.number)
    }

    /// Where the provider is to push its end, and the secret to sign that with.
    pub(crate) fn callback(&self, provider: &str) -> Option<(String, String)> {
        let callbacks = self.engine.callbacks.as_ref()?;
        let (job, number) = (self.job.id.as_str(), self.number);
        Some((callbacks.url(provider, job, number), callbacks.secret(provider, job, number)))
    }

    /// What is pushed to it from here on.
    pub(crate) fn pushes(&self) -> Option<mpsc::Receiver<Push>> {
        self.engine.callbacks.as_ref().map(|_| self.job.expect_pushes(self.number))
    }

    /// How many jobs are ahead of it.
    pub(crate) fn queued(&self, position: Option<u64>) {
        self.job.set_queue_position(position);
    }

    /// Resolves when the job's owner wants it ended.
    pub(crate) async fn cancelled(&self) {
        self.job.cancel.cancelled().await;
    }

    /// Whether a provider's job is that of another attempt.
    pub(crate) fn is_taken(&self, remote: &str) -> bool {
        self.engine.jobs.has_remote(remote)
    }

    /// When its submit was written down, in Unix seconds.
    pub(crate) fn sent_at_s(&self) -> u64 {
        let row = self.job.change_attempt(self.number, |_| ());
        row.map_or(0, |row| u64::try_from(row.sent_at / 1000).unwrap_or(0))
    }

    /// Writes the attempt as it now is. A database that is away is written to later: what has
    /// happened at the provider has happened.
    async fn write(&self, row: Option<AttemptRow>) {
        let Some(row) = row else { return };
        let act = Act::Attempts(Attempts {
            job: self.job.id.clone(),
            epoch: self.job.epoch,
            attempts: vec![row],
        });
        let org = self.job.grant.org.clone();
        let durability = self.job.durability();
        match self.engine.desk.write(&org, act.clone(), durability).await {
            Ok(_) => {}
            Err(DeskError::Denied(denied)) => {
                tracing::warn!(job = self.job.id, ?denied, "another process has this job by now");
            }
            Err(DeskError::Unavailable(_)) => {
                let desk = self.engine.desk.clone();
                self.engine.tasks.spawn(async move {
                    let _ = desk.insist(&org, act, Durability::Full).await;
                });
            }
        }
    }
}

impl Engine {
    /// A value as it may stand in the database.
    pub(super) fn seal<T: Serialize>(&self, what: &str, job: &str, value: &T) -> Vec<u8> {
        // Types of ours cannot fail to be written.
        let plain = serde_json::to_vec(value).unwrap_or_default();
        let sealed = self.sealer.seal(&format!("{what}:{job}"), &plain);
        // Only a machine without random numbers cannot seal; then this is not kept.
        sealed
            .inspect_err(|error| tracing::error!(job, what, %error, "not sealed"))
            .unwrap_or_default()
    }

    /// A value out of the database. None where it cannot be read: under another master key, or
    /// written by another version.
    pub(super) fn unseal<T: DeserializeOwned>(
        &self,
        what: &str,
        job: &str,
        sealed: Option<&[u8]>,
    ) -> Option<T> {
        let plain = self.sealer.open(&format!("{what}:{job}"), sealed?);
        let plain =
            plain.inspect_err(|error| tracing::error!(job, what, %error, "cannot be opened"));
        serde_json::from_slice(&plain.ok()?)
            .inspect_err(|error| tracing::error!(job, what, %error, "cannot be read"))
            .ok()
    }

    /// A submit that is about to be sent, written down first. Without it nothing is sent.
    pub(super) async fn intend(&self, job: &Arc<Job>, row: AttemptRow) -> Option<AttemptRow> {
        let row = job.add_attempt(AttemptRow { sent_at: millis::now(), ..row });
        let act = Act::Attempts(Attempts {
            job: job.id.clone(),
            epoch: job.epoch,
            // With what became of those before it.
            attempts: job.attempts(),
        });
        point(Point::BeforeIntend);
        let written = self.desk.write(&job.grant.org, act, job.durability()).await;
        if let Err(error) = written {
            tracing::warn!(job = job.id, %error, "an attempt could not be written down");
            job.change_attempt(row.number, |row| row.state = AttemptState::Failed);
            return None;
        }
        point(Point::AfterIntend);
        Some(row)
    }
}
