//! Work from pictures: edits, masks, variations, and what callers send along.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use img_parts::{ImageEXIF as _, jpeg::Jpeg};
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Upstream,
    pictures::{self, Looks, look},
    vendors::{self, GEMINI},
};

const EDITS: &str = "/v1/images/edits";
const VARIATIONS: &str = "/v1/images/variations";
const OPENAI_EDITS: &str = "/openai/images/edits";
const PLACE: &[u8] = b"52.5200N 13.4050E";

/// A form, part by part: the head of each and its bytes.
#[derive(Clone, Default)]
struct Form(Vec<u8>);

impl Form {
    fn text(mut self, name: &str, value: &str) -> Self {
        self.part(&format!("name=\"{name}\""), value.as_bytes());
        self
    }

    /// As the Python SDK sends bytes: a file named `upload`, of no type.
    fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        self.part(&format!("name=\"{name}\"; filename=\"upload\""), bytes);
        self
    }

    fn part(&mut self, head: &str, bytes: &[u8]) {
        let head = format!("--B\r\ncontent-disposition: form-data; {head}\r\n\r\n");
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }

    async fn send(mut self, gateway: &Gateway, path: &str) -> Answer {
        self.0.extend_from_slice(b"--B--\r\n");
        let request = gateway
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=B")
            .body(self.0);
        Answer::of(request).await
    }
}

fn form(model: &str) -> Form {
    Form::default().text("model", model).text("prompt", "put a lid on it")
}

fn png(pixels: &RgbaImage) -> Bytes {
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner().into()
}

/// A mask whose left half is transparent.
fn mask(width: u32, height: u32) -> Bytes {
    png(&RgbaImage::from_fn(width, height, |x, _| {
        Rgba([0, 0, 0, if x < width / 2 { 0 } else { 255 }])
    }))
}

/// A photograph taken with the camera turned, with the place it was taken at.
fn photograph() -> Bytes {
    let pixels = RgbImage::from_fn(60, 40, |x, y| Rgb([(4 * x) as u8, (6 * y) as u8, 40]));
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
    let mut jpeg = Jpeg::from_bytes(file.into_inner().into()).unwrap();
    // A TIFF header with one entry: the orientation, a quarter turn.
    let mut exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    exif.extend_from_slice(PLACE);
    jpeg.set_exif(Some(exif.into()));
    jpeg.encoder().bytes()
}

/// OpenAI and Gemini that always answer with this picture.
async fn drawing(picture: &Bytes) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    upstream.on("POST", OPENAI_EDITS, vendors::openai(std::slice::from_ref(picture)));
    upstream.on("POST", GEMINI, vendors::gemini(picture));
    let gateway = Gateway::with(&upstream, &["openai", "gemini"], "").await;
    (upstream, gateway)
}

/// The bytes behind a data URI or bare base64.
fn decoded(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    STANDARD.decode(text.rsplit(',').next().unwrap()).unwrap()
}

fn adjusted(answer: &Answer) -> Vec<String> {
    let body = answer.ok();
    let list = body["mediagate"]["adjustments"].as_array().unwrap();
    let word = |v: &Value| v.as_str().unwrap().to_owned();
    list.iter().map(|a| format!("{}: {}", word(&a["param"]), word(&a["kind"]))).collect()
}

#[tokio::test]
async fn pictures_reach_the_provider_however_they_are_sent() {
    let made = pictures::png(64, 64);
    let (upstream, gateway) = drawing(&made).await;
    let (one, two, hole) = (pictures::png(96, 64), pictures::webp(80, 80), mask(96, 64));
    let uri = |kind: &str, bytes: &[u8]| format!("data:{kind};base64,{}", STANDARD.encode(bytes));
    let model = "openai/gpt-image-2";
    let forms = ["image", "image[]", "image[0]", "images"];
    for name in forms {
        let form = form(model).file(name, &one).file(name, &two).file("mask", &hole);
        assert_eq!(form.send(&gateway, EDITS).await.picture(), made, "{name}");
    }
    for body in [
        json!({"images": [{"image_url": uri("image/png", &one)}, {"image_url": {"url": uri("", &two)}}],
            "mask": {"image_url": uri("image/png", &hole)}}),
        json!({"image": [uri("image/png", &one), STANDARD.encode(&two)], "mask": uri("image/png", &hole)}),
    ] {
        let mut body = body;
        body["model"] = model.into();
        body["prompt"] = "put a lid on it".into();
        assert_eq!(Answer::of(gateway.post(EDITS, &body)).await.picture(), made);
    }
    let sent = upstream.submits(OPENAI_EDITS);
    assert_eq!(sent.len(), forms.len() + 2);
    for seen in sent {
        let body = seen.json();
        let images = body["images"].as_array().unwrap();
        assert_eq!(decoded(&images[0]["image_url"]), one);
        assert_eq!(decoded(&images[1]["image_url"]), two);
        assert!(images[1]["image_url"].as_str().unwrap().starts_with("data:image/webp;base64,"));
        let mask =
            image::load_from_memory(&decoded(&body["mask"]["image_url"])).unwrap().to_rgba8();
        assert_eq!((mask.dimensions(), mask.get_pixel(0, 0)[3]), ((96, 64), 0));
        assert_eq!(mask.get_pixel(95, 63)[3], 255);
        assert_eq!(body["prompt"], "put a lid on it");
    }
}

#[tokio::test]
async fn a_photograph_is_turned_upright_and_tells_no_place() {
    let (upstream, gateway) = drawing(&pictures::png(64, 64)).await;
    let photo = photograph();
    let shows = |bytes: &[u8]| bytes.windows(PLACE.len()).any(|w| w == PLACE);
    assert!(shows(&photo));
    form("gemini/nano-banana").file("image", &photo).send(&gateway, EDITS).await.ok();
    let body = upstream.submits(GEMINI)[0].json();
    let part = &body["contents"][0]["parts"][0]["inlineData"];
    let sent = decoded(&part["data"]);
    assert!(!shows(&sent));
    assert_eq!(
        (part["mimeType"].as_str(), look(&sent)),
        (Some("image/jpeg"), Looks("jpeg", 40, 60))
    );
    // One that is upright already is not decoded: its pixels pass as they are.
    let mut upright = Jpeg::from_bytes(photo).unwrap();
    upright.set_exif(Some(Bytes::from_static(PLACE)));
    let upright = upright.encoder().bytes();
    form("gemini/nano-banana").file("image", &upright).send(&gateway, EDITS).await.ok();
    let body = upstream.submits(GEMINI)[1].json();
    let sent = decoded(&body["contents"][0]["parts"][0]["inlineData"]["data"]);
    assert!(!shows(&sent));
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
    assert_eq!(pixels(&sent), pixels(&upright));
}

#[tokio::test]
async fn where_a_model_knows_no_masks_what_is_kept_stays_as_it_was() {
    let red = png(&RgbaImage::from_pixel(300, 200, Rgba([200, 10, 10, 255])));
    let (_upstream, gateway) = drawing(&red).await;
    let own = RgbaImage::from_fn(300, 200, |x, y| Rgba([(x % 251) as u8, (y % 241) as u8, 7, 255]));
    let form = form("gemini/nano-banana").file("image", &png(&own)).file("mask", &mask(300, 200));
    let answer = form.clone().send(&gateway, EDITS).await;
    let got = image::load_from_memory(&answer.picture()).unwrap().to_rgba8();
    assert_eq!(got.dimensions(), (300, 200));
    for (x, y, pixel) in got.enumerate_pixels().filter(|(x, ..)| *x >= 150) {
        assert_eq!(pixel, own.get_pixel(x, y), "{x},{y}");
    }
    assert_eq!(got.get_pixel(40, 100).0, [200, 10, 10, 255]);
    assert!(adjusted(&answer).contains(&"mask: emulated".to_owned()), "{:?}", adjusted(&answer));
    let strict = form.text("strict", "true").send(&gateway, EDITS).await;
    strict.error(400, "unsupported_parameter", Some("mask"));
}

#[tokio::test]
async fn a_variation_is_drawn_by_a_model_that_edits() {
    let made = pictures::png(64, 64);
    let (upstream, gateway) = drawing(&made).await;
    let form = Form::default().text("model", "gemini/nano-banana").file("image", &made);
    let answer = form.send(&gateway, VARIATIONS).await;
    assert_eq!(answer.picture(), made);
    assert_eq!(adjusted(&answer), ["prompt: emulated"]);
    let body = upstream.submits(GEMINI)[0].json();
    let said = body["contents"][0]["parts"][1]["text"].as_str().unwrap();
    assert!(said.contains("variation"), "{said}");
    let id = answer.header("x-mediagate-job-id").unwrap();
    let job = gateway.get(&format!("/v1/jobs/{id}")).await.ok();
    assert_eq!(job["task"], "image.variation");
}

#[tokio::test]
async fn pictures_that_cannot_be_used_are_refused_before_anything_is_sent() {
    let one = pictures::png(96, 64);
    let (upstream, gateway) = drawing(&one).await;
    let opaque = png(&RgbaImage::from_pixel(96, 64, Rgba([0, 0, 0, 255])));
    let gpt = || form("openai/gpt-image-2");
    for (form, code, param) in [
        (gpt(), "invalid_request", "image"),
        (gpt().file("image", b"not a picture"), "invalid_image", "image"),
        (gpt().file("image", &one[..one.len() - 30]), "invalid_image", "image"),
        (
            gpt().file("image", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>"),
            "invalid_image",
            "image",
        ),
        (gpt().file("image", &pictures::bomb()), "image_too_large", "image"),
        (gpt().text("image", "file-123!"), "invalid_image", "image"),
        (gpt().text("image", "http://127.0.0.1/a.png"), "invalid_image", "image"),
        (gpt().file("image", &one).file("mask", &mask(64, 64)), "invalid_image", "mask"),
        (gpt().file("image", &one).file("mask", &opaque), "invalid_image", "mask"),
        (
            gpt().file("image", &one).file("mask", &one).file("mask", &one),
            "invalid_request",
            "mask",
        ),
        (gpt().file("image", &one).text("scale_factor", "2"), "invalid_request", "scale_factor"),
        (gpt().file("image", &one).text("mode", "shrink"), "invalid_request", "mode"),
        (gpt().file("image", &one).text("mode", "upscale"), "unsupported_parameter", "model"),
        (gpt().file("image", &one).text("n", "two"), "invalid_request", "n"),
        (
            (0..4).fold(form("gemini/nano-banana"), |form, _| form.file("image", &one)),
            "unsupported_parameter",
            "image",
        ),
        (
            Form::default().text("model", "openai/gpt-image-2").file("image", &one),
            "invalid_request",
            "prompt",
        ),
    ] {
        let answer = form.send(&gateway, EDITS).await;
        answer.error(400, code, Some(param));
    }
    let many = (0..17).fold(gpt(), |form, _| form.file("image[]", &one));
    many.send(&gateway, EDITS).await.error(400, "invalid_request", Some("image"));
    let body =
        json!({"model": "openai/gpt-image-2", "prompt": "p", "images": [{"file_id": "file-1"}]});
    let answer = Answer::of(gateway.post(EDITS, &body)).await;
    answer.error(400, "unsupported_parameter", Some("file_id"));
    assert_eq!(upstream.submits("/").len(), 0);
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_not_read() {
    let (_upstream, gateway) = drawing(&pictures::png(64, 64)).await;
    let large = vec![7; 50_000_001];
    let answer = form("openai/gpt-image-2").file("image", &large).send(&gateway, EDITS).await;
    answer.error(413, "request_too_large", Some("image"));
}

#[tokio::test]
async fn a_key_is_for_these_very_pictures() {
    let made = pictures::png(64, 64);
    let (upstream, gateway) = drawing(&made).await;
    let send = async |picture: &Bytes| {
        let mut form = form("openai/gpt-image-2").file("image", picture);
        form.0.extend_from_slice(b"--B--\r\n");
        let request = gateway
            .request(Method::POST, EDITS)
            .header("idempotency-key", "edit-1")
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=B")
            .body(form.0);
        Answer::of(request).await
    };
    let first = send(&pictures::png(96, 64)).await;
    let again = send(&pictures::png(96, 64)).await;
    assert_eq!((first.picture(), again.picture()), (made.clone(), made));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = send(&pictures::png(96, 96)).await;
    other.error(422, "idempotency_mismatch", Some("Idempotency-Key"));
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn an_edit_is_planned_and_priced_without_calling_anybody() {
    let (upstream, gateway) = drawing(&pictures::png(64, 64)).await;
    let form = form("gpt-image-2").file("image", &pictures::png(96, 64));
    let plan = form.send(&gateway, &format!("{EDITS}?dry_run=true")).await.ok();
    assert_eq!(plan["candidates"][0]["deployment"], "openai/gpt-image-2");
    // The estimate counts the picture worked from.
    let lines = plan["candidates"][0]["cost"]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{plan}");
    assert_eq!(upstream.submits("/").len(), 0);
}

fn said(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// The events of a stream: their names and their data.
fn events(body: &str) -> Vec<(String, Value)> {
    let events = body.split("\n\n").filter_map(|event| {
        let name = event.lines().find_map(|line| line.strip_prefix("event: "))?;
        let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
        Some((name.to_owned(), serde_json::from_str(data).unwrap()))
    });
    events.collect()
}

#[tokio::test]
async fn a_stream_keeps_the_line_and_ends_with_the_pictures() {
    let made = pictures::png(64, 64);
    let (upstream, gateway) = drawing(&made).await;
    upstream.on("POST", vendors::OPENAI, vendors::openai(&[made.clone(), made.clone()]));
    let body = json!({"model": "openai/gpt-image-2", "prompt": "a teapot", "n": 2, "stream": true,
        "partial_images": 2});
    let answer = Answer::of(gateway.post("/v1/images/generations", &body)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = said(&answer);
    assert!(text.starts_with(": job_"), "{}", &text[..40]);
    let heard = events(&text);
    assert_eq!(heard.len(), 2);
    for (index, (name, data)) in heard.iter().enumerate() {
        assert_eq!((name.as_str(), &data["type"]), ("image_generation.completed", &json!(name)));
        assert_eq!(decoded(&data["b64_json"]), made);
        assert!(data["created_at"].is_u64());
        // What it took comes with the last.
        assert_eq!(data["mediagate"].is_object(), index == 1);
    }
    gateway.books().settled().await;
    assert_eq!(gateway.books().charges().len(), 1);

    let edit = form("openai/gpt-image-2").file("image", &made).text("stream", "true");
    let answer = edit.send(&gateway, EDITS).await;
    assert_eq!(events(&said(&answer))[0].0, "image_edit.completed");
}

#[tokio::test]
async fn an_error_within_a_stream_is_an_event_and_one_before_it_an_answer() {
    let (upstream, gateway) = drawing(&pictures::png(64, 64)).await;
    upstream.on("POST", vendors::OPENAI, vendors::openai_error(400, "moderation_blocked"));
    let mut body = json!({"model": "openai/gpt-image-2", "prompt": "a teapot", "stream": true});
    let answer = Answer::of(gateway.post("/v1/images/generations", &body)).await;
    let heard = events(&said(&answer));
    assert_eq!((answer.status, heard.len(), heard[0].0.as_str()), (200, 1, "error"));
    assert_eq!(heard[0].1["error"]["code"], "content_policy_violation");
    assert_eq!(heard[0].1["type"], "error");
    body["size"] = "1x".into();
    let answer = Answer::of(gateway.post("/v1/images/generations", &body)).await;
    answer.error(400, "invalid_size", Some("size"));
    body["size"] = "1024x1024".into();
    body["response_format"] = "url".into();
    let answer = Answer::of(gateway.post("/v1/images/generations", &body)).await;
    answer.error(400, "invalid_request", Some("response_format"));
}

#[tokio::test]
async fn how_a_picture_was_made_is_kept_beside_it() {
    let one = pictures::png(96, 64);
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    upstream.on("POST", OPENAI_EDITS, vendors::openai(std::slice::from_ref(&one)));
    let store = format!("store.kind = \"disk\"\nstore.path = \"{}\"", directory.path().display());
    let gateway = Gateway::with(&upstream, &["openai"], &store).await;
    let edit = form("openai/gpt-image-2")
        .file("image", &one)
        .text("size", "1024x1024")
        .text("quality", "low")
        .text("fit", "none")
        .text("response_format", "url");
    let answer = edit.send(&gateway, EDITS).await;
    let (cost, output) = (answer.cost(), answer.ok()["mediagate"]["outputs"][0].clone());
    let mut left = vec![directory.path().to_path_buf()];
    let mut kept = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(beside) = serde_json::from_str::<Value>(&text)
            && beside["meta"].is_object()
        {
            kept.push(beside);
        }
    }
    assert_eq!(kept.len(), 1);
    let meta = &kept[0]["meta"];
    assert_eq!(
        (&meta["task"], &meta["deployment"]),
        (&json!("image.edit"), &json!("openai/gpt-image-2"))
    );
    assert_eq!((&meta["cost_usd"], &kept[0]["sha256"]), (&json!(cost), &output["sha256"]));
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&one));
    let asked = json!({"size": "1024x1024", "n": "1", "quality": "low", "images": digest[..32]});
    assert_eq!(meta["parameters"], asked);
    assert_eq!(meta["prompt_sha256"].as_str().map(str::len), Some(64));
    assert!(!kept[0].to_string().contains("put a lid on it"));
}

#[tokio::test]
async fn a_provider_that_fetches_gets_a_link_where_it_can_reach_us() {
    const LUMA: &str = "/luma/generations/image";
    let upstream = Upstream::start().await;
    let refused = json!({"detail": "Insufficient credits"});
    upstream.on("POST", LUMA, crate::support::Reply::json(402, &refused));
    let ask = || form("luma/photon").file("image", &photograph());
    let hidden = Gateway::with(&upstream, &["luma"], "").await;
    let answer = ask().send(&hidden, EDITS).await;
    let said = answer.error(400, "unsupported_parameter", Some("image"));
    assert!(said.contains("public_url"), "{said}");
    assert_eq!(upstream.submits(LUMA).len(), 0);

    let public = "server.public_url = \"https://media.example.com\"";
    let gateway = Gateway::with(&upstream, &["luma"], public).await;
    ask().send(&gateway, EDITS).await.error(502, "providers_exhausted", None);
    let sent = upstream.submits(LUMA)[0].json();
    let link = sent["modify_image_ref"]["url"].as_str().unwrap();
    let path = link.strip_prefix("https://media.example.com").unwrap();
    let fetched = gateway.get(path).await;
    assert_eq!(fetched.header("content-type"), Some("image/jpeg"));
    assert_eq!(look(&fetched.body), Looks("jpeg", 40, 60));
    assert!(!fetched.body.windows(PLACE.len()).any(|w| w == PLACE));
}
