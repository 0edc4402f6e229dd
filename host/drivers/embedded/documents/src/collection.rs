//! What each operation of the port does to a collection, step by step, on the connection's thread.
//!
//! Not here: the thread (`driver`), the tables (`store`), the language.

use crate::aggregate::{Budget, Pipeline};
use crate::extjson;
use crate::filter::Filter;
use crate::projection::Projection;
use crate::sort::Sort;
use crate::store::{Source, Store};
use crate::update::{self, Update};
use crate::value::{Bson, Document};
use sandpost_ports::PortError;
use sandpost_ports::documents::{FindOptions, Index, ReturnDocument, UpdateOptions, Updated};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest name of a collection, in bytes. MongoDB allows 255 together with the database's name.
const NAME_MAX_BYTES: usize = 120;

/// Refuses a name that MongoDB would refuse.
pub(crate) fn check_name(collection: &str) -> Result<(), PortError> {
    let is_wrong = collection.is_empty()
        || collection.len() > NAME_MAX_BYTES
        || collection.contains(['$', '\0'])
        || collection.starts_with("system.")
        || collection.starts_with('.')
        || collection.ends_with('.');
    if is_wrong { Err(PortError::invalid("this cannot be the name of a collection")) } else { Ok(()) }
}

pub(crate) fn insert(store: &mut Store, collection: &str, documents: &[Value]) -> Result<Vec<Value>, PortError> {
    if documents.is_empty() {
        return Err(PortError::invalid("there is no document to insert"));
    }
    let mut ids = Vec::with_capacity(documents.len());
    let mut failure = None;
    store.write(|store| {
        for json in documents {
            let inserted = extjson::document(json)
                .and_then(|document| with_id(document, None))
                .and_then(|document| store.step(|store| store.insert(collection, &document)).map(|()| document));
            match inserted {
                Ok(document) => ids.push(document.get("_id").map_or(Value::Null, extjson::relaxed)),
                Err(error) if store.is_within() => {
                    failure = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    match failure {
        None => Ok(ids),
        Some(mut error) => {
            if documents.len() > 1 {
                error.message =
                    format!("{} ({} of {} were inserted before)", error.message, ids.len(), documents.len());
            }
            Err(error)
        }
    }
}

/// A result that is read in batches.
pub(crate) enum Cursor {
    Found(Found),
    Computed(VecDeque<Document>),
}

/// The rest of a find.
pub(crate) struct Found {
    collection: String,
    filter: Filter,
    projection: Option<Projection>,
    source: Source,
    skip: u64,
    limit: u64,
}

pub(crate) fn find(
    store: &mut Store,
    collection: &str,
    filter: &Value,
    options: &FindOptions,
) -> Result<Cursor, PortError> {
    let filter = Filter::parse(filter)?;
    let projection = options.projection.as_ref().map(Projection::parse).transpose()?.flatten();
    let sort = options.sort.as_ref().map(Sort::parse).transpose()?.flatten();
    // MongoDB takes a limit of zero for none.
    let limit = options.limit.filter(|limit| *limit > 0).map_or(u64::MAX, u64::from);
    let mut source = store.source(collection, &filter)?;
    let mut skip = options.skip;
    if let Some(sort) = sort {
        source = sorted(store, collection, source, &filter, &sort, skip, limit)?;
        skip = 0;
    }
    Ok(Cursor::Found(Found { collection: collection.to_owned(), filter, projection, source, skip, limit }))
}

/// The matching documents in order, as a list of where they are.
fn sorted(
    store: &Store,
    collection: &str,
    mut source: Source,
    filter: &Filter,
    sort: &Sort,
    skip: u64,
    limit: u64,
) -> Result<Source, PortError> {
    let wanted = usize::try_from(skip.saturating_add(limit)).unwrap_or(usize::MAX);
    let mut budget = Budget::new(store.memory_max_bytes);
    let (mut found, mut scanned) = (Vec::new(), 0);
    let order = |found: &mut Vec<(Vec<Option<Bson>>, i64)>| {
        found.sort_by(|(a, x), (b, y)| sort.compare(a, b).then(x.cmp(y)));
        found.truncate(wanted);
    };
    while let Some((seq, document)) = store.next(collection, &mut source, filter, &mut scanned)? {
        let key = sort.key(&document)?;
        budget.take(key.iter().flatten().map(Bson::size_bytes).sum::<usize>() + 64)?;
        found.push((key, seq));
        // Of a few wanted, only about twice as many are kept.
        if found.len() > wanted.saturating_mul(2).saturating_add(1_024) {
            order(&mut found);
            budget = Budget::new(store.memory_max_bytes);
            budget.take(found.iter().flat_map(|(key, _)| key.iter().flatten()).map(Bson::size_bytes).sum::<usize>())?;
        }
    }
    order(&mut found);
    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
    Ok(Source::listed(found.into_iter().skip(skip).map(|(_, seq)| seq).collect()))
}

pub(crate) fn aggregate(store: &mut Store, collection: &str, stages: &[Value]) -> Result<Cursor, PortError> {
    let (filter, mut pipeline) = Pipeline::parse(stages, store.memory_max_bytes)?;
    let mut source = store.source(collection, &filter)?;
    let mut scanned = 0;
    while let Some((_, document)) = store.next(collection, &mut source, &filter, &mut scanned)? {
        if !pipeline.push(document)? {
            break;
        }
    }
    Ok(Cursor::Computed(pipeline.finish()?.into()))
}

/// The next batch of a cursor.
pub(crate) fn next(
    store: &mut Store,
    cursor: &mut Cursor,
    documents_max: usize,
    batch_max_bytes: usize,
) -> Result<Vec<Value>, PortError> {
    if documents_max == 0 {
        return Err(PortError::invalid("a batch of no documents"));
    }
    let (mut batch, mut size_bytes) = (Vec::new(), 0usize);
    let mut scanned = 0;
    // Whether the document found its place in the batch.
    let mut add = |batch: &mut Vec<Value>, document: &Document| {
        let json = extjson::relaxed_document(document);
        size_bytes = size_bytes.saturating_add(json.to_string().len());
        let fits = batch.is_empty() || size_bytes <= batch_max_bytes;
        if fits {
            batch.push(json);
        }
        fits
    };
    match cursor {
        Cursor::Computed(documents) => {
            while batch.len() < documents_max {
                let Some(document) = documents.front() else { break };
                if !add(&mut batch, document) {
                    break;
                }
                documents.pop_front();
            }
        }
        Cursor::Found(found) => {
            while batch.len() < documents_max && found.limit > 0 {
                let next = store.next(&found.collection, &mut found.source, &found.filter, &mut scanned)?;
                let Some((seq, document)) = next else { break };
                if found.skip > 0 {
                    found.skip -= 1;
                    continue;
                }
                let projected = found.projection.as_ref().map(|projection| projection.apply(&document));
                if !add(&mut batch, projected.as_ref().unwrap_or(&document)) {
                    found.source.unread(seq);
                    break;
                }
                found.limit -= 1;
            }
            found.source.forget();
        }
    }
    Ok(batch)
}

pub(crate) fn update(
    store: &mut Store,
    collection: &str,
    filter: &Value,
    update: &Value,
    options: UpdateOptions,
) -> Result<Updated, PortError> {
    if options.many && options.upsert {
        return Err(PortError::unsupported("an upsert together with many"));
    }
    let (filter, update) = (Filter::parse(filter)?, Update::parse(update)?);
    let now_ms = now_ms();
    store.write(|store| {
        let mut updated = Updated::default();
        let mut source = store.source(collection, &filter)?;
        let mut scanned = 0;
        while let Some((seq, before)) = store.next(collection, &mut source, &filter, &mut scanned)? {
            updated.matched += 1;
            let after = update.apply(&before, false, now_ms)?;
            if !after.is_identical(&before) {
                store.replace(collection, seq, &after)?;
                updated.modified += 1;
            }
            if !options.many {
                break;
            }
        }
        if updated.matched == 0 && options.upsert {
            let document = upserted(&filter, &update, now_ms)?;
            store.insert(collection, &document)?;
            updated.upserted_id = document.get("_id").map(extjson::relaxed);
        }
        Ok(updated)
    })
}

pub(crate) fn find_one_and_update(
    store: &mut Store,
    collection: &str,
    filter: &Value,
    update: &Value,
    upsert: bool,
    returned: ReturnDocument,
) -> Result<Option<Value>, PortError> {
    let (filter, update) = (Filter::parse(filter)?, Update::parse(update)?);
    let now_ms = now_ms();
    store.write(|store| {
        let mut source = store.source(collection, &filter)?;
        let (before, after) = match store.next(collection, &mut source, &filter, &mut 0)? {
            Some((seq, before)) => {
                let after = update.apply(&before, false, now_ms)?;
                if !after.is_identical(&before) {
                    store.replace(collection, seq, &after)?;
                }
                (Some(before), Some(after))
            }
            None if upsert => {
                let document = upserted(&filter, &update, now_ms)?;
                store.insert(collection, &document)?;
                (None, Some(document))
            }
            None => (None, None),
        };
        let chosen = match returned {
            ReturnDocument::Before => before,
            ReturnDocument::After => after,
        };
        Ok(chosen.as_ref().map(extjson::relaxed_document))
    })
}

pub(crate) fn replace_one(
    store: &mut Store,
    collection: &str,
    filter: &Value,
    replacement: &Value,
    upsert: bool,
) -> Result<Updated, PortError> {
    let (filter, replacement) = (Filter::parse(filter)?, extjson::document(replacement)?);
    store.write(|store| {
        let mut source = store.source(collection, &filter)?;
        if let Some((seq, before)) = store.next(collection, &mut source, &filter, &mut 0)? {
            let after = with_id(replacement, before.get("_id"))?;
            let is_modified = !after.is_identical(&before);
            if is_modified {
                store.replace(collection, seq, &after)?;
            }
            return Ok(Updated { matched: 1, modified: is_modified.into(), upserted_id: None });
        }
        if !upsert {
            return Ok(Updated::default());
        }
        let given = update::from_filter(&filter)?;
        let document = with_id(replacement, given.get("_id"))?;
        store.insert(collection, &document)?;
        Ok(Updated { matched: 0, modified: 0, upserted_id: document.get("_id").map(extjson::relaxed) })
    })
}

pub(crate) fn delete(store: &mut Store, collection: &str, filter: &Value, many: bool) -> Result<u64, PortError> {
    let filter = Filter::parse(filter)?;
    store.write(|store| {
        if many && filter.is_everything() {
            return store.clear(collection);
        }
        let mut source = store.source(collection, &filter)?;
        let (mut deleted, mut scanned) = (0, 0);
        while let Some((seq, _)) = store.next(collection, &mut source, &filter, &mut scanned)? {
            store.delete(collection, seq)?;
            deleted += 1;
            if !many {
                break;
            }
        }
        Ok(deleted)
    })
}

pub(crate) fn count(store: &mut Store, collection: &str, filter: &Value) -> Result<u64, PortError> {
    let filter = Filter::parse(filter)?;
    if filter.is_everything() {
        return store.count(collection);
    }
    let mut source = store.source(collection, &filter)?;
    let (mut count, mut scanned) = (0, 0);
    while store.next(collection, &mut source, &filter, &mut scanned)?.is_some() {
        count += 1;
    }
    Ok(count)
}

pub(crate) fn ensure_index(store: &mut Store, collection: &str, index: &Index) -> Result<(), PortError> {
    if index.keys.is_empty() || index.keys.len() > crate::sort::KEYS_MAX {
        return Err(PortError::invalid(format!("an index has 1 to {} keys", crate::sort::KEYS_MAX)));
    }
    if index.keys.iter().any(|(_, direction)| !matches!(direction, 1 | -1)) {
        return Err(PortError::invalid("the direction of a key is 1 or -1"));
    }
    let is_repeated = |at: usize| index.keys[..at].iter().any(|(path, _)| *path == index.keys[at].0);
    if (0..index.keys.len()).any(is_repeated) {
        return Err(PortError::invalid("a key stands twice in an index"));
    }
    // The `_id` has one already.
    if index.keys.len() == 1 && index.keys[0].0 == "_id" { Ok(()) } else { store.ensure_index(collection, index) }
}

fn upserted(filter: &Filter, update: &Update, now_ms: i64) -> Result<Document, PortError> {
    let given = update::from_filter(filter)?;
    if given.get("_id").is_some() && !filter.given().iter().any(|(path, _)| path.is_id()) {
        return Err(PortError::unsupported("an upsert by a part of `_id`"));
    }
    with_id(update.apply(&given, true, now_ms)?, None)
}

/// The document with its `_id` first: its own, which must be the expected one where there is one, or the expected, or a new
/// one. Checks its size too.
fn with_id(mut document: Document, expected: Option<&Bson>) -> Result<Document, PortError> {
    let id = match (document.remove("_id"), expected) {
        (Some(own), Some(expected)) if own != *expected => {
            return Err(PortError::invalid("the replacement would change the immutable field `_id`"));
        }
        (_, Some(expected)) => expected.clone(),
        (Some(Bson::Array(_)), None) => return Err(PortError::invalid("an `_id` cannot be an array")),
        (Some(own), None) => own,
        (None, None) => Bson::ObjectId(new_object_id()),
    };
    document.0.insert(0, ("_id".to_owned(), id));
    update::check_result(&document)?;
    Ok(document)
}

/// Seconds, then random bytes. MongoDB's drivers have a counter in the last three; random ones are as unique here.
fn new_object_id() -> [u8; 12] {
    let seconds = u32::try_from(now_ms() / 1_000).unwrap_or(u32::MAX);
    let mut id = [0; 12];
    let (time, rest) = id.split_at_mut(4);
    time.copy_from_slice(&seconds.to_be_bytes());
    rest.copy_from_slice(&rand::random::<[u8; 8]>());
    id
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
