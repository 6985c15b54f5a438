//! Providers that want more than a key: tokens of a service account, signatures of every request.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    Answer, Gateway, Upstream, gateway, pictures,
    upstream::{Reply, Seen},
};

const VERTEX: &str = "/vertex/publishers/google/models/gemini-2.5-flash-image:generateContent";
const BEDROCK: &str = "/bedrock/model/us.stability.stable-image-search-replace-v1%3A0/invoke";

/// Made for tests; no account has its key.
const FILE: &str = include_str!("../data/service-account.json");

/// A service account's key file whose tokens are given out by the stand-in.
fn key_file(directory: &Path, upstream: &Upstream) -> String {
    let path = directory.join("account.json");
    let mut account: Value = serde_json::from_str(FILE).unwrap();
    account["token_uri"] = upstream.url("/token").into();
    std::fs::write(&path, account.to_string()).unwrap();
    path.display().to_string()
}

fn vertex(upstream: &Upstream, file: &str) -> String {
    let base = upstream.url("/vertex");
    let more = format!(
        "providers.vertex.base_url = \"{base}\"\nproviders.vertex.credentials_file = \"{file}\""
    );
    gateway::config(upstream, &[], &more)
}

fn token(upstream: &Upstream) {
    let mut number = 0;
    upstream.on_each("POST", "/token", move |_| {
        number += 1;
        Reply::json(200, &json!({"access_token": format!("t{number}"), "expires_in": 3600}))
    });
}

fn drawn(picture: &Bytes) -> Reply {
    let part = json!({"inlineData": {"mimeType": "image/png", "data": STANDARD.encode(picture)}});
    Reply::json(
        200,
        &json!({"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}),
    )
}

fn said(seen: &Seen) -> String {
    seen.headers["authorization"].to_str().unwrap().to_owned()
}

async fn ask(gateway: &Gateway) -> Answer {
    gateway.draw(json!({"model": "vertex/nano-banana", "prompt": "a teapot"})).await
}

#[tokio::test]
async fn a_service_account_signs_in_once_and_again_when_its_token_is_refused() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let picture = pictures::png(64, 64);
    token(&upstream);
    let refusal = json!({"error": {"status": "UNAUTHENTICATED", "message": "no"}});
    let refused = Reply::json(401, &refusal);
    upstream.on("POST", VERTEX, [drawn(&picture), drawn(&picture), refused, drawn(&picture)]);
    let gateway = Gateway::start(&vertex(&upstream, &key_file(directory.path(), &upstream))).await;
    for _ in 0..2 {
        assert_eq!(ask(&gateway).await.picture(), picture);
    }
    assert_eq!(ask(&gateway).await.status, 502);
    assert_eq!(ask(&gateway).await.picture(), picture);
    let tokens: Vec<String> = upstream.seen(VERTEX).iter().map(said).collect();
    assert_eq!(tokens, ["Bearer t1", "Bearer t1", "Bearer t1", "Bearer t2"]);
    let asked = upstream.seen("/token");
    assert_eq!(asked.len(), 2);
    let form: Vec<(String, String)> =
        url::form_urlencoded::parse(&asked[0].body).into_owned().collect();
    assert_eq!(form[0].1, "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(form[1].1.split('.').count(), 3);
}

#[tokio::test]
async fn a_service_account_that_is_refused_costs_nothing_and_tells_no_secret() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let answer = json!({"error": "invalid_grant", "error_description": "the secret of it"});
    upstream.on("POST", "/token", Reply::json(400, &answer));
    let gateway = Gateway::start(&vertex(&upstream, &key_file(directory.path(), &upstream))).await;
    let answer = ask(&gateway).await;
    assert_eq!(answer.status, 502);
    let outcomes: Vec<String> = answer.attempts().into_iter().map(|(_, outcome)| outcome).collect();
    assert!(outcomes.iter().all(|outcome| outcome == "credential_refused"), "{outcomes:?}");
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
    assert!(upstream.seen("/vertex").is_empty());
}

#[tokio::test]
async fn every_request_is_signed_with_the_hash_of_what_is_sent() {
    let upstream = Upstream::start().await;
    let picture = pictures::png(512, 512);
    let reply =
        json!({"images": [STANDARD.encode(&picture)], "seeds": [1], "finish_reasons": [null]});
    upstream.on("POST", BEDROCK, Reply::json(200, &reply));
    let base = upstream.url("/bedrock");
    let more = format!(
        "providers.bedrock.base_url = \"{base}\"\nproviders.bedrock.region = \"eu-west-1\"\n\
         providers.bedrock.access_key = \"AKIDEXAMPLE\"\nproviders.bedrock.secret_key = \"hidden\"\n\
         providers.bedrock.session_token = \"session\""
    );
    let gateway = Gateway::start(&gateway::config(&upstream, &[], &more)).await;
    let uri = format!("data:image/png;base64,{}", STANDARD.encode(&picture));
    let body = json!({
        "model": "bedrock/stable-image-search-replace", "prompt": "a teapot", "image": uri,
        "search_prompt": "a cup",
    });
    let answer = Answer::of(gateway.post("/v1/images/edits", &body)).await;
    assert_eq!(answer.picture(), picture);
    let seen = &upstream.seen("/bedrock")[0];
    let sent: Value = seen.json();
    assert_eq!(sent["image"], STANDARD.encode(&picture));
    let header = said(seen);
    assert!(header.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{header}");
    assert!(header.contains("/eu-west-1/bedrock/aws4_request, SignedHeaders=content-length;"));
    assert!(header.contains("x-amz-security-token"));
    assert_eq!(seen.headers["x-amz-security-token"], "session");
    let hash = hex::encode(Sha256::digest(&seen.body));
    assert_eq!(seen.headers["x-amz-content-sha256"], hash.as_str());
}
