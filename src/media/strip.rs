//! Takes out of a picture's file what is not the picture: where and when it was taken, with which
//! camera, and what programs wrote about it. No pixel is decoded.

use bytes::Bytes;
use img_parts::{
    jpeg::{Jpeg, markers},
    png::Png,
    riff::RiffContent,
    webp::WebP,
};
use providers::media::Format;

/// PNG chunks that say how pixels are to be shown; the rest goes.
const PNG_KEPT: [[u8; 4]; 14] = [
    *b"IHDR", *b"PLTE", *b"IDAT", *b"IEND", *b"tRNS", *b"gAMA", *b"cHRM", *b"sRGB", *b"iCCP",
    *b"cICP", *b"mDCV", *b"sBIT", *b"pHYs", *b"bKGD",
];
/// WebP chunks that are the picture.
const WEBP_KEPT: [[u8; 4]; 5] = [*b"VP8 ", *b"VP8L", *b"VP8X", *b"ALPH", *b"ICCP"];
/// The bits of `VP8X` that announce EXIF and XMP.
const WEBP_ANNOUNCED: u8 = 0x08 | 0x04;

/// A file that cannot be taken apart.
#[derive(Debug, thiserror::Error)]
#[error("the {0} file cannot be taken apart")]
pub struct StripError(Format, #[source] img_parts::Error);

/// The file without its metadata; `None` where there is none, or for formats that are always
/// encoded anew. Colour profiles stay, for they say what the pixels mean.
pub fn strip(file: &Bytes, format: Format) -> Result<Option<Bytes>, StripError> {
    let odd = |error| StripError(format, error);
    let stripped = match format {
        Format::Jpeg => jpeg(Jpeg::from_bytes(file.clone()).map_err(odd)?),
        Format::Png => png(Png::from_bytes(file.clone()).map_err(odd)?),
        Format::Webp => webp(WebP::from_bytes(file.clone()).map_err(odd)?),
        Format::Avif | Format::Gif | Format::Svg => None,
    };
    Ok(stripped)
}

fn jpeg(mut file: Jpeg) -> Option<Bytes> {
    let segments = file.segments_mut();
    let before = segments.len();
    segments.retain(|segment| match segment.marker() {
        // JFIF, colour profiles, and Adobe's word on how colours are coded.
        markers::APP0 | markers::APP2 | markers::APP14 => true,
        markers::APP1..=markers::APP15 | markers::COM => false,
        _ => true,
    });
    (segments.len() < before).then(|| file.encoder().bytes())
}

fn png(mut file: Png) -> Option<Bytes> {
    let chunks = file.chunks_mut();
    let before = chunks.len();
    chunks.retain(|chunk| PNG_KEPT.contains(&chunk.kind()));
    (chunks.len() < before).then(|| file.encoder().bytes())
}

fn webp(mut file: WebP) -> Option<Bytes> {
    let chunks = file.chunks_mut();
    let before = chunks.len();
    chunks.retain(|chunk| WEBP_KEPT.contains(&chunk.id()));
    if chunks.len() == before {
        return None;
    }
    for chunk in chunks.iter_mut().filter(|chunk| chunk.id() == *b"VP8X") {
        let Some(data) = chunk.content().data() else { continue };
        let mut data = data.to_vec();
        if let Some(flags) = data.first_mut() {
            *flags &= !WEBP_ANNOUNCED;
        }
        *chunk = img_parts::riff::RiffChunk::new(*b"VP8X", RiffContent::Data(data.into()));
    }
    Some(file.encoder().bytes())
}

#[cfg(test)]
mod tests {
    use img_parts::{ImageEXIF as _, ImageICC as _};

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
    fn what_is_no_such_file_is_an_error() {
        for format in [Format::Jpeg, Format::Png, Format::Webp] {
            assert!(strip(&Bytes::from_static(b"GIF89a"), format).is_err());
        }
    }
}
