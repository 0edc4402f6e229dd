//! Updates: `$set $unset $inc $mul $min $max $rename $push $pull $addToSet $currentDate $setOnInsert`, and the document
//! that an upsert begins with.
//!
//! As in MongoDB: two operators may not touch the same path or one within the other; fields are made in the order of
//! their paths, not of the request; `_id` does not change. Every other operator or modifier is refused by name.
//!
//! Not here: storing the outcome (`store`), and its size, which [`check_result`] looks at for everybody.

use crate::extjson;
use crate::filter::{self, Filter};
use crate::path::{self, Path};
use crate::value::{Bson, Document};
use sandpost_ports::{ErrorKind, PortError};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// An array is not made longer than this by writing past its end: MongoDB's limit.
const PADDING_MAX: usize = 1_500_000;

/// An update that is well-formed; its operations in the order of their paths.
#[derive(Debug, Clone)]
pub(crate) struct Update(Vec<(Path, Operation)>);

#[derive(Debug, Clone)]
enum Operation {
    Set(Bson),
    SetOnInsert(Bson),
    Unset,
    Increment(Bson),
    Multiply(Bson),
    Least(Bson),
    Greatest(Bson),
    Rename(Path),
    Push { values: Vec<Bson>, position: Option<i64>, slice: Option<i64> },
    AddToSet(Vec<Bson>),
    Pull(Condition),
    CurrentDate,
}

/// Which elements `$pull` takes out.
#[derive(Debug, Clone)]
enum Condition {
    Equal(Bson),
    /// Of elements that are documents.
    Document(Filter),
    /// Of any element, under [`Condition::element_path`].
    Value(Filter),
}

impl Update {
    /// Reads an update; a replacement or a pipeline is refused.
    pub(crate) fn parse(json: &Value) -> Result<Self, PortError> {
        let operators = match json {
            Value::Object(operators) if !operators.is_empty() => operators,
            Value::Array(_) => return Err(PortError::unsupported("a pipeline as an update")),
            _ => return Err(PortError::invalid("an update is an object of update operators")),
        };
        let mut operations = Vec::new();
        for (operator, arguments) in operators {
            if !operator.starts_with('$') {
                return Err(PortError::invalid(format!(
                    "an update takes operators such as $set, not the field `{operator}`"
                )));
            }
            let Value::Object(arguments) = arguments else {
                return Err(PortError::invalid(format!("{operator} takes an object of paths")));
            };
            for (text, argument) in arguments {
                operations.push((Path::parse(text)?, parse_operation(operator, argument)?));
            }
            if arguments.is_empty() {
                // Still refuses an operator that is not known.
                is_known(operator)?;
            }
        }
        let touched: Vec<&Path> = operations
            .iter()
            .flat_map(|(path, operation)| match operation {
                Operation::Rename(target) => vec![path, target],
                _ => vec![path],
            })
            .collect();
        for (at, path) in touched.iter().enumerate() {
            if let Some(other) = touched[..at].iter().find(|other| other.touches(path)) {
                return Err(PortError::invalid(format!(
                    "updating the path `{}` would create a conflict at `{}`",
                    path.text(),
                    other.text()
                )));
            }
        }
        operations.sort_by(|(a, _), (b, _)| compare_paths(a, b));
        Ok(Self(operations))
    }

    /// The document as it is after the update. `now_ms` is what `$currentDate` writes.
    pub(crate) fn apply(&self, before: &Document, is_insert: bool, now_ms: i64) -> Result<Document, PortError> {
        let mut after = before.clone();
        for (path, operation) in &self.0 {
            operation.apply(&mut after, path, is_insert, now_ms)?;
        }
        let id_changed = match (before.get("_id"), after.get("_id")) {
            (Some(before), Some(after)) => !before.is_identical(after),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if id_changed {
            return Err(PortError::invalid("the update would change the immutable field `_id`"));
        }
        check_result(&after)?;
        Ok(after)
    }
}

/// Refuses a document that MongoDB would not keep for its size or depth.
pub(crate) fn check_result(document: &Document) -> Result<(), PortError> {
    let exceeded = |what: String| Err(PortError::new(ErrorKind::Exceeded, what));
    if document.depth() > extjson::DEPTH_MAX {
        return exceeded(format!("a document is nested deeper than {} levels", extjson::DEPTH_MAX));
    }
    if document.size_bytes() > extjson::DOCUMENT_MAX_BYTES {
        return exceeded(format!("a document has more than {} bytes", extjson::DOCUMENT_MAX_BYTES));
    }
    Ok(())
}

/// What an upsert starts from: the fields that the filter says must be equal.
pub(crate) fn from_filter(filter: &Filter) -> Result<Document, PortError> {
    let given = filter.given();
    let mut document = Document::default();
    for (at, (path, value)) in given.iter().enumerate() {
        if let Some((other, _)) = given[..at].iter().find(|(other, _)| other.touches(path)) {
            return Err(PortError::invalid(format!(
                "the filter gives the new document both `{}` and `{}`",
                other.text(),
                path.text()
            )));
        }
        let mut place = &mut document;
        let Some((last, way)) = path.0.split_last() else { continue };
        for name in way {
            if place.get(name).is_none() {
                place.set(name, Bson::Document(Document::default()));
            }
            match place.get_mut(name) {
                Some(Bson::Document(inner)) => place = inner,
                _ => {
                    return Err(PortError::invalid(format!(
                        "the filter gives the new document a conflict at `{}`",
                        path.text()
                    )));
                }
            }
        }
        place.set(last, (*value).clone());
    }
    Ok(document)
}

fn is_known(operator: &str) -> Result<(), PortError> {
    match operator {
        "$set" | "$setOnInsert" | "$unset" | "$inc" | "$mul" | "$min" | "$max" | "$rename" | "$push" | "$addToSet"
        | "$pull" | "$currentDate" => Ok(()),
        _ => Err(PortError::unsupported(format!("the update operator `{operator}`"))),
    }
}

fn parse_operation(operator: &str, argument: &Value) -> Result<Operation, PortError> {
    let number = || match extjson::value(argument)? {
        number if number.bracket() == 2 => Ok(number),
        other => Err(PortError::invalid(format!("{operator} takes a number, not {}", other.type_name()))),
    };
    Ok(match operator {
        "$set" => Operation::Set(extjson::value(argument)?),
        "$setOnInsert" => Operation::SetOnInsert(extjson::value(argument)?),
        "$unset" => Operation::Unset,
        "$inc" => Operation::Increment(number()?),
        "$mul" => Operation::Multiply(number()?),
        "$min" => Operation::Least(extjson::value(argument)?),
        "$max" => Operation::Greatest(extjson::value(argument)?),
        "$rename" => match argument {
            Value::String(target) => Operation::Rename(Path::parse(target)?),
            _ => return Err(PortError::invalid("$rename takes the new path as a string")),
        },
        "$push" => parse_push(argument)?,
        "$addToSet" => match each(operator, argument)? {
            Some((values, modifiers)) if modifiers.len() == 1 => Operation::AddToSet(values),
            Some(_) => return Err(PortError::invalid("$addToSet takes no modifier but $each")),
            None => Operation::AddToSet(vec![extjson::value(argument)?]),
        },
        "$pull" => Operation::Pull(Condition::parse(argument)?),
        "$currentDate" => match argument {
            Value::Bool(true) => Operation::CurrentDate,
            Value::Object(kind) if kind.len() == 1 && kind.get("$type").is_some_and(|kind| kind == "date") => {
                Operation::CurrentDate
            }
            _ => return Err(PortError::unsupported("$currentDate of anything but a date")),
        },
        _ => return is_known(operator).map(|()| Operation::Unset),
    })
}

/// The values of `$each`, and all modifiers with it.
type Each<'a> = (Vec<Bson>, &'a Map<String, Value>);

fn each<'a>(operator: &str, argument: &'a Value) -> Result<Option<Each<'a>>, PortError> {
    let Some(modifiers) = filter::operators(argument)? else { return Ok(None) };
    match modifiers.get("$each") {
        Some(Value::Array(values)) => {
            Ok(Some((values.iter().map(extjson::value).collect::<Result<_, _>>()?, modifiers)))
        }
        Some(_) => Err(PortError::invalid("$each takes an array")),
        None => Err(PortError::invalid(format!("{operator} takes a value, or modifiers with $each"))),
    }
}

fn parse_push(argument: &Value) -> Result<Operation, PortError> {
    let Some((values, modifiers)) = each("$push", argument)? else {
        return Ok(Operation::Push { values: vec![extjson::value(argument)?], position: None, slice: None });
    };
    let whole = |name: &str, json: &Value| {
        let number = extjson::value(json)?.as_whole();
        number.map(Some).ok_or_else(|| PortError::invalid(format!("{name} takes a whole number")))
    };
    let (mut position, mut slice) = (None, None);
    for (name, json) in modifiers {
        match name.as_str() {
            "$each" => {}
            "$position" => position = whole(name, json)?,
            "$slice" => slice = whole(name, json)?,
            _ => return Err(PortError::unsupported(format!("the modifier `{name}` of $push"))),
        }
    }
    Ok(Operation::Push { values, position, slice })
}

impl Condition {
    /// Where an element lies when a filter of values looks at it; no field has this name.
    fn element_path() -> Path {
        Path(vec!["\0".to_owned()])
    }

    fn parse(argument: &Value) -> Result<Self, PortError> {
        if let Some(operators) = filter::operators(argument)? {
            return Ok(Self::Value(Filter::of_value(&Self::element_path(), operators)?));
        }
        match argument {
            Value::Object(fields) if !extjson::is_wrapped(fields) => Ok(Self::Document(Filter::parse(argument)?)),
            _ => Ok(Self::Equal(extjson::value(argument)?)),
        }
    }

    fn holds(&self, element: &Bson) -> bool {
        match (self, element) {
            (Self::Equal(value), element) => value == element,
            (Self::Document(filter), Bson::Document(document)) => filter.matches(document),
            (Self::Document(_), _) => false,
            (Self::Value(filter), element) => {
                let name = Self::element_path().text();
                filter.matches(&Document(vec![(name, element.clone())]))
            }
        }
    }
}

impl Operation {
    fn apply(&self, document: &mut Document, path: &Path, is_insert: bool, now_ms: i64) -> Result<(), PortError> {
        let wrong = |verb: &str, value: &Bson| {
            Err(PortError::invalid(format!("{verb} at `{}`, which is {}", path.text(), value.type_name())))
        };
        match self {
            Self::Set(value) => write(document, path, value.clone()),
            Self::SetOnInsert(value) if is_insert => write(document, path, value.clone()),
            Self::SetOnInsert(_) => Ok(()),
            Self::CurrentDate => write(document, path, Bson::Date(now_ms)),
            Self::Unset => {
                unset(document, &path.0);
                Ok(())
            }
            Self::Increment(by) => match read(document, path) {
                None => write(document, path, by.clone()),
                Some(value) => match arithmetic(value, by, i64::checked_add, |a, b| a + b) {
                    Some(sum) => write(document, path, sum),
                    None if value.bracket() == 2 => Err(PortError::invalid("$inc overflows a 64-bit integer")),
                    None => wrong("cannot apply $inc", value),
                },
            },
            Self::Multiply(by) => match read(document, path) {
                None => write(document, path, zero_of(by)),
                Some(value) => match arithmetic(value, by, i64::checked_mul, |a, b| a * b) {
                    Some(product) => write(document, path, product),
                    None if value.bracket() == 2 => Err(PortError::invalid("$mul overflows a 64-bit integer")),
                    None => wrong("cannot apply $mul", value),
                },
            },
            Self::Least(value) | Self::Greatest(value) => {
                let wanted = if matches!(self, Self::Least(_)) { Ordering::Less } else { Ordering::Greater };
                match read(document, path) {
                    Some(present) if value.cmp(present) != wanted => Ok(()),
                    _ => write(document, path, value.clone()),
                }
            }
            Self::Rename(target) => rename(document, path, target),
            Self::Push { values, position, slice } => {
                let mut array = match read(document, path) {
                    None => Vec::new(),
                    Some(Bson::Array(array)) => array.clone(),
                    Some(value) => return wrong("cannot apply $push", value),
                };
                let at = place(position.unwrap_or(i64::MAX), array.len());
                array.splice(at..at, values.iter().cloned());
                match slice {
                    Some(count @ 0..) => array.truncate(usize::try_from(*count).unwrap_or(usize::MAX)),
                    Some(count) => drop(array.drain(..place(*count, array.len()))),
                    None => {}
                }
                write(document, path, Bson::Array(array))
            }
            Self::AddToSet(values) => {
                let mut array = match read(document, path) {
                    None => Vec::new(),
                    Some(Bson::Array(array)) => array.clone(),
                    Some(value) => return wrong("cannot apply $addToSet", value),
                };
                for value in values {
                    if !array.contains(value) {
                        array.push(value.clone());
                    }
                }
                write(document, path, Bson::Array(array))
            }
            Self::Pull(condition) => match read(document, path) {
                None => Ok(()),
                Some(Bson::Array(array)) => {
                    let left = array.iter().filter(|element| !condition.holds(element)).cloned().collect();
                    write(document, path, Bson::Array(left))
                }
                Some(value) => wrong("cannot apply $pull", value),
            },
        }
    }
}

/// A place in an array of this length; a negative one counts from the end.
fn place(position: i64, length: usize) -> usize {
    let distance = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
    if position < 0 { length.saturating_sub(distance) } else { distance.min(length) }
}

fn zero_of(number: &Bson) -> Bson {
    match number {
        Bson::Int64(_) => Bson::Int64(0),
        Bson::Double(_) => Bson::Double(0.0),
        _ => Bson::Int32(0),
    }
}

/// Integers stay integers and grow to 64 bits; a double makes doubles. Nothing for other types and past 64 bits.
fn arithmetic(a: &Bson, b: &Bson, whole: fn(i64, i64) -> Option<i64>, double: fn(f64, f64) -> f64) -> Option<Bson> {
    match (a, b) {
        (Bson::Int32(a), Bson::Int32(b)) => {
            let result = whole((*a).into(), (*b).into())?;
            Some(i32::try_from(result).map_or(Bson::Int64(result), Bson::Int32))
        }
        (Bson::Int32(_) | Bson::Int64(_), Bson::Int32(_) | Bson::Int64(_)) => {
            whole(a.as_whole()?, b.as_whole()?).map(Bson::Int64)
        }
        _ => Some(Bson::Double(double(as_double(a)?, as_double(b)?))),
    }
}

/// A number as a double, rounded where it must be.
#[expect(clippy::cast_precision_loss, reason = "MongoDB rounds here too")]
pub(crate) fn as_double(number: &Bson) -> Option<f64> {
    match number {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number as f64),
        Bson::Double(number) => Some(*number),
        _ => None,
    }
}

fn read<'a>(document: &'a Document, path: &Path) -> Option<&'a Bson> {
    let (first, rest) = path.0.split_first()?;
    rest.iter().try_fold(document.get(first)?, |value, name| match value {
        Bson::Document(inner) => inner.get(name),
        Bson::Array(values) => values.get(path::index(name)?),
        _ => None,
    })
}

fn write(document: &mut Document, path: &Path, value: Bson) -> Result<(), PortError> {
    write_in(document, &path.0, value, path)
}

fn write_in(document: &mut Document, way: &[String], value: Bson, path: &Path) -> Result<(), PortError> {
    let Some((name, rest)) = way.split_first() else { return Ok(()) };
    if rest.is_empty() {
        document.set(name, value);
        return Ok(());
    }
    if document.get(name).is_none() {
        document.set(name, Bson::Document(Document::default()));
    }
    document.get_mut(name).map_or(Ok(()), |place| write_below(place, rest, value, path))
}

fn write_below(place: &mut Bson, way: &[String], value: Bson, path: &Path) -> Result<(), PortError> {
    match place {
        Bson::Document(document) => write_in(document, way, value, path),
        Bson::Array(values) => {
            let Some((name, rest)) = way.split_first() else { return Ok(()) };
            let Some(at) = path::index(name) else {
                return Err(PortError::invalid(format!(
                    "cannot create the field `{name}` in an array at `{}`",
                    path.text()
                )));
            };
            if at >= values.len() {
                if at - values.len() > PADDING_MAX {
                    return Err(PortError::invalid(format!("`{}` is too far past the end of its array", path.text())));
                }
                values.resize(at + 1, Bson::Null);
                if !rest.is_empty() {
                    values[at] = Bson::Document(Document::default());
                }
            }
            if rest.is_empty() {
                values[at] = value;
                return Ok(());
            }
            write_below(&mut values[at], rest, value, path)
        }
        other => Err(PortError::invalid(format!(
            "cannot create the field `{}`: what it lies in is {}",
            path.text(),
            other.type_name()
        ))),
    }
}

/// Takes a field away; an element of an array becomes null, so that the others keep their places.
fn unset(document: &mut Document, way: &[String]) {
    match way {
        [] => {}
        [name] => drop(document.remove(name)),
        [name, rest @ ..] => {
            if let Some(place) = document.get_mut(name) {
                unset_below(place, rest);
            }
        }
    }
}

fn unset_below(place: &mut Bson, way: &[String]) {
    match (place, way) {
        (Bson::Document(document), way) => unset(document, way),
        (Bson::Array(values), [name, rest @ ..]) => {
            let Some(element) = path::index(name).and_then(|at| values.get_mut(at)) else { return };
            if rest.is_empty() {
                *element = Bson::Null;
            } else {
                unset_below(element, rest);
            }
        }
        _ => {}
    }
}

fn rename(document: &mut Document, source: &Path, target: &Path) -> Result<(), PortError> {
    for path in [source, target] {
        if path::first_array(document, path).is_some_and(|depth| depth < path.0.len()) {
            return Err(PortError::invalid(format!("$rename goes through an array at `{}`", path.text())));
        }
    }
    let Some(value) = read(document, source).cloned() else { return Ok(()) };
    unset(document, &source.0);
    write(document, target, value)
}

/// MongoDB's order of the fields in an update: numbers by their value, before which comes what sorts before digits.
fn compare_paths(a: &Path, b: &Path) -> Ordering {
    for (a, b) in a.0.iter().zip(&b.0) {
        let order = match (path::index(a), path::index(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.0.len().cmp(&b.0.len())
}
