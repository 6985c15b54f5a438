//! Draws the picture: a seeded landscape, the prompt, and a mark nobody can miss.
//!
//! The scene is painted small and enlarged, so that a picture of sixteen megapixels costs little
//! more than its encoding; the lettering and a film grain are put on at full size.

use std::sync::Arc;

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use font8x8::UnicodeFonts as _;
use providers::media::Size;

use super::{picture::Work, retouch::retouch, rng::Rng};

/// The longer side of the scene before it is enlarged.
const SKETCH: u32 = 256;
/// Side of a letter in its own dots.
const DOTS: u32 = 8;

/// What is to be seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scene {
    /// Pixels.
    pub size: Size,
    /// The text written on it.
    pub prompt: String,
    /// A line about its origin.
    pub caption: String,
    /// Decides colours and shapes.
    pub seed: u64,
    /// Leaves out the sky.
    pub transparent: bool,
    /// How a safety filter hides it.
    pub veil: Veil,
    /// The picture it is drawn from, and what is done with it.
    pub work: Option<Arc<Work>>,
}

/// How a safety filter hides a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Veil {
    /// Not at all.
    #[default]
    Clear,
    /// Nothing but black.
    Black,
    /// So blurred that nothing can be made out.
    Blurred,
}

/// Pixels in rows, three bytes each, or four with alpha.
#[derive(Debug)]
pub(crate) struct Canvas {
    /// Pixels across and down.
    pub size: Size,
    /// 3 or 4.
    pub channels: usize,
    /// The rows, without gaps.
    pub data: Vec<u8>,
}

type Colour = [u8; 3];

/// Paints the scene.
pub(crate) fn paint(scene: &Scene) -> Result<Canvas, String> {
    let channels = if scene.transparent { 4 } else { 3 };
    if scene.veil == Veil::Black {
        let data = vec![0; scene.size.pixels() as usize * 3];
        return Ok(Canvas { size: scene.size, channels: 3, data });
    }
    if let (Some(work), Veil::Clear) = (&scene.work, scene.veil) {
        return retouch(work, scene);
    }
    let sketch_side = if scene.veil == Veil::Blurred { 6 } else { SKETCH };
    let long = scene.size.width.max(scene.size.height);
    let shrink = |side: u32| {
        let small = u64::from(side) * u64::from(sketch_side.min(long)) / u64::from(long);
        (small as u32).max(2)
    };
    let small = Size::new(shrink(scene.size.width), shrink(scene.size.height));
    let mut canvas = enlarge(sketch(scene, small, channels), scene.size)?;
    let mut rng = Rng::new(scene.seed ^ 0x9e37);
    grain(&mut canvas, &mut rng);
    if scene.veil == Veil::Clear {
        letter(&mut canvas, scene);
    }
    Ok(canvas)
}

fn mix(a: Colour, b: Colour, part: f32) -> Colour {
    let part = part.clamp(0.0, 1.0);
    std::array::from_fn(|i| (f32::from(a[i]) * (1.0 - part) + f32::from(b[i]) * part) as u8)
}

/// A colour by hue (0 to 1), saturation and lightness.
fn hsl(hue: f32, saturation: f32, lightness: f32) -> Colour {
    let a = saturation * lightness.min(1.0 - lightness);
    [0.0, 8.0, 4.0].map(|n: f32| {
        let k = (n + hue.rem_euclid(1.0) * 12.0) % 12.0;
        let value = lightness - a * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (value * 255.0) as u8
    })
}

/// One line of hills: height over the picture's width as a sum of two waves.
struct Ridge {
    base: f32,
    waves: [(f32, f32, f32); 3],
    colour: Colour,
}

impl Ridge {
    fn top(&self, x: f32) -> f32 {
        self.waves.iter().fold(self.base, |y, (amplitude, frequency, phase)| {
            y + amplitude * (x * frequency + phase).sin()
        })
    }
}

fn sketch(scene: &Scene, size: Size, channels: usize) -> Canvas {
    let mut rng = Rng::new(scene.seed);
    let hue = rng.unit();
    let turn = 0.08 + rng.unit() * 0.25;
    let (zenith, horizon) = (hsl(hue, 0.62, 0.30), hsl(hue + turn, 0.85, 0.72));
    let sun = (0.2 + rng.unit() * 0.6, 0.22 + rng.unit() * 0.25, 0.07 + rng.unit() * 0.07);
    let sun_colour = hsl(hue + turn + 0.06, 0.95, 0.88);
    let ridges: Vec<Ridge> = (0..5_u8)
        .map(|i| {
            let depth = f32::from(i) / 4.0;
            let wave = |rng: &mut Rng, amplitude: f32, frequency: f32| {
                let amplitude = amplitude * (0.5 + rng.unit());
                (amplitude, frequency * (0.7 + rng.unit() * 0.6), rng.unit() * 6.3)
            };
            Ridge {
                base: 0.50 + depth * 0.34,
                waves: [
                    wave(&mut rng, 0.055, 3.0),
                    wave(&mut rng, 0.025, 8.0),
                    wave(&mut rng, 0.008, 23.0),
                ],
                colour: mix(hsl(hue + turn, 0.55, 0.58), hsl(hue + 0.45, 0.60, 0.14), depth),
            }
        })
        .collect();
    let (width, height) = (size.width as f32, size.height as f32);
    let aspect = width / height;
    // Each ridge's top over every column, once: sines are the dear part.
    let tops: Vec<Vec<f32>> = ridges
        .iter()
        .map(|ridge| {
            (0..size.width)
                .map(|column| ridge.top((column as f32 + 0.5) / width * aspect.max(1.0)))
                .collect()
        })
        .collect();
    let mut data = Vec::with_capacity(size.pixels() as usize * channels);
    for row in 0..size.height {
        let y = (row as f32 + 0.5) / height;
        let sky = mix(zenith, horizon, y * 1.7);
        for column in 0..size.width {
            let x = (column as f32 + 0.5) / width;
            let distance = ((x - sun.0) * aspect).hypot(y - sun.1) / aspect.min(1.0);
            let glow = (1.0 - distance / (sun.2 * 5.0)).max(0.0);
            // Edges are spread over one dot of the sketch, so that they enlarge smoothly.
            let disc = ((sun.2 - distance) * height + 0.5).clamp(0.0, 1.0);
            let mut colour = mix(sky, sun_colour, (glow * glow * 0.75).max(disc));
            let mut solid = disc;
            // From the back to the front; haze lies at the foot of each.
            for (ridge, tops) in ridges.iter().zip(&tops) {
                let below = y - tops[column as usize];
                let cover = (below * height + 0.5).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let hazy = mix(ridge.colour, horizon, (0.30 - below * 3.0).clamp(0.0, 0.30));
                    colour = mix(colour, hazy, cover);
                    solid = solid.max(cover);
                }
            }
            data.extend_from_slice(&colour);
            if channels == 4 {
                data.push((solid * 255.0) as u8);
            }
        }
    }
    if !scene.transparent {
        stars(&mut data, size, &mut rng);
    }
    Canvas { size, channels, data }
}

/// Small lights in the upper third.
fn stars(data: &mut [u8], size: Size, rng: &mut Rng) {
    for _ in 0..40 {
        let x = (rng.unit() * size.width as f32) as usize;
        let y = (rng.unit() * size.height as f32 * 0.3) as usize;
        let start = (y * size.width as usize + x) * 3;
        if let Some(pixel) = data.get_mut(start..start + 3) {
            for value in pixel {
                *value = *value / 2 + 127;
            }
        }
    }
}

pub(super) fn enlarge(canvas: Canvas, size: Size) -> Result<Canvas, String> {
    if canvas.size == size {
        return Ok(canvas);
    }
    let kind = if canvas.channels == 4 { PixelType::U8x4 } else { PixelType::U8x3 };
    let from = Image::from_vec_u8(canvas.size.width, canvas.size.height, canvas.data, kind)
        .map_err(|e| e.to_string())?;
    let mut to = Image::new(size.width, size.height, kind);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize(&from, &mut to, &options).map_err(|e| e.to_string())?;
    Ok(Canvas { size, channels: canvas.channels, data: to.into_vec() })
}

/// Film grain: without it a picture would weigh a tenth of what a vendor's does. Chance takes
/// the two lowest bits of every colour, eight bytes at a time; alpha, every fourth byte where
/// there is one, is left alone.
fn grain(canvas: &mut Canvas, rng: &mut Rng) {
    let bits: u64 =
        if canvas.channels == 4 { 0x0003_0303_0003_0303 } else { 0x0303_0303_0303_0303 };
    let (whole, _rest) = canvas.data.as_chunks_mut::<8>();
    for bytes in whole {
        let grained = u64::from_le_bytes(*bytes) & !bits | rng.draw() & bits;
        *bytes = grained.to_le_bytes();
    }
}

/// Where lettering goes, in pixels.
struct Pen {
    x: u32,
    y: u32,
    scale: u32,
}

/// The mark across the top, the prompt and the caption on a panel at the bottom.
pub(super) fn letter(canvas: &mut Canvas, scene: &Scene) {
    let Size { width, height } = canvas.size;
    // The mark takes two thirds of the width.
    let mark = "SIMULATED";
    let mark_scale = (width * 2 / 3 / (mark.len() as u32 * DOTS)).clamp(1, (height / 24).max(1));
    let mark_width = mark.len() as u32 * DOTS * mark_scale;
    let top = height / 20;
    let band = (top, top + mark_scale * (DOTS + 4));
    shade(canvas, 0, band.0, width, band.1, 0.45);
    let x = width.saturating_sub(mark_width) / 2;
    write(canvas, mark, &Pen { x, y: top + mark_scale * 2, scale: mark_scale }, [255, 214, 64]);

    let scale = ((width + height) / 1000).max(1);
    let margin = scale * 6;
    let columns = (width.saturating_sub(margin * 4) / (DOTS * scale)).max(4) as usize;
    let room = (height / 3 / (scale * 11)).max(1) as usize;
    let mut lines = wrap(&scene.prompt, columns, room);
    lines.push(scene.caption.chars().take(columns).collect());
    let line = scale * 11;
    let tall = line * lines.len() as u32 + margin * 2;
    let y = height.saturating_sub(tall + margin);
    shade(canvas, margin, y, width.saturating_sub(margin), height.saturating_sub(margin), 0.6);
    let last = lines.len() - 1;
    for (i, text) in lines.iter().enumerate() {
        let pen = Pen { x: margin * 2, y: y + margin + line * i as u32, scale };
        write(canvas, text, &pen, if i == last { [170, 200, 220] } else { [255; 3] });
    }
}

/// Breaks a text into lines; what does not fit ends in dots.
fn wrap(text: &str, columns: usize, rows: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = word.chars().collect();
        while !letters.is_empty() {
            let line = lines.last().map_or(0, |l| l.chars().count());
            let gap = usize::from(line > 0);
            let whole = letters.len().min(columns);
            if line + gap + whole > columns {
                lines.push(String::new());
                continue;
            }
            if let Some(line) = lines.last_mut() {
                line.extend(std::iter::repeat_n(' ', gap));
                line.extend(letters.drain(..whole));
            }
        }
    }
    if lines.len() > rows {
        lines.truncate(rows);
        if let Some(line) = lines.last_mut() {
            let kept: String = line.chars().take(columns.saturating_sub(3)).collect();
            *line = kept + "...";
        }
    }
    lines
}

fn shade(canvas: &mut Canvas, left: u32, top: u32, right: u32, bottom: u32, by: f32) {
    let keep = ((1.0 - by) * 256.0) as u16;
    fill(canvas, (left, top), (right, bottom), |pixel| {
        pixel[..3].iter_mut().for_each(|v| *v = (u16::from(*v) * keep / 256) as u8);
        if let Some(alpha) = pixel.get_mut(3) {
            *alpha = (*alpha).max(200);
        }
    });
}

/// Applies a change to each pixel of a rectangle, as far as it lies inside.
fn fill(canvas: &mut Canvas, from: (u32, u32), to: (u32, u32), mut change: impl FnMut(&mut [u8])) {
    let Size { width, height } = canvas.size;
    let channels = canvas.channels;
    let (left, right) = (from.0.min(width) as usize, to.0.min(width) as usize);
    for y in from.1.min(height)..to.1.min(height) {
        let row = y as usize * width as usize;
        let (start, end) = ((row + left) * channels, (row + right) * channels);
        if let Some(line) = canvas.data.get_mut(start..end) {
            line.chunks_exact_mut(channels).for_each(&mut change);
        }
    }
}

fn glyph(letter: char) -> [u8; 8] {
    font8x8::BASIC_FONTS
        .get(letter)
        .or_else(|| font8x8::LATIN_FONTS.get(letter))
        .or_else(|| font8x8::GREEK_FONTS.get(letter))
        .or_else(|| font8x8::HIRAGANA_FONTS.get(letter))
        .or_else(|| font8x8::MISC_FONTS.get(letter))
        .unwrap_or([0x7e, 0x42, 0x42, 0x42, 0x42, 0x42, 0x7e, 0])
}

fn write(canvas: &mut Canvas, text: &str, pen: &Pen, colour: Colour) {
    for (i, letter) in text.chars().enumerate() {
        let left = pen.x + i as u32 * DOTS * pen.scale;
        for (dots, row) in glyph(letter).into_iter().zip(0_u32..) {
            for column in (0..DOTS).filter(|c| dots & (1 << c) != 0) {
                let (x, y) = (left + column * pen.scale, pen.y + row * pen.scale);
                fill(canvas, (x, y), (x + pen.scale, y + pen.scale), |pixel| {
                    pixel[..3].copy_from_slice(&colour);
                    if let Some(alpha) = pixel.get_mut(3) {
                        *alpha = 255;
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(width: u32, height: u32) -> Scene {
        Scene {
            size: Size::new(width, height),
            prompt: "a lighthouse".to_owned(),
            caption: "fal".to_owned(),
            seed: 7,
            transparent: false,
            veil: Veil::Clear,
            work: None,
        }
    }

    #[test]
    fn every_size_and_veil_fills_its_canvas() {
        for (width, height) in [(1, 1), (64, 64), (1024, 768), (192, 1536), (1536, 192), (33, 17)] {
            for transparent in [false, true] {
                for veil in [Veil::Clear, Veil::Black, Veil::Blurred] {
                    let scene = Scene { transparent, veil, ..scene(width, height) };
                    let canvas = paint(&scene).unwrap();
                    assert_eq!(canvas.size, scene.size);
                    assert_eq!(
                        canvas.data.len(),
                        width as usize * height as usize * canvas.channels
                    );
                }
            }
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let first = paint(&scene(128, 128)).unwrap().data;
        assert_eq!(first, paint(&scene(128, 128)).unwrap().data);
        let other = Scene { seed: 8, ..scene(128, 128) };
        assert_ne!(first, paint(&other).unwrap().data);
        let said = Scene { prompt: "a lighthouse keeper".to_owned(), ..scene(128, 128) };
        assert_ne!(first, paint(&said).unwrap().data, "the prompt is on the picture");
    }

    #[test]
    fn a_transparent_picture_has_holes_and_solid_parts() {
        let canvas = paint(&Scene { transparent: true, ..scene(256, 256) }).unwrap();
        let alphas: Vec<u8> = canvas.data.chunks(4).map(|p| p[3]).collect();
        assert!(alphas.contains(&0) && alphas.contains(&255));
    }

    #[test]
    fn lines_are_broken_at_words_and_cut_at_the_end() {
        let check = |text: &str, columns, rows, lines: &[&str]| {
            assert_eq!(wrap(text, columns, rows), lines);
        };
        check("a red fox runs", 8, 9, &["a red", "fox runs"]);
        check("incomprehensible", 8, 9, &["incompre", "hensible"]);
        check("one two three four", 5, 2, &["one", "tw..."]);
        check("", 8, 9, &[""]);
    }
}
