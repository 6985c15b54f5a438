//! Clearing suspense: what became of an attempt that nobody knew about is known by now.

use super::{
    act::{Denied, Done},
    image::{CostKey, Image},
    row::{AttemptRow, AttemptState},
};
use crate::ledger::Refusal;

/// What the outcome of a settled attempt is called.
pub const SETTLED: &str = "settled";

/// What a provider billed for an attempt whose outcome was unknown. Once only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The attempt.
    pub attempt: String,
    /// Its job, which is over.
    pub job: String,
    /// Nano-dollars; 0 where the provider billed nothing.
    pub billed: i64,
    /// For people.
    pub memo: String,
    /// When, Unix milliseconds.
    pub at: i64,
}

/// An attempt as it is stored, with what was booked for it in suspense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspended {
    /// The attempt.
    pub attempt: AttemptRow,
    /// How much, in nano-dollars, and when; none where its price was unknown.
    pub booked: Option<(i64, i64)>,
}

impl Settle {
    /// Takes back exactly what was booked in suspense, and books what was billed: no client pays
    /// it any more, so all of it is carried.
    pub(super) fn decide(&self, image: &mut Image) -> Result<Done, Denied> {
        if self.billed < 0 {
            return Err(Refusal::Amount.into());
        }
        let job = image.jobs.get(&self.job).filter(|job| job.state.is_final() && !job.simulated);
        let job = job.ok_or(Denied::NotNow)?.clone();
        // Taken out, so that no other act of the same transaction settles it again.
        let Suspended { attempt, booked } = image
            .suspended
            .remove(&self.attempt)
            .filter(|found| found.attempt.job == self.job)
            .filter(|found| found.attempt.state == AttemptState::Unknown)
            .ok_or(Denied::NotNow)?;
        let (id, provider) = (&self.attempt, &attempt.provider);
        let amount = booked.map_or(0, |(amount, _)| amount);
        image.book.unsuspend(id, &job.id, provider, amount, &self.memo, self.at);
        if let Some((amount, since)) = booked {
            let costs = image.costs.entry(CostKey::of(&job, &attempt, since)).or_default();
            costs.suspense = costs.suspense.saturating_sub(amount);
        }
        if self.billed > 0 {
            image.book.owe(id, &job.id, provider, self.billed, self.at);
            image.book.absorb(id, &job.id, self.billed, self.at);
            let costs = image.costs.entry(CostKey::of(&job, &attempt, self.at)).or_default();
            costs.count(attempt.expected, Some(self.billed));
        }
        image.write_attempts(&[AttemptRow {
            state: AttemptState::Failed,
            outcome: Some(SETTLED.to_owned()),
            billed: Some(self.billed),
            ..attempt
        }]);
        Ok(Done::Written)
    }
}
