//! Telling an SVG from other markup, and the size it asks for. It is never rendered.

use memchr::memmem;
use providers::media::Size;

/// What browsers give an SVG that names no size (CSS 2.1, 10.3.2).
const DEFAULT: Size = Size::new(300, 150);

/// Whether markup opens with an `svg` element, after any prolog.
pub(super) fn is_svg(head: &[u8]) -> bool {
    root(head).is_some()
}

/// The inside of the opening `svg` tag.
fn root(head: &[u8]) -> Option<&[u8]> {
    let mut rest = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    loop {
        rest = rest.trim_ascii_start();
        let skip = if rest.starts_with(b"<?") {
            memmem::find(rest, b"?>")? + 2
        } else if rest.starts_with(b"<!--") {
            memmem::find(rest, b"-->")? + 3
        } else if rest.starts_with(b"<!DOCTYPE svg") {
            // An internal subset in brackets may hold further `>`.
            let close = memchr::memchr(b'>', rest)?;
            match memchr::memchr(b'[', &rest[..close]) {
                Some(_) => memmem::find(rest, b"]>")? + 2,
                None => close + 1,
            }
        } else {
            break;
        };
        rest = &rest[skip..];
    }
    let tag = rest.strip_prefix(b"<svg")?;
    let ends = matches!(tag.first()?, b' ' | b'\t' | b'\r' | b'\n' | b'>' | b'/');
    ends.then(|| &tag[..memchr::memchr(b'>', tag).unwrap_or(tag.len())])
}

/// Pixels by `width` and `height`, else by `viewBox`, else as browsers do.
pub(super) fn size(head: &[u8]) -> Size {
    let Some(tag) = root(head).and_then(|tag| str::from_utf8(tag).ok()) else {
        return DEFAULT;
    };
    let box_ = attribute(tag, "viewBox").and_then(|text| {
        let mut numbers = text.split([' ', ',', '\n', '\t']).filter(|s| !s.is_empty());
        let (width, height) = (numbers.nth(2)?, numbers.next()?);
        Some((pixels(width)?, pixels(height)?))
    });
    let width = attribute(tag, "width").and_then(pixels);
    let height = attribute(tag, "height").and_then(pixels);
    let (width, height) = match (width, height, box_) {
        (Some(width), Some(height), _) => (width, height),
        (Some(width), None, Some((w, h))) => (width, width * h / w),
        (None, Some(height), Some((w, h))) => (height * w / h, height),
        (None, None, Some(of_box)) => of_box,
        _ => return DEFAULT,
    };
    let whole = |side: f64| (side.round() as u32).max(1);
    Size::new(whole(width), whole(height))
}

/// The value of an attribute in the inside of a tag.
fn attribute<'t>(tag: &'t str, name: &str) -> Option<&'t str> {
    let mut rest = tag;
    loop {
        let at = rest.find(name)?;
        let starts = rest[..at].ends_with(|c: char| c.is_ascii_whitespace());
        rest = &rest[at + name.len()..];
        if let Some(value) = rest.trim_start().strip_prefix('=').filter(|_| starts) {
            let value = value.trim_start();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            return value[1..].split(quote).next();
        }
    }
}

/// A positive length in CSS pixels; a percentage is none.
fn pixels(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+')).unwrap_or(text.len());
    let per_unit = match &text[end..] {
        "" | "px" => 1.0,
        "pt" => 96.0 / 72.0,
        "pc" | "em" => 16.0,
        "mm" => 96.0 / 25.4,
        "cm" => 96.0 / 2.54,
        "in" => 96.0,
        _ => return None,
    };
    let value = text[..end].parse::<f64>().ok()? * per_unit;
    (value > 0.0 && value.is_finite()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_read_from_the_root_element() {
        let check = |tag: &str, expected: (u32, u32)| {
            let found = size(format!("<?xml version='1.0'?>\n<!-- <svg> -->{tag}").as_bytes());
            assert_eq!((found.width, found.height), expected, "{tag}");
        };
        check("<svg width=\"640\" height='480px'>", (640, 480));
        check("<svg width='1in' height='72pt'/>", (96, 96));
        check("<svg viewBox=\"0 0 120.4 60\">", (120, 60));
        check("<svg viewBox='0,0,100,50' width='200'>", (200, 100));
        check("<svg height=\"10\" viewBox='0 0 30 10'>", (30, 10));
        check("<svg width='100%' height='100%'>", (300, 150));
        check("<svg width='100%' height='100%' viewBox='0 0 7 9'>", (7, 9));
        check("<svg stroke-width='9' height='3'>", (300, 150));
        check("<svg xmlns='http://www.w3.org/2000/svg'>", (300, 150));
        check("<svg width='0' height='5'>", (300, 150));
        check("<!DOCTYPE svg [<!ENTITY a '>'>]><svg width='2' height='5'>", (2, 5));
    }
}
