//! What the caller asked for: the size fields of a request, read once.

use std::str::FromStr;

use providers::media::{Aspect, Size};
use serde::{Deserialize, Serialize};

/// Longest side that may be asked for.
pub const MAX_SIDE: u32 = 16_384;
/// Most pixels that may be asked for.
pub const MAX_PIXELS: u64 = 50_000_000;
/// Longest side of a ratio for a shorter side of 1.
const MAX_RATIO: f64 = 100.0;

/// A `WxH` agrees with a ratio that is at most this far off: the sizes vendors draw for a ratio
/// are off by up to one per cent, and neighbouring ratios in use differ by six.
const SAME_RATIO: f64 = 0.02;
/// A `WxH` agrees with a tier whose area is at most this far off: what vendors draw for `1K` is
/// off by up to three per cent.
const SAME_AREA: f64 = 0.05;

/// The size a caller wants and what may be done to a picture that has another one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeAsk {
    /// The size.
    pub want: Want,
    /// How a native picture is brought to it.
    pub fit: Fit,
    /// What padding is filled with, red, green, blue, where the format has no alpha.
    pub pad_color: [u8; 3],
}

/// How the size was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Whatever the model draws unasked.
    Auto,
    /// These pixels.
    Exact(Size),
    /// This ratio, at the model's usual area.
    Ratio(Aspect),
    /// This area, at the model's usual ratio.
    Tier(Tier),
    /// This ratio and this area.
    RatioTier(Aspect, Tier),
}

impl std::fmt::Display for Want {
    /// As it may be written in a request: `auto`, `1000x700`, `16:9`, `2K`, `16:9 at 2K`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exact(size) => size.fmt(f),
            Self::Ratio(aspect) => aspect.fmt(f),
            Self::Tier(tier) => f.write_str(tier.name()),
            Self::RatioTier(aspect, tier) => write!(f, "{aspect} at {}", tier.name()),
        }
    }
}

/// A resolution class: a picture of T² pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// 512.
    Half,
    /// 1024.
    One,
    /// 2048.
    Two,
    /// 4096.
    Four,
}

impl Tier {
    /// Every tier, smallest first.
    pub const ALL: [Self; 4] = [Self::Half, Self::One, Self::Two, Self::Four];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Half => "512",
            Self::One => "1K",
            Self::Two => "2K",
            Self::Four => "4K",
        }
    }

    /// T: the side of its square picture, in pixels.
    pub fn side(self) -> u32 {
        match self {
            Self::Half => 512,
            Self::One => 1024,
            Self::Two => 2048,
            Self::Four => 4096,
        }
    }

    /// T².
    pub fn area(self) -> u64 {
        u64::from(self.side()).pow(2)
    }

    /// The picture of this tier at a ratio: W = round(T·√r), H = round(T/√r).
    pub fn size(self, ratio: f64) -> Size {
        let root = ratio.sqrt();
        let side = |s: f64| s.round().max(1.0) as u32;
        let t = f64::from(self.side());
        Size::new(side(t * root), side(t / root))
    }
}

impl FromStr for Tier {
    type Err = ();

    /// Reads the API's names in either case, and the other words vendors have for `512`.
    fn from_str(text: &str) -> Result<Self, ()> {
        if ["0.5k", "512px"].contains(&text.to_ascii_lowercase().as_str()) {
            return Ok(Self::Half);
        }
        Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(text)).ok_or(())
    }
}

/// What may happen between the native picture and the asked size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fit {
    /// Scale to cover and crop the centre.
    #[default]
    Cover,
    /// Scale inside and pad to the exact size.
    Pad,
    /// Scale both axes by themselves.
    Stretch,
    /// Scale inside; one side may be shorter than asked.
    Contain,
    /// Nothing: the nearest native size is delivered.
    None,
}

impl Fit {
    const ALL: [Self; 5] = [Self::Cover, Self::Pad, Self::Stretch, Self::Contain, Self::None];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cover => "cover",
            Self::Pad => "pad",
            Self::Stretch => "stretch",
            Self::Contain => "contain",
            Self::None => "none",
        }
    }
}

/// A size field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AskError {
    /// The field.
    pub param: &'static str,
    /// What is wrong with it and what would be right.
    pub message: String,
}

/// Reads the size fields of a request.
///
/// `size` is `auto`, `WxH` (`X` works too), `W:H`, or a tier in either case. A ratio may come in
/// `size` or `aspect_ratio`, a tier in `size` or `resolution`; given twice they must be the
/// same. Beside a `WxH`, a ratio must be within 2 % of it and a tier's area within 5 %; they
/// then change nothing. `pad_color` is `#rrggbb`, `white` or `black`.
///
/// # Errors
/// The first field that is malformed, out of bounds or contradicts `size`.
pub fn parse_ask(
    size: Option<&str>,
    aspect_ratio: Option<&str>,
    resolution: Option<&str>,
    fit: Option<&str>,
    pad_color: Option<&str>,
) -> Result<SizeAsk, AskError> {
    let sized = size.map_or(Ok(Want::Auto), read_size)?;
    let ratio = aspect_ratio.map(|text| aspect(text, "aspect_ratio")).transpose()?;
    let tier = resolution.map(read_resolution).transpose()?;
    let want = combine(sized, ratio, tier)?;
    if let Want::RatioTier(aspect, tier) = want {
        within_limits(tier.size(aspect.ratio()))?;
    }
    let fit = fit.map_or(Ok(Fit::default()), |text| {
        Fit::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| AskError {
            param: "fit",
            message: format!("fit {text:?} is not one of cover, pad, stretch, contain, none"),
        })
    })?;
    let pad_color = pad_color.map_or(Ok([255; 3]), color)?;
    Ok(SizeAsk { want, fit, pad_color })
}

fn combine(sized: Want, ratio: Option<Aspect>, tier: Option<Tier>) -> Result<Want, AskError> {
    let contradicts = |param: &'static str, given: &dyn std::fmt::Display| AskError {
        param,
        message: format!("{param} {given} contradicts size {sized}: give one of the two"),
    };
    if let Some(ratio) = ratio {
        let agrees = match sized {
            Want::Exact(size) => (size.ratio() / ratio.ratio()).ln().abs() <= SAME_RATIO.ln_1p(),
            Want::Ratio(known) => known.same(ratio),
            _ => true,
        };
        if !agrees {
            return Err(contradicts("aspect_ratio", &ratio));
        }
    }
    if let Some(tier) = tier {
        let agrees = match sized {
            Want::Exact(size) => {
                (size.pixels() as f64 / tier.area() as f64).ln().abs() <= SAME_AREA.ln_1p()
            }
            Want::Tier(known) => known == tier,
            _ => true,
        };
        if !agrees {
            return Err(contradicts("resolution", &tier.name()));
        }
    }
    Ok(match (sized, ratio, tier) {
        (Want::Auto, Some(ratio), None) => Want::Ratio(ratio),
        (Want::Auto, None, Some(tier)) => Want::Tier(tier),
        (Want::Auto | Want::Tier(_), Some(ratio), Some(tier))
        | (Want::Ratio(ratio), _, Some(tier))
        | (Want::Tier(tier), Some(ratio), None) => Want::RatioTier(ratio, tier),
        (sized, ..) => sized,
    })
}

fn read_size(text: &str) -> Result<Want, AskError> {
    if text == "auto" {
        return Ok(Want::Auto);
    }
    if let Ok(tier) = api_tier(text) {
        return Ok(Want::Tier(tier));
    }
    if text.contains(':') {
        return aspect(text, "size").map(Want::Ratio);
    }
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((digits(w)?, digits(h)?)));
    let Some((width, height)) = sides else {
        return Err(AskError {
            param: "size",
            message: format!(
                "size {text:?} is not auto, a size like 1024x768, a ratio like 16:9, or one of \
                 512, 1K, 2K, 4K"
            ),
        });
    };
    let size = Size::new(width, height);
    within_limits(size)?;
    Ok(Want::Exact(size))
}

/// A whole number; one too large for `u32` becomes its maximum, which every limit refuses.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().unwrap_or(u32::MAX))
}

fn within_limits(size: Size) -> Result<(), AskError> {
    let problem = if size.width == 0 || size.height == 0 {
        "both sides must be at least 1 pixel".to_owned()
    } else if size.width.max(size.height) > MAX_SIDE {
        format!("the longest side allowed is {MAX_SIDE} pixels")
    } else if size.pixels() > MAX_PIXELS {
        format!("the most pixels allowed are {MAX_PIXELS}")
    } else {
        return Ok(());
    };
    Err(AskError { param: "size", message: format!("size {size} cannot be made: {problem}") })
}

fn aspect(text: &str, param: &'static str) -> Result<Aspect, AskError> {
    let aspect = Aspect::from_str(text).map_err(|_| AskError {
        param,
        message: format!("{param} {text:?} is not a ratio like 16:9"),
    })?;
    if aspect.ratio().max(aspect.ratio().recip()) > MAX_RATIO {
        return Err(AskError {
            param,
            message: format!("{param} {text} is beyond the largest ratio allowed, 100:1"),
        });
    }
    Ok(aspect)
}

fn api_tier(text: &str) -> Result<Tier, ()> {
    Tier::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(text)).ok_or(())
}

fn read_resolution(text: &str) -> Result<Tier, AskError> {
    api_tier(text).map_err(|()| AskError {
        param: "resolution",
        message: format!("resolution {text:?} is not one of 512, 1K, 2K, 4K"),
    })
}

fn color(text: &str) -> Result<[u8; 3], AskError> {
    let hex = |s: &str| {
        let channel = |at: usize| u8::from_str_radix(s.get(at..at + 2)?, 16).ok();
        let plain = s.len() == 6 && s.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| Some([channel(0)?, channel(2)?, channel(4)?])).flatten()
    };
    let known = match text {
        "white" => Some([255; 3]),
        "black" => Some([0; 3]),
        other => other.strip_prefix('#').and_then(hex),
    };
    known.ok_or_else(|| AskError {
        param: "pad_color",
        message: format!("pad_color {text:?} is not #rrggbb, white or black"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(size: &str, ratio: &str, tier: &str) -> Result<Want, AskError> {
        let given = |text| Some(text).filter(|t| *t != "-");
        parse_ask(given(size), given(ratio), given(tier), None, None).map(|ask| ask.want)
    }

    #[test]
    fn sizes_are_read() {
        let wide = Aspect::new(16, 9);
        for (size, ratio, tier, expected) in [
            ("-", "-", "-", Want::Auto),
            ("auto", "-", "-", Want::Auto),
            ("1024x768", "-", "-", Want::Exact(Size::new(1024, 768))),
            ("1024X768", "-", "-", Want::Exact(Size::new(1024, 768))),
            ("16:9", "-", "-", Want::Ratio(wide)),
            ("auto", "16:9", "-", Want::Ratio(wide)),
            ("512", "-", "-", Want::Tier(Tier::Half)),
            ("1k", "-", "-", Want::Tier(Tier::One)),
            ("-", "-", "4K", Want::Tier(Tier::Four)),
            ("2K", "-", "2k", Want::Tier(Tier::Two)),
            ("2K", "16:9", "-", Want::RatioTier(wide, Tier::Two)),
            ("2K", "16:9", "2K", Want::RatioTier(wide, Tier::Two)),
            ("16:9", "-", "1K", Want::RatioTier(wide, Tier::One)),
            ("16:9", "32:18", "1K", Want::RatioTier(wide, Tier::One)),
            ("-", "16:9", "1K", Want::RatioTier(wide, Tier::One)),
            ("1376x768", "16:9", "1K", Want::Exact(Size::new(1376, 768))),
            ("1024x1024", "1:1", "1K", Want::Exact(Size::new(1024, 1024))),
        ] {
            assert_eq!(want(size, ratio, tier), Ok(expected), "{size} {ratio} {tier}");
        }
    }

    #[test]
    fn bad_sizes_name_the_field_and_the_limit() {
        for (size, ratio, tier, param, said) in [
            ("10x", "-", "-", "size", "not auto"),
            ("", "-", "-", "size", "not auto"),
            ("1024", "-", "-", "size", "not auto"),
            ("3K", "-", "-", "size", "not auto"),
            ("0.5K", "-", "-", "size", "not auto"),
            ("+10x10", "-", "-", "size", "not auto"),
            ("-1x10", "-", "-", "size", "not auto"),
            ("0x0", "-", "-", "size", "at least 1"),
            ("99999x99999", "-", "-", "size", "16384"),
            ("99999999999x1", "-", "-", "size", "16384"),
            ("10000x10000", "-", "-", "size", "50000000"),
            ("0:1", "-", "-", "size", "ratio like 16:9"),
            ("101:1", "-", "-", "size", "100:1"),
            ("-", "wide", "-", "aspect_ratio", "ratio like 16:9"),
            ("-", "-", "8K", "resolution", "512, 1K, 2K, 4K"),
            ("-", "100:1", "4K", "size", "16384"),
            ("1024x1024", "16:9", "-", "aspect_ratio", "contradicts size 1024x1024"),
            ("1536x1024", "-", "1K", "resolution", "contradicts"),
            ("1024x1024", "1:1", "2K", "resolution", "contradicts"),
            ("16:9", "9:16", "-", "aspect_ratio", "contradicts"),
            ("2K", "16:9", "1K", "resolution", "contradicts"),
        ] {
            let error = want(size, ratio, tier).unwrap_err();
            assert_eq!(error.param, param, "{size} {ratio} {tier}");
            assert!(error.message.contains(said), "{size} {ratio} {tier}: {error}");
        }
    }

    #[test]
    fn fits_and_colours_are_read() {
        let ask = |fit, color| parse_ask(None, None, None, fit, color);
        assert_eq!(ask(None, None).unwrap().fit, Fit::Cover);
        assert_eq!(ask(None, None).unwrap().pad_color, [255, 255, 255]);
        for fit in Fit::ALL {
            assert_eq!(ask(Some(fit.name()), None).unwrap().fit, fit);
        }
        assert_eq!(ask(None, Some("black")).unwrap().pad_color, [0, 0, 0]);
        assert_eq!(ask(None, Some("#1A2b3c")).unwrap().pad_color, [0x1a, 0x2b, 0x3c]);
        assert_eq!(ask(Some("fill"), None).unwrap_err().param, "fit");
        for wrong in ["red", "#fff", "#12345g", "#+12345", "123456", "#ääa"] {
            assert_eq!(ask(None, Some(wrong)).unwrap_err().param, "pad_color", "{wrong}");
        }
    }

    #[test]
    fn a_tier_is_an_area() {
        assert_eq!(Tier::One.size(1.0), Size::new(1024, 1024));
        assert_eq!(Tier::Two.size(16.0 / 9.0), Size::new(2731, 1536));
        assert_eq!(Tier::Half.size(9.0 / 16.0), Size::new(384, 683));
        assert_eq!("0.5K".parse(), Ok(Tier::Half));
        assert_eq!("1k".parse(), Ok(Tier::One));
    }
}
