//! What may be put at risk in a day by paying a second provider after an unknown outcome.

use parking_lot::Mutex;
use providers::money::Money;

use super::millis;
use crate::db::{Db, DbError};

const DAY_MS: i64 = 86_400_000;

/// Days since 1970.
pub fn today() -> i64 {
    millis::now().div_euclid(DAY_MS)
}

/// What all replicas put at risk on a day, as far as it is booked.
pub async fn suspended(db: &Db, day: i64) -> Result<Money, DbError> {
    const SQL: &str =
        "SELECT CAST(COALESCE(SUM(suspense), 0) AS BIGINT) FROM cost_day WHERE day = $1";
    let rows = db.query(SQL, vec![day.into()]).await?;
    rows.first().map_or(Ok(Money::ZERO), |row| Ok(Money::from_nanos(row.int(0)?)))
}

/// The sum of a day. Beside other replicas it is brought up to date with what they booked every
/// few seconds, so that together they go beyond the cap at most by what is taken in between.
#[derive(Debug)]
pub struct DayRisk {
    cap: Money,
    today: Mutex<(i64, Money)>,
}

impl DayRisk {
    /// At most `cap` a day; `spent` was put at risk today already.
    pub fn new(cap: Money, spent: Money) -> Self {
        Self { cap, today: Mutex::new((today(), spent)) }
    }

    /// Takes an amount of what is left for today, or nothing.
    pub fn take(&self, amount: Money) -> bool {
        self.take_at(amount, millis::now())
    }

    /// So much of today is booked, by all replicas.
    pub fn see(&self, booked: Money) {
        let day = today();
        let mut today = self.today.lock();
        if day == today.0 {
            today.1 = today.1.max(booked);
        }
    }

    fn take_at(&self, amount: Money, now: i64) -> bool {
        let day = now.div_euclid(DAY_MS);
        let mut today = self.today.lock();
        if day > today.0 {
            *today = (day, Money::ZERO);
        }
        match today.1.checked_add(amount) {
            Some(sum) if sum <= self.cap => {
                today.1 = sum;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_its_cap_and_the_next_one_its_own() {
        let cents = |n: i64| Money::from_nanos(n * 10_000_000);
        let risk = DayRisk::new(cents(10), cents(3));
        let now = millis::now();
        assert!(risk.take_at(cents(7), now));
        assert!(!risk.take_at(cents(1), now), "beyond the cap");
        assert!(!risk.take_at(Money::MAX, now), "an overflow is no allowance");
        // A clock that is set back does not open the day anew.
        assert!(!risk.take_at(cents(1), now - 2 * DAY_MS));
        assert!(risk.take_at(cents(10), now + DAY_MS));
        let shared = DayRisk::new(cents(10), Money::ZERO);
        assert!(shared.take(cents(2)));
        shared.see(cents(9));
        assert!(!shared.take(cents(2)), "others took the rest");
        shared.see(cents(1));
        assert!(!shared.take(cents(2)), "what was booked late does not open it again");
        assert!(shared.take(cents(1)));
    }
}
