//! `/v1/jobs`: the job behind a call, for callers that were cut off.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, answer, auth::Tenant, images, path::Path, render};
use crate::{
    engine::{job::Job, unix},
    error::{Code, Error},
};

/// Which jobs to list.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    request_id: Option<String>,
}

/// The key's jobs, newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    params(("request_id" = Option<String>, Query, description = "only the job of this request")),
    responses((status = 200, description = "a list of jobs", body = Object)),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Value>, Error> {
    let Query(filter) =
        filter.map_err(|e| Error::invalid("request_id", e.body_text().to_lowercase()))?;
    let jobs = app.engine.jobs.list(&tenant.name, filter.request_id.as_deref());
    let data: Vec<Value> = jobs.iter().map(|job| describe(job)).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
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
    find(&app, &tenant, &id).map(|job| Json(describe(&job)))
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
    let job = find(&app, &tenant, &id)?;
    match job.outcome() {
        Some(outcome) => images::finished(&app, &job, outcome, None).await,
        None => Err(images::still_running(&job)),
    }
}

fn find(app: &App, tenant: &Tenant, id: &str) -> Result<Arc<Job>, Error> {
    app.engine.jobs.get(&tenant.name, id).ok_or_else(|| {
        Error::new(Code::JobNotFound, format!("there is no job {id:?} of this key")).param("id")
    })
}

fn describe(job: &Job) -> Value {
    let outcome = job.outcome();
    let success = outcome.as_ref().and_then(|o| o.as_ref().ok());
    let failure = outcome.as_ref().and_then(|o| o.as_ref().err());
    let status = match (&success, &failure) {
        (Some(_), _) => "succeeded",
        (_, Some(error)) if error.code == Code::SubmitOutcomeUnknown => "unknown",
        (_, Some(_)) => "failed",
        _ => "running",
    };
    let attempts = success
        .map(|s| json!(s.attempts))
        .or_else(|| failure.and_then(|e| Some(e.mediagate.as_ref()?["attempts"].clone())))
        .unwrap_or_else(|| json!([]));
    json!({
        "id": job.id,
        "object": "job",
        "task": "image.generate",
        "status": status,
        "model": job.model,
        "created_at": unix(job.created_at),
        "started_at": unix(job.created_at),
        "finished_at": job.finished_at.lock().map(unix),
        "deadline_at": unix(job.deadline_at),
        "queue_position": null,
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
