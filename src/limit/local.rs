//! Limits counted in this process, by `governor`.
//!
//! A `governor` limiter knows one limit, and what it took it keeps. A call has up to three, which
//! must be taken together or not at all: so each limiter is given a state that can be put back,
//! and all limiters of a key are asked under one lock.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use parking_lot::Mutex;

use super::{Ask, Refused, State, What};

const MINUTE: u64 = 60_000_000_000;
/// Keys are spread over so many locks.
const SHARDS: usize = 16;
/// A shard is swept of idle keys when it has grown to twice what was left, at least this many.
const SWEEP: usize = 256;

/// All limits of all keys.
#[derive(Debug)]
pub(super) struct Local {
    shards: [Mutex<Shard>; SHARDS],
    hash: RandomState,
}

#[derive(Debug)]
struct Shard {
    keys: HashMap<String, Vec<Cell>>,
    sweep_at: usize,
}

/// One limit of one key.
#[derive(Debug)]
struct Cell {
    what: What,
    burst: NonZeroU32,
    /// Nanoseconds for one.
    interval: u64,
    times: Times,
    limiter: RateLimiter<NotKeyed, Times, Times, NoOpMiddleware<Nanos>>,
}

/// The clock and the memory of one limiter, in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Times(Arc<Pair>);

#[derive(Debug, Default)]
struct Pair {
    now: AtomicU64,
    /// Until when the limit is used up; 0 is never used.
    until: AtomicU64,
}

impl Clock for Times {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.now.load(Relaxed))
    }
}

impl StateStore for Times {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // Whoever asks holds the lock of the shard.
        let until = self.0.until.load(Relaxed);
        let (outcome, after) = decide((until != 0).then_some(Nanos::new(until)))?;
        self.0.until.store(after.as_u64(), Relaxed);
        Ok(outcome)
    }
}

impl Cell {
    fn new(what: What, burst: NonZeroU32) -> Option<Self> {
        // Rounded up, so that it is never faster than the limit.
        let interval = MINUTE.div_ceil(u64::from(burst.get()));
        let quota = Quota::with_period(Duration::from_nanos(interval))?.allow_burst(burst);
        // The limiter takes the time now as its beginning: 0, from which all times count.
        let times = Times::default();
        let limiter = RateLimiter::new(quota, times.clone(), times.clone());
        Some(Self { what, burst, interval, times, limiter })
    }

    fn until(&self) -> u64 {
        self.times.0.until.load(Relaxed)
    }

    fn set_until(&self, until: u64) {
        self.times.0.until.store(until, Relaxed);
    }

    /// Takes so many, at most the burst, or says how long until they are there.
    fn take(&self, now: u64, cost: u32) -> Result<(), Duration> {
        self.times.0.now.store(now, Relaxed);
        let Some(cost) = NonZeroU32::new(cost.min(self.burst.get())) else { return Ok(()) };
        match self.limiter.check_n(cost) {
            Ok(Err(not_yet)) => Err(not_yet.wait_time_from(Nanos::new(now))),
            // More than the burst was ruled out above.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    fn state(&self, now: u64, limit: u32) -> State {
        let used = self.until().saturating_sub(now);
        let left = (self.interval * u64::from(self.burst.get())).saturating_sub(used);
        State {
            what: self.what,
            limit,
            remaining: u32::try_from(left / self.interval).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(used),
        }
    }
}

impl Default for Local {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { keys: HashMap::new(), sweep_at: SWEEP });
        Self { shards: std::array::from_fn(|_| shard()), hash: RandomState::new() }
    }
}

impl Local {
    /// Takes all or nothing. `now` counts nanoseconds from any beginning; `replicas` share the
    /// limits.
    pub(super) fn admit(
        &self,
        now: u64,
        key: &str,
        asks: &[Ask],
        replicas: u32,
    ) -> Result<Vec<State>, Refused> {
        let mut shard = self.shard(key).lock();
        let cells = shard.cells(now, key);
        let mut taken = Vec::with_capacity(asks.len());
        let mut longest: Option<(Duration, Ask)> = None;
        for ask in asks {
            let Some(cell) = find(cells, *ask, replicas) else { continue };
            taken.push((cell, cells[cell].until(), ask.limit));
            if let Err(wait) = cells[cell].take(now, ask.cost)
                && longest.is_none_or(|(longest, _)| wait > longest)
            {
                longest = Some((wait, *ask));
            }
        }
        if longest.is_some() {
            for (cell, before, _) in &taken {
                cells[*cell].set_until(*before);
            }
        }
        let states = taken.iter().map(|(cell, _, limit)| cells[*cell].state(now, *limit)).collect();
        match longest {
            None => Ok(states),
            Some((retry_after, Ask { what, limit, .. })) => {
                Err(Refused::Later { what, limit, retry_after, states })
            }
        }
    }

    /// Books what was taken in place of what was charged.
    pub(super) fn correct(&self, now: u64, key: &str, ask: Ask, took: u32, replicas: u32) {
        let mut shard = self.shard(key).lock();
        let cells = shard.cells(now, key);
        let Some(cell) = find(cells, ask, replicas).and_then(|cell| cells.get(cell)) else {
            return;
        };
        let base = cell.until().max(now);
        let difference =
            |more: u32, less: u32| cell.interval.saturating_mul(u64::from(more - less));
        let until = if took > ask.cost {
            // Nobody owes more than a minute.
            let most = now + cell.interval * u64::from(cell.burst.get());
            base.saturating_add(difference(took, ask.cost)).min(most)
        } else {
            base.saturating_sub(difference(ask.cost, took)).max(now)
        };
        cell.set_until(until);
    }

    fn shard(&self, key: &str) -> &Mutex<Shard> {
        &self.shards[self.hash.hash_one(key) as usize % SHARDS]
    }
}

impl Shard {
    fn cells(&mut self, now: u64, key: &str) -> &mut Vec<Cell> {
        if !self.keys.contains_key(key) && self.keys.len() >= self.sweep_at {
            // A key that owes nothing is as good as new.
            self.keys.retain(|_, cells| cells.iter().any(|cell| cell.until() > now));
            self.sweep_at = SWEEP.max(2 * self.keys.len());
        }
        self.keys.entry(key.to_owned()).or_default()
    }
}

/// The place of a limit among those of its key; a changed limit begins anew.
fn find(cells: &mut Vec<Cell>, ask: Ask, replicas: u32) -> Option<usize> {
    let burst = NonZeroU32::new(ask.limit / replicas.max(1)).unwrap_or(NonZeroU32::MIN);
    match cells.iter().position(|cell| cell.what == ask.what) {
        Some(at) if cells[at].burst == burst => Some(at),
        Some(at) => {
            cells[at] = Cell::new(ask.what, burst)?;
            Some(at)
        }
        None => {
            cells.push(Cell::new(ask.what, burst)?);
            Some(cells.len() - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn requests(limit: u32, cost: u32) -> Ask {
        Ask { what: What::Requests, limit, cost }
    }

    fn images(limit: u32, cost: u32) -> Ask {
        Ask { what: What::Images, limit, cost }
    }

    fn retry_after(refused: &Refused) -> Duration {
        refused.retry_after().unwrap()
    }

    #[test]
    fn the_burst_is_the_limit_and_not_one_more_or_less() {
        for limit in [1, 2, 7, 60, 1000] {
            let local = Local::default();
            for left in (0..limit).rev() {
                let states = local.admit(5, "k", &[requests(limit, 1)], 1).unwrap();
                assert_eq!(states[0].remaining, left, "of {limit}");
            }
            let refused = local.admit(5, "k", &[requests(limit, 1)], 1).unwrap_err();
            let wait = retry_after(&refused).as_nanos() as u64;
            assert_eq!(wait, MINUTE.div_ceil(u64::from(limit)));
            assert!(local.admit(5 + wait - 1, "k", &[requests(limit, 1)], 1).is_err());
            assert!(local.admit(5 + wait, "k", &[requests(limit, 1)], 1).is_ok());
            // Whole at once is the same as one by one.
            assert!(local.admit(5, "other", &[requests(limit, limit)], 1).is_ok());
            assert!(local.admit(5, "other", &[requests(limit, 1)], 1).is_err());
        }
    }

    #[test]
    fn all_is_taken_or_nothing() {
        let local = Local::default();
        let both = [requests(10, 1), images(4, 3)];
        let states = local.admit(0, "k", &both, 1).unwrap();
        assert_eq!([states[0].remaining, states[1].remaining], [9, 1]);
        let Refused::Later { what, limit, retry_after, states } =
            local.admit(0, "k", &both, 1).unwrap_err()
        else {
            panic!("refused for ever");
        };
        assert_eq!((what, limit, retry_after), (What::Images, 4, Duration::from_secs(30)));
        assert_eq!([states[0].remaining, states[1].remaining], [9, 1]);
        // In the other order too.
        let other = [images(4, 3), requests(10, 1)];
        local.admit(0, "k", &other, 1).unwrap_err();
        let looked = local.admit(0, "k", &[requests(10, 0), images(4, 0)], 1).unwrap();
        assert_eq!([looked[0].remaining, looked[1].remaining], [9, 1]);
    }

    #[test]
    fn the_longest_wait_counts() {
        let local = Local::default();
        local.admit(0, "k", &[requests(60, 60), images(2, 2)], 1).unwrap();
        let refused = local.admit(0, "k", &[requests(60, 10), images(2, 1)], 1).unwrap_err();
        assert_eq!(retry_after(&refused), Duration::from_secs(30));
        let refused = local.admit(0, "k", &[requests(60, 40), images(2, 1)], 1).unwrap_err();
        assert_eq!(retry_after(&refused), Duration::from_secs(40));
    }

    #[test]
    fn the_reset_tells_when_all_is_there_again() {
        let local = Local::default();
        let state = local.admit(0, "k", &[requests(60, 3)], 1).unwrap()[0];
        assert_eq!((state.remaining, state.reset), (57, Duration::from_secs(3)));
        let state = local.admit(SECOND * 5 / 2, "k", &[requests(60, 0)], 1).unwrap()[0];
        assert_eq!((state.remaining, state.reset), (59, Duration::from_millis(500)));
        let state = local.admit(SECOND * 9, "k", &[requests(60, 0)], 1).unwrap()[0];
        assert_eq!((state.remaining, state.reset), (60, Duration::ZERO));
    }

    #[test]
    fn keys_do_not_share_and_a_changed_limit_begins_anew() {
        let local = Local::default();
        local.admit(0, "a", &[requests(1, 1)], 1).unwrap();
        local.admit(0, "b", &[requests(1, 1)], 1).unwrap();
        local.admit(0, "a", &[requests(1, 1)], 1).unwrap_err();
        local.admit(0, "a", &[requests(2, 2)], 1).unwrap();
    }

    #[test]
    fn replicas_share_a_limit() {
        let local = Local::default();
        let state = local.admit(0, "k", &[requests(10, 1)], 4).unwrap()[0];
        assert_eq!((state.limit, state.remaining), (10, 1));
        local.admit(0, "k", &[requests(10, 1)], 4).unwrap();
        local.admit(0, "k", &[requests(10, 1)], 4).unwrap_err();
        // What fits the limit but not the share takes the whole share.
        local.admit(0, "big", &[requests(10, 8)], 4).unwrap();
        local.admit(0, "big", &[requests(10, 1)], 4).unwrap_err();
        // The smallest share is one.
        local.admit(0, "small", &[requests(2, 1)], 4).unwrap();
        local.admit(0, "small", &[requests(2, 1)], 4).unwrap_err();
    }

    #[test]
    fn an_estimate_is_corrected_both_ways() {
        let local = Local::default();
        let tokens = |cost| Ask { what: What::Tokens, limit: 1000, cost };
        let left = |now| local.admit(now, "k", &[tokens(0)], 1).unwrap()[0].remaining;
        local.admit(0, "k", &[tokens(600)], 1).unwrap();
        local.correct(0, "k", tokens(600), 100, 1);
        assert_eq!(left(0), 900);
        local.correct(0, "k", tokens(100), 700, 1);
        assert_eq!(left(0), 300);
        // More than there is: nothing is left, and a minute later all of it.
        local.correct(0, "k", tokens(0), u32::MAX, 1);
        assert_eq!(left(0), 0);
        assert_eq!(left(60 * SECOND), 1000);
        // Less than nothing was never taken.
        local.correct(60 * SECOND, "k", tokens(u32::MAX), 0, 1);
        assert_eq!(left(60 * SECOND), 1000);
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let local = Local::default();
        let count = || local.shards.iter().map(|shard| shard.lock().keys.len()).sum::<usize>();
        for i in 0..50_000_u64 {
            local.admit(i * SECOND, &format!("k{i}"), &[requests(60, 1)], 1).unwrap();
        }
        assert!(count() <= SHARDS * SWEEP, "{} keys are kept", count());
        // But none that still owes.
        let local = Local::default();
        for i in 0..20_000_u64 {
            local.admit(0, &format!("k{i}"), &[requests(1, 1)], 1).unwrap();
        }
        for i in 0..20_000_u64 {
            local.admit(SECOND, &format!("k{i}"), &[requests(1, 1)], 1).unwrap_err();
        }
    }

    proptest! {
        /// In no window more than the burst and what the rate brings in its time; and whoever
        /// waits as told is let in.
        #[test]
        fn no_window_has_more_than_burst_and_rate(
            limit in prop_oneof![1..200_u32, Just(7_000_001), Just(100_000_000)],
            calls in prop::collection::vec((0..5_000_u64, 1..60_u32), 1..80),
        ) {
            let local = Local::default();
            let (mut now, mut taken) = (0_u64, Vec::new());
            for (ms, share) in calls {
                now += ms * 1_000_003;
                let cost = (u64::from(limit) * u64::from(share) / 60).max(1) as u32;
                if let Err(refused) = local.admit(now, "k", &[requests(limit, cost)], 1) {
                    now += refused.retry_after().unwrap().as_nanos() as u64;
                    prop_assert!(local.admit(now, "k", &[requests(limit, cost)], 1).is_ok());
                }
                taken.push((now, u128::from(cost)));
            }
            for (i, (begin, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (end, cost) in &taken[i..] {
                    sum += cost;
                    let rate = u128::from(end - begin) * u128::from(limit);
                    prop_assert!(sum * u128::from(MINUTE) <= u128::from(limit) * u128::from(MINUTE) + rate);
                }
            }
        }
    }
}
