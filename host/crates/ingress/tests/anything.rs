//! Whatever is sent, the host neither panics nor takes it for its own fault.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test fails by panicking")]

mod support;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request};
use proptest::prelude::*;
use support::World;

fn header() -> impl Strategy<Value = (String, Vec<u8>)> {
    let names = prop::sample::select(vec![
        "content-type",
        "content-length",
        "idempotency-key",
        "traceparent",
        "sandpost-ordering-key",
        "sandpost-delay-ms",
        "sandpost-dedupe-key",
        "sandpost-attribute-x",
        "sandpost-attribute-",
        "sandpost-x",
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-time",
        "ce-",
        "host",
        "origin",
        "authorization",
        "x-request-id",
        "accept",
    ]);
    let values = prop_oneof![
        prop::sample::select(vec![
            "1.0",
            "application/json",
            "application/cloudevents+json",
            "application/cloudevents-batch+json",
            "text/plain",
            "localhost",
            "0",
            "18446744073709551615",
            "%ff",
            "%",
            "\"",
            "\"\"",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    (names.prop_map(str::to_owned), values)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let json = prop::collection::vec(
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"messages\"",
            "\"body\"",
            "\"body_base64\"",
            "\"data\"",
            "\"id\"",
            "\"source\"",
            "\"type\"",
            "\"specversion\"",
            "\"1.0\"",
            "\"AA==\"",
            "1",
            "null",
            "true",
            "\"\\ud800\"",
            "1e999",
            "-",
        ]),
        0..16,
    )
    .prop_map(|parts| parts.concat().into_bytes());
    let items = json.clone().prop_map(|item| [b"{\"messages\":[{\"body\":", &item[..], b"}]}"].concat());
    prop_oneof![json, items, prop::collection::vec(any::<u8>(), 0..64)]
}

fn path() -> impl Strategy<Value = String> {
    let templates = prop::sample::select(vec![
        "/v1/topics/{}/messages",
        "/v1/topics/{}/messages:batch",
        "/v1/messages/{}",
        "/v1/mailbox/{}",
        "/v1/mailbox?{}",
        "/v1/dead-letters/{}",
        "/v1/dead-letters/{}/replay",
        "/v1/dead-letters?{}",
        "/readyz?{}",
        "/{}",
    ]);
    let parts = prop_oneof![Just("orders".to_owned()), "[a-z0-9%.=&_~-]{0,12}"];
    (templates, parts).prop_map(|(template, part)| template.replace("{}", &part))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_sent_is_the_hosts_fault(
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::DELETE, Method::HEAD, Method::PUT]),
        path in path(),
        headers in prop::collection::vec(header(), 0..6),
        body in body(),
    ) {
        let Ok(mut request) = Request::builder().method(method).uri(path).body(Body::from(body)) else { return Ok(()) };
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
                request.headers_mut().append(name, value);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async { World::open().send(request).await });
        prop_assert!(answer.status.as_u16() < 500, "{} {:?}", answer.status, answer.body);
        prop_assert!(!answer.header("x-request-id").is_empty());
        if answer.status.is_client_error() && !answer.body.is_empty() {
            prop_assert!(answer.json()["code"].is_string());
        }
    }
}
