//! `/admin/v1/usage`, `/admin/v1/credits` and `/admin/v1/reconciliation`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use providers::money::Money;
use serde_json::{Value, json};

use super::Fields;
use crate::{
    api::{
        App,
        usage::{Format, Query},
    },
    db::{Db, Durability},
    error::Error,
    jobs::Desk,
    tenant::{
        self, DEFAULT,
        budgets::{USD, parse_amount},
        role::{Act, Actor},
        store::{Entry, StoreError, audit, name, permit},
    },
    usage::{
        credits::{self, Funding},
        params::Params,
        reconcile,
        report::{Question, Report, Whose},
    },
};

/// The organisation that is asked about: the one named, else the operator's own; none is all.
pub(super) fn org(actor: &Actor, named: Option<String>) -> Result<Option<String>, Error> {
    let org = named.or_else(|| actor.org.clone());
    if let Some(org) = &org {
        permit(actor, Act::Read, org, "organisation", org)?;
    }
    Ok(org)
}

/// Refuses operators of one organisation what is about all of them.
pub(super) fn above_all(actor: &Actor) -> Result<(), Error> {
    if actor.org.is_none() {
        return Ok(());
    }
    let message = "this is about all organisations; it takes an operator above all of them";
    Err(StoreError::Denied(message.to_owned()).into())
}

/// What was used, of every key the operator sees.
#[utoipa::path(
    get, path = "/admin/v1/usage",
    params(
        ("from" = Option<String>, Query, description = "a date, RFC 3339 or Unix seconds"),
        ("to" = Option<String>, Query, description = "not included"),
        ("group_by" = Option<String>, Query, description = "org, day, key, project, model, \
            provider, label, unit"),
        ("org" = Option<String>, Query), ("project" = Option<String>, Query),
        ("key" = Option<String>, Query), ("model" = Option<String>, Query),
        ("provider" = Option<String>, Query), ("unit" = Option<String>, Query),
        ("label.NAME" = Option<String>, Query), ("limit" = Option<u32>, Query),
        ("after" = Option<String>, Query), ("format" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list of sums, or CSV", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn usage(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Query(mut params): Query,
) -> Result<Response, Error> {
    let format = Format::read(&mut params, &headers)?;
    let report = report(app.db(), &actor, params).await?;
    let next = report.next();
    Ok(format.answer("usage", next.as_deref(), || report.to_json(), || report.to_table()))
}

/// The report that a query asks for.
pub(crate) async fn report(db: &Db, actor: &Actor, mut params: Params) -> Result<Report, Error> {
    let whose = Whose {
        org: org(actor, params.take("org")?)?,
        project: params.take("project")?,
        key: params.take("key")?,
    };
    let question = Question::read(&mut params, whose, true, tenant::now())?;
    params.finish()?;
    Ok(question.answer(db).await?)
}

/// The credits of an organisation.
#[utoipa::path(
    get, path = "/admin/v1/credits",
    params(("org" = Option<String>, Query, description = "the operator's own, or default")),
    responses((status = 200, description = "what was bought, used and is left", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn credits(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Query(params): Query,
) -> Result<Json<Value>, Error> {
    of_org(app.db(), &actor, params).await.map(Json)
}

/// The credits that a query asks for.
pub(crate) async fn of_org(db: &Db, actor: &Actor, mut params: Params) -> Result<Value, Error> {
    let org = org(actor, params.take("org")?)?.unwrap_or_else(|| DEFAULT.to_owned());
    params.finish()?;
    match credits::of_org(db, &org).await? {
        Some(credits) => Ok(credits.to_json()),
        None => Err(StoreError::not_found("organisation", org).into()),
    }
}

/// Adds credits that an organisation bought. The same `id` again adds nothing.
#[utoipa::path(
    post, path = "/admin/v1/credits",
    request_body(content = Object, description = "org; amount_usd: a decimal text; id: the \
        caller's own for this funding, such as the invoice's number; memo"),
    responses(
        (status = 201, description = "the credits", body = Object),
        (status = 200, description = "it was added before", body = Object),
        (status = 422, description = "the id was used for something else",
         body = crate::api::shape::ErrorResponse),
    ),
    security(("admin" = []))
)]
pub(super) async fn fund(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    fields: Fields,
) -> Result<(StatusCode, Json<Value>), Error> {
    let (credits, is_new) = add(&app.engine.desk, &actor, fields).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(credits)))
}

fn funding(mut fields: Fields) -> Result<Funding, Error> {
    let org = fields.need("org")?;
    let amount = fields.need("amount_usd")?;
    let funding = Funding {
        id: name("id", &fields.need("id")?)?,
        amount: parse_amount(USD, &amount).map_err(|e| Error::invalid("amount_usd", e))?,
        memo: fields.text("memo")?.map(|memo| name("memo", &memo)).transpose()?.unwrap_or_default(),
        org,
    };
    fields.end()?;
    Ok(funding)
}

/// Adds credits as a body says, and writes who did it into the log; gives whether it was new. How
/// an organisation pays is not its own business, so its own operators cannot.
pub(crate) async fn add(
    desk: &Desk,
    actor: &Actor,
    fields: Fields,
) -> Result<(Value, bool), Error> {
    let funding = funding(fields)?;
    permit(actor, Act::Manage, &funding.org, "organisation", &funding.org)?;
    above_all(actor)?;
    let missing = || StoreError::not_found("organisation", &funding.org);
    credits::of_org(desk.db(), &funding.org).await?.ok_or_else(missing)?;
    let now = tenant::now();
    let is_new = funding.book(desk, now).await?;
    // Also when it was booked before: whoever did that may have ended before the log knew it. Its
    // place in the log is that of the funding, so it stands there once.
    let amount = Money::from_nanos(funding.amount);
    let detail = json!({"id": funding.id, "amount_usd": amount, "memo": funding.memo});
    let entry = Entry::new(actor, &funding.org, "credits.add", &funding.org, detail);
    let line = funding.log_id(desk.db()).await?;
    let logged = desk.db().transaction(Durability::Full, move |tx| {
        let (entry, line) = (entry.clone(), line.clone());
        Box::pin(async move { audit::write_as(tx, line, &entry, now).await })
    });
    logged.await.map_err(StoreError::from)?;
    let credits = credits::of_org(desk.db(), &funding.org).await?.ok_or_else(missing)?;
    Ok((credits.to_json(), is_new))
}

/// What providers cost by our price list and by their own word, to hold against their invoices.
#[utoipa::path(
    get, path = "/admin/v1/reconciliation",
    params(
        ("from" = Option<String>, Query), ("to" = Option<String>, Query),
        ("group_by" = Option<String>, Query, description = "day,provider,model by default; \
            also credential"),
        ("provider" = Option<String>, Query), ("limit" = Option<u32>, Query),
        ("format" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list, or CSV; difference_usd is null where the \
        provider did not name every price", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn reconciliation(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Query(mut params): Query,
) -> Result<Response, Error> {
    above_all(&actor)?;
    let format = Format::read(&mut params, &headers)?;
    let question = reconcile::Question::read(&mut params, tenant::now())?;
    params.finish()?;
    let costs = question.answer(app.db()).await?;
    Ok(format.answer("reconciliation", None, || costs.to_json(), || costs.to_table()))
}
