//! What bytes are, told from the bytes and never from a content type.
//!
//! Only headers are read: no pixel is decoded and nothing is allocated for one, so a picture
//! that would not fit in memory is refused at the cost of looking at a few bytes.

use image::metadata::Orientation;
use memchr::memmem;
use providers::media::{Format, Size};

mod header;
mod svg;

/// As many first bytes as [`sniff`] normally needs.
pub const HEAD: usize = 64 * 1024;
/// As many last bytes as [`is_complete`] looks at.
pub const TAIL: usize = 64;

/// How much picture may be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Width times height.
    pub max_pixels: u64,
    /// The longer side, in pixels.
    pub max_side: u32,
    /// Bytes of decoded pixels, at the file's own depth.
    pub max_bytes: u64,
}

impl Default for DecodeLimits {
    /// 50 megapixels, no side over 16,384, 256 MiB.
    fn default() -> Self {
        Self { max_pixels: 50_000_000, max_side: 16_384, max_bytes: 256 << 20 }
    }
}

/// A picture as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sniffed {
    /// The file format.
    pub format: Format,
    /// Pixels as shown: an EXIF orientation among the bytes seen is applied.
    pub size: Size,
    /// How the stored pixels must be turned to be shown.
    pub orientation: Orientation,
    /// Whether it may be transparent somewhere.
    pub has_alpha: bool,
    /// Whether it has more than one frame, as far as the bytes seen tell.
    pub animated: bool,
    /// Whether a C2PA manifest (signed provenance) is among the bytes seen. WebP keeps it at its
    /// end: pass the whole file to be sure.
    pub c2pa: bool,
    /// Bytes that the decoded pixels take, before anything is changed. 0 for SVG.
    pub decoded_bytes: u64,
}

/// Why bytes are not taken for a picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SniffError {
    /// Something else; says what in a few words.
    #[error("expected a picture, got {0}")]
    NotAnImage(&'static str),
    /// A picture whose size is not among the bytes seen. A longer head may do; if this was the
    /// whole file, it is cut off.
    #[error("the {0} header is cut off after {1} bytes")]
    Incomplete(Format, usize),
    /// A header that contradicts itself or its format.
    #[error("the {0} header is damaged: {1}")]
    Damaged(Format, &'static str),
    /// More picture than may be decoded.
    #[error("a picture of {width}x{height} is more than may be decoded: {reason}")]
    TooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The limit it breaks.
        reason: &'static str,
    },
}

/// Reads a picture's header within the default limits. [`HEAD`] bytes suffice for nearly every
/// file; more may be passed.
pub fn sniff(head: &[u8]) -> Result<Sniffed, SniffError> {
    sniff_within(head, &DecodeLimits::default())
}

/// Reads a picture's header within limits.
pub fn sniff_within(head: &[u8], limits: &DecodeLimits) -> Result<Sniffed, SniffError> {
    let format = format_of(head)?;
    let header = match format {
        Format::Png => header::png(head),
        Format::Jpeg => header::jpeg(head),
        Format::Webp => header::webp(head),
        Format::Avif => header::avif(head),
        Format::Gif => header::gif(head),
        Format::Svg => {
            return Ok(Sniffed {
                format,
                size: svg::size(head),
                orientation: Orientation::NoTransforms,
                has_alpha: true,
                animated: false,
                c2pa: false,
                decoded_bytes: 0,
            });
        }
    };
    header.map_err(|e| e.of(format, head.len()))?.checked(format, limits)
}

/// What a header of pixels says.
#[derive(Debug, Default)]
struct Header {
    width: u32,
    height: u32,
    exif: Option<Orientation>,
    has_alpha: bool,
    animated: bool,
    c2pa: bool,
    /// Bytes of one decoded pixel.
    pixel_bytes: u64,
}

impl Header {
    fn checked(self, format: Format, limits: &DecodeLimits) -> Result<Sniffed, SniffError> {
        let (width, height) = (self.width, self.height);
        if width == 0 || height == 0 {
            return Err(SniffError::Damaged(format, "a side is 0"));
        }
        let stored = Size::new(width, height);
        let decoded_bytes = stored.pixels() * self.pixel_bytes;
        let orientation = self.exif.unwrap_or(Orientation::NoTransforms);
        let size = if turns(orientation) { Size::new(height, width) } else { stored };
        let sniffed = Sniffed {
            format,
            size,
            orientation,
            has_alpha: self.has_alpha,
            animated: self.animated,
            c2pa: self.c2pa,
            decoded_bytes,
        };
        sniffed.check(limits).map(|()| sniffed)
    }
}

impl Sniffed {
    /// Refuses a picture that is over a limit.
    pub fn check(&self, limits: &DecodeLimits) -> Result<(), SniffError> {
        let Size { width, height } = self.stored_size();
        let reason = if width.max(height) > limits.max_side {
            "too long a side"
        } else if self.size.pixels() > limits.max_pixels {
            "too many pixels"
        } else if self.decoded_bytes > limits.max_bytes {
            "too many bytes"
        } else {
            return Ok(());
        };
        Err(SniffError::TooLarge { width, height, reason })
    }

    /// Pixels as stored, before the orientation is applied.
    pub fn stored_size(&self) -> Size {
        if turns(self.orientation) {
            Size::new(self.size.height, self.size.width)
        } else {
            self.size
        }
    }
}

/// Whether width and height change places.
fn turns(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The format by its first bytes.
fn format_of(head: &[u8]) -> Result<Format, SniffError> {
    let ftyp = |brand: &[u8]| head.get(4..8) == Some(b"ftyp") && header::brand(head, brand);
    if head.starts_with(PNG) {
        Ok(Format::Png)
    } else if head.starts_with(&[0xFF, 0xD8, 0xFF]) {
        Ok(Format::Jpeg)
    } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        Ok(Format::Webp)
    } else if head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a") {
        Ok(Format::Gif)
    } else if ftyp(b"avif") || ftyp(b"avis") {
        Ok(Format::Avif)
    } else if svg::is_svg(head) {
        Ok(Format::Svg)
    } else {
        Err(SniffError::NotAnImage(describe(head)))
    }
}

/// What bytes that are no picture of ours seem to be, in words for an error.
fn describe(head: &[u8]) -> &'static str {
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let is = |magic: &[u8]| head.starts_with(magic);
    let lower = text[..text.len().min(512)].to_ascii_lowercase();
    match text.first() {
        None => "nothing",
        _ if PNG.starts_with(head) => "the first bytes of a PNG alone",
        _ if is(b"BM") => "a BMP picture, which is not supported",
        _ if is(b"II*\0") || is(b"MM\0*") => "a TIFF picture, which is not supported",
        _ if is(b"%PDF") => "a PDF document",
        _ if is(b"PK\x03\x04") => "a ZIP archive",
        _ if is(b"\x1F\x8B") => "gzip-compressed bytes",
        _ if head.get(4..8) == Some(b"ftyp") => "a video or a HEIC picture, which is not supported",
        _ if is(b"\x1A\x45\xDF\xA3") => "a video",
        Some(b'{' | b'[') => "JSON",
        Some(b'<') if memmem::find(&lower, b"<html").is_some() || lower.starts_with(b"<!doc") => {
            "an HTML page"
        }
        Some(b'<') => "an XML document",
        _ if text.iter().take(512).all(|b| matches!(b, 9 | 10 | 13 | 32..=126)) => "plain text",
        _ => "bytes of an unknown kind",
    }
}

/// Whether a file of `total_len` bytes ends where its format says, without decoding it. `head`
/// and `tail` are its first and last bytes, as many as are at hand ([`TAIL`] is enough).
///
/// Bytes after the end are tolerated where they do no harm (PNG, JPEG, and padding of a GIF).
pub fn is_complete(format: Format, total_len: u64, head: &[u8], tail: &[u8]) -> bool {
    match format {
        Format::Png => memmem::rfind(tail, b"\0\0\0\0IEND\xAE\x42\x60\x82").is_some(),
        Format::Jpeg => memmem::rfind(tail, &[0xFF, 0xD9]).is_some(),
        Format::Webp => header::riff_len(head).is_some_and(|len| len <= total_len),
        Format::Gif => {
            let end = tail.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            // The trailer follows the terminator of the last block.
            tail[..end].ends_with(&[0, 0x3B])
        }
        Format::Avif => header::boxes_end(head).is_some_and(|len| len <= total_len),
        Format::Svg => {
            let end = tail.trim_ascii_end();
            memmem::rfind(end, b"</svg").is_some() || end.ends_with(b"/>") || end.ends_with(b"-->")
        }
    }
}

#[cfg(test)]
mod tests;
