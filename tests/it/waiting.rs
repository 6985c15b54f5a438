//! How long a caller waits: less than the job takes, not at all, kept awake, or no more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Reply, Upstream, config, each, pictures,
    vendors::{self, BFL, BFL_POLL, FAL, FAL_RESULT, FAL_STATUS, GEMINI, REPLICATE_POLL},
};

const DRAW: &str = "/v1/images/generations";
const FILE: &str = "/files/a.png";
const FAL_CANCEL: &str = "/fal/fal-ai/flux/requests/r1/cancel";
const REPLICATE_CANCEL: &str = "/replicate/predictions/p1/cancel";

const SYNC: &str = "gemini/nano-banana";
const QUEUE: &str = "fal/flux-1-dev";
const POLLED: &str = "bfl/flux-1-dev";

fn picture() -> Bytes {
    pictures::png(256, 192)
}

fn body(model: &str) -> Value {
    json!({"model": model, "prompt": "a teapot"})
}

/// Vendors whose work takes so long.
async fn slow(ms: u64) -> Upstream {
    let upstream = Upstream::start().await;
    let over = Instant::now() + Duration::from_millis(ms);
    upstream.on("POST", GEMINI, vendors::gemini(&picture()).after_ms(ms));
    upstream.on("GET", FILE, Reply::file("image/png", &picture()));
    let link = upstream.url(FILE);
    vendors::fal_job(&upstream, vendors::fal_result(std::slice::from_ref(&link)));
    upstream.on_each("GET", FAL_STATUS, move |_| {
        let word = if Instant::now() < over { "IN_PROGRESS" } else { "COMPLETED" };
        Reply::json(200, &json!({ "status": word }))
    });
    let ready = link.clone();
    vendors::bfl_job(&upstream, vendors::bfl_state("Pending"));
    upstream.on_each("GET", BFL_POLL, move |_| {
        if Instant::now() < over {
            vendors::bfl_state("Pending")
        } else {
            vendors::bfl_ready(&ready)
        }
    });
    vendors::replicate_job(&upstream, vendors::replicate_state("starting", &Value::Null, None));
    upstream.on_each("GET", REPLICATE_POLL, move |_| {
        if Instant::now() < over {
            vendors::replicate_state("processing", &Value::Null, None)
        } else {
            vendors::replicate_state("succeeded", &json!([link]), None)
        }
    });
    upstream
}

fn prefer(gateway: &Gateway, model: &str, preference: &str) -> RequestBuilder {
    gateway.post(DRAW, &body(model)).header("prefer", preference)
}

async fn begin(gateway: &Gateway, model: &str) -> String {
    let answer = Answer::of(prefer(gateway, model, "respond-async")).await;
    assert_eq!(answer.status, 202, "{}", answer.shown());
    answer.header("x-mediagate-job-id").unwrap().to_owned()
}

async fn delete(gateway: &Gateway, job: &str) -> Value {
    Answer::of(gateway.request(Method::DELETE, &format!("/v1/jobs/{job}"))).await.ok()
}

/// The job, once it is over.
async fn finished(gateway: &Gateway, job: &str) -> Value {
    for _ in 0..1000 {
        let found = gateway.get(&format!("/v1/jobs/{job}")).await.ok();
        if found["status"] != "running" {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{job} does not end");
}

#[tokio::test]
async fn who_prefers_not_to_wait_gets_the_job_and_comes_for_its_result() {
    each([SYNC, QUEUE, POLLED], async |model| {
        let upstream = slow(400).await;
        let gateway = Gateway::with(&upstream, &["gemini", "fal", "bfl"], "").await;
        let begun = Instant::now();
        let answer = Answer::of(prefer(&gateway, model, "respond-async")).await;
        assert!(begun.elapsed() < Duration::from_millis(390), "{:?}", begun.elapsed());
        assert_eq!(answer.status, 202, "{}", answer.shown());
        let job = answer.json();
        let id = job["id"].as_str().unwrap();
        assert_eq!((&job["object"], &job["status"]), (&json!("job"), &json!("running")));
        assert_eq!(answer.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
        assert_eq!(answer.header("x-mediagate-job-id"), Some(id));
        assert_eq!(answer.header("preference-applied"), Some("respond-async"));
        let result = job["result_url"].as_str().unwrap();
        let early = gateway.get(result).await;
        early.error(503, "job_still_running", None);
        assert!(early.header("retry-after").is_some());
        let job = finished(&gateway, id).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        assert!(job["finished_at"].as_u64() >= job["created_at"].as_u64(), "{job}");
        assert_eq!(gateway.get(result).await.picture(), picture());
        gateway.books().settled().await;
        assert_eq!(gateway.books().charges(), [id]);
        assert_eq!(upstream.submits("/").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_a_while_only_is_told_that_the_job_still_runs() {
    let upstream = slow(1600).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let begun = Instant::now();
    let answer = Answer::of(prefer(&gateway, SYNC, "wait=1")).await;
    answer.error(503, "job_still_running", None);
    assert!((900..1500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("x-should-retry"), Some("true"));
    let job = answer.header("x-mediagate-job-id").unwrap();
    // The SDK repeats with the same headers, and joins.
    let again = prefer(&gateway, SYNC, "wait=30").header("x-stainless-retry-count", 1);
    let again = Answer::of(again).await;
    assert_eq!(again.picture(), picture());
    assert_eq!(again.header("x-mediagate-job-id"), Some(job));
    assert_eq!(upstream.submits("/").len(), 1);
    for wrong in ["wait=soon", "wait=-1", "wait=", "wait", "respond-async, wait=1.5"] {
        let answer = Answer::of(prefer(&gateway, SYNC, wrong)).await;
        answer.error(400, "invalid_request", Some("Prefer"));
    }
    assert_eq!(upstream.submits("/").len(), 1);
    // Both: the job if it does not end within the time.
    let upstream = slow(300).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let answer = Answer::of(prefer(&gateway, SYNC, "respond-async, wait=5")).await;
    assert_eq!(answer.picture(), picture());
}

/// A gateway whose heart beats fast.
async fn beating(upstream: &Upstream, more: &str) -> Gateway {
    let text = config(upstream, &["gemini", "fal"], more);
    let data = tempfile::tempdir().unwrap();
    Gateway::start_with(data, &text, |c| c.server.heartbeat = Duration::from_millis(100)).await
}

fn awake(model: &str) -> Value {
    let mut body = body(model);
    body["heartbeat"] = true.into();
    body
}

#[tokio::test]
async fn white_space_keeps_a_caller_awake() {
    each([SYNC, QUEUE], async |model| {
        let upstream = slow(650).await;
        let gateway = beating(&upstream, "").await;
        let response = gateway.post(DRAW, &awake(model)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert!(response.headers().get("x-mediagate-job-id").is_some());
        let mut body = Vec::new();
        let mut beats = 0;
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece.unwrap();
            if piece.iter().all(u8::is_ascii_whitespace) {
                beats += 1;
                assert!(body.iter().all(u8::is_ascii_whitespace), "white space within the JSON");
            }
            body.extend_from_slice(&piece);
        }
        // One at least comes with the head.
        assert!((3..=60).contains(&beats), "{beats} beats");
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["data"].as_array().unwrap().len(), 1);
        gateway.books().settled().await;
        assert_eq!(gateway.books().charges().len(), 1);
        assert_eq!(upstream.submits("/").len(), 1);
        // What is quick is answered with all its headers.
        let quick = slow(0).await;
        let gateway = beating(&quick, "").await;
        let answer = gateway.draw(awake(SYNC)).await;
        assert_eq!(answer.picture(), picture());
        assert!(answer.header("x-mediagate-cost-usd").is_some());
    })
    .await;
}

#[tokio::test]
async fn after_an_early_200_an_error_stands_in_the_body() {
    let upstream = Upstream::start().await;
    let refusal = vendors::gemini_error(400, "INVALID_ARGUMENT");
    upstream.on("POST", GEMINI, refusal.after_ms(350));
    let gateway = beating(&upstream, "server.wait_s = 1").await;
    let check = async |code: &str| {
        let answer = gateway.draw(awake(SYNC)).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(b" "), "{}", answer.shown());
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        for field in ["message", "type", "param", "code"] {
            assert!(error.get(field).is_some(), "{field} of {error}");
        }
    };
    check("invalid_request").await;
    upstream.on("POST", GEMINI, vendors::gemini(&picture()).after_ms(1700));
    check("job_still_running").await;
    let again = gateway.post(DRAW, &awake(SYNC)).header("x-stainless-retry-count", 1);
    assert_eq!(Answer::of(again).await.json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(upstream.submits("/").len(), 2);
    assert_eq!(gateway.books().number("SELECT COUNT(*) FROM job"), 2);
}

#[tokio::test]
async fn a_caller_that_was_kept_awake_and_hangs_up_is_joined() {
    let upstream = slow(700).await;
    let gateway = beating(&upstream, "").await;
    let response = gateway.post(DRAW, &awake(QUEUE)).send().await.unwrap();
    let mut stream = response.bytes_stream();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = gateway.post(DRAW, &awake(QUEUE)).header("x-stainless-retry-count", 1);
    let again = Answer::of(again).await;
    assert_eq!(again.json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn a_job_that_is_deleted_ends_at_the_provider_and_costs_nothing() {
    let cases = [
        (QUEUE, "PUT", FAL_CANCEL, Reply::json(202, &json!({"status": "CANCELLATION_REQUESTED"}))),
        (
            "replicate/flux-1-dev",
            "POST",
            REPLICATE_CANCEL,
            vendors::replicate_state("canceled", &Value::Null, None),
        ),
    ];
    each(cases, async |(model, method, path, reply)| {
        let upstream = slow(60_000).await;
        upstream.on(method, path, reply);
        let gateway = Gateway::with(&upstream, &["fal", "replicate"], "").await;
        let call = gateway.post(DRAW, &body(model)).header("x-request-id", "waits");
        let waits = tokio::spawn(Answer::of(call));
        upstream.until("the submit", |u| u.submits("/").len() == 1).await;
        let list = gateway.get("/v1/jobs?request_id=waits").await.ok();
        let id = list["data"][0]["id"].as_str().unwrap().to_owned();
        assert!(gateway.books().number("SELECT SUM(pending) FROM account") > 0, "nothing is held");
        let job = delete(&gateway, &id).await;
        assert_eq!(job["status"], "cancelled", "{model}: {job}");
        assert_eq!(job["error"]["code"], "job_cancelled", "{job}");
        assert_eq!(upstream.count(method, path), 1, "{model}");
        waits.await.unwrap().error(409, "job_cancelled", None);
        let result = gateway.get(&format!("/v1/jobs/{id}/result")).await;
        result.error(409, "job_cancelled", None);
        gateway.books().settled().await;
        let moved = gateway.books().moved(&id);
        let kinds: Vec<_> = moved.iter().map(|m| m.split(' ').next().unwrap()).collect();
        assert_eq!(kinds, ["hold", "release"], "{moved:?}");
        assert_eq!(gateway.books().rows("SELECT state FROM job"), [["cancelled"]]);
        // Once more changes nothing.
        assert_eq!(delete(&gateway, &id).await["status"], "cancelled");
        assert_eq!(upstream.count(method, path), 1);
    })
    .await;
}

#[tokio::test]
async fn a_job_that_cannot_be_ended_goes_on() {
    each([SYNC, POLLED, QUEUE], async |model| {
        let upstream = slow(700).await;
        // Too late, says fal.
        let late = Reply::json(400, &json!({"status": "ALREADY_COMPLETED"}));
        upstream.on("PUT", FAL_CANCEL, late);
        let gateway = Gateway::with(&upstream, &["gemini", "fal", "bfl"], "").await;
        let id = begin(&gateway, model).await;
        upstream.until("the submit", |u| u.submits("/").len() == 1).await;
        delete(&gateway, &id).await;
        let job = finished(&gateway, &id).await;
        assert_eq!(job["status"], "succeeded", "{model}: {job}");
        gateway.books().settled().await;
        assert_eq!(gateway.books().charges(), [id.as_str()]);
        // One that is over stays as it is.
        assert_eq!(delete(&gateway, &id).await["status"], "succeeded");
        let result = gateway.get(&format!("/v1/jobs/{id}/result")).await;
        assert_eq!(result.picture(), picture());
        assert_eq!(upstream.submits("/").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_job_that_is_deleted_is_not_bought_elsewhere() {
    let upstream = slow(300).await;
    // The first provider fails after the job was cancelled; the second would do it.
    upstream.on("GET", BFL_POLL, vendors::bfl_state("Pending"));
    let over = Instant::now() + Duration::from_millis(600);
    upstream.on_each("GET", BFL_POLL, move |_| {
        vendors::bfl_state(if Instant::now() < over { "Pending" } else { "Error" })
    });
    let gateway = Gateway::with(&upstream, &["bfl", "fal"], "").await;
    let mut body = body("flux-1-dev");
    body["provider"] = json!({"order": ["bfl", "fal"]});
    let call = gateway.post(DRAW, &body).header("prefer", "respond-async");
    let id = Answer::of(call).await.json()["id"].as_str().unwrap().to_owned();
    upstream.until("the submit", |u| u.count("POST", BFL) == 1).await;
    delete(&gateway, &id).await;
    let job = finished(&gateway, &id).await;
    assert_eq!(job["status"], "cancelled", "{job}");
    assert_eq!(upstream.count("POST", FAL), 0);
    gateway.books().settled().await;
    assert!(gateway.books().charges().is_empty());
}

#[tokio::test]
async fn another_keys_job_is_not_there_for_any_verb() {
    let upstream = slow(500).await;
    let hash = |key: &str| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(key));
    let keys = format!(
        "auth.mode = \"keys\"\nauth.static_keys = [{{ name = \"a\", sha256 = \"{}\" }}, \
         {{ name = \"b\", sha256 = \"{}\" }}]",
        hash("one"),
        hash("two")
    );
    let gateway = Gateway::with(&upstream, &["fal"], &keys).await;
    let call = prefer(&gateway, QUEUE, "respond-async").bearer_auth("one");
    let id = Answer::of(call).await.json()["id"].as_str().unwrap().to_owned();
    let probe = async |when: &str| {
        for (method, path) in [
            (Method::GET, format!("/v1/jobs/{id}")),
            (Method::DELETE, format!("/v1/jobs/{id}")),
            (Method::GET, format!("/v1/jobs/{id}/result")),
        ] {
            let call = gateway.request(method.clone(), &path).bearer_auth("two");
            let message = Answer::of(call).await.error(404, "job_not_found", Some("id"));
            // As for one that does not exist.
            let path = path.replace(&id, "job_0");
            let call = gateway.request(method, &path).bearer_auth("two");
            let nothing = Answer::of(call).await.error(404, "job_not_found", Some("id"));
            assert_eq!(message.replace(&id, "job_0"), nothing, "{when}");
        }
        let call = gateway.request(Method::GET, "/v1/jobs").bearer_auth("two");
        assert_eq!(Answer::of(call).await.ok()["data"], json!([]), "{when}");
    };
    probe("while it runs").await;
    let result = format!("/v1/jobs/{id}/result");
    for _ in 0..300 {
        let call = gateway.request(Method::GET, &result).bearer_auth("one");
        if Answer::of(call).await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    probe("when it is over").await;
    assert_eq!(upstream.count("PUT", FAL_CANCEL), 0, "another's key has ended it");
    assert_eq!(gateway.books().rows("SELECT state FROM job"), [["succeeded"]]);
}

#[tokio::test]
async fn jobs_are_listed_page_by_page() {
    let upstream = slow(0).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let mut made = Vec::new();
    for _ in 0..5 {
        let answer = gateway.draw(body(SYNC)).await;
        made.push(answer.header("x-mediagate-job-id").unwrap().to_owned());
    }
    made.reverse();
    let page = async |query: &str| {
        let list = gateway.get(&format!("/v1/jobs?{query}")).await.ok();
        let jobs = list["data"].as_array().unwrap().iter();
        let ids = jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        (ids, list["has_more"].as_bool().unwrap())
    };
    let mut pages = Vec::new();
    let mut after = String::new();
    loop {
        let (ids, more) = page(&format!("limit=2{after}")).await;
        assert!(ids.len() == 2 || !more);
        after = format!("&after={}", ids.last().unwrap());
        pages.extend(ids);
        if !more {
            break;
        }
    }
    assert_eq!(pages, made);
    assert_eq!(page("").await, (made.clone(), false));
    assert_eq!(page("limit=5").await, (made.clone(), false));
    assert_eq!(page(&format!("after={}", made[4])).await, (Vec::new(), false));
    for wrong in ["limit=0", "limit=101", "limit=-1", "limit=many"] {
        let answer = gateway.get(&format!("/v1/jobs?{wrong}")).await;
        answer.error(400, "invalid_request", Some("limit"));
    }
}

#[tokio::test]
async fn labels_are_counted() {
    let upstream = slow(0).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    for (team, user) in [("blue", "ann"), ("blue", "bob"), ("red", "ann")] {
        let mut body = body(SYNC);
        body["metadata"] = json!({ "team": team });
        body["user"] = user.into();
        gateway.draw(body).await.ok();
    }
    gateway.draw(body(SYNC)).await.ok();
    gateway.books().settled().await;
    let used = "SELECT label, value, requests FROM usage_day WHERE unit = 'request' \
                ORDER BY label, value";
    let expected = [
        ["", "", "4"],
        ["team", "blue", "2"],
        ["team", "red", "1"],
        ["user", "ann", "2"],
        ["user", "bob", "1"],
    ];
    assert_eq!(gateway.books().rows(used), expected);
    let paid = "SELECT label, value, SUM(amount) FROM usage_day GROUP BY 1, 2 ORDER BY 1, 2";
    let paid = gateway.books().rows(paid);
    assert_eq!(paid[0][2], (4 * 39_000_000).to_string());
    assert_eq!(paid[1][2], (2 * 39_000_000).to_string());
}

#[tokio::test]
async fn a_job_given_up_at_its_deadline_is_ended_at_the_provider_or_booked_as_owed() {
    let accepted = Reply::json(202, &json!({"status": "CANCELLATION_REQUESTED"}));
    let refused = Reply::json(400, &json!({"status": "ALREADY_COMPLETED"}));
    let cases = [
        (QUEUE, Some(accepted), None),
        (QUEUE, Some(refused), Some("fal")),
        (POLLED, None, Some("bfl")),
        (SYNC, None, Some("gemini")),
    ];
    each(cases, async |(model, cancel, owed_to)| {
        let upstream = slow(60_000).await;
        if let Some(reply) = cancel {
            upstream.on("PUT", FAL_CANCEL, reply);
        }
        let deadline = "jobs.deadlines.image = \"900ms\"";
        let gateway = Gateway::with(&upstream, &["gemini", "fal", "bfl"], deadline).await;
        let answer = gateway.draw(body(model)).await;
        answer.error(504, "deadline_exceeded", None);
        let id = answer.header("x-mediagate-job-id").unwrap().to_owned();
        gateway.books().settled().await;
        let books = gateway.books();
        let held = books.number("SELECT amount FROM transfer WHERE kind = 'hold'");
        assert!(held > 0);
        let mut moved = vec![
            format!("hold credit:default revenue {held}"),
            format!("release credit:default revenue {held}"),
        ];
        let state = match owed_to {
            Some(provider) => {
                // What it costs us by the list; the words were held for on top.
                let expected = books.number("SELECT expected FROM attempt");
                assert!(expected > 0 && expected <= held);
                moved.push(format!("suspense suspense payable:{provider} {expected}"));
                "unknown"
            }
            None => "failed",
        };
        assert_eq!(books.moved(&id), moved, "{model}");
        assert_eq!(books.rows("SELECT state FROM attempt"), [[state]], "{model}");
        assert_eq!(upstream.count("GET", FAL_RESULT), 0);
        assert_eq!(upstream.submits("/").len(), 1);
    })
    .await;
}
