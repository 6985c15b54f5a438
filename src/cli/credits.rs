//! `mediagate credits`: shows and adds the credits of an organisation.

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    Failure,
    operator::{Operator, OperatorArgs, cell},
};
use crate::{api::admin::usage, jobs::Desk, usage::params::Params};

/// What to do with credits.
#[derive(Debug, Subcommand)]
pub(super) enum CreditsCommand {
    /// Show what an organisation bought, used and has left
    Show(ShowArgs),
    /// Add credits that an organisation bought
    Add(AddArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The organisation's id
    #[arg(long, value_name = "ID", default_value = "default")]
    org: String,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The organisation's id
    #[arg(long, value_name = "ID", default_value = "default")]
    org: String,
    /// How much, in US dollars with at most nine decimals
    #[arg(long, value_name = "AMOUNT")]
    usd: String,
    /// What it is called, such as an invoice's number; the same again adds nothing [default: random]
    #[arg(long)]
    id: Option<String>,
    /// A note for people
    #[arg(long)]
    memo: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Does it.
pub(super) async fn run(
    command: &CreditsCommand,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (credits, as_json) = match command {
        CreditsCommand::Show(args) => (show(args, config).await?, args.operator.json),
        CreditsCommand::Add(args) => (add(args, config).await?, args.operator.json),
    };
    if as_json {
        return Ok(writeln!(out, "{credits:#}")?);
    }
    for (name, value) in credits.as_object().into_iter().flatten().filter(|(k, _)| *k != "object") {
        writeln!(out, "{name:<16} {}", cell(value))?;
    }
    Ok(())
}

async fn show(args: &ShowArgs, config: Option<&Path>) -> Result<Value, Failure> {
    let query = vec![("org".to_owned(), args.org.clone())];
    match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => {
            Ok(usage::of_org(&here.db, &here.actor, Params::new(query)).await?)
        }
        Operator::Remote(there) => there.get("credits", &query).await,
    }
}

async fn add(args: &AddArgs, config: Option<&Path>) -> Result<Value, Failure> {
    let id = args.id.clone().unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7().simple()));
    let mut body = Map::from_iter([
        ("org".to_owned(), json!(args.org)),
        ("amount_usd".to_owned(), json!(args.usd)),
        ("id".to_owned(), json!(id)),
    ]);
    body.extend(args.memo.as_ref().map(|memo| ("memo".to_owned(), json!(memo))));
    match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => {
            let desk = Desk::new(here.db);
            Ok(usage::add(&desk, &here.actor, body.into()).await?.0)
        }
        Operator::Remote(there) => there.post("credits", body).await,
    }
}
