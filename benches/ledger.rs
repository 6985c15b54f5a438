//! What it costs to write money and jobs down, through the desk that the engine uses.
//!
//! `cargo bench --bench ledger` measures SQLite in a fresh file; under `scripts/servers`, or with
//! `MEDIAGATE_TEST_POSTGRES`, PostgreSQL too. It prints, by engine and durability:
//! 1. requests a second: a request opens a job (credits and two budgets held, one attempt) and
//!    finishes it (captured, with a usage line that has one label), many at once;
//! 2. what of it is processor time of this process, and how long either act takes;
//! 3. as a baseline of the same run, bare transactions that insert one row each;
//! 4. what checking a key takes, and what the disk takes to make a small write last.
//!
//! Nothing is asserted: the machine decides the figures, so read the ratios. Further arguments
//! choose what is measured: `cargo bench --bench ledger -- sqlite full 64`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark talks and may fail"
)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt as _, future::join_all};
use mediagate::{
    db::{Db, DbSettings, Durability, Insert, Value},
    jobs::{
        Act, AttemptRow, AttemptState, Desk, DeskError, Done, JobRow, JobState,
        act::{Finish, Open, Used},
    },
    ledger::{AccountSpec, USD, credit},
    seal::Sealer,
    tenant::{
        DEFAULT,
        directory::Directory,
        key::Pepper,
        role::Actor,
        store::keys::{self, Rights},
    },
};

const CENT: i64 = 10_000_000;
const AT_ONCE: [usize; 4] = [1, 16, 64, 256];
const WARM: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(4);

fn main() {
    // `cargo test --benches` must not run for minutes.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&Asked::read()));
}

/// What the arguments choose.
struct Asked(Vec<String>);

impl Asked {
    fn read() -> Self {
        Self(std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect())
    }

    /// Whether `word` is asked for; where none of its kind is, all are.
    fn has(&self, word: &str, kind: &[&str]) -> bool {
        let of_kind = |arg: &String| kind.contains(&arg.as_str());
        !self.0.iter().any(of_kind) || self.0.iter().any(|arg| arg == word)
    }
}

async fn run(asked: &Asked) {
    let engines = ["sqlite", "postgres", "keys"];
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of this machine before the run: {}", load.trim());
    let files = tempfile::tempdir().unwrap();
    println!("write and fsync of 4 kB, p50: {:.2} ms", fsync(files.path()));
    if asked.has("keys", &engines) {
        check_key(files.path()).await;
    }
    if asked.has("sqlite", &engines) {
        measure("SQLite", asked, |number| {
            let url = format!("sqlite://{}", files.path().join(format!("{number}.db")).display());
            async move { url }
        })
        .await;
    }
    if asked.has("postgres", &engines) {
        #[expect(clippy::disallowed_methods, reason = "a benchmark has no configuration")]
        match std::env::var("MEDIAGATE_TEST_POSTGRES") {
            Ok(server) => {
                measure("PostgreSQL", asked, |_| fresh_database(server.clone())).await;
            }
            Err(_) => println!(
                "\nPOSTGRESQL IS NOT MEASURED: run scripts/servers cargo bench --bench ledger, or \
                 set MEDIAGATE_TEST_POSTGRES"
            ),
        }
    }
}

/// Median milliseconds of a small write that lasts.
fn fsync(directory: &Path) -> f64 {
    let mut file = File::create(directory.join("fsync")).unwrap();
    let times = (0..100).map(|_| {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        begun.elapsed()
    });
    let mut times: Vec<Duration> = times.collect();
    percentile(&mut times, 50)
}

async fn check_key(directory: &Path) {
    const CHECKS: u32 = 200_000;
    let url = format!("sqlite://{}", directory.join("keys.db").display());
    let db = open(&url).await;
    let sealer = Arc::new(Sealer::new([7; 32].into(), []));
    let rights = Rights::all("bench");
    let root = Actor::above_all("bench");
    let made =
        keys::create(&db, &Pepper::of(&sealer), &root, DEFAULT, rights, None, now()).await.unwrap();
    let directory = Directory::new(db, sealer, Vec::new());
    directory.refresh().await.unwrap();
    let begun = Instant::now();
    for _ in 0..CHECKS {
        let grant = directory.authenticate(made.text.expose(), now()).await.unwrap();
        std::hint::black_box(grant);
    }
    println!("a key is checked in {} ns, in memory", (begun.elapsed() / CHECKS).as_nanos());
}

async fn fresh_database(server: String) -> String {
    let (client, connection) =
        tokio_postgres::connect(&server, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let name = format!("mg_bench_{}", uuid::Uuid::now_v7().simple());
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    url.into()
}

async fn open(url: &str) -> Db {
    Db::open(&DbSettings { url: url.to_owned(), max_connections: 10 }).await.unwrap()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Seconds of processor time this process has taken.
fn processor() -> f64 {
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|f| f.parse().ok()).unwrap_or(0.0);
    (ticks(12) + ticks(13)) / TICKS
}

/// Milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times.get(times.len() * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

async fn measure<F: Future<Output = String>>(name: &str, asked: &Asked, url: impl Fn(usize) -> F) {
    println!(
        "\n{name}: requests a second (open and finish), ms of each act, and bare transactions\n\
         | durability | at once | organisations | requests/s | processor us | late | open p50 | p99 | finish p50 | p99 | \
         bare transactions/s | p50 | requests to bare |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let (levels, numbers) = (["process", "full"], AT_ONCE.map(|n| n.to_string()));
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let mut runs = Vec::new();
    for (word, durability) in levels.iter().zip([Durability::Process, Durability::Full]) {
        for at_once in AT_ONCE {
            // On a database with several queues, organisations do not wait for each other.
            for orgs in if name == "SQLite" || at_once < 64 { vec![1] } else { vec![1, 16] } {
                if asked.has(word, &levels) && asked.has(&at_once.to_string(), &numbers) {
                    runs.push((*word, durability, at_once, orgs));
                }
            }
        }
    }
    for (number, (word, durability, at_once, orgs)) in runs.into_iter().enumerate() {
        let db = open(&url(number).await).await;
        let desk = Desk::new(db.clone());
        let Figures { rate, micros, late, mut opens, mut finishes } =
            requests(&desk, durability, at_once, orgs).await;
        let (bare, mut times) = bare(&db, durability, at_once).await;
        println!(
            "| {word} | {at_once} | {orgs} | {rate:.0} | {micros:.0} | {late} | {:.2} | {:.2} | \
             {:.2} | {:.2} | {bare:.0} | {:.2} | {:.2} |",
            percentile(&mut opens, 50),
            percentile(&mut opens, 99),
            percentile(&mut finishes, 50),
            percentile(&mut finishes, 99),
            percentile(&mut times, 50),
            rate / bare
        );
    }
}

// ---------------------------------------------------------------------------------------------
// What is measured

struct Figures {
    rate: f64,
    /// Microseconds of processor time of this process for each request.
    micros: f64,
    /// Requests refused because the database did not answer in time.
    late: u64,
    opens: Vec<Duration>,
    finishes: Vec<Duration>,
}

async fn requests(desk: &Desk, durability: Durability, at_once: usize, orgs: usize) -> Figures {
    let warm = Instant::now() + WARM;
    let end = warm + LONG;
    let callers = (0..at_once).map(|caller| {
        let (desk, org) = (desk.clone(), format!("org_{}", caller % orgs));
        tokio::spawn(async move {
            let (mut times, mut late) = (Vec::new(), 0_u64);
            while Instant::now() < end {
                let job = format!("job_{}", uuid::Uuid::now_v7().simple());
                let (open, finish) = acts(&org, &job);
                let begun = Instant::now();
                let done = desk.write(&org, open, durability).await;
                let opened = Instant::now();
                match done {
                    Ok(done) => assert!(matches!(done, Done::Opened(_)), "{done:?}"),
                    Err(DeskError::Unavailable(_)) => {
                        late += 1;
                        continue;
                    }
                    Err(denied) => panic!("{denied:?}"),
                }
                let done = desk.insist(&org, finish, durability).await;
                assert_eq!(done, Ok(Done::Captured(CENT)));
                let finished = Instant::now();
                if begun >= warm && finished < end {
                    times.push((opened - begun, finished - opened));
                }
            }
            (times, late)
        })
    });
    let callers: Vec<_> = callers.collect();
    let (mut opens, mut finishes, mut late) = (Vec::new(), Vec::new(), 0);
    tokio::time::sleep_until(warm.into()).await;
    let before = processor();
    for caller in join_all(callers).await {
        let (times, own) = caller.unwrap();
        late += own;
        opens.extend(times.iter().map(|(open, _)| *open));
        finishes.extend(times.iter().map(|(_, finish)| *finish));
    }
    let micros = (processor() - before) * 1e6 / opens.len() as f64;
    Figures { rate: opens.len() as f64 / LONG.as_secs_f64(), micros, late, opens, finishes }
}

static ROW: Insert =
    Insert { into: "idempotency (id, fingerprint, job, expires_at)", columns: 4, conflict: "" };

/// The least a transaction can do.
async fn bare(db: &Db, durability: Durability, at_once: usize) -> (f64, Vec<Duration>) {
    let long = LONG / 4;
    let end = Instant::now() + long;
    let callers = (0..at_once).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let begun = Instant::now();
                let id = uuid::Uuid::now_v7().simple().to_string();
                let row: Arc<[Vec<Value>]> =
                    vec![vec![id.into(), vec![7; 32].into(), "job".into(), now().into()]].into();
                db.transaction(durability, move |tx| {
                    let row = Arc::clone(&row);
                    async move { tx.insert_many(&ROW, &row).await }.boxed()
                })
                .await
                .unwrap();
                times.push(begun.elapsed());
            }
            times
        })
    });
    let times: Vec<_> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    (times.len() as f64 / long.as_secs_f64(), times)
}

/// A request as most are: one picture, paid from credits that two budgets limit.
fn acts(org: &str, job: &str) -> (Act, Act) {
    let now = now();
    let spec = |id: String, unit: &str, cap| AccountSpec {
        id,
        org: org.to_owned(),
        unit: unit.to_owned(),
        cap,
        fixed: true,
    };
    let chain = vec![
        (spec(credit(org), USD, None), 2 * CENT),
        (spec(format!("budget:{org}-money:2026-11-01"), USD, Some(i64::MAX)), 2 * CENT),
        (spec(format!("budget:{org}-images:2026-11-21"), "image", Some(i64::MAX)), 1_000_000),
    ];
    let attempt = AttemptRow {
        job: job.to_owned(),
        number: 0,
        deployment: "fal/flux-1-dev".to_owned(),
        provider: "fal".to_owned(),
        credential: "config".to_owned(),
        first: 0,
        count: 1,
        seed: Some(7),
        state: AttemptState::Intent,
        outcome: None,
        sent_at: now,
        ms: None,
        expected: Some(CENT),
        billed: None,
        remote: None,
        output: None,
    };
    let open = Open {
        job: JobRow {
            id: job.to_owned(),
            org: org.to_owned(),
            project: DEFAULT.to_owned(),
            api_key: "key_01994f2e5c0f7b3e9d6a1b2c3d4e5f60".to_owned(),
            task: "image.generate".to_owned(),
            model: "flux-1-dev".to_owned(),
            state: JobState::Running,
            request_id: job.replace("job_", "req_"),
            fingerprint: vec![7; 32],
            created_at: now,
            deadline_at: now + 600_000,
            finished_at: None,
            expires_at: now + 86_400_000,
            owner: "own_01994f2e5c0f7b3e9d6a1b2c3d4e5f60".to_owned(),
            epoch: 1,
            lease_until: now + 15_000,
            legs: Vec::new(),
            settled: false,
            charge: None,
            abandoned: false,
            cancel_asked: false,
            simulated: false,
            labels: BTreeMap::from([("team".to_owned(), "north".to_owned())]),
            error_code: None,
            payload: Some(vec![7; 500]),
            result: None,
        },
        chain,
        attempts: vec![attempt.clone()],
        key: None,
    };
    let used = |unit: &str, requests, amount| Used {
        provider: "fal".to_owned(),
        unit: unit.to_owned(),
        requests,
        quantity: 1_000_000,
        amount,
    };
    let finish = Finish {
        job: job.to_owned(),
        epoch: 1,
        state: JobState::Succeeded,
        measured: BTreeMap::from([(USD.to_owned(), CENT), ("image".to_owned(), 1_000_000)]),
        used: vec![used("request", 1, 0), used("image", 0, CENT)],
        attempts: vec![AttemptRow {
            state: AttemptState::Delivered,
            outcome: Some("ok".to_owned()),
            ms: Some(1_200),
            remote: Some(vec![7; 100]),
            ..attempt
        }],
        result: vec![7; 900],
        error_code: None,
        abandoned: false,
        expires_at: now + 86_400_000,
        at: now,
    };
    (Act::Open(Box::new(open)), Act::Finish(Box::new(finish)))
}
