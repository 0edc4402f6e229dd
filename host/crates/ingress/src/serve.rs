//! Connections: taking them, bounding them, ending them.
//!
//! HTTP/1.1 alone: proxies speak it to what is behind them, and every limit here is one of its connections. What a slow
//! or silent client can hold is bounded: the head's time (idle connections too), the body's (`read`), the answer's
//! ([`Patient`]), and connections at one time.
//!
//! On the shutdown signal the port is closed, idle connections end at once, requests at work get the grace, then all end.

use crate::edge::Peer;
use crate::{App, Ingress};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sandpost_telemetry::events::ingress::{AcceptFailed, Listening};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// How long to wait after a connection could not be taken, for instance because the process has no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why HTTP is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could do everything.
    #[error("{address} can be reached by others, and no token is configured")]
    OpenToOthers {
        /// What the listener is bound to.
        address: SocketAddr,
    },
    /// The listener does not say where it listens.
    #[error("the listener has no address")]
    NoAddress(#[source] io::Error),
}

/// Serves until `shutdown` is done and what was at work has ended, or its grace has.
///
/// The listener is bound already, so that a port that is taken is an error before anything runs, and tests bind port 0.
pub async fn serve(
    listener: TcpListener,
    ingress: Ingress,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let app = ingress.app.clone();
    let address = listener.local_addr().map_err(ServeError::NoAddress)?;
    let open = app.tokens.is_open();
    if open && !address.ip().to_canonical().is_loopback() {
        return Err(ServeError::OpenToOthers { address });
    }
    Listening { address, open }.emit();

    let router = ingress.router();
    let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
    let room = Arc::new(Semaphore::new(app.config.connections_max));
    let mut shutdown = pin!(shutdown);
    loop {
        // A permit first: what has no room waits in the system's queue, not here.
        let taken = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut shutdown => break,
            taken = taken => taken,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(app.clone(), router.clone(), stream, peer, stop.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    connection.await;
                });
            }
            Err(error) => {
                AcceptFailed { error: &error }.emit();
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    stop.cancel();
    connections.close();
    let grace = Duration::from_millis(app.config.shutdown_grace_ms);
    let deadline = Instant::now() + grace;
    let all = async {
        connections.wait().await;
        app.work.close();
        app.work.wait().await;
    };
    if tokio::time::timeout_at(deadline, all).await.is_err() {
        app.end.cancel();
        connections.wait().await;
        app.work.close();
        app.work.wait().await;
    }
    Ok(())
}

async fn connection(app: App, router: Router, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
    // An answer goes out in one piece; where the option is refused it goes out a little later.
    stream.set_nodelay(true).ok();
    let stream = Patient::new(stream, Duration::from_millis(app.config.write_timeout_ms));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(app.config.header_timeout_ms))
        .max_headers(app.config.headers_max)
        .max_buf_size(app.config.header_max_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // How a connection ends is the client's affair: cut off, timed out, not HTTP. Requests were counted by themselves.
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = app.end.cancelled() => Ok(()),
            }
        }
    };
    drop(ended);
}

/// A stream whose other end has to take something of what is written within a time.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, shut)
    }
}
