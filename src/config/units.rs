//! Durations and byte counts with their units.

use std::time::Duration;

/// Reads `72h`, `10m`, `1h 30m`: a text always carries its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits {
        return Err("has no unit; write for example \"90s\", \"10m\" or \"72h\"".to_owned());
    }
    humantime::parse_duration(text).map_err(|_| {
        "is no duration; write for example \"90s\", \"10m\", \"72h\" or \"7d\"".to_owned()
    })
}

/// Reads `64MiB`, `2 GB`, `4096`: bytes where no unit stands.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "is no size; write bytes such as 67108864 or \"64MiB\"".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    count.checked_mul(factor).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [("72h", 259_200), ("10m", 600), ("1h 30m", 5400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for (text, part) in [("72", "no unit"), ("72x", "10m"), ("", "10m"), ("-1h", "10m")] {
            assert!(duration(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn sizes_are_counted_in_bytes() {
        for (text, count) in
            [("4096", 4096), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("2GB", 2_000_000_000)]
        {
            assert_eq!(bytes(text), Ok(count), "{text}");
        }
        for text in ["", "MiB", "1.5MB", "64 parsecs", "99999999999GiB"] {
            assert!(bytes(text).unwrap_err().contains("64MiB"), "{text}");
        }
    }
}
