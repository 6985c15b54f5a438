//! `/admin/v1/budgets`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::Value;

use super::{Created, Fields, Params, created};
use crate::{
    api::{App, path::Path},
    error::Error,
    tenant::{
        self,
        budgets::{NewBudget, USD, parse_amount, parse_period, parse_scope},
        role::Actor,
        store::{Change, org_of},
    },
    usage::budgets::{self, BudgetChange, Listed, Wanted},
};

/// `limit_usd` of a budget of money, `limit` of one of units.
fn amount(fields: &mut Fields, unit: &str) -> Result<Option<i64>, Error> {
    let (name, other) = if unit == USD { ("limit_usd", "limit") } else { ("limit", "limit_usd") };
    if fields.text(other)?.is_some() {
        let message = format!("a budget of {unit} has {name}, not {other}");
        return Err(Error::invalid(other, message));
    }
    let Some(text) = fields.text(name)? else { return Ok(None) };
    parse_amount(unit, &text).map(Some).map_err(|e| Error::invalid(name, format!("{name}: {e}")))
}

fn percent(fields: &mut Fields) -> Result<Change<u8>, Error> {
    Ok(match fields.count("alert_percent")? {
        Change::Keep => Change::Keep,
        Change::Clear => Change::Clear,
        // What does not fit is refused for its size.
        Change::To(percent) => Change::To(u8::try_from(percent).unwrap_or(u8::MAX)),
    })
}

/// Makes a budget. What was used in the running period counts.
#[utoipa::path(
    post, path = "/admin/v1/budgets",
    request_body(content = Object, description = "name; scope: key, user, project or org; \
        scope_id (of users a name, or * for each); unit: usd (default) or one of the catalogue; \
        period: day, week, month (default) or total; limit_usd, or limit of other units, a decimal \
        text; alert_percent (null); org (the operator's own)"),
    responses((status = 201, description = "the budget", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut fields: Fields,
) -> Result<Created, Error> {
    let org = org_of(&actor, fields.text("org")?.as_deref())?;
    let unit = fields.text("unit")?.unwrap_or_else(|| USD.to_owned());
    let period = fields.text("period")?.unwrap_or_else(|| "month".to_owned());
    let scope = fields.need("scope")?;
    let new = NewBudget {
        name: fields.need("name")?,
        scope: parse_scope(&scope).map_err(|e| Error::invalid("scope", e))?,
        scope_id: fields.need("scope_id")?,
        period: parse_period(&period).map_err(|e| Error::invalid("period", e))?,
        amount: amount(&mut fields, &unit)?.ok_or_else(|| {
            let name = if unit == USD { "limit_usd" } else { "limit" };
            Error::invalid(name, format!("{name} is missing; 0 allows nothing"))
        })?,
        unit,
        alert_percent: percent(&mut fields)?.given(),
    };
    fields.end()?;
    let made = budgets::create(app.db(), &actor, &org, new, tenant::now()).await?;
    app.tell().await;
    Ok(created(made.to_json()))
}

/// The budgets, newest first, with what was used of them in the running period.
#[utoipa::path(
    get, path = "/admin/v1/budgets",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query), ("scope" = Option<String>, Query),
        ("scope_id" = Option<String>, Query),
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
    let scope = params.take("scope")?.map(|text| parse_scope(&text)).transpose();
    let wanted = Wanted {
        org: params.take("org")?,
        scope: scope.map_err(|e| Error::invalid("scope", e))?,
        scope_id: params.take("scope_id")?,
    };
    params.end()?;
    let part = budgets::list(app.db(), &actor, &wanted, &page, tenant::now()).await?;
    Ok(Json(super::list(&part, Listed::to_json)))
}

/// One budget.
#[utoipa::path(
    get, path = "/admin/v1/budgets/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the budget", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    Ok(Json(budgets::get(app.db(), &actor, &id, tenant::now()).await?.to_json()))
}

/// Changes a budget. What was used stays used.
#[utoipa::path(
    patch, path = "/admin/v1/budgets/{id}", params(("id" = String, Path)),
    request_body(content = Object, description = "any of name, limit_usd or limit, period, \
        alert_percent (null for none)"),
    responses((status = 200, description = "the budget", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
    mut fields: Fields,
) -> Result<Json<Value>, Error> {
    let old = budgets::get(app.db(), &actor, &id, tenant::now()).await?;
    let period = fields.text("period")?.map(|text| parse_period(&text)).transpose();
    let to = BudgetChange {
        name: fields.text("name")?,
        amount: amount(&mut fields, &old.budget.unit)?,
        period: period.map_err(|e| Error::invalid("period", e))?,
        alert_percent: percent(&mut fields)?,
    };
    fields.end()?;
    let changed = budgets::update(app.db(), &actor, &id, to, tenant::now()).await?;
    app.tell().await;
    Ok(Json(changed.to_json()))
}

/// Deletes a budget: it limits nothing from then on.
#[utoipa::path(
    delete, path = "/admin/v1/budgets/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "deleted", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    budgets::delete(app.db(), &actor, &id, tenant::now()).await?;
    app.tell().await;
    Ok(super::deleted(&id, "budget"))
}
