//! The attempts of one job: fan-out over calls, failover over deployments.
//!
//! This is the only place that tries again. A submit whose outcome nobody knows is never
//! repeated at the same provider, and elsewhere only within what the operator allows.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use parking_lot::Mutex;
use providers::{
    ImageCall, Usage,
    catalog::Drawn,
    money::{Cost, Money},
};
use tokio::time::{Instant, timeout_at};

use super::{
    Engine,
    candidate::Candidate,
    drive::{Drive, Finished},
    failure::{Class, Failure},
    job::AttemptRecord,
    picture::{self, Ready},
    request::{Adjustment, ImageRequest},
    verdict,
};

/// A rate limit that is over sooner than this is waited out.
const SHORT_LIMIT: Duration = Duration::from_secs(1);

/// When a submit's outcome is unknown, whether another provider may be paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AmbiguityPolicy {
    /// `BoundedFailover` for jobs up to the cap, `Strict` above it.
    #[default]
    Auto,
    /// Never: the caller is told that nobody knows.
    Strict,
    /// Up to the cap.
    BoundedFailover,
}

/// One picture of a job, with what it took.
pub(crate) struct Piece {
    pub(crate) ready: Ready,
    pub(crate) candidate: Arc<Candidate>,
    pub(crate) seed: Option<u64>,
    pub(crate) revised_prompt: Option<String>,
    pub(crate) quality: Option<String>,
}

/// What all attempts of a job have in common.
pub(crate) struct Delivery<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) request: &'a ImageRequest,
    pub(crate) deadline: Instant,
    pub(crate) shared: Mutex<Shared>,
}

/// What the attempts of a job leave behind.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) attempts: Vec<AttemptRecord>,
    pub(crate) cost: Cost,
    pub(crate) usage: Usage,
    pub(crate) adjustments: Vec<Adjustment>,
    pub(crate) upstream: Duration,
    /// When the first of the providers that ask to slow down will take work again.
    pub(crate) retry_after: Option<Duration>,
    /// What was put at risk by going on after an unknown outcome.
    pub(crate) at_risk: Money,
}

/// How many pictures to ask a deployment for, and the seed of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    count: u32,
    seed: Option<u64>,
}

/// Splits a number of pictures into calls of at most `most`; each call has a seed of its own.
fn split(part: Part, most: u32) -> Vec<Part> {
    let most = most.max(1);
    let calls = part.count.div_ceil(most);
    (0..calls)
        .map(|i| Part {
            count: most.min(part.count - i * most),
            seed: part.seed.map(|s| s.wrapping_add(u64::from(i))),
        })
        .collect()
}

impl Delivery<'_> {
    /// Delivers all pictures of the job: one result for each, in order.
    pub(crate) async fn run(&self, candidates: &[Arc<Candidate>]) -> Vec<Result<Piece, Failure>> {
        let part = Part { count: self.request.n, seed: self.request.seed };
        self.deliver(candidates.to_vec(), part, self.engine.settings.max_attempts).await
    }

    fn deliver(
        &self,
        candidates: Vec<Arc<Candidate>>,
        part: Part,
        tries: u32,
    ) -> BoxFuture<'_, Vec<Result<Piece, Failure>>> {
        async move {
            let Some((first, rest)) = candidates.split_first() else { return Vec::new() };
            let calls = split(part, first.served.deployment.n);
            let results = calls.into_iter().map(|call| self.one_call(first, rest, call, tries));
            join_all(results).await.into_iter().flatten().collect()
        }
        .boxed()
    }

    /// One paid call, and whatever takes its place when it fails.
    async fn one_call(
        &self,
        candidate: &Arc<Candidate>,
        rest: &[Arc<Candidate>],
        part: Part,
        tries: u32,
    ) -> Vec<Result<Piece, Failure>> {
        let mut again = true;
        loop {
            let failure = match self.attempt(candidate, part).await {
                Ok(pieces) => return pieces,
                Err(failure) => failure,
            };
            if again {
                again = false;
                match (failure.class, failure.retry_after) {
                    (Class::NotSent, _) => continue,
                    (Class::RateLimited, Some(wait))
                        if wait <= SHORT_LIMIT && Instant::now() + wait < self.deadline =>
                    {
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    _ => {}
                }
            }
            let next = self.next_candidates(candidate, rest, &failure);
            if next.is_empty() || tries <= 1 || !self.may_go_on(candidate, part, &failure) {
                return (0..part.count).map(|_| Err(failure.clone())).collect();
            }
            return self.deliver(next, part, tries - 1).await;
        }
    }

    fn next_candidates(
        &self,
        failed: &Candidate,
        rest: &[Arc<Candidate>],
        failure: &Failure,
    ) -> Vec<Arc<Candidate>> {
        if !failure.fails_over() || self.request.providers.no_fallbacks {
            return Vec::new();
        }
        let provider = &failed.served.deployment.provider;
        // A refused key or an unknown outcome concerns the whole provider.
        let elsewhere = matches!(failure.class, Class::Ambiguous | Class::Operator)
            && failure.outcome != providers::Fault::UnknownModel.name();
        rest.iter()
            .filter(|c| !elsewhere || c.served.deployment.provider != *provider)
            .cloned()
            .collect()
    }

    /// Whether the operator allows paying a second provider after an unknown outcome.
    fn may_go_on(&self, candidate: &Candidate, part: Part, failure: &Failure) -> bool {
        if failure.class != Class::Ambiguous {
            return true;
        }
        let settings = &self.engine.settings;
        if settings.ambiguous == AmbiguityPolicy::Strict {
            return false;
        }
        // The part's share of the cost of all pictures, rounded up.
        let lost = candidate.cost.as_ref().map_or(Money::MAX, |cost| {
            let n = i128::from(self.request.n.max(1));
            let share = i128::from(cost.total().nanos()) * i128::from(part.count);
            let share = (share + n - 1).div_euclid(n);
            i64::try_from(share).map_or(Money::MAX, Money::from_nanos)
        });
        let mut shared = self.shared.lock();
        match shared.at_risk.checked_add(lost) {
            Some(total) if total <= settings.ambiguous_job_cap => {
                shared.at_risk = total;
                true
            }
            _ => false,
        }
    }

    /// One attempt. `Err` is a failure of the whole call; single pictures may fail within `Ok`.
    async fn attempt(
        &self,
        candidate: &Arc<Candidate>,
        part: Part,
    ) -> Result<Vec<Result<Piece, Failure>>, Failure> {
        let image = ImageCall { n: part.count, seed: part.seed, ..candidate.call.clone() };
        let begun = Instant::now();
        let engine = self.engine;
        let mut drive = Drive::new(
            &engine.transport,
            &engine.fetcher,
            &candidate.served,
            &image,
            self.deadline,
            engine.settings.pictures,
        );
        let driven = drive.run().await;
        let upstream = drive.upstream;
        let result = match driven {
            Ok(finished) => {
                let accepted = self.accept(candidate, part, finished);
                let in_time = timeout_at(self.deadline, accepted).await;
                in_time.unwrap_or_else(|_| Err(Failure::deadline()))
            }
            Err(failure) => Err(failure),
        };
        let outcome = match &result {
            Ok(_) => "ok",
            Err(failure) => failure.outcome,
        };
        let slug = candidate.served.slug();
        engine.metrics.attempt(&slug, outcome, begun.elapsed());
        engine.metrics.polled(&candidate.served.deployment.provider, drive.polls);
        let record = AttemptRecord {
            deployment: slug,
            outcome,
            ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        if let Err(failure) = &result {
            // Not the message: providers like to quote the prompt.
            tracing::warn!(
                deployment = record.deployment,
                outcome,
                ms = record.ms,
                param = failure.param,
                "attempt failed"
            );
        }
        let limit = result.as_ref().err().filter(|f| f.class == Class::RateLimited);
        let mut shared = self.shared.lock();
        if let Some(wait) = limit.and_then(|f| f.retry_after) {
            shared.retry_after = Some(shared.retry_after.map_or(wait, |known| known.min(wait)));
        }
        shared.upstream = shared.upstream.max(upstream);
        shared.attempts.push(record);
        result
    }

    /// Makes what was asked of what came, and counts what it costs.
    async fn accept(
        &self,
        candidate: &Arc<Candidate>,
        part: Part,
        finished: Finished,
    ) -> Result<Vec<Result<Piece, Failure>>, Failure> {
        let Finished { pictures, output } = finished;
        // More than was asked is the provider's gift, not a charge.
        let pictures = pictures.into_iter().take(part.count as usize);
        let limits = self.engine.settings.pictures;
        let quality = output.quality.clone().or_else(|| candidate.call.quality.clone());
        let prepared = pictures.map(|(picture, blob)| {
            let quality = quality.clone();
            async move {
                if picture.withheld {
                    let message = "the provider withheld the picture for its content";
                    return Err(Failure::new(Class::Moderated, "moderated", message));
                }
                let (pool, budget) = (&self.engine.pool, self.engine.transport.budget());
                let ready = picture::prepare(blob?, candidate, self.request, pool, budget, limits);
                Ok(Piece {
                    ready: ready.await?,
                    candidate: Arc::clone(candidate),
                    seed: picture.seed.or(part.seed.filter(|_| part.count == 1)),
                    revised_prompt: picture.revised_prompt,
                    quality,
                })
            }
        });
        let mut pieces: Vec<Result<Piece, Failure>> = join_all(prepared).await;
        if pieces.iter().all(Result::is_err) {
            let failures = pieces.into_iter().filter_map(Result::err);
            let none = || Failure::new(Class::Failed, "empty_reply", "there is no picture");
            return Err(failures.min_by_key(verdict::rank).unwrap_or_else(none));
        }
        while pieces.len() < part.count as usize {
            let message = "the provider delivered fewer pictures than were asked for";
            pieces.push(Err(Failure::new(Class::Failed, "missing_picture", message)));
        }
        let usage = share(&output.usage, &pieces, output.pictures.len());
        self.charge(candidate, &pieces, &usage, quality.as_deref());
        Ok(pieces)
    }

    fn charge(
        &self,
        candidate: &Candidate,
        pieces: &[Result<Piece, Failure>],
        usage: &Usage,
        quality: Option<&str>,
    ) {
        let quality = quality.filter(|q| *q != "auto");
        let drawn: Vec<Drawn<'_>> = pieces
            .iter()
            .flatten()
            .map(|p| Drawn { size: p.ready.drawn, quality, tier: candidate.tier() })
            .collect();
        let mut shared = self.shared.lock();
        let cost = candidate.served.deployment.cost(&drawn, usage);
        let provider = &candidate.served.deployment.provider;
        let nanos = cost.as_ref().map_or(0, |c| c.total().nanos());
        self.engine.metrics.delivered(provider, drawn.len() as u64, nanos);
        if let Some(cost) = cost {
            shared.cost.merge(cost);
        }
        let add = |sum: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or(0).saturating_add(more));
            }
        };
        add(&mut shared.usage.text_input_tokens, usage.text_input_tokens);
        add(&mut shared.usage.image_input_tokens, usage.image_input_tokens);
        add(&mut shared.usage.text_output_tokens, usage.text_output_tokens);
        add(&mut shared.usage.image_output_tokens, usage.image_output_tokens);
        let mut known: BTreeSet<(&str, super::request::AdjustmentKind)> =
            shared.adjustments.iter().map(|a| (a.param.as_ref(), a.kind)).collect();
        let mut new = Vec::new();
        let made = pieces.iter().flatten().flat_map(|p| &p.ready.adjustments);
        // What was planned for the pixels and the format is told by the pictures that came: a
        // provider does not always draw what it was asked for.
        let planned = candidate.adjustments.iter().filter(|a| !a.is_of_the_picture());
        for adjustment in planned.chain(made) {
            let told =
                self.request.verbose || adjustment.kind != super::request::AdjustmentKind::Renamed;
            if told && known.insert((adjustment.param.as_ref(), adjustment.kind)) {
                new.push(adjustment.clone());
            }
        }
        shared.adjustments.extend(new);
    }
}

/// What is charged of the tokens a provider counted: of those it drew with, the share of the
/// pictures that were delivered.
fn share(usage: &Usage, pieces: &[Result<Piece, Failure>], drawn: usize) -> Usage {
    let delivered = pieces.iter().flatten().count() as u64;
    let drawn = (drawn as u64).max(1);
    let part = |tokens: u64| tokens.saturating_mul(delivered.min(drawn)) / drawn;
    Usage {
        image_output_tokens: usage.image_output_tokens.map(part),
        text_output_tokens: usage.text_output_tokens.map(part),
        ..*usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_split_over_calls_with_seeds_in_a_row() {
        let parts = |count, seed, most| {
            split(Part { count, seed }, most)
                .into_iter()
                .map(|p| (p.count, p.seed))
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(1, Some(7), 1), [(1, Some(7))]);
        assert_eq!(parts(3, Some(7), 1), [(1, Some(7)), (1, Some(8)), (1, Some(9))]);
        assert_eq!(parts(10, None, 4), [(4, None), (4, None), (2, None)]);
        assert_eq!(parts(4, Some(1), 10), [(4, Some(1))]);
        assert_eq!(parts(2, Some(u64::MAX), 1), [(1, Some(u64::MAX)), (1, Some(0))]);
    }
}
