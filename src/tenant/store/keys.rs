//! Keys of the API.

use serde_json::{Value as Json, json};

use super::{
    Change, Entry, Outcome, Page, Part, StoreError, change, found, name, new_id, page, permit,
    projects,
};
use crate::{
    db::{Db, DbError, Row, Tx, Value},
    tenant::{
        Budget, Period, RateLimits, Scope, budgets,
        key::{KeyHash, KeyText, Kind, Pepper},
        role::{Act, Actor},
    },
};

const WHAT: &str = "key";
/// Patterns of one key.
const MOST_PATTERNS: usize = 100;

/// A key, without its secret.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// `mg_` and 16 digits.
    pub id: String,
    /// The organisation that pays.
    pub org: String,
    /// Where it belongs.
    pub project: String,
    /// What it may do.
    pub rights: Rights,
    /// Who made it.
    pub created_by: String,
    /// Unix ms.
    pub created_at: i64,
    /// Unix ms; a revoked key stays revoked.
    pub revoked_at: Option<i64>,
}

/// What can be decided about a key, now or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// For people.
    pub name: String,
    /// Patterns of models it may use.
    pub models: Vec<String>,
    /// Patterns of paths it may use.
    pub endpoints: Vec<String>,
    /// How fast it may ask.
    pub limits: RateLimits,
    /// Whether a repeat by an SDK joins the job it repeats.
    pub join_retries: bool,
    /// Whether white space is sent while a job runs.
    pub heartbeat: bool,
    /// When it ends, Unix ms.
    pub expires_at: Option<i64>,
}

impl Rights {
    /// Everything, for ever.
    pub fn all(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            models: vec!["*".to_owned()],
            endpoints: vec!["*".to_owned()],
            limits: RateLimits::default(),
            join_retries: true,
            heartbeat: false,
            expires_at: None,
        }
    }

    fn check(mut self, now: i64, ends_anew: bool) -> Outcome<Self> {
        self.name = name("name", &self.name)?;
        patterns("models", &self.models, |_| true)?;
        patterns("endpoints", &self.endpoints, |p| p.starts_with("/v1/") || p.starts_with('*'))?;
        let RateLimits { rpm, ipm, tpm, max_concurrent } = self.limits;
        for (field, limit) in
            [("rpm", rpm), ("ipm", ipm), ("tpm", tpm), ("max_concurrent", max_concurrent)]
        {
            if limit == Some(0) {
                let message = "0 would refuse every call; leave it out, or revoke the key";
                return Err(StoreError::invalid(field, message));
            }
        }
        if ends_anew && self.expires_at.is_some_and(|at| at <= now) {
            let message = "is in the past; to end a key now, revoke it";
            return Err(StoreError::invalid("expires_at", message));
        }
        Ok(self)
    }

    fn detail(&self) -> Json {
        json!({
            "name": self.name,
            "models": self.models,
            "endpoints": self.endpoints,
            "limits": self.limits,
            "join_retries": self.join_retries,
            "heartbeat": self.heartbeat,
            "expires_at": self.expires_at.map(|ms| ms.div_euclid(1000)),
        })
    }
}

fn patterns(field: &'static str, patterns: &[String], good: impl Fn(&str) -> bool) -> Outcome<()> {
    let invalid = |message: String| Err(StoreError::invalid(field, message));
    if patterns.is_empty() {
        return invalid(
            "is empty and would allow nothing; write [\"*\"] for everything".to_owned(),
        );
    }
    if patterns.len() > MOST_PATTERNS {
        return invalid(format!("has more than {MOST_PATTERNS} patterns"));
    }
    for pattern in patterns {
        let plain = |c: char| !c.is_control() && !c.is_whitespace();
        if pattern.is_empty() || pattern.len() > 200 || !pattern.chars().all(plain) {
            return invalid(format!("{pattern:?} is no pattern: 1 to 200 characters, no spaces"));
        }
        if !good(pattern) {
            return invalid(format!("{pattern:?} begins with neither /v1/ nor *"));
        }
    }
    Ok(())
}

/// A budget that a key is made with.
#[derive(Clone, Copy, Debug)]
pub struct KeyBudget {
    /// Nano-dollars; 0 allows nothing.
    pub usd: i64,
    /// How long until it begins anew.
    pub period: Period,
}

/// A key that was just made.
#[derive(Debug)]
pub struct Created {
    /// What it may do.
    pub key: ApiKey,
    /// The key itself, to be shown once.
    pub text: KeyText,
    /// Its budget, if it was given one.
    pub budget: Option<Budget>,
}

const COLUMNS: &str = "SELECT id, org, project, name, models, endpoints, rpm, ipm, tpm, \
                       max_concurrent, join_retries, heartbeat, expires_at, created_by, \
                       created_at, revoked_at";

fn read(row: &Row) -> Result<ApiKey, DbError> {
    let list = |at| -> Result<Vec<String>, DbError> {
        serde_json::from_str(&row.text(at)?)
            .map_err(|e| DbError::Corrupt(format!("a list of patterns is not JSON: {e}")))
    };
    let limit = |at| -> Result<Option<u32>, DbError> {
        Ok(row.opt_int(at)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
    };
    Ok(ApiKey {
        id: row.text(0)?,
        org: row.text(1)?,
        project: row.text(2)?,
        rights: Rights {
            name: row.text(3)?,
            models: list(4)?,
            endpoints: list(5)?,
            limits: RateLimits {
                rpm: limit(6)?,
                ipm: limit(7)?,
                tpm: limit(8)?,
                max_concurrent: limit(9)?,
            },
            join_retries: row.int(10)? != 0,
            heartbeat: row.int(11)? != 0,
            expires_at: row.opt_int(12)?,
        },
        created_by: row.text(13)?,
        created_at: row.int(14)?,
        revoked_at: row.opt_int(15)?,
    })
}

/// Every key changed after a revision, with its hash.
pub(in crate::tenant) async fn since(db: &Db, rev: i64) -> Result<Vec<(ApiKey, KeyHash)>, DbError> {
    let sql = format!("{COLUMNS}, hash FROM api_key WHERE rev > $1");
    let rows = db.query(sql, vec![rev.into()]).await?;
    rows.iter().map(|row| Ok((read(row)?, hash(&row.bytes(16)?)?))).collect()
}

/// A hash out of the database.
pub(super) fn hash(bytes: &[u8]) -> Result<KeyHash, DbError> {
    let bytes = bytes.try_into();
    bytes.map(KeyHash::new).map_err(|_| DbError::Corrupt("a key's hash is not 32 bytes".into()))
}

/// Makes a key. The answer is the only place where it is ever seen.
pub async fn create(
    db: &Db,
    pepper: &Pepper,
    actor: &Actor,
    project: &str,
    rights: Rights,
    budget: Option<KeyBudget>,
    now: i64,
) -> Outcome<Created> {
    let project = projects::get(db, actor, project).await?;
    permit(actor, Act::MakeKeys, &project.org, "project", &project.id)?;
    let rights = rights.check(now, true)?;
    let minted = pepper.mint(Kind::Data)?;
    let key = ApiKey {
        id: minted.id,
        org: project.org,
        project: project.id,
        rights,
        created_by: actor.id.clone(),
        created_at: now,
        revoked_at: None,
    };
    let budget = budget.map(|budget| Budget {
        id: new_id("bud"),
        name: key.rights.name.clone(),
        scope: Scope::Key,
        scope_id: key.id.clone(),
        unit: budgets::USD.to_owned(),
        period: budget.period,
        amount: budget.usd,
        alert_percent: None,
    });
    let mut detail = key.rights.detail();
    detail["project"] = json!(key.project);
    detail["budget"] = budget.as_ref().map_or(Json::Null, budgets::detail);
    let entry = Entry::new(actor, &key.org, "key.create", &key.id, detail);
    let hash = minted.hash;
    let (row, its_budget) = (key.clone(), budget.clone());
    change(db, entry, now, move |tx, rev| {
        let (key, budget) = (row.clone(), its_budget.clone());
        Box::pin(async move {
            let live = "SELECT id FROM project WHERE id = $1 AND deleted_at IS NULL";
            if !found(tx, live, &[key.project.as_str().into()]).await? {
                return Ok(Err(StoreError::not_found("project", key.project)));
            }
            insert(tx, rev, &key, hash).await?;
            if let Some(budget) = &budget {
                budgets::insert(tx, rev, &key.org, budget, now).await?;
            }
            Ok(Ok(()))
        })
    })
    .await?;
    Ok(Created { key, text: minted.text, budget })
}

async fn insert(tx: &mut Tx<'_>, rev: i64, key: &ApiKey, hash: KeyHash) -> Result<(), DbError> {
    let mut row: Vec<Value> = vec![
        key.id.as_str().into(),
        key.org.as_str().into(),
        key.project.as_str().into(),
        hash.bytes().to_vec().into(),
        key.created_by.as_str().into(),
        key.created_at.into(),
        rev.into(),
    ];
    row.extend(columns(&key.rights));
    tx.execute(
        "INSERT INTO api_key (id, org, project, hash, created_by, created_at, rev, name, models, \
         endpoints, rpm, ipm, tpm, max_concurrent, join_retries, heartbeat, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        &row,
    )
    .await?;
    Ok(())
}

fn columns(rights: &Rights) -> [Value; 10] {
    let limit = |n: Option<u32>| Value::from(n.map(i64::from));
    [
        rights.name.as_str().into(),
        json!(rights.models).to_string().into(),
        json!(rights.endpoints).to_string().into(),
        limit(rights.limits.rpm),
        limit(rights.limits.ipm),
        limit(rights.limits.tpm),
        limit(rights.limits.max_concurrent),
        rights.join_retries.into(),
        rights.heartbeat.into(),
        rights.expires_at.into(),
    ]
}

/// One key, also a revoked one.
pub async fn get(db: &Db, actor: &Actor, id: &str) -> Outcome<ApiKey> {
    let rows = db.query(format!("{COLUMNS} FROM api_key WHERE id = $1"), vec![id.into()]).await?;
    let row = rows.first().ok_or_else(|| StoreError::not_found(WHAT, id))?;
    let key = read(row)?;
    permit(actor, Act::Read, &key.org, WHAT, id)?;
    Ok(key)
}

/// The keys an operator sees, newest first, also revoked ones.
pub async fn list(
    db: &Db,
    actor: &Actor,
    org: Option<&str>,
    project: Option<&str>,
    at: &Page,
) -> Outcome<Part<ApiKey>> {
    let mut wheres = Vec::new();
    let mut params: Vec<Value> = Vec::new();
    if let Some(org) = org.or(actor.org.as_deref()) {
        permit(actor, Act::Read, org, "organisation", org)?;
        params.push(org.into());
        wheres.push(format!("org = ${}", params.len()));
    }
    if let Some(project) = project {
        let project = projects::get(db, actor, project).await?;
        params.push(project.id.into());
        wheres.push(format!("project = ${}", params.len()));
    }
    page(db, COLUMNS, "api_key", &wheres, params, at).await?.read(read)
}

/// What is to be changed; none stays as it is.
#[derive(Clone, Debug, Default)]
pub struct RightsChange {
    /// A new name.
    pub name: Option<String>,
    /// Other models.
    pub models: Option<Vec<String>>,
    /// Other paths.
    pub endpoints: Option<Vec<String>>,
    /// Another number of requests per minute; cleared, there is no limit, as with the others.
    pub rpm: Change<u32>,
    /// Of pictures per minute.
    pub ipm: Change<u32>,
    /// Of tokens per minute.
    pub tpm: Change<u32>,
    /// Of jobs at once.
    pub max_concurrent: Change<u32>,
    /// Whether repeats join.
    pub join_retries: Option<bool>,
    /// Whether white space is sent.
    pub heartbeat: Option<bool>,
    /// Another end; cleared, there is none.
    pub expires_at: Change<i64>,
}

impl RightsChange {
    /// Sets what is to be set.
    pub fn apply(self, rights: &mut Rights) {
        fn set<T>(place: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *place = new;
            }
        }
        set(&mut rights.name, self.name);
        set(&mut rights.models, self.models);
        set(&mut rights.endpoints, self.endpoints);
        self.rpm.apply(&mut rights.limits.rpm);
        self.ipm.apply(&mut rights.limits.ipm);
        self.tpm.apply(&mut rights.limits.tpm);
        self.max_concurrent.apply(&mut rights.limits.max_concurrent);
        set(&mut rights.join_retries, self.join_retries);
        set(&mut rights.heartbeat, self.heartbeat);
        self.expires_at.apply(&mut rights.expires_at);
    }
}

/// Changes what a key may do.
pub async fn update(
    db: &Db,
    actor: &Actor,
    id: &str,
    mut to: RightsChange,
    now: i64,
) -> Outcome<ApiKey> {
    let key = get(db, actor, id).await?;
    permit(actor, Act::Manage, &key.org, WHAT, id)?;
    let mut rights = key.rights;
    to.clone().apply(&mut rights);
    let rights = rights.check(now, !to.expires_at.is_keep())?;
    to.name = to.name.map(|_| rights.name.clone());
    let entry = Entry::new(actor, &key.org, "key.update", id, rights.detail());
    let id = id.to_owned();
    change(db, entry, now, move |tx, rev| {
        let (id, to) = (id.clone(), to.clone());
        Box::pin(async move {
            // As it is now: another operator may have changed something else meanwhile.
            let sql = format!("{COLUMNS} FROM api_key WHERE id = $1 AND revoked_at IS NULL");
            let rows = tx.query(&sql, &[id.as_str().into()]).await?;
            let Some(row) = rows.first() else {
                let message = "is revoked; make a new key";
                return Ok(Err(StoreError::invalid("id", message)));
            };
            let mut key = read(row)?;
            to.apply(&mut key.rights);
            let mut row = vec![key.id.as_str().into(), rev.into()];
            row.extend(columns(&key.rights));
            let sql = "UPDATE api_key SET rev = $2, name = $3, models = $4, endpoints = $5, \
                       rpm = $6, ipm = $7, tpm = $8, max_concurrent = $9, join_retries = $10, \
                       heartbeat = $11, expires_at = $12 WHERE id = $1";
            tx.execute(sql, &row).await?;
            Ok(Ok(key))
        })
    })
    .await
}

/// Revokes a key; once is enough, twice does no harm.
pub async fn revoke(db: &Db, actor: &Actor, id: &str, now: i64) -> Outcome<ApiKey> {
    let mut key = get(db, actor, id).await?;
    permit(actor, Act::MakeKeys, &key.org, WHAT, id)?;
    if key.revoked_at.is_some() {
        return Ok(key);
    }
    key.revoked_at = Some(now);
    let entry = Entry::new(actor, &key.org, "key.revoke", id, json!({}));
    change(db, entry, now, move |tx, rev| {
        let key = key.clone();
        Box::pin(async move {
            let row = [key.id.as_str().into(), now.into(), rev.into()];
            let sql = "UPDATE api_key SET revoked_at = $2, rev = $3 \
                       WHERE id = $1 AND revoked_at IS NULL";
            tx.execute(sql, &row).await?;
            Ok(Ok(key))
        })
    })
    .await
}
