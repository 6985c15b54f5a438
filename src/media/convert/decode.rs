//! From a file to raw samples. Everything here is memory-safe Rust: the bytes are a stranger's.

use std::io::Cursor;

use image::{
    ColorType, DynamicImage, ImageDecoder, Limits, RgbImage, RgbaImage,
    codecs::{gif::GifDecoder, jpeg::JpegDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use providers::media::{Format, Size};

use super::{ConvertError, Pixels};
use crate::media::sniff::{DecodeLimits, SniffError, Sniffed};

/// Samples as the file has them, expanded from palettes and from less than 8 bits.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) size: Size,
    pub(super) samples: Samples,
    pub(super) layout: Layout,
    pub(super) color: Color,
}

#[derive(Debug)]
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
}

impl Layout {
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// What the samples mean, as the file says.
#[derive(Debug)]
pub(super) enum Color {
    /// Nothing is said, or sRGB.
    Srgb,
    /// An ICC profile.
    Icc(Vec<u8>),
    /// Code points of ITU-T H.273: primaries and transfer function.
    Cicp(u8, u8),
}

/// Room beside the pixels for a colour profile and a decoder's own needs.
const EXTRA: u64 = 16 << 20;

pub(super) fn decode(
    input: &[u8],
    sniffed: &Sniffed,
    limits: &DecodeLimits,
) -> Result<Raw, ConvertError> {
    let (format, size) = (sniffed.format, sniffed.stored_size());
    sniffed.check(limits)?;
    let undecodable = |source| ConvertError::Undecodable { format, source };
    let bad = |e: image::ImageError| undecodable(Box::new(e));
    let reader = Cursor::new(input);
    let raw = match format {
        Format::Png => png(input, limits).map_err(|e| undecodable(Box::new(e)))?,
        Format::Jpeg => with(JpegDecoder::new(reader).map_err(bad)?, size, limits).map_err(bad)?,
        Format::Webp => with(WebPDecoder::new(reader).map_err(bad)?, size, limits).map_err(bad)?,
        Format::Gif => with(GifDecoder::new(reader).map_err(bad)?, size, limits).map_err(bad)?,
        Format::Avif => return Err(ConvertError::Unreadable(format)),
        Format::Svg => return Err(ConvertError::Vectors),
    };
    if raw.size != size {
        return Err(SniffError::Damaged(format, "its size is given twice, differently").into());
    }
    Ok(raw)
}

/// A decoder of the image crate, given its limits before it allocates.
fn with(
    mut decoder: impl ImageDecoder,
    size: Size,
    limits: &DecodeLimits,
) -> Result<Raw, image::ImageError> {
    let mut bounds = Limits::default();
    bounds.max_image_width = Some(size.width.min(limits.max_side));
    bounds.max_image_height = Some(size.height.min(limits.max_side));
    bounds.max_alloc = Some(limits.max_bytes + EXTRA);
    decoder.set_limits(bounds)?;
    let (width, height) = decoder.dimensions();
    let layout = match decoder.color_type() {
        ColorType::L8 => Layout::Gray,
        ColorType::La8 => Layout::GrayAlpha,
        ColorType::Rgba8 => Layout::Rgba,
        _ => Layout::Rgb,
    };
    let color = decoder.icc_profile().ok().flatten().map_or(Color::Srgb, Color::Icc);
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples)?;
    let samples = Samples::Eight(samples);
    Ok(Raw { size: Size::new(width, height), samples, layout, color })
}

/// The png crate itself, for what the image crate hides: code points, and the skipping of text.
fn png(input: &[u8], limits: &DecodeLimits) -> Result<Raw, png::DecodingError> {
    let bytes = usize::try_from(limits.max_bytes.saturating_add(EXTRA)).unwrap_or(usize::MAX);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(input), png::Limits { bytes });
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info()?;
    let info = reader.info();
    let color = if let Some(points) = info.coding_independent_code_points {
        Color::Cicp(points.color_primaries, points.transfer_function)
    } else if info.srgb.is_some() {
        Color::Srgb
    } else {
        info.icc_profile.as_ref().map_or(Color::Srgb, |icc| Color::Icc(icc.to_vec()))
    };
    let needed = reader.output_buffer_size().filter(|n| *n as u64 <= limits.max_bytes);
    let mut samples = vec![0; needed.ok_or(png::DecodingError::LimitsExceeded)?];
    let frame = reader.next_frame(&mut samples)?;
    let layout = match frame.color_type {
        png::ColorType::Grayscale => Layout::Gray,
        png::ColorType::GrayscaleAlpha => Layout::GrayAlpha,
        png::ColorType::Rgba => Layout::Rgba,
        png::ColorType::Rgb | png::ColorType::Indexed => Layout::Rgb,
    };
    let samples = if frame.bit_depth == png::BitDepth::Sixteen {
        Samples::Sixteen(
            samples.chunks_exact(2).map(|s| u16::from_be_bytes([s[0], s[1]])).collect(),
        )
    } else {
        Samples::Eight(samples)
    };
    Ok(Raw { size: Size::new(frame.width, frame.height), samples, layout, color })
}

/// Turns and mirrors pixels so that no orientation need be written.
pub(super) fn upright(pixels: Pixels, orientation: Orientation) -> Pixels {
    if orientation == Orientation::NoTransforms {
        return pixels;
    }
    let Pixels { size: Size { width, height }, data, alpha } = pixels;
    let image = if alpha {
        RgbaImage::from_raw(width, height, data).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, data).map(DynamicImage::from)
    };
    let mut image = image.unwrap_or_default();
    image.apply_orientation(orientation);
    let size = Size::new(image.width(), image.height());
    Pixels { size, data: image.into_bytes(), alpha }
}
