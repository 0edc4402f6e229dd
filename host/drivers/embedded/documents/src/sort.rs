//! Sorts: the order of documents by paths, and what an index is made of.
//!
//! A field that is not there sorts as null; an array by its least element upwards and by its greatest downwards; an empty
//! array before null. Sorting by two fields of which both are arrays is refused, as MongoDB does.

use crate::extjson;
use crate::path::{self, Path};
use crate::value::{Bson, Document};
use sandpost_ports::PortError;
use serde_json::Value;
use std::cmp::Ordering;

/// Most fields of a sort or an index; MongoDB's limit.
pub(crate) const KEYS_MAX: usize = 32;

/// A sort that is well-formed.
#[derive(Debug, Clone)]
pub(crate) struct Sort(Vec<(Path, bool)>);

/// What one document is sorted by.
pub(crate) type SortKey = Vec<Option<Bson>>;

impl Sort {
    /// Reads `{"field": 1 | -1, …}`; nothing where it is empty.
    pub(crate) fn parse(json: &Value) -> Result<Option<Self>, PortError> {
        let Value::Object(listed) = json else { return Err(PortError::invalid("a sort is a JSON object")) };
        let mut keys = Vec::new();
        for (name, json) in listed {
            if json.get("$meta").is_some() {
                return Err(PortError::unsupported("`$meta` in a sort"));
            }
            let descends = match extjson::value(json)?.as_whole() {
                Some(1) => false,
                Some(-1) => true,
                _ => return Err(PortError::invalid(format!("the sort of `{name}` is neither 1 nor -1"))),
            };
            keys.push((Path::parse(name)?, descends));
        }
        if keys.len() > KEYS_MAX {
            return Err(PortError::invalid(format!("a sort has more than {KEYS_MAX} fields")));
        }
        Ok((!keys.is_empty()).then_some(Self(keys)))
    }

    /// What this document is sorted by.
    pub(crate) fn key(&self, document: &Document) -> Result<SortKey, PortError> {
        if self.0.iter().filter(|(path, _)| path::first_array(document, path).is_some()).count() > 1 {
            return Err(PortError::unsupported("a sort by several fields that hold arrays"));
        }
        let key = self.0.iter().map(|(path, descends)| {
            let mut keys = path::keys(document, path);
            let end = if *descends { keys.pop() } else { keys.into_iter().next() };
            end.unwrap_or(Some(Bson::Null))
        });
        Ok(key.collect())
    }

    /// The order of two documents by their keys.
    pub(crate) fn compare(&self, a: &SortKey, b: &SortKey) -> Ordering {
        for ((a, b), (_, descends)) in a.iter().zip(b).zip(&self.0) {
            let order = if *descends { b.cmp(a) } else { a.cmp(b) };
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }
}
