//! What bad requests get: the right error, and no call to anyone.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Answer, Gateway, Upstream};

/// `{"model", "prompt"}` with changes; null takes a field away.
fn body(changes: &Value) -> Value {
    let mut body = json!({"model": "flux-1-dev", "prompt": "a teapot"});
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
        if value.is_null() {
            body.as_object_mut().unwrap().remove(name);
        }
    }
    body
}

#[tokio::test]
async fn fields_that_are_wrong_are_named_and_nobody_is_called() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal", "openai", "bfl"], "").await;
    let invalid = "invalid_request";
    for (changes, code, param) in [
        (json!({"model": null}), invalid, "model"),
        (json!({"model": ""}), invalid, "model"),
        (json!({"model": 7}), invalid, "model"),
        (json!({"prompt": null}), invalid, "prompt"),
        (json!({"prompt": ""}), invalid, "prompt"),
        (json!({"prompt": " \n"}), invalid, "prompt"),
        (json!({"prompt": ["a"]}), invalid, "prompt"),
        (json!({"model": "recraft-v3", "prompt": "x".repeat(1001)}), invalid, "prompt"),
        (json!({"model": "gpt-image-2", "prompt": "x".repeat(32_001)}), invalid, "prompt"),
        (json!({"n": 0}), invalid, "n"),
        (json!({"n": 11}), invalid, "n"),
        (json!({"n": "two"}), invalid, "n"),
        (json!({"n": -1}), invalid, "n"),
        (json!({"size": "10x"}), "invalid_size", "size"),
        (json!({"size": "0x0"}), "invalid_size", "size"),
        (json!({"size": "99999x99999"}), "invalid_size", "size"),
        (json!({"size": "big"}), "invalid_size", "size"),
        (json!({"size": ""}), "invalid_size", "size"),
        (json!({"size": "8192x8192"}), "invalid_size", "size"),
        (json!({"size": "1024x1024", "aspect_ratio": "16:9"}), invalid, "aspect_ratio"),
        (json!({"size": "1024x1024", "resolution": "4K"}), invalid, "resolution"),
        (json!({"fit": "squeeze"}), invalid, "fit"),
        (json!({"response_format": "file"}), invalid, "response_format"),
        (json!({"output_compression": 101}), invalid, "output_compression"),
        (json!({"output_compression": -1}), invalid, "output_compression"),
        (json!({"output_format": "bmp"}), invalid, "output_format"),
        (json!({"output_format": "jpeg", "background": "transparent"}), invalid, "background"),
        (json!({"background": "green"}), invalid, "background"),
        (json!({"quality": "superb"}), invalid, "quality"),
        (json!({"seed": -1}), invalid, "seed"),
        (json!({"stream": "yes"}), invalid, "stream"),
        (json!({"mode": "upscale"}), "unsupported_parameter", "mode"),
    ] {
        let answer = gateway.draw(body(&changes)).await;
        let message = answer.error(400, code, Some(param));
        assert!(message.len() < 600, "{changes}: {message}");
    }
    assert!(upstream.seen("/").is_empty(), "{:?}", upstream.seen("/"));
}

#[tokio::test]
async fn an_unknown_model_gets_the_three_nearest_names() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    for (asked, near) in
        [("flux-1-devv", "flux-1-dev"), ("gpt-imag-2", "gpt-image-2"), ("fal/nothing", "flux")]
    {
        let answer = gateway.draw(json!({"model": asked, "prompt": "x"})).await;
        let message = answer.error(404, "model_not_found", Some("model"));
        assert!(message.contains(asked) && message.contains(near), "{message}");
        let names = message.split("the nearest are ").nth(1).unwrap();
        assert_eq!(names.split(", ").count(), 3, "{message}");
    }
    // Not passed over because another name of the request is known.
    let body = json!({"model": "flux-1-devv", "models": ["flux-1-dev"], "prompt": "x"});
    gateway.draw(body).await.error(404, "model_not_found", Some("model"));
    assert!(upstream.seen("/").is_empty());
    // Known, but nobody who sells it is switched on.
    let answer = gateway.draw(json!({"model": "gpt-image-1.5", "prompt": "x"})).await;
    let message = answer.error(503, "no_provider_available", Some("model"));
    assert!(message.contains("openai"), "{message}");
}

#[tokio::test]
async fn headers_beyond_bounds_are_refused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let many = |count: usize| {
        (0..count).fold(gateway.request(Method::GET, "/livez"), |request, i| {
            request.header(format!("x-filler-{i}"), "x")
        })
    };
    Answer::of(many(50)).await.ok();
    Answer::of(many(120)).await.error(431, "headers_too_large", None);
    let long = gateway.request(Method::GET, "/livez").header("x-long", "x".repeat(70_000));
    Answer::of(long).await.error(431, "headers_too_large", None);
}

#[tokio::test]
async fn a_size_in_capitals_is_a_size() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let body = json!({"model": "flux-1-dev", "prompt": "x", "size": "1024X1024"});
    let answer = Answer::of(gateway.post("/v1/images/generations?dry_run=true", &body)).await.ok();
    assert_eq!(answer["candidates"][0]["native"], "1024x1024");
}

#[tokio::test]
async fn bodies_paths_and_methods_that_are_wrong_are_refused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let draw = "/v1/images/generations";
    let sent = |kind: &'static str, body: &'static str| {
        let request = gateway.request(Method::POST, draw).body(body);
        if kind.is_empty() { request } else { request.header("content-type", kind) }
    };
    let json = "application/json";
    for (kind, body, status, code) in [
        (json, "", 400, "invalid_request"),
        (json, "{", 400, "invalid_request"),
        (json, "prompt=x", 400, "invalid_request"),
        (json, "[1]", 400, "invalid_request"),
        (json, "\"x\"", 400, "invalid_request"),
        (json, "null", 400, "invalid_request"),
        ("text/plain", "{}", 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=x", "--x--", 415, "unsupported_media_type"),
        ("", "{}", 415, "unsupported_media_type"),
    ] {
        Answer::of(sent(kind, body)).await.error(status, code, None);
    }
    let deep = "[".repeat(200_000);
    let nested = gateway.request(Method::POST, draw).header("content-type", json).body(deep);
    Answer::of(nested).await.error(400, "invalid_request", None);
    for (method, path, allow) in [
        (Method::GET, draw, "POST"),
        (Method::PUT, draw, "POST"),
        (Method::DELETE, "/v1/models", "GET"),
        (Method::POST, "/livez", "GET"),
    ] {
        let answer = Answer::of(gateway.request(method, path)).await;
        answer.error(405, "method_not_allowed", None);
        let allowed = answer.header("allow").unwrap_or_default();
        assert!(allowed.contains(allow), "{path}: {allowed:?}");
    }
    for path in ["/", "/v1", "/v1/nothing", "/v1/images/generations/", "/admin/v1/keys"] {
        gateway.get(path).await.error(404, "not_found", None);
    }
    gateway.get("/v1/jobs/job_nothing").await.error(404, "job_not_found", Some("id"));
    gateway.get("/v1/jobs/job_nothing/result").await.error(404, "job_not_found", Some("id"));
    gateway.get("/v1/models/nothing").await.error(404, "model_not_found", Some("model"));
    gateway.get("/media/nothing").await.error(404, "file_not_found", None);
    assert!(upstream.seen("/").is_empty());
}

#[tokio::test]
async fn paths_and_queries_that_cannot_be_read_get_the_usual_error() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    for path in [
        "/v1/jobs?request_id=a&request_id=b",
        "/v1/jobs/%ff",
        "/v1/jobs/%ff/result",
        "/v1/models?expand=maybe",
        "/v1/models/%ff",
        "/media/%ff",
    ] {
        let answer = gateway.get(path).await;
        assert!(answer.status == 400 || answer.status == 404, "{path}: {}", answer.status);
        let error = answer.json()["error"].clone();
        let code = error["code"].as_str().unwrap().to_owned();
        answer.error(answer.status, &code, error["param"].as_str());
    }
    let body = json!({"model": "flux-1-dev", "prompt": "x"});
    let answer = Answer::of(gateway.post("/v1/images/generations?dry_run=maybe", &body)).await;
    answer.error(400, "invalid_request", Some("dry_run"));
    assert!(upstream.seen("/").is_empty());
}

/// Sends a head and as much of a body as is taken, and reads the answer.
async fn pour(gateway: &Gateway, head: &str, piece: &[u8], pieces: usize) -> (String, usize) {
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = socket.split();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let mut sent = 0;
    // Writing goes on until the answer is there.
    loop {
        tokio::select! {
            biased;
            n = read.read(&mut buffer) => match n {
                Ok(n) if n > 0 => {
                    answer.extend_from_slice(&buffer[..n]);
                    if answer.ends_with(b"}") {
                        break;
                    }
                }
                _ => break,
            },
            written = write.write_all(piece), if sent < pieces => match written {
                Ok(()) => sent += 1,
                Err(_) => sent = pieces,
            },
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("no answer"),
        }
    }
    (String::from_utf8_lossy(&answer).into_owned(), sent * piece.len())
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_before_it_is_read() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let head = "POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\n\
        content-type: application/json\r\n";
    // Announced: refused by the head alone.
    let announced = format!("{head}content-length: {}\r\n\r\n", 65 << 20);
    let (answer, _) = pour(&gateway, &announced, b"{", 1).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("\"code\":\"request_too_large\""), "{answer}");
    assert!(answer.contains("x-should-retry: false"), "{answer}");
    // Not announced: refused at the limit, though much more would come.
    let small = Gateway::with(&upstream, &["fal"], "limits.json_bytes = \"64KiB\"").await;
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let mut piece = b"4000\r\n".to_vec();
    piece.extend_from_slice(&[b' '; 0x4000]);
    piece.extend_from_slice(b"\r\n");
    let (answer, sent) = pour(&small, &chunked, &piece, 4000).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("\"code\":\"request_too_large\""), "{answer}");
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    assert!(upstream.seen("/").is_empty());
}

#[tokio::test]
async fn open_mode_answers_neither_foreign_hosts_nor_foreign_pages() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let own = gateway.address.to_string();
    for (name, value, allowed) in [
        ("host", "evil.example", false),
        ("host", "evil.example:4000", false),
        ("host", "127.0.0.1.evil.example", false),
        ("host", "localhost:4000", true),
        ("host", own.as_str(), true),
        ("origin", "https://evil.example", false),
        ("origin", "null", false),
        ("origin", "http://localhost:3000", true),
    ] {
        for path in ["/v1/models", "/openapi.json", "/media/x"] {
            let answer = Answer::of(gateway.request(Method::GET, path).header(name, value)).await;
            if allowed {
                assert_ne!(answer.status, 403, "{name}: {value}");
            } else {
                answer.error(403, "endpoint_not_allowed", None);
            }
        }
        let body = json!({"model": "nothing", "prompt": "x"});
        let answer =
            Answer::of(gateway.post("/v1/images/generations", &body).header(name, value)).await;
        assert_eq!(answer.status, if allowed { 404 } else { 403 }, "{name}: {value}");
    }
    assert!(upstream.seen("/").is_empty());
}
