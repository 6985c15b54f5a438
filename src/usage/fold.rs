//! Balances folded from transfers, and what is stored held against them.
//!
//! An account is asked for in one statement, so that its balance and its transfers are seen at one
//! moment.

use std::collections::BTreeMap;

use crate::db::{Db, DbError};

/// What accounts of the operator begin with. They store no balance.
pub const SYSTEM: &str = "system:";

/// Both sides of every transfer: what it adds to `posted` and to `pending`. A hold and what
/// closes it without a charge move nothing but `pending`.
macro_rules! moves {
    () => {
        "SELECT debit AS account, unit, \
         CASE WHEN kind IN ('hold', 'release', 'expire') THEN 0 ELSE amount END AS posted, \
         CASE WHEN kind = 'hold' THEN amount WHEN hold IS NOT NULL THEN -COALESCE(held, 0) \
         ELSE 0 END AS pending FROM transfer \
         UNION ALL SELECT credit, unit, \
         CASE WHEN kind IN ('hold', 'release', 'expire') THEN 0 ELSE -amount END, 0 \
         FROM transfer"
    };
}

/// Two balances that should be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The account.
    pub account: String,
    /// What is counted.
    pub unit: String,
    /// `posted` and `pending` as stored.
    pub stored: (i64, i64),
    /// `posted` and `pending` by the transfers.
    pub folded: (i64, i64),
}

/// What is stored of the accounts of a range, against what their transfers come to.
const DRIFT: &str = "SELECT account, unit, CAST(SUM(stored_posted) AS BIGINT), \
     CAST(SUM(stored_pending) AS BIGINT), CAST(SUM(posted) AS BIGINT), \
     CAST(SUM(pending) AS BIGINT) FROM (\
     SELECT debit AS account, unit, 0 AS stored_posted, 0 AS stored_pending, \
     CASE WHEN kind IN ('hold', 'release', 'expire') THEN 0 ELSE amount END AS posted, \
     CASE WHEN kind = 'hold' THEN amount WHEN hold IS NOT NULL THEN -COALESCE(held, 0) \
     ELSE 0 END AS pending FROM transfer WHERE debit > $1 AND debit <= $2 \
     UNION ALL SELECT credit, unit, 0, 0, \
     CASE WHEN kind IN ('hold', 'release', 'expire') THEN 0 ELSE -amount END, 0 \
     FROM transfer WHERE credit > $3 AND credit <= $4 \
     UNION ALL SELECT id, unit, posted, pending, 0, 0 FROM account WHERE id > $5 AND id <= $6\
     ) AS sides GROUP BY account, unit \
     HAVING SUM(stored_posted) <> SUM(posted) OR SUM(stored_pending) <> SUM(pending) \
     ORDER BY account, unit";
/// Accounts looked at in one statement: none of them may take long.
const TOGETHER: i64 = 100;
/// The operator's accounts are between these, and store no balance.
const SYSTEM_END: &str = "system;";
/// Beyond every id.
const END: &str = "\u{10ffff}";

/// Every account whose stored balance is not the fold of its transfers. Reads all transfers of
/// clients, some accounts at a time: what is booked meanwhile is no drift.
pub async fn drift(db: &Db) -> Result<Vec<Drift>, DbError> {
    let mut drift = Vec::new();
    let mut after = String::new();
    while after != END {
        const NEXT: &str = "SELECT id FROM account WHERE id > $1 ORDER BY id LIMIT $2";
        let rows = db.query(NEXT, vec![after.as_str().into(), TOGETHER.into()]).await?;
        let upto = match rows.last() {
            Some(row) if rows.len() == TOGETHER as usize => row.text(0)?,
            _ => END.to_owned(),
        };
        // A transfer without an account is a drift too, but for the operator's.
        let below = if after.as_str() < SYSTEM { upto.as_str().min(SYSTEM) } else { "" };
        let above = if upto.as_str() > SYSTEM_END { after.as_str().max(SYSTEM_END) } else { END };
        for (from, to) in [(after.as_str(), below), (above, upto.as_str())] {
            if from < to {
                drift.extend(drift_between(db, from, to).await?);
            }
        }
        after = upto;
    }
    Ok(drift)
}

async fn drift_between(db: &Db, from: &str, to: &str) -> Result<Vec<Drift>, DbError> {
    let params = [from, to, from, to, from, to].map(Into::into).to_vec();
    let rows = db.query(DRIFT, params).await?;
    rows.iter()
        .map(|row| {
            Ok(Drift {
                account: row.text(0)?,
                unit: row.text(1)?,
                stored: (row.int(2)?, row.int(3)?),
                folded: (row.int(4)?, row.int(5)?),
            })
        })
        .collect()
}

/// The sums of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitBalance {
    /// What the accounts come to: each of the operator's by its name, all `credits` and all
    /// `budgets` as they are stored. What a client used is above zero, what it paid in below.
    pub accounts: BTreeMap<String, i64>,
    /// What all of it comes to: 0.
    pub sum: i128,
}

const BALANCES: &str = concat!(
    "SELECT class, unit, CAST(SUM(posted) AS BIGINT) FROM (\
     SELECT account AS class, unit, posted FROM (",
    moves!(),
    ") AS moved WHERE account LIKE 'system:%' UNION ALL \
     SELECT CASE WHEN id LIKE 'credit:%' THEN 'credits' ELSE 'budgets' END, unit, posted \
     FROM account) AS sides GROUP BY class, unit ORDER BY class, unit"
);

/// The trial balance, by unit: what clients are stored to have, against what the operator's
/// accounts fold to. Reads all transfers.
pub async fn trial_balance(db: &Db) -> Result<BTreeMap<String, UnitBalance>, DbError> {
    let mut units: BTreeMap<String, UnitBalance> = BTreeMap::new();
    for row in db.query(BALANCES, Vec::new()).await? {
        let unit = units.entry(row.text(1)?).or_default();
        let posted = row.int(2)?;
        unit.accounts.insert(row.text(0)?, posted);
        unit.sum += i128::from(posted);
    }
    Ok(units)
}
