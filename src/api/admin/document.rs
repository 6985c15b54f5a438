//! `/openapi.json` of the admin listener.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{
    admin_keys, attempts, audit, budgets, jobs, keys, ledger, orgs, projects, provider_keys, usage,
    webhooks,
};
use crate::api::{health, metrics};

struct Credential;

impl Modify for Credential {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("admin", SecurityScheme::Http(scheme));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Mediagate for operators",
        description = "Organisations, projects, keys and what belongs to them. Only where \
                       auth.admin_key is set, and only on server.admin_listen."
    ),
    paths(
        orgs::create, orgs::list, orgs::get, orgs::update, orgs::delete,
        projects::create, projects::list, projects::get, projects::update, projects::delete,
        keys::create, keys::list, keys::get, keys::update, keys::revoke,
        admin_keys::create, admin_keys::list, admin_keys::get, admin_keys::revoke,
        provider_keys::create, provider_keys::list, provider_keys::get, provider_keys::delete,
        budgets::create, budgets::list, budgets::get, budgets::update, budgets::delete,
        webhooks::create, webhooks::list, webhooks::get, webhooks::update, webhooks::delete,
        webhooks::deliveries,
        usage::usage, usage::credits, usage::fund, usage::reconciliation,
        ledger::list, ledger::accounts, ledger::trial_balance, ledger::drift,
        jobs::list, jobs::get, jobs::cancel, jobs::refund,
        attempts::list, attempts::settle,
        audit::list,
        health::live, health::ready, metrics::serve, serve,
    ),
    components(schemas(crate::api::shape::ErrorResponse, crate::api::shape::ErrorBody)),
    modifiers(&Credential)
)]
struct Document;

/// The document, as served.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(in crate::api) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
