use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

use super::*;
use crate::{
    db::testing,
    media::fetch::FetchRules,
    tenant::{
        DEFAULT,
        role::Actor,
        store::{Page, StoreError},
    },
    usage::alert::{Refused, raise},
};

type Got = Arc<Mutex<Vec<(HeaderMap, String)>>>;
type Shared = (Got, Arc<AtomicUsize>);

/// A receiver that answers with these statuses in turn, the last one for ever.
#[derive(Debug)]
struct Receiver {
    address: SocketAddr,
    got: Got,
}

impl Receiver {
    async fn start(statuses: &'static [u16]) -> Self {
        let got = Arc::new(Mutex::new(Vec::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let state = (Arc::clone(&got), count);
        let router =
            Router::new()
                .route(
                    "/hook",
                    post(
                        move |State((got, count)): State<Shared>,
                              headers: HeaderMap,
                              body: String| async move {
                            got.lock().push((headers, body));
                            let n = count.fetch_add(1, Ordering::SeqCst).min(statuses.len() - 1);
                            StatusCode::from_u16(statuses[n]).unwrap()
                        },
                    ),
                )
                .with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, got }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

fn sealer() -> Sealer {
    Sealer::new(Zeroizing::new([7; 32]), [])
}

fn fetcher(allowed: SocketAddr) -> Fetcher {
    Fetcher::new(FetchRules { allow: vec![allowed.into()], ..FetchRules::default() }).unwrap()
}

fn root() -> Actor {
    Actor::above_all("test")
}

const DAY: Page = Page { limit: 100, after: None };

async fn make(
    db: &Db,
    fetcher: &Fetcher,
    actor: &Actor,
    url: &str,
    events: &[String],
) -> Result<(webhooks::Webhook, Zeroizing<String>), StoreError> {
    let new = webhooks::NewWebhook { org: DEFAULT, url, events };
    webhooks::create(db, &sealer(), fetcher, actor, new, 0).await
}

async fn hook(db: &Db, receiver: &Receiver) -> (String, Zeroizing<String>) {
    let fetcher = fetcher(receiver.address);
    let (webhook, secret) = make(db, &fetcher, &root(), &receiver.url(), &[]).await.unwrap();
    (webhook.id, secret)
}

fn outbox(db: &Db, receiver: &Receiver) -> Outbox {
    Outbox::new(
        db.clone(),
        fetcher(receiver.address),
        Arc::new(sealer()),
        Arc::new(Alerts::default()),
    )
}

/// Writes an event down, by way of a budget that is refused.
async fn tell(db: &Db, at: i64) {
    let sql = "INSERT INTO budget (id, org, name, scope, scope_id, unit, period, amount, \
               created_at, rev) VALUES ('b1', 'default', 'b', 'org', 'default', 'usd', 'total', \
               5, 0, 1) ON CONFLICT (id) DO NOTHING";
    let alerts = Alerts::default();
    db.transaction(Durability::Process, move |tx| {
        Box::pin(async move { tx.execute(sql, &[]).await })
    })
    .await
    .unwrap();
    alerts.refresh(db).await.unwrap();
    let events = alerts.refused(&Refused { account: "budget:b1", asked: 9, left: 5, at });
    assert_eq!(events.len(), 1);
    db.transaction(Durability::Process, move |tx| {
        let events = events.clone();
        Box::pin(async move { raise(tx, &events).await })
    })
    .await
    .unwrap();
}

async fn listed(db: &Db, webhook: &str) -> Vec<Json> {
    let part = webhooks::deliveries(db, &root(), webhook, &DAY).await.unwrap();
    part.items.iter().map(webhooks::Delivery::to_json).collect()
}

/// Sends all that is due at a time; gives how many that were.
async fn send_due(outbox: &Outbox, at: i64) -> usize {
    let due = outbox.claim(AT_ONCE, at).await.unwrap();
    for due in &due {
        let outcome = outbox.send(due, at).await;
        outbox.settle(due, outcome, at).await.unwrap();
    }
    due.len()
}

const START: i64 = 1_788_220_800_000;

#[tokio::test]
async fn a_delivery_is_signed_as_receivers_check_it() {
    testing::each(|db| async move {
        let receiver = Receiver::start(&[204]).await;
        let (webhook, secret) = hook(&db, &receiver).await;
        tell(&db, START).await;
        let outbox = outbox(&db, &receiver);
        assert_eq!(send_due(&outbox, START - 1).await, 0);
        assert_eq!(send_due(&outbox, START).await, 1);
        assert_eq!(send_due(&outbox, START + GIVE_UP_MS).await, 0);

        let (headers, body) = receiver.got.lock()[0].clone();
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(signed.as_bytes());
        let wanted = STANDARD.encode(mac.finalize().into_bytes());
        assert_eq!(header("webhook-signature"), format!("v1,{wanted}"));
        assert_eq!(header("webhook-timestamp"), (START / 1000).to_string());
        let body: Json = serde_json::from_str(&body).unwrap();
        assert_eq!(body["id"], header("webhook-id"));
        assert_eq!(body["type"], "budget.exceeded");

        let listed = &listed(&db, &webhook).await[0];
        assert_eq!(listed["status"], "delivered");
        assert_eq!(listed["tries"], 1);
        assert_eq!(listed["body"], body);
        // The secret is nowhere in the database in the clear.
        let rows = db.query("SELECT sealed_secret, events FROM webhook", vec![]).await.unwrap();
        assert!(!rows[0].bytes(0).unwrap().windows(32).any(|w| w == key));
    })
    .await;
}

#[tokio::test]
async fn failures_are_tried_again_for_a_day_and_then_given_up() {
    testing::each(|db| async move {
        let receiver = Receiver::start(&[500, 302, 200]).await;
        let (webhook, _) = hook(&db, &receiver).await;
        tell(&db, START).await;
        let sending = outbox(&db, &receiver);
        let mut at = START;
        for (tries, status, error) in [
            (1, "pending", json!("the receiver answered 500")),
            (2, "pending", json!("the receiver answered 302")),
            (3, "delivered", json!(null)),
        ] {
            assert_eq!(send_due(&sending, at).await, 1);
            let listed = &listed(&db, &webhook).await[0];
            assert_eq!(listed["tries"], tries);
            assert_eq!(listed["status"], status);
            assert_eq!(listed["last_error"], error);
            at = listed["next_at"].as_i64().map_or(at, |s| (s + 1) * 1000);
        }
        assert_eq!(receiver.got.lock().len(), 3);
        let ids: Vec<_> =
            receiver.got.lock().iter().map(|(h, _)| h["webhook-id"].clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "a repeat is known by its id");

        webhooks::delete(&db, &root(), &webhook, 1).await.unwrap();

        // Never received: given up within a day, after the waits have grown.
        let dead = Receiver::start(&[503]).await;
        let (webhook, _) = hook(&db, &dead).await;
        tell(&db, START).await;
        let sending = outbox(&db, &dead);
        let mut at = START;
        let mut tries = 0;
        while let Some(row) = db
            .query("SELECT MIN(next_at) FROM outbox", vec![])
            .await
            .unwrap()
            .first()
            .and_then(|row| row.opt_int(0).unwrap())
        {
            assert!(row <= START + GIVE_UP_MS);
            assert!(row >= at, "the next try is later");
            at = row;
            tries += send_due(&sending, at).await;
        }
        assert!((9..=14).contains(&tries), "{tries} tries");
        assert!(at > START + GIVE_UP_MS / 2, "tried for most of a day");
        assert_eq!(listed(&db, &webhook).await[0]["status"], "failed");
    })
    .await;
}

#[tokio::test]
async fn hopeless_deliveries_are_not_tried_again() {
    testing::each(|db| async move {
        let receiver = Receiver::start(&[410]).await;
        let (gone, _) = hook(&db, &receiver).await;
        tell(&db, START).await;
        let sending = outbox(&db, &receiver);
        assert_eq!(send_due(&sending, START).await, 1);
        assert_eq!(listed(&db, &gone).await[0]["status"], "failed");
        webhooks::delete(&db, &root(), &gone, 1).await.unwrap();

        // The operator took the receiver off the list of exceptions: loopback is refused.
        let (private, _) = hook(&db, &receiver).await;
        tell(&db, START).await;
        let strict = Fetcher::new(FetchRules::default()).unwrap();
        let strict = Outbox { fetcher: strict, ..sending.clone() };
        assert_eq!(send_due(&strict, START).await, 1);
        assert_eq!(listed(&db, &private).await[0]["status"], "failed");

        // Another master key opens nothing, and deletes nothing.
        webhooks::delete(&db, &root(), &private, 1).await.unwrap();
        let (deleted, _) = hook(&db, &receiver).await;
        tell(&db, START).await;
        webhooks::delete(&db, &root(), &deleted, 1).await.unwrap();
        assert_eq!(send_due(&sending, START).await, 1);
        assert_eq!(receiver.got.lock().len(), 1);
        let gone = webhooks::deliveries(&db, &root(), &deleted, &DAY).await;
        assert!(matches!(gone, Err(StoreError::NotFound { .. })));
    })
    .await;
}

#[tokio::test]
async fn of_many_replicas_one_sends() {
    testing::each_url(|url| async move {
        let receiver = Receiver::start(&[200]).await;
        let first = testing::open(&url).await;
        let (webhook, _) = hook(&first, &receiver).await;
        tell(&first, START).await;
        let mut replicas = vec![first.clone()];
        if first.is_shared() {
            for _ in 0..3 {
                replicas.push(testing::open(&url).await);
            }
        }
        let sends = replicas.iter().cycle().take(12).map(|db| {
            let outbox = outbox(db, &receiver);
            async move { send_due(&outbox, START).await }
        });
        let sent: usize = futures_util::future::join_all(sends).await.into_iter().sum();
        assert_eq!(sent, 1);
        assert_eq!(receiver.got.lock().len(), 1);
        // A sender that died: its claim runs out.
        let sql = "UPDATE outbox SET next_at = $1, delivered_at = NULL";
        let at = START + CLAIM_MS;
        first
            .transaction(Durability::Process, move |tx| {
                Box::pin(async move { tx.execute(sql, &[at.into()]).await })
            })
            .await
            .unwrap();
        assert_eq!(send_due(&outbox(&first, &receiver), at).await, 1);
        assert_eq!(listed(&first, &webhook).await[0]["tries"], 2);
    })
    .await;
}

#[tokio::test]
async fn urls_and_events_are_checked() {
    testing::each(|db| async move {
        let fetcher = Fetcher::new(FetchRules::default()).unwrap();
        let none: &[String] = &[];
        let wrong = ["credits.high".to_owned()];
        for (url, told, field) in [
            ("http://example.com/", none, "url"),
            ("https://127.0.0.1/", none, "url"),
            ("https://169.254.169.254/latest", none, "url"),
            ("https://[::1]/", none, "url"),
            ("https://user:pw@example.com/", none, "url"),
            ("https://example.com:8443/", none, "url"),
            ("ftp://example.com/", none, "url"),
            ("", none, "url"),
            ("https://example.com/", &wrong[..], "events"),
        ] {
            let made = make(&db, &fetcher, &root(), url, told).await;
            assert!(
                matches!(&made, Err(StoreError::Invalid { field: f, .. }) if *f == field),
                "{url} {made:?}"
            );
        }
        let (webhook, secret) =
            make(&db, &fetcher, &root(), "https://example.com/a", none).await.unwrap();
        assert_eq!(webhook.events.len(), 3);
        assert_eq!(STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap().len(), 32);
        let low = ["credits.low".to_owned(), "credits.low".to_owned()];
        let changed = webhooks::update(&db, &fetcher, &root(), &webhook.id, None, Some(&low), 1)
            .await
            .unwrap();
        assert_eq!(changed.to_json()["events"], json!(["credits.low"]));
        assert_eq!(changed.url, "https://example.com/a");

        // Nobody of another organisation can tell that it is there.
        let stranger = Actor { org: Some("other".to_owned()), ..root() };
        let other = &stranger;
        let (id, db) = (&webhook.id, &db);
        let gone = |error: StoreError| matches!(error, StoreError::NotFound { .. });
        assert!(gone(webhooks::get(db, other, id).await.unwrap_err()));
        assert!(gone(webhooks::deliveries(db, other, id, &DAY).await.unwrap_err()));
        assert!(gone(webhooks::delete(db, other, id, 2).await.unwrap_err()));
        let update =
            webhooks::update(db, &fetcher, other, id, Some("https://evil.example/"), None, 2);
        assert!(gone(update.await.unwrap_err()));
        let to_them = make(db, &fetcher, other, "https://e.example/", none);
        assert!(gone(to_them.await.unwrap_err()));
        assert_eq!(webhooks::list(db, &root(), None, &DAY).await.unwrap().items, [changed]);
        // A role that only looks does not write.
        let viewer = Actor { role: crate::tenant::role::Role::Viewer, ..root() };
        assert!(matches!(webhooks::delete(db, &viewer, id, 2).await, Err(StoreError::Denied(_))));
    })
    .await;
}

#[test]
fn waits_grow_and_stay_within_bounds() {
    let mut last = 0;
    for tries in 1..=9 {
        let wait = wait("evt_1", tries);
        assert!(wait > last, "{tries}");
        last = wait;
    }
    for tries in [10, 100, i64::MAX] {
        assert!((LONGEST_WAIT_MS..=LONGEST_WAIT_MS * 11 / 10).contains(&wait("evt_1", tries)));
    }
}
