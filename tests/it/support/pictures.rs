//! Real pictures, small in bytes.

use std::{io::Cursor, sync::LazyLock};

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

/// What bytes are, by their magic and their header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looks(pub(crate) &'static str, pub(crate) u32, pub(crate) u32);

fn drawing(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, ((x / 32 + y / 32) % 2 * 80) as u8])
    })
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Bytes {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner().into()
}

pub(crate) fn png(width: u32, height: u32) -> Bytes {
    encode(&drawing(width, height).into(), ImageFormat::Png)
}

pub(crate) fn jpeg(width: u32, height: u32) -> Bytes {
    encode(&drawing(width, height).into(), ImageFormat::Jpeg)
}

pub(crate) fn webp(width: u32, height: u32) -> Bytes {
    encode(&drawing(width, height).into(), ImageFormat::WebP)
}

/// A PNG whose left half is transparent.
pub(crate) fn transparent_png(width: u32, height: u32) -> Bytes {
    let alpha = |x| if x < width / 2 { 0 } else { 255 };
    let image = RgbaImage::from_fn(width, height, |x, _| Rgba([200, 30, 30, alpha(x)]));
    encode(&image.into(), ImageFormat::Png)
}

/// 400 million pixels in some 49 kB.
pub(crate) fn bomb() -> Bytes {
    static BOMB: LazyLock<Bytes> = LazyLock::new(make_bomb);
    BOMB.clone()
}

fn make_bomb() -> Bytes {
    use std::io::Write as _;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 20_000, 20_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_deflate_compression(png::DeflateCompression::Level(9));
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    let row = vec![0; 20_000 / 8];
    for _ in 0..20_000 {
        stream.write_all(&row).unwrap();
    }
    stream.finish().unwrap();
    writer.finish().unwrap();
    assert!(bytes.len() < 60_000, "{} bytes", bytes.len());
    bytes.into()
}

/// Reads a picture's kind and size, and decodes it where a decoder is at hand.
pub(crate) fn look(bytes: &[u8]) -> Looks {
    let at = |i: usize| u32::from_be_bytes(bytes[i..i + 4].try_into().unwrap());
    if bytes.len() > 12 && &bytes[4..12] == b"ftypavif" {
        let ispe = memchr::memmem::find(bytes, b"ispe").unwrap();
        return Looks("avif", at(ispe + 8), at(ispe + 12));
    }
    let (name, format) = match bytes {
        [0x89, b'P', b'N', b'G', ..] => ("png", ImageFormat::Png),
        [0xff, 0xd8, 0xff, ..] => ("jpeg", ImageFormat::Jpeg),
        [b'G', b'I', b'F', b'8', ..] => ("gif", ImageFormat::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            ("webp", ImageFormat::WebP)
        }
        other => panic!("no picture: {:?}", &other[..other.len().min(16)]),
    };
    let image = image::load_from_memory_with_format(bytes, format).unwrap();
    Looks(name, image.width(), image.height())
}
