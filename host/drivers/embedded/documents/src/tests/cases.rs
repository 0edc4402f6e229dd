//! Case by case: each table goes through one `check`.

use crate::aggregate::Pipeline;
use crate::extjson;
use crate::filter::Filter;
use crate::projection::Projection;
use crate::sort::Sort;
use crate::update::{self, Update};
use crate::value::{Bson, Document};
use serde_json::{Value, json};

pub(super) fn document(json: &Value) -> Document {
    extjson::document(json).unwrap()
}

pub(super) fn bson(json: &Value) -> Bson {
    extjson::value(json).unwrap()
}

#[test]
fn filters_match_as_in_mongodb() {
    #[track_caller]
    fn check(filter: Value, matching: &[Value], others: &[Value]) {
        let parsed = Filter::parse(&filter).unwrap();
        for json in matching {
            assert!(parsed.matches(&document(json)), "{filter} does not match {json}");
        }
        for json in others {
            assert!(!parsed.matches(&document(json)), "{filter} matches {json}");
        }
    }
    let none: &[Value] = &[];
    check(json!({}), &[json!({}), json!({"a": 1})], none);
    check(
        json!({"a": 1}),
        &[json!({"a": 1}), json!({"a": 1.0}), json!({"a": {"$numberLong": "1"}}), json!({"a": [0, 1]})],
        &[json!({"a": "1"}), json!({"a": true}), json!({"a": [[1]]}), json!({}), json!({"a": 1.000_000_1})],
    );
    // Null is what is not there; not every path that leads nowhere is.
    check(
        json!({"a.b": null}),
        &[
            json!({}),
            json!({"a": 4}),
            json!({"a": null}),
            json!({"a": {}}),
            json!({"a": [{"b": 3}, {}]}),
            json!({"a": [{"b": null}]}),
        ],
        &[json!({"a": {"b": 1}}), json!({"a": []}), json!({"a": [1, 2]}), json!({"a": [{"b": 1}]})],
    );
    check(json!({"a": {"$ne": null}}), &[json!({"a": 0}), json!({"a": []})], &[json!({}), json!({"a": [1, null]})]);
    check(json!({"a": {"$gte": null}}), &[json!({}), json!({"a": null})], &[json!({"a": 1})]);
    check(json!({"a": {"$gt": null}}), none, &[json!({}), json!({"a": null}), json!({"a": 1})]);
    // Arrays: an element or the whole.
    check(
        json!({"a": [1, 2]}),
        &[json!({"a": [1, 2]}), json!({"a": [[1, 2], 3]})],
        &[json!({"a": [2, 1]}), json!({"a": [1]})],
    );
    check(
        json!({"a.1": 2}),
        &[json!({"a": [1, 2]}), json!({"a": {"1": 2}}), json!({"a": [{"1": 2}]})],
        &[json!({"a": [2, 1]})],
    );
    check(json!({"a.0": 1}), none, &[json!({"a": [[1, 2]]})]);
    check(json!({"a.0": [1, 2]}), &[json!({"a": [[1, 2]]})], none);
    check(
        json!({"a.0.b": 1}),
        &[json!({"a": [{"b": 1}]}), json!({"a": [{"b": [0, 1]}]})],
        &[json!({"a": [{"b": 0}, {"b": 1}]})],
    );
    check(json!({"a.b.c": 1}), &[json!({"a": [{"b": [{"c": 1}]}]})], &[json!({"a": [[{"b": {"c": 1}}]]})]);
    // Each condition may be met by another element; $elemMatch wants one for all.
    check(json!({"a": {"$gt": 1, "$lt": 3}}), &[json!({"a": [0, 5]}), json!({"a": 2})], &[json!({"a": [5]})]);
    check(
        json!({"a": {"$elemMatch": {"$gt": 1, "$lt": 3}}}),
        &[json!({"a": [0, 2]})],
        &[json!({"a": [0, 5]}), json!({"a": 2})],
    );
    check(
        json!({"a": {"$elemMatch": {"b": 1, "c": {"$exists": true}}}}),
        &[json!({"a": [{"b": 1, "c": 1}]})],
        &[json!({"a": [{"b": 1}, {"c": 1}]}), json!({"a": {"b": 1, "c": 1}})],
    );
    check(
        json!({"a": {"$elemMatch": {"$or": [{"b": 1}, {"c": 1}]}}}),
        &[json!({"a": [{"c": 1}]})],
        &[json!({"a": [{"d": 1}]})],
    );
    check(
        json!({"a": {"$elemMatch": {"$not": {"$gt": 1}}}}),
        &[json!({"a": [1, 2]})],
        &[json!({"a": [2]}), json!({"a": []})],
    );
    check(json!({"a": {"$elemMatch": {"0": 1}}}), &[json!({"a": [[1]]})], &[json!({"a": [1]})]);
    // Documents are equal with their order.
    check(
        json!({"a": {"x": 1, "y": 2}}),
        &[json!({"a": {"x": 1, "y": 2}})],
        &[json!({"a": {"y": 2, "x": 1}}), json!({"a": {"x": 1}})],
    );
    check(json!({"a": {}}), &[json!({"a": {}})], &[json!({}), json!({"a": {"x": 1}})]);
    // Within the type only.
    check(json!({"a": {"$lt": "b"}}), &[json!({"a": "a"}), json!({"a": ""})], &[json!({"a": 1}), json!({"a": null})]);
    check(json!({"a": {"$lt": true}}), &[json!({"a": false})], &[json!({"a": 0})]);
    check(
        json!({"a": {"$gt": {"$oid": "000000000000000000000001"}}}),
        &[json!({"a": {"$oid": "000000000000000000000002"}})],
        &[json!({"a": "z"})],
    );
    check(
        json!({"a": {"$gt": [1]}}),
        &[json!({"a": [2]}), json!({"a": [1, 0]})],
        &[json!({"a": 5}), json!({"a": [0, 9]})],
    );
    let nan = json!({"$numberDouble": "NaN"});
    check(json!({"a": nan}), &[json!({"a": nan})], &[json!({"a": 1}), json!({})]);
    check(json!({"a": {"$gte": nan}}), &[json!({"a": nan})], &[json!({"a": 1})]);
    check(json!({"a": {"$lt": 1}}), &[json!({"a": {"$numberDouble": "-Infinity"}})], &[json!({"a": nan})]);
    check(
        json!({"a": {"$gt": 9_007_199_254_740_992.0}}),
        &[json!({"a": 9_007_199_254_740_993_i64})],
        &[json!({"a": 9_007_199_254_740_992_i64})],
    );
    // The rest.
    check(json!({"a": {"$in": [null, "x"]}}), &[json!({}), json!({"a": ["x"]})], &[json!({"a": 1})]);
    check(json!({"a": {"$in": []}}), none, &[json!({}), json!({"a": []})]);
    check(json!({"a": {"$nin": [1]}}), &[json!({}), json!({"a": 2})], &[json!({"a": [1, 2]})]);
    check(json!({"a": {"$exists": 1}}), &[json!({"a": null}), json!({"a": []})], &[json!({})]);
    check(json!({"a": {"$exists": 0}}), &[json!({})], &[json!({"a": null})]);
    check(json!({"a": {"$all": [1, [2]]}}), &[json!({"a": [1, [2]]})], &[json!({"a": [1, 2]}), json!({"a": 1})]);
    check(json!({"a": {"$all": [1]}}), &[json!({"a": 1}), json!({"a": [1]})], none);
    check(json!({"a": {"$all": []}}), none, &[json!({"a": []})]);
    check(
        json!({"a": {"$all": [{"$elemMatch": {"b": 1}}, {"$elemMatch": {"b": 2}}]}}),
        &[json!({"a": [{"b": 2}, {"b": 1}]})],
        &[json!({"a": [{"b": 1}]})],
    );
    check(
        json!({"a": {"$size": 2}}),
        &[json!({"a": [1, [2]]})],
        &[json!({"a": [1]}), json!({"a": [[1, 2]]}), json!({})],
    );
    check(json!({"a.b": {"$size": 1}}), &[json!({"a": [{"b": [1]}]})], &[json!({"a": [{"b": 1}]})]);
    check(
        json!({"a": {"$type": "number"}}),
        &[json!({"a": 1.5}), json!({"a": ["x", 1]})],
        &[json!({"a": "1"}), json!({})],
    );
    check(
        json!({"a": {"$type": ["array", 10]}}),
        &[json!({"a": []}), json!({"a": null})],
        &[json!({"a": 1}), json!({})],
    );
    check(json!({"a": {"$type": "long"}}), &[json!({"a": {"$numberLong": "1"}})], &[json!({"a": 1})]);
    check(
        json!({"a": {"$regex": "b.d", "$options": "s"}}),
        &[json!({"a": "ab\nd"}), json!({"a": [1, "bcd"]})],
        &[json!({"a": 1})],
    );
    check(
        json!({"a": {"$in": [{"$regularExpression": {"pattern": "^x", "options": "i"}}]}}),
        &[json!({"a": "Xy"})],
        &[json!({"a": "y"})],
    );
    check(json!({"a": {"$not": {"$regex": "x"}}}), &[json!({}), json!({"a": 1})], &[json!({"a": "x"})]);
    check(json!({"a": {"$not": {"$gt": 1, "$lt": 3}}}), &[json!({"a": 5})], &[json!({"a": 2})]);
    check(json!({"$nor": [{"a": 1}, {"b": 1}]}), &[json!({}), json!({"a": 2})], &[json!({"b": 1})]);
    check(
        json!({"a": {"$date": "1970-01-01T00:00:00.001Z"}}),
        &[json!({"a": {"$date": {"$numberLong": "1"}}})],
        &[json!({"a": 1})],
    );
}

#[test]
fn what_no_filter_is_fails_by_name() {
    #[track_caller]
    fn check(filter: Value, word: &str, named: &str) {
        let error = Filter::parse(&filter).unwrap_err();
        assert_eq!(error.kind.word(), word, "{filter}: {error}");
        assert!(error.message.contains(named), "{filter}: {error}");
    }
    check(json!({"$where": "1"}), "unsupported", "$where");
    check(json!({"$expr": {}}), "unsupported", "$expr");
    check(json!({"a": {"$mod": [2, 0]}}), "unsupported", "$mod");
    check(json!({"a": {"$not": {"$near": 1}}}), "unsupported", "$near");
    check(json!({"a": {"$elemMatch": {"$bitsAllSet": 1}}}), "unsupported", "$bitsAllSet");
    check(json!({"a": {"$gt": {"$numberDecimal": "1"}}}), "unsupported", "$numberDecimal");
    check(json!({"a.$": 1}), "unsupported", "`$`");
    check(json!({"a": {"$gt": 1, "b": 2}}), "invalid", "mixed");
    check(json!({"a": {"x": {"$gt": 1}}}), "invalid", "$gt");
    check(json!({"a..b": 1}), "invalid", "a..b");
    check(json!({"$or": {}}), "invalid", "$or");
    check(json!({"a": {"$in": 1}}), "invalid", "$in");
    check(json!({"a": {"$size": -1}}), "invalid", "$size");
    check(json!({"a": {"$not": 1}}), "invalid", "$not");
    check(json!({"a": {"$options": "i"}}), "invalid", "$options");
    check(json!({"a": {"$type": "text"}}), "invalid", "text");
    check(json!({"a": {"$oid": "123"}}), "invalid", "$oid");
    check(json!(1), "invalid", "filter");
    let deep = (0..300).fold(json!({"a": 1}), |inner, _| json!({"$and": [inner]}));
    check(deep, "invalid", "nested");
}

#[test]
fn updates_change_as_in_mongodb() {
    #[track_caller]
    fn check(before: Value, update: Value, after: Value) {
        let applied = Update::parse(&update).unwrap().apply(&document(&before), false, 1_000).unwrap();
        // As text, so that the order of the fields counts.
        assert_eq!(extjson::relaxed_document(&applied).to_string(), after.to_string(), "{update} on {before}");
    }
    check(json!({"a": 1}), json!({"$set": {"c": 3, "b": 2}}), json!({"a": 1, "b": 2, "c": 3}));
    check(json!({"a": 1, "b": 2}), json!({"$set": {"a": {"x": 1}}}), json!({"a": {"x": 1}, "b": 2}));
    check(json!({}), json!({"$set": {"a.b.c": 1}}), json!({"a": {"b": {"c": 1}}}));
    check(json!({}), json!({"$set": {"a.0": 1}}), json!({"a": {"0": 1}}));
    check(json!({"a": [1]}), json!({"$set": {"a.3": 4}}), json!({"a": [1, null, null, 4]}));
    check(json!({"a": [{"b": 1}]}), json!({"$set": {"a.0.b": 2, "a.1.b": 3}}), json!({"a": [{"b": 2}, {"b": 3}]}));
    check(json!({}), json!({"$set": {"a.10": 1, "a.9": 2}}), json!({"a": {"9": 2, "10": 1}}));
    check(
        json!({"a": {"b": 1, "c": 2}, "d": 1}),
        json!({"$unset": {"a.b": 1, "d": "", "e": 1, "a.x.y": 1}}),
        json!({"a": {"c": 2}}),
    );
    check(json!({"a": [1, 2]}), json!({"$unset": {"a.0": 1}}), json!({"a": [null, 2]}));
    check(json!({"a": 1}), json!({"$inc": {"a": 2, "b": 1.5}}), json!({"a": 3, "b": 1.5}));
    check(json!({"a": 1}), json!({"$inc": {"a": 0.5}}), json!({"a": 1.5}));
    check(json!({"a": 2_147_483_647}), json!({"$inc": {"a": 1}}), json!({"a": 2_147_483_648_i64}));
    check(json!({"a": 3}), json!({"$mul": {"a": 2, "b": 5}}), json!({"a": 6, "b": 0}));
    check(
        json!({"a": 3, "b": 3}),
        json!({"$min": {"a": 2, "c": 1}, "$max": {"b": "x"}}),
        json!({"a": 2, "b": "x", "c": 1}),
    );
    check(json!({"a": 3}), json!({"$min": {"a": 4}}), json!({"a": 3}));
    check(json!({"a": 1, "b": 2}), json!({"$rename": {"a": "c.d", "x": "y"}}), json!({"b": 2, "c": {"d": 1}}));
    check(json!({"a": [1]}), json!({"$push": {"a": [2], "b": {"x": 1}}}), json!({"a": [1, [2]], "b": [{"x": 1}]}));
    check(json!({"a": [1, 2]}), json!({"$push": {"a": {"$each": [8, 9], "$position": 1}}}), json!({"a": [1, 8, 9, 2]}));
    check(json!({"a": [1, 2]}), json!({"$push": {"a": {"$each": [3], "$slice": -2}}}), json!({"a": [2, 3]}));
    check(
        json!({"a": [1, 2]}),
        json!({"$push": {"a": {"$each": [3], "$slice": 1, "$position": -1}}}),
        json!({"a": [1]}),
    );
    check(json!({"a": [1]}), json!({"$addToSet": {"a": 1.0, "b": [1]}}), json!({"a": [1], "b": [[1]]}));
    check(
        json!({"a": [{"x": 1, "y": 2}]}),
        json!({"$addToSet": {"a": {"$each": [{"y": 2, "x": 1}, {"x": 1, "y": 2}]}}}),
        json!({"a": [{"x": 1, "y": 2}, {"y": 2, "x": 1}]}),
    );
    check(json!({"a": [1, 2, 1, "1"]}), json!({"$pull": {"a": 1, "b": 1}}), json!({"a": [2, "1"]}));
    check(json!({"a": [1, 5, 9]}), json!({"$pull": {"a": {"$gt": 1, "$lt": 9}}}), json!({"a": [1, 9]}));
    check(json!({"a": [1, 2, 3]}), json!({"$pull": {"a": {"$in": [1, 3]}}}), json!({"a": [2]}));
    check(
        json!({"a": [{"x": 1, "y": 1}, {"x": 2}, 1]}),
        json!({"$pull": {"a": {"x": 1}}}),
        json!({"a": [{"x": 2}, 1]}),
    );
    check(
        json!({"a": [{"x": [1, 9]}, {"x": [2]}]}),
        json!({"$pull": {"a": {"x": {"$gt": 5}}}}),
        json!({"a": [{"x": [2]}]}),
    );
    check(
        json!({}),
        json!({"$currentDate": {"a": true, "b": {"$type": "date"}}}),
        json!({"a": {"$date": "1970-01-01T00:00:01Z"}, "b": {"$date": "1970-01-01T00:00:01Z"}}),
    );
    check(json!({"a": 1}), json!({"$setOnInsert": {"b": 1}}), json!({"a": 1}));
    check(json!({"_id": 1}), json!({"$set": {"_id": 1, "a": 1}}), json!({"_id": 1, "a": 1}));
}

#[test]
fn updates_that_cannot_be_are_refused() {
    #[track_caller]
    fn check(before: Value, update: Value, word: &str, named: &str) {
        let applied = Update::parse(&update).and_then(|update| update.apply(&document(&before), false, 0));
        let error = applied.unwrap_err();
        assert_eq!(error.kind.word(), word, "{update} on {before}: {error}");
        assert!(error.message.contains(named), "{update} on {before}: {error}");
    }
    let empty = || json!({});
    check(empty(), json!({"$bit": {"a": 1}}), "unsupported", "$bit");
    check(empty(), json!({"$bit": {}}), "unsupported", "$bit");
    check(empty(), json!([{"$set": {"a": 1}}]), "unsupported", "pipeline");
    check(empty(), json!({"$push": {"a": {"$each": [], "$sort": 1}}}), "unsupported", "$sort");
    check(empty(), json!({"$set": {"a.$[].b": 1}}), "unsupported", "$[]");
    check(empty(), json!({"$currentDate": {"a": {"$type": "timestamp"}}}), "unsupported", "$currentDate");
    check(empty(), json!({"a": 1}), "invalid", "`a`");
    check(empty(), json!({"$set": 1}), "invalid", "$set");
    check(empty(), json!({"$set": {"a": 1}, "$inc": {"a.b": 1}}), "invalid", "conflict");
    check(empty(), json!({"$rename": {"a": "b"}, "$set": {"b": 1}}), "invalid", "conflict");
    check(empty(), json!({"$rename": {"a": "a"}}), "invalid", "conflict");
    check(empty(), json!({"$set": {"a": {"$x": 1}}}), "invalid", "$x");
    check(empty(), json!({"$set": {"a": {"x.y": 1}}}), "invalid", "x.y");
    check(empty(), json!({"$set": {"": 1}}), "invalid", "empty");
    check(empty(), json!({"$push": {"a": {"$slice": 1}}}), "invalid", "$each");
    check(json!({"a": "x"}), json!({"$inc": {"a": 1}}), "invalid", "string");
    check(json!({"a": null}), json!({"$inc": {"a": 1}}), "invalid", "null");
    check(json!({"a": i64::MAX}), json!({"$inc": {"a": 1}}), "invalid", "overflows");
    check(json!({"a": 1}), json!({"$push": {"a": 1}}), "invalid", "int");
    check(json!({"a": 1}), json!({"$pull": {"a": 1}}), "invalid", "int");
    check(json!({"a": 1}), json!({"$set": {"a.b": 1}}), "invalid", "int");
    check(json!({"a": null}), json!({"$set": {"a.b": 1}}), "invalid", "null");
    check(json!({"a": [1]}), json!({"$set": {"a.b": 1}}), "invalid", "array");
    check(json!({"a": []}), json!({"$set": {"a.2000000": 1}}), "invalid", "past the end");
    check(json!({"a": [{"b": 1}]}), json!({"$rename": {"a.0.b": "c"}}), "invalid", "array");
    check(json!({"_id": 1}), json!({"$set": {"_id": 2}}), "invalid", "_id");
    check(json!({"_id": 1}), json!({"$unset": {"_id": 1}}), "invalid", "_id");
    check(json!({"_id": {"x": 1}}), json!({"$set": {"_id.x": 2}}), "invalid", "_id");
}

#[test]
fn an_upsert_takes_what_the_filter_gives() {
    #[track_caller]
    fn check(filter: Value, expected: Option<Value>) {
        let given = update::from_filter(&Filter::parse(&filter).unwrap());
        assert_eq!(given.as_ref().ok().map(extjson::relaxed_document), expected, "{filter}");
    }
    check(json!({"a": 1, "b": {"$gt": 2}, "c": {"$in": [1]}}), Some(json!({"a": 1})));
    check(json!({"$and": [{"a.b": 1}, {"a.c": {"$eq": 2}}]}), Some(json!({"a": {"b": 1, "c": 2}})));
    check(json!({"$or": [{"a": 1}]}), Some(json!({"a": 1})));
    check(json!({"$or": [{"a": 1}, {"b": 1}], "$nor": [{"c": 1}]}), Some(json!({})));
    check(json!({"a": {"$not": {"$eq": 1}}, "b": {"$ne": 1}}), Some(json!({})));
    check(
        json!({"a": null, "_id": {"$oid": "000000000000000000000001"}}),
        Some(json!({"a": null, "_id": {"$oid": "000000000000000000000001"}})),
    );
    check(json!({"$and": [{"a": 1}, {"a": 1}]}), None);
    check(json!({"a": {"x": 1}, "a.y": 1}), None);
}

#[test]
fn projections_choose_fields() {
    #[track_caller]
    fn check(projection: Value, expected: Value) {
        let whole =
            document(&json!({"_id": 1, "a": {"x": 1, "y": 2}, "list": [{"x": 1, "y": 2}, 3, [{"x": 4}]], "b": 2}));
        let projected = Projection::parse(&projection).unwrap().map_or(whole.clone(), |kept| kept.apply(&whole));
        assert_eq!(extjson::relaxed_document(&projected).to_string(), expected.to_string(), "{projection}");
    }
    check(json!({"b": 1, "a": true}), json!({"_id": 1, "a": {"x": 1, "y": 2}, "b": 2}));
    check(json!({"a.x": 1, "_id": 0}), json!({"a": {"x": 1}}));
    check(json!({"a": {"x": 1}, "_id": 0}), json!({"a": {"x": 1}}));
    check(json!({"list.x": 1}), json!({"_id": 1, "list": [{"x": 1}, [{"x": 4}]]}));
    check(json!({"b.x": 1}), json!({"_id": 1}));
    check(json!({"list.x": 0, "a": 0}), json!({"_id": 1, "list": [{"y": 2}, 3, [{}]], "b": 2}));
    check(json!({"_id": 1}), json!({"_id": 1}));
    check(json!({"_id": 0, "list": 0, "a": 0}), json!({"b": 2}));
    check(json!({"_id": 1, "list": 0, "a": 0}), json!({"_id": 1, "b": 2}));
}

#[test]
fn projections_that_cannot_be_are_refused() {
    #[track_caller]
    fn refused(projection: Value, word: &str) {
        assert_eq!(Projection::parse(&projection).unwrap_err().kind.word(), word, "{projection}");
    }
    refused(json!({"a": 1, "b": 0}), "invalid");
    refused(json!({"a": 1, "a.b": 1}), "invalid");
    refused(json!({"a.b": 1, "a": 1}), "invalid");
    refused(json!({"a": {"$slice": 1}}), "unsupported");
    refused(json!({"a.$": 1}), "unsupported");
    refused(json!({"a": "$b"}), "unsupported");
}

#[test]
fn values_sort_as_in_mongodb() {
    let ascending = [
        json!([]),
        json!(null),
        json!({"$numberDouble": "NaN"}),
        json!(-1.5),
        json!(0),
        json!([7, 1]),
        json!(2.5),
        json!(i64::MAX),
        json!("A"),
        json!("a"),
        json!("aa"),
        json!({}),
        json!({"a": 1}),
        json!({"b": 0}),
        json!({"a": "x"}),
        json!([[1]]),
        json!([[1, 2]]),
        json!({"$binary": {"base64": "AA==", "subType": "00"}}),
        json!({"$binary": {"base64": "AAA=", "subType": "00"}}),
        json!({"$oid": "000000000000000000000001"}),
        json!(false),
        json!(true),
        json!({"$date": "1960-01-01T00:00:00Z"}),
        json!({"$date": "2026-01-01T00:00:00Z"}),
        json!({"$timestamp": {"t": 1, "i": 1}}),
    ];
    let sort = Sort::parse(&json!({"v": 1})).unwrap().unwrap();
    let keys: Vec<_> = ascending.iter().map(|value| sort.key(&document(&json!({"v": value}))).unwrap()).collect();
    for (at, pair) in keys.windows(2).enumerate() {
        assert!(sort.compare(&pair[0], &pair[1]).is_lt(), "{} before {}", ascending[at], ascending[at + 1]);
    }
    let down = Sort::parse(&json!({"v": -1})).unwrap().unwrap();
    let key = |value: Value| down.key(&document(&json!({"v": value}))).unwrap();
    assert!(down.compare(&key(json!([1, 9])), &key(json!(5))).is_lt(), "downwards, an array goes by its greatest");
    assert!(down.compare(&key(json!([])), &key(json!(null))).is_gt());
    let both = Sort::parse(&json!({"a": 1, "b": 1})).unwrap().unwrap();
    assert_eq!(both.key(&document(&json!({"a": [1], "b": [1]}))).unwrap_err().kind.word(), "unsupported");
    for (sort, word) in
        [(json!({"a": 2}), "invalid"), (json!([]), "invalid"), (json!({"a": {"$meta": "textScore"}}), "unsupported")]
    {
        assert_eq!(Sort::parse(&sort).unwrap_err().kind.word(), word, "{sort}");
    }
}

#[test]
fn pipelines_compute() {
    #[track_caller]
    fn check(stages: Value, expected: Value) {
        let documents = json!([
            {"_id": 1, "k": "a", "n": 1, "s": {"t": 1}, "l": [{"x": 1}, {"x": 2}, {}]},
            {"_id": 2, "k": "b", "n": 2.5, "s": {"t": 2}},
            {"_id": 3, "k": "a", "n": {"$numberLong": "4"}},
            {"_id": 4, "n": "x"},
            {"_id": 5, "k": null},
        ]);
        let (filter, mut pipeline) = Pipeline::parse(stages.as_array().unwrap(), 1 << 20).unwrap();
        for json in documents.as_array().unwrap() {
            let document = document(json);
            if filter.matches(&document) && !pipeline.push(document).unwrap() {
                break;
            }
        }
        let found: Value = pipeline.finish().unwrap().iter().map(extjson::relaxed_document).collect();
        assert_eq!(found.to_string(), expected.to_string(), "{stages}");
    }
    check(json!([{"$match": {"k": "a"}}, {"$project": {"n": 1, "_id": 0}}]), json!([{"n": 1}, {"n": 4}]));
    check(json!([{"$limit": 2}, {"$group": {"_id": null, "n": {"$sum": "$n"}}}]), json!([{"_id": null, "n": 3.5}]));
    check(json!([{"$skip": 1}, {"$limit": 1}, {"$project": {"k": 1}}]), json!([{"_id": 2, "k": "b"}]));
    check(
        json!([{"$group": {"_id": "$k", "n": {"$sum": "$n"}, "c": {"$count": {}}, "a": {"$avg": "$n"}, "f": {"$first": "$n"}, "l": {"$last": "$s.t"}}}]),
        json!([
            {"_id": "a", "n": 5, "c": 2, "a": 2.5, "f": 1, "l": null},
            {"_id": "b", "n": 2.5, "c": 1, "a": 2.5, "f": 2.5, "l": 2},
            {"_id": null, "n": 0, "c": 2, "a": null, "f": "x", "l": null},
        ]),
    );
    check(
        json!([{"$group": {"_id": {"k": "$k", "c": 1}, "all": {"$push": "$n"}, "min": {"$min": "$n"}, "max": {"$max": "$n"}}}, {"$limit": 1}]),
        json!([{"_id": {"k": "a", "c": 1}, "all": [1, 4], "min": 1, "max": 4}]),
    );
    check(json!([{"$group": {"_id": 1, "k": {"$addToSet": "$k"}}}]), json!([{"_id": 1, "k": [null, "a", "b"]}]));
    check(json!([{"$project": {"_id": 0, "x": "$l.x", "t": "$s.t"}}, {"$limit": 1}]), json!([{"x": [1, 2], "t": 1}]));
    check(
        json!([{"$match": {"_id": 2}}, {"$project": {"k": 1, "name": "$k", "one": {"$literal": 1}}}]),
        json!([{"_id": 2, "k": "b", "name": "b", "one": 1}]),
    );
    check(json!([{"$match": {"_id": 2}}, {"$project": {"name": "$k"}}]), json!([{"_id": 2, "name": "b"}]));
    check(json!([{"$sort": {"k": -1, "_id": -1}}, {"$limit": 2}, {"$count": "c"}]), json!([{"c": 2}]));
    check(
        json!([{"$group": {"_id": null, "all": {"$first": "$$ROOT"}}}, {"$project": {"_id": 0, "all._id": 1}}]),
        json!([{"all": {"_id": 1}}]),
    );
}

#[test]
fn pipelines_that_cannot_be_are_refused() {
    #[track_caller]
    fn refused(stages: Value, word: &str, named: &str) {
        let error = Pipeline::parse(stages.as_array().unwrap(), 1 << 20).unwrap_err();
        assert_eq!(error.kind.word(), word, "{stages}: {error}");
        assert!(error.message.contains(named), "{stages}: {error}");
    }
    refused(json!([{"$lookup": {}}]), "unsupported", "$lookup");
    refused(json!([{"$group": {"_id": null, "a": {"$stdDevPop": "$n"}}}]), "unsupported", "$stdDevPop");
    refused(json!([{"$group": {"_id": {"$year": "$at"}}}]), "unsupported", "$year");
    refused(json!([{"$group": {"_id": "$$NOW"}}]), "unsupported", "$$NOW");
    refused(json!([{"$project": {"a": {"$add": ["$a", 1]}}}]), "unsupported", "$add");
    refused(json!([{"$group": {"a": {"$sum": 1}}}]), "invalid", "_id");
    refused(json!([{"$limit": 0}]), "invalid", "$limit");
    refused(json!([{"$sort": {}}]), "invalid", "$sort");
    refused(json!([{"$count": "a.b"}]), "invalid", "$count");
    refused(json!([{"$match": {}, "$limit": 1}]), "invalid", "stage");
    refused(json!([{"$project": {"a": 0, "b": "$a"}}]), "invalid", "$project");
}

#[test]
fn extended_json_is_read_in_both_forms_and_kept_whole() {
    #[track_caller]
    fn check(json: Value, relaxed: Value) {
        let kept = document(&json!({"v": json}));
        assert_eq!(extjson::relaxed(kept.get("v").unwrap()), relaxed, "{json}");
        let stored: Value = serde_json::from_str(&extjson::stored(&kept)).unwrap();
        assert!(document(&stored).is_identical(&kept), "{json} is kept as {stored}");
    }
    check(json!({"$numberInt": "5"}), json!(5));
    check(json!({"$numberLong": "5"}), json!(5));
    check(json!({"$numberLong": "-9223372036854775808"}), json!(i64::MIN));
    check(json!({"$numberDouble": "5.0"}), json!(5.0));
    check(json!({"$numberDouble": "-Infinity"}), json!({"$numberDouble": "-Infinity"}));
    check(json!({"$date": {"$numberLong": "-1"}}), json!({"$date": {"$numberLong": "-1"}}));
    check(json!({"$date": "2026-02-28T10:00:00.120+01:00"}), json!({"$date": "2026-02-28T09:00:00.12Z"}));
    check(
        json!({"$uuid": "c8edabc3-f738-4ca3-b68d-ab92a91478a3"}),
        json!({"$binary": {"base64": "yO2rw/c4TKO2jauSqRR4ow==", "subType": "04"}}),
    );
    check(json!({"$timestamp": {"t": 1, "i": 2}}), json!({"$timestamp": {"t": 1, "i": 2}}));
    check(json!([{"a": {"$numberLong": "1"}}]), json!([{"a": 1}]));

    for (json, word) in [
        (json!({"$numberInt": "2147483648"}), "invalid"),
        (json!({"$numberDouble": "inf"}), "invalid"),
        (json!({"$oid": "zz"}), "invalid"),
        (json!({"$date": "yesterday"}), "invalid"),
        (json!({"$uuid": "c8edabc3"}), "invalid"),
        (json!({"$oid": "000000000000000000000001", "b": 1}), "invalid"),
        (json!({"$minKey": 1}), "unsupported"),
        (json!({"$regularExpression": {"pattern": "a", "options": ""}}), "unsupported"),
        (json!({"$x": 1}), "invalid"),
    ] {
        assert_eq!(extjson::value(&json).unwrap_err().kind.word(), word, "{json}");
    }
}
