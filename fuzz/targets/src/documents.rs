//! Documents: filters, updates and pipelines of any shape never panic, and calls agree with each other.
//!
//! The input is a JSON object: `documents` (a list, or one), `filter`, `update`, `replacement`, `pipeline`, `options`
//! (`projection`, `sort`, `skip`, `limit`), `upsert`. What is missing is empty. Over the embedded driver, in memory.

use crate::block_on;
use sandpost_embedded_documents::{Config, SqliteDocuments, open};
use sandpost_ports::documents::{DocumentCursor, Documents, FindOptions, ReturnDocument, UpdateOptions};
use sandpost_ports::{ErrorKind, PortError};
use serde_json::{Value, json};

/// The collection.
const NAME: &str = "things";
/// Documents of one input: the checks read all of them several times.
const DOCUMENTS_MAX: usize = 16;
/// Operators after which a second run of the same update finds nothing to change.
const IDEMPOTENT: [&str; 5] = ["$set", "$unset", "$min", "$max", "$addToSet"];

/// What an input says.
struct Case {
    documents: Vec<Value>,
    filter: Value,
    update: Value,
    replacement: Value,
    pipeline: Vec<Value>,
    options: FindOptions,
    upsert: bool,
}

/// The bytes as a case.
pub fn documents(data: &[u8]) {
    let Ok(Value::Object(mut input)) = serde_json::from_slice::<Value>(data) else { return };
    let mut take = |key: &str| input.shift_remove(key);
    let options = take("options").unwrap_or_default();
    let number = |key: &str| options.get(key).and_then(Value::as_u64);
    let case = Case {
        documents: match take("documents") {
            Some(Value::Array(list)) => list.into_iter().take(DOCUMENTS_MAX).collect(),
            other => other.into_iter().collect(),
        },
        filter: take("filter").unwrap_or_else(|| json!({})),
        update: take("update").unwrap_or_else(|| json!({})),
        replacement: take("replacement").unwrap_or_else(|| json!({})),
        pipeline: match take("pipeline") {
            Some(Value::Array(list)) => list,
            other => other.into_iter().collect(),
        },
        options: FindOptions {
            projection: options.get("projection").cloned(),
            sort: options.get("sort").cloned(),
            skip: number("skip").unwrap_or(0),
            limit: number("limit").and_then(|limit| u32::try_from(limit).ok()),
        },
        upsert: take("upsert") == Some(Value::Bool(true)),
    };
    block_on(async {
        let config = Config { scan_max_documents: 1_000, memory_max_bytes: 4 << 20, ..Config::default() };
        let database = open(&config).unwrap();
        run(&database, &case).await;
    });
}

async fn run(database: &SqliteDocuments, case: &Case) {
    for document in &case.documents {
        // One at a time: one that is refused does not keep the others out.
        fine(database.insert(NAME, vec![document.clone()]).await);
    }
    let all = everything(database).await;
    for document in &all {
        found_by_id(database, document).await;
    }
    reads(database, case, &all).await;
    updates(database, case, &all).await;
    replaces(database, case).await;

    let total = count(database, &json!({})).await.unwrap();
    if let Some(matching) = count(database, &case.filter).await {
        let deleted = fine(database.delete(NAME, case.filter.clone(), true).await);
        assert_eq!(deleted, Some(matching), "deleting and counting mean the same by {}", case.filter);
        assert_eq!(count(database, &json!({})).await, Some(total - matching));
        assert_eq!(count(database, &case.filter).await, Some(0), "by {}", case.filter);
    }
}

async fn reads(database: &SqliteDocuments, case: &Case, all: &[Value]) {
    let filter = &case.filter;
    if let Some(matching) = count(database, filter).await {
        let found = find(database, filter, FindOptions::default()).await.expect("what can be counted can be found");
        assert_eq!(found.len() as u64, matching, "finding and counting mean the same by {filter}");
        if let Some(others) = count(database, &json!({ "$nor": [filter] })).await {
            assert_eq!(others + matching, all.len() as u64, "a document matches or it does not: {filter}");
        }
        if let Some(both) = count(database, &json!({ "$and": [filter, filter] })).await {
            assert_eq!(both, matching, "by {filter} twice");
        }
        let counted = vec![json!({ "$match": filter }), json!({ "$count": "n" })];
        if let Some(counted) = aggregate(database, counted).await {
            let n = counted.first().map_or(0, |document| document["n"].as_u64().unwrap());
            assert_eq!(n, matching, "a pipeline matches as a filter does: {filter}");
        }
        if let Some(some) = find(database, filter, case.options.clone()).await {
            let left = matching.saturating_sub(case.options.skip);
            // As MongoDB has it, a limit of 0 is none.
            let limit = case.options.limit.filter(|limit| *limit > 0).map_or(left, u64::from);
            assert_eq!(some.len() as u64, left.min(limit), "{:?} by {filter}", case.options);
        }
    }
    aggregate(database, case.pipeline.clone()).await;
}

async fn updates(database: &SqliteDocuments, case: &Case, all: &[Value]) {
    let Case { filter, update, upsert, .. } = case;
    let returned = if *upsert { ReturnDocument::After } else { ReturnDocument::Before };
    // Of one document that is there: what is returned is what is found afterwards.
    if let Some(first) = all.first() {
        let one = json!({ "_id": first["_id"] });
        let changed = database.find_one_and_update(NAME, one, update.clone(), false, ReturnDocument::After).await;
        if let Some(Some(changed)) = fine(changed) {
            assert_eq!(changed["_id"], first["_id"], "an update keeps the id: {update}");
            found_by_id(database, &changed).await;
        } else {
            found_by_id(database, first).await;
        }
    }
    fine(database.find_one_and_update(NAME, filter.clone(), update.clone(), false, returned).await);

    let before = everything(database).await;
    let matching = count(database, filter).await;
    let options = UpdateOptions { many: true, upsert: false };
    let updated = fine(database.update(NAME, filter.clone(), update.clone(), options).await);
    let after = everything(database).await;
    assert_eq!(before.len(), after.len(), "an update makes and removes none: {update}");
    let different = before.iter().zip(&after).filter(|(before, after)| before != after).count() as u64;
    match updated {
        None => assert_eq!(different, 0, "an update that fails changes nothing: {update} by {filter}"),
        Some(updated) => {
            assert_eq!(Some(updated.matched), matching, "updating and counting mean the same by {filter}");
            assert_eq!(updated.modified, different, "{update} by {filter}");
            assert_eq!(updated.upserted_id, None);
        }
    }
    again(database, update).await;

    let options = UpdateOptions { many: false, upsert: *upsert };
    let total = count(database, &json!({})).await.unwrap();
    let matching = count(database, filter).await;
    if let Some(updated) = fine(database.update(NAME, filter.clone(), update.clone(), options).await) {
        assert_eq!(Some(updated.matched), matching.map(|matching| matching.min(1)), "{update} by {filter}");
        let made = u64::from(updated.upserted_id.is_some());
        assert_eq!(made == 1, *upsert && matching == Some(0), "{update} by {filter}");
        assert_eq!(count(database, &json!({})).await, Some(total + made));
        if let Some(id) = updated.upserted_id {
            assert_eq!(count(database, &json!({ "_id": id })).await, Some(1), "what was inserted is there: {id}");
        }
    }
}

/// The same update twice over everything: the second finds nothing to do where its operators say so.
async fn again(database: &SqliteDocuments, update: &Value) {
    let options = UpdateOptions { many: true, upsert: false };
    let repeatable = update.as_object().is_some_and(|operators| {
        !operators.is_empty() && operators.keys().all(|operator| IDEMPOTENT.contains(&operator.as_str()))
    });
    if !repeatable || fine(database.update(NAME, json!({}), update.clone(), options).await).is_none() {
        return;
    }
    if let Some(second) = fine(database.update(NAME, json!({}), update.clone(), options).await) {
        assert_eq!(second.modified, 0, "done before: {update}");
    }
}

async fn replaces(database: &SqliteDocuments, case: &Case) {
    let Some(first) = everything(database).await.into_iter().next() else { return };
    let by_id = json!({ "_id": first["_id"] });
    let replaced = fine(database.replace_one(NAME, by_id, case.replacement.clone(), case.upsert).await);
    if let Some(replaced) = replaced {
        assert_eq!(replaced.matched, 1, "{}", first["_id"]);
        assert_eq!(count(database, &json!({ "_id": first["_id"] })).await, Some(1), "the id stays: {}", first["_id"]);
    } else {
        found_by_id(database, &first).await;
    }
}

/// The document, and no other, is found by its id.
async fn found_by_id(database: &SqliteDocuments, document: &Value) {
    let by_id = json!({ "_id": document["_id"] });
    let found = find(database, &by_id, FindOptions::default()).await.expect("an id that was taken can be asked for");
    assert_eq!(found, std::slice::from_ref(document), "by {by_id}");
}

async fn everything(database: &SqliteDocuments) -> Vec<Value> {
    find(database, &json!({}), FindOptions::default()).await.expect("everything can be read")
}

async fn count(database: &SqliteDocuments, filter: &Value) -> Option<u64> {
    fine(database.count(NAME, filter.clone()).await)
}

async fn find(database: &SqliteDocuments, filter: &Value, options: FindOptions) -> Option<Vec<Value>> {
    let cursor = fine(database.find(NAME, filter.clone(), options).await)?;
    drain(cursor).await
}

async fn aggregate(database: &SqliteDocuments, pipeline: Vec<Value>) -> Option<Vec<Value>> {
    let cursor = fine(database.aggregate(NAME, pipeline).await)?;
    drain(cursor).await
}

async fn drain(mut cursor: Box<dyn DocumentCursor>) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    loop {
        let batch = fine(cursor.next(3, 64 * 1024).await)?;
        if batch.is_empty() {
            return Some(all);
        }
        assert!(batch.len() <= 3, "a batch keeps to its limit");
        all.extend(batch);
    }
}

/// The answer, or none where the driver refused. A thread that died, or a fault of the driver's own, is a finding.
fn fine<T>(answer: Result<T, PortError>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            let expected = [ErrorKind::Invalid, ErrorKind::Conflict, ErrorKind::Exceeded, ErrorKind::Unsupported]
                .contains(&error.kind);
            assert!(expected, "{error:?}");
            None
        }
    }
}
