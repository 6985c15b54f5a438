//! Links to kept pictures, and stores that do not take any.

use std::path::Path;

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

#[cfg(feature = "s3")]
use crate::support::Reply;
use crate::support::{
    Answer, Gateway, Upstream, config,
    pictures::{self, Looks, look},
    vendors::{self, GEMINI},
};

fn picture() -> Bytes {
    pictures::png(200, 100)
}

async fn upstream() -> Upstream {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&picture()));
    upstream
}

fn body() -> Value {
    json!({"model": "gemini/nano-banana", "prompt": "a teapot", "response_format": "url"})
}

fn disk(path: &Path) -> String {
    format!("store.kind = \"disk\"\nstore.path = \"{}\"", path.display())
}

async fn open(gateway: &Gateway, link: &str) -> Answer {
    Answer::of(gateway.client.request(Method::GET, link)).await
}

/// `/media/...` of a link.
fn path_of(link: &str) -> String {
    link[link.find("/media/").unwrap()..].to_owned()
}

#[tokio::test]
async fn links_are_ours_and_cannot_be_made_up() {
    let directory = tempfile::tempdir().unwrap();
    for store in ["store.kind = \"memory\"".to_owned(), disk(&directory.path().join("media"))] {
        let upstream = upstream().await;
        let gateway = Gateway::with(&upstream, &["gemini"], &store).await;
        let answer = gateway.draw(body()).await;
        let link = answer.links()[0].clone();
        assert!(link.starts_with(&gateway.url("/media/")), "{link}");
        let file = open(&gateway, &link).await;
        assert_eq!((file.status, &file.body), (200, &picture()));
        for (name, value) in [
            ("content-type", "image/png"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; sandbox"),
            ("content-length", &picture().len().to_string()),
        ] {
            assert_eq!(file.header(name), Some(value), "{name}");
        }
        let expires = answer.json()["mediagate"]["outputs"][0]["expires_at"].as_u64().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let left = expires - now.as_secs();
        assert!((72 * 3600 - 60..=72 * 3600).contains(&left), "{left}");
        // One character of the token, at its start, in its middle, at its end.
        let token = link.rsplit('/').next().unwrap();
        for at in [0, token.len() / 2, token.len() - 2] {
            let mut forged = token.to_owned().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            gateway.get(&format!("/media/{forged}")).await.error(404, "file_not_found", None);
        }
        for other in ["", "..%2f..%2fetc%2fpasswd", &token[..token.len() - 4]] {
            assert_eq!(gateway.get(&format!("/media/{other}")).await.status, 404, "{other}");
        }
        // The link is the permission: no key, and no key of another gateway's making.
        let other = Gateway::with(&upstream, &["gemini"], "").await;
        other.get(&path_of(&link)).await.error(404, "file_not_found", None);
    }
}

#[tokio::test]
async fn links_need_no_key_where_calls_do() {
    let upstream = upstream().await;
    let keys = format!(
        "auth.mode = \"keys\"\nauth.static_keys = [{{ name = \"ci\", sha256 = \"{}\" }}]",
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest("right"))
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &keys).await;
    let call = gateway.post("/v1/images/generations", &body()).bearer_auth("right");
    let link = Answer::of(call).await.links()[0].clone();
    assert_eq!(open(&gateway, &link).await.body, picture());
}

#[tokio::test]
async fn links_to_the_disk_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = disk(&directory.path().join("media"));
    let upstream = upstream().await;
    let gateway = Gateway::with(&upstream, &["gemini"], &store).await;
    let mut asked = body();
    asked["output_format"] = "webp".into();
    let path = path_of(&gateway.draw(asked).await.links()[0]);
    gateway.shut_down().await;
    let gateway = Gateway::with(&upstream, &["gemini"], &store).await;
    let file = gateway.get(&path).await;
    assert_eq!(look(&file.body), Looks("webp", 200, 100));
    assert_eq!(file.header("content-type"), Some("image/webp"));
}

#[tokio::test]
async fn links_name_the_public_address() {
    let upstream = upstream().await;
    let more = "server.public_url = \"https://media.example.com/gw\"";
    let gateway = Gateway::with(&upstream, &["gemini"], more).await;
    let link = gateway.draw(body()).await.links()[0].clone();
    assert!(link.starts_with("https://media.example.com/gw/media/"), "{link}");
    assert_eq!(gateway.get(&path_of(&link)).await.body, picture());
}

#[tokio::test]
async fn links_expire() {
    let upstream = upstream().await;
    let gateway = Gateway::with(&upstream, &["gemini"], "store.retention = \"1s\"").await;
    let link = gateway.draw(body()).await.links()[0].clone();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    open(&gateway, &link).await.error(410, "result_expired", None);
}

/// Draws while the store takes nothing, and again once it works.
async fn without_store(
    gateway: &Gateway,
    upstream: &Upstream,
    breaks: impl Fn(),
    repairs: impl Fn(),
) {
    let call = |count: u32, body: &Value| {
        gateway.post("/v1/images/generations", body).header("x-stainless-retry-count", count)
    };
    breaks();
    let answer = Answer::of(call(0, &body())).await;
    answer.error(503, "store_unavailable", None);
    assert!(answer.header("retry-after").is_some());
    let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
    gateway.get("/readyz").await.error(503, "store_unavailable", None);
    // The repeat that was advised costs nothing, neither before nor after the repair.
    Answer::of(call(1, &body())).await.error(503, "store_unavailable", None);
    assert_eq!(upstream.submits("/").len(), 1);
    // Who wants no link does not need the store.
    let mut inline = body();
    inline["response_format"] = "b64_json".into();
    assert_eq!(gateway.draw(inline).await.picture(), picture());
    assert_eq!(upstream.submits("/").len(), 2);
    repairs();
    let answer = Answer::of(call(2, &body())).await;
    assert_eq!(open(gateway, &answer.links()[0]).await.body, picture());
    assert_eq!(answer.header("x-mediagate-job-id"), Some(job.as_str()));
    assert_eq!(upstream.submits("/").len(), 2);
    gateway.get("/readyz").await.ok();
    // The lost caller has been served: the next repeat is a job of its own.
    Answer::of(call(1, &body())).await.ok();
    assert_eq!(upstream.submits("/").len(), 3);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_costs_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let media = directory.path().join("media");
    let upstream = upstream().await;
    let gateway = Gateway::with(&upstream, &["gemini"], &disk(&media)).await;
    // A file in the directory's place fails for root too.
    let breaks = || {
        std::fs::remove_dir_all(&media).unwrap();
        std::fs::write(&media, "in the way").unwrap();
    };
    let repairs = || {
        std::fs::remove_file(&media).unwrap();
        std::fs::create_dir_all(media.join(".tmp")).unwrap();
    };
    without_store(&gateway, &upstream, breaks, repairs).await;
}

/// A file system of a few kilobytes, where this user may mount one.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=64k,mode=700", "none"];
        let mut mount = std::process::Command::new("mount");
        let status = mount.args(options).arg(directory.path()).output().ok()?.status;
        status.success().then_some(Self(directory))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_nothing_twice() {
    // Where no file system may be mounted, the test above stands for this one.
    let Some(tiny) = TinyDisk::mount() else { return };
    let upstream = upstream().await;
    let media = tiny.0.path().join("media");
    let gateway = Gateway::with(&upstream, &["gemini"], &disk(&media)).await;
    let filler = tiny.0.path().join("filler");
    let breaks = || {
        let error = std::fs::write(&filler, vec![1; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    };
    let repairs = || std::fs::remove_file(&filler).unwrap();
    without_store(&gateway, &upstream, breaks, repairs).await;
}

#[cfg(feature = "s3")]
#[tokio::test]
async fn a_bucket_that_refuses_costs_nothing_twice() {
    let bucket = Upstream::start().await;
    let refused = Reply::new(
        403,
        "application/xml",
        "<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
    );
    let upstream = upstream().await;
    let endpoint = bucket.url("");
    let store = format!(
        "store.kind = \"s3\"\nstore.bucket = \"media\"\nstore.region = \"us-east-1\"\n\
         store.endpoint = \"{endpoint}\"\nstore.path_style = true\n\
         store.access_key = \"AKIDEXAMPLE\"\nstore.secret_key = \"very-secret\"\n\
         store.key_template = \"{{job}}-{{index}}.{{ext}}\""
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &store).await;
    // No script: the bucket answers with 404 at first, then with the refusal of its policy.
    for _ in 0..2 {
        let answer = gateway.draw(body()).await;
        answer.error(503, "store_unavailable", None);
        assert!(!answer.shown().contains("secret"), "{}", answer.shown());
        let put = bucket.seen("/media/job_").pop().unwrap();
        let path = put.path.split('?').next().unwrap().to_owned();
        let name = path.rsplit('/').next().unwrap();
        assert!(name.ends_with("-0.png"), "{name}");
        bucket.on("PUT", &path, refused.clone());
        let retry =
            gateway.post("/v1/images/generations", &body()).header("x-stainless-retry-count", 1);
        Answer::of(retry).await.error(503, "store_unavailable", None);
        assert_eq!(answer.header("retry-after"), Some("2"));
        // It takes it after all.
        bucket.on("PUT", &path, Reply::new(200, "application/xml", "").header("etag", "\"x\""));
        let retry =
            gateway.post("/v1/images/generations", &body()).header("x-stainless-retry-count", 2);
        let link = Answer::of(retry).await.links()[0].clone();
        assert!(link.starts_with(&bucket.url("/media/job_")), "{link}");
        assert!(link.contains("X-Amz-Signature="), "{link}");
    }
    assert_eq!(upstream.submits("/").len(), 2);
    // As base64 the caller has it at once, whatever the bucket does.
    let mut inline = body();
    inline["response_format"] = "b64_json".into();
    assert_eq!(gateway.draw(inline).await.picture(), picture());
}

#[test]
fn the_configuration_of_these_tests_is_read() {
    // Keys given go before the defaults; a slip here would make every test above vacuous.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = runtime.block_on(Upstream::start());
    let text = config(&upstream, &["gemini"], "store.kind = \"disk\"\nstore.path = \"/x\"");
    let parsed = crate::support::gateway::parse(&text).unwrap();
    let kind = format!("{:?}", parsed.store.kind);
    assert_eq!(kind, "Disk { path: \"/x\" }");
    assert_eq!(parsed.providers.len(), 1);
}
