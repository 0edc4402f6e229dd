//! What goes over the wire and what comes back as which error, against a server that says what the test wants: failovers,
//! lost answers and labels that no real server gives on demand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use bson::{Bson, Document, doc};
use common::{Answer, Role, Scripted, refusal, until};
use sandpost_mongo::{Config, MongoDocuments, open};
use sandpost_ports::documents::{Documents as _, FindOptions, Index, ReturnDocument, UpdateOptions};
use sandpost_ports::health::Health as _;
use sandpost_ports::{ErrorKind, PortError, Secret};
use serde_json::json;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

const ONE: UpdateOptions = UpdateOptions { many: false, upsert: false };
const MANY: UpdateOptions = UpdateOptions { many: true, upsert: false };

fn config(url: &str) -> Config {
    rustls::crypto::ring::default_provider().install_default().ok();
    Config {
        url: Some(Secret::new(url)),
        server_selection_timeout_ms: Some(2_000),
        connect_timeout_ms: Some(2_000),
        socket_timeout_ms: Some(3_000),
        ..Config::default()
    }
}

fn to(server: &Scripted) -> Arc<MongoDocuments> {
    open(&config(&server.url())).unwrap()
}

fn cursor_of(id: i64, batch: &str, documents: &[Document]) -> Answer {
    let documents: Vec<Bson> = documents.iter().cloned().map(Bson::Document).collect();
    Answer::Say(doc! {"cursor": {"id": id, "ns": "db.c", batch: documents}})
}

fn updated_one() -> Answer {
    Answer::Say(doc! {"n": 1, "nModified": 1})
}

async fn update(documents: &MongoDocuments, options: UpdateOptions) -> Result<u64, PortError> {
    documents.update("c", json!({"a": 1}), json!({"$set": {"a": 2}}), options).await.map(|updated| updated.matched)
}

#[tokio::test]
async fn commands_carry_limits_and_types() {
    let server = Scripted::start(Role::Primary, |command, _| match command.keys().next().unwrap().as_str() {
        "find" => cursor_of(0, "firstBatch", &[doc! {"_id": 1}]),
        "aggregate" => cursor_of(0, "firstBatch", &[doc! {"_id": 1, "n": 3}]),
        "findAndModify" => Answer::Say(doc! {"value": {"_id": 1}}),
        "insert" | "update" | "delete" => updated_one(),
        _ => Answer::Say(doc! {}),
    })
    .await;
    let documents = open(&Config { max_time_ms: 1_234, batch_max_documents: 7, ..config(&server.url()) }).unwrap();
    let options = FindOptions {
        projection: Some(json!({"a": 1})),
        sort: Some(json!({"b": -1, "a": 1})),
        skip: 2,
        limit: Some(3),
    };
    let filter = json!({"at": {"$gt": {"$date": "2026-01-01T00:00:00Z"}}, "d": {"$numberDecimal": "0.10"}});
    documents.find("c", filter, options).await.unwrap();
    let find = server.seen("find").remove(0);
    assert_eq!((find.get_str("find").unwrap(), find.get_str("$db").unwrap()), ("c", "db"));
    assert!(matches!(find.get_document("filter").unwrap().get("d"), Some(Bson::Decimal128(_))));
    assert!(find.get_document("filter").unwrap().get_document("at").unwrap().get_datetime("$gt").is_ok());
    let whole = |name: &str| match find.get(name) {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((whole("limit"), whole("skip"), whole("batchSize"), whole("maxTimeMS")), (3, 2, 7, 1_234));
    assert_eq!(find.get_document("sort").unwrap(), &doc! {"b": -1, "a": 1}, "in this order");
    assert!(find.contains_key("lsid"));

    documents.count("c", json!({})).await.unwrap();
    assert!(server.seen("aggregate")[0].contains_key("maxTimeMS"));
    documents.insert("c", vec![json!({"b": 1, "_id": 5}), json!({"a": 1})]).await.unwrap();
    let insert = server.seen("insert").remove(0);
    let inserted = insert.get_array("documents").unwrap();
    assert_eq!(inserted[0], Bson::Document(doc! {"_id": 5, "b": 1}), "the `_id` comes first");
    assert!(insert.get_bool("ordered").unwrap() && insert.contains_key("txnNumber"), "{insert}");
    update(&documents, ONE).await.unwrap();
    update(&documents, MANY).await.unwrap();
    let updates = server.seen("update");
    assert!(
        updates[0].contains_key("txnNumber") && !updates[1].contains_key("txnNumber"),
        "one is retryable, many not"
    );
    documents
        .find_one_and_update("c", json!({}), json!({"$inc": {"n": 1}}), true, ReturnDocument::After)
        .await
        .unwrap();
    let modify = server.seen("findAndModify").remove(0);
    assert!(modify.get_bool("new").unwrap() && modify.get_bool("upsert").unwrap() && modify.contains_key("maxTimeMS"));
    documents.delete("c", json!({}), true).await.unwrap();
    let index = Index { keys: vec![("a".to_owned(), 1), ("b".to_owned(), -1)], unique: true };
    documents.ensure_index("c", &index).await.unwrap();
    let index = server.seen("createIndexes").remove(0);
    let index = index.get_array("indexes").unwrap()[0].as_document().unwrap();
    assert_eq!(index.get_document("key").unwrap(), &doc! {"a": 1, "b": -1});
    assert!(index.get_bool("unique").unwrap() && index.get_str("name").unwrap() == "a_1_b_-1");
    documents.check().await.unwrap();
    assert_eq!(server.seen("ping").len(), 1);
}

#[tokio::test]
async fn a_retryable_write_is_sent_again_under_its_number() {
    for first in ["close", "not primary"] {
        let server =
            Scripted::start(Role::Primary, move |command, before| match (command.contains_key("update"), before) {
                (true, 0) if first == "close" => Answer::Close,
                (true, 0) => refusal(10107, "NotWritablePrimary", "not primary", &["RetryableWriteError"]),
                _ => updated_one(),
            })
            .await;
        assert_eq!(update(&to(&server), ONE).await.unwrap(), 1, "{first}");
        let sent = server.seen("update");
        assert_eq!(sent.len(), 2, "{first}");
        assert_eq!(sent[0].get("txnNumber"), sent[1].get("txnNumber"));
        assert_eq!(sent[0].get("lsid"), sent[1].get("lsid"));
    }
}

#[tokio::test]
async fn a_write_that_cannot_be_sent_again_is_unknown_once_it_was_sent() {
    for (role, options, sent) in [(Role::Standalone, ONE, 1), (Role::Primary, MANY, 1), (Role::Primary, ONE, 2)] {
        let server = Scripted::start(
            role,
            |command, _| {
                if command.contains_key("update") { Answer::Close } else { updated_one() }
            },
        )
        .await;
        let error = update(&to(&server), options).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::UnknownOutcome, "{error}");
        assert_eq!(server.seen("update").len(), sent);
    }
}

#[tokio::test]
async fn what_the_server_refused_before_doing_it_is_unavailable() {
    let server = Scripted::start(Role::Standalone, |command, _| {
        if command.contains_key("update") {
            refusal(10107, "NotWritablePrimary", "not primary", &[])
        } else {
            updated_one()
        }
    })
    .await;
    let error = update(&to(&server), ONE).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");

    for (labels, kind) in [
        (&["RetryableWriteError", "NoWritesPerformed"][..], ErrorKind::Unavailable),
        // Both tries were refused, and the server does not say that the first one did nothing.
        (&["RetryableWriteError"], ErrorKind::UnknownOutcome),
    ] {
        let server = Scripted::start(Role::Primary, move |command, _| {
            if command.contains_key("update") {
                refusal(10107, "NotWritablePrimary", "not primary", labels)
            } else {
                updated_one()
            }
        })
        .await;
        let error = update(&to(&server), ONE).await.unwrap_err();
        assert_eq!(error.kind, kind, "{labels:?}: {error}");
        assert_eq!(server.seen("update").len(), 2);
    }
}

#[tokio::test]
async fn a_read_is_sent_again_and_then_unavailable() {
    for (failures, result) in [(1, Ok(3)), (9, Err(ErrorKind::Unavailable))] {
        let server = Scripted::start(Role::Standalone, move |command, before| {
            if !command.contains_key("aggregate") {
                Answer::Say(doc! {})
            } else if before < failures {
                Answer::Close
            } else {
                cursor_of(0, "firstBatch", &[doc! {"_id": 1, "n": 3}])
            }
        })
        .await;
        assert_eq!(to(&server).count("c", json!({})).await.map_err(|error| error.kind), result);
        assert_eq!(server.seen("aggregate").len(), 2);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_bounded_and_the_connection_given_up() {
    let server = Scripted::start(Role::Primary, |command, _| {
        if command.contains_key("ping") { Answer::Say(doc! {}) } else { Answer::Nothing }
    })
    .await;
    let documents = open(&Config { socket_timeout_ms: Some(300), ..config(&server.url()) }).unwrap();
    documents.check().await.unwrap();
    let started = tokio::time::Instant::now();
    assert_eq!(update(&documents, ONE).await.unwrap_err().kind, ErrorKind::UnknownOutcome);
    assert_eq!(documents.count("c", json!({})).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(server.seen("update").len(), 1);
    until("no connection is in use", async || documents.pool().unwrap().in_use == 0).await;
    documents.check().await.expect("the next call has another connection");
}

#[tokio::test]
async fn a_full_pool_is_unavailable_and_nothing_was_sent() {
    let server =
        Scripted::start(
            Role::Primary,
            |command, _| {
                if command.contains_key("insert") { Answer::Nothing } else { updated_one() }
            },
        )
        .await;
    let config = Config {
        pool_max_connections: Some(2),
        pool_wait_max_ms: 100,
        socket_timeout_ms: Some(60_000),
        ..config(&server.url())
    };
    let documents = open(&config).unwrap();
    let hanging: Vec<_> = (0..2)
        .map(|_| {
            let documents = Arc::clone(&documents);
            tokio::spawn(async move { documents.insert("c", vec![json!({"a": 1})]).await })
        })
        .collect();
    until("both are at work", async || server.seen("insert").len() == 2).await;
    let pool = documents.pool().unwrap();
    assert_eq!((pool.in_use, pool.idle, pool.max), (2, 0, 2));
    let error = update(&documents, ONE).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("pool"), "{error}");
    assert!(server.seen("update").is_empty());
    for call in hanging {
        call.abort();
    }
    until("a call goes through again", async || update(&documents, ONE).await.is_ok()).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_apart_and_never_shown() {
    let server = Scripted::start(Role::Standalone, |command, _| {
        if command.contains_key("saslStart") {
            refusal(18, "AuthenticationFailed", "Authentication failed.", &[])
        } else {
            updated_one()
        }
    })
    .await;
    let documents = open(&config(&server.url_with_login())).unwrap();
    for error in [documents.check().await.unwrap_err(), update(&documents, ONE).await.unwrap_err()] {
        assert!(error.kind == ErrorKind::Other && error.message.contains("password"), "{error}");
        let whole = format!("{error} {error:?} {}", error.source().unwrap());
        assert!(!whole.contains("hunter2"), "{whole}");
    }
    assert!(server.seen("update").is_empty());
}

#[tokio::test]
async fn errors_of_a_write_have_their_kinds() {
    #[track_caller]
    fn check(error: &PortError, kind: ErrorKind, says: &str) {
        assert!(error.kind == kind && error.message.contains(says), "{error}");
        assert!(!error.message.contains("secret"), "{error}");
    }
    let text = "E11000 duplicate key error collection: secret.c index: email_1 dup key: { email: \"x\" }";
    let server = Scripted::start(Role::Standalone, move |command, before| match (command.keys().next().unwrap(), before) {
        (name, 0) if name == "insert" => Answer::Say(doc! {"n": 1, "writeErrors": [
            {"index": 1, "code": 11000, "errmsg": text},
        ]}),
        (name, 1) if name == "insert" => Answer::Say(doc! {"n": 1, "writeConcernError": {
            "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out",
        }}),
        (name, 0) if name == "update" => Answer::Say(doc! {"n": 0, "nModified": 0, "writeErrors": [
            {"index": 0, "code": 28, "codeName": "PathNotViable", "errmsg": "Cannot create field 'x' in element {a: 1}"},
        ]}),
        (name, 1) if name == "update" => refusal(11602, "InterruptedDueToReplStateChange", "interrupted at secret", &[]),
        (name, _) if name == "update" => refusal(13, "Unauthorized", "not authorized on secret", &[]),
        (name, _) if name == "createIndexes" => refusal(11000, "DuplicateKey", text, &[]),
        _ => Answer::Close,
    })
    .await;
    let documents = to(&server);
    let insert = async || documents.insert("c", vec![json!({"a": 1}), json!({"a": 2})]).await.unwrap_err();
    check(&insert().await, ErrorKind::Conflict, "`email_1`");
    check(&insert().await, ErrorKind::UnknownOutcome, "not confirmed");
    check(&update(&documents, ONE).await.unwrap_err(), ErrorKind::Invalid, "Cannot create field 'x'");
    check(&update(&documents, ONE).await.unwrap_err(), ErrorKind::UnknownOutcome, "may have been done");
    check(&update(&documents, ONE).await.unwrap_err(), ErrorKind::Other, "account");
    let index = Index { keys: vec![("email".to_owned(), 1)], unique: true };
    check(&documents.ensure_index("c", &index).await.unwrap_err(), ErrorKind::Conflict, "unique");
}

#[tokio::test]
async fn errors_of_a_read_have_their_kinds() {
    for (code, name, kind) in [
        (50, "MaxTimeMSExpired", ErrorKind::Unavailable),
        (11601, "Interrupted", ErrorKind::Unavailable),
        (2, "BadValue", ErrorKind::Invalid),
        (292, "QueryExceededMemoryLimitNoDiskUseAllowed", ErrorKind::Exceeded),
        (40324, "Location40324", ErrorKind::Unsupported),
        (13, "Unauthorized", ErrorKind::Other),
    ] {
        let server = Scripted::start(Role::Primary, move |_, _| refusal(code, name, "no", &[])).await;
        let error = to(&server).count("c", json!({})).await.unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_cursor_goes_on_in_the_server_and_ends_there_when_dropped() {
    let of = |ids: std::ops::Range<i32>| ids.map(|id| doc! {"_id": id}).collect::<Vec<_>>();
    let server = Scripted::start(Role::Primary, move |command, before| match command.keys().next().unwrap().as_str() {
        "find" => cursor_of(77, "firstBatch", &of(0..3)),
        "getMore" if before == 0 => cursor_of(77, "nextBatch", &of(3..6)),
        "getMore" => refusal(43, "CursorNotFound", "cursor id 77 not found", &[]),
        _ => Answer::Say(doc! {}),
    })
    .await;
    let documents = to(&server);
    let mut cursor = documents.find("c", json!({}), FindOptions::default()).await.unwrap();
    assert_eq!(cursor.next(2, 1_000).await.unwrap(), [json!({"_id": 0}), json!({"_id": 1})]);
    assert!(server.seen("getMore").is_empty(), "what is here is not asked for again");
    assert_eq!(cursor.next(3, 1_000).await.unwrap().len(), 3);
    assert_eq!(cursor.next(9, 1_000).await.unwrap(), [json!({"_id": 5})], "what was read comes before the failure");
    let error = cursor.next(1, 1_000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(cursor.next(1, 1_000).await.unwrap_err().kind, ErrorKind::Invalid, "it has failed for good");
    drop(cursor);

    let cursor = documents.find("c", json!({}), FindOptions::default()).await.unwrap();
    drop(cursor);
    until("the server is told", async || !server.seen("killCursors").is_empty()).await;
}

#[tokio::test]
async fn what_is_refused_never_reaches_the_server() {
    let server = Scripted::start(Role::Primary, |_, _| Answer::Say(doc! {})).await;
    let documents = to(&server);
    let code = json!({"$where": "while (true) {}"});
    for error in [
        documents.count("c", code.clone()).await.unwrap_err(),
        documents.find("c", code.clone(), FindOptions::default()).await.err().unwrap(),
        documents.update("c", code.clone(), json!({"$set": {"a": 1}}), ONE).await.unwrap_err(),
        documents.delete("c", json!({"$or": [code]}), true).await.unwrap_err(),
        documents.aggregate("c", vec![json!({"$out": "other"})]).await.err().unwrap(),
        documents.aggregate("c", vec![json!({"$lookup": {"from": "other", "as": "x"}})]).await.err().unwrap(),
        documents.update("c", json!({}), json!([{"$lookup": {"from": "other"}}]), MANY).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    }
    for collection in ["", "system.users", "a$b", "x.", &"x".repeat(200)] {
        assert_eq!(documents.count(collection, json!({})).await.unwrap_err().kind, ErrorKind::Invalid, "{collection}");
    }
    assert_eq!(documents.pool().unwrap().in_use, 0);
    for name in ["find", "aggregate", "update", "delete"] {
        assert!(server.seen(name).is_empty(), "{name}");
    }
}
