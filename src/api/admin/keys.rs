//! `/admin/v1/keys`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Created, Fields, Params, created, seconds};
use crate::{
    api::{App, path::Path},
    db::Db,
    error::Error,
    tenant::{
        self, Budget, DEFAULT, Period, budgets,
        key::Pepper,
        role::Actor,
        store::{
            keys::{self, ApiKey, KeyBudget, Rights, RightsChange},
            projects,
        },
    },
};

fn show(key: &ApiKey) -> Value {
    let rights = &key.rights;
    let is_over = rights.expires_at.is_some_and(|at| at <= tenant::now());
    let status = match key.revoked_at {
        Some(_) => "revoked",
        None if is_over => "expired",
        None => "active",
    };
    json!({
        "id": key.id,
        "object": "key",
        "status": status,
        "name": rights.name,
        "org": key.org,
        "project": key.project,
        "models": rights.models,
        "endpoints": rights.endpoints,
        "rpm": rights.limits.rpm,
        "ipm": rights.limits.ipm,
        "tpm": rights.limits.tpm,
        "max_concurrent": rights.limits.max_concurrent,
        "join_retries": rights.join_retries,
        "heartbeat": rights.heartbeat,
        "created_by": key.created_by,
        "created_at": seconds(key.created_at),
        "expires_at": rights.expires_at.map(seconds),
        "revoked_at": key.revoked_at.map(seconds),
    })
}

fn show_budget(budget: &Budget) -> Value {
    json!({
        "id": budget.id,
        "unit": budget.unit,
        "period": budgets::period_name(budget.period),
        "amount": budgets::show_amount(&budget.unit, budget.amount),
    })
}

fn budget(fields: &mut Fields) -> Result<Option<KeyBudget>, Error> {
    let (usd, period) = (fields.text("budget_usd")?, fields.text("budget_period")?);
    let Some(usd) = usd else {
        return match period {
            None => Ok(None),
            Some(_) => Err(Error::invalid(
                "budget_period",
                "budget_period needs budget_usd beside it, such as \"5\"",
            )),
        };
    };
    let usd =
        budgets::parse_amount(budgets::USD, &usd).map_err(|e| Error::invalid("budget_usd", e))?;
    let period = period.map_or(Ok(Period::Total), |text| budgets::parse_period(&text));
    let period = period.map_err(|e| Error::invalid("budget_period", e))?;
    Ok(Some(KeyBudget { usd, period }))
}

/// What stands in a body about rights; what is not there stays none.
fn rights(fields: &mut Fields) -> Result<RightsChange, Error> {
    Ok(RightsChange {
        name: fields.text("name")?,
        models: fields.texts("models")?,
        endpoints: fields.texts("endpoints")?,
        rpm: fields.count("rpm")?,
        ipm: fields.count("ipm")?,
        tpm: fields.count("tpm")?,
        max_concurrent: fields.count("max_concurrent")?,
        join_retries: fields.flag("join_retries")?,
        heartbeat: fields.flag("heartbeat")?,
        expires_at: fields.time("expires_at")?,
    })
}

/// Makes a key. `key` is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/admin/v1/keys",
    request_body(content = Object, description = "name; project by id or name (default); models, endpoints \
        ([\"*\"]); rpm, ipm, tpm, max_concurrent (null); join_retries (true); heartbeat (false); \
        expires_at in Unix seconds (null); budget_usd, budget_period (total)"),
    responses((status = 201, description = "the key, with its secret", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    fields: Fields,
) -> Result<Created, Error> {
    let body = make(&app.admin()?.db, app.auth.directory().pepper(), &actor, fields).await?;
    app.tell().await;
    Ok(created(body))
}

/// Makes a key as a body says.
pub(crate) async fn make(
    db: &Db,
    pepper: &Pepper,
    actor: &Actor,
    mut fields: Fields,
) -> Result<Value, Error> {
    let project = fields.text("project")?;
    let budget = budget(&mut fields)?;
    let asked = rights(&mut fields)?;
    fields.end()?;
    let Some(name) = asked.name.clone() else {
        return Err(Error::invalid("name", "name is missing"));
    };
    let mut rights = Rights::all(name);
    asked.apply(&mut rights);
    let project = match (project, actor.org.as_deref()) {
        (Some(project), _) => projects::named(db, actor, &project).await?.id,
        (None, None | Some(DEFAULT)) => DEFAULT.to_owned(),
        (None, Some(_)) => {
            return Err(Error::invalid("project", "project is missing; make one first"));
        }
    };
    let now = tenant::now();
    let made = keys::create(db, pepper, actor, &project, rights, budget, now).await?;
    let mut body = show(&made.key);
    body["key"] = made.text.expose().into();
    body["budget"] = made.budget.as_ref().map_or(Value::Null, show_budget);
    Ok(body)
}

/// The keys, newest first, also revoked ones.
#[utoipa::path(
    get, path = "/admin/v1/keys",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query, description = "only those of this organisation"),
        ("project" = Option<String>, Query, description = "only those of this project"),
    ),
    responses((status = 200, description = "a list, without secrets", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    params: Params,
) -> Result<Json<Value>, Error> {
    page(&app.admin()?.db, &actor, params).await.map(Json)
}

/// The keys that a query asks for.
pub(crate) async fn page(db: &Db, actor: &Actor, mut params: Params) -> Result<Value, Error> {
    let (page, org, project) = (params.page()?, params.take("org")?, params.take("project")?);
    params.end()?;
    let project = match project {
        Some(project) => Some(projects::named(db, actor, &project).await?.id),
        None => None,
    };
    let part = keys::list(db, actor, org.as_deref(), project.as_deref(), &page).await?;
    Ok(super::list(&part, show))
}

/// One key, without its secret.
#[utoipa::path(
    get, path = "/admin/v1/keys/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the key", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let key = keys::get(&app.admin()?.db, &actor, &id).await?;
    Ok(Json(show(&key)))
}

/// Changes what a key may do, from the next call on; null takes a limit away.
#[utoipa::path(
    patch, path = "/admin/v1/keys/{id}", params(("id" = String, Path)),
    request_body(content = Object, description = "any of name, models, endpoints, rpm, ipm, tpm, \
        max_concurrent, join_retries, heartbeat, expires_at"),
    responses((status = 200, description = "the key", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
    mut fields: Fields,
) -> Result<Json<Value>, Error> {
    let to = rights(&mut fields)?;
    fields.end()?;
    let key = keys::update(&app.admin()?.db, &actor, &id, to, tenant::now()).await?;
    app.tell().await;
    Ok(Json(show(&key)))
}

/// Revokes a key: refused here at once, everywhere within a second.
#[utoipa::path(
    delete, path = "/admin/v1/keys/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the key, revoked", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let body = end(&app.admin()?.db, &actor, &id).await?;
    app.tell().await;
    Ok(Json(body))
}

/// Revokes a key.
pub(crate) async fn end(db: &Db, actor: &Actor, id: &str) -> Result<Value, Error> {
    let key = keys::revoke(db, actor, id, tenant::now()).await?;
    Ok(show(&key))
}
