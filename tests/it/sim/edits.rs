//! Edits through the gateway against the simulator: outside the mask nothing changes, whatever
//! polarity the vendor has; an upscale is larger; a background that is removed is transparent.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};

use super::*;
use crate::support::{Answer, Gateway};

/// A gateway in front of the simulator; nothing is fetched from elsewhere.
async fn gateway() -> Gateway {
    Gateway::start(
        "server.listen = \"127.0.0.1:0\"\nauth.mode = \"open\"\nstore.kind = \"memory\"\n\
         [simulator]\nenabled = true\nqueue_s = 0.02\nrun_s = 0.05\nsigma = 0.0\n",
    )
    .await
}

fn file(pixels: &image::DynamicImage) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

fn uri(bytes: &[u8]) -> Value {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes)).into()
}

/// Broad stripes, which survive any resampling.
static PICTURE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let pixels = RgbImage::from_fn(1024, 1024, |_, y| {
        if y < 512 { Rgb([250, 40, 40]) } else { Rgb([30, 60, 250]) }
    });
    file(&pixels.into())
});

/// The left half is to be edited.
static MASK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let pixels =
        RgbaImage::from_fn(1024, 1024, |x, _| Rgba([0, 0, 0, if x < 512 { 0 } else { 255 }]));
    file(&pixels.into())
});

fn drawn(answer: &Answer) -> RgbaImage {
    image::load_from_memory(&answer.picture()).unwrap().to_rgba8()
}

/// How far the pixels of a column are from the picture's, on average.
fn change(picture: &RgbaImage, columns: std::ops::Range<u32>) -> f64 {
    let mut sum = 0.0;
    let mut count = 0.0;
    for x in columns {
        for y in (0..1024).step_by(8) {
            let wanted = if y < 512 { [250, 40, 40] } else { [30, 60, 250] };
            for (found, wanted) in picture.get_pixel(x, y).0.iter().zip(wanted) {
                sum += (f64::from(*found) - f64::from(wanted)).abs();
                count += 1.0;
            }
        }
    }
    sum / count
}

#[tokio::test]
async fn only_what_the_mask_names_changes() {
    let gateway = gateway().await;
    for model in [
        "openai/gpt-image-1.5",
        "azure/gpt-image-1.5",
        "fal/flux-1-fill-pro",
        "fal/gpt-image-2",
        "replicate/flux-1-fill-pro",
        "replicate/ideogram-v3-turbo",
        "bfl/flux-1-fill-pro",
        "stability/stability-inpaint",
    ] {
        let body = json!({
            "model": model, "prompt": "put a lid on it", "size": "1024x1024",
            "output_format": "png", "images": [{"image_url": uri(&PICTURE)}],
            "mask": {"image_url": uri(&MASK)},
        });
        let picture = drawn(&Answer::of(gateway.post("/v1/images/edits", &body)).await);
        assert_eq!(picture.dimensions(), (1024, 1024), "{model}");
        let (inside, outside) = (change(&picture, 0..500), change(&picture, 524..1024));
        assert!(outside < 6.0 && inside > 25.0, "{model}: {inside} inside, {outside} outside");
    }
}

#[tokio::test]
async fn pictures_are_enlarged_cut_out_and_varied() {
    let gateway = gateway().await;
    let pixels = RgbImage::from_fn(160, 96, |x, _| Rgb([x as u8, 90, 90]));
    let picture = uri(&file(&pixels.into()));
    let ask = async |path: &str, more: Value| {
        let mut body = json!({"images": [{"image_url": picture}], "output_format": "png"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        drawn(&Answer::of(gateway.post(path, &body)).await)
    };
    for model in ["fal/seedvr2-upscale", "replicate/crystal-upscaler"] {
        let more = json!({"model": model, "mode": "upscale", "scale_factor": 2});
        assert_eq!(ask("/v1/images/edits", more).await.dimensions(), (320, 192), "{model}");
    }
    for model in ["fal/bria-rmbg", "replicate/bria-rmbg", "stability/stability-remove-background"] {
        let more = json!({"model": model, "mode": "remove_background"});
        let cut = ask("/v1/images/edits", more).await;
        assert_eq!(cut.dimensions(), (160, 96), "{model}");
        assert_eq!((cut.get_pixel(0, 0)[3], cut.get_pixel(159, 50)[3]), (0, 0), "{model}");
        assert_eq!(cut.get_pixel(80, 60)[3], 255, "{model}");
    }
    let varied = ask("/v1/images/variations", json!({"model": "fal/flux-1-dev-redux"})).await;
    assert!(varied.width() >= 512, "{:?}", varied.dimensions());
}

/// What the real vendor refuses, in its words.
#[tokio::test]
async fn pictures_are_refused_as_each_vendor_does() {
    let sim = Simulator::start(quick()).await;
    let small = file(&RgbImage::new(64, 64).into());
    let opaque = file(&RgbImage::new(1024, 1024).into());
    let check = async |change: Value, says: &str| {
        let mut body = json!({
            "model": "gpt-image-2", "prompt": "a lid", "images": [{"image_url": uri(&PICTURE)}],
        });
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = sim.post("/openai/v1/images/edits", OPENAI.auth, &body).await;
        assert_eq!(answer.status, 400, "{says}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{message}");
    };
    let image = |value: Value| json!({"image_url": value});
    check(json!({"mask": image(uri(&opaque))}), "alpha").await;
    check(json!({"mask": image(uri(&small))}), "alpha").await;
    let clear = file(&RgbaImage::new(64, 64).into());
    check(json!({"mask": image(uri(&clear))}), "mask size").await;
    check(json!({"images": [image(uri(b"no picture"))]}), "Invalid image file").await;
    check(json!({"images": [image(uri(&PICTURE[..4000]))]}), "Invalid image file").await;
    let pdf = "data:application/pdf;base64,JVBERi0=";
    check(json!({"images": [image(pdf.into())]}), "unsupported mimetype").await;
    check(json!({"images": []}), "images").await;
    check(json!({"images": vec![image(uri(&small)); 17]}), "images").await;
    check(json!({"image": uri(&small)}), "Unknown parameter").await;
    check(json!({"input_fidelity": "high"}), "Unknown parameter").await;

    let fill = json!({"prompt": "a lid", "image": STANDARD.encode(&*PICTURE), "mask": STANDARD.encode(&small)});
    let answer = sim.post("/bfl/v1/flux-pro-1.0-fill", BFL.auth, &fill).await;
    assert_eq!(answer.status, 422);
    let fill = json!({"prompt": "a lid", "image": uri(&PICTURE), "mask": STANDARD.encode(&small)});
    let answer = sim.post("/bfl/v1/flux-pro-1.0-fill", BFL.auth, &fill).await;
    assert_eq!(answer.status, 422, "bare base64 only");
}
