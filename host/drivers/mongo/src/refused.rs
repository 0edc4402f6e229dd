//! What is never sent: code that the database would run, and pipelines that reach past their own collection.
//!
//! A grant names one collection, and a pipeline is checked here word by word, because the server would not. So stages are
//! allowed by a list: one that a later server brings is refused until it has been looked at.

use sandpost_ports::PortError;
use serde_json::Value;

/// Operators that run code in the database.
const CODE: [&str; 3] = ["$where", "$function", "$accumulator"];

/// Stages that write, or that read another collection.
const FOREIGN: [&str; 5] = ["$out", "$merge", "$lookup", "$graphLookup", "$unionWith"];

/// Stages that read their own collection, or only what the stage before gives.
const STAGES: [&str; 23] = [
    "$addFields",
    "$bucket",
    "$bucketAuto",
    "$count",
    "$densify",
    "$facet",
    "$fill",
    "$geoNear",
    "$group",
    "$limit",
    "$match",
    "$project",
    "$redact",
    "$replaceRoot",
    "$replaceWith",
    "$sample",
    "$set",
    "$setWindowFields",
    "$skip",
    "$sort",
    "$sortByCount",
    "$unset",
    "$unwind",
];

/// Most stages of one pipeline; MongoDB's limit.
const STAGES_MAX: usize = 1_000;

/// Refuses code anywhere in a filter, an update, a projection or a stage.
pub(crate) fn check_code(json: &Value) -> Result<(), PortError> {
    match find_key(json, &CODE) {
        Some(name) => Err(PortError::unsupported(format!("the operator `{name}`: no code runs in the database"))),
        None => Ok(()),
    }
}

/// Refuses a pipeline that is none, or that does more than read its own collection.
pub(crate) fn check_pipeline(stages: &[Value]) -> Result<(), PortError> {
    if stages.len() > STAGES_MAX {
        return Err(PortError::invalid(format!("a pipeline has more than {STAGES_MAX} stages")));
    }
    for stage in stages {
        check_code(stage)?;
        if let Some(name) = find_key(stage, &FOREIGN) {
            return Err(PortError::unsupported(format!(
                "the stage `{name}`: a pipeline reads its own collection and writes to none"
            )));
        }
        let Some((name, argument)) =
            stage.as_object().filter(|stage| stage.len() == 1).and_then(|stage| stage.iter().next())
        else {
            return Err(PortError::invalid("a stage of a pipeline is an object with one operator"));
        };
        if !STAGES.contains(&name.as_str()) {
            return Err(PortError::unsupported(format!("the stage `{name}`")));
        }
        if name == "$facet" {
            let Some(facets) = argument.as_object() else { return Err(PortError::invalid("$facet takes an object")) };
            for facet in facets.values() {
                let Some(stages) = facet.as_array() else {
                    return Err(PortError::invalid("each field of $facet takes a pipeline"));
                };
                check_pipeline(stages)?;
            }
        }
    }
    Ok(())
}

/// The first of these keys that occurs anywhere in the value.
fn find_key<'a>(value: &Value, keys: &[&'a str]) -> Option<&'a str> {
    match value {
        Value::Object(map) => map.iter().find_map(|(name, inner)| {
            keys.iter().find(|key| **key == name.as_str()).copied().or_else(|| find_key(inner, keys))
        }),
        Value::Array(list) => list.iter().find_map(|inner| find_key(inner, keys)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "a case of a test reads better as a value")]
mod tests {
    use super::*;
    use sandpost_ports::ErrorKind;
    use serde_json::json;

    #[track_caller]
    fn refused(stages: Value, name: &str) {
        let error = check_pipeline(stages.as_array().unwrap()).unwrap_err();
        assert!(error.kind == ErrorKind::Unsupported && error.message.contains(name), "{stages}: {error}");
    }

    #[test]
    fn code_is_refused_wherever_it_is() {
        for filter in [
            json!({"$where": "sleep(1e9)"}),
            json!({"$or": [{"a": 1}, {"$and": [{"$where": {"$code": "1"}}]}]}),
            json!({"$expr": {"$function": {"body": "", "args": [], "lang": "js"}}}),
        ] {
            assert_eq!(check_code(&filter).unwrap_err().kind, ErrorKind::Unsupported, "{filter}");
        }
        refused(json!([{"$group": {"_id": 1, "a": {"$accumulator": {}}}}]), "`$accumulator`");
        assert!(check_code(&json!({"a": "$where", "where": 1})).is_ok());
    }

    #[test]
    fn a_pipeline_stays_in_its_collection() {
        refused(json!([{"$match": {}}, {"$out": "other"}]), "`$out`");
        refused(json!([{"$merge": {"into": "other"}}]), "`$merge`");
        refused(json!([{"$lookup": {"from": "other", "as": "x", "pipeline": []}}]), "`$lookup`");
        refused(json!([{"$unionWith": "other"}]), "`$unionWith`");
        refused(json!([{"$facet": {"x": [{"$graphLookup": {"from": "other"}}]}}]), "`$graphLookup`");
        refused(json!([{"$facet": {"x": [{"$collStats": {}}]}}]), "`$collStats`");
        for stage in ["$currentOp", "$indexStats", "$changeStream", "$listSessions", "$search", "$shazam"] {
            refused(json!([{stage: {}}]), stage);
        }
        check_pipeline(json!([{"$match": {"a": 1}}, {"$facet": {"x": [{"$count": "n"}]}}]).as_array().unwrap())
            .unwrap();
        for stages in [json!([1]), json!([{}]), json!([{"$match": {}, "$sort": {}}]), json!([{"$facet": {"x": 1}}])] {
            assert_eq!(check_pipeline(stages.as_array().unwrap()).unwrap_err().kind, ErrorKind::Invalid, "{stages}");
        }
    }
}
