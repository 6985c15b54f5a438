//! Bodies with pictures among their fields: a form, or JSON with links and data URIs.
//!
//! Pictures are put aside piece by piece as they arrive, on disk once memory is short, and their
//! digest is taken on the way. A file's name and type are not believed: what it is, is told from
//! its bytes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use base64::{
    Engine as _,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::body;
use crate::{
    engine::{Engine, lift::Lifter, request::Given},
    error::{Code, Error},
    media::{
        blob::{Blob, BlobWriter, Budget, Encoding},
        fetch::FetchError,
    },
};

/// Most pictures of a request.
const MOST_IMAGES: usize = 16;
/// Longest text field of a form.
const LONGEST_TEXT: usize = 1024 * 1024;
/// All text fields of a form together.
const ALL_TEXTS: usize = 4 * 1024 * 1024;
/// Longest string of a JSON body that is read as text: no prompt is longer, a picture may be.
const LONGEST_STRING: usize = 256 * 1024;
/// Longest name of a form's field, and how deep it may reach.
const LONGEST_NAME: usize = 256;
const DEEPEST_NAME: usize = 8;
/// What may arrive between two fields of a form: boundaries and heads, and a piece of the next.
const LONGEST_HEAD: u64 = 256 * 1024;
/// Pieces of a file are gathered to this size before they are put aside.
const PIECE: usize = 64 * 1024;
/// Least bytes a second of a body that takes longer than [`PATIENCE`].
const LEAST_RATE: u64 = 1024;
/// Links fetched at a time.
const FETCHED_AT_ONCE: usize = 4;
/// Most fields of a form.
const MOST_FIELDS: usize = 100;
/// How long a body may stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fields of a form that are numbers, truth values, and JSON.
const NUMBERS: [&str; 5] = ["n", "seed", "output_compression", "partial_images", "scale_factor"];
const FLAGS: [&str; 6] =
    ["stream", "strict", "verbose", "require_all", "webp_lossless", "heartbeat"];
const JSON: [&str; 4] = ["provider", "provider_options", "metadata", "models"];

/// What a body may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of a JSON body.
    pub(super) json: usize,
    /// Bytes of one file of a form.
    pub(super) file: u64,
}

/// A picture as it came: not looked at yet.
#[derive(Debug)]
enum Sent {
    /// Its bytes.
    Bytes(Blob),
    /// Where it is.
    Link(String),
}

/// A body, its pictures apart from its fields.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// All other fields.
    pub(super) fields: Map<String, Value>,
    images: Vec<(Sent, String)>,
    mask: Option<(Sent, String)>,
}

/// The pictures of a body.
#[derive(Debug, Default)]
pub(super) struct Pictures {
    /// Those to work from.
    pub(super) images: Vec<Given>,
    /// What is to be edited.
    pub(super) mask: Option<Given>,
}

impl Upload {
    /// A body that holds fields alone.
    pub(super) fn without_pictures(fields: Map<String, Value>) -> Self {
        Self { fields, ..Self::default() }
    }

    /// Reads a body of either kind.
    pub(super) async fn read(
        headers: &HeaderMap,
        body: Body,
        limits: Limits,
        budget: &Arc<Budget>,
    ) -> Result<Self, Error> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let kind = kind.unwrap_or_default();
        let media = kind.split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("multipart/form-data") {
            return json(headers, body, limits.json, budget).await;
        }
        let boundary = multer::parse_boundary(kind).map_err(|_| {
            Error::new(Code::InvalidRequest, "the form's content type names no boundary")
        })?;
        form(body, boundary, limits.file, budget).await
    }

    /// What the request's fingerprint is made of: the fields, and the pictures by their digests.
    pub(super) fn printed(&self) -> Map<String, Value> {
        let mut printed = self.fields.clone();
        if self.images.is_empty() {
            return printed;
        }
        let images = self.images.iter().map(|(_, digest)| Value::from(digest.as_str()));
        printed.insert("image".to_owned(), images.collect());
        if let Some((_, digest)) = &self.mask {
            printed.insert("mask".to_owned(), digest.as_str().into());
        }
        printed
    }

    /// Whether a mask came.
    pub(super) fn has_mask(&self) -> bool {
        self.mask.is_some()
    }

    /// Whether something must be fetched.
    pub(super) fn has_links(&self) -> bool {
        let all = self.images.iter().chain(&self.mask);
        all.map(|(sent, _)| sent).any(|sent| matches!(sent, Sent::Link(_)))
    }

    /// How many pictures came.
    pub(super) fn count(&self) -> usize {
        self.images.len()
    }

    /// Fetches what is linked, and looks at what came.
    pub(super) async fn pictures(self, engine: &Engine, most: u64) -> Result<Pictures, Error> {
        let looked = self
            .images
            .into_iter()
            .map(|(sent, digest)| given(engine, sent, digest, "image", most));
        let images = stream::iter(looked).buffered(FETCHED_AT_ONCE).try_collect().await?;
        let mut pictures = Pictures { images, mask: None };
        if let Some((sent, digest)) = self.mask {
            pictures.mask = Some(given(engine, sent, digest, "mask", most).await?);
        }
        if let (Some(mask), Some(first)) = (&pictures.mask, pictures.images.first())
            && mask.size != first.size
        {
            let message = format!(
                "the mask is {} and the first image {}: they must have the same size",
                mask.size, first.size
            );
            return Err(Error::new(Code::InvalidImage, message).param("mask"));
        }
        Ok(pictures)
    }

    fn add(&mut self, name: &str, sent: Sent, digest: String) -> Result<(), Error> {
        if name == "mask" {
            if self.mask.replace((sent, digest)).is_some() {
                return Err(Error::invalid("mask", "there is one mask"));
            }
            return Ok(());
        }
        if self.images.len() == MOST_IMAGES {
            let message = format!("at most {MOST_IMAGES} images are taken");
            return Err(Error::invalid("image", message));
        }
        self.images.push((sent, digest));
        Ok(())
    }
}

/// The name of a field of pictures, in every spelling: `image`, `image[]`, `image[0]`, `images`.
fn picture_field(name: &str) -> Option<&'static str> {
    match name.split('[').next().unwrap_or_default() {
        "image" | "images" => Some("image"),
        "mask" => Some("mask"),
        _ => None,
    }
}

async fn form(
    body: Body,
    boundary: String,
    most: u64,
    budget: &Arc<Budget>,
) -> Result<Upload, Error> {
    let mut upload = Upload::default();
    let mut pace = Pace::new();
    let allowance = Arc::new(AtomicU64::new(LONGEST_HEAD));
    let counted = Arc::clone(&allowance);
    // Shared, so that what the parser leaves behind the last boundary can be read as well.
    let source = Arc::new(Mutex::new(body.into_data_stream()));
    let pieces = stream::unfold(Arc::clone(&source), |source| async move {
        let next = source.lock().await.next().await;
        next.map(|chunk| (chunk, source))
    });
    let body = pieces.boxed().map(move |chunk| {
        let chunk = chunk.map_err(io::Error::other)?;
        // One piece may go beyond: the beginning of a file comes with its head.
        let take = |left: u64| (left > 0).then(|| left.saturating_sub(chunk.len() as u64));
        let held = counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        held.map_err(|_| io::Error::other("a head of the form is too long"))?;
        Ok::<_, io::Error>(chunk)
    });
    let mut form = multer::Multipart::new(body, boundary);
    let (mut fields, mut texts) = (0, 0);
    loop {
        // Between fields the parser gathers what it is given: not endlessly.
        allowance.store(LONGEST_HEAD, Ordering::Relaxed);
        let Some(mut field) = pace.wait(form.next_field()).await?.map_err(broken)? else { break };
        allowance.store(u64::MAX, Ordering::Relaxed);
        fields += 1;
        if fields > MOST_FIELDS {
            let message = format!("a form has at most {MOST_FIELDS} fields");
            return Err(Error::new(Code::InvalidRequest, message));
        }
        let name = field.name().unwrap_or_default().to_owned();
        if name.len() > LONGEST_NAME || name.matches('[').count() > DEEPEST_NAME {
            return Err(Error::new(Code::InvalidRequest, "a field of the form has an odd name"));
        }
        let is_file = field.file_name().is_some() || field.content_type().is_some();
        if let Some(kind) = picture_field(&name).filter(|_| is_file) {
            let mut writer = BlobWriter::new(Encoding::Raw, budget);
            let mut digest = Sha256::new();
            let mut piece = BytesMut::new();
            let mut seen = 0;
            while let Some(chunk) = pace.wait(field.chunk()).await?.map_err(broken)? {
                pace.count(chunk.len())?;
                seen += chunk.len() as u64;
                if seen > most {
                    let message = format!("a file of more than {most} bytes is not taken");
                    return Err(Error::new(Code::RequestTooLarge, message).param(kind));
                }
                digest.update(&chunk);
                if piece.is_empty() && chunk.len() >= PIECE {
                    writer.push(chunk).map_err(Error::internal)?;
                    continue;
                }
                piece.extend_from_slice(&chunk);
                if piece.len() >= PIECE {
                    writer.push(piece.split().freeze()).map_err(Error::internal)?;
                }
            }
            writer.push(piece.freeze()).map_err(Error::internal)?;
            upload.add(kind, Sent::Bytes(writer.finish()), hex::encode(digest.finalize()))?;
            continue;
        }
        let mut text = Vec::new();
        while let Some(chunk) = pace.wait(field.chunk()).await?.map_err(broken)? {
            pace.count(chunk.len())?;
            texts += chunk.len();
            if text.len() + chunk.len() > LONGEST_TEXT || texts > ALL_TEXTS {
                let message = format!("{name} is longer than is taken");
                return Err(Error::new(Code::RequestTooLarge, message).param(name));
            }
            text.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(text)
            .map_err(|_| Error::invalid(name.clone(), format!("{name} is not UTF-8")))?;
        if let Some(kind) = picture_field(&name) {
            let (sent, digest) = linked(&text, kind)?;
            upload.add(kind, sent, digest)?;
        } else {
            put(&mut upload.fields, &name, &text)?;
        }
    }
    drop(form);
    // A connection whose request was not read to its end is reset, and the answer with it.
    let mut rest = source.lock().await;
    let mut left = 0;
    while let Some(chunk) = pace.wait(rest.next()).await? {
        let chunk = chunk
            .map_err(|e| Error::new(Code::InvalidRequest, "the body ended early").because(e))?;
        left += chunk.len() as u64;
        if left > LONGEST_HEAD {
            return Err(Error::new(Code::InvalidRequest, "the form goes on behind its end"));
        }
    }
    drop(rest);
    Ok(upload)
}

/// Holds a body to a pace: it may stand still for a while, and must not trickle for ever.
struct Pace {
    begun: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { begun: Instant::now(), bytes: 0 }
    }

    async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, Error> {
        tokio::time::timeout(PATIENCE, next).await.map_err(|_| {
            let message = "the body did not arrive; nothing came for ten seconds";
            Error::new(Code::InvalidRequest, message)
        })
    }

    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes as u64;
        let taken = self.begun.elapsed().as_secs();
        if taken > PATIENCE.as_secs() && self.bytes < LEAST_RATE * taken {
            let message = format!("the body arrives at less than {LEAST_RATE} bytes a second");
            return Err(Error::new(Code::InvalidRequest, message));
        }
        Ok(())
    }
}

fn broken(error: multer::Error) -> Error {
    Error::new(Code::InvalidRequest, "the form cannot be read, or ended early").because(error)
}

/// Puts a field of a form where the SDKs mean it: `metadata[team]` is a field of an object,
/// `models[]` one of a list.
fn put(fields: &mut Map<String, Value>, name: &str, text: &str) -> Result<(), Error> {
    let Some((outer, rest)) = name.split_once('[') else {
        if fields.insert(name.to_owned(), typed(name, text)).is_some() {
            return Err(Error::invalid(name.to_owned(), format!("{name} is there twice")));
        }
        return Ok(());
    };
    let odd =
        || Error::invalid(name.to_owned(), format!("the field name {name:?} is not understood"));
    let inner = rest.strip_suffix(']').ok_or_else(odd)?;
    if inner.is_empty() || inner.bytes().all(|b| b.is_ascii_digit()) {
        let slot = fields.entry(outer).or_insert_with(|| Value::Array(Vec::new()));
        slot.as_array_mut().ok_or_else(odd)?.push(text.into());
        return Ok(());
    }
    let slot = fields.entry(outer).or_insert_with(|| Value::Object(Map::new()));
    // `a[b][c]` goes one deeper.
    let deeper = inner.replacen("][", "[", 1);
    let deeper = if deeper.contains('[') { format!("{deeper}]") } else { deeper };
    let object = slot.as_object_mut().ok_or_else(odd)?;
    if deeper.contains('[') {
        return put(object, &deeper, text);
    }
    let value = if outer == "metadata" { text.into() } else { loose(text) };
    object.insert(deeper, value);
    Ok(())
}

/// The value a text of a form stands for. What is not what its field takes stays text, and the
/// error that names the field comes from whoever reads it.
fn typed(name: &str, text: &str) -> Value {
    let parsed = || serde_json::from_str::<Value>(text).ok();
    let value = if NUMBERS.contains(&name) {
        parsed().filter(Value::is_number)
    } else if FLAGS.contains(&name) {
        parsed().filter(Value::is_boolean)
    } else if JSON.contains(&name) {
        parsed()
    } else if super::request::KNOWN_TEXTS.contains(&name) {
        None
    } else {
        Some(loose(text))
    };
    value.unwrap_or_else(|| text.into())
}

/// A number or a truth value where it reads as one: what goes on to a provider has its type.
fn loose(text: &str) -> Value {
    let parsed = serde_json::from_str::<Value>(text).ok();
    parsed.filter(|v| v.is_number() || v.is_boolean()).unwrap_or_else(|| text.into())
}

async fn json(
    headers: &HeaderMap,
    body: Body,
    most: usize,
    budget: &Arc<Budget>,
) -> Result<Upload, Error> {
    let too_large =
        || Error::new(Code::RequestTooLarge, format!("the body is larger than {most} bytes"));
    body::expect_json(headers)?;
    if body::announced(headers).is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let mut lifter = Lifter::new(true, budget).keeping(LONGEST_STRING);
    let mut seen = 0;
    let mut body = body;
    let mut pace = Pace::new();
    while let Some(frame) = pace.wait(body.frame()).await? {
        let frame = frame
            .map_err(|e| Error::new(Code::InvalidRequest, "the body ended early").because(e))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        pace.count(data.len())?;
        if seen > most {
            return Err(too_large());
        }
        lifter.push(&data).map_err(|_| too_large())?;
    }
    let (text, blobs) = lifter.finish();
    let mut upload = Upload { fields: body::object(headers, &text)?, ..Upload::default() };
    for name in ["image", "images", "mask"] {
        let kind = if name == "mask" { "mask" } else { "image" };
        let items = match upload.fields.swap_remove(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        };
        for item in items {
            let text = named(&item, kind)?;
            let lifted = (0..blobs.len()).find(|index| text == providers::lifted(*index));
            let (sent, digest) = match lifted {
                Some(index) => {
                    let blob = blobs[index].clone();
                    let digest = digest_of(&blob, kind)?;
                    (Sent::Bytes(blob), digest)
                }
                None => linked(text, kind)?,
            };
            upload.add(kind, sent, digest)?;
        }
    }
    // A long text that is no picture is longer than any field may be.
    let long = upload.fields.iter().find(|(_, value)| value.to_string().contains("\\u0001blob:"));
    match long {
        Some((name, _)) => {
            let message = format!("{name} is longer than any provider takes");
            Err(Error::invalid(name.clone(), message))
        }
        None => Ok(upload),
    }
}

/// The link or data of a picture in JSON: a text, or `{"image_url": ...}`.
fn named<'a>(item: &'a Value, kind: &'static str) -> Result<&'a str, Error> {
    let url = match item {
        Value::Object(object) if object.contains_key("file_id") => {
            let message = "file_id is not taken: there is no files API; send the picture, an https link or a data URI";
            return Err(Error::new(Code::UnsupportedParameter, message).param("file_id"));
        }
        Value::Object(object) => match object.get("image_url") {
            Some(Value::Object(inner)) => inner.get("url"),
            other => other,
        },
        other => Some(other),
    };
    url.and_then(Value::as_str).ok_or_else(|| {
        let message = "a picture is a text or {\"image_url\": ...}: an https link or a data URI";
        Error::invalid(kind, message)
    })
}

/// A link, or a data URI that is short enough to stand in the text.
fn linked(text: &str, kind: &'static str) -> Result<(Sent, String), Error> {
    if text.starts_with("https://") || text.starts_with("http://") {
        return Ok((Sent::Link(text.to_owned()), format!("link {text}")));
    }
    let data = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map(|(_, data)| data),
        None => Some(text),
    };
    let wrong = || {
        let message = "a picture is an https link, a data URI with base64, or base64";
        Error::new(Code::InvalidImage, message).param(kind)
    };
    let data: String =
        data.ok_or_else(wrong)?.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = decoder().decode(data).map_err(|_| wrong())?;
    let digest = hex::encode(Sha256::digest(&bytes));
    Ok((Sent::Bytes(Bytes::from(bytes).into()), digest))
}

/// Takes base64 with and without its padding.
fn decoder() -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, config)
}

fn digest_of(blob: &Blob, kind: &'static str) -> Result<String, Error> {
    let wrong =
        |_| Error::new(Code::InvalidImage, "the picture's base64 cannot be read").param(kind);
    let mut digest = Sha256::new();
    let mut pieces = blob.pieces();
    while let Some(piece) = pieces.next_raw().map_err(wrong)? {
        digest.update(&piece);
    }
    Ok(hex::encode(digest.finalize()))
}

/// A picture that came, looked at.
async fn given(
    engine: &Engine,
    sent: Sent,
    digest: String,
    kind: &'static str,
    most: u64,
) -> Result<Given, Error> {
    let (blob, sha256) = match sent {
        Sent::Bytes(blob) => (blob, digest),
        Sent::Link(url) => fetched(engine, &url, kind, most).await?,
    };
    engine.look(blob, sha256, kind).await
}

/// Fetches a link of a caller, through the guarded door. Nothing of what is found there is told.
async fn fetched(
    engine: &Engine,
    url: &str,
    kind: &'static str,
    most: u64,
) -> Result<(Blob, String), Error> {
    let failed = |error: FetchError| {
        tracing::debug!(%error, "a caller's link was not fetched");
        let message = format!(
            "the link of {kind} could not be fetched: it must lead to a picture of at most {most} \
             bytes at a public https address"
        );
        Error::new(Code::InvalidImage, message).param(kind)
    };
    let mut fetched = engine.callers_fetcher.get(url, None).await.map_err(failed)?;
    let mut writer = BlobWriter::new(Encoding::Raw, engine.transport.budget());
    let mut digest = Sha256::new();
    while let Some(chunk) = fetched.next_chunk().await.map_err(failed)? {
        if fetched.received() > most {
            return Err(failed(FetchError::TooLarge(most)));
        }
        digest.update(&chunk);
        writer.push(chunk).map_err(Error::internal)?;
    }
    Ok((writer.finish(), hex::encode(digest.finalize())))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    async fn read(kind: &str, body: Vec<u8>) -> Result<Upload, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        let limits = Limits { json: 1 << 20, file: 1000 };
        let pieces: Vec<_> = body.chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, io::Error>)));
        Upload::read(&headers, body, limits, &Budget::new(1 << 20)).await
    }

    fn multipart(parts: &[(&str, &str)]) -> Vec<u8> {
        let mut body = String::new();
        for (head, text) in parts {
            body.push_str(&format!(
                "--B\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n"
            ));
        }
        body.push_str("--B--\r\n");
        body.into_bytes()
    }

    const FORM: &str = "multipart/form-data; boundary=B";

    #[tokio::test]
    async fn forms_are_read_in_every_spelling() {
        for name in ["image", "image[]", "image[0]", "images", "images[]"] {
            let file = format!("name=\"{name}\"; filename=\"upload\"");
            let parts = [
                (file.as_str(), "one"),
                (file.as_str(), "two"),
                ("name=\"mask\"; filename=\"\"", "three"),
                ("name=\"n\"", "2"),
                ("name=\"strict\"", "true"),
                ("name=\"prompt\"", "17"),
                ("name=\"guidance\"", "3.5"),
                ("name=\"metadata[team]\"", "7"),
                ("name=\"models[]\"", "a"),
                ("name=\"models[]\"", "b"),
                ("name=\"provider[allow_fallbacks]\"", "false"),
                ("name=\"provider_options[fal][steps]\"", "4"),
            ];
            let upload = read(FORM, multipart(&parts)).await.unwrap();
            assert_eq!((upload.count(), upload.mask.is_some()), (2, true), "{name}");
            let want = json!({
                "n": 2, "strict": true, "prompt": "17", "guidance": 3.5, "metadata": {"team": "7"},
                "models": ["a", "b"], "provider": {"allow_fallbacks": false},
                "provider_options": {"fal": {"steps": 4}},
            });
            assert_eq!(Value::Object(upload.fields.clone()), want, "{name}");
            let digest = hex::encode(Sha256::digest("one"));
            assert_eq!(upload.printed()["image"][0], digest.as_str());
        }
    }

    #[tokio::test]
    async fn json_names_pictures_in_every_way() {
        let data = STANDARD.encode("one");
        let long = STANDARD.encode(vec![7; 300_000]);
        let body = json!({
            "model": "m",
            "images": [
                {"image_url": format!("data:image/png;base64,{data}")},
                {"image_url": {"url": "https://x.example/a.png"}},
                format!("data:image/png;base64,{long}"),
                data.trim_end_matches('='),
            ],
            "mask": {"image_url": "https://x.example/m.png"},
        });
        let upload = read("application/json", body.to_string().into()).await.unwrap();
        assert_eq!(upload.count(), 4);
        let digests = upload.printed()["image"].clone();
        assert_eq!(digests[0], hex::encode(Sha256::digest("one")));
        assert_eq!(digests[0], digests[3]);
        assert_eq!(digests[1], "link https://x.example/a.png");
        assert_eq!(digests[2], hex::encode(Sha256::digest(vec![7; 300_000])));
        assert_eq!(upload.fields, *json!({"model": "m"}).as_object().unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_read_names_its_field() {
        let file = "name=\"image\"; filename=\"a\"";
        let large = "x".repeat(1001);
        let seventeen = vec![(file, "x"); 17];
        for (parts, code, param) in [
            (vec![(file, large.as_str())], Code::RequestTooLarge, Some("image")),
            (seventeen, Code::InvalidRequest, Some("image")),
            (vec![("name=\"mask\"", "!")], Code::InvalidImage, Some("mask")),
            (vec![("name=\"a[b\"", "1")], Code::InvalidRequest, Some("a[b")),
            (vec![("name=\"n\"", "1"), ("name=\"n\"", "2")], Code::InvalidRequest, Some("n")),
        ] {
            let error = read(FORM, multipart(&parts)).await.unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, param), "{}", error.message);
        }
        // Names that lead deep, and heads without an end.
        let deep = format!("name=\"a{}\"", "[b]".repeat(20_000));
        let endless = format!("name=\"a\"; x=\"{}\"", "y".repeat(400_000));
        for odd in [deep, endless] {
            let error = read(FORM, multipart(&[(odd.as_str(), "1")])).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidRequest);
        }
        let cut = multipart(&[(file, "x")]);
        let error = read(FORM, cut[..cut.len() - 8].to_vec()).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest);
        assert!(read("multipart/form-data", cut).await.is_err());
        for (body, param) in [
            (json!({"image": {"file_id": "file-1"}}), "file_id"),
            (json!({"images": [7]}), "image"),
            (json!({"image": "data:image/png,raw"}), "image"),
            (json!({"prompt": "p".repeat(300_000)}), "prompt"),
        ] {
            let error = read("application/json", body.to_string().into()).await.unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {}", error.message);
        }
        let error = read("text/plain", Vec::new()).await.unwrap_err();
        assert_eq!(error.code, Code::UnsupportedMediaType);
    }
}
