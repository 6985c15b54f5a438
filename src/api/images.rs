//! `POST /v1/images/generations`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, Method},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    App, answer,
    auth::Tenant,
    body,
    call::{self, Call, Manner},
    limits,
    line::Line,
    observe::RequestId,
    request::{self, Generation},
    shape::{ImagesRequest, ImagesResponse},
};
use crate::{
    engine::{
        Plan,
        candidate::Candidate,
        request::{Adjustment, AdjustmentKind},
    },
    error::Error,
};

const ROUTE: &str = "/v1/images/generations";

/// What the query may say.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Options {
    /// Plan and price every candidate, and call nobody.
    #[serde(default)]
    dry_run: bool,
}

/// Draw pictures from a text.
#[utoipa::path(
    post,
    path = "/v1/images/generations",
    request_body = ImagesRequest,
    params(("dry_run" = Option<bool>, Query, description = "plan and price, and call nobody")),
    responses(
        (status = 200, description = "the pictures", body = ImagesResponse),
        (status = "default", description = "an error", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn generate(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Extension(request_id): Extension<RequestId>,
    line: Option<Extension<Line>>,
    options: Result<Query<Options>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let begun = std::time::Instant::now();
    let Query(options) =
        options.map_err(|e| Error::invalid("dry_run", e.body_text().to_lowercase()))?;
    let manner = Manner::of(&headers)?;
    let bytes = body::read(&headers, body, app.json_limit).await?;
    let body = body::object(&headers, &bytes)?;
    let fingerprint = call::fingerprint(&Method::POST, ROUTE, &body);
    let Generation { request, heartbeat } = request::generation(body)?;
    for model in &request.models {
        tenant.check_model(model)?;
    }
    if options.dry_run {
        let mut plan = app.engine.plan(&request)?;
        app.engine.use_own_keys(&mut plan, &tenant.grant.project);
        return Ok(Json(dry_run(&app, &plan, request.verbose)).into_response());
    }
    let call = Call {
        request_id: request_id.0,
        line: line.map(|Extension(line)| line),
        route: ROUTE,
        manner,
        fingerprint,
        heartbeat: heartbeat || tenant.grant.heartbeat,
        begun,
        tenant,
    };
    if let Some(seat) = call.repeated(&app).await? {
        return call.answer(&app, seat).await;
    }
    let plan = app.engine.plan(&request)?;
    if plan.candidates.is_empty() {
        return Err(plan.refusal(&app.engine));
    }
    let left = match limits::admit(&app, &call.tenant, request.n).await {
        Ok(left) => left,
        Err(limited) => return Ok(limited.into()),
    };
    let answered = match call.open(&app, plan, request).await {
        Ok(seat) => call.answer(&app, seat).await,
        Err(error) => Err(error),
    };
    let mut response = answered.unwrap_or_else(axum::response::IntoResponse::into_response);
    limits::tell(&mut response, &left);
    Ok(response)
}

fn dry_run(app: &App, plan: &Plan, verbose: bool) -> Value {
    let markup = app.engine.settings.markup_bp;
    let told = |c: &Candidate| -> Vec<Adjustment> {
        let all = c.adjustments.iter();
        all.filter(|a| verbose || a.kind != AdjustmentKind::Renamed).cloned().collect()
    };
    let mut candidates: Vec<Value> = plan
        .candidates
        .iter()
        .map(|c| {
            json!({
                "deployment": c.served.slug(),
                "eligible": true,
                "reason": null,
                "native": c.size.native_text(),
                "adjustments": told(c),
                "cost": c.cost.as_ref().and_then(|c| c.with_markup(markup)).map(|c| answer::cost(&c)),
            })
        })
        .collect();
    candidates.extend(plan.excluded.iter().map(|e| {
        json!({
            "deployment": e.deployment,
            "eligible": false,
            "reason": e.reason,
            "native": null,
            "adjustments": [],
            "cost": null,
        })
    }));
    json!({ "dry_run": true, "model": plan.model, "candidates": candidates })
}
