//! A document database: MongoDB's words for filters, updates and pipelines, as JSON.
//!
//! Documents are MongoDB Extended JSON, relaxed. An operator that a driver does not know is
//! [`ErrorKind::Unsupported`](crate::ErrorKind) and named; it is never skipped.

use crate::PortError;
use crate::health::Health;
use serde_json::Value;

/// One database of collections.
#[async_trait::async_trait]
pub trait Documents: Health {
    /// Inserts all, in order, up to the first that fails; their `_id`s. A missing `_id` is made.
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind) where an `_id` or a unique index has it already.
    async fn insert(&self, collection: &str, documents: Vec<Value>) -> Result<Vec<Value>, PortError>;

    /// Opens a cursor over what matches.
    async fn find(
        &self,
        collection: &str,
        filter: Value,
        options: FindOptions,
    ) -> Result<Box<dyn DocumentCursor>, PortError>;

    /// Updates what matches, by update operators.
    async fn update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        options: UpdateOptions,
    ) -> Result<Updated, PortError>;

    /// Replaces the first that matches.
    async fn replace_one(
        &self,
        collection: &str,
        filter: Value,
        replacement: Value,
        upsert: bool,
    ) -> Result<Updated, PortError>;

    /// Updates the first that matches and returns it, in one step.
    async fn find_one_and_update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<Value>, PortError>;

    /// Deletes the first that matches, or all; how many.
    async fn delete(&self, collection: &str, filter: Value, many: bool) -> Result<u64, PortError>;

    /// How many match.
    async fn count(&self, collection: &str, filter: Value) -> Result<u64, PortError>;

    /// Runs a pipeline.
    async fn aggregate(&self, collection: &str, pipeline: Vec<Value>) -> Result<Box<dyn DocumentCursor>, PortError>;

    /// Makes the index if it is not there. Called at start, from configuration.
    async fn ensure_index(&self, collection: &str, index: &Index) -> Result<(), PortError>;
}

/// A result that is read in batches.
#[async_trait::async_trait]
pub trait DocumentCursor: Send + Sync {
    /// The next documents: at most `documents_max` of them, and no more than fit `batch_max_bytes` of JSON text unless
    /// it is a single one. Empty once all has been read.
    async fn next(&mut self, documents_max: usize, batch_max_bytes: usize) -> Result<Vec<Value>, PortError>;
}

/// What to read, and how much of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FindOptions {
    /// Which fields; all where left out.
    pub projection: Option<Value>,
    /// `{"field": 1 | -1, …}`
    pub sort: Option<Value>,
    /// How many to pass over.
    pub skip: u64,
    /// At most; all where left out.
    pub limit: Option<u32>,
}

/// How an update goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpdateOptions {
    /// All that match, not the first.
    pub many: bool,
    /// Insert one where none matches; not together with `many`.
    pub upsert: bool,
}

/// What an update did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Updated {
    /// How many matched.
    pub matched: u64,
    /// How many of these are different now.
    pub modified: u64,
    /// The `_id` of the one that was inserted.
    pub upserted_id: Option<Value>,
}

/// Which state of the document an update returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnDocument {
    /// As it was.
    Before,
    /// As it is now.
    After,
}

/// An index of a collection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Dotted paths, each with 1 (ascending) or -1.
    pub keys: Vec<(String, i8)>,
    /// Whether two documents may not share the values.
    #[serde(default)]
    pub unique: bool,
}
