//! Filters: which documents match, by MongoDB's rules.
//!
//! `$eq $ne $gt $gte $lt $lte $in $nin $exists $type $regex $options $all $size $elemMatch $not $and $or $nor`, implicit
//! equality and dotted paths. Values are compared within their type only; null equals what is not there. Every other
//! operator is refused by name.
//!
//! Not here: which documents are looked at (`store`).

use crate::extjson;
use crate::path::{self, Leaf, Path};
use crate::regex::Pattern;
use crate::value::{Bson, Document};
use sandpost_ports::PortError;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Levels of `$and`, `$or`, `$nor`, `$not` and `$elemMatch` within one another.
const DEPTH_MAX: usize = 100;

/// A filter that is well-formed.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    /// Something about what is at a path.
    At(Path, Test),
}

/// What is asked of a place.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Equal(Bson),
    Compare(Comparison, Bson),
    In(Vec<Bson>, Vec<Pattern>),
    Exists,
    Type(Vec<&'static str>),
    Regex(Pattern),
    Size(usize),
    /// An array with a document that matches.
    ElementMatches(Box<Filter>),
    /// An array with an element that passes all; each may be the opposite of a test.
    ElementPasses(Vec<(bool, Test)>),
    /// Never: `$all` of nothing.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    /// Reads a filter.
    pub(crate) fn parse(json: &Value) -> Result<Self, PortError> {
        parse_filter(json, DEPTH_MAX)
    }

    /// Reads operators that are about one place.
    pub(crate) fn of_value(path: &Path, operators: &Map<String, Value>) -> Result<Self, PortError> {
        let mut all = Vec::new();
        parse_operators(path, operators, DEPTH_MAX, &mut all)?;
        Ok(Self::And(all))
    }

    pub(crate) fn matches(&self, document: &Document) -> bool {
        match self {
            Self::And(filters) => filters.iter().all(|filter| filter.matches(document)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(document)),
            Self::Not(filter) => !filter.matches(document),
            Self::At(path, test) => {
                let leaf = match test {
                    Test::Size(_) | Test::ElementMatches(_) | Test::ElementPasses(_) => Leaf::Whole,
                    _ => Leaf::Elements,
                };
                path::any(document, &path.0, leaf, &mut |value| test.passes(value))
            }
        }
    }

    /// Whether it asks for nothing.
    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::And(filters) if filters.iter().all(Self::is_everything))
    }

    /// What every matching document has to equal, one of the values at each path: for indexes.
    pub(crate) fn equalities(&self) -> Vec<(&Path, Vec<&Bson>)> {
        match self {
            Self::And(filters) => filters.iter().flat_map(Self::equalities).collect(),
            Self::At(path, Test::Equal(value)) => vec![(path, vec![value])],
            Self::At(path, Test::In(values, patterns)) if patterns.is_empty() => vec![(path, values.iter().collect())],
            _ => Vec::new(),
        }
    }

    /// The fields that an upsert takes over into the new document.
    pub(crate) fn given(&self) -> Vec<(&Path, &Bson)> {
        match self {
            Self::And(filters) => filters.iter().flat_map(Self::given).collect(),
            Self::Or(filters) if filters.len() == 1 => filters[0].given(),
            Self::At(path, Test::Equal(value)) => vec![(path, value)],
            _ => Vec::new(),
        }
    }
}

impl Test {
    /// Whether one value passes; `None` where there is none.
    pub(crate) fn passes(&self, value: Option<&Bson>) -> bool {
        let is_null = |value: Option<&Bson>| matches!(value, None | Some(Bson::Null));
        match self {
            Self::Equal(Bson::Null) => is_null(value),
            Self::Equal(expected) => value == Some(expected),
            Self::Compare(comparison, Bson::Null) => {
                is_null(value) && matches!(comparison, Comparison::LessOrEqual | Comparison::GreaterOrEqual)
            }
            Self::Compare(comparison, with) => value.is_some_and(|value| comparison.holds(value, with)),
            Self::In(values, patterns) => {
                values.iter().any(|expected| match expected {
                    Bson::Null => is_null(value),
                    expected => value == Some(expected),
                }) || matches!(value, Some(Bson::String(text)) if patterns.iter().any(|pattern| pattern.matches(text)))
            }
            Self::Exists => value.is_some(),
            Self::Type(names) => value.is_some_and(|value| names.contains(&value.type_name())),
            Self::Regex(pattern) => matches!(value, Some(Bson::String(text)) if pattern.matches(text)),
            Self::Size(size) => matches!(value, Some(Bson::Array(values)) if values.len() == *size),
            Self::ElementMatches(filter) => {
                let Some(Bson::Array(values)) = value else { return false };
                values.iter().any(|value| match value {
                    Bson::Document(document) => filter.matches(document),
                    // An array is a document whose names are numbers.
                    Bson::Array(inner) => filter.matches(&Document(
                        inner.iter().enumerate().map(|(at, value)| (at.to_string(), value.clone())).collect(),
                    )),
                    _ => false,
                })
            }
            Self::ElementPasses(tests) => {
                let Some(Bson::Array(values)) = value else { return false };
                values.iter().any(|value| tests.iter().all(|(is_not, test)| test.passes(Some(value)) != *is_not))
            }
            Self::Never => false,
        }
    }
}

impl Comparison {
    fn holds(self, value: &Bson, with: &Bson) -> bool {
        if value.bracket() != with.bracket() {
            return false;
        }
        // What is not a number is neither less nor greater than any.
        if value.is_nan() || with.is_nan() {
            let is_equal = value.is_nan() && with.is_nan();
            return is_equal && matches!(self, Self::LessOrEqual | Self::GreaterOrEqual);
        }
        let order = value.cmp(with);
        match self {
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
        }
    }
}

fn parse_filter(json: &Value, depth_left: usize) -> Result<Filter, PortError> {
    let Value::Object(fields) = json else { return Err(PortError::invalid("a filter is a JSON object")) };
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(PortError::invalid(format!("a filter is nested deeper than {DEPTH_MAX} levels")));
    };
    let mut all = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        match name.as_str() {
            "$and" => all.push(Filter::And(parse_list(name, value, depth_left)?)),
            "$or" => all.push(Filter::Or(parse_list(name, value, depth_left)?)),
            "$nor" => all.push(Filter::Not(Box::new(Filter::Or(parse_list(name, value, depth_left)?)))),
            _ if name.starts_with('$') => return Err(unknown(name)),
            _ => parse_field(&Path::parse(name)?, value, depth_left, &mut all)?,
        }
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
}

fn parse_list(name: &str, json: &Value, depth_left: usize) -> Result<Vec<Filter>, PortError> {
    match json {
        Value::Array(filters) if !filters.is_empty() => {
            filters.iter().map(|filter| parse_filter(filter, depth_left)).collect()
        }
        _ => Err(PortError::invalid(format!("{name} takes an array of at least one filter"))),
    }
}

fn parse_field(path: &Path, json: &Value, depth_left: usize, all: &mut Vec<Filter>) -> Result<(), PortError> {
    if let Some(operators) = operators(json)? {
        return parse_operators(path, operators, depth_left, all);
    }
    all.push(Filter::At(path.clone(), equal_or_regex(json)?));
    Ok(())
}

/// The object where it holds operators, and nothing where it is a value; a mixture is an error.
pub(crate) fn operators(json: &Value) -> Result<Option<&Map<String, Value>>, PortError> {
    let Value::Object(fields) = json else { return Ok(None) };
    let count = fields.keys().filter(|name| name.starts_with('$')).count();
    if count == 0 || extjson::is_wrapped(fields) {
        Ok(None)
    } else if count == fields.len() {
        Ok(Some(fields))
    } else {
        Err(PortError::invalid("operators and fields are mixed in one object"))
    }
}

fn parse_operators(
    path: &Path,
    operators: &Map<String, Value>,
    depth_left: usize,
    all: &mut Vec<Filter>,
) -> Result<(), PortError> {
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(PortError::invalid(format!("a filter is nested deeper than {DEPTH_MAX} levels")));
    };
    let at = |test| Filter::At(path.clone(), test);
    let not = |filter| Filter::Not(Box::new(filter));
    for (name, json) in operators {
        let filter = match name.as_str() {
            "$eq" => at(Test::Equal(extjson::value(json)?)),
            "$ne" => not(at(Test::Equal(extjson::value(json)?))),
            "$gt" => at(Test::Compare(Comparison::Greater, extjson::value(json)?)),
            "$gte" => at(Test::Compare(Comparison::GreaterOrEqual, extjson::value(json)?)),
            "$lt" => at(Test::Compare(Comparison::Less, extjson::value(json)?)),
            "$lte" => at(Test::Compare(Comparison::LessOrEqual, extjson::value(json)?)),
            "$in" => at(parse_in(name, json)?),
            "$nin" => not(at(parse_in(name, json)?)),
            "$exists" if is_true(json)? => at(Test::Exists),
            "$exists" => not(at(Test::Exists)),
            "$type" => at(Test::Type(parse_types(json)?)),
            "$regex" => at(Test::Regex(parse_regex(json, operators.get("$options"))?)),
            "$options" if operators.contains_key("$regex") => continue,
            "$options" => return Err(PortError::invalid("$options stands without $regex")),
            "$all" => {
                parse_all(path, json, depth_left, all)?;
                continue;
            }
            "$size" => at(Test::Size(parse_size(json)?)),
            "$elemMatch" => at(parse_element_match(json, depth_left)?),
            "$not" => {
                let mut inner = Vec::new();
                match self::operators(json)? {
                    Some(operators) if !operators.is_empty() => {
                        parse_operators(path, operators, depth_left, &mut inner)?;
                    }
                    _ => match json {
                        Value::Object(fields) if fields.contains_key("$regularExpression") => {
                            inner.push(at(equal_or_regex(json)?));
                        }
                        _ => return Err(PortError::invalid("$not takes operators or a regular expression")),
                    },
                }
                not(Filter::And(inner))
            }
            _ => return Err(unknown(name)),
        };
        all.push(filter);
    }
    Ok(())
}

/// A value to equal, or a regular expression to match.
fn equal_or_regex(json: &Value) -> Result<Test, PortError> {
    Ok(match regular_expression(json)? {
        Some(pattern) => Test::Regex(pattern),
        None => Test::Equal(extjson::value(json)?),
    })
}

fn regular_expression(json: &Value) -> Result<Option<Pattern>, PortError> {
    let Some(inner) = json.get("$regularExpression") else { return Ok(None) };
    match (inner.get("pattern").and_then(Value::as_str), inner.get("options").and_then(Value::as_str)) {
        (Some(pattern), Some(options)) => Ok(Some(Pattern::new(pattern, options)?)),
        _ => Err(PortError::invalid("`$regularExpression` does not hold what Extended JSON has there")),
    }
}

fn parse_regex(json: &Value, options: Option<&Value>) -> Result<Pattern, PortError> {
    let options = match options {
        None => "",
        Some(Value::String(options)) => options,
        Some(_) => return Err(PortError::invalid("$options is a string")),
    };
    match json {
        Value::String(pattern) => Pattern::new(pattern, options),
        _ => match regular_expression(json)? {
            Some(pattern) if options.is_empty() => Ok(pattern),
            _ => Err(PortError::invalid("$regex is a string")),
        },
    }
}

fn parse_in(name: &str, json: &Value) -> Result<Test, PortError> {
    let Value::Array(listed) = json else { return Err(PortError::invalid(format!("{name} takes an array"))) };
    let (mut values, mut patterns) = (Vec::new(), Vec::new());
    for json in listed {
        match regular_expression(json)? {
            Some(pattern) => patterns.push(pattern),
            None => values.push(extjson::value(json)?),
        }
    }
    Ok(Test::In(values, patterns))
}

fn parse_all(path: &Path, json: &Value, depth_left: usize, all: &mut Vec<Filter>) -> Result<(), PortError> {
    let Value::Array(values) = json else { return Err(PortError::invalid("$all takes an array")) };
    if values.is_empty() {
        all.push(Filter::At(path.clone(), Test::Never));
    }
    let is_element_match = |json: &Value| json.get("$elemMatch").is_some();
    let with_element_match = values.iter().any(is_element_match);
    for json in values {
        let test = match operators(json)? {
            Some(operators) if operators.len() == 1 && is_element_match(json) => {
                parse_element_match(&operators["$elemMatch"], depth_left)?
            }
            Some(_) => return Err(PortError::invalid("$all takes values, or $elemMatch alone in each object")),
            None if with_element_match => return Err(PortError::invalid("$all takes values or $elemMatch, not both")),
            None => equal_or_regex(json)?,
        };
        all.push(Filter::At(path.clone(), test));
    }
    Ok(())
}

fn parse_element_match(json: &Value, depth_left: usize) -> Result<Test, PortError> {
    let Value::Object(fields) = json else { return Err(PortError::invalid("$elemMatch takes an object")) };
    let is_logical = |name: &str| matches!(name, "$and" | "$or" | "$nor");
    match operators(json)? {
        Some(operators) if !operators.keys().any(|name| is_logical(name)) => {
            let mut filters = Vec::new();
            // The path is a stand-in: only the tests are kept.
            let element = Path(vec![String::new()]);
            parse_operators(&element, operators, depth_left, &mut filters)?;
            let mut tests = Vec::with_capacity(filters.len());
            for filter in filters {
                flatten(filter, &mut tests)?;
            }
            Ok(Test::ElementPasses(tests))
        }
        _ if extjson::is_wrapped(fields) => Err(PortError::invalid("$elemMatch takes operators or a filter")),
        _ => Ok(Test::ElementMatches(Box::new(parse_filter(json, depth_left)?))),
    }
}

/// The tests of one element; `$not` of several is refused, as it is no list of tests.
fn flatten(filter: Filter, tests: &mut Vec<(bool, Test)>) -> Result<(), PortError> {
    match filter {
        Filter::At(_, test) => tests.push((false, test)),
        Filter::Not(inner) => match *inner {
            Filter::At(_, test) => tests.push((true, test)),
            Filter::And(mut filters) if filters.len() == 1 => match filters.remove(0) {
                Filter::At(_, test) => tests.push((true, test)),
                Filter::Not(inner) => flatten(*inner, tests)?,
                _ => return Err(PortError::unsupported("$not of several operators in an $elemMatch on values")),
            },
            _ => return Err(PortError::unsupported("$not of several operators in an $elemMatch on values")),
        },
        Filter::And(_) | Filter::Or(_) => {
            return Err(PortError::unsupported("logical operators in an $elemMatch on values"));
        }
    }
    Ok(())
}

fn parse_size(json: &Value) -> Result<usize, PortError> {
    let size = extjson::value(json)?.as_whole().and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| PortError::invalid("$size takes a whole number, zero or more"))
}

fn is_true(json: &Value) -> Result<bool, PortError> {
    Ok(match extjson::value(json)? {
        Bson::Bool(value) => value,
        Bson::Null => false,
        number @ (Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_)) => number != Bson::Int32(0),
        _ => true,
    })
}

fn parse_types(json: &Value) -> Result<Vec<&'static str>, PortError> {
    let listed = match json {
        Value::Array(listed) if listed.is_empty() => return Err(PortError::invalid("$type takes at least one type")),
        Value::Array(listed) => listed.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut names = Vec::new();
    for json in listed {
        let word = match json {
            Value::String(word) => word.clone(),
            json => extjson::value(json)?.as_whole().map(|code| code.to_string()).unwrap_or_default(),
        };
        names.extend_from_slice(match word.as_str() {
            "number" => &["int", "long", "double"][..],
            "double" | "1" => &["double"],
            "string" | "2" => &["string"],
            "object" | "3" => &["object"],
            "array" | "4" => &["array"],
            "binData" | "5" => &["binData"],
            "objectId" | "7" => &["objectId"],
            "bool" | "8" => &["bool"],
            "date" | "9" => &["date"],
            "null" | "10" => &["null"],
            "int" | "16" => &["int"],
            "timestamp" | "17" => &["timestamp"],
            "long" | "18" => &["long"],
            // Types that are never kept: nothing has them.
            "undefined"
            | "6"
            | "regex"
            | "11"
            | "dbPointer"
            | "12"
            | "javascript"
            | "13"
            | "symbol"
            | "14"
            | "javascriptWithScope"
            | "15"
            | "decimal"
            | "19"
            | "minKey"
            | "-1"
            | "maxKey"
            | "127" => &[],
            _ => return Err(PortError::invalid(format!("$type does not know `{word}`"))),
        });
    }
    Ok(names)
}

fn unknown(name: &str) -> PortError {
    PortError::unsupported(format!("the operator `{name}` in a filter"))
}
