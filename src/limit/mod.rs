//! How fast a key may ask: requests, images and tokens per minute, and jobs at once.
//!
//! Counted in this process by [`local`], or with Redis across replicas by [`shared`]. Where Redis
//! is gone each replica counts by itself, against its share. Money is never counted here.
//! `docs/decisions/0017-rate-limits.md` says why it is done so.

mod local;
mod places;
mod shared;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::config::Secret;
use local::Local;
pub use places::Permit;
use places::Places;
use shared::Shared;

/// What is counted per minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Calls.
    Requests,
    /// Pictures asked for.
    Images,
    /// Tokens, estimated beforehand and corrected afterwards.
    Tokens,
}

impl What {
    /// Its name in messages and headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Images => "images",
            Self::Tokens => "tokens",
        }
    }

    const fn headers(self) -> [&'static str; 3] {
        match self {
            Self::Requests => [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
            Self::Images => [
                "x-ratelimit-limit-images",
                "x-ratelimit-remaining-images",
                "x-ratelimit-reset-images",
            ],
            Self::Tokens => [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
        }
    }
}

/// What a call wants of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What is counted; each at most once in a call.
    pub what: What,
    /// How many a minute, which is also how many at once.
    pub limit: u32,
    /// How many this call takes; 0 only looks.
    pub cost: u32,
}

/// How a limit stands after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// What is counted.
    pub what: What,
    /// How many a minute.
    pub limit: u32,
    /// How many are left at once.
    pub remaining: u32,
    /// How long until all of them are there again.
    pub reset: Duration,
}

/// Why a call must not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too fast: it fits later.
    #[error("this key may have {limit} {} a minute; try again in {}", what.name(), span(*retry_after))]
    Later {
        /// Of what there were too many.
        what: What,
        /// How many a minute.
        limit: u32,
        /// When it fits.
        retry_after: Duration,
        /// How all its limits stand; nothing was taken.
        states: Vec<State>,
    },
    /// One call takes more than there ever is at once.
    #[error(
        "this call takes {cost} {0} and the key may have {limit} a minute; ask for fewer {0} at once",
        what.name()
    )]
    Never {
        /// Of what it takes too many.
        what: What,
        /// How many a minute.
        limit: u32,
        /// How many it takes.
        cost: u32,
    },
    /// Too many jobs at once.
    #[error("this key may run {limit} jobs at once; try again when one is over")]
    Busy {
        /// How many.
        limit: u32,
    },
}

impl Refused {
    /// When a repeat makes sense; `None` is never.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Later { retry_after, .. } => Some(*retry_after),
            Self::Never { .. } => None,
            // Nobody knows when a job will be over.
            Self::Busy { .. } => Some(Duration::from_secs(1)),
        }
    }

    /// How the limits stand, where that was looked at.
    pub fn states(&self) -> &[State] {
        match self {
            Self::Later { states, .. } => states,
            Self::Never { .. } | Self::Busy { .. } => &[],
        }
    }
}

/// The headers that tell a caller how the limits stand, as OpenAI sends them.
pub fn headers(states: &[State]) -> impl Iterator<Item = (&'static str, String)> {
    states.iter().flat_map(|state| {
        let [limit, remaining, reset] = state.what.headers();
        [
            (limit, state.limit.to_string()),
            (remaining, state.remaining.to_string()),
            (reset, span(state.reset)),
        ]
    })
}

/// A time as OpenAI writes it, which is as Go does: `0s`, `20ms`, `1.5s`, `6m0s`, `1h0m0s`.
/// Whole milliseconds, rounded up.
pub fn span(time: Duration) -> String {
    let ms = time.as_nanos().div_ceil(1_000_000);
    if ms > 0 && ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let seconds = match fraction.trim_end_matches('0') {
        "" => format!("{}s", rest / 1000),
        digits => format!("{}.{digits}s", rest / 1000),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// Why limits cannot be counted at all.
#[derive(Debug, thiserror::Error)]
#[error("redis.url cannot be used; write one such as \"redis://user:password@host:6379/0\"")]
pub struct LimitError(#[source] redis::RedisError);

/// Counts what keys ask for.
#[derive(Debug)]
pub struct Limiter {
    local: Local,
    places: Arc<Places>,
    shared: Option<Arc<Shared>>,
    born: Instant,
}

impl Limiter {
    /// Counts in this process alone, or with Redis where its URL is given; `degraded` counts the
    /// questions Redis should have answered and did not. Waits at most a second for Redis, and
    /// starts without it.
    pub async fn new(redis: Option<&Secret>, degraded: Counter) -> Result<Self, LimitError> {
        match redis {
            None => Ok(Self::over(None)),
            Some(url) => Self::sharing(url.expose(), "mediagate", degraded).await,
        }
    }

    async fn sharing(url: &str, prefix: &str, degraded: Counter) -> Result<Self, LimitError> {
        let shared = Shared::start(url, prefix, degraded).await.map_err(LimitError)?;
        Ok(Self::over(Some(shared)))
    }

    fn over(shared: Option<Arc<Shared>>) -> Self {
        let places = Arc::new(Places::new(shared.clone()));
        Self { local: Local::default(), places, shared, born: Instant::now() }
    }

    /// Takes what a call wants of all its limits, or nothing of any. `key` is the id of whom the
    /// limits are. The states come in the order of the asks.
    pub async fn admit(&self, key: &str, asks: &[Ask]) -> Result<Vec<State>, Refused> {
        if let Some(Ask { what, limit, cost }) = asks.iter().find(|ask| ask.cost > ask.limit) {
            return Err(Refused::Never { what: *what, limit: *limit, cost: *cost });
        }
        // A limit of nothing that nothing is asked of counts nothing.
        let asks: Vec<Ask> = asks.iter().copied().filter(|ask| ask.limit > 0).collect();
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let Some(shared) = &self.shared else {
            return self.local.admit(self.now(), key, &asks, 1);
        };
        match shared.admit(key, &asks).await {
            Some(answer) => answer,
            None => self.local.admit(self.now(), key, &asks, shared.replicas()),
        }
    }

    /// Books what a call took in the end, where it was charged an estimate. Never refuses.
    pub async fn correct(&self, key: &str, ask: Ask, took: u32) {
        if ask.limit == 0 || took == ask.cost {
            return;
        }
        let Some(shared) = &self.shared else {
            return self.local.correct(self.now(), key, ask, took, 1);
        };
        if shared.correct(key, ask, took).await.is_none() {
            self.local.correct(self.now(), key, ask, took, shared.replicas());
        }
    }

    /// A place among the jobs a key may run at once, until the permit is dropped.
    pub async fn enter(&self, key: &str, most: u32) -> Result<Permit, Refused> {
        Places::enter(&self.places, key, most).await
    }

    /// Nanoseconds since it was made.
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
