//! Whether this process may act on its jobs.
//!
//! Beside PostgreSQL several processes may work: each renews a lease on its jobs, and one that
//! cannot must not buy any more, for another may have taken its jobs over. Leases are told by the
//! database's clock: those of the machines may differ, and may be set. A SQLite file belongs to
//! the one process that holds the lock on it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::millis;

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
    until: Option<Mutex<Until>>,
}

#[derive(Debug)]
struct Until {
    lease: Instant,
    /// When it last ran out: what began before may be another process' by now.
    lapsed: Option<Instant>,
    /// What the database's clock said, and when.
    clock: Option<(Instant, i64)>,
}

impl Lease {
    /// The lease of a new process. Where `shared`, it must be renewed.
    pub fn new(shared: bool) -> Self {
        Self {
            owner: format!("own_{}", uuid::Uuid::now_v7().simple()),
            until: shared.then(|| {
                Mutex::new(Until { lease: Instant::now() + LEASE, lapsed: None, clock: None })
            }),
        }
    }

    /// Whether other processes may take over what this one drops.
    pub fn is_shared(&self) -> bool {
        self.until.is_some()
    }

    /// The database's clock said `millis` at `at`.
    pub fn set_clock(&self, at: Instant, millis: i64) {
        if let Some(until) = &self.until {
            until.lock().clock = Some((at, millis));
        }
    }

    /// Unix milliseconds by the clock that leases are told by.
    pub fn now(&self) -> i64 {
        let clock = self.until.as_ref().and_then(|until| until.lock().clock);
        clock.map_or_else(millis::now, |(at, millis)| {
            millis.saturating_add(i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// When a lease that begins now runs out, Unix milliseconds by that clock.
    pub fn end(&self) -> i64 {
        self.now().saturating_add(LEASE.as_millis() as i64)
    }

    /// It was renewed at `at`, which is when the renewal was begun.
    pub fn renewed(&self, at: Instant) {
        if let Some(until) = &self.until {
            let mut until = until.lock();
            if Instant::now() >= until.lease {
                until.lapsed = Some(Instant::now());
            }
            until.lease = at + LEASE;
        }
    }

    /// Gives it up: from here on nothing is sent that costs money.
    pub fn give_up(&self) {
        if let Some(until) = &self.until {
            let now = Instant::now();
            let mut until = until.lock();
            (until.lease, until.lapsed) = (now, Some(now));
        }
    }

    /// Whether something that costs money may be sent for a job that began at `begun`: enough of
    /// the lease is left, and it has not run out since.
    pub fn is_safe(&self, begun: Instant) -> bool {
        self.until.as_ref().is_none_or(|until| {
            let until = until.lock();
            Instant::now() + MARGIN < until.lease && until.lapsed.is_none_or(|at| begun > at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leases_are_told_by_the_clock_of_the_database() {
        let hour = Duration::from_hours(1).as_millis() as i64;
        let (ahead, behind) = (Lease::new(true), Lease::new(true));
        // Whatever the machines' own clocks say, both count from what the database said.
        let said = millis::now() + hour;
        ahead.set_clock(Instant::now(), said);
        tokio::time::advance(Duration::from_secs(2)).await;
        behind.set_clock(Instant::now(), said + 2000);
        assert_eq!((ahead.now(), behind.now()), (said + 2000, said + 2000));
        assert_eq!(ahead.end(), said + 2000 + LEASE.as_millis() as i64);
        // A file of its own needs no other clock.
        let alone = Lease::new(false);
        alone.set_clock(Instant::now(), said);
        assert!((alone.now() - millis::now()).abs() < 60_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_cannot_renew_stops_buying_in_time() {
        let lease = Lease::new(true);
        let begun = Instant::now();
        assert!(lease.is_safe(begun));
        tokio::time::advance(LEASE.checked_sub(MARGIN).unwrap()).await;
        assert!(!lease.is_safe(begun));
        lease.renewed(Instant::now());
        assert!(lease.is_safe(begun));
        // It ran out: jobs from before may have been taken, new ones are its own.
        tokio::time::advance(LEASE).await;
        lease.renewed(Instant::now());
        assert!(!lease.is_safe(begun));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(lease.is_safe(Instant::now()));
        lease.give_up();
        assert!(!lease.is_safe(Instant::now()));
        let alone = Lease::new(false);
        tokio::time::advance(LEASE * 10).await;
        assert!(alone.is_safe(begun));
    }
}
