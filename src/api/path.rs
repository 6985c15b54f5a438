//! Reads the variable part of a path, with the usual error where it cannot be read.

use axum::{
    extract::{FromRequestParts, Path as AxumPath},
    http::request::Parts,
};

use crate::error::{Code, Error};

/// The variable part of a path, percent-decoded.
#[derive(Debug)]
pub(super) struct Path(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match AxumPath::from_request_parts(parts, state).await {
            Ok(AxumPath(text)) => Ok(Self(text)),
            Err(rejection) => {
                let message = "the path is not UTF-8; percent-encode it as UTF-8";
                Err(Error::new(Code::InvalidRequest, message).because(rejection))
            }
        }
    }
}
