//! One connection: HTTP/1.1 with a limit on everything a client may draw out. (Silence before the first byte, a slow head and an
//! idle connection all fall under the time of the head; a slow body is the body reader's.)

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::guard::Door;
use super::{Limits, PROBLEM_JSON, Problem};

/// Most bytes that a connection holds of what was received and not taken yet.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// How long somebody beyond the limit may take to ask and to read that there is no place.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// What all connections are served by.
pub(super) struct Terms {
    pub(super) router: Router,
    pub(super) limits: Limits,
    /// Ends connections after the request under way.
    pub(super) stop: CancellationToken,
    /// Ends them at once.
    pub(super) kill: CancellationToken,
}

/// Serves requests until the client goes, breaks a limit, or the daemon stops.
pub(super) async fn serve_connection<S>(stream: S, door: Door, terms: &Terms)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(door.clone());
        terms.router.clone().oneshot(request)
    });
    let io = TokioIo::new(Unstalled::new(stream, terms.limits.write_stall_time));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(terms.limits.head_time)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, service);
    tokio::pin!(connection);
    // How a connection ended concerns its client alone: what matters was counted request by request.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = terms.stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = terms.kill.cancelled() => {}
    }
}

/// Tells a client that there is no place for it. It is heard out first, and read on after: closing with bytes unread would reset
/// the connection and take the answer with it.
pub(super) async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let problem = Problem::new(503, "too-many-connections", "all connections that the daemon serves at once are taken")
        .remedy("close idle connections, or raise [serve] max_connections");
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM_JSON}\r\nContent-Length: {}\r\nRetry-After: 1\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let talk = async {
        let mut heard = [0; 1024];
        if stream.read(&mut heard).await? == 0 {
            return Ok(());
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut heard).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it was heard changes nothing.
    let _ = timeout(FAREWELL_TIME, talk).await;
}

/// A stream whose writes fail once the other side has taken nothing for a while; hyper itself would wait for ever.
struct Unstalled<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> Unstalled<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, deadline: Box::pin(sleep(patience)), waiting: false }
    }

    fn limit<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = false;
            return wrote;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.patience);
        }
        self.deadline.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.limit(context, wrote)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.limit(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(context);
        this.limit(context, shut)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.limit(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails_and_one_that_moves_does_not() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut stream = Unstalled::new(near, Duration::from_millis(20));
        stream.write_all(&[0; 10]).await.unwrap();
        let mut taken = [0; 10];
        let (wrote, read) = tokio::join!(stream.write_all(&[0; 10]), far.read_exact(&mut taken));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(stream.write_all(&[0; 10]).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
