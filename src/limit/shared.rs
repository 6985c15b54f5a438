//! Limits counted in Redis or Valkey, for all replicas together.
//!
//! Every question has 50 ms. The first that goes wrong drops the connection: from then on
//! questions are answered at once by who asks, until the keeper, a task beside them, has a
//! connection that answers in time.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use redis::{
    Client, Cmd, FromRedisValue, RedisError, RedisResult, Script, ScriptInvocation,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use uuid::Uuid;

use super::{Ask, Refused, State};

/// How long Redis has for an answer.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a connection may take to come about.
const CONNECTING: Duration = Duration::from_secs(1);
/// Between two tries to connect, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A connection that held so long was a good one: the next is tried for at once.
const STEADY: Duration = Duration::from_secs(10);
/// How often a replica says that it is there and renews its leases.
const BEAT: Duration = Duration::from_secs(5);
/// After so long without a word a replica is gone.
const GONE_MS: u64 = 15_000;
/// How long a place is kept for a replica that renews nothing.
const LEASE_MS: u64 = 30_000;
/// Most leases in one call of a script.
const BATCH: usize = 1000;

/// Everything shared with the other replicas.
pub(super) struct Shared {
    client: Client,
    prefix: String,
    replica: Uuid,
    link: ArcSwapOption<Link>,
    replicas: AtomicU32,
    notes: UnboundedSender<Note>,
    leases: Mutex<HashMap<String, BTreeSet<LeaseId>>>,
    next_lease: AtomicU64,
    degraded: Counter,
    scripts: Scripts,
}

/// A connection that answers, and which one it is.
struct Link {
    generation: u64,
    connection: MultiplexedConnection,
}

/// A place this replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseId(u64);

struct Scripts {
    admit: Script,
    correct: Script,
    lease: Script,
    renew: Script,
}

/// What the keeper is told.
enum Note {
    /// This connection is of no use any more.
    Lost(u64),
    /// A place is free.
    Free(String, LeaseId),
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client holds the password.
        f.debug_struct("Shared").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl Shared {
    /// Tries to connect for a second, and goes on without.
    pub(super) async fn start(
        url: &str,
        prefix: &str,
        degraded: Counter,
    ) -> Result<Arc<Self>, RedisError> {
        let (notes, told) = unbounded_channel();
        let shared = Arc::new(Self {
            client: Client::open(url)?,
            prefix: prefix.to_owned(),
            replica: Uuid::new_v4(),
            link: ArcSwapOption::empty(),
            replicas: AtomicU32::new(1),
            notes,
            leases: Mutex::default(),
            next_lease: AtomicU64::new(0),
            degraded,
            scripts: Scripts {
                admit: Script::new(include_str!("admit.lua")),
                correct: Script::new(include_str!("correct.lua")),
                lease: Script::new(include_str!("lease.lua")),
                renew: Script::new(include_str!("renew.lua")),
            },
        });
        let first = shared.connect().await;
        match &first {
            Ok(connection) => shared.publish(0, connection),
            Err(error) => shared.warn(error),
        }
        let mut farewell = redis::cmd("ZREM");
        farewell.arg(shared.replicas_key()).arg(shared.replica.to_string());
        tokio::spawn(keep(Arc::downgrade(&shared), told, first.ok(), farewell));
        Ok(shared)
    }

    /// How many replicas there were when Redis was last heard of, this one included.
    pub(super) fn replicas(&self) -> u32 {
        self.replicas.load(Relaxed).max(1)
    }

    #[cfg(test)]
    pub(super) fn is_connected(&self) -> bool {
        self.link.load().is_some()
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.leases.lock().is_empty()
    }

    /// Takes all or nothing; `None` where Redis does not answer.
    pub(super) async fn admit(
        &self,
        key: &str,
        asks: &[Ask],
    ) -> Option<Result<Vec<State>, Refused>> {
        let mut script = self.scripts.admit.prepare_invoke();
        for ask in asks {
            script.key(self.limit_key(key, *ask)).arg(ask.limit.min(MOST)).arg(ask.cost.min(MOST));
        }
        let answer: Vec<u64> = self.ask(&script).await?;
        read_answer(asks, &answer)
    }

    /// Books a difference; `None` where Redis does not answer.
    pub(super) async fn correct(&self, key: &str, ask: Ask, took: u32) -> Option<()> {
        let difference = i64::from(took.min(MOST)) - i64::from(ask.cost.min(MOST));
        let mut script = self.scripts.correct.prepare_invoke();
        script.key(self.limit_key(key, ask)).arg(ask.limit.min(MOST)).arg(difference);
        self.ask::<u64>(&script).await.map(drop)
    }

    /// Whether there was a place; `None` where Redis does not answer.
    pub(super) async fn lease(&self, key: &str, most: u32, lease: LeaseId) -> Option<bool> {
        let mut script = self.scripts.lease.prepare_invoke();
        script.key(self.places_key(key)).arg(most).arg(LEASE_MS).arg(self.taker(lease));
        self.ask(&script).await
    }

    pub(super) fn new_lease(&self) -> LeaseId {
        LeaseId(self.next_lease.fetch_add(1, Relaxed))
    }

    /// Renews a lease from now on.
    pub(super) fn hold(&self, key: &str, lease: LeaseId) {
        self.leases.lock().entry(key.to_owned()).or_default().insert(lease);
    }

    /// Gives a place back, soon.
    pub(super) fn release(&self, key: &str, lease: LeaseId) {
        let mut leases = self.leases.lock();
        if let Some(held) = leases.get_mut(key) {
            held.remove(&lease);
            if held.is_empty() {
                leases.remove(key);
            }
        }
        drop(leases);
        let _ = self.notes.send(Note::Free(key.to_owned(), lease));
    }

    async fn ask<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Option<T> {
        let Some(link) = self.link.load_full() else {
            self.degraded.inc();
            return None;
        };
        match in_time(script.invoke_async(&mut link.connection.clone())).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.degraded.inc();
                self.lose(link.generation, &error);
                None
            }
        }
    }

    fn publish(&self, generation: u64, connection: &MultiplexedConnection) {
        self.link.store(Some(Arc::new(Link { generation, connection: connection.clone() })));
        tracing::info!("rate limits are shared through redis");
    }

    /// Gives a connection up. Whoever is first says so; there may be a newer one by now.
    fn lose(&self, generation: u64, error: &RedisError) {
        let link = self.link.load();
        if link.as_ref().is_none_or(|link| link.generation != generation) {
            return;
        }
        let before = self.link.compare_and_swap(&link, None);
        if before.as_ref().is_some_and(|before| before.generation == generation) {
            self.warn(error);
            let _ = self.notes.send(Note::Lost(generation));
        }
    }

    fn warn(&self, error: &RedisError) {
        tracing::warn!(
            %error,
            "redis is out of reach: this replica counts rate limits itself, against 1/{} of each",
            self.replicas()
        );
    }

    /// Frees a place.
    async fn free(
        &self,
        connection: &mut MultiplexedConnection,
        key: &str,
        lease: LeaseId,
    ) -> RedisResult<()> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.places_key(key)).arg(self.taker(lease));
        in_time(command.query_async(connection)).await
    }

    /// A connection that answers in time.
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let connecting = self.client.get_multiplexed_async_connection();
        let mut connection = timeout(CONNECTING, connecting).await.map_err(|_| late())??;
        self.beat(&mut connection).await?;
        Ok(connection)
    }

    /// Says that this replica is there, counts the others, and renews the leases.
    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let key = self.replicas_key();
        let now: (u64, u64) = in_time(redis::cmd("TIME").query_async(connection)).await?;
        let now = now.0 * 1000 + now.1 / 1000;
        let mut pipe = redis::pipe();
        pipe.zadd(&key, self.replica.to_string(), now).ignore();
        pipe.zrembyscore(&key, "-inf", now.saturating_sub(GONE_MS)).ignore();
        pipe.zrembyscore(&key, now + GONE_MS, "+inf").ignore();
        pipe.pexpire(&key, 4 * GONE_MS.cast_signed()).ignore();
        pipe.zcard(&key);
        let (count,): (u32,) = in_time(pipe.query_async(connection)).await?;
        self.replicas.store(count, Relaxed);
        for (key, leases) in self.held() {
            for leases in leases.chunks(BATCH) {
                let mut script = self.scripts.renew.prepare_invoke();
                script.key(self.places_key(&key)).arg(LEASE_MS);
                for lease in leases {
                    script.arg(self.taker(*lease));
                }
                in_time(script.invoke_async::<u64>(connection)).await?;
            }
        }
        Ok(())
    }

    fn held(&self) -> Vec<(String, Vec<LeaseId>)> {
        let leases = self.leases.lock();
        leases.iter().map(|(key, held)| (key.clone(), held.iter().copied().collect())).collect()
    }

    /// All keys of one caller carry one hash tag, so that a cluster keeps them together.
    fn limit_key(&self, key: &str, ask: Ask) -> String {
        format!("{}:gcra1:{{{key}}}:{}", self.prefix, ask.what.name())
    }

    fn replicas_key(&self) -> String {
        format!("{}:replicas1", self.prefix)
    }

    fn places_key(&self, key: &str) -> String {
        format!("{}:jobs1:{{{key}}}", self.prefix)
    }

    fn taker(&self, lease: LeaseId) -> String {
        format!("{}:{}", self.replica, lease.0)
    }
}

/// A limit beyond this is counted as this, so that the scripts stay exact in doubles.
const MOST: u32 = 100_000_000;

/// Reads the answer of `admit.lua`; anything else is none.
fn read_answer(asks: &[Ask], answer: &[u64]) -> Option<Result<Vec<State>, Refused>> {
    let (admitted, rows) = answer.split_first()?;
    let (rows, []) = rows.as_chunks::<3>() else { return None };
    if rows.len() != asks.len() {
        return None;
    }
    let both = || asks.iter().zip(rows);
    let states = both().map(|(ask, [remaining, reset, _])| State {
        what: ask.what,
        limit: ask.limit,
        remaining: u32::try_from(*remaining).unwrap_or(u32::MAX),
        reset: Duration::from_micros(*reset),
    });
    let states = states.collect();
    if *admitted == 1 {
        return Some(Ok(states));
    }
    let (ask, [.., wait]) = both().max_by_key(|(_, [.., wait])| *wait)?;
    let retry_after = Duration::from_micros(*wait);
    Some(Err(Refused::Later { what: ask.what, limit: ask.limit, retry_after, states }))
}

async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(PATIENCE, answer).await.map_err(|_| late())?
}

fn late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// The keeper: holds a good connection, says that the replica lives, frees places. Ends with the
/// last user of the limits.
async fn keep(
    shared: Weak<Shared>,
    mut told: UnboundedReceiver<Note>,
    mut first: Option<MultiplexedConnection>,
    farewell: Cmd,
) {
    let mut backoff = BACKOFF.0;
    for generation in 0.. {
        let mut connection = if let Some(connection) = first.take() {
            connection
        } else {
            let next = reconnect(&shared, &mut told, &mut backoff).await;
            let (Some(connection), Some(shared)) = (next, shared.upgrade()) else { return };
            shared.publish(generation, &connection);
            connection
        };
        let since = Instant::now();
        if !serve(&shared, &mut told, generation, &mut connection).await {
            // The others may take its share at once; if not, they do when it is silent.
            let _ = in_time(farewell.query_async::<()>(&mut connection)).await;
            return;
        }
        if since.elapsed() > STEADY {
            backoff = BACKOFF.0;
        }
    }
}

/// Tries until there is a connection, or nobody to use it.
async fn reconnect(
    shared: &Weak<Shared>,
    told: &mut UnboundedReceiver<Note>,
    backoff: &mut Duration,
) -> Option<MultiplexedConnection> {
    loop {
        sleep(*backoff).await;
        *backoff = (*backoff * 2).min(BACKOFF.1);
        if let Ok(connection) = shared.upgrade()?.connect().await {
            return Some(connection);
        }
        // Places that are freed meanwhile end by themselves: they are not renewed.
        while told.try_recv().is_ok() {}
    }
}

/// Serves until the connection is of no use (true) or nobody uses it (false).
async fn serve(
    shared: &Weak<Shared>,
    told: &mut UnboundedReceiver<Note>,
    generation: u64,
    connection: &mut MultiplexedConnection,
) -> bool {
    let mut beats = interval_at(Instant::now() + BEAT, BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let note = tokio::select! {
            note = told.recv() => Some(note),
            _ = beats.tick() => None,
        };
        let Some(shared) = shared.upgrade() else { return false };
        let result = match note {
            None => shared.beat(connection).await,
            Some(None) => return false,
            Some(Some(Note::Free(key, lease))) => shared.free(connection, &key, lease).await,
            Some(Some(Note::Lost(of))) if of == generation => return true,
            Some(Some(Note::Lost(_))) => Ok(()),
        };
        if let Err(error) = result {
            shared.lose(generation, &error);
            return true;
        }
    }
}
