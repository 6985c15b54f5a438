//! `/admin/v1/attempts`: attempts whose outcome nobody knows, and settling them by the provider's
//! invoice.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use providers::money::Money;
use serde_json::{Value, json};

use super::{
    Fields,
    jobs::{find, note, show_attempt},
    usage::org,
};
use crate::{
    api::{App, usage::Query},
    db::{Db, Durability},
    error::{Code, Error},
    jobs::{Act, AttemptRow, AttemptState, Desk, DeskError, Settle, row::ATTEMPT_COLUMNS},
    tenant::{
        self,
        role::{self, Actor},
        store::{Entry, name, permit},
    },
    usage::{
        params::Params,
        unknown::{Filter, Unknown},
    },
};

/// More than any attempt costs: an amount beyond it is mistyped.
const MOST: Money = Money::from_nanos(1_000_000_000_000_000);

/// Attempts of finished jobs whose outcome nobody knows, the newest first.
#[utoipa::path(
    get, path = "/admin/v1/attempts",
    params(
        ("state" = Option<String>, Query, description = "unknown, which is the only one listed"),
        ("org" = Option<String>, Query), ("provider" = Option<String>, Query),
        ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
    ),
    responses((status = 200, description = "a list", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Query(params): Query,
) -> Result<Json<Value>, Error> {
    Ok(Json(unknown(app.db(), &actor, params).await?.to_json()))
}

/// The attempts that a query asks for.
pub(crate) async fn unknown(db: &Db, actor: &Actor, mut params: Params) -> Result<Unknown, Error> {
    let org = org(actor, params.take("org")?)?;
    let filter = Filter::read(&mut params, org)?;
    params.finish()?;
    Ok(filter.answer(db, tenant::now()).await?)
}

/// Says what a provider billed for an attempt whose outcome nobody knew, once.
#[utoipa::path(
    post, path = "/admin/v1/jobs/{id}/attempts/{number}/settle",
    params(("id" = String, Path), ("number" = u32, Path)),
    request_body(content = Object, description = "billed_usd: a decimal text, \"0\" where nothing \
        was billed; memo, such as the invoice's number"),
    responses((status = 200, description = "the attempt as it is now", body = Object)),
    security(("admin" = []))
)]
pub(super) async fn settle(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Path((id, number)): Path<(String, String)>,
    fields: Fields,
) -> Result<Json<Value>, Error> {
    settle_by(&app.engine.desk, &actor, &id, &number, fields).await.map(Json)
}

/// Settles an attempt as a body says.
pub(crate) async fn settle_by(
    desk: &Desk,
    actor: &Actor,
    id: &str,
    number: &str,
    mut fields: Fields,
) -> Result<Value, Error> {
    let billed = amount(&fields.need("billed_usd")?)?;
    let memo = name("memo", &fields.need("memo")?)?;
    fields.end()?;
    let job = find(desk.db(), actor, id).await?;
    let attempt = attempt(desk.db(), id, number).await?;
    // Money is not an organisation's own business.
    permit(actor, role::Act::ManageOrgs, &job.org, "job", id)?;
    if job.simulated {
        return Err(refused("the simulator drew this job: nothing was booked for it"));
    }
    if !job.state.is_final() {
        return Err(refused("the job goes on: what became of the attempt may yet be known"));
    }
    if attempt.state != AttemptState::Unknown {
        let state = attempt.state.name();
        return Err(refused(format!("the attempt is {state}, not unknown: nothing is to settle")));
    }
    let detail = json!({
        "billed_usd": billed,
        "expected_usd": attempt.expected.map(Money::from_nanos),
        "outcome": attempt.outcome,
        "memo": memo,
    });
    note(desk.db(), Entry::new(actor, &job.org, "attempt.settle", attempt.id(), detail)).await?;
    let act = Act::Settle(Settle {
        attempt: attempt.id(),
        job: job.id.clone(),
        billed: billed.nanos(),
        memo,
        at: tenant::now(),
    });
    match desk.write(&job.org, act, Durability::Full).await {
        Ok(_) => {}
        Err(DeskError::Denied(_)) => {
            return Err(refused("the attempt was settled meanwhile, and nothing was changed"));
        }
        Err(DeskError::Unavailable(source)) => {
            return Err(crate::api::auth::unavailable().because(source));
        }
    }
    let settled = self::attempt(desk.db(), id, number).await?;
    let mut shown = show_attempt(&settled);
    shown["id"] = settled.id().into();
    shown["object"] = "attempt".into();
    shown["job"] = job.id.into();
    Ok(shown)
}

fn refused(message: impl Into<String>) -> Error {
    Error::invalid("number", message)
}

fn amount(text: &str) -> Result<Money, Error> {
    let amount = text.parse::<Money>().ok().filter(|_| !text.starts_with('-'));
    amount.filter(|amount| *amount <= MOST).ok_or_else(|| {
        let message = format!(
            "billed_usd is {text:?}; write the dollars of the invoice such as \"0.04\", or \"0\" where \
             it has none: not below zero, at most nine decimals and a million"
        );
        Error::invalid("billed_usd", message)
    })
}

async fn attempt(db: &Db, job: &str, number: &str) -> Result<AttemptRow, Error> {
    let missing = || {
        let message = format!("there is no attempt {number:?} of job {job:?}");
        Error::new(Code::NotFound, message).param("number")
    };
    let wanted: u32 = number.parse().map_err(|_| missing())?;
    let sql = format!("{ATTEMPT_COLUMNS} WHERE job = $1 AND number = $2");
    let rows = db.query(sql, vec![job.into(), i64::from(wanted).into()]).await?;
    Ok(AttemptRow::from_row(rows.first().ok_or_else(missing)?)?)
}
