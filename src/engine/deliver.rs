//! The attempts of one job: fan-out over calls, failover over deployments.
//!
//! This is the only place that tries again. A submit whose outcome nobody knows is never
//! repeated at the same provider, and elsewhere only within what the operator allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

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
    drive::{Drive, Finished, Start},
    failure::{Class, Failure},
    given::{self, Prepared},
    job::{AttemptRecord, Job, Share},
    log::Log,
    picture::{self, Ready},
    request::{Adjustment, ImageRequest},
    verdict,
};
use crate::{
    db::Durability,
    jobs::{AttemptRow, AttemptState},
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
    pub(crate) job: &'a Arc<Job>,
    pub(crate) request: &'a ImageRequest,
    /// How many attempts another process wrote down: those may have been sent.
    pub(crate) restored: usize,
    pub(crate) deadline: Instant,
    pub(crate) shared: Mutex<Shared>,
    /// The request's pictures, by the deployment that takes them so.
    pub(crate) prepared: tokio::sync::Mutex<BTreeMap<String, Arc<Prepared>>>,
}

/// What the attempts of a job leave behind.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) attempts: Vec<AttemptRecord>,
    pub(crate) shares: Vec<Share>,
    pub(crate) usage: Usage,
    pub(crate) adjustments: Vec<Adjustment>,
    pub(crate) upstream: Duration,
    /// When the first of the providers that ask to slow down will take work again.
    pub(crate) retry_after: Option<Duration>,
    /// What was put at risk by going on after an unknown outcome.
    pub(crate) at_risk: Money,
}

/// Which pictures of a job to ask a deployment for, and the seed of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) seed: Option<u64>,
}

/// What became of a part: one result for each picture.
type Parcel = (Part, Vec<Result<Piece, Failure>>);

/// Splits a number of pictures into calls of at most `most`; each call has a seed of its own.
pub(crate) fn split(part: Part, most: u32) -> Vec<Part> {
    let most = most.max(1);
    let calls = part.count.div_ceil(most);
    (0..calls)
        .map(|i| Part {
            first: part.first + i * most,
            count: most.min(part.count - i * most),
            seed: part.seed.map(|s| s.wrapping_add(u64::from(i))),
        })
        .collect()
}

/// A submit of one part to one deployment, not yet written down anywhere.
pub(crate) fn attempt_row(job: &str, candidate: &Candidate, part: Part, n: u32) -> AttemptRow {
    AttemptRow {
        job: job.to_owned(),
        number: 0,
        deployment: candidate.served.slug(),
        provider: candidate.served.deployment.provider.clone(),
        credential: candidate.served.credential.clone(),
        first: part.first,
        count: part.count,
        seed: part.seed,
        state: AttemptState::Intent,
        outcome: None,
        sent_at: super::millis::now(),
        ms: None,
        expected: expected(candidate, part.count, n).map(Money::nanos),
        billed: None,
        remote: None,
        output: None,
    }
}

/// The part's share of what all pictures cost at a deployment, rounded up.
fn expected(candidate: &Candidate, count: u32, n: u32) -> Option<Money> {
    if !candidate.served.is_operators() {
        // What a project pays its provider is none of the operator's money.
        return None;
    }
    let n = i128::from(n.max(1));
    let share = i128::from(candidate.cost.as_ref()?.total().nanos()) * i128::from(count);
    i64::try_from((share + n - 1).div_euclid(n)).ok().map(Money::from_nanos)
}

impl Delivery<'_> {
    /// Delivers all pictures of the job, one result for each, in order: goes on with the attempts
    /// that are written down, and begins anew where all of them have ended.
    pub(crate) async fn run(&self, candidates: &[Arc<Candidate>]) -> Vec<Result<Piece, Failure>> {
        let attempts = self.job.attempts();
        let tries = self.engine.settings.max_attempts;
        let mut calls: Vec<BoxFuture<'_, Vec<Parcel>>> = Vec::new();
        let mut covered = vec![false; self.request.n as usize];
        for row in attempts.iter().filter(|row| row.state.is_live()) {
            let part = Part { first: row.first, count: row.count, seed: row.seed };
            for index in part.first..part.first + part.count {
                if let Some(slot) = covered.get_mut(index as usize) {
                    *slot = true;
                }
            }
            let found = candidates.iter().position(|c| c.served.slug() == row.deployment);
            // Under another key the provider does not know the job.
            let found = found.filter(|at| candidates[*at].served.credential == row.credential);
            let Some(at) = found else {
                let unserved = self.unserved(row, part);
                calls.push(std::future::ready(unserved).boxed());
                continue;
            };
            let rest = &candidates[at + 1..];
            calls
                .push(self.one_call(&candidates[at], rest, part, tries, Some(row.clone())).boxed());
        }
        // Every try of these has ended, and the process ended before the next one.
        for index in (0..self.request.n).filter(|index| !covered[*index as usize]) {
            let about = |row: &&AttemptRow| (row.first..row.first + row.count).contains(&index);
            let tried: Vec<&AttemptRow> = attempts.iter().filter(about).collect();
            let untried =
                |c: &&Arc<Candidate>| !tried.iter().any(|row| row.deployment == c.served.slug());
            let rest: Vec<Arc<Candidate>> = candidates.iter().filter(untried).cloned().collect();
            let seed = self.request.seed.map(|seed| seed.wrapping_add(u64::from(index)));
            let part = Part { first: index, count: 1, seed };
            let left = tries.saturating_sub(tried.len() as u32).max(1);
            calls.push(self.deliver(rest, part, left));
        }
        let mut parcels: Vec<Parcel> = join_all(calls).await.into_iter().flatten().collect();
        parcels.sort_by_key(|(part, _)| part.first);
        parcels.into_iter().flat_map(|(_, results)| results).collect()
    }

    /// An attempt of a deployment that is not served any more.
    fn unserved(&self, row: &AttemptRow, part: Part) -> Vec<Parcel> {
        let message = "the deployment that took the job is not configured any more";
        let failure = Failure::new(Class::ResultLost, "result_lost", message);
        self.job.change_attempt(row.number, |row| row.state = AttemptState::Unknown);
        vec![(part, (0..part.count).map(|_| Err(failure.clone())).collect())]
    }

    fn deliver(
        &self,
        candidates: Vec<Arc<Candidate>>,
        part: Part,
        tries: u32,
    ) -> BoxFuture<'_, Vec<Parcel>> {
        async move {
            let Some((first, rest)) = candidates.split_first() else {
                let none = || {
                    let message = "no other deployment can be tried";
                    Err(Failure::new(Class::Unavailable, "none_left", message))
                };
                return vec![(part, (0..part.count).map(|_| none()).collect())];
            };
            let calls = split(part, first.served.deployment.n);
            let results =
                calls.into_iter().map(|call| self.one_call(first, rest, call, tries, None));
            join_all(results).await.into_iter().flatten().collect()
        }
        .boxed()
    }

    /// One paid call, and whatever takes its place when it fails. `written` is its submit, where
    /// that is written down already.
    async fn one_call(
        &self,
        candidate: &Arc<Candidate>,
        rest: &[Arc<Candidate>],
        part: Part,
        tries: u32,
        written: Option<AttemptRow>,
    ) -> Vec<Parcel> {
        let every = |failure: &Failure| {
            vec![(part, (0..part.count).map(|_| Err(failure.clone())).collect())]
        };
        let mut row = match written {
            Some(row) => row,
            None => match self.intend(candidate, part).await {
                Ok(row) => row,
                Err(failure) => return every(&failure),
            },
        };
        let mut again = true;
        loop {
            let failure = match self.attempt(candidate, part, &row).await {
                Ok(pieces) => return vec![(part, pieces)],
                Err(failure) => failure,
            };
            if self.job.cancel.is_cancelled() && failure.fails_over() {
                // Its owner wants no more of it. What may run at a provider is still told.
                let cancelled = Failure::cancelled();
                return every(if failure.class == Class::Ambiguous {
                    &failure
                } else {
                    &cancelled
                });
            }
            if again {
                again = false;
                let wait = match (failure.class, failure.retry_after) {
                    (Class::NotSent, _) => Some(Duration::ZERO),
                    (Class::RateLimited, Some(wait))
                        if wait <= SHORT_LIMIT && Instant::now() + wait < self.deadline =>
                    {
                        Some(wait)
                    }
                    _ => None,
                };
                if let Some(wait) = wait {
                    tokio::time::sleep(wait).await;
                    row = match self.intend(candidate, part).await {
                        Ok(row) => row,
                        Err(failure) => return every(&failure),
                    };
                    continue;
                }
            }
            let next = self.next_candidates(candidate, rest, &failure);
            if next.is_empty() || tries <= 1 || !self.may_go_on(candidate, part, &failure) {
                return every(&failure);
            }
            return self.deliver(next, part, tries - 1).await;
        }
    }

    /// Writes a submit down before it is sent.
    async fn intend(&self, candidate: &Candidate, part: Part) -> Result<AttemptRow, Failure> {
        if self.job.cancel.is_cancelled() {
            return Err(Failure::cancelled());
        }
        if candidate.served.adapter.is_queue() {
            self.job.raise_durability(Durability::Full);
        }
        let row = attempt_row(&self.job.id, candidate, part, self.request.n);
        self.engine.intend(self.job, row).await.ok_or_else(Failure::unwritten)
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
        // A project's own money is not ours to risk, and not ours to guess either.
        let lost = expected(candidate, part.count, self.request.n).unwrap_or(Money::MAX);
        let mut shared = self.shared.lock();
        match shared.at_risk.checked_add(lost) {
            Some(total) if total <= settings.ambiguous_job_cap && self.engine.risk.take(lost) => {
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
        row: &AttemptRow,
    ) -> Result<Vec<Result<Piece, Failure>>, Failure> {
        let prepared = timeout_at(self.deadline, self.prepared(candidate, row)).await;
        let prepared = prepared.unwrap_or_else(|_| Err(Failure::deadline()));
        let (prepared, unprepared) = match prepared {
            Ok(prepared) => (prepared, None),
            Err(failure) => (Arc::default(), Some(failure)),
        };
        let image = ImageCall {
            n: part.count,
            seed: part.seed,
            images: prepared.images.clone(),
            mask: prepared.mask.clone(),
            ..candidate.call.clone()
        };
        let begun = Instant::now();
        let engine = self.engine;
        let log = Log { engine, job: self.job, number: row.number };
        let mut drive = Drive::new(
            engine,
            &log,
            &candidate.served,
            &image,
            &prepared.inputs,
            picture::most_pixels(candidate, engine.settings.pictures),
            self.deadline,
        );
        let driven = match self.start(row) {
            _ if unprepared.is_some() => Err(unprepared.unwrap_or_else(Failure::unwritten)),
            // A process that does not know whether the job is still its own must not buy.
            Start::Submit if !engine.lease.is_safe(self.job.begun) => Err(Failure::unwritten()),
            start => drive.run(start).await,
        };
        let upstream = drive.upstream;
        let result = match driven {
            Ok(finished) => {
                let accepted = self.accept(row, candidate, part, finished);
                let in_time = timeout_at(self.deadline, accepted).await;
                // Made and paid: late is lost.
                in_time.unwrap_or_else(|_| {
                    let message = "the picture could not be finished in time";
                    Err(Failure::new(Class::ResultLost, "result_lost", message))
                })
            }
            Err(failure) => Err(failure),
        };
        let outcome = match &result {
            Ok(_) => "ok",
            Err(failure) => failure.outcome,
        };
        self.job.change_attempt(row.number, |row| {
            row.state = match &result {
                Ok(_) => AttemptState::Delivered,
                Err(f) if f.class == Class::Ambiguous || f.owed => AttemptState::Unknown,
                Err(_) => AttemptState::Failed,
            };
            if matches!(&result, Err(f) if f.class == Class::ResultLost) {
                // Made, and not to be had: it is billed all the same.
                row.billed = row.billed.or(row.expected);
            }
            row.outcome = Some(outcome.to_owned());
            row.ms = Some(i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX));
        });
        let slug = candidate.served.slug();
        engine.metrics.attempt(&slug, outcome, begun.elapsed());
        engine.metrics.polled(&candidate.served.deployment.provider, drive.polls);
        let record = AttemptRecord {
            deployment: slug,
            outcome: outcome.into(),
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

    /// The request's pictures as the candidate takes them; made once for all its calls.
    async fn prepared(
        &self,
        candidate: &Candidate,
        row: &AttemptRow,
    ) -> Result<Arc<Prepared>, Failure> {
        if self.request.given.is_empty() || !matches!(self.start(row), Start::Submit) {
            return Ok(Arc::default());
        }
        let slug = candidate.served.slug();
        let mut known = self.prepared.lock().await;
        if let Some(prepared) = known.get(&slug) {
            return Ok(Arc::clone(prepared));
        }
        let made = given::prepare(self.engine, self.job, self.request, candidate).await?;
        Ok(Arc::clone(known.entry(slug).or_insert(Arc::new(made))))
    }

    /// How an attempt begins that is written down like this.
    fn start(&self, row: &AttemptRow) -> Start {
        let (engine, job) = (self.engine, self.job);
        match row.state {
            AttemptState::Produced => {
                let output = engine.unseal("attempt.output", &job.id, row.output.as_deref());
                output.map_or(Start::Lost, Start::Produced)
            }
            AttemptState::Accepted => {
                let remote = engine.unseal("attempt.remote", &job.id, row.remote.as_deref());
                remote.map_or(Start::Lost, Start::Accepted)
            }
            _ if row.number < self.restored as i64 => Start::Lost,
            _ => Start::Submit,
        }
    }

    /// Makes what was asked of what came, and counts what it costs.
    async fn accept(
        &self,
        row: &AttemptRow,
        candidate: &Arc<Candidate>,
        part: Part,
        finished: Finished,
    ) -> Result<Vec<Result<Piece, Failure>>, Failure> {
        let Finished { pictures, output } = finished;
        if candidate.served.is_operators() {
            // Whatever becomes of the pictures, this is what they cost.
            let billed = output.usage.billed;
            self.job.change_attempt(row.number, |row| {
                row.billed = billed.map(Money::nanos).or(row.billed);
            });
        }
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
                // Made and paid, whatever stands in the way of handing it over.
                let lost = |failure: Failure| match failure.class {
                    Class::Rejected | Class::Gateway | Class::Unwritten => {
                        Failure { class: Class::ResultLost, outcome: "result_lost", ..failure }
                    }
                    _ => failure,
                };
                Ok(Piece {
                    ready: ready.await.map_err(lost)?,
                    candidate: Arc::clone(candidate),
                    seed: picture.seed.or(part.seed.filter(|_| part.count == 1)),
                    revised_prompt: picture.revised_prompt,
                    quality,
                })
            }
        });
        let mut pieces: Vec<Result<Piece, Failure>> = join_all(prepared).await;
        self.expect(row, candidate, &pieces, &output.usage);
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
        self.charge(candidate, &pieces, &usage, quality.as_deref())?;
        Ok(pieces)
    }

    /// What the provider is owed by our price list for what it made, delivered or not, now that
    /// its tokens are counted.
    fn expect(
        &self,
        row: &AttemptRow,
        candidate: &Candidate,
        pieces: &[Result<Piece, Failure>],
        usage: &Usage,
    ) {
        let quality = candidate.call.quality.as_deref().filter(|q| *q != "auto");
        let planned = candidate.size.expected;
        let drawn: Option<Vec<Drawn<'_>>> = pieces
            .iter()
            .map(|piece| {
                let size = piece.as_ref().ok().map(|piece| piece.ready.drawn).or(planned)?;
                Some(Drawn { size, quality, tier: candidate.tier(), from: candidate.from })
            })
            .collect();
        let cost = drawn.and_then(|drawn| candidate.served.deployment.cost(&drawn, usage));
        if let Some(cost) = cost.filter(|_| candidate.served.is_operators()) {
            self.job.change_attempt(row.number, |row| row.expected = Some(cost.total().nanos()));
        }
    }

    fn charge(
        &self,
        candidate: &Candidate,
        pieces: &[Result<Piece, Failure>],
        usage: &Usage,
        quality: Option<&str>,
    ) -> Result<(), Failure> {
        let quality = quality.filter(|q| *q != "auto");
        let drawn: Vec<Drawn<'_>> = pieces
            .iter()
            .flatten()
            .map(|p| Drawn {
                size: p.ready.drawn,
                quality,
                tier: candidate.tier(),
                from: candidate.from,
            })
            .collect();
        let operators = candidate.served.is_operators();
        let cost = match candidate.served.deployment.cost(&drawn, usage) {
            // Its project pays the provider.
            Some(_) if !operators => Some(Cost::default()),
            cost => cost,
        };
        let markup = self.engine.settings.markup_bp;
        let cost =
            cost.map(|cost| cost.with_markup(markup).ok_or_else(beyond_count)).transpose()?;
        let provider = &candidate.served.deployment.provider;
        let nanos = cost.as_ref().map_or(0, |c| c.total().nanos());
        self.engine.metrics.delivered(provider, drawn.len() as u64, nanos);
        let mut shared = self.shared.lock();
        let pictures = drawn.len() as u32;
        match shared.shares.iter_mut().find(|share| share.provider == *provider) {
            Some(share) => {
                share.pictures += pictures;
                match (&mut share.cost, cost) {
                    (Some(known), Some(cost)) => known.merge(cost).ok_or_else(beyond_count)?,
                    (known, cost) => *known = known.take().or(cost),
                }
            }
            None => shared.shares.push(Share { provider: provider.clone(), pictures, cost }),
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
        Ok(())
    }
}

fn beyond_count() -> Failure {
    Failure::new(Class::Gateway, "beyond_count", "the cost is more than can be counted")
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
            let parts = split(Part { first: 5, count, seed }, most);
            let ends = parts.iter().map(|p| p.first + p.count);
            let begins = parts.iter().map(|p| p.first);
            assert!(begins.skip(1).eq(ends.take(parts.len() - 1)), "a gap between {parts:?}");
            parts.into_iter().map(|p| (p.count, p.seed)).collect::<Vec<_>>()
        };
        assert_eq!(parts(1, Some(7), 1), [(1, Some(7))]);
        assert_eq!(parts(3, Some(7), 1), [(1, Some(7)), (1, Some(8)), (1, Some(9))]);
        assert_eq!(parts(10, None, 4), [(4, None), (4, None), (2, None)]);
        assert_eq!(parts(4, Some(1), 10), [(4, Some(1))]);
        assert_eq!(parts(2, Some(u64::MAX), 1), [(1, Some(u64::MAX)), (1, Some(0))]);
    }
}
