//! The keys that providers sign their pushes with: fetched when first needed, kept for a day,
//! and fetched anew when a signature fits none of them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use providers::{Signature, signature::SignatureKey};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    callback_auth::{Rejected, verify},
    outgoing::Inputs,
    transport::{Access, Transport},
};

/// Keys are used this long without being looked at again.
const KEPT: Duration = Duration::from_hours(24);
/// They are fetched this often at most, whatever is pushed.
const PAUSE: Duration = Duration::from_mins(1);

/// Who is said to push.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// How it signs.
    pub scheme: &'a Signature,
    /// Its base URL.
    pub base_url: &'a str,
    /// How to speak to it: keys may differ by credential.
    pub access: &'a Access,
    /// The secret of the submit, where it signs with that.
    pub secret: &'a str,
}

/// The keys of every provider.
#[derive(Default)]
pub struct CallbackKeys {
    rings: Mutex<BTreeMap<[u8; 32], Arc<tokio::sync::Mutex<Ring>>>>,
}

impl fmt::Debug for CallbackKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackKeys").field("rings", &self.rings.lock().len()).finish()
    }
}

/// The keys of one provider and credential.
#[derive(Default)]
struct Ring {
    keys: Vec<SignatureKey>,
    /// When they came.
    since: Option<Instant>,
    /// When they were last asked for.
    asked: Option<Instant>,
}

impl CallbackKeys {
    /// Checks a push, as [`verify`] does, with the sender's keys. [`Rejected::NoKeys`] where they
    /// cannot be had: the sender is to come again.
    pub async fn verify(
        &self,
        transport: &Transport,
        sender: Sender<'_>,
        headers: &[(String, String)],
        body: &[u8],
        now: u64,
    ) -> Result<(), Rejected> {
        let check = |keys: &[SignatureKey]| verify(sender.scheme, keys, headers, body, now);
        if sender.scheme.key_request(sender.base_url).is_none() {
            return check(&[SignatureKey::new(sender.secret.as_bytes().to_vec())]);
        }
        // What no key can mend costs no request.
        match check(&[]) {
            Err(Rejected::Wrong) => {}
            settled => return settled,
        }
        let ring = Arc::clone(self.rings.lock().entry(name(sender)).or_default());
        let mut ring = ring.lock().await;
        let old = |at: Option<Instant>, age: Duration| at.is_none_or(|at| at.elapsed() >= age);
        if !old(ring.since, KEPT) && check(&ring.keys).is_ok() {
            return Ok(());
        }
        if old(ring.asked, PAUSE) {
            ring.asked = Some(Instant::now());
            if let Some(keys) = fetch(transport, sender).await {
                ring.keys = keys;
                ring.since = Some(Instant::now());
            }
        }
        if ring.keys.is_empty() { Err(Rejected::NoKeys) } else { check(&ring.keys) }
    }
}

/// A name of the sender and its credential that gives neither away.
fn name(sender: Sender<'_>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(sender.base_url.as_bytes());
    if let Some((header, value)) = &sender.access.key {
        hasher.update([0]);
        hasher.update(header.as_str().as_bytes());
        hasher.update([0]);
        hasher.update(value.as_bytes());
    }
    hasher.finalize().into()
}

async fn fetch(transport: &Transport, sender: Sender<'_>) -> Option<Vec<SignatureKey>> {
    let wanted = sender.scheme.key_request(sender.base_url)?;
    let without_key = Access {
        key: None,
        signer: None,
        headers: HeaderMap::new(),
        timeout: sender.access.timeout,
    };
    let access = if wanted.public { &without_key } else { sender.access };
    let problem = match transport.send(access, &wanted.request, &Inputs::default()).await {
        Ok((reply, _)) => match sender.scheme.read_keys(&reply) {
            Ok(keys) => return Some(keys),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!(provider = sender.base_url, problem, "no keys to check callbacks with");
    None
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::State, http::HeaderMap as Received};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use http::{HeaderName, HeaderValue};
    use providers::adapter;
    use ring::hmac;

    use super::*;
    use crate::media::{blob::Budget, fetch::install_tls};

    const NOW: u64 = 1_793_527_200;
    const BODY: &[u8] = b"{}";

    /// A provider whose secret can be changed, and the keys it was asked with.
    #[derive(Default)]
    struct Provider {
        secret: Mutex<String>,
        asked_with: Mutex<Vec<Option<String>>>,
    }

    async fn provider() -> (Arc<Provider>, String) {
        let provider = Arc::new(Provider::default());
        let answer = async |State(provider): State<Arc<Provider>>, headers: Received| {
            let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
            provider.asked_with.lock().push(key);
            let secret = provider.secret.lock().clone();
            format!("{{\"key\": \"whsec_{}\"}}", STANDARD.encode(secret))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&provider));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (provider, base)
    }

    fn access(key: &str) -> Access {
        let value = HeaderValue::from_str(key).unwrap();
        let key = Some((HeaderName::from_static("authorization"), value));
        Access { key, signer: None, headers: HeaderMap::new(), timeout: Duration::from_secs(5) }
    }

    fn signed(secret: &str) -> Vec<(String, String)> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let mac = hmac::sign(&key, format!("m1.{NOW}.{{}}").as_bytes());
        let signature = format!("v1,{}", STANDARD.encode(mac));
        [
            ("webhook-id", "m1"),
            ("webhook-timestamp", "1793527200"),
            ("webhook-signature", &signature),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    #[tokio::test]
    async fn keys_are_fetched_once_per_credential_and_anew_when_they_changed() {
        install_tls();
        let transport = Transport::new(Budget::new(1 << 20)).unwrap();
        let (provider, base_url) = provider().await;
        let keys = CallbackKeys::default();
        let scheme = adapter("replicate").unwrap().signature().unwrap();
        let check = async |credential: &str, headers: &[(String, String)]| {
            let access = access(credential);
            let sender = Sender { scheme, base_url: &base_url, access: &access, secret: "" };
            keys.verify(&transport, sender, headers, BODY, NOW).await
        };
        let asked = || provider.asked_with.lock().len();

        // Not worth a request.
        assert_eq!(check("one", &[]).await, Err(Rejected::Unsigned));
        assert_eq!(asked(), 0);
        // There is no secret yet.
        assert_eq!(check("one", &signed("a")).await, Err(Rejected::NoKeys));
        assert_eq!(check("one", &signed("a")).await, Err(Rejected::NoKeys));
        assert_eq!(asked(), 1, "asked again within the minute");

        *provider.secret.lock() = "a".to_owned();
        tokio::time::pause();
        tokio::time::advance(PAUSE).await;
        tokio::time::resume();
        assert_eq!(check("one", &signed("a")).await, Ok(()));
        assert_eq!(check("one", &signed("a")).await, Ok(()));
        assert_eq!(check("one", &signed("b")).await, Err(Rejected::Wrong));
        assert_eq!(asked(), 2);
        assert_eq!(check("two", &signed("a")).await, Ok(()));
        assert_eq!(provider.asked_with.lock()[2].as_deref(), Some("two"));

        // A new secret is noticed, though not more often than once a minute.
        *provider.secret.lock() = "b".to_owned();
        assert_eq!(check("one", &signed("b")).await, Err(Rejected::Wrong));
        tokio::time::pause();
        tokio::time::advance(PAUSE).await;
        tokio::time::resume();
        assert_eq!(check("one", &signed("b")).await, Ok(()));
        assert_eq!(check("one", &signed("a")).await, Err(Rejected::Wrong));
        assert_eq!(asked(), 4);
    }

    #[tokio::test]
    async fn public_keys_are_fetched_without_a_credential() {
        install_tls();
        let transport = Transport::new(Budget::new(1 << 20)).unwrap();
        let (provider, base_url) = provider().await;
        let access = access("one");
        let scheme = adapter("fal").unwrap().signature().unwrap();
        let sender = Sender { scheme, base_url: &base_url, access: &access, secret: "" };
        let headers = ["request-id", "user-id", "signature", "timestamp"]
            .map(|name| (format!("x-fal-webhook-{name}"), NOW.to_string()));
        let keys = CallbackKeys::default();
        let got = keys.verify(&transport, sender, &headers, BODY, NOW).await;
        assert_eq!(got, Err(Rejected::NoKeys));
        assert_eq!(*provider.asked_with.lock(), [None]);
    }
}
