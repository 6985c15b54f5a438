//! Sends what is to be told, signed as Standard Webhooks, until it is received or a day is over.
//!
//! An event is one row. Whoever moves its `next_at` on has claimed it, so that of several replicas
//! one sends it; where that one dies in the middle another sends it again after a minute, with the
//! same `webhook-id`.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, header};
use sha2::Sha256;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{alert::Alerts, webhooks};
use crate::{
    db::{Db, DbError, Durability, Row},
    media::fetch::{FetchError, Fetcher},
    seal::Sealer,
};

/// How often due events are looked for.
const EVERY: Duration = Duration::from_secs(1);
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a claim lasts: longer than a receiver may take.
const CLAIM_MS: i64 = 60_000;
/// Events sent at once.
const AT_ONCE: usize = 32;
/// The wait after the first failure; each further one waits three times as long.
const FIRST_WAIT_MS: i64 = 5_000;
/// The longest wait.
const LONGEST_WAIT_MS: i64 = 6 * 3_600_000;
/// After so long without success an event is given up.
const GIVE_UP_MS: i64 = 24 * 3_600_000;
/// How long rows are kept once they are over: longer than the longest period of a budget.
const KEEP_MS: i64 = 35 * 24 * 3_600_000;
/// Rounds between two sweeps of old rows.
const SWEEP_ROUNDS: u64 = 3600;

/// Sends events.
#[derive(Clone, Debug)]
pub struct Outbox {
    db: Db,
    fetcher: Fetcher,
    sealer: Arc<Sealer>,
    alerts: Arc<Alerts>,
}

/// A claimed event.
#[derive(Clone, Debug)]
struct Due {
    id: String,
    webhook: String,
    body: String,
    created_at: i64,
    /// Counting this one.
    tries: i64,
    url: String,
    sealed: Vec<u8>,
    is_deleted: bool,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Received,
    /// Worth another try.
    Failed(String),
    /// Not worth another one.
    Hopeless(String),
}

impl Outbox {
    /// An outbox of this database. `fetcher` guards where deliveries may go.
    pub fn new(db: Db, fetcher: Fetcher, sealer: Arc<Sealer>, alerts: Arc<Alerts>) -> Self {
        Self { db, fetcher, sealer, alerts }
    }

    /// Sends what is due, every second until told to stop, and keeps the rules of alerts fresh.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sending = JoinSet::new();
        let mut round = 0_u64;
        let mut is_down = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            while sending.try_join_next().is_some() {}
            let done = self.round(&mut sending, round).await;
            round += 1;
            if let Err(error) = &done
                && !is_down
            {
                tracing::warn!(%error, "webhooks wait for the database");
            }
            is_down = done.is_err();
        }
        // What is on its way may arrive; what does not is sent again after its claim.
        while sending.join_next().await.is_some() {}
    }

    async fn round(&self, sending: &mut JoinSet<()>, round: u64) -> Result<(), DbError> {
        self.alerts.refresh(&self.db).await?;
        let now = now();
        for due in self.claim(AT_ONCE.saturating_sub(sending.len()), now).await? {
            let outbox = self.clone();
            sending.spawn(async move { outbox.deliver(due).await });
        }
        if round.is_multiple_of(SWEEP_ROUNDS) {
            self.sweep(now).await?;
        }
        Ok(())
    }

    /// Takes what is due, so that nobody else does.
    async fn claim(&self, most: usize, now: i64) -> Result<Vec<Due>, DbError> {
        const DUE: &str = "SELECT o.id, o.webhook, o.body, o.created_at, o.tries, o.next_at, \
                           w.url, w.sealed_secret, w.deleted_at FROM outbox AS o \
                           JOIN webhook AS w ON w.id = o.webhook \
                           WHERE o.next_at IS NOT NULL AND o.next_at <= $1 \
                           ORDER BY o.next_at, o.id LIMIT $2";
        let most = i64::try_from(most).unwrap_or(0);
        let rows = self.db.query(DUE, vec![now.into(), most.into()]).await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in rows {
            due.push((read(&row)?, row.int(5)?));
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        self.db
            .transaction(Durability::Process, move |tx| {
                let due = due.clone();
                Box::pin(async move {
                    const CLAIM: &str = "UPDATE outbox SET next_at = $1, tries = tries + 1 \
                                         WHERE id = $2 AND next_at = $3";
                    let mut mine = Vec::with_capacity(due.len());
                    for (due, was) in due {
                        let row = [(now + CLAIM_MS).into(), due.id.as_str().into(), was.into()];
                        if tx.execute(CLAIM, &row).await? == 1 {
                            mine.push(due);
                        }
                    }
                    Ok(mine)
                })
            })
            .await
    }

    async fn deliver(&self, due: Due) {
        let outcome = self.send(&due, now()).await;
        if let Err(error) = self.settle(&due, outcome, now()).await {
            // The claim runs out and it is sent again: the receiver knows it by its id.
            tracing::warn!(%error, event = due.id, "what came of a webhook is not written down");
        }
    }

    async fn send(&self, due: &Due, now: i64) -> Outcome {
        if due.is_deleted {
            return Outcome::Hopeless("the webhook was deleted".to_owned());
        }
        let key = match self.sealer.open(&webhooks::context(&due.webhook), &due.sealed) {
            Ok(key) => key,
            Err(error) => return Outcome::Hopeless(format!("its secret: {error}")),
        };
        let Some(headers) = headers(due, &key, now.div_euclid(1000)) else {
            return Outcome::Hopeless("it cannot be signed".to_owned());
        };
        let body = Bytes::copy_from_slice(due.body.as_bytes());
        match self.fetcher.post(&due.url, headers, body, PATIENCE).await {
            Ok(200..=299) => Outcome::Received,
            Ok(410) => Outcome::Hopeless("the receiver answered 410: it is gone".to_owned()),
            Ok(status) => Outcome::Failed(format!("the receiver answered {status}")),
            Err(error @ FetchError::Refused) => Outcome::Hopeless(error.to_string()),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    async fn settle(&self, due: &Due, outcome: Outcome, now: i64) -> Result<(), DbError> {
        let next = now + wait(&due.id, due.tries);
        let (next_at, delivered_at, last_error) = match outcome {
            Outcome::Received => (None, Some(now), None),
            Outcome::Failed(why) if next <= due.created_at.saturating_add(GIVE_UP_MS) => {
                (Some(next), None, Some(why))
            }
            Outcome::Failed(why) | Outcome::Hopeless(why) => {
                tracing::warn!(event = due.id, webhook = due.webhook, why, "a webhook is given up");
                (None, None, Some(why))
            }
        };
        let row = [
            next_at.into(),
            delivered_at.into(),
            last_error.into(),
            due.id.as_str().into(),
            due.tries.into(),
        ];
        self.db
            .transaction(Durability::Process, move |tx| {
                let row = row.clone();
                Box::pin(async move {
                    // Unless somebody else took it over meanwhile.
                    const SQL: &str = "UPDATE outbox SET next_at = $1, delivered_at = $2, \
                                       last_error = $3 WHERE id = $4 AND tries = $5";
                    tx.execute(SQL, &row).await.map(drop)
                })
            })
            .await
    }

    async fn sweep(&self, now: i64) -> Result<(), DbError> {
        self.db
            .transaction(Durability::Process, move |tx| {
                Box::pin(async move {
                    const SQL: &str = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox \
                                       WHERE next_at IS NULL AND created_at < $1 LIMIT 1000)";
                    tx.execute(SQL, &[(now - KEEP_MS).into()]).await.map(drop)
                })
            })
            .await
    }
}

fn read(row: &Row) -> Result<Due, DbError> {
    Ok(Due {
        id: row.text(0)?,
        webhook: row.text(1)?,
        body: row.text(2)?,
        created_at: row.int(3)?,
        tries: row.int(4)? + 1,
        url: row.text(6)?,
        sealed: row.bytes(7)?,
        is_deleted: row.opt_int(8)?.is_some(),
    })
}

/// Milliseconds until the next try after so many, spread by a tenth so that what failed together
/// does not come back together.
fn wait(id: &str, tries: i64) -> i64 {
    let power = u32::try_from(tries.clamp(1, 12) - 1).unwrap_or(0);
    let wait = FIRST_WAIT_MS.saturating_mul(3_i64.saturating_pow(power)).min(LONGEST_WAIT_MS);
    let spread = i64::from(crc32fast::hash(format!("{id}{tries}").as_bytes()) % 100);
    wait + wait / 1000 * spread
}

/// The headers of Standard Webhooks: id, timestamp, and the MAC of both with the body.
fn headers(due: &Due, key: &[u8], timestamp: i64) -> Option<HeaderMap> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{}.{timestamp}.{}", due.id, due.body).as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("mediagate-webhooks/1"));
    headers.insert("webhook-id", HeaderValue::from_str(&due.id).ok()?);
    headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
    headers.insert("webhook-signature", HeaderValue::from_str(&signature).ok()?);
    Some(headers)
}

/// Unix milliseconds.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
