//! Who operates: the holder of the configuration's admin key, or of one in the database.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::{
    api::{App, auth},
    error::Error,
    tenant::{
        self,
        directory::Refused,
        key::{self, Kind, Malformed},
        role::Actor,
        store::{StoreError, admin_keys},
    },
};

/// Lets operators pass.
pub(super) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticate(&app, request.headers()).await {
        Ok(actor) => {
            request.extensions_mut().insert(actor.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(actor);
            response
        }
        Err(error) => error.into_response(),
    }
}

async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Actor, Error> {
    let admin = app.admin()?;
    let token = auth::token(headers)?;
    let pepper = app.auth.directory().pepper();
    if pepper.same(token, admin.key.expose()) {
        return Ok(Actor::above_all("config"));
    }
    let presented = key::read(Kind::Admin, token).map_err(|why| {
        auth::refusal(match why {
            Malformed::Foreign => Refused::Unknown,
            Malformed::Mistyped => Refused::Mistyped,
        })
    })?;
    // Asked each time: what an operator may do is never remembered.
    admin_keys::authenticate(&admin.db, pepper, presented, tenant::now())
        .await
        .map_err(StoreError::from)?
        .ok_or_else(|| auth::refusal(Refused::Unknown))
}
