use std::io::Write as _;

use super::*;
use Format::{Avif, Jpeg, Png, Svg, Webp};

fn chunk(name: &[u8], body: &[u8]) -> Vec<u8> {
    // Checksums are not looked at here.
    [&(body.len() as u32).to_be_bytes(), name, body, &[0; 4]].concat()
}

fn png(width: u32, height: u32, depth: u8, color: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut ihdr = [width.to_be_bytes(), height.to_be_bytes()].concat();
    ihdr.extend([depth, color, 0, 0, 0]);
    [PNG, &chunk(b"IHDR", &ihdr), &chunks.concat()].concat()
}

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    [&[0xFF, marker][..], &(body.len() as u16 + 2).to_be_bytes(), body].concat()
}

fn jpeg(segments: &[Vec<u8>], width: u16, height: u16) -> Vec<u8> {
    let [[a, b], [c, d]] = [height.to_be_bytes(), width.to_be_bytes()];
    let frame = segment(0xC0, &[8, a, b, c, d, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
    [vec![0xFF, 0xD8], segments.concat(), frame].concat()
}

fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (name, bytes) in chunks {
        body.extend(&name[..]);
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(*bytes);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

fn mp4_box(name: &[u8], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes(), name, body].concat()
}

fn ispe(width: u32, height: u32) -> Vec<u8> {
    mp4_box(b"ispe", &[[0; 4], width.to_be_bytes(), height.to_be_bytes()].concat())
}

fn avif(properties: &[Vec<u8>]) -> Vec<u8> {
    let ipco = mp4_box(b"ipco", &properties.concat());
    let meta = [vec![0; 4], mp4_box(b"iprp", &ipco)].concat();
    let parts =
        [mp4_box(b"ftyp", b"avif\0\0\0\0mif1"), mp4_box(b"meta", &meta), mp4_box(b"mdat", &[7; 9])];
    parts.concat()
}

fn exif(orientation: u8) -> Vec<u8> {
    let mut out = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    out.extend([orientation, 0, 0, 0, 0, 0, 0]);
    out
}

#[derive(Debug, PartialEq)]
struct Seen(Format, u32, u32, bool, bool, bool, u64);

fn seen(head: &[u8]) -> Seen {
    let s = sniff(head).unwrap();
    let Size { width, height } = s.size;
    Seen(s.format, width, height, s.has_alpha, s.animated, s.c2pa, s.decoded_bytes)
}

#[test]
fn headers_are_read() {
    let check = |head: &[u8], expected: Seen| assert_eq!(seen(head), expected);
    let many = chunk(b"acTL", &[0, 0, 0, 5, 0, 0, 0, 0]);
    let exif_jpeg = segment(0xE1, &[b"Exif\0\0", &exif(6)[..]].concat());
    let manifest = segment(0xEB, b"JP\0\x01\0\0\0\x01\0\0\0\x40jumb....jumdc2pa");
    check(&png(30, 20, 8, 2, &[]), Seen(Png, 30, 20, false, false, false, 1800));
    check(
        &png(30, 20, 8, 2, &[chunk(b"tRNS", &[0; 6])]),
        Seen(Png, 30, 20, true, false, false, 2400),
    );
    check(&png(30, 20, 16, 6, &[many]), Seen(Png, 30, 20, true, true, false, 4800));
    check(&png(30, 20, 1, 0, &[chunk(b"caBX", b"x")]), Seen(Png, 30, 20, false, false, true, 600));
    check(
        &png(30, 20, 8, 3, &[chunk(b"eXIf", &exif(8))]),
        Seen(Png, 20, 30, false, false, false, 1800),
    );
    check(&jpeg(&[], 640, 480), Seen(Jpeg, 640, 480, false, false, false, 921_600));
    check(&jpeg(&[exif_jpeg], 640, 480), Seen(Jpeg, 480, 640, false, false, false, 921_600));
    check(&jpeg(&[manifest], 8, 4), Seen(Jpeg, 8, 4, false, false, true, 96));

    let lossy = [0, 0, 0, 0x9D, 1, 0x2A, 0x40, 0x01, 0x20, 0x41];
    check(&riff(&[(b"VP8 ", &lossy)]), Seen(Webp, 320, 288, false, false, false, 276_480));
    let bits = ((1 << 28) + (49 << 14) + 99_u32).to_le_bytes();
    let lossless = [&[0x2F][..], &bits].concat();
    check(&riff(&[(b"VP8L", &lossless)]), Seen(Webp, 100, 50, true, false, false, 20_000));
    let extended = |flags| [flags, 0, 0, 0, 0xFF, 3, 0, 0xFF, 1, 0];
    check(
        &riff(&[(b"VP8X", &extended(0x12)), (b"C2PA", b"abc")]),
        Seen(Webp, 1024, 512, true, true, true, 2 << 20),
    );
    check(
        &riff(&[(b"VP8X", &extended(0x08)), (b"EXIF", &exif(5))]),
        Seen(Webp, 512, 1024, false, false, false, 3 << 19),
    );
    check(&avif(&[ispe(64, 32)]), Seen(Avif, 64, 32, false, false, false, 6144));
    let auxiliary = mp4_box(b"auxC", b"\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0");
    let parts = [ispe(32, 32), ispe(64, 32), auxiliary, mp4_box(b"irot", &[1])];
    check(&avif(&parts), Seen(Avif, 32, 64, true, false, false, 8192));
    let signed = [avif(&[ispe(2, 2)]), mp4_box(b"uuid", &header::C2PA_UUID)].concat();
    check(&signed, Seen(Avif, 2, 2, false, false, true, 12));
    check(b"<svg viewBox='0 0 40 30'/>", Seen(Svg, 40, 30, true, false, false, 0));
}

#[test]
fn gif_frames_and_clear_pixels_are_seen() {
    let screen = b"GIF89a\x0A\0\x08\0\x80\0\0\0\0\0\xFF\xFF\xFF";
    let frame = b"\x2C\0\0\0\0\x0A\0\x08\0\0\x02\x02\x44\x01\0";
    let control = |flags| [0x21, 0xF9, 4, flags, 0, 0, 0, 0];
    let check = |parts: &[&[u8]], alpha, animated| {
        let head = [&[&screen[..]], parts].concat().concat();
        assert_eq!(seen(&head), Seen(Format::Gif, 10, 8, alpha, animated, false, 320));
    };
    check(&[frame, b"\x3B"], false, false);
    check(&[&control(0), frame, b"\x3B"], false, false);
    check(&[&control(1), frame, b"\x3B"], true, false);
    check(&[b"\x21\xFE\x02hi\0", frame, frame, b"\x3B"], false, true);
    let part = b"\x2C\0\0\0\0\x05\0\x08\0\0\x02\x02\x44\x01\0";
    check(&[part, b"\x3B"], true, false);
}

#[test]
fn what_is_no_picture_is_named() {
    let check = |bytes: &[u8], words: &str| {
        let error = sniff(bytes).unwrap_err();
        assert!(matches!(error, SniffError::NotAnImage(_)));
        assert_eq!(error.to_string(), format!("expected a picture, got {words}"));
    };
    check(b"", "nothing");
    check(b" \n", "nothing");
    check(b"<!DOCTYPE html><html><body><svg width='1'>", "an HTML page");
    check(b"\xEF\xBB\xBF\n<HTML>", "an HTML page");
    check(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document");
    check(b"{\"error\": 1}", "JSON");
    check(b"Too many requests\r\n", "plain text");
    check(b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a video or a HEIC picture, which is not supported");
    check(b"BM\0\0", "a BMP picture, which is not supported");
    check(b"\x89PNG\r\n", "the first bytes of a PNG alone");
    check(&[0, 1, 2, 3, 250], "bytes of an unknown kind");
}

#[test]
fn sizes_over_the_limits_are_refused() {
    let check = |width, height, depth, words: &str| {
        let error = sniff(&png(width, height, depth, 6, &[])).unwrap_err();
        let start = format!("a picture of {width}x{height} is more than may be decoded: ");
        assert_eq!(error.to_string(), start + words);
    };
    check(16_385, 1, 8, "too long a side");
    check(1, u32::MAX, 8, "too long a side");
    check(10_000, 5_001, 8, "too many pixels");
    check(10_000, 5_000, 16, "too many bytes");
    assert!(sniff(&png(10_000, 5_000, 8, 6, &[])).is_ok());
    let tight = DecodeLimits { max_pixels: 99, ..DecodeLimits::default() };
    assert!(sniff_within(&png(10, 10, 8, 2, &[]), &tight).is_err());
    let error = sniff(&png(0, 5, 8, 2, &[])).unwrap_err();
    assert_eq!(error, SniffError::Damaged(Format::Png, "a side is 0"));
}

/// 20,000² pixels of one bit: 48 kB that would be 1.6 GB of RGBA.
#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    let side = 20_000;
    let mut bomb = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bomb, side, side);
    encoder.set_color(::png::ColorType::Grayscale);
    encoder.set_depth(::png::BitDepth::One);
    encoder.set_compression(::png::Compression::High);
    encoder.set_filter(::png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    let row = vec![0; side as usize / 8];
    (0..side).for_each(|_| stream.write_all(&row).unwrap());
    stream.finish().unwrap();
    writer.finish().unwrap();
    assert!(bomb.len() < 64_000, "{}", bomb.len());
    let before = resident();
    let started = std::time::Instant::now();
    assert!(matches!(sniff(&bomb), Err(SniffError::TooLarge { width: 20_000, .. })));
    assert!(started.elapsed().as_millis() < 50);
    assert!(resident().saturating_sub(before) < 16 << 20);
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default() * 4096
}

#[test]
fn a_header_beyond_the_head_can_be_asked_for() {
    let long = segment(0xE2, &vec![0; 60_000]);
    let file = jpeg(&[long.clone(), long], 32, 16);
    let error = sniff(&file[..HEAD]).unwrap_err();
    assert_eq!(error, SniffError::Incomplete(Format::Jpeg, HEAD));
    assert_eq!(sniff(&file).unwrap().size, Size::new(32, 16));
}

#[test]
fn an_end_is_told_from_a_cut() {
    let check = |format, file: &[u8], whole: bool| {
        let tail = &file[file.len().saturating_sub(TAIL)..];
        assert_eq!(is_complete(format, file.len() as u64, file, tail), whole, "{format} {file:?}");
    };
    let iend = b"\0\0\0\0IEND\xAE\x42\x60\x82";
    check(Format::Png, &[&[1; 90], &iend[..]].concat(), true);
    check(Format::Png, &[&[1; 90], &iend[..], b"trailing"].concat(), true);
    check(Format::Png, &[&[1; 90], &iend[..11]].concat(), false);
    check(Format::Jpeg, &[0xFF, 0xD8, 5, 0xFF, 0xD9], true);
    check(Format::Jpeg, &[0xFF, 0xD8, 5, 0xFF, 0xD9, 0, 0], true);
    check(Format::Jpeg, &[0xFF, 0xD8, 5, 0xFF], false);
    check(Format::Gif, b"GIF89a...\0\x3B", true);
    check(Format::Gif, b"GIF89a...\0\x3B\0\0", true);
    check(Format::Gif, b"GIF89a...\x07\x3B", false);
    check(Format::Gif, b"", false);
    check(Format::Svg, b"<svg><a/></svg>\n", true);
    check(Format::Svg, b"<svg><path d='M0", false);
    for (format, file) in
        [(Format::Webp, riff(&[(b"VP8L", b"abcd")])), (Format::Avif, avif(&[ispe(1, 1)]))]
    {
        check(format, &file, true);
        check(format, &file[..file.len() - 1], false);
        check(format, &file[..5], false);
    }
}
