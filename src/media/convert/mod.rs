//! Changing a picture: decode, to sRGB, upright, crop, scale, pad, encode.
//!
//! Pure and synchronous: bytes in, bytes out, on one thread. It runs on [`super::pool`]. What
//! comes out carries pixels alone: no EXIF, no XMP, no colour profile.

use std::borrow::Cow;

use bytes::Bytes;
use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use providers::media::{Format, Size};

use super::{
    plan::{Geometry, Padding},
    pool::Lane,
    sniff::{DecodeLimits, SniffError, Sniffed, TAIL, is_complete},
};

mod color;
mod decode;
mod encode;

/// What a picture is to become.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// Crop, scale and canvas; `None` keeps every pixel where it is.
    pub geometry: Option<Geometry>,
    /// The format to write.
    pub format: Format,
    /// Quality of the lossy encoders, 0 to 100; more is taken for 100.
    pub quality: u8,
    /// Whether WebP is written without loss.
    pub webp_lossless: bool,
    /// What transparency is flattened on and padding is filled with: red, green, blue.
    pub background: [u8; 3],
    /// Whether padding is transparent where the format allows it.
    pub pad_transparent: bool,
}

impl Conversion {
    /// The lane of [`super::pool`] it belongs in.
    pub fn lane(&self) -> Lane {
        if self.format == Format::Avif { Lane::Slow } else { Lane::Normal }
    }

    /// Bytes of pixels that the work holds at its peak, near enough for a budget.
    pub fn weight(&self, source: &Sniffed) -> u64 {
        let output = self.geometry.as_ref().map_or(source.size, |g| g.delivered).pixels();
        let per_output_pixel = match self.format {
            // rav1e keeps the frame at 16 bits, its reconstruction and the coding state.
            Format::Avif => 48,
            // libwebp keeps ARGB beside YUV, and the scores of each macroblock.
            Format::Webp => 12,
            _ => 4,
        };
        source.decoded_bytes + output * per_output_pixel
    }
}

/// A changed picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The file.
    pub bytes: Bytes,
    /// Its format.
    pub format: Format,
    /// Its pixels.
    pub size: Size,
    /// Whether it was transparent somewhere and is not any more, or not as finely.
    pub flattened: bool,
    /// Whether its colours were not sRGB and now are.
    pub color_converted: bool,
}

/// Why a picture could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The file ends before the picture does.
    #[error("the {0} picture is cut off")]
    Truncated(Format),
    /// The picture is over a limit.
    #[error(transparent)]
    Refused(#[from] SniffError),
    /// This build cannot read the format; other bytes would not help.
    #[error("this build writes {0} but cannot read it, ask for {0} or for the picture untouched")]
    Unreadable(Format),
    /// Vectors are passed on, never rendered.
    #[error("svg is never rendered, ask for svg")]
    Vectors,
    /// The pixels are damaged.
    #[error("the {format} picture is damaged")]
    Undecodable {
        /// What it was taken for.
        format: Format,
        /// The decoder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The crop lies outside the picture, or a side is 0.
    #[error("the picture of {0} does not fit the planned crop and canvas")]
    Misfit(Size),
    /// The format cannot hold the picture.
    #[error("a picture of {size} cannot be written as {format}")]
    Unencodable {
        /// The format asked for.
        format: Format,
        /// The size asked for.
        size: Size,
        /// The encoder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Pixels in sRGB, 8 bits a channel, rows top to bottom without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Width and height.
    pub size: Size,
    /// Red, green, blue, and alpha (straight) where `alpha` says so.
    pub data: Vec<u8>,
    /// Whether there is a fourth channel.
    pub alpha: bool,
}

impl Pixels {
    fn channels(&self) -> usize {
        if self.alpha { 4 } else { 3 }
    }

    /// Drops an alpha channel that hides nothing.
    fn without_idle_alpha(self) -> Self {
        if !self.alpha || self.data.chunks_exact(4).any(|p| p[3] != u8::MAX) {
            return self;
        }
        let data = self.data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
        Self { data, alpha: false, ..self }
    }

    /// Lays the picture on a colour.
    fn flattened(self, [r, g, b]: [u8; 3]) -> Self {
        if !self.alpha {
            return self;
        }
        let over = |top: u8, alpha: u8, bottom: u8| {
            let sum =
                u32::from(top) * u32::from(alpha) + u32::from(bottom) * u32::from(255 - alpha);
            ((sum + 127) / 255) as u8
        };
        let on = |p: &[u8]| [over(p[0], p[3], r), over(p[1], p[3], g), over(p[2], p[3], b)];
        let data = self.data.chunks_exact(4).flat_map(on).collect();
        Self { data, alpha: false, ..self }
    }

    fn with_alpha(self) -> Self {
        if self.alpha {
            return self;
        }
        let data = self.data.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], u8::MAX]).collect();
        Self { data, alpha: true, ..self }
    }
}

/// Decodes a picture: upright, in sRGB. Also says whether the colours were converted.
pub fn decode(
    input: &[u8],
    sniffed: &Sniffed,
    limits: &DecodeLimits,
) -> Result<(Pixels, bool), ConvertError> {
    let format = sniffed.format;
    if format == Format::Svg {
        return Err(ConvertError::Vectors);
    }
    // The decoders forgive a missing end and would paint it grey.
    let tail = &input[input.len().saturating_sub(TAIL)..];
    if !is_complete(format, input.len() as u64, input, tail) {
        return Err(ConvertError::Truncated(format));
    }
    let raw = decode::decode(input, sniffed, limits)?;
    let (pixels, converted) = color::to_srgb(raw);
    Ok((decode::upright(pixels, sniffed.orientation).without_idle_alpha(), converted))
}

/// Decodes a picture and gives it its new shape. Also says whether the colours were converted.
pub fn render(
    input: &[u8],
    sniffed: &Sniffed,
    c: &Conversion,
    limits: &DecodeLimits,
) -> Result<(Pixels, bool), ConvertError> {
    let (mut pixels, color_converted) = decode(input, sniffed, limits)?;
    if let Some(geometry) = &c.geometry {
        pixels = scaled(pixels, geometry)?;
        if let Some(padding) = &geometry.pad {
            pixels = padded(pixels, padding, c)?;
        }
    }
    Ok((pixels, color_converted))
}

/// Changes a picture. `sniffed` is what [`super::sniff`] said of these very bytes.
pub fn convert(
    input: &[u8],
    sniffed: &Sniffed,
    c: &Conversion,
    limits: &DecodeLimits,
) -> Result<Converted, ConvertError> {
    let (pixels, color_converted) = render(input, sniffed, c, limits)?;
    let size = pixels.size;
    let flattened = pixels.alpha
        && match c.format {
            Format::Gif => pixels.data.chunks_exact(4).any(|p| !matches!(p[3], 0 | u8::MAX)),
            format => !format.has_alpha(),
        };
    let bytes = encode::encode(pixels, c)?;
    Ok(Converted { bytes: bytes.into(), format: c.format, size, flattened, color_converted })
}

/// Gives pixels a new shape; what is added around them has this colour.
pub fn reshape(
    pixels: Pixels,
    geometry: &Geometry,
    background: [u8; 3],
) -> Result<Pixels, ConvertError> {
    let pixels = scaled(pixels, geometry)?;
    let Some(padding) = &geometry.pad else { return Ok(pixels) };
    let c = Conversion {
        geometry: None,
        format: Format::Png,
        quality: 100,
        webp_lossless: true,
        background,
        pad_transparent: false,
    };
    padded(pixels, padding, &c)
}

/// Writes pixels as they are, without loss where the format can.
pub fn encode_whole(pixels: Pixels, format: Format) -> Result<Bytes, ConvertError> {
    let conversion = Conversion {
        geometry: None,
        format,
        quality: 100,
        webp_lossless: true,
        background: [255; 3],
        pad_transparent: false,
    };
    encode::encode(pixels, &conversion).map(Bytes::from)
}

/// Writes pixels that were given their new shape.
pub fn encode(pixels: Pixels, c: &Conversion) -> Result<Bytes, ConvertError> {
    encode::encode(pixels, c).map(Bytes::from)
}

/// Crops and scales.
fn scaled(pixels: Pixels, geometry: &Geometry) -> Result<Pixels, ConvertError> {
    let (from, to) = (pixels.size, geometry.scale_to);
    let (x, y, part) = geometry.crop.map_or((0, 0, from), |crop| (crop.x, crop.y, crop.size));
    let inside = |start: u32, len: u32, whole: u32| {
        len > 0 && start.checked_add(len).is_some_and(|end| end <= whole)
    };
    if !inside(x, part.width, from.width) || !inside(y, part.height, from.height) {
        return Err(ConvertError::Misfit(from));
    }
    if part == from && to == from {
        return Ok(pixels);
    }
    if part == to {
        return Ok(cropped(&pixels, x, y, part));
    }
    let kind = if pixels.alpha { PixelType::U8x4 } else { PixelType::U8x3 };
    let source = ImageRef::new(from.width, from.height, &pixels.data, kind)
        .map_err(|_| ConvertError::Misfit(from))?;
    let mut target = Image::new(to.width, to.height, kind);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(x.into(), y.into(), part.width.into(), part.height.into());
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|_| ConvertError::Misfit(from))?;
    Ok(Pixels { size: to, data: target.into_vec(), alpha: pixels.alpha })
}

fn cropped(pixels: &Pixels, x: u32, y: u32, size: Size) -> Pixels {
    let channels = pixels.channels();
    let data = rows(pixels)
        .skip(y as usize)
        .take(size.height as usize)
        .flat_map(|row| &row[x as usize * channels..(x + size.width) as usize * channels])
        .copied()
        .collect();
    Pixels { size, data, alpha: pixels.alpha }
}

fn rows(pixels: &Pixels) -> impl Iterator<Item = &[u8]> {
    pixels.data.chunks_exact((pixels.size.width as usize * pixels.channels()).max(1))
}

/// Puts a picture on a larger canvas.
fn padded(pixels: Pixels, padding: &Padding, c: &Conversion) -> Result<Pixels, ConvertError> {
    let (canvas, size) = (padding.canvas, pixels.size);
    let fits =
        |start: u32, len: u32, whole: u32| start.checked_add(len).is_some_and(|end| end <= whole);
    if !fits(padding.x, size.width, canvas.width) || !fits(padding.y, size.height, canvas.height) {
        return Err(ConvertError::Misfit(size));
    }
    if canvas == size {
        return Ok(pixels);
    }
    let clear = c.pad_transparent && c.format.has_alpha();
    let pixels = if clear { pixels.with_alpha() } else { pixels };
    let [r, g, b] = c.background;
    let fill: Cow<'_, [u8]> = match (pixels.alpha, clear) {
        (false, _) => Cow::Owned(vec![r, g, b]),
        (true, true) => Cow::Borrowed(&[0; 4]),
        (true, false) => Cow::Owned(vec![r, g, b, u8::MAX]),
    };
    let channels = pixels.channels();
    let mut data = fill.repeat(canvas.pixels() as usize);
    let line = canvas.width as usize * channels;
    let start = padding.x as usize * channels;
    for (to, from) in data.chunks_exact_mut(line).skip(padding.y as usize).zip(rows(&pixels)) {
        to[start..start + from.len()].copy_from_slice(from);
    }
    Ok(Pixels { size: canvas, data, alpha: pixels.alpha })
}

#[cfg(test)]
mod tests;
