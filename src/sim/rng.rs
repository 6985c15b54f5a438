//! Seeded chance: the same seed gives the same durations, pictures and faults.

/// SplitMix64: small, and good enough for scenery and waiting times.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly spread over 0 to 1, 1 excluded.
    pub(crate) fn unit(&mut self) -> f32 {
        self.wide() as f32
    }

    fn wide(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.wide() < probability
    }

    /// Lognormal with this median.
    pub(crate) fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box-Muller; the first number must not be zero.
        let (u, v) = (1.0 - self.wide(), self.wide());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        median * (sigma * normal).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_spread_are_as_asked() {
        let mut rng = Rng::new(1);
        let mut draws: Vec<f64> = (0..4001).map(|_| rng.lognormal(1.5, 0.25)).collect();
        draws.sort_by(f64::total_cmp);
        let near = |value: f64, want: f64| assert!((value / want - 1.0).abs() < 0.05, "{value}");
        near(draws[2000], 1.5);
        // One standard deviation up is the 84th percentile.
        near(draws[3365], 1.5 * 0.25_f64.exp());
        assert!((Rng::new(2).lognormal(3.0, 0.0) - 3.0).abs() < 1e-9, "no spread, no chance");
    }

    #[test]
    fn chance_is_as_likely_as_asked() {
        let mut rng = Rng::new(3);
        let hits = (0..10_000).filter(|_| rng.chance(0.2)).count();
        assert!((1800..2200).contains(&hits), "{hits}");
        assert!(!rng.chance(0.0) && rng.chance(1.0));
    }
}
