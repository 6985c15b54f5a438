//! From a provider's bytes to the picture that was asked for.

use std::sync::Arc;

use bytes::Bytes;
use providers::media::{Format, Size};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    candidate::Candidate,
    compose::composed,
    failure::{Class, Failure},
    request::{Adjustment, AdjustmentKind, ImageRequest},
};
use crate::media::{
    blob::{Blob, Budget},
    convert::{self, Conversion},
    plan,
    pool::{Lane, Pool},
    sniff::{self, DecodeLimits, HEAD, Sniffed, TAIL},
};

/// How much further than planned a picture may be enlarged.
const SLACK: f64 = 1.1;
/// Quality of a lossy encoder, where none is asked.
const QUALITY: u8 = 90;
/// The same for AVIF, whose scale is another.
const AVIF_QUALITY: u8 = 60;

/// A picture ready to be handed over.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) blob: Blob,
    pub(crate) format: Format,
    pub(crate) size: Size,
    /// The size the provider drew; prices depend on it.
    pub(crate) drawn: Size,
    /// Given for what was converted; what passes untouched is not read for it.
    pub(crate) sha256: Option<String>,
    /// Whether a C2PA manifest is among the bytes.
    pub(crate) c2pa: bool,
    pub(crate) adjustments: Vec<Adjustment>,
}

/// Bounds of the pixel work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PictureLimits {
    pub(crate) max_upscale: f64,
    pub(crate) max_pixels: u64,
}

/// Checks what came, and changes it where it is not what was asked. Bytes that need no change
/// are not decoded.
pub(crate) async fn prepare(
    blob: Blob,
    candidate: &Candidate,
    request: &ImageRequest,
    pool: &Pool,
    budget: &Arc<Budget>,
    limits: PictureLimits,
) -> Result<Ready, Failure> {
    let sniffed = inspect(&blob, most_pixels(candidate, limits))?;
    let mut adjustments = Vec::new();
    let geometry = if sniffed.format == Format::Svg {
        None
    } else {
        // The limit held when the plan was made. A paid picture that came a little smaller than
        // planned is better enlarged a little more than thrown away.
        let most = limits.max_upscale.max(candidate.size.enlargement) * SLACK;
        plan::resize_for(&candidate.size.target, candidate.size.fit, sniffed.size, most)
            .map_err(|e| unusable(format!("the provider's picture is too small: {e}")))?
    };
    // What is kept stays as it is only without loss.
    let own = if candidate.lays { Format::Png } else { sniffed.format };
    let wanted = request.format.unwrap_or(own);
    let quality_missed = request.compression.is_some()
        && wanted.is_lossy()
        && candidate.served.deployment.wire.compression.is_none();
    let lossless_missed = request.webp_lossless && wanted == Format::Webp;
    let untouched = geometry.is_none() && !candidate.lays;
    if untouched && wanted == sniffed.format && !quality_missed && !lossless_missed {
        return Ok(Ready {
            blob,
            format: sniffed.format,
            size: sniffed.size,
            drawn: sniffed.size,
            sha256: None,
            c2pa: sniffed.c2pa,
            adjustments,
        });
    }
    let (from, came) = (sniffed.size, sniffed.format);
    let conversion = Conversion {
        geometry,
        format: wanted,
        quality: request.compression.unwrap_or(match wanted {
            Format::Avif => AVIF_QUALITY,
            _ => QUALITY,
        }),
        webp_lossless: request.webp_lossless,
        background: request.size.pad_color,
        pad_transparent: wanted.has_alpha(),
    };
    let decode = decode_limits(limits);
    let (lane, weight) = (conversion.lane(), conversion.weight(&sniffed));
    let c2pa = sniffed.c2pa;
    let resized = conversion.geometry.is_some();
    let converted = if candidate.lays {
        composed(blob, sniffed, conversion, candidate, request, pool, decode).await?
    } else {
        pixel_work(pool, lane, weight, move || {
            let bytes = blob.to_bytes().map_err(|e| e.to_string())?;
            convert::convert(&bytes, &sniffed, &conversion, &decode).map_err(|e| e.to_string())
        })
        .await?
    };
    if resized && request.size_text.is_some() {
        let reason = format!("the provider drew {from}; the gateway made it {}", converted.size);
        adjustments.push(Adjustment::new("size", AdjustmentKind::Resized, reason).values(
            request.size_text.clone(),
            from.to_string(),
            converted.size.to_string(),
        ));
    }
    if request.format.is_some() && came != wanted {
        let reason = format!("the provider sent {came}");
        adjustments.push(
            Adjustment::new("output_format", AdjustmentKind::Converted, reason).values(
                wanted.name(),
                came.name(),
                wanted.name(),
            ),
        );
    }
    if converted.flattened {
        let reason = format!("{wanted} has no transparency; the picture was laid on pad_color");
        adjustments.push(Adjustment::new("background", AdjustmentKind::Converted, reason).values(
            request.background.clone(),
            "transparent",
            "opaque",
        ));
    }
    if c2pa {
        let reason = "the picture was encoded anew, so its C2PA manifest is gone";
        adjustments.push(Adjustment::new("c2pa", AdjustmentKind::Dropped, reason).values(
            json!(null),
            json!(true),
            json!(false),
        ));
    }
    Ok(Ready {
        sha256: Some(digest(&converted.bytes)),
        size: converted.size,
        format: converted.format,
        drawn: from,
        blob: Blob::within(converted.bytes, budget).map_err(|_| {
            Failure::new(Class::Gateway, "internal_error", "the picture could not be put aside")
        })?,
        c2pa: false,
        adjustments,
    })
}

async fn pixel_work<T: Send + 'static>(
    pool: &Pool,
    lane: Lane,
    weight: u64,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let done = pool.run_in_turn(lane, weight, work).await;
    done.map_err(|_| Failure::new(Class::Gateway, "internal_error", "the conversion broke off"))?
        .map_err(|e| unusable(format!("the provider's picture cannot be used: {e}")))
}

/// Most pixels that a picture may come with: those that may be decoded, or those that were planned,
/// as of an upscale, and some.
pub(crate) fn most_pixels(candidate: &Candidate, limits: PictureLimits) -> u64 {
    let planned = candidate.size.expected.map_or(0, Size::pixels);
    limits.max_pixels.max(planned.saturating_add(planned / 5))
}

/// What the bytes are, and that they are all there.
pub(crate) fn inspect(blob: &Blob, most_pixels: u64) -> Result<Sniffed, Failure> {
    let unreadable =
        |e: std::io::Error| unusable(format!("the provider's picture is damaged: {e}"));
    let head = blob.head(HEAD).map_err(unreadable)?;
    // What decoding takes is asked when something is decoded: a picture may pass untouched.
    let bounds = DecodeLimits {
        max_pixels: most_pixels,
        max_side: u32::from(u16::MAX),
        max_bytes: u64::MAX,
    };
    let sniffed = sniff::sniff_within(&head, &bounds)
        .map_err(|e| unusable(format!("the provider's bytes cannot be used: {e}")))?;
    let tail = blob.tail(TAIL).map_err(unreadable)?;
    if !sniff::is_complete(sniffed.format, blob.media_len(), &head, &tail) {
        return Err(unusable("the provider's picture is cut off".to_owned()));
    }
    Ok(sniffed)
}

pub(crate) fn decode_limits(limits: PictureLimits) -> DecodeLimits {
    DecodeLimits { max_pixels: limits.max_pixels, ..DecodeLimits::default() }
}

fn unusable(message: String) -> Failure {
    Failure::new(Class::Failed, "unusable_picture", message)
}

fn digest(bytes: &Bytes) -> String {
    hex::encode(Sha256::digest(bytes))
}
