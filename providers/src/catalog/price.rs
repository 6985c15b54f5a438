//! What a call costs: price lines, and the arithmetic that picks and multiplies them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Deployment;
use crate::{
    Usage,
    media::Size,
    money::{Cost, Line, Money, Quantity, Rate, Unit},
};

/// One line of a price list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Which pictures are counted.
    #[serde(default)]
    pub of: Counted,
    /// Only up to this many pixels; of several such lines the first that fits counts.
    pub max_pixels: Option<u64>,
}

/// Which pictures a line counts, for each picture that is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// The one that is drawn.
    #[default]
    Drawn,
    /// Those worked from.
    Inputs,
    /// Both.
    Both,
}

/// The pictures that one is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkedFrom {
    /// How many.
    pub pictures: u32,
    /// Their pixels together.
    pub pixels: u64,
}

/// How fractions of a unit are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What it was made from.
    pub from: WorkedFrom,
}

impl Deployment {
    /// What the drawn pictures cost. Where tokens are billed, `usage` decides; where it lacks the
    /// tokens of the pictures, the estimate does. A quality or tier that is not known is the
    /// deployment's default, else the dearest. `None` where the deployment has no price for them,
    /// or it leaves the range of [`Money`].
    pub fn cost(&self, drawn: &[Drawn<'_>], usage: &Usage) -> Option<Cost> {
        let by_token = self.price.iter().any(|line| line.unit.is_token());
        if by_token && counts_pictures(&self.price, usage) {
            return token_cost(&self.price, usage);
        }
        let per_picture = if by_token { &self.estimate } else { &self.price };
        let mut total = Cost::default();
        for picture in drawn {
            let known = Drawn {
                quality: picture.quality.or(self.default_quality.as_deref()),
                tier: picture.tier.or(self.size.default_tier()),
                ..*picture
            };
            total.merge(picture_cost(per_picture, known)?)?;
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

fn token_count(unit: Unit, usage: &Usage) -> Option<u64> {
    match unit {
        Unit::TextInputToken => usage.text_input_tokens,
        Unit::ImageInputToken => usage.image_input_tokens,
        Unit::TextOutputToken => usage.text_output_tokens,
        Unit::ImageOutputToken => usage.image_output_tokens,
        _ => None,
    }
}

/// Whether a picture can be billed by it: the quantity is known when one has been drawn.
pub(super) fn bills_pictures(unit: Unit) -> bool {
    matches!(
        unit,
        Unit::Image
            | Unit::Megapixel
            | Unit::TextInputToken
            | Unit::ImageInputToken
            | Unit::TextOutputToken
            | Unit::ImageOutputToken
    )
}

fn charged(line: &PriceLine, quantity: Quantity) -> Option<Line> {
    Line::new(line.unit, quantity, Rate { amount: line.usd, per: line.per })
}

fn token_cost(price: &[PriceLine], usage: &Usage) -> Option<Cost> {
    let counted = price.iter().filter_map(|line| Some((line, token_count(line.unit, usage)?)));
    let lines = counted
        .filter(|(_, count)| *count > 0)
        .map(|(line, count)| charged(line, Quantity::whole(count)))
        .collect::<Option<_>>()?;
    let cost = Cost { lines };
    cost.checked_total().map(|_| cost)
}

fn picture_cost(price: &[PriceLine], drawn: Drawn<'_>) -> Option<Cost> {
    let quality_priced = |q: &str| price.iter().any(|l| l.quality.as_deref() == Some(q));
    let quality = drawn.quality.filter(|q| quality_priced(q));
    let qualities: BTreeSet<&str> = match quality {
        Some(known) => [known].into(),
        None => price.iter().filter_map(|l| l.quality.as_deref()).collect(),
    };
    let mut options: Vec<Cost> = if qualities.is_empty() {
        vec![lines_for(price, drawn, None)?]
    } else {
        let each = qualities.into_iter().map(|q| lines_for(price, drawn, Some(q)));
        each.collect::<Option<_>>()?
    };
    options.retain(|cost| !cost.lines.is_empty());
    options.into_iter().max_by_key(Cost::total)
}

fn lines_for(price: &[PriceLine], drawn: Drawn<'_>, quality: Option<&str>) -> Option<Cost> {
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
                Unit::Megapixel => megapixels(counted(line.of, pixels, drawn.from.pixels), line),
                _ => Quantity::whole(counted(line.of, 1, drawn.from.pictures.into())).as_micros(),
            };
            if let Some(first) = line.first {
                micros = micros.min(Quantity::whole(first).as_micros());
            }
            if let Some(after) = line.after {
                micros = micros.saturating_sub(Quantity::whole(after).as_micros());
            }
            (micros > 0).then(|| charged(line, Quantity::micros(micros)))
        })
        .collect::<Option<_>>()?;
    Some(Cost { lines })
}

fn counted(of: Counted, drawn: u64, from: u64) -> u64 {
    match of {
        Counted::Drawn => drawn,
        Counted::Inputs => from,
        Counted::Both => drawn.saturating_add(from),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::SizeRule;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn line(unit: Unit, usd: &str) -> PriceLine {
        PriceLine {
            unit,
            usd: money(usd),
            per: 1,
            megapixel: 1_000_000,
            round: Round::None,
            first: None,
            after: None,
            quality: None,
            tier: None,
            of: Counted::Drawn,
            max_pixels: None,
        }
    }

    fn sells(price: Vec<PriceLine>) -> Deployment {
        Deployment { price, ..Deployment::default() }
    }

    fn total(
        row: &Deployment,
        size: (u32, u32),
        quality: Option<&str>,
        tier: Option<&str>,
    ) -> String {
        let drawn =
            Drawn { size: Size::new(size.0, size.1), quality, tier, from: WorkedFrom::default() };
        row.cost(&[drawn], &Usage::default()).map_or("none".to_owned(), |c| c.total().to_string())
    }

    #[test]
    fn pictures_worked_from_are_counted_where_the_vendor_bills_them() {
        let first = PriceLine { first: Some(1), ..line(Unit::Megapixel, "0.03") };
        let more = PriceLine {
            after: Some(1),
            of: Counted::Both,
            round: Round::Up,
            ..line(Unit::Megapixel, "0.015")
        };
        let row = sells(vec![PriceLine { round: Round::Up, ..first }, more]);
        for (inputs, usd) in
            [(0, "0.030000000"), (1_000_000, "0.045000000"), (1_000_001, "0.060000000")]
        {
            let drawn = Drawn {
                size: Size::new(1000, 1000),
                quality: None,
                tier: None,
                from: WorkedFrom { pictures: 1, pixels: inputs },
            };
            let cost = row.cost(&[drawn], &Usage::default()).unwrap();
            assert_eq!(cost.total().to_string(), usd, "{inputs}");
        }
    }

    #[test]
    fn megapixels_are_exact_or_rounded_up_picture_by_picture() {
        let exact = line(Unit::Megapixel, "0.01");
        let up = PriceLine { round: Round::Up, ..exact.clone() };
        let binary = PriceLine { megapixel: 1_048_576, ..up.clone() };
        for (price, size, usd) in [
            (&exact, (1024, 1024), "0.010485760"),
            (&exact, (1000, 1000), "0.010000000"),
            (&up, (1000, 1000), "0.010000000"),
            (&up, (1001, 1000), "0.020000000"),
            (&up, (16, 16), "0.010000000"),
            (&binary, (1024, 1024), "0.010000000"),
            // One row more than a megapixel: a thousandth that must not be lost.
            (&binary, (1024, 1025), "0.020000000"),
            (&binary, (1_048_577, 1), "0.020000000"),
        ] {
            assert_eq!(total(&sells(vec![price.clone()]), size, None, None), usd, "{size:?}");
        }
        let row = sells(vec![up]);
        let drawn = Drawn {
            size: Size::new(1100, 1000),
            quality: None,
            tier: None,
            from: WorkedFrom::default(),
        };
        let three = row.cost(&[drawn; 3], &Usage::default()).unwrap();
        assert_eq!(three.lines.len(), 1);
        assert_eq!(three.total(), money("0.06"));
    }

    #[test]
    fn the_first_units_and_those_beyond_have_their_own_rates() {
        let base = PriceLine { round: Round::Up, ..line(Unit::Megapixel, "0.03") };
        let row = sells(vec![
            PriceLine { first: Some(1), ..base.clone() },
            PriceLine { after: Some(1), usd: money("0.015"), ..base },
        ]);
        for (size, usd) in [
            ((500, 500), "0.030000000"),
            ((1000, 1000), "0.030000000"),
            ((1100, 1000), "0.045000000"),
            ((2000, 2000), "0.075000000"),
        ] {
            assert_eq!(total(&row, size, None, None), usd, "{size:?}");
        }
        let two = PriceLine { first: Some(2), ..line(Unit::Megapixel, "0.01") };
        assert_eq!(total(&sells(vec![two]), (1000, 1000), None, None), "0.010000000");
    }

    #[test]
    fn quality_and_size_pick_one_line_and_the_unknown_costs_the_most() {
        let by = |usd: &str, quality: &str, most: u64| PriceLine {
            quality: Some(quality.to_owned()),
            max_pixels: Some(most),
            ..line(Unit::Image, usd)
        };
        let mut row = sells(vec![
            by("0.01", "low", 1_000_000),
            by("0.02", "low", 2_000_000),
            by("0.10", "high", 1_000_000),
            by("0.08", "high", 2_000_000),
        ]);
        for (size, quality, usd) in [
            ((1000, 1000), Some("low"), "0.010000000"),
            ((1001, 1000), Some("low"), "0.020000000"),
            // Larger than any line: the last one stands.
            ((4000, 4000), Some("low"), "0.020000000"),
            ((1000, 1000), Some("auto"), "0.100000000"),
            ((1000, 1000), None, "0.100000000"),
        ] {
            assert_eq!(total(&row, size, quality, None), usd, "{size:?} {quality:?}");
        }
        row.default_quality = Some("low".to_owned());
        assert_eq!(total(&row, (1000, 1000), None, None), "0.010000000");
        assert_eq!(total(&row, (1000, 1000), Some("auto"), None), "0.100000000");
    }

    #[test]
    fn a_tier_that_is_not_known_is_the_default_and_a_foreign_one_has_no_price() {
        let at = |usd: &str, tier: &str| PriceLine {
            tier: Some(tier.to_owned()),
            ..line(Unit::Image, usd)
        };
        let mut row = sells(vec![at("0.01", "1K"), at("0.04", "2K")]);
        row.size = SizeRule::Ratios {
            ratios: Vec::new(),
            range: None,
            tiers: vec!["2K".to_owned(), "1K".to_owned()],
            pixels: None,
            area: None,
            multiple_of: 1,
            table: std::collections::BTreeMap::new(),
        };
        assert_eq!(total(&row, (1024, 1024), None, Some("1K")), "0.010000000");
        assert_eq!(total(&row, (1024, 1024), None, None), "0.040000000");
        assert_eq!(total(&row, (1024, 1024), None, Some("8K")), "none");
    }

    #[test]
    fn tokens_decide_where_the_pictures_are_counted_else_the_estimate() {
        let token = |unit, usd: &str| PriceLine { per: 1_000_000, ..line(unit, usd) };
        let mut row =
            sells(vec![token(Unit::TextInputToken, "5"), token(Unit::ImageOutputToken, "30")]);
        row.estimate = vec![line(Unit::Image, "0.05")];
        let drawn = [Drawn {
            size: Size::new(1024, 1024),
            quality: None,
            tier: None,
            from: WorkedFrom::default(),
        }; 2];
        for (text, image, usd) in [
            (None, None, "0.1"),
            (Some(100), None, "0.1"),
            (Some(100), Some(2000), "0.0605"),
            (None, Some(2000), "0.06"),
            (None, Some(1), "0.00003"),
        ] {
            let usage =
                Usage { text_input_tokens: text, image_output_tokens: image, ..Usage::default() };
            let cost = row.cost(&drawn, &usage).unwrap();
            assert_eq!(cost.total(), money(usd), "{text:?} {image:?}");
        }
    }
}
