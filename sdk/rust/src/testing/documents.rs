//! A document store in small: equality and the common operators, dotted paths, upserts, sort, skip and limit.
//!
//! What it does not know is unsupported, by name; aggregation is not here at all.

use super::Service;
use super::state::{self, State, call};
use crate::documents::{FindOptions, ReturnDocument, Updated};
use crate::error::HostError;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, HostError>;

pub(crate) struct Collection {
    key: (String, String),
}

/// One batch, and then none.
pub(crate) struct Cursor(RefCell<Vec<String>>);

impl Cursor {
    // The host's cursor can fail; callers are the same for both.
    #[expect(clippy::unnecessary_wraps, reason = "the same signature as the real cursor's")]
    pub(crate) fn next(&self) -> Result<Vec<String>> {
        Ok(self.0.take())
    }
}

impl Collection {
    pub(crate) fn open(label: &str, name: &str) -> Result<Self> {
        call(Service::Documents, |_| Ok(Self { key: (label.to_owned(), name.to_owned()) }))
    }

    pub(crate) fn insert_one(&self, document: &str) -> Result<String> {
        let document = object(document)?;
        self.work(|all, _| insert(all, document).map(|id| plain(&id)))
    }

    pub(crate) fn insert_many(&self, documents: &[String]) -> Result<Vec<String>> {
        documents.iter().map(|document| self.insert_one(document)).collect()
    }

    pub(crate) fn find_one(&self, filter: &str, mut options: FindOptions) -> Result<Option<String>> {
        options.limit = Some(1);
        Ok(self.search(filter, &options)?.into_iter().next())
    }

    #[expect(clippy::needless_pass_by_value, reason = "the same signature as the real collection's")]
    pub(crate) fn find(&self, filter: &str, options: FindOptions) -> Result<Cursor> {
        Ok(Cursor(RefCell::new(self.search(filter, &options)?)))
    }

    pub(crate) fn update_one(&self, filter: &str, update: &str, upsert: bool) -> Result<Updated> {
        self.change(filter, update, upsert, false).map(|(updated, _, _)| updated)
    }

    pub(crate) fn update_many(&self, filter: &str, update: &str) -> Result<Updated> {
        self.change(filter, update, false, true).map(|(updated, _, _)| updated)
    }

    pub(crate) fn replace_one(&self, filter: &str, replacement: &str, upsert: bool) -> Result<Updated> {
        let (filter, mut replacement) = (object(filter)?, object(replacement)?);
        self.work(|all, _| {
            let found = position(all, &filter)?;
            if let Some(index) = found {
                if let Some(id) = all[index].get("_id") {
                    replacement.insert("_id".to_owned(), id.clone());
                }
                let new = Value::Object(replacement);
                let modified = u64::from(all[index] != new);
                all[index] = new;
                return Ok(Updated { matched: 1, modified, upserted_id: None });
            }
            if !upsert {
                return Ok(Updated::default());
            }
            if let Some(id) = filter.get("_id") {
                replacement.entry("_id").or_insert_with(|| id.clone());
            }
            let id = insert(all, replacement)?;
            Ok(Updated { matched: 0, modified: 0, upserted_id: Some(id) })
        })
    }

    pub(crate) fn find_one_and_update(
        &self,
        filter: &str,
        update: &str,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<String>> {
        let (_, before, after) = self.change(filter, update, upsert, false)?;
        Ok(match returned {
            ReturnDocument::Before => before,
            ReturnDocument::After => after,
        }
        .map(|document| document.to_string()))
    }

    pub(crate) fn delete_one(&self, filter: &str) -> Result<u64> {
        let filter = object(filter)?;
        self.work(|all, _| {
            let found = position(all, &filter)?;
            Ok(found.map(|index| all.remove(index)).map_or(0, |_| 1))
        })
    }

    pub(crate) fn delete_many(&self, filter: &str) -> Result<u64> {
        let mut count = 0;
        while self.delete_one(filter)? == 1 {
            count += 1;
        }
        Ok(count)
    }

    pub(crate) fn count(&self, filter: &str) -> Result<u64> {
        Ok(self.search(filter, &FindOptions::default())?.len() as u64)
    }

    #[expect(clippy::unused_self, reason = "the same signature as the real collection's")]
    pub(crate) fn aggregate(&self, _pipeline: &[String]) -> Result<Cursor> {
        Err(HostError::Unsupported("aggregate, in `testing::Host`".to_owned()))
    }

    fn work<T>(&self, work: impl FnOnce(&mut Vec<Value>, crate::time::Timestamp) -> Result<T>) -> Result<T> {
        call(Service::Documents, |state: &mut State| {
            let now = state.now;
            work(state.documents.entry(self.key.clone()).or_default(), now)
        })
    }

    fn search(&self, filter: &str, options: &FindOptions) -> Result<Vec<String>> {
        let filter = object(filter)?;
        let sort = options.sort.as_deref().map(object).transpose()?.unwrap_or_default();
        let projection = options.projection.as_deref().map(object).transpose()?;
        self.work(|all, _| {
            let mut found = Vec::new();
            for document in all.iter() {
                if matches(document, &filter)? {
                    found.push(document.clone());
                }
            }
            for (path, direction) in sort.iter().rev() {
                let descending = direction.as_i64() == Some(-1);
                found.sort_by(|left, right| {
                    let order = compare(at(left, path), at(right, path)).unwrap_or(Ordering::Equal);
                    if descending { order.reverse() } else { order }
                });
            }
            let skip = usize::try_from(options.skip).unwrap_or(usize::MAX);
            let limit = options.limit.map_or(usize::MAX, |limit| limit as usize);
            let project = |document: Value| projection.as_ref().map_or(document.clone(), |only| pick(&document, only));
            Ok(found.into_iter().skip(skip).take(limit).map(|document| project(document).to_string()).collect())
        })
    }

    /// What an update did, and the first document before and after.
    fn change(
        &self,
        filter: &str,
        update: &str,
        upsert: bool,
        many: bool,
    ) -> Result<(Updated, Option<Value>, Option<Value>)> {
        let (filter, update) = (object(filter)?, object(update)?);
        self.work(|all, now| {
            let mut done = Updated::default();
            let mut seen = (None, None);
            for document in all.iter_mut() {
                if !matches(document, &filter)? {
                    continue;
                }
                let before = document.clone();
                apply(document, &update, false, now)?;
                done.matched += 1;
                done.modified += u64::from(*document != before);
                if seen.0.is_none() {
                    seen = (Some(before), Some(document.clone()));
                }
                if !many {
                    break;
                }
            }
            if done.matched > 0 || !upsert {
                return Ok((done, seen.0, seen.1));
            }
            let equal = filter.iter().filter(|(path, value)| !path.starts_with('$') && operators(value).is_none());
            let mut new = Value::Object(Map::new());
            for (path, value) in equal {
                set(&mut new, path, value.clone());
            }
            apply(&mut new, &update, true, now)?;
            let Value::Object(new) = new else { return Ok((done, None, None)) };
            let id = insert(all, new)?;
            done.upserted_id = Some(id);
            Ok((done, None, all.last().cloned()))
        })
    }
}

fn object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| HostError::Invalid(format!("not a JSON object: {error}")))
}

fn insert(all: &mut Vec<Value>, mut document: Map<String, Value>) -> Result<Value> {
    let id = document.entry("_id").or_insert_with(|| Value::String(state::unique("doc"))).clone();
    if all.iter().any(|other| other.get("_id") == Some(&id)) {
        return Err(HostError::Conflict(format!("there is a document with `_id` {id}")));
    }
    all.push(Value::Object(document));
    Ok(id)
}

fn position(all: &[Value], filter: &Map<String, Value>) -> Result<Option<usize>> {
    for (index, document) in all.iter().enumerate() {
        if matches(document, filter)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// As the host writes an `_id`: JSON text.
fn plain(id: &Value) -> String {
    id.to_string()
}

fn at<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(document, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

/// The operators of a condition, where it has some: `{"$gt": 1}`, but not `{"$date": …}`.
fn operators(condition: &Value) -> Option<&Map<String, Value>> {
    let object = condition.as_object()?;
    let first = object.keys().next()?;
    (first.starts_with('$') && first != "$date" && first != "$oid").then_some(object)
}

fn matches(document: &Value, filter: &Map<String, Value>) -> Result<bool> {
    for (path, condition) in filter {
        let holds = match path.as_str() {
            "$and" => every(document, condition)?.iter().all(|holds| *holds),
            "$or" => every(document, condition)?.iter().any(|holds| *holds),
            other if other.starts_with('$') => return Err(unknown(other)),
            _ => holds(at(document, path), condition)?,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn every(document: &Value, filters: &Value) -> Result<Vec<bool>> {
    let invalid = || HostError::Invalid("`$and` and `$or` take a list of filters".to_owned());
    let filters = filters.as_array().ok_or_else(invalid)?;
    filters.iter().map(|filter| matches(document, filter.as_object().ok_or_else(invalid)?)).collect()
}

fn holds(value: Option<&Value>, condition: &Value) -> Result<bool> {
    let Some(operators) = operators(condition) else { return Ok(equals(value, condition)) };
    for (operator, operand) in operators {
        let order = compare(value, Some(operand)).filter(|_| value.is_some());
        let any = || operand.as_array().is_some_and(|list| list.iter().any(|item| equals(value, item)));
        let holds = match operator.as_str() {
            "$eq" => equals(value, operand),
            "$ne" => !equals(value, operand),
            "$gt" => order == Some(Ordering::Greater),
            "$gte" => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            "$lt" => order == Some(Ordering::Less),
            "$lte" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            "$in" => any(),
            "$nin" => !any(),
            "$exists" => value.is_some() == operand.as_bool().unwrap_or(true),
            other => return Err(unknown(other)),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Equal, or a list with one that is. A field that is missing equals null.
fn equals(value: Option<&Value>, expected: &Value) -> bool {
    match value {
        None => expected.is_null(),
        Some(Value::Array(items)) => items.contains(expected) || Value::Array(items.clone()) == *expected,
        Some(value) => compare(Some(value), Some(expected)).map_or(value == expected, Ordering::is_eq),
    }
}

fn compare(left: Option<&Value>, right: Option<&Value>) -> Option<Ordering> {
    match (left, right) {
        (None, None) => Some(Ordering::Equal),
        (None, Some(_)) => Some(Ordering::Less),
        (Some(_), None) => Some(Ordering::Greater),
        (Some(Value::Number(left)), Some(Value::Number(right))) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Some(Value::String(left)), Some(Value::String(right))) => Some(left.cmp(right)),
        _ => None,
    }
}

fn apply(document: &mut Value, update: &Map<String, Value>, inserted: bool, now: crate::time::Timestamp) -> Result<()> {
    for (operator, fields) in update {
        let invalid = || HostError::Invalid(format!("`{operator}` takes an object of fields"));
        for (path, operand) in fields.as_object().ok_or_else(invalid)? {
            match operator.as_str() {
                "$setOnInsert" if !inserted => {}
                "$set" | "$setOnInsert" => set(document, path, operand.clone()),
                "$currentDate" => set(document, path, serde_json::json!({"$date": now})),
                "$unset" => unset(document, path),
                "$inc" => {
                    let sum = match (at(document, path).and_then(Value::as_i64), operand.as_i64()) {
                        (old, Some(by)) => Value::from(old.unwrap_or_default() + by),
                        _ => return Err(HostError::Unsupported("`$inc` by a fraction, in `testing::Host`".to_owned())),
                    };
                    set(document, path, sum);
                }
                "$push" => {
                    let mut list = at(document, path).and_then(Value::as_array).cloned().unwrap_or_default();
                    list.push(operand.clone());
                    set(document, path, Value::Array(list));
                }
                other => return Err(unknown(other)),
            }
        }
    }
    Ok(())
}

fn set(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for part in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

fn unset(document: &mut Value, path: &str) {
    let (parent, last) = path.rsplit_once('.').map_or((None, path), |(parent, last)| (Some(parent), last));
    let pointer = parent.map_or(String::new(), |parent| format!("/{}", parent.replace('.', "/")));
    if let Some(Value::Object(fields)) = document.pointer_mut(&pointer) {
        fields.remove(last);
    }
}

/// The fields that are asked for, and `_id` unless it is refused.
fn pick(document: &Value, only: &Map<String, Value>) -> Value {
    let wanted = |value: &Value| !matches!(value.as_f64(), Some(0.0)) && value != &Value::Bool(false);
    let mut picked = Value::Object(Map::new());
    if only.get("_id").is_none_or(wanted) {
        picked["_id"] = document["_id"].clone();
    }
    for (path, _) in only.iter().filter(|(path, value)| *path != "_id" && wanted(value)) {
        if let Some(value) = at(document, path) {
            set(&mut picked, path, value.clone());
        }
    }
    picked
}

fn unknown(operator: &str) -> HostError {
    HostError::Unsupported(format!("`{operator}`, in `testing::Host`"))
}
