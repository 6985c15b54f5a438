//! Exact money. Integers only: a price is a rational, an amount is nano-dollars, and every
//! line is rounded once, up.

mod cost;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use cost::{Cost, Line, Rate};

const NANOS_PER_USD: u64 = 1_000_000_000;

/// An exact amount in billionths of a US dollar. Range ±9.2 billion dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One dollar.
    pub const DOLLAR: Self = Self(1_000_000_000);
    /// The largest amount; stands for "more than anyone would pay" in comparisons.
    pub const MAX: Self = Self(i64::MAX);

    /// An amount from billionths of a dollar.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in billionths of a dollar.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The sum, or `None` where it leaves the range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// So many of an amount, from the text of a JSON number: read as the decimal it is, never as
    /// a float, and rounded once, up. `None` for what is negative, no number, or out of range:
    /// vendors write such things, and a wrong figure is worse than none.
    pub fn of_number(text: &str, each: Self) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if whole.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        let power = |by: u32| 10_i128.checked_pow(by);
        let product = digits.parse::<i128>().ok()?.checked_mul(i128::from(each.0))?;
        let nanos = match u32::try_from(exponent) {
            Ok(up) => product.checked_mul(power(up)?)?,
            // A power that does not fit leaves less than a nano-dollar.
            Err(_) => match power(exponent.unsigned_abs()) {
                Some(down) => ceiling(product, down)?,
                None => i128::from(product > 0),
            },
        };
        i64::try_from(nanos).ok().map(Self)
    }
}

/// The quotient, rounded up; `None` where the divisor is not positive.
fn ceiling(dividend: i128, divisor: i128) -> Option<i128> {
    if divisor <= 0 {
        return None;
    }
    let floor = dividend.div_euclid(divisor);
    if dividend.rem_euclid(divisor) == 0 { Some(floor) } else { floor.checked_add(1) }
}

/// A plain decimal as a whole number of `10^-places`. No sign, no exponent, no rounding.
fn decimal(text: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || fraction.len() > places {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<places$}").parse().ok()?;
    let unit = 10_u64.checked_pow(u32::try_from(places).ok()?)?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(fraction)
}

/// A decimal amount that could not be read as exact nano-dollars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a decimal amount of US dollars with at most nine decimals")]
pub struct ParseMoneyError(String);

impl FromStr for Money {
    type Err = ParseMoneyError;

    /// Reads `12`, `0.04` or `-0.000000001`. No exponent, no sign but a leading minus, no
    /// rounding: a tenth decimal is an error.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseMoneyError(text.to_owned());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let total = decimal(digits, 9).and_then(|n| i64::try_from(n).ok()).ok_or_else(wrong)?;
        Ok(Self(if negative { -total } else { total }))
    }
}

impl fmt::Display for Money {
    /// Always nine decimals: `0.040000000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:09}", n / NANOS_PER_USD, n % NANOS_PER_USD)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is counted. The name is the one in the catalogue and in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One delivered picture.
    Image,
    /// A million pixels of a delivered picture, or what the vendor calls a megapixel.
    Megapixel,
    /// A pass of a diffusion model over one picture.
    Step,
    /// A second of sound or film, or of a machine's time.
    Second,
    /// A minute of sound or film.
    Minute,
    /// A character of text.
    Character,
    /// One call, whatever it brings.
    Request,
    /// A token of the prompt's text.
    TextInputToken,
    /// A token of an input picture.
    ImageInputToken,
    /// A token of input sound.
    AudioInputToken,
    /// An input token the vendor had in its cache.
    CachedInputToken,
    /// A token of text the model wrote.
    TextOutputToken,
    /// A token of the picture the model drew.
    ImageOutputToken,
    /// A token of sound the model made.
    AudioOutputToken,
    /// A token the model spent on thinking.
    ReasoningToken,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 15] = [
        Self::Image,
        Self::Megapixel,
        Self::Step,
        Self::Second,
        Self::Minute,
        Self::Character,
        Self::Request,
        Self::TextInputToken,
        Self::ImageInputToken,
        Self::AudioInputToken,
        Self::CachedInputToken,
        Self::TextOutputToken,
        Self::ImageOutputToken,
        Self::AudioOutputToken,
        Self::ReasoningToken,
    ];

    /// The name in the catalogue and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Megapixel => "megapixel",
            Self::Step => "step",
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Character => "character",
            Self::Request => "request",
            Self::TextInputToken => "text_input_token",
            Self::ImageInputToken => "image_input_token",
            Self::AudioInputToken => "audio_input_token",
            Self::CachedInputToken => "cached_input_token",
            Self::TextOutputToken => "text_output_token",
            Self::ImageOutputToken => "image_output_token",
            Self::AudioOutputToken => "audio_output_token",
            Self::ReasoningToken => "reasoning_token",
        }
    }

    /// Whether it is a token: counted by the vendor, and known only afterwards.
    pub const fn is_token(self) -> bool {
        matches!(
            self,
            Self::TextInputToken
                | Self::ImageInputToken
                | Self::AudioInputToken
                | Self::CachedInputToken
                | Self::TextOutputToken
                | Self::ImageOutputToken
                | Self::AudioOutputToken
                | Self::ReasoningToken
        )
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of a unit, in millionths, so that 1.048576 megapixels stay exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u64);

impl Quantity {
    const MICROS: u64 = 1_000_000;

    /// A whole number of units.
    pub const fn whole(count: u64) -> Self {
        Self(count.saturating_mul(Self::MICROS))
    }

    /// A number of millionths of a unit.
    pub const fn micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The number of millionths.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The sum, or `None` where it leaves the range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The next whole number of units.
    #[must_use]
    pub const fn round_up(self) -> Self {
        Self::whole(self.0.div_ceil(Self::MICROS))
    }
}

impl fmt::Display for Quantity {
    /// Without needless zeros: `3`, `1.048576`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / Self::MICROS, self.0 % Self::MICROS);
        if part == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{whole}.{}", format!("{part:06}").trim_end_matches('0'))
    }
}

/// A decimal quantity that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity with at most six decimals")]
pub struct ParseQuantityError(String);

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    /// Reads `3` or `1.048576`, exactly or not at all.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decimal(text, 6).map(Self).ok_or_else(|| ParseQuantityError(text.to_owned()))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, nanos) in [
            ("0", 0),
            ("12", 12_000_000_000),
            ("0.04", 40_000_000),
            ("0.000000001", 1),
            ("-1.5", -1_500_000_000),
        ] {
            assert_eq!(money(text).nanos(), nanos, "{text}");
            assert_eq!(money(&money(text).to_string()), money(text));
        }
        assert_eq!(money("0.04").to_string(), "0.040000000");
        for wrong in
            ["", ".", "1.", ".5", "1e3", "+1", "0.0000000001", "9999999999999", "1,0", "--1"]
        {
            assert!(wrong.parse::<Money>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn quantities_are_read_and_written_exactly() {
        for (text, micros) in
            [("0", 0), ("3", 3_000_000), ("1.048576", 1_048_576), ("0.5", 500_000)]
        {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!((quantity.as_micros(), quantity.to_string().as_str()), (micros, text));
            let json = serde_json::to_string(&quantity).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Quantity>(&json).unwrap(), quantity);
        }
        for wrong in ["", "-1", "1.", ".5", "1e3", "0.0000001", "99999999999999999999"] {
            assert!(wrong.parse::<Quantity>().is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<Quantity>("3").is_err(), "a number is no exact quantity");
    }

    #[test]
    fn units_are_called_the_same_everywhere() {
        for unit in Unit::ALL {
            assert_eq!(serde_json::to_string(&unit).unwrap(), format!("\"{}\"", unit.name()));
            assert_eq!(unit.is_token(), unit.name().ends_with("_token"), "{unit}");
        }
    }

    #[test]
    fn numbers_of_vendors_are_read_as_the_decimals_they_are() {
        let cent = money("0.01");
        for (text, usd) in [
            ("3", Some("0.03")),
            ("3.0", Some("0.03")),
            ("1.55", Some("0.0155")),
            ("1E2", Some("1")),
            ("1.5e-05", Some("0.00000015")),
            ("2.5e+1", Some("0.25")),
            ("0", Some("0")),
            ("0.0", Some("0")),
            ("0e-400", Some("0")),
            // What is less than a nano-dollar is rounded up, not away.
            ("0.0000001", Some("0.000000001")),
            ("0.0000001000000001", Some("0.000000002")),
            ("1e-400", Some("0.000000001")),
            // 0.1 + 0.2 as floats write it: more than 0.3, and said so.
            ("0.30000000000000004", Some("0.003000001")),
            ("0.1400000000000000133", Some("0.001400001")),
            ("30", Some("0.3")),
            ("922337203685", Some("9223372036.85")),
            ("922337203686", None),
            ("1e400", None),
            ("1e99999999999", None),
            ("99999999999999999999999999999999999999999", None),
            ("-1", None),
            ("-0.0", None),
            ("+1", None),
            ("NaN", None),
            ("Infinity", None),
            ("null", None),
            ("true", None),
            ("\"2.5\"", None),
            ("{}", None),
            ("1.5.5", None),
            ("1e", None),
            (".5", None),
            ("3.é000000000", None),
            ("", None),
        ] {
            assert_eq!(Money::of_number(text, cent), usd.map(money), "{text}");
        }
    }
}
