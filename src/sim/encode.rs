//! Turns a painted scene into the bytes of a file.

use std::{borrow::Cow, fmt::Write as _, io::Write as _, sync::OnceLock};

use bytes::Bytes;
use providers::media::Format;

use super::draw::{Canvas, Scene, paint};

/// A picture that can be made again at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Recipe {
    /// What is on it.
    pub scene: Scene,
    /// The file's format.
    pub format: Format,
    /// 0 to 100, for the lossy formats.
    pub quality: u8,
    /// What is wrong with the file.
    pub harm: Harm,
}

/// What is wrong with a picture's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Harm {
    /// Nothing.
    #[default]
    None,
    /// Its end is missing.
    Cut,
    /// A few kilobytes that unpack to 400 million pixels.
    Bomb,
}

impl Recipe {
    /// The media type of the bytes it makes.
    pub(crate) fn mime(&self) -> &'static str {
        match self.harm {
            Harm::Bomb => Format::Png.mime(),
            _ => self.format.mime(),
        }
    }

    /// Makes the file.
    pub(crate) fn make(&self) -> Result<Bytes, String> {
        if self.harm == Harm::Bomb {
            return bomb();
        }
        let mut bytes = if self.format == Format::Svg {
            svg(&self.scene).into_bytes()
        } else {
            encode(&paint(&self.scene)?, self.format, self.quality)?
        };
        if self.harm == Harm::Cut {
            bytes.truncate(bytes.len() * 3 / 5);
        }
        Ok(bytes.into())
    }
}

fn encode(canvas: &Canvas, format: Format, quality: u8) -> Result<Vec<u8>, String> {
    let (width, height) = (canvas.size.width, canvas.size.height);
    let alpha = canvas.channels == 4;
    match format {
        Format::Png => {
            let mut out = Vec::new();
            let mut encoder = png::Encoder::new(&mut out, width, height);
            encoder.set_color(if alpha { png::ColorType::Rgba } else { png::ColorType::Rgb });
            encoder.set_depth(png::BitDepth::Eight);
            encoder.set_compression(png::Compression::Fast);
            let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
            writer.write_image_data(&canvas.data).map_err(|e| e.to_string())?;
            writer.finish().map_err(|e| e.to_string())?;
            Ok(out)
        }
        Format::Jpeg => {
            let side = |side: u32| u16::try_from(side).map_err(|_| "too wide for jpeg".to_owned());
            let mut out = Vec::new();
            let pixels =
                if alpha { Cow::from(without_alpha(canvas)) } else { Cow::from(&canvas.data) };
            jpeg_encoder::Encoder::new(&mut out, quality.max(1))
                .encode(&pixels, side(width)?, side(height)?, jpeg_encoder::ColorType::Rgb)
                .map_err(|e| e.to_string())?;
            Ok(out)
        }
        Format::Webp => {
            let encoder = if alpha {
                webp::Encoder::from_rgba(&canvas.data, width, height)
            } else {
                webp::Encoder::from_rgb(&canvas.data, width, height)
            };
            let bytes = encoder
                .encode_simple(false, f32::from(quality))
                .map_err(|e| format!("webp: {e:?}"))?;
            Ok(bytes.to_vec())
        }
        other => Err(format!("no vendor of the simulator makes {other}")),
    }
}

fn without_alpha(canvas: &Canvas) -> Vec<u8> {
    canvas.data.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}

/// The scene as shapes, for models that draw vectors.
fn svg(scene: &Scene) -> String {
    let (width, height) = (scene.size.width, scene.size.height);
    let hue = scene.seed % 360;
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let mut out = String::new();
    let _infallible = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"><rect width="100%" height="100%" fill="hsl({hue},60%,75%)"/><circle cx="70%" cy="30%" r="12%" fill="hsl({},90%,85%)"/><ellipse cx="40%" cy="100%" rx="90%" ry="40%" fill="hsl({},50%,35%)"/><text x="50%" y="12%" font-size="{}" text-anchor="middle" fill="gold">SIMULATED</text><text x="4%" y="94%" font-size="{}" fill="white">{}</text></svg>"#,
        (hue + 40) % 360,
        (hue + 120) % 360,
        width / 12,
        width / 40,
        escaped(&scene.prompt),
    );
    out
}

/// A PNG of 20,000 x 20,000 one-bit pixels, about 49 kB long.
fn bomb() -> Result<Bytes, String> {
    static BOMB: OnceLock<Bytes> = OnceLock::new();
    if let Some(bytes) = BOMB.get() {
        return Ok(bytes.clone());
    }
    let side = 20_000_u32;
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    let mut stream = writer.stream_writer().map_err(|e| e.to_string())?;
    let row = vec![0; side.div_ceil(8) as usize];
    for _ in 0..side {
        stream.write_all(&row).map_err(|e| e.to_string())?;
    }
    stream.finish().map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(BOMB.get_or_init(|| out.into()).clone())
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;
    use providers::media::Size;

    use super::*;
    use crate::sim::draw::Veil;

    fn recipe(format: Format, transparent: bool, harm: Harm) -> Recipe {
        let scene = Scene {
            size: Size::new(320, 200),
            prompt: "a <teapot> & cup".to_owned(),
            caption: "unit test".to_owned(),
            seed: 3,
            transparent,
            veil: Veil::Clear,
            work: None,
        };
        Recipe { scene, format, quality: 80, harm }
    }

    #[test]
    fn every_format_decodes_to_its_size() {
        for (format, kind, alpha) in [
            (Format::Png, ImageFormat::Png, true),
            (Format::Jpeg, ImageFormat::Jpeg, false),
            (Format::Webp, ImageFormat::WebP, true),
        ] {
            for transparent in [false, true] {
                let bytes = recipe(format, transparent, Harm::None).make().unwrap();
                assert_eq!(image::guess_format(&bytes).unwrap(), kind);
                let decoded = image::load_from_memory(&bytes).unwrap();
                assert_eq!((decoded.width(), decoded.height()), (320, 200));
                assert_eq!(decoded.color().has_alpha(), transparent && alpha);
            }
        }
        let text = recipe(Format::Svg, false, Harm::None).make().unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.starts_with("<svg") && text.contains("a &lt;teapot> &amp; cup"));
    }

    #[test]
    fn a_cut_picture_does_not_decode() {
        let bytes = recipe(Format::Png, false, Harm::Cut).make().unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), ImageFormat::Png);
        assert!(image::load_from_memory(&bytes).is_err());
    }

    #[test]
    fn the_bomb_is_small_and_huge() {
        let bytes = recipe(Format::Jpeg, false, Harm::Bomb).make().unwrap();
        assert!((40_000..60_000).contains(&bytes.len()), "{}", bytes.len());
        let reader = png::Decoder::new(std::io::Cursor::new(&bytes[..])).read_info().unwrap();
        assert_eq!(reader.info().size(), (20_000, 20_000));
        assert_eq!(reader.info().bit_depth, png::BitDepth::One);
    }
}
