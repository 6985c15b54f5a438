//! Limits over a real Redis or Valkey, at the URL in `MEDIAGATE_TEST_REDIS`.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU8, Ordering::SeqCst},
    time::Instant as Clock,
};

use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use uuid::Uuid;

use super::*;

fn requests(limit: u32, cost: u32) -> Ask {
    Ask { what: What::Requests, limit, cost }
}

#[test]
fn times_are_written_as_openai_writes_them() {
    for (micros, text) in [
        (0, "0s"),
        (1, "1ms"),
        (20_000, "20ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (8_640_000, "8.64s"),
        (59_999_999, "1m0s"),
        (60_500_000, "1m0.5s"),
        (360_000_000, "6m0s"),
        (3_600_000_000, "1h0m0s"),
        (90_061_001_000, "25h1m1.001s"),
    ] {
        assert_eq!(span(Duration::from_micros(micros)), text);
    }
}

#[test]
fn headers_are_those_of_openai() {
    let state = |what| State { what, limit: 60, remaining: 59, reset: Duration::from_secs(1) };
    let all: Vec<_> = headers(&[state(What::Requests), state(What::Tokens)])
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let wanted = [
        "x-ratelimit-limit-requests: 60",
        "x-ratelimit-remaining-requests: 59",
        "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-tokens: 60",
        "x-ratelimit-remaining-tokens: 59",
        "x-ratelimit-reset-tokens: 1s",
    ];
    assert_eq!(all, wanted);
    assert_eq!(headers(&[state(What::Images)]).count(), 3);
}

#[tokio::test]
async fn a_call_that_never_fits_is_told_so() {
    let limiter = Limiter::new(None, Counter::default()).await.unwrap();
    let images = |limit, cost| Ask { what: What::Images, limit, cost };
    let refused = limiter.admit("k", &[requests(9, 1), images(4, 5)]).await.unwrap_err();
    assert_eq!(refused, Refused::Never { what: What::Images, limit: 4, cost: 5 });
    assert_eq!(refused.retry_after(), None);
    assert_eq!(
        refused.to_string(),
        "this call takes 5 images and the key may have 4 a minute; ask for fewer images at once"
    );
    assert!(limiter.admit("k", &[requests(0, 1)]).await.is_err());
    assert_eq!(limiter.admit("k", &[requests(0, 0)]).await, Ok(Vec::new()));
    let states = limiter.admit("k", &[requests(9, 9)]).await.unwrap();
    assert_eq!(states[0].remaining, 0, "nothing was taken before");
    let refused = limiter.admit("k", &[requests(9, 1)]).await.unwrap_err();
    assert!(
        refused.to_string().starts_with("this key may have 9 requests a minute; try again in 6.")
    );
}

#[tokio::test]
async fn jobs_at_once_are_counted_until_they_are_over() {
    let limiter = Limiter::new(None, Counter::default()).await.unwrap();
    let (one, two) = (limiter.enter("k", 2).await.unwrap(), limiter.enter("k", 2).await.unwrap());
    let refused = limiter.enter("k", 2).await.unwrap_err();
    assert_eq!(refused, Refused::Busy { limit: 2 });
    assert!(refused.retry_after().is_some());
    let other = limiter.enter("other", 1).await.unwrap();
    drop(one);
    let three = limiter.enter("k", 2).await.unwrap();
    drop((two, three, other));
    assert!(limiter.places.is_empty(), "nothing is kept of keys that run nothing");
    assert!(limiter.enter("k", 0).await.is_err());
}

/// The URL of a server for tests; says loudly where there is none.
#[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of the gateway")]
fn server() -> Option<String> {
    let url = std::env::var("MEDIAGATE_TEST_REDIS").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        eprintln!("SKIPPED {test}: set MEDIAGATE_TEST_REDIS=redis://127.0.0.1:6379");
    }
    url
}

/// A name space of its own for a test.
fn prefix() -> String {
    format!("test-{}", Uuid::new_v4())
}

async fn raw(url: &str) -> MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Repeats a test in which the machine was too slow for Redis to answer in time.
async fn undisturbed<F: Future<Output = ()>>(test: impl Fn(Counter) -> F) {
    for _ in 0..20 {
        let late = Counter::default();
        let outcome = std::panic::AssertUnwindSafe(test(late.clone()));
        let outcome = futures_util::FutureExt::catch_unwind(outcome).await;
        match outcome {
            Ok(()) if late.get() == 0 => return,
            Err(panic) if late.get() == 0 => std::panic::resume_unwind(panic),
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
    panic!("redis never answered in time");
}

#[tokio::test]
async fn two_replicas_share_one_burst() {
    let Some(url) = server() else { return };
    undisturbed(|late| {
        let url = url.clone();
        async move {
            let (prefix, begun) = (prefix(), Clock::now());
            let a = Limiter::sharing(&url, &prefix, late.clone()).await.unwrap();
            let b = Limiter::sharing(&url, &prefix, late.clone()).await.unwrap();
            let asks = [requests(50, 1)];
            let calls = (0..200).map(|i| if i % 2 == 0 { &a } else { &b }.admit("k", &asks));
            let answers = futures_util::future::join_all(calls).await;
            let admitted = answers.iter().filter(|answer| answer.is_ok()).count() as u128;
            let came = begun.elapsed().as_nanos() * 50 / 60_000_000_000;
            assert!((50..=50 + came + 1).contains(&admitted), "{admitted} of 50 and {came}");
        }
    })
    .await;
}

#[tokio::test]
async fn two_replicas_share_one_rate() {
    let Some(url) = server() else { return };
    undisturbed(|late| {
        let url = url.clone();
        async move {
            let prefix = prefix();
            let a = Limiter::sharing(&url, &prefix, late.clone()).await.unwrap();
            let b = Limiter::sharing(&url, &prefix, late.clone()).await.unwrap();
            // 100 a second, the burst used up.
            let begun = Clock::now();
            a.admit("k", &[requests(6000, 6000)]).await.unwrap();
            let (mut asked, mut admitted) = (0, 0);
            while begun.elapsed() < Duration::from_secs(1) {
                for limiter in [&a, &b] {
                    asked += 1;
                    admitted += u128::from(limiter.admit("k", &[requests(6000, 1)]).await.is_ok());
                }
            }
            let came = begun.elapsed().as_millis() / 10;
            // A slow machine may ask for less than there is.
            let least = came.min(asked) * 8 / 10;
            assert!((least..=came + 1).contains(&admitted), "{admitted} of {asked} and {came}");
        }
    })
    .await;
}

#[tokio::test]
async fn several_limits_are_taken_together_or_not_at_all() {
    let Some(url) = server() else { return };
    undisturbed(|late| {
        let url = url.clone();
        async move {
            let limiter = Limiter::sharing(&url, &prefix(), late).await.unwrap();
            let images = |limit, cost| Ask { what: What::Images, limit, cost };
            let both = [requests(10, 1), images(2, 2)];
            let states = limiter.admit("k", &both).await.unwrap();
            assert_eq!([states[0].remaining, states[1].remaining], [9, 0]);
            assert!(states[1].reset > Duration::from_secs(59));
            let refused = limiter.admit("k", &both).await.unwrap_err();
            let Refused::Later { what, limit, retry_after, states } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!((what, limit), (What::Images, 2));
            assert!(retry_after > Duration::from_secs(58) && retry_after.as_secs() <= 60);
            assert_eq!([states[0].remaining, states[1].remaining], [9, 0]);
            // What was charged is corrected, for both directions.
            limiter.correct("k", images(2, 2), 1).await;
            limiter.correct("k", requests(10, 1), 4).await;
            let states = limiter.admit("k", &[requests(10, 0), images(2, 0)]).await.unwrap();
            assert_eq!([states[0].remaining, states[1].remaining], [6, 1]);
        }
    })
    .await;
}

/// `admit.lua` with a clock that the test sets, and keys that outlive the test's own.
fn script_with_clock() -> redis::Script {
    let text = include_str!("admit.lua");
    let changed = text.replace("redis.call('TIME')", "{ ARGV[#ARGV - 1], ARGV[#ARGV] }");
    assert_ne!(text, changed);
    let kept = changed.replace("math.ceil((at - now + 1) / 1000))", "600000)");
    assert_ne!(changed, kept);
    redis::Script::new(&kept)
}

/// The formula in whole numbers of any length: `used` is in microseconds times the limit.
struct Exact {
    limit: i128,
    used_until: i128,
}

impl Exact {
    /// Whether it is admitted, then how many remain, microseconds to the reset and to wait.
    fn admit(&mut self, now: i128, cost: i128) -> [i128; 4] {
        const MINUTE: i128 = 60_000_000;
        let base = self.used_until.max(now * self.limit);
        let new = base + cost * MINUTE;
        let over = new - now * self.limit - self.limit * MINUTE;
        let admitted = over <= 0;
        self.used_until = if admitted { new } else { base };
        let owed = self.used_until - now * self.limit;
        [
            i128::from(admitted),
            (self.limit * MINUTE - owed) / MINUTE,
            (owed + self.limit - 1) / self.limit,
            ((over + self.limit - 1) / self.limit).max(0),
        ]
    }
}

#[tokio::test]
async fn the_script_is_exact() {
    let Some(url) = server() else { return };
    let (script, mut connection) = (script_with_clock(), raw(&url).await);
    // A small generator of our own, so that every run is the same.
    let mut seed = 1_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for limit in [1, 2, 3, 7, 60, 61, 997, 100_000, 7_000_001, 99_999_989, 100_000_000_u64] {
        let key = format!("{}:{{k}}", prefix());
        let mut exact = Exact { limit: i128::from(limit), used_until: 0 };
        let mut now = 1_790_000_000_123_456_u64;
        for step in 0..300 {
            now += match random(4) {
                0 => 0,
                1 => random(1000),
                _ => random(60_000_000 / limit.min(30) * 2),
            };
            let cost = match random(3) {
                0 => random(limit) + 1,
                _ => random((limit / 10).max(2)).min(limit),
            };
            let answer: Vec<i128> = script
                .key(&key)
                .arg(limit)
                .arg(cost)
                .arg(now / 1_000_000)
                .arg(now % 1_000_000)
                .invoke_async::<Vec<u64>>(&mut connection)
                .await
                .unwrap()
                .into_iter()
                .map(i128::from)
                .collect();
            let wanted = exact.admit(i128::from(now), i128::from(cost));
            assert_eq!(answer, wanted, "step {step}: {cost} of {limit}");
        }
    }
}

#[tokio::test]
async fn a_clock_set_back_costs_a_minute_at_most() {
    let Some(url) = server() else { return };
    let (script, mut connection) = (script_with_clock(), raw(&url).await);
    let key = format!("{}:{{k}}", prefix());
    let mut admit = async |seconds: u64, cost: u64| {
        let mut call = script.key(&key);
        call.arg(10).arg(cost).arg(seconds).arg(0);
        call.invoke_async::<Vec<u64>>(&mut connection).await.unwrap()
    };
    assert_eq!(admit(1_790_003_600, 10).await, [1, 0, 60_000_000, 0]);
    assert_eq!(admit(1_790_000_000, 1).await, [0, 0, 60_000_000, 6_000_000]);
    // Being looked at must not push it further away.
    assert_eq!(admit(1_790_000_000, 10).await[0], 0);
    assert_eq!(admit(1_790_003_660, 10).await, [1, 0, 60_000_000, 0]);
}

#[tokio::test]
async fn keys_end_with_what_they_owe() {
    let Some(url) = server() else { return };
    undisturbed(|late| {
        let url = url.clone();
        async move {
            let (prefix, mut connection) = (prefix(), raw(&url).await);
            let limiter = Limiter::sharing(&url, &prefix, late).await.unwrap();
            limiter.admit("k", &[requests(60, 0)]).await.unwrap();
            let key = format!("{prefix}:gcra1:{{k}}:requests");
            let ttl = async |connection: &mut MultiplexedConnection| {
                redis::cmd("PTTL").arg(&key).query_async::<i64>(connection).await.unwrap()
            };
            assert_eq!(ttl(&mut connection).await, -2, "nothing owed, nothing kept");
            limiter.admit("k", &[requests(60, 1)]).await.unwrap();
            let left = ttl(&mut connection).await;
            assert!((700..=1001).contains(&left), "{left} ms for one second");
            limiter.admit("k", &[requests(60, 59)]).await.unwrap();
            let left = ttl(&mut connection).await;
            assert!((58_000..=60_001).contains(&left), "{left} ms for one minute");
        }
    })
    .await;
}

#[tokio::test]
async fn replicas_are_counted_while_they_live() {
    let Some(url) = server() else { return };
    let (prefix, mut connection) = (prefix(), raw(&url).await);
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let mut zadd = redis::cmd("ZADD");
    zadd.arg(format!("{prefix}:replicas1"));
    zadd.arg(seconds * 1000 - 1000).arg("lives").arg(seconds * 1000 - 20_000).arg("is gone");
    zadd.arg(seconds * 1000 + 3_600_000).arg("came from a later time");
    zadd.query_async::<()>(&mut connection).await.unwrap();
    let a = Limiter::sharing(&url, &prefix, Counter::default()).await.unwrap();
    assert_eq!(a.shared.as_ref().unwrap().replicas(), 2);
    let b = Limiter::sharing(&url, &prefix, Counter::default()).await.unwrap();
    assert_eq!(b.shared.as_ref().unwrap().replicas(), 3);
    // Whoever stops in order is gone at once.
    drop(a);
    sleep(Duration::from_millis(300)).await;
    let c = Limiter::sharing(&url, &prefix, Counter::default()).await.unwrap();
    assert_eq!(c.shared.as_ref().unwrap().replicas(), 3);
}

#[tokio::test]
async fn places_are_shared_and_given_back() {
    let Some(url) = server() else { return };
    undisturbed(|late| {
        let url = url.clone();
        async move {
            let prefix = prefix();
            let a = Limiter::sharing(&url, &prefix, late.clone()).await.unwrap();
            let b = Limiter::sharing(&url, &prefix, late.clone()).await.unwrap();
            let one = a.enter("k", 2).await.unwrap();
            let two = b.enter("k", 2).await.unwrap();
            assert_eq!(a.enter("k", 2).await.unwrap_err(), Refused::Busy { limit: 2 });
            assert_eq!(b.enter("k", 2).await.unwrap_err(), Refused::Busy { limit: 2 });
            drop(one);
            let begun = Clock::now();
            let three = loop {
                match b.enter("k", 2).await {
                    Ok(permit) => break permit,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
                assert!(begun.elapsed() < Duration::from_secs(2), "the place was not freed");
            };
            drop((two, three));
            assert!(b.shared.as_ref().unwrap().holds_nothing());
        }
    })
    .await;
}

#[tokio::test]
async fn leases_end_unless_they_are_renewed() {
    let Some(url) = server() else { return };
    let (key, mut connection) = (format!("{}:{{k}}", prefix()), raw(&url).await);
    let lease = redis::Script::new(include_str!("lease.lua"));
    let renew = redis::Script::new(include_str!("renew.lua"));
    let mut take = async |ms: u64, who: &str| {
        lease.key(&key).arg(1).arg(ms).arg(who).invoke_async::<u64>(&mut connection).await.unwrap()
    };
    assert_eq!([take(300, "a").await, take(300, "b").await], [1, 0]);
    sleep(Duration::from_millis(350)).await;
    assert_eq!([take(300, "b").await, take(300, "a").await], [1, 0]);
    let mut other = raw(&url).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(150)).await;
        renew.key(&key).arg(300).arg("b").invoke_async::<u64>(&mut other).await.unwrap();
        assert_eq!(take(300, "a").await, 0, "renewed");
    }
    // A server that lost everything is told again who is there.
    redis::cmd("DEL").arg(&key).query_async::<()>(&mut other).await.unwrap();
    renew.key(&key).arg(300).arg("b").invoke_async::<u64>(&mut other).await.unwrap();
    assert_eq!(take(300, "a").await, 0);
    // A lease that is longer than any lease is of a clock that was set back.
    sleep(Duration::from_millis(350)).await;
    assert_eq!([take(3_600_000, "c").await, take(3_600_000, "a").await], [1, 0]);
    assert_eq!(take(300, "a").await, 1);
}

/// Stands between a limiter and Redis, and can be told to break.
struct Proxy {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
}

const PASS: u8 = 0;
/// Takes everything and answers nothing.
const HANG: u8 = 1;
/// Breaks every connection.
const CUT: u8 = 2;

impl Proxy {
    async fn before(url: &str) -> Self {
        let url = url::Url::parse(url).unwrap();
        let to = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(6379));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(PASS));
        let told = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if told.load(SeqCst) != CUT {
                    let far = TcpStream::connect(&to).await.unwrap();
                    tokio::spawn(Self::pass(near, far, Arc::clone(&told)));
                }
            }
        });
        Self { address, mode }
    }

    async fn pass(mut near: TcpStream, mut far: TcpStream, mode: Arc<AtomicU8>) {
        let (mut up, mut down) = ([0; 4096], [0; 4096]);
        loop {
            let tick = sleep(Duration::from_millis(5));
            match mode.load(SeqCst) {
                CUT => return,
                HANG => tick.await,
                _ => tokio::select! {
                    read = near.read(&mut up) => match read {
                        Ok(read @ 1..) => far.write_all(&up[..read]).await.unwrap(),
                        _ => return,
                    },
                    read = far.read(&mut down) => match read {
                        Ok(read @ 1..) if near.write_all(&down[..read]).await.is_ok() => {}
                        _ => return,
                    },
                    () = tick => {}
                },
            }
        }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

#[tokio::test]
async fn without_redis_each_replica_counts_its_share_and_comes_back() {
    let Some(url) = server() else { return };
    for mode in [CUT, HANG] {
        let mut tries = 0;
        while !break_and_mend(&url, mode).await {
            tries += 1;
            assert!(tries < 20, "redis never answered in time");
        }
    }
}

/// False where Redis was late before it was broken.
async fn break_and_mend(url: &str, mode: u8) -> bool {
    let (prefix, proxy, late) = (prefix(), Proxy::before(url).await, Counter::default());
    let _other = Limiter::sharing(url, &prefix, Counter::default()).await.unwrap();
    let limiter = Limiter::sharing(&proxy.url(), &prefix, late.clone()).await.unwrap();
    let shared = || limiter.shared.as_ref().unwrap();
    assert_eq!(shared().replicas(), 2);
    for _ in 0..8 {
        limiter.admit("k", &[requests(10, 1)]).await.unwrap();
    }
    let held = limiter.enter("k", 6).await.unwrap();
    if late.get() != 0 {
        return false;
    }

    proxy.mode.store(mode, SeqCst);
    let begun = Clock::now();
    let state = limiter.admit("k", &[requests(10, 1)]).await.unwrap()[0];
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(400), "{took:?} until it was given up");
    assert_eq!((state.limit, state.remaining, late.get()), (10, 4, 1), "half of ten, less one");
    let begun = Clock::now();
    for _ in 0..4 {
        limiter.admit("k", &[requests(10, 1)]).await.unwrap();
    }
    limiter.admit("k", &[requests(10, 1)]).await.unwrap_err();
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(200), "{took:?} for five, nobody waits for redis");
    // Half of six jobs at once, and one that ran before counts.
    let more = (limiter.enter("k", 6).await.unwrap(), limiter.enter("k", 6).await.unwrap());
    assert!(limiter.enter("k", 6).await.is_err());
    drop(more);

    proxy.mode.store(PASS, SeqCst);
    let begun = Clock::now();
    while !shared().is_connected() {
        assert!(begun.elapsed() < Duration::from_secs(10), "redis was not found again");
        sleep(Duration::from_millis(20)).await;
    }
    let before = late.get();
    let state = limiter.admit("k", &[requests(10, 0)]).await.unwrap()[0];
    assert!(state.remaining < 5, "redis remembers the eight of before");
    assert_eq!(late.get(), before);
    drop(held);
    true
}

#[tokio::test]
async fn a_start_without_redis_is_a_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    drop(listener);
    let late = Counter::default();
    let limiter = Limiter::sharing(&url, "test", late.clone()).await.unwrap();
    assert_eq!(limiter.admit("k", &[requests(2, 1)]).await.unwrap()[0].remaining, 1);
    assert_eq!(late.get(), 1);
    let secret = Secret::new("redis://:canary@h/x".to_owned());
    let error = Limiter::new(Some(&secret), Counter::default()).await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains("canary"));
}
