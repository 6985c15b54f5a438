//! What stops a call before anything is sent: money, units, speed, and books that do not add up.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Upstream, pictures,
    vendors::{self, GEMINI},
};

const DRAW: &str = "/v1/images/generations";
const ROOT: &str = "an-operator-of-everything-0123456789";

/// A gateway whose one key may do this much.
async fn limited(limits: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("one"));
    let keys = format!(
        "auth.mode = \"keys\"\nauth.static_keys = [{{ name = \"a\", sha256 = \"{hash}\", {limits} }}]"
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &keys).await;
    (upstream, gateway)
}

fn body() -> Value {
    json!({"model": "gemini/nano-banana", "prompt": "a teapot"})
}

async fn draw(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    Answer::of(gateway.post(DRAW, body).bearer_auth(key)).await
}

#[tokio::test]
async fn a_budget_that_does_not_cover_a_call_refuses_it() {
    // One picture may cost 3.9 cents and some words.
    for (budget, served) in [("0.05", 1), ("0", 0), ("0.01", 0)] {
        let (upstream, gateway) = limited(&format!("budget_usd = \"{budget}\"")).await;
        for _ in 0..served {
            draw(&gateway, "one", &body()).await.ok();
            gateway.books().settled().await;
        }
        let refused = draw(&gateway, "one", &body()).await;
        let said = refused.error(429, "budget_exceeded", None);
        assert!(said.contains("is left"), "{said}");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert_eq!(upstream.submits("/").len(), served, "{budget}");
    }
}

#[tokio::test]
async fn a_key_draws_so_many_pictures_a_minute_and_no_more() {
    let (upstream, gateway) = limited("ipm = 2").await;
    let mut two = body();
    two["n"] = 2.into();
    let first = draw(&gateway, "one", &two).await;
    first.ok();
    assert_eq!(first.header("x-ratelimit-limit-images"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-images"), Some("0"));
    let second = draw(&gateway, "one", &body()).await;
    second.error(429, "rate_limit_exceeded", None);
    assert_eq!(second.header("x-should-retry"), Some("true"));
    let wait: u64 = second.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(upstream.submits("/").len(), 2);
}

#[tokio::test]
async fn a_key_has_so_many_jobs_at_once() {
    let (upstream, gateway) = limited("max_concurrent = 1").await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)).after_ms(700));
    let running = tokio::spawn(Answer::of(gateway.post(DRAW, &body()).bearer_auth("one")));
    upstream.until("the submit", |u| u.submits("/").len() == 1).await;
    let mut other = body();
    other["prompt"] = "a kettle".into();
    draw(&gateway, "one", &other).await.error(429, "rate_limit_exceeded", None);
    running.await.unwrap().ok();
    // Its place is free again.
    draw(&gateway, "one", &other).await.ok();
}

#[tokio::test]
async fn prepaid_credits_stop_hard() {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let more = format!(
        "auth.mode = \"keys\"\nauth.admin_key = \"{ROOT}\"\nserver.admin_listen = \"127.0.0.1:0\""
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &more).await;
    let admin = async |path: &str, body: Value| {
        let request = gateway.admin(Method::POST, &format!("/admin/v1/{path}"));
        let request = request.bearer_auth(ROOT).header("content-type", "application/json");
        let answer = Answer::of(request.body(body.to_string())).await;
        assert!((200..300).contains(&answer.status), "{}", answer.shown());
        answer.json()
    };
    let org = admin("orgs", json!({"name": "acme", "prepaid": true})).await;
    let project = admin("projects", json!({"org": org["id"], "name": "web"})).await;
    let key = admin("keys", json!({"name": "ci", "project": project["id"]})).await;
    let key = key["key"].as_str().unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refused = draw(&gateway, key, &body()).await;
    let said = refused.error(402, "insufficient_credits", None);
    assert!(said.contains("of the credits is left"), "{said}");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.submits("/").len(), 0);
    admin("credits", json!({"org": org["id"], "amount_usd": "0.05", "id": "first"})).await;
    draw(&gateway, key, &body()).await.ok();
    gateway.books().settled().await;
    draw(&gateway, key, &body()).await.error(402, "insufficient_credits", None);
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn an_account_that_does_not_add_up_is_closed() {
    let (upstream, gateway) = limited("budget_usd = \"5\"").await;
    draw(&gateway, "one", &body()).await.ok();
    gateway.books().settled().await;
    let books = rusqlite::Connection::open(gateway.books().path()).unwrap();
    books.busy_timeout(Duration::from_secs(5)).unwrap();
    books.execute("UPDATE account SET frozen = 1", []).unwrap();
    let refused = draw(&gateway, "one", &body()).await;
    refused.error(503, "ledger_frozen", None);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn what_tokens_cost_us_is_what_was_counted() {
    let upstream = Upstream::start().await;
    let picture = pictures::png(64, 64);
    let drawn = vendors::openai(std::slice::from_ref(&picture));
    drop(drawn);
    let counted = json!({
        "created": 1,
        "data": [{"b64_json": base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD, &picture)}],
        "usage": {"input_tokens": 42, "output_tokens": 1056, "total_tokens": 1098,
            "input_tokens_details": {"text_tokens": 42, "image_tokens": 0}},
    });
    upstream.on("POST", vendors::OPENAI, crate::support::Reply::json(200, &counted));
    let gateway = Gateway::with(&upstream, &["openai"], "").await;
    let body = json!({"model": "openai/gpt-image-2", "prompt": "a teapot"});
    let answer = gateway.draw(body).await;
    // 42 x 5 and 1056 x 30 dollars per million.
    assert_eq!(answer.cost(), "0.031890000");
    gateway.books().settled().await;
    let id = answer.header("x-mediagate-job-id").unwrap().to_owned();
    let moved = gateway.books().moved(&id);
    assert!(
        moved.iter().any(|m| m.contains("provider_cost") && m.contains("31890000")),
        "{moved:?}"
    );
    assert!(!moved.iter().any(|m| m.contains("absorb")), "{moved:?}");
}
