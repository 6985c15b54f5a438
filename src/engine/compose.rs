//! Keeping to a mask for a model that knows none: what the mask keeps is laid over what was drawn.

use providers::media::{Format, Size};

use super::{
    candidate::Candidate,
    failure::{Class, Failure},
    given,
    request::ImageRequest,
};
use crate::media::{
    blob::Blob,
    convert::{self, Conversion, Converted},
    mask::Mask,
    plan::{self, Fit, Geometry, Target},
    pool::Pool,
    sniff::{DecodeLimits, Sniffed},
};

/// Bytes of pixels held for each one that is delivered: what was drawn, what was there, what is
/// laid, and the mask with its soft edge.
const BYTES_A_PIXEL: u64 = 4 + 4 + 4 + 3;

/// The drawn picture in its new shape, with what the request's mask keeps laid over it. One piece
/// of work on the pool, so that no pixels are held outside its budget.
pub(crate) async fn composed(
    blob: Blob,
    sniffed: Sniffed,
    conversion: Conversion,
    candidate: &Candidate,
    request: &ImageRequest,
    pool: &Pool,
    limits: DecodeLimits,
) -> Result<Converted, Failure> {
    let lost = |message: String| Failure::new(Class::ResultLost, "result_lost", message);
    let (Some(first), Some(mask)) = (request.given.first(), request.mask.as_ref()) else {
        return Err(lost("there is no picture to keep".to_owned()));
    };
    let (first, mask) = (given::bytes_of(first)?, given::bytes_of(mask)?);
    let marks = request.mask_marks;
    let (target, fit) = (candidate.size.target, candidate.size.fit);
    let size = conversion.geometry.map_or(sniffed.size, |geometry| geometry.delivered);
    let weight = conversion.weight(&sniffed)
        + first.decoded_bytes()
        + mask.decoded_bytes()
        + size.pixels() * BYTES_A_PIXEL;
    let work = move || -> Result<Converted, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let bytes = blob.to_bytes().map_err(|e| said(&e))?;
        let (drawn, _) =
            convert::render(&bytes, &sniffed, &conversion, &limits).map_err(|e| said(&e))?;
        let size = drawn.size;
        let (bytes, sniffed) = first.read().map_err(|e| said(&e))?;
        let (original, _) = convert::decode(&bytes, &sniffed, &limits).map_err(|e| said(&e))?;
        let geometry = shape(original.size, size, target, fit);
        let original = match &geometry {
            Some(geometry) => {
                convert::reshape(original, geometry, conversion.background).map_err(|e| said(&e))?
            }
            None => original,
        };
        let (bytes, sniffed) = mask.read().map_err(|e| said(&e))?;
        let mask = Mask::read(&bytes, &sniffed, marks.into(), &limits).map_err(|e| said(&e))?;
        let mask = mask.shaped(geometry.as_ref()).map_err(|e| said(&e))?;
        let laid = mask.lay(&drawn, &original).map_err(|e| said(&e))?;
        drop((drawn, original, mask));
        let format = conversion.format;
        let flattened = laid.alpha && !format.has_alpha();
        let bytes = convert::encode(laid, &conversion).map_err(|e| said(&e))?;
        Ok(Converted { bytes, format, size, flattened, color_converted: false })
    };
    let lane = if request.format == Some(Format::Avif) {
        crate::media::pool::Lane::Slow
    } else {
        crate::media::pool::Lane::Normal
    };
    let done = pool.run_in_turn(lane, weight, work).await;
    done.map_err(|_| lost("the pictures could not be laid over each other".to_owned()))?
        .map_err(|e| lost(format!("what the mask keeps could not be laid over the picture: {e}")))
}

/// What the picture that was there goes through to lie where the drawn one lies: the same as that
/// would from its size, and in any case to the size that is delivered.
fn shape(original: Size, delivered: Size, target: Target, fit: Fit) -> Option<Geometry> {
    let own = plan::resize_for(&target, fit, original, f64::INFINITY).ok().flatten();
    let lands = own.map_or(original, |geometry| geometry.delivered);
    if lands == delivered {
        return own;
    }
    plan::resize_for(&Target::Exact(delivered), Fit::Cover, original, f64::INFINITY).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pictures_lie_alike() {
        let size = Size::new;
        for (original, delivered, target, fit, scaled, cropped) in [
            // Its own size: nothing is done.
            (
                size(300, 200),
                size(300, 200),
                Target::Exact(size(300, 200)),
                Fit::Stretch,
                None,
                None,
            ),
            // Another ratio is asked: both are cut in the middle.
            (
                size(1536, 1024),
                size(1024, 1024),
                Target::Exact(size(1024, 1024)),
                Fit::Cover,
                Some(size(1024, 1024)),
                Some((256, size(1024, 1024))),
            ),
            // The vendor's own size is delivered: it is covered.
            (
                size(3000, 1000),
                size(1000, 1000),
                Target::Untouched,
                Fit::Cover,
                Some(size(1000, 1000)),
                Some((1000, size(1000, 1000))),
            ),
        ] {
            let geometry = shape(original, delivered, target, fit);
            assert_eq!(geometry.map(|g| g.scale_to), scaled, "{original}");
            let crop = geometry.and_then(|g| g.crop).map(|crop| (crop.x, crop.size));
            assert_eq!(crop, cropped, "{original}");
        }
    }
}
