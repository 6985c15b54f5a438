//! Keys of the configuration: who may ask, for what, and who sees whose jobs.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Upstream, pictures,
    vendors::{self, GEMINI},
};

fn sha256(key: &str) -> String {
    hex::encode(<sha2::Sha256 as sha2::Digest>::digest(key))
}

async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let keys = format!(
        "auth.mode = \"keys\"\n\
         auth.static_keys = [{{ name = \"all\", sha256 = \"{}\" }}, \
         {{ name = \"banana\", sha256 = \"{}\", models = [\"nano-*\", \"gemini/*\"] }}]\n\
         routes.hero.targets = [\"nano-banana\"]",
        sha256("right"),
        sha256("limited")
    );
    let gateway = Gateway::with(&upstream, &["gemini", "openai"], &keys).await;
    (upstream, gateway)
}

fn body(model: &str) -> Value {
    json!({"model": model, "prompt": "a teapot"})
}

async fn draw(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    Answer::of(gateway.post("/v1/images/generations", body).bearer_auth(key)).await
}

#[tokio::test]
async fn without_the_right_key_nothing_is_had() {
    let (upstream, gateway) = start().await;
    let hash = format!("Bearer {}", sha256("right"));
    for authorization in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("right"),
        Some("Basic cmlnaHQ6cmlnaHQ="),
        Some("Bearer wrong"),
        Some("Bearer right2"),
        Some("Bearer Right"),
        // The hash is no key.
        Some(hash.as_str()),
    ] {
        let with = |request: reqwest::RequestBuilder| match authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        let refused = [
            gateway.post("/v1/images/generations", &body("nano-banana")),
            gateway.post("/v1/images/generations?dry_run=true", &body("nano-banana")),
            gateway.post("/v1/images/generations", &json!("no object")),
            gateway.request(Method::GET, "/v1/models"),
            gateway.request(Method::GET, "/v1/models/nano-banana"),
            gateway.request(Method::GET, "/v1/jobs"),
            gateway.request(Method::GET, "/v1/jobs/job_x"),
            gateway.request(Method::GET, "/v1/jobs/job_x/result"),
        ];
        for request in refused {
            Answer::of(with(request)).await.error(401, "invalid_api_key", None);
        }
    }
    for path in ["/livez", "/readyz", "/openapi.json"] {
        gateway.get(path).await.ok();
    }
    assert!(upstream.seen("/").is_empty());
    for scheme in ["Bearer right", "bearer right", "BEARER  right"] {
        let call = gateway.post("/v1/images/generations", &body("nano-banana"));
        let answer = Answer::of(call.header("authorization", scheme)).await;
        assert_eq!(answer.picture(), pictures::png(64, 64));
    }
    // The caller's key is not the provider's.
    let sent = &upstream.submits("/")[0];
    assert_eq!(sent.headers["x-goog-api-key"], "secret-of-gemini");
    assert!(sent.headers.get("authorization").is_none());
}

#[tokio::test]
async fn a_key_may_call_its_models_only() {
    let (upstream, gateway) = start().await;
    for model in ["gpt-image-2", "openai/gpt-image-2", "flux-1-dev", "hero", "nothing"] {
        let answer = draw(&gateway, "limited", &body(model)).await;
        let message = answer.error(403, "model_not_allowed", Some("model"));
        assert!(message.contains("nano-*"), "{message}");
        let call = gateway.request(Method::GET, &format!("/v1/models/{model}"));
        let answer = Answer::of(call.bearer_auth("limited")).await;
        answer.error(403, "model_not_allowed", Some("model"));
    }
    // No way round by a second model.
    let mut both = body("nano-banana");
    both["models"] = json!(["gpt-image-2"]);
    draw(&gateway, "limited", &both).await.error(403, "model_not_allowed", Some("model"));
    assert!(upstream.seen("/").is_empty());
    for model in ["nano-banana", "gemini/nano-banana"] {
        draw(&gateway, "limited", &body(model)).await.ok();
    }
    draw(&gateway, "right", &body("hero")).await.ok();
    // The list shows what the key may call.
    let list = async |key: &str| -> Vec<String> {
        let call = gateway.request(Method::GET, "/v1/models").bearer_auth(key);
        let list = Answer::of(call).await.ok();
        let ids = list["data"].as_array().unwrap().iter();
        ids.map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    };
    let limited = list("limited").await;
    assert!(limited.contains(&"nano-banana".to_owned()));
    assert!(limited.iter().all(|id| id.starts_with("nano-") || id.starts_with("gemini/")));
    let all = list("right").await;
    assert!(
        ["hero", "gpt-image-2", "openai/gpt-image-2"].iter().all(|m| all.contains(&(*m).into()))
    );
}

#[tokio::test]
async fn a_key_sees_its_own_jobs_only() {
    let (upstream, gateway) = start().await;
    let answer = draw(&gateway, "right", &body("nano-banana")).await;
    let job = answer.header("x-mediagate-job-id").unwrap();
    for path in [format!("/v1/jobs/{job}"), format!("/v1/jobs/{job}/result")] {
        let call = gateway.request(Method::GET, &path).bearer_auth("limited");
        Answer::of(call).await.error(404, "job_not_found", Some("id"));
    }
    let list = async |key: &str| {
        let call = gateway.request(Method::GET, "/v1/jobs").bearer_auth(key);
        Answer::of(call).await.ok()["data"].as_array().unwrap().len()
    };
    assert_eq!((list("right").await, list("limited").await), (1, 0));
    // Nor does it join another's job.
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)).after_ms(400));
    let retry = |key: &'static str| {
        let call = gateway.post("/v1/images/generations", &body("nano-banana"));
        call.bearer_auth(key).header("x-stainless-retry-count", 1)
    };
    let lost = tokio::spawn(Answer::of(retry("right")));
    upstream.until("the submit", |u| u.submits("/").len() == 2).await;
    lost.abort();
    let _ = lost.await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    Answer::of(retry("limited")).await.ok();
    assert_eq!(upstream.submits("/").len(), 3);
    Answer::of(retry("right")).await.ok();
    assert_eq!(upstream.submits("/").len(), 3);
}
