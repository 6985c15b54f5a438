//! The bad days, by each kind of switch.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn refusals_have_each_vendors_status_and_hint() {
    let sim = Simulator::start(quick()).await;
    // 429, 500, 503, 401, 402, 422, as the vendor answers them.
    let rows = [
        (OPENAI, [429, 500, 503, 401, 429, 400]),
        (AZURE, [429, 500, 503, 401, 429, 400]),
        (TOGETHER, [429, 500, 503, 401, 402, 400]),
        (FAL, [429, 500, 503, 401, 403, 422]),
        (REPLICATE, [429, 500, 503, 401, 402, 422]),
        (BFL, [429, 500, 503, 403, 402, 422]),
        (GEMINI, [429, 500, 503, 400, 429, 400]),
        (STABILITY, [429, 500, 503, 401, 402, 400]),
    ];
    for (vendor, statuses) in rows {
        for (kind, status) in ["429=7", "500", "503", "401", "402", "422"].iter().zip(statuses) {
            let answer = vendor.submit(&sim, &format!("/x/{kind}"), "a fox").await.unwrap();
            assert_eq!(answer.status, status, "{} {kind}", vendor.name);
            assert!(answer.json().is_object());
            if *kind == "429=7" {
                let body = answer.json();
                let hint = match vendor.name {
                    "replicate" => body["detail"].as_str().unwrap().contains("in 7 seconds"),
                    "bfl" => body["retry_after"] == 7,
                    "gemini" => body["error"]["details"][1]["retryDelay"] == "7s",
                    "stability" => body["errors"][0].as_str().unwrap().contains("60 seconds"),
                    _ => answer.header("retry-after") == "7",
                };
                assert!(hint, "{}: {answer:?}", vendor.name);
            }
        }
    }
}

#[tokio::test]
async fn moderation_comes_as_each_vendor_does_it() {
    let sim = Simulator::start(quick()).await;
    let moderated = async |vendor: Vendor, switch: &str| {
        let prompt = format!("a fox [[fault:{switch}]]");
        let submitted = vendor.submit(&sim, "", &prompt).await.unwrap();
        if submitted.status >= 300
            || vendor
                .poll(&json!({
                    "status_url": 1, "urls": {"get": 1}, "polling_url": 1,
                }))
                .is_none()
        {
            return submitted;
        }
        vendor.finish(&sim, &submitted.json()).await.0
    };
    let at = |answer: &Answer, pointer: &str| {
        answer.json().pointer(pointer).cloned().unwrap_or_default()
    };
    let answer = moderated(OPENAI, "moderated").await;
    assert_eq!((answer.status, at(&answer, "/error/code")), (400, json!("moderation_blocked")));
    let answer = moderated(AZURE, "moderated").await;
    let inner = at(&answer, "/error/inner_error/code");
    assert_eq!((answer.status, inner), (400, json!("ResponsibleAIPolicyViolation")));
    let answer = moderated(TOGETHER, "moderated").await;
    assert_eq!(answer.status, 422);
    assert!(at(&answer, "/error/message").as_str().unwrap().contains("NSFW"));
    let answer = moderated(FAL, "moderated").await;
    let kind = at(&answer, "/detail/0/type");
    assert_eq!((answer.status, kind), (422, json!("content_policy_violation")));
    let answer = moderated(FAL, "moderated=output").await;
    assert_eq!((answer.status, at(&answer, "/has_nsfw_concepts/0")), (200, json!(true)));
    let answer = moderated(REPLICATE, "moderated").await;
    assert_eq!(at(&answer, "/status"), "failed");
    assert!(at(&answer, "/error").as_str().unwrap().contains("NSFW"));
    let answer = moderated(REPLICATE, "moderated=E005").await;
    assert!(at(&answer, "/error").as_str().unwrap().contains("E005"));
    let answer = moderated(BFL, "moderated").await;
    assert_eq!((answer.status, at(&answer, "/status")), (200, json!("Request Moderated")));
    let answer = moderated(BFL, "moderated=output").await;
    assert_eq!(at(&answer, "/status"), "Content Moderated");
    assert!(at(&answer, "/details/Moderation Reasons").is_array());
    let answer = moderated(GEMINI, "moderated").await;
    let reason = at(&answer, "/promptFeedback/blockReason");
    assert_eq!((answer.status, reason), (200, json!("PROHIBITED_CONTENT")));
    let answer = moderated(GEMINI, "moderated=output").await;
    assert_eq!(at(&answer, "/candidates/0/finishReason"), "IMAGE_SAFETY");
    let answer = moderated(STABILITY, "moderated").await;
    assert_eq!((answer.status, at(&answer, "/name")), (403, json!("content_moderation")));
    let answer = moderated(STABILITY, "moderated=output").await;
    assert_eq!((answer.status, answer.header("finish-reason")), (200, "CONTENT_FILTERED"));
}

#[tokio::test]
async fn jobs_fail_and_get_lost() {
    let sim = Simulator::start(quick()).await;
    let ended = async |vendor: Vendor, switch: &str| {
        let submitted = vendor.submit(&sim, &format!("/x/{switch}"), "a fox").await.unwrap();
        assert!(submitted.status < 300, "the submit is taken");
        vendor.finish(&sim, &submitted.json()).await.0
    };
    let fal = ended(FAL, "failed").await;
    assert_eq!(
        (fal.status, &fal.json()["detail"][0]["type"]),
        (500, &json!("internal_server_error"))
    );
    let infra = ended(FAL, "failed=infra").await;
    assert_eq!((infra.status, infra.header("x-fal-error-type")), (503, "runner_disconnected"));
    assert_eq!(ended(REPLICATE, "failed").await.json()["status"], "failed");
    assert_eq!(ended(BFL, "failed").await.json()["status"], "Error");
    for vendor in [OPENAI, AZURE, TOGETHER, GEMINI, STABILITY] {
        assert_eq!(vendor.submit(&sim, "/x/failed", "a fox").await.unwrap().status, 500);
    }
    for (vendor, status) in [(FAL, 404), (REPLICATE, 404), (BFL, 200)] {
        let submitted = vendor.submit(&sim, "/x/lost", "a fox").await.unwrap().json();
        let url = vendor.poll(&submitted).unwrap();
        let answer = sim.get(url.as_str().unwrap(), vendor.auth).await;
        assert_eq!(answer.status, status, "{}", vendor.name);
        if vendor.name == "bfl" {
            assert_eq!(answer.json()["status"], "Task not found");
        }
    }
}

#[tokio::test]
async fn replies_are_html_empty_cut_or_never_come() {
    let sim = Simulator::start(quick()).await;
    for vendor in ALL {
        let html = vendor.submit(&sim, "/x/html", "a fox").await.unwrap();
        assert_eq!((html.status, html.header("content-type")), (200, "text/html; charset=utf-8"));
        let empty = vendor.submit(&sim, "/x/empty", "a fox").await.unwrap();
        assert_eq!((empty.status, empty.bytes.len()), (200, 0));
        let cut = vendor.submit(&sim, "/x/truncated", "a fox").await.unwrap_err();
        assert!(cut.is_body() || cut.is_decode(), "{}: {cut:?}", vendor.name);
        let dropped = vendor.submit(&sim, "/x/drop", "a fox").await.unwrap_err();
        assert!(dropped.is_request(), "{}: {dropped:?}", vendor.name);
        let hung = vendor.submit(&sim, "/x/hang", "a fox");
        assert!(tokio::time::timeout(Duration::from_millis(300), hung).await.is_err());
    }
    // What was cut or dropped was taken and is paid: two jobs of each vendor.
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    for vendor in ALL {
        let jobs =
            stats["jobs"].as_array().unwrap().iter().filter(|job| job["vendor"] == vendor.name);
        assert_eq!(jobs.count(), 2, "{}", vendor.name);
    }
}

#[tokio::test]
async fn pictures_are_cut_huge_expired_or_lead_elsewhere() {
    let sim = Simulator::start(quick()).await;
    for vendor in [FAL, REPLICATE, BFL] {
        let file = async |switch: &str| {
            let prompt = format!("a fox [[fault:{switch}]]");
            let submitted = vendor.submit(&sim, "", &prompt).await.unwrap().json();
            let (_, url) = vendor.finish(&sim, &submitted).await;
            sim.download(&url).await
        };
        let cut = file("truncated-image").await;
        let whole = file("slow=0").await;
        assert!(cut.status == 200 && image::guess_format(&cut.bytes).is_ok());
        assert!(cut.bytes.len() < whole.bytes.len() * 3 / 4, "{}", vendor.name);
        let bomb = file("bomb").await;
        assert!((40_000..60_000).contains(&bomb.bytes.len()), "{}", bomb.bytes.len());
        let size = image::ImageReader::new(std::io::Cursor::new(&bomb.bytes))
            .with_guessed_format()
            .unwrap()
            .into_dimensions()
            .unwrap();
        assert_eq!(size, (20_000, 20_000));
        let expired = file("expired").await;
        assert_eq!(expired.status, 403);
        assert!(String::from_utf8_lossy(&expired.bytes).contains("Request has expired"));
        let redirect = file("redirect").await;
        assert_eq!(redirect.status, 302);
        assert!(redirect.header("location").starts_with("http://169.254.169.254/"));
    }
    for vendor in [OPENAI, GEMINI] {
        let reply = vendor.submit(&sim, "/x/truncated-image", "a fox").await.unwrap().json();
        let pointer = if vendor.name == "openai" {
            "/data/0/b64_json"
        } else {
            "/candidates/0/content/parts/0/inlineData/data"
        };
        let bytes =
            STANDARD.decode(reply.pointer(pointer).and_then(Value::as_str).unwrap()).unwrap();
        assert!(image::load_from_memory(&bytes).is_err());
    }
}

#[tokio::test]
async fn a_switch_may_name_a_stage_and_a_number_of_times() {
    let sim = Simulator::start(quick()).await;
    // The second submit through the same switch goes well.
    let first = BFL.submit(&sim, "/x/503*1", "a fox").await.unwrap();
    let second = BFL.submit(&sim, "/x/503*1", "a fox").await.unwrap();
    assert_eq!((first.status, second.status), (503, 200));
    for vendor in [FAL, REPLICATE, BFL] {
        let submitted = vendor.submit(&sim, "", "a fox [[fault:500@poll*2]]").await.unwrap();
        assert!(submitted.status < 300);
        let url = vendor.poll(&submitted.json()).unwrap();
        let poll = async || sim.get(url.as_str().unwrap(), vendor.auth).await.status / 100;
        assert_eq!([poll().await, poll().await, poll().await], [5, 5, 2], "{}", vendor.name);
    }
    let submitted = BFL.submit(&sim, "", "a fox [[fault:503@file*1]]").await.unwrap().json();
    let (_, sample) = BFL.finish(&sim, &submitted).await;
    assert_eq!(sim.download(&sample).await.status, 503);
    assert_eq!(sim.download(&sample).await.status, 200);
    let submitted = BFL.submit(&sim, "", "a fox [[fault:truncated@file]]").await.unwrap().json();
    let (_, sample) = BFL.finish(&sim, &submitted).await;
    assert!(sim.send("GET", sample.as_str().unwrap(), &[], "").await.is_err());
}

#[tokio::test]
async fn slow_work_takes_longer() {
    let sim = Simulator::start(quick()).await;
    let start = Instant::now();
    let submitted = BFL.submit(&sim, "/x/slow=1", "a fox").await.unwrap().json();
    assert!(start.elapsed() < Duration::from_millis(900), "only the work is slow");
    BFL.finish(&sim, &submitted).await;
    assert!(start.elapsed() > Duration::from_millis(1100));
}

#[tokio::test]
async fn faults_come_at_their_rate() {
    let faults = vec!["503=0.3".parse().unwrap()];
    let sim = Simulator::start(SimSettings { faults, ..quick() }).await;
    let mut refused = 0;
    for _ in 0..100 {
        refused += u32::from(BFL.submit(&sim, "", "a fox").await.unwrap().status == 503);
    }
    assert!((15..45).contains(&refused), "{refused}");
}

#[tokio::test]
async fn what_the_simulator_cannot_do_is_said() {
    let sim = Simulator::start(quick()).await;
    let check = async |vendor: Vendor, prefix: &str, prompt: &str, says: &str| {
        let answer = vendor.submit(&sim, prefix, prompt).await.unwrap();
        assert_eq!(answer.status, 400);
        let message = answer.json()["simulator"]["error"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{message}");
    };
    check(FAL, "/x/nonsense", "a fox", "truncated-image").await;
    check(FAL, "", "a fox [[fault:nonsense]]", "truncated-image").await;
    check(OPENAI, "/x/lost", "a fox", "has no jobs").await;
    check(GEMINI, "/x/expired", "a fox", "hands out no URLs").await;
    let nowhere = sim.get("/nobody", OPENAI.auth).await;
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.json()["simulator"]["error"].as_str().unwrap().contains("replicate"));
}
