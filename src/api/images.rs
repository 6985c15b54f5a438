//! `POST /v1/images/generations`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    App, answer,
    auth::Tenant,
    body,
    observe::RequestId,
    request,
    shape::{ImagesRequest, ImagesResponse},
};
use crate::{
    engine::{
        Plan,
        candidate::Candidate,
        job::{Job, Outcome},
        request::{Adjustment, AdjustmentKind},
    },
    error::{Code, Error},
};

/// Jobs that may run at once; more are turned away before anything is paid.
const MOST_RUNNING: usize = 4096;

/// What the query may say.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Options {
    /// Plan and price every candidate, and call nobody.
    #[serde(default)]
    dry_run: bool,
}

/// Draw pictures from a text.
#[utoipa::path(
    post,
    path = "/v1/images/generations",
    request_body = ImagesRequest,
    params(("dry_run" = Option<bool>, Query, description = "plan and price, and call nobody")),
    responses(
        (status = 200, description = "the pictures", body = ImagesResponse),
        (status = "default", description = "an error", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn generate(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Extension(request_id): Extension<RequestId>,
    options: Result<Query<Options>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let begun = std::time::Instant::now();
    let Query(options) =
        options.map_err(|e| Error::invalid("dry_run", e.body_text().to_lowercase()))?;
    let bytes = body::read(&headers, body, app.json_limit).await?;
    let request = request::generation(body::object(&headers, &bytes)?)?;
    for model in &request.models {
        tenant.check_model(model)?;
    }
    let plan = app.engine.plan(&request)?;
    if options.dry_run {
        return Ok(Json(dry_run(&plan, request.verbose)).into_response());
    }
    if plan.candidates.is_empty() {
        return Err(plan.refusal(&app.engine));
    }
    let mut asked = Sha256::new();
    asked.update(b"images/generations\0");
    asked.update(&bytes);
    let fingerprint: [u8; 32] = asked.finalize().into();
    let joined =
        is_sdk_retry(&headers).then(|| app.engine.jobs.join(&tenant.name, &fingerprint)).flatten();
    let (job, watch) = if let Some((job, watch)) = joined {
        app.engine.metrics.joins.inc();
        tracing::info!(job = job.id, request_id = request_id.0, "a repeat joined its job");
        (job, watch)
    } else {
        if app.engine.tasks.len() >= MOST_RUNNING {
            let message = format!("{MOST_RUNNING} jobs run already; come back in a moment");
            return Err(
                Error::new(Code::Overloaded, message).retry_after(Some(Duration::from_secs(2)))
            );
        }
        let job = Job::new(
            &tenant.name,
            &plan.model,
            &request_id.0,
            &request.prompt,
            fingerprint,
            app.engine.settings.deadline,
        );
        let watch = job.watch();
        app.engine.start(plan, request, Arc::clone(&job));
        (job, watch)
    };
    let caller = Caller { app: Arc::clone(&app), job: Some(Arc::clone(&job)) };
    let answer = match tokio::time::timeout(app.wait, watch.outcome()).await {
        Ok(Some(outcome)) => finished(&app, &job, outcome, Some(begun)).await,
        Ok(None) => Err(Error::internal("a job ended without a result")),
        Err(_) => {
            job.abandon();
            Err(still_running(&job))
        }
    };
    caller.answered();
    answer
}

/// A caller that waits. One that goes away between the end of its job and its answer leaves the
/// job to a repeat.
struct Caller {
    app: Arc<App>,
    job: Option<Arc<Job>>,
}

impl Caller {
    /// From here on the answer's body knows whether it arrived.
    fn answered(mut self) {
        self.job = None;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.app.engine.settle(&job, false);
        }
    }
}

/// Whether the caller's SDK says that it asks again for what it asked before.
fn is_sdk_retry(headers: &HeaderMap) -> bool {
    let count = headers.get("x-stainless-retry-count").and_then(|v| v.to_str().ok());
    count.and_then(|c| c.parse::<u32>().ok()).is_some_and(|c| c > 0)
}

/// The answer of a job that is over.
pub(super) async fn finished(
    app: &App,
    job: &Arc<Job>,
    outcome: Outcome,
    begun: Option<std::time::Instant>,
) -> Result<Response, Error> {
    match outcome {
        Ok(success) => {
            let answer = answer::images(&app.engine, job, success, begun).await;
            if answer.as_ref().is_err_and(|e| e.code.should_retry()) {
                // The repeat that is advised must find the job again.
                job.abandon();
            }
            answer
        }
        // Rendered here, for an outcome is shared and an error is not cloned.
        Err(error) => Ok(error.as_ref().into_response()),
    }
}

/// The error of a job that is not over.
pub(super) fn still_running(job: &Job) -> Error {
    let mut error = Error::new(
        Code::JobStillRunning,
        format!("the job still runs; ask GET /v1/jobs/{} or repeat with the SDK's retry", job.id),
    );
    error.retry_after = Some(Duration::from_secs(5));
    error.mediagate = Some(Box::new(json!({ "job_id": job.id })));
    error
}

fn dry_run(plan: &Plan, verbose: bool) -> Value {
    let told = |c: &Candidate| -> Vec<Adjustment> {
        let all = c.adjustments.iter();
        all.filter(|a| verbose || a.kind != AdjustmentKind::Renamed).cloned().collect()
    };
    let mut candidates: Vec<Value> = plan
        .candidates
        .iter()
        .map(|c| {
            json!({
                "deployment": c.served.slug(),
                "eligible": true,
                "reason": null,
                "native": c.size.native_text(),
                "adjustments": told(c),
                "cost": c.cost.as_ref().map(answer::cost),
            })
        })
        .collect();
    candidates.extend(plan.excluded.iter().map(|e| {
        json!({
            "deployment": e.deployment,
            "eligible": false,
            "reason": e.reason,
            "native": null,
            "adjustments": [],
            "cost": null,
        })
    }));
    json!({ "dry_run": true, "model": plan.model, "candidates": candidates })
}
