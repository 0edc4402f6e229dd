//! What every document driver keeps: run by each driver's tests against its own database.
//!
//! The suite makes collections with random names and empties them, so it runs beside others and on a database in use. It
//! asks only for what the port promises of every driver; how far a driver's language goes beyond is tested beside it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a contract suite is a test, and a test fails by panicking"
)]

use crate::ErrorKind;
use crate::documents::{DocumentCursor, Documents, FindOptions, Index, ReturnDocument, UpdateOptions, Updated};
use serde_json::{Value, json};

/// Bytes of a batch that no check comes near.
const AMPLE_BYTES: usize = 1 << 20;

/// Runs all of it. Panics at the first promise that is not kept.
pub async fn check(documents: &dyn Documents) {
    check_all_but(documents, &[]).await;
}

/// As [`check`], without the checks of these names: for a server that stands in for the real one and cannot do all of
/// it. Whoever leaves one out puts on record that the driver was not checked there. Panics at a name that is none.
pub async fn check_all_but(documents: &dyn Documents, left_out: &[&str]) {
    documents.check().await.expect("a database that is there is healthy");
    let mut unknown = left_out.to_vec();
    macro_rules! run {
        ($($name:ident)*) => {$(
            if left_out.contains(&stringify!($name)) {
                unknown.retain(|name| *name != stringify!($name));
            } else {
                Suite { documents, collection: super::random_name("contract_documents") }.$name().await;
            }
        )*};
    }
    run! {
        inserts_and_finds
        a_taken_id_is_a_conflict_and_what_came_before_stays
        filters_choose
        values_keep_their_types
        sorts_projects_skips_and_limits
        cursors_go_in_batches
        updates_change_what_matches
        upserts_insert_once
        replaces
        finds_and_updates_in_one_step
        deletes_and_counts
        aggregates
        unique_indexes_hold
        a_unique_index_holds_at_once
        increments_at_once_are_not_lost
        the_id_does_not_change
        wrong_arguments_are_invalid_and_unknown_operators_unsupported
        collections_are_apart
    }
    assert!(unknown.is_empty(), "no checks of these names: {unknown:?}");
}

struct Suite<'a> {
    documents: &'a dyn Documents,
    collection: String,
}

impl Suite<'_> {
    async fn inserts_and_finds(&self) {
        let ids = self.insert(json!([{"name": "a"}, {"_id": "chosen", "name": "b"}])).await;
        let made = ids[0]["$oid"].as_str().expect("a missing `_id` is made, as an ObjectId");
        assert!(made.len() == 24 && made.bytes().all(|digit| digit.is_ascii_hexdigit()), "{made}");
        assert_eq!(ids[1], json!("chosen"));
        assert_eq!(self.find(json!({"_id": ids[0]})).await, [json!({"_id": ids[0], "name": "a"})]);
        assert_eq!(self.find(json!({"_id": "chosen"})).await, [json!({"_id": "chosen", "name": "b"})]);
        assert_eq!(self.find(json!({})).await.len(), 2);
        assert!(self.find(json!({"name": "c"})).await.is_empty());
        self.clear().await;
    }

    async fn a_taken_id_is_a_conflict_and_what_came_before_stays(&self) {
        let all = vec![json!({"_id": 1}), json!({"_id": 2}), json!({"_id": 1}), json!({"_id": 3})];
        let error = self.documents.insert(&self.collection, all).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert_eq!(self.ids(json!({})).await, [json!(1), json!(2)]);
        self.clear().await;
    }

    async fn filters_choose(&self) {
        self.insert(json!([
            {"_id": 1, "n": 1, "tags": ["a", "b"], "who": {"name": "Ana", "age": 30}},
            {"_id": 2, "n": 2.5, "tags": [], "who": {"name": "Bruno"}},
            {"_id": 3, "n": "2", "tags": "a", "who": null},
            {"_id": 4, "list": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]},
        ]))
        .await;
        for (filter, expected) in [
            (json!({}), json!([1, 2, 3, 4])),
            (json!({"n": 1}), json!([1])),
            (json!({"n": {"$eq": 2.5}}), json!([2])),
            (json!({"n": {"$ne": 1}}), json!([2, 3, 4])),
            (json!({"n": {"$gt": 1}}), json!([2])),
            (json!({"n": {"$gte": 1, "$lt": 2.5}}), json!([1])),
            (json!({"n": {"$lte": "2"}}), json!([3])),
            (json!({"n": {"$in": [1, "2"]}}), json!([1, 3])),
            (json!({"n": {"$nin": [1, "2"]}}), json!([2, 4])),
            (json!({"n": {"$exists": false}}), json!([4])),
            (json!({"who": null}), json!([3, 4])),
            (json!({"who.age": {"$exists": true}}), json!([1])),
            (json!({"who.name": {"$regex": "^an", "$options": "i"}}), json!([1])),
            (json!({"tags": "a"}), json!([1, 3])),
            (json!({"tags": ["a", "b"]}), json!([1])),
            (json!({"tags": {"$ne": "a"}}), json!([2, 4])),
            (json!({"tags.0": "a"}), json!([1])),
            (json!({"list.x": 3}), json!([4])),
            (json!({"list.x": 1, "list.y": 4}), json!([4])),
            (json!({"n": {"$not": {"$gt": 1}}}), json!([1, 3, 4])),
            (json!({"$or": [{"n": 1}, {"list.0.y": 2}]}), json!([1, 4])),
            (json!({"$and": [{"n": {"$exists": true}}, {"tags": "a"}]}), json!([1, 3])),
        ] {
            assert_eq!(Value::from(self.ids(filter.clone()).await), expected, "{filter}");
        }
        self.clear().await;
    }

    async fn values_keep_their_types(&self) {
        let document = json!({
            "_id": {"$oid": "65f0c0ffee0123456789abcd"},
            "at": {"$date": "2026-02-28T10:00:00.5Z"},
            "bytes": {"$binary": {"base64": "AAH/", "subType": "00"}},
            "large": 9_007_199_254_740_993_i64,
            "small": 1,
            "double": 1.5,
            "text": "värde \u{1f4ee}",
            "nested": {"list": [1, [2, {"a": null}], true]},
        });
        self.insert(json!([document])).await;
        let found = self.find(json!({"_id": document["_id"]})).await.remove(0);
        for (name, value) in document.as_object().unwrap() {
            match name.as_str() {
                "at" => assert!(found["at"]["$date"].as_str().unwrap().starts_with("2026-02-28T10:00:00.5"), "{found}"),
                _ => assert_eq!(found[name], *value, "{name}"),
            }
        }
        let names: Vec<&String> = found.as_object().unwrap().keys().collect();
        assert_eq!(names, document.as_object().unwrap().keys().collect::<Vec<_>>(), "fields keep their order");
        for (filter, matches) in [
            (json!({"at": {"$gt": {"$date": "2026-02-28T10:00:00Z"}}}), true),
            (json!({"at": {"$gt": {"$date": "2026-02-28T12:00:00+01:00"}}}), false),
            (json!({"at": {"$gt": "2026"}}), false),
            (json!({"large": 9_007_199_254_740_993_i64}), true),
            (json!({"large": {"$gt": 9_007_199_254_740_992_i64}}), true),
            (json!({"small": {"$numberLong": "1"}}), true),
            (json!({"small": 1.0}), true),
            (json!({"_id": "65f0c0ffee0123456789abcd"}), false),
        ] {
            assert_eq!(self.find(filter.clone()).await.len(), usize::from(matches), "{filter}");
        }
        self.clear().await;
    }

    async fn sorts_projects_skips_and_limits(&self) {
        self.insert(json!([
            {"_id": 1, "a": 2, "b": {"c": 1, "d": 1}},
            {"_id": 2, "a": "x", "b": {"c": 2, "d": 1}},
            {"_id": 3, "a": 1.5, "b": {"c": 3, "d": 1}},
            {"_id": 4, "b": {"c": 4, "d": 1}},
            {"_id": 5, "a": 2, "b": {"c": 5, "d": 1}},
        ]))
        .await;
        let options = |sort: Value, skip, limit| FindOptions { sort: Some(sort), skip, limit, projection: None };
        let sorted = async |sort: Value, skip, limit| {
            let found = self.found(json!({}), options(sort, skip, limit)).await;
            found.iter().map(|document| document["_id"].clone()).collect::<Value>()
        };
        assert_eq!(sorted(json!({"a": 1, "_id": 1}), 0, None).await, json!([4, 3, 1, 5, 2]));
        assert_eq!(sorted(json!({"a": -1, "_id": -1}), 0, None).await, json!([2, 5, 1, 3, 4]));
        assert_eq!(sorted(json!({"a": 1, "_id": -1}), 1, Some(3)).await, json!([3, 5, 1]));
        assert_eq!(sorted(json!({"b.c": -1}), 4, Some(10)).await, json!([1]));
        assert_eq!(sorted(json!({"_id": 1}), 9, None).await, json!([]));
        let projected = async |projection: Value| {
            let options = FindOptions { projection: Some(projection), ..FindOptions::default() };
            self.found(json!({"_id": 1}), options).await.remove(0)
        };
        assert_eq!(projected(json!({"a": 1})).await, json!({"_id": 1, "a": 2}));
        assert_eq!(projected(json!({"a": 1, "_id": 0})).await, json!({"a": 2}));
        assert_eq!(projected(json!({"b.c": 1, "_id": 0})).await, json!({"b": {"c": 1}}));
        assert_eq!(projected(json!({"a": 0, "b.d": 0})).await, json!({"_id": 1, "b": {"c": 1}}));
        self.clear().await;
    }

    async fn cursors_go_in_batches(&self) {
        let all: Vec<Value> = (0..25).map(|id| json!({"_id": id, "text": "x".repeat(100)})).collect();
        self.insert(Value::Array(all.clone())).await;
        let in_order = || FindOptions { sort: Some(json!({"_id": 1})), ..FindOptions::default() };
        let mut cursor = self.documents.find(&self.collection, json!({}), in_order()).await.unwrap();
        let mut sizes = Vec::new();
        let mut read = Vec::new();
        loop {
            let batch = cursor.next(10, AMPLE_BYTES).await.unwrap();
            if batch.is_empty() {
                break;
            }
            sizes.push(batch.len());
            read.extend(batch);
        }
        assert_eq!((sizes, read), (vec![10, 10, 5], all.clone()));
        assert!(cursor.next(10, AMPLE_BYTES).await.unwrap().is_empty(), "it stays at its end");

        let one_bytes = all[0].to_string().len();
        let mut cursor = self.documents.find(&self.collection, json!({}), in_order()).await.unwrap();
        let batch = cursor.next(10, 3 * one_bytes + 10).await.unwrap();
        assert_eq!(batch, all[..3], "no more than fit");
        assert_eq!(cursor.next(10, 1).await.unwrap(), all[3..4], "a single one comes whatever its size");
        assert_eq!(rest(cursor).await, all[4..], "and none is skipped");

        let mut natural =
            self.documents.find(&self.collection, json!({"_id": {"$gte": 5}}), FindOptions::default()).await.unwrap();
        let mut read = natural.next(7, AMPLE_BYTES).await.unwrap();
        assert_eq!(read.len(), 7);
        read.extend(rest(natural).await);
        assert_eq!(read.len(), 20);
        let mut aggregated =
            self.documents.aggregate(&self.collection, vec![json!({"$sort": {"_id": 1}})]).await.unwrap();
        assert_eq!(aggregated.next(7, AMPLE_BYTES).await.unwrap(), all[..7]);
        assert_eq!(rest(aggregated).await, all[7..]);
        self.clear().await;
    }

    async fn updates_change_what_matches(&self) {
        self.insert(json!([{"_id": 1, "n": 1, "tags": ["a"]}, {"_id": 2, "n": 1, "gone": true}])).await;
        let one = UpdateOptions::default();
        let many = UpdateOptions { many: true, ..one };
        let updated = |matched, modified| Updated { matched, modified, upserted_id: None };
        assert_eq!(self.update(json!({"n": 1}), json!({"$inc": {"n": 2}}), many).await, updated(2, 2));
        assert_eq!(self.update(json!({"n": 3}), json!({"$set": {"n": 3}}), many).await, updated(2, 0));
        assert_eq!(self.update(json!({"n": 3}), json!({"$set": {"first.one": true}}), one).await, updated(1, 1));
        assert_eq!(self.update(json!({"n": 9}), json!({"$set": {"n": 1}}), one).await, updated(0, 0));
        let all = json!({
            "$set": {"who.name": "Ana"},
            "$unset": {"gone": ""},
            "$push": {"tags": {"$each": ["b", "a"]}},
            "$setOnInsert": {"never": 1},
            "$currentDate": {"at": true},
        });
        assert_eq!(self.update(json!({"_id": {"$in": [1, 2]}}), all, many).await, updated(2, 2));
        let first = self.find(json!({"_id": 1})).await.remove(0);
        assert_eq!((&first["who"]["name"], &first["tags"]), (&json!("Ana"), &json!(["a", "b", "a"])));
        assert!(first["at"]["$date"].is_string() && first.get("never").is_none(), "{first}");
        assert!(self.find(json!({"_id": 2})).await.remove(0).get("gone").is_none());
        self.update(json!({"_id": 1}), json!({"$pull": {"tags": "a"}}), one).await;
        self.update(json!({"_id": 1}), json!({"$addToSet": {"tags": {"$each": ["b", "c"]}}}), one).await;
        assert_eq!(self.find(json!({"_id": 1})).await.remove(0)["tags"], json!(["b", "c"]));
        self.clear().await;
    }

    async fn upserts_insert_once(&self) {
        let upsert = UpdateOptions { upsert: true, many: false };
        let update = json!({"$inc": {"count": 1}, "$setOnInsert": {"made": true}});
        let filter = json!({"key": "k", "n": {"$gte": 0}, "where.at": {"$eq": "here"}});
        let done = self
            .update(
                filter.clone(),
                json!({"$inc": {"count": 1}, "$setOnInsert": {"made": true}, "$set": {"n": 1}}),
                upsert,
            )
            .await;
        let id = done.upserted_id.expect("none matched");
        assert_eq!((done.matched, done.modified), (0, 0));
        let mut found = self.find(json!({"_id": id})).await.remove(0);
        found.as_object_mut().unwrap().remove("_id");
        // The order of the fields is the driver's.
        assert_eq!(found, json!({"key": "k", "where": {"at": "here"}, "count": 1, "made": true, "n": 1}));
        let done = self.update(filter, update.clone(), upsert).await;
        assert_eq!(done, Updated { matched: 1, modified: 1, upserted_id: None });
        let done = self.update(json!({"_id": "mine"}), update, upsert).await;
        assert_eq!(done.upserted_id, Some(json!("mine")));
        assert_eq!(self.count(json!({})).await, 2);
        self.clear().await;
    }

    async fn replaces(&self) {
        self.insert(json!([{"_id": 1, "a": 1, "b": 2}])).await;
        let replace = async |filter: Value, replacement: Value, upsert| {
            self.documents.replace_one(&self.collection, filter, replacement, upsert).await
        };
        let done = replace(json!({"a": 1}), json!({"c": 3}), false).await.unwrap();
        assert_eq!(done, Updated { matched: 1, modified: 1, upserted_id: None });
        assert_eq!(self.find(json!({})).await, [json!({"_id": 1, "c": 3})]);
        assert_eq!(replace(json!({"a": 1}), json!({"c": 4}), false).await.unwrap(), Updated::default());
        let done = replace(json!({"_id": 2}), json!({"c": 4}), true).await.unwrap();
        assert_eq!(done.upserted_id, Some(json!(2)));
        let error = replace(json!({"_id": 2}), json!({"_id": 3}), false).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        let error = replace(json!({"_id": 2}), json!({"$set": {"c": 1}}), false).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        self.clear().await;
    }

    async fn finds_and_updates_in_one_step(&self) {
        let step = async |filter: Value, upsert, returned| {
            let update = json!({"$inc": {"n": 1}});
            self.documents.find_one_and_update(&self.collection, filter, update, upsert, returned).await.unwrap()
        };
        assert_eq!(step(json!({"_id": 1}), false, ReturnDocument::After).await, None);
        assert_eq!(step(json!({"_id": 1}), true, ReturnDocument::Before).await, None, "there was none before");
        assert_eq!(step(json!({"_id": 1}), true, ReturnDocument::Before).await, Some(json!({"_id": 1, "n": 1})));
        assert_eq!(step(json!({"_id": 1}), false, ReturnDocument::After).await, Some(json!({"_id": 1, "n": 3})));
        assert_eq!(step(json!({"_id": 2}), true, ReturnDocument::After).await, Some(json!({"_id": 2, "n": 1})));
        self.clear().await;
    }

    async fn deletes_and_counts(&self) {
        self.insert(json!([{"_id": 1, "a": 1}, {"_id": 2, "a": 1}, {"_id": 3, "a": 1}, {"_id": 4, "a": 2}])).await;
        let delete = async |filter: Value, many| self.documents.delete(&self.collection, filter, many).await.unwrap();
        assert_eq!(self.count(json!({"a": 1})).await, 3);
        assert_eq!(delete(json!({"a": 1}), false).await, 1);
        assert_eq!(delete(json!({"a": 1}), true).await, 2);
        assert_eq!(delete(json!({"a": 1}), true).await, 0);
        assert_eq!(self.count(json!({})).await, 1);
        assert_eq!(delete(json!({}), true).await, 1);
        assert_eq!(self.count(json!({})).await, 0);
    }

    async fn aggregates(&self) {
        self.insert(json!([
            {"_id": 1, "city": "A", "n": 1},
            {"_id": 2, "city": "B", "n": 5},
            {"_id": 3, "city": "A", "n": 3},
            {"_id": 4, "city": "B", "n": 100},
            {"_id": 5, "city": "C"},
        ]))
        .await;
        let run = async |pipeline: Value| {
            let stages = pipeline.as_array().unwrap().clone();
            Value::from(rest(self.documents.aggregate(&self.collection, stages).await.unwrap()).await)
        };
        let group = json!({"$group": {
            "_id": "$city", "sum": {"$sum": "$n"}, "count": {"$sum": 1}, "least": {"$min": "$n"}, "most": {"$max": "$n"},
            "mean": {"$avg": "$n"},
        }});
        assert_eq!(
            run(json!([{"$match": {"n": {"$lt": 50}}}, group, {"$sort": {"_id": 1}}])).await,
            json!([
                {"_id": "A", "sum": 4, "count": 2, "least": 1, "most": 3, "mean": 2.0},
                {"_id": "B", "sum": 5, "count": 1, "least": 5, "most": 5, "mean": 5.0},
            ])
        );
        assert_eq!(
            run(json!([{"$sort": {"_id": -1}}, {"$skip": 1}, {"$limit": 2}, {"$match": {"n": 3}}])).await,
            json!([{"_id": 3, "city": "A", "n": 3}])
        );
        assert_eq!(run(json!([{"$match": {"city": "B"}}, {"$count": "total"}])).await, json!([{"total": 2}]));
        assert_eq!(run(json!([{"$match": {"city": "Z"}}, {"$count": "total"}])).await, json!([]));
        self.clear().await;
    }

    async fn unique_indexes_hold(&self) {
        let index = Index { keys: vec![("user".to_owned(), 1), ("kind".to_owned(), -1)], unique: true };
        self.insert(json!([{"_id": 1, "user": 1, "kind": "a"}, {"_id": 2, "user": 1, "kind": "b"}])).await;
        self.documents.ensure_index(&self.collection, &index).await.unwrap();
        self.documents.ensure_index(&self.collection, &index).await.expect("making it again is no error");
        let conflict = async |document: Value| {
            let error = self.documents.insert(&self.collection, vec![document]).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        };
        conflict(json!({"user": 1, "kind": "a"})).await;
        self.insert(json!([{"_id": 3, "user": 2, "kind": "a"}, {"_id": 4}])).await;
        conflict(json!({"_id": 5, "user": null})).await;
        let update = json!({"$set": {"kind": "a"}});
        let error = self
            .documents
            .update(&self.collection, json!({"_id": 2}), update, UpdateOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert_eq!(self.find(json!({"_id": 2})).await, [json!({"_id": 2, "user": 1, "kind": "b"})], "it is as before");
        assert_eq!(self.ids(json!({"user": 1, "kind": "b"})).await, [json!(2)]);
        self.documents.delete(&self.collection, json!({"_id": 1}), false).await.unwrap();
        self.insert(json!([{"_id": 6, "user": 1, "kind": "a"}])).await;

        let late = Index { keys: vec![("kind".to_owned(), 1)], unique: true };
        let error = self.documents.ensure_index(&self.collection, &late).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "what is there has it twice: {error}");
        let plain = Index { keys: vec![("kind".to_owned(), 1)], unique: false };
        self.documents.ensure_index(&self.collection, &plain).await.unwrap();
        assert_eq!(self.ids(json!({"kind": "a"})).await, [json!(3), json!(6)]);
        self.clear().await;
    }

    async fn a_unique_index_holds_at_once(&self) {
        let index = Index { keys: vec![("key".to_owned(), 1)], unique: true };
        self.documents.ensure_index(&self.collection, &index).await.unwrap();
        let insert = || self.documents.insert(&self.collection, vec![json!({"key": "same"})]);
        let results = <[_; 6]>::from(tokio::join!(insert(), insert(), insert(), insert(), insert(), insert()));
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "one of them wins");
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        }
        assert_eq!(self.count(json!({})).await, 1);
        self.clear().await;
    }

    async fn increments_at_once_are_not_lost(&self) {
        self.insert(json!([{"_id": 1, "n": 0}])).await;
        let increment = || self.update(json!({"_id": 1}), json!({"$inc": {"n": 1}}), UpdateOptions::default());
        for _ in 0..5 {
            tokio::join!(increment(), increment(), increment(), increment(), increment());
        }
        assert_eq!(self.find(json!({})).await, [json!({"_id": 1, "n": 25})]);
        self.clear().await;
    }

    async fn the_id_does_not_change(&self) {
        self.insert(json!([{"_id": 1, "n": 0}])).await;
        for update in [json!({"$set": {"_id": 2}}), json!({"$inc": {"_id": 1}})] {
            let options = UpdateOptions::default();
            let error = self.documents.update(&self.collection, json!({"_id": 1}), update, options).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        }
        assert_eq!(self.find(json!({})).await, [json!({"_id": 1, "n": 0})]);
        self.clear().await;
    }

    async fn wrong_arguments_are_invalid_and_unknown_operators_unsupported(&self) {
        self.insert(json!([{"_id": 1, "n": 0, "text": "x"}])).await;
        let kind_of_filter =
            async |filter: Value| self.documents.count(&self.collection, filter).await.unwrap_err().kind;
        for filter in [json!({"$and": []}), json!({"n": {"$in": 1}}), json!([])] {
            assert_eq!(kind_of_filter(filter.clone()).await, ErrorKind::Invalid, "{filter}");
        }
        for filter in [json!({"$shazam": 1}), json!({"n": {"$shazam": 1}})] {
            let error = self.documents.count(&self.collection, filter.clone()).await.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Invalid), "{filter}: {error}");
            assert!(error.message.contains("$shazam"), "it names the operator: {error}");
        }
        for update in [
            json!({"n": 1}),
            json!({}),
            json!({"$inc": {"n": "1"}}),
            json!({"$inc": {"text": 1}}),
            json!({"$push": {"n": 1}}),
            json!({"$set": {"n": 1}, "$inc": {"n": 1}}),
            json!({"$set": {"n": 1, "n.x": 1}}),
            json!({"$set": {"text.x": 1}}),
        ] {
            let options = UpdateOptions::default();
            let error = self.documents.update(&self.collection, json!({}), update.clone(), options).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{update}: {error}");
        }
        let options = UpdateOptions::default();
        let error = self
            .documents
            .update(&self.collection, json!({}), json!({"$shazam": {"n": 1}}), options)
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Invalid) && error.message.contains("$shazam"),
            "{error}"
        );
        let error =
            self.documents.aggregate(&self.collection, vec![json!({"$shazam": {}})]).await.err().expect("an error");
        assert!(
            matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Invalid) && error.message.contains("$shazam"),
            "{error}"
        );
        let error = self.documents.insert(&self.collection, vec![json!({"_id": [1]})]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert_eq!(self.documents.count("", json!({})).await.unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(self.find(json!({})).await, [json!({"_id": 1, "n": 0, "text": "x"})], "nothing was done");
        self.clear().await;
    }

    async fn collections_are_apart(&self) {
        let other = Suite { documents: self.documents, collection: super::random_name("contract_documents") };
        self.insert(json!([{"_id": 1, "mine": true}])).await;
        other.insert(json!([{"_id": 1, "mine": false}])).await;
        other.update(json!({}), json!({"$set": {"n": 1}}), UpdateOptions { many: true, upsert: false }).await;
        assert_eq!(self.find(json!({})).await, [json!({"_id": 1, "mine": true})]);
        other.clear().await;
        assert_eq!(self.count(json!({})).await, 1);
        self.clear().await;
    }

    async fn insert(&self, documents: Value) -> Vec<Value> {
        let documents = documents.as_array().unwrap().clone();
        let count = documents.len();
        let ids = self.documents.insert(&self.collection, documents).await.unwrap();
        assert_eq!(ids.len(), count);
        ids
    }

    async fn found(&self, filter: Value, options: FindOptions) -> Vec<Value> {
        rest(self.documents.find(&self.collection, filter, options).await.unwrap()).await
    }

    async fn find(&self, filter: Value) -> Vec<Value> {
        self.found(filter, FindOptions::default()).await
    }

    async fn ids(&self, filter: Value) -> Vec<Value> {
        let options = FindOptions { sort: Some(json!({"_id": 1})), ..FindOptions::default() };
        self.found(filter, options).await.into_iter().map(|mut document| document["_id"].take()).collect()
    }

    async fn update(&self, filter: Value, update: Value, options: UpdateOptions) -> Updated {
        self.documents.update(&self.collection, filter, update, options).await.unwrap()
    }

    async fn count(&self, filter: Value) -> u64 {
        self.documents.count(&self.collection, filter).await.unwrap()
    }

    async fn clear(&self) {
        self.documents.delete(&self.collection, json!({}), true).await.unwrap();
    }
}

async fn rest(mut cursor: Box<dyn DocumentCursor>) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let batch = cursor.next(100, AMPLE_BYTES).await.unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}
