//! The paths beside drawing: models, description, health, request ids.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Upstream, pictures,
    vendors::{self, GEMINI},
};

#[tokio::test]
async fn models_are_listed_and_retrieved_by_every_name() {
    let upstream = Upstream::start().await;
    let more = "routes.hero.targets = [\"flux-1-dev\"]";
    let gateway = Gateway::with(&upstream, &["fal", "gemini"], more).await;
    let list = gateway.get("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    for model in models {
        // OpenAI's shape, and nothing else unless asked.
        let fields: BTreeSet<&str> =
            model.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(["created", "id", "object", "owned_by"]), "{model}");
        assert_eq!(model["object"], "model");
    }
    let ids: BTreeSet<&str> = models.iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), models.len());
    for id in ["flux-1-dev", "fal/flux-1-dev", "nano-banana", "gemini/nano-banana", "hero"] {
        assert!(ids.contains(id), "{id}");
    }
    // Sold by others only.
    assert!(!ids.contains("stable-image-core") && !ids.contains("bfl/flux-1-dev"));
    for id in &ids {
        gateway.get(&format!("/v1/models/{id}")).await.ok();
    }
    for path in
        ["fal/flux-1-dev", "fal%2Fflux-1-dev", "fal/fal-ai/flux/dev", "fal%2Ffal-ai%2Fflux%2Fdev"]
    {
        let model = gateway.get(&format!("/v1/models/{path}")).await.ok();
        assert_eq!(model["id"], path.replace("%2F", "/"));
        assert_eq!(model["owned_by"], "fal");
        let details = &model["mediagate"];
        assert_eq!(details["model"], "flux-1-dev", "{details}");
        assert_eq!(details["capabilities"]["seed"], true);
        assert_eq!(details["parameters"]["n"], json!({"type": "range", "min": 1, "max": 10}));
        assert_eq!(details["pricing"]["fal/flux-1-dev"][0]["usd"], "0.025000000");
        assert_eq!(details["providers"][0]["native_n"], 4);
    }
    let missing = gateway.get("/v1/models/flux-1-deev").await;
    let message = missing.error(404, "model_not_found", Some("model"));
    assert!(message.contains("flux-1-dev"), "{message}");
    gateway.get("/v1/models/stable-image-core").await.error(
        503,
        "no_provider_available",
        Some("model"),
    );
    let expanded = gateway.get("/v1/models?expand=true").await.ok();
    assert!(expanded["data"].as_array().unwrap().iter().all(|m| m["mediagate"].is_object()));
    assert!(upstream.seen("/").is_empty());
}

#[tokio::test]
async fn every_name_of_a_model_draws_it() {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let more = "routes.hero.targets = [\"nano-banana\"]";
    let gateway = Gateway::with(&upstream, &["gemini"], more).await;
    for name in [
        "nano-banana",
        "NANO-banana",
        "gemini-25-flash-image",
        "gemini-2.5-flash-image",
        "gemini/nano-banana",
        "gemini/gemini-2.5-flash-image",
        "google/gemini-2.5-flash-image",
        "gemini-2.5-flash-image-preview",
        "hero",
    ] {
        let answer = gateway.draw(json!({"model": name, "prompt": "x"})).await;
        let said = answer.ok()["mediagate"].clone();
        assert_eq!(said["model"], "nano-banana", "{name}");
        assert_eq!(said["deployment"], "gemini/nano-banana");
        let substituted = name.ends_with("-preview");
        assert_eq!(
            said["adjustments"].as_array().unwrap().len(),
            usize::from(substituted),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_description_lists_every_path() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let document = gateway.get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for (path, method) in [
        ("/v1/images/generations", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{id}", "get"),
        ("/v1/jobs", "get"),
        ("/v1/jobs/{id}", "get"),
        ("/v1/jobs/{id}/result", "get"),
        ("/media/{signed}", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
    ] {
        assert!(document["paths"][path][method]["responses"].is_object(), "{method} {path}");
    }
    // Whatever a reference names is there.
    let text = document.to_string();
    for reference in text.split("\"#/").skip(1) {
        let pointer = format!("/{}", reference.split('"').next().unwrap());
        assert!(document.pointer(&pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn health_is_told() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    gateway.get("/livez").await.ok();
    gateway.get("/readyz").await.ok();
    let idle = Gateway::with(&upstream, &[], "").await;
    idle.get("/livez").await.ok();
    idle.get("/readyz").await.error(503, "no_provider_available", None);
    assert_eq!(idle.get("/v1/models").await.ok()["data"], json!([]));
    let answer = idle.draw(json!({"model": "flux-1-dev", "prompt": "x"})).await;
    answer.error(503, "no_provider_available", Some("model"));
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let long = "x".repeat(129);
    for (sent, kept) in [
        (Some("abc-123_X.y:z"), true),
        (Some(&long[..128]), true),
        (Some(long.as_str()), false),
        (Some("a b"), false),
        (Some("a\"b"), false),
        (Some(""), false),
        (None, false),
    ] {
        for path in ["/v1/models", "/nothing", "/livez"] {
            let mut request = gateway.request(Method::GET, path);
            if let Some(id) = sent {
                request = request.header("x-request-id", id);
            }
            let answer = Answer::of(request).await;
            let id = answer.header("x-request-id").unwrap();
            if kept {
                assert_eq!(Some(id), sent);
            } else {
                assert!(id.starts_with("req_") && id.len() > 30, "{id}");
            }
        }
    }
    // A picture's answer has it too, and the other headers of a call that reached a provider.
    let call = gateway
        .post("/v1/images/generations", &json!({"model": "nano-banana", "prompt": "x"}))
        .header("x-request-id", "mine");
    let answer = Answer::of(call).await;
    for (name, value) in [
        ("x-request-id", Some("mine")),
        ("x-mediagate-provider", Some("gemini")),
        ("x-mediagate-model", Some("nano-banana")),
        ("x-mediagate-attempts", Some("1")),
        ("x-mediagate-cost-usd", Some("0.039000000")),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let overhead: f64 = answer.header("x-mediagate-overhead-ms").unwrap().parse().unwrap();
    assert!((0.0..1000.0).contains(&overhead));
    let job = answer.header("x-mediagate-job-id").unwrap();
    let job = gateway.get(&format!("/v1/jobs/{job}")).await.ok();
    assert_eq!((&job["request_id"], &job["status"]), (&json!("mine"), &json!("succeeded")));
    assert_eq!(job["model"], "nano-banana");
    assert_ne!(job["finished_at"], Value::Null);
}

#[tokio::test]
async fn prices_follow_what_the_provider_counted() {
    let upstream = Upstream::start().await;
    let data = json!([{"b64_json": base64(&pictures::png(1024, 1024))}]);
    let usage = json!({"input_tokens": 50, "output_tokens": 1000, "total_tokens": 1050,
        "input_tokens_details": {"text_tokens": 40, "image_tokens": 10}});
    let reply = crate::support::Reply::json(200, &json!({"data": data, "usage": usage}));
    upstream.on("POST", vendors::OPENAI, reply);
    let gateway = Gateway::with(&upstream, &["openai"], "").await;
    let answer = gateway.draw(json!({"model": "gpt-image-1-mini", "prompt": "x"})).await;
    // 40 at 2, 10 at 2.5 and 1000 at 8 USD the million.
    assert_eq!(answer.cost(), "0.008105000");
    let shown = answer.json()["usage"].clone();
    assert_eq!((&shown["input_tokens"], &shown["total_tokens"]), (&json!(50), &json!(1050)));
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

#[tokio::test]
async fn models_without_a_price_are_refused_unless_allowed() {
    let upstream = Upstream::start().await;
    let picture = pictures::png(64, 64);
    let path = "/gemini/models/gemini-9-brush:generateContent";
    upstream.on("POST", path, vendors::gemini(&picture));
    let body = json!({"model": "gemini/gemini-9-brush", "prompt": "x"});
    let closed = Gateway::with(&upstream, &["gemini"], "").await;
    closed.draw(body.clone()).await.error(404, "model_not_found", Some("model"));
    let unknown = "catalog.allow_unknown = true";
    let unpriced = Gateway::with(&upstream, &["gemini"], unknown).await;
    unpriced.draw(body.clone()).await.error(402, "unpriced_model", Some("model"));
    assert!(upstream.seen("/").is_empty());
    let both = "catalog.allow_unknown = true\nbilling.allow_unpriced = true";
    let open = Gateway::with(&upstream, &["gemini"], both).await;
    let answer = open.draw(body).await;
    assert_eq!(answer.picture(), picture);
    // Not free: unknown.
    assert_eq!(answer.json()["mediagate"]["cost"], Value::Null);
    assert_eq!(answer.header("x-mediagate-cost-usd"), None);
}
