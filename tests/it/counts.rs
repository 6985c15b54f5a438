//! `n`: by the provider's own count or by several calls, and what happens when some fail.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{
    Gateway, Reply, Upstream, pictures,
    vendors::{self, FAL, GEMINI, OPENAI},
};

fn picture() -> Bytes {
    pictures::png(128, 128)
}

fn body(changes: &Value) -> Value {
    let mut body = json!({"model": "gemini/nano-banana", "prompt": "a teapot", "n": 4});
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The seed of a call to Gemini.
fn seed(body: &Value) -> Option<u64> {
    body["generationConfig"]["seed"].as_u64()
}

/// Gemini that draws, except with this seed.
async fn except(seed_of_failure: u64, failure: Reply) -> Upstream {
    let upstream = Upstream::start().await;
    let good = vendors::gemini(&picture());
    upstream.on_each("POST", GEMINI, move |seen| {
        if seed(&seen.json()) == Some(seed_of_failure) { failure.clone() } else { good.clone() }
    });
    upstream
}

fn seeds(answer: &Value) -> Vec<Option<u64>> {
    let outputs = answer["mediagate"]["outputs"].as_array().unwrap();
    outputs.iter().map(|o| o["seed"].as_u64()).collect()
}

#[tokio::test]
async fn a_provider_of_single_pictures_is_called_as_often_as_needed() {
    let upstream = except(0, Reply::reset()).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    for n in [1, 4, 10] {
        let before = upstream.submits("/").len();
        let answer = gateway.draw(body(&json!({"n": n, "seed": 7}))).await;
        assert_eq!(answer.pictures(), vec![picture(); n]);
        let expected: Vec<Option<u64>> = (7..7 + n as u64).map(Some).collect();
        assert_eq!(seeds(&answer.json()), expected);
        let mut sent: Vec<Option<u64>> =
            upstream.submits("/")[before..].iter().map(|s| seed(&s.json())).collect();
        sent.sort_unstable();
        assert_eq!(sent, expected);
        assert_eq!(answer.cost(), format!("0.{:09}", 39_000_000 * n));
        assert_eq!(answer.json()["mediagate"]["failures"], json!([]));
        assert_eq!(answer.attempts().len(), n);
    }
    // Without a seed none is made up.
    let answer = gateway.draw(body(&json!({"n": 2}))).await.ok();
    assert_eq!(seeds(&answer), [None, None]);
    assert!(upstream.submits("/").iter().rev().take(2).all(|s| seed(&s.json()).is_none()));
}

#[tokio::test]
async fn what_is_missing_is_said_and_not_charged() {
    let blocked = json!({"candidates": [{"finishReason": "IMAGE_SAFETY"}]});
    for (failure, code) in [
        (Reply::json(200, &blocked), "content_policy_violation"),
        (vendors::gemini_error(503, "UNAVAILABLE"), "providers_exhausted"),
        (vendors::gemini_error(500, "INTERNAL"), "submit_outcome_unknown"),
        (vendors::gemini(&picture().slice(..60)), "providers_exhausted"),
    ] {
        let upstream = except(9, failure.clone()).await;
        let gateway = Gateway::with(&upstream, &["gemini"], "").await;
        for format in ["b64_json", "url"] {
            let asked = json!({"seed": 7, "response_format": format});
            let answer = gateway.draw(body(&asked)).await;
            let json = answer.ok();
            assert_eq!(json["data"].as_array().unwrap().len(), 3);
            assert_eq!(seeds(&json), [Some(7), Some(8), Some(10)]);
            let failures = json["mediagate"]["failures"].as_array().unwrap();
            assert_eq!(failures.len(), 1, "{failures:?}");
            assert_eq!(failures[0]["index"], 2);
            assert_eq!(failures[0]["code"], code);
            assert!(!failures[0]["message"].as_str().unwrap().is_empty());
            assert_eq!(answer.cost(), "0.117000000");
            assert_eq!(answer.header("x-mediagate-cost-usd"), Some("0.117000000"));
        }
        assert_eq!(upstream.submits("/").len(), 8);
        let all = json!({"seed": 7, "require_all": true});
        let answer = gateway.draw(body(&all)).await;
        let status = if code == "content_policy_violation" { 400 } else { 502 };
        let param = answer.json()["error"]["param"].as_str().map(str::to_owned);
        answer.error(status, code, param.as_deref());
        assert!(param.is_none_or(|p| p == "prompt"));
        assert_eq!(answer.json()["data"], Value::Null);
        let job = answer.header("x-mediagate-job-id").unwrap();
        let job = gateway.get(&format!("/v1/jobs/{job}")).await.ok();
        assert_eq!(job["cost"], Value::Null, "{job}");
    }
}

#[tokio::test]
async fn a_picture_that_fails_is_drawn_by_the_next_deployment_alone() {
    let upstream = except(8, vendors::gemini_error(503, "UNAVAILABLE")).await;
    vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url("/f.png")]));
    upstream.on("GET", "/f.png", Reply::file("image/png", &pictures::png(64, 64)));
    let route = "routes.r.targets = [\"gemini/nano-banana\", \"fal/flux-1-dev\"]";
    let gateway = Gateway::with(&upstream, &["gemini", "fal"], route).await;
    let answer = gateway.draw(body(&json!({"model": "r", "n": 3, "seed": 7}))).await;
    let drawn = answer.pictures();
    assert_eq!(drawn, [picture(), pictures::png(64, 64), picture()]);
    let sent = upstream.submits("/fal")[0].json();
    assert_eq!((&sent["seed"], &sent["num_images"]), (&json!(8), &Value::Null), "{sent}");
    assert_eq!(upstream.submits("/").len(), 4);
}

#[tokio::test]
async fn a_provider_that_counts_itself_is_called_once() {
    let upstream = Upstream::start().await;
    upstream.on("POST", OPENAI, vendors::openai(&vec![picture(); 4]));
    let gateway = Gateway::with(&upstream, &["openai"], "").await;
    let answer = gateway.draw(body(&json!({"model": "gpt-image-1-mini"}))).await;
    assert_eq!(answer.pictures().len(), 4);
    let submits = upstream.submits("/");
    assert_eq!(submits.len(), 1);
    assert_eq!(submits[0].json()["n"], 4);
    // More than was asked for is neither delivered nor charged.
    let answer = gateway.draw(body(&json!({"model": "gpt-image-1-mini", "n": 2}))).await;
    assert_eq!(answer.pictures().len(), 2);
    // Fewer is said.
    let answer = gateway.draw(body(&json!({"model": "gpt-image-1-mini", "n": 6}))).await;
    assert_eq!(answer.pictures().len(), 4);
    let failures = answer.json()["mediagate"]["failures"].clone();
    assert_eq!((&failures[0]["index"], &failures[1]["index"]), (&json!(4), &json!(5)));
}

#[tokio::test]
async fn tokens_are_charged_for_delivered_pictures_alone() {
    let usage = json!({
        "input_tokens": 10, "output_tokens": 4000, "total_tokens": 4010,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 0}
    });
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["openai"], "").await;
    let mut drawn = vec![picture(); 4];
    let cost = async |drawn: &[Bytes], n: u32| {
        let data: Vec<Value> =
            drawn.iter().map(|p| json!({"b64_json": STANDARD.encode(p)})).collect();
        upstream.on(
            "POST",
            OPENAI,
            Reply::json(200, &json!({"created": 1, "data": data, "usage": usage})),
        );
        gateway.draw(body(&json!({"model": "openai/gpt-image-1-mini", "n": n}))).await.cost()
    };
    // 10 tokens of text at $2 and 4,000 of pictures at $8 for a million.
    assert_eq!(cost(&drawn, 4).await, "0.032020000");
    assert_eq!(cost(&drawn, 2).await, "0.016020000", "a gift was charged");
    drawn[3] = Bytes::from_static(b"not a picture");
    assert_eq!(cost(&drawn, 4).await, "0.024020000", "a broken picture was charged");
}

#[tokio::test]
async fn more_than_a_provider_counts_is_split() {
    let upstream = Upstream::start().await;
    upstream.on("GET", "/f.png", Reply::file("image/png", &picture()));
    let link = upstream.url("/f.png");
    let mut jobs = 0;
    upstream.on_each("POST", FAL, move |_| {
        jobs += 1;
        Reply::json(200, &json!({"request_id": format!("r{jobs}")}))
    });
    for (job, count) in [("r1", 4), ("r2", 4), ("r3", 2)] {
        let path = format!("/fal/fal-ai/flux/requests/{job}");
        upstream.on(
            "GET",
            &format!("{path}/status"),
            Reply::json(200, &json!({"status": "COMPLETED"})),
        );
        upstream.on("GET", &path, vendors::fal_result(&vec![link.clone(); count]));
    }
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let answer = gateway.draw(body(&json!({"model": "fal/flux-1-dev", "n": 10}))).await;
    let mut counts: Vec<u64> =
        upstream.submits("/").iter().map(|s| s.json()["num_images"].as_u64().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 4, 4]);
    assert_eq!(answer.pictures().len(), 10, "{}", answer.shown());
}

#[tokio::test]
async fn one_withheld_picture_is_missing_and_the_others_come() {
    let upstream = Upstream::start().await;
    upstream.on("GET", "/f.png", Reply::file("image/png", &picture()));
    let url = upstream.url("/f.png");
    let result =
        json!({"images": [{"url": url}, {"url": url}], "has_nsfw_concepts": [false, true]});
    vendors::fal_job(&upstream, Reply::json(200, &result));
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let answer = gateway.draw(body(&json!({"model": "fal/flux-1-dev", "n": 2}))).await;
    assert_eq!(answer.picture(), picture());
    let failures = answer.json()["mediagate"]["failures"].clone();
    assert_eq!(failures[0]["index"], 1);
    assert_eq!(failures[0]["code"], "content_policy_violation");
}
