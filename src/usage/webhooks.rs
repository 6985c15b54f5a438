//! Where an organisation wants to be told, and what became of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

use super::alert::Kind;
use crate::{
    db::{Db, DbError, Row},
    media::fetch::Fetcher,
    seal::Sealer,
    tenant::{
        role::{Act, Actor},
        store::{Entry, Outcome, Page, Part, StoreError, change, new_id, page, permit},
    },
};

const WHAT: &str = "webhook";
/// What a secret begins with, so that scanners see it (Standard Webhooks).
pub(super) const SECRET_PREFIX: &str = "whsec_";
/// Webhooks of one organisation.
const MOST: usize = 20;

/// A webhook, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// `whk_...`
    pub id: String,
    /// Whose it is.
    pub org: String,
    /// Where deliveries go.
    pub url: String,
    /// What is told.
    pub events: Vec<Kind>,
    /// Unix milliseconds.
    pub created_at: i64,
}

impl Webhook {
    /// As the admin API gives it.
    pub fn to_json(&self) -> Json {
        json!({
            "id": self.id,
            "object": "webhook",
            "org": self.org,
            "url": self.url,
            "events": names(&self.events),
            "created_at": self.created_at.div_euclid(1000),
        })
    }
}

fn names(events: &[Kind]) -> Vec<&'static str> {
    events.iter().map(|kind| kind.name()).collect()
}

/// What a secret is sealed for.
pub(super) fn context(id: &str) -> String {
    format!("webhook:{id}")
}

const COLUMNS: &str = "SELECT id, org, url, events, created_at";

fn read(row: &Row) -> Result<Webhook, DbError> {
    let names: Vec<String> = serde_json::from_str(&row.text(3)?)
        .map_err(|e| DbError::Corrupt(format!("a webhook's events are not JSON: {e}")))?;
    Ok(Webhook {
        id: row.text(0)?,
        org: row.text(1)?,
        url: row.text(2)?,
        events: names.iter().filter_map(|name| Kind::named(name)).collect(),
        created_at: row.int(4)?,
    })
}

/// Kinds out of their names; an empty list is all of them.
fn events(names: &[String]) -> Outcome<Vec<Kind>> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let mut kinds = Vec::new();
    for name in names {
        let kind = Kind::named(name).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            StoreError::invalid("events", format!("there is no {name:?}; there are {known}"))
        })?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn url(fetcher: &Fetcher, url: &str) -> Outcome<String> {
    fetcher.admits(url).map_err(|_| {
        let message = "must be public https on port 443 without credentials, or stand in \
                       [fetch] allow";
        StoreError::invalid("url", message)
    })?;
    Ok(url.to_owned())
}

/// A webhook to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewWebhook<'a> {
    /// Whose it is.
    pub org: &'a str,
    /// Where deliveries go.
    pub url: &'a str,
    /// What is told, by name; nothing is everything.
    pub events: &'a [String],
}

/// Makes a webhook. The secret that its deliveries are signed with is in this answer alone.
pub async fn create(
    db: &Db,
    sealer: &Sealer,
    fetcher: &Fetcher,
    actor: &Actor,
    new: NewWebhook<'_>,
    now: i64,
) -> Outcome<(Webhook, Zeroizing<String>)> {
    let org = new.org;
    permit(actor, Act::Manage, org, "organisation", org)?;
    let webhook = Webhook {
        id: new_id("whk"),
        org: org.to_owned(),
        url: url(fetcher, new.url)?,
        events: events(new.events)?,
        created_at: now,
    };
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key)?;
    let secret = Zeroizing::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(*key)));
    let sealed = sealer.seal(&context(&webhook.id), &*key)?;
    let detail = json!({"url": webhook.url, "events": names(&webhook.events)});
    let entry = Entry::new(actor, org, "webhook.create", &webhook.id, detail);
    let stored = webhook.clone();
    change(db, entry, now, move |tx, rev| {
        let (webhook, sealed) = (stored.clone(), sealed.clone());
        Box::pin(async move {
            const LIVE: &str = "SELECT id FROM org WHERE id = $1 AND deleted_at IS NULL";
            const MINE: &str = "SELECT id FROM webhook WHERE org = $1 AND deleted_at IS NULL";
            const INSERT: &str = "INSERT INTO webhook (id, org, url, sealed_secret, events, \
                                  created_at, rev) VALUES ($1, $2, $3, $4, $5, $6, $7)";
            let org = [webhook.org.as_str().into()];
            if tx.query(LIVE, &org).await?.is_empty() {
                return Ok(Err(StoreError::not_found("organisation", webhook.org)));
            }
            if tx.query(MINE, &org).await?.len() >= MOST {
                let message = format!("an organisation has at most {MOST} webhooks; delete one");
                return Ok(Err(StoreError::invalid("org", message)));
            }
            let row = [
                webhook.id.as_str().into(),
                webhook.org.as_str().into(),
                webhook.url.as_str().into(),
                sealed.into(),
                json!(names(&webhook.events)).to_string().into(),
                now.into(),
                rev.into(),
            ];
            tx.execute(INSERT, &row).await?;
            Ok(Ok(()))
        })
    })
    .await?;
    Ok((webhook, secret))
}

/// One webhook.
pub async fn get(db: &Db, actor: &Actor, id: &str) -> Outcome<Webhook> {
    let sql = format!("{COLUMNS} FROM webhook WHERE id = $1 AND deleted_at IS NULL");
    let rows = db.query(sql, vec![id.into()]).await?;
    let webhook = read(rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?)?;
    permit(actor, Act::Read, &webhook.org, WHAT, id)?;
    Ok(webhook)
}

/// The webhooks an operator sees, newest first.
pub async fn list(db: &Db, actor: &Actor, org: Option<&str>, at: &Page) -> Outcome<Part<Webhook>> {
    let mut wheres = vec!["deleted_at IS NULL".to_owned()];
    let mut params = Vec::new();
    if let Some(org) = org.or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        wheres.push("org = $1".to_owned());
        params.push(org.into());
    }
    page(db, COLUMNS, "webhook", &wheres, params, at).await?.read(read)
}

/// Changes where deliveries go or what is told; none stays as it is. The secret stays.
pub async fn update(
    db: &Db,
    fetcher: &Fetcher,
    actor: &Actor,
    id: &str,
    to: Option<&str>,
    told: Option<&[String]>,
    now: i64,
) -> Outcome<Webhook> {
    let mut webhook = get(db, actor, id).await?;
    permit(actor, Act::Manage, &webhook.org, WHAT, id)?;
    if let Some(to) = to {
        webhook.url = url(fetcher, to)?;
    }
    if let Some(told) = told {
        webhook.events = events(told)?;
    }
    let detail = json!({"url": webhook.url, "events": names(&webhook.events)});
    let entry = Entry::new(actor, &webhook.org, "webhook.update", id, detail);
    change(db, entry, now, move |tx, rev| {
        let webhook = webhook.clone();
        Box::pin(async move {
            const SQL: &str = "UPDATE webhook SET url = $1, events = $2, rev = $3 \
                               WHERE id = $4 AND deleted_at IS NULL";
            let row = [
                webhook.url.as_str().into(),
                json!(names(&webhook.events)).to_string().into(),
                rev.into(),
                webhook.id.as_str().into(),
            ];
            match tx.execute(SQL, &row).await? {
                0 => Ok(Err(StoreError::not_found(WHAT, webhook.id))),
                _ => Ok(Ok(webhook)),
            }
        })
    })
    .await
}

/// Deletes a webhook: what was not delivered yet never will be.
pub async fn delete(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<()> {
    let webhook = get(db, actor, id).await?;
    permit(actor, Act::Manage, &webhook.org, WHAT, id)?;
    let entry = Entry::new(actor, &webhook.org, "webhook.delete", id, json!({"url": webhook.url}));
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let id = id.clone();
        Box::pin(async move {
            const SQL: &str = "UPDATE webhook SET deleted_at = $1, rev = $2 \
                               WHERE id = $3 AND deleted_at IS NULL";
            match tx.execute(SQL, &[now.into(), rev.into(), id.as_str().into()]).await? {
                0 => Ok(Err(StoreError::not_found(WHAT, id))),
                _ => Ok(Ok(())),
            }
        })
    })
    .await
}

/// A delivery, made or still to be made.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `evt_...`: the `webhook-id` of every try.
    pub id: String,
    event: String,
    body: String,
    created_at: i64,
    tries: i64,
    next_at: Option<i64>,
    delivered_at: Option<i64>,
    last_error: Option<String>,
}

impl Delivery {
    /// As the admin API gives it.
    pub fn to_json(&self) -> Json {
        let status = match (self.delivered_at, self.next_at) {
            (Some(_), _) => "delivered",
            (None, Some(_)) => "pending",
            (None, None) => "failed",
        };
        let seconds = |ms: i64| ms.div_euclid(1000);
        json!({
            "id": self.id,
            "object": "delivery",
            "type": self.event,
            "status": status,
            "tries": self.tries,
            "created_at": seconds(self.created_at),
            "next_at": self.next_at.map(seconds),
            "delivered_at": self.delivered_at.map(seconds),
            "last_error": self.last_error,
            "body": serde_json::from_str::<Json>(&self.body).unwrap_or_default(),
        })
    }
}

/// What was sent to a webhook, or is to be, newest first.
pub async fn deliveries(db: &Db, actor: &Actor, id: &str, at: &Page) -> Outcome<Part<Delivery>> {
    get(db, actor, id).await?;
    let columns = "SELECT id, event, body, created_at, tries, next_at, delivered_at, last_error";
    let wheres = ["webhook = $1".to_owned()];
    let read = |row: &Row| {
        Ok(Delivery {
            id: row.text(0)?,
            event: row.text(1)?,
            body: row.text(2)?,
            created_at: row.int(3)?,
            tries: row.int(4)?,
            next_at: row.opt_int(5)?,
            delivered_at: row.opt_int(6)?,
            last_error: row.opt_text(7)?,
        })
    };
    page(db, columns, "outbox", &wheres, vec![id.into()], at).await?.read(read)
}
