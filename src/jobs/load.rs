//! What acts must see of the database, locked and loaded.

use std::collections::BTreeSet;

use super::{
    act::{Act, KeyRow},
    image::{Image, Wants},
    row::{ATTEMPT_COLUMNS, AttemptRow, JOB_HEAD, JobRow},
    settle::Suspended,
};
use crate::{
    db::{DbError, Insert, Row, Tx, Value},
    ledger::{Account, Book, Leg},
};

const KEYS: &str = "SELECT id, fingerprint, job, expires_at FROM idempotency";
const ACCOUNTS: &str = "SELECT id, org, unit, posted, pending, cap, ceiling, frozen FROM account";

static NEW_ACCOUNT: Insert = Insert {
    into: "account (id, org, unit, posted, pending, cap, ceiling, frozen)",
    columns: 8,
    conflict: "ON CONFLICT (id) DO NOTHING",
};

/// Locks and loads what acts must see: keys, then jobs, then accounts, each in the order of
/// their ids, so that no two transactions wait for each other.
pub(super) async fn load(tx: &mut Tx<'_>, acts: &[Act]) -> Result<Image, DbError> {
    let mut wants = Wants::default();
    for act in acts {
        act.wants(&mut wants);
    }
    let mut image = Image::default();
    if !wants.keys.is_empty() {
        let ids: Vec<String> = wants.keys.into_iter().collect();
        for row in tx.lock(KEYS, "id", &ids).await? {
            let key = KeyRow {
                id: row.text(0)?,
                fingerprint: row.bytes(1)?,
                job: row.text(2)?,
                expires_at: row.int(3)?,
            };
            wants.jobs.insert(key.job.clone());
            image.known_keys.insert(key.id.clone());
            image.keys.insert(key.id.clone(), key);
        }
    }
    if !wants.jobs.is_empty() {
        let ids: Vec<String> = wants.jobs.into_iter().collect();
        for row in tx.lock(JOB_HEAD, "id", &ids).await? {
            let job = JobRow::from_row(&row)?;
            image.jobs.insert(job.id.clone(), job);
        }
    }
    for act in acts {
        match act {
            Act::Refund { job, .. } => {
                image.captured.insert(job.clone(), captured(tx, job).await?);
            }
            Act::Settle(settle) => {
                let found = suspended(tx, &settle.attempt).await?;
                image.suspended.extend(found.map(|found| (settle.attempt.clone(), found)));
            }
            _ => {}
        }
    }
    let settled: BTreeSet<&str> =
        acts.iter().filter(|act| act.settles()).filter_map(Act::job).collect();
    let mut accounts: BTreeSet<String> = wants.accounts.keys().cloned().collect();
    for job in image.jobs.values().filter(|job| settled.contains(job.id.as_str())) {
        accounts.extend(job.legs.iter().map(|leg| leg.account.clone()));
    }
    if accounts.is_empty() {
        return Ok(image);
    }
    let ids: Vec<String> = accounts.into_iter().collect();
    let mut rows = tx.lock(ACCOUNTS, "id", &ids).await?;
    if rows.len() < ids.len() {
        let found: BTreeSet<String> =
            rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
        let missing = wants.accounts.values().filter(|spec| !found.contains(&spec.id));
        let fresh: Vec<Vec<Value>> = missing.map(|spec| values(&Book::fresh(spec))).collect();
        // Another process may make them at the same time: then its rows are waited for.
        tx.insert_many(&NEW_ACCOUNT, &fresh).await?;
        rows = tx.lock(ACCOUNTS, "id", &ids).await?;
    }
    for row in rows {
        image.book.load(account(&row)?);
    }
    Ok(image)
}

/// What each account paid for a job, in the order of its legs.
async fn captured(tx: &mut Tx<'_>, job: &str) -> Result<Vec<Leg>, DbError> {
    // The transfers of a job begin with its id, which is how they are found.
    const SQL: &str = "SELECT debit, unit, amount FROM transfer \
                       WHERE id >= $1 AND id < $2 AND kind = 'capture' ORDER BY hold";
    let range = [format!("{job}:").into(), format!("{job};").into()];
    let rows = tx.query(SQL, &range).await?;
    rows.iter()
        .map(|row| Ok(Leg { account: row.text(0)?, unit: row.text(1)?, amount: row.int(2)? }))
        .collect()
}

/// An attempt, with what was booked for it in suspense. Whoever locks its job may change it.
async fn suspended(tx: &mut Tx<'_>, attempt: &str) -> Result<Option<Suspended>, DbError> {
    const BOOKED: &str = "SELECT amount, at FROM transfer WHERE id = $1";
    let rows = tx.query(&format!("{ATTEMPT_COLUMNS} WHERE id = $1"), &[attempt.into()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let booked = tx.query(BOOKED, &[format!("{attempt}:suspense").into()]).await?;
    let booked = booked.first().map(|row| Ok((row.int(0)?, row.int(1)?))).transpose()?;
    Ok(Some(Suspended { attempt: AttemptRow::from_row(row)?, booked }))
}

/// An account out of a row of [`ACCOUNTS`].
fn account(row: &Row) -> Result<Account, DbError> {
    Ok(Account {
        id: row.text(0)?,
        org: row.text(1)?,
        unit: row.text(2)?,
        posted: row.int(3)?,
        pending: row.int(4)?,
        cap: row.opt_int(5)?,
        ceiling: row.opt_int(6)?,
        frozen: row.int(7)? != 0,
    })
}

/// The columns of an account as values.
pub(super) fn values(account: &Account) -> Vec<Value> {
    vec![
        account.id.as_str().into(),
        account.org.as_str().into(),
        account.unit.as_str().into(),
        account.posted.into(),
        account.pending.into(),
        account.cap.into(),
        account.ceiling.into(),
        account.frozen.into(),
    ]
}
