//! Which of a deployment's native sizes serves an ask best.

use providers::{
    catalog::{Deployment, SizeRule, sized},
    media::{Aspect, NativeSize, Size, SizeWords},
    money::Money,
};

use super::{
    Fit, Tier,
    geometry::{TINY, enlargement, has_ratio},
    grid::Grid,
};

/// Crop shares this close count as equal.
pub(super) const SAME_SHARE: f64 = 0.03;
/// How far the area of a size with the very ratio may be off the usual area, as ln of a factor.
const SAME_CLASS: f64 = std::f64::consts::LN_2;

/// The native sizes of a deployment, seen by one ask.
pub(super) struct Natives<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) fit: Fit,
    pub(super) price_of: &'a dyn Fn(Size, Option<&str>) -> Money,
}

impl Natives<'_> {
    /// The best size for asked pixels.
    pub(super) fn for_size(&self, asked: Size) -> Option<NativeSize> {
        match &self.deployment.size {
            SizeRule::Ratios { range: Some(range), .. } => {
                self.within(*range, Aspect::new(asked.width, asked.height))
            }
            SizeRule::Grid { .. } => Grid::of(&self.deployment.size)?.nearest(asked).map(pixels),
            rule => self.best(rule.finite(), asked),
        }
    }

    /// A size of the very ratio: the vendor's own word for it, or pixels within one of it, near
    /// the usual area.
    pub(super) fn with_ratio(&self, asked: Aspect) -> Option<NativeSize> {
        let ratio = asked.ratio();
        let area = self.usual_area() as f64;
        let off = |size: Size| (size.pixels() as f64 / area).ln().abs();
        match &self.deployment.size {
            SizeRule::Ratios { range: Some([low, high]), .. } => {
                let (low, high) = (low.ratio().min(high.ratio()), low.ratio().max(high.ratio()));
                (low..=high).contains(&ratio).then(|| self.in_range(asked)).flatten()
            }
            SizeRule::Grid { .. } => {
                Grid::of(&self.deployment.size)?.of_ratio(asked, area, SAME_CLASS).map(pixels)
            }
            SizeRule::Ratios { .. } => {
                self.usual().into_iter().find(|n| takes_ratio(&n.words, asked))
            }
            _ => self
                .usual()
                .into_iter()
                .filter(|n| has_ratio(n.size, ratio))
                .min_by(|a, b| off(a.size).total_cmp(&off(b.size))),
        }
    }

    /// The best size to crop to a ratio, at about the usual area.
    pub(super) fn near_ratio(&self, asked: Aspect) -> Option<NativeSize> {
        let wanted = sized(asked.ratio(), self.usual_area(), 1);
        match &self.deployment.size {
            SizeRule::Ratios { range: Some(range), .. } => self.within(*range, asked),
            SizeRule::Grid { .. } => self.for_size(wanted),
            _ => self.best(self.usual(), wanted),
        }
    }

    /// The vendor's own tier at the listed ratio nearest to `ratio`.
    pub(super) fn with_tier(&self, tier: Tier, ratio: f64) -> Option<NativeSize> {
        let off = |n: &NativeSize| match n.words {
            SizeWords::Ratio(aspect, _) => (aspect.ratio() / ratio).ln().abs(),
            _ => f64::INFINITY,
        };
        let at_tier = |n: &NativeSize| takes_tier(&n.words, tier);
        let found = self.deployment.size.finite().into_iter().filter(at_tier);
        found.min_by(|a, b| off(a).total_cmp(&off(b)))
    }

    /// The vendor's own words for a ratio and a tier.
    pub(super) fn with_ratio_and_tier(&self, asked: Aspect, tier: Tier) -> Option<NativeSize> {
        let mut sizes = self.deployment.size.finite().into_iter();
        sizes.find(|n| takes_ratio(&n.words, asked) && takes_tier(&n.words, tier))
    }

    /// The finite sizes at the default tier.
    fn usual(&self) -> Vec<NativeSize> {
        let rule = &self.deployment.size;
        let mut sizes = rule.finite();
        if let SizeRule::Ratios { tiers, .. } = rule {
            sizes.retain(
                |n| matches!(&n.words, SizeWords::Ratio(_, t) if t.as_ref() == tiers.first()),
            );
        }
        sizes
    }

    /// The area drawn where none is asked: that of the default size, else the native area
    /// nearest to tier `1K`.
    fn usual_area(&self) -> u64 {
        if let Some(size) = self.deployment.default_size {
            return size.pixels();
        }
        let one = Tier::One.area();
        match &self.deployment.size {
            SizeRule::Ratios { area: Some(area), .. } => *area,
            SizeRule::Grid { min_pixels, max_pixels, .. } => {
                one.max(*min_pixels).min(max_pixels.unwrap_or(u64::MAX))
            }
            _ => {
                let off = |area: u64| (area as f64 / one as f64).ln().abs();
                let areas = self.usual().into_iter().map(|n| n.size.pixels());
                areas.min_by(|a, b| off(*a).total_cmp(&off(*b))).unwrap_or(one)
            }
        }
    }

    /// The asked ratio, or the bound it lies beyond.
    fn within(&self, range: [Aspect; 2], asked: Aspect) -> Option<NativeSize> {
        let [a, b] = range;
        let (low, high) = if a.ratio() <= b.ratio() { (a, b) } else { (b, a) };
        self.in_range(if asked.ratio() < low.ratio() {
            low
        } else if asked.ratio() > high.ratio() {
            high
        } else {
            asked
        })
    }

    fn in_range(&self, aspect: Aspect) -> Option<NativeSize> {
        let SizeRule::Ratios { tiers, area: Some(area), multiple_of, .. } = &self.deployment.size
        else {
            return None;
        };
        let aspect = reduced(aspect);
        Some(NativeSize {
            size: sized(aspect.ratio(), *area, *multiple_of),
            words: SizeWords::Ratio(aspect, tiers.first().cloned()),
        })
    }

    /// The best of a list. The order of preference is the one of [`super::plan_size`].
    fn best(&self, mut sizes: Vec<NativeSize>, asked: Size) -> Option<NativeSize> {
        let off = |n: &NativeSize| (n.size.ratio() / asked.ratio()).ln().abs();
        if self.fit == Fit::None {
            keep_least(&mut sizes, 0.0, &off);
            let area = asked.pixels() as f64;
            keep_least(&mut sizes, 0.0, &|n| (n.size.pixels() as f64 / area).ln().abs());
        } else {
            keep_least(&mut sizes, 0.0, &|n| enlargement(n.size, asked, self.fit).max(1.0));
            keep_least(&mut sizes, SAME_SHARE, &|n| lost(n.size, asked));
            let price = |n: &NativeSize| (self.price_of)(n.size, tier_word(&n.words));
            let cheapest = sizes.iter().map(price).min();
            sizes.retain(|n| Some(price(n)) == cheapest);
            keep_least(&mut sizes, 0.0, &|n| lost(n.size, asked));
            keep_least(&mut sizes, 0.0, &|n| wasted(n.size, asked));
        }
        // Of several with the most pixels the first listed wins.
        sizes.into_iter().rev().max_by_key(|n| n.size.pixels())
    }
}

/// Keeps what is at most `slack` above the least.
fn keep_least(sizes: &mut Vec<NativeSize>, slack: f64, measure: &dyn Fn(&NativeSize) -> f64) {
    let least = sizes.iter().map(measure).fold(f64::INFINITY, f64::min);
    sizes.retain(|n| measure(n) <= least + slack + TINY);
}

/// The share lost between two shapes: cropped for cover, left empty for pad and contain,
/// squeezed for stretch. It is the same number for all: 1 - e^-|ln(r_asked / r_native)|.
pub(super) fn lost(native: Size, asked: Size) -> f64 {
    let (native, asked) = (native.ratio(), asked.ratio());
    1.0 - (native / asked).min(asked / native)
}

/// Pixels drawn but not delivered.
fn wasted(native: Size, asked: Size) -> f64 {
    let drawn = native.pixels() as f64;
    drawn - (drawn * (1.0 - lost(native, asked))).min(asked.pixels() as f64)
}

fn pixels(size: Size) -> NativeSize {
    NativeSize { size, words: SizeWords::Pixels }
}

fn tier_word(words: &SizeWords) -> Option<&str> {
    match words {
        SizeWords::Ratio(_, tier) => tier.as_deref(),
        _ => None,
    }
}

/// Whether the vendor is told this very ratio.
pub(super) fn takes_ratio(words: &SizeWords, asked: Aspect) -> bool {
    matches!(words, SizeWords::Ratio(ratio, _) if ratio.same(asked))
}

fn takes_tier(words: &SizeWords, asked: Tier) -> bool {
    tier_word(words).is_some_and(|word| word.parse() == Ok(asked))
}

fn reduced(aspect: Aspect) -> Aspect {
    let (mut a, mut b) = (aspect.width, aspect.height);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let divisor = a.max(1);
    Aspect::new(aspect.width / divisor, aspect.height / divisor)
}

/// Up to ten sizes a deployment with this rule draws, for "sizes that would work". A grid and a
/// range have endless ones: theirs are those of the usual ratios at about a megapixel.
pub fn examples(rule: &SizeRule) -> Vec<String> {
    let deployment = Deployment { size: rule.clone(), ..Deployment::default() };
    let natives =
        Natives { deployment: &deployment, fit: Fit::Cover, price_of: &|_, _| Money::ZERO };
    let mut sizes: Vec<Size> = match rule {
        SizeRule::Grid { .. } | SizeRule::Ratios { range: Some(_), .. } => {
            [(1, 1), (3, 2), (2, 3), (4, 3), (3, 4), (16, 9), (9, 16), (2, 1), (1, 2)]
                .into_iter()
                .map(|(width, height)| Aspect::new(width, height))
                .filter_map(|r| natives.with_ratio(r).or_else(|| natives.near_ratio(r)))
                .map(|n| n.size)
                .collect()
        }
        _ => natives.usual().into_iter().map(|n| n.size).collect(),
    };
    let mut seen = std::collections::BTreeSet::new();
    sizes.retain(|size| seen.insert(*size));
    sizes.truncate(10);
    sizes.iter().map(Size::to_string).collect()
}
