//! A document database by its label: documents typed by serde, filters and updates in MongoDB's words as JSON.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::documents::Collection;
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Delivery {
//!     #[serde(rename = "_id")]
//!     id: String,
//!     status: String,
//! }
//!
//! # let host = sandpost_sdk::testing::Host::new();
//! # fn work() -> Result<()> {
//! let deliveries = Collection::open("main", "deliveries")?;
//! let id = deliveries.insert_one(&Delivery { id: "d1".into(), status: "sent".into() })?;
//! assert_eq!(id, "d1");
//! deliveries.upsert_one(&json!({"_id": "d2"}), &json!({"$set": {"status": "failed"}}))?;
//!
//! let one: Option<Delivery> = deliveries.find_one(&json!({"_id": "d1"}))?;
//! assert_eq!(one.unwrap().status, "sent");
//!
//! let all: Vec<Delivery> = deliveries.find(&json!({})).sort(&json!({"_id": -1})).limit(10).all()?;
//! assert_eq!(all[0].id, "d2");
//! # Ok(()) }
//! # work().unwrap();
//! ```

use crate::error::HostError;
use crate::{json, sys};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;

type Result<T> = std::result::Result<T, HostError>;

/// One collection of one database. Opening it is free: the host has the connections.
pub struct Collection {
    inner: sys::documents::Collection,
    name: String,
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What an update did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Updated {
    /// How many matched.
    pub matched: u64,
    /// How many of these are different now.
    pub modified: u64,
    /// The `_id` of the one that was inserted.
    pub upserted_id: Option<Value>,
}

/// Which state of the document [`Collection::find_one_and_update`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnDocument {
    /// As it was.
    Before,
    /// As it is now.
    After,
}

/// What to read, and how much of it; texts are JSON.
#[derive(Debug, Clone, Default)]
pub(crate) struct FindOptions {
    pub(crate) projection: Option<String>,
    pub(crate) sort: Option<String>,
    pub(crate) skip: u64,
    pub(crate) limit: Option<u32>,
}

impl Collection {
    /// The collection `name` of the database that the host knows by `label`.
    pub fn open(label: &str, name: &str) -> Result<Self> {
        Ok(Self { inner: sys::documents::Collection::open(label, name)?, name: name.to_owned() })
    }

    /// Inserts one; its `_id`. [`HostError::Conflict`] where the `_id` or a unique index has it already.
    pub fn insert_one<T: Serialize + ?Sized>(&self, document: &T) -> Result<Value> {
        self.inner.insert_one(&text(document, "the document")?).map(id)
    }

    /// Inserts all, in order, up to the first that fails; their `_id`s.
    pub fn insert_many<'a, T: Serialize + 'a>(&self, all: impl IntoIterator<Item = &'a T>) -> Result<Vec<Value>> {
        let all = all.into_iter().map(|document| text(document, "the document")).collect::<Result<Vec<_>>>()?;
        Ok(self.inner.insert_many(&all)?.into_iter().map(id).collect())
    }

    /// The first that matches.
    pub fn find_one<T: DeserializeOwned>(&self, filter: &(impl Serialize + ?Sized)) -> Result<Option<T>> {
        self.read(self.inner.find_one(&text(filter, "the filter")?, FindOptions::default())?)
    }

    /// All that match: say how, then [`Find::all`] or [`Find::each`].
    pub fn find(&self, filter: &(impl Serialize + ?Sized)) -> Find<'_> {
        Find { collection: self, filter: text(filter, "the filter"), options: FindOptions::default(), fault: None }
    }

    /// Updates the first that matches.
    pub fn update_one<F, U>(&self, filter: &F, update: &U) -> Result<Updated>
    where
        F: Serialize + ?Sized,
        U: Serialize + ?Sized,
    {
        self.inner.update_one(&text(filter, "the filter")?, &text(update, "the update")?, false)
    }

    /// Updates the first that matches, or inserts one made of the filter and the update.
    pub fn upsert_one<F, U>(&self, filter: &F, update: &U) -> Result<Updated>
    where
        F: Serialize + ?Sized,
        U: Serialize + ?Sized,
    {
        self.inner.update_one(&text(filter, "the filter")?, &text(update, "the update")?, true)
    }

    /// Updates all that match.
    pub fn update_many<F, U>(&self, filter: &F, update: &U) -> Result<Updated>
    where
        F: Serialize + ?Sized,
        U: Serialize + ?Sized,
    {
        self.inner.update_many(&text(filter, "the filter")?, &text(update, "the update")?)
    }

    /// Replaces the first that matches; with `upsert`, inserts it where none does.
    pub fn replace_one<F, T>(&self, filter: &F, replacement: &T, upsert: bool) -> Result<Updated>
    where
        F: Serialize + ?Sized,
        T: Serialize + ?Sized,
    {
        self.inner.replace_one(&text(filter, "the filter")?, &text(replacement, "the document")?, upsert)
    }

    /// Updates the first that matches and returns it, in one step; with `upsert`, inserts one where none does.
    pub fn find_one_and_update<T: DeserializeOwned>(
        &self,
        filter: &(impl Serialize + ?Sized),
        update: &(impl Serialize + ?Sized),
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<T>> {
        let (filter, update) = (text(filter, "the filter")?, text(update, "the update")?);
        self.read(self.inner.find_one_and_update(&filter, &update, upsert, returned)?)
    }

    /// Deletes the first that matches; whether there was one.
    pub fn delete_one(&self, filter: &(impl Serialize + ?Sized)) -> Result<bool> {
        self.inner.delete_one(&text(filter, "the filter")?).map(|count| count > 0)
    }

    /// Deletes all that match; how many.
    pub fn delete_many(&self, filter: &(impl Serialize + ?Sized)) -> Result<u64> {
        self.inner.delete_many(&text(filter, "the filter")?)
    }

    /// How many match.
    pub fn count(&self, filter: &(impl Serialize + ?Sized)) -> Result<u64> {
        self.inner.count(&text(filter, "the filter")?)
    }

    /// Runs a pipeline, a JSON value for each stage.
    pub fn aggregate<'a, T, S>(&'a self, pipeline: impl IntoIterator<Item = &'a S>) -> Result<Documents<'a, T>>
    where
        T: DeserializeOwned,
        S: Serialize + 'a,
    {
        let stages = pipeline.into_iter().map(|stage| text(stage, "the stage")).collect::<Result<Vec<_>>>()?;
        Ok(Documents::new(self, self.inner.aggregate(&stages)?))
    }

    fn read<T: DeserializeOwned>(&self, document: Option<String>) -> Result<Option<T>> {
        document.map(|document| self.decode(&document)).transpose()
    }

    fn decode<T: DeserializeOwned>(&self, document: &str) -> Result<T> {
        json::decode(document.as_bytes(), format_args!("a document of `{}`", self.name))
    }
}

/// A search that is being put together.
#[derive(Debug)]
#[must_use = "nothing is read before `all` or `each`"]
pub struct Find<'a> {
    collection: &'a Collection,
    filter: Result<String>,
    options: FindOptions,
    fault: Option<HostError>,
}

impl<'a> Find<'a> {
    /// The order: `{"field": 1 | -1, …}`.
    pub fn sort(mut self, sort: &(impl Serialize + ?Sized)) -> Self {
        self.options.sort = self.keep(text(sort, "the sort"));
        self
    }

    /// Which fields: `{"field": 1, …}`; all where left out.
    pub fn projection(mut self, projection: &(impl Serialize + ?Sized)) -> Self {
        self.options.projection = self.keep(text(projection, "the projection"));
        self
    }

    /// How many to pass over.
    pub fn skip(mut self, count: u64) -> Self {
        self.options.skip = count;
        self
    }

    /// At most so many.
    pub fn limit(mut self, count: u32) -> Self {
        self.options.limit = Some(count);
        self
    }

    /// All of them at once. They have to fit the plugin's memory: set a limit, or take [`Find::each`].
    pub fn all<T: DeserializeOwned>(self) -> Result<Vec<T>> {
        self.each()?.collect()
    }

    /// One after the other, fetched in batches.
    pub fn each<T: DeserializeOwned>(self) -> Result<Documents<'a, T>> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(Documents::new(self.collection, self.collection.inner.find(&self.filter?, self.options)?)),
        }
    }

    fn keep(&mut self, text: Result<String>) -> Option<String> {
        text.map_err(|fault| self.fault = Some(fault)).ok()
    }
}

/// Documents, one after the other. After an error there are no more.
pub struct Documents<'a, T> {
    collection: &'a Collection,
    cursor: Option<sys::documents::Cursor>,
    batch: VecDeque<String>,
    marker: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Documents<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").field("collection", self.collection).finish_non_exhaustive()
    }
}

impl<'a, T> Documents<'a, T> {
    fn new(collection: &'a Collection, cursor: sys::documents::Cursor) -> Self {
        Self { collection, cursor: Some(cursor), batch: VecDeque::new(), marker: PhantomData }
    }
}

impl<T: DeserializeOwned> Iterator for Documents<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.is_empty() {
            match self.cursor.as_ref()?.next() {
                Ok(batch) => self.batch = batch.into(),
                Err(error) => {
                    self.cursor = None;
                    return Some(Err(error));
                }
            }
        }
        let Some(document) = self.batch.pop_front() else {
            self.cursor = None;
            return None;
        };
        Some(self.collection.decode(&document))
    }
}

/// An `_id` as the host writes it: JSON text.
pub(crate) fn id(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn text(value: &(impl Serialize + ?Sized), what: &str) -> Result<String> {
    json::encode_text(value, what)
}
