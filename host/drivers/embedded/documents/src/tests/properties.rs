//! By properties: what holds for every document, filter and update.

use super::cases::{bson, document};
use crate::aggregate::Pipeline;
use crate::extjson;
use crate::filter::Filter;
use crate::path::{self, Path};
use crate::projection::Projection;
use crate::sort::Sort;
use crate::update::Update;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;

/// Few names, so that paths meet fields.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("0"), Just("1")].prop_map(str::to_owned)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4_i64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()).prop_map(Value::from),
        (-3..4_i32).prop_map(|number| json!(f64::from(number) / 2.0)),
        (-3..4_i64).prop_map(|number| json!({"$numberLong": number.to_string()})),
        Just(json!({"$numberDouble": "NaN"})),
        "[a-c]{0,2}".prop_map(Value::from),
        (0..3_i64).prop_map(|at| json!({"$date": {"$numberLong": at.to_string()}})),
        (0..3_u8).prop_map(|last| json!({"$oid": format!("00000000000000000000000{last}")})),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn fields() -> impl Strategy<Value = Value> {
    prop::collection::vec((name(), value()), 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

fn dotted() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("."))
}

/// Anything that might be an operator or a value of Extended JSON, well-formed or not.
fn arbitrary() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        name(),
        dotted(),
        "[$a-z.]{0,4}",
        prop::sample::select(vec![
            "$eq",
            "$ne",
            "$gt",
            "$in",
            "$nin",
            "$exists",
            "$type",
            "$regex",
            "$options",
            "$all",
            "$size",
            "$elemMatch",
            "$not",
            "$and",
            "$or",
            "$nor",
            "$set",
            "$unset",
            "$inc",
            "$mul",
            "$min",
            "$rename",
            "$push",
            "$each",
            "$slice",
            "$position",
            "$pull",
            "$addToSet",
            "$currentDate",
            "$setOnInsert",
            "$match",
            "$sort",
            "$group",
            "$count",
            "$project",
            "$sum",
            "$oid",
            "$date",
            "$binary",
            "$uuid",
            "$timestamp",
            "$numberLong",
            "$regularExpression",
            "$literal",
            "_id",
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![scalar(), "[$a-c.(){}\\\\\\[\\]*+^]{0,6}".prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 3, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Equality as it is written down in words, to compare the real one with.
fn equals_naively(found: &Value, expected: &Value) -> bool {
    let whole = bson(found) == bson(expected);
    whole || found.as_array().is_some_and(|values| values.iter().any(|value| bson(value) == bson(expected)))
}

proptest! {
    #[test]
    fn reading_anything_never_panics(json in arbitrary(), stored in fields()) {
        let stored = document(&stored);
        if let Ok(filter) = Filter::parse(&json) {
            filter.matches(&stored);
            crate::update::from_filter(&filter).ok();
        }
        if let Ok(update) = Update::parse(&json) {
            update.apply(&stored, true, 0).ok();
        }
        if let Ok(Some(projection)) = Projection::parse(&json) {
            projection.apply(&stored);
        }
        if let Ok(Some(sort)) = Sort::parse(&json) {
            sort.key(&stored).ok();
        }
        let stages = json.as_array().cloned().unwrap_or_else(|| vec![json]);
        if let Ok((_, mut pipeline)) = Pipeline::parse(&stages, 1 << 20) {
            pipeline.push(stored).ok();
            pipeline.finish().ok();
        }
    }

    #[test]
    fn equality_on_a_field_is_the_naive_one(stored in fields(), expected in value()) {
        let filter = Filter::parse(&json!({"a": {"$eq": expected}})).unwrap();
        let naive = match stored.get("a") {
            Some(found) => equals_naively(found, &expected),
            None => expected.is_null(),
        };
        prop_assert_eq!(filter.matches(&document(&stored)), naive);
        let opposite = Filter::parse(&json!({"a": {"$ne": expected}})).unwrap();
        prop_assert_eq!(opposite.matches(&document(&stored)), !naive);
    }

    #[test]
    fn what_an_index_sees_is_what_an_equality_matches(stored in fields(), at in dotted(), expected in value()) {
        let (stored, path) = (document(&stored), Path::parse(&at).unwrap());
        let filter = Filter::parse(&json!({at: {"$eq": expected}})).unwrap();
        let seen = path::seen(&stored, &path);
        prop_assert_eq!(filter.matches(&stored), seen.contains(&bson(&expected)));
        for value in seen {
            let filter = Filter::parse(&json!({path.text(): {"$eq": extjson::relaxed(&value)}})).unwrap();
            prop_assert!(filter.matches(&stored));
        }
    }

    #[test]
    fn keys_are_the_same_exactly_for_equal_values(a in value(), b in value()) {
        let key = |value: &Value| {
            let mut key = Vec::new();
            bson(value).encode_key(&mut key);
            key
        };
        prop_assert_eq!(key(&a) == key(&b), bson(&a) == bson(&b));
        prop_assert!(key(&a) == key(&b) || !key(&a).starts_with(&key(&b)), "a key says where it ends");
    }

    #[test]
    fn the_order_is_total(a in value(), b in value(), c in value()) {
        let (a, b, c) = (bson(&a), bson(&b), bson(&c));
        prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        prop_assert_eq!(a.cmp(&a), Ordering::Equal);
        if a <= b && b <= c {
            prop_assert!(a <= c);
        }
    }

    #[test]
    fn what_was_set_is_found(stored in fields(), at in dotted(), value in value()) {
        let update = Update::parse(&json!({"$set": {&at: value}})).unwrap();
        if let Ok(after) = update.apply(&document(&stored), false, 0) {
            let filter = Filter::parse(&json!({&at: {"$eq": value}})).unwrap();
            prop_assert!(filter.matches(&after));
            let again = update.apply(&after, false, 0).unwrap();
            prop_assert!(again.is_identical(&after), "setting it again changes nothing");
            let unset = Update::parse(&json!({"$unset": {&at: ""}})).unwrap().apply(&after, false, 0).unwrap();
            prop_assert!(unset.size_bytes() <= after.size_bytes());
        }
    }

    #[test]
    fn a_document_is_kept_whole(stored in fields()) {
        let kept = document(&stored);
        let read = document(&serde_json::from_str(&extjson::stored(&kept)).unwrap());
        prop_assert!(read.is_identical(&kept));
    }

    #[test]
    fn keeping_a_field_and_leaving_it_out_are_the_two_halves(stored in fields(), at in name()) {
        let stored = document(&stored);
        let project = |choice: i32| Projection::parse(&json!({&at: choice})).unwrap().unwrap().apply(&stored);
        let (kept, left) = (project(1), project(0));
        prop_assert_eq!(kept.0.len() + left.0.len(), stored.0.len());
        prop_assert_eq!(kept.get(&at).is_some(), stored.get(&at).is_some());
        prop_assert!(left.get(&at).is_none());
    }
}
