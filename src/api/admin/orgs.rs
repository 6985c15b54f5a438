//! `/admin/v1/orgs`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Created, Fields, Params, created, deleted, seconds};
use crate::{
    api::{App, path::Path},
    error::Error,
    tenant::{
        self, budgets,
        role::Actor,
        store::{
            Change,
            orgs::{self, Org, OrgChange},
        },
    },
};

fn show(org: &Org) -> Value {
    json!({
        "id": org.id,
        "object": "org",
        "name": org.name,
        "prepaid": org.prepaid,
        "low_balance_usd": org.low_balance.map(|nanos| budgets::show_amount(budgets::USD, nanos)),
        "created_at": seconds(org.created_at),
    })
}

fn low_balance(fields: &mut Fields) -> Result<Change<i64>, Error> {
    const NAME: &str = "low_balance_usd";
    let parse = |text: String| {
        budgets::parse_amount(budgets::USD, &text).map_err(|e| Error::invalid(NAME, e))
    };
    fields.nullable_text(NAME)?.try_map(parse)
}

/// Makes an organisation. For operators above all organisations.
#[utoipa::path(
    post, path = "/admin/v1/orgs",
    request_body(content = Object, description = "name; prepaid (false); low_balance_usd (null)"),
    responses((status = 201, description = "the organisation", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut fields: Fields,
) -> Result<Created, Error> {
    let name = fields.need("name")?;
    let prepaid = fields.flag("prepaid")?.unwrap_or(false);
    let low_balance = low_balance(&mut fields)?.given();
    fields.end()?;
    let db = &app.admin()?.db;
    let org = orgs::create(db, &actor, &name, prepaid, low_balance, tenant::now()).await?;
    app.tell().await;
    Ok(created(show(&org)))
}

/// The organisations, newest first.
#[utoipa::path(
    get, path = "/admin/v1/orgs",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut params: Params,
) -> Result<Json<Value>, Error> {
    let page = params.page()?;
    params.end()?;
    let part = orgs::list(&app.admin()?.db, &actor, &page).await?;
    Ok(Json(super::list(&part, show)))
}

/// One organisation.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the organisation", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let org = orgs::get(&app.admin()?.db, &actor, &id).await?;
    Ok(Json(show(&org)))
}

/// Changes an organisation. For operators above all organisations.
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{id}", params(("id" = String, Path)),
    request_body(content = Object, description = "any of name, prepaid, low_balance_usd"),
    responses((status = 200, description = "the organisation", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
    mut fields: Fields,
) -> Result<Json<Value>, Error> {
    let to = OrgChange {
        name: fields.text("name")?,
        prepaid: fields.flag("prepaid")?,
        low_balance: low_balance(&mut fields)?,
    };
    fields.end()?;
    let org = orgs::update(&app.admin()?.db, &actor, &id, to, tenant::now()).await?;
    app.tell().await;
    Ok(Json(show(&org)))
}

/// Deletes an organisation with all its projects, keys and operators; its books stay.
#[utoipa::path(
    delete, path = "/admin/v1/orgs/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "gone", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    orgs::delete(&app.admin()?.db, &actor, &id, tenant::now()).await?;
    app.tell().await;
    Ok(deleted(&id, "org"))
}
