//! HTTP as callers meet it: every kind of wrong input with its exact answer, and the shapes that others rely on.

use sandpost_tests::{Host, Reply, Setup};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");
const MESSAGES: &str = "/v1/topics/work/messages";
const BATCH: &str = "/v1/topics/work/messages:batch";

fn host() -> Host {
    let mut setup = Setup::scripted("");
    setup.config = format!("[http]\nbody_max_bytes = 2000\n{}", setup.config);
    Host::start(setup)
}

#[test]
fn wrong_input_has_its_exact_answer() {
    let host = host();
    let large = format!("{{\"do\":\"{}\"}}", "x".repeat(3000));
    let cases: Vec<(&str, Reply, (u16, &str))> = vec![
        ("unknown topic", host.post("/v1/topics/nowhere/messages", "{}"), (404, "unknown-topic")),
        ("a topic that cannot be", host.post("/v1/topics/a%20b/messages", "{}"), (400, "invalid-topic")),
        ("bad JSON", host.post(MESSAGES, "{\"do\":"), (400, "invalid-json")),
        ("too large", host.post(MESSAGES, &large), (413, "too-large")),
        (
            "batch of text",
            host.send("POST", BATCH, &[("content-type", "text/plain")], "x"),
            (415, "unsupported-media-type"),
        ),
        ("batch of nonsense", host.post(BATCH, "[1,2]"), (400, "invalid-json")),
        (
            "delay of no number",
            host.send("POST", MESSAGES, &[JSON, ("sandpost-delay-ms", "soon")], "{}"),
            (400, "invalid-header"),
        ),
        ("no such route", host.get("/v2/anything"), (404, "not-found")),
        ("no such method", host.send("PUT", MESSAGES, &[JSON], "{}"), (405, "method-not-allowed")),
        ("no such message", host.get("/v1/messages/0198c0de-0000-7000-8000-000000000000"), (404, "unknown-message")),
        ("no such dead letter", host.get("/v1/dead-letters/nothing"), (404, "unknown-dead-letter")),
        ("no such mail", host.get("/v1/mailbox/9999"), (404, "unknown-mail")),
        (
            "another site's page",
            host.send("POST", MESSAGES, &[JSON, ("origin", "https://evil.example")], "{}"),
            (403, "local-only"),
        ),
        ("another host's name", host.send("GET", "/v1/plugins", &[("host", "evil.example")], ""), (403, "local-only")),
        (
            "binary CloudEvent without an id",
            host.send(
                "POST",
                MESSAGES,
                &[JSON, ("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s")],
                "{}",
            ),
            (400, "invalid-cloudevent"),
        ),
        (
            "structured CloudEvent of another version",
            host.send(
                "POST",
                MESSAGES,
                &[("content-type", "application/cloudevents+json")],
                r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#,
            ),
            (400, "invalid-cloudevent"),
        ),
    ];
    for (what, reply, (status, code)) in cases {
        assert_eq!(reply.problem(), (status, code.to_owned()), "{what}: {reply:?}");
        let problem = reply.json();
        assert_eq!(problem["status"], status, "{what}");
        assert_eq!(problem["type"], format!("urn:sandpost:problem:{code}"), "{what}");
        assert_eq!(problem["request_id"].as_str(), reply.header("x-request-id"), "{what}");
    }
}

#[test]
fn an_idempotency_key_replays_the_first_answer() {
    let host = host();
    let publish = |body: &str| host.send("POST", MESSAGES, &[JSON, ("idempotency-key", "order-1")], body);
    let first = publish(r#"{"do":"ack"}"#);
    let again = publish(r#"{"do":"ack"}"#);
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.text, again.text);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let other = publish(r#"{"do":"trap"}"#);
    assert_eq!(other.problem(), (422, "idempotency-mismatch".to_owned()));
    let id = first.json()["id"].as_str().expect("an id").to_owned();
    let steps = host.until_step(&id, "acknowledged");
    assert_eq!(steps.iter().filter(|step| *step == "accepted").count(), 1);
}

#[test]
fn cloudevents_come_in_both_modes() {
    let host = host();
    let binary = host.send(
        "POST",
        MESSAGES,
        &[JSON, ("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order")],
        r#"{"do":"ack"}"#,
    );
    assert_eq!(binary.status, 202, "{binary:?}");
    let event = json!({
        "specversion": "1.0", "id": "2", "source": "/shop", "type": "order", "data": { "do": "ack" },
        "datacontenttype": "application/json",
    });
    let structured =
        host.send("POST", MESSAGES, &[("content-type", "application/cloudevents+json")], event.to_string());
    assert_eq!(structured.status, 202, "{structured:?}");
    for reply in [binary, structured] {
        host.until_step(reply.json()["id"].as_str().expect("an id"), "acknowledged");
    }
}

#[test]
fn a_batch_answers_for_each_message() {
    let host = host();
    let reply = host.post(BATCH, r#"{"messages":[{"body":{"do":"ack"}},{"body":{"do":"ack"}}]}"#);
    assert_eq!(reply.status, 202, "{reply:?}");
    let results = reply.json()["results"].as_array().cloned().expect("results");
    assert_eq!(results.len(), 2);
    for result in results {
        host.until_step(result["id"].as_str().expect("an id"), "acknowledged");
    }
}

#[test]
fn the_callers_trace_is_the_messages() {
    let host = host();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let reply = host.send("POST", MESSAGES, &[JSON, ("traceparent", &parent)], r#"{"do":"ack"}"#);
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    host.until_step(&id, "acknowledged");
    assert_eq!(host.get(&format!("/v1/messages/{id}")).json()["trace_id"], trace);
}

#[test]
fn health_has_the_bodies_of_the_origin_documents() {
    let host = host();
    let healthz = host.get("/healthz");
    assert_eq!((healthz.status, healthz.text.as_str()), (200, r#"{"status":"ok"}"#));
    let ready = r#"{"status":"ready","checks":{"database":"ok","cache":"ok","pubsub":"ok"}}"#;
    for path in ["/readyz", "/health"] {
        let reply = host.get(path);
        assert_eq!((reply.status, reply.text.as_str()), (200, ready), "{path}");
    }
    let verbose = host.get("/readyz?verbose=1");
    assert_eq!(verbose.status, 200, "{verbose:?}");
    let verbose = verbose.json();
    let checks = verbose.get("checks").unwrap_or(&verbose);
    for name in ["mysql", "mongodb", "redis", "pubsub", "ses", "plugins"] {
        assert_eq!(checks[name]["status"], "ok", "{name}: {verbose}");
    }
    assert!(checks["mysql"]["latency"].is_number(), "{verbose}");
}

#[test]
fn tokens_have_roles() {
    let mut setup = Setup::scripted("");
    for role in ["publisher", "viewer", "operator", "admin"] {
        setup.config.push_str(&format!("[http.tokens.{role}]\nrole = \"{role}\"\ntoken_from_env = \"TOKEN_{role}\"\n"));
        setup.environment.push((format!("TOKEN_{role}"), format!("{role}-0123456789abcdef")));
    }
    let host = Host::start(setup);
    let send = |role: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {role}-0123456789abcdef");
        host.send(method, path, &[JSON, ("authorization", &bearer)], body).status
    };
    let none = host.post(MESSAGES, "{}");
    assert_eq!(none.problem(), (401, "unauthenticated".to_owned()));
    assert!(none.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    assert_eq!(send("nobody", "POST", MESSAGES, "{}"), 401);
    for (role, publish, read, discard) in
        [("publisher", 202, 403, 403), ("viewer", 403, 200, 403), ("operator", 202, 200, 404), ("admin", 202, 200, 404)]
    {
        assert_eq!(send(role, "POST", MESSAGES, r#"{"do":"ack"}"#), publish, "{role} publishes");
        assert_eq!(send(role, "GET", "/v1/plugins", ""), read, "{role} reads");
        assert_eq!(send(role, "DELETE", "/v1/dead-letters/none", ""), discard, "{role} discards");
    }
    assert_eq!(host.get("/healthz").status, 200, "probes need no token");
}

#[test]
fn metrics_tell_what_happened() {
    let host = host();
    let id = host.publish("work", r#"{"do":"set-key","key":"k"}"#);
    host.until_step(&id, "acknowledged");
    host.eventually("the metrics name the delivery", || {
        let text = host.get("/metrics").text;
        let wanted = [
            "sandpost_messages_accepted_total{topic=\"work\"} 1",
            "sandpost_deliveries_total{",
            "sandpost_host_call_seconds",
            "sandpost_handler_seconds",
            "sandpost_http_requests_total{",
        ];
        match wanted.iter().find(|name| !text.contains(**name)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing} is missing in:\n{text}")),
        }
    });
}

#[test]
fn the_description_lists_what_there_is() {
    let host = host();
    let description = host.get("/openapi.json").json();
    let paths: Vec<&String> = description["paths"].as_object().expect("paths").keys().collect();
    for path in [MESSAGES.replace("work", "{topic}"), "/v1/messages/{id}".into(), "/v1/dead-letters/{id}/replay".into()]
    {
        assert!(paths.contains(&&path), "{path} is missing in {paths:?}");
    }
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
}

#[test]
fn a_log_line_has_the_keys_of_the_origin_documents_and_no_address() {
    let host = Host::start(Setup::shipped());
    let body = json!({ "notificationId": "n1", "userId": "user_123", "type": "welcome" }).to_string();
    let id = host.publish("notification-created", &body);
    host.until_step(&id, "acknowledged");
    // Another thread reads the log, and may be behind.
    let lines = host.eventually("the log says that the message is settled", || {
        let lines = host.log();
        let settled =
            |line: &Value| line["metadata"]["message_id"] == id.as_str() && line["message"] == "A delivery is settled.";
        if lines.iter().any(settled) { Ok(lines) } else { Err("no such line".to_owned()) }
    });
    let keys = ["timestamp", "level", "service", "module", "message", "metadata"];
    for line in &lines {
        let seen: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(seen, keys, "{line}");
        assert!(!line.to_string().contains("ada@example.com"), "{line}");
    }
}
