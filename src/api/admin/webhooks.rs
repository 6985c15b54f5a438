//! `/admin/v1/webhooks`: where an organisation is told of its credits and budgets.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::Value;

use super::{Created, Fields, Params, created};
use crate::{
    api::{App, path::Path},
    error::Error,
    tenant::{self, role::Actor, store::org_of},
    usage::webhooks::{self, Delivery, NewWebhook, Webhook},
};

/// Makes a webhook. `secret`, with which deliveries are signed as Standard Webhooks, is in this
/// answer and nowhere else.
#[utoipa::path(
    post, path = "/admin/v1/webhooks",
    request_body(content = Object, description = "url: public https; events: credits.low, \
        budget.alert, budget.exceeded (all); org (the operator's own)"),
    responses((status = 201, description = "the webhook, with its secret", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut fields: Fields,
) -> Result<Created, Error> {
    let org = org_of(&actor, fields.text("org")?.as_deref())?;
    let url = fields.need("url")?;
    let events = fields.texts("events")?.unwrap_or_default();
    fields.end()?;
    let new = NewWebhook { org: &org, url: &url, events: &events };
    let (sealer, fetcher) = (&app.admin()?.sealer, &app.engine.fetcher);
    let (webhook, secret) =
        webhooks::create(app.db(), sealer, fetcher, &actor, new, tenant::now()).await?;
    let mut body = webhook.to_json();
    body["secret"] = secret.as_str().into();
    Ok(created(body))
}

/// The webhooks, newest first.
#[utoipa::path(
    get, path = "/admin/v1/webhooks",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list, without secrets", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut params: Params,
) -> Result<Json<Value>, Error> {
    let (page, org) = (params.page()?, params.take("org")?);
    params.end()?;
    let part = webhooks::list(app.db(), &actor, org.as_deref(), &page).await?;
    Ok(Json(super::list(&part, Webhook::to_json)))
}

/// One webhook.
#[utoipa::path(
    get, path = "/admin/v1/webhooks/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the webhook, without its secret", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    Ok(Json(webhooks::get(app.db(), &actor, &id).await?.to_json()))
}

/// Changes where deliveries go, or what is told. The secret stays.
#[utoipa::path(
    patch, path = "/admin/v1/webhooks/{id}", params(("id" = String, Path)),
    request_body(content = Object, description = "any of url, events"),
    responses((status = 200, description = "the webhook", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
    mut fields: Fields,
) -> Result<Json<Value>, Error> {
    let (url, events) = (fields.text("url")?, fields.texts("events")?);
    fields.end()?;
    let changed = webhooks::update(
        app.db(),
        &app.engine.fetcher,
        &actor,
        &id,
        url.as_deref(),
        events.as_deref(),
        tenant::now(),
    );
    Ok(Json(changed.await?.to_json()))
}

/// Deletes a webhook: what was not delivered yet never will be.
#[utoipa::path(
    delete, path = "/admin/v1/webhooks/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "deleted", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    webhooks::delete(app.db(), &actor, &id, tenant::now()).await?;
    Ok(super::deleted(&id, "webhook"))
}

/// What was sent to a webhook or is to be, newest first, also what was given up.
#[utoipa::path(
    get, path = "/admin/v1/webhooks/{id}/deliveries",
    params(
        ("id" = String, Path), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn deliveries(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
    mut params: Params,
) -> Result<Json<Value>, Error> {
    let page = params.page()?;
    params.end()?;
    let part = webhooks::deliveries(app.db(), &actor, &id, &page).await?;
    Ok(Json(super::list(&part, Delivery::to_json)))
}
