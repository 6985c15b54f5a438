//! Links to kept objects that nobody can guess, forge or use for ever.
//!
//! A token is base64url of: version (1 byte), object id (16), expiry in Unix seconds (8, big
//! endian), key (the rest but 32), HMAC-SHA-256 of all before it (32).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use super::StoreError;

const VERSION: u8 = 1;
const ID: usize = 16;
const MAC: usize = 32;
/// Version, id and expiry.
const HEAD: usize = 1 + ID + 8;
/// Keeps these signatures apart from any other use of the same key.
const PURPOSE: &[u8] = b"mediagate media link";

/// 128 random bits that tell one kept object from every other. Hexadecimal where written down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ObjectId([u8; ID]);

impl ObjectId {
    /// A new one.
    pub(super) fn random() -> Result<Self, StoreError> {
        let mut id = [0; ID];
        getrandom::fill(&mut id).map_err(|error| StoreError::Unavailable(error.into()))?;
        Ok(Self(id))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Knowing it is half of a link.
        f.write_str("ObjectId(***)")
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ObjectId {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut id = [0; ID];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

/// What a link stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: ObjectId,
    /// Unix seconds from which it no longer works.
    pub(super) expires_at: u64,
    pub(super) key: String,
}

/// Signs with the first key and believes every one, so that keys can be changed without
/// breaking the links that are out.
#[derive(Clone)]
pub(super) struct Signer {
    keys: Vec<Hmac<Sha256>>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} keys)", self.keys.len())
    }
}

impl Signer {
    pub(super) fn new(keys: &[[u8; 32]]) -> Result<Self, StoreError> {
        if keys.is_empty() {
            return Err(StoreError::Settings("links need a signing key".to_owned()));
        }
        let keyed = |key: &[u8; 32]| Ok(Hmac::new_from_slice(key)?.chain_update(PURPOSE));
        let keys: Result<_, hmac::digest::InvalidLength> = keys.iter().map(keyed).collect();
        let keys = keys.map_err(|error| StoreError::Settings(error.to_string()))?;
        Ok(Self { keys })
    }

    /// The token of a link.
    pub(super) fn sign(&self, claim: &Claim) -> String {
        let mut token = Vec::with_capacity(HEAD + claim.key.len() + MAC);
        token.push(VERSION);
        token.extend_from_slice(&claim.id.0);
        token.extend_from_slice(&claim.expires_at.to_be_bytes());
        token.extend_from_slice(claim.key.as_bytes());
        if let Some(key) = self.keys.first() {
            let mac = key.clone().chain_update(&token).finalize().into_bytes();
            token.extend_from_slice(&mac);
        }
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What a token stands for, if it is ours and still good at `now`.
    pub(super) fn verify(&self, token: &str, now: u64) -> Result<Claim, StoreError> {
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| StoreError::Forged)?;
        let (signed, mac) = token.split_last_chunk::<MAC>().ok_or(StoreError::Forged)?;
        let known = self.keys.iter().fold(Choice::from(0), |known, key| {
            let expected = key.clone().chain_update(signed).finalize().into_bytes();
            known | expected.as_slice().ct_eq(mac)
        });
        if !bool::from(known) {
            return Err(StoreError::Forged);
        }
        let claim = read(signed).ok_or(StoreError::Forged)?;
        if claim.expires_at <= now { Err(StoreError::Expired) } else { Ok(claim) }
    }
}

fn read(signed: &[u8]) -> Option<Claim> {
    let (version, rest) = signed.split_first()?;
    let (id, rest) = rest.split_first_chunk::<ID>()?;
    let (expires_at, key) = rest.split_first_chunk::<8>()?;
    (*version == VERSION).then_some(())?;
    Some(Claim {
        id: ObjectId(*id),
        expires_at: u64::from_be_bytes(*expires_at),
        key: String::from_utf8(key.to_vec()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        let key = "default/2026-08-20/job_1-0.png".to_owned();
        Claim { id: ObjectId([7; ID]), expires_at: 1000, key }
    }

    fn signer(keys: &[u8]) -> Signer {
        Signer::new(&keys.iter().map(|k| [*k; 32]).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_token_works_until_it_expires() {
        let token = signer(&[1]).sign(&claim());
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        for (now, good) in [(0, true), (999, true), (1000, false), (u64::MAX, false)] {
            match signer(&[1]).verify(&token, now) {
                Ok(read) => assert!(good && read == claim()),
                Err(error) => assert!(!good && matches!(error, StoreError::Expired)),
            }
        }
    }

    #[test]
    fn keys_can_be_changed_without_breaking_links() {
        let old = signer(&[1]).sign(&claim());
        for (ring, good) in [(&[1][..], true), (&[2, 1], true), (&[2], false), (&[2, 3], false)] {
            assert_eq!(signer(ring).verify(&old, 0).is_ok(), good, "{ring:?}");
        }
        assert_eq!(signer(&[2, 1]).sign(&claim()), signer(&[2]).sign(&claim()));
        assert!(Signer::new(&[]).is_err());
    }

    #[test]
    fn any_change_is_a_forgery() {
        let signer = signer(&[1]);
        let token = signer.sign(&claim());
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut forged = bytes.clone();
                forged[at] ^= 1 << bit;
                let forged = URL_SAFE_NO_PAD.encode(forged);
                let result = signer.verify(&forged, 0);
                assert!(matches!(result, Err(StoreError::Forged)), "byte {at} bit {bit}");
            }
        }
        for end in 0..token.len() {
            assert!(matches!(signer.verify(&token[..end], 0), Err(StoreError::Forged)));
        }
        for odd in ["", "%2e%2e", "../../etc/passwd", &format!("{token}="), &format!("{token}AAAA")]
        {
            assert!(matches!(signer.verify(odd, 0), Err(StoreError::Forged)), "{odd}");
        }
    }

    #[test]
    fn signatures_for_other_purposes_do_not_count() {
        let token = signer(&[1]).sign(&claim());
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        let (signed, mac) = bytes.split_last_chunk::<MAC>().unwrap();
        let plain =
            Hmac::<Sha256>::new_from_slice(&[1; 32]).unwrap().chain_update(signed).finalize();
        assert_ne!(plain.into_bytes().as_slice(), mac);
    }

    #[test]
    fn ids_do_not_repeat_and_do_not_show() {
        let (a, b) = (ObjectId::random().unwrap(), ObjectId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(ObjectId::try_from(a.to_string()).unwrap(), a);
        assert!(!format!("{a:?}").contains(&a.to_string()));
    }
}
