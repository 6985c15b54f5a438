//! `mediagate usage`: what was used, and for how much.

use std::{io::Write, path::Path};

use clap::Args;

use super::{
    Failure,
    operator::{Operator, OperatorArgs},
    rows::{CsvArgs, pages, print},
};
use crate::{api::admin::usage, usage::params::Params};

/// Lines printed at most.
const MOST: usize = 1_000_000;

/// What to show.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// From this time on: 2026-09-01, 2026-09-01T12:00:00Z or Unix seconds [default: 30 days ago]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to this time, not included [default: the end of today]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// org, day, key, project, model, provider, label, unit; several with commas
    #[arg(long, value_name = "GROUPS", default_value = "day")]
    group_by: String,
    /// Only of this organisation
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Only of this project
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Only of this key
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only of this model
    #[arg(long)]
    model: Option<String>,
    /// Only of this provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Only calls with this label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Option<String>,
    #[command(flatten)]
    csv: CsvArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Shows it.
pub(super) async fn run(
    args: &UsageArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let label = match args.label.as_deref().map(|label| label.split_once('=')) {
        Some(None) => {
            return Err(Failure::Usage("--label is written as NAME=VALUE".to_owned()));
        }
        Some(Some((name, value))) => Some((format!("label.{name}"), value)),
        None => None,
    };
    let mut query = vec![
        ("from", args.from.as_deref()),
        ("to", args.to.as_deref()),
        ("group_by", Some(args.group_by.as_str())),
        ("org", args.org.as_deref()),
        ("project", args.project.as_deref()),
        ("key", args.key.as_deref()),
        ("model", args.model.as_deref()),
        ("provider", args.provider.as_deref()),
    ];
    query.extend(label.as_ref().map(|(name, value)| (name.as_str(), Some(*value))));
    let operator = Operator::open(&args.operator, config).await?;
    let rows = pages(&query, MOST, |query| async {
        match &operator {
            Operator::Local(here) => {
                let report = usage::report(&here.db, &here.actor, Params::new(query)).await?;
                Ok(report.to_json())
            }
            Operator::Remote(there) => there.get("usage", &query).await,
        }
    });
    print(&rows.await?, args.operator.json, args.csv, out)
}
