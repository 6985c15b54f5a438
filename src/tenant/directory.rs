//! Every key that is good now, in memory: a request is authenticated without the database.
//!
//! A poller looks at the revision of the tenants several times a second and reads what changed, so
//! whatever one replica or the command line writes is known to all within a second. A key that is
//! not known yet is looked for at once, by one reader for all who ask. While the database is away
//! known keys go on working, for what needs no database; unknown ones are neither let in nor called
//! wrong.
//!
//! Expiry is compared with the clock of this machine: a clock that was set back lets a key live as
//! much longer.

mod rows;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use self::rows::{Rows, Touched};
use super::{
    Budget, DEFAULT, Grant, RateLimits, Scope, budgets,
    key::{self, KeyHash, Kind, Malformed, Pepper},
    store::provider_keys,
};
use crate::{
    config::{self, Secret},
    db::{Db, DbError},
    seal::Sealer,
};

/// How often changes are looked for.
const POLL: Duration = Duration::from_millis(300);
/// Unknown keys make the database be asked at most this often.
const MISS: Duration = Duration::from_millis(50);
/// An answer about an unknown key is given within this time, if only that there is none.
const PATIENCE: Duration = Duration::from_millis(900);
/// One reading may take so long.
const READING: Duration = Duration::from_secs(2);
/// Without word from the database for so long, it counts as away.
const SILENCE: Duration = Duration::from_secs(5);

/// A key that stands in the configuration.
#[derive(Clone, Debug)]
pub struct StaticKey {
    /// Its name; its id is `static:<name>`.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// The id or the name of its project.
    pub project: String,
    /// Models it may use.
    pub models: Vec<String>,
    /// Paths it may use.
    pub endpoints: Vec<String>,
    /// How fast it may ask.
    pub limits: RateLimits,
    /// What it may spend; its id is `static-<name>`.
    pub budget: Option<Budget>,
}

impl From<&config::StaticKey> for StaticKey {
    fn from(key: &config::StaticKey) -> Self {
        let budget = key.budget.map(|budget| Budget {
            id: format!("static-{}", key.name),
            name: key.name.clone(),
            scope: Scope::Key,
            scope_id: format!("static:{}", key.name),
            unit: budgets::USD.to_owned(),
            period: budget.period,
            amount: budget.amount.nanos(),
            alert_percent: None,
        });
        Self {
            name: key.name.clone(),
            sha256: key.sha256,
            project: key.project.clone(),
            models: key.models.clone(),
            endpoints: key.endpoints.clone(),
            limits: key.limits,
            budget,
        }
    }
}

impl StaticKey {
    /// The right of everyone in open mode.
    fn open() -> Self {
        Self {
            name: "open".to_owned(),
            sha256: [0; 32],
            project: DEFAULT.to_owned(),
            models: vec!["*".to_owned()],
            endpoints: vec!["*".to_owned()],
            limits: RateLimits::default(),
            budget: None,
        }
    }
}

/// Why a key is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not known, was revoked, or has expired: nobody is told which.
    #[error("the key is unknown, revoked or expired")]
    Unknown,
    /// It was cut off or mistyped.
    #[error("the key is incomplete or mistyped: its checksum does not fit")]
    Mistyped,
    /// Whether it is good cannot be said now.
    #[error("keys cannot be looked up just now")]
    Unavailable(#[source] Option<DbError>),
}

/// A project's own key at a provider.
#[derive(Debug)]
pub struct ProviderKey {
    /// `pk_...`
    pub id: String,
    /// The key; none where it was sealed under a master key that is lost. Another key must not be
    /// used in its place: somebody else would pay.
    pub secret: Option<Secret>,
}

/// All keys, and what they may do.
#[derive(Debug)]
pub struct Directory {
    db: Db,
    sealer: Arc<Sealer>,
    pepper: Pepper,
    statics: Vec<StaticKey>,
    published: RwLock<Published>,
    loader: Mutex<Loader>,
    /// When the database last answered.
    heard: RwLock<Option<Instant>>,
}

/// What requests see.
#[derive(Debug, Default)]
struct Published {
    is_loaded: bool,
    keys: HashMap<u64, Entry>,
    statics: Vec<([u8; 32], Arc<Grant>)>,
    open: Option<Arc<Grant>>,
    /// By project and provider.
    provider_keys: HashMap<(String, String), Arc<ProviderKey>>,
}

#[derive(Debug)]
struct Entry {
    hash: KeyHash,
    /// None once it was revoked.
    grant: Option<Arc<Grant>>,
}

/// What the one reader knows.
#[derive(Debug, Default)]
struct Loader {
    rows: Rows,
    /// Up to which revision; none makes it read everything.
    rev: Option<i64>,
    /// When the last reading began, and whether it came to an end.
    last: Option<(Instant, bool)>,
}

enum Look {
    Found(Arc<Grant>),
    Refused(Refused),
    /// The key may be newer than what is known.
    Unheard,
}

impl Directory {
    /// A directory that knows nothing yet: it lets nobody in until it was loaded.
    pub fn new(db: Db, sealer: Arc<Sealer>, statics: Vec<StaticKey>) -> Self {
        Self {
            db,
            pepper: Pepper::of(&sealer),
            sealer,
            statics,
            published: RwLock::default(),
            loader: Mutex::default(),
            heard: RwLock::new(None),
        }
    }

    /// Reads what changed since it last did; everything the first time.
    pub async fn refresh(&self) -> Result<(), DbError> {
        let mut loader = self.loader.lock().await;
        self.load(&mut loader).await
    }

    /// Watches for changes until told to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut is_away = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let failure = match tokio::time::timeout(READING, self.refresh()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the database is silent".to_owned()),
            };
            match &failure {
                Some(error) if !is_away => {
                    tracing::error!(error, "keys cannot be read; known ones go on working");
                }
                None if is_away => tracing::info!("keys are up to date again"),
                Some(_) | None => {}
            }
            is_away = failure.is_some();
        }
    }

    /// Whether the database answered lately, so that what is known is up to date.
    pub fn is_current(&self) -> bool {
        self.heard.read().is_some_and(|at| at.elapsed() < SILENCE)
    }

    /// How keys are hashed here.
    pub fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// The right of everyone, where the gateway runs without keys.
    pub fn open(&self) -> Result<Arc<Grant>, Refused> {
        self.published.read().open.clone().ok_or(Refused::Unavailable(None))
    }

    /// The project's own key at a provider, if it brought one.
    pub fn provider_key(&self, project: &str, provider: &str) -> Option<Arc<ProviderKey>> {
        let published = self.published.read();
        if published.provider_keys.is_empty() {
            return None;
        }
        published.provider_keys.get(&(project.to_owned(), provider.to_owned())).cloned()
    }

    /// What the holder of a key may do at `now`, in Unix ms. Takes as long for a wrong secret as
    /// for the right one.
    pub async fn authenticate(&self, token: &str, now: i64) -> Result<Arc<Grant>, Refused> {
        match self.look(token, now) {
            Look::Found(grant) => return Ok(grant),
            Look::Refused(why) => return Err(why),
            Look::Unheard => {}
        }
        let unavailable = Refused::Unavailable(None);
        tokio::time::timeout(PATIENCE, self.catch_up()).await.map_err(|_| unavailable)??;
        match self.look(token, now) {
            Look::Found(grant) => Ok(grant),
            Look::Refused(why) => Err(why),
            Look::Unheard => Err(Refused::Unknown),
        }
    }

    fn look(&self, token: &str, now: i64) -> Look {
        let published = self.published.read();
        if !published.is_loaded {
            return Look::Unheard;
        }
        if !published.statics.is_empty() {
            let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
            // Every key is compared, so the time says nothing about which one was near.
            let found = published.statics.iter().fold(None, |found, (sha256, grant)| {
                if bool::from(sha256.ct_eq(&digest)) { Some(grant) } else { found }
            });
            if let Some(grant) = found {
                return Look::Found(Arc::clone(grant));
            }
        }
        let presented = match key::read(Kind::Data, token) {
            Ok(presented) => presented,
            Err(Malformed::Foreign) => return Look::Refused(Refused::Unknown),
            Err(Malformed::Mistyped) => return Look::Refused(Refused::Mistyped),
        };
        let entry = rows::number(presented.id).and_then(|id| published.keys.get(&id));
        // An unknown key is compared with nothing all the same.
        let kept = entry.map_or(KeyHash::NONE, |entry| entry.hash);
        let is_same = self.pepper.knows(presented, &kept);
        let Some(entry) = entry else { return Look::Unheard };
        let good = entry.grant.as_ref().filter(|g| g.expires_at.is_none_or(|at| now < at));
        match good.filter(|_| is_same) {
            Some(grant) => Look::Found(Arc::clone(grant)),
            None => Look::Refused(Refused::Unknown),
        }
    }

    /// Makes sure that everything written before this call is known. All who wait share a reading.
    async fn catch_up(&self) -> Result<(), Refused> {
        let asked = Instant::now();
        let mut loader = self.loader.lock().await;
        if let Some((begun, good)) = loader.last {
            if begun >= asked {
                return if good { Ok(()) } else { Err(Refused::Unavailable(None)) };
            }
            tokio::time::sleep_until(begun + MISS).await;
        }
        self.load(&mut loader).await.map_err(|error| Refused::Unavailable(Some(error)))
    }

    async fn load(&self, loader: &mut Loader) -> Result<(), DbError> {
        let begun = Instant::now();
        let read = self.read(loader).await;
        loader.last = Some((begun, read.is_ok()));
        if read.is_err() {
            // It may come back as yesterday's copy.
            loader.rev = None;
        } else {
            *self.heard.write() = Some(begun);
        }
        read
    }

    async fn read(&self, loader: &mut Loader) -> Result<(), DbError> {
        let sql = "SELECT value FROM revision WHERE name = 'tenants'";
        let answer = self.db.query(sql, Vec::new()).await?;
        let row = answer.first();
        let row = row.ok_or_else(|| DbError::Corrupt("revision 'tenants' is gone".to_owned()))?;
        let rev = row.int(0)?;
        let from = match loader.rev {
            Some(known) if known == rev => return Ok(()),
            Some(known) if known < rev => Some(known),
            // Nothing is known, or the database is older than what is.
            _ => None,
        };
        let changes = rows::read(&self.db, from).await?;
        // From here on nothing waits, so a reading happens whole or not at all.
        if from.is_none() {
            loader.rows = Rows::default();
        }
        let touched = loader.rows.apply(changes);
        loader.rev = Some(rev);
        self.publish(&loader.rows, from.is_none(), &touched);
        Ok(())
    }

    fn publish(&self, rows: &Rows, is_all: bool, touched: &Touched) {
        let fresh: Vec<(u64, Entry)> = rows
            .keys
            .iter()
            .filter(|(id, key)| is_all || touched.covers(**id, &key.1.org))
            .map(|(id, (hash, key))| {
                (*id, Entry { hash: *hash, grant: rows.grant(key).map(Arc::new) })
            })
            .collect();
        let statics: Vec<_> = self
            .statics
            .iter()
            .map(|key| {
                (key.sha256, Arc::new(rows.static_grant(format!("static:{}", key.name), key)))
            })
            .collect();
        let open = Arc::new(rows.static_grant("open".to_owned(), &StaticKey::open()));
        let provider_keys = (is_all || touched.provider_keys).then(|| self.opened(rows));
        let mut published = self.published.write();
        if let Some(keys) = provider_keys {
            published.provider_keys = keys;
        }
        if is_all {
            published.keys.clear();
        }
        published.keys.extend(fresh);
        published.statics = statics;
        published.open = Some(open);
        published.is_loaded = true;
    }

    fn opened(&self, rows: &Rows) -> HashMap<(String, String), Arc<ProviderKey>> {
        let opened = rows.provider_keys.iter().map(|(id, (key, sealed))| {
            let plain = self.sealer.open(&provider_keys::context(id), sealed);
            let text = plain.map(|plain| String::from_utf8_lossy(&plain).into_owned());
            let secret = text
                .inspect_err(|error| tracing::error!(id, %error, "a provider key does not open"))
                .ok()
                .map(Secret::new);
            let place = (key.project.clone(), key.provider.clone());
            (place, Arc::new(ProviderKey { id: id.clone(), secret }))
        });
        opened.collect()
    }
}

#[cfg(test)]
mod tests;
