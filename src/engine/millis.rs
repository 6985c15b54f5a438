//! Unix milliseconds, as databases keep them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of day.
pub fn now() -> i64 {
    of(SystemTime::now())
}

/// A time as milliseconds; 0 before 1970.
pub fn of(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds as a time.
pub fn at(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
