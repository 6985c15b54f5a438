use moxcms::ColorProfile;

use png::{
    BitDepth::{Eight, One, Sixteen},
    ColorType::{Grayscale, GrayscaleAlpha, Rgb},
};

use super::*;
use crate::media::{
    plan::Crop,
    sniff::{HEAD, sniff},
};

const LIMITS: DecodeLimits =
    DecodeLimits { max_pixels: 50_000_000, max_side: 16_384, max_bytes: 256 << 20 };

fn to(format: Format) -> Conversion {
    Conversion {
        geometry: None,
        format,
        quality: 90,
        webp_lossless: false,
        background: [255; 3],
        pad_transparent: false,
    }
}

/// A smooth picture whose corners differ: red to the right, green to the bottom.
fn picture(width: u32, height: u32, alpha: bool) -> Pixels {
    let mut data = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let ramp = |at: u32, of: u32| (40 + 170 * at / of.max(2)) as u8;
            data.extend([ramp(x, width), ramp(y, height), 90]);
            if alpha {
                // The left half clear, then half clear, then opaque.
                data.push(if x < width / 2 {
                    0
                } else if x < width * 3 / 4 {
                    128
                } else {
                    255
                });
            }
        }
    }
    Pixels { size: Size::new(width, height), data, alpha }
}

fn file(pixels: &Pixels, format: Format) -> Vec<u8> {
    encode::encode(pixels.clone(), &to(format)).unwrap()
}

/// A PNG with further chunks before its pixels.
fn png_with(pixels: &Pixels, set: impl FnOnce(&mut png::Info<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut info = png::Info::with_size(pixels.size.width, pixels.size.height);
    info.color_type = if pixels.alpha { png::ColorType::Rgba } else { png::ColorType::Rgb };
    info.bit_depth = png::BitDepth::Eight;
    set(&mut info);
    let mut writer = png::Encoder::with_info(&mut out, info).unwrap().write_header().unwrap();
    writer.write_image_data(&pixels.data).unwrap();
    writer.finish().unwrap();
    out
}

fn read(bytes: &[u8]) -> (Pixels, bool) {
    decode(bytes, &sniff(bytes).unwrap(), &LIMITS).unwrap()
}

fn turn(bytes: &[u8], c: &Conversion) -> Converted {
    convert(bytes, &sniff(bytes).unwrap(), c, &LIMITS).unwrap()
}

/// Mean difference of samples.
fn distance(a: &Pixels, b: &Pixels) -> f64 {
    assert_eq!((a.size, a.alpha), (b.size, b.alpha));
    let sum: u64 = a.data.iter().zip(&b.data).map(|(x, y)| u64::from(x.abs_diff(*y))).sum();
    sum as f64 / a.data.len() as f64
}

#[test]
fn every_format_becomes_every_other() {
    let source = picture(67, 41, false);
    let lossless = Conversion { webp_lossless: true, ..to(Format::Webp) };
    let readable = [Format::Png, Format::Jpeg, Format::Webp, Format::Gif];
    for from in readable {
        let input = file(&source, from);
        let first = read(&input).0;
        assert!(distance(&first, &source) < if from == Format::Gif { 8.0 } else { 2.0 }, "{from}");
        let targets = readable.into_iter().chain([Format::Avif]).map(to).chain([lossless.clone()]);
        for c in targets {
            let made = turn(&input, &c);
            assert!(!made.flattened && !made.color_converted);
            let seen = sniff(&made.bytes).unwrap();
            assert_eq!((seen.format, seen.size), (c.format, source.size), "{from} {c:?}");
            let exact = c.format == Format::Png || c.webp_lossless;
            let within = match c.format {
                _ if exact => 0.0,
                Format::Gif => 8.0,
                _ => 3.0,
            };
            if c.format != Format::Avif {
                let off = distance(&read(&made.bytes).0, &first);
                assert!(off <= within, "{from} to {c:?}: off by {off}");
            }
        }
    }
}

#[test]
fn quality_is_a_dial() {
    let input = file(&picture(200, 200, false), Format::Png);
    for format in [Format::Jpeg, Format::Webp, Format::Avif] {
        let sizes = [0, 50, 100].map(|q| turn(&input, &Conversion { quality: q, ..to(format) }));
        let [low, middle, high] = sizes.map(|made| made.bytes.len());
        assert!(low < middle && middle < high, "{format}: {low} {middle} {high}");
    }
}

#[test]
fn alpha_is_kept_or_flattened_and_said() {
    let source = picture(64, 32, true);
    let input = file(&source, Format::Png);
    for c in [to(Format::Png), Conversion { webp_lossless: true, ..to(Format::Webp) }] {
        let made = turn(&input, &c);
        assert!(!made.flattened);
        let back = read(&made.bytes).0;
        for (before, after) in source.data.chunks_exact(4).zip(back.data.chunks_exact(4)) {
            assert!(before[3] == after[3] && (before[3] == 0 || before == after));
        }
    }
    let lossy = read(&turn(&input, &to(Format::Webp)).bytes).0;
    assert_eq!([lossy.data[3], lossy.data[63 * 4 + 3]], [0, 255]);
    assert!(sniff(&turn(&input, &to(Format::Avif)).bytes).unwrap().has_alpha);

    let blue = Conversion { background: [0, 0, 255], quality: 95, ..to(Format::Jpeg) };
    let made = turn(&input, &blue);
    assert!(made.flattened);
    let flat = read(&made.bytes).0;
    let near = |x: usize, expected: [u8; 3]| {
        let found = &flat.data[(16 * 64 + x) * 3..][..3];
        assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) < 12), "{x}: {found:?}");
    };
    near(10, [0, 0, 255]);
    near(60, [199, 125, 90]);
    near(40, [73, 63, 172]);

    let made = turn(&input, &Conversion { background: [0, 0, 255], ..to(Format::Gif) });
    assert!(made.flattened, "half clear pixels cannot stay so in a GIF");
    let gif = read(&made.bytes).0;
    let alpha = |x: usize| gif.data[(16 * 64 + x) * 4 + 3];
    assert_eq!([alpha(10), alpha(40), alpha(60)], [0, 255, 255]);

    let mut opaque = picture(8, 8, true);
    opaque.data.chunks_exact_mut(4).for_each(|p| p[3] = 255);
    assert!(!turn(&png_with(&opaque, |_| ()), &to(Format::Jpeg)).flattened);
}

#[test]
fn a_profile_is_applied_and_dropped() {
    let source = picture(32, 32, false);
    let icc = |profile: ColorProfile| profile.encode().unwrap();
    let check = |name: &str, input: Vec<u8>, converts: bool| {
        for format in [Format::Png, Format::Jpeg] {
            let made = turn(&input, &Conversion { quality: 100, ..to(format) });
            assert_eq!(made.color_converted, converts, "{name}");
            for mark in [&b"iCCP"[..], b"ICC_PROFILE", b"cICP", b"acsp"] {
                assert!(memchr::memmem::find(&made.bytes, mark).is_none(), "{name}");
            }
            let off = distance(&read(&made.bytes).0, &source);
            assert_eq!(off > 3.0, converts, "{name}: {off}");
        }
    };
    let with_icc = |bytes: Vec<u8>| png_with(&source, |info| info.icc_profile = Some(bytes.into()));
    check("none", with_icc_none(&source), false);
    check("srgb", with_icc(icc(ColorProfile::new_srgb())), false);
    check("display p3", with_icc(icc(ColorProfile::new_display_p3())), true);
    check("adobe rgb", with_icc(icc(ColorProfile::new_adobe_rgb())), true);
    check("grey", with_icc(icc(ColorProfile::new_gray_with_gamma(1.0))), false);
    check("rubbish", with_icc(vec![7; 200]), false);

    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 100);
    encoder.add_icc_profile(&icc(ColorProfile::new_display_p3())).unwrap();
    encoder.encode(&source.data, 32, 32, jpeg_encoder::ColorType::Rgb).unwrap();
    check("jpeg in display p3", jpeg, true);

    // The most saturated red of sRGB is less saturated in a wider space, so it must grow.
    let red = Pixels { size: Size::new(1, 1), data: vec![200, 60, 60], alpha: false };
    let p3 = icc(ColorProfile::new_display_p3());
    let made =
        read(&turn(&png_with(&red, |i| i.icc_profile = Some(p3.into())), &to(Format::Png)).bytes);
    let [r, g, b] = made.0.data[..] else { panic!("one pixel") };
    assert!(r > 205 && g < 58 && b < 60, "{r} {g} {b}");
}

fn with_icc_none(source: &Pixels) -> Vec<u8> {
    png_with(source, |_| ())
}

#[test]
fn code_points_stand_for_a_profile() {
    let source = picture(32, 32, false);
    let points = |primaries, transfer| {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 32, 32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        let body = [primaries, transfer, 0, 1];
        writer.write_chunk(png::chunk::ChunkType(*b"cICP"), &body).unwrap();
        writer.write_image_data(&source.data).unwrap();
        writer.finish().unwrap();
        out
    };
    assert!(!turn(&points(1, 13), &to(Format::Png)).color_converted, "sRGB");
    assert!(turn(&points(12, 13), &to(Format::Png)).color_converted, "Display P3");
}

#[test]
fn grey_and_16_bits_become_8_bits_of_rgb() {
    let check = |color: png::ColorType, depth: png::BitDepth, data: &[u8], expected: &[u8]| {
        for profile in [None, Some(ColorProfile::new_gray_with_gamma(2.2).encode().unwrap())] {
            let converts = profile.is_some();
            let mut out = Vec::new();
            let mut info = png::Info::with_size(2, 1);
            (info.color_type, info.bit_depth) = (color, depth);
            info.icc_profile = profile.map(Into::into);
            let mut writer =
                png::Encoder::with_info(&mut out, info).unwrap().write_header().unwrap();
            writer.write_image_data(data).unwrap();
            writer.finish().unwrap();
            let found = read(&out).0;
            // Gamma 2.2 is nearly the curve of sRGB.
            let within = if converts { 8 } else { 0 };
            assert_eq!(found.data.len(), expected.len());
            let close = found.data.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= within);
            assert!(close, "{color:?} {depth:?}: {found:?}");
        }
    };
    check(Grayscale, Eight, &[0, 200], &[0, 0, 0, 200, 200, 200]);
    check(Grayscale, One, &[0b0100_0000], &[0, 0, 0, 255, 255, 255]);
    check(Grayscale, Sixteen, &[0, 255, 128, 200], &[1, 1, 1, 128, 128, 128]);
    check(GrayscaleAlpha, Eight, &[9, 255, 70, 0], &[9, 9, 9, 255, 70, 70, 70, 0]);
    check(Rgb, Sixteen, &[255, 255, 1, 0, 0, 0, 0, 0, 0, 0, 9, 9], &[255, 1, 0, 0, 0, 9]);
}

#[test]
fn cmyk_jpeg_comes_out_in_its_colours() {
    let cyan: Vec<u8> = [255, 0, 0, 0].repeat(256);
    let mut input = Vec::new();
    jpeg_encoder::Encoder::new(&mut input, 95)
        .encode(&cyan, 16, 16, jpeg_encoder::ColorType::Cmyk)
        .unwrap();
    let found = read(&input).0;
    assert!(!found.alpha);
    let [r, g, b] = found.data[..3] else { panic!("a pixel") };
    assert!(r < 8 && g > 247 && b > 247, "{r} {g} {b}");
}

/// EXIF that says nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut out = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    out.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    out
}

#[test]
fn orientation_is_applied_once_and_forgotten() {
    let source = picture(48, 16, false);
    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 100);
    encoder.add_exif_metadata(&exif(6)).unwrap();
    encoder.encode(&source.data, 48, 16, jpeg_encoder::ColorType::Rgb).unwrap();
    let png = png_with(&source, |info| info.exif_metadata = Some(exif(6).into()));
    for input in [jpeg, png] {
        let seen = sniff(&input).unwrap();
        assert_eq!((seen.size, seen.stored_size()), (Size::new(16, 48), source.size));
        let made = turn(&input, &to(Format::Png));
        assert_eq!(made.size, Size::new(16, 48));
        assert!(memchr::memmem::find(&made.bytes, b"eXIf").is_none());
        let pixels = read(&made.bytes).0;
        // Turned clockwise, the stored top left is shown at the top right.
        let corner = |p: &Pixels, x: u32, y: u32| {
            let at = (y * p.size.width + x) as usize * 3;
            [p.data[at], p.data[at + 1]]
        };
        for (stored, shown) in [((0, 0), (15, 0)), ((47, 0), (15, 47)), ((0, 15), (0, 0))] {
            let [a, b] = corner(&source, stored.0, stored.1);
            let [c, d] = corner(&pixels, shown.0, shown.1);
            assert!(
                a.abs_diff(c) < 9 && b.abs_diff(d) < 9,
                "{stored:?} {a} {b}, {shown:?} {c} {d}"
            );
        }
    }
}

fn geometry(
    crop: Option<(u32, u32, u32, u32)>,
    scale: (u32, u32),
    pad: Option<Padding>,
) -> Geometry {
    let scale_to = Size::new(scale.0, scale.1);
    let crop = crop.map(|(x, y, w, h)| Crop { x, y, size: Size::new(w, h) });
    Geometry { crop, scale_to, pad, delivered: pad.map_or(scale_to, |p| p.canvas) }
}

#[test]
fn crop_scale_and_pad_in_that_order() {
    let source = picture(100, 60, false);
    let input = file(&source, Format::Png);
    let done = |g: Geometry, c: Conversion| {
        let made = turn(&input, &Conversion { geometry: Some(g), ..c });
        assert_eq!(made.size, g.delivered);
        read(&made.bytes).0
    };
    let at = |p: &Pixels, x: u32, y: u32| {
        let channels = if p.alpha { 4 } else { 3 };
        p.data[(y * p.size.width + x) as usize * channels..][..channels].to_vec()
    };
    // A crop alone copies pixels.
    let crop = done(geometry(Some((30, 10, 20, 40)), (20, 40), None), to(Format::Png));
    assert_eq!((at(&crop, 0, 0), at(&crop, 19, 39)), (at(&source, 30, 10), at(&source, 49, 49)));
    // A crop scaled to half its size starts and ends where the crop does.
    let half = done(geometry(Some((30, 10, 40, 40)), (20, 20), None), to(Format::Png));
    let close = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(x, y)| x.abs_diff(*y) < 6);
    assert!(close(&at(&half, 0, 0), &at(&source, 30, 10)));
    assert!(close(&at(&half, 19, 19), &at(&source, 69, 49)));
    // Padding is the background, or clear where asked for and possible.
    let canvas = Some(Padding { canvas: Size::new(120, 70), x: 10, y: 5 });
    let red = Conversion { background: [250, 0, 0], ..to(Format::Png) };
    let padded = done(geometry(None, (100, 60), canvas), red.clone());
    assert_eq!((at(&padded, 9, 5), at(&padded, 10, 4)), (vec![250, 0, 0], vec![250, 0, 0]));
    assert_eq!(at(&padded, 10, 5), at(&source, 0, 0));
    assert_eq!(at(&padded, 109, 64), at(&source, 99, 59));
    let clear = Conversion { pad_transparent: true, ..red };
    let padded = done(geometry(None, (100, 60), canvas), clear.clone());
    assert_eq!((at(&padded, 0, 0)[3], at(&padded, 10, 5)[3]), (0, 255));
    let jpeg =
        done(geometry(None, (100, 60), canvas), Conversion { format: Format::Jpeg, ..clear });
    assert!(close(&at(&jpeg, 0, 0), &[250, 0, 0]), "{:?}", at(&jpeg, 0, 0));
}

#[test]
fn scaling_does_not_bleed_colour_out_of_clear_pixels() {
    // White beside clear black: shades of white must remain, with no grey rim.
    let data = (0..64 * 64).flat_map(|i| if i % 64 < 31 { [0; 4] } else { [255; 4] }).collect();
    let source = Pixels { size: Size::new(64, 64), data, alpha: true };
    let c = Conversion { geometry: Some(geometry(None, (16, 16), None)), ..to(Format::Png) };
    let small = read(&turn(&file(&source, Format::Png), &c).bytes).0;
    let mut edge = 0;
    for p in small.data.chunks_exact(4).filter(|p| p[3] > 8) {
        assert!(p[..3].iter().all(|v| *v > 250), "{p:?}");
        edge += usize::from(p[3] < 250);
    }
    assert!(edge > 0);
}

#[test]
fn a_plan_for_another_picture_is_refused() {
    let input = file(&picture(10, 10, false), Format::Png);
    let seen = sniff(&input).unwrap();
    let canvas = |w, h, x| Some(Padding { canvas: Size::new(w, h), x, y: 0 });
    for g in [
        geometry(Some((5, 0, 6, 5)), (6, 5), None),
        geometry(Some((0, u32::MAX, 5, 5)), (5, 5), None),
        geometry(Some((0, 0, 0, 5)), (5, 5), None),
        geometry(None, (10, 10), canvas(9, 10, 0)),
        geometry(None, (10, 10), canvas(12, 12, 3)),
        geometry(None, (10, 10), canvas(12, 12, u32::MAX)),
    ] {
        let c = Conversion { geometry: Some(g), ..to(Format::Png) };
        let error = convert(&input, &seen, &c, &LIMITS).unwrap_err();
        assert!(matches!(error, ConvertError::Misfit(_)), "{g:?}: {error}");
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let avif = turn(&file(&picture(16, 16, false), Format::Png), &to(Format::Avif)).bytes;
    let error = convert(&avif, &sniff(&avif).unwrap(), &to(Format::Png), &LIMITS).unwrap_err();
    assert!(matches!(error, ConvertError::Unreadable(Format::Avif)), "{error}");
    let svg = b"<svg width='4' height='4'></svg>";
    let error = convert(svg, &sniff(svg).unwrap(), &to(Format::Png), &LIMITS).unwrap_err();
    assert!(matches!(error, ConvertError::Vectors), "{error}");
    let wide = file(&picture(2, 2, false), Format::Png);
    let c = Conversion { geometry: Some(geometry(None, (16_384, 2), None)), ..to(Format::Webp) };
    let error = convert(&wide, &sniff(&wide).unwrap(), &c, &LIMITS).unwrap_err();
    assert!(matches!(error, ConvertError::Unencodable { .. }), "{error}");
    let tight = DecodeLimits { max_pixels: 3, ..LIMITS };
    let error = convert(&wide, &sniff(&wide).unwrap(), &to(Format::Png), &tight).unwrap_err();
    assert!(matches!(error, ConvertError::Refused(SniffError::TooLarge { .. })), "{error}");
}

/// What one file of each kind that can be read looks like.
fn samples() -> Vec<Vec<u8>> {
    let icc = ColorProfile::new_display_p3().encode().unwrap();
    let mut files = vec![png_with(&picture(9, 7, true), |i| {
        i.icc_profile = Some(icc.into());
        i.exif_metadata = Some(exif(3).into());
    })];
    for (format, alpha) in [
        (Format::Jpeg, false),
        (Format::Webp, false),
        (Format::Webp, true),
        (Format::Gif, true),
        (Format::Avif, true),
    ] {
        files.push(file(&picture(9, 7, alpha), format));
    }
    let lossless = Conversion { webp_lossless: true, ..to(Format::Webp) };
    files.push(encode::encode(picture(9, 7, true), &lossless).unwrap());
    files
}

/// Whole pipeline on bytes that may be anything; only a panic is a failure.
fn attempt(bytes: &[u8]) -> Result<Converted, String> {
    let seen = sniff(&bytes[..bytes.len().min(HEAD)]).map_err(|e| e.to_string())?;
    let tight = DecodeLimits { max_pixels: 1 << 20, ..LIMITS };
    convert(bytes, &seen, &to(Format::Png), &tight).map_err(|e| e.to_string())
}

#[test]
fn no_prefix_passes_for_the_whole() {
    for input in samples() {
        let whole = attempt(&input).is_ok();
        assert_eq!(whole, sniff(&input).unwrap().format != Format::Avif);
        for end in 0..input.len() {
            assert!(attempt(&input[..end]).is_err(), "{end} of {} bytes", input.len());
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    // xorshift64: the same bytes in every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut survived = 0;
    for input in samples() {
        for _ in 0..1500 {
            let mut bytes = input.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            survived += usize::from(attempt(&bytes).is_ok());
        }
    }
    assert!(survived > 100, "the decoders were hardly reached: {survived}");
}
