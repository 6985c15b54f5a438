//! Requests to a vendor and its replies, as adapters see them.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::UpstreamError;

/// One HTTP request, without the key: the engine adds it, and only for the vendor's own hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct WireRequest {
    /// `GET`, `POST` or `PUT`.
    pub method: &'static str,
    /// The whole URL.
    pub url: String,
    /// Headers beside authorisation and content type, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent.
    pub body: Body,
}

impl WireRequest {
    /// A `GET` without body.
    pub fn get(url: impl Into<String>) -> Self {
        Self { method: "GET", url: url.into(), headers: Vec::new(), body: Body::Empty }
    }

    /// A `POST` of a JSON value.
    pub fn post_json(url: impl Into<String>, value: &serde_json::Value) -> Self {
        Self {
            method: "POST",
            url: url.into(),
            headers: Vec::new(),
            body: Body::Json(Bytes::from(value.to_string())),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The body of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// None.
    Empty,
    /// `application/json`.
    Json(Bytes),
    /// `multipart/form-data`; the engine chooses the boundary.
    Form(Vec<Part>),
}

/// One part of a form.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The field.
    pub name: String,
    /// What it holds.
    pub value: PartValue,
}

/// The content of a form part.
#[derive(Clone, Debug, PartialEq)]
pub enum PartValue {
    /// Plain text.
    Text(String),
    /// A file.
    File {
        /// The file name sent along.
        name: String,
        /// The media type of the bytes.
        mime: &'static str,
        /// The bytes.
        data: Bytes,
    },
    /// A picture to work from, whose bytes the engine fills in.
    Input {
        /// The file name sent along.
        name: String,
        /// The media type of the bytes.
        mime: &'static str,
        /// The [token](crate::Input::token) of the picture.
        token: u64,
    },
}

/// A vendor's reply. Long strings of a JSON body and binary bodies are lifted into blobs by the
/// engine before an adapter sees it, so a picture is never parsed as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status; 200 for an event of a stream.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ReplyBody,
}

/// The body of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// Text, usually JSON. A string too long to parse is replaced by [`lifted`] and its number.
    Text(Bytes),
    /// Binary media, kept as the blob of this number.
    Media(usize),
}

/// The stand-in for the `index`th string lifted out of a JSON body. The control character makes
/// it unlikely in real data; a vendor that forges one can only name a string of its own reply.
pub fn lifted(index: usize) -> String {
    format!("\u{1}blob:{index}")
}

/// The stand-in for a picture's base64 in a JSON body that is sent: the engine puts the base64 in
/// its place. The token is random, so that no text of a caller can name it.
pub fn inlined(token: u64) -> String {
    format!("\u{1}input:{token:016x}")
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text; empty for media.
    pub fn text(&self) -> &[u8] {
        match &self.body {
            ReplyBody::Text(bytes) => bytes,
            ReplyBody::Media(_) => &[],
        }
    }

    /// The body as JSON of the wanted shape, else [`Fault::Malformed`](crate::Fault::Malformed).
    /// Numbers that JSON does not have, such as `NaN` or `1e400`, are read as `null`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, UpstreamError> {
        let text = self.text();
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(UpstreamError::malformed("the provider's reply is empty"));
        }
        serde_json::from_slice(text)
            .or_else(|error| serde_json::from_slice(&finite(text).ok_or(error)?))
            .map_err(|e| {
                UpstreamError::malformed(format!("the provider's reply cannot be read: {e}"))
            })
    }
}

/// JSON with `null` in place of words and numbers that are no values of it; `None` where there
/// are none. Python writes `NaN` and `Infinity` where a vendor's sum went wrong.
fn finite(json: &[u8]) -> Option<Vec<u8>> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let mut out = Vec::with_capacity(json.len());
    let (mut at, mut changed) = (0, false);
    while let Some(byte) = json.get(at) {
        let rest = json.get(at..).unwrap_or_default();
        let length = match byte {
            b'"' => string_length(rest),
            _ if is_word(byte) => rest.iter().take_while(|b| is_word(b)).count(),
            _ => 1,
        };
        let piece = rest.get(..length).unwrap_or(rest);
        let number = || std::str::from_utf8(piece).ok()?.parse::<f64>().ok();
        let odd = is_word(byte)
            && !matches!(piece, b"true" | b"false" | b"null")
            && number().is_none_or(|n| !n.is_finite());
        out.extend_from_slice(if odd { b"null" } else { piece });
        changed |= odd;
        at += length.max(1);
    }
    changed.then_some(out)
}

/// The bytes of a JSON string with its quotes, up to the end where it has none.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Text as one segment of a path or one value of a query (RFC 3986).
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A URL with more fields in its query.
pub(crate) fn with_query(url: &str, fields: &[(&str, &str)]) -> String {
    let mut out = url.to_owned();
    for (name, value) in fields {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(&format!("{name}={}", escape(value)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_read_as_nothing() {
        for (text, want) in [
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity], "c": 1e400}"#,
                Some(r#"{"a":null,"b":[null,null],"c":null}"#),
            ),
            (r#"{"a": "NaN \" NaN", "b": nan}"#, Some(r#"{"a":"NaN \" NaN","b":null}"#)),
            (r#"{"a": 1.5e3, "b": true}"#, Some(r#"{"a":1500.0,"b":true}"#)),
            (r#"{"a": NaN"#, None),
            (r#"{"a": "NaN"#, None),
            ("<html>NaN</html>", None),
            (" ", None),
        ] {
            let body = ReplyBody::Text(Bytes::from(text.to_owned()));
            let reply = Reply { status: 200, headers: Vec::new(), body };
            let read = reply.json::<Value>().ok().map(|value| value.to_string());
            assert_eq!(read.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn queries_are_escaped_and_added_to() {
        for (url, value, want) in [
            (
                "https://a.example/x",
                "https://b.example/c?d=e&f",
                "https://a.example/x?q=https%3A%2F%2Fb.example%2Fc%3Fd%3De%26f",
            ),
            ("https://a.example/x?y=1", "ä +", "https://a.example/x?y=1&q=%C3%A4%20%2B"),
            ("https://a.example/x", "A-z_0.9~", "https://a.example/x?q=A-z_0.9~"),
        ] {
            assert_eq!(with_query(url, &[("q", value)]), want);
        }
    }
}
