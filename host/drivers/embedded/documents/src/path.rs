//! Dotted paths: what a filter, a sort and an index see at one.
//!
//! The rules are MongoDB's matcher's. A path goes through arrays: into every document of one, and to the element that a
//! number names. Where it ends at an array, its elements count as well as the array itself.
//!
//! Not here: writing at a path (`update`), which goes by other rules.

use crate::value::{Bson, Document};
use sandpost_ports::PortError;

/// A path of at least one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Path(pub(crate) Vec<String>);

impl Path {
    /// Reads a path; refuses empty names, operators and MongoDB's positional `$`, `$[]` and `$[name]`.
    pub(crate) fn parse(text: &str) -> Result<Self, PortError> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        for name in &names {
            if name.is_empty() {
                return Err(PortError::invalid(format!("the path `{text}` has an empty name in it")));
            }
            if name.starts_with('$') {
                return Err(PortError::unsupported(format!("`{name}` in the path `{text}`")));
            }
            if name.contains('\0') {
                return Err(PortError::invalid("a path contains a NUL character"));
            }
        }
        // A document is not deeper, so neither is a useful path; recursion along it is bounded by this.
        if names.len() > crate::extjson::DEPTH_MAX {
            return Err(PortError::invalid("a path has too many names"));
        }
        Ok(Self(names))
    }

    pub(crate) fn text(&self) -> String {
        self.0.join(".")
    }

    pub(crate) fn is_id(&self) -> bool {
        self.0.len() == 1 && self.0[0] == "_id"
    }

    /// Whether one is the other or leads to it.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a == b)
    }
}

/// What to do with an array at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// Its elements, then the array itself.
    Elements,
    /// Only the array itself.
    Whole,
}

/// Calls `see` with everything at the path until it answers true; whether it did. `None` stands for a place that is not
/// there, which equals null.
pub(crate) fn any(
    document: &Document,
    path: &[String],
    leaf: Leaf,
    see: &mut dyn FnMut(Option<&Bson>) -> bool,
) -> bool {
    let Some((name, rest)) = path.split_first() else { return false };
    match (document.get(name), rest) {
        (None, _) => see(None),
        (Some(Bson::Array(values)), []) => {
            (leaf == Leaf::Elements && values.iter().any(|value| see(Some(value)))) || see(document.get(name))
        }
        (value, []) => see(value),
        (Some(Bson::Array(values)), rest) => any_in_array(values, rest, leaf, see),
        (Some(Bson::Document(inner)), rest) => any(inner, rest, leaf, see),
        (Some(_), _) => see(None),
    }
}

fn any_in_array(values: &[Bson], path: &[String], leaf: Leaf, see: &mut dyn FnMut(Option<&Bson>) -> bool) -> bool {
    let Some((name, rest)) = path.split_first() else { return false };
    let index = index(name);
    values.iter().enumerate().any(|(at, value)| {
        if let Bson::Document(inner) = value
            && any(inner, path, leaf, see)
        {
            return true;
        }
        if index != Some(at) {
            return false;
        }
        match (value, rest) {
            (value, []) => see(Some(value)),
            (Bson::Document(inner), rest) => any(inner, rest, leaf, see),
            (Bson::Array(inner), rest) => any_in_array(inner, rest, leaf, see),
            _ => false,
        }
    })
}

/// The place in an array that a name means: decimal digits without a leading zero.
pub(crate) fn index(name: &str) -> Option<usize> {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if is_number { name.parse().ok() } else { None }
}

/// All that a filter would see at the path, each once, with null for what is not there.
pub(crate) fn seen(document: &Document, path: &Path) -> Vec<Bson> {
    let mut values = Vec::new();
    any(document, &path.0, Leaf::Elements, &mut |value| {
        values.push(value.cloned().unwrap_or(Bson::Null));
        false
    });
    values.sort();
    values.dedup();
    values
}

/// How many names of the path lead to the first array on it, if there is one.
pub(crate) fn first_array(document: &Document, path: &Path) -> Option<usize> {
    let mut at = document;
    for (depth, name) in path.0.iter().enumerate() {
        match at.get(name) {
            Some(Bson::Array(_)) => return Some(depth + 1),
            Some(Bson::Document(inner)) => at = inner,
            _ => return None,
        }
    }
    None
}

/// The values that order a document in a sort and make it unique in an index: elements of an array, not the array; for
/// an empty array nothing at all, which MongoDB puts before null.
pub(crate) fn keys(document: &Document, path: &Path) -> Vec<Option<Bson>> {
    let mut values = Vec::new();
    collect_keys(document, &path.0, &mut values);
    values.sort();
    values.dedup();
    values
}

fn collect_keys(document: &Document, path: &[String], keys: &mut Vec<Option<Bson>>) {
    let Some((name, rest)) = path.split_first() else { return };
    match document.get(name) {
        Some(Bson::Array(values)) => collect_array_keys(values, rest, keys),
        Some(Bson::Document(inner)) if !rest.is_empty() => collect_keys(inner, rest, keys),
        Some(value) if rest.is_empty() => keys.push(Some(value.clone())),
        _ => keys.push(Some(Bson::Null)),
    }
}

fn collect_array_keys(values: &[Bson], path: &[String], keys: &mut Vec<Option<Bson>>) {
    let Some((name, rest)) = path.split_first() else {
        if values.is_empty() {
            keys.push(None);
        }
        keys.extend(values.iter().cloned().map(Some));
        return;
    };
    if let Some(value) = index(name).and_then(|at| values.get(at)) {
        match value {
            Bson::Array(inner) => collect_array_keys(inner, rest, keys),
            Bson::Document(inner) if !rest.is_empty() => collect_keys(inner, rest, keys),
            value if rest.is_empty() => keys.push(Some(value.clone())),
            _ => keys.push(Some(Bson::Null)),
        }
        return;
    }
    if values.is_empty() {
        keys.push(Some(Bson::Null));
    }
    for value in values {
        match value {
            Bson::Document(inner) => collect_keys(inner, path, keys),
            _ => keys.push(Some(Bson::Null)),
        }
    }
}
