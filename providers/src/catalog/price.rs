//! What a call costs: price lines, and the arithmetic that picks and multiplies them.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Deployment;
use crate::{
    Usage,
    media::Size,
    money::{Cost, Line, Money, Quantity, Rate, Unit},
};

/// One line of a price list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceLine {
    /// What is counted.
    pub unit: Unit,
    /// Dollars, a decimal string, for `per` units.
    pub usd: Money,
    /// How many units the price buys.
    #[serde(default = "one_u64")]
    pub per: u64,
    /// Pixels the vendor calls a megapixel.
    #[serde(default = "million")]
    pub megapixel: u64,
    /// Whether a fraction of a unit counts as a whole one, picture by picture.
    #[serde(default)]
    pub round: Round,
    /// Counts only the units up to this many of each picture.
    pub first: Option<u64>,
    /// Counts only the units beyond this many of each picture.
    pub after: Option<u64>,
    /// Only at this quality level.
    pub quality: Option<String>,
    /// Only at this resolution tier.
    pub tier: Option<String>,
    /// Only up to this many pixels; of several such lines the first that fits counts.
    pub max_pixels: Option<u64>,
}

/// How fractions of a unit are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Round {
    /// As they are.
    #[default]
    None,
    /// Up to the next whole unit.
    Up,
}

fn one_u64() -> u64 {
    1
}

fn million() -> u64 {
    1_000_000
}

/// What the price of one picture depends on.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    /// Its size.
    pub size: Size,
    /// Its quality level; `None` where it is not known, and the dearest is taken.
    pub quality: Option<&'a str>,
    /// Its tier.
    pub tier: Option<&'a str>,
}

impl Deployment {
    /// What the drawn pictures cost. Where tokens are billed, `usage` decides; where it lacks the
    /// tokens of the pictures, the estimate does. A quality or tier that is not known is the
    /// deployment's default, else the dearest. `None` where the deployment has no price for them.
    pub fn cost(&self, drawn: &[Drawn<'_>], usage: &Usage) -> Option<Cost> {
        let by_token = self.price.iter().any(|line| is_token(line.unit));
        if by_token && counts_pictures(&self.price, usage) {
            return Some(token_cost(&self.price, usage));
        }
        let per_picture = if by_token { &self.estimate } else { &self.price };
        let mut total = Cost::default();
        for picture in drawn {
            let known = Drawn {
                size: picture.size,
                quality: picture.quality.or(self.default_quality.as_deref()),
                tier: picture.tier.or(self.size.default_tier()),
            };
            total.merge(picture_cost(per_picture, known)?);
        }
        Some(total)
    }
}

/// Whether the usage holds what the output is billed by. A partial count must not pass for all.
fn counts_pictures(price: &[PriceLine], usage: &Usage) -> bool {
    price
        .iter()
        .filter(|line| line.unit == Unit::ImageOutputToken)
        .all(|line| token_count(line.unit, usage).is_some())
        && price.iter().any(|line| token_count(line.unit, usage).is_some())
}

pub(super) fn is_token(unit: Unit) -> bool {
    !matches!(unit, Unit::Image | Unit::Megapixel)
}

fn token_count(unit: Unit, usage: &Usage) -> Option<u64> {
    match unit {
        Unit::TextInputToken => usage.text_input_tokens,
        Unit::ImageInputToken => usage.image_input_tokens,
        Unit::TextOutputToken => usage.text_output_tokens,
        Unit::ImageOutputToken => usage.image_output_tokens,
        Unit::Image | Unit::Megapixel => None,
    }
}

fn charged(line: &PriceLine, quantity: Quantity) -> Line {
    let rate = Rate { amount: line.usd, per: line.per };
    let amount = rate.charge(quantity).unwrap_or(Money::MAX);
    Line { unit: line.unit, quantity, rate, amount }
}

fn token_cost(price: &[PriceLine], usage: &Usage) -> Cost {
    let lines = price
        .iter()
        .filter_map(|line| Some((line, token_count(line.unit, usage)?)))
        .filter(|(_, count)| *count > 0)
        .map(|(line, count)| charged(line, Quantity::whole(count)))
        .collect();
    Cost { lines }
}

fn picture_cost(price: &[PriceLine], drawn: Drawn<'_>) -> Option<Cost> {
    let quality_priced = |q: &str| price.iter().any(|l| l.quality.as_deref() == Some(q));
    let quality = drawn.quality.filter(|q| quality_priced(q));
    let qualities: BTreeSet<&str> = match quality {
        Some(known) => [known].into(),
        None => price.iter().filter_map(|l| l.quality.as_deref()).collect(),
    };
    let mut options: Vec<Cost> = if qualities.is_empty() {
        vec![lines_for(price, drawn, None)]
    } else {
        qualities.into_iter().map(|q| lines_for(price, drawn, Some(q))).collect()
    };
    options.retain(|cost| !cost.lines.is_empty());
    options.into_iter().max_by_key(Cost::total)
}

fn lines_for(price: &[PriceLine], drawn: Drawn<'_>, quality: Option<&str>) -> Cost {
    let fits = |line: &&PriceLine| {
        line.quality.as_deref().is_none_or(|q| Some(q) == quality)
            && line.tier.as_deref().is_none_or(|t| Some(t) == drawn.tier)
    };
    let matching: Vec<&PriceLine> = price.iter().filter(fits).collect();
    let pixels = drawn.size.pixels();
    let sized: Vec<&PriceLine> =
        matching.iter().copied().filter(|l| l.max_pixels.is_some()).collect();
    let by_size = sized.iter().find(|l| l.max_pixels.is_some_and(|most| pixels <= most));
    let chosen = by_size.or(sized.last()).copied();
    let lines = matching
        .into_iter()
        .filter(|line| line.max_pixels.is_none() || Some(*line) == chosen)
        .filter_map(|line| {
            let mut micros = match line.unit {
                Unit::Megapixel => megapixels(pixels, line),
                _ => Quantity::whole(1).as_micros(),
            };
            if let Some(first) = line.first {
                micros = micros.min(Quantity::whole(first).as_micros());
            }
            if let Some(after) = line.after {
                micros = micros.saturating_sub(Quantity::whole(after).as_micros());
            }
            (micros > 0).then(|| charged(line, Quantity::micros(micros)))
        })
        .collect();
    Cost { lines }
}

/// A picture's megapixels in millionths, as the line counts them.
fn megapixels(pixels: u64, line: &PriceLine) -> u64 {
    match line.round {
        Round::Up => Quantity::whole(pixels.div_ceil(line.megapixel.max(1))).as_micros(),
        // In the vendor's favour by less than a millionth, never in the client's.
        Round::None => {
            let micros =
                (u128::from(pixels) * 1_000_000).div_ceil(u128::from(line.megapixel.max(1)));
            u64::try_from(micros).unwrap_or(u64::MAX)
        }
    }
}
