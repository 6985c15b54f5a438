//! `GET /v1/usage` and `/v1/credits`: what this key spent, and may still spend.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use super::{App, auth::Tenant};
use crate::{
    error::Error,
    tenant,
    usage::{
        credits,
        csv::Table,
        params::Params,
        report::{MOST_LINES, Question, Whose},
    },
};

/// A query string.
#[derive(Debug)]
pub(super) struct Query(pub(super) Params);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Ok(Self(Params::new(pairs.into_owned().collect())))
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
}

impl Format {
    /// What `format` says, else what `accept` asks for. A table is given whole, as far as one
    /// answer goes.
    pub(super) fn read(params: &mut Params, headers: &HeaderMap) -> Result<Self, Error> {
        let format = match params.take("format")?.as_deref() {
            Some("json") => Self::Json,
            Some("csv") => Self::Csv,
            Some(other) => {
                let message = format!("there is no format {other:?}; there are json and csv");
                return Err(Error::invalid("format", message));
            }
            None if accepts_csv(headers) => Self::Csv,
            None => Self::Json,
        };
        if format == Self::Csv {
            params.usual("limit", MOST_LINES.to_string());
        }
        Ok(format)
    }

    /// The answer. `next` is where the one after it begins; CSV has it in a header.
    pub(super) fn answer(
        self,
        name: &str,
        next: Option<&str>,
        json: impl FnOnce() -> Value,
        table: impl FnOnce() -> Table,
    ) -> Response {
        if self == Self::Json {
            return Json(json()).into_response();
        }
        let mut response = table().to_csv().into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
        headers.insert(header::CONTENT_TYPE, kind);
        let file = format!("attachment; filename=\"{name}.csv\"");
        if let Ok(file) = HeaderValue::from_str(&file) {
            headers.insert(header::CONTENT_DISPOSITION, file);
        }
        if let Some(next) = next.and_then(|next| HeaderValue::from_str(next).ok()) {
            headers.insert(HeaderName::from_static("x-mediagate-next"), next);
        }
        response
    }
}

fn accepts_csv(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        range.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/csv"))
    })
}

/// What the key used, by day and by what else is wanted.
#[utoipa::path(
    get,
    path = "/v1/usage",
    params(
        ("from" = Option<String>, Query, description = "a date, RFC 3339 or Unix seconds; \
            thirty days ago by default"),
        ("to" = Option<String>, Query, description = "not included; the end of today by default"),
        ("group_by" = Option<String>, Query, description = "day (default), key, project, model, \
            provider, label, unit; several with commas"),
        ("model" = Option<String>, Query), ("provider" = Option<String>, Query),
        ("unit" = Option<String>, Query),
        ("label.NAME" = Option<String>, Query, description = "only calls with this label"),
        ("limit" = Option<u32>, Query, description = "lines, 1 to 10000"),
        ("after" = Option<String>, Query, description = "next of the page before"),
        ("format" = Option<String>, Query, description = "json or csv; accept: text/csv works too"),
    ),
    responses(
        (status = 200, description = "a list of sums, and the total of the whole span",
         body = Object),
        (status = 400, description = "a parameter is wrong", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn usage(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    headers: HeaderMap,
    Query(mut params): Query,
) -> Result<Response, Error> {
    let format = Format::read(&mut params, &headers)?;
    let whose = Whose {
        org: Some(tenant.grant.org.clone()),
        project: Some(tenant.grant.project.clone()),
        key: Some(tenant.grant.key_id.clone()),
    };
    let question = Question::read(&mut params, whose, false, tenant::now())?;
    params.finish()?;
    let report = question.answer(app.db()).await?;
    let next = report.next();
    Ok(format.answer("usage", next.as_deref(), || report.to_json(), || report.to_table()))
}

/// What the key may still spend: the least of the organisation's credits and of every budget that
/// counts money.
#[utoipa::path(
    get,
    path = "/v1/credits",
    params(("user" = Option<String>, Query, description = "tells of the budgets of this user too")),
    responses((status = 200, description = "null where there is no limit", body = Object)),
    security(("key" = []))
)]
pub(super) async fn credits(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Query(mut params): Query,
) -> Result<Json<Value>, Error> {
    let user = params.take("user")?;
    params.finish()?;
    let credits = credits::of_key(app.db(), &tenant.grant, user.as_deref(), tenant::now()).await?;
    Ok(Json(credits.to_json()))
}
