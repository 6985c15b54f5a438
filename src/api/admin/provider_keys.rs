//! `/admin/v1/provider-keys`: a project's own keys at providers.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Created, Fields, Params, created, deleted, seconds};
use crate::{
    api::{App, path::Path},
    config::{Secret, nearest},
    error::Error,
    tenant::{
        self,
        role::Actor,
        store::provider_keys::{self, ProviderKey},
    },
};

fn show(key: &ProviderKey) -> Value {
    json!({
        "id": key.id,
        "object": "provider_key",
        "org": key.org,
        "project": key.project,
        "provider": key.provider,
        "created_at": seconds(key.created_at),
    })
}

/// Gives a project its own key at a provider, in place of one it has there. No answer ever shows
/// it.
#[utoipa::path(
    post, path = "/admin/v1/provider-keys",
    request_body(content = Object, description = "project; provider; key"),
    responses((status = 201, description = "without the key", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut fields: Fields,
) -> Result<Created, Error> {
    let admin = app.admin()?;
    let project = fields.need("project")?;
    let provider = fields.need("provider")?;
    let secret = Secret::new(fields.need("key")?);
    fields.end()?;
    if !admin.providers.contains(&provider) {
        let near = nearest(&provider, admin.providers.iter().map(String::as_str));
        let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        return Err(Error::invalid("provider", format!("there is no provider {provider:?}{near}")));
    }
    let (db, sealer) = (&admin.db, &admin.sealer);
    let key =
        provider_keys::create(db, sealer, &actor, &project, &provider, &secret, tenant::now())
            .await?;
    app.tell().await;
    Ok(created(show(&key)))
}

/// The keys, newest first.
#[utoipa::path(
    get, path = "/admin/v1/provider-keys",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query, description = "only those of this organisation"),
        ("project" = Option<String>, Query, description = "only those of this project"),
    ),
    responses((status = 200, description = "a list, without the keys", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    mut params: Params,
) -> Result<Json<Value>, Error> {
    let (page, org, project) = (params.page()?, params.take("org")?, params.take("project")?);
    params.end()?;
    let db = &app.admin()?.db;
    let part = provider_keys::list(db, &actor, org.as_deref(), project.as_deref(), &page).await?;
    Ok(Json(super::list(&part, show)))
}

/// One of them.
#[utoipa::path(
    get, path = "/admin/v1/provider-keys/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "without the key", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let key = provider_keys::get(&app.admin()?.db, &actor, &id).await?;
    Ok(Json(show(&key)))
}

/// Deletes a key; calls of its project go over the operator's key again.
#[utoipa::path(
    delete, path = "/admin/v1/provider-keys/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "gone", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    provider_keys::delete(&app.admin()?.db, &actor, &id, tenant::now()).await?;
    app.tell().await;
    Ok(deleted(&id, "provider_key"))
}
