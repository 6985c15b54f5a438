//! The S3 store against a server that speaks the real protocol and verifies every signature.

#![cfg(feature = "s3")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use mediagate::{
    db::Durability,
    media::{
        blob::{Blob, BlobWriter, Budget, Encoding},
        fetch::install_tls,
    },
    store::{
        Kept, KeyTemplate, ObjectMeta, S3Settings, Store, StoreError, StoreKind, StoreSettings,
    },
};
use providers::media::Format;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use sha2::{Digest as _, Sha256};

const CREATED: u64 = 1_790_000_000;

/// What happens to an upload on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// One bit of the body is flipped.
    Damaged,
    /// The first try reads the body and answers 503.
    Unavailable,
    /// Every try is answered with this status and code.
    Says(u16, &'static str),
}

struct Server {
    address: SocketAddr,
    /// Method and headers of everything that came.
    seen: Arc<Mutex<Vec<(Method, HeaderMap)>>>,
    root: tempfile::TempDir,
}

impl Server {
    /// A server with one bucket, `media`, and one user, `AKIDEXAMPLE`.
    async fn start(fault: Fault) -> Self {
        install_tls();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("media")).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("AKIDEXAMPLE", "right"));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<(Method, HeaderMap)>>> = Arc::default();
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, log) = (service.clone(), Arc::clone(&log));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let puts = {
                        let mut log = log.lock().unwrap();
                        log.push((request.method().clone(), request.headers().clone()));
                        log.iter().filter(|(method, _)| *method == Method::PUT).count()
                    };
                    answer(service.clone(), request, fault, puts)
                });
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { address, seen, root }
    }

    fn settings(&self) -> S3Settings {
        S3Settings {
            bucket: "media".to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: Some(format!("http://{}", self.address)),
            path_style: true,
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "right".to_owned(),
            presign_ttl: Duration::from_hours(1),
            public_base_url: None,
        }
    }

    async fn store(&self) -> Store {
        open(self.settings()).await
    }

    /// Method and headers of the uploads that came.
    fn puts(&self) -> Vec<HeaderMap> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(method, _)| *method == Method::PUT).map(|(_, h)| h.clone()).collect()
    }
}

async fn answer(
    service: S3Service,
    request: Request<Incoming>,
    fault: Fault,
    puts: usize,
) -> Result<Response<s3s::Body>, s3s::HttpError> {
    let is_put = request.method() == Method::PUT;
    let says = match fault {
        Fault::Unavailable if puts == 1 => Some((503, "ServiceUnavailable")),
        Fault::Says(status, code) => Some((status, code)),
        _ => None,
    };
    if let (true, Some((status, code))) = (is_put, says) {
        let _ = request.into_body().collect().await;
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        let mut response = Response::new(s3s::Body::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        return Ok(response);
    }
    if !is_put || fault != Fault::Damaged {
        return service.call(request.map(s3s::Body::from)).await;
    }
    let mut first = true;
    let damaged = request.map(|body| {
        s3s::Body::http_body(body.map_frame(move |frame| {
            frame.map_data(|data| {
                let mut data = data.to_vec();
                data[0] ^= u8::from(std::mem::take(&mut first));
                Bytes::from(data)
            })
        }))
    });
    service.call(damaged).await
}

async fn fetch(url: &str) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap()
}

async fn open(settings: S3Settings) -> Store {
    Store::open(StoreSettings {
        kind: StoreKind::S3(settings),
        retention: Duration::from_hours(72),
        key_template: KeyTemplate::default(),
        public_url: "http://127.0.0.1:4000".to_owned(),
        signing_keys: vec![[0; 32]],
    })
    .await
    .unwrap()
}

fn meta(format: Format) -> ObjectMeta {
    ObjectMeta {
        format,
        model: "flux-1.1-pro".to_owned(),
        provider: "fal".to_owned(),
        deployment: "fal/flux-1.1-pro".to_owned(),
        job: "job_1".to_owned(),
        task: "image.edit".to_owned(),
        parameters: [("size".to_owned(), "1K".to_owned())].into(),
        cost_usd: Some("0.040000000".to_owned()),
        seed: Some(42),
        prompt_sha256: None,
        sha256: None,
        created: CREATED,
    }
}

fn picture(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

async fn put(store: &Store, key: &str, body: &[u8]) -> Result<Kept, StoreError> {
    let blob = Blob::from(Bytes::copy_from_slice(body));
    store.put(key, &meta(Format::Webp), &blob, Durability::Full).await
}

async fn get(store: &Store, kept: &Kept) -> reqwest::Response {
    fetch(&store.url(kept).await.unwrap()).await
}

#[tokio::test]
async fn a_spooled_picture_comes_back_by_its_presigned_link() {
    let server = Server::start(Fault::None).await;
    let store = server.store().await;
    store.ready().await.unwrap();
    let raw = picture(5_000_000);
    let sha256 = hex::encode(Sha256::digest(&raw));
    let mut writer = BlobWriter::new(Encoding::Raw, &Budget::new(0));
    for piece in raw.chunks(100_000) {
        writer.push(Bytes::copy_from_slice(piece)).unwrap();
    }
    let blob = writer.finish();
    assert!(blob.is_spooled());
    let key = "default/2026-09-21/job_1-0.webp";
    let kept = store.put(key, &meta(Format::Webp), &blob, Durability::Full).await.unwrap();
    assert_eq!((kept.key.as_str(), kept.bytes, &kept.sha256), (key, 5_000_000, &sha256));
    assert_eq!(kept.expires_at, Some(CREATED + 3600));

    let answer = get(&store, &kept).await;
    assert_eq!(answer.status(), 200);
    for (name, value) in [
        ("content-type", "image/webp"),
        ("content-length", "5000000"),
        ("x-amz-meta-model", "flux-1.1-pro"),
        ("x-amz-meta-provider", "fal"),
        ("x-amz-meta-deployment", "fal/flux-1.1-pro"),
        ("x-amz-meta-job", "job_1"),
        ("x-amz-meta-seed", "42"),
        ("x-amz-meta-sha256", &sha256),
    ] {
        assert_eq!(answer.headers()[name], value, "{name}");
    }
    assert!(!answer.headers().contains_key("content-disposition"));
    assert!(answer.bytes().await.unwrap() == raw, "the bytes differ");

    // One request, with its length and digest said beforehand and signed.
    let puts = server.puts();
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0]["content-length"], "5000000");
    assert!(puts[0].contains_key("x-amz-checksum-sha256"));
    assert!(puts[0]["authorization"].to_str().unwrap().contains("x-amz-checksum-sha256"));
    assert!(!puts[0].contains_key("content-encoding"), "not cut into signed chunks");
}

#[tokio::test]
async fn odd_keys_and_metadata_survive() {
    let server = Server::start(Fault::None).await;
    let store = server.store().await;
    for (index, key) in [
        "plain.png",
        "with space/a b.png",
        "plus+and&and=and?and#.png",
        "percent%41%zz.png",
        "Übergröße/画像.png",
        "quote'\"(1)!*~,;:@$[].png",
        "a/b/c/d/e/f.png",
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!("picture {index}");
        let kept = put(&store, key, body.as_bytes()).await.unwrap();
        let answer = get(&store, &kept).await;
        assert_eq!(answer.status(), 200, "{key}");
        assert_eq!(answer.text().await.unwrap(), body, "{key}");
    }
    let odd = ObjectMeta {
        model: "größer, 2×".to_owned(),
        seed: None,
        sha256: Some(hex::encode(Sha256::digest(b"<svg/>"))),
        ..meta(Format::Svg)
    };
    let blob = Blob::from_base64("PHN2Zy8+".to_owned());
    let kept = store.put("vector.svg", &odd, &blob, Durability::Full).await.unwrap();
    let answer = get(&store, &kept).await;
    assert_eq!(answer.headers()["x-amz-meta-model"], "gr%C3%B6%C3%9Fer, 2%C3%97");
    assert!(!answer.headers().contains_key("x-amz-meta-seed"));
    assert_eq!(answer.headers()["x-amz-meta-task"], "image.edit");
    assert_eq!(answer.headers()["x-amz-meta-cost-usd"], "0.040000000");
    assert_eq!(answer.headers()["x-amz-meta-parameters"], "%7B%22size%22:%221K%22%7D");
    assert_eq!(answer.headers()["content-type"], "image/svg+xml");
    assert_eq!(answer.headers()["content-disposition"], "attachment");
    assert_eq!(answer.text().await.unwrap(), "<svg/>");
}

#[tokio::test]
async fn a_wrong_key_is_said_with_its_remedy() {
    let server = Server::start(Fault::None).await;
    for (change, hint) in [
        ((|s| s.secret_key = "wrong".to_owned()) as fn(&mut S3Settings), "secret_key"),
        (|s| s.access_key = "AKIDOTHER".to_owned(), "access_key"),
    ] {
        let mut settings = server.settings();
        change(&mut settings);
        let store = open(settings).await;
        let put = put(&store, "a.png", b"x").await.unwrap_err();
        for error in [put, store.ready().await.unwrap_err()] {
            assert!(matches!(error, StoreError::Refused(_)), "{hint}: {error:?}");
            assert!(error.to_string().contains(hint), "{hint}: {error}");
            assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
        }
    }
    assert_eq!(std::fs::read_dir(server.root.path().join("media")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_missing_bucket_is_not_ready() {
    let server = Server::start(Fault::None).await;
    let store = open(S3Settings { bucket: "other".to_owned(), ..server.settings() }).await;
    let error = store.ready().await.unwrap_err().to_string();
    assert!(error.contains("there is no bucket \"other\""), "{error}");
}

#[tokio::test]
async fn what_servers_answer_is_sorted() {
    for (status, code, expected) in [
        (404, "NoSuchBucket", "Refused(\"there is no bucket \\\"media\\\""),
        (301, "PermanentRedirect", "Refused(\"bucket \\\"media\\\" is in another region"),
        (400, "AuthorizationHeaderMalformed", "Refused(\"bucket \\\"media\\\" is in another"),
        (403, "AccessDenied", "Refused(\"the access key needs s3:PutObject"),
        (403, "RequestTimeTooSkewed", "Refused(\"this machine's clock"),
        (400, "InvalidArgument", "Refused(\"status 400, code \\\"InvalidArgument\\\""),
        (507, "XMinioStorageFull", "Full"),
        (403, "QuotaExceeded", "Full"),
        (500, "InternalError", "Unavailable"),
        (503, "SlowDown", "Unavailable"),
    ] {
        let server = Server::start(Fault::Says(status, code)).await;
        let error = put(&server.store().await, "a.png", b"x").await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{code}: {error:?}");
    }
}

#[tokio::test]
async fn links_are_for_one_object_and_end() {
    let server = Server::start(Fault::None).await;
    let short = S3Settings { presign_ttl: Duration::from_secs(1), ..server.settings() };
    let store = open(short).await;
    let kept = put(&store, "a.png", b"picture").await.unwrap();
    put(&store, "b.png", b"another").await.unwrap();
    let url = store.url(&kept).await.unwrap();
    let status = async |url: &str| fetch(url).await.status();
    assert_eq!(status(&url).await, 200);
    assert_eq!(status(&url.replace("a.png", "b.png")).await, 403);
    assert_eq!(status(url.split('?').next().unwrap()).await, 403);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(status(&url).await, 403);
}

#[tokio::test]
async fn a_body_damaged_on_the_way_is_not_kept_as_good() {
    let server = Server::start(Fault::Damaged).await;
    let store = server.store().await;
    let error = put(&store, "a.png", b"picture").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn an_upload_is_tried_again_from_its_start() {
    let server = Server::start(Fault::Unavailable).await;
    let store = server.store().await;
    let raw = picture(300_000);
    let kept = put(&store, "a.png", &raw).await.unwrap();
    assert_eq!(server.puts().len(), 2);
    assert!(get(&store, &kept).await.bytes().await.unwrap() == raw, "the bytes differ");
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::start(Fault::None).await;
    let settings = S3Settings { endpoint: Some(format!("http://{gone}")), ..server.settings() };
    let store = open(settings).await;
    for error in [put(&store, "a.png", b"x").await.unwrap_err(), store.ready().await.unwrap_err()] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_public_bucket_has_plain_links() {
    let server = Server::start(Fault::None).await;
    let base = Some("https://cdn.example.com".to_owned());
    let store = open(S3Settings { public_base_url: base, ..server.settings() }).await;
    let kept = put(&store, "a b.png", b"picture").await.unwrap();
    assert_eq!(kept.expires_at, None);
    assert_eq!(store.url(&kept).await.unwrap(), "https://cdn.example.com/a%20b.png");
    let file: PathBuf = server.root.path().join("media/a b.png");
    assert_eq!(std::fs::read(file).unwrap(), b"picture");
}
