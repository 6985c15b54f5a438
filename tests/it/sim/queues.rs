//! Vendors with a queue: fal, Replicate, Black Forest Labs; their files; the statistics.

use image::ImageFormat;
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn fal_goes_through_its_queue_by_the_urls_it_returns() {
    let sim = Simulator::start(quick()).await;
    let mut body = FAL.body("a lighthouse");
    body["num_images"] = 2.into();
    body["seed"] = 42.into();
    let answer = sim.post(FAL.submit, FAL.auth, &body).await;
    let submitted = answer.json();
    assert_eq!((answer.status, &submitted["status"]), (200, &json!("IN_QUEUE")));
    assert_eq!(submitted["queue_position"], 0);
    let id = submitted["request_id"].as_str().unwrap();
    assert_eq!(answer.header("x-fal-request-id"), id);
    // The sub-path of fal-ai/flux/dev is dropped.
    let url = format!("{}/fal/fal-ai/flux/requests/{id}", sim.base);
    assert_eq!(submitted["response_url"], url);
    assert_eq!(submitted["status_url"], format!("{url}/status"));
    assert_eq!(submitted["cancel_url"], format!("{url}/cancel"));
    let trap = format!("/fal/fal-ai/flux/dev/requests/{id}/status");
    assert_eq!(sim.get(&trap, FAL.auth).await.status, 405);
    assert_eq!(sim.get(&format!("/fal/fal-ai/imagen4/requests/{id}"), FAL.auth).await.status, 404);

    let early = sim.get(&url, FAL.auth).await;
    assert_eq!(
        (early.status, early.json()),
        (400, json!({"detail": "Request is still in progress"}))
    );
    let status = |word: &'static str| move |answer: &Answer| answer.json()["status"] == word;
    let running = sim.until(&submitted["status_url"], FAL.auth, status("IN_PROGRESS")).await;
    assert_eq!(running.status, 202);
    let done = sim.until(&submitted["status_url"], FAL.auth, status("COMPLETED")).await;
    assert_eq!(done.status, 200);
    assert!(done.json()["metrics"]["inference_time"].is_f64());
    let result = sim.get(&url, FAL.auth).await.json();
    assert_eq!(
        (&result["seed"], &result["has_nsfw_concepts"]),
        (&json!(42), &json!([false, false]))
    );
    for image in result["images"].as_array().unwrap() {
        assert_eq!((&image["width"], &image["content_type"]), (&json!(256), &json!("image/jpeg")));
        let file = sim.download(&image["url"]).await;
        assert_eq!(decoded(&file.bytes), (256, 128, ImageFormat::Jpeg));
    }
    let late = sim.send("PUT", submitted["cancel_url"].as_str().unwrap(), &[FAL.auth], "").await;
    let late = late.unwrap();
    assert_eq!((late.status, late.json()), (400, json!({"status": "ALREADY_COMPLETED"})));
}

#[tokio::test]
async fn fal_pushes_each_change_of_state() {
    let sim = Simulator::start(quick()).await;
    let submitted = FAL.submit(&sim, "", "a lighthouse").await.unwrap().json();
    let url = format!("{}/stream", submitted["status_url"].as_str().unwrap());
    let stream = sim.get(&url, FAL.auth).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let text = String::from_utf8(stream.bytes.to_vec()).unwrap();
    let states: Vec<String> = text
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()).unwrap())
        .map(|event| event["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]);
    // The stream ends when the work does: the result is there.
    let result = sim.get(submitted["response_url"].as_str().unwrap(), FAL.auth).await;
    assert_eq!(result.status, 200);
}

#[tokio::test]
async fn fal_cancels_what_is_not_over() {
    let sim = Simulator::start(SimSettings { queue_s: 30.0, ..quick() }).await;
    let submitted = FAL.submit(&sim, "", "a lighthouse").await.unwrap().json();
    let cancel = sim.send("PUT", submitted["cancel_url"].as_str().unwrap(), &[FAL.auth], "").await;
    let cancel = cancel.unwrap();
    assert_eq!((cancel.status, cancel.json()), (202, json!({"status": "CANCELLATION_REQUESTED"})));
    let status = sim.get(submitted["status_url"].as_str().unwrap(), FAL.auth).await.json();
    assert_eq!(status["status"], "COMPLETED");
    let result = sim.get(submitted["response_url"].as_str().unwrap(), FAL.auth).await;
    assert_eq!(result.status, 400);
}

#[tokio::test]
async fn fal_draws_the_schema_s_reply_and_data_uris() {
    let sim = Simulator::start(quick()).await;
    let check = async |endpoint: &str, body: Value| {
        let submitted = sim.post(&format!("/fal/{endpoint}"), FAL.auth, &body).await.json();
        let (result, _) = FAL.finish(&sim, &submitted).await;
        assert_eq!(result.status, 200, "{}", result.json());
        result.json()
    };
    let seeded = check("bria/text-to-image/3.2", json!({"prompt": "a fox"})).await;
    assert!(seeded["seed"].is_u64() && seeded.get("timings").is_none());
    let described = check("fal-ai/nano-banana", json!({"prompt": "a fox"})).await;
    assert!(described["description"].is_string() && described.get("seed").is_none());
    let inline =
        json!({"prompt": "a fox", "sync_mode": true, "image_size": {"width": 64, "height": 64}});
    let inline = check("fal-ai/flux/schnell", inline).await;
    assert!(inline["images"][0]["url"].as_str().unwrap().starts_with("data:image/jpeg;base64,"));
    let rounded = json!({"prompt": "a fox", "image_size": {"width": 1000, "height": 700}});
    let rounded = check("fal-ai/flux/dev", rounded).await;
    assert_eq!(
        (&rounded["images"][0]["width"], &rounded["images"][0]["height"]),
        (&json!(992), &json!(688))
    );
}

#[tokio::test]
async fn replicate_predicts_by_model_and_by_version() {
    let sim = Simulator::start(quick()).await;
    let answer = REPLICATE.submit(&sim, "", "a lighthouse").await.unwrap();
    let submitted = answer.json();
    assert_eq!((answer.status, &submitted["status"]), (201, &json!("starting")));
    assert_eq!((&submitted["version"], &submitted["output"]), (&json!("hidden"), &Value::Null));
    let id = submitted["id"].as_str().unwrap();
    assert_eq!(submitted["urls"]["get"], format!("{}/replicate/v1/predictions/{id}", sim.base));
    let status = |word: &'static str| move |answer: &Answer| answer.json()["status"] == word;
    let running = sim.until(&submitted["urls"]["get"], REPLICATE.auth, status("processing")).await;
    assert!(running.json()["started_at"].is_string());
    let done =
        sim.until(&submitted["urls"]["get"], REPLICATE.auth, status("succeeded")).await.json();
    assert_eq!(done["input"], json!({"prompt": "a lighthouse", "megapixels": "0.25"}));
    let file = sim.download(&done["output"][0]).await;
    assert_eq!(decoded(&file.bytes), (512, 512, ImageFormat::WebP), "webp unless asked");

    let model = sim.get("/replicate/v1/models/google/imagen-4", REPLICATE.auth).await.json();
    let version = model["latest_version"]["id"].as_str().unwrap().to_owned();
    for version in
        [version.clone(), "google/imagen-4".to_owned(), format!("google/imagen-4:{version}")]
    {
        let body =
            json!({"version": version, "input": {"prompt": "a fox", "output_format": "png"}});
        let headers = [REPLICATE.auth, ("content-type", "application/json"), ("prefer", "wait=30")];
        let answer =
            sim.send("POST", "/replicate/v1/predictions", &headers, body.to_string()).await;
        let answer = answer.unwrap();
        let done = answer.json();
        assert_eq!((answer.status, &done["status"]), (201, &json!("succeeded")), "held until done");
        assert!(done["output"].is_string(), "this model answers with one URL");
    }
}

#[tokio::test]
async fn replicate_cancels() {
    let sim = Simulator::start(SimSettings { run_s: 30.0, ..quick() }).await;
    let submitted = REPLICATE.submit(&sim, "", "a lighthouse").await.unwrap().json();
    let cancel = submitted["urls"]["cancel"].as_str().unwrap();
    let cancelled = sim.post(cancel, REPLICATE.auth, &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("canceled")));
}

#[tokio::test]
async fn bfl_is_polled_where_it_says_and_nowhere_else() {
    let sim = Simulator::start(quick()).await;
    let mut body = BFL.body("a lighthouse");
    body["output_format"] = "png".into();
    let submitted = sim.post(BFL.submit, BFL.auth, &body).await;
    assert_eq!(submitted.status, 200);
    let submitted = submitted.json();
    assert_eq!(submitted["cost"], 3.0);
    let id = submitted["id"].as_str().unwrap();
    let elsewhere = sim.get(&format!("/bfl/v1/get_result?id={id}"), BFL.auth).await;
    assert_eq!((elsewhere.status, &elsewhere.json()["status"]), (200, &json!("Task not found")));
    let pending = sim.get(submitted["polling_url"].as_str().unwrap(), BFL.auth).await.json();
    assert_eq!((&pending["status"], &pending["result"]), (&json!("Pending"), &Value::Null));
    let (done, sample) = BFL.finish(&sim, &submitted).await;
    let done = done.json();
    assert_eq!(
        (&done["status"], &done["result"]["prompt"]),
        (&json!("Ready"), &json!("a lighthouse"))
    );
    let file = sim.download(&sample).await;
    assert_eq!(decoded(&file.bytes), (128, 256, ImageFormat::Png));
    body["width"] = 2048.into();
    body["height"] = 1024.into();
    assert_eq!(sim.post(BFL.submit, BFL.auth, &body).await.json()["cost"], 4.5);
}

#[tokio::test]
async fn files_are_guarded_by_their_signature_and_take_no_key() {
    let sim = Simulator::start(quick()).await;
    let submitted = BFL.submit(&sim, "", "a lighthouse").await.unwrap().json();
    let (_, sample) = BFL.finish(&sim, &submitted).await;
    let url = sample.as_str().unwrap();
    assert_eq!(sim.download(&sample).await.status, 200);
    let bare = url.split('?').next().unwrap();
    assert_eq!(sim.send("GET", bare, &[], "").await.unwrap().status, 403);
    let later = url.replace("expires=1", "expires=2");
    assert_eq!(sim.send("GET", &later, &[], "").await.unwrap().status, 403);
    let leaked = sim.get(url, BFL.auth).await;
    assert_eq!(leaked.status, 400, "the vendor's key has no business here");
}

#[tokio::test]
async fn statistics_count_requests_and_time_jobs() {
    let sim = Simulator::start(quick()).await;
    let submitted = BFL.submit(&sim, "", "a lighthouse").await.unwrap().json();
    let (_, sample) = BFL.finish(&sim, &submitted).await;
    sim.download(&sample).await;
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    let counts = &stats["vendors"]["bfl"];
    assert_eq!((&counts["submit"], &counts["file"]), (&json!(1), &json!(1)));
    let job = &stats["jobs"][0];
    assert_eq!(job["polls"], counts["poll"]);
    let time = |name: &str| job[name].as_f64().unwrap();
    assert!((time("done") - time("created") - 0.2).abs() < 0.001, "{job}");
    assert!(time("first_seen_done") >= time("done"));
    assert_eq!(sim.send("POST", "/sim/reset", &[], "").await.unwrap().status, 204);
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    assert_eq!((&stats["jobs"], &stats["vendors"]["bfl"]["submit"]), (&json!([]), &json!(0)));
}
