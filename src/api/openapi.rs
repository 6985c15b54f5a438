//! `/openapi.json`, generated from the handlers and the shapes.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::shape::{
    EditsRequest, ErrorBody, ErrorResponse, ImagesRequest, ImagesResponse, Picture,
};

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Mediagate", description = "One address in front of every maker of pictures."),
    paths(
        super::images::generate,
        super::images::edit,
        super::images::vary,
        super::models::list,
        super::models::retrieve,
        super::jobs::list,
        super::jobs::retrieve,
        super::jobs::result,
        super::usage::usage,
        super::usage::credits,
        super::media::serve,
        super::health::live,
        super::health::ready,
        serve,
    ),
    components(schemas(EditsRequest, ImagesRequest, ImagesResponse, Picture, ErrorResponse, ErrorBody)),
    modifiers(&Key)
)]
struct Document;

/// The document, as served.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
