//! Where commands manage tenants: the local database, also beside a running `serve`, or the admin
//! listener of a gateway elsewhere. Both take the same bodies and give the same answers.

use std::{io::Write, path::Path, time::Duration};

use clap::Args;
use reqwest::{Client, Method, StatusCode, redirect};
use serde_json::{Map, Value};

use super::{Failure, chain};
use crate::{
    config::{self, Config, Secret},
    db::{Db, DbSettings},
    error::Error,
    media::fetch,
    seal::Sealer,
    tenant::{key::Pepper, role::Actor},
};

const PATIENCE: Duration = Duration::from_secs(30);
const PAGE: &str = "100";

/// Where tenants are managed, and how it is told.
#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    /// A running gateway's admin listener, such as http://127.0.0.1:4001, in place of the local
    /// database
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Its credential [default: $MEDIAGATE_ADMIN_KEY, which other users of the machine do not see]
    #[arg(long, value_name = "KEY", requires = "url")]
    admin_key: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Somebody who may everything with tenants.
#[derive(Debug)]
pub(super) enum Operator {
    /// With the database in hand.
    Local(Local),
    /// By the admin API.
    Remote(Remote),
}

/// The local database.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) db: Db,
    pub(super) pepper: Pepper,
    pub(super) actor: Actor,
}

/// An admin listener.
#[derive(Debug)]
pub(super) struct Remote {
    client: Client,
    base: String,
    key: Secret,
}

impl Operator {
    /// Opens the database of the configuration, or finds the listener that was named.
    pub(super) async fn open(args: &OperatorArgs, file: Option<&Path>) -> Result<Self, Failure> {
        match &args.url {
            Some(url) => Remote::new(url, args.admin_key.clone()).map(Self::Remote),
            None => Local::open(&Config::load(file, None)?).await.map(Self::Local),
        }
    }
}

impl Local {
    async fn open(config: &Config) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::error::Error| {
            Failure::Runtime(format!("{what}: {}", chain(error)))
        };
        let master = config.auth.master_key.as_ref().map(Secret::expose);
        let sealer = Sealer::load(master, &config.data_dir)
            .map_err(|e| failed("the master key cannot be had", &e))?;
        let settings =
            DbSettings { url: config.database.url.expose().to_owned(), max_connections: 2 };
        let place = config.database.place();
        let db = Db::open(&settings)
            .await
            .map_err(|e| failed(&format!("the database ({place}) cannot be opened"), &e))?;
        // A key made under another master key would never be let in.
        let sql = "SELECT value FROM setting WHERE name = 'master_check'";
        let stored = db.query(sql, Vec::new()).await;
        let stored = stored.map_err(|e| failed("the database cannot be read", &e))?;
        if let Some(row) = stored.first() {
            let value = row.bytes(0).map_err(|e| failed("the database cannot be read", &e))?;
            sealer.verify_check(&value).map_err(|e| failed("nothing was changed", &e))?;
        }
        Ok(Self { db, pepper: Pepper::of(&sealer), actor: Actor::above_all("cli") })
    }
}

impl Remote {
    fn new(url: &str, key: Option<String>) -> Result<Self, Failure> {
        let usage = |text: &str| Failure::Usage(text.to_owned());
        let parsed = url::Url::parse(url).ok();
        parsed
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| usage("--url is no address; write for example http://127.0.0.1:4001"))?;
        let key = key.map(Secret::new).or_else(config::admin_key_variable).ok_or_else(|| {
            usage("--url needs a credential: set MEDIAGATE_ADMIN_KEY or give --admin-key")
        })?;
        fetch::install_tls();
        // A credential goes where it was sent and nowhere else.
        let client = Client::builder()
            .timeout(PATIENCE)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|e| Failure::Runtime(chain(&e)))?;
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), key })
    }

    pub(super) async fn get(
        &self,
        path: &str,
        query: &[(String, String)],
    ) -> Result<Value, Failure> {
        let query =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        self.send(Method::GET, &format!("{path}?{query}"), None).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: Map<String, Value>,
    ) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(Value::Object(body))).await
    }

    pub(super) async fn delete(&self, path: &str, id: &str) -> Result<Value, Failure> {
        let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
        self.send(Method::DELETE, &format!("{path}/{id}"), None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/{path}", self.base);
        let mut request = self.client.request(method, url).bearer_auth(self.key.expose());
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let unreachable = |e: reqwest::Error| {
            let text = chain(&e.without_url());
            Failure::Runtime(format!("{} cannot be asked: {text}", self.base))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) if answer["error"]["message"].is_string() => {
                let message = answer["error"]["message"].as_str().unwrap_or_default();
                Err(told(status, format!("{} says: {message}", self.base)))
            }
            _ => Err(Failure::Runtime(format!(
                "{} answers with status {status}, but not as a gateway; is it the admin listener?",
                self.base
            ))),
        }
    }
}

fn told(status: StatusCode, message: String) -> Failure {
    if status == StatusCode::BAD_REQUEST {
        return Failure::Usage(message);
    }
    Failure::Runtime(message)
}

/// What the API's functions say, for a terminal.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or_default();
        let cause = error.source.as_ref().map(|source| chain(source.as_ref()));
        told(
            status,
            match cause {
                Some(cause) => format!("{}: {cause}", error.message),
                None => error.message,
            },
        )
    }
}

/// A list, page after page.
pub(super) async fn all<F: Future<Output = Result<Value, Failure>>>(
    query: &[(&str, Option<&str>)],
    page: impl Fn(Vec<(String, String)>) -> F,
) -> Result<Vec<Value>, Failure> {
    let given =
        query.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
    let given: Vec<(String, String)> = given.collect();
    let mut rows = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = given.clone();
        query.push(("limit".to_owned(), PAGE.to_owned()));
        query.extend(after.take().map(|id| ("after".to_owned(), id)));
        let list = page(query).await?;
        rows.extend(list["data"].as_array().into_iter().flatten().cloned());
        let last = list["last_id"].as_str().map(str::to_owned);
        if list["has_more"] != true || last.is_none() {
            return Ok(rows);
        }
        after = last;
    }
}

/// Prints rows under titles.
pub(super) fn table<const N: usize>(
    titles: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// A text, a number or nothing of a row.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A time in Unix seconds, in UTC.
pub(super) fn time(value: &Value) -> String {
    let seconds = value.as_u64().map(Duration::from_secs);
    let at = seconds.and_then(|s| std::time::SystemTime::UNIX_EPOCH.checked_add(s));
    at.map_or_else(|| "-".to_owned(), |at| humantime::format_rfc3339_seconds(at).to_string())
}
