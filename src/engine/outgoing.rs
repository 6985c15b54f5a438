//! Bodies that are sent to providers: text, with pictures streamed into their places.
//!
//! A picture to work from may be large and lie on disk. Adapters write a stand-in for it
//! ([`providers::inlined`]); its bytes or its base64 are put there piece by piece while the
//! request goes out, so that no body is ever held whole.

use std::{collections::BTreeMap, io};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use providers::{Part, PartValue, inlined};

use sha2::{Digest as _, Sha256};

use crate::media::blob::Blob;

/// The pictures that bodies name, by their tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs(BTreeMap<u64, Blob>);

impl Inputs {
    /// Adds a picture under the token it is named by.
    pub(crate) fn add(&mut self, token: u64, blob: Blob) {
        self.0.insert(token, blob);
    }

    fn get(&self, token: u64) -> io::Result<Blob> {
        let missing = || io::Error::other("a picture that is to be sent is not there any more");
        self.0.get(&token).cloned().ok_or_else(missing)
    }
}

/// One body, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Outgoing(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Text(Bytes),
    Raw(Blob),
    Base64(Blob),
}

impl Outgoing {
    /// JSON text, its stand-ins filled in.
    pub(crate) fn json(text: &Bytes, inputs: &Inputs) -> Self {
        let mut places: Vec<(usize, usize, &Blob)> = Vec::new();
        for (token, blob) in &inputs.0 {
            // As JSON writes the control character.
            let stand_in = inlined(*token).replace('\u{1}', "\\u0001");
            let found = memchr::memmem::find_iter(text, stand_in.as_bytes());
            places.extend(found.map(|at| (at, at + stand_in.len(), blob)));
        }
        places.sort_by_key(|(at, ..)| *at);
        let mut pieces = Vec::with_capacity(2 * places.len() + 1);
        let mut done = 0;
        for (at, end, blob) in places {
            pieces.push(Piece::Text(text.slice(done..at)));
            pieces.push(Piece::Base64(blob.clone()));
            done = end;
        }
        pieces.push(Piece::Text(text.slice(done..)));
        Self(pieces)
    }

    /// A form with this boundary.
    pub(crate) fn form(boundary: &str, parts: &[Part], inputs: &Inputs) -> io::Result<Self> {
        let mut pieces = Vec::new();
        let mut text = BytesMut::new();
        for part in parts {
            text.put_slice(format!("--{boundary}\r\n").as_bytes());
            let name = part.name.replace(['"', '\r', '\n'], "_");
            let mut head = |file: &str, mime: &str| {
                let head = format!(
                    "content-disposition: form-data; name=\"{name}\"; \
                     filename=\"{file}\"\r\ncontent-type: {mime}\r\n\r\n"
                );
                text.put_slice(head.as_bytes());
            };
            match &part.value {
                PartValue::Text(value) => text.put_slice(
                    format!("content-disposition: form-data; name=\"{name}\"\r\n\r\n{value}")
                        .as_bytes(),
                ),
                PartValue::File { name: file, mime, data } => {
                    head(file, mime);
                    text.put_slice(data);
                }
                PartValue::Input { name: file, mime, token } => {
                    head(file, mime);
                    pieces.push(Piece::Text(text.split().freeze()));
                    pieces.push(Piece::Raw(inputs.get(*token)?));
                }
            }
            text.put_slice(b"\r\n");
        }
        text.put_slice(format!("--{boundary}--\r\n").as_bytes());
        pieces.push(Piece::Text(text.freeze()));
        Ok(Self(pieces))
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        let lengths = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.len() as u64,
            Piece::Raw(blob) => blob.media_len(),
            Piece::Base64(blob) => blob.base64_len(),
        });
        lengths.sum()
    }

    /// The SHA-256 of it all, read piece by piece.
    pub(crate) async fn sha256(&self) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for piece in &self.0 {
            let mut read = match piece {
                Piece::Text(text) => {
                    hash.update(text);
                    continue;
                }
                Piece::Raw(blob) => blob.raw_stream().boxed(),
                Piece::Base64(blob) => blob.base64_stream().boxed(),
            };
            while let Some(bytes) = read.next().await {
                hash.update(bytes?);
            }
        }
        Ok(hash.finalize().into())
    }

    /// The body, as it is sent.
    pub(crate) fn into_body(self) -> reqwest::Body {
        if let [Piece::Text(text)] = self.0.as_slice() {
            return text.clone().into();
        }
        let streams = stream::iter(self.0).flat_map(|piece| match piece {
            Piece::Text(text) => stream::once(async { Ok(text) }).boxed(),
            Piece::Raw(blob) => blob.raw_stream().boxed(),
            Piece::Base64(blob) => blob.base64_stream().boxed(),
        });
        reqwest::Body::wrap_stream(streams)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    fn inputs() -> Inputs {
        let mut inputs = Inputs::default();
        inputs.add(7, Bytes::from_static(b"\x89PNG").into());
        inputs.add(u64::MAX, Blob::from_base64(STANDARD.encode("second")));
        inputs
    }

    async fn sent(outgoing: Outgoing) -> String {
        let length = outgoing.len();
        let hash = outgoing.sha256().await.unwrap();
        let body = outgoing.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len() as u64, length, "the announced length is the true one");
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&body)), hash, "and so is the hash");
        String::from_utf8_lossy(&body).into_owned()
    }

    #[tokio::test]
    async fn json_gets_the_base64_of_its_pictures() {
        let uri = |token| format!("data:image/png;base64,{}", inlined(token));
        // A caller who writes a stand-in into the prompt names no picture.
        let body =
            json!({"images": [uri(u64::MAX), uri(7)], "mask": inlined(7), "prompt": inlined(8)});
        let text = sent(Outgoing::json(&Bytes::from(body.to_string()), &inputs())).await;
        let (png, second) = (STANDARD.encode(b"\x89PNG"), STANDARD.encode("second"));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let uri = |data: &str| format!("data:image/png;base64,{data}");
        let want = json!({"images": [uri(&second), uri(&png)], "mask": png, "prompt": inlined(8)});
        assert_eq!(read, want);
        let plain = sent(Outgoing::json(&Bytes::from_static(b"{}"), &inputs())).await;
        assert_eq!(plain, "{}");
    }

    #[tokio::test]
    async fn forms_are_written_as_browsers_write_them() {
        let part = |name: &str, value| Part { name: name.to_owned(), value };
        let input = |token| PartValue::Input { name: "b.png".into(), mime: "image/png", token };
        let file = PartValue::File {
            name: "a.png".into(),
            mime: "image/png",
            data: Bytes::from_static(b"abc"),
        };
        let parts = [
            part("prompt", PartValue::Text("a \"cat\"".into())),
            part("file", file),
            part("image[]", input(u64::MAX)),
        ];
        assert_eq!(
            sent(Outgoing::form("B", &parts, &inputs()).unwrap()).await,
            "--B\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\na \"cat\"\r\n\
             --B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\
             content-type: image/png\r\n\r\nabc\r\n\
             --B\r\ncontent-disposition: form-data; name=\"image[]\"; filename=\"b.png\"\r\n\
             content-type: image/png\r\n\r\nsecond\r\n--B--\r\n"
        );
        let gone = [part("image", input(9))];
        assert!(Outgoing::form("B", &gone, &inputs()).is_err());
    }
}
