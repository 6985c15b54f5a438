//! How vendors sign what they push, as data. Whoever verifies needs nothing else: no dialect has
//! code of its own for it.

use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{Reply, UpstreamError, WireRequest, origin, within};

/// How a vendor signs its callbacks.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// The kind of signature.
    pub algorithm: Algorithm,
    /// Where the keys come from.
    pub keys: Keys,
    /// What is signed, piece after piece.
    pub message: &'static [Signed],
    /// The headers that may hold signatures, names in lower case; the first that is there counts.
    pub headers: &'static [&'static str],
    /// What may stand before a signature. Where a header holds several, parted by white space,
    /// one good one will do.
    pub prefix: &'static str,
    /// How the bytes are written.
    pub encoding: Encoding,
    /// The header of the time of signing, in seconds since 1970.
    pub timestamp: Option<&'static str>,
    /// How many seconds that time may be off.
    pub tolerance_s: u64,
    /// Whether a push without a signature is refused. Not where the vendor does not document
    /// its header: the address, which nobody else knows, is the proof then.
    pub required: bool,
}

/// A kind of signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// EdDSA over Curve25519, RFC 8032.
    Ed25519,
    /// HMAC with SHA-256, RFC 2104.
    HmacSha256,
}

/// A piece of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// A header's value.
    Header(&'static str),
    /// These characters.
    Text(&'static str),
    /// The body as it came.
    Body,
    /// The SHA-256 of the body, in lower-case hex.
    BodySha256,
}

/// How a signature's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal, either case.
    Hex,
    /// Base64 with padding.
    Base64,
}

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A JSON Web Key Set that anyone may read: at `url` for the vendor's own hosts, else (a
    /// simulator, a mirror) behind the base URL.
    Jwks {
        /// The set's own address.
        url: &'static str,
        /// The vendor's hosts, each with its subdomains.
        hosts: &'static [&'static str],
        /// The path behind any other base URL.
        path: &'static str,
    },
    /// A secret behind the base URL, for our key only: `{"key": "whsec_..."}`.
    Secret {
        /// The path.
        path: &'static str,
    },
    /// The secret that went with the submit.
    OfSubmit,
}

/// A key that verifies: a public key's 32 bytes, or a shared secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SignatureKey(Zeroizing<Vec<u8>>);

impl SignatureKey {
    /// A key of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SignatureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignatureKey(***)")
    }
}

/// The request that fetches a vendor's keys.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRequest {
    /// The request.
    pub request: WireRequest,
    /// Whether anyone may send it. Then our key must not go along.
    pub public: bool,
}

impl Signature {
    /// The request that fetches the keys; none where the secret is ours.
    pub fn key_request(&self, base_url: &str) -> Option<KeyRequest> {
        match self.keys {
            Keys::Jwks { url, hosts, path } => {
                let own = origin(base_url)
                    .is_some_and(|(_, host)| hosts.iter().any(|of| within(host, of)));
                let url = if own { url.to_owned() } else { format!("{base_url}{path}") };
                Some(KeyRequest { request: WireRequest::get(url), public: true })
            }
            Keys::Secret { path } => {
                let request = WireRequest::get(format!("{base_url}{path}"));
                Some(KeyRequest { request, public: false })
            }
            Keys::OfSubmit => None,
        }
    }

    /// The keys in the reply to that request. Those of another kind are passed over.
    pub fn read_keys(&self, reply: &Reply) -> Result<Vec<SignatureKey>, UpstreamError> {
        if !reply.is_success() {
            let message = format!("the signature keys came with status {}", reply.status);
            return Err(UpstreamError::malformed(message));
        }
        let answer: Value = reply.json()?;
        let keys: Vec<SignatureKey> = match self.keys {
            Keys::Jwks { .. } => {
                let set = answer.get("keys").and_then(Value::as_array);
                set.into_iter().flatten().filter_map(ed25519_key).collect()
            }
            Keys::Secret { .. } => {
                let text = answer.get("key").and_then(Value::as_str);
                text.and_then(standard_secret).into_iter().collect()
            }
            Keys::OfSubmit => Vec::new(),
        };
        if keys.is_empty() {
            return Err(UpstreamError::malformed("the reply holds no signature key"));
        }
        Ok(keys)
    }

    /// The signatures a push carries, those left out that are unreadable; `None` where it has no
    /// header for them.
    pub fn presented(&self, headers: &[(String, String)]) -> Option<Vec<Vec<u8>>> {
        let value = |name: &&str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let words = self.headers.iter().find_map(value)?.split_whitespace();
        let read = |word: &str| {
            let text = word.strip_prefix(self.prefix).unwrap_or(word);
            match self.encoding {
                Encoding::Hex => unhex(text),
                Encoding::Base64 => STANDARD.decode(text).ok(),
            }
        };
        Some(words.filter_map(read).collect())
    }
}

/// A public key of a set, if it is one for Ed25519 (RFC 8037).
fn ed25519_key(key: &Value) -> Option<SignatureKey> {
    let is = |field: &str, word: &str| key.get(field).and_then(Value::as_str) == Some(word);
    if !is("kty", "OKP") || !is("crv", "Ed25519") {
        return None;
    }
    let text = key.get("x")?.as_str()?.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (bytes.len() == 32).then(|| SignatureKey::new(bytes))
}

/// A secret as Standard Webhooks writes it: `whsec_` and base64.
fn standard_secret(text: &str) -> Option<SignatureKey> {
    let bytes = STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).ok()?;
    (!bytes.is_empty()).then(|| SignatureKey::new(bytes))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ADAPTERS, ReplyBody, adapter};

    fn scheme(name: &str) -> &'static Signature {
        adapter(name).unwrap().signature().unwrap()
    }

    fn reply(status: u16, body: &str) -> Reply {
        let body = ReplyBody::Text(bytes::Bytes::from(body.to_owned()));
        Reply { status, headers: Vec::new(), body }
    }

    #[test]
    fn keys_are_asked_for_where_the_vendor_keeps_them() {
        let check = |name: &str, base: &str, want: Option<(&str, bool)>| {
            let got = scheme(name).key_request(base);
            let got = got.as_ref().map(|key| (key.request.url.as_str(), key.public));
            assert_eq!(got, want, "{name} {base}");
        };
        let fal = "https://rest.fal.ai/.well-known/jwks.json";
        check("fal", "https://queue.fal.run", Some((fal, true)));
        check(
            "fal",
            "http://127.0.0.1:9100/fal",
            Some(("http://127.0.0.1:9100/fal/.well-known/jwks.json", true)),
        );
        check(
            "fal",
            "https://evilfal.run",
            Some(("https://evilfal.run/.well-known/jwks.json", true)),
        );
        check(
            "replicate",
            "https://api.replicate.com/v1",
            Some(("https://api.replicate.com/v1/webhooks/default/secret", false)),
        );
        check("bfl", "https://api.bfl.ai/v1", None);
    }

    #[test]
    fn keys_are_read_from_a_set_and_from_a_secret() {
        let check = |name: &str, status: u16, body: &str, want: Option<&[u8]>| {
            let got = scheme(name).read_keys(&reply(status, body));
            let got = got.ok().map(|keys| keys[0].bytes().to_vec());
            assert_eq!(got.as_deref(), want, "{body}");
        };
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        let key = |kty: &str, crv: &str, x: &str| {
            format!(r#"{{"keys": [{{}}, {{"kty": "{kty}", "crv": "{crv}", "x": "{x}"}}]}}"#)
        };
        check("fal", 200, &key("OKP", "Ed25519", &x), Some(&[7; 32]));
        check("fal", 200, &key("OKP", "Ed25519", &format!("{x}=")), Some(&[7; 32]));
        check("fal", 200, &key("OKP", "X25519", &x), None);
        check("fal", 200, &key("EC", "Ed25519", &x), None);
        check("fal", 200, &key("OKP", "Ed25519", "AAAA"), None);
        check("fal", 200, r#"{"keys": []}"#, None);
        check("fal", 404, &key("OKP", "Ed25519", &x), None);
        check("replicate", 200, r#"{"key": "whsec_AAECAw=="}"#, Some(&[0, 1, 2, 3]));
        check("replicate", 200, r#"{"key": "whsec_"}"#, None);
        check("replicate", 200, r#"{"key": "whsec_%%%"}"#, None);
        check("replicate", 200, "{}", None);
        assert_eq!(format!("{:?}", SignatureKey::new(vec![7])), "SignatureKey(***)");
    }

    #[test]
    fn signatures_are_read_as_each_vendor_writes_them() {
        let check = |name: &str, header: &str, value: &str, want: Option<&[&[u8]]>| {
            let headers = [(header.to_owned(), value.to_owned())];
            let want = want.map(|list| list.iter().map(|bytes| bytes.to_vec()).collect());
            assert_eq!(scheme(name).presented(&headers), want, "{name} {value}");
        };
        check("fal", "x-fal-webhook-signature", "00fF", Some(&[&[0, 255]]));
        check("fal", "x-fal-webhook-signature", "0", Some(&[]));
        check("fal", "x-fal-webhook-signature", "0é", Some(&[]));
        check("fal", "webhook-signature", "00ff", None);
        let two: &[&[u8]] = &[&[0, 1], &[2, 3]];
        check("replicate", "webhook-signature", "v1,AAE= v2,%% v1,AgM=", Some(two));
        check("replicate", "webhook-signature", "", Some(&[]));
        check("bfl", "x-bfl-signature", "sha256=00ff", Some(&[&[0, 255]]));
        check("bfl", "x-bfl-signature", "00ff", Some(&[&[0, 255]]));
    }

    #[test]
    fn whoever_pushes_signs_and_names_the_headers_in_lower_case() {
        for adapter in ADAPTERS {
            let pushes = adapter.recovery().contains(&crate::Recovery::Callback);
            assert_eq!(pushes, adapter.signature().is_some(), "{}", adapter.name());
            let Some(scheme) = adapter.signature() else { continue };
            let of_message = scheme.message.iter().filter_map(|piece| match piece {
                Signed::Header(name) => Some(*name),
                _ => None,
            });
            for name in scheme.headers.iter().copied().chain(scheme.timestamp).chain(of_message) {
                assert_eq!(name, name.to_ascii_lowercase());
            }
            let signs_body = |piece: &Signed| matches!(piece, Signed::Body | Signed::BodySha256);
            assert!(scheme.message.iter().any(signs_body), "{}", adapter.name());
        }
    }
}
