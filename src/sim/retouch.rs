//! Draws from a picture: the picture itself with the mark on it, and whatever the task changes.

use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use providers::media::Size;

use super::{
    draw::{Canvas, Scene, enlarge, letter, paint},
    picture::{Does, Work, decode},
};

/// The picture, done with as its task wants.
pub(crate) fn retouch(work: &Work, scene: &Scene) -> Result<Canvas, String> {
    let pixels = decode(&work.picture.bytes).map_err(|e| e.to_string())?;
    let size = Size::new(pixels.width(), pixels.height());
    let canvas = if pixels.color().has_alpha() || work.does == Does::Cut {
        Canvas { size, channels: 4, data: pixels.into_rgba8().into_raw() }
    } else {
        Canvas { size, channels: 3, data: pixels.into_rgb8().into_raw() }
    };
    let mut canvas = enlarge(canvas, scene.size)?;
    if let Some((size, amounts)) = work.edited()? {
        // Only there: the mark, too, keeps to the mask.
        let painted = paint(&Scene { work: None, transparent: false, ..scene.clone() })?;
        blend(&mut canvas, &painted, &scaled(size, amounts, scene.size)?);
        return Ok(canvas);
    }
    if work.does == Does::Vary {
        tint(&mut canvas, scene.seed);
    }
    letter(&mut canvas, scene);
    if work.does == Does::Cut {
        cut(&mut canvas);
    }
    Ok(canvas)
}

/// The mask in the size of the answer; its edges stay hard.
fn scaled(from: Size, amounts: Vec<u8>, to: Size) -> Result<Vec<u8>, String> {
    if from == to {
        return Ok(amounts);
    }
    let mask = Image::from_vec_u8(from.width, from.height, amounts, PixelType::U8)
        .map_err(|e| e.to_string())?;
    let mut out = Image::new(to.width, to.height, PixelType::U8);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Nearest);
    Resizer::new().resize(&mask, &mut out, &options).map_err(|e| e.to_string())?;
    Ok(out.into_vec())
}

/// Puts the painted pixels where the mask says, as far as it does.
fn blend(canvas: &mut Canvas, painted: &Canvas, amounts: &[u8]) {
    let ours = canvas.data.chunks_exact_mut(canvas.channels);
    let theirs = painted.data.chunks_exact(painted.channels);
    for ((ours, theirs), amount) in ours.zip(theirs).zip(amounts) {
        let part = u16::from(*amount);
        for (value, new) in ours.iter_mut().zip(&theirs[..3]) {
            *value = ((u16::from(*value) * (255 - part) + u16::from(*new) * part) / 255) as u8;
        }
        if let Some(alpha) = ours.get_mut(3) {
            *alpha = (*alpha).max(*amount);
        }
    }
}

/// A variation is the picture in another light.
fn tint(canvas: &mut Canvas, seed: u64) {
    let strong = (seed % 3) as usize;
    for pixel in canvas.data.chunks_exact_mut(canvas.channels) {
        for (index, value) in pixel[..3].iter_mut().enumerate() {
            *value = if index == strong { *value / 2 + 127 } else { *value / 4 * 3 };
        }
    }
}

/// The border is the background.
fn cut(canvas: &mut Canvas) {
    let Size { width, height } = canvas.size;
    let border = (width.min(height) / 32).max(1);
    let inner = |at: u32, side: u32| at >= border && at + border < side;
    for (y, row) in (0..height).zip(canvas.data.chunks_exact_mut(width as usize * 4)) {
        for (x, pixel) in (0..width).zip(row.chunks_exact_mut(4)) {
            if !(inner(x, width) && inner(y, height)) {
                pixel.copy_from_slice(&[0; 4]);
            }
        }
    }
}
