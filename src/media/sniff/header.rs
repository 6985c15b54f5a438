//! The headers of the pixel formats.
//!
//! Sources: PNG third edition (W3C), ITU-T T.81 annex B, RFC 9649 (WebP), GIF89a, ISO/IEC
//! 14496-12 and 23008-12 with the AVIF specification of AOMedia, C2PA 2.1 appendix A.

use image::metadata::Orientation;
use memchr::memmem;
use providers::media::Format;

use super::{Header, SniffError};

/// What is wrong with a header, before it is known for whom the error is.
#[derive(Debug)]
pub(super) enum Fault {
    CutOff,
    Damaged(&'static str),
}

impl Fault {
    pub(super) fn of(self, format: Format, seen: usize) -> SniffError {
        match self {
            Self::CutOff => SniffError::Incomplete(format, seen),
            Self::Damaged(what) => SniffError::Damaged(format, what),
        }
    }
}

type Parsed = Result<Header, Fault>;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|b| u32::from(u16::from_be_bytes(b)))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn le16(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|b| u32::from(u16::from_le_bytes(b)))
}

fn le24(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
}

/// The orientation in an EXIF block, with or without its JPEG prefix.
fn orientation(exif: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

pub(super) fn png(head: &[u8]) -> Parsed {
    if head.get(12..16).ok_or(Fault::CutOff)? != b"IHDR" {
        return Err(Fault::Damaged("it does not begin with IHDR"));
    }
    let width = be32(head, 16).ok_or(Fault::CutOff)?;
    let height = be32(head, 20).ok_or(Fault::CutOff)?;
    let [depth, color] = array(head, 24).ok_or(Fault::CutOff)?;
    let mut header = Header { width, height, ..Header::default() };
    let channels = match color {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        6 => 4,
        _ => return Err(Fault::Damaged("its colour type is unknown")),
    };
    header.has_alpha = color & 4 != 0;
    let mut at = 33;
    while let (Some(len), Some(name)) = (be32(head, at), array::<4>(head, at + 4)) {
        let body = at + 8;
        match &name {
            b"tRNS" => header.has_alpha = true,
            b"acTL" => header.animated = be32(head, body).is_some_and(|frames| frames > 1),
            b"caBX" => header.c2pa = true,
            b"eXIf" => {
                let chunk = head.get(body..body.saturating_add(len as usize));
                header.exif = chunk.and_then(orientation);
            }
            _ => {}
        }
        at = body.saturating_add(len as usize).saturating_add(4);
    }
    let channels = if header.has_alpha && color & 4 == 0 { channels + 1 } else { channels };
    header.pixel_bytes = channels * if depth == 16 { 2 } else { 1 };
    Ok(header)
}

pub(super) fn jpeg(head: &[u8]) -> Parsed {
    let mut header = Header { pixel_bytes: 3, ..Header::default() };
    let mut at = 2;
    loop {
        let marker = *head.get(at + 1).ok_or(Fault::CutOff)?;
        if head[at] != 0xFF {
            return Err(Fault::Damaged("a marker is missing"));
        }
        match marker {
            // Fill bytes before a marker.
            0xFF => {
                at += 1;
                continue;
            }
            0x01 | 0xD0..=0xD7 => {
                at += 2;
                continue;
            }
            0xD9 | 0xDA => return Err(Fault::Damaged("the scan comes before the frame")),
            _ => {}
        }
        let len = be16(head, at + 2).ok_or(Fault::CutOff)? as usize;
        if len < 2 {
            return Err(Fault::Damaged("a segment is shorter than its length field"));
        }
        let body = head.get(at + 4..(at + 2 + len).min(head.len())).unwrap_or_default();
        match marker {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                header.height = be16(body, 1).ok_or(Fault::CutOff)?;
                header.width = be16(body, 3).ok_or(Fault::CutOff)?;
                return Ok(header);
            }
            0xE1 if body.starts_with(b"Exif\0\0") => header.exif = orientation(body),
            // JUMBF superboxes in APP11 hold the manifest store.
            0xEB if memmem::find(body, b"jumb").is_some() => {
                header.c2pa |= memmem::find(body, b"c2pa").is_some();
            }
            _ => {}
        }
        at += 2 + len;
    }
}

/// The length of a RIFF file by its own account.
pub(super) fn riff_len(head: &[u8]) -> Option<u64> {
    le32(head, 4).map(|len| u64::from(len) + 8)
}

pub(super) fn webp(head: &[u8]) -> Parsed {
    let mut header = Header::default();
    let name: [u8; 4] = array(head, 12).ok_or(Fault::CutOff)?;
    match &name {
        b"VP8 " => {
            if array(head, 23).ok_or(Fault::CutOff)? != [0x9D, 0x01, 0x2A] {
                return Err(Fault::Damaged("it does not begin with a key frame"));
            }
            header.width = le16(head, 26).ok_or(Fault::CutOff)? & 0x3FFF;
            header.height = le16(head, 28).ok_or(Fault::CutOff)? & 0x3FFF;
        }
        b"VP8L" => {
            let bits = le32(head, 21).ok_or(Fault::CutOff)?;
            header.width = (bits & 0x3FFF) + 1;
            header.height = (bits >> 14 & 0x3FFF) + 1;
            header.has_alpha = bits >> 28 & 1 == 1;
        }
        b"VP8X" => {
            let flags = *head.get(20).ok_or(Fault::CutOff)?;
            header.has_alpha = flags & 0x10 != 0;
            header.animated = flags & 0x02 != 0;
            header.width = le24(head, 24).ok_or(Fault::CutOff)? + 1;
            header.height = le24(head, 27).ok_or(Fault::CutOff)? + 1;
        }
        _ => return Err(Fault::Damaged("its first chunk is unknown")),
    }
    header.pixel_bytes = if header.has_alpha { 4 } else { 3 };
    let mut at = 12;
    while let (Some(name), Some(len)) = (array::<4>(head, at), le32(head, at + 4)) {
        let body = at + 8;
        let end = body.saturating_add(len as usize);
        match &name {
            b"C2PA" => header.c2pa = true,
            b"EXIF" => header.exif = head.get(body..end).and_then(orientation),
            _ => {}
        }
        at = end.saturating_add(len as usize & 1);
    }
    Ok(header)
}

pub(super) fn gif(head: &[u8]) -> Parsed {
    let width = le16(head, 6).ok_or(Fault::CutOff)?;
    let height = le16(head, 8).ok_or(Fault::CutOff)?;
    let mut header = Header { width, height, pixel_bytes: 4, ..Header::default() };
    let colors = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + colors(*head.get(10).ok_or(Fault::CutOff)?);
    let mut frames = 0;
    while let Some(block) = head.get(at) {
        match block {
            0x21 => {
                // A graphic control extension says whether one colour is transparent.
                let control = head.get(at + 1) == Some(&0xF9);
                if control && head.get(at + 3).is_some_and(|flags| flags & 1 == 1) {
                    header.has_alpha = true;
                }
                at += 2;
            }
            0x2C => {
                frames += 1;
                // A frame that leaves part of the canvas bare.
                let side = |offset| le16(head, at + offset);
                header.has_alpha |= frames == 1
                    && (side(5).is_some_and(|w| w < width) || side(7).is_some_and(|h| h < height));
                at += 11 + head.get(at + 9).map_or(0, |flags| colors(*flags));
            }
            _ => break,
        }
        while let Some(len) = head.get(at).filter(|len| **len != 0) {
            at += 1 + usize::from(*len);
        }
        at += 1;
    }
    header.animated = frames > 1;
    Ok(header)
}

/// A box: its type, its body as far as it was seen, and where it ends by its own account.
/// An end of `None` is the end of the file.
struct Bmff<'b> {
    name: [u8; 4],
    body: &'b [u8],
    end: Option<u64>,
}

fn bmff(bytes: &[u8], at: usize) -> Option<Bmff<'_>> {
    let name = array(bytes, at + 4)?;
    let (len, header) = match be32(bytes, at)? {
        0 => (None, 8),
        1 => (Some(u64::from_be_bytes(array(bytes, at + 8)?)), 16),
        len => (Some(u64::from(len)), 8),
    };
    if len.is_some_and(|len| len < header) {
        return None;
    }
    let end = len.map(|len| (at as u64).saturating_add(len));
    let seen = end.map_or(bytes.len(), |end| end.min(bytes.len() as u64) as usize);
    Some(Bmff { name, body: bytes.get(at + header as usize..seen)?, end })
}

/// The boxes that begin among the bytes seen.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = Bmff<'_>> {
    let mut at = Some(0);
    std::iter::from_fn(move || {
        let found = bmff(bytes, at?)?;
        at = found.end.and_then(|end| usize::try_from(end).ok());
        Some(found)
    })
}

/// Where the last box that begins among the bytes seen must end.
pub(super) fn boxes_end(head: &[u8]) -> Option<u64> {
    boxes(head).map(|b| b.end.unwrap_or(0)).last()
}

/// Whether an `ftyp` box names a brand.
pub(super) fn brand(head: &[u8], brand: &[u8]) -> bool {
    bmff(head, 0).is_some_and(|ftyp| {
        ftyp.body.chunks_exact(4).enumerate().any(|(i, name)| i != 1 && name == brand)
    })
}

/// The extended type of a box that holds a C2PA manifest.
pub(super) const C2PA_UUID: [u8; 16] = [
    0xD8, 0xFE, 0xC3, 0xD6, 0x1B, 0x0E, 0x48, 0x3C, 0x92, 0x97, 0x58, 0x28, 0x87, 0x7E, 0xC4, 0x81,
];

pub(super) fn avif(head: &[u8]) -> Parsed {
    let mut header = Header { animated: brand(head, b"avis"), ..Header::default() };
    let mut deep = false;
    for found in boxes(head) {
        match &found.name {
            b"uuid" => header.c2pa |= found.body.starts_with(&C2PA_UUID),
            b"meta" => {
                let children = found.body.get(4..).ok_or(Fault::CutOff)?;
                let properties = boxes(children)
                    .find(|b| &b.name == b"iprp")
                    .and_then(|iprp| boxes(iprp.body).find(|b| &b.name == b"ipco"))
                    .ok_or(Fault::CutOff)?;
                for property in boxes(properties.body) {
                    avif_property(&property, &mut header, &mut deep);
                }
            }
            _ => {}
        }
    }
    if header.width == 0 {
        return Err(Fault::CutOff);
    }
    header.pixel_bytes = if header.has_alpha { 4 } else { 3 } * if deep { 2 } else { 1 };
    Ok(header)
}

fn avif_property(property: &Bmff<'_>, header: &mut Header, deep: &mut bool) {
    let body = property.body;
    match &property.name {
        // Of several, the largest: a grid is larger than its tiles, a thumbnail is smaller.
        b"ispe" => {
            if let (Some(width), Some(height)) = (be32(body, 4), be32(body, 8))
                && u64::from(width) * u64::from(height)
                    > u64::from(header.width) * u64::from(header.height)
            {
                (header.width, header.height) = (width, height);
            }
        }
        b"auxC" => header.has_alpha |= memmem::find(body, b"auxiliary:alpha").is_some(),
        b"av1C" => *deep |= body.get(2).is_some_and(|flags| flags & 0x40 != 0),
        // Quarter turns, anticlockwise.
        b"irot" => {
            header.exif = match body.first().map(|turns| turns & 3) {
                Some(1) => Some(Orientation::Rotate270),
                Some(2) => Some(Orientation::Rotate180),
                Some(3) => Some(Orientation::Rotate90),
                _ => None,
            };
        }
        _ => {}
    }
}
