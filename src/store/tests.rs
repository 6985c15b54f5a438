//! What the memory and the disk store have in common, and what only files have.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt as _;

use super::*;
use crate::media::blob::{BlobWriter, Budget, Encoding};

const CREATED: u64 = 1_790_000_000;
const RETENTION: u64 = 3600;
const KEY: &str = "default/2026-09-21/job_1-0.png";

fn settings(kind: StoreKind) -> StoreSettings {
    StoreSettings {
        kind,
        retention: Duration::from_secs(RETENTION),
        key_template: KeyTemplate::default(),
        public_url: "http://127.0.0.1:4000/".to_owned(),
        signing_keys: vec![[1; 32]],
    }
}

fn meta(created: u64) -> ObjectMeta {
    ObjectMeta {
        format: Format::Png,
        model: "flux-1.1-pro".to_owned(),
        provider: "fal".to_owned(),
        deployment: "fal/flux-1.1-pro".to_owned(),
        job: "job_1".to_owned(),
        task: "image.generate".to_owned(),
        parameters: [("size".to_owned(), "1024x1024".to_owned())].into(),
        cost_usd: Some("0.040000000".to_owned()),
        seed: Some(u64::MAX),
        prompt_sha256: None,
        sha256: None,
        created,
    }
}

fn disk(directory: &tempfile::TempDir) -> StoreKind {
    StoreKind::Disk { path: directory.path().join("data/media") }
}

/// Each kind of store, empty, and the directory that goes away with it.
async fn stores() -> Vec<(Store, tempfile::TempDir)> {
    let mut stores = Vec::new();
    for in_memory in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let kind =
            if in_memory { StoreKind::Memory { max_bytes: 1 << 20 } } else { disk(&directory) };
        stores.push((Store::open(settings(kind)).await.unwrap(), directory));
    }
    stores
}

fn token(url: &str) -> &str {
    url.strip_prefix("http://127.0.0.1:4000/media/").unwrap()
}

async fn read(store: &Store, kept: &Kept, now: u64) -> Result<(ObjectHeader, Vec<u8>), StoreError> {
    let url = store.url(kept).await.unwrap();
    let (header, stream) = store.open_signed(token(&url), now).await?;
    let body: Vec<Bytes> = stream.try_collect().await.unwrap();
    Ok((header, body.concat()))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_is_kept_comes_back() {
    let raw: Vec<u8> = (0..300_000).map(|i| (i * 7 % 251) as u8).collect();
    let sha256 = hex::encode(Sha256::digest(&raw));
    let mut spooled = BlobWriter::new(Encoding::Raw, &Budget::new(0));
    spooled.push(Bytes::from(raw.clone())).unwrap();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &raw);
    for blob in [Blob::from(Bytes::from(raw.clone())), spooled.finish(), Blob::from_base64(text)] {
        for (store, _directory) in stores().await {
            store.put(KEY, &meta(CREATED), &blob, Durability::Full).await.unwrap();
            // In its place, and less lasting.
            let kept = store.put(KEY, &meta(CREATED), &blob, Durability::Process).await.unwrap();
            assert_eq!((kept.key.as_str(), kept.bytes), (KEY, 300_000));
            assert_eq!(kept.sha256, sha256);
            assert_eq!(kept.expires_at, Some(CREATED + RETENTION));
            let (header, body) = read(&store, &kept, CREATED).await.unwrap();
            assert!(body == raw, "the bytes differ");
            assert_eq!(header.mime(), "image/png");
            assert_eq!((header.len, header.sha256), (300_000, sha256.clone()));
        }
    }
}

#[tokio::test]
async fn a_link_ends_when_it_expires_or_its_object_goes() {
    let blob = Blob::from(Bytes::from_static(b"picture"));
    for (store, _directory) in stores().await {
        let kept = store.put(KEY, &meta(CREATED), &blob, Durability::Full).await.unwrap();
        let end = CREATED + RETENTION;
        assert!(read(&store, &kept, end - 1).await.is_ok());
        assert!(matches!(read(&store, &kept, end).await, Err(StoreError::Expired)));

        // A link that outlives its object, and one to another object under the same key.
        let later = Kept { expires_at: Some(end + 100), ..kept.clone() };
        assert!(matches!(read(&store, &later, end).await, Err(StoreError::Expired)));
        let other = Kept { id: ObjectId::random().unwrap(), ..kept.clone() };
        assert!(matches!(read(&store, &other, CREATED).await, Err(StoreError::Unknown)));
        let other = Kept { key: "default/none".to_owned(), ..kept.clone() };
        assert!(matches!(read(&store, &other, CREATED).await, Err(StoreError::Unknown)));
        let forged = store.open_signed("AAAA", CREATED).await;
        assert!(matches!(forged, Err(StoreError::Forged)));

        assert_eq!(store.sweep(end - 1).await.unwrap(), Swept::default());
        assert!(read(&store, &kept, end - 1).await.is_ok());
        assert_eq!(store.sweep(end).await.unwrap(), Swept { objects: 1, bytes: 7 });
        assert!(matches!(read(&store, &kept, end - 1).await, Err(StoreError::Unknown)));
        assert_eq!(store.sweep(end).await.unwrap(), Swept::default());
    }
}

#[tokio::test]
async fn a_key_can_be_put_again() {
    for (store, _directory) in stores().await {
        let mut kept = Vec::new();
        for body in [&b"first"[..], b"the second"] {
            let blob = Blob::from(Bytes::from_static(body));
            kept.push(store.put(KEY, &meta(CREATED), &blob, Durability::Full).await.unwrap());
        }
        assert_eq!(read(&store, &kept[1], CREATED).await.unwrap().1, b"the second");
        assert!(matches!(read(&store, &kept[0], CREATED).await, Err(StoreError::Unknown)));
        let swept = store.sweep(CREATED + RETENTION).await.unwrap();
        assert_eq!(swept, Swept { objects: 1, bytes: 10 });
    }
}

#[tokio::test]
async fn bad_bodies_and_keys_leave_nothing_behind() {
    let good = Blob::from(Bytes::from_static(b"picture"));
    let cut = Blob::from_base64("QUJDREU".to_owned());
    let wrong = ObjectMeta { sha256: Some("00".repeat(32)), ..meta(CREATED) };
    let right = hex::encode(Sha256::digest(b"picture"));
    let right = ObjectMeta { sha256: Some(right.to_uppercase()), ..meta(CREATED) };
    for (store, directory) in stores().await {
        let result = store.put(KEY, &meta(CREATED), &cut, Durability::Full).await;
        assert!(matches!(result, Err(StoreError::Body(_))), "{result:?}");
        let result = store.put(KEY, &wrong, &good, Durability::Full).await;
        assert!(matches!(result, Err(StoreError::Digest)), "{result:?}");
        for key in ["", "/etc/passwd", "../a", "a/../../b", ".tmp/a", "a//b", "a\0b", "a.meta.json"]
        {
            let result = store.put(key, &meta(CREATED), &good, Durability::Full).await;
            assert!(matches!(result, Err(StoreError::Key { .. })), "{key}: {result:?}");
        }
        assert_eq!(files(directory.path()), Vec::<PathBuf>::new());
        assert_eq!(store.sweep(u64::MAX).await.unwrap(), Swept::default());
        store.put(KEY, &right, &good, Durability::Full).await.unwrap();
        store.ready().await.unwrap();
    }
}

#[tokio::test]
async fn memory_keeps_to_its_cap() {
    let store = Store::open(settings(StoreKind::Memory { max_bytes: 10 })).await.unwrap();
    let put = async |key: &str, created: u64, body: &'static [u8]| {
        store
            .put(key, &meta(created), &Blob::from(Bytes::from_static(body)), Durability::Full)
            .await
    };
    let first = put("a", CREATED, b"12345").await.unwrap();
    put("b", CREATED + 10, b"12345").await.unwrap();
    // Nothing has expired: what was promised is kept.
    assert!(matches!(put("c", CREATED + 20, b"1").await, Err(StoreError::Full)));
    assert!(read(&store, &first, CREATED).await.is_ok());
    // The first has expired, the second has not.
    let now = CREATED + RETENTION;
    put("c", now, b"12345").await.unwrap();
    assert!(matches!(put("d", now, b"1").await, Err(StoreError::Full)));
    assert_eq!(store.sweep(now).await.unwrap(), Swept::default());
    // A body that fails gives its room back.
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), Swept { objects: 2, bytes: 10 });
    let cut = Blob::from_base64("QUJDREU".to_owned());
    assert!(store.put("e", &meta(now), &cut, Durability::Full).await.is_err());
    put("f", now, b"1234567890").await.unwrap();
}

#[tokio::test]
async fn files_are_ours_alone_and_described() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(settings(disk(&directory))).await.unwrap();
    let blob = Blob::from(Bytes::from_static(b"picture"));
    let kept = store.put(KEY, &meta(CREATED), &blob, Durability::Full).await.unwrap();
    let root = directory.path().join("data/media");
    let note = format!("{KEY}.meta.json");
    assert_eq!(files(&root), [root.join(KEY), root.join(&note)]);
    for (path, mode) in [
        ("", 0o700),
        (".tmp", 0o700),
        ("default", 0o700),
        ("default/2026-09-21", 0o700),
        (KEY, 0o600),
        (&note, 0o600),
    ] {
        let found = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
    let note: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join(note)).unwrap()).unwrap();
    assert_eq!(note["meta"]["seed"], u64::MAX);
    assert_eq!(note["id"], kept.id.to_string());

    // Another process, or the same after a restart.
    let again = Store::open(settings(disk(&directory))).await.unwrap();
    assert_eq!(read(&again, &kept, CREATED).await.unwrap().1, b"picture");
}

#[tokio::test]
async fn a_damaged_object_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(settings(disk(&directory))).await.unwrap();
    let blob = Blob::from(Bytes::from_static(b"picture"));
    let kept = store.put(KEY, &meta(CREATED), &blob, Durability::Full).await.unwrap();
    let body = directory.path().join("data/media").join(KEY);
    fs::write(&body, b"pic").unwrap();
    assert!(matches!(read(&store, &kept, CREATED).await, Err(StoreError::Unknown)));
    fs::remove_file(&body).unwrap();
    assert!(matches!(read(&store, &kept, CREATED).await, Err(StoreError::Unknown)));
    assert_eq!(store.sweep(CREATED + RETENTION).await.unwrap().objects, 1);
}

#[tokio::test]
async fn the_sweeper_removes_what_is_ours_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(settings(disk(&directory))).await.unwrap();
    let root = directory.path().join("data/media");
    let blob = Blob::from(Bytes::from_static(b"picture"));
    store.put("p/old/a-0.png", &meta(CREATED), &blob, Durability::Full).await.unwrap();
    store.put("p/new/a-0.png", &meta(CREATED + 1), &blob, Durability::Full).await.unwrap();
    fs::write(root.join(".tmp/put-crashed"), b"half").unwrap();
    fs::write(root.join("p/notes.txt"), b"the operator's").unwrap();
    fs::write(root.join("p/odd.meta.json"), b"{}").unwrap();
    fs::create_dir(root.join("empty")).unwrap();

    let now = CREATED + RETENTION;
    let crashed = fs::File::options().write(true).open(root.join(".tmp/put-crashed")).unwrap();
    crashed.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(now - 3599)).unwrap();
    assert_eq!(store.sweep(now).await.unwrap(), Swept { objects: 1, bytes: 7 });
    assert!(!root.join("p/old").exists());
    for kept in ["p/new/a-0.png", "p/notes.txt", "p/odd.meta.json", ".tmp/put-crashed", "empty"] {
        assert!(root.join(kept).exists(), "{kept}");
    }
    assert_eq!(store.sweep(now + 1).await.unwrap(), Swept { objects: 1, bytes: 7 });
    assert!(!root.join(".tmp/put-crashed").exists());
    // The directory that went away comes back when it is needed.
    store.put("p/old/a-0.png", &meta(CREATED), &blob, Durability::Full).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(settings(disk(&directory))).await.unwrap();
    store.ready().await.unwrap();
    assert_eq!(files(directory.path()), Vec::<PathBuf>::new());
    fs::remove_dir_all(directory.path().join("data")).unwrap();
    assert!(matches!(store.ready().await, Err(StoreError::Unavailable(_))));

    fs::write(directory.path().join("data"), b"a file").unwrap();
    assert!(Store::open(settings(disk(&directory))).await.is_err());
}

/// `/dev/full` answers every write as a full disk does.
#[test]
fn a_full_disk_is_full() {
    let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
    let error = std::io::Write::write_all(&mut full, b"x").unwrap_err();
    assert!(matches!(StoreError::io(error), StoreError::Full));
}
