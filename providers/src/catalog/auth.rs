//! How a vendor knows who calls.

use std::collections::BTreeMap;

use serde::Deserialize;

/// How a vendor takes its key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// What proves who calls.
    #[serde(default)]
    pub kind: AuthKind,
    /// The header, in lower case.
    pub header: String,
    /// What stands before the key, with the space where there is one.
    #[serde(default)]
    pub prefix: String,
    /// The environment variables the key usually lives in, the usual one first.
    pub env: Vec<String>,
    /// What a token is asked for, with [`AuthKind::Google`].
    #[serde(default)]
    pub scope: String,
    /// The service's name in signatures, with [`AuthKind::Sigv4`].
    #[serde(default)]
    pub service: String,
}

impl Auth {
    /// Whether there is another credential than a key.
    pub fn needs_signing(&self) -> bool {
        matches!(self.kind, AuthKind::Google | AuthKind::Sigv4)
    }

    /// What signs a request is named, and what stands in for the base URL can come about.
    pub(super) fn check(
        &self,
        settings: &BTreeMap<String, String>,
        base_urls: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        if (self.kind == AuthKind::Google) == self.scope.is_empty() {
            return Err("auth: a scope goes with kind \"google\", and with no other".to_owned());
        }
        if (self.kind == AuthKind::Sigv4) == self.service.is_empty() {
            return Err("auth: a service goes with kind \"sigv4\", and with no other".to_owned());
        }
        if self.kind == AuthKind::Sigv4 && !settings.contains_key("region") {
            return Err("auth: kind \"sigv4\" needs the setting region".to_owned());
        }
        let comes = |when: &&String| match when.split_once('=') {
            Some((name, _)) => settings.contains_key(name),
            None => *when == "api_key" && self.needs_signing(),
        };
        match base_urls.keys().find(|when| !comes(when)) {
            Some(when) => Err(format!("base_urls: {when:?} never comes about")),
            None => Ok(()),
        }
    }
}

/// What proves to a vendor who calls. Where there is more than a key, a key does too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthKind {
    /// A key in a header.
    #[default]
    Key,
    /// The same, where the server asks for one.
    Optional,
    /// An OAuth token that Google gives to a service account.
    Google,
    /// A signature of every request with AWS keys; the region is the setting `region`.
    Sigv4,
}
