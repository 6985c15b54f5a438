//! Pushes: what vendors send, signed, to the address that came with a submit, once its job is
//! over. What is not taken is sent again, twice as late each time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{body::to_bytes, response::Response};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use reqwest::{Client, redirect::Policy};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    bfl,
    exchange::Exchange,
    fal,
    faults::Kind,
    jobs::{Job, State},
    luma, replicate,
    vendor::Vendor,
};

/// How often a push is tried, and the pause after the first try.
const TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a job is looked at that may be cancelled before its time.
const GLANCE: Duration = Duration::from_millis(100);
/// The account that fal says it signs for.
const USER: &str = "user-of-the-simulator";

/// Where a submit wants its end pushed.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    /// The address.
    pub url: String,
    /// The secret to sign with, where the vendor takes one.
    pub secret: Option<String>,
    /// Whether the vendor's filter leaves the end of a job out.
    pub muted: bool,
}

impl Hook {
    /// A hook of a field's text; `None` where it is no address.
    pub(crate) fn at(text: &str) -> Option<Self> {
        let url = url::Url::parse(text).ok()?;
        let web = matches!(url.scheme(), "https" | "http") && url.has_host();
        web.then(|| Self { url: text.to_owned(), secret: None, muted: false })
    }
}

/// The keys of this run and the client that sends.
pub(crate) struct Hooks {
    client: Option<Client>,
    pair: Option<Ed25519KeyPair>,
    secret: [u8; 24],
}

impl Hooks {
    pub(crate) fn new() -> Self {
        crate::media::fetch::install_tls();
        let client = Client::builder().redirect(Policy::none()).no_proxy().timeout(PATIENCE);
        let mut secret = [0; 24];
        let filled = getrandom::fill(&mut secret);
        if filled.is_err() {
            tracing::error!("the simulator has no random secret to sign with");
        }
        Self { client: client.build().ok(), pair: key_pair(), secret }
    }

    /// The public keys: an older one that signs nothing any more, and the one in use.
    pub(crate) fn jwks(&self) -> Value {
        let key = |pair: Option<Ed25519KeyPair>| {
            pair.map(|pair| URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()))
        };
        let ours = self.pair.as_ref().map(|p| URL_SAFE_NO_PAD.encode(p.public_key().as_ref()));
        let list: Vec<Value> = [("old", key(key_pair())), ("now", ours)]
            .into_iter()
            .filter_map(|(id, x)| Some(json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x?})))
            .collect();
        json!({"keys": list})
    }

    /// The secret of Standard Webhooks.
    pub(crate) fn standard_secret(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.secret))
    }

    /// The headers that vouch for a body, as the vendor writes them.
    fn signed(&self, job: &Job, secret: Option<&str>, body: &[u8], forgery: Forgery) -> Headers {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let at = if forgery == Forgery::Stale { now - 3600 } else { now };
        // Signed first and changed afterwards.
        let body = if forgery == Forgery::Body { b"{}" } else { body };
        let mac = |secret: &[u8], message: &[u8]| {
            let secret = if forgery == Forgery::Key { b"another" } else { secret };
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
        };
        match job.vendor {
            Vendor::Fal => {
                let digest = hex::encode(Sha256::digest(body));
                let message = format!("{}\n{USER}\n{at}\n{digest}", job.id);
                let other = (forgery == Forgery::Key).then(key_pair).flatten();
                let pair = other.as_ref().or(self.pair.as_ref());
                let signature = pair.map(|pair| hex::encode(pair.sign(message.as_bytes())));
                vec![
                    ("x-fal-webhook-request-id", job.id.clone()),
                    ("x-fal-webhook-user-id", USER.to_owned()),
                    ("x-fal-webhook-timestamp", at.to_string()),
                    ("x-fal-webhook-signature", signature.unwrap_or_default()),
                ]
            }
            Vendor::Replicate => {
                let id = format!("msg_{}", job.id);
                let message = [format!("{id}.{at}.").as_bytes(), body].concat();
                let signature = STANDARD.encode(mac(&self.secret, &message));
                vec![
                    ("webhook-id", id),
                    ("webhook-timestamp", at.to_string()),
                    ("webhook-signature", format!("v1,{signature}")),
                ]
            }
            Vendor::Bfl => secret
                .map(|secret| {
                    let signature = hex::encode(mac(secret.as_bytes(), body));
                    ("x-bfl-signature", format!("sha256={signature}"))
                })
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Sends once; the receiver's status, 0 where there is no receiver.
    async fn send(&self, url: &str, headers: &[(&'static str, String)], body: Bytes) -> u16 {
        let Some(client) = &self.client else { return 0 };
        let mut request = client.post(url).header("content-type", "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send().await.map_or(0, |reply| reply.status().as_u16())
    }
}

type Headers = Vec<(&'static str, String)>;

/// What is wrong with a forged push.
#[derive(Clone, Copy, PartialEq)]
enum Forgery {
    No,
    Key,
    Body,
    Stale,
}

fn key_pair() -> Option<Ed25519KeyPair> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok()?;
    Ed25519KeyPair::from_pkcs8(document.as_ref()).ok()
}

/// Sees to it that a job's end is pushed. With `callback-early` it is pushed before this returns,
/// and so before the reply to the submit.
pub(crate) async fn order(x: &Exchange, job: &Job) {
    let Some(hook) = job.hook.clone().filter(|hook| !hook.muted) else { return };
    let fault = job.fault.as_ref();
    let is = |kind: Kind| fault.is_some_and(|fault| fault.kind == kind);
    let silent =
        fault.is_some_and(|f| f.kind.is_of_transport() && f.value.as_deref() == Some("silent"));
    if silent || is(Kind::CallbackLost) {
        return;
    }
    let push = Push { x: x.after_reply(), id: job.id.clone(), hook };
    if is(Kind::CallbackEarly) {
        push.deliver().await;
    } else {
        tokio::spawn(push.deliver());
    }
}

/// A push to come.
struct Push {
    x: Exchange,
    id: String,
    hook: Hook,
}

impl Push {
    async fn deliver(self) {
        let Some(job) = self.over().await else { return };
        let fault = job.fault.as_ref();
        let of = |kind: Kind| fault.filter(|fault| fault.kind == kind);
        if let Some(fault) = of(Kind::CallbackLate) {
            let pause = Duration::try_from_secs_f64(fault.number().unwrap_or(10.0));
            sleep(pause.unwrap_or_default()).await;
        }
        let forgery = match of(Kind::CallbackForged).map(|fault| fault.value.as_deref()) {
            None => Forgery::No,
            Some(Some("stale")) => Forgery::Stale,
            Some(Some("body")) => Forgery::Body,
            Some(_) => Forgery::Key,
        };
        let times = of(Kind::CallbackTwice).map_or(1, |f| f.number().unwrap_or(2.0) as u32);
        let body = Bytes::from(body(&self.x, &job).await.to_string());
        for _ in 0..times {
            self.attempt(&job, &body, forgery).await;
        }
    }

    /// The job once it is over; none where it was forgotten before.
    async fn over(&self) -> Option<Job> {
        loop {
            let job = self.x.sim.jobs.get(self.x.vendor, &self.id)?;
            if matches!(job.state(), State::Done | State::Cancelled) {
                return Some(job);
            }
            sleep_until(job.ends().min(Instant::now() + GLANCE)).await;
        }
    }

    /// Tries until it is taken. A forged push is not repeated: its sender wants no notice.
    async fn attempt(&self, job: &Job, body: &Bytes, forgery: Forgery) {
        let hooks = &self.x.sim.hooks;
        let mut pause = FIRST_PAUSE;
        let tries = if forgery == Forgery::No { TRIES } else { 1 };
        for left in (0..tries).rev() {
            let headers = hooks.signed(job, self.hook.secret.as_deref(), body, forgery);
            let status = hooks.send(&self.hook.url, &headers, body.clone()).await;
            self.x.sim.jobs.pushed(&self.id, status);
            if (200..300).contains(&status) || left == 0 {
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }
}

/// What the vendor says of a job that is over.
async fn body(x: &Exchange, job: &Job) -> Value {
    match job.vendor {
        Vendor::Fal => fal::push(x, job).await,
        Vendor::Replicate => replicate::prediction(x, job),
        Vendor::Bfl => bfl::finished(x, job),
        Vendor::Luma => luma::generation(x, job),
        _ => Value::Null,
    }
}

/// Status and JSON of a reply that is pushed and not sent.
pub(crate) async fn read(reply: Response) -> (u16, Value) {
    let status = reply.status().as_u16();
    let bytes = to_bytes(reply.into_body(), usize::MAX).await.unwrap_or_default();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}
