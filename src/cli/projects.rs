//! `mediagate projects`: makes and lists projects.

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};
use serde_json::{Map, json};

use super::{
    Failure,
    operator::{Operator, OperatorArgs, all, cell, table, time},
};
use crate::api::admin::projects;

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub(super) enum ProjectsCommand {
    /// Make a project and print its id
    Create(CreateArgs),
    /// List the projects
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What it is called; an organisation has a name once
    #[arg(long)]
    name: String,
    /// Its organisation's id
    #[arg(long)]
    org: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those of this organisation
    #[arg(long)]
    org: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Does it.
pub(super) async fn run(
    command: &ProjectsCommand,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        ProjectsCommand::Create(args) => create(args, config, out).await,
        ProjectsCommand::List(args) => list(args, config, out).await,
    }
}

async fn create(
    args: &CreateArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut body = Map::from_iter([("name".to_owned(), json!(args.name))]);
    body.extend(args.org.as_ref().map(|org| ("org".to_owned(), json!(org))));
    let made = match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => projects::make(&here.db, &here.actor, body.into()).await?,
        Operator::Remote(there) => there.post("projects", body).await?,
    };
    if args.operator.json {
        return Ok(writeln!(out, "{made:#}")?);
    }
    Ok(writeln!(out, "{}", made["id"].as_str().unwrap_or_default())?)
}

async fn list(args: &ListArgs, config: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::open(&args.operator, config).await?;
    let rows = all(&[("org", args.org.as_deref())], |query| async {
        match &operator {
            Operator::Local(here) => Ok(projects::page(&here.db, &here.actor, query.into()).await?),
            Operator::Remote(there) => there.get("projects", &query).await,
        }
    })
    .await?;
    if args.operator.json {
        return Ok(writeln!(out, "{:#}", json!({ "object": "list", "data": rows }))?);
    }
    let rows = rows.iter().map(|project| {
        let text = |name: &str| cell(&project[name]);
        [text("id"), text("name"), text("org"), time(&project["created_at"])]
    });
    table(["ID", "NAME", "ORG", "CREATED"], rows, out)
}
