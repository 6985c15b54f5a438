//! Which failures lead to the next deployment, and which submits are never sent twice.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Reply, Upstream, each, pictures,
    vendors::{self, GEMINI, OPENAI, openai_error},
};

/// Two cheap deployments in order: at most 0.036 USD, then 0.039.
const ROUTE: &str = "routes.r.targets = [\"openai/gpt-image-1-mini\", \"gemini/nano-banana\"]";
const FIRST: &str = "openai/gpt-image-1-mini";
const SECOND: &str = "gemini/nano-banana";

fn body() -> Value {
    json!({"model": "r", "prompt": "a teapot"})
}

/// OpenAI with these answers, and Gemini that always draws.
async fn first_says(replies: Vec<Reply>) -> Upstream {
    let upstream = Upstream::start().await;
    upstream.on("POST", OPENAI, replies);
    upstream.on("POST", GEMINI, vendors::gemini(&picture()));
    upstream
}

/// Submits at the first and at the second.
fn submits(upstream: &Upstream) -> (usize, usize) {
    (upstream.submits("/openai").len(), upstream.submits("/gemini").len())
}

fn picture() -> Bytes {
    static PICTURE: LazyLock<Bytes> = LazyLock::new(|| pictures::png(1024, 1024));
    PICTURE.clone()
}

fn tried(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(d, o)| ((*d).to_owned(), (*o).to_owned())).collect()
}

/// Answers that are not pictures, and what each is called.
fn faults() -> Vec<(&'static str, Reply)> {
    let html = "<html><body>502</body></html>";
    let good = || vendors::openai(&[picture()]);
    vec![
        ("rate_limited", openai_error(429, "rate_limit_exceeded").header("retry-after", "7")),
        ("rate_limited", openai_error(429, "rate_limit_exceeded").header("retry-after", "1.5")),
        ("rate_limited", openai_error(429, "rate_limit_exceeded")),
        ("credential_refused", openai_error(401, "invalid_api_key")),
        ("credential_refused", openai_error(403, "not_verified")),
        ("balance_exhausted", openai_error(402, "billing")),
        ("balance_exhausted", openai_error(429, "insufficient_quota")),
        ("unknown_model", openai_error(404, "model_not_found")),
        ("unavailable", openai_error(503, "overloaded")),
        ("server_error", openai_error(500, "server_error")),
        ("server_error", Reply::new(502, "text/html", html)),
        ("server_error", Reply::new(504, "text/html", html)),
        ("malformed_reply", Reply::new(200, "text/html", html)),
        ("malformed_reply", Reply::new(200, "application/json", "")),
        ("malformed_reply", Reply::json(200, &json!({"hello": 1}))),
        ("malformed_reply", Reply::new(302, "text/html", "").header("location", "/elsewhere")),
        ("connection_lost", Reply::reset()),
        ("connection_lost", good().cut_at(300)),
        ("empty_reply", Reply::json(200, &json!({"data": []}))),
        ("unusable_picture", vendors::openai(&[Bytes::from_static(b"<html>not a picture</html>")])),
        ("unusable_picture", vendors::openai(&[picture().slice(..2000)])),
        ("unusable_picture", vendors::openai(&[pictures::bomb()])),
    ]
}

#[tokio::test]
async fn one_provider_that_fails_is_paid_once_and_the_next_one_draws() {
    each(faults(), async |(outcome, reply)| {
        let upstream = first_says(vec![reply.clone()]).await;
        let gateway = Gateway::with(&upstream, &["openai", "gemini"], ROUTE).await;
        let answer = gateway.draw(body()).await;
        assert_eq!(answer.picture(), picture(), "{outcome}");
        assert_eq!(answer.attempts(), tried(&[(FIRST, outcome), (SECOND, "ok")]));
        assert_eq!(submits(&upstream), (1, 1), "{outcome}: {reply:?}");
        assert_eq!(answer.header("x-mediagate-attempts"), Some("2"));
        assert_eq!(answer.header("x-mediagate-provider"), Some("gemini"));
        // Only what was delivered is charged.
        assert_eq!(answer.cost(), "0.039000000", "{outcome}");
        assert_eq!(answer.header("x-mediagate-cost-usd"), Some("0.039000000"));
    })
    .await;
}

#[tokio::test]
async fn an_only_provider_that_fails_is_paid_once_and_never_shown_as_the_callers_fault() {
    each(faults(), async |(outcome, reply)| {
        let (status, code) = match outcome {
            "rate_limited" => (429, "providers_rate_limited"),
            "server_error" | "malformed_reply" | "connection_lost" => {
                (502, "submit_outcome_unknown")
            }
            _ => (502, "providers_exhausted"),
        };
        let upstream = first_says(vec![reply.clone()]).await;
        let gateway = Gateway::with(&upstream, &["openai", "gemini"], "").await;
        let answer = gateway.draw(json!({"model": FIRST, "prompt": "a teapot"})).await;
        answer.error(status, code, None);
        assert_eq!(answer.attempts(), tried(&[(FIRST, outcome)]));
        assert_eq!(submits(&upstream), (1, 0), "{reply:?}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("secret-of"), "{text}");
        // The job says the same.
        let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
        let job = gateway.get(&format!("/v1/jobs/{job}")).await.ok();
        let state = if code == "submit_outcome_unknown" { "unknown" } else { "failed" };
        assert_eq!(job["status"], state, "{job}");
        assert_eq!(job["error"]["code"], code, "{job}");
        assert_eq!(job["cost"], Value::Null, "{job}");
    })
    .await;
}

#[tokio::test]
async fn a_short_rate_limit_is_waited_out_once() {
    let limited = || openai_error(429, "rate_limit_exceeded").header("retry-after", "0.3");
    let good = vendors::openai(&[picture()]);
    let upstream = first_says(vec![limited(), good]).await;
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], ROUTE).await;
    let begun = std::time::Instant::now();
    let answer = gateway.draw(body()).await;
    assert_eq!(answer.attempts(), tried(&[(FIRST, "rate_limited"), (FIRST, "ok")]));
    assert!(begun.elapsed().as_millis() >= 300);
    assert_eq!(submits(&upstream), (2, 0));

    let upstream = first_says(vec![limited()]).await;
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], ROUTE).await;
    let answer = gateway.draw(body()).await;
    let limited = (FIRST, "rate_limited");
    assert_eq!(answer.attempts(), tried(&[limited, limited, (SECOND, "ok")]));
    assert_eq!(submits(&upstream), (2, 1));
}

#[tokio::test]
async fn where_all_are_rate_limited_the_caller_is_told_when_to_come_back() {
    for (first, second, wait) in
        [("600", "700", 120), ("600", "30", 30), ("30", "600", 30), ("7", "9", 7)]
    {
        let limited = openai_error(429, "rate_limit_exceeded").header("retry-after", first);
        let upstream = first_says(vec![limited]).await;
        let limited =
            vendors::gemini_error(429, "RESOURCE_EXHAUSTED").header("retry-after", second);
        upstream.on("POST", GEMINI, limited);
        let gateway = Gateway::with(&upstream, &["openai", "gemini"], ROUTE).await;
        let answer = gateway.draw(body()).await;
        answer.error(429, "providers_rate_limited", None);
        assert_eq!(answer.header("retry-after"), Some(wait.to_string().as_str()));
        assert_eq!(submits(&upstream), (1, 1));
    }
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_is_tried_twice_and_passed_over() {
    let upstream = first_says(vec![Reply::reset()]).await;
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let more = format!("{ROUTE}\nproviders.openai.base_url = \"http://{closed}\"");
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], &more).await;
    let answer = gateway.draw(body()).await;
    let closed = (FIRST, "unreachable");
    assert_eq!(answer.attempts(), tried(&[closed, closed, (SECOND, "ok")]));
    assert_eq!(answer.picture(), picture());
    let answer = gateway.draw(json!({"model": FIRST, "prompt": "x"})).await;
    answer.error(502, "providers_exhausted", None);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_counts_as_unknown() {
    let upstream = first_says(vec![vendors::openai(&[picture()]).after_ms(5000)]).await;
    let more = format!("{ROUTE}\nproviders.openai.timeout_s = 1");
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], &more).await;
    let answer = gateway.draw(body()).await;
    assert_eq!(answer.attempts(), tried(&[(FIRST, "timeout"), (SECOND, "ok")]));
    assert_eq!(submits(&upstream), (1, 1));
}

#[tokio::test]
async fn after_an_unknown_outcome_money_is_risked_only_within_the_rules() {
    let twice = "routes.r.targets = [\"openai/gpt-image-1-mini\", \"openai/gpt-image-1.5\"]";
    let strict = format!("{ROUTE}\njobs.ambiguous = \"strict\"");
    let capped = format!("{ROUTE}\njobs.ambiguous_job_cap_usd = \"0.035\"");
    let roomy = format!("{ROUTE}\njobs.ambiguous_job_cap_usd = \"0.036\"");
    let plain = json!({});
    for (config, changes, delivered) in [
        (ROUTE, &plain, true),
        // The same provider is not asked again, whatever the model.
        (twice, &plain, false),
        (&strict, &plain, false),
        (&capped, &plain, false),
        (&roomy, &plain, true),
        // 4 pictures may cost 0.144 USD.
        (ROUTE, &json!({"n": 4}), false),
        (ROUTE, &json!({"provider": {"allow_fallbacks": false}}), false),
    ] {
        for reply in [openai_error(500, "server_error"), Reply::reset()] {
            let upstream = first_says(vec![reply]).await;
            let gateway = Gateway::with(&upstream, &["openai", "gemini"], config).await;
            let mut body = body();
            for (name, value) in changes.as_object().unwrap() {
                body[name] = value.clone();
            }
            let answer = gateway.draw(body).await;
            if delivered {
                assert_eq!(answer.picture(), picture(), "{config} {changes}");
                assert_eq!(submits(&upstream), (1, 1));
            } else {
                answer.error(502, "submit_outcome_unknown", None);
                assert_eq!(submits(&upstream), (1, 0), "{config} {changes}");
            }
        }
    }
}

#[tokio::test]
async fn a_dear_job_is_not_bought_twice() {
    let upstream = first_says(vec![Reply::reset()]).await;
    let route = "routes.r.targets = [\"openai/gpt-image-2\", \"gemini/nano-banana\"]";
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], route).await;
    let dear = json!({"model": "r", "prompt": "x", "quality": "high", "size": "1024x1024"});
    gateway.draw(dear).await.error(502, "submit_outcome_unknown", None);
    assert_eq!(submits(&upstream), (1, 0));
    let cheap = json!({"model": "r", "prompt": "x", "quality": "low", "size": "1024x1024"});
    assert_eq!(gateway.draw(cheap).await.picture(), picture());
    assert_eq!(submits(&upstream), (2, 1));
}

#[tokio::test]
async fn what_a_provider_finds_invalid_is_not_tried_elsewhere() {
    let error = json!({"error": {"message": "the size is odd", "param": "size", "code": "bad"}});
    let upstream = first_says(vec![Reply::json(400, &error)]).await;
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], ROUTE).await;
    let answer = gateway.draw(body()).await;
    let message = answer.error(400, "invalid_request", Some("size"));
    assert!(message.contains("the size is odd"), "{message}");
    assert_eq!(submits(&upstream), (1, 0));
}

#[tokio::test]
async fn no_more_deployments_are_tried_than_allowed() {
    let upstream = first_says(vec![openai_error(503, "overloaded")]).await;
    let more = format!("{ROUTE}\njobs.max_attempts = 1");
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], &more).await;
    gateway.draw(body()).await.error(502, "providers_exhausted", None);
    assert_eq!(submits(&upstream), (1, 0));
}

#[tokio::test]
async fn callers_choose_among_providers() {
    let upstream = first_says(vec![vendors::openai(&[picture()])]).await;
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], ROUTE).await;
    for (choice, provider) in [
        (json!({}), "openai"),
        (json!({"order": ["gemini"]}), "gemini"),
        (json!({"only": ["gemini"]}), "gemini"),
        (json!({"ignore": ["openai"]}), "gemini"),
    ] {
        let mut body = body();
        body["provider"] = choice;
        let answer = gateway.draw(body.clone()).await;
        answer.ok();
        assert_eq!(answer.header("x-mediagate-provider"), Some(provider), "{body}");
    }
    let mut body = body();
    body["provider"] = json!({"only": ["bfl"]});
    gateway.draw(body).await.error(503, "no_provider_available", Some("provider"));
    // A second model of the request is tried after the first.
    upstream.on("POST", OPENAI, openai_error(503, "overloaded"));
    let body = json!({"model": FIRST, "models": [SECOND], "prompt": "x"});
    let answer = gateway.draw(body).await;
    assert_eq!(answer.attempts(), tried(&[(FIRST, "unavailable"), (SECOND, "ok")]));
}

#[tokio::test]
async fn the_deadline_encloses_everything() {
    let upstream = Upstream::start().await;
    vendors::fal_job(&upstream, Reply::reset());
    let running = Reply::json(202, &json!({"status": "IN_PROGRESS"}));
    upstream.on("GET", vendors::FAL_STATUS, running);
    upstream.on("PUT", "/fal/fal-ai/flux/requests/r1/cancel", Reply::json(202, &json!({})));
    let more = "jobs.deadlines.image = \"1s\"";
    let gateway = Gateway::with(&upstream, &["fal", "bfl"], more).await;
    let begun = std::time::Instant::now();
    let answer: Answer = gateway
        .draw(json!({"model": "flux-1-dev", "prompt": "x",
        "provider": {"order": ["fal"]}}))
        .await;
    answer.error(504, "deadline_exceeded", None);
    assert!(begun.elapsed().as_millis() < 2500, "{:?}", begun.elapsed());
    assert_eq!(upstream.submits("/").len(), 1);
    assert_eq!(upstream.count("PUT", "/fal/fal-ai/flux/requests/r1/cancel"), 1);
}
