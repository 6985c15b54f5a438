//! `/admin/v1/projects`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{Created, Fields, Params, created, deleted, seconds};
use crate::{
    api::{App, path::Path},
    db::Db,
    error::Error,
    tenant::{
        self,
        role::Actor,
        store::{
            org_of,
            projects::{self, Project},
        },
    },
};

fn show(project: &Project) -> Value {
    json!({
        "id": project.id,
        "object": "project",
        "org": project.org,
        "name": project.name,
        "created_at": seconds(project.created_at),
    })
}

/// Makes a project.
#[utoipa::path(
    post, path = "/admin/v1/projects",
    request_body(content = Object, description = "name; org (the operator's own, else default)"),
    responses((status = 201, description = "the project", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    fields: Fields,
) -> Result<Created, Error> {
    let body = make(&app.admin()?.db, &actor, fields).await?;
    app.tell().await;
    Ok(created(body))
}

/// Makes a project as a body says.
pub(crate) async fn make(db: &Db, actor: &Actor, mut fields: Fields) -> Result<Value, Error> {
    let name = fields.need("name")?;
    let org = fields.text("org")?;
    fields.end()?;
    let org = org_of(actor, org.as_deref())?;
    let project = projects::create(db, actor, &org, &name, tenant::now()).await?;
    Ok(show(&project))
}

/// The projects, newest first.
#[utoipa::path(
    get, path = "/admin/v1/projects",
    params(
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("org" = Option<String>, Query, description = "only those of this organisation"),
    ),
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    params: Params,
) -> Result<Json<Value>, Error> {
    page(&app.admin()?.db, &actor, params).await.map(Json)
}

/// The projects that a query asks for.
pub(crate) async fn page(db: &Db, actor: &Actor, mut params: Params) -> Result<Value, Error> {
    let (page, org) = (params.page()?, params.take("org")?);
    params.end()?;
    let part = projects::list(db, actor, org.as_deref(), &page).await?;
    Ok(super::list(&part, show))
}

/// One project.
#[utoipa::path(
    get, path = "/admin/v1/projects/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "the project", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    let project = projects::get(&app.admin()?.db, &actor, &id).await?;
    Ok(Json(show(&project)))
}

/// Gives a project another name.
#[utoipa::path(
    patch, path = "/admin/v1/projects/{id}", params(("id" = String, Path)),
    request_body(content = Object, description = "name"),
    responses((status = 200, description = "the project", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
    mut fields: Fields,
) -> Result<Json<Value>, Error> {
    let name = fields.need("name")?;
    fields.end()?;
    let project = projects::rename(&app.admin()?.db, &actor, &id, &name, tenant::now()).await?;
    app.tell().await;
    Ok(Json(show(&project)))
}

/// Deletes a project and revokes its keys; its books stay.
#[utoipa::path(
    delete, path = "/admin/v1/projects/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "gone", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    projects::delete(&app.admin()?.db, &actor, &id, tenant::now()).await?;
    app.tell().await;
    Ok(deleted(&id, "project"))
}
