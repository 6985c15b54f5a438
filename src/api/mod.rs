//! The HTTP API: OpenAI's shapes in and out, and nothing else. The only part that knows them.
//!
//! A request passes, in this order: [`observe`] (request id, panic guard, log line),
//! [`auth`] (who asks), the route's handler, and [`render`] for whatever went wrong.

pub mod admin;
mod answer;
pub mod auth;
mod body;
mod call;
mod callbacks;
mod health;
mod images;
mod jobs;
mod limits;
pub mod line;
mod media;
mod metrics;
mod models;
mod observe;
mod openapi;
mod path;
mod render;
mod request;
mod shape;
mod stream;
mod upload;
mod usage;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::Method,
    middleware,
    routing::{get, post},
};

use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    db::Db,
    engine::Engine,
    error::{Code, Error},
};

pub use self::{admin::document as admin_openapi_document, openapi::document as openapi_document};

/// What every handler can reach.
#[derive(Debug)]
pub struct App {
    /// Does the work.
    pub engine: Arc<Engine>,
    /// Who may ask.
    pub auth: auth::Auth,
    /// What operators work with, where they have a credential.
    pub admin: Option<admin::Admin>,
    /// How fast keys may ask.
    pub limiter: crate::limit::Limiter,
    /// Largest JSON body, bytes.
    pub json_limit: usize,
    /// Largest file of a form, bytes.
    pub upload_limit: u64,
    /// Longest time a caller is kept waiting before it is told that its job still runs.
    pub wait: std::time::Duration,
    /// How long a caller that wants it hears nothing before white space is sent, and between two.
    pub heartbeat: std::time::Duration,
    /// Web origins that may call from a browser.
    pub cors_origins: Vec<String>,
    /// Set once the process is told to stop.
    pub draining: AtomicBool,
    /// Fires when those who still wait for a job are to be told to come back.
    pub closing: tokio_util::sync::CancellationToken,
}

impl App {
    /// Where money, keys and jobs are kept.
    fn db(&self) -> &Db {
        self.engine.desk.db()
    }

    /// Tells load balancers that no more work is wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

/// The routes of the data listener.
pub fn router(app: Arc<App>, cors_origins: &[String]) -> Router {
    let open = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::serve))
        .route("/media/{signed}", get(media::serve))
        .route("/callbacks/{provider}/{job}/{attempt}/{mac}", post(callbacks::receive));
    let keyed = Router::new()
        .route("/v1/images/generations", post(images::generate))
        .route("/v1/images/edits", post(images::edit))
        .route("/v1/images/variations", post(images::vary))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/jobs/{id}", get(jobs::retrieve).delete(jobs::cancel))
        .route("/v1/jobs/{id}/result", get(jobs::result))
        .route("/v1/usage", get(usage::usage))
        .route("/v1/credits", get(usage::credits))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::require));
    open.merge(keyed)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::guard_open_mode))
        .layer(cors(cors_origins))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe::observe))
        .with_state(app)
}

/// The routes of the operator's listener.
pub fn admin_router(app: Arc<App>) -> Router {
    let open = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(admin::openapi))
        .route("/metrics", get(metrics::serve));
    let keyed = if app.admin.is_some() { admin::router(&app) } else { Router::new() };
    open.merge(keyed)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// What browsers of the named origins may do; none are named by default.
fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| o.parse().ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(tower_http::cors::Any)
        .expose_headers(tower_http::cors::Any)
}

async fn unknown_path(uri: axum::http::Uri) -> Error {
    Error::new(Code::NotFound, format!("there is no {}; see /openapi.json", uri.path()))
}

async fn wrong_method(method: Method, uri: axum::http::Uri) -> Error {
    Error::new(Code::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}
