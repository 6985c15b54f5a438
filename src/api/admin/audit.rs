//! `/admin/v1/audit`: what operators did.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Params, seconds};
use crate::{
    api::App,
    error::Error,
    tenant::{
        role::Actor,
        store::audit::{self, Line},
    },
};

fn show(line: &Line) -> Value {
    json!({
        "id": line.id,
        "object": "audit_line",
        "at": seconds(line.at),
        "actor": line.actor,
        "org": line.org,
        "action": line.action,
        "target": line.target,
        "detail": line.detail,
    })
}

/// The audit log, newest first.
#[utoipa::path(
    get, path = "/admin/v1/audit",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query, description = "only that of this organisation"),
    ),
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut params: Params,
) -> Result<Json<Value>, Error> {
    let (page, org) = (params.page()?, params.take("org")?);
    params.end()?;
    let part = audit::list(&app.admin()?.db, &actor, org.as_deref(), &page).await?;
    Ok(Json(super::list(&part, show)))
}
