//! What an operator can watch: counters and histograms for Prometheus.

use std::{sync::atomic::AtomicU64, time::Duration};

use crate::engine::callback::Received;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Labels of a request: the route, not the path, and the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern.
    pub route: String,
    /// The HTTP status.
    pub status: u16,
    /// The error code; empty for success.
    pub code: &'static str,
}

/// Labels of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// `provider/model`.
    pub deployment: String,
    /// `ok`, or what went wrong.
    pub outcome: &'static str,
}

/// Labels of a push.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallbackLabels {
    /// The provider's id; empty for an address that is not ours.
    pub provider: String,
    /// What became of it.
    pub outcome: &'static str,
}

/// Labels of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProviderLabels {
    /// The provider's id.
    pub provider: String,
}

/// What the auditor sees.
#[derive(Clone, Debug, Default)]
pub struct BookMetrics {
    /// Accounts that were found not to equal their transfers.
    pub frozen: Counter,
    /// Attempts of which nobody knows what became of them, of jobs that are over.
    pub unknown: Gauge,
    /// Nano-dollars that providers may bill for them.
    pub suspense: Gauge,
}

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from a request's head to its answer's.
    pub request_seconds: Histogram,
    /// Seconds of that spent in the gateway itself, for calls that reached a provider.
    pub overhead_seconds: Histogram,
    /// Tries of deployments.
    pub attempts: Family<AttemptLabels, Counter>,
    /// Seconds of an attempt that brought pictures.
    pub attempt_seconds: Family<ProviderLabels, Histogram>,
    /// Status requests.
    pub polls: Family<ProviderLabels, Counter>,
    /// Pictures delivered.
    pub pictures: Family<ProviderLabels, Counter>,
    /// Nano-dollars charged for delivered pictures.
    pub charged: Family<ProviderLabels, Counter<u64, AtomicU64>>,
    /// Repeats that joined a job.
    pub joins: Counter,
    /// Jobs that run now.
    pub running: Gauge,
    /// Questions about limits that Redis left unanswered.
    pub limits_degraded: Counter,
    /// What providers pushed.
    pub callbacks: Family<CallbackLabels, Counter>,
    /// What the auditor sees.
    pub books: BookMetrics,
    /// Jobs of another process that this one went on with.
    pub taken_over: Counter,
    /// Times that the store did not take a finished picture.
    pub unkept: Counter,
}

fn seconds() -> Histogram {
    // 1 ms to about two minutes.
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mediagate");
        let metrics = Self {
            requests: Family::default(),
            request_seconds: seconds(),
            overhead_seconds: seconds(),
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(seconds),
            polls: Family::default(),
            pictures: Family::default(),
            charged: Family::default(),
            joins: Counter::default(),
            running: Gauge::default(),
            limits_degraded: Counter::default(),
            callbacks: Family::default(),
            books: BookMetrics::default(),
            taken_over: Counter::default(),
            unkept: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register(
            "request_seconds",
            "Seconds until the head of an answer",
            metrics.request_seconds.clone(),
        );
        registry.register(
            "overhead_seconds",
            "Seconds spent in the gateway itself",
            metrics.overhead_seconds.clone(),
        );
        registry.register("attempts", "Tries of deployments", metrics.attempts.clone());
        registry.register(
            "attempt_seconds",
            "Seconds of attempts that brought pictures",
            metrics.attempt_seconds.clone(),
        );
        registry.register("polls", "Status requests to providers", metrics.polls.clone());
        registry.register("pictures", "Pictures delivered", metrics.pictures.clone());
        registry.register(
            "charged_nanodollars",
            "Billionths of a dollar charged for delivered pictures",
            metrics.charged.clone(),
        );
        registry.register(
            "accounts_frozen",
            "Accounts that were found not to equal their transfers",
            metrics.books.frozen.clone(),
        );
        registry.register(
            "attempts_unknown",
            "Attempts whose outcome nobody knows, of jobs that are over",
            metrics.books.unknown.clone(),
        );
        registry.register(
            "suspense_nanodollars",
            "Billionths of a dollar that providers may bill for attempts whose outcome nobody knows",
            metrics.books.suspense.clone(),
        );
        registry.register("callbacks", "Pushes of providers", metrics.callbacks.clone());
        registry.register(
            "jobs_taken_over",
            "Jobs of another process that this one went on with",
            metrics.taken_over.clone(),
        );
        registry.register(
            "unkept",
            "Times that the store did not take a finished picture",
            metrics.unkept.clone(),
        );
        registry.register("joins", "Repeats that joined a running job", metrics.joins.clone());
        registry.register("jobs_running", "Jobs that run now", metrics.running.clone());
        registry.register(
            "limits_degraded",
            "Questions about limits that Redis left unanswered",
            metrics.limits_degraded.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// The OpenMetrics text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts a push.
    pub fn callback(&self, provider: &str, received: Received) {
        let (provider, outcome) = match received {
            Received::Taken => (provider, "taken"),
            // Anybody can write any name into an address.
            Received::Unknown => ("", "unknown"),
            Received::Forged(why) => (provider, why.name()),
            Received::Later => (provider, "unchecked"),
        };
        let labels = CallbackLabels { provider: provider.to_owned(), outcome };
        self.callbacks.get_or_create(&labels).inc();
    }

    /// Counts an attempt.
    pub fn attempt(&self, deployment: &str, outcome: &'static str, took: Duration) {
        let labels = AttemptLabels { deployment: deployment.to_owned(), outcome };
        self.attempts.get_or_create(&labels).inc();
        if outcome == "ok" {
            let provider = deployment.split('/').next().unwrap_or_default();
            let labels = ProviderLabels { provider: provider.to_owned() };
            self.attempt_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Counts status requests of a provider.
    pub fn polled(&self, provider: &str, times: u64) {
        let labels = ProviderLabels { provider: provider.to_owned() };
        self.polls.get_or_create(&labels).inc_by(times);
    }

    /// Counts delivered pictures and what is charged for them.
    pub fn delivered(&self, provider: &str, pictures: u64, nanos: i64) {
        let labels = ProviderLabels { provider: provider.to_owned() };
        self.pictures.get_or_create(&labels).inc_by(pictures);
        self.charged.get_or_create(&labels).inc_by(u64::try_from(nanos).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.attempt("fal/flux-1-dev", "ok", Duration::from_millis(3));
        metrics.attempt("fal/flux-1-dev", "rate_limited", Duration::ZERO);
        metrics.polled("fal", 3);
        metrics.delivered("fal", 2, 50_000_000);
        metrics.books.unknown.set(2);
        metrics.books.suspense.set(80_000_000);
        let text = metrics.text().unwrap();
        for line in [
            "mediagate_attempts_total{deployment=\"fal/flux-1-dev\",outcome=\"ok\"} 1",
            "mediagate_attempts_total{deployment=\"fal/flux-1-dev\",outcome=\"rate_limited\"} 1",
            "mediagate_attempt_seconds_count{provider=\"fal\"} 1",
            "mediagate_polls_total{provider=\"fal\"} 3",
            "mediagate_pictures_total{provider=\"fal\"} 2",
            "mediagate_charged_nanodollars_total{provider=\"fal\"} 50000000",
            "mediagate_attempts_unknown 2",
            "mediagate_suspense_nanodollars 80000000",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
