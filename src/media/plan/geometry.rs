//! From a picture's real size to the target: what to crop, scale and pad, in whole pixels.

use providers::media::{Aspect, Size};

use super::{Fit, PlanError};

/// Room for rounding in comparisons of scales.
pub(super) const TINY: f64 = 1e-9;

/// What the caller is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whatever the vendor draws.
    Untouched,
    /// Exactly these pixels; the fit is cover, pad or stretch.
    Exact(Size),
    /// Touching these bounds from inside.
    Inside(Size),
    /// This ratio within one pixel, at whatever size the vendor draws.
    Ratio(Aspect),
}

/// Pixel work, in this order: crop in the source's own pixels, scale once, pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The part of the source that is kept; `None` is all of it.
    pub crop: Option<Crop>,
    /// What that part is scaled to; the same size where nothing is to be scaled.
    pub scale_to: Size,
    /// The canvas it is put on.
    pub pad: Option<Padding>,
    /// The size that results.
    pub delivered: Size,
}

/// A part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Columns left of it.
    pub x: u32,
    /// Rows above it.
    pub y: u32,
    /// Its size.
    pub size: Size,
}

/// A canvas larger than the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// The canvas.
    pub canvas: Size,
    /// Columns left of the picture.
    pub x: u32,
    /// Rows above the picture.
    pub y: u32,
}

/// What must be done to a decoded picture of size `actual` to reach the target. The plan is not
/// consulted: vendors round. `None` means nothing, so the bytes may pass untouched.
///
/// # Errors
/// [`PlanError::TooMuchEnlargement`] where the picture would be enlarged beyond `max_upscale`.
pub fn resize_for(
    target: &Target,
    fit: Fit,
    actual: Size,
    max_upscale: f64,
) -> Result<Option<Geometry>, PlanError> {
    let geometry = match *target {
        Target::Untouched => return Ok(None),
        Target::Exact(asked) | Target::Inside(asked) if asked == actual => return Ok(None),
        Target::Ratio(aspect) if has_ratio(actual, aspect.ratio()) => return Ok(None),
        Target::Exact(asked) => {
            check(enlargement(actual, asked, fit), asked, max_upscale)?;
            match fit {
                Fit::Pad => padded(inside(actual, asked), asked),
                Fit::Stretch => scaled(asked),
                _ => Geometry { crop: centre(actual, asked.ratio()), ..scaled(asked) },
            }
        }
        Target::Inside(bounds) => {
            check(enlargement(actual, bounds, Fit::Contain), bounds, max_upscale)?;
            let size = inside(actual, bounds);
            if size == actual {
                return Ok(None);
            }
            scaled(size)
        }
        Target::Ratio(aspect) => to_ratio(actual, aspect.ratio(), fit),
    };
    Ok(Some(geometry))
}

/// How much a picture must be enlarged, along its worse axis, to serve a size. At most 1 means
/// not at all.
pub(super) fn enlargement(drawn: Size, asked: Size, fit: Fit) -> f64 {
    let across = f64::from(asked.width) / f64::from(drawn.width);
    let down = f64::from(asked.height) / f64::from(drawn.height);
    match fit {
        Fit::Cover | Fit::Stretch => across.max(down),
        Fit::Pad | Fit::Contain => across.min(down),
        Fit::None => 1.0,
    }
}

/// Refuses an enlargement beyond the limit.
pub(super) fn check(needed: f64, asked: Size, max_upscale: f64) -> Result<(), PlanError> {
    if needed <= max_upscale.max(1.0) + TINY {
        return Ok(());
    }
    let most = max_upscale.max(1.0) / needed;
    let side = |s: u32| ((f64::from(s) * most).floor() as u32).max(1);
    let largest = Size::new(side(asked.width), side(asked.height));
    Err(PlanError::TooMuchEnlargement { needed, largest })
}

/// Whether a size has a ratio within one pixel.
pub(super) fn has_ratio(size: Size, ratio: f64) -> bool {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    (width - height * ratio).abs() < 1.0 || (height - width / ratio).abs() < 1.0
}

fn side(length: f64, most: u32) -> u32 {
    (length.round() as u32).clamp(1, most)
}

fn scaled(size: Size) -> Geometry {
    Geometry { crop: None, scale_to: size, pad: None, delivered: size }
}

fn padded(picture: Size, canvas: Size) -> Geometry {
    let pad = (picture != canvas).then(|| Padding {
        canvas,
        x: (canvas.width - picture.width) / 2,
        y: (canvas.height - picture.height) / 2,
    });
    Geometry { crop: None, scale_to: picture, pad, delivered: canvas }
}

/// The largest size of the picture's ratio within the bounds.
fn inside(picture: Size, bounds: Size) -> Size {
    let across = f64::from(bounds.width) / f64::from(picture.width);
    let down = f64::from(bounds.height) / f64::from(picture.height);
    let scale = across.min(down);
    Size::new(
        side(f64::from(picture.width) * scale, bounds.width),
        side(f64::from(picture.height) * scale, bounds.height),
    )
}

/// The largest centred part with a ratio, or `None` where that is the whole picture.
fn centre(picture: Size, ratio: f64) -> Option<Crop> {
    let size = Size::new(
        side(f64::from(picture.height) * ratio, picture.width),
        side(f64::from(picture.width) / ratio, picture.height),
    );
    (size != picture).then(|| Crop {
        x: (picture.width - size.width) / 2,
        y: (picture.height - size.height) / 2,
        size,
    })
}

/// Brings a picture to a ratio without ever enlarging it, except that a stretch trades one side
/// for the other and keeps the area.
fn to_ratio(picture: Size, ratio: f64, fit: Fit) -> Geometry {
    match fit {
        Fit::Pad => {
            let canvas = Size::new(
                side(f64::from(picture.height) * ratio, u32::MAX).max(picture.width),
                side(f64::from(picture.width) / ratio, u32::MAX).max(picture.height),
            );
            padded(picture, canvas)
        }
        Fit::Stretch => {
            let width = (picture.pixels() as f64 * ratio).sqrt();
            scaled(Size::new(side(width, u32::MAX), side(width / ratio, u32::MAX)))
        }
        _ => {
            let crop = centre(picture, ratio);
            let size = crop.map_or(picture, |c| c.size);
            Geometry { crop, ..scaled(size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(text: &str) -> Size {
        text.parse().unwrap()
    }

    /// `crop > scale > pad = delivered`, leaving out what is not done.
    fn told(target: Target, fit: Fit, actual: &str) -> String {
        let geometry = match resize_for(&target, fit, size(actual), 1.5) {
            Ok(None) => return "untouched".to_owned(),
            Ok(Some(geometry)) => geometry,
            Err(error) => return error.to_string(),
        };
        let Geometry { crop, scale_to, pad, delivered } = geometry;
        let crop = crop.map(|c| format!("crop {}+{}+{}, ", c.size, c.x, c.y)).unwrap_or_default();
        let pad = pad.map(|p| format!(", pad {}+{}+{}", p.canvas, p.x, p.y)).unwrap_or_default();
        assert_eq!(delivered, pad_or(geometry));
        format!("{crop}scale {scale_to}{pad}")
    }

    fn pad_or(geometry: Geometry) -> Size {
        geometry.pad.map_or(geometry.scale_to, |p| p.canvas)
    }

    #[test]
    fn every_fit_has_its_geometry() {
        let exact = |text| Target::Exact(size(text));
        let bounds = |text| Target::Inside(size(text));
        let ratio = |text: &str| Target::Ratio(text.parse().unwrap());
        for (target, fit, actual, expected) in [
            (Target::Untouched, Fit::Cover, "7x9", "untouched"),
            (exact("1000x700"), Fit::Cover, "1000x700", "untouched"),
            (exact("1000x700"), Fit::Pad, "1000x700", "untouched"),
            (exact("1000x700"), Fit::Cover, "1264x848", "crop 1211x848+26+0, scale 1000x700"),
            (exact("512x512"), Fit::Cover, "1024x1024", "scale 512x512"),
            (exact("1792x1024"), Fit::Cover, "1536x1024", "crop 1536x878+0+73, scale 1792x1024"),
            (exact("1000x700"), Fit::Pad, "1024x1024", "scale 700x700, pad 1000x700+150+0"),
            (exact("1000x700"), Fit::Stretch, "1024x1024", "scale 1000x700"),
            (bounds("1000x700"), Fit::Contain, "1024x1024", "scale 700x700"),
            (bounds("1000x700"), Fit::Contain, "1000x512", "untouched"),
            (bounds("1000x700"), Fit::Contain, "800x600", "scale 933x700"),
            (ratio("16:9"), Fit::Cover, "1820x1024", "untouched"),
            (ratio("16:9"), Fit::Cover, "1536x1024", "crop 1536x864+0+80, scale 1536x864"),
            (ratio("9:16"), Fit::Cover, "1024x1024", "crop 576x1024+224+0, scale 576x1024"),
            (ratio("16:9"), Fit::Pad, "900x900", "scale 900x900, pad 1600x900+350+0"),
            (ratio("16:9"), Fit::Stretch, "1200x1200", "scale 1600x900"),
            (
                exact("2000x2000"),
                Fit::Cover,
                "1024x1024",
                "the picture would have to be enlarged 1.95 times; the largest that works is \
                 1536x1536",
            ),
            (exact("1536x1536"), Fit::Cover, "1024x1024", "scale 1536x1536"),
            (
                bounds("2000x2000"),
                Fit::Contain,
                "1024x512",
                "the picture would have to be enlarged 1.95 times; the largest that works is \
                 1536x1536",
            ),
        ] {
            assert_eq!(told(target, fit, actual), expected, "{target:?} {fit:?} {actual}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn delivered_is_what_was_asked(
            asked in (1u32..4000, 1u32..4000), actual in (1u32..4000, 1u32..4000), fit in 0usize..5,
        ) {
            let fit = [Fit::Cover, Fit::Pad, Fit::Stretch, Fit::Contain, Fit::None][fit];
            let (asked, actual) = (Size::new(asked.0, asked.1), Size::new(actual.0, actual.1));
            let target = match fit {
                Fit::Contain => Target::Inside(asked),
                Fit::None => Target::Untouched,
                _ => Target::Exact(asked),
            };
            let geometry = resize_for(&target, fit, actual, f64::INFINITY).unwrap();
            let delivered = geometry.map_or(actual, |g| g.delivered);
            match fit {
                Fit::None => prop_assert_eq!(delivered, actual),
                Fit::Contain => {
                    prop_assert!(delivered.width <= asked.width);
                    prop_assert!(delivered.height <= asked.height);
                    prop_assert!(delivered.width == asked.width || delivered.height == asked.height);
                }
                _ => prop_assert_eq!(delivered, asked),
            }
            let Some(Geometry { crop, scale_to, pad, delivered }) = geometry else { return Ok(()) };
            prop_assert_ne!(delivered, actual);
            if let Some(Crop { x, y, size }) = crop {
                prop_assert!(size.width >= 1 && size.height >= 1);
                prop_assert!(x + size.width <= actual.width && y + size.height <= actual.height);
                prop_assert!(size.width == actual.width || size.height == actual.height);
            }
            if let Some(Padding { canvas, x, y }) = pad {
                prop_assert_eq!(canvas, delivered);
                prop_assert!(x + scale_to.width <= canvas.width);
                prop_assert!(y + scale_to.height <= canvas.height);
            }
        }

        #[test]
        fn a_ratio_is_met_within_a_pixel(
            ratio in (1u32..32, 1u32..32), actual in (64u32..4000, 64u32..4000), fit in 0usize..3,
        ) {
            let fit = [Fit::Cover, Fit::Pad, Fit::Stretch][fit];
            let (aspect, actual) = (Aspect::new(ratio.0, ratio.1), Size::new(actual.0, actual.1));
            let geometry = resize_for(&Target::Ratio(aspect), fit, actual, 1.5).unwrap();
            let delivered = geometry.map_or(actual, |g| g.delivered);
            prop_assert!(has_ratio(delivered, aspect.ratio()), "{} for {}", delivered, aspect);
            if let (Fit::Cover, Some(g)) = (fit, geometry) {
                prop_assert_eq!(g.crop.map(|c| c.size), Some(g.delivered));
            }
        }
    }
}
