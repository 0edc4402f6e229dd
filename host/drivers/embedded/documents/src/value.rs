//! BSON values: the types that are kept, their order, and which of them are the same.
//!
//! The order is MongoDB's (<https://www.mongodb.com/docs/manual/reference/bson-type-comparison-order/>, read 2026-08):
//! types first, numbers of all kinds as one type, then the value. Within it, `1`, `1.0` and `NumberLong(1)` are equal;
//! only [`Bson::is_identical`] tells them apart.
//!
//! Not here: JSON (`extjson`), dotted paths (`path`).

use std::cmp::Ordering;

/// One value.
#[derive(Debug, Clone)]
pub(crate) enum Bson {
    Null,
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Double(f64),
    String(String),
    Array(Vec<Bson>),
    Document(Document),
    /// Subtype and bytes.
    Binary(u8, Vec<u8>),
    ObjectId([u8; 12]),
    /// Milliseconds since 1970-01-01T00:00:00Z.
    Date(i64),
    /// Seconds and counter.
    Timestamp(u32, u32),
}

/// Fields in their order, which is part of the value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document(pub(crate) Vec<(String, Bson)>);

impl Document {
    pub(crate) fn get(&self, name: &str) -> Option<&Bson> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Bson> {
        self.0.iter_mut().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Replaces the field where it stands, or puts it at the end.
    pub(crate) fn set(&mut self, name: &str, value: Bson) {
        match self.get_mut(name) {
            Some(slot) => *slot = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Bson> {
        let at = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.remove(at).1)
    }

    /// Size as MongoDB counts it, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        5 + self.0.iter().map(|(name, value)| 2 + name.len() + value.size_bytes()).sum::<usize>()
    }

    /// Levels of documents and arrays, this one included.
    pub(crate) fn depth(&self) -> usize {
        1 + self.0.iter().map(|(_, value)| value.depth()).max().unwrap_or(0)
    }

    /// The same to the last bit: types, order of fields and all.
    pub(crate) fn is_identical(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|((a, x), (b, y))| a == b && x.is_identical(y))
    }
}

impl Bson {
    /// What it is called in messages and by `$type`.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int32(_) => "int",
            Self::Int64(_) => "long",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Document(_) => "object",
            Self::Binary(..) => "binData",
            Self::ObjectId(_) => "objectId",
            Self::Date(_) => "date",
            Self::Timestamp(..) => "timestamp",
        }
    }

    /// The bracket in which values are compared with one another; brackets are in MongoDB's order.
    pub(crate) fn bracket(&self) -> u8 {
        match self {
            Self::Null => 1,
            Self::Int32(_) | Self::Int64(_) | Self::Double(_) => 2,
            Self::String(_) => 3,
            Self::Document(_) => 4,
            Self::Array(_) => 5,
            Self::Binary(..) => 6,
            Self::ObjectId(_) => 7,
            Self::Bool(_) => 8,
            Self::Date(_) => 9,
            Self::Timestamp(..) => 10,
        }
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self, Self::Double(number) if number.is_nan())
    }

    /// As a whole number, where it is one: 2, 2.0 and NumberLong(2) are.
    pub(crate) fn as_whole(&self) -> Option<i64> {
        match self {
            Self::Int32(number) => Some((*number).into()),
            Self::Int64(number) => Some(*number),
            Self::Double(number) => whole(*number),
            _ => None,
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int32(_) => 4,
            Self::Int64(_) | Self::Double(_) | Self::Date(_) | Self::Timestamp(..) => 8,
            Self::String(text) => 5 + text.len(),
            Self::Array(values) => {
                5 + values
                    .iter()
                    .enumerate()
                    .map(|(i, value)| 2 + decimal_digits(i) + value.size_bytes())
                    .sum::<usize>()
            }
            Self::Document(document) => document.size_bytes(),
            Self::Binary(_, bytes) => 5 + bytes.len(),
            Self::ObjectId(_) => 12,
        }
    }

    pub(crate) fn depth(&self) -> usize {
        match self {
            Self::Array(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Self::Document(document) => document.depth(),
            _ => 0,
        }
    }

    /// The same to the last bit, the kind of number included.
    pub(crate) fn is_identical(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Double(a), Self::Double(b)) => a.to_bits() == b.to_bits(),
            (Self::Array(a), Self::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_identical(b)),
            (Self::Document(a), Self::Document(b)) => a.is_identical(b),
            _ => std::mem::discriminant(self) == std::mem::discriminant(other) && self == other,
        }
    }

    /// Appends bytes that are the same for equal values and different for others, and that say where they end.
    pub(crate) fn encode_key(&self, out: &mut Vec<u8>) {
        out.push(self.bracket());
        let text = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        match self {
            Self::Null => {}
            Self::Bool(value) => out.push((*value).into()),
            Self::Int32(_) | Self::Int64(_) | Self::Double(_) => match (self.as_whole(), self) {
                (Some(number), _) => {
                    out.push(0);
                    out.extend_from_slice(&number.to_be_bytes());
                }
                (None, Self::Double(number)) => {
                    out.push(1);
                    let number = if number.is_nan() { f64::NAN } else { *number };
                    out.extend_from_slice(&number.to_bits().to_be_bytes());
                }
                // Integers are whole numbers.
                (None, _) => {}
            },
            Self::String(value) => text(out, value.as_bytes()),
            Self::Array(values) => {
                out.extend_from_slice(&(values.len() as u64).to_be_bytes());
                for value in values {
                    value.encode_key(out);
                }
            }
            Self::Document(document) => {
                out.extend_from_slice(&(document.0.len() as u64).to_be_bytes());
                for (name, value) in &document.0 {
                    text(out, name.as_bytes());
                    value.encode_key(out);
                }
            }
            Self::Binary(subtype, bytes) => {
                out.push(*subtype);
                text(out, bytes);
            }
            Self::ObjectId(bytes) => out.extend_from_slice(bytes),
            Self::Date(at) => out.extend_from_slice(&at.to_be_bytes()),
            Self::Timestamp(seconds, counter) => {
                out.extend_from_slice(&seconds.to_be_bytes());
                out.extend_from_slice(&counter.to_be_bytes());
            }
        }
    }
}

impl PartialEq for Bson {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Bson {}

impl PartialOrd for Bson {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bson {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Array(a), Self::Array(b)) => a.cmp(b),
            (Self::Document(a), Self::Document(b)) => a.cmp(b),
            (Self::Binary(a, x), Self::Binary(b, y)) => x.len().cmp(&y.len()).then(a.cmp(b)).then_with(|| x.cmp(y)),
            (Self::ObjectId(a), Self::ObjectId(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Timestamp(a, x), Self::Timestamp(b, y)) => a.cmp(b).then(x.cmp(y)),
            (Self::Double(a), Self::Double(b)) => compare_doubles(*a, *b),
            (Self::Double(a), other) if other.bracket() == 2 => {
                compare_whole(other.as_whole().unwrap_or(0), *a).reverse()
            }
            (this, Self::Double(b)) if this.bracket() == 2 => compare_whole(this.as_whole().unwrap_or(0), *b),
            (this, other) => {
                let whole = |value: &Self| value.as_whole().unwrap_or(0);
                this.bracket().cmp(&other.bracket()).then_with(|| whole(this).cmp(&whole(other)))
            }
        }
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Document {}

impl PartialOrd for Document {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Document {
    /// Field by field: type, then name, then value; the shorter one first.
    fn cmp(&self, other: &Self) -> Ordering {
        for ((a, x), (b, y)) in self.0.iter().zip(&other.0) {
            let order =
                x.bracket().cmp(&y.bracket()).then_with(|| a.as_bytes().cmp(b.as_bytes())).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
        }
        self.0.len().cmp(&other.0.len())
    }
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The first double past `i64::MAX`: 2^63, exactly.
const I64_END: f64 = 9_223_372_036_854_775_808.0;

#[expect(clippy::cast_possible_truncation, reason = "the range is checked, and the fraction is none")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && (-I64_END..I64_END).contains(&number)).then_some(number as i64)
}

/// Not-a-number comes before all other numbers and equals itself; the two zeros are one.
fn compare_doubles(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Exact, also where a double cannot hold the integer.
fn compare_whole(a: i64, b: f64) -> Ordering {
    if b.is_nan() || b < -I64_END {
        return Ordering::Greater;
    }
    if b >= I64_END {
        return Ordering::Less;
    }
    let floor = whole(b.floor()).unwrap_or(0);
    a.cmp(&floor).then(if b.fract() == 0.0 { Ordering::Equal } else { Ordering::Less })
}
