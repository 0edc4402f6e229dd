//! Publishing: what is stored, what is answered, and every wrong input with its exact answer.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test fails by panicking")]

mod support;

use sandpost_message::{Message, limits};
use sandpost_ports::ErrorKind;
use serde_json::{Value, json};
use support::{NOW_MS, World};

const EVENT: [&str; 4] = ["ce-specversion: 1.0", "ce-id: a-1", "ce-source: /shop", "ce-type: order.made"];

#[tokio::test]
async fn a_message_is_stored_as_it_was_sent() {
    let world = World::open();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = world
        .publish(
            &[
                "content-type: application/vnd.shop+json; charset=utf-8",
                &format!("traceparent: {trace}"),
                "Sandpost-Ordering-Key: user-1",
                "Sandpost-Delay-Ms: 1500",
                "Sandpost-Dedupe-Key: once",
                "Sandpost-Attribute-Tenant: Acme",
                "x-request-id: my-own.1",
            ],
            "{ \"a\": 1.50 }",
        )
        .await;
    assert_eq!(answer.status, 202, "{:?}", answer.body);
    let stored = world.stored();
    let [Message { id, topic, body, content_type, attributes, ordering_key, not_before_ms, dedupe_key, .. }] =
        &stored[..]
    else {
        panic!("{stored:?}")
    };
    assert_eq!(answer.text(), format!("{{\"id\":\"{id}\"}}"));
    assert_eq!(answer.header("location"), format!("/v1/messages/{id}"));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-request-id"), "my-own.1");
    assert_eq!((topic.as_str(), &body[..]), ("orders", &b"{ \"a\": 1.50 }"[..]));
    assert_eq!(content_type, "application/vnd.shop+json; charset=utf-8");
    assert_eq!(attributes, &[("tenant".to_owned(), "Acme".to_owned())]);
    assert_eq!(ordering_key.as_deref(), Some("user-1"));
    assert_eq!(*not_before_ms, NOW_MS + 1500);
    assert_eq!(dedupe_key.as_deref(), Some("http/orders/once"));
    assert_eq!(stored[0].trace.to_string(), trace);

    let history = world.get(&format!("/v1/messages/{id}")).await.json();
    assert_eq!(history["id"], id.as_str());
    assert_eq!(history["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(history["steps"], json!([{"at": support::NOW, "step": "accepted"}]));

    let again = world.publish(&["Sandpost-Dedupe-Key: once"], "{}").await;
    assert_eq!(again.json()["id"], id.as_str());
    assert_eq!(world.stored().len(), 1);
}

#[tokio::test]
async fn any_content_type_is_kept_and_a_bad_trace_starts_a_new_one() {
    let world = World::open();
    let answer = world
        .post(
            "/v1/topics/orders/messages",
            &["content-type: application/octet-stream", "traceparent: nonsense"],
            vec![0xff, 0],
        )
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(&world.stored()[0].body[..], [0xff, 0]);
    assert_eq!(world.publish(&[], "[]").await.status, 202);
    assert_eq!(world.stored()[1].content_type, "application/json");
}

#[tokio::test]
async fn every_wrong_input_has_its_answer() {
    let world = World::open();
    let long = "x".repeat(1025);
    let delay = format!("sandpost-delay-ms: {}", limits::DELAY_MAX_MS + 1);
    let event = |index: usize, other: &'static str| {
        let mut headers = EVENT.to_vec();
        headers[index] = other;
        headers
    };
    let cases: Vec<(Vec<&str>, &str, u16, &str, &str)> = vec![
        (vec![], "{\n \"a\":}", 400, "invalid-json", "expected value at line 2 column 6"),
        (vec![], "", 400, "invalid-json", "EOF while parsing a value at line 1 column 0"),
        (
            vec!["content-type: nonsense"],
            "{}",
            400,
            "invalid-header",
            "`content-type` is not a content type like `application/json`",
        ),
        (
            vec!["sandpost-delay-ms: soon"],
            "{}",
            400,
            "invalid-header",
            "`sandpost-delay-ms` is not a whole number of milliseconds",
        ),
        (
            vec!["sandpost-delay-ms: 1", "sandpost-delay-ms: 2"],
            "{}",
            400,
            "invalid-header",
            "`sandpost-delay-ms` is given more than once",
        ),
        (
            vec!["sandpost-dedupe-key: "],
            "{}",
            400,
            "invalid-header",
            "`sandpost-dedupe-key` is not 1 to 240 bytes long",
        ),
        (
            vec!["sandpost-delay: 5"],
            "{}",
            400,
            "invalid-header",
            "`sandpost-delay` is not known; there are Sandpost-Attribute-…, Sandpost-Ordering-Key, Sandpost-Delay-Ms and Sandpost-Dedupe-Key",
        ),
        (
            vec!["idempotency-key: a b"],
            "{}",
            400,
            "invalid-header",
            "`idempotency-key` is not 1 to 255 visible ASCII characters",
        ),
        (vec![&delay], "{}", 400, "invalid-message", "the delay is longer than 30 days"),
        (
            vec!["sandpost-ordering-key: "],
            "{}",
            400,
            "invalid-message",
            "the ordering key is empty; leave it out, or give it a value",
        ),
        (
            vec!["sandpost-attribute-goog-x: 1"],
            "{}",
            400,
            "invalid-message",
            "attribute names are not empty and begin with neither `sandpost-` nor `goog`",
        ),
        (event(0, "ce-specversion: 0.3"), "{}", 400, "invalid-cloudevent", "`specversion` is not `1.0`"),
        (event(0, "ce-x: 1"), "{}", 400, "invalid-cloudevent", "`specversion` is missing"),
        (event(1, "ce-id: "), "{}", 400, "invalid-cloudevent", "`id` is empty; leave it out, or give it a value"),
        (event(2, "ce-x: 1"), "{}", 400, "invalid-cloudevent", "`source` is missing"),
        (event(3, "ce-x: 1"), "{}", 400, "invalid-cloudevent", "`type` is missing"),
        (
            [&EVENT[..], &["ce-time: today"]].concat(),
            "{}",
            400,
            "invalid-cloudevent",
            "`time` is not a time as RFC 3339 has it",
        ),
        (
            [&EVENT[..], &["ce-bad-name: 1"]].concat(),
            "{}",
            400,
            "invalid-cloudevent",
            "`bad-name` is not a name of lower-case ASCII letters and digits",
        ),
        (
            [&EVENT[..], &["ce-id: twice"]].concat(),
            "{}",
            400,
            "invalid-cloudevent",
            "`id` is given more than once, or is not UTF-8",
        ),
        (EVENT.to_vec(), "{", 400, "invalid-json", "EOF while parsing an object at line 1 column 1"),
        (
            vec!["content-type: application/cloudevents+json"],
            "[]",
            400,
            "invalid-json",
            "invalid type: sequence, expected an object at line 1 column 0",
        ),
        (
            vec!["content-type: application/cloudevents+json"],
            "{\"specversion\":\"1.0\",\"id\":\"a\",\"source\":\"s\",\"type\":{}}",
            400,
            "invalid-cloudevent",
            "`type` is neither a string, a whole number nor a boolean",
        ),
        (
            vec!["content-type: application/cloudevents+json"],
            "{\"specversion\":\"1.0\",\"id\":\"a\",\"source\":\"s\",\"type\":\"t\",\"n\":1.5}",
            400,
            "invalid-cloudevent",
            "`n` is not a whole number of 32 bits",
        ),
        (
            vec!["content-type: application/cloudevents+json"],
            "{\"specversion\":\"1.0\",\"id\":\"a\",\"source\":\"s\",\"type\":\"t\",\"data\":1,\"data_base64\":\"\"}",
            400,
            "invalid-cloudevent",
            "`data_base64` cannot be there beside `data`",
        ),
        (
            vec!["content-type: application/cloudevents+json"],
            "{\"specversion\":\"1.0\",\"id\":\"a\",\"source\":\"s\",\"type\":\"t\",\"data_base64\":\"?\"}",
            400,
            "invalid-cloudevent",
            "`data_base64` is not base64",
        ),
        (
            vec!["content-type: application/cloudevents-batch+json"],
            "[]",
            415,
            "unsupported-media-type",
            "a CloudEvent is taken in binary mode or as application/cloudevents+json; several of them, as application/cloudevents-batch+json, at …/messages:batch",
        ),
    ];
    for (headers, body, status, code, detail) in cases {
        let answer = world.publish(&headers, body).await;
        assert_eq!(answer.status.as_u16(), status, "{headers:?} {body}: {}", answer.text());
        answer.is_problem(status, code, detail);
    }
    world.publish(&[&format!("sandpost-attribute-x: {long}")], "{}").await.is_problem(
        400,
        "invalid-message",
        "the attribute value in bytes is 1025; at most 1024 is accepted",
    );
    world.post("/v1/topics/or%20ders/messages", &[], "{}").await.is_problem(
        400,
        "invalid-topic",
        "a topic is 3 to 255 ASCII letters, digits, `-`, `_` or `.`, beginning with a letter",
    );
    world.post("/v1/topics/nobody-listens/messages", &[], "{}").await.is_problem(
        404,
        "unknown-topic",
        "no subscription listens to `nobody-listens`; nothing was stored",
    );
    let large = vec![b' '; 1024 * 1024 + 1];
    world.post("/v1/topics/orders/messages", &[], large.clone()).await.is_problem(
        413,
        "too-large",
        "at most 1048576 bytes are accepted",
    );
    // Without a length in the head it is found while reading.
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(large)]);
    world.post("/v1/topics/orders/messages", &[], axum::body::Body::from_stream(chunks)).await.is_problem(
        413,
        "too-large",
        "at most 1048576 bytes are accepted",
    );
    assert!(world.stored().is_empty());
}

#[tokio::test]
async fn what_the_broker_says_is_said_on_without_its_secrets() {
    let world = World::open();
    let cases = [
        (ErrorKind::Unavailable, 503, "unavailable", "nothing was stored; try again later", "1"),
        (
            ErrorKind::Exceeded,
            429,
            "limit-reached",
            "a bound of the broker was reached and nothing was stored; try again later",
            "30",
        ),
        (
            ErrorKind::UnknownOutcome,
            503,
            "outcome-unknown",
            "it may or may not have been done; a repetition with the same `Idempotency-Key` is safe",
            "1",
        ),
        // A broker that refuses this message, and not for want of a subscription.
        (ErrorKind::Unsupported, 501, "unsupported", "the service refuses the request", ""),
        (ErrorKind::Other, 500, "internal", "the log has the reason under this request id", ""),
        (ErrorKind::Conflict, 500, "internal", "the log has the reason under this request id", ""),
    ];
    for (kind, status, code, detail, retry_after) in cases {
        *world.broker.fail.lock().unwrap() = Some(kind);
        for (path, body) in [("messages", "{}"), ("messages:batch", "{\"messages\":[{\"body\":1},{\"body\":2}]}")] {
            let answer = world.post(&format!("/v1/topics/orders/{path}"), &[], body).await;
            answer.is_problem(status, code, detail);
            assert_eq!(answer.header("retry-after"), retry_after);
            assert!(world.state.entries.lock().unwrap().is_empty(), "the ledger has what was stored: nothing");
            assert!(!answer.text().contains("10.0.0.1") && !answer.text().contains("secret"));
            if status == 429 {
                let json = answer.json();
                assert_eq!(
                    (&json["error"], &json["message"], &json["retryAfter"]),
                    (&json!("Too Many Requests"), &json!(detail), &json!(30))
                );
            }
        }
    }
}

#[tokio::test]
async fn cloud_events_are_taken_in_both_modes() {
    let world = World::open();
    let headers =
        [&EVENT[..], &["ce-subject: Caf%C3%A9", "content-type: text/plain", "sandpost-ordering-key: k"]].concat();
    let first = world.publish(&headers, "hello").await;
    assert_eq!(first.status, 202, "{}", first.text());
    let stored = world.stored();
    assert_eq!((&stored[0].body[..], stored[0].content_type.as_str()), (&b"hello"[..], "text/plain"));
    let attribute =
        |name: &str| stored[0].attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((attribute("ce-id"), attribute("ce-subject")), (Some("a-1"), Some("Café")));
    assert_eq!(stored[0].ordering_key.as_deref(), Some("k"));

    // The same event in the other mode is the same message.
    let event = r#"{"specversion":"1.0","id":"a-1","source":"/shop","type":"order.made","data":{"n": 1.0}}"#;
    let structured = ["content-type: application/cloudevents+json; charset=utf-8"];
    let second = world.publish(&structured, event).await;
    assert_eq!(second.json()["id"], first.json()["id"]);
    assert_eq!(world.publish(&structured, &event.replace("a-1", "a-2")).await.status, 202);
    assert_eq!(&world.stored()[1].body[..], b"{\"n\": 1.0}");

    let batch = format!("[{},{},{{\"id\":\"x\"}}]", event.replace("a-1", "a-3"), event);
    let answer = world
        .post("/v1/topics/orders/messages:batch", &["content-type: application/cloudevents-batch+json"], batch)
        .await;
    assert_eq!(answer.status, 207);
    let results = answer.json()["results"].clone();
    assert_eq!(results[1]["id"], first.json()["id"]);
    assert_eq!(results[2]["error"]["code"], "invalid-cloudevent");
    assert_eq!(world.stored().len(), 3);
}

#[tokio::test]
async fn a_batch_says_what_came_of_each() {
    let world = World::open();
    let path = "/v1/topics/orders/messages:batch";
    let good = r#"{"messages":[
        {"body":{"a": 1.50},"attributes":{"b":"1","a":"2"},"ordering_key":"k","delay_ms":5,"dedupe_key":"d"},
        {"body":"text","content_type":"text/plain"},
        {"body_base64":"/wA=","content_type":"image/png"}]}"#;
    let answer = world.post(path, &[], good).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let stored = world.stored();
    let ids: Vec<Value> = stored.iter().map(|message| json!({"id": message.id})).collect();
    assert_eq!(answer.json(), json!({"results": ids}));
    assert_eq!(&stored[0].body[..], b"{\"a\": 1.50}");
    assert_eq!(stored[0].attributes[0].0, "b");
    assert_eq!((stored[0].not_before_ms, stored[0].dedupe_key.as_deref()), (NOW_MS + 5, Some("http/orders/d")));
    assert_eq!((&stored[1].body[..], &stored[2].body[..]), (&b"text"[..], &[0xff, 0][..]));

    let mixed = r#"{"messages":[{"body":1},{"body":1,"body_base64":""},{"body_base64":"AA=="},{"body":1,"content_type":"x"},
        {"body":1,"content_type":"text/plain"},{"body":1,"ordering_key":""},{"body_base64":"?"},{"body":1,"dedupe_key":""}]}"#;
    let answer = world.post(path, &[], mixed).await;
    assert_eq!(answer.status, 207);
    let results = answer.json()["results"].as_array().unwrap().clone();
    assert!(results[0]["id"].is_string());
    let errors: Vec<_> = results[1..].iter().map(|result| result["error"]["detail"].as_str().unwrap()).collect();
    assert_eq!(
        errors,
        [
            "one of `body` and `body_base64` is needed",
            "expected value at line 1 column 1",
            "`content_type` is not a content type like `application/json`",
            "with this content type `body` is a string, or use `body_base64`",
            "the ordering key is empty; leave it out, or give it a value",
            "`body_base64` is not base64",
            "`dedupe_key` is not 1 to 240 bytes long",
        ]
    );
    assert_eq!(world.stored().len(), 4);

    for (headers, body, status, code, detail) in [
        (vec![], "{\"messages\":[]}".to_owned(), 400, "invalid-batch", "it has 0 messages; 1 to 1000 are accepted"),
        (
            vec![],
            format!("{{\"messages\":[{}{{}}]}}", "{},".repeat(1000)),
            400,
            "invalid-batch",
            "it has 1001 messages; 1 to 1000 are accepted",
        ),
        (
            vec![],
            "{\"messages\":[{\"bodi\":1}]}".to_owned(),
            400,
            "invalid-json",
            "unknown field `bodi`, expected one of `body`, `body_base64`, `content_type`, `attributes`, `ordering_key`, `delay_ms`, `dedupe_key` at line 1 column 20",
        ),
        (
            vec!["content-type: text/plain"],
            "{}".to_owned(),
            415,
            "unsupported-media-type",
            "a batch is application/json or application/cloudevents-batch+json",
        ),
        (
            vec!["sandpost-delay-ms: 5"],
            "{}".to_owned(),
            400,
            "invalid-header",
            "`sandpost-delay-ms` says nothing about a batch; say it in each of the messages",
        ),
    ] {
        world.post(path, &headers, body).await.is_problem(status, code, detail);
    }
    world.post("/v1/topics/nobody/messages:batch", &[], "{\"messages\":[{\"body\":1}]}").await.is_problem(
        404,
        "unknown-topic",
        "no subscription listens to `nobody`; nothing was stored",
    );
}
