//! One request as the dialects see it, and what they build replies from.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value};

use super::{
    Sim,
    encode::Harm,
    faults::{Fault, Kind},
    schema::Violation,
    vendor::Vendor,
};

/// One request.
#[derive(Clone)]
pub(crate) struct Exchange {
    /// The simulator.
    pub sim: Arc<Sim>,
    /// Who is asked.
    pub vendor: Vendor,
    /// How.
    pub method: Method,
    /// The path behind the vendor's name.
    pub path: Vec<String>,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Scheme, host and base path under which the simulator was reached.
    pub origin: String,
    /// What is to go wrong.
    pub fault: Option<Fault>,
}

/// Why a vendor refuses. Each words it in its own way.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// No credential, or one in the wrong place.
    NoKey,
    /// A credential nobody knows.
    BadKey,
    /// A bearer token where a key belongs.
    WrongKeyForm,
    /// The account is empty.
    NoCredit,
    /// Too many requests; seconds to wait.
    RateLimited(u64),
    /// The vendor's own fault.
    Internal,
    /// The vendor is overloaded.
    Unavailable,
    /// The vendor's safety system refuses.
    Moderated,
    /// The body is of a type the vendor does not take.
    MediaType(String),
    /// The body does not parse.
    Malformed,
    /// No such path.
    NoRoute(String),
    /// The path exists, the method does not.
    Method(String),
    /// No such model.
    NoModel(String),
    /// A model that was switched off.
    Retired(String),
    /// No such job.
    NoJob(String),
    /// Fields that break the vendor's rules; never empty.
    Fields(Vec<Violation>),
    /// A rule of the protocol beside the fields, in words.
    Rule(String),
}

impl Exchange {
    /// What outlives the reply: everything but the body.
    pub(crate) fn after_reply(&self) -> Self {
        Self { body: Bytes::new(), ..self.clone() }
    }

    /// A header as text; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The path's segments as plain words to match on.
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// The path behind the vendor's name, joined.
    pub(crate) fn joined(&self) -> String {
        format!("/{}", self.path.join("/"))
    }

    /// The media type of the body, without parameters.
    pub(crate) fn media_type(&self) -> String {
        let kind = self.header("content-type").split(';').next().unwrap_or_default();
        kind.trim().to_ascii_lowercase()
    }

    /// The credential behind a scheme word, such as `Bearer`.
    pub(crate) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (word, key) = self.header("authorization").split_once(' ')?;
        word.eq_ignore_ascii_case(scheme).then(|| key.trim())
    }

    /// The body as an object, if it is declared as JSON and is.
    pub(crate) fn json(&self) -> Result<Map<String, Value>, Problem> {
        if self.media_type() != "application/json" {
            return Err(Problem::MediaType(self.media_type()));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            _ => Err(Problem::Malformed),
        }
    }

    /// Whether a kind of fault is to happen.
    pub(crate) fn fault(&self, kind: Kind) -> Option<&Fault> {
        self.fault.as_ref().filter(|fault| fault.kind == kind)
    }

    /// The value of the `moderated` switch, empty if it has none.
    pub(crate) fn moderated(&self) -> Option<&str> {
        self.fault(Kind::Moderated).map(|fault| fault.value.as_deref().unwrap_or_default())
    }

    /// What is to be wrong with the picture's bytes.
    pub(crate) fn harm(&self) -> Harm {
        match self.fault.as_ref().map(|fault| fault.kind) {
            Some(Kind::TruncatedImage) => Harm::Cut,
            Some(Kind::Bomb) => Harm::Bomb,
            _ => Harm::None,
        }
    }

    /// Seconds that the `slow` switch adds.
    pub(crate) fn extra_time(&self) -> Duration {
        self.fault(Kind::Slow).map_or(Duration::ZERO, |fault| {
            Duration::try_from_secs_f64(fault.number().unwrap_or(10.0)).unwrap_or_default()
        })
    }
}

/// Checks a key as every vendor of the simulator does: any will do but two.
pub(crate) fn check_key(key: Option<&str>) -> Result<(), Problem> {
    match key {
        None | Some("") => Err(Problem::NoKey),
        Some("bad-key") => Err(Problem::BadKey),
        Some("no-credit") => Err(Problem::NoCredit),
        Some(_) => Ok(()),
    }
}

/// A JSON reply.
pub(crate) fn json(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The same reply with one more header.
pub(crate) fn with(mut response: Response, name: &'static str, value: impl Display) -> Response {
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}

/// A reply of bytes.
pub(crate) fn bytes(status: StatusCode, mime: &'static str, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, mime)], body.into()).into_response()
}
