//! Messages, mailbox, plugins, dead letters, health, metrics, the description.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test fails by panicking")]

mod support;

use axum::body::Body;
use axum::http::Request;
use sandpost_ingress::{Check, CheckRole};
use sandpost_ports::ErrorKind;
use sandpost_ports::state::{DeadLetterStatus, Step};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{FakeServer, FakeService, NOW, World, dead_letter};

#[tokio::test]
async fn what_is_not_there_says_so() {
    let world = World::open();
    let message = "no step is recorded under this id; the ledger forgets old messages";
    for path in ["/v1/messages/none", "/v1/messages/%20"] {
        world.get(path).await.is_problem(404, "unknown-message", message);
    }
    let mail = "the mailbox holds no mail of this number";
    for path in ["/v1/mailbox/9", "/v1/mailbox/x.html", "/v1/mailbox/99999999999999999999"] {
        world.get(path).await.is_problem(404, "unknown-mail", mail);
    }
    world.get("/v1/mailbox/2.html").await.is_problem(404, "no-such-part", "this mail has no HTML part");
    world.get("/v1/mailbox/1.pdf").await.is_problem(404, "not-found", "see /openapi.json for what there is");
    world.get("/v1/mailbox?limit=0").await.is_problem(400, "invalid-query", "`limit` is 0; 1 to 500 are accepted");
    world.get("/v1/mailbox?limits=1").await.is_problem(
        400,
        "invalid-query",
        "limits: unknown field `limits`, expected `limit` or `before`",
    );
    let letter = "it was never there, was replayed, or was discarded";
    world.get("/v1/dead-letters/x").await.is_problem(404, "unknown-dead-letter", letter);
    world.post("/v1/dead-letters/x/replay", &[], "").await.is_problem(404, "unknown-dead-letter", letter);
    let discard = Request::delete("/v1/dead-letters/x").body(Body::empty()).unwrap();
    world.send(discard).await.is_problem(404, "unknown-dead-letter", letter);
    let without = World::with("", Vec::new(), false);
    for path in ["/v1/mailbox", "/v1/mailbox/latest"] {
        without.get(path).await.is_problem(
            404,
            "no-mailbox",
            "mail goes to a real provider here; only the embedded mail catcher keeps it",
        );
    }
}

#[tokio::test]
async fn mail_is_shown_in_each_form() {
    let world = World::open();
    let list = world.get("/v1/mailbox?limit=1").await.json();
    assert_eq!((&list["mails"][0]["number"], &list["next"]), (&json!(2), &json!(2)));
    let older = world.get("/v1/mailbox?before=2").await.json();
    assert_eq!((older["mails"].as_array().unwrap().len(), &older["next"]), (1, &json!(null)));
    assert_eq!(older["mails"][0]["caught_at"], NOW);
    let one = world.get("/v1/mailbox/1").await.json();
    assert_eq!(
        (&one["html"], &one["to"], &one["message_id"]),
        (&json!("<p>Olá</p>"), &json!([{"address": "ana@example.com"}]), &json!("m-1"))
    );
    assert_eq!(world.get("/v1/mailbox/latest").await.json()["number"], 2);
    let html = world.get("/v1/mailbox/1.html").await;
    assert_eq!((html.text(), html.header("content-type")), ("<p>Olá</p>", "text/html; charset=utf-8"));
    assert!(html.header("content-security-policy").starts_with("sandbox; default-src 'none'"));
    let text = world.get("/v1/mailbox/latest.txt").await;
    assert_eq!((text.text(), text.header("content-type")), ("Olá!", "text/plain; charset=utf-8"));
    let eml = world.get("/v1/mailbox/1.eml").await;
    assert_eq!((eml.text(), eml.header("content-type")), ("Subject: hi\r\n\r\nhi", "message/rfc822"));
}

#[tokio::test]
async fn plugins_and_metrics_are_shown() {
    let world = World::open();
    assert_eq!(
        world.get("/v1/plugins").await.json(),
        json!({"plugins": [{
            "name": "mailer",
            "live": {"version": "1.2.0", "digest": "ab".repeat(32), "deployed_at": NOW, "handler": true,
                     "templates": ["welcome"], "grants": ["email: send from `default`"], "in_flight": 3},
            "refused": {"refused_at": NOW, "reason": "not a component"},
        }]})
    );
    let metrics = world.get("/metrics").await;
    assert_eq!(metrics.text(), "sandpost_up 1\n");
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn the_figures_of_redis_have_the_shape_of_before() {
    let with = |fails| World::before("", Vec::new(), true, Some(Arc::new(FakeServer(fails))));
    assert_eq!(
        with(None).get("/api/admin/redis/stats").await.json(),
        json!({
            "stats": {"keyspace_hits": "7"},
            "memory": {"used_memory_human": "1.00M"},
            "clients": {"connected_clients": "2"},
        })
    );
    let none = World::open().get("/api/admin/redis/stats").await;
    none.is_problem(404, "no-redis", "the cache is embedded here; `/metrics` has what is counted of it");
    let cluster = with(Some(ErrorKind::Unsupported)).get("/api/admin/redis/stats").await;
    cluster.is_problem(501, "unsupported", "a cluster has no figures");
    let away = with(Some(ErrorKind::Unavailable)).get("/api/admin/redis/stats").await;
    assert_eq!((away.status.as_u16(), away.header("retry-after")), (503, "1"));
    assert!(!away.text().contains("10.0.0.1"));
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_discarded() {
    let world = World::open();
    world.state.letters.lock().unwrap().extend([
        dead_letter("1", "rejected", "application/json", b"{\"a\": 1.50}"),
        dead_letter("2", "attempts-exhausted", "text/plain", b"hi"),
        dead_letter("3", "rejected", "application/json", b"{broken"),
    ]);
    let list =
        world.get("/v1/dead-letters?cause=rejected&topic=orders&subscription=orders-mailer&limit=1").await.json();
    assert_eq!((&list["dead_letters"][0]["id"], &list["next"]), (&json!("3"), &json!("3")));
    assert_eq!(list["dead_letters"][0]["message"].get("body_base64"), None);
    let rest = world.get("/v1/dead-letters?cause=rejected&before=3").await.json();
    assert_eq!(rest["dead_letters"].as_array().unwrap().len(), 1);
    assert_eq!(world.get("/v1/dead-letters?topic=a").await.status, 400);

    let one = world.get("/v1/dead-letters/1").await;
    assert!(one.text().contains("\"body\":{\"a\": 1.50}"), "{}", one.text());
    assert_eq!(
        (&one.json()["status"], &one.json()["attempts"], &one.json()["dead_at"]),
        (&json!("held"), &json!(5), &json!(NOW))
    );
    assert_eq!(world.get("/v1/dead-letters/2").await.json()["message"]["body_base64"], "aGk=");
    assert_eq!(world.get("/v1/dead-letters/3").await.json()["message"]["body_bytes"], 7);

    let gone = world.send(Request::delete("/v1/dead-letters/2").body(Body::empty()).unwrap()).await;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    let entries = world.state.entries.lock().unwrap().clone();
    assert_eq!((entries[0].step, entries[0].detail.as_deref()), (Step::Discarded, Some("dead letter 2, by local")));
    assert_eq!(world.get("/v1/dead-letters/2").await.status, 404);
}

#[tokio::test]
async fn a_replay_goes_to_its_subscription_under_its_id() {
    let world = World::open();
    world.state.letters.lock().unwrap().push(dead_letter("1", "rejected", "application/json", b"{}"));
    *world.broker.fail.lock().unwrap() = Some(ErrorKind::Unavailable);
    assert_eq!(world.post("/v1/dead-letters/1/replay", &[], "").await.status, 503);
    assert_eq!(world.state.letters.lock().unwrap()[0].status, DeadLetterStatus::Held);
    *world.broker.fail.lock().unwrap() = Some(ErrorKind::UnknownOutcome);
    assert_eq!(world.post("/v1/dead-letters/1/replay", &[], "").await.status, 503);
    assert_eq!(world.state.letters.lock().unwrap()[0].status, DeadLetterStatus::Replaying);
    *world.broker.fail.lock().unwrap() = None;

    let answer = world.post("/v1/dead-letters/1/replay", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (202, "{\"id\":\"m-1\"}"));
    let stored = world.stored();
    assert_eq!(stored[0].only.as_ref().unwrap().as_str(), "orders-mailer");
    assert_eq!((stored[0].id.as_str(), stored[0].dedupe_key.as_deref()), ("m-1", Some("replay/1")));
    assert_eq!(world.state.entries.lock().unwrap()[0].step, Step::Replayed);
    assert!(world.state.letters.lock().unwrap().is_empty());
    assert!(world.state.resolved.lock().unwrap().is_empty());

    // A host that died before the last step: the same request again stores nothing and ends it.
    let mut left = dead_letter("1", "rejected", "application/json", b"{}");
    left.status = DeadLetterStatus::Replaying;
    world.state.letters.lock().unwrap().push(left);
    assert_eq!(world.post("/v1/dead-letters/1/replay", &[], "").await.status, 202);
    assert_eq!((world.stored().len(), world.state.letters.lock().unwrap().len()), (1, 0));
}

#[tokio::test]
async fn an_unknown_effect_needs_a_decision() {
    let world = World::open();
    world.state.letters.lock().unwrap().push(dead_letter("1", "outcome-unknown", "application/json", b"{}"));
    let answer = world.post("/v1/dead-letters/1/replay", &[], "").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (409, &json!("unknown-effects")));
    assert_eq!(world.state.letters.lock().unwrap()[0].status, DeadLetterStatus::Held);
    let wrong = world.post("/v1/dead-letters/1/replay?unknown-effects=maybe", &[], "").await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["code"]), (400, &json!("invalid-query")));
    assert_eq!(world.post("/v1/dead-letters/1/replay?unknown-effects=treat-as-done", &[], "").await.status, 202);
    world.state.letters.lock().unwrap().push(dead_letter("2", "outcome-unknown", "application/json", b"{}"));
    assert_eq!(world.post("/v1/dead-letters/2/replay?unknown-effects=send-again", &[], "").await.status, 202);
    assert_eq!(*world.state.resolved.lock().unwrap(), [true, false]);
}

fn checks() -> (Vec<Check>, Vec<Arc<FakeService>>) {
    let roles = [
        ("users", CheckRole::Database),
        ("notes", CheckRole::Documents),
        ("cache", CheckRole::Cache),
        ("broker", CheckRole::PubSub),
        ("mail", CheckRole::Email),
        ("state", CheckRole::State),
    ];
    let services: Vec<_> = roles.iter().map(|_| Arc::new(FakeService::default())).collect();
    let checks = roles
        .iter()
        .zip(&services)
        .map(|((name, role), service)| Check { name: (*name).to_owned(), role: *role, check: service.clone() })
        .collect();
    (checks, services)
}

#[tokio::test(start_paused = true)]
async fn health_has_the_bodies_of_the_origin_documents() {
    let (checks, services) = checks();
    let world = World::with("", checks, true);
    let later = || tokio::time::advance(Duration::from_millis(1_001));
    assert_eq!(world.get("/healthz").await.text(), r#"{"status":"ok"}"#);
    let ready = r#"{"status":"ready","checks":{"database":"ok","cache":"ok","pubsub":"ok"}}"#;
    for path in ["/readyz", "/health", "/readyz?verbose=0", "/readyz?other=1"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, ready), "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    assert_eq!(services[0].asked.load(Ordering::SeqCst), 1, "one answer is reused");
    assert_eq!(
        world.get("/readyz?verbose=1").await.text(),
        r#"{"status":"ready","checks":{"mysql":{"status":"ok","latency":0},"mongodb":{"status":"ok","latency":0},"redis":{"status":"ok","latency":0},"pubsub":{"status":"ok","latency":0},"ses":{"status":"ok","latency":0},"plugins":{"status":"ok","latency":0},"state":{"status":"ok","latency":0}}}"#
    );

    later().await;
    *services[2].error.lock().unwrap() = Some("connection refused");
    *services[3].hangs.lock().unwrap() = true;
    let started = tokio::time::Instant::now();
    let (one, other) = tokio::join!(world.get("/readyz"), world.get("/health"));
    assert_eq!(started.elapsed().as_secs(), 5, "together, each within its time");
    let not_ready = r#"{"status":"not_ready","checks":{"database":"ok","cache":"error","pubsub":"error"}}"#;
    assert_eq!((one.status.as_u16(), one.text(), other.text()), (503, not_ready, not_ready));
    assert_eq!(services[0].asked.load(Ordering::SeqCst), 2, "one round for both");
    let verbose = world.get("/health?verbose=1").await.json();
    assert_eq!(verbose["checks"]["redis"], json!({"status": "error", "message": "cache: connection refused"}));
    assert_eq!(verbose["checks"]["pubsub"], json!({"status": "error", "message": "broker: Timeout"}));

    later().await;
    *services[2].error.lock().unwrap() = None;
    *services[3].hangs.lock().unwrap() = false;
    *services[4].error.lock().unwrap() = Some("down");
    assert_eq!(world.get("/readyz").await.text(), ready, "mail that waits does not keep messages from being taken");
    for role in [0, 1, 5] {
        later().await;
        *services[role].error.lock().unwrap() = Some("down");
        let answer = world.get("/readyz").await;
        assert!(answer.text().contains(r#""database":"error""#), "{role}");
        *services[role].error.lock().unwrap() = None;
    }
}

#[tokio::test]
async fn the_description_lists_what_is_served() {
    let world = World::guarded();
    let api = world.get("/openapi.json").await.json();
    let paths = api["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 15);
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
        }
    }
    assert!(api["components"]["schemas"]["Problem"]["properties"]["code"].is_object());
    let text = serde_json::to_string(&api).unwrap();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(api["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}
