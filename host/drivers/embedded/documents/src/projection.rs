//! Projections: which fields of a document are answered.
//!
//! Either the fields to keep or the fields to leave out, by path; `_id` alone may differ. Computed fields and the
//! operators `$slice`, `$elemMatch`, `$meta` and the positional `$` are refused by name; `$project` in a pipeline adds
//! computed fields on top (`aggregate`).

use crate::extjson;
use crate::path::Path;
use crate::value::{Bson, Document};
use sandpost_ports::PortError;
use serde_json::Value;

/// A projection that is well-formed.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    keeps: bool,
    fields: Fields,
    keeps_id: bool,
}

/// A tree of names; a leaf is what is kept or left out.
#[derive(Debug, Clone, Default)]
struct Fields(Vec<(String, Option<Fields>)>);

impl Projection {
    /// Reads a projection; nothing where it is empty, which keeps all.
    pub(crate) fn parse(json: &Value) -> Result<Option<Self>, PortError> {
        let Value::Object(listed) = json else { return Err(PortError::invalid("a projection is a JSON object")) };
        let mut choices = Vec::new();
        for (name, json) in listed {
            collect(name, json, &mut choices)?;
        }
        Self::of(&choices)
    }

    /// From the paths with whether each is kept; nothing where there are none.
    pub(crate) fn of(choices: &[(Path, bool)]) -> Result<Option<Self>, PortError> {
        let id = choices.iter().find(|(path, _)| path.is_id()).map(|(_, keep)| *keep);
        let mut others = choices.iter().filter(|(path, _)| !path.is_id()).map(|(_, keep)| *keep);
        let Some(keeps) = others.next().or(id) else { return Ok(None) };
        if others.any(|keep| keep != keeps) {
            return Err(PortError::invalid("a projection keeps fields or leaves fields out, not both"));
        }
        let mut fields = Fields::default();
        for (path, _) in choices.iter().filter(|(path, _)| !path.is_id()) {
            fields.add(&path.0, path)?;
        }
        Ok(Some(Self { keeps, fields, keeps_id: id.unwrap_or(true) }))
    }

    /// Whether it says what to keep, and not what to leave out.
    pub(crate) fn keeps_fields(&self) -> bool {
        self.keeps
    }

    pub(crate) fn apply(&self, document: &Document) -> Document {
        let mut projected = if self.keeps { self.fields.keep(document) } else { self.fields.leave_out(document) };
        projected.remove("_id");
        if self.keeps_id
            && let Some(id) = document.get("_id")
        {
            projected.0.insert(0, ("_id".to_owned(), id.clone()));
        }
        projected
    }
}

fn collect(name: &str, json: &Value, choices: &mut Vec<(Path, bool)>) -> Result<(), PortError> {
    match json {
        Value::Object(inner) if !inner.is_empty() && !extjson::is_wrapped(inner) => {
            for (below, json) in inner {
                if below.starts_with('$') {
                    return Err(PortError::unsupported(format!("`{below}` in a projection")));
                }
                collect(&format!("{name}.{below}"), json, choices)?;
            }
            Ok(())
        }
        json => {
            let keep = choice(json)?
                .ok_or_else(|| PortError::unsupported(format!("a projection of `{name}` that is neither 1 nor 0")))?;
            choices.push((Path::parse(name)?, keep));
            Ok(())
        }
    }
}

/// Whether the field is kept; nothing where the value is no such choice.
pub(crate) fn choice(json: &Value) -> Result<Option<bool>, PortError> {
    Ok(match extjson::value(json)? {
        Bson::Bool(keep) => Some(keep),
        number if number.bracket() == 2 => Some(number != Bson::Int32(0)),
        _ => None,
    })
}

impl Fields {
    fn add(&mut self, way: &[String], path: &Path) -> Result<(), PortError> {
        let Some((name, rest)) = way.split_first() else { return Ok(()) };
        let collides = || PortError::invalid(format!("the projection of `{}` collides with another", path.text()));
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, Some(below))) if !rest.is_empty() => below.add(rest, path),
            Some(_) => Err(collides()),
            None => {
                let mut below = Self::default();
                below.add(rest, path)?;
                self.0.push((name.clone(), (!rest.is_empty()).then_some(below)));
                Ok(())
            }
        }
    }

    fn get(&self, name: &str) -> Option<&Option<Self>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, below)| below)
    }

    fn keep(&self, document: &Document) -> Document {
        let kept = document.0.iter().filter_map(|(name, value)| {
            let value = match self.get(name)? {
                None => value.clone(),
                Some(below) => below.keep_value(value)?,
            };
            Some((name.clone(), value))
        });
        Document(kept.collect())
    }

    /// Of an array, the documents in it; of a value without fields, nothing.
    fn keep_value(&self, value: &Bson) -> Option<Bson> {
        match value {
            Bson::Document(document) => Some(Bson::Document(self.keep(document))),
            Bson::Array(values) => {
                Some(Bson::Array(values.iter().filter_map(|value| self.keep_value(value)).collect()))
            }
            _ => None,
        }
    }

    fn leave_out(&self, document: &Document) -> Document {
        let left = document.0.iter().filter_map(|(name, value)| {
            let value = match self.get(name) {
                None => value.clone(),
                Some(None) => return None,
                Some(Some(below)) => below.leave_out_value(value),
            };
            Some((name.clone(), value))
        });
        Document(left.collect())
    }

    fn leave_out_value(&self, value: &Bson) -> Bson {
        match value {
            Bson::Document(document) => Bson::Document(self.leave_out(document)),
            Bson::Array(values) => Bson::Array(values.iter().map(|value| self.leave_out_value(value)).collect()),
            other => other.clone(),
        }
    }
}
