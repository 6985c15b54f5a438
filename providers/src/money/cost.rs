//! What something costs: rates, lines and their sum.

use serde::{Deserialize, Serialize};

use super::{Money, Quantity, Unit, ceiling};

/// Hundredths of a percent in the whole.
const WHOLE_BP: u32 = 10_000;

/// Money for so many units, so that a token price needs no fraction of a nano-dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        self.charge_with_markup(quantity, 0)
    }

    /// The charge with so many hundredths of a percent on top: exact to the end and then rounded
    /// once, up. `None` where the amount, or the product on the way to it, leaves its range.
    pub fn charge_with_markup(self, quantity: Quantity, markup_bp: u32) -> Option<Money> {
        let (factor, divisor) = factor(markup_bp);
        let product = i128::from(quantity.as_micros())
            .checked_mul(i128::from(self.amount.nanos()))?
            .checked_mul(i128::from(factor))?;
        let divisor = i128::from(self.per.max(1))
            .checked_mul(i128::from(Quantity::MICROS))?
            .checked_mul(i128::from(divisor))?;
        i64::try_from(ceiling(product, divisor)?).ok().map(Money::from_nanos)
    }

    /// The rate with so many hundredths of a percent on top, exactly: where the amount does not
    /// divide, it buys more units. `None` where either leaves its range.
    pub fn with_markup(self, markup_bp: u32) -> Option<Self> {
        let (factor, divisor) = factor(markup_bp);
        let amount = i128::from(self.amount.nanos()).checked_mul(i128::from(factor))?;
        let common = gcd(amount.unsigned_abs(), u128::from(divisor));
        let amount = amount.checked_div(i128::try_from(common).ok()?)?;
        let per = u128::from(self.per.max(1)).checked_mul(u128::from(divisor) / common)?;
        Some(Self {
            amount: Money::from_nanos(i64::try_from(amount).ok()?),
            per: u64::try_from(per).ok()?,
        })
    }
}

/// The factor of a markup as a fraction in its lowest terms.
fn factor(markup_bp: u32) -> (u64, u64) {
    let (above, below) = (u64::from(WHOLE_BP) + u64::from(markup_bp), u64::from(WHOLE_BP));
    let common = gcd(u128::from(above), u128::from(below)) as u64;
    (above / common, below / common)
}

/// The greatest common divisor; of 0 and a number, the number.
fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// One line of a cost: so much of a unit at a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Line {
    /// So much of a unit at a rate; `None` where the amount leaves the range of [`Money`].
    pub fn new(unit: Unit, quantity: Quantity, rate: Rate) -> Option<Self> {
        Some(Self { unit, quantity, rate, amount: rate.charge(quantity)? })
    }
}

/// An itemised amount. The total is the exact sum of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// The lines, in the order of the price list.
    pub lines: Vec<Line>,
}

impl Cost {
    /// The sum of the lines; [`Money::MAX`] where it leaves the range. For comparing and showing:
    /// what is charged comes from [`checked_total`](Self::checked_total).
    pub fn total(&self) -> Money {
        self.checked_total().unwrap_or(Money::MAX)
    }

    /// The sum of the lines; `None` where it leaves the range of [`Money`].
    pub fn checked_total(&self) -> Option<Money> {
        self.lines.iter().try_fold(Money::ZERO, |sum, line| sum.checked_add(line.amount))
    }

    /// Adds another cost: quantities at the same rate are added up and charged as one line.
    /// `None`, and nothing is added, where an amount leaves its range.
    pub fn merge(&mut self, other: Self) -> Option<()> {
        let mut lines = self.lines.clone();
        for line in other.lines {
            match lines.iter_mut().find(|l| l.unit == line.unit && l.rate == line.rate) {
                Some(mine) => {
                    let quantity = mine.quantity.checked_add(line.quantity)?;
                    *mine = Line::new(mine.unit, quantity, mine.rate)?;
                }
                None => lines.push(line),
            }
        }
        let sum = Self { lines };
        sum.checked_total()?;
        *self = sum;
        Some(())
    }

    /// The same quantities with so many hundredths of a percent on top of every rate: each line
    /// is charged anew and rounded once. `None` where an amount leaves its range.
    pub fn with_markup(&self, markup_bp: u32) -> Option<Self> {
        let marked =
            |line: &Line| Line::new(line.unit, line.quantity, line.rate.with_markup(markup_bp)?);
        let cost = Self { lines: self.lines.iter().map(marked).collect::<Option<_>>()? };
        cost.checked_total()?;
        Some(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
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
        let line = |micros| Line::new(Unit::Megapixel, Quantity::micros(micros), rate).unwrap();
        let mut cost = Cost { lines: vec![line(1_048_576)] };
        cost.merge(Cost { lines: vec![line(1_048_576)] }).unwrap();
        assert_eq!(cost.lines.len(), 1);
        assert_eq!(cost.lines[0].quantity.to_string(), "2.097152");
        assert_eq!(cost.total(), money("0.006291456"));
    }

    #[test]
    fn what_leaves_the_range_is_no_amount() {
        let half = Rate { amount: Money::from_nanos(i64::MAX / 2 + 1), per: 1 };
        let cost = Cost { lines: vec![Line::new(Unit::Image, Quantity::whole(1), half).unwrap()] };
        let mut twice = cost.clone();
        assert_eq!(twice.merge(cost.clone()), None);
        assert_eq!(twice, cost, "a sum that failed left a trace");
        let other = Line { unit: Unit::Request, ..cost.lines[0].clone() };
        assert_eq!(twice.merge(Cost { lines: vec![other.clone()] }), None);
        assert_eq!(cost.with_markup(10_000), None);
        let both = Cost { lines: vec![cost.lines[0].clone(), other] };
        assert_eq!((both.checked_total(), both.total()), (None, Money::MAX));
    }

    #[test]
    fn a_markup_is_exact_and_leaves_rates_readable() {
        for (usd, per, bp, marked, marked_per) in [
            ("0.04", 1, 0, "0.04", 1),
            ("0.04", 1, 1_000, "0.044", 1),
            ("0.04", 1, 10_000, "0.08", 1),
            ("30", 1_000_000, 250, "30.75", 1_000_000),
            // A nano-dollar and a ten-thousandth of it: ten thousand units are bought.
            ("0.000000001", 1, 1, "0.000010001", 10_000),
            ("0", 1, 1_000, "0", 1),
        ] {
            let rate = Rate { amount: money(usd), per }.with_markup(bp).unwrap();
            assert_eq!((rate.amount, rate.per), (money(marked), marked_per), "{usd} + {bp}");
        }
        assert_eq!(Rate { amount: Money::MAX, per: 1 }.with_markup(1), None);
        assert_eq!(Rate { amount: money("0.000000001"), per: u64::MAX }.with_markup(1), None);
    }

    /// Numbers that look random and are the same in every run (xorshift).
    fn numbers(mut seed: u64) -> impl FnMut(u32) -> u32 {
        move |below| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // Many small ones and some as large as may be.
            ((seed >> (seed % 61)) % u64::from(below)) as u32
        }
    }

    #[test]
    fn rounding_is_below_a_nano_dollar_and_nothing_is_lost_or_made() {
        let mut draw = numbers(7);
        let (mut tried, mut fractions) = (0, 0);
        for _ in 0..200_000 {
            // Up to a million dollars for up to ten million units; up to a million units.
            let amount = i64::from(draw(1_000_000)) * i64::from(draw(1_000_000_000));
            let rate =
                Rate { amount: Money::from_nanos(amount), per: 1 + u64::from(draw(10_000_000)) };
            let micros = u64::from(draw(1_000_000)) * u64::from(draw(1_000_001));
            let quantity = Quantity::micros(micros);
            let bp = draw(100_001);
            let Some(charge) = rate.charge_with_markup(quantity, bp) else { continue };
            tried += 1;
            // In units of the common denominator: 0 <= charge - exact < 1 nano-dollar.
            let denominator = i128::from(rate.per) * 10_000 * 1_000_000;
            let exact = i128::from(quantity.as_micros())
                * i128::from(rate.amount.nanos())
                * (10_000 + i128::from(bp));
            let over = i128::from(charge.nanos()) * denominator - exact;
            assert!((0..denominator).contains(&over), "{rate:?} {quantity} {bp}");
            fractions += u32::from(over > 0);

            // The marked-up rate says the same.
            if let Some(marked) = rate.with_markup(bp) {
                assert_eq!(marked.charge(quantity), Some(charge), "{rate:?} {quantity} {bp}");
            }
            // More of anything never costs less.
            let more = Quantity::micros(micros + u64::from(draw(1_000_000)));
            for dearer in [
                rate.charge_with_markup(more, bp),
                rate.charge_with_markup(quantity, bp + draw(5_000)),
            ] {
                assert!(dearer.is_none_or(|d| d >= charge), "{rate:?} {quantity} {bp}");
            }
        }
        assert!(tried > 190_000 && fractions > 10_000, "{tried} {fractions}");
    }

    #[test]
    fn lines_sum_to_the_total_with_and_without_a_markup() {
        let mut draw = numbers(11);
        for _ in 0..20_000 {
            let lines = (0..=draw(5)).filter_map(|_| {
                let unit = Unit::ALL[draw(Unit::ALL.len() as u32) as usize];
                let rate = Rate {
                    amount: Money::from_nanos(i64::from(draw(1_000_000_000))),
                    per: 1 + u64::from(draw(1_000_000)),
                };
                Line::new(unit, Quantity::micros(u64::from(draw(1_000_000_000))), rate)
            });
            let cost = Cost { lines: lines.collect() };
            let bp = draw(20_000);
            let marked = cost.with_markup(bp).unwrap();
            for cost in [&cost, &marked] {
                let sum: i64 = cost.lines.iter().map(|l| l.amount.nanos()).sum();
                assert_eq!(cost.checked_total().map(Money::nanos), Some(sum));
            }
            for (line, dearer) in cost.lines.iter().zip(&marked.lines) {
                let charge = line.rate.charge_with_markup(line.quantity, bp);
                assert_eq!((dearer.quantity, Some(dearer.amount)), (line.quantity, charge));
                assert!(dearer.amount >= line.amount);
            }
            assert_eq!(cost.with_markup(0), Some(cost));
        }
    }

    #[test]
    fn costs_are_kept_as_decimal_text() {
        let rate = Rate { amount: money("30"), per: 1_000_000 };
        let cost = Cost {
            lines: vec![
                Line::new(Unit::ImageOutputToken, Quantity::whole(1056), rate).unwrap(),
                Line::new(Unit::Megapixel, Quantity::micros(1_048_576), rate).unwrap(),
            ],
        };
        let text = serde_json::to_string(&cost).unwrap();
        assert_eq!(
            text,
            r#"{"lines":[{"unit":"image_output_token","quantity":"1056","rate":{"amount":"30.000000000","per":1000000},"amount":"0.031680000"},{"unit":"megapixel","quantity":"1.048576","rate":{"amount":"30.000000000","per":1000000},"amount":"0.000031458"}]}"#
        );
        assert_eq!(serde_json::from_str::<Cost>(&text).unwrap(), cost);
    }
}
