//! Bytes of a picture between where they come from and where they go.
//!
//! A blob is a list of the very buffers the socket filled, or a temporary file once memory runs
//! short, and it remembers whether it holds the bytes themselves or their base64 text. So a
//! base64 reply that is answered as base64 is never decoded, and a hundred large pictures at
//! once cost disk and not memory.

use std::{
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

/// Text is decoded and encoded in pieces of this many bytes of text; a multiple of four.
const TEXT_PIECE: usize = 64 * 1024;
/// Raw bytes that make one such piece.
const RAW_PIECE: usize = TEXT_PIECE / 4 * 3;

/// What the stored bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The media itself.
    Raw,
    /// Its standard base64 text, padded.
    Base64,
}

/// How much memory all blobs together may hold before they go to disk.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.left
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .is_ok()
    }

    fn give(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// Memory taken from a budget, given back when dropped.
#[derive(Debug, Default)]
struct Lease {
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give(self.bytes);
        }
    }
}

/// A finished blob. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blob {
    content: Arc<Content>,
    encoding: Encoding,
    len: u64,
}

#[derive(Debug)]
enum Content {
    Memory { parts: Vec<Bytes>, _lease: Lease },
    File(std::fs::File),
}

/// Collects a blob piece by piece.
#[derive(Debug)]
pub struct BlobWriter {
    encoding: Encoding,
    parts: Vec<Bytes>,
    lease: Lease,
    file: Option<std::fs::File>,
    len: u64,
}

impl BlobWriter {
    /// An empty blob that may take memory from the budget.
    pub fn new(encoding: Encoding, budget: &Arc<Budget>) -> Self {
        let lease = Lease { budget: Some(Arc::clone(budget)), bytes: 0 };
        Self { encoding, parts: Vec::new(), lease, file: None, len: 0 }
    }

    /// Bytes collected so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was collected yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds bytes; moves everything to a temporary file once the budget is used up. Writes to
    /// that file are short and go to the page cache.
    pub fn push(&mut self, bytes: Bytes) -> io::Result<()> {
        self.len += bytes.len() as u64;
        if let Some(file) = &mut self.file {
            return file.write_all(&bytes);
        }
        let fits = self.lease.budget.as_ref().is_none_or(|b| b.take(bytes.len()));
        if fits {
            self.lease.bytes += bytes.len();
            self.parts.push(bytes);
            return Ok(());
        }
        let mut file = tempfile::tempfile()?;
        for part in self.parts.drain(..) {
            file.write_all(&part)?;
        }
        file.write_all(&bytes)?;
        self.lease = Lease::default();
        self.file = Some(file);
        Ok(())
    }

    /// The finished blob.
    pub fn finish(self) -> Blob {
        let content = match self.file {
            Some(file) => Content::File(file),
            None => Content::Memory { parts: self.parts, _lease: self.lease },
        };
        Blob { content: Arc::new(content), encoding: self.encoding, len: self.len }
    }
}

impl From<Bytes> for Blob {
    /// Media bytes already in memory.
    fn from(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        let content = Content::Memory { parts: vec![bytes], _lease: Lease::default() };
        Self { content: Arc::new(content), encoding: Encoding::Raw, len }
    }
}

impl Blob {
    /// Media bytes, kept in memory as long as the budget allows.
    pub fn within(bytes: Bytes, budget: &Arc<Budget>) -> io::Result<Self> {
        let mut writer = BlobWriter::new(Encoding::Raw, budget);
        writer.push(bytes)?;
        Ok(writer.finish())
    }

    /// Base64 text already in memory.
    pub fn from_base64(text: String) -> Self {
        let mut blob = Self::from(Bytes::from(text));
        blob.encoding = Encoding::Base64;
        blob
    }

    /// What the stored bytes are.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Whether it lies in a file.
    pub fn is_spooled(&self) -> bool {
        matches!(*self.content, Content::File(_))
    }

    /// Bytes of media it holds, whatever the encoding.
    pub fn media_len(&self) -> u64 {
        match self.encoding {
            Encoding::Raw => self.len,
            Encoding::Base64 => {
                let padding = self
                    .stored(self.len.saturating_sub(2), 2)
                    .map_or(0, |tail| tail.iter().rev().take_while(|b| **b == b'=').count() as u64);
                (self.len / 4 * 3).saturating_sub(padding)
            }
        }
    }

    /// Stored bytes from `offset`, at most `count`.
    fn stored(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        match &*self.content {
            Content::Memory { parts, .. } => {
                let mut out = Vec::with_capacity(count.min(self.len as usize));
                let mut skip = offset as usize;
                for part in parts {
                    if skip >= part.len() {
                        skip -= part.len();
                        continue;
                    }
                    let take = (count - out.len()).min(part.len() - skip);
                    out.extend_from_slice(&part[skip..skip + take]);
                    skip = 0;
                    if out.len() == count {
                        break;
                    }
                }
                Ok(out)
            }
            Content::File(file) => read_at(file, offset, count),
        }
    }

    /// The first bytes of the media, at most `count`; fewer where it is shorter or not base64.
    pub fn head(&self, count: usize) -> io::Result<Vec<u8>> {
        match self.encoding {
            Encoding::Raw => self.stored(0, count),
            Encoding::Base64 => {
                let text = self.stored(0, count.div_ceil(3) * 4)?;
                let whole = text.len() / 4 * 4;
                let mut bytes = decode(&text[..whole])?;
                bytes.truncate(count);
                Ok(bytes)
            }
        }
    }

    /// The last bytes of the media, at least `count` where there are as many.
    pub fn tail(&self, count: usize) -> io::Result<Vec<u8>> {
        match self.encoding {
            Encoding::Raw => self.stored(self.len.saturating_sub(count as u64), count),
            Encoding::Base64 => {
                if !self.len.is_multiple_of(4) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the base64 text is cut off",
                    ));
                }
                let want = count.div_ceil(3) * 4 + 4;
                let start = self.len.saturating_sub(want as u64) / 4 * 4;
                decode(&self.stored(start, want + 4)?)
            }
        }
    }

    /// All the media in one buffer. For conversions, which need it whole.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        if let (Encoding::Raw, Content::Memory { parts, .. }) = (self.encoding, &*self.content)
            && let [only] = parts.as_slice()
        {
            return Ok(only.clone());
        }
        let mut out = BytesMut::with_capacity(self.media_len() as usize);
        let mut pieces = self.pieces();
        while let Some(piece) = pieces.next_raw()? {
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    }

    /// The media, piece by piece.
    pub fn raw_stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let pieces = self.pieces();
        stream::try_unfold(pieces, |mut p| async move { Ok(p.next_raw()?.map(|piece| (piece, p))) })
    }

    /// Its base64 text, piece by piece. What is stored as text passes untouched.
    pub fn base64_stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let pieces = self.pieces();
        stream::try_unfold(
            pieces,
            |mut p| async move { Ok(p.next_base64()?.map(|piece| (piece, p))) },
        )
    }

    /// Length of its base64 text.
    pub fn base64_len(&self) -> u64 {
        match self.encoding {
            Encoding::Base64 => self.len,
            Encoding::Raw => self.len.div_ceil(3) * 4,
        }
    }

    /// A reader over the media from the start.
    pub fn pieces(&self) -> Pieces {
        Pieces { blob: self.clone(), offset: 0, part: 0, pending: Bytes::new(), carry: Vec::new() }
    }
}

/// Reads without moving the file's position, so any number of readers may share it.
fn read_at(file: &std::fs::File, offset: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match file.read_at(&mut out[filled..], offset + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    out.truncate(filled);
    Ok(out)
}

fn decode(text: &[u8]) -> io::Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads a blob from its start, in either form.
#[derive(Debug)]
pub struct Pieces {
    blob: Blob,
    offset: u64,
    part: usize,
    /// What is left of a large buffer.
    pending: Bytes,
    carry: Vec<u8>,
}

impl Pieces {
    fn next_stored(&mut self) -> io::Result<Option<Bytes>> {
        match &*self.blob.content {
            Content::Memory { parts, .. } => {
                let part = parts.get(self.part).cloned();
                self.part += 1;
                Ok(part)
            }
            Content::File(_) => {
                let piece = self.blob.stored(self.offset, TEXT_PIECE)?;
                self.offset += piece.len() as u64;
                Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
            }
        }
    }

    /// The next piece of the media.
    pub fn next_raw(&mut self) -> io::Result<Option<Bytes>> {
        match self.blob.encoding {
            Encoding::Raw => self.next_stored(),
            Encoding::Base64 => self.regrouped(4, decode),
        }
    }

    /// The next piece of its base64 text.
    pub fn next_base64(&mut self) -> io::Result<Option<Bytes>> {
        match self.blob.encoding {
            Encoding::Base64 => self.next_stored(),
            Encoding::Raw => self.regrouped(3, |raw| Ok(STANDARD.encode(raw).into_bytes())),
        }
    }

    /// Stored pieces cut at multiples of `group`, each turned by `turn`.
    fn regrouped(
        &mut self,
        group: usize,
        turn: impl Fn(&[u8]) -> io::Result<Vec<u8>>,
    ) -> io::Result<Option<Bytes>> {
        loop {
            let mut piece = std::mem::take(&mut self.pending);
            if piece.is_empty() {
                match self.next_stored()? {
                    Some(stored) => piece = stored,
                    None => break,
                }
            }
            // One buffer may be a whole picture: never turn it all at once.
            self.pending = piece.split_off(piece.len().min(RAW_PIECE));
            if self.carry.is_empty() && piece.len().is_multiple_of(group) && !piece.is_empty() {
                return Ok(Some(turn(&piece)?.into()));
            }
            self.carry.extend_from_slice(&piece);
            let whole = self.carry.len() / group * group;
            if whole >= RAW_PIECE {
                let rest = self.carry.split_off(whole);
                let full = std::mem::replace(&mut self.carry, rest);
                return Ok(Some(turn(&full)?.into()));
            }
        }
        if self.carry.is_empty() {
            return Ok(None);
        }
        turn(&std::mem::take(&mut self.carry)).map(|out| Some(out.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(encoding: Encoding, content: &[u8], memory: usize, piece: usize) -> Blob {
        let mut writer = BlobWriter::new(encoding, &Budget::new(memory));
        for part in content.chunks(piece) {
            writer.push(Bytes::copy_from_slice(part)).unwrap();
        }
        writer.finish()
    }

    #[test]
    fn both_forms_come_out_whole_from_memory_and_from_disk() {
        for len in [0, 1, 2, 3, 1000, 200_001] {
            let raw: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let text = STANDARD.encode(&raw).into_bytes();
            for memory in [0, usize::MAX] {
                for piece in [5, 4096, 100_000] {
                    for (encoding, stored) in [(Encoding::Raw, &raw), (Encoding::Base64, &text)] {
                        let blob = blob(encoding, stored, memory, piece);
                        assert_eq!(blob.is_spooled(), memory == 0 && len > 0);
                        assert_eq!(blob.to_bytes().unwrap(), raw);
                        assert_eq!(blob.media_len(), len as u64);
                        assert_eq!(blob.base64_len(), text.len() as u64);
                        assert_eq!(blob.head(10).unwrap(), raw[..len.min(10)]);
                        assert!(blob.tail(8).unwrap().ends_with(&raw[len - len.min(8)..]));
                        let mut pieces = blob.pieces();
                        let mut out = Vec::new();
                        while let Some(p) = pieces.next_base64().unwrap() {
                            out.extend_from_slice(&p);
                        }
                        assert_eq!(out, text);
                    }
                }
            }
        }
    }

    #[test]
    fn memory_is_given_back() {
        let budget = Budget::new(10);
        let mut writer = BlobWriter::new(Encoding::Raw, &budget);
        writer.push(Bytes::from_static(b"12345678")).unwrap();
        let blob = writer.finish();
        assert!(!budget.take(3));
        drop(blob);
        assert!(budget.take(10));
    }

    #[test]
    fn cut_off_text_is_an_error() {
        let cut = Blob::from_base64("QUJ".to_owned());
        assert!(cut.tail(4).is_err());
        assert!(cut.to_bytes().is_err());
    }
}
