//! What was used, what may still be used, and the books behind both.
//!
//! Reports read rollups by day, never single requests. What is written from here are budgets,
//! webhooks and the events for them; money moves in the ledger alone.

pub mod alert;
pub mod books;
pub mod budgets;
pub mod credits;
pub mod csv;
pub mod entries;
pub mod fold;
pub mod outbox;
pub mod params;
pub mod reconcile;
pub mod report;
mod sql;
#[cfg(test)]
mod tests;
pub mod unknown;
pub mod webhooks;
pub mod when;
pub mod window;

use providers::money::{Money, Quantity};

use crate::ledger::USD;

/// Millionths of a unit as a decimal: `3`, `1.048576`, `-0.5`.
pub fn quantity(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    format!("{sign}{}", Quantity::micros(micros.unsigned_abs()))
}

/// An amount in its unit: money with all nine decimals, else millionths as a decimal.
pub fn amount(unit: &str, amount: i64) -> String {
    if unit == USD { Money::from_nanos(amount).to_string() } else { quantity(amount) }
}
