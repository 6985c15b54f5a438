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

const OPERATOR: &str = "canary-operator-0123456789";

/// Something made by the operator: the answer.
async fn make(gateway: &Gateway, path: &str, body: Value) -> Value {
    let call = gateway.admin(Method::POST, &format!("/admin/v1/{path}")).bearer_auth(OPERATOR);
    let call = call.header("content-type", "application/json").body(body.to_string());
    let answer = Answer::of(call).await;
    assert_eq!(answer.status, 201, "{}", answer.shown());
    answer.json()
}

/// Two organisations whose project and key are called the same: project and key of each.
async fn tenants() -> (Upstream, Gateway, [(Value, String); 2]) {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let more = format!(
        "auth.mode = \"keys\"\nauth.admin_key = \"{OPERATOR}\"\n\
         server.admin_listen = \"127.0.0.1:0\""
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &more).await;
    let tenant = async || {
        let org = make(&gateway, "orgs", json!({"name": "acme"})).await["id"].clone();
        let project = make(&gateway, "projects", json!({"name": "site", "org": org})).await;
        let key = json!({"name": "ci", "project": project["id"]});
        let key = make(&gateway, "keys", key).await["key"].as_str().unwrap().to_owned();
        (project["id"].clone(), key)
    };
    let both = [tenant().await, tenant().await];
    (upstream, gateway, both)
}

#[tokio::test]
async fn a_job_of_another_tenant_does_not_exist() {
    let (upstream, gateway, [(_, one), (_, other)]) = tenants().await;
    let answer = draw(&gateway, &one, &body("nano-banana")).await;
    let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
    for (path, method) in [
        (format!("/v1/jobs/{job}"), Method::GET),
        (format!("/v1/jobs/{job}/result"), Method::GET),
        (format!("/v1/jobs/{job}"), Method::DELETE),
    ] {
        let call = gateway.request(method.clone(), &path).bearer_auth(&other);
        let told = Answer::of(call).await.error(404, "job_not_found", Some("id"));
        let none = path.replace(&job, "job_none");
        let call = gateway.request(method, &none).bearer_auth(&other);
        let of_none = Answer::of(call).await.error(404, "job_not_found", Some("id"));
        assert_eq!(told.replace(&job, "job_none"), of_none);
    }
    let list = async |key: &str| {
        let call = gateway.request(Method::GET, "/v1/jobs").bearer_auth(key);
        Answer::of(call).await.ok()["data"].as_array().unwrap().len()
    };
    assert_eq!((list(&one).await, list(&other).await), (1, 0));
    // The same `Idempotency-Key` of another tenant is another one.
    let same = |key: &str| {
        let call = gateway.post("/v1/images/generations", &body("nano-banana")).bearer_auth(key);
        call.header("idempotency-key", "same")
    };
    for (key, submits) in [(&one, 2), (&other, 3), (&one, 3), (&other, 3)] {
        Answer::of(same(key)).await.ok();
        assert_eq!(upstream.submits("/").len(), submits);
    }
}

#[tokio::test]
async fn a_project_is_served_with_its_own_key() {
    let (upstream, gateway, [(project, one), (_, other)]) = tenants().await;
    let used = async |key: &str| {
        draw(&gateway, key, &body("nano-banana")).await.ok();
        let sent = upstream.submits("/").pop().unwrap();
        sent.headers["x-goog-api-key"].to_str().unwrap().to_owned()
    };
    assert_eq!(used(&one).await, "secret-of-gemini");
    let own = json!({"project": project, "provider": "gemini", "key": "their-own"});
    let own = make(&gateway, "provider-keys", own).await;
    assert_eq!(used(&one).await, "their-own");
    assert_eq!(used(&other).await, "secret-of-gemini");
    let path = format!("/admin/v1/provider-keys/{}", own["id"].as_str().unwrap());
    let gone = gateway.admin(Method::DELETE, &path).bearer_auth(OPERATOR);
    assert_eq!(Answer::of(gone).await.status, 200);
    assert_eq!(used(&one).await, "secret-of-gemini");
}
