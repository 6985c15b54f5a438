//! Who asks and what they may do: organisations, projects, keys, budgets.

pub mod budgets;
pub mod directory;
pub mod key;
pub mod pattern;
pub mod role;
pub mod store;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The organisation and project of keys that are in the configuration or made without one.
pub const DEFAULT: &str = "default";

/// The time in Unix milliseconds, by the clock of this machine.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// What the holder of a key may do. Immutable: a change makes a new one.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The key's public id; for a key of the configuration `static:<name>`, in open mode `open`.
    pub key_id: String,
    /// What logs and answers call it.
    pub key_name: String,
    /// The organisation that pays.
    pub org: String,
    /// The project it belongs to.
    pub project: String,
    /// Models it may use: names in which `*` stands for anything.
    pub models: Vec<String>,
    /// Paths it may use, such as `/v1/images/*`.
    pub endpoints: Vec<String>,
    /// When it ends, in Unix milliseconds.
    pub expires_at: Option<i64>,
    /// How fast it may ask.
    pub limits: RateLimits,
    /// What it, its project and its organisation may use.
    pub budgets: Vec<Budget>,
    /// Whether the organisation pays beforehand.
    pub prepaid: bool,
    /// Whether a repeat by an SDK joins the job it repeats.
    pub join_retries: bool,
    /// Whether white space is sent while a job runs.
    pub heartbeat: bool,
}

impl Grant {
    /// Whoever asks where no key is needed.
    pub fn open() -> Self {
        Self::without_limits("open", "open", DEFAULT, DEFAULT)
    }

    /// Who asked for a stored job: enough to go on with it, for what it may do was decided.
    pub fn of_job(job: &crate::jobs::JobRow) -> Self {
        Self::without_limits(&job.api_key, &job.api_key, &job.org, &job.project)
    }

    fn without_limits(key_id: &str, key_name: &str, org: &str, project: &str) -> Self {
        Self {
            key_id: key_id.to_owned(),
            key_name: key_name.to_owned(),
            org: org.to_owned(),
            project: project.to_owned(),
            models: vec!["*".to_owned()],
            endpoints: vec!["*".to_owned()],
            expires_at: None,
            limits: RateLimits::default(),
            budgets: Vec::new(),
            prepaid: false,
            join_retries: true,
            heartbeat: false,
        }
    }
}

/// How fast a key may ask; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    /// Requests per minute.
    pub rpm: Option<u32>,
    /// Pictures per minute.
    pub ipm: Option<u32>,
    /// Tokens per minute.
    pub tpm: Option<u32>,
    /// Jobs at once.
    pub max_concurrent: Option<u32>,
}

/// What may be used in a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// `bud_...`
    pub id: String,
    /// What it is called in answers.
    pub name: String,
    /// Whose it is.
    pub scope: Scope,
    /// Their id: a key, an end user's name, a project or an organisation.
    pub scope_id: String,
    /// `usd`, or a unit of the catalogue such as `image`.
    pub unit: String,
    /// How long until it begins anew.
    pub period: Period,
    /// Nano-dollars, or millionths of the unit.
    pub amount: i64,
    /// The share in percent at which a webhook is sent.
    pub alert_percent: Option<u8>,
}

/// Whose a budget is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A key.
    Key,
    /// An end user, by the `user` of the request; one account for each.
    User,
    /// A project.
    Project,
    /// An organisation.
    Org,
}

/// How long until a budget begins anew. Days begin at midnight UTC, weeks on Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day.
    Day,
    /// A week.
    Week,
    /// A month of the calendar.
    Month,
    /// Never.
    Total,
}

const DAY_MS: i64 = 86_400_000;

impl Period {
    /// The first day, in days since 1970, of the period that `at` (Unix ms) lies in, and of the
    /// next one.
    pub fn window(self, at: i64) -> (i64, Option<i64>) {
        let day = at.div_euclid(DAY_MS);
        match self {
            Self::Day => (day, Some(day + 1)),
            Self::Week => {
                // 1970-01-01 was a Thursday.
                let monday = day - (day + 3).rem_euclid(7);
                (monday, Some(monday + 7))
            }
            Self::Month => {
                let (year, month, _) = civil(day);
                let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                (days(year, month, 1), Some(days(next.0, next.1, 1)))
            }
            Self::Total => (0, None),
        }
    }
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
pub fn civil(day: i64) -> (i64, i64, i64) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// Days since 1970 of a date (Howard Hinnant's `days_from_civil`).
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_midnight_on_monday_and_on_the_first() {
        // 2024-02-29 was a Thursday, day 19782.
        assert_eq!(days(2024, 2, 29), 19_782);
        let at = 19_782 * DAY_MS + 12_345;
        for (period, first, next) in [
            (Period::Day, (2024, 2, 29), Some((2024, 3, 1))),
            (Period::Week, (2024, 2, 26), Some((2024, 3, 4))),
            (Period::Month, (2024, 2, 1), Some((2024, 3, 1))),
            (Period::Total, (1970, 1, 1), None),
        ] {
            let (begin, end) = period.window(at);
            assert_eq!(civil(begin), first, "{period:?}");
            assert_eq!(end.map(civil), next, "{period:?}");
        }
        assert_eq!(Period::Month.window(days(2026, 12, 31) * DAY_MS).1, Some(days(2027, 1, 1)));
        // A clock before 1970 is wrong, but nothing to fall over.
        assert_eq!(Period::Day.window(-1).0, -1);
    }

    #[test]
    fn days_and_dates_agree() {
        for day in (-800_000..800_000).step_by(997) {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), day);
        }
    }
}
