//! Jobs of queues: accepted once, they are followed through whatever breaks on the way.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{
    Gateway, Reply, Upstream, each, pictures,
    vendors::{self, BFL_POLL, FAL_RESULT, FAL_STATUS, FAL_STREAM},
};

const FILE: &str = "/files/a.png";

fn picture() -> Bytes {
    pictures::png(256, 192)
}

fn body(model: &str) -> Value {
    json!({"model": model, "prompt": "a teapot"})
}

async fn upstream() -> Upstream {
    let upstream = Upstream::start().await;
    upstream.on("GET", FILE, Reply::file("image/png", &picture()));
    upstream
}

fn status(word: &str) -> Reply {
    Reply::json(200, &json!({ "status": word }))
}

#[tokio::test]
async fn questions_that_fail_are_asked_again_without_a_new_submit() {
    each(
        [
            Reply::new(500, "text/html", "<html></html>"),
            Reply::new(503, "application/json", "{}"),
            Reply::new(200, "text/html", "<html></html>"),
            Reply::reset(),
            Reply::json(429, &json!({"detail": "slow"})).header("retry-after", "1"),
            Reply::json(401, &json!({"detail": "who?"})),
        ],
        async |broken| {
            let upstream = upstream().await;
            vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
            upstream.on("GET", FAL_STATUS, [broken.clone(), status("COMPLETED")]);
            let gateway = Gateway::with(&upstream, &["fal"], "").await;
            let answer = gateway.draw(body("fal/flux-1-dev")).await;
            assert_eq!(answer.picture(), picture(), "{broken:?}");
            assert_eq!(upstream.submits("/").len(), 1, "{broken:?}");
            assert_eq!(upstream.count("GET", FAL_STATUS), 2, "{broken:?}");
            assert_eq!(answer.attempts().len(), 1);
        },
    )
    .await;
}

#[tokio::test]
async fn a_result_that_cannot_be_had_at_first_is_fetched_again() {
    let upstream = upstream().await;
    let result = vendors::fal_result(&[upstream.url(FILE)]);
    let broken = Reply::new(500, "text/html", "<html></html>");
    vendors::fal_job(&upstream, [broken, Reply::reset(), result]);
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    assert_eq!(gateway.draw(body("fal/flux-1-dev")).await.picture(), picture());
    assert_eq!(upstream.submits("/").len(), 1);
    assert_eq!(upstream.count("GET", FAL_RESULT), 3);
}

#[tokio::test]
async fn a_job_that_fails_is_made_by_the_next_deployment() {
    type Script = fn(&Upstream);
    let cases: [(&str, Script, &str); 5] = [
        (
            "fal/flux-1-dev",
            |up| vendors::fal_job(up, Reply::json(500, &json!({"detail": "worker died"}))),
            "job_failed",
        ),
        (
            "fal/flux-1-dev",
            |up| vendors::fal_job(up, Reply::json(404, &json!({"detail": "no such request"}))),
            "job_lost",
        ),
        ("bfl/flux-1-dev", |up| vendors::bfl_job(up, vendors::bfl_state("Error")), "job_failed"),
        (
            "bfl/flux-1-dev",
            |up| vendors::bfl_job(up, vendors::bfl_state("Task not found")),
            "job_lost",
        ),
        (
            "replicate/flux-1-dev",
            |up| {
                let failed = vendors::replicate_state("failed", &Value::Null, Some("CUDA"));
                vendors::replicate_job(up, failed);
            },
            "job_failed",
        ),
    ];
    each(cases, async |(model, script, outcome)| {
        let upstream = upstream().await;
        script(&upstream);
        upstream.on("POST", vendors::GEMINI, vendors::gemini(&picture()));
        let route = format!("routes.r.targets = [\"{model}\", \"gemini/nano-banana\"]");
        let ids = ["fal", "bfl", "replicate", "gemini"];
        let gateway = Gateway::with(&upstream, &ids, &route).await;
        let answer = gateway.draw(body("r")).await;
        assert_eq!(answer.picture(), picture(), "{model}");
        assert_eq!(answer.attempts()[0], (model.to_owned(), outcome.to_owned()));
        assert_eq!(upstream.submits("/").len(), 2, "{model}");
        let answer = gateway.draw(body(model)).await;
        // A job that the provider took and then does not know may be billed all the same.
        let forgotten = model.starts_with("bfl") && outcome == "job_lost";
        let code = if forgotten { "submit_outcome_unknown" } else { "providers_exhausted" };
        answer.error(502, code, None);
        assert_eq!(upstream.submits("/").len(), 3, "{model}");
    })
    .await;
}

#[tokio::test]
async fn a_download_that_breaks_is_repeated() {
    each(
        [
            Reply::file("image/png", &picture()).cut_at(100),
            Reply::new(500, "text/plain", "no"),
            Reply::reset(),
        ],
        async |broken| {
            let upstream = upstream().await;
            upstream.on("GET", FILE, [broken, Reply::file("image/png", &picture())]);
            vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
            let gateway = Gateway::with(&upstream, &["fal"], "").await;
            let answer = gateway.draw(body("fal/flux-1-dev")).await;
            assert_eq!(answer.picture(), picture());
            assert_eq!(upstream.count("GET", FILE), 2);
            assert_eq!(upstream.submits("/").len(), 1);
            // The provider's key is not for those who keep its files.
            let download = &upstream.seen(FILE)[0];
            assert!(!format!("{:?}", download.headers).contains("secret-of"), "{download:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_link_that_has_expired_is_asked_for_anew() {
    each([403, 404, 410], async |status| {
        let expired = Reply::new(status, "text/xml", "<Error/>");
        // BFL
        let upstream = upstream().await;
        upstream.on("GET", "/files/old.png", expired.clone());
        let old = vendors::bfl_ready(&upstream.url("/files/old.png"));
        vendors::bfl_job(&upstream, [old.clone(), vendors::bfl_ready(&upstream.url(FILE))]);
        let gateway = Gateway::with(&upstream, &["bfl"], "").await;
        assert_eq!(gateway.draw(body("bfl/flux-1-dev")).await.picture(), picture());
        assert_eq!((upstream.count("GET", BFL_POLL), upstream.submits("/").len()), (2, 1));
        // The same link again is no help.
        vendors::bfl_job(&upstream, old);
        let answer = gateway.draw(body("bfl/flux-1-dev")).await;
        answer.error(502, "result_lost", None);
        assert_eq!(upstream.submits("/").len(), 2);
        // Replicate
        let upstream = self::upstream().await;
        upstream.on("GET", "/files/old.png", expired.clone());
        let made = |path: &str| {
            let output = json!([upstream.url(path)]);
            vendors::replicate_state("succeeded", &output, None)
        };
        vendors::replicate_job(&upstream, [made("/files/old.png"), made(FILE)]);
        let gateway = Gateway::with(&upstream, &["replicate"], "").await;
        assert_eq!(gateway.draw(body("replicate/flux-1-dev")).await.picture(), picture());
        assert_eq!(upstream.submits("/").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn links_that_lead_inside_are_not_followed() {
    let upstream = upstream().await;
    let away = |to: &str| Reply::new(302, "text/plain", "").header("location", to);
    upstream.on("GET", "/files/away", away("http://169.254.169.254/latest/meta-data/"));
    upstream.on("GET", "/files/away-tls", away("https://169.254.169.254/latest/meta-data/"));
    let gateway = Gateway::with(&upstream, &["bfl"], "").await;
    let own = gateway.url("/livez");
    // A real picture, on a port that is not allowed.
    let inside = Upstream::start().await;
    inside.on("GET", FILE, Reply::file("image/png", &picture()));
    upstream.on("GET", "/files/inside", away(&inside.url(FILE)));
    for link in [
        inside.url(FILE),
        upstream.url("/files/inside"),
        upstream.url("/files/away"),
        upstream.url("/files/away-tls"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "https://127.0.0.1/x.png".to_owned(),
        "file:///etc/passwd".to_owned(),
        own,
    ] {
        vendors::bfl_job(&upstream, vendors::bfl_ready(&link));
        let before = upstream.submits("/").len();
        let begun = std::time::Instant::now();
        let answer = gateway.draw(body("bfl/flux-1-dev")).await;
        let message = answer.error(502, "result_lost", None);
        assert!(!message.contains("169.254"), "{message}");
        assert_eq!(upstream.submits("/").len(), before + 1, "{link}");
        // Nobody is asked twice for what is refused: one poll's wait, and no pauses.
        assert!(begun.elapsed().as_millis() < 2500, "{link}: {:?}", begun.elapsed());
    }
    assert!(inside.seen("/").is_empty());
}

#[tokio::test]
async fn a_stream_of_states_is_listened_to() {
    let upstream = upstream().await;
    vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
    upstream.on("GET", FAL_STATUS, status("IN_PROGRESS"));
    let events = [
        (0, json!({"status": "IN_QUEUE", "queue_position": 1})),
        (300, json!({"status": "IN_PROGRESS"})),
        (2300, json!({"status": "COMPLETED"})),
    ];
    upstream.on("GET", FAL_STREAM, Reply::events(&events, false));
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let begun = std::time::Instant::now();
    assert_eq!(gateway.draw(body("fal/flux-1-dev")).await.picture(), picture());
    let took = begun.elapsed().as_millis();
    assert!((2600..3400).contains(&took), "{took} ms");
    let stream = &upstream.seen(FAL_STREAM)[0];
    assert_eq!(stream.headers["accept"], "text/event-stream");
    assert_eq!(stream.headers["authorization"], "Key secret-of-fal");
    assert_eq!(upstream.count("GET", FAL_STATUS), 0);
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn where_the_stream_breaks_asking_takes_over() {
    let queued = (0, json!({"status": "IN_QUEUE"}));
    let odd = (0, json!("what is this"));
    each(
        [
            Reply::events(std::slice::from_ref(&queued), true),
            Reply::events(std::slice::from_ref(&queued), false),
            Reply::events(&[odd], true),
            Reply::reset(),
            Reply::new(500, "text/plain", "no"),
        ],
        async |stream| {
            let upstream = upstream().await;
            vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
            upstream.on("GET", FAL_STATUS, [status("IN_PROGRESS"), status("COMPLETED")]);
            upstream.on("GET", FAL_STREAM, stream.clone());
            let gateway = Gateway::with(&upstream, &["fal"], "").await;
            let begun = std::time::Instant::now();
            assert_eq!(gateway.draw(body("fal/flux-1-dev")).await.picture(), picture());
            assert!(begun.elapsed().as_millis() < 3000, "{stream:?}: {:?}", begun.elapsed());
            assert_eq!(upstream.count("GET", FAL_STATUS), 2, "{stream:?}");
            assert_eq!(upstream.count("GET", FAL_STREAM), 1, "{stream:?}");
            assert_eq!(upstream.submits("/").len(), 1);
        },
    )
    .await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_does_not_hang_a_job() {
    let upstream = upstream().await;
    vendors::fal_job(&upstream, vendors::fal_result(&[upstream.url(FILE)]));
    upstream.on("GET", FAL_STATUS, status("COMPLETED"));
    let silent = [(0, json!({"status": "IN_QUEUE"})), (600_000, json!({"status": "COMPLETED"}))];
    upstream.on("GET", FAL_STREAM, Reply::events(&silent, false));
    let gateway = Gateway::with(&upstream, &["fal"], "").await;
    let begun = std::time::Instant::now();
    assert_eq!(gateway.draw(body("fal/flux-1-dev")).await.picture(), picture());
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn jobs_are_polled_where_the_reply_says_and_with_the_key() {
    let upstream = upstream().await;
    let elsewhere = upstream.url("/eu1/state?id=b1");
    let accepted = json!({"id": "b1", "polling_url": elsewhere});
    upstream.on("POST", vendors::BFL, Reply::json(200, &accepted));
    upstream.on("GET", "/eu1/state", vendors::bfl_ready(&upstream.url(FILE)));
    let gateway = Gateway::with(&upstream, &["bfl"], "").await;
    assert_eq!(gateway.draw(body("bfl/flux-1-dev")).await.picture(), picture());
    let poll = &upstream.seen("/eu1/state")[0];
    assert_eq!(poll.headers["x-key"], "secret-of-bfl");
    // Not where a stranger's address is named.
    let stranger = Upstream::start().await;
    let accepted = json!({"id": "b1", "polling_url": stranger.url("/state")});
    upstream.on("POST", vendors::BFL, Reply::json(200, &accepted));
    upstream.on("GET", BFL_POLL, vendors::bfl_ready(&upstream.url(FILE)));
    assert_eq!(gateway.draw(body("bfl/flux-1-dev")).await.picture(), picture());
    assert!(stranger.seen("/").is_empty());
}
