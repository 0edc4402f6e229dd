//! The port itself: each function of `documents` as one call of the client.
//!
//! What a call asks is read and checked before a connection is taken: a wrong argument costs the server nothing.

use crate::config::{Config, OpenError, Settings};
use crate::connection::Connection;
use crate::cursor::MongoCursor;
use crate::errors::Work;
use crate::{extjson, refused};
use mongodb::IndexModel;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument as Returned, UpdateModifications};
use mongodb::results::UpdateResult;
use sandpost_ports::PortError;
use sandpost_ports::documents::{
    DocumentCursor, Documents, FindOptions, Index, ReturnDocument, UpdateOptions, Updated,
};
use sandpost_ports::health::{Health, PoolUse};
use serde_json::Value;
use std::sync::Arc;

/// Longest name of a collection, in bytes. MongoDB allows 255 together with the database's name.
const NAME_MAX_BYTES: usize = 120;

/// Most fields of an index; MongoDB's limit.
const INDEX_KEYS_MAX: usize = 32;

/// A MongoDB database.
pub struct MongoDocuments {
    connection: Arc<Connection>,
}

/// Takes a configuration that can work; connects to nothing.
///
/// The first call makes the client, on the runtime that it runs on, and the client stays there. So the port is used from
/// one runtime, and a cursor is dropped inside it.
pub fn open(config: &Config) -> Result<Arc<MongoDocuments>, OpenError> {
    let connection = Arc::new(Connection::new(Settings::read(config)?));
    Ok(Arc::new(MongoDocuments { connection }))
}

#[async_trait::async_trait]
impl Documents for MongoDocuments {
    async fn insert(&self, collection: &str, documents: Vec<Value>) -> Result<Vec<Value>, PortError> {
        check_name(collection)?;
        if documents.is_empty() {
            return Err(PortError::invalid("there is no document to insert"));
        }
        let documents = documents.iter().map(with_id).collect::<Result<Vec<_>, _>>()?;
        let ids = documents.iter().map(|document| document.get("_id").map_or(Value::Null, extjson::relaxed)).collect();
        let insert = |collection: mongodb::Collection<Document>| async move {
            collection.insert_many(&documents).ordered(true).await
        };
        self.connection.on_collection(collection, Work::Write, insert).await?;
        Ok(ids)
    }

    async fn find(
        &self,
        collection: &str,
        filter: Value,
        options: FindOptions,
    ) -> Result<Box<dyn DocumentCursor>, PortError> {
        check_name(collection)?;
        let filter = query("filter", &filter)?;
        let projection = options.projection.as_ref().map(|json| query("projection", json)).transpose()?;
        let sort = options.sort.as_ref().map(sort).transpose()?;
        let settings = &self.connection.settings;
        let options = mongodb::options::FindOptions::builder()
            .projection(projection)
            .sort(sort)
            .skip((options.skip > 0).then_some(options.skip))
            // MongoDB takes 0 for no limit; here 0 are none.
            .limit(options.limit.map(|limit| i64::from(limit.max(1))))
            .batch_size(settings.batch_max_documents)
            .max_time(settings.max_time)
            .build();
        let find = |collection: mongodb::Collection<Document>| async move {
            collection.find(filter).with_options(options).await
        };
        let cursor = self.connection.on_collection(collection, Work::Read, find).await?;
        Ok(self.cursor(cursor))
    }

    async fn update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        options: UpdateOptions,
    ) -> Result<Updated, PortError> {
        check_name(collection)?;
        let filter = query("filter", &filter)?;
        let update = modifications(&update)?;
        if options.many && options.upsert {
            return Err(PortError::invalid("an update of many does not insert"));
        }
        let call = |collection: mongodb::Collection<Document>| async move {
            if options.many {
                collection.update_many(filter, update).await
            } else {
                collection.update_one(filter, update).upsert(options.upsert).await
            }
        };
        Ok(updated(&self.connection.on_collection(collection, Work::Write, call).await?))
    }

    async fn replace_one(
        &self,
        collection: &str,
        filter: Value,
        replacement: Value,
        upsert: bool,
    ) -> Result<Updated, PortError> {
        check_name(collection)?;
        let filter = query("filter", &filter)?;
        let replacement = extjson::document("replacement", &replacement)?;
        let call = |collection: mongodb::Collection<Document>| async move {
            collection.replace_one(filter, &replacement).upsert(upsert).await
        };
        Ok(updated(&self.connection.on_collection(collection, Work::Write, call).await?))
    }

    async fn find_one_and_update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<Value>, PortError> {
        check_name(collection)?;
        let filter = query("filter", &filter)?;
        let update = modifications(&update)?;
        let returned = match returned {
            ReturnDocument::Before => Returned::Before,
            ReturnDocument::After => Returned::After,
        };
        let max_time = self.connection.settings.max_time;
        let call = |collection: mongodb::Collection<Document>| async move {
            collection
                .find_one_and_update(filter, update)
                .upsert(upsert)
                .return_document(returned)
                .max_time(max_time)
                .await
        };
        let found = self.connection.on_collection(collection, Work::Write, call).await?;
        Ok(found.as_ref().map(extjson::relaxed_document))
    }

    async fn delete(&self, collection: &str, filter: Value, many: bool) -> Result<u64, PortError> {
        check_name(collection)?;
        let filter = query("filter", &filter)?;
        let call = |collection: mongodb::Collection<Document>| async move {
            if many { collection.delete_many(filter).await } else { collection.delete_one(filter).await }
        };
        Ok(self.connection.on_collection(collection, Work::Write, call).await?.deleted_count)
    }

    async fn count(&self, collection: &str, filter: Value) -> Result<u64, PortError> {
        check_name(collection)?;
        let filter = query("filter", &filter)?;
        let max_time = self.connection.settings.max_time;
        let call = |collection: mongodb::Collection<Document>| async move {
            collection.count_documents(filter).max_time(max_time).await
        };
        self.connection.on_collection(collection, Work::Read, call).await
    }

    async fn aggregate(&self, collection: &str, pipeline: Vec<Value>) -> Result<Box<dyn DocumentCursor>, PortError> {
        check_name(collection)?;
        refused::check_pipeline(&pipeline)?;
        let stages =
            pipeline.iter().map(|stage| extjson::query("pipeline stage", stage)).collect::<Result<Vec<_>, _>>()?;
        let (batch_size, max_time) = {
            let settings = &self.connection.settings;
            (settings.batch_max_documents, settings.max_time)
        };
        let call = |collection: mongodb::Collection<Document>| async move {
            collection.aggregate(stages).batch_size(batch_size).max_time(max_time).await
        };
        let cursor = self.connection.on_collection(collection, Work::Read, call).await?;
        Ok(self.cursor(cursor))
    }

    async fn ensure_index(&self, collection: &str, index: &Index) -> Result<(), PortError> {
        check_name(collection)?;
        let model = index_model(index)?;
        let call = |collection: mongodb::Collection<Document>| async move { collection.create_index(model).await };
        self.connection.on_collection(collection, Work::Write, call).await?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Health for MongoDocuments {
    async fn check(&self) -> Result<(), PortError> {
        let ping = |database: mongodb::Database| async move { database.run_command(doc! {"ping": 1}).await };
        self.connection.run(Work::Read, ping).await.map(|_| ())
    }

    fn pool(&self) -> Option<PoolUse> {
        Some(self.connection.pool_use())
    }
}

impl MongoDocuments {
    fn cursor(&self, cursor: mongodb::Cursor<Document>) -> Box<dyn DocumentCursor> {
        Box::new(MongoCursor::new(Arc::clone(&self.connection), cursor))
    }
}

/// Refuses a name that MongoDB would refuse.
fn check_name(collection: &str) -> Result<(), PortError> {
    let is_wrong = collection.is_empty()
        || collection.len() > NAME_MAX_BYTES
        || collection.contains(['$', '\0'])
        || collection.starts_with("system.")
        || collection.starts_with('.')
        || collection.ends_with('.');
    if is_wrong { Err(PortError::invalid("this cannot be the name of a collection")) } else { Ok(()) }
}

/// A filter or a projection: without code.
fn query(what: &str, json: &Value) -> Result<Document, PortError> {
    refused::check_code(json)?;
    extjson::query(what, json)
}

/// A sort: `{"field": 1 | -1, …}`, in the order of the fields.
fn sort(json: &Value) -> Result<Document, PortError> {
    let sort = query("sort", json)?;
    for (name, direction) in &sort {
        let is_direction = match direction {
            Bson::Int32(direction) => matches!(direction, 1 | -1),
            Bson::Int64(direction) => matches!(direction, 1 | -1),
            Bson::Double(direction) => direction.abs().total_cmp(&1.0).is_eq(),
            // `{"$meta": "textScore"}`
            Bson::Document(meta) => meta.contains_key("$meta"),
            _ => false,
        };
        if !is_direction {
            return Err(PortError::invalid(format!("the sort of `{name}` is neither 1 nor -1")));
        }
    }
    Ok(sort)
}

/// An update: operators, or a list of stages.
fn modifications(json: &Value) -> Result<UpdateModifications, PortError> {
    if let Value::Array(stages) = json {
        refused::check_pipeline(stages)?;
        let stages = stages.iter().map(|stage| extjson::query("pipeline stage", stage)).collect::<Result<_, _>>()?;
        return Ok(UpdateModifications::Pipeline(stages));
    }
    let update = query("update", json)?;
    if update.is_empty() {
        return Err(PortError::invalid("an update has at least one operator"));
    }
    if let Some(name) = update.keys().find(|name| !name.starts_with('$')) {
        return Err(PortError::invalid(format!("an update consists of operators; `{name}` is none")));
    }
    Ok(UpdateModifications::Document(update))
}

/// A document with its `_id`, first as the server would put it.
fn with_id(json: &Value) -> Result<Document, PortError> {
    let mut document = extjson::document("document", json)?;
    let id = document.remove("_id").unwrap_or_else(|| Bson::ObjectId(ObjectId::new()));
    if matches!(id, Bson::Array(_) | Bson::RegularExpression(_) | Bson::Undefined) {
        return Err(PortError::invalid("an `_id` is neither an array nor a regular expression"));
    }
    let mut with_id = doc! {"_id": id};
    with_id.extend(document);
    Ok(with_id)
}

fn updated(result: &UpdateResult) -> Updated {
    Updated {
        // An insert counts as no match.
        matched: if result.upserted_id.is_some() { 0 } else { result.matched_count },
        modified: result.modified_count,
        upserted_id: result.upserted_id.as_ref().map(extjson::relaxed),
    }
}

fn index_model(index: &Index) -> Result<IndexModel, PortError> {
    if index.keys.is_empty() || index.keys.len() > INDEX_KEYS_MAX {
        return Err(PortError::invalid(format!("an index has 1 to {INDEX_KEYS_MAX} fields")));
    }
    let mut keys = Document::new();
    for (path, direction) in &index.keys {
        if !matches!(direction, 1 | -1) {
            return Err(PortError::invalid(format!("the direction of `{path}` in an index is neither 1 nor -1")));
        }
        if path.is_empty() || path.starts_with('$') || path.contains('\0') {
            return Err(PortError::invalid("this cannot be a field of an index"));
        }
        if keys.insert(path.clone(), i32::from(*direction)).is_some() {
            return Err(PortError::invalid(format!("an index has `{path}` twice")));
        }
    }
    let options = IndexOptions::builder().unique(index.unique.then_some(true)).build();
    Ok(IndexModel::builder().keys(keys).options(options).build())
}
