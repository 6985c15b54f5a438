//! Whether a push comes from the vendor: checks the signature that its adapter describes.

use providers::{
    Signature,
    signature::{Algorithm, SignatureKey, Signed},
};
use ring::{hmac, signature::UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

/// Why a push is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A header of the signature is missing.
    #[error("the callback is not signed")]
    Unsigned,
    /// It was signed too long ago, or in the future: perhaps a repeat of an old one.
    #[error("the callback was signed {0} seconds off our clock")]
    Stale(u64),
    /// No signature fits any key.
    #[error("the callback's signature is wrong")]
    Wrong,
    /// The keys to check it with cannot be had just now.
    #[error("the provider's keys could not be fetched")]
    NoKeys,
}

impl Rejected {
    /// The word used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Stale(_) => "stale",
            Self::Wrong => "wrong_signature",
            Self::NoKeys => "no_keys",
        }
    }
}

/// Checks a push: `headers` with names in lower case, `body` as it came, `now` in seconds since
/// 1970. Comparisons of secrets take the same time whatever they find.
pub fn verify(
    scheme: &Signature,
    keys: &[SignatureKey],
    headers: &[(String, String)],
    body: &[u8],
    now: u64,
) -> Result<(), Rejected> {
    let Some(signatures) = scheme.presented(headers) else {
        return if scheme.required { Err(Rejected::Unsigned) } else { Ok(()) };
    };
    if let Some(name) = scheme.timestamp {
        let at = header(headers, name)?.trim().parse().map_err(|_| Rejected::Unsigned)?;
        let off = now.abs_diff(at);
        if off > scheme.tolerance_s {
            return Err(Rejected::Stale(off));
        }
    }
    let message = message(scheme, headers, body)?;
    let fits = |key: &SignatureKey, signature: &[u8]| match scheme.algorithm {
        Algorithm::Ed25519 => UnparsedPublicKey::new(&ring::signature::ED25519, key.bytes())
            .verify(&message, signature)
            .is_ok(),
        Algorithm::HmacSha256 => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
            hmac::verify(&key, &message, signature).is_ok()
        }
    };
    let good = keys.iter().any(|key| signatures.iter().any(|signature| fits(key, signature)));
    if good { Ok(()) } else { Err(Rejected::Wrong) }
}

/// What is signed, put together.
fn message(
    scheme: &Signature,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Vec<u8>, Rejected> {
    let mut message = Vec::with_capacity(body.len() + 256);
    for piece in scheme.message {
        match piece {
            Signed::Header(name) => message.extend_from_slice(header(headers, name)?.as_bytes()),
            Signed::Text(text) => message.extend_from_slice(text.as_bytes()),
            Signed::Body => message.extend_from_slice(body),
            Signed::BodySha256 => {
                message.extend_from_slice(hex::encode(Sha256::digest(body)).as_bytes());
            }
        }
    }
    Ok(message)
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Result<&'a str, Rejected> {
    let found = headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str()).ok_or(Rejected::Unsigned)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use providers::adapter;
    use ring::{
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair as _},
    };

    use super::*;

    const NOW: u64 = 1_793_527_200;
    const BODY: &[u8] = br#"{"request_id":"r1","status":"OK"}"#;
    const SECRET: &[u8] = b"a secret of twenty-four b";

    type Headers = Vec<(String, String)>;

    fn scheme(name: &str) -> &'static Signature {
        adapter(name).unwrap().signature().unwrap()
    }

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn key_pair() -> Ed25519KeyPair {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
    }

    fn public(pair: &Ed25519KeyPair) -> SignatureKey {
        SignatureKey::new(pair.public_key().as_ref().to_vec())
    }

    /// A push as fal signs it, written out by hand.
    fn by_fal(pair: &Ed25519KeyPair, at: &str) -> Headers {
        let digest = hex::encode(Sha256::digest(BODY));
        let signature = pair.sign(format!("r1\nuser-7\n{at}\n{digest}").as_bytes());
        headers(&[
            ("x-fal-webhook-request-id", "r1"),
            ("x-fal-webhook-user-id", "user-7"),
            ("x-fal-webhook-timestamp", at),
            ("x-fal-webhook-signature", &hex::encode(signature.as_ref())),
        ])
    }

    fn mac(message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message).as_ref().to_vec()
    }

    /// A push as Replicate signs it, with a signature of another version and an old one beside.
    fn by_replicate(at: &str) -> Headers {
        let mut message = format!("msg_1.{at}.").into_bytes();
        message.extend_from_slice(BODY);
        let good = STANDARD.encode(mac(&message));
        let line = format!("v2,AAAA v1,{} v1,{good}", STANDARD.encode(mac(b"old")));
        headers(&[("webhook-id", "msg_1"), ("webhook-timestamp", at), ("webhook-signature", &line)])
    }

    fn by_bfl(value: &str) -> Headers {
        headers(&[("x-bfl-signature", value)])
    }

    /// The push with one header changed, or left out.
    fn changed(push: &Headers, name: &str, value: Option<&str>) -> Headers {
        let others = push.iter().filter(|(known, _)| known != name).cloned();
        others.chain(value.map(|value| (name.to_owned(), value.to_owned()))).collect()
    }

    #[test]
    fn pushes_of_fal_are_believed_if_signed_of_late_by_one_of_its_keys() {
        let (ours, other) = (key_pair(), key_pair());
        let keys = [public(&other), public(&ours)];
        let good = by_fal(&ours, &NOW.to_string());
        let check = |push: &Headers, body: &[u8], keys: &[SignatureKey], want| {
            assert_eq!(verify(scheme("fal"), keys, push, body, NOW), want, "{push:?}");
        };
        check(&good, BODY, &keys, Ok(()));
        check(&good, BODY, &keys[..1], Err(Rejected::Wrong));
        check(&good, BODY, &[], Err(Rejected::Wrong));
        check(&good, b"{}", &keys, Err(Rejected::Wrong));
        for name in ["request-id", "user-id", "timestamp", "signature"] {
            let name = format!("x-fal-webhook-{name}");
            check(&changed(&good, &name, None), BODY, &keys, Err(Rejected::Unsigned));
        }
        for (name, value) in [
            ("x-fal-webhook-request-id", "r2"),
            ("x-fal-webhook-user-id", "user-8"),
            ("x-fal-webhook-signature", "00"),
            ("x-fal-webhook-signature", ""),
            ("x-fal-webhook-signature", "not hex"),
        ] {
            check(&changed(&good, name, Some(value)), BODY, &keys, Err(Rejected::Wrong));
        }
        let dated = |at: &str| changed(&good, "x-fal-webhook-timestamp", Some(at));
        check(&dated(&(NOW + 1).to_string()), BODY, &keys, Err(Rejected::Wrong));
        check(&dated("yesterday"), BODY, &keys, Err(Rejected::Unsigned));
        check(&dated("-1"), BODY, &keys, Err(Rejected::Unsigned));
        for (at, want) in [
            (NOW - 300, Ok(())),
            (NOW + 300, Ok(())),
            (NOW - 301, Err(Rejected::Stale(301))),
            (NOW + 301, Err(Rejected::Stale(301))),
        ] {
            check(&by_fal(&ours, &at.to_string()), BODY, &keys, want);
        }
    }

    #[test]
    fn pushes_of_replicate_are_believed_if_one_signature_fits() {
        let keys = [SignatureKey::new(SECRET.to_vec())];
        let good = by_replicate(&NOW.to_string());
        let check = |push: &Headers, body: &[u8], keys: &[SignatureKey], want| {
            assert_eq!(verify(scheme("replicate"), keys, push, body, NOW), want, "{push:?}");
        };
        check(&good, BODY, &keys, Ok(()));
        check(&good, b"{}", &keys, Err(Rejected::Wrong));
        check(&good, BODY, &[SignatureKey::new(b"another".to_vec())], Err(Rejected::Wrong));
        check(&changed(&good, "webhook-id", Some("msg_2")), BODY, &keys, Err(Rejected::Wrong));
        check(&changed(&good, "webhook-signature", Some("v1,")), BODY, &keys, Err(Rejected::Wrong));
        check(&changed(&good, "webhook-signature", None), BODY, &keys, Err(Rejected::Unsigned));
        check(&by_replicate("1"), BODY, &keys, Err(Rejected::Stale(NOW - 1)));
    }

    #[test]
    fn pushes_of_bfl_may_lack_a_signature_but_not_carry_a_wrong_one() {
        let keys = [SignatureKey::new(SECRET.to_vec())];
        let good = hex::encode(mac(BODY));
        for (push, want) in [
            (by_bfl(&good), Ok(())),
            (by_bfl(&format!("sha256={good}")), Ok(())),
            (headers(&[]), Ok(())),
            (by_bfl(""), Err(Rejected::Wrong)),
            (by_bfl("sha256="), Err(Rejected::Wrong)),
            (by_bfl(&hex::encode(mac(b"{}"))), Err(Rejected::Wrong)),
        ] {
            assert_eq!(verify(scheme("bfl"), &keys, &push, BODY, NOW), want, "{push:?}");
        }
    }
}
