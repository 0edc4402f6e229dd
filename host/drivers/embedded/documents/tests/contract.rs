//! SQLite against the documents contract, and what only this driver promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_embedded_documents::{Config, OpenError, SqliteDocuments, open};
use sandpost_ports::ErrorKind;
use sandpost_ports::contract::documents::check;
use sandpost_ports::documents::{Documents as _, FindOptions, Index, UpdateOptions};
use serde_json::{Value, json};
use std::sync::Arc;

fn in_memory() -> Arc<SqliteDocuments> {
    open(&Config::default()).unwrap()
}

async fn find(documents: &SqliteDocuments, filter: Value, sort: Option<Value>) -> Vec<Value> {
    let options = FindOptions { sort, ..FindOptions::default() };
    let mut cursor = documents.find("c", filter, options).await.unwrap();
    cursor.next(1_000, 1 << 20).await.unwrap()
}

fn index(paths: &[&str], unique: bool) -> Index {
    Index { keys: paths.iter().map(|path| ((*path).to_owned(), 1)).collect(), unique }
}

#[tokio::test]
async fn keeps_the_documents_contract_in_memory() {
    let documents = in_memory();
    tokio::join!(check(documents.as_ref()), check(documents.as_ref()));
}

#[tokio::test]
async fn keeps_the_documents_contract_on_a_file_and_again_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { path: Some(folder.path().join("documents.sqlite")), ..Config::default() };
    let documents = open(&config).unwrap();
    check(documents.as_ref()).await;
    documents.ensure_index("c", &index(&["key"], true)).await.unwrap();
    documents.insert("c", vec![json!({"_id": 1, "key": "k"})]).await.unwrap();
    drop(documents);
    let documents = open(&config).unwrap();
    assert_eq!(find(&documents, json!({"key": "k"}), None).await, [json!({"_id": 1, "key": "k"})]);
    let error = documents.insert("c", vec![json!({"key": "k"})]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "the unique index is there again: {error}");
    check(documents.as_ref()).await;
}

#[tokio::test]
async fn an_equality_on_the_id_or_an_index_looks_at_few_documents() {
    let documents = open(&Config { scan_max_documents: 10, ..Config::default() }).unwrap();
    documents.ensure_index("c", &index(&["user.id", "tags"], false)).await.unwrap();
    let all = (0..100).map(|id| json!({"_id": id, "user": {"id": id}, "tags": ["t", id % 3], "n": id})).collect();
    documents.insert("c", all).await.unwrap();
    let count = async |filter: Value| documents.count("c", filter).await;
    assert_eq!(count(json!({"_id": 50})).await.unwrap(), 1);
    assert_eq!(count(json!({"_id": {"$in": [50, 51.0, 999]}, "n": {"$gt": 0}})).await.unwrap(), 2);
    assert_eq!(count(json!({"user.id": 50})).await.unwrap(), 1);
    assert_eq!(count(json!({"$and": [{"user.id": {"$in": [1, 2]}}, {"tags": 1}]})).await.unwrap(), 1);
    assert_eq!(count(json!({"user.id": null})).await.unwrap(), 0);
    let update = json!({"$set": {"user.id": 1_000}});
    documents.update("c", json!({"user.id": 7}), update, UpdateOptions::default()).await.unwrap();
    assert_eq!(count(json!({"user.id": 7})).await.unwrap(), 0, "the index follows the document");
    assert_eq!(count(json!({"user.id": 1_000})).await.unwrap(), 1);
    documents.delete("c", json!({"user.id": 1_000}), true).await.unwrap();
    assert_eq!(count(json!({"user.id": 1_000})).await.unwrap(), 0);
    for filter in [json!({"n": 50}), json!({"tags": "t"}), json!({"_id": {"$gt": 50}}), json!({"_id": {"$ne": 1}})] {
        assert_eq!(count(filter.clone()).await.unwrap_err().kind, ErrorKind::Exceeded, "{filter}");
    }
    let options = FindOptions { sort: Some(json!({"n": 1})), ..FindOptions::default() };
    assert_eq!(documents.find("c", json!({}), options).await.err().unwrap().kind, ErrorKind::Exceeded);
}

#[tokio::test]
async fn an_index_never_changes_what_matches() {
    let documents = [
        json!({"_id": 0}),
        json!({"_id": 1, "a": null}),
        json!({"_id": 2, "a": 1}),
        json!({"_id": 3, "a": 1.0, "b": [1, 2]}),
        json!({"_id": 4, "a": [1, 2]}),
        json!({"_id": 5, "a": []}),
        json!({"_id": 6, "a": [[1, 2]]}),
        json!({"_id": 7, "a": {"x": 1}}),
        json!({"_id": 8, "a": [{"x": 1}, {"x": [2, 3]}, 4]}),
        json!({"_id": 9, "a": "1", "b": {"x": null}}),
        json!({"_id": 10, "a": {"$date": "2026-01-01T00:00:00Z"}, "b": true}),
        json!({"_id": 11, "a": {"$numberLong": "1"}}),
    ];
    let values = [
        json!(null),
        json!(1),
        json!(2),
        json!([1, 2]),
        json!([]),
        json!({"x": 1}),
        json!("1"),
        json!({"$date": {"$numberLong": "1767225600000"}}),
        json!(true),
    ];
    let (plain, indexed) = (in_memory(), in_memory());
    for (number, paths) in [&["a"][..], &["a.x"], &["b", "a"], &["b.x", "a.0"]].into_iter().enumerate() {
        let collection = format!("c{number}");
        indexed.ensure_index(&collection, &index(paths, false)).await.unwrap();
        for document in &documents {
            // Where an index cannot hold a document, it is refused; the plain one then does without it too.
            if indexed.insert(&collection, vec![document.clone()]).await.is_ok() {
                plain.insert(&collection, vec![document.clone()]).await.unwrap();
            }
        }
        for value in &values {
            for filter in [
                paths.iter().map(|path| ((*path).to_owned(), value.clone())).collect::<Value>(),
                json!({paths[0]: {"$in": [value, 2]}}),
                json!({paths[0]: value, "_id": {"$gte": 0}}),
            ] {
                let count = indexed.count(&collection, filter.clone()).await.unwrap();
                assert_eq!(count, plain.count(&collection, filter.clone()).await.unwrap(), "{filter} by {paths:?}");
            }
        }
    }
}

#[tokio::test]
async fn unique_keys_are_mongodbs() {
    let documents = in_memory();
    documents.ensure_index("c", &index(&["a"], true)).await.unwrap();
    let insert =
        async |document: Value| documents.insert("c", vec![document]).await.map(|_| ()).map_err(|error| error.kind);
    assert_eq!(insert(json!({"a": [1, 2, 2]})).await, Ok(()), "twice in one document is no conflict");
    assert_eq!(insert(json!({"a": 2})).await, Err(ErrorKind::Conflict));
    assert_eq!(insert(json!({"a": [3, 1.0]})).await, Err(ErrorKind::Conflict));
    assert_eq!(insert(json!({"a": [[1, 2]]})).await, Ok(()), "an array in an array is one key");
    assert_eq!(insert(json!({"a": []})).await, Ok(()));
    assert_eq!(insert(json!({"a": null})).await, Ok(()), "an empty array is not null");
    assert_eq!(insert(json!({})).await, Err(ErrorKind::Conflict), "what is not there is null");
    documents.ensure_index("d", &index(&["a", "b"], false)).await.unwrap();
    let error = documents.insert("d", vec![json!({"a": [1], "b": [1]})]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert_eq!(documents.count("d", json!({})).await.unwrap(), 0);
}

#[tokio::test]
async fn a_change_of_many_happens_wholly_or_not_at_all() {
    let documents = in_memory();
    documents.insert("c", vec![json!({"_id": 1, "n": 1}), json!({"_id": 2, "n": "x"})]).await.unwrap();
    let many = UpdateOptions { many: true, upsert: false };
    let error = documents.update("c", json!({}), json!({"$inc": {"n": 1}}), many).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert_eq!(find(&documents, json!({"_id": 1}), None).await, [json!({"_id": 1, "n": 1})]);
}

#[tokio::test]
async fn a_cursor_holds_nothing_and_goes_on_after_changes() {
    let documents = in_memory();
    documents.insert("c", (0..10).map(|id| json!({"_id": id})).collect()).await.unwrap();
    let mut natural = documents.find("c", json!({}), FindOptions::default()).await.unwrap();
    let options = FindOptions { sort: Some(json!({"_id": -1})), ..FindOptions::default() };
    let mut sorted = documents.find("c", json!({}), options).await.unwrap();
    assert_eq!(natural.next(2, 1_000).await.unwrap(), [json!({"_id": 0}), json!({"_id": 1})]);
    documents.delete("c", json!({"_id": {"$in": [2, 3, 8]}}), true).await.unwrap();
    documents.insert("c", vec![json!({"_id": 10})]).await.unwrap();
    assert_eq!(natural.next(2, 1_000).await.unwrap(), [json!({"_id": 4}), json!({"_id": 5})]);
    assert_eq!(sorted.next(2, 1_000).await.unwrap(), [json!({"_id": 9}), json!({"_id": 7})]);
    assert_eq!(natural.next(100, 1_000).await.unwrap().len(), 4);
}

#[tokio::test]
async fn sizes_and_depths_are_bounded() {
    let documents = open(&Config { memory_max_bytes: 10_000, ..Config::default() }).unwrap();
    let kind = async |document: Value| documents.insert("c", vec![document]).await.unwrap_err().kind;
    assert_eq!(kind(json!({"a": "x".repeat(16 << 20)})).await, ErrorKind::Exceeded);
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
    assert_eq!(kind(nested(101)).await, ErrorKind::Exceeded);
    documents.insert("c", vec![nested(100)]).await.unwrap();
    documents.insert("d", (0..20).map(|_| json!({"text": "x".repeat(1_000)})).collect()).await.unwrap();
    for stage in [json!({"$sort": {"text": 1}}), json!({"$group": {"_id": null, "all": {"$push": "$text"}}})] {
        let error = documents.aggregate("d", vec![stage]).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Exceeded, "{error}");
    }
    let options = FindOptions { sort: Some(json!({"text": 1})), ..FindOptions::default() };
    assert_eq!(documents.find("d", json!({}), options).await.err().unwrap().kind, ErrorKind::Exceeded);
}

#[tokio::test]
async fn a_full_database_is_exceeded() {
    let documents = open(&Config { size_max_bytes: 1 << 20, ..Config::default() }).unwrap();
    let error = documents.insert("c", vec![json!({"a": "x".repeat(2 << 20)})]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exceeded, "{error}");
    documents.insert("c", vec![json!({"_id": 1})]).await.unwrap();
    assert_eq!(documents.count("c", json!({})).await.unwrap(), 1);
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str| Config { path: Some(folder.path().join(name)), ..Config::default() };
    std::fs::write(folder.path().join("text"), "not a database, and long enough to be seen as none".repeat(10))
        .unwrap();
    assert!(matches!(open(&config("text")), Err(OpenError::Database { .. })));
    rusqlite::Connection::open(folder.path().join("other")).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(matches!(open(&config("other")), Err(OpenError::Foreign { .. })));
    assert!(matches!(open(&config("missing/folder/file")), Err(OpenError::Database { .. })));
    assert!(serde_json::from_str::<Config>(r#"{"scan_max": 1}"#).is_err());
}
