//! A provider that does what a test tells it, and remembers what it was asked.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_submit(&self) -> bool {
        self.method == "POST" && !self.path.ends_with("/cancel")
    }
}

/// How an answer ends.
#[derive(Clone, Debug)]
enum End {
    Whole,
    /// The head promises all, the connection breaks after this many bytes.
    Cut(usize),
    /// The request is read, and the connection closed.
    Reset,
    /// Events, each after a pause; then the end, or a broken connection.
    Events {
        events: Vec<(Duration, String)>,
        breaks: bool,
    },
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
    end: End,
}

impl Reply {
    pub(crate) fn new(status: u16, kind: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        Self { status, headers, body: body.into(), delay: Duration::ZERO, end: End::Whole }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// A file.
    pub(crate) fn file(kind: &str, body: &Bytes) -> Self {
        Self::new(200, kind, body.clone())
    }

    /// The connection is closed once the request is read.
    pub(crate) fn reset() -> Self {
        Self { end: End::Reset, ..Self::new(200, "", "") }
    }

    /// An event stream; each event comes after its pause.
    pub(crate) fn events(events: &[(u64, Value)], breaks: bool) -> Self {
        let events = events
            .iter()
            .map(|(ms, data)| (Duration::from_millis(*ms), format!("data: {data}\n\n")))
            .collect();
        Self { end: End::Events { events, breaks }, ..Self::new(200, "text/event-stream", "") }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn after_ms(mut self, ms: u64) -> Self {
        self.delay = Duration::from_millis(ms);
        self
    }

    pub(crate) fn cut_at(mut self, bytes: usize) -> Self {
        self.end = End::Cut(bytes);
        self
    }

    /// `None` closes the connection.
    async fn send(self) -> Option<Response<UnsyncBoxBody<Bytes, io::Error>>> {
        tokio::time::sleep(self.delay).await;
        let mut pieces: VecDeque<(Duration, io::Result<Bytes>)> = VecDeque::new();
        let broken = || Err(io::Error::other("broken on purpose"));
        let mut length = Some(self.body.len());
        match self.end {
            End::Reset => return None,
            End::Whole => pieces.push_back((Duration::ZERO, Ok(self.body))),
            End::Cut(at) => {
                pieces.push_back((Duration::ZERO, Ok(self.body.slice(..at))));
                // What was sent must have left before the connection goes.
                pieces.push_back((Duration::from_millis(30), broken()));
            }
            End::Events { events, breaks } => {
                length = None;
                pieces.extend(events.into_iter().map(|(pause, e)| (pause, Ok(Bytes::from(e)))));
                if breaks {
                    pieces.push_back((Duration::from_millis(30), broken()));
                }
            }
        }
        let body = stream::unfold(pieces, |mut pieces| async move {
            let (pause, piece) = pieces.pop_front()?;
            tokio::time::sleep(pause).await;
            Some((piece.map(Frame::data), pieces))
        });
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        Some(response.body(StreamBody::new(body).boxed_unsync()).unwrap())
    }
}

type Answering = Box<dyn FnMut(&Seen) -> Reply + Send>;

#[derive(Default)]
struct State {
    scripts: HashMap<(String, String), Answering>,
    seen: Vec<Seen>,
}

/// The server. What it was not told to answer, it answers with 404.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&upstream.state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let state = Arc::clone(&state);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                tokio::spawn(async move {
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        upstream
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers requests to a path (query aside) with each of the replies in turn; the last one
    /// stays.
    pub(crate) fn on(&self, method: &str, path: &str, replies: impl IntoReplies) {
        let mut replies: VecDeque<Reply> = replies.into_replies().into();
        self.on_each(method, path, move |_| {
            let next = replies.front().unwrap().clone();
            if replies.len() > 1 {
                replies.pop_front();
            }
            next
        });
    }

    /// Answers requests to a path by what they say.
    pub(crate) fn on_each(
        &self,
        method: &str,
        path: &str,
        answer: impl FnMut(&Seen) -> Reply + Send + 'static,
    ) {
        let key = (method.to_owned(), path.to_owned());
        self.state.lock().unwrap().scripts.insert(key, Box::new(answer));
    }

    /// All requests whose path begins like this.
    pub(crate) fn seen(&self, prefix: &str) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|s| s.path.starts_with(prefix)).cloned().collect()
    }

    /// What was asked for and must be paid, below this path.
    pub(crate) fn submits(&self, prefix: &str) -> Vec<Seen> {
        self.seen(prefix).into_iter().filter(Seen::is_submit).collect()
    }

    /// How many of this method went to exactly this path (query aside).
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let bare = |p: &str| p.split('?').next().unwrap().to_owned();
        let seen = self.seen("/");
        seen.iter().filter(|s| s.method == method && bare(&s.path) == path).count()
    }

    /// Waits until something holds of what was seen.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain for {what}: {:#?}", self.seen("/"));
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, io::Error>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head.headers,
        body,
    };
    let key = (seen.method.clone(), head.uri.path().to_owned());
    let reply = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        match state.scripts.get_mut(&key) {
            Some(script) => script(&seen),
            None => Reply::new(404, "text/plain", "nothing here"),
        }
    };
    reply.send().await.ok_or_else(|| io::Error::other("closed on purpose"))
}

/// One reply, or several in a row.
pub(crate) trait IntoReplies {
    fn into_replies(self) -> Vec<Reply>;
}

impl IntoReplies for Reply {
    fn into_replies(self) -> Vec<Reply> {
        vec![self]
    }
}

impl IntoReplies for Vec<Reply> {
    fn into_replies(self) -> Vec<Reply> {
        self
    }
}

impl<const N: usize> IntoReplies for [Reply; N] {
    fn into_replies(self) -> Vec<Reply> {
        self.into()
    }
}
