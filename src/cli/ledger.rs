//! `mediagate ledger`: lists transfers and accounts, verifies the balances, and clears what
//! nobody knew about.

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};
use serde_json::{Map, json};

use super::{
    Failure,
    operator::{Operator, OperatorArgs, cell, time},
    rows::{CsvArgs, pages, print},
};
use crate::{
    api::admin::{attempts, ledger},
    jobs::Desk,
    usage::params::Params,
};

/// What to do with the ledger.
#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// List transfers, newest first
    List(ListArgs),
    /// List accounts with their stored balances, and the same folded from their transfers
    Accounts(AccountsArgs),
    /// Hold every stored balance against its transfers; exits with 1 where one drifts
    Verify(VerifyArgs),
    /// List attempts whose outcome nobody knows, newest first: the provider may bill for them
    Unknown(UnknownArgs),
    /// Say what the provider billed for such an attempt
    Settle(SettleArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only of this organisation
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Only with this account on either side
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Only of this job
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// fund, hold, capture, release, expire, refund, provider_cost, absorb, suspense or adjust
    #[arg(long)]
    kind: Option<String>,
    /// From this time on: 2026-09-01, 2026-09-01T12:00:00Z or Unix seconds
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to this time, not included
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    csv: CsvArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct AccountsArgs {
    /// Only of this organisation
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    csv: CsvArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct UnknownArgs {
    /// Only of this organisation
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// Only at this provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    csv: CsvArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(super) struct SettleArgs {
    /// The job's id
    job: String,
    /// The attempt's number within the job, from 0
    number: u32,
    /// What the provider billed for it, in US dollars with at most nine decimals; 0 for nothing
    #[arg(long, value_name = "AMOUNT")]
    billed_usd: String,
    /// Where that stands, such as the invoice's number
    #[arg(long)]
    memo: String,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Does it.
pub(super) async fn run(
    command: &LedgerCommand,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        LedgerCommand::List(args) => list(args, config, out).await,
        LedgerCommand::Accounts(args) => accounts(args, config, out).await,
        LedgerCommand::Verify(args) => verify(args, config, out).await,
        LedgerCommand::Unknown(args) => unknown(args, config, out).await,
        LedgerCommand::Settle(args) => settle(args, config, out).await,
    }
}

async fn list(args: &ListArgs, config: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::open(&args.operator, config).await?;
    let query = [
        ("org", args.org.as_deref()),
        ("account", args.account.as_deref()),
        ("job", args.job.as_deref()),
        ("kind", args.kind.as_deref()),
        ("from", args.from.as_deref()),
        ("to", args.to.as_deref()),
    ];
    let rows = pages(&query, args.limit, |query| async {
        match &operator {
            Operator::Local(here) => {
                let entries = ledger::entries(&here.db, &here.actor, Params::new(query)).await?;
                Ok(entries.to_json())
            }
            Operator::Remote(there) => there.get("ledger", &query).await,
        }
    });
    print(&rows.await?, args.operator.json, args.csv, out)
}

async fn accounts(
    args: &AccountsArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let operator = Operator::open(&args.operator, config).await?;
    let query = [("org", args.org.as_deref())];
    let rows = pages(&query, args.limit, |query| async {
        match &operator {
            Operator::Local(here) => {
                let accounts = ledger::balances(&here.db, &here.actor, Params::new(query)).await?;
                Ok(accounts.to_json())
            }
            Operator::Remote(there) => there.get("ledger/accounts", &query).await,
        }
    });
    print(&rows.await?, args.operator.json, args.csv, out)
}

async fn verify(
    args: &VerifyArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let drift = match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => ledger::drifting(&here.db, &here.actor).await?,
        Operator::Remote(there) => there.get("ledger/drift", &[]).await?,
    };
    let rows = drift["data"].as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() && !args.operator.json {
        return Ok(writeln!(out, "every balance equals its transfers")?);
    }
    print(rows, args.operator.json, CsvArgs::default(), out)?;
    match rows.len() {
        0 => Ok(()),
        n => Err(Failure::Runtime(format!("{n} balances do not equal their transfers"))),
    }
}

async fn unknown(
    args: &UnknownArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let operator = Operator::open(&args.operator, config).await?;
    let query = [
        ("state", Some("unknown")),
        ("org", args.org.as_deref()),
        ("provider", args.provider.as_deref()),
    ];
    let rows = pages(&query, args.limit, |query| async {
        match &operator {
            Operator::Local(here) => {
                let found = attempts::unknown(&here.db, &here.actor, Params::new(query)).await?;
                Ok(found.to_json())
            }
            Operator::Remote(there) => there.get("attempts", &query).await,
        }
    });
    let mut rows = rows.await?;
    if !args.operator.json {
        for row in &mut rows {
            row["sent_at"] = time(&row["sent_at"]).into();
        }
    }
    print(&rows, args.operator.json, args.csv, out)
}

async fn settle(
    args: &SettleArgs,
    config: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let body = Map::from_iter([
        ("billed_usd".to_owned(), json!(args.billed_usd)),
        ("memo".to_owned(), json!(args.memo)),
    ]);
    let number = args.number.to_string();
    let attempt = match Operator::open(&args.operator, config).await? {
        Operator::Local(here) => {
            let desk = Desk::new(here.db);
            attempts::settle_by(&desk, &here.actor, &args.job, &number, body.into()).await?
        }
        Operator::Remote(there) => {
            let job: String = url::form_urlencoded::byte_serialize(args.job.as_bytes()).collect();
            there.post(&format!("jobs/{job}/attempts/{number}/settle"), body).await?
        }
    };
    if args.operator.json {
        return Ok(writeln!(out, "{attempt:#}")?);
    }
    let (id, billed) = (cell(&attempt["id"]), cell(&attempt["billed_usd"]));
    Ok(writeln!(out, "{id} is settled: {billed} USD were billed")?)
}
