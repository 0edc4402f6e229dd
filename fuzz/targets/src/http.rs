//! HTTP: whatever is sent, the answer is well-formed and never the host's fault, and what is accepted is stored.
//!
//! The input is text: requests as one would type them, parted by lines of `%%`. A request is a line with method and
//! path, header lines, an empty line, and the body. Over the embedded store, in memory.

use crate::block_on;
use crate::memory::NoPlugins;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response};
use sandpost_embedded_store::Config as StoreConfig;
use sandpost_ingress::{Config, Ingress, Parts, Peer, Tokens};
use sandpost_ports::broker::Broker as _;
use sandpost_ports::clock::{Clock, ManualClock};
use sandpost_ports::publisher::Publisher;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tower::ServiceExt as _;

/// Requests of one input.
const REQUESTS_MAX: usize = 8;
/// A fixed time, so that an input means the same every time: 2026-11-20.
const NOW_MS: u64 = 1_795_166_790_007;

/// The bytes as requests, one after the other, to one host.
pub fn http(data: &[u8]) {
    block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW_MS));
        let store = sandpost_embedded_store::open(None, &StoreConfig::default(), clock.clone()).unwrap();
        let store = Arc::new(store);
        store.subscribe(&"orders-mail".parse().unwrap(), &"orders".parse().unwrap()).await.unwrap();
        let config = Config { body_max_bytes: 64 * 1024, ..Config::default() };
        let ingress = Ingress::new(Parts {
            tokens: Tokens::resolve(&config, |_| None).unwrap(),
            config,
            service: "sandpost".to_owned(),
            publisher: Publisher::new(store.clone(), store.clone(), clock.clone()),
            state: store.clone(),
            requests: store.clone(),
            cache_server: None,
            plugins: Arc::new(NoPlugins),
            handlers: Vec::new(),
            mailbox: None,
            checks: Vec::new(),
            clock,
            render_metrics: Arc::new(|| "up 1\n".to_owned()),
        });
        // Once an input: describing every route takes longer than a request.
        let router = ingress.router();
        for raw in split(data, b"\n%%\n").take(REQUESTS_MAX) {
            let Some(request) = request(raw) else { continue };
            exchange(&router, request).await;
        }
        store.close().await;
    });
}

async fn exchange(router: &Router, request: Request<Body>) {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = router.clone().oneshot(request).await.expect("the router has no error");
    let (status, headers, body) = read(answer).await;
    let shown = String::from_utf8_lossy(&body);
    assert!(status < 500, "{method} {path}: {status} {shown}");
    assert!(headers("x-request-id").is_some(), "{method} {path}: every answer has an id");
    if method == Method::HEAD {
        return;
    }
    if status >= 400 {
        assert_eq!(headers("content-type").as_deref(), Some("application/problem+json"), "{method} {path}: {shown}");
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!(problem["status"], status, "{shown}");
        assert!(
            problem["code"].is_string() && problem["title"].is_string() && problem["detail"].is_string(),
            "{shown}"
        );
        return;
    }
    if status == 202 && path.ends_with("/messages") {
        let accepted: serde_json::Value = serde_json::from_slice(&body).expect("what was accepted is told in JSON");
        let id = accepted["id"].as_str().expect("with its id");
        let history = Request::get(format!("/v1/messages/{id}")).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(from_here(history)).await.expect("the router has no error");
        let (status, _, body) = read(answer).await;
        assert_eq!(status, 200, "accepted, and yet not there: {}", String::from_utf8_lossy(&body));
    }
}

async fn read(answer: Response<Body>) -> (u16, impl Fn(&str) -> Option<String>, Vec<u8>) {
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body that ends").to_vec();
    let headers = move |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    (parts.status.as_u16(), headers, body)
}

/// A request as it stands there; none where no server would have taken it for one.
fn request(raw: &[u8]) -> Option<Request<Body>> {
    let mut lines = raw.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let mut words = first.splitn(2, |byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let mut request = Request::builder().method(method).uri(words.next()?).body(()).ok()?;
    let mut consumed = first.len() + 1;
    for line in lines {
        consumed += line.len() + 1;
        if line.is_empty() {
            break;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next()?).ok()?;
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    let body = raw.get(consumed..).unwrap_or_default().to_vec();
    Some(from_here(request.map(|()| Body::from(body))))
}

/// As it comes from a client on this machine.
fn from_here(mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(Peer(SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000))));
    request.headers_mut().entry("host").or_insert(HeaderValue::from_static("localhost"));
    request
}

/// The parts between these separators.
fn split<'a>(data: &'a [u8], separator: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let all = rest?;
        let found = all.windows(separator.len()).position(|window| window == separator);
        rest = found.map(|at| &all[at + separator.len()..]);
        Some(found.map_or(all, |at| &all[..at]))
    })
}
