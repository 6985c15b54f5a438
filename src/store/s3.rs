//! Objects in a bucket, at Amazon or at anything that speaks its protocol.
//!
//! An object is sent as it is read, never held whole. Its SHA-256 is known before and sent as a
//! signed header, so the server refuses bytes that differ; the body itself is plain, which
//! servers that do not know chunked signing understand too.

use std::{
    fmt::{self, Write as _},
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::put_object::builders::PutObjectFluentBuilder,
    presigning::PresigningConfig,
    primitives::{ByteStream, SdkBody},
};
use aws_smithy_http_client::tls;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use providers::media::Format;

use super::{Kept, Object, ObjectMeta, ObjectStream, S3Settings, StoreError, blocking};
use crate::media::blob::{Blob, Pieces};

/// Amazon's limit for presigned links.
const MAX_PRESIGN: Duration = Duration::from_hours(7 * 24);
/// One try of an upload; the SDK makes three, and ends one that stalls much earlier.
const ATTEMPT: Duration = Duration::from_mins(2);

pub(super) struct S3 {
    client: Client,
    bucket: String,
    presign_ttl: Duration,
    public_base_url: Option<String>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3 {
    pub(super) fn new(settings: S3Settings) -> Result<Self, StoreError> {
        check(&settings)?;
        let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(ATTEMPT)
            .build();
        let credentials =
            Credentials::new(settings.access_key, settings.secret_key, None, None, "config");
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
            .timeout_config(timeouts)
            .region(Region::new(settings.region))
            .credentials_provider(credentials)
            .force_path_style(settings.path_style);
        if let Some(endpoint) = settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket,
            presign_ttl: settings.presign_ttl,
            public_base_url: settings.public_base_url,
        })
    }

    pub(super) async fn put(&self, object: Object) -> Result<Kept, StoreError> {
        let (object, bytes, sha256) = blocking(move || {
            let (bytes, sha256) = object.read(|_| Ok(()))?;
            Ok((object, bytes, sha256))
        })
        .await?;
        let Object { key, id, meta, body, .. } = object;
        let checksum = hex::decode(&sha256).map_err(|e| StoreError::Unavailable(e.into()))?;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(&key)
            .content_type(meta.format.mime())
            .content_length(i64::try_from(bytes).unwrap_or(i64::MAX))
            .checksum_sha256(STANDARD.encode(checksum))
            .body(stream(&body, bytes));
        described(request, &meta, &sha256).send().await.map_err(|e| self.fault(e))?;
        let expires_at = match self.public_base_url {
            Some(_) => None,
            None => Some(meta.created.saturating_add(self.presign_ttl.as_secs())),
        };
        Ok(Kept { key, id, bytes, sha256, expires_at })
    }

    pub(super) async fn url(&self, key: &str) -> Result<String, StoreError> {
        if let Some(base) = &self.public_base_url {
            return Ok(format!("{}/{}", base.trim_end_matches('/'), encoded(key, "/")));
        }
        let lifetime = PresigningConfig::expires_in(self.presign_ttl)
            .map_err(|error| StoreError::Settings(error.to_string()))?;
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let presigned = request.presigned(lifetime).await.map_err(|e| self.fault(e))?;
        Ok(presigned.uri().to_owned())
    }

    /// An object's bytes.
    pub(super) async fn read(&self, key: &str) -> Result<ObjectStream, StoreError> {
        let object = self.client.get_object().bucket(&self.bucket).key(key).send();
        let body = object.await.map_err(|e| self.fault(e))?.body;
        let pieces = futures_util::stream::try_unfold(body, |mut body| async move {
            let piece = body.try_next().await.map_err(io::Error::other)?;
            Ok(piece.map(|piece| (piece, body)))
        });
        Ok(Box::pin(pieces))
    }

    /// Whether the bucket is there and knows us. A key that may write but not list is fine.
    pub(super) async fn ready(&self) -> Result<(), StoreError> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => return Ok(()),
            Err(error) if status(&error) != Some(403) => return Err(self.fault(error)),
            Err(_) => {}
        }
        // The answer to HEAD has no body to say why.
        let listing = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1).send();
        match listing.await {
            Err(error) if error.code() != Some("AccessDenied") => Err(self.fault(error)),
            _ => Ok(()),
        }
    }

    /// What the server's answer, or the lack of one, means to us.
    fn fault<E>(&self, error: SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let bucket = &self.bucket;
        let status = status(&error);
        let code = error.code().unwrap_or_default().to_owned();
        let refused = match (code.as_str(), status) {
            ("QuotaExceeded" | "XMinioStorageFull", _) | (_, Some(507)) => return StoreError::Full,
            ("InvalidAccessKeyId" | "NotSignedUp", _) => {
                "it does not know [store] access_key".to_owned()
            }
            ("SignatureDoesNotMatch", _) => {
                "[store] secret_key does not belong to access_key".to_owned()
            }
            ("RequestTimeTooSkewed", _) => "this machine's clock is wrong".to_owned(),
            ("NoSuchBucket", _) | (_, Some(404)) => {
                format!("there is no bucket {bucket:?}; check [store] bucket and endpoint")
            }
            ("PermanentRedirect" | "AuthorizationHeaderMalformed", _) | (_, Some(301)) => {
                format!("bucket {bucket:?} is in another region; check [store] region")
            }
            (_, Some(401 | 403)) => {
                format!("the access key needs s3:PutObject and s3:GetObject on bucket {bucket:?}")
            }
            // Damaged on the way, or too slow: worth another try.
            ("BadDigest" | "XAmzContentChecksumMismatch" | "RequestTimeout" | "SlowDown", _) => {
                return StoreError::Unavailable(error.into());
            }
            (_, Some(status @ 400..=499)) => {
                format!("status {status}, code {code:?} for bucket {bucket:?}")
            }
            _ => return StoreError::Unavailable(error.into()),
        };
        StoreError::Refused(refused)
    }
}

fn check(settings: &S3Settings) -> Result<(), StoreError> {
    let problem = if settings.bucket.is_empty() {
        "[store] bucket is missing"
    } else if settings.region.is_empty() {
        "[store] region is missing"
    } else if settings.access_key.is_empty() || settings.secret_key.is_empty() {
        "[store] access_key and secret_key are needed; roles and profiles are not supported"
    } else if settings.presign_ttl < Duration::from_secs(1) || settings.presign_ttl > MAX_PRESIGN {
        "[store] presign_ttl must be between one second and seven days"
    } else {
        return [&settings.endpoint, &settings.public_base_url].into_iter().flatten().try_for_each(
            |text| match url::Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
                _ => Err(StoreError::Settings(format!("[store] {text:?} is not an http(s) URL"))),
            },
        );
    };
    Err(StoreError::Settings(problem.to_owned()))
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Says in the object's own metadata how it was made.
fn described(
    mut request: PutObjectFluentBuilder,
    meta: &ObjectMeta,
    sha256: &str,
) -> PutObjectFluentBuilder {
    let seed = meta.seed.map(|seed| seed.to_string());
    let parameters = serde_json::to_string(&meta.parameters).unwrap_or_default();
    let fields = [
        ("task", Some(meta.task.as_str())),
        ("parameters", Some(&parameters)),
        ("cost-usd", meta.cost_usd.as_deref()),
        ("model", Some(meta.model.as_str())),
        ("provider", Some(&meta.provider)),
        ("deployment", Some(&meta.deployment)),
        ("job", Some(&meta.job)),
        ("seed", seed.as_deref()),
        ("prompt-sha256", meta.prompt_sha256.as_deref()),
        ("sha256", Some(sha256)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            // Headers are ASCII, and what is not is signed differently by different servers.
            request = request.metadata(name, encoded(value, "/:@+, "));
        }
    }
    if meta.format == Format::Svg {
        // May hold scripts: never shown as a page.
        request = request.content_disposition("attachment");
    }
    request
}

/// Percent-encodes all but unreserved characters and those given.
fn encoded(text: &str, also: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        let plain = byte.is_ascii_alphanumeric()
            || b"-._~".contains(&byte)
            || also.as_bytes().contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// The blob as a body that can be sent again from its start.
fn stream(blob: &Blob, bytes: u64) -> ByteStream {
    let blob = blob.clone();
    ByteStream::new(SdkBody::retryable(move || {
        SdkBody::from_body_1_x(Upload { pieces: blob.pieces(), left: bytes })
    }))
}

struct Upload {
    pieces: Pieces,
    left: u64,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.pieces.next_raw().transpose();
        if let Some(Ok(piece)) = &piece {
            self.left = self.left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> S3Settings {
        S3Settings {
            bucket: "media".to_owned(),
            region: "eu-central-1".to_owned(),
            endpoint: None,
            path_style: false,
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "secret".to_owned(),
            presign_ttl: Duration::from_hours(24),
            public_base_url: None,
        }
    }

    #[tokio::test]
    async fn links_follow_the_settings() {
        let key = "a b/ü+%.png";
        for (change, expected) in [
            (
                (|_| ()) as fn(&mut S3Settings),
                "https://media.s3.eu-central-1.amazonaws.com/a%20b/%C3%BC%2B%25.png?",
            ),
            (
                |s| s.path_style = true,
                "https://s3.eu-central-1.amazonaws.com/media/a%20b/%C3%BC%2B%25.png?",
            ),
            (
                |s| {
                    s.endpoint = Some("http://127.0.0.1:9000".to_owned());
                    s.path_style = true;
                },
                "http://127.0.0.1:9000/media/a%20b/%C3%BC%2B%25.png?",
            ),
            (
                |s| s.public_base_url = Some("https://cdn.example.com/m/".to_owned()),
                "https://cdn.example.com/m/a%20b/%C3%BC%2B%25.png",
            ),
        ] {
            let mut settings = settings();
            change(&mut settings);
            let public = settings.public_base_url.is_some();
            let url = S3::new(settings).unwrap().url(key).await.unwrap();
            assert!(url.starts_with(expected), "{url}");
            assert_eq!(url.contains("X-Amz-Signature="), !public, "{url}");
            assert_eq!(url.contains("X-Amz-Expires=86400"), !public, "{url}");
            assert!(!url.contains("secret"), "{url}");
        }
    }

    #[test]
    fn settings_are_checked() {
        for (change, expected) in [
            ((|s| s.bucket.clear()) as fn(&mut S3Settings), "bucket"),
            (|s| s.region.clear(), "region"),
            (|s| s.access_key.clear(), "access_key"),
            (|s| s.secret_key.clear(), "secret_key"),
            (|s| s.presign_ttl = Duration::ZERO, "presign_ttl"),
            (|s| s.presign_ttl = Duration::from_hours(7 * 24 + 1), "presign_ttl"),
            (|s| s.endpoint = Some("minio:9000".to_owned()), "minio:9000"),
            (|s| s.public_base_url = Some("cdn.example.com".to_owned()), "cdn.example.com"),
        ] {
            let mut settings = settings();
            change(&mut settings);
            let error = S3::new(settings).unwrap_err();
            assert!(matches!(error, StoreError::Settings(_)), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(!format!("{:?}", S3::new(settings()).unwrap()).contains("secret"));
    }
}
