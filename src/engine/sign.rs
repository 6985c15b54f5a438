//! Authorisation that is more than a key in a header: made just before a request is sent.
//!
//! A service account gets a token, which is kept until shortly before it ends; with AWS keys
//! every request is signed by itself. Which of them a provider wants is data of its catalogue
//! file, what it is done with comes from the configuration.

mod aws;
mod google;

use std::error::Error as StdError;

use reqwest::{
    Client,
    header::{HeaderMap, InvalidHeaderValue},
};

use super::outgoing::Outgoing;
use crate::config::Credential;

/// Makes the headers that prove who calls.
#[derive(Debug)]
pub struct Signer(Kind);

#[derive(Debug)]
enum Kind {
    Google(Box<google::Account>),
    Aws(aws::Keys),
}

/// A request that is about to be sent.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'static str,
    pub(crate) url: &'a str,
    /// Its headers so far.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Option<&'a Outgoing>,
}

/// Why a request could not be given its headers. It has not been sent.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Those who give out tokens do not take our credential.
    #[error("the provider's sign-in refused the credential ({0})")]
    Refused(String),
    /// They did not answer, or nothing that can be read.
    #[error("the provider's sign-in did not give a token")]
    Unreachable(#[source] Box<dyn StdError + Send + Sync>),
    /// It could not be signed.
    #[error("the request could not be signed")]
    Unsigned(#[source] Box<dyn StdError + Send + Sync>),
}

impl From<InvalidHeaderValue> for SignError {
    fn from(error: InvalidHeaderValue) -> Self {
        Self::Unsigned(error.into())
    }
}

impl Signer {
    /// For a credential of the configuration; `scope`, `service` and `region` are the provider's.
    /// `None` for a private key that cannot be used.
    pub fn new(credential: &Credential, scope: &str, service: &str, region: &str) -> Option<Self> {
        Some(Self(match credential {
            Credential::Google(account) => {
                Kind::Google(google::Account::new(account, scope)?.into())
            }
            Credential::Aws(keys) => Kind::Aws(aws::Keys::new(keys, service, region)),
        }))
    }

    /// Adds the headers to those of the request.
    pub(crate) async fn sign(
        &self,
        client: &Client,
        request: Unsigned<'_>,
    ) -> Result<HeaderMap, SignError> {
        match &self.0 {
            Kind::Google(account) => account.headers(client).await,
            Kind::Aws(keys) => keys.headers(&request).await,
        }
    }

    /// Whether the provider can also be called with a key of somebody else at the same address.
    pub(crate) fn yields_to_keys(&self) -> bool {
        matches!(self.0, Kind::Aws(_))
    }

    /// The provider refused what was sent: no token is used again.
    pub(crate) async fn forget(&self) {
        if let Kind::Google(account) = &self.0 {
            account.forget().await;
        }
    }
}
