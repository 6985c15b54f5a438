//! Days on which the database is locked, damaged, gone, or yesterday's.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Reply, Upstream, config, gateway, pictures,
    vendors::{self, FAL_STATUS, GEMINI},
};

const DRAW: &str = "/v1/images/generations";
const FILE: &str = "/files/a.png";

fn picture() -> Bytes {
    pictures::png(256, 192)
}

fn body(model: &str) -> Value {
    json!({"model": model, "prompt": "a teapot"})
}

async fn upstream() -> Upstream {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&picture()));
    upstream.on("GET", FILE, Reply::file("image/png", &picture()));
    vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
    upstream
}

/// Another process that keeps the database to itself.
fn lock(gateway: &Gateway) -> Connection {
    let other = Connection::open(gateway.books().path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_locked_nothing_is_bought() {
    let upstream = upstream().await;
    let gateway = Gateway::with(&upstream, &["gemini", "fal"], "").await;
    gateway.draw(body("gemini/nano-banana")).await.ok();
    gateway.books().settled().await;
    let other = lock(&gateway);
    for model in ["gemini/nano-banana", "fal/flux-1-dev"] {
        for key in [None, Some("order-1")] {
            let begun = Instant::now();
            let mut call = gateway.post(DRAW, &body(model));
            if let Some(key) = key {
                call = call.header("idempotency-key", key);
            }
            let answer = Answer::of(call).await;
            let took = begun.elapsed();
            answer.error(503, "store_unavailable", None);
            assert!(answer.header("retry-after").is_some());
            assert!(took < Duration::from_millis(1100), "{model}: {took:?}");
        }
    }
    // What only reads goes on.
    assert_eq!(gateway.get("/v1/jobs").await.ok()["data"].as_array().unwrap().len(), 1);
    gateway.get("/v1/models").await.ok();
    gateway.get("/livez").await.ok();
    assert_eq!(upstream.submits("/").len(), 1);
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    for model in ["gemini/nano-banana", "fal/flux-1-dev"] {
        let call = gateway.post(DRAW, &body(model)).header("idempotency-key", model);
        assert_eq!(Answer::of(call).await.picture(), picture(), "{model}");
    }
    assert_eq!(upstream.submits("/").len(), 3);
    gateway.books().settled().await;
    assert_eq!(gateway.books().charges().len(), 3);
    let sum = "SELECT SUM(amount) FROM transfer WHERE kind = 'capture'";
    assert_eq!(
        gateway.books().number("SELECT SUM(posted) FROM account"),
        gateway.books().number(sum)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_while_the_database_is_locked_is_charged_once_it_is_free() {
    for model in ["gemini/nano-banana", "fal/flux-1-dev"] {
        let upstream = upstream().await;
        upstream.on("POST", GEMINI, vendors::gemini(&picture()).after_ms(300));
        let over = Instant::now() + Duration::from_millis(400);
        upstream.on_each("GET", FAL_STATUS, move |_| {
            let word = if Instant::now() < over { "IN_PROGRESS" } else { "COMPLETED" };
            Reply::json(200, &json!({ "status": word }))
        });
        let gateway = Gateway::with(&upstream, &["gemini", "fal"], "").await;
        let call = tokio::spawn(Answer::of(gateway.post(DRAW, &body(model))));
        upstream.until("the submit", |u| u.submits("/").len() == 1).await;
        let other = lock(&gateway);
        tokio::time::sleep(Duration::from_millis(1800)).await;
        assert!(gateway.books().charges().is_empty());
        other.execute_batch("COMMIT").unwrap();
        let answer = call.await.unwrap();
        assert_eq!(answer.picture(), picture(), "{model}");
        gateway.books().settled().await;
        assert_eq!(
            gateway.books().charges(),
            [answer.header("x-mediagate-job-id").unwrap()],
            "{model}"
        );
        assert_eq!(gateway.books().number("SELECT COUNT(*) FROM transfer"), 3, "{model}");
        assert_eq!(upstream.submits("/").len(), 1);
    }
}

/// What is said when the gateway cannot start, with its causes.
async fn refusal(text: &str) -> String {
    mediagate::media::fetch::install_tls();
    let config = gateway::parse(text).unwrap();
    let error = mediagate::serve::start(config).await.expect_err("it started");
    let mut said = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        source = cause.source();
    }
    said
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_said_at_the_start_and_left_alone() {
    let upstream = upstream().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mediagate.db");
    let master =
        "auth.master_key = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"";
    let text = gateway::database(directory.path()) + &config(&upstream, &["gemini"], master);
    let garbage = b"this is a letter to a friend and no database at all".repeat(100);
    fs::write(&file, &garbage).unwrap();
    let said = refusal(&text).await;
    assert!(said.contains("not a SQLite database"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), garbage, "the file was changed");
    // A directory in its place.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let said = refusal(&text).await;
    assert!(said.contains("mediagate.db"), "{said}");
    fs::remove_dir(&file).unwrap();
    // A file of which the end is missing.
    let other = Gateway::with(&upstream, &["gemini"], "").await;
    other.draw(body("gemini/nano-banana")).await.ok();
    fs::write(&file, &back_up(&other)[..8192]).unwrap();
    let said = refusal(&text).await;
    assert!(said.contains("damaged"), "{said}");
    // Gone: it begins anew.
    for name in ["mediagate.db", "mediagate.db-wal", "mediagate.db-shm"] {
        let _ = fs::remove_file(directory.path().join(name));
    }
    let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), &text).await;
    assert_eq!(gateway.get("/v1/jobs").await.ok()["data"], json!([]));
    gateway.draw(body("gemini/nano-banana")).await.ok();
}

#[tokio::test]
async fn a_database_that_may_not_be_written_is_said_at_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let upstream = upstream().await;
    let directory = tempfile::tempdir().unwrap();
    let master =
        "auth.master_key = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"";
    let text = gateway::database(directory.path()) + &config(&upstream, &["gemini"], master);
    Gateway::start_in(tempfile::tempdir().unwrap(), &text).await.shut_down().await;
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = directory.path().join("mediagate.db");
    mode(&file, 0o444);
    if fs::OpenOptions::new().write(true).open(&file).is_ok() {
        eprintln!("WARNING: NOT TESTED: root may write what is read-only");
        return;
    }
    let said = refusal(&text).await;
    assert!(said.contains("check") && said.contains("mode"), "{said}");
    mode(&file, 0o644);
    mode(directory.path(), 0o555);
    let said = refusal(&text).await;
    mode(directory.path(), 0o755);
    assert!(said.contains("mediagate.db"), "{said}");
}

/// A copy as a backup makes it, of a database in use.
fn back_up(gateway: &Gateway) -> Vec<u8> {
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    let live = Connection::open(gateway.books().path()).unwrap();
    live.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    fs::read(copy).unwrap()
}

/// Everything beside the database.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() {
            fs::create_dir(to.join(name)).unwrap();
            copy(&path, &to.join(name));
        } else if !name.to_string_lossy().starts_with("mediagate.db") {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn after_yesterdays_backup_nothing_is_paid_twice() {
    let upstream = upstream().await;
    upstream.on("GET", FAL_STATUS, Reply::json(200, &json!({"status": "IN_PROGRESS"})));
    vendors::bfl_job(&upstream, vendors::bfl_ready(&upstream.url(FILE)));
    let more = "store.kind = \"disk\"\nserver.public_url = \"https://gate.example\"\n\
                jobs.callbacks = true\nserver.drain_s = 1";
    let text = config(&upstream, &["gemini", "fal", "bfl"], more);
    let gateway = Gateway::start(&text).await;
    let ask = async |gateway: &Gateway, key: &str, model: &str, prefer: &str| {
        let call = gateway.post(DRAW, &body(model)).header("idempotency-key", key);
        Answer::of(call.header("prefer", prefer)).await
    };
    let id = |answer: &Answer| answer.header("x-mediagate-job-id").unwrap().to_owned();
    let old = id(&ask(&gateway, "old", "gemini/nano-banana", "wait=20").await);
    let running = id(&ask(&gateway, "running", "fal/flux-1-dev", "respond-async").await);
    upstream.until("a question", |u| u.count("GET", FAL_STATUS) > 0).await;
    while gateway.books().rows("SELECT 1 FROM attempt WHERE state = 'accepted'").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let backup = back_up(&gateway);
    // After the backup: the running job ends and is charged, another one is made.
    upstream.on("GET", FAL_STATUS, Reply::json(200, &json!({"status": "COMPLETED"})));
    let late = id(&ask(&gateway, "late", "bfl/flux-1-dev", "wait=20").await);
    gateway.books().settled().await;
    assert_eq!(gateway.books().charges().len(), 3);
    let submits = upstream.submits("/");
    assert_eq!(submits.len(), 3);
    let hook = submits[2].json()["webhook_url"].as_str().unwrap().to_owned();
    // In a place of its own: this process may still have the old file open.
    let restored = tempfile::tempdir().unwrap();
    let data = gateway.stop().await;
    copy(data.path(), restored.path());
    fs::write(restored.path().join("mediagate.db"), backup).unwrap();
    let gateway = Gateway::start_in(restored, &text).await;
    gateway.books().settled().await;
    // What ran when the copy was made is taken up where it was, and not bought again.
    let mut charges = gateway.books().charges();
    charges.sort();
    assert_eq!(charges, [old.clone(), running.clone()]);
    for (key, model, job) in
        [("old", "gemini/nano-banana", &old), ("running", "fal/flux-1-dev", &running)]
    {
        let answer = ask(&gateway, key, model, "wait=20").await;
        assert_eq!((answer.picture(), &id(&answer)), (picture(), job), "{key}");
        assert_eq!(answer.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(upstream.submits("/").len(), 3);
    // What came later is not known any more.
    let answer = gateway.get(&format!("/v1/jobs/{late}")).await;
    answer.error(404, "job_not_found", Some("id"));
    let hook = hook.strip_prefix("https://gate.example").unwrap();
    assert!(hook.contains(&late), "{hook}");
    let push = gateway.request(Method::POST, hook).body(r#"{"id": "b1", "status": "Ready"}"#);
    let answer = Answer::of(push.header("content-type", "application/json")).await;
    answer.error(404, "not_found", None);
    assert_eq!(gateway.books().charges().len(), 2);
    assert_eq!(upstream.submits("/").len(), 3);
}

/// Runs a test on an empty PostgreSQL database, or says loudly that it does not.
async fn on_postgres<T: Future<Output = ()>>(
    test: impl FnOnce(String, tokio_postgres::Client) -> T,
) {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let Ok(server) = std::env::var("MEDIAGATE_TEST_POSTGRES") else {
        eprintln!("WARNING: POSTGRESQL WAS NOT TESTED; run scripts/servers cargo test");
        return;
    };
    let connect = async || {
        let no_tls = tokio_postgres::NoTls;
        let (client, connection) = tokio_postgres::connect(&server, no_tls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let name = format!("mg_it_{}", uuid::Uuid::new_v4().simple());
    let client = connect().await;
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    test(url.into(), connect().await).await;
    client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

/// Ends every connection to a database.
async fn cut(server: &tokio_postgres::Client, url: &str) {
    let name = url.rsplit('/').next().unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    server.query(sql, &[&name]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_may_end_connections_under_way() {
    on_postgres(async |url, server| {
        let upstream = upstream().await;
        upstream.on("POST", GEMINI, vendors::gemini(&picture()).after_ms(200));
        let more = format!("database.url = \"{url}\"");
        let gateway = Gateway::with(&upstream, &["gemini", "fal"], &more).await;
        let ask = async |n: usize| {
            let model = ["gemini/nano-banana", "fal/flux-1-dev"][n % 2];
            let key = format!("order-{n}");
            for tries in 0.. {
                let call = gateway.post(DRAW, &body(model)).header("idempotency-key", &key);
                let answer = Answer::of(call).await;
                if answer.status == 200 {
                    assert_eq!(answer.picture(), picture());
                    return answer.header("x-mediagate-job-id").unwrap().to_owned();
                }
                answer.error(503, "store_unavailable", None);
                assert!(tries < 20, "{}", answer.shown());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            unreachable!("there is always another try");
        };
        let cuts = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                cut(&server, &url).await;
            }
        };
        let (mut jobs, ()) = tokio::join!(join_all((0..40).map(ask)), cuts);
        jobs.sort();
        jobs.dedup();
        assert_eq!(jobs.len(), 40);
        // What was refused was not sent, and what was sent is paid once.
        assert_eq!(upstream.submits("/").len(), 40);
        let no_tls = tokio_postgres::NoTls;
        let (books, connection) = tokio_postgres::connect(&url, no_tls).await.unwrap();
        tokio::spawn(connection);
        let number = async |sql: &str| books.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
        for _ in 0..500 {
            if number("SELECT COUNT(*) FROM job WHERE settled = 0").await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let charged = "SELECT COUNT(DISTINCT job) FROM transfer \
                       WHERE kind = 'capture' AND debit LIKE 'credit:%'";
        assert_eq!(number(charged).await, 40);
        assert_eq!(number(&charged.replace("DISTINCT ", "")).await, 40);
        assert_eq!(number("SELECT SUM(pending)::BIGINT FROM account").await, 0);
        let posted = number("SELECT SUM(posted)::BIGINT FROM account").await;
        let captured = "SELECT SUM(amount)::BIGINT FROM transfer WHERE kind = 'capture'";
        assert_eq!(posted, number(captured).await);
        gateway.shut_down().await;
    })
    .await;
}
