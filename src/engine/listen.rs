//! Reads a provider's server-sent events.

use std::{future::Future, pin::Pin};

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::transport::TransportError;

/// An event longer than this is no job state.
const LONGEST_EVENT: usize = 1024 * 1024;

type Opening = Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send>>;

/// A stream of events that is being opened, open, or over.
pub(crate) enum Listener {
    Opening(Opening),
    Open { response: Box<Response>, buffer: BytesMut },
    Closed,
}

impl Listener {
    /// A stream from the response that `opening` will give.
    pub(crate) fn new(
        opening: impl Future<Output = Result<Response, TransportError>> + Send + 'static,
    ) -> Self {
        Self::Opening(Box::pin(opening))
    }

    /// Whether events may still come.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self, Self::Closed)
    }

    /// The data of the next event; `None` once the stream is over or could not be had. May be
    /// dropped and called again without losing an event.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self {
                Self::Closed => return None,
                Self::Opening(opening) => {
                    *self = match opening.await {
                        Ok(response) if response.status().is_success() => {
                            Self::Open { response: Box::new(response), buffer: BytesMut::new() }
                        }
                        _ => Self::Closed,
                    };
                }
                Self::Open { response, buffer } => {
                    if let Some(event) = take_event(buffer) {
                        return Some(event);
                    }
                    match response.chunk().await {
                        Ok(Some(chunk)) if buffer.len() + chunk.len() <= LONGEST_EVENT => {
                            buffer.extend_from_slice(&chunk);
                        }
                        _ => *self = Self::Closed,
                    }
                }
            }
        }
    }
}

/// Takes the first whole event with data off the buffer.
fn take_event(buffer: &mut BytesMut) -> Option<Bytes> {
    loop {
        let (end, gap) = blank_line(buffer)?;
        let event = buffer.split_to(end + gap);
        let mut data = Vec::new();
        for line in event[..end].split(|b| *b == b'\n' || *b == b'\r') {
            if let Some(rest) = line.strip_prefix(b"data:") {
                if !data.is_empty() {
                    data.push(b'\n');
                }
                data.extend_from_slice(rest.strip_prefix(b" ").unwrap_or(rest));
            }
        }
        if !data.is_empty() {
            return Some(data.into());
        }
    }
}

fn blank_line(buffer: &[u8]) -> Option<(usize, usize)> {
    let lf = memchr::memmem::find(buffer, b"\n\n").map(|i| (i, 2));
    let crlf = memchr::memmem::find(buffer, b"\r\n\r\n").map(|i| (i, 4));
    match (lf, crlf) {
        (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_whole() {
        let mut buffer = BytesMut::from(
            &b": ping\n\nevent: x\ndata: {\"a\":1}\n\ndata:one\r\ndata: two\r\n\r\ndata: half"[..],
        );
        assert_eq!(take_event(&mut buffer).unwrap(), "{\"a\":1}");
        assert_eq!(take_event(&mut buffer).unwrap(), "one\ntwo");
        assert_eq!(take_event(&mut buffer), None);
        buffer.extend_from_slice(b"\n\n");
        assert_eq!(take_event(&mut buffer).unwrap(), "half");
    }
}
