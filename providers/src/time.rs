//! Times as vendors write them (RFC 3339, in UTC), without a clock.

/// Seconds since 1970 as `2026-11-01T10:00:00Z`.
pub(crate) fn rfc3339(unix_s: u64) -> String {
    let (days, seconds) = (unix_s / 86_400, unix_s % 86_400);
    // Days from 1 March of the year 0, counted in eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Seconds since 1970 of `2026-11-01T10:00:00.123Z`; fractions are dropped. `None` for what is no
/// such time, or has another offset than UTC.
pub(crate) fn unix(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', ' '])?;
    let time = time.strip_suffix('Z').or_else(|| time.strip_suffix("+00:00"))?;
    let time = time.split_once('.').map_or(time, |(whole, _)| whole);
    let numbers = |text: &str, mark: char| -> Option<[u64; 3]> {
        let mut parts = text.split(mark).map(|part| part.parse::<u64>().ok());
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = (era * 146_097 + of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_793_527_200, "2026-11-01T10:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
            assert_eq!(unix(text), Some(seconds));
        }
        // Every day of 400 years there and back.
        for day in 0..146_097 {
            assert_eq!(unix(&rfc3339(day * 86_400 + 3_661)), Some(day * 86_400 + 3_661));
        }
    }

    #[test]
    fn other_spellings_are_read_or_refused() {
        for (text, seconds) in [
            ("2026-11-01T10:00:00.123456789Z", Some(1_793_527_200)),
            ("2026-11-01 10:00:00+00:00", Some(1_793_527_200)),
            ("2026-11-01T10:00:00+02:00", None),
            ("2026-11-01T10:00:00", None),
            ("2026-13-01T10:00:00Z", None),
            ("2026-11-01T10:00Z", None),
            ("2026-11-01-01T10:00:00Z", None),
            ("99999999999999999999-11-01T10:00:00Z", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(unix(text), seconds, "{text}");
        }
    }
}
