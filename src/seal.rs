//! What is stored of requests and provider keys is sealed under the master key, and every other
//! secret of the gateway is derived from it. `docs/decisions/0018-sealing.md` says why.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// A key of 32 bytes, wiped when it is dropped.
pub type MasterKey = Zeroizing<[u8; 32]>;

const FILE: &str = "master.key";
const VERSION: u8 = 1;
const ID: usize = 4;
/// Version and id of the key: authenticated with the context.
const HEAD: usize = 1 + ID;
const NONCE: usize = 24;
const TAG: usize = 16;
/// What the check value holds, and for what it is sealed.
const CHECK: (&str, &[u8]) = ("setting:master_check", b"this is the master key");

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is cut short, or was never sealed.
    #[error("this is no sealed data")]
    NotSealed,
    /// It was sealed by a later version.
    #[error("this was sealed in format {0}, which a later version of mediagate writes")]
    Version(u8),
    /// None of the keys is the one it was sealed with.
    #[error("this was sealed under another master key, {0}; add that key to the key file")]
    UnknownKey(String),
    /// It was changed, or was sealed for another place.
    #[error("this does not open: it was changed, or was sealed for another place")]
    Refused,
    /// There are no random numbers, or it is longer than 256 GB.
    #[error("this cannot be sealed: {0}")]
    Cannot(String),
}

/// Why there is no master key to work with.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file is there but cannot be read.
    #[error("the master key in {} cannot be read; make it readable to this user", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The file holds something else.
    #[error(
        "the master key in {} is damaged in line {line}: a line is 64 hexadecimal digits; restore the file \
         from a copy, for a new key opens nothing that was sealed",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// There is none, and none could be made.
    #[error("a master key cannot be made in {}; set auth.master_key or make it writable", .0.display())]
    NotMade(PathBuf, #[source] io::Error),
    /// It is not the key of this database.
    #[error(
        "this is not the master key of this database; set auth.master_key to the right one or restore \
         master.key in the data directory from a copy"
    )]
    Wrong(#[source] SealError),
}

/// Seals and opens under a ring of master keys, and derives the other secrets from them.
#[derive(Clone)]
pub struct Sealer {
    current: Key,
    older: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: [u8; ID],
    master: MasterKey,
    sealing: MasterKey,
}

impl Key {
    fn new(master: MasterKey) -> Self {
        let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(*master)));
        let mut id = [0; ID];
        id.copy_from_slice(&digest[..ID]);
        let sealing = Zeroizing::new(derive(&master, "seal"));
        Self { id, master, sealing }
    }
}

/// HMAC-SHA-256 of a label under a key, RFC 2104.
fn derive(key: &MasterKey, label: &str) -> [u8; 32] {
    // A key shorter than a block is padded with zeros.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(&**key);
    let mac = Hmac::<Sha256>::new((&*block).into());
    mac.chain_update(b"mediagate/1/").chain_update(label).finalize().into_bytes().into()
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

impl Sealer {
    /// Seals under `current` and opens under any of them.
    pub fn new(current: MasterKey, older: impl IntoIterator<Item = MasterKey>) -> Self {
        let current = Key::new(current);
        let older = older.into_iter().map(Key::new).filter(|key| key.id != current.id).collect();
        Self { current, older }
    }

    /// Takes the configured key and those in `master.key` in the data directory; where there is
    /// neither, makes one there. The configured key comes first, then the lines of the file.
    pub fn load(configured: Option<&MasterKey>, data_dir: &Path) -> Result<Self, MasterKeyError> {
        let path = data_dir.join(FILE);
        let mut keys = read(&path)?;
        if keys.is_empty() && configured.is_none() {
            make(&path).map_err(|e| MasterKeyError::NotMade(data_dir.to_path_buf(), e))?;
            // Another process may have been quicker: what is in the file counts.
            keys = read(&path)?;
        }
        let mut keys = configured.cloned().into_iter().chain(keys);
        match keys.next() {
            Some(current) => Ok(Self::new(current, keys)),
            None => Err(MasterKeyError::Damaged { path, line: 1 }),
        }
    }

    /// Seals for one place, such as `job.payload:job_1`: it opens for no other.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|e| SealError::Cannot(e.to_string()))?;
        let mut sealed = Vec::with_capacity(HEAD + NONCE + plain.len() + TAG);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.current.id);
        let bound = [&sealed, context.as_bytes()].concat();
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let cipher = XChaCha20Poly1305::new((&*self.current.sealing).into());
        let body = (&mut sealed[HEAD + NONCE..]).into();
        let tag = cipher
            .encrypt_inout_detached(&XNonce::from(nonce), &bound, body)
            .map_err(|e| SealError::Cannot(e.to_string()))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens what was sealed for the same place.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (head, rest) = sealed.split_first_chunk::<HEAD>().ok_or(SealError::NotSealed)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(SealError::NotSealed)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(SealError::NotSealed)?;
        let [version, id @ ..] = head;
        if *version != VERSION {
            return Err(SealError::Version(*version));
        }
        let mut keys = self.keys().filter(|key| key.id == *id).peekable();
        if keys.peek().is_none() {
            return Err(SealError::UnknownKey(hex::encode(id)));
        }
        let bound = [&head[..], context.as_bytes()].concat();
        // Two keys may share an id by chance.
        for key in keys {
            let mut plain = Zeroizing::new(body.to_vec());
            let cipher = XChaCha20Poly1305::new((&*key.sealing).into());
            let nonce = XNonce::from(*nonce);
            let buffer = plain.as_mut_slice().into();
            if cipher.decrypt_inout_detached(&nonce, &bound, buffer, &(*tag).into()).is_ok() {
                return Ok(plain);
            }
        }
        Err(SealError::Refused)
    }

    /// A secret of its own for a purpose, such as `callback`. Another master key gives another
    /// one.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        derive(&self.current.master, label)
    }

    /// The same under every key of the ring, the current one first: what was made before a
    /// change of the master key is checked against all of them.
    pub fn derive_each(&self, label: &str) -> Vec<[u8; 32]> {
        self.keys().map(|key| derive(&key.master, label)).collect()
    }

    /// What the secrets of API keys are hashed with.
    pub fn pepper(&self) -> [u8; 32] {
        self.derive("pepper")
    }

    /// What is stored once, so that a wrong master key is noticed before anything is sealed
    /// under it.
    pub fn check_value(&self) -> Result<Vec<u8>, SealError> {
        self.seal(CHECK.0, CHECK.1)
    }

    /// Whether a stored check value was made under one of these keys.
    pub fn verify_check(&self, stored: &[u8]) -> Result<(), MasterKeyError> {
        match self.open(CHECK.0, stored) {
            Ok(plain) if *plain == CHECK.1 => Ok(()),
            Ok(_) => Err(MasterKeyError::Wrong(SealError::Refused)),
            Err(error) => Err(MasterKeyError::Wrong(error)),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.older)
    }
}

/// The keys of a file, one in a line; none where there is no file.
fn read(path: &Path) -> Result<Vec<MasterKey>, MasterKeyError> {
    let unreadable = |e| MasterKeyError::Unreadable(path.to_path_buf(), e);
    let text = match fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("{} can be read by others; chmod 600 it", path.display());
    }
    let mut keys = Vec::new();
    for (i, line) in text.trim_ascii_end().split(|byte| *byte == b'\n').enumerate() {
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(line.trim_ascii(), key.as_mut_slice())
            .map_err(|_| MasterKeyError::Damaged { path: path.to_path_buf(), line: i + 1 })?;
        keys.push(key);
    }
    Ok(keys)
}

/// Makes a key, whole and synced under its name or not at all. A file that is there already is
/// left as it is.
fn make(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice()).map_err(|e| io::Error::other(e.to_string()))?;
    let mut text = Zeroizing::new([0; 64]);
    hex::encode_to_slice(key.as_slice(), text.as_mut_slice()).map_err(io::Error::other)?;
    let mut file = tempfile::Builder::new()
        .prefix(".master.key.")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)?;
    file.write_all(text.as_slice())?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e.error),
    }
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    const CANARY: &[u8] = b"canary: a lighthouse at dusk, and the key sk-canary";
    const PLACE: &str = "job.payload:job_1";

    fn key(byte: u8) -> MasterKey {
        Zeroizing::new([byte; 32])
    }

    fn sealer() -> Sealer {
        Sealer::new(key(1), [])
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let sealer = sealer();
        for plain in [&b""[..], b"x", CANARY, &[0; 10_000]] {
            let sealed = sealer.seal(PLACE, plain).unwrap();
            assert_eq!(sealed.len(), plain.len() + 45);
            assert_eq!(**sealer.open(PLACE, &sealed).unwrap(), *plain);
        }
    }

    #[test]
    fn nothing_of_it_is_seen_and_no_two_are_alike() {
        let sealer = sealer();
        let (a, b) = (sealer.seal(PLACE, CANARY).unwrap(), sealer.seal(PLACE, CANARY).unwrap());
        assert_ne!(a[HEAD..HEAD + NONCE], b[HEAD..HEAD + NONCE]);
        for sealed in [a, b] {
            assert!(!sealed.windows(6).any(|part| part == &CANARY[..6]));
            assert!(!sealed.windows(8).any(|part| part == [1; 8]), "the key itself");
        }
        assert_eq!(format!("{sealer:?} {sealer:#?}"), "Sealer(***) Sealer(***)");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealer = sealer();
        let sealed = sealer.seal(PLACE, b"plain").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = sealer.open(PLACE, &changed).unwrap_err();
            let wanted = match bit / 8 {
                0 => matches!(error, SealError::Version(_)),
                1..HEAD => matches!(error, SealError::UnknownKey(_)),
                _ => matches!(error, SealError::Refused),
            };
            assert!(wanted, "bit {bit}: {error:?}");
        }
        for length in 0..sealed.len() {
            assert!(sealer.open(PLACE, &sealed[..length]).is_err(), "{length} bytes");
        }
        assert!(matches!(sealer.open(PLACE, &sealed[..44]), Err(SealError::NotSealed)));
        assert!(sealer.open(PLACE, &[&sealed[..], b"x"].concat()).is_err());
    }

    #[test]
    fn it_opens_in_its_place_alone_and_under_its_key_alone() {
        let sealed = sealer().seal(PLACE, CANARY).unwrap();
        for place in ["", "job.payload:job_2", "job.payload:job_11", "provider_key:job_1"] {
            assert!(matches!(sealer().open(place, &sealed), Err(SealError::Refused)), "{place}");
        }
        let stranger = Sealer::new(key(2), []).open(PLACE, &sealed).unwrap_err();
        assert!(matches!(&stranger, SealError::UnknownKey(_)), "{stranger:?}");
    }

    #[test]
    fn a_ring_seals_under_the_first_key_and_opens_under_all() {
        let (old, new) = (sealer(), Sealer::new(key(2), []));
        let ring = Sealer::new(key(2), [key(1), key(2)]);
        let before = old.seal(PLACE, CANARY).unwrap();
        let after = ring.seal(PLACE, CANARY).unwrap();
        assert_eq!(**ring.open(PLACE, &before).unwrap(), *CANARY);
        assert_eq!(**new.open(PLACE, &after).unwrap(), *CANARY);
        assert!(old.open(PLACE, &after).is_err());
        assert_eq!(ring.pepper(), new.pepper());
        assert_eq!(ring.derive_each("pepper"), [new.pepper(), old.pepper()]);
    }

    #[test]
    fn secrets_are_apart_by_label_and_by_key() {
        let (one, two) = (sealer(), Sealer::new(key(2), []));
        let mut all = vec![
            one.pepper(),
            one.derive("callback"),
            one.derive("link"),
            one.derive("seal"),
            two.pepper(),
            two.derive("callback"),
            [1; 32],
        ];
        assert_eq!(one.pepper(), sealer().pepper());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
        // printf mediagate/1/pepper | openssl dgst -sha256 -mac hmac -macopt hexkey:0101...01
        let known = "48e36e92541ed86e9349432c8b9d6d60cbcb623ed43af5902f7b9af342200cd7";
        assert_eq!(hex::encode(one.pepper()), known);
    }

    #[test]
    fn a_wrong_master_key_is_noticed() {
        let stored = sealer().check_value().unwrap();
        sealer().verify_check(&stored).unwrap();
        Sealer::new(key(2), [key(1)]).verify_check(&stored).unwrap();
        for (sealer, stored) in [
            (Sealer::new(key(2), []), stored.clone()),
            (sealer(), stored[1..].to_vec()),
            (sealer(), Vec::new()),
            (sealer(), sealer().seal(CHECK.0, b"something else").unwrap()),
            (sealer(), sealer().seal("setting:other", CHECK.1).unwrap()),
        ] {
            let error = sealer.verify_check(&stored).unwrap_err();
            assert!(error.to_string().contains("not the master key of this database; set auth"));
            assert!(error.source().is_some());
        }
    }

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("not/yet");
        let first = Sealer::load(None, &dir).unwrap();
        let path = dir.join("master.key");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap().trim().len(), 64);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing else is left behind");
        let again = Sealer::load(None, &dir).unwrap();
        assert_eq!(first.pepper(), again.pepper());
        let other = Sealer::load(None, home.path()).unwrap();
        assert_ne!(first.pepper(), other.pepper());
    }

    #[test]
    fn many_that_start_at_once_agree() {
        let home = tempfile::tempdir().unwrap();
        let start = || Sealer::load(None, home.path()).unwrap().pepper();
        let peppers: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(peppers.iter().all(|pepper| *pepper == peppers[0]));
    }

    #[test]
    fn the_configured_key_goes_before_the_file() {
        let home = tempfile::tempdir().unwrap();
        let configured = Sealer::load(Some(&key(2)), home.path()).unwrap();
        assert_eq!(configured.pepper(), Sealer::new(key(2), []).pepper());
        assert!(!home.path().join("master.key").exists());

        let made = Sealer::load(None, home.path()).unwrap();
        let sealed = made.seal(PLACE, CANARY).unwrap();
        let both = Sealer::load(Some(&key(2)), home.path()).unwrap();
        assert_eq!(both.pepper(), configured.pepper());
        assert_eq!(**both.open(PLACE, &sealed).unwrap(), *CANARY);

        let file = home.path().join("master.key");
        fs::write(&file, format!("{}\n{}\n\n", hex::encode([3; 32]), hex::encode([2; 32])))
            .unwrap();
        let turned = Sealer::load(None, home.path()).unwrap();
        assert_eq!(turned.derive_each("x"), Sealer::new(key(3), [key(2)]).derive_each("x"));
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_kept() {
        let good = hex::encode([7; 32]);
        for (text, line) in [
            (String::new(), 1),
            ("\n".to_owned(), 1),
            ("canary".to_owned(), 1),
            (good[..63].to_owned(), 1),
            (format!("{good}\n{good}0\n"), 2),
            (format!("{good}\n\n{good}"), 2),
            ("g".repeat(64), 1),
        ] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("master.key");
            fs::write(&path, &text).unwrap();
            for configured in [None, Some(&key(1))] {
                let error = Sealer::load(configured, home.path()).unwrap_err().to_string();
                let told = format!("{} is damaged in line {line}: a line is 64", path.display());
                assert!(error.contains(&told) && error.contains("restore"), "{text:?}: {error}");
                assert!(!error.contains("canary") && !error.contains(&good));
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_or_made_is_told() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("master.key")).unwrap();
        let error = Sealer::load(None, home.path()).unwrap_err();
        assert!(matches!(&error, MasterKeyError::Unreadable(..)), "{error:?}");
        assert!(error.to_string().contains("master.key cannot be read; make it readable"));

        fs::write(home.path().join("file"), "").unwrap();
        let error = Sealer::load(None, &home.path().join("file/data")).unwrap_err();
        assert!(error.to_string().contains("data"), "{error}");
    }
}
