//! `Idempotency-Key`: however often a request is sent under one key, it is drawn and paid once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::{RequestBuilder, header::HeaderValue};
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Reply, Upstream, config, each, pictures,
    vendors::{self, FAL, FAL_STATUS, GEMINI},
};

const DRAW: &str = "/v1/images/generations";
const FILE: &str = "/files/a.png";

fn picture() -> Bytes {
    pictures::png(256, 192)
}

fn body(model: &str) -> Value {
    json!({"model": model, "prompt": "a teapot"})
}

/// Makers that take a while: one that answers in the end, one that queues.
async fn upstream(ms: u64) -> Upstream {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&picture()).after_ms(ms));
    upstream.on("GET", FILE, Reply::file("image/png", &picture()));
    vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
    let state = |word: &str| Reply::json(200, &json!({ "status": word }));
    let over = Instant::now() + Duration::from_millis(ms);
    upstream.on_each("GET", FAL_STATUS, move |_| {
        state(if Instant::now() < over { "IN_PROGRESS" } else { "COMPLETED" })
    });
    upstream
}

fn under(gateway: &Gateway, key: &str, body: &Value) -> RequestBuilder {
    gateway.post(DRAW, body).header("idempotency-key", key)
}

fn job(answer: &Answer) -> String {
    answer.header("x-mediagate-job-id").unwrap().to_owned()
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_under_one_key_are_one_job_and_one_charge() {
    each(["gemini/nano-banana", "fal/flux-1-dev"], async |model| {
        let upstream = upstream(500).await;
        let gateway = Gateway::with(&upstream, &["gemini", "fal"], "").await;
        let calls = (0..100).map(|_| Answer::of(under(&gateway, "order-1", &body(model))));
        let answers = join_all(calls).await;
        let first = answers[0].ok();
        for answer in &answers {
            assert_eq!(answer.picture(), picture());
            assert_eq!(answer.ok()["mediagate"]["job_id"], first["mediagate"]["job_id"]);
            assert_eq!(answer.ok()["mediagate"]["cost"], first["mediagate"]["cost"]);
        }
        assert_eq!(answers.iter().filter(|a| !is_replayed(a)).count(), 1, "{model}");
        assert_eq!(upstream.submits("/").len(), 1, "{model}");
        gateway.books().settled().await;
        assert_eq!(gateway.books().charges(), [job(&answers[0])]);
        assert_eq!(gateway.books().number("SELECT COUNT(*) FROM job"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_key_is_for_one_request_alone() {
    let upstream = upstream(300).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let mut other = body("gemini/nano-banana");
    other["n"] = 2.into();
    let refused = async |when: &str| {
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            let answer = Answer::of(under(&gateway, "order-1", &other)).await;
            quickest = quickest.min(begun.elapsed());
            answer.error(422, "idempotency_mismatch", Some("Idempotency-Key"));
        }
        assert!(quickest < Duration::from_millis(50), "{when}: {quickest:?}");
    };
    let first = tokio::spawn(Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana"))));
    upstream.until("the submit", |u| u.submits("/").len() == 1).await;
    refused("while it runs").await;
    let first = first.await.unwrap();
    first.ok();
    refused("when it is over").await;
    gateway.books().settled().await;
    assert_eq!(upstream.submits("/").len(), 1);
    assert_eq!(gateway.books().number("SELECT COUNT(*) FROM job"), 1);
    assert_eq!(gateway.books().charges(), [job(&first)]);
    assert_eq!(gateway.books().moved(&job(&first)).len(), 3, "a hold, a capture and a cost");
    // The same request in other words is the same.
    let text = r#"{"prompt": "a teapot",  "model": "gemini\/nano-banana"}"#;
    let request = gateway.request(reqwest::Method::POST, DRAW).body(text);
    let request = request.header("content-type", "application/json");
    let again = Answer::of(request.header("idempotency-key", "order-1")).await;
    assert_eq!((job(&again), is_replayed(&again)), (job(&first), true));
}

#[tokio::test]
async fn a_key_is_1_to_255_visible_characters() {
    let upstream = upstream(0).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let long = "k".repeat(256);
    for wrong in ["", "two words", " ", "caf\u{e9}", "tab\there", long.as_str()] {
        let key = HeaderValue::from_bytes(wrong.as_bytes()).unwrap();
        let call = gateway.post(DRAW, &body("gemini/nano-banana")).header("idempotency-key", key);
        Answer::of(call).await.error(400, "invalid_request", Some("Idempotency-Key"));
    }
    assert_eq!(upstream.submits("/").len(), 0);
    for right in ["!", "~", &long[..255], "2026-11-21/order:7"] {
        for replayed in [false, true] {
            let answer = Answer::of(under(&gateway, right, &body("gemini/nano-banana"))).await;
            assert_eq!(answer.picture(), picture());
            assert_eq!(is_replayed(&answer), replayed);
        }
    }
    assert_eq!(upstream.submits("/").len(), 4);
}

#[tokio::test]
async fn what_failed_unbilled_may_be_tried_again_under_its_key() {
    let upstream = Upstream::start().await;
    let refusals = [
        vendors::gemini_error(400, "INVALID_ARGUMENT"),
        vendors::gemini_error(403, "PERMISSION_DENIED"),
        vendors::gemini_error(429, "RESOURCE_EXHAUSTED"),
    ];
    let failures = refusals.len();
    upstream.on("POST", GEMINI, [&refusals[..], &[vendors::gemini(&picture())]].concat());
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let mut jobs = Vec::new();
    for _ in 0..failures {
        let answer = Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana"))).await;
        assert_ne!(answer.status, 200, "{}", answer.shown());
        assert!(!is_replayed(&answer));
        jobs.push(job(&answer));
    }
    let answer = Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana"))).await;
    assert_eq!((answer.picture(), is_replayed(&answer)), (picture(), false));
    jobs.push(job(&answer));
    jobs.dedup();
    assert_eq!(jobs.len(), failures + 1);
    assert_eq!(upstream.submits("/").len(), failures + 1);
    gateway.books().settled().await;
    assert_eq!(gateway.books().charges(), [job(&answer)]);
}

#[tokio::test]
async fn what_nobody_knows_is_not_tried_again_under_its_key() {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, [Reply::reset(), vendors::gemini(&picture())]);
    let strict = "jobs.ambiguous = \"strict\"";
    let gateway = Gateway::with(&upstream, &["gemini"], strict).await;
    for replayed in [false, true, true] {
        let answer = Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana"))).await;
        answer.error(502, "submit_outcome_unknown", None);
        assert_eq!(is_replayed(&answer), replayed);
    }
    assert_eq!(upstream.submits("/").len(), 1);
    let answer = Answer::of(under(&gateway, "order-2", &body("gemini/nano-banana"))).await;
    assert_eq!(answer.picture(), picture());
}

#[tokio::test]
async fn a_replay_gives_links_that_work_and_the_bytes_of_pictures() {
    each(["gemini/nano-banana", "fal/flux-1-dev"], async |model| {
        let upstream = upstream(0).await;
        let gateway = Gateway::with(&upstream, &["gemini", "fal"], "").await;
        let mut links = body(model);
        links["response_format"] = "url".into();
        for replayed in [false, true, true] {
            let answer = Answer::of(under(&gateway, "links", &links)).await;
            assert_eq!(is_replayed(&answer), replayed);
            let link = answer.links()[0].clone();
            let file = Answer::of(gateway.client.get(link)).await;
            assert_eq!((file.status, file.body), (200, picture()), "{model}");
            let answer = Answer::of(under(&gateway, "bytes", &body(model))).await;
            assert_eq!((answer.picture(), is_replayed(&answer)), (picture(), replayed));
        }
        assert_eq!(upstream.submits("/").len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_replay_outlives_the_process_and_ends_with_what_is_kept() {
    let upstream = upstream(0).await;
    let text = config(&upstream, &["gemini"], "store.kind = \"disk\"");
    let gateway = Gateway::start(&text).await;
    let first = Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana"))).await;
    gateway.books().settled().await;
    let gateway = Gateway::start_in(gateway.stop().await, &text).await;
    let again = Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana"))).await;
    assert_eq!((again.picture(), is_replayed(&again)), (picture(), true));
    assert_eq!(job(&again), job(&first));
    // Where nothing is kept, nothing is replayed, and nothing is bought a second time either.
    let forgetful = Gateway::with(&upstream, &["gemini"], "log.zero_retention = true").await;
    let submits = upstream.submits("/").len();
    let first = Answer::of(under(&forgetful, "order-1", &body("gemini/nano-banana"))).await;
    assert_eq!(first.picture(), picture());
    let again = Answer::of(under(&forgetful, "order-1", &body("gemini/nano-banana"))).await;
    again.error(410, "result_expired", None);
    assert_eq!(upstream.submits("/").len(), submits + 1);
}

#[tokio::test]
async fn another_keys_idempotency_key_is_another_job() {
    let upstream = upstream(0).await;
    let hash = |key: &str| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(key));
    let keys = format!(
        "auth.mode = \"keys\"\nauth.static_keys = [{{ name = \"a\", sha256 = \"{}\" }}, \
         {{ name = \"b\", sha256 = \"{}\" }}]",
        hash("one"),
        hash("two")
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &keys).await;
    let mut jobs = Vec::new();
    for (key, prompt) in [("one", "a teapot"), ("two", "a teapot"), ("two", "a kettle")] {
        let mut body = body("gemini/nano-banana");
        body["prompt"] = prompt.into();
        let answer = Answer::of(under(&gateway, "order-1", &body).bearer_auth(key)).await;
        if prompt == "a kettle" {
            answer.error(422, "idempotency_mismatch", Some("Idempotency-Key"));
            continue;
        }
        assert!(!is_replayed(&answer));
        jobs.push(job(&answer));
    }
    assert_ne!(jobs[0], jobs[1]);
    assert_eq!(upstream.submits("/").len(), 2);
}

#[tokio::test]
async fn a_repeat_is_recognised_before_anything_may_refuse_it() {
    let upstream = upstream(600).await;
    let keys = format!(
        "auth.mode = \"keys\"\nauth.static_keys = [{{ name = \"a\", sha256 = \"{}\", rpm = 1, \
         max_concurrent = 1, budget_usd = \"0.05\" }}]",
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest("one"))
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &keys).await;
    let send = |key: &str, body: &Value| under(&gateway, key, body).bearer_auth("one");
    let first = tokio::spawn(Answer::of(send("order-1", &body("gemini/nano-banana"))));
    upstream.until("the submit", |u| u.submits("/").len() == 1).await;
    // No request is left this minute, nor a place among the key's jobs, nor enough of its budget.
    let other = Answer::of(send("order-2", &body("gemini/nano-banana"))).await;
    other.error(429, "rate_limit_exceeded", None);
    let joined = Answer::of(send("order-1", &body("gemini/nano-banana"))).await;
    let first = first.await.unwrap();
    assert_eq!((joined.picture(), is_replayed(&joined)), (first.picture(), true));
    let replayed = Answer::of(send("order-1", &body("gemini/nano-banana"))).await;
    assert_eq!((job(&replayed), is_replayed(&replayed)), (job(&first), true));
    let mut changed = body("gemini/nano-banana");
    changed["prompt"] = "a kettle".into();
    Answer::of(send("order-1", &changed)).await.error(
        422,
        "idempotency_mismatch",
        Some("Idempotency-Key"),
    );
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_a_job_can_have_are_told_to_come_back() {
    let upstream = upstream(2500).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let call = || Answer::of(under(&gateway, "order-1", &body("gemini/nano-banana")));
    let first = tokio::spawn(call());
    upstream.until("the submit", |u| u.submits("/").len() == 1).await;
    let mut answers = join_all((0..160).map(|_| call())).await;
    answers.push(first.await.unwrap());
    let (served, sent_away): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
    assert_eq!(served.len(), 128);
    assert!(served.iter().all(|a| a.picture() == picture()));
    for answer in sent_away {
        answer.error(409, "idempotency_in_flight", None);
        assert!(answer.header("retry-after-ms").is_some());
    }
    let late = call().await;
    assert_eq!((late.picture(), is_replayed(&late)), (picture(), true));
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn one_of_several_callers_that_hangs_up_leaves_the_job_to_the_others() {
    let upstream = upstream(400).await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let stays = tokio::spawn(Answer::of(under(&gateway, "order-1", &body("fal/flux-1-dev"))));
    upstream.until("the submit", |u| u.count("POST", FAL) == 1).await;
    let leaves = tokio::spawn(Answer::of(under(&gateway, "order-1", &body("fal/flux-1-dev"))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    leaves.abort();
    let _ = leaves.await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The repeat of a call without the key, whose caller was lost elsewhere, is not this job.
    let repeat = gateway.post(DRAW, &body("fal/flux-1-dev")).header("x-stainless-retry-count", 1);
    let repeat = Answer::of(repeat).await;
    let stays = stays.await.unwrap();
    assert_eq!((stays.picture(), repeat.picture()), (picture(), picture()));
    assert_ne!(job(&stays), job(&repeat));
}
