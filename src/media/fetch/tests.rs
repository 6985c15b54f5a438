use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// A server that answers each path with canned bytes, and remembers what it was asked.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What follows the canned bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    Stall,
}

async fn serve(
    answer: impl Fn(&str, SocketAddr) -> (String, Then) + Send + Sync + 'static,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server { address, connections: Arc::default(), requests: Arc::default() };
    let (connections, requests) = (Arc::clone(&server.connections), Arc::clone(&server.requests));
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = socket.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap().to_owned();
                requests.lock().unwrap().push(head);
                let (bytes, then) = answer(&path, address);
                socket.write_all(bytes.as_bytes()).await.unwrap();
                socket.flush().await.unwrap();
                if then == Then::Stall {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    server
}

fn ok(body: &str) -> (String, Then) {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: image/png\r\n";
    (format!("{head}content-length: {}\r\n\r\n{body}", body.len()), Then::Close)
}

fn bare(head: &str) -> (String, Then) {
    (format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"), Then::Close)
}

fn rules(server: &Server) -> FetchRules {
    FetchRules { allow: vec![server.address.into()], ..FetchRules::default() }
}

async fn read(fetched: Result<Fetched, FetchError>) -> Result<String, FetchError> {
    let mut fetched = fetched?;
    let mut body = Vec::new();
    while let Some(chunk) = fetched.next_chunk().await? {
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(body).unwrap())
}

async fn read_from(server: &Server, path: &str) -> Result<String, FetchError> {
    let fetcher = Fetcher::new(rules(server)).unwrap();
    read(fetcher.get(&format!("http://{}{path}", server.address), None).await).await
}

#[tokio::test]
async fn an_allowed_pair_is_fetched_without_credentials_or_compression() {
    let server = serve(|_, _| ok("picture")).await;
    let fetcher = Fetcher::new(rules(&server)).unwrap();
    let url = format!("http://{}/a.png?sig=1", server.address);
    let fetched = fetcher.get(&url, None).await.unwrap();
    assert_eq!(fetched.content_type.as_deref(), Some("image/png"));
    assert_eq!((fetched.length, fetched.offset, fetched.status), (Some(7), 0, 200));
    assert_eq!(read(Ok(fetched)).await.unwrap(), "picture");
    let request = server.requests.lock().unwrap()[0].to_lowercase();
    assert!(request.starts_with("get /a.png?sig=1 http/1.1"), "{request}");
    assert!(request.contains("accept-encoding: identity"), "{request}");
    for absent in ["authorization", "cookie", "referer", "range:"] {
        assert!(!request.contains(absent), "{request}");
    }
}

#[tokio::test]
async fn statuses_are_sorted() {
    let server = serve(|path, _| bare(&path[1..].replace('-', " "))).await;
    for (head, expected) in [
        ("403-x", "Expired(403)"),
        ("404-x", "Expired(404)"),
        ("410-x", "Expired(410)"),
        ("401-x", "Upstream(401)"),
        ("429-x", "Upstream(429)"),
        ("500-x", "Upstream(500)"),
        ("204-x", "Upstream(204)"),
        ("304-x", "Upstream(304)"),
        ("206-x", "Malformed(\"a part that was not asked for\")"),
        ("302-x", "Malformed(\"a redirect to nowhere\")"),
    ] {
        let error = read_from(&server, &format!("/{head}")).await.unwrap_err();
        assert_eq!(format!("{error:?}"), expected);
    }
}

#[tokio::test]
async fn redirects_are_followed_three_times_and_judged_each_time() {
    let server = serve(|path, own| match path {
        "/to/0" => ok("there"),
        "/loop" => bare("302 Found\r\nlocation: /loop"),
        "/absolute" => bare(&format!("307 x\r\nlocation: http://{own}/to/0")),
        "/metadata" => bare("302 x\r\nlocation: http://169.254.169.254/latest/meta-data/"),
        "/metadata-https" => bare("302 x\r\nlocation: https://169.254.169.254/"),
        "/decimal" => bare("302 x\r\nlocation: https://2852039166/"),
        "/neighbour" => bare(&format!("302 x\r\nlocation: http://127.0.0.1:{}/", own.port() ^ 1)),
        "/file" => bare("302 x\r\nlocation: file:///etc/passwd"),
        "/credentials" => bare(&format!("302 x\r\nlocation: http://a:b@{own}/to/0")),
        other => {
            let left: u32 = other.trim_start_matches("/to/").parse().unwrap();
            bare(&format!("301 x\r\nlocation: {}", left - 1))
        }
    })
    .await;
    for (path, expected) in [
        ("/to/0", "Ok(\"there\")"),
        ("/to/3", "Ok(\"there\")"),
        ("/absolute", "Ok(\"there\")"),
        ("/to/4", "Err(TooManyRedirects)"),
        ("/loop", "Err(TooManyRedirects)"),
        ("/metadata", "Err(Refused)"),
        ("/metadata-https", "Err(Refused)"),
        ("/decimal", "Err(Refused)"),
        ("/neighbour", "Err(Refused)"),
        ("/file", "Err(Refused)"),
        ("/credentials", "Err(Refused)"),
    ] {
        let result = read_from(&server, path).await;
        assert_eq!(format!("{result:?}"), expected, "{path}");
    }
}

/// Answers from a script, the last entry again and again.
#[derive(Debug)]
struct Script(Vec<Vec<&'static str>>, AtomicUsize);

impl Lookup for Script {
    fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let turn = self.1.fetch_add(1, Ordering::SeqCst).min(self.0.len() - 1);
        let answer = self.0[turn].iter().map(|ip| ip.parse().unwrap()).collect();
        Box::pin(async move { Ok(answer) })
    }
}

fn script(answers: &[&[&'static str]]) -> Arc<Script> {
    Arc::new(Script(answers.iter().map(|a| a.to_vec()).collect(), AtomicUsize::new(0)))
}

#[tokio::test]
async fn a_name_with_any_closed_address_is_never_dialled() {
    let server = serve(|_, _| ok("secret")).await;
    for answer in [
        &["127.0.0.1"][..],
        &["::1"],
        &["::ffff:127.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["8.8.8.8", "127.0.0.1"],
        &["127.0.0.1", "8.8.8.8"],
        &["2606:4700:4700::1111", "10.0.0.1"],
    ] {
        let port = server.address.port();
        let rules = FetchRules { allow: vec![], ..FetchRules::default() };
        let fetcher = Fetcher::with(rules, script(&[answer]), port).unwrap();
        let result = read(fetcher.get(&format!("https://rebind.test:{port}/"), None).await).await;
        assert_eq!(format!("{result:?}"), "Err(Refused)", "{answer:?}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn every_resolution_is_judged_and_its_answer_is_what_is_dialled() {
    let lookup = script(&[&["8.8.8.8", "1.1.1.1"], &["127.0.0.1"], &["8.8.4.4"]]);
    let gate = Arc::new(Gate { allow: vec![], own_listeners: vec![], port: 443 });
    let guard = Guard { gate, lookup: Arc::clone(&lookup) as Arc<dyn Lookup>, allowed: false };
    let mut dialled = Vec::new();
    for _ in 0..3 {
        let answer = guard.resolve("rebind.test".parse().unwrap()).await;
        dialled.push(answer.map(|all| all.map(|a| a.ip().to_string()).collect::<Vec<_>>()).ok());
    }
    let list = |ips: &[&str]| Some(ips.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(dialled, [list(&["8.8.8.8", "1.1.1.1"]), None, list(&["8.8.4.4"])]);
    assert_eq!(lookup.1.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_allowed_name_may_be_private_but_not_ourselves() {
    let server = serve(|_, _| ok("picture")).await;
    let port = server.address.port();
    for (own, expected) in [(vec![], "Ok(\"picture\")"), (vec![server.address], "Err(Refused)")] {
        let allow = vec![format!("images.internal:{port}").parse().unwrap()];
        let rules = FetchRules { allow, own_listeners: own, ..FetchRules::default() };
        let fetcher = Fetcher::with(rules, script(&[&["127.0.0.1"]]), 443).unwrap();
        let url = format!("http://images.internal:{port}/");
        assert_eq!(format!("{:?}", read(fetcher.get(&url, None).await).await), expected);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cut_body_is_truncated_and_can_be_taken_up() {
    const WHOLE: &str = "0123456789";
    let server = serve(|path, _| match path {
        "/chunked" => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            (format!("{head}5\r\n01234\r\n"), Then::Close)
        }
        "/ranges" => {
            let head = "HTTP/1.1 206 Part\r\ncontent-range: bytes 4-9/10\r\ncontent-length: 6\r\n";
            (format!("{head}connection: close\r\n\r\n{}", &WHOLE[4..]), Then::Close)
        }
        "/whole" => ok(WHOLE),
        _ => (format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}", &WHOLE[..4]), Then::Close),
    })
    .await;
    for path in ["/length", "/chunked"] {
        let error = read_from(&server, path).await.unwrap_err();
        assert!(matches!(error, FetchError::Truncated), "{path}: {error:?}");
    }
    let fetcher = Fetcher::new(rules(&server)).unwrap();
    for (path, from, expected) in [
        ("/ranges", Some(4), Ok((4, "456789"))),
        ("/whole", Some(4), Ok((0, WHOLE))),
        ("/ranges", Some(3), Err("Malformed(\"a part that was not asked for\")")),
        ("/ranges", None, Err("Malformed(\"a part that was not asked for\")")),
    ] {
        let result = fetcher.get(&format!("http://{}{path}", server.address), from).await;
        match (result, expected) {
            (Ok(fetched), Ok((offset, body))) => {
                assert_eq!(fetched.offset, offset, "{path}");
                assert_eq!(read(Ok(fetched)).await.unwrap(), body, "{path}");
            }
            (Err(error), Err(expected)) => assert_eq!(format!("{error:?}"), expected, "{path}"),
            (result, _) => panic!("{path} from {from:?}: {result:?}"),
        }
    }
    let asked = server.requests.lock().unwrap().concat().to_lowercase();
    assert!(asked.contains("range: bytes=4-\r\n"), "{asked}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read() {
    let server = serve(|path, _| {
        if path == "/declared" {
            return ok("0123456789");
        }
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        (format!("{head}5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"), Then::Close)
    })
    .await;
    for (max_bytes, fits) in [(10, true), (9, false)] {
        for path in ["/declared", "/chunked"] {
            let fetcher = Fetcher::new(FetchRules { max_bytes, ..rules(&server) }).unwrap();
            let url = format!("http://{}{path}", server.address);
            let result = read(fetcher.get(&url, None).await).await;
            match result {
                Ok(body) => assert!(fits && body == "0123456789", "{path}"),
                Err(error) => assert!(!fits && matches!(error, FetchError::TooLarge(9)), "{path}"),
            }
        }
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx";
    let server = serve(move |_, _| (head.to_owned(), Then::Close)).await;
    let error = read_from(&server, "/").await.unwrap_err();
    assert!(matches!(error, FetchError::Malformed(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_times_out() {
    let server = serve(|path, _| match path {
        "/body" => ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123".to_owned(), Then::Stall),
        _ => (String::new(), Then::Stall),
    })
    .await;
    for (path, seconds) in [("/head", 30), ("/body", 10)] {
        // Real sockets beside a paused clock: connect, then let it jump.
        let start = Instant::now();
        let error = read_from(&server, path).await.unwrap_err();
        assert!(matches!(error, FetchError::Timeout), "{path}: {error:?}");
        let waited = start.elapsed().as_secs();
        assert!((seconds..=seconds + 1).contains(&waited), "{path}: {waited} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_below_the_minimum_rate_times_out() {
    for (rate, ends) in [(50_u64, true), (200, false)] {
        let mut pace = Pace::new(100, Instant::now() + Duration::from_hours(1));
        let mut slow = false;
        for _ in 0..60 {
            let second = tokio::time::sleep(Duration::from_secs(1));
            if pace.wait(second).await.is_err() {
                slow = true;
                break;
            }
            pace.count(rate as usize);
        }
        assert_eq!(slow, ends, "{rate} bytes a second");
    }
}

#[tokio::test]
async fn a_closed_port_is_a_connect_error_that_does_not_name_the_url() {
    let server = serve(|_, _| ok("")).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let allow = vec![closed.into(), server.address.into()];
    let fetcher = Fetcher::new(FetchRules { allow, ..FetchRules::default() }).unwrap();
    let error =
        fetcher.get(&format!("http://{closed}/a?signature=s3cret"), None).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}
