//! Over real sockets: limits, slow clients, the graceful end.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test fails by panicking")]

mod support;

use sandpost_ingress::{ServeError, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

struct Server {
    world: World,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), ServeError>>,
}

async fn start(config: &str) -> Server {
    let world = World::with(config, Vec::new(), true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ingress = world.ingress.clone();
    let done = tokio::spawn(serve(listener, ingress, async move {
        stopped.await.ok();
    }));
    Server { world, address, stop, done }
}

impl Server {
    async fn open(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = self.open().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(stream).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.done).await.unwrap().unwrap().unwrap();
    }
}

async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    // A connection that is reset has said what it had to say.
    timeout(PATIENCE, stream.read_to_end(&mut all)).await.unwrap().ok();
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_request_over_a_socket() {
    let server = start("").await;
    let answer = server
        .raw("POST /v1/topics/orders/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    let head = server.raw("HEAD /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 404") && head.ends_with("\r\n\r\n"), "{head}");
    let stranger = server.raw("GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(stranger.starts_with("HTTP/1.1 403"), "{stranger}");
    assert_eq!(server.world.stored().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let server = start("header_timeout_ms = 100\nbody_timeout_ms = 100").await;
    let silent = server.open().await;
    assert_eq!(rest(silent).await, "", "a connection without a request ends");
    let half = server.raw("GET /healthz HTTP/1.1\r\nHost: local").await;
    assert!(!half.contains(" 200 "), "{half}");
    let body =
        server.raw("POST /v1/topics/orders/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{").await;
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("\"slow-body\""), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = start("headers_max = 16\nheader_max_bytes = 8192").await;
    let many = "x-more: 1\r\n".repeat(17);
    let answer = server.raw(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = "x".repeat(20_000);
    let answer = server.raw(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nx: {long}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn requests_at_one_time_are_bounded_but_probes_are_answered() {
    let server = start("requests_max = 1").await;
    let hold = Arc::new(Notify::new());
    *server.world.broker.hold.lock().unwrap() = Some(hold.clone());
    let mut busy = server.open().await;
    busy.write_all(b"POST /v1/topics/orders/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        .await
        .unwrap();
    timeout(PATIENCE, server.world.broker.entered.notified()).await.unwrap();
    let refused = server.raw("GET /v1/plugins HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("\"overloaded\"") && refused.contains("retry-after: 1"),
        "{refused}"
    );
    let probe = server.raw("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
    hold.notify_one();
    assert!(rest(busy).await.starts_with("HTTP/1.1 202"));
    server.stop().await;
}

#[tokio::test]
async fn a_request_at_work_ends_before_the_host_does() {
    let server = start("").await;
    let hold = Arc::new(Notify::new());
    *server.world.broker.hold.lock().unwrap() = Some(hold.clone());
    let idle = server.open().await;
    let mut busy = server.open().await;
    busy.write_all(b"POST /v1/topics/orders/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        .await
        .unwrap();
    timeout(PATIENCE, server.world.broker.entered.notified()).await.unwrap();
    let Server { world, address, stop, done } = server;
    stop.send(()).unwrap();
    assert_eq!(rest(idle).await, "", "an idle connection ends at once");
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    assert!(!done.is_finished());
    hold.notify_one();
    let answer = rest(busy).await;
    assert!(answer.starts_with("HTTP/1.1 202") && answer.contains("connection: close"), "{answer}");
    timeout(PATIENCE, done).await.unwrap().unwrap().unwrap();
    assert_eq!(world.stored().len(), 1);
}

#[tokio::test]
async fn the_grace_has_an_end() {
    let server = start("shutdown_grace_ms = 50").await;
    *server.world.broker.hold.lock().unwrap() = Some(Arc::new(Notify::new()));
    let mut busy = server.open().await;
    busy.write_all(b"POST /v1/topics/orders/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        .await
        .unwrap();
    timeout(PATIENCE, server.world.broker.entered.notified()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_request_may_not_take_for_ever() {
    let server = start("request_timeout_ms = 100\nbody_timeout_ms = 100\nhealth_timeout_ms = 100").await;
    let hold = Arc::new(Notify::new());
    *server.world.broker.hold.lock().unwrap() = Some(hold.clone());
    let answer = server
        .raw("POST /v1/topics/orders/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("\"timeout\""), "{answer}");
    hold.notify_one();
    server.stop().await;
}

#[tokio::test]
async fn without_tokens_others_are_not_listened_to() {
    let world = World::open();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve(listener, world.ingress.clone(), std::future::pending()).await;
    assert!(matches!(refused, Err(ServeError::OpenToOthers { .. })));
}
