//! Who asks: a key of the configuration, or anyone on this machine in open mode.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::App;
use crate::error::{Code, Error};

/// Who may ask.
#[derive(Debug)]
pub enum Auth {
    /// Anyone who reaches the loopback listener, but no web page.
    Open,
    /// Holders of these keys.
    Keys(Vec<StaticKey>),
}

/// A key of the configuration.
#[derive(Clone, Debug)]
pub struct StaticKey {
    /// Its name, in logs and answers.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// Models it may use; `*` stands for any run of characters.
    pub models: Vec<String>,
}

/// The caller.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The key's name.
    pub name: String,
    /// Models it may use.
    models: Arc<Vec<String>>,
}

impl Tenant {
    /// Refuses a model the key may not use.
    pub(super) fn check_model(&self, model: &str) -> Result<(), Error> {
        if self.models.iter().any(|pattern| matches(pattern, model)) {
            return Ok(());
        }
        let allowed = self.models.join(", ");
        let message = format!("this key may not use {model:?}; it may use {allowed}");
        Err(Error::new(Code::ModelNotAllowed, message).param("model"))
    }
}

/// Whether a pattern with `*` covers a name.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|i| tail.is_char_boundary(*i))
                .any(|i| matches(rest, &tail[i..]))
        }),
    }
}

/// Lets holders of a key pass.
pub(super) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticate(&app.auth, request.headers()) {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(tenant);
            response
        }
        Err(error) => error.into_response(),
    }
}

fn authenticate(auth: &Auth, headers: &HeaderMap) -> Result<Tenant, Error> {
    let keys = match auth {
        Auth::Open => {
            let models = Arc::new(vec!["*".to_owned()]);
            return Ok(Tenant { name: "open".to_owned(), models });
        }
        Auth::Keys(keys) => keys,
    };
    let refused = |message: &str| Err(Error::new(Code::InvalidApiKey, message));
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return refused("the key is missing; send it as 'authorization: Bearer <key>'");
    };
    let token = value.to_str().ok().and_then(|v| {
        let (scheme, token) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let Some(token) = token.filter(|t| !t.is_empty()) else {
        return refused("the key is malformed; send it as 'authorization: Bearer <key>'");
    };
    let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    // Every key is compared, so the time says nothing about which one was near.
    let found = keys.iter().fold(None, |found, key| {
        if bool::from(key.sha256.ct_eq(&digest)) { Some(key) } else { found }
    });
    match found {
        Some(key) => Ok(Tenant { name: key.name.clone(), models: Arc::new(key.models.clone()) }),
        None => refused("the key is not known here"),
    }
}

/// In open mode a web page must not spend the operator's keys: refuses a `Host` that is not
/// this machine (DNS rebinding) and any foreign `Origin`.
pub(super) async fn guard_open_mode(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(app.auth, Auth::Open)
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
    fn patterns_cover_names() {
        for (pattern, name, yes) in [
            ("*", "anything/at-all", true),
            ("flux-*", "flux-1-dev", true),
            ("flux-*", "fal/flux-1-dev", false),
            ("*/flux-*", "fal/flux-1-dev", true),
            ("gpt-image-2", "gpt-image-2", true),
            ("gpt-image-2", "gpt-image-2.5", false),
            ("*-pro", "flux-1.1-pro", true),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
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
