//! From pixels to a file. Why each encoder and setting: `docs/decisions/0010` to `0014`.

use gif::{Encoder as GifEncoder, Frame};
use jpeg_encoder::{ColorType, SamplingFactor};
use providers::media::Format;
use ravif::{BitDepth, Img};
use rgb::FromSlice as _;

use super::{Conversion, ConvertError, Pixels};

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Writes pixels in the format asked for.
pub(super) fn encode(pixels: Pixels, c: &Conversion) -> Result<Vec<u8>, ConvertError> {
    let size = pixels.size;
    match c.format {
        Format::Png => png(&pixels),
        Format::Jpeg => jpeg(&pixels.flattened(c.background), c.quality),
        Format::Webp => webp(&pixels, c.quality, c.webp_lossless),
        Format::Avif => avif(&pixels, c.quality),
        Format::Gif => gif(pixels, c.background),
        Format::Svg => return Err(ConvertError::Vectors),
    }
    .map_err(|source| ConvertError::Unencodable { format: c.format, size, source })
}

/// Level 4 would save a photograph 0.3 % for two and a half times the time.
const PNG_LEVEL: png::DeflateCompression = png::DeflateCompression::Level(2);

fn png(pixels: &Pixels) -> Result<Vec<u8>, Reason> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, pixels.size.width, pixels.size.height);
    encoder.set_color(if pixels.alpha { png::ColorType::Rgba } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_deflate_compression(PNG_LEVEL);
    encoder.set_filter(png::Filter::Adaptive);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels.data)?;
    writer.finish()?;
    Ok(out)
}

/// From this quality on, colour is kept at full resolution, as libvips does.
const FULL_CHROMA: u8 = 90;

fn jpeg(pixels: &Pixels, quality: u8) -> Result<Vec<u8>, Reason> {
    let width = u16::try_from(pixels.size.width)?;
    let height = u16::try_from(pixels.size.height)?;
    let mut out = Vec::with_capacity(pixels.data.len() / 8);
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, quality.clamp(1, 100));
    let full = quality >= FULL_CHROMA;
    encoder.set_sampling_factor(if full { SamplingFactor::F_1_1 } else { SamplingFactor::F_2_2 });
    encoder.encode(&pixels.data, width, height, ColorType::Rgb)?;
    Ok(out)
}

/// libwebp's own bound on a side.
const WEBP_SIDE: u32 = 16_383;

fn webp(pixels: &Pixels, quality: u8, lossless: bool) -> Result<Vec<u8>, Reason> {
    if pixels.size.width.max(pixels.size.height) > WEBP_SIDE {
        return Err(format!("WebP ends at {WEBP_SIDE} pixels a side").into());
    }
    let layout = if pixels.alpha { webp::PixelLayout::Rgba } else { webp::PixelLayout::Rgb };
    let mut config = webp::WebPConfig::new().map_err(|()| "libwebp has no configuration")?;
    config.lossless = lossless.into();
    if lossless {
        config.method = 1;
        config.quality = 40.0;
        config.exact = 0;
    } else {
        config.method = 4;
        config.quality = f32::from(quality.min(100));
    }
    webp::Encoder::new(&pixels.data, layout, pixels.size.width, pixels.size.height)
        .encode_advanced(&config)
        .map(|memory| memory.to_vec())
        .map_err(|code| format!("libwebp: {code:?}").into())
}

/// ravif's scale: 1 is slowest, 10 fastest. From 9 on small blocks are gone, and with them text.
const AVIF_SPEED: u8 = 8;

fn avif(pixels: &Pixels, quality: u8) -> Result<Vec<u8>, Reason> {
    let (width, height) = (pixels.size.width as usize, pixels.size.height as usize);
    let quality = f32::from(quality.clamp(1, 100));
    let encoder = ravif::Encoder::new()
        .with_speed(AVIF_SPEED)
        .with_quality(quality)
        .with_alpha_quality(quality)
        .with_bit_depth(BitDepth::Eight)
        .with_num_threads(Some(1));
    let encoded = if pixels.alpha {
        encoder.encode_rgba(Img::new(pixels.data.as_rgba(), width, height))?
    } else {
        encoder.encode_rgb(Img::new(pixels.data.as_rgb(), width, height))?
    };
    Ok(encoded.avif_file)
}

/// NeuQuant looks at every so many pixels when it chooses a palette; 10 is its author's balance.
const GIF_SAMPLING: i32 = 10;

fn gif(pixels: Pixels, [r, g, b]: [u8; 3]) -> Result<Vec<u8>, Reason> {
    let width = u16::try_from(pixels.size.width)?;
    let height = u16::try_from(pixels.size.height)?;
    let frame = if pixels.alpha {
        // A pixel is either there or not: half transparent and more counts as not.
        let clear = pixels.data.chunks_exact(4).map(|p| p[3] < 128).collect::<Vec<_>>();
        let mut data = pixels.flattened([r, g, b]).with_alpha().data;
        for (pixel, clear) in data.chunks_exact_mut(4).zip(clear) {
            if clear {
                pixel.fill(0);
            }
        }
        Frame::from_rgba_speed(width, height, &mut data, GIF_SAMPLING)
    } else {
        Frame::from_rgb_speed(width, height, &pixels.data, GIF_SAMPLING)
    };
    let mut out = Vec::new();
    GifEncoder::new(&mut out, width, height, &[])?.write_frame(&frame)?;
    Ok(out)
}
