//! Exact money. Integers only: a price is a rational, an amount is nano-dollars, and every
//! line is rounded once, up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANOS_PER_USD: i64 = 1_000_000_000;

/// An exact amount in billionths of a US dollar. Range ±9.2 billion dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
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
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: i64 = whole.parse().map_err(|_| wrong())?;
        let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let total = whole
            .checked_mul(NANOS_PER_USD)
            .and_then(|n| n.checked_add(nanos))
            .ok_or_else(wrong)?;
        Ok(Self(if negative { -total } else { total }))
    }
}

impl fmt::Display for Money {
    /// Always nine decimals: `0.040000000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        let per = NANOS_PER_USD.unsigned_abs();
        write!(f, "{sign}{}.{:09}", n / per, n % per)
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
    /// A token of the prompt's text.
    TextInputToken,
    /// A token of an input picture.
    ImageInputToken,
    /// A token of text the model wrote.
    TextOutputToken,
    /// A token of the picture the model drew.
    ImageOutputToken,
}

impl Unit {
    /// The name in the catalogue and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Megapixel => "megapixel",
            Self::TextInputToken => "text_input_token",
            Self::ImageInputToken => "image_input_token",
            Self::TextOutputToken => "text_output_token",
            Self::ImageOutputToken => "image_output_token",
        }
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

/// Money for so many units, so that a token price needs no fraction of a nano-dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What is asked for `per` units.
    pub amount: Money,
    /// How many units the amount buys; at least 1.
    pub per: u64,
}

impl Rate {
    /// The charge for a quantity: one multiplication, one division, rounded up to the next
    /// nano-dollar. `None` where the amount leaves the range of [`Money`].
    pub fn charge(self, quantity: Quantity) -> Option<Money> {
        let product = i128::from(quantity.0).checked_mul(i128::from(self.amount.0))?;
        let divisor = i128::from(self.per.max(1)).checked_mul(i128::from(Quantity::MICROS))?;
        let floor = product.div_euclid(divisor);
        let exact = product.rem_euclid(divisor) == 0;
        i64::try_from(if exact { floor } else { floor + 1 }).ok().map(Money)
    }
}

/// One line of a cost: so much of a unit at a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was counted.
    pub unit: Unit,
    /// How much of it.
    pub quantity: Quantity,
    /// At which rate.
    pub rate: Rate,
    /// What the line comes to.
    pub amount: Money,
}

/// An itemised amount. The total is the exact sum of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The lines, in the order of the price list.
    pub lines: Vec<Line>,
}

impl Cost {
    /// The sum of the lines.
    pub fn total(&self) -> Money {
        self.lines
            .iter()
            .fold(Money::ZERO, |sum, line| sum.checked_add(line.amount).unwrap_or(Money::MAX))
    }

    /// Adds another cost: quantities at the same rate are added up and charged as one line.
    pub fn merge(&mut self, other: Cost) {
        for line in other.lines {
            match self.lines.iter_mut().find(|l| l.unit == line.unit && l.rate == line.rate) {
                Some(mine) => {
                    mine.quantity = Quantity(mine.quantity.0.saturating_add(line.quantity.0));
                    mine.amount = mine.rate.charge(mine.quantity).unwrap_or(Money::MAX);
                }
                None => self.lines.push(line),
            }
        }
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
    fn a_line_is_rounded_once_and_up() {
        let rate = Rate { amount: money("30"), per: 1_000_000 };
        assert_eq!(rate.charge(Quantity::whole(1056)), Some(money("0.03168")));
        let third = Rate { amount: money("0.000000001"), per: 3 };
        assert_eq!(third.charge(Quantity::whole(1)), Some(Money::from_nanos(1)));
        assert_eq!(third.charge(Quantity::whole(3)), Some(Money::from_nanos(1)));
        assert_eq!(third.charge(Quantity::whole(4)), Some(Money::from_nanos(2)));
        assert_eq!(third.charge(Quantity::whole(0)), Some(Money::ZERO));
        assert_eq!(Rate { amount: Money::MAX, per: 1 }.charge(Quantity::whole(2)), None);
    }

    #[test]
    fn merged_parts_sum_to_the_total() {
        let rate = Rate { amount: money("0.003"), per: 1 };
        let line = |micros| {
            let quantity = Quantity::micros(micros);
            Line { unit: Unit::Megapixel, quantity, rate, amount: rate.charge(quantity).unwrap() }
        };
        let mut cost = Cost { lines: vec![line(1_048_576)] };
        cost.merge(Cost { lines: vec![line(1_048_576)] });
        assert_eq!(cost.lines.len(), 1);
        assert_eq!(cost.lines[0].quantity.to_string(), "2.097152");
        assert_eq!(cost.total(), money("0.006291456"));
    }
}
