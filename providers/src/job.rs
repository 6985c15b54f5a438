//! What queues have in common: a job that is known by its id and asked after at an address.

use crate::{Call, RemoteJob, RemoteState, Step, WireRequest};

impl RemoteJob {
    /// A job just taken, of which nothing is known but where its state is told.
    pub(crate) fn new(id: &str, status_url: String) -> Self {
        Self {
            id: id.to_owned(),
            state: RemoteState::Queued,
            queue_position: None,
            status_url,
            result_url: None,
            cancel_url: None,
            billed: None,
        }
    }

    /// The same job, which ends when its own address is deleted.
    pub(crate) fn deletable(self) -> Self {
        Self { cancel_url: Some(self.status_url.clone()), ..self }
    }

    /// The request that deletes it, where it may be deleted.
    pub(crate) fn delete(&self, call: &Call<'_>) -> Option<WireRequest> {
        let url = self.cancel_url.as_deref().filter(|url| call.may_follow(url))?;
        Some(WireRequest { method: "DELETE", ..WireRequest::get(url) })
    }

    /// The same job, being worked on.
    pub(crate) fn running(&self) -> Self {
        Self { state: RemoteState::Running, ..self.clone() }
    }

    /// Its state is asked for, sooner or later.
    pub(crate) fn wait(self) -> Step {
        let poll = WireRequest::get(&self.status_url);
        Step::Wait { job: self, poll, listen: None }
    }
}
