//! `/v1/jobs`: the job behind a call, for callers that were cut off.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, answer, auth::Tenant, call, path::Path, render};
use crate::{
    engine::{job::Job, unix},
    error::{Code, Error},
};

/// Which jobs to list.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    request_id: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

/// Jobs on a page where the caller does not say.
const PAGE: u32 = 20;
/// How long a caller that cancels is kept waiting for the provider's answer.
const CANCEL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(6);
/// Jobs on a page at most.
const LONGEST_PAGE: u32 = 100;

/// The key's jobs, newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    params(
        ("request_id" = Option<String>, Query, description = "only the job of this request"),
        ("after" = Option<String>, Query, description = "the last id of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 100, usually 20"),
    ),
    responses((status = 200, description = "a list of jobs", body = Object)),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Value>, Error> {
    let Query(filter) =
        filter.map_err(|e| Error::invalid("limit", e.body_text().to_lowercase()))?;
    let limit = filter.limit.unwrap_or(PAGE);
    if !(1..=LONGEST_PAGE).contains(&limit) {
        return Err(Error::invalid("limit", format!("limit is from 1 to {LONGEST_PAGE}")));
    }
    let (request_id, after) = (filter.request_id.as_deref(), filter.after.as_deref());
    // One more than asked tells whether there are more.
    let mut jobs = app.engine.list(&tenant.grant, request_id, after, i64::from(limit) + 1).await?;
    let has_more = jobs.len() > limit as usize;
    jobs.truncate(limit as usize);
    let data: Vec<Value> = jobs.iter().map(|job| describe(job)).collect();
    Ok(Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

/// One job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "the job", body = Object),
        (status = 404, description = "no such job", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn retrieve(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    find(&app, &tenant, &id).await.map(|job| Json(describe(&job)))
}

/// The answer the call would have had.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/result",
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "the answer of the call", body = super::shape::ImagesResponse),
        (status = 503, description = "it still runs", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn result(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path,
) -> Result<Response, Error> {
    let job = find(&app, &tenant, &id).await?;
    match job.outcome() {
        Some(outcome) => call::finished(&app, &job, outcome, None, None).await,
        None => Err(call::still_running(&job)),
    }
}

/// Ends a job at the provider, where that is possible; what cannot be ended goes on.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "the job as it now is", body = Object),
        (status = 404, description = "no such job", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let job = find(&app, &tenant, &id).await?;
    if app.engine.cancel(&job).await? {
        // The provider is asked now; its answer is worth a moment.
        let _ = tokio::time::timeout(CANCEL_PATIENCE, job.watch().outcome()).await;
    }
    Ok(Json(describe(&job)))
}

async fn find(app: &App, tenant: &Tenant, id: &str) -> Result<Arc<Job>, Error> {
    let found = app.engine.find(&tenant.grant, id).await?;
    found.ok_or_else(|| {
        Error::new(Code::JobNotFound, format!("there is no job {id:?} of this key")).param("id")
    })
}

/// A job as the API shows it.
pub(super) fn describe(job: &Job) -> Value {
    let outcome = job.outcome();
    let success = outcome.as_ref().and_then(|o| o.as_ref().ok());
    let failure = outcome.as_ref().and_then(|o| o.as_ref().err());
    let status = match (&success, &failure) {
        (Some(_), _) => "succeeded",
        (_, Some(error)) if error.code == Code::SubmitOutcomeUnknown => "unknown",
        (_, Some(error)) if error.code == Code::JobCancelled => "cancelled",
        (_, Some(_)) => "failed",
        _ => "running",
    };
    let attempts = success
        .map(|s| json!(s.attempts))
        .or_else(|| failure.and_then(|e| Some(e.mediagate.as_ref()?["attempts"].clone())))
        .unwrap_or_else(|| json!(job.attempts().iter().filter_map(tried).collect::<Vec<_>>()));
    json!({
        "id": job.id,
        "object": "job",
        "task": job.task,
        "status": status,
        "model": job.model,
        "created_at": unix(job.created_at),
        "started_at": unix(job.created_at),
        "finished_at": job.finished_at().map(unix),
        "deadline_at": unix(job.deadline_at),
        "queue_position": if outcome.is_none() { job.queue_position() } else { None },
        "progress": null,
        "request_id": job.request_id,
        "attempts": attempts,
        "cost": success.and_then(|s| s.cost.as_ref()).map(answer::cost),
        "error": failure.map(|e| render::body(e)["error"].clone()),
        "result_url": format!("/v1/jobs/{}/result", job.id),
        "expires_at": success
            .and_then(|s| s.pictures.iter().find_map(|p| p.kept.as_ref()))
            .and_then(|kept| kept.expires_at),
    })
}

/// An attempt of a job that still runs, once it has ended.
fn tried(row: &crate::jobs::AttemptRow) -> Option<Value> {
    let outcome = row.outcome.as_ref()?;
    Some(json!({ "deployment": row.deployment, "outcome": outcome, "ms": row.ms }))
}
