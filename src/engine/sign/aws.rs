//! Signature version 4: every request is signed by itself, body included.
//!
//! The body is hashed piece by piece before it is sent, for pictures are streamed into it.
//! `UNSIGNED-PAYLOAD` would spare that, but only S3 takes it.

use std::{fmt, time::SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::{SignError, Unsigned};
use crate::config::AwsKeys;

/// The keys of an AWS account, and what they sign for.
pub(super) struct Keys {
    credentials: Credentials,
    service: String,
    region: String,
}

impl fmt::Debug for Keys {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(keys: &AwsKeys, service: &str, region: &str) -> Self {
        let token = keys.session_token.as_ref().map(|token| token.expose().clone());
        let secret = keys.secret_key.expose().clone();
        Self {
            credentials: Credentials::new(
                keys.access_key.clone(),
                secret,
                token,
                None,
                "configuration",
            ),
            service: service.to_owned(),
            region: region.to_owned(),
        }
    }

    pub(super) async fn headers(&self, request: &Unsigned<'_>) -> Result<HeaderMap, SignError> {
        let hash = match request.body {
            Some(body) => body.sha256().await.map_err(|e| SignError::Unsigned(e.into()))?,
            None => Sha256::digest(b"").into(),
        };
        self.signed(request, &hash, SystemTime::now())
    }

    fn signed(
        &self,
        request: &Unsigned<'_>,
        hash: &[u8; 32],
        now: SystemTime,
    ) -> Result<HeaderMap, SignError> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| SignError::Unsigned(e);
        let identity = self.credentials.clone().into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(now)
            .settings(settings)
            .build()
            .map_err(|e| failed(e.into()))?
            .into();
        let described = [CONTENT_TYPE, CONTENT_LENGTH];
        let described = described
            .iter()
            .filter_map(|name| Some((name.as_str(), request.headers.get(name)?.to_str().ok()?)));
        let body = SignableBody::Precomputed(hex::encode(hash));
        let signable = SignableRequest::new(request.method, request.url, described, body)
            .map_err(|e| failed(e.into()))?;
        let (added, _) = sign(signable, &params).map_err(|e| failed(e.into()))?.into_parts();
        let mut headers = HeaderMap::new();
        for (name, value) in added.headers() {
            let name = HeaderName::try_from(name).map_err(|e| failed(e.into()))?;
            let mut value = HeaderValue::try_from(value)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;

    /// "post-x-www-form-urlencoded" of AWS's published signature test suite, and the same with
    /// parameters.
    #[test]
    fn the_published_vectors_are_signed_as_published() {
        let keys = AwsKeys {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: None,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_mins(24_015_636);
        for (kind, body, signature) in VECTORS {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            let request = Unsigned {
                method: "POST",
                url: "https://example.amazonaws.com/",
                headers: &headers,
                body: None,
            };
            let keys = Keys::new(&keys, "service", "us-east-1");
            let signed = keys.signed(&request, &Sha256::digest(body).into(), at).unwrap();
            let said = signed["authorization"].to_str().unwrap();
            assert_eq!(
                said,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders=content-length;content-type;host;x-amz-content-sha256;x-amz-date, \
                     Signature={signature}"
                )
            );
            assert_eq!(signed["x-amz-date"], "20150830T123600Z");
            assert!(!format!("{keys:?} {signed:?}").contains("wJalr"));
        }
    }

    const VECTORS: [(&str, &[u8], &str); 2] = [
        (
            "application/x-www-form-urlencoded",
            b"Param1=value1",
            "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        ),
        (
            "application/x-www-form-urlencoded; charset=utf-8",
            b"Param1=value1",
            "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
        ),
    ];
}
