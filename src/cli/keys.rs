//! `mediagate keys`: makes, lists and revokes keys of the API.

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    Failure,
    operator::{Operator, OperatorArgs, all, cell, table, time},
};
use crate::{api::admin::keys, tenant};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key and print it: it is shown this once
    Create(CreateArgs),
    /// List the keys, without their secrets
    List(ListArgs),
    /// Revoke a key: every gateway refuses it within a second
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What it is called, for people
    #[arg(long)]
    name: String,
    /// Its project, by id or by name
    #[arg(long)]
    project: Option<String>,
    /// Most that it may spend, such as 5 or 0.25
    #[arg(long, value_name = "USD", allow_negative_numbers = true)]
    budget_usd: Option<String>,
    /// How long until the budget begins anew: day, week, month or total
    #[arg(long, value_name = "PERIOD", requires = "budget_usd")]
    period: Option<String>,
    /// Most requests per minute
    #[arg(long)]
    rpm: Option<u32>,
    /// Most pictures per minute
    #[arg(long)]
    ipm: Option<u32>,
    /// Most tokens per minute
    #[arg(long)]
    tpm: Option<u32>,
    /// Most jobs at once
    #[arg(long)]
    max_concurrent: Option<u32>,
    /// Models it may use, such as 'flux-*'; may be repeated or separated by commas
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    models: Vec<String>,
    /// Paths it may use, such as '/v1/images/*'; may be repeated or separated by commas
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    endpoints: Vec<String>,
    /// How long it is good, such as 30d or 12h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires: Option<std::time::Duration>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those of this project, by id or by name
    #[arg(long)]
    project: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The key's id: what stands before its second underscore, such as mg_0123456789abcdef
    id: String,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Does it.
pub(super) async fn run(
    command: &KeysCommand,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        KeysCommand::Create(args) => create(args, config, out).await,
        KeysCommand::List(args) => list(args, config, out).await,
        KeysCommand::Revoke(args) => revoke(args, config, out).await,
    }
}

async fn create(
    args: &CreateArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let body = args.body();
    let made = match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => {
            keys::make(&here.db, &here.pepper, &here.actor, body.into()).await?
        }
        Operator::Remote(there) => there.post("keys", body).await?,
    };
    if args.operator.json {
        return Ok(writeln!(out, "{made:#}")?);
    }
    Ok(writeln!(out, "{}", made["key"].as_str().unwrap_or_default())?)
}

impl CreateArgs {
    fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        let ends = |after: std::time::Duration| {
            let now = tenant::now().div_euclid(1000);
            now.saturating_add(i64::try_from(after.as_secs()).unwrap_or(i64::MAX))
        };
        set("name", Some(json!(self.name)));
        set("project", self.project.as_ref().map(|v| json!(v)));
        set("budget_usd", self.budget_usd.as_ref().map(|v| json!(v)));
        set("budget_period", self.period.as_ref().map(|v| json!(v)));
        set("rpm", self.rpm.map(Value::from));
        set("ipm", self.ipm.map(Value::from));
        set("tpm", self.tpm.map(Value::from));
        set("max_concurrent", self.max_concurrent.map(Value::from));
        set("models", (!self.models.is_empty()).then(|| json!(self.models)));
        set("endpoints", (!self.endpoints.is_empty()).then(|| json!(self.endpoints)));
        set("expires_at", self.expires.map(|after| json!(ends(after))));
        body
    }
}

async fn list(args: &ListArgs, config: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::open(&args.operator, config).await?;
    let query = [("project", args.project.as_deref())];
    let rows = all(&query, |query| async {
        match &operator {
            Operator::Local(here) => Ok(keys::page(&here.db, &here.actor, query.into()).await?),
            Operator::Remote(there) => there.get("keys", &query).await,
        }
    })
    .await?;
    if args.operator.json {
        return Ok(writeln!(out, "{:#}", json!({ "object": "list", "data": rows }))?);
    }
    let titles = ["ID", "NAME", "PROJECT", "STATUS", "MODELS", "CREATED", "EXPIRES"];
    let rows = rows.iter().map(|key| {
        let text = |name: &str| cell(&key[name]);
        let (created, expires) = (time(&key["created_at"]), time(&key["expires_at"]));
        let (id, name, project) = (text("id"), text("name"), text("project"));
        [id, name, project, text("status"), text("models"), created, expires]
    });
    table(titles, rows, out)
}

async fn revoke(
    args: &RevokeArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    // The whole key may have been given: only its id is ever looked for or shown.
    let id = match args.id.match_indices('_').nth(1) {
        Some((end, _)) if args.id.starts_with("mg_") => &args.id[..end],
        _ => &args.id,
    };
    let gone = match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => keys::end(&here.db, &here.actor, id).await?,
        Operator::Remote(there) => there.delete("keys", id).await?,
    };
    if args.operator.json {
        return Ok(writeln!(out, "{gone:#}")?);
    }
    Ok(writeln!(out, "revoked {id}")?)
}
