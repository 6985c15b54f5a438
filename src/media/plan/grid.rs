//! The nearest size on a grid: width and height are multiples of a step, within bounds on side,
//! area and ratio.

use providers::{
    catalog::SizeRule,
    media::{Aspect, Size},
};

use super::{
    geometry::TINY,
    native::{SAME_SHARE, lost},
};

/// The bounds of [`SizeRule::Grid`]. For one width, the legal heights are every multiple between
/// two bounds, so a search over the widths alone sees every legal size.
#[derive(Clone, Copy)]
pub(super) struct Grid<'a> {
    rule: &'a SizeRule,
    step: u32,
    min: u32,
    max: u32,
    min_pixels: u64,
    max_pixels: u64,
    max_ratio: Option<u32>,
}

impl<'a> Grid<'a> {
    /// The grid of a rule of that kind.
    pub(super) fn of(rule: &'a SizeRule) -> Option<Self> {
        let SizeRule::Grid { multiple_of, min, max, min_pixels, max_pixels, max_ratio } = rule
        else {
            return None;
        };
        Some(Self {
            rule,
            step: (*multiple_of).max(1),
            min: (*min).max(1),
            max: *max,
            min_pixels: *min_pixels,
            max_pixels: max_pixels.unwrap_or(u64::MAX),
            max_ratio: *max_ratio,
        })
    }

    /// The legal size nearest to the asked one: of those that need the least enlargement to
    /// cover it, and of these those with the least crop share (within 3 points of the least),
    /// the one with the fewest pixels, and of these the one of the nearest ratio. `None` where
    /// the bounds leave no size.
    pub(super) fn nearest(&self, asked: Size) -> Option<Size> {
        if self.rule.on_grid(asked) {
            return Some(asked);
        }
        let (width, height) = (f64::from(asked.width), f64::from(asked.height));
        let columns = || self.widths().filter_map(|w| Some((w, self.heights(w)?)));
        let least = columns()
            .map(|(w, (_, high))| (width / f64::from(w)).max(height / f64::from(high)))
            .fold(f64::INFINITY, f64::min)
            .max(1.0);
        let narrowest = width / least - TINY * width;
        let lowest = self.up(height / least - TINY * height);
        let wide = || {
            columns()
                .filter(|(w, _)| f64::from(*w) >= narrowest)
                .map(|(w, (low, high))| (w, low.max(lowest), high))
                .filter(|(_, low, high)| low <= high)
        };
        let share = wide()
            .flat_map(|(w, low, high)| {
                let ideal = f64::from(w) / asked.ratio();
                [self.down(ideal), self.up(ideal)].map(|h| Size::new(w, h.clamp(low, high)))
            })
            .map(|size| lost(size, asked))
            .fold(f64::INFINITY, f64::min);
        let most = share + SAME_SHARE + TINY;
        wide()
            .filter_map(|(w, low, high)| {
                let flattest = self.up(f64::from(w) / asked.ratio() * (1.0 - most));
                let size = Size::new(w, flattest.max(low));
                (size.height <= high && lost(size, asked) <= most).then_some(size)
            })
            .min_by(|a, b| {
                let share = || lost(*a, asked).total_cmp(&lost(*b, asked));
                a.pixels().cmp(&b.pixels()).then_with(share)
            })
    }

    /// The legal size of the very ratio whose area is nearest to `area`, if one is within a
    /// factor of e^`slack`. A tie goes to the larger.
    pub(super) fn of_ratio(&self, aspect: Aspect, area: f64, slack: f64) -> Option<Size> {
        let shared = gcd(aspect.width, aspect.height);
        let (across, down) = (aspect.width / shared, aspect.height / shared);
        let unit = |part: u32| u64::from(self.step / gcd(part, self.step));
        let (a, b) = (unit(across), unit(down));
        let factor = a / u64::from(gcd(a as u32, b as u32)) * b;
        let off = |s: &Size| (s.pixels() as f64 / area).ln().abs();
        (1u64..)
            .map_while(|times| {
                let side = |part: u32| u32::try_from(u64::from(part) * factor * times).ok();
                let size = Size::new(side(across)?, side(down)?);
                (size.width.max(size.height) <= self.max).then_some(size)
            })
            .filter(|size| self.rule.on_grid(*size) && off(size) <= slack)
            .min_by(|x, y| off(x).total_cmp(&off(y)).then(y.pixels().cmp(&x.pixels())))
    }

    fn widths(&self) -> impl Iterator<Item = u32> {
        (self.min.div_ceil(self.step)..=self.max / self.step).map(|times| times * self.step)
    }

    /// The least and the greatest legal height beside a width, both on the grid.
    fn heights(&self, width: u32) -> Option<(u32, u32)> {
        let ratio = |most: u32| (width.div_ceil(most), width.saturating_mul(most));
        let (flattest, tallest) = self.max_ratio.map_or((0, u32::MAX), |most| ratio(most.max(1)));
        let fewest = self.min_pixels.div_ceil(u64::from(width));
        let most = self.max_pixels / u64::from(width);
        let low = u64::from(self.min.max(flattest)).max(fewest);
        let high = u64::from(self.max.min(tallest)).min(most);
        let step = u64::from(self.step);
        let (low, high) = (low.div_ceil(step) * step, high / step * step);
        (low <= high).then_some((u32::try_from(low).ok()?, u32::try_from(high).ok()?))
    }

    fn up(&self, side: f64) -> u32 {
        (side / f64::from(self.step) - TINY).ceil().max(1.0) as u32 * self.step
    }

    fn down(&self, side: f64) -> u32 {
        (side / f64::from(self.step) + TINY).floor().max(1.0) as u32 * self.step
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grid(
        step: u32,
        min: u32,
        max: u32,
        min_pixels: u64,
        max_pixels: Option<u64>,
        max_ratio: Option<u32>,
    ) -> SizeRule {
        SizeRule::Grid { multiple_of: step, min, max, min_pixels, max_pixels, max_ratio }
    }

    fn legal(rule: &SizeRule) -> Vec<Size> {
        let SizeRule::Grid { max, .. } = rule else { return Vec::new() };
        let all = (1..=*max).flat_map(|w| (1..=*max).map(move |h| Size::new(w, h)));
        all.filter(|size| rule.on_grid(*size)).collect()
    }

    /// The definition of `nearest`, tried on every legal size.
    fn searched(rule: &SizeRule, asked: Size) -> Option<Size> {
        let enlarged = |s: &Size| {
            let across = f64::from(asked.width) / f64::from(s.width);
            across.max(f64::from(asked.height) / f64::from(s.height)).max(1.0)
        };
        let mut sizes = legal(rule);
        let least = sizes.iter().map(enlarged).fold(f64::INFINITY, f64::min);
        sizes.retain(|s| enlarged(s) <= least + 1e-7);
        let share = sizes.iter().map(|s| lost(*s, asked)).fold(f64::INFINITY, f64::min);
        sizes.retain(|s| lost(*s, asked) <= share + 0.03);
        let fewest = sizes.iter().map(|s| s.pixels()).min()?;
        sizes.retain(|s| s.pixels() == fewest);
        sizes.into_iter().min_by(|a, b| lost(*a, asked).total_cmp(&lost(*b, asked)))
    }

    #[test]
    fn known_sizes_on_known_grids() {
        let flux = grid(32, 256, 1440, 0, None, None);
        let capped = grid(16, 64, 4096, 0, Some(4_000_000), None);
        let gpt = grid(16, 16, 3840, 655_360, Some(8_294_400), Some(3));
        for (rule, asked, expected) in [
            (&flux, "1024x1024", "1024x1024"),
            (&flux, "1000x700", "1024x704"),
            (&flux, "1792x1024", "1440x832"),
            (&flux, "100x100", "256x256"),
            (&capped, "3000x3000", "2000x2000"),
            (&capped, "4000x2000", "2816x1408"),
            (&gpt, "512x512", "816x816"),
            (&gpt, "1000x700", "1008x704"),
            (&gpt, "2000x500", "2000x672"),
        ] {
            let nearest = Grid::of(rule).unwrap().nearest(asked.parse().unwrap());
            assert_eq!(nearest.map(|s| s.to_string()).as_deref(), Some(expected), "{asked}");
        }
        assert_eq!(
            Grid::of(&grid(16, 16, 64, 10_000, None, None)).unwrap().nearest(Size::new(9, 9)),
            None
        );
    }

    #[test]
    fn the_very_ratio_is_found_near_the_area() {
        let flux = grid(32, 256, 1440, 0, None, None);
        for (ratio, area, expected) in [
            ("16:9", 1_048_576.0, Some("1024x576")),
            ("3:2", 1_048_576.0, Some("1248x832")),
            ("1:1", 1_048_576.0, Some("1024x1024")),
            ("32:18", 786_432.0, Some("1024x576")),
            ("99:100", 1_048_576.0, None),
            ("7:1", 1_048_576.0, None),
        ] {
            let found = Grid::of(&flux).unwrap().of_ratio(ratio.parse().unwrap(), area, 2f64.ln());
            assert_eq!(found.map(|s| s.to_string()).as_deref(), expected, "{ratio}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nearest_is_what_trying_every_size_finds(
            (step, min, spread) in (1u32..9, 1u32..6, 0u32..90),
            min_pixels in 0u64..1500,
            max_pixels in proptest::option::of(1500u64..4000),
            max_ratio in proptest::option::of(1u32..5),
            asked in (1u32..150, 1u32..150),
        ) {
            let rule =
                grid(step, min * step, min * step + spread, min_pixels, max_pixels, max_ratio);
            let asked = Size::new(asked.0, asked.1);
            let nearest = Grid::of(&rule).unwrap().nearest(asked);
            let expected = if rule.on_grid(asked) { Some(asked) } else { searched(&rule, asked) };
            let key = |s: Option<Size>| s.map(|s| (s.pixels(), (lost(s, asked) * 1e7).round()));
            prop_assert_eq!(key(nearest), key(expected), "{:?} {:?}", nearest, expected);
            prop_assert!(nearest.is_none_or(|s| rule.on_grid(s)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn nearest_is_legal_on_real_grids(
            which in 0usize..4, asked in (1u32..16_384, 1u32..16_384),
        ) {
            let rule = [
                grid(32, 256, 1440, 0, None, None),
                grid(16, 64, 4096, 0, Some(4_194_304), None),
                grid(16, 16, 3840, 655_360, Some(8_294_400), Some(3)),
                grid(8, 512, 2048, 0, None, None),
            ][which].clone();
            let nearest = Grid::of(&rule).unwrap().nearest(Size::new(asked.0, asked.1)).unwrap();
            prop_assert!(rule.on_grid(nearest), "{}", nearest);
        }
    }
}
