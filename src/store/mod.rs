//! Finished artifacts, kept under a key until their retention ends: in memory, on disk, or in
//! anything that speaks S3.
//!
//! [`Store::put`] keeps a blob, [`Store::url`] makes a link to it. Links to the memory and disk
//! stores lead back to the gateway, are signed and expire ([`Store::open_signed`]); links to S3
//! lead there, presigned or under a public base URL.
//!
//! Times are Unix seconds and passed in, so that tests own the clock.

mod disk;
mod key;
mod memory;
#[cfg(feature = "s3")]
mod s3;
mod sign;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use providers::media::Format;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    db::Durability,
    media::blob::{Blob, BlobWriter, Budget, Encoding},
};
pub use key::{KeyParts, KeyTemplate, KeyTemplateError};
pub use sign::ObjectId;
use sign::{Claim, Signer};

/// How and where things are kept.
#[derive(Clone)]
pub struct StoreSettings {
    /// Where.
    pub kind: StoreKind,
    /// How long an object is kept after it was made.
    pub retention: Duration,
    /// What objects are called.
    pub key_template: KeyTemplate,
    /// What the gateway is called from outside, without a trailing slash.
    pub public_url: String,
    /// Keys of links to the gateway: the first signs, all are believed.
    pub signing_keys: Vec<[u8; 32]>,
}

/// Where things are kept.
#[derive(Clone)]
pub enum StoreKind {
    /// In this process, gone with it.
    Memory {
        /// Bytes kept at most.
        max_bytes: u64,
    },
    /// In files under a directory.
    Disk {
        /// The directory; made if missing.
        path: PathBuf,
    },
    /// In a bucket.
    S3(S3Settings),
}

/// A bucket, and who we are there.
#[derive(Clone)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// Its region, such as `eu-central-1`; other makers' servers often take any.
    pub region: String,
    /// The server, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// The bucket in the path rather than in the host name.
    pub path_style: bool,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// How long a presigned link works; at most seven days.
    pub presign_ttl: Duration,
    /// Where the bucket is public; links are then not presigned.
    pub public_base_url: Option<String>,
}

/// What an object is and how it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// What the bytes are.
    pub format: Format,
    /// Public model name.
    pub model: String,
    /// Provider id.
    pub provider: String,
    /// Deployment name.
    pub deployment: String,
    /// The job it belongs to.
    pub job: String,
    /// What the job was for, such as `image.edit`.
    #[serde(default)]
    pub task: String,
    /// What was asked, without words: size, quality, ...; pictures by their digests.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// What the whole job is charged, in dollars.
    #[serde(default)]
    pub cost_usd: Option<String>,
    /// The seed it was drawn with, where known.
    pub seed: Option<u64>,
    /// SHA-256 of the prompt, in hexadecimal; the prompt itself is not kept.
    pub prompt_sha256: Option<String>,
    /// SHA-256 of the bytes, in hexadecimal, where the caller knows it already. Other bytes are
    /// then refused.
    pub sha256: Option<String>,
    /// When it was made, in Unix seconds.
    pub created: u64,
}

/// An object that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its key.
    pub key: String,
    /// Its id; part of what makes a link unguessable.
    pub id: ObjectId,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Until when a link to it works, in Unix seconds; none where the bucket decides.
    pub expires_at: Option<u64>,
}

/// What a reader must know before the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHeader {
    /// What the bytes are.
    pub format: Format,
    /// How many there are.
    pub len: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
    /// Until when they are kept, in Unix seconds.
    pub expires_at: u64,
}

impl ObjectHeader {
    /// The media type.
    pub fn mime(&self) -> &'static str {
        self.format.mime()
    }
}

/// The bytes of a kept object.
pub type ObjectStream = BoxStream<'static, io::Result<Bytes>>;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why something could not be kept, or was not found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room.
    #[error("the store is full; free space, shorten [store] retention or choose a larger store")]
    Full,
    /// The store does not let us.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// The store cannot be reached or does not work; may be tried again.
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was to be kept cannot be read.
    #[error("the bytes to be kept cannot be read")]
    Body(#[source] io::Error),
    /// What was to be kept is not what it should be.
    #[error("the bytes to be kept do not have the digest they should have")]
    Digest,
    /// Not a key.
    #[error("{key:?} is no key: it is one {flaw}")]
    Key {
        /// What was given.
        key: String,
        /// What is wrong with it.
        flaw: &'static str,
    },
    /// The link has expired.
    #[error("the link has expired")]
    Expired,
    /// The link is not one of ours.
    #[error("the link was not made by this gateway")]
    Forged,
    /// Nothing is kept there any more.
    #[error("nothing is kept under that link")]
    Unknown,
    /// The store cannot be set up like this.
    #[error("{0}")]
    Settings(String),
}

impl StoreError {
    /// What the file system said.
    fn io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Refused(
                "the directory in [store] path must be writable by this process".to_owned(),
            ),
            _ => Self::Unavailable(error.into()),
        }
    }
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Backend,
    retention: Duration,
    key_template: KeyTemplate,
    public_url: String,
    signer: Signer,
}

#[derive(Debug)]
enum Backend {
    Memory(Arc<memory::Memory>),
    Disk(disk::Disk),
    #[cfg(feature = "s3")]
    S3(Box<s3::S3>),
}

impl Store {
    /// Sets the store up; for disk, makes the directory. Nothing else is touched: see
    /// [`ready`](Self::ready).
    pub async fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let signer = Signer::new(&settings.signing_keys)?;
        let backend = match settings.kind {
            StoreKind::Memory { max_bytes } => {
                Backend::Memory(Arc::new(memory::Memory::new(max_bytes)))
            }
            StoreKind::Disk { path } => Backend::Disk(disk::Disk::open(path).await?),
            #[cfg(feature = "s3")]
            StoreKind::S3(bucket) => Backend::S3(Box::new(s3::S3::new(bucket)?)),
            #[cfg(not(feature = "s3"))]
            StoreKind::S3(_) => {
                return Err(StoreError::Settings(
                    "this binary was built without S3; build it with the feature `s3`".to_owned(),
                ));
            }
        };
        Ok(Self(Arc::new(Inner {
            backend,
            retention: settings.retention,
            key_template: settings.key_template,
            public_url: settings.public_url.trim_end_matches('/').to_owned(),
            signer,
        })))
    }

    /// The key of an output, by the operator's template.
    pub fn key(&self, parts: &KeyParts<'_>) -> String {
        self.0.key_template.key(parts)
    }

    /// Keeps a blob under a key. What was there before is replaced, at once or not at all. Files
    /// are as durable as asked.
    pub async fn put(
        &self,
        key: &str,
        meta: &ObjectMeta,
        body: &Blob,
        durability: Durability,
    ) -> Result<Kept, StoreError> {
        self.put_until(key, meta, body, durability, self.0.retention).await
    }

    /// A link under which somebody else may fetch a blob for a while. The copy behind it is gone
    /// soon afterwards; in a bucket, when the bucket's own rules say so.
    pub async fn lend(
        &self,
        key: &str,
        meta: &ObjectMeta,
        body: &Blob,
        time: Duration,
    ) -> Result<String, StoreError> {
        let kept = self.put_until(key, meta, body, Durability::Process, time).await?;
        self.url(&kept).await
    }

    /// Whether its links lead to a bucket, and not to this gateway.
    pub fn is_bucket(&self) -> bool {
        !matches!(self.0.backend, Backend::Memory(_) | Backend::Disk(_))
    }

    async fn put_until(
        &self,
        key: &str,
        meta: &ObjectMeta,
        body: &Blob,
        durability: Durability,
        time: Duration,
    ) -> Result<Kept, StoreError> {
        key::check(key)?;
        let expires_at = meta.created.saturating_add(time.as_secs());
        let object = Object {
            key: key.to_owned(),
            id: ObjectId::random()?,
            expires_at,
            meta: meta.clone(),
            body: body.clone(),
        };
        match &self.0.backend {
            Backend::Memory(memory) => {
                let memory = Arc::clone(memory);
                blocking(move || memory.put(object)).await
            }
            Backend::Disk(disk) => disk.put(object, durability).await,
            #[cfg(feature = "s3")]
            Backend::S3(s3) => s3.put(object).await,
        }
    }

    /// A link to a kept object, good until it expires.
    #[cfg_attr(
        not(feature = "s3"),
        expect(clippy::unused_async, reason = "only a bucket is asked for its links")
    )]
    pub async fn url(&self, kept: &Kept) -> Result<String, StoreError> {
        match &self.0.backend {
            #[cfg(feature = "s3")]
            Backend::S3(s3) => s3.url(&kept.key).await,
            Backend::Memory(_) | Backend::Disk(_) => {
                let token = self.0.signer.sign(&claim(kept));
                Ok(format!("{}/media/{token}", self.0.public_url))
            }
        }
    }

    /// What a link to the gateway leads to: [`StoreError::Forged`] if it is not ours,
    /// [`StoreError::Expired`] if it was, [`StoreError::Unknown`] if its object is gone.
    pub async fn open_signed(
        &self,
        token: &str,
        now: u64,
    ) -> Result<(ObjectHeader, ObjectStream), StoreError> {
        let claim = self.0.signer.verify(token, now)?;
        key::check(&claim.key)?;
        let (header, stream) = match &self.0.backend {
            Backend::Memory(memory) => memory.open(&claim)?,
            Backend::Disk(disk) => disk.open_object(&claim).await?,
            #[cfg(feature = "s3")]
            Backend::S3(_) => return Err(StoreError::Unknown),
        };
        if header.expires_at <= now { Err(StoreError::Expired) } else { Ok((header, stream)) }
    }

    /// A kept object's bytes, back in a blob.
    pub async fn read(&self, kept: &Kept, budget: &Arc<Budget>) -> Result<Blob, StoreError> {
        let mut stream = match &self.0.backend {
            Backend::Memory(memory) => memory.open(&claim(kept))?.1,
            Backend::Disk(disk) => disk.open_object(&claim(kept)).await?.1,
            #[cfg(feature = "s3")]
            Backend::S3(s3) => s3.read(&kept.key).await?,
        };
        let mut writer = BlobWriter::new(Encoding::Raw, budget);
        while let Some(piece) = stream.next().await {
            writer.push(piece.map_err(StoreError::Body)?).map_err(StoreError::Body)?;
        }
        Ok(writer.finish())
    }

    /// Removes what is past its retention. Objects in a bucket are left to the bucket's own
    /// lifecycle rules.
    pub async fn sweep(&self, now: u64) -> Result<Swept, StoreError> {
        match &self.0.backend {
            Backend::Memory(memory) => Ok(memory.sweep(now)),
            Backend::Disk(disk) => disk.sweep(now).await,
            #[cfg(feature = "s3")]
            Backend::S3(_) => Ok(Swept::default()),
        }
    }

    /// Whether something could be kept now.
    pub async fn ready(&self) -> Result<(), StoreError> {
        match &self.0.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Disk(disk) => disk.ready().await,
            #[cfg(feature = "s3")]
            Backend::S3(s3) => s3.ready().await,
        }
    }
}

/// What a link to a kept object says.
fn claim(kept: &Kept) -> Claim {
    let expires_at = kept.expires_at.unwrap_or(0);
    Claim { id: kept.id, expires_at, key: kept.key.clone() }
}

/// Something to be kept.
#[derive(Debug)]
struct Object {
    key: String,
    id: ObjectId,
    expires_at: u64,
    meta: ObjectMeta,
    body: Blob,
}

impl Object {
    /// Hands the bytes to `take`, piece by piece, and gives their length and digest. Blocks.
    fn read(
        &self,
        mut take: impl FnMut(Bytes) -> Result<(), StoreError>,
    ) -> Result<(u64, String), StoreError> {
        let mut pieces = self.body.pieces();
        let mut digest = Sha256::new();
        let mut len = 0;
        while let Some(piece) = pieces.next_raw().map_err(StoreError::Body)? {
            digest.update(&piece);
            len += piece.len() as u64;
            take(piece)?;
        }
        let sha256 = hex::encode(digest.finalize());
        let expected = self.meta.sha256.as_deref();
        if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(&sha256)) {
            return Err(StoreError::Digest);
        }
        Ok((len, sha256))
    }
}

/// Runs what waits for a disk or hashes much, off the threads that serve sockets.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    #[expect(clippy::disallowed_methods, reason = "files and digests, not pixels")]
    let work = tokio::task::spawn_blocking(work);
    work.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.into())))
}
