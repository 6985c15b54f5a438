//! What becomes of a submit nobody saw the reply of: the rungs by which its job is found again.
//!
//! A submit is written down before it is sent and its job once the vendor has named it. Between
//! the two lies a gap in which a crash, or a broken connection, leaves a job that may have been
//! taken and billed. Each adapter declares what closes the gap; where nothing does, the outcome
//! stays unknown, and the vendor is not asked for the same picture again.

use crate::{RemoteJob, Step, UpstreamError};

/// A way to find the job of a submit whose reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// The vendor takes an id of ours: asked for by it, or sent again with it, the submit makes no
    /// second job.
    ClientId,
    /// The vendor calls an address of ours, which names the submit. Only for submits that
    /// carried one ([`Call::callback_url`](crate::Call::callback_url)).
    Callback,
    /// The vendor lists the jobs of late.
    Search,
}

impl Recovery {
    /// The word used in logs and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientId => "client_id",
            Self::Callback => "callback",
            Self::Search => "search",
        }
    }
}

/// What a vendor pushed to a callback address.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// The job it speaks of: the one that was known, or one built from the push, which then
    /// closes the gap.
    pub job: RemoteJob,
    /// What follows, as after the reply to a poll: the pictures, the request that fetches them,
    /// more waiting, or how the job failed.
    pub step: Result<Step, UpstreamError>,
}

/// What a list of jobs says about a submit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The jobs that may be the submit's.
    pub jobs: Vec<RemoteJob>,
    /// Whether the list showed all there is to see: without it, an absence proves nothing.
    pub complete: bool,
}

/// What a search has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The vendor has no such job.
    Absent,
    /// This is the submit's job: go on with it.
    One(Box<RemoteJob>),
    /// There are several, or the list does not tell: the outcome stays unknown.
    Unclear,
}

impl Found {
    /// Draws the conclusion. `taken` says whether a vendor's job id is already known as that of
    /// another submit: two equal requests sent within the same minute look the same in a list.
    pub fn settle(self, taken: impl Fn(&str) -> bool) -> Settled {
        let mut free = self.jobs.into_iter().filter(|job| !taken(&job.id));
        match (free.next(), free.next()) {
            (None, _) if self.complete => Settled::Absent,
            (Some(job), None) if self.complete => Settled::One(Box::new(job)),
            _ => Settled::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RemoteState;

    #[test]
    fn only_a_single_job_of_a_whole_list_is_adopted() {
        let job = |id: &str| RemoteJob {
            id: id.to_owned(),
            state: RemoteState::Queued,
            queue_position: None,
            status_url: String::new(),
            result_url: None,
            cancel_url: None,
            billed: None,
        };
        let one = |id: &str| Settled::One(Box::new(job(id)));
        for (ids, complete, settled) in [
            (&[][..], true, Settled::Absent),
            (&[], false, Settled::Unclear),
            (&["a"], true, one("a")),
            (&["a"], false, Settled::Unclear),
            (&["a", "b"], true, Settled::Unclear),
            // Jobs of other submits are theirs.
            (&["other", "a"], true, one("a")),
            (&["other"], true, Settled::Absent),
            (&["other"], false, Settled::Unclear),
        ] {
            let found = Found { jobs: ids.iter().map(|id| job(id)).collect(), complete };
            assert_eq!(found.settle(|id| id == "other"), settled, "{ids:?} {complete}");
        }
    }
}
