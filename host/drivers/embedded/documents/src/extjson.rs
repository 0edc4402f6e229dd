//! MongoDB Extended JSON v2: read in either form, written relaxed.
//!
//! What is kept in the database is relaxed too, but for one thing: a 64-bit integer that would fit 32 bits stays marked,
//! so that its type survives ([`stored`]).
//!
//! Types that this driver does not keep ($numberDecimal, $regularExpression, $code, $symbol, $minKey, $maxKey, $dbPointer,
//! $undefined) are refused by name.

use crate::value::{Bson, Document};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sandpost_ports::{ErrorKind, PortError};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Levels of documents and arrays; MongoDB's own limit.
pub(crate) const DEPTH_MAX: usize = 100;

/// Size of a document; MongoDB's own limit.
pub(crate) const DOCUMENT_MAX_BYTES: usize = 16 << 20;

/// Whether an object is a value in Extended JSON rather than operators: `{"$oid": …}`.
pub(crate) fn is_wrapped(object: &Map<String, Value>) -> bool {
    object.keys().next().is_some_and(|key| {
        matches!(
            key.as_str(),
            "$oid"
                | "$date"
                | "$numberInt"
                | "$numberLong"
                | "$numberDouble"
                | "$numberDecimal"
                | "$binary"
                | "$uuid"
                | "$timestamp"
                | "$regularExpression"
                | "$code"
                | "$symbol"
                | "$minKey"
                | "$maxKey"
                | "$dbPointer"
                | "$undefined"
        )
    })
}

/// Reads a document that is to be kept.
pub(crate) fn document(json: &Value) -> Result<Document, PortError> {
    let Value::Object(fields) = json else { return Err(PortError::invalid("a document is a JSON object")) };
    if is_wrapped(fields) {
        return Err(PortError::invalid("a document is a JSON object, not a value in Extended JSON"));
    }
    fields_of(fields, DEPTH_MAX)
}

/// Reads a value: a part of a document, or what a filter compares with.
pub(crate) fn value(json: &Value) -> Result<Bson, PortError> {
    nested(json, DEPTH_MAX)
}

fn nested(json: &Value, depth_left: usize) -> Result<Bson, PortError> {
    let too_deep =
        || PortError::new(ErrorKind::Exceeded, format!("a document is nested deeper than {DEPTH_MAX} levels"));
    Ok(match json {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32),
            (None, Some(double)) => Bson::Double(double),
            (None, None) => return Err(PortError::invalid("a number is out of range")),
        },
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(values) => {
            let depth_left = depth_left.checked_sub(1).ok_or_else(too_deep)?;
            Bson::Array(values.iter().map(|value| nested(value, depth_left)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) if is_wrapped(fields) => wrapped(fields)?,
        Value::Object(fields) => Bson::Document(fields_of(fields, depth_left)?),
    })
}

fn fields_of(fields: &Map<String, Value>, depth_left: usize) -> Result<Document, PortError> {
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(PortError::new(
            ErrorKind::Exceeded,
            format!("a document is nested deeper than {DEPTH_MAX} levels"),
        ));
    };
    let mut document = Document(Vec::with_capacity(fields.len()));
    for (name, value) in fields {
        check_name(name)?;
        document.0.push((name.clone(), nested(value, depth_left)?));
    }
    Ok(document)
}

/// MongoDB lets some of these be stored, and then cannot query or update them; here they are refused at once.
fn check_name(name: &str) -> Result<(), PortError> {
    if name.starts_with('$') {
        Err(PortError::invalid(format!("the field name `{name}` begins with `$`")))
    } else if name.contains('.') {
        Err(PortError::invalid(format!("the field name `{name}` contains a dot")))
    } else if name.contains('\0') {
        Err(PortError::invalid("a field name contains a NUL character"))
    } else {
        Ok(())
    }
}

fn wrapped(fields: &Map<String, Value>) -> Result<Bson, PortError> {
    let Some((kind, value)) = fields.iter().next() else { return Ok(Bson::Document(Document::default())) };
    let wrong = || PortError::invalid(format!("`{kind}` does not hold what Extended JSON has there"));
    if fields.len() != 1 {
        return Err(wrong());
    }
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok());
    let found = match kind.as_str() {
        "$oid" => value.as_str().and_then(object_id).map(Bson::ObjectId),
        "$numberInt" => number(value).and_then(|number| i32::try_from(number).ok()).map(Bson::Int32),
        "$numberLong" => number(value).map(Bson::Int64),
        "$numberDouble" => value
            .as_str()
            .and_then(|text| match text {
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                "NaN" => Some(f64::NAN),
                // Rust reads `inf` and `nan` too, which are not Extended JSON.
                _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
            })
            .map(Bson::Double),
        "$date" => match value {
            Value::String(text) => date(text).map(Bson::Date),
            Value::Object(inner) if inner.len() == 1 => inner.get("$numberLong").and_then(number).map(Bson::Date),
            _ => None,
        },
        "$binary" => binary(value),
        "$uuid" => value.as_str().and_then(uuid).map(|bytes| Bson::Binary(4, bytes)),
        "$timestamp" => {
            let part = |name| value.get(name).and_then(Value::as_u64).and_then(|part| u32::try_from(part).ok());
            part("t").zip(part("i")).map(|(seconds, counter)| Bson::Timestamp(seconds, counter))
        }
        _ => return Err(PortError::unsupported(format!("values of the type `{kind}` are not kept here"))),
    };
    found.ok_or_else(wrong)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn object_id(text: &str) -> Option<[u8; 12]> {
    hex(text)?.try_into().ok()
}

fn uuid(text: &str) -> Option<Vec<u8>> {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    if lengths == [8, 4, 4, 4, 12] { hex(&text.replace('-', "")) } else { None }
}

fn binary(value: &Value) -> Option<Bson> {
    let bytes = BASE64.decode(value.get("base64")?.as_str()?).ok()?;
    let subtype = u8::from_str_radix(value.get("subType")?.as_str()?, 16).ok()?;
    (value.as_object()?.len() == 2).then_some(Bson::Binary(subtype, bytes))
}

fn date(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

fn date_text(at_ms: i64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).ok()?;
    // Relaxed Extended JSON has text for the years 1970 to 9999 only.
    (at_ms >= 0 && at.year() <= 9_999).then(|| at.format(&Rfc3339).ok()).flatten()
}

/// As plugins see it.
pub(crate) fn relaxed(value: &Bson) -> Value {
    write(value, false)
}

/// As [`relaxed`], of a document.
pub(crate) fn relaxed_document(document: &Document) -> Value {
    write_document(document, false)
}

/// As the database keeps it: nothing is lost.
pub(crate) fn stored(document: &Document) -> String {
    write_document(document, true).to_string()
}

fn write_document(document: &Document, is_stored: bool) -> Value {
    Value::Object(document.0.iter().map(|(name, value)| (name.clone(), write(value, is_stored))).collect())
}

fn write(value: &Bson, is_stored: bool) -> Value {
    match value {
        Bson::Null => Value::Null,
        Bson::Bool(value) => Value::Bool(*value),
        Bson::Int32(number) => Value::from(*number),
        Bson::Int64(number) if is_stored && i32::try_from(*number).is_ok() => {
            json!({"$numberLong": number.to_string()})
        }
        Bson::Int64(number) => Value::from(*number),
        Bson::Double(number) if number.is_finite() => Value::from(*number),
        Bson::Double(number) => {
            let word = match number {
                _ if number.is_nan() => "NaN",
                _ if *number > 0.0 => "Infinity",
                _ => "-Infinity",
            };
            json!({"$numberDouble": word})
        }
        Bson::String(text) => Value::String(text.clone()),
        Bson::Array(values) => values.iter().map(|value| write(value, is_stored)).collect(),
        Bson::Document(document) => write_document(document, is_stored),
        Bson::Binary(subtype, bytes) => {
            json!({"$binary": {"base64": BASE64.encode(bytes), "subType": format!("{subtype:02x}")}})
        }
        Bson::ObjectId(bytes) => json!({"$oid": hex_text(bytes)}),
        Bson::Date(at_ms) => match date_text(*at_ms) {
            Some(text) => json!({"$date": text}),
            None => json!({"$date": {"$numberLong": at_ms.to_string()}}),
        },
        Bson::Timestamp(seconds, counter) => json!({"$timestamp": {"t": seconds, "i": counter}}),
    }
}

fn hex_text(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}
