//! Lifts long strings out of a JSON body while it arrives.
//!
//! A picture in base64 is megabytes of one string. It is cut out as slices of the very buffers
//! the socket filled and never parsed; what is left for an adapter to read is a few hundred
//! bytes with a stand-in where the string was.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use crate::media::blob::{Blob, BlobWriter, Budget, Encoding};

/// Strings up to this length stay in the body: prompts, error texts, URLs.
const LONG_STRING: usize = 32 * 1024;
/// A body that is longer than this without its long strings is no provider's answer.
const LONGEST_TEXT: usize = 8 * 1024 * 1024;

/// Takes a body chunk by chunk.
#[derive(Debug)]
pub(crate) struct Lifter {
    budget: Arc<Budget>,
    /// Strings up to this length stay.
    longest: usize,
    text: BytesMut,
    blobs: Vec<Blob>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Outside a string.
    Outside,
    /// In a string that is kept, which began at this place of the text.
    Inside { start: usize, escaped: bool },
    /// In a string that is lifted.
    Lifting { writer: BlobWriter, escape: Vec<u8> },
    /// Not JSON: everything is kept.
    Plain,
}

impl Lifter {
    /// For one body; `json` says whether there are strings to look for.
    pub(crate) fn new(json: bool, budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            longest: LONG_STRING,
            text: BytesMut::new(),
            blobs: Vec::new(),
            state: if json { State::Outside } else { State::Plain },
        }
    }

    /// Keeps strings up to this many bytes where they are.
    #[must_use]
    pub(crate) fn keeping(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    /// Takes the next chunk.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> io::Result<()> {
        let mut at = 0;
        while at < chunk.len() {
            at = self.step(chunk, at)?;
            if self.text.len() > LONGEST_TEXT {
                return Err(io::Error::other("the reply is too long"));
            }
        }
        Ok(())
    }

    /// Consumes some of the chunk from `at` and returns where it stopped.
    fn step(&mut self, chunk: &Bytes, at: usize) -> io::Result<usize> {
        let rest = &chunk[at..];
        match &mut self.state {
            State::Plain => {
                self.text.extend_from_slice(rest);
                Ok(chunk.len())
            }
            State::Outside => match memchr::memchr(b'"', rest) {
                None => {
                    self.text.extend_from_slice(rest);
                    Ok(chunk.len())
                }
                Some(quote) => {
                    self.text.extend_from_slice(&rest[..=quote]);
                    self.state = State::Inside { start: self.text.len(), escaped: false };
                    Ok(at + quote + 1)
                }
            },
            State::Inside { start, escaped } => {
                if *escaped {
                    self.text.extend_from_slice(&rest[..1]);
                    *escaped = false;
                    return Ok(at + 1);
                }
                // Look no further than a string may grow before it is lifted.
                let room = (self.longest + 1).saturating_sub(self.text.len() - *start);
                let window = &rest[..rest.len().min(room.max(1))];
                let found = memchr2(b'"', b'\\', window);
                let keep = found.map_or(window.len(), |i| i + 1);
                self.text.extend_from_slice(&window[..keep]);
                match found.map(|i| window[i]) {
                    Some(b'"') => self.state = State::Outside,
                    Some(_) => *escaped = true,
                    None if self.text.len() - *start > self.longest => {
                        let start = *start;
                        self.begin_lift(start)?;
                    }
                    None => {}
                }
                Ok(at + keep)
            }
            State::Lifting { writer, escape } => {
                if !escape.is_empty() {
                    escape.push(rest[0]);
                    if let Some(plain) = unescaped(escape) {
                        escape.clear();
                        if !plain.is_empty() {
                            writer.push(Bytes::from_static(plain))?;
                        }
                    }
                    return Ok(at + 1);
                }
                let found = memchr2(b'"', b'\\', rest);
                let end = found.unwrap_or(rest.len());
                if end > 0 {
                    writer.push(chunk.slice(at..at + end))?;
                }
                match found.map(|i| rest[i]) {
                    Some(b'"') => {
                        self.text.extend_from_slice(b"\"");
                        self.end_lift();
                    }
                    Some(other) => escape.push(other),
                    None => return Ok(chunk.len()),
                }
                Ok(at + end + 1)
            }
        }
    }

    /// The string that began at `start` is too long: move it into a blob.
    fn begin_lift(&mut self, start: usize) -> io::Result<()> {
        let raw = self.text.split_off(start).freeze();
        self.text.extend_from_slice(
            providers::lifted(self.blobs.len()).replace('\u{1}', "\\u0001").as_bytes(),
        );
        self.state = State::Lifting {
            writer: BlobWriter::new(Encoding::Base64, &self.budget),
            escape: Vec::new(),
        };
        let head = memchr::memmem::find(&raw[..raw.len().min(256)], b";base64,");
        let data = match head {
            Some(i) if raw.starts_with(b"data:") => raw.slice(i + 8..),
            _ => raw,
        };
        // What was kept may hold escapes: send it through the lifting state like the rest.
        let mut at = 0;
        while at < data.len() {
            at = self.step(&data, at)?;
        }
        Ok(())
    }

    fn end_lift(&mut self) {
        if let State::Lifting { writer, .. } = std::mem::replace(&mut self.state, State::Outside) {
            self.blobs.push(writer.finish());
        }
    }

    /// What is left of the body, and what was lifted. A body that ends within a string is
    /// handed over as it is; reading it as JSON then fails, as it should.
    pub(crate) fn finish(self) -> (Bytes, Vec<Blob>) {
        (self.text.freeze(), self.blobs)
    }
}

/// What an escape stands for, once it is complete. Base64 knows few; anything else would not
/// be base64 and fails when it is decoded.
fn unescaped(escape: &[u8]) -> Option<&'static [u8]> {
    match escape {
        [b'\\', b'/'] => Some(b"/"),
        [b'\\', b'n' | b'r' | b't'] => Some(b""),
        [b'\\', b'u', _, _, _, code @ ..] if code.len() == 1 => {
            match escape[2..].to_ascii_lowercase().as_slice() {
                b"002b" => Some(b"+"),
                b"002f" => Some(b"/"),
                b"003d" => Some(b"="),
                b"000a" | b"000d" => Some(b""),
                _ => Some(b"?"),
            }
        }
        [b'\\'] | [b'\\', b'u', ..] => None,
        _ => Some(b"?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    fn lift(body: &str, piece: usize) -> (String, Vec<Blob>) {
        let mut lifter = Lifter::new(true, &Budget::new(usize::MAX));
        let body = Bytes::from(body.to_owned());
        let mut at = 0;
        while at < body.len() {
            let end = (at + piece).min(body.len());
            lifter.push(&body.slice(at..end)).unwrap();
            at = end;
        }
        let (text, blobs) = lifter.finish();
        (String::from_utf8(text.to_vec()).unwrap(), blobs)
    }

    #[test]
    fn long_strings_are_lifted_whatever_the_chunks() {
        let raw: Vec<u8> = (0..150_000u32).map(|i| (i * 31 % 253) as u8).collect();
        let plain = STANDARD.encode(&raw);
        let escaped = plain.replace('/', "\\/").replace('+', "\\u002B");
        for data in [&plain, &escaped, &format!("data:image/png;base64,{plain}")] {
            let body = format!(
                r#"{{"a":"x\"y\\","data":[{{"b64_json":"{data}"}},{{"url":"https:\/\/x"}}],"n":1}}"#
            );
            for piece in [7, 1000, 65_536, usize::MAX / 2] {
                let (text, blobs) = lift(&body, piece);
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(json["a"], "x\"y\\");
                assert_eq!(json["data"][0]["b64_json"], providers::lifted(0));
                assert_eq!(json["data"][1]["url"], "https://x");
                assert_eq!(blobs.len(), 1);
                assert_eq!(blobs[0].to_bytes().unwrap(), raw);
            }
        }
    }

    #[test]
    fn what_is_short_or_not_json_stays() {
        let body = format!(r#"{{"prompt":"{}"}}"#, "a".repeat(LONG_STRING));
        let (text, blobs) = lift(&body, 999);
        assert_eq!((text, blobs.len()), (body, 0));
        let mut lifter = Lifter::new(false, &Budget::new(0));
        lifter.push(&Bytes::from(format!("<a href=\"{}\">", "b".repeat(70_000)))).unwrap();
        assert_eq!(lifter.finish().0.len(), 70_011);
    }

    #[test]
    fn a_body_cut_within_a_picture_is_not_json() {
        let body = format!(r#"{{"b64_json":"{}"#, "A".repeat(100_000));
        let (text, _) = lift(&body, 5000);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_err());
    }

    #[test]
    fn endless_text_is_refused() {
        let mut lifter = Lifter::new(true, &Budget::new(0));
        let chunk = Bytes::from(vec![b'['; LONGEST_TEXT]);
        assert!(lifter.push(&chunk).is_ok());
        assert!(lifter.push(&chunk).is_err());
    }
}
