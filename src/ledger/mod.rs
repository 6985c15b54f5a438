//! Money as a ledger: what may be used is held before a provider is called, captured with the
//! result or released with the failure, and every movement is an append-only transfer.
//!
//! [`book`] is the arithmetic, pure and the same for both databases. The rows it decides on are
//! locked, loaded and written by [`crate::jobs::desk`], many requests in one transaction.

pub mod book;

pub use book::{Account, AccountSpec, Book, Leg, Refusal, Transfer, TransferKind};

/// Everything that was captured from clients.
pub const REVENUE: &str = "system:revenue";
/// The other side of budgets, which are limits and no money.
pub const BUDGETS: &str = "system:budgets";
/// Where credits come from.
pub const EXTERNAL: &str = "system:external";
/// What providers cost us.
pub const COST: &str = "system:cost";
/// What we carry because a client must not pay it.
pub const ABSORBED: &str = "system:absorbed";
/// What a provider may bill for a submit whose outcome nobody knows.
pub const SUSPENSE: &str = "system:suspense";
/// The unit of money.
pub const USD: &str = "usd";

/// The account of what we owe a provider.
pub fn payable(provider: &str) -> String {
    format!("system:payable:{provider}")
}

/// The account an organisation pays from.
pub fn credit(org: &str) -> String {
    format!("credit:{org}")
}

#[cfg(test)]
mod tests;
