//! Reads the times of queries: dates, RFC 3339 and Unix seconds, all in UTC.

use std::ops::Range;

use crate::{
    error::Error,
    tenant::{civil, days},
};

/// One day, in milliseconds.
pub const DAY_MS: i64 = 86_400_000;
/// Days shown where the caller does not say.
const USUAL_DAYS: i64 = 30;
/// The first moment of the year 10000.
const END_MS: i64 = 253_402_300_800_000;

/// Unix milliseconds of `2026-09-01`, `2026-09-01T12:30:00Z`, `2026-09-01T12:30:00.5+02:00` or
/// `1788220800`. None where it is none of them, or not from 1970 to 9999.
pub fn moment(text: &str) -> Option<i64> {
    let ms = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse::<i64>().ok()?.checked_mul(1000)?
    } else {
        match text.get(10..) {
            Some("") => date(text)? * DAY_MS,
            Some(rest) => {
                let rest = rest.strip_prefix(['T', 't', ' '])?;
                date(text.get(..10)?)? * DAY_MS + clock(rest)?
            }
            None => return None,
        }
    };
    (0..END_MS).contains(&ms).then_some(ms)
}

/// Days since 1970 of `2026-09-01`.
fn date(text: &str) -> Option<i64> {
    let shape: Vec<&str> = text.split('-').collect();
    let [year, month, day] = shape.as_slice() else { return None };
    let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    let number = days(year, month, day);
    // The thirtieth of February is some other day.
    (civil(number) == (year, month, day)).then_some(number)
}

/// Milliseconds of `12:30:00`, `12:30:00.25Z` or `12:30:00+02:00`, less the offset.
fn clock(text: &str) -> Option<i64> {
    // A plus sign that nobody encoded arrives as a space.
    let zone = text.find(['Z', 'z', '+', '-', ' '])?;
    let (time, zone) = text.split_at(zone);
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = of_hour(hours, minutes)?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let shape: Vec<&str> = whole.split(':').collect();
    let [hours, minutes, seconds] = shape.as_slice() else { return None };
    // A leap second is taken for the one before it.
    let seconds = digits(seconds, 2).filter(|s| *s <= 60)?.min(59);
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some(((of_hour(hours, minutes)? - offset) * 60 + seconds) * 1000 + ms)
}

fn of_hour(hours: &str, minutes: &str) -> Option<i64> {
    let hours = digits(hours, 2).filter(|h| *h <= 23)?;
    let minutes = digits(minutes, 2).filter(|m| *m <= 59)?;
    Some(hours * 60 + minutes)
}

/// Exactly so many digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let plain = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// The moments from `from` to `to`, the latter not included, in Unix milliseconds. What is not
/// given: `to` is the end of today, `from` thirty days before `to`.
pub fn span(from: Option<&str>, to: Option<&str>, now: i64) -> Result<Range<i64>, Error> {
    let read = |param: &str, text: &str| {
        let wanted = "wanted is 2026-09-01, 2026-09-01T12:00:00Z or Unix seconds";
        moment(text).ok_or_else(|| Error::invalid(param, format!("{text:?} is no time; {wanted}")))
    };
    let end = match to {
        Some(text) => read("to", text)?,
        None => (now.div_euclid(DAY_MS) + 1) * DAY_MS,
    };
    let start = match from {
        Some(text) => read("from", text)?,
        None => (end - USUAL_DAYS * DAY_MS).max(0),
    };
    if start >= end {
        return Err(Error::invalid("from", "from must be before to, which is not included"));
    }
    Ok(start..end)
}

/// The whole days that a span touches, as days since 1970: usage is kept by day.
pub fn whole_days(span: &Range<i64>) -> Range<i64> {
    let end = span.end.div_euclid(DAY_MS) + i64::from(span.end.rem_euclid(DAY_MS) != 0);
    span.start.div_euclid(DAY_MS)..end
}

/// `2026-09-01` of days since 1970.
pub fn date_text(day: i64) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-09-01T12:30:00.250Z` of Unix milliseconds.
pub fn moment_text(ms: i64) -> String {
    let (day, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (seconds, ms) = (rest / 1000, rest % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{}T{hours:02}:{minutes:02}:{:02}.{ms:03}Z", date_text(day), seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_ways() {
        for (text, shown) in [
            ("2026-09-01", Some("2026-09-01T00:00:00.000Z")),
            ("2024-02-29", Some("2024-02-29T00:00:00.000Z")),
            ("1970-01-01", Some("1970-01-01T00:00:00.000Z")),
            ("9999-12-31", Some("9999-12-31T00:00:00.000Z")),
            ("0", Some("1970-01-01T00:00:00.000Z")),
            ("1788220800", Some("2026-09-01T00:00:00.000Z")),
            ("2026-09-01T12:30:00Z", Some("2026-09-01T12:30:00.000Z")),
            ("2026-09-01t12:30:00.25z", Some("2026-09-01T12:30:00.250Z")),
            ("2026-09-01T12:30:00.123456789Z", Some("2026-09-01T12:30:00.123Z")),
            ("2026-09-01T00:30:00+02:00", Some("2026-08-31T22:30:00.000Z")),
            ("2026-09-01T00:30:00 02:00", Some("2026-08-31T22:30:00.000Z")),
            ("2026-09-01T23:30:00-02:30", Some("2026-09-02T02:00:00.000Z")),
            ("2016-12-31T23:59:60Z", Some("2016-12-31T23:59:59.000Z")),
            ("", None),
            ("yesterday", None),
            ("2026-02-29", None),
            ("2026-13-01", None),
            ("2026-00-10", None),
            ("2026-9-1", None),
            ("26-09-01", None),
            ("-2026-09-01", None),
            ("2026-09-01T12:30:00", None),
            ("2026-09-01T24:00:00Z", None),
            ("2026-09-01T12:60:00Z", None),
            ("2026-09-01T12:30:61Z", None),
            ("2026-09-01T12:30:00.Z", None),
            ("2026-09-01T12:30:00+0200", None),
            ("1969-12-31", None),
            ("1969-12-31T23:59:59Z", None),
            ("10000-01-01", None),
            ("9223372036854775807", None),
            ("99999999999999999999", None),
            ("-1", None),
            ("1.5", None),
            ("2026-09-０1", None),
            ("２０２６-09-01", None),
        ] {
            assert_eq!(moment(text).map(moment_text).as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn a_span_is_thirty_days_unless_said() {
        let now = moment("2026-09-15T10:00:00Z").unwrap();
        let shown = |from, to| {
            span(from, to, now)
                .map(|span| {
                    let days = whole_days(&span);
                    format!("{} {}", date_text(days.start), date_text(days.end))
                })
                .map_err(|e| e.param.unwrap_or_default())
        };
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(shown(None, None), ok("2026-08-17 2026-09-16"));
        assert_eq!(shown(Some("2026-09-01"), None), ok("2026-09-01 2026-09-16"));
        assert_eq!(shown(None, Some("2026-09-01")), ok("2026-08-02 2026-09-01"));
        assert_eq!(shown(None, Some("1970-01-02")), ok("1970-01-01 1970-01-02"));
        // Days are whole: a part of one counts.
        assert_eq!(
            shown(Some("2026-09-01T12:00:00Z"), Some("2026-09-02T00:00:01Z")),
            ok("2026-09-01 2026-09-03")
        );
        assert_eq!(shown(Some("1970-01-01"), Some("9999-12-31")), ok("1970-01-01 9999-12-31"));
        for (from, to, param) in [
            (Some("2026-09-02"), Some("2026-09-02"), "from"),
            (Some("2026-09-03"), Some("2026-09-02"), "from"),
            (Some("2030-01-01"), None, "from"),
            (Some("x"), None, "from"),
            (None, Some("x"), "to"),
        ] {
            assert_eq!(shown(from, to), Err(param.to_owned()), "{from:?} {to:?}");
        }
    }
}
