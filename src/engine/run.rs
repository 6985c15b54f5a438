//! From a plan to a job that runs: what it may come to is held, it is written down, and only
//! then anything is sent.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use providers::money::{Cost, Money};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Engine, JobDurability, Plan,
    candidate::Candidate,
    deliver::{Delivery, Part, Piece, attempt_row, split},
    failure::Failure,
    hold,
    job::{Delivered, Job, NewJob, Success, Watch},
    millis,
    repeat::mismatch,
    request::ImageRequest,
    verdict::{self, Risk},
};
use crate::{
    crash::{Point, point},
    db::Durability,
    error::{Code, Error},
    jobs::{
        Act, Denied, DeskError, Done, JobRow, JobState,
        act::{KeyAsk, Open},
    },
    ledger::{self, Refusal, USD},
    limit::Permit,
    tenant::Grant,
};

/// Jobs that may run at once; more are turned away before anything is paid.
const MOST_RUNNING: usize = 4096;
/// From this price on records outlive the machine's power.
const DEAR: Money = Money::from_nanos(100_000_000);
/// How long a job that was taken over may take beyond its deadline.
const GRACE: Duration = Duration::from_secs(30);
/// When a caller is to come back whose request could not be written down.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// Who asks, and under which names.
#[derive(Debug)]
pub struct Asked {
    /// Who.
    pub grant: Arc<Grant>,
    /// The request's id.
    pub request_id: String,
    /// SHA-256 of what was asked.
    pub fingerprint: [u8; 32],
    /// SHA-256 of key, route and `Idempotency-Key`, in hex.
    pub idempotency: Option<String>,
    /// Its place among the key's jobs, given back when the job is over.
    pub permit: Option<Permit>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Opened {
    /// A new job, and the caller's place in its row.
    New(Arc<Job>, Watch),
    /// Its `Idempotency-Key` was used before, for this job.
    Known(String),
}

/// What is kept of a request, sealed, so that another process can go on with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Payload {
    pub(super) request: ImageRequest,
}

impl Engine {
    /// Opens a planned job: holds what it may come to, writes it down, and starts it. It goes on
    /// when the caller hangs up.
    pub async fn open(
        self: &Arc<Self>,
        mut plan: Plan,
        request: ImageRequest,
        asked: Asked,
    ) -> Result<Opened, Error> {
        self.use_own_keys(&mut plan, &asked.grant.project);
        if self.tasks.len() >= MOST_RUNNING {
            let message = format!("{MOST_RUNNING} jobs run already; come back in a moment");
            return Err(
                Error::new(Code::Overloaded, message).retry_after(Some(Duration::from_secs(2)))
            );
        }
        let first = plan.candidates.first().ok_or_else(|| {
            let message = "this project's own key for the provider cannot be used; bring it again";
            Error::new(Code::NoProviderAvailable, message)
        })?;
        let simulated = plan.candidates.iter().all(|c| c.served.simulated);
        let most = hold::most(&plan, &request, self.settings.markup_bp)
            .ok_or_else(|| Error::invalid("n", "the price of this call is beyond counting"))?;
        let durability = self.durability(first, &most);
        let held = Money::from_nanos(most.get(USD).copied().unwrap_or(0));
        let job = Job::new(&NewJob {
            grant: &asked.grant,
            task: request.task,
            model: &plan.model,
            request_id: &asked.request_id,
            prompt: &request.prompt,
            fingerprint: asked.fingerprint,
            deadline: self.settings.deadline,
            held,
            simulated,
            durability,
        });
        let part = Part { first: 0, count: request.n, seed: request.seed };
        for part in split(part, first.served.deployment.n) {
            job.add_attempt(attempt_row(&job.id, first, part, request.n));
        }
        let now = millis::of(job.created_at);
        let user = request.user.as_deref();
        // A simulated picture costs nothing, so nothing is held.
        let chain =
            if simulated { Vec::new() } else { hold::chain(&asked.grant, user, &most, now) };
        let open = Open {
            job: self.row(&job, &request),
            chain,
            attempts: job.attempts(),
            key: asked.idempotency.map(|id| KeyAsk { id, expires_at: now + self.retention_ms() }),
        };
        let watch = job.watch();
        point(Point::BeforeOpen);
        let written =
            self.desk.write(&asked.grant.org, Act::Open(Box::new(open)), durability).await;
        match written {
            Ok(Done::Known(id)) => return Ok(Opened::Known(id)),
            Ok(_) => {}
            Err(error) => {
                if matches!(error, DeskError::Unavailable(_)) {
                    // It may be written all the same; nothing is sent for it.
                    self.unanswered.lock().insert(job.id.clone());
                }
                return Err(refused(&asked.grant, error));
            }
        }
        point(Point::AfterOpen);
        self.jobs.add(&job);
        self.start(plan, request, Arc::clone(&job), 0, asked.permit);
        Ok(Opened::New(job, watch))
    }

    fn durability(&self, first: &Candidate, most: &ledger::book::Measured) -> Durability {
        match self.settings.durability {
            JobDurability::Full => Durability::Full,
            JobDurability::Process => Durability::Process,
            JobDurability::Auto => {
                let dear = most.get(USD).is_some_and(|nanos| *nanos > DEAR.nanos());
                let full = dear || first.served.adapter.is_queue();
                if full { Durability::Full } else { Durability::Process }
            }
        }
    }

    /// How long a finished job is kept, in milliseconds.
    pub(super) fn retention_ms(&self) -> i64 {
        i64::try_from(self.settings.retention.as_millis()).unwrap_or(i64::MAX / 2)
    }

    fn row(&self, job: &Job, request: &ImageRequest) -> JobRow {
        let created_at = millis::of(job.created_at);
        let deadline_at = millis::of(job.deadline_at);
        let mut labels = request.labels.clone();
        if let Some(user) = &request.user {
            labels.insert("user".to_owned(), user.clone());
        }
        let payload = Payload { request: request.clone() };
        JobRow {
            id: job.id.clone(),
            org: job.grant.org.clone(),
            project: job.grant.project.clone(),
            api_key: job.grant.key_id.clone(),
            task: job.task.clone(),
            model: job.model.clone(),
            state: JobState::Running,
            request_id: job.request_id.clone(),
            fingerprint: job.fingerprint.clone(),
            created_at,
            deadline_at,
            finished_at: None,
            expires_at: deadline_at.saturating_add(self.retention_ms()),
            owner: self.lease.owner.clone(),
            epoch: job.epoch,
            lease_until: self.lease.end(),
            legs: Vec::new(),
            settled: false,
            charge: None,
            abandoned: false,
            cancel_asked: false,
            simulated: job.simulated,
            labels,
            error_code: None,
            payload: Some(self.seal("job.payload", &job.id, &payload)),
            result: None,
        }
    }

    /// Runs a job to its end, whoever waits for it. `restored` attempts were written down by
    /// another process.
    pub(super) fn start(
        self: &Arc<Self>,
        plan: Plan,
        request: ImageRequest,
        job: Arc<Job>,
        restored: usize,
        permit: Option<Permit>,
    ) {
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            engine.metrics.running.inc();
            let running = AssertUnwindSafe(engine.run(&plan, &request, &job, restored));
            let outcome = running.catch_unwind().await;
            engine.metrics.running.dec();
            let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("a job panicked")));
            drop(permit);
            let concluded = AssertUnwindSafe(engine.conclude(&job, outcome)).catch_unwind().await;
            if concluded.is_err() {
                // Whoever waits is told, and the job is found without a driver and taken up again.
                tracing::error!(job = job.id, "the end of a job panicked");
                engine.jobs.remove(&job.id);
                job.finish(Err(Arc::new(Error::internal("the end of a job panicked"))));
            }
        });
    }

    async fn run(
        &self,
        plan: &Plan,
        request: &ImageRequest,
        job: &Arc<Job>,
        restored: usize,
    ) -> Result<Success, Error> {
        let left = job.deadline_at.duration_since(std::time::SystemTime::now());
        let mut left = left.unwrap_or_default().min(self.settings.deadline);
        if restored > 0 {
            // What is ready by now is fetched, though the job is late by a crash.
            left = left.max(GRACE);
        }
        let delivery = Delivery {
            engine: self,
            job,
            request,
            restored,
            deadline: Instant::now() + left,
            shared: Mutex::default(),
            prepared: tokio::sync::Mutex::default(),
        };
        let results = delivery.run(&plan.candidates).await;
        let shared = delivery.shared.into_inner();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut failures: Vec<(usize, Failure)> = Vec::new();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(piece) => pieces.push(piece),
                Err(failure) => failures.push((index, failure)),
            }
        }
        let attempts = shared.attempts;
        if pieces.is_empty() || (request.require_all && !failures.is_empty()) {
            let failures: Vec<Failure> = failures.into_iter().map(|(_, f)| f).collect();
            let risk = Risk { paid: !pieces.is_empty(), unknown: shared.at_risk > Money::ZERO };
            return Err(verdict::error(&failures, &attempts, shared.retry_after, risk, &job.id));
        }
        let first = &pieces[0].candidate.served;
        let mut shares = shared.shares;
        let mut left = job.held;
        let mut cost: Option<Cost> = None;
        for share in &mut shares {
            let Some(own) = share.cost.take() else { continue };
            // What was held is the most a client was told that it may pay.
            let own = if job.simulated { own } else { hold::capped(own, left) };
            left = Money::from_nanos(left.nanos() - own.total().nanos().min(left.nanos()));
            cost.get_or_insert_default().lines.extend(own.lines.iter().cloned());
            share.cost = Some(own);
        }
        Ok(Success {
            model: first.deployment.model.clone(),
            provider: first.deployment.provider.clone(),
            deployment: first.slug(),
            failures: failures.iter().map(|(i, f)| verdict::missing(*i, f)).collect(),
            attempts,
            adjustments: shared.adjustments,
            cost,
            shares,
            quality: pieces[0].quality.clone(),
            background: request.background.clone(),
            parameters: request.parameters(),
            wants_url: request.wants_url,
            simulated: first.simulated,
            usage: shared.usage,
            upstream: shared.upstream,
            pictures: pieces.into_iter().map(delivered).collect(),
        })
    }
}

fn delivered(piece: Piece) -> Delivered {
    let ready = piece.ready;
    Delivered {
        bytes: ready.blob.media_len(),
        blob: Some(ready.blob),
        kept: None,
        format: ready.format,
        size: ready.size,
        sha256: ready.sha256,
        seed: piece.seed,
        revised_prompt: piece.revised_prompt,
        c2pa: ready.c2pa,
    }
}

/// What a caller is told whose job could not be opened.
fn refused(grant: &Grant, error: DeskError) -> Error {
    let denied = match error {
        DeskError::Unavailable(source) => {
            let message = "the database does not answer, so nothing was sent; try again shortly";
            return Error::new(Code::StoreUnavailable, message)
                .retry_after(Some(STORE_PAUSE))
                .because(source);
        }
        DeskError::Denied(denied) => denied,
    };
    match denied {
        Denied::Mismatch => mismatch(),
        Denied::Ledger(Refusal::Exceeded { account, unit, asked, left }) => {
            exceeded(grant, &account, &unit, asked, left)
        }
        Denied::Ledger(Refusal::Frozen { account }) => {
            tracing::error!(account, "a call was refused: the account is frozen");
            let message = "the balance of this account is being checked by the operator";
            Error::new(Code::LedgerFrozen, message)
        }
        other => Error::internal(format!("a job could not be opened: {other:?}")),
    }
}

fn exceeded(grant: &Grant, account: &str, unit: &str, asked: i64, left: i64) -> Error {
    let amount = |micros: i64| {
        if unit == USD {
            format!("${}", Money::from_nanos(micros.max(0)))
        } else {
            let quantity = u64::try_from(micros).unwrap_or(0);
            format!("{} {unit}", providers::money::Quantity::micros(quantity))
        }
    };
    let (asked, left) = (amount(asked), amount(left));
    if account.starts_with("credit:") {
        let message = format!("this call may cost {asked}, and {left} of the credits is left");
        return Error::new(Code::InsufficientCredits, message);
    }
    let of = |budget: &&crate::tenant::Budget| {
        account.strip_prefix("budget:").is_some_and(|rest| rest.starts_with(&budget.id))
    };
    let name = grant.budgets.iter().find(of).map_or("", |budget| budget.name.as_str());
    let message = format!("this call may use {asked}, and {left} of the budget {name:?} is left");
    Error::new(Code::BudgetExceeded, message)
}
