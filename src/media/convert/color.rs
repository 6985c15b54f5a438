//! Colour: from what the file's profile says to sRGB at 8 bits.
//!
//! A profile that cannot be read, or that is for other channels than the picture has, is
//! ignored, as browsers do. JPEG in CMYK is turned to RGB by its decoder, without its profile.

use moxcms::{
    CicpColorPrimaries, CicpProfile, ColorProfile, DataColorSpace, Layout as Channels,
    MatrixCoefficients, TransferCharacteristics, TransformExecutor, TransformOptions,
};

use super::{
    Pixels,
    decode::{Color, Layout, Raw, Samples},
};

/// The picture in sRGB, and whether its colours had to be changed for it.
pub(super) fn to_srgb(raw: Raw) -> (Pixels, bool) {
    let Raw { size, samples, layout, color } = raw;
    let profile = profile(&color);
    // A picture in grey may carry an RGB profile, which then holds for three equal channels.
    let gray = matches!(layout, Layout::Gray | Layout::GrayAlpha);
    let as_gray = gray && profile.as_ref().is_some_and(|p| p.color_space == DataColorSpace::Gray);
    let (samples, layout) =
        if gray && !as_gray { widened(samples, layout) } else { (samples, layout) };
    let alpha = matches!(layout, Layout::GrayAlpha | Layout::Rgba);
    let changed =
        profile.filter(|p| as_gray || p.color_space == DataColorSpace::Rgb).and_then(|p| {
            match &samples {
                Samples::Eight(samples) => {
                    let transform = p
                        .create_transform_8bit(channels(layout), &srgb(), output(alpha), options())
                        .ok()?;
                    through(&*transform, samples, layout, alpha)
                }
                Samples::Sixteen(samples) => {
                    let transform = p
                        .create_transform_16bit(channels(layout), &srgb(), output(alpha), options())
                        .ok()?;
                    through(&*transform, samples, layout, alpha).map(narrowed)
                }
            }
        });
    if let Some(data) = changed {
        return (Pixels { size, data, alpha }, true);
    }
    // Grey that needs no change by its profile has not been widened yet.
    let (samples, _) = if as_gray { widened(samples, layout) } else { (samples, layout) };
    let data = match samples {
        Samples::Eight(data) => data,
        Samples::Sixteen(data) => narrowed(data),
    };
    (Pixels { size, data, alpha }, false)
}

fn srgb() -> ColorProfile {
    ColorProfile::new_srgb()
}

fn options() -> TransformOptions {
    TransformOptions::default()
}

fn channels(layout: Layout) -> Channels {
    match layout {
        Layout::Gray => Channels::Gray,
        Layout::GrayAlpha => Channels::GrayAlpha,
        Layout::Rgb => Channels::Rgb,
        Layout::Rgba => Channels::Rgba,
    }
}

fn output(alpha: bool) -> Channels {
    if alpha { Channels::Rgba } else { Channels::Rgb }
}

/// The profile named by the file, unless it is none or unreadable.
fn profile(color: &Color) -> Option<ColorProfile> {
    match color {
        Color::Srgb => None,
        Color::Icc(bytes) => ColorProfile::new_from_slice(bytes).ok(),
        Color::Cicp(primaries, transfer) => {
            let points = CicpProfile {
                color_primaries: CicpColorPrimaries::try_from(*primaries).ok()?,
                transfer_characteristics: TransferCharacteristics::try_from(*transfer).ok()?,
                matrix_coefficients: MatrixCoefficients::Identity,
                full_range: true,
            };
            Some(ColorProfile::new_from_cicp(points))
        }
    }
}

/// A sample of 8 or 16 bits.
trait Sample: Copy + Default {
    /// The greatest value.
    const WHITE: u32;
    fn value(self) -> u32;
    fn of(value: u32) -> Self;
}

impl Sample for u8 {
    const WHITE: u32 = 0xFF;
    fn value(self) -> u32 {
        self.into()
    }
    fn of(value: u32) -> Self {
        value as Self
    }
}

impl Sample for u16 {
    const WHITE: u32 = 0xFFFF;
    fn value(self) -> u32 {
        self.into()
    }
    fn of(value: u32) -> Self {
        value as Self
    }
}

/// Samples in sRGB, or `None` where the profile amounts to sRGB (or cannot be applied).
fn through<S: Sample>(
    transform: &(dyn TransformExecutor<S> + Send + Sync),
    samples: &[S],
    layout: Layout,
    alpha: bool,
) -> Option<Vec<S>> {
    let channels = layout.channels();
    let (probe, mut seen) = (probe::<S>(layout), vec![S::default(); PROBES * channels_out(alpha)]);
    transform.transform(&probe, &mut seen).ok()?;
    let same = probe.chunks_exact(channels).zip(seen.chunks_exact(channels_out(alpha))).all(
        |(before, after)| {
            (0..3).all(|i| {
                let source = before[if channels < 3 { 0 } else { i }].value();
                // One step of 8 bits is what rounding does.
                source.abs_diff(after[i].value()) <= S::WHITE / 255
            })
        },
    );
    if same {
        return None;
    }
    let mut out = vec![S::default(); samples.len() / channels * channels_out(alpha)];
    transform.transform(samples, &mut out).ok()?;
    Some(out)
}

fn channels_out(alpha: bool) -> usize {
    if alpha { 4 } else { 3 }
}

const PROBES: usize = 64;

/// Colours spread over the cube, with which a profile is tried.
fn probe<S: Sample>(layout: Layout) -> Vec<S> {
    let level = |step: usize| S::of(S::WHITE * (step % 4) as u32 / 3);
    let fine = |step: usize| S::of(S::WHITE * step as u32 / (PROBES as u32 - 1));
    let opaque = S::of(S::WHITE);
    (0..PROBES)
        .flat_map(|i| match layout {
            Layout::Gray => vec![fine(i)],
            Layout::GrayAlpha => vec![fine(i), opaque],
            Layout::Rgb => vec![level(i), level(i / 4), level(i / 16)],
            Layout::Rgba => vec![level(i), level(i / 4), level(i / 16), opaque],
        })
        .collect()
}

/// Grey as three equal channels.
fn widened(samples: Samples, layout: Layout) -> (Samples, Layout) {
    fn widen<S: Copy>(samples: &[S], layout: Layout) -> Vec<S> {
        match layout {
            Layout::Gray => samples.iter().flat_map(|v| [*v; 3]).collect(),
            _ => samples.chunks_exact(2).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect(),
        }
    }
    let wide = if layout == Layout::Gray { Layout::Rgb } else { Layout::Rgba };
    match samples {
        Samples::Eight(samples) => (Samples::Eight(widen(&samples, layout)), wide),
        Samples::Sixteen(samples) => (Samples::Sixteen(widen(&samples, layout)), wide),
    }
}

/// From 16 to 8 bits, rounded.
fn narrowed(samples: Vec<u16>) -> Vec<u8> {
    samples.into_iter().map(|v| ((u32::from(v) * 255 + 32_767) / 65_535) as u8).collect()
}
