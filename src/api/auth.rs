//! Who asks: the holder of a key, or anyone on this machine in open mode.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::App;
use crate::{
    error::{Code, Error},
    tenant::{
        self, Grant,
        directory::{Directory, Refused},
        pattern,
    },
};

/// Who may ask.
#[derive(Debug)]
pub struct Auth {
    directory: Arc<Directory>,
    is_open: bool,
}

impl Auth {
    /// Holders of a key may ask; in open mode anyone who reaches the loopback listener, but no web
    /// page.
    pub fn new(directory: Arc<Directory>, is_open: bool) -> Self {
        Self { directory, is_open }
    }

    /// All keys.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }
}

/// The caller.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// What logs call it: the id of its key, or the name that the configuration gave it.
    pub name: String,
    /// What it may do.
    pub(super) grant: Arc<Grant>,
}

impl Tenant {
    fn new(grant: Arc<Grant>) -> Self {
        // Names of keys in the database are for people; two organisations may use the same.
        let is_named = grant.key_id.starts_with("static:");
        let name = if is_named { &grant.key_name } else { &grant.key_id };
        Self { name: name.clone(), grant }
    }

    /// Refuses a model the key may not use.
    pub(super) fn check_model(&self, model: &str) -> Result<(), Error> {
        if pattern::any_covers(&self.grant.models, model) {
            return Ok(());
        }
        let allowed = self.grant.models.join(", ");
        let message = format!("this key may not use {model:?}; it may use {allowed}");
        Err(Error::new(Code::ModelNotAllowed, message).param("model"))
    }

    fn check_endpoint(&self, path: &str) -> Result<(), Error> {
        if pattern::any_covers(&self.grant.endpoints, path) {
            return Ok(());
        }
        let allowed = self.grant.endpoints.join(", ");
        let message = format!("this key may not use {path}; it may use {allowed}");
        Err(Error::new(Code::EndpointNotAllowed, message))
    }
}

/// Lets holders of a key pass.
pub(super) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let tenant = match authenticate(&app.auth, request.headers()).await {
        Ok(tenant) => tenant,
        Err(error) => return error.into_response(),
    };
    let mut response = match tenant.check_endpoint(request.uri().path()) {
        Ok(()) => {
            request.extensions_mut().insert(tenant.clone());
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(tenant);
    response
}

async fn authenticate(auth: &Auth, headers: &HeaderMap) -> Result<Tenant, Error> {
    let grant = if auth.is_open {
        auth.directory.open()
    } else {
        auth.directory.authenticate(token(headers)?, tenant::now()).await
    };
    grant.map(Tenant::new).map_err(refusal)
}

/// The key of a request: `authorization: Bearer <key>`, or `x-api-key: <key>` as Anthropic's SDKs
/// send it.
pub(super) fn token(headers: &HeaderMap) -> Result<&str, Error> {
    let refused = |message: &str| Err(Error::new(Code::InvalidApiKey, message));
    let text = |name: &str| Some(headers.get(name)?.to_str().unwrap_or_default());
    let token = match (text(header::AUTHORIZATION.as_str()), text("x-api-key")) {
        (Some(value), _) => value.split_once(' ').and_then(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        }),
        (None, Some(value)) => Some(value.trim()),
        (None, None) => {
            return refused("the key is missing; send it as 'authorization: Bearer <key>'");
        }
    };
    match token {
        Some(token) if !token.is_empty() => Ok(token),
        _ => refused("the key is malformed; send it as 'authorization: Bearer <key>'"),
    }
}

/// One answer for every key that is not good: nothing tells an unknown one from a revoked one.
pub(super) fn refusal(why: Refused) -> Error {
    match why {
        Refused::Unknown => {
            Error::new(Code::InvalidApiKey, "the key is not known here, was revoked or has expired")
        }
        Refused::Mistyped => Error::new(
            Code::InvalidApiKey,
            "the key is incomplete or mistyped: copy it again, whole",
        ),
        Refused::Unavailable(source) => {
            let error = unavailable();
            match source {
                Some(source) => error.because(source),
                None => error,
            }
        }
    }
}

/// The database does not answer, so nothing can be said.
pub(super) fn unavailable() -> Error {
    Error::new(Code::StoreUnavailable, "the database does not answer; come back in a moment")
        .retry_after(Some(std::time::Duration::from_secs(2)))
}

/// In open mode a web page must not spend the operator's keys: refuses a `Host` that is not
/// this machine (DNS rebinding) and any foreign `Origin`.
pub(super) async fn guard_open_mode(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if app.auth.is_open
        && let Err(error) = check_local(&request, &app.cors_origins)
    {
        return error.into_response();
    }
    next.run(request).await
}

fn check_local(request: &Request, origins: &[String]) -> Result<(), Error> {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let host =
        text(header::HOST).or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    if !host.is_some_and(is_loopback) {
        return Err(Error::new(
            Code::EndpointNotAllowed,
            "this gateway runs without keys and answers to localhost only; \
             give it keys to use another host name",
        ));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let local = origin.split_once("://").is_some_and(|(_, host)| is_loopback(host));
        if !local && !origins.iter().any(|o| o == origin) {
            return Err(Error::new(
                Code::EndpointNotAllowed,
                "this gateway runs without keys and does not serve web pages of other origins",
            ));
        }
    }
    Ok(())
}

/// Whether an authority names this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_from_either_header() {
        for (headers, wanted) in [
            (vec![("authorization", "Bearer k")], Ok("k")),
            (vec![("authorization", "BEARER  k ")], Ok("k")),
            (vec![("x-api-key", " k ")], Ok("k")),
            (vec![("authorization", "Bearer a"), ("x-api-key", "b")], Ok("a")),
            (vec![("authorization", "Basic a"), ("x-api-key", "b")], Err("malformed")),
            (vec![("authorization", "k")], Err("malformed")),
            (vec![("authorization", "Bearer ")], Err("malformed")),
            (vec![("x-api-key", "")], Err("malformed")),
            (vec![], Err("missing")),
        ] {
            let map: HeaderMap = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<Vec<(header::HeaderName, header::HeaderValue)>>()
                .into_iter()
                .collect();
            match (token(&map), wanted) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{headers:?}"),
                (Err(got), Err(part)) => {
                    assert_eq!(got.code, Code::InvalidApiKey);
                    assert!(got.message.contains(part), "{headers:?}: {got}");
                }
                (got, want) => panic!("{headers:?}: {got:?}, wanted {want:?}"),
            }
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        for (host, yes) in [
            ("localhost", true),
            ("LOCALHOST:4000", true),
            ("127.0.0.1:4000", true),
            ("127.8.8.8", true),
            ("[::1]:4000", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:4000", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), yes, "{host}");
        }
    }
}
