//! Whether this process may act on its jobs.
//!
//! Beside PostgreSQL several processes may work: each renews a lease on its jobs, and one that
//! cannot must not buy any more, for another may have taken its jobs over. A SQLite file belongs
//! to the one process that holds the lock on it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a lease lasts.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed.
pub const RENEW: Duration = Duration::from_secs(5);
/// What must be left of it before a submit: connecting and sending takes no longer.
const MARGIN: Duration = Duration::from_secs(6);

/// The lease of this process on its jobs.
#[derive(Debug)]
pub struct Lease {
    /// The name of this process in the database.
    pub owner: String,
    until: Option<Mutex<Instant>>,
}

impl Lease {
    /// The lease of a new process. Where `shared`, it must be renewed.
    pub fn new(shared: bool) -> Self {
        Self {
            owner: format!("own_{}", uuid::Uuid::now_v7().simple()),
            until: shared.then(|| Mutex::new(Instant::now() + LEASE)),
        }
    }

    /// Whether other processes may take over what this one drops.
    pub fn is_shared(&self) -> bool {
        self.until.is_some()
    }

    /// It was renewed at `at`, which is when the renewal was begun.
    pub fn renewed(&self, at: Instant) {
        if let Some(until) = &self.until {
            *until.lock() = at + LEASE;
        }
    }

    /// Whether enough is left to send something that costs money.
    pub fn is_safe(&self) -> bool {
        self.until.as_ref().is_none_or(|until| Instant::now() + MARGIN < *until.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_cannot_renew_stops_buying_in_time() {
        let lease = Lease::new(true);
        assert!(lease.is_safe());
        tokio::time::advance(LEASE - MARGIN).await;
        assert!(!lease.is_safe());
        lease.renewed(Instant::now());
        assert!(lease.is_safe());
        let alone = Lease::new(false);
        tokio::time::advance(LEASE * 10).await;
        assert!(alone.is_safe());
    }
}
