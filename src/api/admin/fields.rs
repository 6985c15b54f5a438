//! Reads bodies and queries field after field; what is left over is named and refused.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use serde_json::{Map, Value};

use crate::{
    api::body,
    error::{Code, Error},
    tenant::store::{Change, Page},
};

const LONGEST_BODY: usize = 256 * 1024;
const USUAL_PAGE: u32 = 20;
const LONGEST_PAGE: u32 = 100;

/// The fields of a JSON body.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let bytes = body::read(&parts.headers, body, LONGEST_BODY).await?;
        body::object(&parts.headers, &bytes).map(Self)
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl Fields {
    /// A text that must be there.
    pub(crate) fn need(&mut self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| Error::invalid(name, format!("{name} is missing")))
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        self.nullable_text(name).map(Change::given)
    }

    /// A text; null clears it.
    pub(crate) fn nullable_text(&mut self, name: &str) -> Result<Change<String>, Error> {
        self.nullable(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Error> {
        let list = self.nullable(name, "a list of texts", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        });
        list.map(Change::given)
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        self.nullable(name, "true or false", Value::as_bool).map(Change::given)
    }

    /// A whole number from 0; null clears it.
    pub(crate) fn count(&mut self, name: &str) -> Result<Change<u32>, Error> {
        self.nullable(name, "a whole number from 0 to 4294967295", |value| {
            value.as_u64().and_then(|n| u32::try_from(n).ok())
        })
    }

    /// A time in Unix seconds, as Unix ms; null clears it.
    pub(crate) fn time(&mut self, name: &str) -> Result<Change<i64>, Error> {
        self.nullable(name, "a time in Unix seconds", |value| value.as_i64()?.checked_mul(1000))
    }

    /// Refuses what was not asked for.
    pub(crate) fn end(self) -> Result<(), Error> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let message = format!("{name:?} is no field of this; see /openapi.json");
                Err(Error::invalid(name.clone(), message))
            }
        }
    }

    fn nullable<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Change<T>, Error> {
        match self.0.remove(name) {
            None => Ok(Change::Keep),
            Some(Value::Null) => Ok(Change::Clear),
            // The value may be a secret: it is not shown.
            Some(value) => match read(&value) {
                Some(value) => Ok(Change::To(value)),
                None => Err(Error::invalid(name, format!("{name} must be {wanted}"))),
            },
        }
    }
}

/// The parameters of a query.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Ok(Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()))
    }
}

impl From<Vec<(String, String)>> for Params {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }
}

impl Params {
    /// One parameter; given twice, it is refused.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Error> {
        let Some(at) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        if self.0.iter().any(|(key, _)| key == name) {
            return Err(Error::invalid(name, format!("{name} is there twice")));
        }
        Ok(Some(value).filter(|value| !value.is_empty()))
    }

    /// `limit` and `after`.
    pub(crate) fn page(&mut self) -> Result<Page, Error> {
        let limit = match self.take("limit")? {
            None => USUAL_PAGE,
            Some(text) => {
                text.parse().ok().filter(|limit| (1..=LONGEST_PAGE).contains(limit)).ok_or_else(
                    || Error::invalid("limit", format!("limit must be 1 to {LONGEST_PAGE}")),
                )?
            }
        };
        Ok(Page { limit, after: self.take("after")? })
    }

    /// Refuses what was not asked for.
    pub(crate) fn end(self) -> Result<(), Error> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("{name:?} is no parameter of this; see /openapi.json");
                Err(Error::new(Code::InvalidRequest, message).param(name))
            }
        }
    }
}
