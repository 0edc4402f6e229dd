//! `documents`: collections that a plugin was granted, by label and name. Texts are JSON; the port has values.
//!
//! Invariants
//! - The grant is checked when a collection is opened; a read-only one refuses what writes, pipelines with `$out` or
//!   `$merge` too, and no stage reaches into another collection.
//! - Every text is bounded in bytes and depth before it is parsed.
//! - A result is bounded: one `find` by its limit, one batch by documents and bytes.

mod json;

use crate::bindings::Error;
use crate::bindings::documents::{FindOptions, Host, HostCollection, HostCursor, ReturnDocument, Updated};
use crate::call::{Call, CallError, Scope, len, sum};
use crate::grants::{COLLECTION_RULE, is_collection};
use crate::sql::no_such_connection;
use json::parse;
use sandpost_message::ConnectionLabel;
use sandpost_ports::documents as port;
use sandpost_ports::sql::Access;
use serde_json::Value;
use std::sync::Arc;
use wasmtime::component::Resource;

const DOCUMENTS: &str = "documents";

type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// An opened collection, in a call's table.
#[derive(Clone)]
pub struct Collection {
    label: ConnectionLabel,
    name: String,
    documents: Arc<dyn port::Documents>,
    access: Access,
}

/// A result that is being read, in a call's table.
pub struct Cursor {
    label: ConnectionLabel,
    cursor: Box<dyn port::DocumentCursor>,
}

/// Stages that write, or that read other collections than the opened one. A grant names collections, so a pipeline must
/// not reach past it; sub-pipelines count, wherever they are.
const FOREIGN_STAGES: [&str; 5] = ["$out", "$merge", "$lookup", "$graphLookup", "$unionWith"];

/// Operators that run code on the server.
const CODE_OPERATORS: [&str; 3] = ["$where", "$function", "$accumulator"];

impl Host for Call {}

impl HostCollection for Call {
    async fn open(&mut self, label: String, name: String) -> Answer<Resource<Collection>> {
        let entered = self.enter(DOCUMENTS, "collection.open", label.len().saturating_add(name.len()))?;
        let answer = self.open_collection(&label, name);
        self.leave(entered, answer, |_| 0)
    }

    async fn insert_one(&mut self, this: Resource<Collection>, document: String) -> Answer<String> {
        let entered = self.enter(DOCUMENTS, "collection.insert-one", document.len())?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection
            .insert(&self.scope, vec![document])
            .await
            .and_then(|ids| ids.into_iter().next().ok_or_else(|| CallError::invalid("the database returned no id")));
        self.leave(entered, answer, String::len)
    }

    async fn insert_many(&mut self, this: Resource<Collection>, documents: Vec<String>) -> Answer<Vec<String>> {
        let entered = self.enter(DOCUMENTS, "collection.insert-many", sum(documents.iter().map(String::len)))?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.insert(&self.scope, documents).await;
        self.leave(entered, answer, |ids| sum(ids.iter().map(String::len)))
    }

    async fn find_one(
        &mut self,
        this: Resource<Collection>,
        filter: String,
        options: FindOptions,
    ) -> Answer<Option<String>> {
        let entered = self.enter(DOCUMENTS, "collection.find-one", find_size(&filter, &options))?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.find_one(&self.scope, &filter, options).await;
        self.leave(entered, answer, |found| len(found.as_ref()))
    }

    async fn find(
        &mut self,
        this: Resource<Collection>,
        filter: String,
        options: FindOptions,
    ) -> Answer<Resource<Cursor>> {
        let entered = self.enter(DOCUMENTS, "collection.find", find_size(&filter, &options))?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.find(&self.scope, &filter, options).await;
        let answer = answer.and_then(|cursor| self.keep(cursor));
        self.leave(entered, answer, |_| 0)
    }

    async fn update_one(
        &mut self,
        this: Resource<Collection>,
        filter: String,
        update: String,
        upsert: bool,
    ) -> Answer<Updated> {
        let entered = self.enter(DOCUMENTS, "collection.update-one", filter.len().saturating_add(update.len()))?;
        let collection = self.table.get(&this)?.clone();
        let options = port::UpdateOptions { many: false, upsert };
        let answer = collection.update(&self.scope, &filter, &update, options).await;
        self.leave(entered, answer, updated_size)
    }

    async fn update_many(&mut self, this: Resource<Collection>, filter: String, update: String) -> Answer<Updated> {
        let entered = self.enter(DOCUMENTS, "collection.update-many", filter.len().saturating_add(update.len()))?;
        let collection = self.table.get(&this)?.clone();
        let options = port::UpdateOptions { many: true, upsert: false };
        let answer = collection.update(&self.scope, &filter, &update, options).await;
        self.leave(entered, answer, updated_size)
    }

    async fn replace_one(
        &mut self,
        this: Resource<Collection>,
        filter: String,
        replacement: String,
        upsert: bool,
    ) -> Answer<Updated> {
        let entered =
            self.enter(DOCUMENTS, "collection.replace-one", filter.len().saturating_add(replacement.len()))?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.replace_one(&self.scope, &filter, &replacement, upsert).await;
        self.leave(entered, answer, updated_size)
    }

    async fn find_one_and_update(
        &mut self,
        this: Resource<Collection>,
        filter: String,
        update: String,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Answer<Option<String>> {
        let bytes = filter.len().saturating_add(update.len());
        let entered = self.enter(DOCUMENTS, "collection.find-one-and-update", bytes)?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.find_one_and_update(&self.scope, &filter, &update, upsert, returned).await;
        self.leave(entered, answer, |found| len(found.as_ref()))
    }

    async fn delete_one(&mut self, this: Resource<Collection>, filter: String) -> Answer<u64> {
        let entered = self.enter(DOCUMENTS, "collection.delete-one", filter.len())?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.delete(&self.scope, &filter, false).await;
        self.leave(entered, answer, |_| 0)
    }

    async fn delete_many(&mut self, this: Resource<Collection>, filter: String) -> Answer<u64> {
        let entered = self.enter(DOCUMENTS, "collection.delete-many", filter.len())?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.delete(&self.scope, &filter, true).await;
        self.leave(entered, answer, |_| 0)
    }

    async fn count(&mut self, this: Resource<Collection>, filter: String) -> Answer<u64> {
        let entered = self.enter(DOCUMENTS, "collection.count", filter.len())?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.count(&self.scope, &filter).await;
        self.leave(entered, answer, |_| 0)
    }

    async fn aggregate(&mut self, this: Resource<Collection>, pipeline: Vec<String>) -> Answer<Resource<Cursor>> {
        let entered = self.enter(DOCUMENTS, "collection.aggregate", sum(pipeline.iter().map(String::len)))?;
        let collection = self.table.get(&this)?.clone();
        let answer = collection.aggregate(&self.scope, &pipeline).await;
        let answer = answer.and_then(|cursor| self.keep(cursor));
        self.leave(entered, answer, |_| 0)
    }

    async fn drop(&mut self, this: Resource<Collection>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl HostCursor for Call {
    async fn next(&mut self, this: Resource<Cursor>) -> Answer<Vec<String>> {
        let entered = self.enter(DOCUMENTS, "cursor.next", 0)?;
        let scope = self.scope.clone();
        let limits = scope.limits();
        let Cursor { label, cursor } = self.table.get_mut(&this)?;
        let answer = scope.on_io(cursor.next(limits.documents_batch_max, limits.result_max_bytes)).await;
        let answer = answer.map(texts).map_err(|error| error.on(label).into());
        self.leave(entered, answer, |batch| sum(batch.iter().map(String::len)))
    }

    async fn drop(&mut self, this: Resource<Cursor>) -> wasmtime::Result<()> {
        let cursor = self.table.delete(this)?;
        // A server's cursor may have to reach the driver's runtime to be closed.
        let _inside = self.scope.ports().io.enter();
        drop(cursor);
        Ok(())
    }
}

impl Call {
    fn open_collection(&mut self, label: &str, name: String) -> Result<Resource<Collection>, CallError> {
        let label: ConnectionLabel =
            label.parse().map_err(|error: sandpost_message::NameError| CallError::invalid(error.to_string()))?;
        if !is_collection(&name) {
            return Err(CallError::invalid(format!("a collection is {COLLECTION_RULE}")));
        }
        let access = self.scope.grants().may_open_collection(&label, &name).map_err(CallError::Denied)?;
        let documents = self.scope.ports().documents.get(&label).cloned().ok_or_else(|| no_such_connection(&label))?;
        self.keep(Collection { label, name, documents, access })
    }
}

impl Collection {
    async fn insert(&self, scope: &Scope, documents: Vec<String>) -> Result<Vec<String>, CallError> {
        self.writable()?;
        let (count, limit) = (documents.len(), scope.limits().documents_batch_max);
        if count > limit {
            return Err(CallError::exceeded(format!("{count} documents in one call; at most {limit}")));
        }
        let mut objects = Vec::with_capacity(count);
        for text in &documents {
            objects.push(scope.in_turns(|| object(scope, "document", text)).await?);
        }
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.ask(scope, self.documents.insert(&self.name, objects)).await?;
        Ok(texts(ids))
    }

    async fn find(&self, scope: &Scope, filter: &str, options: FindOptions) -> Result<Cursor, CallError> {
        let filter = object(scope, "filter", filter)?;
        let most = scope.limits().find_max;
        let limit = options.limit.unwrap_or(most);
        if limit > most {
            return Err(CallError::exceeded(format!("a limit of {limit} documents; at most {most}")));
        }
        let options = port::FindOptions {
            projection: options.projection.map(|text| object(scope, "projection", &text)).transpose()?,
            sort: options.sort.map(|text| object(scope, "sort", &text)).transpose()?,
            skip: options.skip,
            // MongoDB takes 0 for no limit.
            limit: Some(if limit == 0 { most } else { limit }),
        };
        let cursor = self.ask(scope, self.documents.find(&self.name, filter, options)).await?;
        Ok(Cursor { label: self.label.clone(), cursor })
    }

    async fn find_one(&self, scope: &Scope, filter: &str, options: FindOptions) -> Result<Option<String>, CallError> {
        let mut cursor = self.find(scope, filter, FindOptions { limit: Some(1), ..options }).await?;
        let found = self.ask(scope, cursor.cursor.next(1, scope.limits().result_max_bytes)).await?;
        let _inside = scope.ports().io.enter();
        drop(cursor);
        Ok(texts(found).into_iter().next())
    }

    async fn update(
        &self,
        scope: &Scope,
        filter: &str,
        update: &str,
        options: port::UpdateOptions,
    ) -> Result<Updated, CallError> {
        self.writable()?;
        let (filter, update) = (object(scope, "filter", filter)?, update_of(scope, update)?);
        Ok(from_updated(self.ask(scope, self.documents.update(&self.name, filter, update, options)).await?))
    }

    async fn replace_one(
        &self,
        scope: &Scope,
        filter: &str,
        replacement: &str,
        upsert: bool,
    ) -> Result<Updated, CallError> {
        self.writable()?;
        let (filter, replacement) = (object(scope, "filter", filter)?, object(scope, "replacement", replacement)?);
        Ok(from_updated(self.ask(scope, self.documents.replace_one(&self.name, filter, replacement, upsert)).await?))
    }

    async fn find_one_and_update(
        &self,
        scope: &Scope,
        filter: &str,
        update: &str,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<String>, CallError> {
        self.writable()?;
        let (filter, update) = (object(scope, "filter", filter)?, update_of(scope, update)?);
        let returned = match returned {
            ReturnDocument::Before => port::ReturnDocument::Before,
            ReturnDocument::After => port::ReturnDocument::After,
        };
        let work = self.documents.find_one_and_update(&self.name, filter, update, upsert, returned);
        Ok(self.ask(scope, work).await?.map(|found| found.to_string()))
    }

    async fn delete(&self, scope: &Scope, filter: &str, many: bool) -> Result<u64, CallError> {
        self.writable()?;
        let filter = object(scope, "filter", filter)?;
        self.ask(scope, self.documents.delete(&self.name, filter, many)).await
    }

    async fn count(&self, scope: &Scope, filter: &str) -> Result<u64, CallError> {
        let filter = object(scope, "filter", filter)?;
        self.ask(scope, self.documents.count(&self.name, filter)).await
    }

    async fn aggregate(&self, scope: &Scope, pipeline: &[String]) -> Result<Cursor, CallError> {
        let (count, limit) = (pipeline.len(), scope.limits().documents_batch_max);
        if count > limit {
            return Err(CallError::exceeded(format!("{count} stages in one pipeline; at most {limit}")));
        }
        let mut stages = Vec::with_capacity(count + 1);
        for text in pipeline {
            let stage = object(scope, "pipeline stage", text)?;
            if let Some(name) = find_key(&stage, &FOREIGN_STAGES) {
                return Err(CallError::Denied(format!(
                    "documents, stage `{name}`: a pipeline reads its own collection and writes to none"
                )));
            }
            stages.push(stage);
        }
        // What one pipeline returns is bounded as what one `find` returns.
        stages.push(serde_json::json!({ "$limit": scope.limits().find_max }));
        let cursor = self.ask(scope, self.documents.aggregate(&self.name, stages)).await?;
        Ok(Cursor { label: self.label.clone(), cursor })
    }

    async fn ask<T>(
        &self,
        scope: &Scope,
        work: impl Future<Output = Result<T, sandpost_ports::PortError>>,
    ) -> Result<T, CallError> {
        scope.on_io(work).await.map_err(|error| error.on(&self.label).into())
    }

    fn writable(&self) -> Result<(), CallError> {
        let Self { label, name, access, .. } = self;
        match access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => {
                Err(CallError::Denied(format!("documents on connection `{label}`, collection `{name}`, to write")))
            }
        }
    }
}

/// A text as a JSON object, within the limits.
fn object(scope: &Scope, what: &str, text: &str) -> Result<Value, CallError> {
    let value = json(scope, what, text)?;
    if !value.is_object() {
        return Err(CallError::invalid(format!("a {what} is a JSON object")));
    }
    Ok(value)
}

/// An update: operators, or a list of stages.
fn update_of(scope: &Scope, text: &str) -> Result<Value, CallError> {
    let value = json(scope, "update", text)?;
    if !value.is_object() && !value.is_array() {
        return Err(CallError::invalid("an update is a JSON object, or an array of stages"));
    }
    Ok(value)
}

fn json(scope: &Scope, what: &str, text: &str) -> Result<Value, CallError> {
    let limits = scope.limits();
    let (size, limit) = (text.len(), limits.document_max_bytes);
    if size > limit {
        return Err(CallError::exceeded(format!("a {what} of {size} bytes; at most {limit}")));
    }
    let value = parse(text, limits.document_depth_max)
        .map_err(|error| CallError::invalid(format!("a {what} is not accepted: {error}")))?;
    if let Some(name) = find_key(&value, &CODE_OPERATORS) {
        return Err(CallError::Denied(format!("documents, operator `{name}`: no code runs in the database")));
    }
    Ok(value)
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

fn texts(values: Vec<Value>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

fn from_updated(updated: port::Updated) -> Updated {
    Updated {
        matched: updated.matched,
        modified: updated.modified,
        upserted_id: updated.upserted_id.map(|id| id.to_string()),
    }
}

fn find_size(filter: &str, options: &FindOptions) -> usize {
    sum([filter.len(), len(options.projection.as_ref()), len(options.sort.as_ref())])
}

fn updated_size(updated: &Updated) -> usize {
    len(updated.upserted_id.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_stage_is_found_wherever_it_is() {
        let hidden = serde_json::json!({ "$facet": { "x": [{ "$match": {} }, { "$lookup": { "from": "y" } }] } });
        assert_eq!(find_key(&hidden, &FOREIGN_STAGES), Some("$lookup"));
        assert_eq!(find_key(&serde_json::json!({ "$match": { "a": "$out" } }), &FOREIGN_STAGES), None);
    }
}
