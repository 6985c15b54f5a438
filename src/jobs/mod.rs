//! Durable jobs: what is written down of a job and when, so that a paid result survives the
//! process that waited for it.
//!
//! [`row`] is what is stored, [`act`] what may happen to it, decided without a database, and
//! [`desk`] writes the acts of many requests in one transaction. [`audit`] checks the books, [`erase`]
//! forgets what is past its time.

pub mod act;
pub mod audit;
pub mod desk;
pub mod erase;
pub mod image;
mod load;
pub mod row;
pub mod settle;

pub use act::{Act, Denied, Done};
pub use desk::{Desk, DeskError};
pub use row::{AttemptRow, AttemptState, JobRow, JobState};
pub use settle::Settle;

#[cfg(test)]
mod tests;
