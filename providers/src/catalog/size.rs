//! Which sizes a deployment draws: five kinds of rule.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::media::{Aspect, NativeSize, Size, SizeWords};

/// Which sizes a deployment draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum SizeRule {
    /// Just these sizes.
    List {
        /// The sizes.
        sizes: Vec<Size>,
    },
    /// A list of ratios, with or without resolution tiers.
    Ratios {
        /// The ratios the vendor takes, as it spells them.
        #[serde(default)]
        ratios: Vec<Aspect>,
        /// Any ratio between these two, where there is no list.
        range: Option<[Aspect; 2]>,
        /// The tiers, in the vendor's words, the default first.
        #[serde(default)]
        tiers: Vec<String>,
        /// The pixel table that says what is drawn.
        pixels: Option<String>,
        /// Pixels of every picture, where there is no table.
        area: Option<u64>,
        /// What sides are multiples of, with `area`.
        #[serde(default = "one")]
        multiple_of: u32,
        /// The table, once looked up: (tier, ratio) to size.
        #[serde(skip)]
        table: BTreeMap<(String, String), Size>,
    },
    /// Any width and height on a grid within bounds.
    Grid {
        /// What both sides are multiples of.
        multiple_of: u32,
        /// Shortest side.
        min: u32,
        /// Longest side.
        max: u32,
        /// Fewest pixels.
        #[serde(default)]
        min_pixels: u64,
        /// Most pixels.
        max_pixels: Option<u64>,
        /// Largest ratio of the longer to the shorter side.
        max_ratio: Option<u32>,
    },
    /// Named sizes.
    Presets {
        /// Name to size.
        presets: BTreeMap<String, Size>,
    },
    /// One size, whatever is asked.
    Fixed {
        /// The size.
        size: Size,
    },
    /// The size of the first picture that is worked from, times the factor of an upscale.
    Input {
        /// About so many pixels, at the picture's own ratio, where the vendor scales it.
        area: Option<u64>,
        /// What both sides are rounded to.
        #[serde(default = "one")]
        multiple_of: u32,
        /// The factor where none is asked.
        #[serde(default = "one")]
        factor: u32,
    },
}

fn one() -> u32 {
    1
}

impl Default for SizeRule {
    fn default() -> Self {
        Self::Fixed { size: Size::new(1024, 1024) }
    }
}

impl SizeRule {
    /// The name of the rule's kind in documents and answers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Ratios { .. } => "ratios",
            Self::Grid { .. } => "grid",
            Self::Presets { .. } => "presets",
            Self::Fixed { .. } => "fixed",
            Self::Input { .. } => "input",
        }
    }

    /// The tier drawn when none is asked, where the rule has tiers.
    pub fn default_tier(&self) -> Option<&str> {
        match self {
            Self::Ratios { tiers, .. } => tiers.first().map(String::as_str),
            _ => None,
        }
    }

    /// Every size of a rule that has finitely many; empty for a grid and a ratio range.
    pub fn finite(&self) -> Vec<NativeSize> {
        match self {
            Self::List { sizes } => {
                sizes.iter().map(|&size| NativeSize { size, words: SizeWords::Pixels }).collect()
            }
            Self::Ratios { ratios, tiers, table, area, multiple_of, .. } => {
                let named: Vec<Option<&String>> =
                    if tiers.is_empty() { vec![None] } else { tiers.iter().map(Some).collect() };
                let drawn = |tier: Option<&String>, ratio: Aspect| {
                    table
                        .get(&(tier.cloned().unwrap_or_default(), ratio.to_string()))
                        .copied()
                        .or_else(|| area.map(|area| sized(ratio.ratio(), area, *multiple_of)))
                };
                named
                    .iter()
                    .flat_map(|tier| ratios.iter().map(move |ratio| (*tier, *ratio)))
                    .filter_map(|(tier, ratio)| {
                        let words = SizeWords::Ratio(ratio, tier.cloned());
                        Some(NativeSize { size: drawn(tier, ratio)?, words })
                    })
                    .collect()
            }
            Self::Presets { presets } => presets
                .iter()
                .map(|(name, &size)| NativeSize { size, words: SizeWords::Preset(name.clone()) })
                .collect(),
            Self::Fixed { size } => {
                vec![NativeSize { size: *size, words: SizeWords::Omitted }]
            }
            Self::Grid { .. } | Self::Input { .. } => Vec::new(),
        }
    }

    /// The rule for a picture of `input` and an upscale by `factor`: one that follows the input
    /// becomes the size it leads to, any other stays as it is.
    #[must_use]
    pub fn for_input(&self, input: Option<Size>, asked: Option<u32>) -> Self {
        let (Self::Input { area, multiple_of, factor }, Some(input)) = (self, input) else {
            return self.clone();
        };
        let ratio = f64::from(input.width) / f64::from(input.height.max(1));
        let times = u64::from(asked.unwrap_or(*factor));
        let area = area.unwrap_or_else(|| input.pixels().saturating_mul(times * times));
        Self::Fixed { size: sized(ratio, area, *multiple_of) }
    }

    /// Whether a size obeys a grid's bounds; false for other rules.
    pub fn on_grid(&self, size: Size) -> bool {
        let Self::Grid { multiple_of, min, max, min_pixels, max_pixels, max_ratio } = self else {
            return false;
        };
        let (short, long) = (size.width.min(size.height), size.width.max(size.height));
        size.width.is_multiple_of(*multiple_of)
            && size.height.is_multiple_of(*multiple_of)
            && short >= *min
            && long <= *max
            && size.pixels() >= *min_pixels
            && max_pixels.is_none_or(|most| size.pixels() <= most)
            && max_ratio.is_none_or(|most| u64::from(long) <= u64::from(short) * u64::from(most))
    }
}

/// The sides of about `area` pixels at a ratio, rounded to a multiple.
pub fn sized(ratio: f64, area: u64, multiple_of: u32) -> Size {
    let step = f64::from(multiple_of.max(1));
    let round = |side: f64| ((side / step).round().max(1.0) * step) as u32;
    let width = (area as f64 * ratio).sqrt();
    Size::new(round(width), round(width / ratio))
}
