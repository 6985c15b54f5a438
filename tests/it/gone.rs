//! Callers that hang up: the job goes on, is kept and can be had, and the SDK's own retry joins it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Answer, Gateway, Upstream, each, pictures,
    vendors::{self, GEMINI, OPENAI},
};

const DRAW: &str = "/v1/images/generations";

fn picture() -> Bytes {
    pictures::png(320, 320)
}

/// Gemini that draws after a while.
async fn slow(ms: u64) -> Upstream {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&picture()).after_ms(ms));
    upstream
}

fn body() -> Value {
    json!({"model": "gemini/nano-banana", "prompt": "a teapot"})
}

/// A request as the SDK sends it the n-th time.
fn attempt(gateway: &Gateway, count: u32) -> RequestBuilder {
    gateway.post(DRAW, &body()).header("x-stainless-retry-count", count)
}

/// Sends a request and hangs up once the provider has been asked.
async fn hang_up(gateway: &Gateway, upstream: &Upstream, request_id: &str, body: &Value) {
    let before = upstream.submits("/").len();
    let body = body.to_string();
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST {DRAW} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         x-stainless-retry-count: 0\r\nx-request-id: {request_id}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    upstream.until("the submit", |u| u.submits("/").len() > before).await;
    drop(socket);
    // The gateway must have noticed.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// The job of a request, once it is over.
async fn finished(gateway: &Gateway, request_id: &str) -> Value {
    for _ in 0..500 {
        let list = gateway.get(&format!("/v1/jobs?request_id={request_id}")).await.ok();
        let jobs = list["data"].as_array().unwrap().clone();
        assert_eq!(jobs.len(), 1, "{list}");
        if jobs[0]["status"] != "running" {
            return jobs[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{request_id} does not end");
}

#[tokio::test]
async fn a_job_goes_on_without_its_caller_and_its_result_is_kept() {
    let upstream = slow(400).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    hang_up(&gateway, &upstream, "gone-1", &body()).await;
    let list = gateway.get("/v1/jobs?request_id=gone-1").await.ok();
    assert_eq!(list["data"][0]["status"], "running", "{list}");
    let result = list["data"][0]["result_url"].as_str().unwrap().to_owned();
    gateway.get(&result).await.error(503, "job_still_running", None);
    let job = finished(&gateway, "gone-1").await;
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_eq!(job["request_id"], "gone-1");
    assert_eq!(job["cost"]["usd"], "0.039000000");
    assert!(job["expires_at"].as_u64().is_some(), "{job}");
    // As often as one likes.
    for _ in 0..2 {
        assert_eq!(gateway.get(&result).await.picture(), picture());
    }
    assert_eq!(gateway.get("/v1/jobs?request_id=other").await.ok()["data"], json!([]));
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn the_sdks_retry_joins_the_running_job() {
    let upstream = slow(600).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    hang_up(&gateway, &upstream, "gone-2", &body()).await;
    let answer = Answer::of(attempt(&gateway, 1)).await;
    assert_eq!(answer.picture(), picture());
    assert_eq!(upstream.submits("/").len(), 1);
    let job = finished(&gateway, "gone-2").await;
    assert_eq!(Some(job["id"].as_str().unwrap()), answer.header("x-mediagate-job-id"));
}

#[tokio::test]
async fn the_sdks_retry_joins_the_job_that_ended_meanwhile_and_once_only() {
    let upstream = slow(200).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    hang_up(&gateway, &upstream, "gone-3", &body()).await;
    finished(&gateway, "gone-3").await;
    assert_eq!(Answer::of(attempt(&gateway, 1)).await.picture(), picture());
    assert_eq!(upstream.submits("/").len(), 1);
    // Its caller has been served: a further repeat is a job of its own.
    assert_eq!(Answer::of(attempt(&gateway, 1)).await.picture(), picture());
    assert_eq!(upstream.submits("/").len(), 2);
}

#[tokio::test]
async fn one_lost_caller_is_joined_by_one_repeat() {
    let upstream = slow(600).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    hang_up(&gateway, &upstream, "gone-4", &body()).await;
    let (first, second) =
        tokio::join!(Answer::of(attempt(&gateway, 1)), Answer::of(attempt(&gateway, 1)));
    assert_eq!((first.picture(), second.picture()), (picture(), picture()));
    assert_eq!(upstream.submits("/").len(), 2);
}

#[tokio::test]
async fn two_equal_requests_are_two_jobs() {
    let upstream = slow(300).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    // Side by side, the first time and as retries: whose caller still waits is not joined.
    for count in [0, 1] {
        let before = upstream.submits("/").len();
        let (first, second) = tokio::join!(
            Answer::of(attempt(&gateway, count)),
            Answer::of(attempt(&gateway, count))
        );
        let id = |a: &Answer| a.header("x-mediagate-job-id").unwrap().to_owned();
        assert_ne!(id(&first), id(&second));
        assert_eq!(upstream.submits("/").len(), before + 2);
    }
    // After a lost caller, but not a retry, or not the same request.
    hang_up(&gateway, &upstream, "gone-5", &body()).await;
    let before = upstream.submits("/").len();
    Answer::of(attempt(&gateway, 0)).await.ok();
    gateway.draw(body()).await.ok();
    let mut other = body();
    other["prompt"] = "a kettle".into();
    Answer::of(gateway.post(DRAW, &other).header("x-stainless-retry-count", 1)).await.ok();
    assert_eq!(upstream.submits("/").len(), before + 3);
}

#[tokio::test]
async fn a_wait_that_ends_before_the_job_is_joined_by_the_retry() {
    let upstream = slow(1600).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "server.wait_s = 1").await;
    let answer = Answer::of(attempt(&gateway, 0)).await;
    answer.error(503, "job_still_running", None);
    assert!(answer.header("retry-after").is_some());
    let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
    let answer = Answer::of(attempt(&gateway, 1)).await;
    assert_eq!(answer.picture(), picture());
    assert_eq!(answer.header("x-mediagate-job-id"), Some(job.as_str()));
    assert_eq!(upstream.submits("/").len(), 1);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_kept_and_joined() {
    // Large enough not to fit into the buffers of a connection.
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let large = image::RgbImage::from_raw(1000, 1000, noise).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    large.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let large: Bytes = bytes.into_inner().into();
    assert!(large.len() > 2_000_000);
    let upstream = Upstream::start().await;
    upstream.on("POST", OPENAI, vendors::openai(&[large.clone(), large.clone(), large.clone()]));
    let gateway = Gateway::with(&upstream, &["openai"], "").await;
    let body = json!({"model": "gpt-image-1-mini", "prompt": "x", "n": 3});
    let sent = gateway.post(DRAW, &body).header("x-request-id", "cut-1").send().await.unwrap();
    assert_eq!(sent.status(), 200);
    drop(sent);
    let mut job = finished(&gateway, "cut-1").await;
    for _ in 0..300 {
        if job["expires_at"].is_u64() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        job = finished(&gateway, "cut-1").await;
    }
    assert!(job["expires_at"].is_u64(), "{job}");
    let answer = Answer::of(gateway.post(DRAW, &body).header("x-stainless-retry-count", 1)).await;
    assert_eq!(answer.pictures(), vec![large; 3]);
    assert_eq!(upstream.submits("/").len(), 1);
}

/// How a connection ends after its first answer.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The rest of the answer is not read, so the system resets the connection.
    Unread,
    /// All of it was read, by a proxy perhaps that cannot pass it on.
    AtOnce,
    /// As connections that are kept for the next request end.
    Late,
    /// After a second request.
    Used,
}

#[tokio::test]
async fn an_answer_that_may_have_been_lost_on_its_way_is_joined() {
    each([End::Unread, End::AtOnce, End::Late, End::Used], async |end| {
        // Small enough to be in the buffers of the system altogether.
        let upstream = slow(0).await;
        let gateway = Gateway::with(&upstream, &["gemini"], "").await;
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        let body = body().to_string();
        let call = format!(
            "POST {DRAW} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(call.as_bytes()).await.unwrap();
        let head = read_head(&mut socket).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let mut rest = vec![0; length.parse().unwrap()];
        if !matches!(end, End::Unread) {
            socket.read_exact(&mut rest).await.unwrap();
        }
        match end {
            End::Unread | End::AtOnce => {}
            End::Late => tokio::time::sleep(Duration::from_millis(2200)).await,
            End::Used => {
                socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
                read_head(&mut socket).await;
            }
        }
        drop(socket);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(Answer::of(attempt(&gateway, 1)).await.picture(), picture());
        let bought = match end {
            End::Unread | End::AtOnce => 1,
            End::Late | End::Used => 2,
        };
        assert_eq!(upstream.submits("/").len(), bought, "{end:?}");
    })
    .await;
}

/// The head of an answer, in lower case.
async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(socket.read_u8().await.unwrap()).to_ascii_lowercase());
    }
    head
}

#[tokio::test]
async fn what_was_delivered_can_be_had_again_unless_nothing_is_to_be_kept() {
    let upstream = slow(0).await;
    let forgetful = Gateway::with(&upstream, &["gemini"], "log.zero_retention = true").await;
    let answer = forgetful.draw(body()).await;
    assert_eq!(answer.picture(), picture());
    let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
    let result = forgetful.get(&format!("/v1/jobs/{job}/result")).await;
    result.error(410, "result_expired", None);
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    let answer = gateway.draw(body()).await;
    let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
    let again = gateway.get(&format!("/v1/jobs/{job}/result")).await;
    assert_eq!(again.picture(), picture());
    // As links it is kept.
    let mut body = body();
    body["response_format"] = "url".into();
    let answer = gateway.draw(body).await;
    let job = answer.header("x-mediagate-job-id").unwrap().to_owned();
    let result = gateway.get(&format!("/v1/jobs/{job}/result")).await;
    let link = result.links()[0].clone();
    let file = Answer::of(gateway.client.request(Method::GET, link)).await;
    assert_eq!(file.body, picture());
}

#[tokio::test]
async fn stopping_lets_running_calls_and_abandoned_jobs_finish() {
    let upstream = slow(700).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "").await;
    hang_up(&gateway, &upstream, "gone-6", &body()).await;
    let address = gateway.address;
    let call = tokio::spawn(Answer::of(gateway.post(DRAW, &body())));
    upstream.until("the submits", |u| u.submits("/").len() == 2).await;
    let begun = std::time::Instant::now();
    gateway.shut_down().await;
    assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(call.await.unwrap().picture(), picture());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let upstream = slow(60_000).await;
    let gateway = Gateway::with(&upstream, &["gemini"], "server.drain_s = 1").await;
    hang_up(&gateway, &upstream, "gone-7", &body()).await;
    let begun = std::time::Instant::now();
    gateway.shut_down().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
