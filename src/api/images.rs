//! `POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`: one road for all.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, Query, State, rejection::QueryRejection},
    http::{HeaderMap, Method, request::Parts},
    response::{IntoResponse as _, Response},
};
use providers::catalog::Task;
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
    request::{self, Generation, Kind},
    shape::{EditsRequest, ImagesRequest, ImagesResponse},
    stream::Events,
    upload::{self, Upload},
};
use crate::{
    engine::{
        Plan,
        candidate::Candidate,
        request::{Adjustment, AdjustmentKind, MaskMarks},
    },
    error::{Code, Error},
};

/// What the query may say.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Options {
    /// Plan and price every candidate, and call nobody.
    #[serde(default)]
    dry_run: bool,
}

/// What stands around the body of a call.
#[derive(Debug)]
pub(super) struct Around {
    begun: std::time::Instant,
    tenant: Tenant,
    request_id: RequestId,
    line: Option<Line>,
    options: Options,
    manner: Manner,
}

impl FromRequestParts<Arc<App>> for Around {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Error> {
        let begun = std::time::Instant::now();
        let options = Query::from_request_parts(parts, app).await;
        let Query(options) = options
            .map_err(|e: QueryRejection| Error::invalid("dry_run", e.body_text().to_lowercase()))?;
        let missing = || Error::internal("a call without a caller");
        Ok(Self {
            begun,
            tenant: parts.extensions.get::<Tenant>().cloned().ok_or_else(missing)?,
            request_id: parts.extensions.get::<RequestId>().cloned().ok_or_else(missing)?,
            line: parts.extensions.get::<Line>().cloned(),
            options,
            manner: Manner::of(&parts.headers)?,
        })
    }
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
    around: Around,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let bytes = body::read(&headers, body, app.json_limit).await?;
    let fields = body::object(&headers, &bytes)?;
    let upload = Upload::without_pictures(fields);
    around.serve(app, "/v1/images/generations", Kind::Generation, upload).await
}

/// Draw pictures from a text and pictures; with `mode`, make one larger or cut its subject out.
#[utoipa::path(
    post,
    path = "/v1/images/edits",
    request_body(content(
        (EditsRequest = "multipart/form-data"),
        (EditsRequest = "application/json"),
    )),
    params(("dry_run" = Option<bool>, Query, description = "plan and price, and call nobody")),
    responses(
        (status = 200, description = "the pictures", body = ImagesResponse),
        (status = "default", description = "an error", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    around: Around,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let upload = upload(&app, &headers, body).await?;
    around.serve(app, "/v1/images/edits", Kind::Edit, upload).await
}

/// Draw pictures like another one.
#[utoipa::path(
    post,
    path = "/v1/images/variations",
    request_body(content(
        (EditsRequest = "multipart/form-data"),
        (EditsRequest = "application/json"),
    )),
    params(("dry_run" = Option<bool>, Query, description = "plan and price, and call nobody")),
    responses(
        (status = 200, description = "the pictures", body = ImagesResponse),
        (status = "default", description = "an error", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn vary(
    State(app): State<Arc<App>>,
    around: Around,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let upload = upload(&app, &headers, body).await?;
    around.serve(app, "/v1/images/variations", Kind::Variation, upload).await
}

/// A body with at least one picture.
async fn upload(app: &App, headers: &HeaderMap, body: Body) -> Result<Upload, Error> {
    let limits = upload::Limits { json: app.json_limit, file: app.upload_limit };
    let upload = Upload::read(headers, body, limits, app.engine.transport.budget()).await?;
    if upload.count() == 0 {
        return Err(Error::invalid("image", "image is missing: send one to sixteen pictures"));
    }
    Ok(upload)
}

impl Around {
    async fn serve(
        self,
        app: Arc<App>,
        route: &'static str,
        kind: Kind,
        mut upload: Upload,
    ) -> Result<Response, Error> {
        let fingerprint = call::fingerprint(&Method::POST, route, &upload.printed());
        let fields = std::mem::take(&mut upload.fields);
        let Generation { mut request, heartbeat, stream } = request::read(kind, fields)?;
        if upload.has_mask() && request.task != Task::ImageEdit {
            let message = "a mask is for edits";
            return Err(Error::new(Code::UnsupportedParameter, message).param("mask"));
        }
        if !upload.has_mask() && request.mask_marks != MaskMarks::Transparent {
            return Err(Error::invalid("mask_marks", "there is no mask that marks anything"));
        }
        for model in &request.models {
            self.tenant.check_model(model)?;
        }
        let call = Call {
            request_id: self.request_id.0,
            line: self.line,
            route,
            manner: self.manner,
            fingerprint,
            heartbeat: heartbeat || self.tenant.grant.heartbeat,
            stream: stream.then(|| Events::of(kind)),
            begun: self.begun,
            tenant: self.tenant,
        };
        if !self.options.dry_run
            && let Some(seat) = call.repeated(&app).await?
        {
            return call.answer(&app, seat).await;
        }
        let mut left = None;
        if upload.has_links() {
            // Nobody makes us fetch faster than it may ask.
            app.engine.check_models(&request)?;
            match limits::admit(&app, &call.tenant, request.n).await {
                Ok(states) => left = Some(states),
                Err(limited) => return Ok(limited.into()),
            }
        }
        let pictures = upload.pictures(&app.engine, app.upload_limit).await?;
        (request.given, request.mask) = (pictures.images, pictures.mask);
        let mut plan = app.engine.plan(&request)?;
        if self.options.dry_run {
            app.engine.use_own_keys(&mut plan, &call.tenant.grant.project);
            return Ok(Json(dry_run(&app, &plan, request.verbose)).into_response());
        }
        if plan.candidates.is_empty() {
            return Err(plan.refusal(&app.engine));
        }
        app.engine.check_mask(&request).await?;
        let left = match left {
            Some(left) => left,
            None => match limits::admit(&app, &call.tenant, request.n).await {
                Ok(left) => left,
                Err(limited) => return Ok(limited.into()),
            },
        };
        let answered = match call.open(&app, plan, request).await {
            Ok(seat) => call.answer(&app, seat).await,
            Err(error) => Err(error),
        };
        let mut response = answered.unwrap_or_else(axum::response::IntoResponse::into_response);
        limits::tell(&mut response, &left);
        Ok(response)
    }
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
