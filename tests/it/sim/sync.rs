//! Vendors that answer with the picture: OpenAI, Azure, Together, Gemini, Stability.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::ImageFormat;
use serde_json::{Value, json};

use super::*;

fn picture(base64: &Value) -> (u32, u32, ImageFormat) {
    decoded(&STANDARD.decode(base64.as_str().unwrap()).unwrap())
}

#[tokio::test]
async fn openai_draws_sizes_formats_and_counts() {
    let sim = Simulator::start(quick()).await;
    let check = async |extra: Value, n: usize, size: (u32, u32), format: ImageFormat| {
        let mut body = OPENAI.body("a lighthouse");
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = sim.post(OPENAI.submit, OPENAI.auth, &body).await;
        let reply = answer.json();
        assert_eq!(answer.status, 200, "{reply}");
        assert!(answer.header("x-request-id").starts_with("req_"));
        let data = reply["data"].as_array().unwrap();
        assert_eq!(data.len(), n);
        for item in data {
            assert_eq!(picture(&item["b64_json"]), (size.0, size.1, format));
            assert!(item.get("url").is_none(), "GPT models give base64 only");
        }
        assert_eq!(reply["size"], format!("{}x{}", size.0, size.1));
        let usage = &reply["usage"];
        let sum =
            usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], sum);
        reply
    };
    let reply = check(json!({}), 1, (1024, 1024), ImageFormat::Png).await;
    assert_eq!((&reply["background"], &reply["output_format"]), (&json!("opaque"), &json!("png")));
    let low =
        check(json!({"quality": "low", "size": null}), 1, (1024, 1024), ImageFormat::Png).await;
    assert_eq!((&low["quality"], &low["usage"]["output_tokens"]), (&json!("low"), &json!(196)));
    check(
        json!({"size": "1536x1024", "output_format": "jpeg"}),
        1,
        (1536, 1024),
        ImageFormat::Jpeg,
    )
    .await;
    let webp =
        json!({"n": 2, "size": "1280x720", "output_format": "webp", "output_compression": 50});
    check(webp, 2, (1280, 720), ImageFormat::WebP).await;
    let clear =
        check(json!({"background": "transparent"}), 1, (1024, 1024), ImageFormat::Png).await;
    assert_eq!(clear["background"], "transparent");
    let bytes = STANDARD.decode(clear["data"][0]["b64_json"].as_str().unwrap()).unwrap();
    assert!(image::load_from_memory(&bytes).unwrap().color().has_alpha());
}

#[tokio::test]
async fn openai_streams_partial_pictures_and_the_last() {
    let sim = Simulator::start(quick()).await;
    let mut body = OPENAI.body("a lighthouse");
    body["stream"] = true.into();
    body["partial_images"] = 2.into();
    let answer = sim.post(OPENAI.submit, OPENAI.auth, &body).await;
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    let events: Vec<(&str, Value)> = text
        .split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let data = data.strip_prefix("data: ").unwrap();
            (name.strip_prefix("event: ").unwrap(), serde_json::from_str(data).unwrap())
        })
        .collect();
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    let partial = "image_generation.partial_image";
    assert_eq!(names, [partial, partial, "image_generation.completed"]);
    for (name, data) in &events {
        assert_eq!(data["type"], *name);
        assert_eq!(picture(&data["b64_json"]), (1024, 1024, ImageFormat::Png));
        assert_eq!(data.get("usage").is_some(), *name != partial);
    }
}

#[tokio::test]
async fn azure_knows_deployments_on_both_of_its_paths() {
    let sim = Simulator::start(quick()).await;
    let answer = AZURE.submit(&sim, "", "a lighthouse").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(picture(&answer.json()["data"][0]["b64_json"]), (1024, 1024, ImageFormat::Png));
    let body = json!({"model": "gpt-image-2", "prompt": "a lighthouse"});
    let path = "/azure/openai/v1/images/generations";
    assert_eq!(sim.post(path, ("authorization", "Bearer entra"), &body).await.status, 200);
    assert_eq!(sim.post(path, AZURE.auth, &json!({"prompt": "x"})).await.status, 404);
}

#[tokio::test]
async fn together_gives_urls_unless_base64_is_asked() {
    let sim = Simulator::start(quick()).await;
    let mut body = TOGETHER.body("a lighthouse");
    body["n"] = 2.into();
    let reply = sim.post(TOGETHER.submit, TOGETHER.auth, &body).await.json();
    assert_eq!((&reply["object"], &reply["model"]), (&json!("list"), &body["model"]));
    for index in 0..2 {
        assert_eq!(reply["data"][index]["index"], index);
        let file = sim.download(&reply["data"][index]["url"]).await;
        assert_eq!(decoded(&file.bytes), (256, 256, ImageFormat::Jpeg));
        assert_eq!(file.header("content-type"), "image/jpeg");
    }
    body["response_format"] = "base64".into();
    body["output_format"] = "png".into();
    let reply = sim.post(TOGETHER.submit, TOGETHER.auth, &body).await.json();
    assert_eq!(picture(&reply["data"][1]["b64_json"]), (256, 256, ImageFormat::Png));
}

#[tokio::test]
async fn gemini_puts_pictures_among_other_parts() {
    let sim = Simulator::start(quick()).await;
    let reply = GEMINI.submit(&sim, "", "a lighthouse").await.unwrap().json();
    let parts = reply["candidates"][0]["content"]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 1, "only the picture was asked for");
    assert_eq!(picture(&parts[0]["inlineData"]["data"]), (512, 512, ImageFormat::Png));
    assert_eq!(reply["usageMetadata"]["candidatesTokenCount"], 747);
    // The names of protocol buffers in their other spelling; text and a draft come first.
    let body = json!({
        "contents": [{"parts": [{"text": "a lighthouse"}]}],
        "generation_config": {"image_config": {"aspect_ratio": "16:9"}},
    });
    let path = "/gemini/v1beta/models/gemini-3-pro-image:generateContent?key=test";
    let headers = [("content-type", "application/json")];
    let reply = sim.send("POST", path, &headers, body.to_string()).await.unwrap().json();
    let parts = reply["candidates"][0]["content"]["parts"].as_array().unwrap();
    assert!(parts[0]["text"].is_string() && parts[1]["thought"] == true);
    assert_eq!(picture(&parts[2]["inlineData"]["data"]), (1376, 768, ImageFormat::Jpeg));
    assert_eq!(parts[2]["inlineData"]["mimeType"], "image/jpeg");
}

#[tokio::test]
async fn stability_takes_forms_and_gives_bytes_or_json() {
    let sim = Simulator::start(quick()).await;
    let check = async |product: &str, accept: &str, fields: &[(&str, &str)]| {
        let (kind, body) = form(fields);
        let path = format!("/stability/v2beta/stable-image/generate/{product}");
        let headers = [STABILITY.auth, ("content-type", kind.as_str()), ("accept", accept)];
        let answer = sim.send("POST", &path, &headers, body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
        assert!(!answer.header("x-request-id").is_empty());
        answer
    };
    let fields = [("prompt", "a lighthouse"), ("aspect_ratio", "16:9"), ("seed", "7")];
    let answer = check("core", "image/*", &fields).await;
    assert_eq!(answer.header("finish-reason"), "SUCCESS");
    assert_eq!((answer.header("seed"), answer.header("content-type")), ("7", "image/png"));
    assert_eq!(decoded(&answer.bytes), (1632, 912, ImageFormat::Png));
    let fields = [("prompt", "a lighthouse"), ("output_format", "webp")];
    let answer = check("ultra", "image/*", &fields).await;
    assert_eq!(decoded(&answer.bytes), (1024, 1024, ImageFormat::WebP));
    let fields = [("prompt", "a lighthouse"), ("model", "sd3.5-medium"), ("output_format", "jpeg")];
    let reply = check("sd3", "application/json", &fields).await.json();
    assert_eq!(reply["finish_reason"], "SUCCESS");
    assert!(reply["seed"].is_u64());
    assert_eq!(picture(&reply["image"]), (1024, 1024, ImageFormat::Jpeg));
}
