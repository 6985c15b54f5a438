//! Addresses that providers push a job's end to, and what reaches them.
//!
//! An address names provider, job and attempt and carries a MAC over them, so that nobody can
//! address a job whose submit they have not seen. What is pushed goes to the attempt that waits
//! for it; one that waits no more is none the worse for it, for jobs are also asked after.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit as _, Mac as _};
use providers::{Reply, ReplyBody};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{
    Engine,
    callback_auth::Rejected,
    callback_keys::{CallbackKeys, Sender},
    registry::Served,
    unix,
};

/// Hex digits of a MAC in an address: 128 bits.
const MAC_HEX: usize = 32;
/// Makes and knows the addresses.
pub struct Callbacks {
    base: String,
    key: [u8; 32],
    keys: CallbackKeys,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Callbacks {
    /// Addresses under a public URL, without a trailing slash.
    pub fn new(base: impl Into<String>, key: [u8; 32]) -> Self {
        Self { base: base.into(), key, keys: CallbackKeys::default() }
    }

    /// The address of an attempt.
    pub fn url(&self, provider: &str, job: &str, attempt: i64) -> String {
        let mac = self.mac("address", provider, job, attempt);
        format!("{}/callbacks/{provider}/{job}/{attempt}/{mac}", self.base)
    }

    /// The secret a provider is to sign its push with, where it takes one of ours.
    pub fn secret(&self, provider: &str, job: &str, attempt: i64) -> String {
        self.mac("secret", provider, job, attempt)
    }

    /// Whether an address is one of ours.
    pub fn knows(&self, provider: &str, job: &str, attempt: i64, mac: &str) -> bool {
        let true_mac = self.mac("address", provider, job, attempt);
        bool::from(true_mac.as_bytes().ct_eq(mac.as_bytes()))
    }

    fn mac(&self, what: &str, provider: &str, job: &str, attempt: i64) -> String {
        let attempt = attempt.to_string();
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return String::new() };
        for part in [what, provider, job, &attempt] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        let mut text = hex::encode(mac.finalize().into_bytes());
        text.truncate(MAC_HEX);
        text
    }
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// What it says is written down, or nobody needs it any more.
    Taken,
    /// The address is not one of ours, or the job is none that is known.
    Unknown,
    /// It does not come from the provider.
    Forged(Rejected),
    /// It cannot be checked or written down now: the provider is to send it again.
    Later,
}

impl Engine {
    /// Takes what a provider pushed to an address.
    pub async fn receive(
        &self,
        provider: &str,
        job: &str,
        attempt: i64,
        mac: &str,
        push: Reply,
    ) -> Received {
        let Some(callbacks) = &self.callbacks else { return Received::Unknown };
        if !callbacks.knows(provider, job, attempt, mac) {
            return Received::Unknown;
        }
        let of = |served: &&Arc<Served>| served.deployment.provider == provider;
        let Some(served) = self.registry.served().iter().find(of) else { return Received::Unknown };
        let Some(scheme) = served.adapter.signature() else { return Received::Unknown };
        let found = self.jobs.any(job);
        // Of a project that brought its own key, the provider signs for that one.
        let own = found.as_ref().and_then(|job| {
            let row = job.change_attempt(attempt, |_| ())?;
            self.with_credential(served, &job.grant.project, &row.credential)
        });
        let served = own.as_ref().unwrap_or(served);
        let secret = callbacks.secret(provider, job, attempt);
        let sender =
            Sender { scheme, base_url: &served.base_url, access: &served.access, secret: &secret };
        let now = unix(std::time::SystemTime::now());
        let (headers, body) = (&push.headers, push.text());
        match callbacks.keys.verify(&self.transport, sender, headers, body, now).await {
            Ok(()) => {}
            Err(Rejected::NoKeys) => return Received::Later,
            Err(rejected) => return Received::Forged(rejected),
        }
        match found {
            // One that comes late or twice finds nobody who waits.
            Some(job) if job.push(attempt, push).await => Received::Taken,
            Some(_) => Received::Later,
            None => match self.stored(job).await {
                Ok(Some(row)) if row.state.is_final() => Received::Taken,
                // Another replica may have it, or nobody yet: the provider is to come again.
                Ok(Some(_)) | Err(_) => Received::Later,
                // Of before a backup was put back, say.
                Ok(None) => Received::Unknown,
            },
        }
    }
}

/// A push as adapters read it.
pub fn push(headers: Vec<(String, String)>, body: bytes::Bytes) -> Reply {
    Reply { status: 200, headers, body: ReplyBody::Text(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_ours_are_known() {
        let ours = Callbacks::new("https://gate.example", [7; 32]);
        let url = ours.url("fal", "job_1", 0);
        let mac = url.rsplit('/').next().unwrap();
        assert_eq!(url, format!("https://gate.example/callbacks/fal/job_1/0/{mac}"));
        assert_eq!(mac.len(), MAC_HEX);
        assert!(ours.knows("fal", "job_1", 0, mac));
        for (provider, job, attempt) in
            [("bfl", "job_1", 0), ("fal", "job_2", 0), ("fal", "job_1", 1), ("fa", "ljob_1", 0)]
        {
            assert!(!ours.knows(provider, job, attempt, mac), "{provider} {job} {attempt}");
        }
        assert!(!ours.knows("fal", "job_1", 0, ""));
        assert!(!ours.knows("fal", "job_1", 0, &mac[1..]));
        assert!(!Callbacks::new("", [8; 32]).knows("fal", "job_1", 0, mac), "another key");
        assert_ne!(ours.secret("fal", "job_1", 0), mac, "the secret is no part of the address");
    }
}
