//! Who may do what: every role on every route, the guard without tokens, and that no route goes without a rule.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test fails by panicking")]

mod support;

use axum::body::Body;
use axum::http::{Method, Request};
use sandpost_ingress::{Peer, openapi};
use std::net::SocketAddr;
use support::{World, secret};

/// Who gets past the gate: publisher, viewer, operator, admin, nobody.
fn expected(method: &Method, path: &str) -> Option<[bool; 5]> {
    const PUBLISH: [bool; 5] = [true, false, true, true, false];
    const READ: [bool; 5] = [false, true, true, true, false];
    const OPERATE: [bool; 5] = [false, false, true, true, false];
    const ADMINISTER: [bool; 5] = [false, false, false, true, false];
    const OPEN: [bool; 5] = [true; 5];
    Some(match (method.as_str(), path) {
        ("POST", "/v1/topics/{topic}/messages" | "/v1/topics/{topic}/messages:batch") => PUBLISH,
        (
            "GET",
            "/v1/messages/{id}"
            | "/v1/mailbox"
            | "/v1/mailbox/{mail}"
            | "/v1/plugins"
            | "/v1/dead-letters"
            | "/v1/dead-letters/{id}"
            | "/metrics",
        ) => READ,
        ("DELETE", "/v1/dead-letters/{id}") | ("POST", "/v1/dead-letters/{id}/replay") => OPERATE,
        ("GET", "/api/admin/redis/stats") => ADMINISTER,
        ("GET", "/healthz" | "/readyz" | "/health" | "/openapi.json") => OPEN,
        _ => return None,
    })
}

fn described() -> Vec<(Method, String)> {
    let mut routes = Vec::new();
    for (path, item) in openapi().paths.paths {
        let operations = [
            (Method::GET, item.get.is_some()),
            (Method::POST, item.post.is_some()),
            (Method::PUT, item.put.is_some()),
            (Method::PATCH, item.patch.is_some()),
            (Method::DELETE, item.delete.is_some()),
        ];
        routes.extend(operations.into_iter().filter(|(_, there)| *there).map(|(method, _)| (method, path.clone())));
    }
    routes
}

fn concrete(path: &str) -> String {
    path.replace("{topic}", "orders").replace("{id}", "x").replace("{mail}", "latest")
}

#[tokio::test]
async fn every_role_on_every_route() {
    let world = World::guarded();
    let routes = described();
    assert_eq!(routes.len(), 16, "{routes:?}");
    for (method, path) in routes {
        let expected = expected(&method, &path).unwrap_or_else(|| panic!("{method} {path} has no expectation here"));
        let roles = [Some("publisher"), Some("viewer"), Some("operator"), Some("admin"), None];
        for (role, passes) in roles.into_iter().zip(expected) {
            let mut request = Request::builder().method(method.clone()).uri(concrete(&path));
            if let Some(role) = role {
                request = request.header("authorization", format!("Bearer {}", secret(role)));
            }
            let answer = world.send(request.body(Body::from("{}")).unwrap()).await;
            let code = if answer.status.is_success() { String::new() } else { answer.json()["code"].to_string() };
            let denied = ["\"unauthenticated\"", "\"forbidden\"", "\"not-found\"", "\"method-not-allowed\""]
                .contains(&code.as_str());
            assert_eq!(!denied, passes, "{method} {path} as {role:?}: {} {}", answer.status, answer.text());
        }
    }
}

#[tokio::test]
async fn refusals_say_what_is_needed() {
    let world = World::guarded();
    let none = world.get("/v1/plugins").await;
    none.is_problem(401, "unauthenticated", "send the header `Authorization: Bearer` with a token");
    assert_eq!(none.header("www-authenticate"), "Bearer realm=\"sandpost\"");
    for wrong in ["Bearer wrong-wrong-wrong-wrong", "Basic YTpi", "Bearer", "Bearer "] {
        let request = Request::get("/v1/plugins").header("authorization", wrong).body(Body::empty()).unwrap();
        let answer = world.send(request).await;
        answer.is_problem(401, "unauthenticated", "the token is not known");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"sandpost\", error=\"invalid_token\"");
    }
    let viewer = format!("authorization: bearer {}", secret("viewer"));
    let answer = world.publish(&[&viewer], "{}").await;
    answer.is_problem(403, "forbidden", "needs one of the roles `publisher`, `operator`, `admin`");
    let narrow = format!("authorization: Bearer {}", secret("narrow"));
    world.publish(&[&narrow], "{}").await.is_problem(403, "forbidden", "this token may not publish to this topic");
    assert_eq!(world.post("/v1/topics/mails-eu/messages", &[&narrow], "{}").await.status, 404);
    assert!(world.stored().is_empty());

    let open_metrics = World::with(&format!("metrics_open = true\n{}", support::TOKENS), Vec::new(), true);
    assert_eq!(open_metrics.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn unknown_routes_and_methods_have_their_problems() {
    let world = World::open();
    for path in ["/", "/v2", "/v1/topics/orders", "/v1/topics/orders/messages/", "/v1/topics/orders/messages:x"] {
        world.get(path).await.is_problem(404, "not-found", "see /openapi.json for what there is");
    }
    let put = Request::put("/v1/dead-letters/1").body(Body::empty()).unwrap();
    let answer = world.send(put).await;
    answer.is_problem(405, "method-not-allowed", "allowed: GET, HEAD, DELETE");
    assert_eq!(answer.header("allow"), "GET, HEAD, DELETE");
    let answer = world.get("/v1/topics/orders/messages:batch").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    let head = world.send(Request::head("/v1/plugins").body(Body::empty()).unwrap()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-type"), "application/json");
}

#[tokio::test]
async fn without_tokens_only_this_machine_is_served() {
    let world = World::open();
    let from = |peer: &str| {
        let mut request = Request::get("/v1/plugins").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(peer.parse::<SocketAddr>().unwrap()));
        request
    };
    for (peer, status) in [("127.0.0.1:1", 200), ("[::1]:1", 200), ("[::ffff:127.0.0.1]:1", 200), ("10.0.0.1:1", 403)] {
        assert_eq!(world.send(from(peer)).await.status.as_u16(), status, "{peer}");
    }
    world.send(from("192.0.2.7:9")).await.is_problem(
        403,
        "local-only",
        "configure `http.tokens` to serve other machines",
    );
    let with = |name: &str, value: &str| Request::get("/v1/plugins").header(name, value).body(Body::empty()).unwrap();
    let host = world.send(with("host", "evil.example:8080")).await;
    host.is_problem(
        403,
        "local-only",
        "the `Host` header is not a name of this machine: localhost or a loopback address",
    );
    for origin in ["https://evil.example", "null", "http://localhost:3000"] {
        let answer = world.send(with("origin", origin)).await;
        answer.is_problem(403, "local-only", "the `Origin` header is another site's");
    }
    assert_eq!(world.send(with("origin", "http://localhost")).await.status, 200);
}
