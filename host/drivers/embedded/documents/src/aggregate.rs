//! Pipelines: `$match $sort $skip $limit $group $project $count`.
//!
//! Documents are pushed through one by one; only `$sort` and `$group` keep any, and what they keep is counted
//! ([`Budget`]). In expressions there are paths (`"$a.b"`), `$$ROOT`, `$literal`, constants and documents of these; every
//! other stage, accumulator, expression and variable is refused by name.
//!
//! Not here: which documents go in (`collection`).

use crate::extjson;
use crate::filter::{self, Filter};
use crate::path::Path;
use crate::projection::{self, Projection};
use crate::sort::{Sort, SortKey};
use crate::update::as_double;
use crate::value::{Bson, Document};
use sandpost_ports::{ErrorKind, PortError};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Most stages of one pipeline; MongoDB's limit.
const STAGES_MAX: usize = 1_000;

/// What the stages of one pipeline may keep in memory together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    left_bytes: usize,
    max_bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { left_bytes: max_bytes, max_bytes }
    }

    /// Takes from it, or says that it is used up.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), PortError> {
        self.left_bytes = self.left_bytes.checked_sub(bytes).ok_or_else(|| {
            PortError::new(ErrorKind::Exceeded, format!("sorting or grouping takes more than {} bytes", self.max_bytes))
        })?;
        Ok(())
    }
}

/// A pipeline that is well-formed, and what it has taken in so far.
#[derive(Debug)]
pub(crate) struct Pipeline {
    stages: Vec<Stage>,
    budget: Budget,
    results: Vec<Document>,
}

#[derive(Debug)]
enum Stage {
    Match(Filter),
    Skip(u64),
    Limit(u64),
    Project { projection: Option<Projection>, computed: Vec<(String, Expression)> },
    Sort { sort: Sort, kept: Vec<(SortKey, Document)> },
    Group { id: Expression, fields: Vec<(String, Accumulate, Expression)>, groups: Groups },
    Count { name: String, count: u64 },
}

/// What a group is told apart by, and its place among those seen.
#[derive(Debug, Default)]
struct Groups {
    places: BTreeMap<Bson, usize>,
    /// In the order in which they were first seen.
    groups: Vec<(Bson, Vec<State>)>,
}

#[derive(Debug, Clone)]
enum Expression {
    Constant(Bson),
    Field(Path),
    Root,
    Document(Vec<(String, Expression)>),
}

#[derive(Debug, Clone, Copy)]
enum Accumulate {
    Sum,
    Average,
    Least,
    Greatest,
    First,
    Last,
    Push,
    AddToSet,
}

#[derive(Debug)]
enum State {
    Sum(Sum),
    Average(Sum, u64),
    One(Option<Bson>),
    Many(Vec<Bson>),
    /// Each once; in the order of values, as MongoDB promises none.
    Set(BTreeSet<Bson>),
}

/// A sum that is exact for integers and compensated for doubles.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    whole: i128,
    double: f64,
    lost: f64,
    is_double: bool,
    is_long: bool,
}

impl Pipeline {
    /// Reads a pipeline. The filter of a first `$match` is apart, so that an index can serve it.
    pub(crate) fn parse(stages: &[Value], memory_max_bytes: usize) -> Result<(Filter, Self), PortError> {
        if stages.len() > STAGES_MAX {
            return Err(PortError::invalid(format!("a pipeline has more than {STAGES_MAX} stages")));
        }
        let mut stages = stages.iter().map(Stage::parse).collect::<Result<Vec<_>, _>>()?;
        let filter = match stages.first_mut() {
            Some(Stage::Match(filter)) => std::mem::replace(filter, Filter::And(Vec::new())),
            _ => Filter::And(Vec::new()),
        };
        Ok((filter, Self { stages, budget: Budget::new(memory_max_bytes), results: Vec::new() }))
    }

    /// Takes one document in. False once no further one can change the results.
    pub(crate) fn push(&mut self, document: Document) -> Result<bool, PortError> {
        self.push_from(0, document)
    }

    /// The results, after the last document.
    pub(crate) fn finish(mut self) -> Result<Vec<Document>, PortError> {
        for at in 0..self.stages.len() {
            for document in self.stages[at].finish() {
                self.push_from(at + 1, document)?;
            }
        }
        Ok(self.results)
    }

    fn push_from(&mut self, first: usize, document: Document) -> Result<bool, PortError> {
        let mut document = document;
        let mut goes_on = true;
        for stage in self.stages.iter_mut().skip(first) {
            match stage.push(document, &mut self.budget)? {
                Pushed::On(next) => document = next,
                Pushed::Last(next) => {
                    document = next;
                    goes_on = false;
                }
                Pushed::Kept => return Ok(goes_on),
                Pushed::Full => return Ok(false),
            }
        }
        self.budget.take(document.size_bytes())?;
        self.results.push(document);
        Ok(goes_on)
    }
}

enum Pushed {
    On(Document),
    /// As `On`, and nothing more will come through.
    Last(Document),
    Kept,
    Full,
}

impl Stage {
    fn parse(json: &Value) -> Result<Self, PortError> {
        let Some((name, argument)) =
            json.as_object().filter(|stage| stage.len() == 1).and_then(|stage| stage.iter().next())
        else {
            return Err(PortError::invalid("a stage of a pipeline is an object with one operator"));
        };
        let whole = |least: i64| {
            let number = extjson::value(argument)?.as_whole().filter(|number| *number >= least);
            number
                .and_then(|number| u64::try_from(number).ok())
                .ok_or_else(|| PortError::invalid(format!("{name} takes a whole number, {least} or more")))
        };
        Ok(match name.as_str() {
            "$match" => Self::Match(Filter::parse(argument)?),
            "$skip" => Self::Skip(whole(0)?),
            "$limit" => Self::Limit(whole(1)?),
            "$sort" => Self::Sort {
                sort: Sort::parse(argument)?.ok_or_else(|| PortError::invalid("$sort takes at least one field"))?,
                kept: Vec::new(),
            },
            "$count" => match argument {
                Value::String(name) if !name.is_empty() && !name.starts_with('$') && !name.contains(['.', '\0']) => {
                    Self::Count { name: name.clone(), count: 0 }
                }
                _ => return Err(PortError::invalid("$count takes the name of a field")),
            },
            "$project" => parse_project(argument)?,
            "$group" => parse_group(argument)?,
            _ => return Err(PortError::unsupported(format!("the stage `{name}`"))),
        })
    }

    fn push(&mut self, document: Document, budget: &mut Budget) -> Result<Pushed, PortError> {
        Ok(match self {
            Self::Match(filter) if filter.matches(&document) => Pushed::On(document),
            Self::Match(_) => Pushed::Kept,
            Self::Skip(0) => Pushed::On(document),
            Self::Skip(left) => {
                *left -= 1;
                Pushed::Kept
            }
            Self::Limit(0) => Pushed::Full,
            Self::Limit(left) => {
                *left -= 1;
                if *left == 0 { Pushed::Last(document) } else { Pushed::On(document) }
            }
            Self::Project { projection, computed } => {
                let mut projected = projection.as_ref().map_or_else(Document::default, |kept| kept.apply(&document));
                for (name, expression) in computed {
                    match expression.value(&document) {
                        Some(value) => projected.set(name, value),
                        None => drop(projected.remove(name)),
                    }
                }
                Pushed::On(projected)
            }
            Self::Sort { sort, kept } => {
                budget.take(document.size_bytes())?;
                kept.push((sort.key(&document)?, document));
                Pushed::Kept
            }
            Self::Count { count, .. } => {
                *count += 1;
                Pushed::Kept
            }
            Self::Group { id, fields, groups } => {
                let id = id.value(&document).unwrap_or(Bson::Null);
                let Groups { places, groups } = groups;
                let place = if let Some(place) = places.get(&id) {
                    *place
                } else {
                    budget.take(2 * id.size_bytes() + 64 * (1 + fields.len()))?;
                    places.insert(id.clone(), groups.len());
                    groups.push((id, fields.iter().map(|(_, accumulate, _)| accumulate.start()).collect()));
                    groups.len() - 1
                };
                if let Some((_, states)) = groups.get_mut(place) {
                    for ((_, accumulate, expression), state) in fields.iter().zip(states) {
                        state.add(*accumulate, expression.value(&document), budget)?;
                    }
                }
                Pushed::Kept
            }
        })
    }

    /// What comes out after the last document went in.
    fn finish(&mut self) -> Vec<Document> {
        match self {
            Self::Sort { sort, kept } => {
                kept.sort_by(|(a, _), (b, _)| sort.compare(a, b));
                std::mem::take(kept).into_iter().map(|(_, document)| document).collect()
            }
            Self::Count { name, count } if *count > 0 => {
                let count = i32::try_from(*count)
                    .map_or_else(|_| Bson::Int64(i64::try_from(*count).unwrap_or(i64::MAX)), Bson::Int32);
                vec![Document(vec![(name.clone(), count)])]
            }
            Self::Group { fields, groups, .. } => std::mem::take(groups)
                .groups
                .into_iter()
                .map(|(id, states)| {
                    let values = fields.iter().zip(states).map(|((name, ..), state)| (name.clone(), state.finish()));
                    Document(std::iter::once(("_id".to_owned(), id)).chain(values).collect())
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn parse_project(argument: &Value) -> Result<Stage, PortError> {
    let Some(listed) = argument.as_object().filter(|listed| !listed.is_empty()) else {
        return Err(PortError::invalid("$project takes an object of at least one field"));
    };
    let (mut kept, mut computed) = (Map::new(), Vec::new());
    for (name, json) in listed {
        let is_choice = projection::choice(&without_operators(json)).is_ok_and(|choice| choice.is_some());
        if is_choice || (json.is_object() && filter::operators(json)?.is_none()) {
            kept.insert(name.clone(), json.clone());
        } else {
            if Path::parse(name)?.0.len() > 1 {
                return Err(PortError::unsupported(format!("a computed field within another, `{name}`, in $project")));
            }
            computed.push((name.clone(), Expression::parse(json)?));
        }
    }
    let kept = Value::Object(kept);
    if computed.is_empty() {
        return Ok(Stage::Project { projection: Projection::parse(&kept)?, computed });
    }
    let mut projection = Projection::parse(&kept)?;
    if projection.as_ref().is_some_and(|kept| !kept.keeps_fields()) {
        // `_id: 0` beside computed fields: nothing is kept but what is computed.
        if kept.as_object().is_some_and(|kept| kept.keys().any(|name| name != "_id")) {
            return Err(PortError::invalid("$project leaves fields out beside computed ones"));
        }
        projection = None;
    } else if projection.is_none() {
        projection = Projection::of(&[(Path::parse("_id")?, true)])?;
    }
    Ok(Stage::Project { projection, computed })
}

/// Operators as null: they are no choice, and reading them as a value would be an error.
fn without_operators(json: &Value) -> Value {
    if json.is_object() { Value::Null } else { json.clone() }
}

fn parse_group(argument: &Value) -> Result<Stage, PortError> {
    let Some(listed) = argument.as_object() else { return Err(PortError::invalid("$group takes an object")) };
    let Some(id) = listed.get("_id") else { return Err(PortError::invalid("$group takes an `_id`")) };
    let mut fields = Vec::new();
    for (name, json) in listed.iter().filter(|(name, _)| name.as_str() != "_id") {
        if name.contains('.') || name.starts_with('$') {
            return Err(PortError::invalid(format!("the field name `{name}` in $group")));
        }
        let Some((accumulator, argument)) =
            json.as_object().filter(|object| object.len() == 1).and_then(|object| object.iter().next())
        else {
            return Err(PortError::invalid(format!("the field `{name}` in $group takes one accumulator")));
        };
        let accumulate = match accumulator.as_str() {
            "$sum" => Accumulate::Sum,
            "$avg" => Accumulate::Average,
            "$min" => Accumulate::Least,
            "$max" => Accumulate::Greatest,
            "$first" => Accumulate::First,
            "$last" => Accumulate::Last,
            "$push" => Accumulate::Push,
            "$addToSet" => Accumulate::AddToSet,
            "$count" if argument.as_object().is_some_and(Map::is_empty) => {
                fields.push((name.clone(), Accumulate::Sum, Expression::Constant(Bson::Int32(1))));
                continue;
            }
            "$count" => return Err(PortError::invalid("$count in $group takes an empty object")),
            other => return Err(PortError::unsupported(format!("the accumulator `{other}`"))),
        };
        fields.push((name.clone(), accumulate, Expression::parse(argument)?));
    }
    Ok(Stage::Group { id: Expression::parse(id)?, fields, groups: Groups::default() })
}

impl Expression {
    fn parse(json: &Value) -> Result<Self, PortError> {
        match json {
            Value::String(text) if text == "$$ROOT" => Ok(Self::Root),
            Value::String(text) if text.starts_with("$$") => {
                Err(PortError::unsupported(format!("the variable `{text}`")))
            }
            Value::String(text) => match text.strip_prefix('$') {
                Some(path) => Path::parse(path).map(Self::Field),
                None => Ok(Self::Constant(Bson::String(text.clone()))),
            },
            Value::Object(fields) if !extjson::is_wrapped(fields) => {
                if let Some(literal) = fields.get("$literal").filter(|_| fields.len() == 1) {
                    return extjson::value(literal).map(Self::Constant);
                }
                let mut inner = Vec::with_capacity(fields.len());
                for (name, json) in fields {
                    if name.starts_with('$') {
                        return Err(PortError::unsupported(format!("the expression `{name}`")));
                    }
                    if name.contains('.') {
                        return Err(PortError::invalid(format!("the field name `{name}` in an expression")));
                    }
                    inner.push((name.clone(), Self::parse(json)?));
                }
                Ok(Self::Document(inner))
            }
            Value::Array(values)
                if values.iter().any(|value| value.is_array() || value.is_object() || value.is_string()) =>
            {
                Err(PortError::unsupported("an array of expressions"))
            }
            other => extjson::value(other).map(Self::Constant),
        }
    }

    /// Nothing where a path leads nowhere.
    fn value(&self, document: &Document) -> Option<Bson> {
        match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Root => Some(Bson::Document(document.clone())),
            Self::Field(path) => {
                let (first, rest) = path.0.split_first()?;
                document.get(first).and_then(|value| at(value, rest))
            }
            Self::Document(fields) => Some(Bson::Document(Document(
                fields.iter().filter_map(|(name, field)| Some((name.clone(), field.value(document)?))).collect(),
            ))),
        }
    }
}

/// A path in an expression: through an array, it is that of every document in it; a number is a name like any other.
fn at(value: &Bson, way: &[String]) -> Option<Bson> {
    let Some((name, rest)) = way.split_first() else { return Some(value.clone()) };
    match value {
        Bson::Document(document) => at(document.get(name)?, rest),
        Bson::Array(values) => Some(Bson::Array(values.iter().filter_map(|value| at(value, way)).collect())),
        _ => None,
    }
}

impl Accumulate {
    fn start(self) -> State {
        match self {
            Self::Sum => State::Sum(Sum::default()),
            Self::Average => State::Average(Sum::default(), 0),
            Self::Least | Self::Greatest | Self::First | Self::Last => State::One(None),
            Self::Push => State::Many(Vec::new()),
            Self::AddToSet => State::Set(BTreeSet::new()),
        }
    }
}

impl State {
    fn add(&mut self, accumulate: Accumulate, value: Option<Bson>, budget: &mut Budget) -> Result<(), PortError> {
        match (self, accumulate, value) {
            (Self::Sum(sum), _, Some(value)) => {
                sum.add(&value);
            }
            (Self::Average(sum, count), _, Some(value)) => *count += u64::from(sum.add(&value)),
            (Self::One(first @ None), Accumulate::First, value) => *first = Some(value.unwrap_or(Bson::Null)),
            (Self::One(last), Accumulate::Last, value) => *last = Some(value.unwrap_or(Bson::Null)),
            (Self::One(_), Accumulate::First, _) | (Self::One(_), _, None | Some(Bson::Null)) | (_, _, None) => {}
            (Self::One(end), accumulate, Some(value)) => {
                let is_further = end.as_ref().is_none_or(|end| match accumulate {
                    Accumulate::Least => value < *end,
                    _ => value > *end,
                });
                if is_further {
                    budget.take(value.size_bytes())?;
                    *end = Some(value);
                }
            }
            (Self::Many(values), _, Some(value)) => {
                budget.take(value.size_bytes() + size_of::<Bson>())?;
                values.push(value);
            }
            (Self::Set(values), _, Some(value)) => {
                if !values.contains(&value) {
                    budget.take(value.size_bytes() + 2 * size_of::<Bson>())?;
                    values.insert(value);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Bson {
        match self {
            Self::Sum(sum) => sum.finish(),
            Self::Average(_, 0) => Bson::Null,
            #[expect(clippy::cast_precision_loss, reason = "an average is a double, as in MongoDB")]
            Self::Average(sum, count) => Bson::Double(sum.as_double() / count as f64),
            Self::One(value) => value.unwrap_or(Bson::Null),
            Self::Many(values) => Bson::Array(values),
            Self::Set(values) => Bson::Array(values.into_iter().collect()),
        }
    }
}

impl Sum {
    /// Whether it was a number.
    fn add(&mut self, value: &Bson) -> bool {
        match value {
            Bson::Double(_) => {
                let Some(number) = as_double(value) else { return false };
                // Neumaier's: what the sum was too coarse for is kept apart.
                let sum = self.double + number;
                if sum.is_finite() {
                    self.lost += if self.double.abs() >= number.abs() {
                        (self.double - sum) + number
                    } else {
                        (number - sum) + self.double
                    };
                }
                self.double = sum;
                self.is_double = true;
            }
            Bson::Int32(number) => self.whole += i128::from(*number),
            Bson::Int64(number) => {
                self.whole += i128::from(*number);
                self.is_long = true;
            }
            _ => return false,
        }
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "a sum with a double in it is a double, as in MongoDB")]
    fn as_double(self) -> f64 {
        self.double + self.lost + self.whole as f64
    }

    fn finish(self) -> Bson {
        if self.is_double {
            return Bson::Double(self.as_double());
        }
        match (i32::try_from(self.whole), i64::try_from(self.whole)) {
            (Ok(small), _) if !self.is_long => Bson::Int32(small),
            (_, Ok(whole)) => Bson::Int64(whole),
            _ => Bson::Double(self.as_double()),
        }
    }
}
