//! `/admin/v1/admin-keys`: the credentials of operators.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Created, Fields, Params, created, seconds};
use crate::{
    api::{App, path::Path},
    error::Error,
    tenant::{
        self,
        role::{Actor, Role},
        store::{
            Change,
            admin_keys::{self, AdminKey, NewAdminKey},
        },
    },
};

fn show(key: &AdminKey) -> Value {
    let is_over = key.expires_at.is_some_and(|at| at <= tenant::now());
    let status = match key.revoked_at {
        Some(_) => "revoked",
        None if is_over => "expired",
        None => "active",
    };
    json!({
        "id": key.id,
        "object": "admin_key",
        "status": status,
        "org": key.org,
        "name": key.name,
        "role": key.role.name(),
        "created_by": key.created_by,
        "created_at": seconds(key.created_at),
        "expires_at": key.expires_at.map(seconds),
        "revoked_at": key.revoked_at.map(seconds),
    })
}

/// Makes a credential, with no more rights than its maker's. `key` is in this answer and nowhere
/// else.
#[utoipa::path(
    post, path = "/admin/v1/admin-keys",
    request_body(content = Object, description = "name; role: owner, admin, member or viewer; \
        org (the operator's own; null stands above all); expires_at in Unix seconds (null)"),
    responses((status = 201, description = "the credential, with its secret", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut fields: Fields,
) -> Result<Created, Error> {
    let name = fields.need("name")?;
    let role = fields.need("role")?;
    let role = Role::named(&role).ok_or_else(|| {
        let message = format!("{role:?} is no role; known: viewer, member, admin, owner");
        Error::invalid("role", message)
    })?;
    let org = match fields.nullable_text("org")? {
        Change::To(org) => Some(org),
        Change::Clear => None,
        Change::Keep => actor.org.clone(),
    };
    let expires_at = fields.time("expires_at")?.given();
    fields.end()?;
    let new = NewAdminKey { org, name, role, expires_at };
    let pepper = app.auth.directory().pepper();
    let db = &app.admin()?.db;
    let (key, text) = admin_keys::create(db, pepper, &actor, new, tenant::now()).await?;
    let mut body = show(&key);
    body["key"] = text.expose().into();
    Ok(created(body))
}

/// The credentials, newest first, also revoked ones.
#[utoipa::path(
    get, path = "/admin/v1/admin-keys",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query, description = "only those of this organisation"),
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
    let part = admin_keys::list(&app.admin()?.db, &actor, org.as_deref(), &page).await?;
    Ok(Json(super::list(&part, show)))
}

/// One credential, without its secret.
#[utoipa::path(
    get, path = "/admin/v1/admin-keys/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the credential", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let key = admin_keys::get(&app.admin()?.db, &actor, &id).await?;
    Ok(Json(show(&key)))
}

/// Revokes a credential, at once and everywhere.
#[utoipa::path(
    delete, path = "/admin/v1/admin-keys/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the credential, revoked", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let key = admin_keys::revoke(&app.admin()?.db, &actor, &id, tenant::now()).await?;
    Ok(Json(show(&key)))
}
