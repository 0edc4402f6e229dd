//! The WIT interface `documents`. Texts are JSON on both sides.

use super::handler::sandpost::plugin::documents as wit;
use crate::documents::{FindOptions, ReturnDocument, Updated};
use crate::error::HostError;

pub(crate) struct Collection(wit::Collection);
pub(crate) struct Cursor(wit::Cursor);

impl Cursor {
    pub(crate) fn next(&self) -> Result<Vec<String>, HostError> {
        Ok(self.0.next()?)
    }
}

impl Collection {
    pub(crate) fn open(label: &str, name: &str) -> Result<Self, HostError> {
        Ok(Self(wit::Collection::open(label, name)?))
    }

    pub(crate) fn insert_one(&self, document: &str) -> Result<String, HostError> {
        Ok(self.0.insert_one(document)?)
    }

    pub(crate) fn insert_many(&self, documents: &[String]) -> Result<Vec<String>, HostError> {
        Ok(self.0.insert_many(documents)?)
    }

    pub(crate) fn find_one(&self, filter: &str, find: FindOptions) -> Result<Option<String>, HostError> {
        Ok(self.0.find_one(filter, &options(find))?)
    }

    pub(crate) fn find(&self, filter: &str, find: FindOptions) -> Result<Cursor, HostError> {
        Ok(Cursor(self.0.find(filter, &options(find))?))
    }

    pub(crate) fn update_one(&self, filter: &str, update: &str, upsert: bool) -> Result<Updated, HostError> {
        Ok(updated(self.0.update_one(filter, update, upsert)?))
    }

    pub(crate) fn update_many(&self, filter: &str, update: &str) -> Result<Updated, HostError> {
        Ok(updated(self.0.update_many(filter, update)?))
    }

    pub(crate) fn replace_one(&self, filter: &str, replacement: &str, upsert: bool) -> Result<Updated, HostError> {
        Ok(updated(self.0.replace_one(filter, replacement, upsert)?))
    }

    pub(crate) fn find_one_and_update(
        &self,
        filter: &str,
        update: &str,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<String>, HostError> {
        let returned = match returned {
            ReturnDocument::Before => wit::ReturnDocument::Before,
            ReturnDocument::After => wit::ReturnDocument::After,
        };
        Ok(self.0.find_one_and_update(filter, update, upsert, returned)?)
    }

    pub(crate) fn delete_one(&self, filter: &str) -> Result<u64, HostError> {
        Ok(self.0.delete_one(filter)?)
    }

    pub(crate) fn delete_many(&self, filter: &str) -> Result<u64, HostError> {
        Ok(self.0.delete_many(filter)?)
    }

    pub(crate) fn count(&self, filter: &str) -> Result<u64, HostError> {
        Ok(self.0.count(filter)?)
    }

    pub(crate) fn aggregate(&self, pipeline: &[String]) -> Result<Cursor, HostError> {
        Ok(Cursor(self.0.aggregate(pipeline)?))
    }
}

fn options(find: FindOptions) -> wit::FindOptions {
    wit::FindOptions { projection: find.projection, sort: find.sort, skip: find.skip, limit: find.limit }
}

fn updated(updated: wit::Updated) -> Updated {
    Updated {
        matched: updated.matched,
        modified: updated.modified,
        upserted_id: updated.upserted_id.map(crate::documents::id),
    }
}
