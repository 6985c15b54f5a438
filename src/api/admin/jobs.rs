//! `/admin/v1/jobs`: every job, what its attempts cost, and giving money back.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::{Fields, Params, seconds};
use crate::{
    api::App,
    db::{Db, Durability, Value as Column},
    engine::millis,
    error::{Code, Error},
    jobs::{
        Act, AttemptRow, DeskError, JobRow, JobState,
        row::{ATTEMPT_COLUMNS, JOB_HEAD},
    },
    tenant::{
        role::{self, Actor},
        store::{Entry, Page, Part, StoreError, audit, permit},
    },
};
use providers::money::Money;

pub(super) fn usd(nanos: Option<i64>) -> Value {
    nanos.map_or(Value::Null, |nanos| json!(Money::from_nanos(nanos)))
}

fn show(job: &JobRow) -> Value {
    let held = job.legs.iter().find(|leg| leg.account.starts_with("credit:"));
    json!({
        "id": job.id,
        "object": "job",
        "task": job.task,
        "status": job.state.name(),
        "model": job.model,
        "org": job.org,
        "project": job.project,
        "key": job.api_key,
        "request_id": job.request_id,
        "labels": job.labels,
        "created_at": seconds(job.created_at),
        "deadline_at": seconds(job.deadline_at),
        "finished_at": job.finished_at.map(seconds),
        "expires_at": seconds(job.expires_at),
        "held_usd": usd(held.filter(|_| !job.settled).map(|leg| leg.amount)),
        "charged_usd": usd(job.charge),
        "error": job.error_code,
        "simulated": job.simulated,
        "epoch": job.epoch,
    })
}

pub(super) fn show_attempt(attempt: &AttemptRow) -> Value {
    json!({
        "number": attempt.number,
        "deployment": attempt.deployment,
        "credential": attempt.credential,
        "state": attempt.state.name(),
        "outcome": attempt.outcome,
        "pictures": attempt.count,
        "sent_at": seconds(attempt.sent_at),
        "ms": attempt.ms,
        "expected_usd": usd(attempt.expected),
        "billed_usd": usd(attempt.billed),
    })
}

fn missing(id: &str) -> Error {
    Error::new(Code::JobNotFound, format!("there is no job {id:?}")).param("id")
}

/// The jobs, newest first.
#[utoipa::path(
    get, path = "/admin/v1/jobs",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query), ("project" = Option<String>, Query),
        ("key" = Option<String>, Query), ("request_id" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "such as running or unknown"),
    ),
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut params: Params,
) -> Result<Json<Value>, Error> {
    let page = params.page()?;
    let mut wheres = Vec::new();
    let mut columns: Vec<Column> = Vec::new();
    for name in ["org", "project", "key", "request_id", "status"] {
        let mut value = params.take(name)?;
        if name == "org" {
            if let Some(org) = &value {
                permit(&actor, role::Act::Read, org, "organisation", org)?;
            }
            value = value.or(actor.org.clone());
        }
        let Some(value) = value else { continue };
        if name == "status" && JobState::named(&value).is_none() {
            let words: Vec<&str> = JobState::ALL.iter().map(|state| state.name()).collect();
            let message = format!("status is one of {}", words.join(", "));
            return Err(Error::invalid("status", message));
        }
        let column = match name {
            "key" => "api_key",
            "status" => "state",
            other => other,
        };
        columns.push(value.into());
        wheres.push(format!("{column} = ${}", columns.len()));
    }
    params.end()?;
    let part = rows(app.engine.desk.db(), &page, wheres, columns).await?;
    Ok(Json(super::list(&part, show)))
}

async fn rows(
    db: &Db,
    page: &Page,
    mut wheres: Vec<String>,
    mut columns: Vec<Column>,
) -> Result<Part<JobRow>, Error> {
    if let Some(after) = &page.after {
        columns.push(after.as_str().into());
        wheres.push(format!("id < ${}", columns.len()));
    }
    let condition =
        if wheres.is_empty() { String::new() } else { format!(" WHERE {}", wheres.join(" AND ")) };
    // One more than asked tells whether there are more.
    let limit = i64::from(page.limit) + 1;
    let sql = format!("{JOB_HEAD}{condition} ORDER BY id DESC LIMIT {limit}");
    let rows = db.query(sql, columns).await.map_err(StoreError::from)?;
    let mut jobs = rows
        .iter()
        .map(JobRow::from_row)
        .collect::<Result<Vec<_>, _>>()
        .map_err(StoreError::from)?;
    let has_more = jobs.len() > page.limit as usize;
    jobs.truncate(page.limit as usize);
    Ok(Part { items: jobs, has_more })
}

pub(super) async fn find(db: &Db, actor: &Actor, id: &str) -> Result<JobRow, Error> {
    let sql = format!("{JOB_HEAD} WHERE id = $1");
    let rows = db.query(sql, vec![id.into()]).await.map_err(StoreError::from)?;
    let job = rows.first().map(JobRow::from_row).transpose().map_err(StoreError::from)?;
    job.filter(|job| actor.sees(&job.org)).ok_or_else(|| missing(id))
}

/// One job, with its attempts.
#[utoipa::path(
    get, path = "/admin/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the job", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    let job = find(app.engine.desk.db(), &actor, &id).await?;
    let sql = format!("{ATTEMPT_COLUMNS} WHERE job = $1 ORDER BY number");
    let rows = app.engine.desk.db().query(sql, vec![id.into()]).await;
    let rows = rows.map_err(StoreError::from)?;
    let attempts: Result<Vec<AttemptRow>, _> = rows.iter().map(AttemptRow::from_row).collect();
    let mut shown = show(&job);
    shown["attempts"] =
        attempts.map_err(StoreError::from)?.iter().map(show_attempt).collect::<Vec<_>>().into();
    Ok(Json(shown))
}

/// Asks for a job's end; where its provider cannot end it, it goes on.
#[utoipa::path(
    delete, path = "/admin/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the job as it is now", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    let job = find(app.engine.desk.db(), &actor, &id).await?;
    permit(&actor, role::Act::Manage, &job.org, "job", &id)?;
    note(app.engine.desk.db(), Entry::new(&actor, &job.org, "job.cancel", &id, json!({}))).await?;
    if let Some(live) = app.engine.jobs.any(&id) {
        app.engine.cancel(&live).await?;
    } else if !job.state.is_final() {
        let ask = Act::AskCancel { job: id.clone() };
        match app.engine.desk.write(&job.org, ask, Durability::Process).await {
            // Over by now.
            Ok(_) | Err(DeskError::Denied(_)) => {}
            Err(DeskError::Unavailable(source)) => {
                return Err(crate::api::auth::unavailable().because(source));
            }
        }
    }
    find(app.engine.desk.db(), &actor, &id).await.map(|job| Json(show(&job)))
}

/// Gives back what a job was charged, once and exactly.
#[utoipa::path(
    post, path = "/admin/v1/jobs/{id}/refund", params(("id" = String, Path)),
    request_body(content = Object, description = "memo"),
    responses((status = 200, description = "what was given back", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn refund(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    mut fields: Fields,
) -> Result<Json<Value>, Error> {
    let memo = fields.need("memo")?;
    fields.end()?;
    let job = find(app.engine.desk.db(), &actor, &id).await?;
    // Money is not an organisation's own business.
    permit(&actor, role::Act::ManageOrgs, &job.org, "job", &id)?;
    let detail = json!({ "memo": memo, "usd": usd(job.charge) });
    note(app.engine.desk.db(), Entry::new(&actor, &job.org, "job.refund", &id, detail)).await?;
    let act = Act::Refund { job: id.clone(), memo, at: millis::now() };
    match app.engine.desk.write(&job.org, act, Durability::Full).await {
        Ok(_) => Ok(Json(json!({
            "id": id, "object": "refund", "refunded_usd": usd(job.charge.or(Some(0))),
        }))),
        Err(DeskError::Denied(_)) => {
            let message = "nothing was charged for this job, or it was given back already";
            Err(Error::invalid("id", message))
        }
        Err(DeskError::Unavailable(source)) => Err(crate::api::auth::unavailable().because(source)),
    }
}

/// Writes a line into the audit log before what it tells of: an act without a line would be worse
/// than a line without an act.
pub(super) async fn note(db: &Db, entry: Entry) -> Result<(), Error> {
    let now = millis::now();
    let written = db.transaction(Durability::Full, move |tx| {
        let entry = entry.clone();
        Box::pin(async move { audit::write(tx, &entry, now).await })
    });
    written.await.map_err(|error| StoreError::from(error).into())
}
