//! Masks: what of a picture is to be edited, however a caller marks it and a vendor wants it.

use bytes::Bytes;
use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use providers::{
    catalog::{MaskArea, MaskRule},
    media::Size,
};

use super::{
    convert::{self, ConvertError, Pixels},
    plan::Geometry,
    sniff::{DecodeLimits, Sniffed},
};

/// What is edited, pixel by pixel: 255 is edited, 0 is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    size: Size,
    edited: Vec<u8>,
}

/// Why a mask is of no use.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ConvertError),
    /// Everything is kept.
    #[error("the mask marks nothing to edit: {0}")]
    Empty(&'static str),
}

impl Mask {
    /// Reads a mask that marks what is edited in this way.
    pub fn read(
        file: &[u8],
        sniffed: &Sniffed,
        marks: MaskArea,
        limits: &DecodeLimits,
    ) -> Result<Self, MaskError> {
        let (pixels, _) = convert::decode(file, sniffed, limits)?;
        let channels = if pixels.alpha { 4 } else { 3 };
        let edited: Vec<u8> = match marks {
            MaskArea::Transparent if !pixels.alpha => {
                return Err(MaskError::Empty(
                    "it is opaque; make transparent what is to be edited",
                ));
            }
            MaskArea::Transparent => pixels.data.chunks_exact(4).map(|p| 255 - p[3]).collect(),
            MaskArea::White => pixels.data.chunks_exact(channels).map(luma).collect(),
            MaskArea::Black => pixels.data.chunks_exact(channels).map(|p| 255 - luma(p)).collect(),
        };
        if edited.iter().all(|edit| *edit == 0) {
            return Err(MaskError::Empty("no pixel of it is marked"));
        }
        Ok(Self { size: pixels.size, edited })
    }

    /// Its size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The mask in the shape a picture of its size gets.
    pub fn shaped(&self, geometry: Option<&Geometry>) -> Result<Self, ConvertError> {
        let Some(geometry) = geometry else { return Ok(self.clone()) };
        let grey = Pixels {
            size: self.size,
            data: self.edited.iter().flat_map(|edit| [*edit; 3]).collect(),
            alpha: false,
        };
        // What is added around the picture is not the caller's: it is edited.
        let shaped = convert::reshape(grey, geometry, [255; 3])?;
        let edited = shaped.data.chunks_exact(3).map(|p| p[0]).collect();
        Ok(Self { size: shaped.size, edited })
    }

    /// The mask in another size.
    pub fn resized(&self, to: Size) -> Result<Self, ConvertError> {
        if to == self.size {
            return Ok(self.clone());
        }
        let misfit = |_| ConvertError::Misfit(self.size);
        let (from, kind) = (self.size, PixelType::U8);
        let source = ImageRef::new(from.width, from.height, &self.edited, kind).map_err(misfit)?;
        let mut target = Image::new(to.width, to.height, kind);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        let resized = Resizer::new().resize(&source, &mut target, &options);
        resized.map_err(|_| ConvertError::Misfit(self.size))?;
        Ok(Self { size: to, edited: target.into_vec() })
    }

    /// The file a vendor wants.
    pub fn encode(&self, rule: MaskRule) -> Result<Bytes, ConvertError> {
        let edited = self.edited.iter().map(|edit| match (rule.binary, *edit) {
            (true, edit) if edit >= 128 => 255,
            (true, _) => 0,
            (false, edit) => edit,
        });
        let (alpha, data) = match rule.edits {
            MaskArea::Transparent => {
                (true, edited.flat_map(|edit| [0, 0, 0, 255 - edit]).collect())
            }
            MaskArea::White => (false, edited.flat_map(|edit| [edit; 3]).collect()),
            MaskArea::Black => (false, edited.flat_map(|edit| [255 - edit; 3]).collect()),
        };
        convert::encode_whole(Pixels { size: self.size, data, alpha }, rule.format)
    }

    /// Lays what is edited over what was there. What is kept stays as it was, pixel for pixel;
    /// the edge is softened within what is edited. All have the same size.
    pub fn lay(&self, edited: &Pixels, over: &Pixels) -> Result<Pixels, ConvertError> {
        if edited.size != self.size || over.size != self.size {
            return Err(ConvertError::Misfit(edited.size));
        }
        let weights = self.softened();
        let alpha = edited.alpha || over.alpha;
        let (top, bottom) = (rgba(edited), rgba(over));
        let mut data = Vec::with_capacity(self.edited.len() * if alpha { 4 } else { 3 });
        for ((top, bottom), weight) in top.zip(bottom).zip(weights) {
            let weight = u32::from(weight);
            let mix = |top: u8, bottom: u8| {
                let sum = u32::from(top) * weight + u32::from(bottom) * (255 - weight);
                ((sum + 127) / 255) as u8
            };
            let mixed = [0, 1, 2, 3].map(|channel| mix(top[channel], bottom[channel]));
            data.extend_from_slice(if alpha { &mixed } else { &mixed[..3] });
        }
        Ok(Pixels { size: self.size, data, alpha })
    }

    /// The mask with soft edges that reach inwards only. What is marked counts for half at least,
    /// so that thin marks are not lost.
    fn softened(&self) -> Vec<u8> {
        let radius = (self.size.width.min(self.size.height) / 512).clamp(1, 3) as usize;
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let across = blurred(&self.edited, width, 1, height, width, radius);
        let both = blurred(&across, height, width, width, 1, radius);
        let soft = |(edit, blur): (&u8, u8)| (*edit).min(blur.max(128));
        self.edited.iter().zip(both).map(soft).collect()
    }
}

/// A box blur along one axis: `count` lines, `line` apart, of `length` pixels, `step` apart.
fn blurred(
    from: &[u8],
    length: usize,
    step: usize,
    count: usize,
    line: usize,
    radius: usize,
) -> Vec<u8> {
    let mut to = vec![0; from.len()];
    for start in (0..count).map(|n| n * line) {
        let at = |n: usize| u32::from(from[start + n.min(length - 1) * step]);
        // The picture goes on beyond its border as it ends.
        let first = |n: usize| if n < radius { at(0) } else { at(n - radius) };
        let mut sum: u32 =
            (0..radius).map(|_| at(0)).sum::<u32>() + (0..=radius).map(at).sum::<u32>();
        let window = 2 * radius as u32 + 1;
        for n in 0..length {
            to[start + n * step] = (sum / window) as u8;
            sum = sum + at(n + radius + 1) - first(n);
        }
    }
    to
}

fn luma(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    let alpha = pixel.get(3).map_or(255, |alpha| u32::from(*alpha));
    // Rec. 601; what is transparent is black.
    (((red * 299 + green * 587 + blue * 114) / 1000) * alpha / 255) as u8
}

fn rgba(pixels: &Pixels) -> impl Iterator<Item = [u8; 4]> + '_ {
    let channels = if pixels.alpha { 4 } else { 3 };
    pixels.data.chunks_exact(channels).map(|p| [p[0], p[1], p[2], p.get(3).copied().unwrap_or(255)])
}

#[cfg(test)]
mod tests {
    use providers::media::Format;

    use super::*;
    use crate::media::sniff::sniff;

    /// A mask of 40x20 whose left half is edited, marked in this way.
    fn drawn(marks: MaskArea) -> Vec<u8> {
        let pixels = image::RgbaImage::from_fn(40, 20, |x, _| {
            image::Rgba(match (marks, x < 20) {
                (MaskArea::Transparent, true) => [9, 9, 9, 0],
                (MaskArea::White, true) | (MaskArea::Black, false) => [255; 4],
                _ => [0, 0, 0, 255],
            })
        });
        let mut file = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
        file.into_inner()
    }

    fn read(file: &[u8], marks: MaskArea) -> Result<Mask, MaskError> {
        Mask::read(file, &sniff(file).unwrap(), marks, &DecodeLimits::default())
    }

    #[test]
    fn every_convention_becomes_every_other() {
        let all = [MaskArea::Transparent, MaskArea::White, MaskArea::Black];
        let wanted = read(&drawn(MaskArea::White), MaskArea::White).unwrap();
        assert_eq!(wanted.edited.iter().map(|edit| u64::from(*edit)).sum::<u64>(), 400 * 255);
        for from in all {
            let mask = read(&drawn(from), from).unwrap();
            assert_eq!(mask, wanted, "{from:?}");
            for edits in all {
                let rule = MaskRule { edits, binary: false, required: false, format: Format::Png };
                let sent = mask.encode(rule).unwrap();
                assert_eq!(read(&sent, edits).unwrap(), wanted, "{from:?} to {edits:?}");
                let left = image::load_from_memory(&sent).unwrap().to_rgba8().get_pixel(3, 3).0;
                let seen = match edits {
                    MaskArea::Transparent => left[3] == 0,
                    MaskArea::White => left == [255; 4],
                    MaskArea::Black => left == [0, 0, 0, 255],
                };
                assert!(seen, "{edits:?}: {left:?}");
            }
        }
    }

    #[test]
    fn greys_are_cut_where_the_vendor_knows_none() {
        let grey = Mask { size: Size::new(4, 1), edited: vec![0, 127, 128, 255] };
        let rule = |binary| MaskRule {
            edits: MaskArea::White,
            binary,
            required: false,
            format: Format::Png,
        };
        let sent = |binary| {
            let file = grey.encode(rule(binary)).unwrap();
            read(&file, MaskArea::White).unwrap().edited
        };
        assert_eq!(sent(true), [0, 0, 255, 255]);
        assert_eq!(sent(false), [0, 127, 128, 255]);
        let larger = grey.resized(Size::new(8, 2)).unwrap();
        assert_eq!((larger.size, larger.edited[0], larger.edited[7]), (Size::new(8, 2), 0, 255));
    }

    #[test]
    fn a_mask_that_marks_nothing_is_refused() {
        let opaque = drawn(MaskArea::White);
        assert!(matches!(read(&opaque, MaskArea::Transparent), Err(MaskError::Empty(_))));
        let mut black = std::io::Cursor::new(Vec::new());
        image::GrayImage::new(8, 8).write_to(&mut black, image::ImageFormat::Png).unwrap();
        assert!(matches!(read(&black.into_inner(), MaskArea::White), Err(MaskError::Empty(_))));
    }

    #[test]
    fn what_is_kept_stays_pixel_for_pixel() {
        let size = Size::new(300, 200);
        let solid = |rgb: [u8; 3]| Pixels { size, data: rgb.repeat(60_000), alpha: false };
        let noise = |n: usize| ((n * 2_654_435_761) >> 7) as u8;
        let over = Pixels { size, data: (0..180_000).map(noise).collect(), alpha: false };
        let inside = |n: usize| (50..250).contains(&(n % 300)) && (40..160).contains(&(n / 300));
        let edited = (0..60_000).map(|n| if inside(n) { 255 } else { 0 }).collect();
        let mask = Mask { size, edited };
        let laid = mask.lay(&solid([200, 10, 10]), &over).unwrap();
        let (mut kept, mut changed) = (0, 0);
        for n in 0..60_000 {
            let (got, was) = (&laid.data[3 * n..3 * n + 3], &over.data[3 * n..3 * n + 3]);
            if inside(n) {
                changed += usize::from(got == [200, 10, 10]);
            } else {
                assert_eq!(got, was, "pixel {n}");
                kept += 1;
            }
        }
        assert_eq!(kept, 60_000 - 200 * 120);
        assert!(changed > 196 * 116, "{changed}: the edge is narrow");
        // A line of one pixel is seen, too.
        let line = Mask {
            size,
            edited: (0..60_000).map(|n| if n / 300 == 100 { 255 } else { 0 }).collect(),
        };
        let black = solid([0, 0, 0]);
        let laid = line.lay(&solid([200, 10, 10]), &black).unwrap();
        assert!(laid.data[3 * (100 * 300 + 9)] >= 100);
        assert!(
            mask.lay(&solid([0; 3]), &Pixels { size: Size::new(1, 1), ..solid([0; 3]) }).is_err()
        );
    }
}
