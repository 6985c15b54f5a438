//! Whether an answer that was handed over arrived.
//!
//! The end of an answer lies in the buffers of the system when we let go of it. A connection that
//! breaks may have taken it along, and so may one that its peer closes right afterwards: most are
//! kept open for a while. A caller whose connection ends so counts as gone, and its repeat may
//! join. Whoever sends the next request over the same connection has read the answer before it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::engine::{Engine, job::Job};

/// A connection that ends sooner than this after an answer may have ended before it.
const DOUBT: Duration = Duration::from_secs(2);

/// What is known of one connection of HTTP/1.
#[derive(Clone, Debug, Default)]
pub struct Line(Arc<State>);

#[derive(Debug, Default)]
struct State {
    broken: AtomicBool,
    last: Mutex<Option<Handed>>,
}

/// An answer that was handed over whole.
#[derive(Debug)]
struct Handed {
    engine: Arc<Engine>,
    job: Arc<Job>,
    at: Instant,
}

impl Line {
    /// The stream of the connection, watched.
    pub fn watch<S>(&self, stream: S) -> Watched<S> {
        Watched { stream, line: self.clone() }
    }

    /// A request came.
    pub fn begin(&self) {
        self.0.last.lock().take();
    }

    /// The answer of a job was handed over whole.
    pub(super) fn handed(&self, engine: &Arc<Engine>, job: &Arc<Job>) {
        let handed =
            Handed { engine: Arc::clone(engine), job: Arc::clone(job), at: Instant::now() };
        *self.0.last.lock() = Some(handed);
    }

    /// The connection is over.
    pub fn end(&self) {
        let Some(last) = self.0.last.lock().take() else { return };
        if self.0.broken.load(Ordering::Relaxed) || last.at.elapsed() < DOUBT {
            last.engine.settle(&last.job, false);
        }
    }

    fn note<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(done, Poll::Ready(Err(_))) {
            self.0.broken.store(true, Ordering::Relaxed);
        }
        done
    }
}

/// A stream that notes whether it broke. The HTTP server does not tell of one that breaks between
/// two requests.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    line: Line,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.line.note(done)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.line.note(done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.line.note(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.line.note(done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peer that closed before us is no news.
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
