//! `/admin/v1/ledger`: transfers, accounts, and whether the books are right.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::HeaderMap, response::Response};
use serde_json::Value;

use super::usage::{above_all, org};
use crate::{
    api::{
        App,
        usage::{Format, Query},
    },
    db::Db,
    error::Error,
    tenant::role::Actor,
    usage::{
        books::{self, Accounts},
        entries::{self, Entries},
        fold,
        params::Params,
    },
};

/// Transfers, newest first.
#[utoipa::path(
    get, path = "/admin/v1/ledger",
    params(
        ("org" = Option<String>, Query),
        ("account" = Option<String>, Query, description = "on either side"),
        ("job" = Option<String>, Query),
        ("kind" = Option<String>, Query, description = "fund, hold, capture, release, expire, \
            refund, provider_cost, absorb, suspense, adjust"),
        ("from" = Option<String>, Query), ("to" = Option<String>, Query),
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("format" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list, or CSV", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Query(mut params): Query,
) -> Result<Response, Error> {
    let format = Format::read(&mut params, &headers)?;
    let entries = entries(app.db(), &actor, params).await?;
    let next = entries.next();
    Ok(format.answer("ledger", next.as_deref(), || entries.to_json(), || entries.to_table()))
}

/// The transfers that a query asks for.
pub(crate) async fn entries(db: &Db, actor: &Actor, mut params: Params) -> Result<Entries, Error> {
    let org = org(actor, params.take("org")?)?;
    let filter = entries::Filter::read(&mut params, org)?;
    params.finish()?;
    Ok(filter.answer(db).await?)
}

/// Accounts with their stored balances, and the same folded from their transfers.
#[utoipa::path(
    get, path = "/admin/v1/ledger/accounts",
    params(
        ("org" = Option<String>, Query), ("limit" = Option<u32>, Query),
        ("after" = Option<String>, Query), ("format" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list, or CSV", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn accounts(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Query(mut params): Query,
) -> Result<Response, Error> {
    let format = Format::read(&mut params, &headers)?;
    let accounts = balances(app.db(), &actor, params).await?;
    let next = accounts.next();
    Ok(format.answer("accounts", next, || accounts.to_json(), || accounts.to_table()))
}

/// The accounts that a query asks for.
pub(crate) async fn balances(
    db: &Db,
    actor: &Actor,
    mut params: Params,
) -> Result<Accounts, Error> {
    let org = org(actor, params.take("org")?)?;
    let filter = books::Filter::read(&mut params, org)?;
    params.finish()?;
    Ok(filter.answer(db).await?)
}

/// The sums of all accounts by unit; every sum is zero.
#[utoipa::path(
    get, path = "/admin/v1/ledger/trial-balance",
    responses((status = 200, description = "sums by unit", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn trial_balance(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Value>, Error> {
    above_all(&actor)?;
    Ok(Json(books::trial_balance_json(&fold::trial_balance(app.db()).await?)))
}

/// Accounts whose stored balance is not the fold of their transfers: none.
#[utoipa::path(
    get, path = "/admin/v1/ledger/drift",
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn drift(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Value>, Error> {
    drifting(app.db(), &actor).await.map(Json)
}

/// The accounts that have drifted.
pub(crate) async fn drifting(db: &Db, actor: &Actor) -> Result<Value, Error> {
    above_all(actor)?;
    Ok(books::drift_json(&fold::drift(db).await?))
}
