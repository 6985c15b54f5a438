//! How keys are written, and what is kept of them.
//!
//! A key is `mg_` (for the API) or `mga_` (for operators), 16 hexadecimal digits of public id, `_`,
//! 43 random characters of base62 (256 bits), and the CRC-32 of all before it as 6 characters of
//! base62. The fixed shape lets secret scanners see a key that leaked; the checksum refuses a
//! typing error without a look at the database. Only the id and an HMAC-SHA-256 under the pepper
//! are kept: 256 random bits need no slow hash.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::seal::Sealer;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_DIGITS: usize = 16;
const SECRET: usize = 43;
const CHECKSUM: usize = 6;

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The API.
    Data,
    /// The operator's listener.
    Admin,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Data => "mg_",
            Self::Admin => "mga_",
        }
    }
}

/// A whole key. It can be handed over once, but not printed by accident, and its memory is erased.
pub struct KeyText(Zeroizing<String>);

impl KeyText {
    /// The key itself, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What is kept of a key: no key can be made from it.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// What the database kept.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the database.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What no key has: to compare with where there is nothing to compare with.
    pub const NONE: Self = Self([0; 32]);

    /// Compares in a time that does not depend on where the two differ.
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A key that was just made.
#[derive(Debug)]
pub struct Minted {
    /// Its public id: everything before the secret, such as `mg_0123456789abcdef`.
    pub id: String,
    /// The key, to be shown once.
    pub text: KeyText,
    /// What is kept.
    pub hash: KeyHash,
}

/// A key that a caller sent. It has the right shape; whether it is a key is another matter.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// Its public id.
    pub id: &'a str,
    /// All but the checksum.
    body: &'a str,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presented").field(&self.id).finish()
    }
}

/// Why a text is no key of ours. Says nothing about any key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It was never one of this kind.
    Foreign,
    /// It begins like one, but was cut off or mistyped.
    Mistyped,
}

/// Reads a key without looking it up.
pub fn read(kind: Kind, text: &str) -> Result<Presented<'_>, Malformed> {
    let prefix = kind.prefix();
    let rest = text.strip_prefix(prefix).ok_or(Malformed::Foreign)?;
    let is_shaped = rest.len() == ID_DIGITS + 1 + SECRET + CHECKSUM
        && rest.bytes().enumerate().all(|(i, b)| match i {
            0..ID_DIGITS => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
            ID_DIGITS => b == b'_',
            _ => b.is_ascii_alphanumeric(),
        });
    if !is_shaped {
        return Err(Malformed::Mistyped);
    }
    let (body, sum) = text.split_at(text.len() - CHECKSUM);
    if checksum(body) != sum.as_bytes() {
        return Err(Malformed::Mistyped);
    }
    Ok(Presented { id: &body[..prefix.len() + ID_DIGITS], body })
}

/// Whether a text has the shape of a public id of this kind.
pub fn is_id(kind: Kind, text: &str) -> bool {
    text.strip_prefix(kind.prefix()).is_some_and(|digits| {
        digits.len() == ID_DIGITS
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The secret of this installation under which keys are hashed: without it, a copy of the
/// database cannot even be searched for a key that is known. After a change of the master key the
/// older ones still know the keys that were made under them.
#[derive(Clone)]
pub struct Pepper {
    current: Hmac<Sha256>,
    older: Vec<Hmac<Sha256>>,
}

impl Pepper {
    /// From 32 secret bytes each, the current one first.
    pub fn new(current: &[u8; 32], older: &[[u8; 32]]) -> Self {
        let keyed = |bytes: &[u8; 32]| {
            // A key shorter than a block is filled up with zeros: so HMAC is defined.
            let mut block = Zeroizing::new([0; 64]);
            block[..32].copy_from_slice(bytes);
            Hmac::new(&(*block).into())
        };
        Self { current: keyed(current), older: older.iter().map(keyed).collect() }
    }

    /// What the master keys give.
    pub fn of(sealer: &Sealer) -> Self {
        let all = Zeroizing::new(sealer.derive_each("pepper"));
        Self::new(&sealer.pepper(), all.get(1..).unwrap_or_default())
    }

    /// Makes a key.
    pub fn mint(&self, kind: Kind) -> Result<Minted, getrandom::Error> {
        let mut id = [0; ID_DIGITS / 2];
        getrandom::fill(&mut id)?;
        let id = format!("{}{}", kind.prefix(), hex::encode(id));
        let mut text = Zeroizing::new(String::with_capacity(80));
        text.push_str(&id);
        text.push('_');
        random_characters(SECRET, &mut text)?;
        let hash = digest(&self.current, &text);
        let sum = checksum(&text);
        text.extend(sum.iter().copied().map(char::from));
        Ok(Minted { id, text: KeyText(text), hash })
    }

    /// Whether this key is the one of which the hash was kept. The id is part of the hash, so that
    /// it is good for its own row only. Takes the same time for every key.
    pub fn knows(&self, key: Presented<'_>, kept: &KeyHash) -> bool {
        self.older
            .iter()
            .map(|pepper| digest(pepper, key.body).ct_eq(kept))
            .fold(digest(&self.current, key.body).ct_eq(kept), |any, one| any | one)
            .into()
    }

    /// Whether two secret texts are the same, in a time that tells nothing of either but their
    /// length.
    pub fn same(&self, one: &str, other: &str) -> bool {
        digest(&self.current, one).ct_eq(&digest(&self.current, other)).into()
    }
}

fn digest(pepper: &Hmac<Sha256>, text: &str) -> KeyHash {
    let mac = pepper.clone().chain_update(text.as_bytes()).finalize().into_bytes();
    KeyHash(mac.into())
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn random_characters(count: usize, out: &mut String) -> Result<(), getrandom::Error> {
    // Bytes above the largest multiple of 62 are drawn again, so that every character is as likely.
    const FAIR: u8 = 248;
    let mut left = count;
    let mut bytes = Zeroizing::new([0_u8; 64]);
    while left > 0 {
        getrandom::fill(&mut *bytes)?;
        for byte in bytes.iter().filter(|b| **b < FAIR).take(left) {
            out.push(ALPHABET[usize::from(byte % 62)].into());
            left -= 1;
        }
    }
    Ok(())
}

fn checksum(text: &str) -> [u8; CHECKSUM] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut out = [b'0'; CHECKSUM];
    for place in out.iter_mut().rev() {
        *place = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Any text as a key that is not mistyped.
    pub(in crate::tenant) fn with_checksum(body: &str) -> String {
        format!("{body}{}", std::str::from_utf8(&checksum(body)).unwrap())
    }

    #[test]
    fn a_key_is_made_read_and_known_again() {
        let pepper = Pepper::new(&[7; 32], &[]);
        for (kind, other, prefix) in
            [(Kind::Data, Kind::Admin, "mg_"), (Kind::Admin, Kind::Data, "mga_")]
        {
            let minted = pepper.mint(kind).unwrap();
            let text = minted.text.expose().to_owned();
            assert!(text.starts_with(prefix) && text.len() == prefix.len() + 66, "{text}");
            assert!(is_id(kind, &minted.id) && !is_id(other, &minted.id));
            let read_back = read(kind, &text).unwrap();
            assert_eq!(read_back.id, minted.id);
            assert!(pepper.knows(read_back, &minted.hash));
            // Another installation keeps another hash, and another key is another key.
            assert!(!Pepper::new(&[8; 32], &[]).knows(read_back, &minted.hash));
            assert!(!pepper.knows(read_back, &pepper.mint(kind).unwrap().hash));
            assert!(!pepper.knows(read_back, &KeyHash::NONE));
            // A changed master key leaves the keys that are out alone.
            let changed = Pepper::new(&[8; 32], &[[9; 32], [7; 32]]);
            assert!(changed.knows(read_back, &minted.hash));
            // One kind is no key of the other.
            assert_eq!(read(other, &text).unwrap_err(), Malformed::Foreign);
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_seen_without_a_lookup() {
        let text = Pepper::new(&[7; 32], &[]).mint(Kind::Data).unwrap().text.expose().to_owned();
        for at in 3..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(read(Kind::Data, &wrong).unwrap_err(), Malformed::Mistyped, "{at}");
        }
        for (wrong, why) in [
            (text[..text.len() - 1].to_owned(), Malformed::Mistyped),
            (format!("{text}0"), Malformed::Mistyped),
            (text.to_uppercase(), Malformed::Foreign),
            (format!("mg_{}", "é".repeat(33)), Malformed::Mistyped),
            ("mg_".to_owned(), Malformed::Mistyped),
            (String::new(), Malformed::Foreign),
            ("sk-something".to_owned(), Malformed::Foreign),
        ] {
            assert_eq!(read(Kind::Data, &wrong).unwrap_err(), why, "{wrong}");
        }
    }

    #[test]
    fn the_checksum_is_pinned() {
        // Keys that are out must stay good for ever.
        assert_eq!(&checksum("mg_0123456789abcdef_secret"), b"3PsxHG");
        let secret = "A".repeat(43);
        let body = format!("mg_0123456789abcdef_{secret}");
        let text = with_checksum(&body);
        let presented = read(Kind::Data, &text).unwrap();
        let hash = digest(&Pepper::new(&[7; 32], &[]).current, presented.body);
        assert_eq!(hex::encode(&hash.bytes()[..8]), "3f30002909310307");
    }

    #[test]
    fn characters_are_drawn_evenly() {
        let mut text = String::new();
        random_characters(62_000, &mut text).unwrap();
        assert_eq!(text.len(), 62_000);
        for letter in ALPHABET {
            let count = text.bytes().filter(|b| b == letter).count();
            // Six standard deviations either side of 1000.
            assert!((810..=1190).contains(&count), "{}: {count}", char::from(*letter));
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let pepper = Pepper::new(&[7; 32], &[]);
        let minted = pepper.mint(Kind::Data).unwrap();
        let text = minted.text.expose().to_owned();
        let presented = read(Kind::Data, &text).unwrap();
        let shown = format!("{minted:?} {:#?} {presented:?} {pepper:?}", minted.hash);
        assert!(!shown.contains(&text[20..]), "{shown}");
        assert!(!shown.contains(&hex::encode(minted.hash.bytes())), "{shown}");
    }
}
