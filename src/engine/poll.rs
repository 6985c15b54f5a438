//! When to ask a queue how a job is going.
//!
//! The interval that loses least is h(t) = √(2θ / λ(t)): λ is the chance that the job ends just
//! now, given that it has not yet, and θ the seconds of delay that are worth one request. So a
//! job is asked after often where it is likely to end, and little elsewhere. What a class of
//! jobs usually takes is a prior; a job that is reported as running starts its clock anew, for
//! the time in a queue says nothing about the time of the work.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// What jobs of a class usually take: a log-normal distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Half of the jobs take less, seconds.
    pub median: f64,
    /// Spread of the logarithm. Wide on purpose where the class is not known.
    pub sigma: f64,
}

impl Default for Prior {
    /// A picture of an unknown model: about three seconds, give or take a factor of two. With
    /// it jobs of 1 to 6 s are noticed within half a second at one request a second or fewer.
    fn default() -> Self {
        Self { median: 3.0, sigma: 0.7 }
    }
}

/// Seconds of delay worth one status request.
const THETA: f64 = 0.17;
const SHORTEST: f64 = 0.25;
const LONGEST: f64 = 15.0;

impl Prior {
    /// How long to wait before the next request, `age` after the job began.
    pub fn wait(self, age: Duration) -> Duration {
        let age = age.as_secs_f64();
        if age > self.median * (3.1 * self.sigma).exp() {
            // Beyond p99.9 the prior knows nothing any more.
            return Duration::from_secs_f64((age / 8.0).clamp(SHORTEST, LONGEST));
        }
        let interval = |t: f64| (2.0 * THETA / self.hazard(t.max(0.05)).max(1e-6)).sqrt();
        // The hazard changes within an interval: take it at the interval's middle.
        let middle = age + interval(age).min(self.median) / 2.0;
        let wait = interval(middle).clamp(SHORTEST, LONGEST).min((self.median / 2.0).max(age));
        Duration::from_secs_f64(wait.max(SHORTEST))
    }

    fn hazard(self, t: f64) -> f64 {
        let z = (t / self.median).ln() / self.sigma;
        let density = (-z * z / 2.0).exp() / (t * self.sigma * std::f64::consts::TAU.sqrt());
        density / upper_tail(z).max(1e-9)
    }
}

/// The standard normal's upper tail (Abramowitz and Stegun 26.2.17, error below 1e-7).
fn upper_tail(z: f64) -> f64 {
    let k = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * k);
    let tail = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum;
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// Spreads the status requests of one provider, so that jobs begun together do not ask together.
#[derive(Debug)]
pub struct Spread {
    gap: Duration,
    booked: Mutex<BTreeSet<Instant>>,
}

impl Spread {
    /// At most one request in every `gap`.
    pub fn new(gap: Duration) -> Self {
        Self { gap, booked: Mutex::default() }
    }

    /// The moment for a request wanted at `at`: ±5 % of the wait, and never in another's gap.
    pub fn slot(&self, now: Instant, wait: Duration) -> Instant {
        let random = RandomState::new().build_hasher().finish();
        let jitter = 0.95 + 0.1 * (random % 1024) as f64 / 1024.0;
        let mut at = now + wait.mul_f64(jitter);
        let mut booked = self.booked.lock();
        *booked = booked.split_off(&now);
        // The first moment with nobody within a gap of it.
        while let Some(near) =
            booked.range(at.checked_sub(self.gap).unwrap_or(at)..at + self.gap).next_back()
        {
            if at >= *near + self.gap {
                break;
            }
            at = *near + self.gap;
        }
        booked.insert(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean delay in seconds and requests per job for jobs of a log-normal length.
    fn simulate(median: f64, sigma: f64) -> (f64, f64) {
        let prior = Prior::default();
        let (mut delay, mut polls, jobs) = (0.0, 0.0, 2000);
        for i in 0..jobs {
            // Quantiles in place of random draws: exact, and the same in every run.
            let p = (f64::from(i) + 0.5) / f64::from(jobs);
            let (mut low, mut high) = (-6.0, 6.0);
            for _ in 0..60 {
                let middle = f64::midpoint(low, high);
                if upper_tail(middle) > 1.0 - p { low = middle } else { high = middle }
            }
            let length = median * (sigma * low).exp();
            let mut age = 0.0;
            while age < length {
                age += prior.wait(Duration::from_secs_f64(age)).as_secs_f64();
                polls += 1.0;
            }
            delay += age - length;
        }
        (delay / f64::from(jobs), polls / f64::from(jobs))
    }

    #[test]
    fn jobs_of_unknown_length_are_noticed_soon_at_few_requests() {
        for (median, sigma) in [(1.0, 0.25), (2.0, 0.25), (2.0, 0.5), (4.0, 0.25), (4.0, 0.5)] {
            let (delay, polls) = simulate(median, sigma);
            assert!(delay <= 0.55, "p50 {median} s, sigma {sigma}: {delay:.3} s");
            assert!(polls <= 5.05, "p50 {median} s, sigma {sigma}: {polls:.2} polls");
        }
    }

    #[test]
    fn waits_stay_within_bounds() {
        for tenth in 0..6000 {
            let wait = Prior::default().wait(Duration::from_millis(tenth * 100));
            assert!(wait >= Duration::from_millis(250) && wait <= Duration::from_secs(15));
        }
    }

    #[test]
    fn the_tail_is_that_of_the_normal_distribution() {
        for (z, tail) in [(0.0, 0.5), (1.0, 0.158_655), (-1.0, 0.841_345), (3.0, 0.001_350)] {
            assert!((upper_tail(z) - tail).abs() < 1e-6, "{z}");
        }
    }

    #[tokio::test]
    async fn requests_wanted_together_go_out_apart() {
        let spread = Spread::new(Duration::from_millis(20));
        let now = Instant::now();
        let mut slots: Vec<Instant> =
            (0..20).map(|_| spread.slot(now, Duration::from_millis(100))).collect();
        slots.sort();
        assert!(slots.windows(2).all(|w| w[1] - w[0] >= Duration::from_millis(20)));
        assert!(spread.slot(now, Duration::from_secs(9)) > now + Duration::from_secs(8));
    }
}
