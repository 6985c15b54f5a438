//! `/admin/v1`: tenants and what belongs to them, for operators. On the admin listener only, and
//! only where `auth.admin_key` is set.
//!
//! No field names a host, a header or a credential, but for the one secret of a provider key.

mod admin_keys;
pub(crate) mod attempts;
mod audit;
mod auth;
mod budgets;
mod document;
mod fields;
mod jobs;
pub(crate) mod keys;
pub(crate) mod ledger;
mod orgs;
pub(crate) mod projects;
mod provider_keys;
pub(crate) mod usage;
mod webhooks;

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    http::StatusCode,
    middleware,
    routing::{delete, get, post},
};
use serde_json::{Value, json};

pub use self::document::document;
pub(super) use self::document::serve as openapi;
pub(crate) use self::fields::{Fields, Params};
use super::App;
use crate::{
    config::Secret,
    db::{Db, DbError},
    error::{Code, Error},
    seal::Sealer,
    tenant::store::{Part, StoreError},
};

/// What the admin API works with.
#[derive(Debug)]
pub struct Admin {
    /// Where tenants are kept.
    pub db: Db,
    /// Seals provider keys.
    pub sealer: Arc<Sealer>,
    /// `auth.admin_key`: may everything.
    pub key: Secret,
    /// The providers there are.
    pub providers: BTreeSet<String>,
}

/// The routes, for those who have a credential.
pub(super) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/admin/v1/orgs", get(orgs::list).post(orgs::create))
        .route("/admin/v1/orgs/{id}", get(orgs::get).patch(orgs::update).delete(orgs::delete))
        .route("/admin/v1/projects", get(projects::list).post(projects::create))
        .route(
            "/admin/v1/projects/{id}",
            get(projects::get).patch(projects::update).delete(projects::delete),
        )
        .route("/admin/v1/keys", get(keys::list).post(keys::create))
        .route("/admin/v1/keys/{id}", get(keys::get).patch(keys::update).delete(keys::revoke))
        .route("/admin/v1/admin-keys", get(admin_keys::list).post(admin_keys::create))
        .route("/admin/v1/admin-keys/{id}", get(admin_keys::get).delete(admin_keys::revoke))
        .route("/admin/v1/provider-keys", get(provider_keys::list).post(provider_keys::create))
        .route(
            "/admin/v1/provider-keys/{id}",
            get(provider_keys::get).merge(delete(provider_keys::delete)),
        )
        .route("/admin/v1/budgets", get(budgets::list).post(budgets::create))
        .route(
            "/admin/v1/budgets/{id}",
            get(budgets::get).patch(budgets::update).delete(budgets::delete),
        )
        .route("/admin/v1/webhooks", get(webhooks::list).post(webhooks::create))
        .route(
            "/admin/v1/webhooks/{id}",
            get(webhooks::get).patch(webhooks::update).delete(webhooks::delete),
        )
        .route("/admin/v1/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/admin/v1/usage", get(usage::usage))
        .route("/admin/v1/credits", get(usage::credits).post(usage::fund))
        .route("/admin/v1/reconciliation", get(usage::reconciliation))
        .route("/admin/v1/ledger", get(ledger::list))
        .route("/admin/v1/ledger/accounts", get(ledger::accounts))
        .route("/admin/v1/ledger/trial-balance", get(ledger::trial_balance))
        .route("/admin/v1/ledger/drift", get(ledger::drift))
        .route("/admin/v1/jobs", get(jobs::list))
        .route("/admin/v1/jobs/{id}", get(jobs::get).delete(jobs::cancel))
        .route("/admin/v1/jobs/{id}/refund", post(jobs::refund))
        .route("/admin/v1/jobs/{id}/attempts/{number}/settle", post(attempts::settle))
        .route("/admin/v1/attempts", get(attempts::list))
        .route("/admin/v1/audit", get(audit::list))
        .layer(middleware::from_fn_with_state(Arc::clone(app), auth::require))
        .layer(middleware::from_fn_with_state(Arc::clone(app), super::observe::observe))
}

impl App {
    /// What the admin API works with. Its routes are there only where this is.
    pub(super) fn admin(&self) -> Result<&Admin, Error> {
        self.admin.as_ref().ok_or_else(|| Error::new(Code::NotFound, "there is no admin API"))
    }

    /// Makes a change of this replica known here at once; others see it within a second.
    async fn tell(&self) {
        if let Err(error) = self.auth.directory().refresh().await {
            tracing::warn!(%error, "a change is written, but keys could not be read again");
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Db(error @ DbError::Unavailable(_)) => {
                super::auth::unavailable().because(error)
            }
            StoreError::NotFound { .. } => Self::new(Code::NotFound, error.to_string()),
            StoreError::Invalid { field, message } => {
                Self::invalid(field, format!("{field} {message}"))
            }
            StoreError::Denied(message) => Self::new(Code::EndpointNotAllowed, message),
            StoreError::Db(_) | StoreError::Random(_) | StoreError::Sealed(_) => {
                Self::internal(error)
            }
        }
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        StoreError::from(error).into()
    }
}

/// A part of a list in OpenAI's shape.
fn list<T>(part: &Part<T>, show: impl Fn(&T) -> Value) -> Value {
    let data: Vec<Value> = part.items.iter().map(show).collect();
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": part.has_more,
        "data": data,
    })
}

/// What stays of a thing that was deleted.
fn deleted(id: &str, object: &str) -> Json<Value> {
    Json(json!({ "id": id, "object": object, "deleted": true }))
}

type Created = (StatusCode, Json<Value>);

fn created(body: Value) -> Created {
    (StatusCode::CREATED, Json(body))
}

/// Unix ms as the API shows time: whole seconds.
fn seconds(ms: i64) -> i64 {
    ms.div_euclid(1000)
}
