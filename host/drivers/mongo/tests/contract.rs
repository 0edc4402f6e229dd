//! MongoDB against the documents contract.
//!
//! The server is the best that this machine has. A stand-in that cannot do a part of it leaves that part out by name, the
//! summary says so, and what it can do of that part is checked here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_mongo::{Config, MongoDocuments, open};
use sandpost_ports::contract::documents::check_all_but;
use sandpost_ports::documents::{DocumentCursor, Documents as _, FindOptions, Index, UpdateOptions};
use sandpost_ports::health::Health as _;
use sandpost_ports::{ErrorKind, Secret};
use sandpost_services::{Server, checked, not_checked};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What FerretDB 1.24 cannot do as MongoDB does, and why.
const NOT_FERRETDB: [(&str, &str); 4] = [
    ("values_keep_their_types", "it keeps no array within an array"),
    ("aggregates", "its $group has neither $min, $max nor $avg"),
    ("unique_indexes_hold", "null may be there twice in its unique indexes"),
    ("increments_at_once_are_not_lost", "its $inc reads and writes in two steps"),
];

/// A database of its own, so that a server in use can be given.
fn to(server: &Server, name: &str) -> Arc<MongoDocuments> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let database = Some(format!("{name}_{}", std::process::id()));
    open(&Config { url: Some(Secret::new(server.url())), database, ..Config::default() }).unwrap()
}

async fn all(mut cursor: Box<dyn DocumentCursor>) -> Value {
    let mut all = Vec::new();
    loop {
        let batch = cursor.next(3, 1 << 20).await.unwrap();
        if batch.is_empty() {
            return Value::Array(all);
        }
        all.extend(batch);
    }
}

#[tokio::test]
async fn keeps_the_documents_contract() {
    let Some(server) = sandpost_services::mongo() else { return };
    let left_out: Vec<&str> = match server.kind() {
        "nx-27017" => {
            not_checked("documents contract", "nx-27017 answers with neither codes nor types of MongoDB");
            return;
        }
        "FerretDB" => {
            for (name, why) in NOT_FERRETDB {
                not_checked(&format!("documents contract: {name}"), &format!("FerretDB: {why}"));
            }
            NOT_FERRETDB.iter().map(|(name, _)| *name).collect()
        }
        _ => Vec::new(),
    };
    checked("documents contract", &server);
    let documents = to(&server, "contract");
    check_all_but(documents.as_ref(), &left_out).await;
    // The client takes a connection back beside the answer.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pool = documents.pool().unwrap();
    while pool.in_use > 0 {
        assert!(Instant::now() < deadline, "{pool:?}");
        tokio::task::yield_now().await;
        pool = documents.pool().unwrap();
    }
    assert!(pool.idle >= 1 && pool.max == 10, "{pool:?}");
}

#[tokio::test]
async fn a_server_is_spoken_to_by_tls_where_its_authority_is_trusted() {
    let Some(server) = sandpost_services::mongo_with_tls() else { return };
    let documents = to(&server, "encrypted");
    documents.insert("notes", vec![json!({"_id": "n1", "text": "hello"})]).await.unwrap();
    let found = documents.find("notes", json!({"_id": "n1"}), FindOptions::default()).await.unwrap();
    assert_eq!(all(found).await, json!([{"_id": "n1", "text": "hello"}]));
    checked("documents, encrypted", &server);

    let untrusted = server.url().split("&tlsCAFile=").next().unwrap().to_owned();
    for url in [untrusted, server.url().replace("localhost", "127.0.0.1")] {
        let (url, database) = (Some(Secret::new(&url)), Some("encrypted".to_owned()));
        let config = Config { url, database, server_selection_timeout_ms: Some(1_000), ..Config::default() };
        let error = open(&config).unwrap().check().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
    }
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    let Some(server) = sandpost_services::mongo() else { return };
    let documents = to(&server, "types");
    let document = json!({
        "_id": {"$oid": "65f0c0ffee0123456789abcd"},
        "at": {"$date": "2026-02-28T10:00:00.123Z"},
        "before": {"$date": {"$numberLong": "-62135596800000"}},
        "bytes": {"$binary": {"base64": "AAH/", "subType": "00"}},
        "uuid": {"$binary": {"base64": "AAECAwQFBgcICQoLDA0ODw==", "subType": "04"}},
        "large": 9_007_199_254_740_993_i64,
        "small": 1,
        "double": 1.0,
        "text": "v\u{e4}rde \u{1f4ee}",
        "regex": {"$regularExpression": {"pattern": "^a", "options": "i"}},
        "nested": {"list": [1, {"a": null}, true]},
    });
    documents.insert("c", vec![document.clone()]).await.unwrap();
    let found = documents.find("c", json!({"_id": document["_id"]}), FindOptions::default()).await.unwrap();
    assert_eq!(all(found).await, json!([document]));
    for (filter, count) in [
        (json!({"at": {"$gt": {"$date": "2026-02-28T10:00:00.122Z"}}}), 1),
        (json!({"at": {"$gt": "2026"}}), 0),
        (json!({"large": {"$gt": 9_007_199_254_740_992_i64}}), 1),
        (json!({"small": {"$type": "int"}}), 1),
        (json!({"double": {"$type": "double"}}), 1),
        (json!({"large": {"$type": "long"}}), 1),
    ] {
        assert_eq!(documents.count("c", filter.clone()).await.unwrap(), count, "{filter}");
    }
}

#[tokio::test]
async fn a_decimal_comes_back_digit_for_digit() {
    let Some(server) = sandpost_services::mongo() else { return };
    if matches!(server.kind(), "FerretDB" | "nx-27017") {
        not_checked("documents contract: Decimal128", &format!("{} keeps none", server.kind()));
        return;
    }
    let documents = to(&server, "decimals");
    let document = json!({"_id": 1, "price": {"$numberDecimal": "12345678901234567890.0123456789"}});
    documents.insert("c", vec![document.clone()]).await.unwrap();
    assert_eq!(all(documents.find("c", json!({}), FindOptions::default()).await.unwrap()).await, json!([document]));
}

#[tokio::test]
async fn groups_and_counts_in_the_database() {
    let Some(server) = sandpost_services::mongo() else { return };
    if server.kind() == "FerretDB" {
        not_checked(
            "documents contract: groups_and_counts_in_the_database",
            "FerretDB: $sum of a constant counts 0 beside another $sum",
        );
        return;
    }
    let documents = to(&server, "groups");
    let cities = ["A", "B", "A", "B", "C"];
    let made = cities.iter().enumerate().map(|(id, city)| json!({"_id": id, "city": city, "n": id})).collect();
    documents.insert("c", made).await.unwrap();
    let run =
        async |stages: Value| all(documents.aggregate("c", stages.as_array().unwrap().clone()).await.unwrap()).await;
    let group = json!({"$group": {"_id": "$city", "sum": {"$sum": "$n"}, "count": {"$sum": 1}}});
    assert_eq!(
        run(json!([{"$match": {"n": {"$lt": 4}}}, group, {"$sort": {"_id": 1}}])).await,
        json!([{"_id": "A", "sum": 2, "count": 2}, {"_id": "B", "sum": 4, "count": 2}])
    );
    assert_eq!(run(json!([{"$sort": {"_id": -1}}, {"$skip": 1}, {"$limit": 1}])).await[0]["_id"], json!(3));
    assert_eq!(run(json!([{"$match": {"city": "B"}}, {"$count": "total"}])).await, json!([{"total": 2}]));
}

#[tokio::test]
async fn an_index_is_made_once_and_holds() {
    let Some(server) = sandpost_services::mongo() else { return };
    if server.kind() == "FerretDB" {
        not_checked(
            "documents contract: an_index_is_made_once_and_holds",
            "FerretDB: an update against a unique index has no code of MongoDB",
        );
        return;
    }
    let documents = to(&server, "indexes");
    let unique = Index { keys: vec![("user".to_owned(), 1), ("kind".to_owned(), -1)], unique: true };
    documents.insert("c", vec![json!({"_id": 1, "user": 1, "kind": "a"})]).await.unwrap();
    documents.ensure_index("c", &unique).await.unwrap();
    documents.ensure_index("c", &unique).await.expect("making it again is no error");
    let error = documents.insert("c", vec![json!({"user": 1, "kind": "a"})]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    documents.insert("c", vec![json!({"_id": 2, "user": 2, "kind": "a"})]).await.unwrap();
    let update = json!({"$set": {"user": 1}});
    let error = documents.update("c", json!({"_id": 2}), update, UpdateOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    let late = Index { keys: vec![("kind".to_owned(), 1)], unique: true };
    let error = documents.ensure_index("c", &late).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "what is there has it twice: {error}");
}
