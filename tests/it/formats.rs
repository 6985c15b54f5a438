//! What is asked is what is delivered: sizes, formats, and every deviation said.

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Reply, Upstream,
    pictures::{self, Looks, look},
    vendors::{self, GEMINI, OPENAI},
};

/// What a test asks for, and what it must get.
const DRY: &str = "/v1/images/generations?dry_run=true";

/// OpenAI that always answers with this picture.
async fn drawing(picture: &Bytes) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    upstream.on("POST", OPENAI, vendors::openai(std::slice::from_ref(picture)));
    upstream.on("POST", GEMINI, vendors::gemini(picture));
    upstream.on("POST", vendors::STABILITY, Reply::file("image/png", picture));
    let gateway = Gateway::with(&upstream, &["openai", "gemini", "stability"], "").await;
    (upstream, gateway)
}

fn body(changes: &Value) -> Value {
    let mut body = json!({"model": "openai/gpt-image-1-mini", "prompt": "a teapot"});
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// `param: kind` of every adjustment.
fn adjusted(answer: &Value) -> Vec<String> {
    let word = |v: &Value| v.as_str().unwrap().to_owned();
    let list = answer["mediagate"]["adjustments"].as_array().unwrap();
    let mut all: Vec<String> =
        list.iter().map(|a| format!("{}: {}", word(&a["param"]), word(&a["kind"]))).collect();
    all.sort();
    all
}

async fn linked(gateway: &Gateway, link: &str) -> Answer {
    Answer::of(gateway.client.request(Method::GET, link)).await
}

#[tokio::test]
async fn bytes_that_need_no_change_are_the_providers_own() {
    for (picture, name) in [
        (pictures::png(1024, 1024), "png"),
        (pictures::jpeg(1024, 1024), "jpeg"),
        (pictures::webp(1024, 1024), "webp"),
    ] {
        let (upstream, gateway) = drawing(&picture).await;
        for asked in [json!({}), json!({"output_format": name}), json!({"size": "1024x1024"})] {
            let answer = gateway.draw(body(&asked)).await;
            assert_eq!(answer.picture(), picture, "{name} {asked}");
            assert_eq!(adjusted(&answer.json()), [""; 0]);
            let output = &answer.json()["mediagate"]["outputs"][0];
            let facts =
                json!([output["width"], output["height"], output["format"], output["bytes"]]);
            assert_eq!(facts, json!([1024, 1024, name, picture.len()]));
            assert_eq!(answer.json()["size"], "1024x1024");
            assert_eq!(answer.json()["output_format"], name);
            let mut asked = asked.clone();
            asked["response_format"] = "url".into();
            let answer = gateway.draw(body(&asked)).await;
            let file = linked(&gateway, &answer.links()[0]).await;
            assert_eq!(file.body, picture);
            assert_eq!(file.header("content-type"), Some(format!("image/{name}").as_str()));
        }
        let sent = upstream.submits("/")[2].json();
        assert_eq!(sent["output_format"], name);
    }
}

#[tokio::test]
async fn every_format_is_delivered_in_base64_and_as_link() {
    let (_upstream, gateway) = drawing(&pictures::png(1024, 1024)).await;
    for name in ["png", "jpeg", "webp", "avif", "gif"] {
        for model in ["openai/gpt-image-1-mini", "gemini/nano-banana"] {
            let asked = json!({"model": model, "output_format": name});
            let answer = gateway.draw(body(&asked)).await;
            assert_eq!(look(&answer.picture()), Looks(name, 1024, 1024), "{model}");
            let output = &answer.json()["mediagate"]["outputs"][0];
            assert_eq!(output["format"], name);
            assert_eq!(output["bytes"], answer.picture().len());
        }
        let asked = json!({"output_format": name, "response_format": "url"});
        let answer = gateway.draw(body(&asked)).await;
        let file = linked(&gateway, &answer.links()[0]).await;
        assert_eq!(look(&file.body), Looks(name, 1024, 1024));
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&file.body);
        let output = &answer.json()["mediagate"]["outputs"][0];
        assert_eq!(output["sha256"], hex::encode(digest));
    }
    // A format the provider does not make is said to be converted, one it makes is not.
    let adjusted_for = async |model: &str, name: &str| {
        let asked = json!({"model": model, "output_format": name});
        adjusted(&gateway.draw(body(&asked)).await.ok())
    };
    let converted = ["output_format: converted"];
    assert_eq!(adjusted_for("gemini/nano-banana", "png").await, [""; 0]);
    assert_eq!(adjusted_for("gemini/nano-banana", "webp").await, converted);
    assert_eq!(adjusted_for("openai/gpt-image-1-mini", "avif").await, converted);
    // Not OpenAI's words: left out where the SDKs check them.
    let answer = gateway.draw(body(&json!({"output_format": "avif"}))).await.ok();
    assert_eq!(answer["output_format"], Value::Null);
}

#[tokio::test]
async fn sizes_are_delivered_exactly_and_the_change_is_said() {
    let upstream = Upstream::start().await;
    // Draws what it is asked for.
    upstream.on_each("POST", OPENAI, |seen| {
        let size = seen.json()["size"].as_str().unwrap_or("1024x1024").to_owned();
        let (width, height) = size.split_once('x').unwrap();
        let picture = pictures::png(width.parse().unwrap(), height.parse().unwrap());
        vendors::openai(&[picture])
    });
    let gateway = Gateway::with(&upstream, &["openai"], "").await;
    for (asked, sent, width, height, resized) in [
        (json!({"size": "1024x1024"}), Some("1024x1024"), 1024, 1024, false),
        (json!({"size": "1536x1024"}), Some("1536x1024"), 1536, 1024, false),
        (json!({"size": "1024X1536"}), Some("1024x1536"), 1024, 1536, false),
        (json!({"size": "1000x700"}), Some("1536x1024"), 1000, 700, true),
        (json!({"size": "1792x1024"}), Some("1536x1024"), 1792, 1024, true),
        (json!({"size": "64x64"}), Some("1024x1024"), 64, 64, true),
        (json!({"size": "auto"}), None, 1024, 1024, false),
        (json!({"size": "1000x700", "fit": "pad"}), Some("1536x1024"), 1000, 700, true),
        (json!({"size": "1000x700", "fit": "stretch"}), Some("1536x1024"), 1000, 700, true),
        (json!({"size": "1000x700", "fit": "none"}), Some("1024x1024"), 1024, 1024, true),
    ] {
        let answer = gateway.draw(body(&asked)).await;
        let Looks(_, w, h) = look(&answer.picture());
        let submit = upstream.submits("/").pop().unwrap().json();
        if asked["fit"] == "none" {
            // Whichever is nearest: untouched.
            assert_eq!(submit["size"], format!("{w}x{h}"));
            continue;
        }
        assert_eq!((w, h), (width, height), "{asked}");
        assert_eq!(submit["size"].as_str(), sent, "{asked}");
        let expected: &[&str] = if resized { &["size: resized"] } else { &[] };
        assert_eq!(adjusted(&answer.json()), expected, "{asked}");
        let output = &answer.json()["mediagate"]["outputs"][0];
        assert_eq!((&output["width"], &output["height"]), (&json!(w), &json!(h)));
        if resized {
            let said = &answer.json()["mediagate"]["adjustments"][0];
            assert_eq!(said["asked"], asked["size"]);
            assert_eq!(said["native"].as_str(), sent);
            assert_eq!(said["delivered"], format!("{width}x{height}"));
        }
    }
    // Contain: inside what was asked.
    let contain = json!({"size": "600x600", "fit": "contain", "aspect_ratio": null});
    let Looks(_, w, h) = look(&gateway.draw(body(&contain)).await.picture());
    assert_eq!((w, h), (600, 600));
    // A ratio: within a pixel of it.
    let Looks(_, w, h) = look(&gateway.draw(body(&json!({"size": "16:9"}))).await.picture());
    assert!((f64::from(w) * 9.0 / 16.0 - f64::from(h)).abs() <= 1.0, "{w}x{h}");
}

#[tokio::test]
async fn a_provider_that_draws_another_size_is_put_right() {
    // Asked for 1024x1024, drawn 1040x1008.
    let (_upstream, gateway) = drawing(&pictures::jpeg(1040, 1008)).await;
    let answer = gateway.draw(body(&json!({"size": "1024x1024"}))).await;
    assert_eq!(look(&answer.picture()), Looks("jpeg", 1024, 1024));
    assert_eq!(adjusted(&answer.json()), ["size: resized"]);
    // Far too small to be enlarged: of no use, and not charged.
    let (_upstream, gateway) = drawing(&pictures::jpeg(256, 256)).await;
    let answer = gateway.draw(body(&json!({"size": "1024x1024"}))).await;
    answer.error(502, "providers_exhausted", None);
    // Nobody asked for a size: it stays as it is.
    assert_eq!(look(&gateway.draw(body(&json!({}))).await.picture()), Looks("jpeg", 256, 256));
}

#[tokio::test]
async fn strict_refuses_whatever_would_be_changed_before_anyone_is_called() {
    let (upstream, gateway) = drawing(&pictures::png(1024, 1024)).await;
    for (asked, param) in [
        (json!({"output_format": "avif"}), "output_format"),
        (json!({"size": "1000x700"}), "size"),
        (json!({"model": "gemini/nano-banana", "quality": "high"}), "quality"),
        (json!({"style": "vivid"}), "style"),
        (json!({"output_format": "png", "output_compression": 50}), "output_compression"),
        (json!({"model": "dall-e-3"}), "model"),
    ] {
        let mut asked = body(&asked);
        asked["strict"] = true.into();
        let answer = gateway.draw(asked.clone()).await;
        answer.error(400, "unsupported_parameter", Some(param));
        let dry = Answer::of(gateway.post(DRY, &asked)).await.ok();
        assert_eq!(dry["candidates"][0]["eligible"], false, "{dry}");
    }
    assert!(upstream.seen("/").is_empty());
    // What would not be changed passes, and so does another name for the same thing.
    for asked in [
        json!({"output_format": "webp", "size": "1024x1024"}),
        json!({"model": "openai/gpt-image-1-mini", "quality": "hd"}),
    ] {
        let mut asked = body(&asked);
        asked["strict"] = true.into();
        assert_ne!(gateway.draw(asked.clone()).await.status, 400, "{asked}");
    }
}

#[tokio::test]
async fn what_is_changed_without_strict_is_said() {
    let (upstream, gateway) = drawing(&pictures::png(1024, 1024)).await;
    for (asked, expected) in [
        (json!({"model": "gemini/nano-banana", "quality": "high"}), vec!["quality: dropped"]),
        (json!({"style": "vivid"}), vec!["style: dropped"]),
        (
            json!({"output_format": "png", "output_compression": 50}),
            vec!["output_compression: dropped"],
        ),
        // A quality alone is one of the provider's own format.
        (json!({"output_compression": 50}), vec!["output_compression: dropped"]),
        (
            json!({"model": "gemini/nano-banana", "output_format": "jpeg", "output_compression": 9}),
            vec!["output_format: converted"],
        ),
        // Asked for JPEG, the provider sends PNG all the same.
        (json!({"model": "stable-image-core", "output_format": "png"}), vec![]),
        (
            json!({"model": "stable-image-core", "output_format": "jpeg", "output_compression": 9}),
            vec!["output_compression: emulated", "output_format: converted"],
        ),
        (
            json!({"model": "stable-image-core", "output_format": "jpeg"}),
            vec!["output_format: converted"],
        ),
        (json!({"model": "dall-e-3"}), vec!["model: substituted"]),
        (json!({"quality": "hd"}), vec![]),
        (json!({"quality": "hd", "verbose": true}), vec!["quality: renamed"]),
    ] {
        let answer = gateway.draw(body(&asked)).await.ok();
        let expected: Vec<&str> = expected;
        assert_eq!(adjusted(&answer), expected, "{asked}");
        for adjustment in answer["mediagate"]["adjustments"].as_array().unwrap() {
            assert!(!adjustment["reason"].as_str().unwrap().is_empty());
        }
    }
    assert_eq!(upstream.submits("/openai").last().unwrap().json()["quality"], "high");
}

#[tokio::test]
async fn lower_quality_is_fewer_bytes() {
    let (_upstream, gateway) = drawing(&pictures::png(1024, 1024)).await;
    for name in ["jpeg", "webp", "avif"] {
        let size = async |quality: u8| {
            let asked = json!({"model": "gemini/nano-banana", "output_format": name,
                "output_compression": quality, "size": "256x256"});
            gateway.draw(body(&asked)).await.picture().len()
        };
        let (low, high) = (size(10).await, size(95).await);
        assert!(low * 3 < high * 2, "{name}: {low} and {high} bytes");
    }
    let lossless = json!({"model": "gemini/nano-banana", "output_format": "webp",
        "webp_lossless": true});
    let drawn = gateway.draw(body(&lossless)).await.picture();
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
    assert!(pixels(&drawn) == pixels(&pictures::png(1024, 1024)));
}

#[tokio::test]
async fn a_dry_run_lists_every_candidate_and_calls_nobody() {
    let upstream = Upstream::start().await;
    let ids = ["bfl", "fal", "replicate", "together"];
    let gateway = Gateway::with(&upstream, &ids, "").await;
    let asked = json!({"model": "flux-1.1-pro", "prompt": "x", "size": "1024x1024", "n": 2});
    let dry = Answer::of(gateway.post(DRY, &asked)).await.ok();
    assert_eq!((&dry["dry_run"], &dry["model"]), (&json!(true), &json!("flux-1.1-pro")));
    let candidates = dry["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 4, "{dry}");
    for candidate in candidates {
        let name = candidate["deployment"].as_str().unwrap();
        assert_eq!(candidate["eligible"], true, "{candidate}");
        assert_eq!(candidate["adjustments"], json!([]), "{candidate}");
        // In the provider's own words; fal and Together bill megapixels, fal every begun one.
        let expected = match name {
            "bfl/flux-1.1-pro" => ("1024x1024", "0.080000000"),
            "replicate/flux-1.1-pro" => ("1:1", "0.080000000"),
            "fal/flux-1.1-pro" => ("1024x1024", "0.160000000"),
            "together/flux-1.1-pro" => ("1024x1024", "0.083886080"),
            other => panic!("{other}"),
        };
        let usd = candidate["cost"]["usd"].as_str().unwrap();
        assert_eq!((candidate["native"].as_str().unwrap(), usd), expected, "{candidate}");
    }
    // Who cannot is listed too, with the reason.
    let asked = json!({"model": "nano-banana", "prompt": "x", "seed": 3});
    let dry = Answer::of(gateway.post(DRY, &asked)).await.ok();
    let replicate = dry["candidates"].as_array().unwrap().iter();
    let replicate = replicate.filter(|c| c["deployment"] == "replicate/nano-banana");
    let replicate: Vec<&Value> = replicate.collect();
    assert_eq!(replicate[0]["eligible"], false, "{dry}");
    assert!(replicate[0]["reason"].as_str().unwrap().contains("seed"));
    assert!(upstream.seen("/").is_empty());
}

#[tokio::test]
async fn options_for_a_provider_reach_it_and_no_other() {
    let (upstream, gateway) = drawing(&pictures::png(1024, 1024)).await;
    let options = json!({"provider_options": {"openai": {"moderation_note": 7},
        "gemini": {"safetySettings": []}}, "colour_mood": "warm", "colour_depth": 3});
    let answer = gateway.draw(body(&options)).await.ok();
    // Each by its own name, none left out.
    assert_eq!(adjusted(&answer), ["colour_depth: passthrough", "colour_mood: passthrough"]);
    let sent = upstream.submits("/openai")[0].json();
    assert_eq!(sent["moderation_note"], 7);
    assert_eq!(sent["colour_mood"], "warm");
    assert_eq!(sent["safetySettings"], Value::Null);
    assert_eq!(sent["provider_options"], Value::Null);
    // Strict lets through what is passed on as it is.
    let mut strict = body(&options);
    strict["strict"] = true.into();
    assert_eq!(gateway.draw(strict).await.status, 200);
    // What the engine decides is refused either way.
    let before = upstream.submits("/").len();
    for (model, field) in [
        ("openai/gpt-image-1-mini", "stream_options"),
        ("gemini/nano-banana", "candidateCount"),
        ("gemini/nano-banana", "contents"),
        ("gemini/nano-banana", "generationConfig"),
    ] {
        let provider = model.split('/').next().unwrap();
        if field == "stream_options" {
            let asked = json!({"provider_options": {"openai": {"n": 3}}});
            let answer = gateway.draw(body(&asked)).await;
            answer.error(400, "unsupported_parameter", Some("provider_options"));
            continue;
        }
        let by_option = json!({"model": model, "provider_options": {provider: {field: 1}}});
        let answer = gateway.draw(body(&by_option)).await;
        let message = answer.error(400, "unsupported_parameter", Some("provider_options"));
        assert!(message.contains(field), "{message}");
        let by_name = json!({"model": model, field: 1});
        let answer = gateway.draw(body(&by_name)).await;
        assert_eq!(answer.status, 400, "{field}");
        assert_eq!(answer.json()["error"]["code"], "unsupported_parameter");
    }
    assert_eq!(upstream.submits("/").len(), before);
}

#[tokio::test]
async fn a_seed_is_never_dropped() {
    let (upstream, gateway) = drawing(&pictures::png(1024, 1024)).await;
    let answer = gateway.draw(body(&json!({"seed": 5}))).await;
    let message = answer.error(400, "unsupported_parameter", Some("seed"));
    assert!(message.contains("gemini/nano-banana"), "{message}");
    assert!(upstream.seen("/").is_empty());
    // A deployment that has none is passed over.
    let both = json!({"models": ["gemini/nano-banana"], "seed": 5});
    let answer = gateway.draw(body(&both)).await;
    assert_eq!(answer.header("x-mediagate-provider"), Some("gemini"));
    assert_eq!(answer.ok()["mediagate"]["outputs"][0]["seed"], 5);
    assert_eq!(upstream.submits("/openai").len(), 0);
}

#[tokio::test]
async fn transparency_is_asked_for_and_kept_or_refused() {
    let glass = pictures::transparent_png(1024, 1024);
    let (upstream, gateway) = drawing(&glass).await;
    let asked = json!({"background": "transparent", "output_format": "webp"});
    let answer = gateway.draw(body(&asked)).await;
    assert_eq!(upstream.submits("/")[0].json()["background"], "transparent");
    let pixels = image::load_from_memory(&answer.picture()).unwrap().to_rgba8();
    assert_eq!((pixels.get_pixel(10, 10)[3], pixels.get_pixel(1000, 10)[3]), (0, 255));
    assert_eq!(answer.json()["background"], "transparent");
    let answer = gateway
        .draw(body(&json!({"model": "gemini/nano-banana", "background": "transparent"})))
        .await;
    answer.error(400, "unsupported_parameter", Some("background"));
    // JPEG cannot be: laid on a colour, and said.
    let asked = json!({"model": "gemini/nano-banana", "output_format": "jpeg",
        "pad_color": "#0000ff"});
    let answer = gateway.draw(body(&asked)).await;
    assert_eq!(adjusted(&answer.ok()), ["background: converted", "output_format: converted"]);
    let pixels = image::load_from_memory(&answer.picture()).unwrap().to_rgb8();
    let blue = pixels.get_pixel(10, 10).0;
    assert!(blue[2] > 240 && blue[0] < 15, "{blue:?}");
    assert_eq!(upstream.submits("/").len(), 2);
}

#[tokio::test]
async fn replies_of_bytes_pass_as_they_are() {
    let upstream = Upstream::start().await;
    let picture = pictures::jpeg(1232, 1232);
    let reply = Reply::file("image/jpeg", &picture).header("seed", "99");
    upstream.on("POST", vendors::STABILITY, reply);
    let gateway = Gateway::with(&upstream, &["stability"], "").await;
    let asked = json!({"model": "stable-image-core", "output_format": "jpeg",
        "negative_prompt": "cups", "style": "anime"});
    let answer = gateway.draw(body(&asked)).await;
    assert_eq!(answer.picture(), picture);
    assert_eq!(answer.json()["mediagate"]["outputs"][0]["seed"], 99);
    let sent = &upstream.submits("/")[0];
    assert!(sent.headers["content-type"].to_str().unwrap().starts_with("multipart/form-data"));
    assert_eq!(sent.headers["authorization"], "Bearer secret-of-stability");
    for part in [
        "name=\"prompt\"\r\n\r\na teapot\r\n",
        "name=\"negative_prompt\"\r\n\r\ncups\r\n",
        "name=\"style_preset\"\r\n\r\nanime\r\n",
        "name=\"output_format\"\r\n\r\njpeg\r\n",
    ] {
        assert!(sent.text().contains(part), "{part} in {}", sent.text());
    }
}

#[tokio::test]
async fn paid_pictures_wait_for_a_thread_and_are_never_turned_away() {
    // More at once than a lane of the pool lets wait.
    let (upstream, gateway) = drawing(&pictures::png(48, 48)).await;
    let asked = body(&json!({"model": "gemini/nano-banana", "n": 10, "output_format": "avif"}));
    let answers =
        futures_util::future::join_all((0..12).map(|_| gateway.draw(asked.clone()))).await;
    for answer in answers {
        assert_eq!(answer.pictures().len(), 10, "{}", answer.shown());
        assert_eq!(answer.json()["mediagate"]["failures"], json!([]));
    }
    assert_eq!(upstream.submits("/").len(), 120);
}
