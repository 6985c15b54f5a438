//! Objects in files: the body under its key, and beside it a small JSON file that says what it
//! is. Both appear whole or not at all, and survive the loss of power once `put` has answered
//! where that was asked for. Where it was not, a loss of power may leave a body cut short, which
//! its description gives away.
//!
//! The description is put in place before the body and removed after it. So whatever a crash
//! leaves behind is either described or in the temporary directory, and the sweeper never has to
//! guess whose a file is.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio_util::io::ReaderStream;

use super::{
    Claim, Kept, Object, ObjectHeader, ObjectId, ObjectMeta, ObjectStream, StoreError, Swept,
    blocking, key::SIDECAR, memory::same,
};
use crate::db::Durability;

/// Where files grow before they are renamed; no key starts with a dot.
const TEMPORARY: &str = ".tmp";
/// A temporary file this old was left behind by a crash.
const ABANDONED: Duration = Duration::from_hours(1);
/// Bytes read at once.
const PIECE: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
}

/// What is written beside an object.
#[derive(Debug, Serialize, Deserialize)]
struct Sidecar {
    id: ObjectId,
    bytes: u64,
    sha256: String,
    expires_at: u64,
    meta: ObjectMeta,
}

impl Disk {
    pub(super) async fn open(root: PathBuf) -> Result<Self, StoreError> {
        let disk = Self { root };
        let root = disk.root.clone();
        blocking(move || make_directories(&root.join(TEMPORARY)).map_err(StoreError::io)).await?;
        Ok(disk)
    }

    pub(super) async fn put(
        &self,
        object: Object,
        durability: Durability,
    ) -> Result<Kept, StoreError> {
        let root = self.root.clone();
        blocking(move || put(&root, object, durability)).await
    }

    pub(super) async fn open_object(
        &self,
        claim: &Claim,
    ) -> Result<(ObjectHeader, ObjectStream), StoreError> {
        let path = self.root.join(&claim.key);
        let id = claim.id;
        let (header, file) = blocking(move || open(&path, id)).await?;
        let file = tokio::fs::File::from_std(file);
        Ok((header, ReaderStream::with_capacity(file, PIECE).boxed()))
    }

    pub(super) async fn sweep(&self, now: u64) -> Result<Swept, StoreError> {
        let root = self.root.clone();
        blocking(move || sweep(&root, now).map_err(StoreError::io)).await
    }

    /// Writes a file and removes it.
    pub(super) async fn ready(&self) -> Result<(), StoreError> {
        let root = self.root.clone();
        blocking(move || {
            let mut file = temporary(&root).map_err(StoreError::io)?;
            file.write_all(b"ready").map_err(StoreError::io)
        })
        .await
    }
}

fn put(root: &Path, object: Object, durability: Durability) -> Result<Kept, StoreError> {
    let mut body = temporary(root).map_err(StoreError::io)?;
    let (bytes, sha256) = object.read(|piece| body.write_all(&piece).map_err(StoreError::io))?;
    let Object { key, id, expires_at, meta, .. } = object;
    let sidecar = Sidecar { id, bytes, sha256: sha256.clone(), expires_at, meta };
    place(root, &key, body, &sidecar, durability).map_err(StoreError::io)?;
    Ok(Kept { key, id, bytes, sha256, expires_at: Some(expires_at) })
}

fn place(
    root: &Path,
    key: &str,
    body: NamedTempFile,
    sidecar: &Sidecar,
    durability: Durability,
) -> io::Result<()> {
    let sync = |file: &File| match durability {
        Durability::Full => file.sync_all(),
        Durability::Process => Ok(()),
    };
    sync(body.as_file())?;
    let mut note = temporary(root)?;
    serde_json::to_writer(&mut note, sidecar)?;
    // The sweeper reads a description only once this time has come.
    note.as_file().set_modified(at(sidecar.expires_at))?;
    sync(note.as_file())?;

    let path = root.join(key);
    let directory = path.parent().unwrap_or(root);
    make_directories(directory)?;
    let note_path = sidecar_of(&path);
    let (note, body) = (note.into_temp_path(), body.into_temp_path());
    if let Err(error) = fs::rename(&note, &note_path) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        // The sweeper found the directory empty.
        make_directories(directory)?;
        fs::rename(&note, &note_path)?;
    }
    fs::rename(&body, &path)?;
    sync(&File::open(directory)?)
}

fn open(path: &Path, id: ObjectId) -> Result<(ObjectHeader, File), StoreError> {
    let sidecar = read_sidecar(&sidecar_of(path)).map_err(missing)?;
    let file = File::open(path).map_err(missing)?;
    // A description without its body is what a crash may leave.
    let whole = file.metadata().map_err(StoreError::io)?.len() == sidecar.bytes;
    if !whole || !same(sidecar.id, id) {
        return Err(StoreError::Unknown);
    }
    let Sidecar { bytes: len, sha256, expires_at, meta, .. } = sidecar;
    Ok((ObjectHeader { format: meta.format, len, sha256, expires_at }, file))
}

fn missing(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::Unknown,
        _ => StoreError::io(error),
    }
}

fn sweep(root: &Path, now: u64) -> io::Result<Swept> {
    let mut swept = Swept::default();
    for file in list(&root.join(TEMPORARY))? {
        let old = file.modified.is_some_and(|time| time + ABANDONED <= at(now));
        if old && !file.directory {
            fs::remove_file(&file.path)?;
        }
    }
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in list(&directory)? {
            let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
            if entry.directory && !name.starts_with('.') {
                directories.push(entry.path);
            } else if let Some(object) = entry.path.to_str().and_then(|p| p.strip_suffix(SIDECAR))
                && entry.modified.is_none_or(|time| time <= at(now))
                && let Some(bytes) = remove_expired(&entry.path, Path::new(object), now)?
            {
                swept.objects += 1;
                swept.bytes += bytes;
                remove_empty(root, &directory);
            }
        }
    }
    Ok(swept)
}

/// Removes a directory and those above it, as far as nothing is left in them.
fn remove_empty(root: &Path, directory: &Path) {
    for directory in directory.ancestors().take_while(|path| *path != root) {
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
}

/// Removes an object whose time has come; its bytes.
fn remove_expired(note: &Path, object: &Path, now: u64) -> io::Result<Option<u64>> {
    let sidecar = match read_sidecar(note) {
        Ok(sidecar) => sidecar,
        Err(error) => {
            tracing::warn!(%error, path = %note.display(), "not the description of an object");
            return Ok(None);
        }
    };
    if sidecar.expires_at > now {
        return Ok(None);
    }
    for path in [object, note] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Some(sidecar.bytes))
}

struct Entry {
    path: PathBuf,
    directory: bool,
    modified: Option<SystemTime>,
}

/// What lies in a directory; nothing where it has just gone or is not ours (`lost+found`).
fn list(directory: &Path) -> io::Result<Vec<Entry>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(Vec::new()),
                _ => Err(error),
            };
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        // Links are not followed: we make none.
        if let Ok(metadata) = entry.metadata() {
            found.push(Entry {
                path: entry.path(),
                directory: metadata.is_dir(),
                modified: metadata.modified().ok(),
            });
        }
    }
    Ok(found)
}

fn read_sidecar(path: &Path) -> io::Result<Sidecar> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn sidecar_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SIDECAR);
    name.into()
}

/// A file for us alone that goes away unless it is renamed.
fn temporary(root: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix("put-").tempfile_in(root.join(TEMPORARY))
}

/// Makes a directory and those above it, for us alone, and sees to it that they last.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_directories(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// The time of so many Unix seconds, the year 9999 at most.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799))
}
