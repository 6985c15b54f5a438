//! Takes out of a picture's file what is not the picture: where and when it was taken, with which
//! camera, what programs wrote about it, and whatever hangs on behind its end: second pictures,
//! films, what an editor cut away. No pixel is decoded.
//!
//! Each format is walked piece by piece; what is known to say how pixels are shown is copied, the
//! rest is not. So nothing unknown leaves.

use bytes::{BufMut as _, Bytes, BytesMut};
use providers::media::Format;

/// PNG chunks that say how pixels are to be shown.
const PNG_KEPT: [[u8; 4]; 14] = [
    *b"IHDR", *b"PLTE", *b"IDAT", *b"IEND", *b"tRNS", *b"gAMA", *b"cHRM", *b"sRGB", *b"iCCP",
    *b"cICP", *b"mDCV", *b"sBIT", *b"pHYs", *b"bKGD",
];
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// WebP chunks that are the picture.
const WEBP_KEPT: [[u8; 4]; 5] = [*b"VP8 ", *b"VP8L", *b"VP8X", *b"ALPH", *b"ICCP"];
/// The bits of `VP8X` that announce EXIF and XMP.
const WEBP_ANNOUNCED: u8 = 0x08 | 0x04;
/// What begins the only application data of a JPEG's second kind that is a colour profile.
const ICC: &[u8] = b"ICC_PROFILE\0";

/// A file that cannot be taken apart, or ends before its picture does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} file is damaged or cut off")]
pub struct StripError(Format);

/// The file without its metadata and without what comes behind the picture; `None` where there is
/// nothing of it, or for formats that are always encoded anew.
pub fn strip(file: &Bytes, format: Format) -> Result<Option<Bytes>, StripError> {
    let clean = match format {
        Format::Jpeg => jpeg(file),
        Format::Png => png(file),
        Format::Webp => webp(file),
        Format::Avif | Format::Gif | Format::Svg => return Ok(None),
    };
    let clean = clean.ok_or(StripError(format))?;
    Ok((clean.len() != file.len()).then(|| clean.freeze()))
}

/// ITU T.81, annex B.
fn jpeg(file: &[u8]) -> Option<BytesMut> {
    let mut clean = BytesMut::with_capacity(file.len());
    clean.put_slice(file.get(..2).filter(|soi| *soi == [0xff, 0xd8])?);
    let mut at = 2;
    loop {
        if *file.get(at)? != 0xff {
            return None;
        }
        let marker = *file.get(at + 1)?;
        match marker {
            // Fill bytes before a marker.
            0xff => {
                at += 1;
                continue;
            }
            0xd9 => {
                clean.put_slice(&[0xff, 0xd9]);
                return Some(clean);
            }
            0x01 | 0xd0..=0xd7 => {
                clean.put_slice(&[0xff, marker]);
                at += 2;
                continue;
            }
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
        let end = at + 2 + length;
        let segment = file.get(at..end).filter(|_| length >= 2)?;
        let data = &segment[4..];
        let keeps = match marker {
            // JFIF, and Adobe's word on how colours are coded.
            0xe0 | 0xee => true,
            0xe2 => data.starts_with(ICC),
            0xe1..=0xef | 0xfe => false,
            _ => true,
        };
        if keeps {
            clean.put_slice(segment);
        }
        at = end;
        if marker == 0xda {
            // Coded pixels follow, up to the next marker that is no part of them.
            let mut next = at;
            loop {
                next += memchr::memchr(0xff, file.get(next..)?)?;
                match *file.get(next + 1)? {
                    0x00 | 0xd0..=0xd7 => next += 2,
                    0xff => next += 1,
                    _ => break,
                }
            }
            clean.put_slice(&file[at..next]);
            at = next;
        }
    }
}

fn png(file: &[u8]) -> Option<BytesMut> {
    let mut clean = BytesMut::with_capacity(file.len());
    let mut rest = file.strip_prefix(PNG_SIGNATURE)?;
    clean.put_slice(PNG_SIGNATURE);
    loop {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        let name: [u8; 4] = rest.get(4..8)?.try_into().ok()?;
        let whole = usize::try_from(length).ok()?.checked_add(12)?;
        let chunk = rest.get(..whole)?;
        if PNG_KEPT.contains(&name) {
            clean.put_slice(chunk);
        }
        if name == *b"IEND" {
            return Some(clean);
        }
        rest = &rest[whole..];
    }
}

fn webp(file: &[u8]) -> Option<BytesMut> {
    let length = u32::from_le_bytes(file.get(4..8)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let whole = file.get(..end).filter(|file| file.starts_with(b"RIFF"))?;
    let mut rest = whole.get(8..)?.strip_prefix(b"WEBP")?;
    let mut clean = BytesMut::with_capacity(file.len());
    clean.put_slice(b"RIFF\0\0\0\0WEBP");
    while !rest.is_empty() {
        let name: [u8; 4] = rest.get(..4)?.try_into().ok()?;
        let length = u32::from_le_bytes(rest.get(4..8)?.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        // Chunks begin at even places.
        let padded = length.checked_add(8 + length % 2)?.min(rest.len());
        let chunk = rest.get(..padded).filter(|chunk| chunk.len() >= length + 8)?;
        if WEBP_KEPT.contains(&name) {
            let start = clean.len();
            clean.put_slice(chunk);
            if let (true, Some(flags)) = (name == *b"VP8X", clean.get_mut(start + 8)) {
                *flags &= !WEBP_ANNOUNCED;
            }
        }
        rest = &rest[padded..];
    }
    let length = u32::try_from(clean.len() - 8).ok()?;
    clean[4..8].copy_from_slice(&length.to_le_bytes());
    Some(clean)
}

#[cfg(test)]
mod tests {
    use img_parts::{ImageEXIF as _, ImageICC as _, jpeg::Jpeg, png::Png, webp::WebP};

    use super::*;
    use crate::media::sniff::sniff;

    const SECRET: &[u8] = b"GPS 52.5N 13.4E";

    fn picture(format: image::ImageFormat) -> Bytes {
        let pixels = image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([x as u8, y as u8, 90]));
        let mut file = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut file, format).unwrap();
        file.into_inner().into()
    }

    fn shows(file: &[u8], secret: &[u8]) -> bool {
        memchr::memmem::find(file, secret).is_some()
    }

    #[test]
    fn places_and_words_go_and_the_picture_stays() {
        let exif = Bytes::from_static(SECRET);
        let profile = Bytes::from_static(b"a colour profile");
        let mut jpeg = Jpeg::from_bytes(picture(image::ImageFormat::Jpeg)).unwrap();
        jpeg.set_exif(Some(exif.clone()));
        jpeg.set_icc_profile(Some(profile.clone()));
        let mut png = Png::from_bytes(picture(image::ImageFormat::Png)).unwrap();
        png.set_exif(Some(exif.clone()));
        png.chunks_mut().insert(1, img_parts::png::PngChunk::new(*b"iTXt", exif.clone()));
        let mut webp = WebP::from_bytes(picture(image::ImageFormat::WebP)).unwrap();
        webp.set_exif(Some(exif));
        webp.set_icc_profile(Some(profile));
        for (file, format) in [
            (jpeg.encoder().bytes(), Format::Jpeg),
            (png.encoder().bytes(), Format::Png),
            (webp.encoder().bytes(), Format::Webp),
        ] {
            assert!(shows(&file, SECRET), "{format}");
            let clean = strip(&file, format).unwrap().unwrap();
            assert!(!shows(&clean, SECRET), "{format}");
            let (before, after) = (sniff(&file).unwrap(), sniff(&clean).unwrap());
            assert_eq!((before.size, after.format), (after.size, format));
            let read = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
            assert_eq!(read(&file), read(&clean), "{format}");
            assert_eq!(strip(&clean, format).unwrap(), None, "{format}: nothing is left to do");
            if format == Format::Jpeg {
                assert!(shows(&clean, b"a colour profile"));
            }
        }
    }

    #[test]
    fn what_hangs_on_behind_the_picture_goes() {
        for (kind, format) in [
            (image::ImageFormat::Jpeg, Format::Jpeg),
            (image::ImageFormat::Png, Format::Png),
            (image::ImageFormat::WebP, Format::Webp),
        ] {
            let own = picture(kind);
            // A second picture with a place of its own, as phones append them.
            let mut file = own.to_vec();
            file.extend_from_slice(SECRET);
            file.extend_from_slice(&own);
            let clean = strip(&file.into(), format).unwrap().unwrap();
            assert_eq!(clean, own, "{format}");
            for cut in [own.len() - 1, own.len() / 2, 10, 1] {
                assert!(strip(&own.slice(..cut), format).is_err(), "{format} at {cut}");
            }
        }
        // The index of such pictures looks like a colour profile from afar.
        let mut jpeg = Jpeg::from_bytes(picture(image::ImageFormat::Jpeg)).unwrap();
        let index = Bytes::from([b"MPF\0", SECRET].concat());
        let segment = img_parts::jpeg::JpegSegment::new_with_contents(0xe2, index);
        jpeg.segments_mut().insert(0, segment);
        let clean = strip(&jpeg.encoder().bytes(), Format::Jpeg).unwrap().unwrap();
        assert!(!shows(&clean, SECRET));
    }

    #[test]
    fn what_is_no_such_file_is_an_error() {
        for format in [Format::Jpeg, Format::Png, Format::Webp] {
            assert!(strip(&Bytes::from_static(b"GIF89a"), format).is_err());
        }
    }
}
