//! MongoDB Extended JSON v2: read in either form, written relaxed. Every BSON type has its place, and none is lost.
//!
//! A number without a fraction is an `int` where it fits 32 bits and a `long` where it does not; `{"$numberLong": …}`
//! makes a `long` of a small one. Relaxed text shows both as plain numbers, as MongoDB's own tools do.
//!
//! An object is a value of Extended JSON if its first key is one of [`is_wrapped`]; else keys that begin with `$` are
//! operators in a filter ([`query`]), and refused in a document ([`document`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, Uuid};
use sandpost_ports::{ErrorKind, PortError};
use serde_json::{Map, Value, json};

/// Levels of documents and arrays; MongoDB's own limit.
const DEPTH_MAX: usize = 100;

/// The last millisecond of the year 9999: relaxed text has dates from 1970 to then only.
const TEXT_DATE_MAX_MS: i64 = 253_402_300_799_999;

/// Whether keys that begin with `$` are operators or mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Stored,
    Operators,
}

/// Reads a document that is to be kept.
pub(crate) fn document(what: &str, json: &Value) -> Result<Document, PortError> {
    top(what, json, Names::Stored)
}

/// Reads a filter, an update, a stage, a sort or a projection.
pub(crate) fn query(what: &str, json: &Value) -> Result<Document, PortError> {
    top(what, json, Names::Operators)
}

fn top(what: &str, json: &Value, names: Names) -> Result<Document, PortError> {
    match json {
        Value::Object(fields) if is_wrapped(fields) => {
            Err(PortError::invalid(format!("a {what} is a JSON object, not a value in Extended JSON")))
        }
        Value::Object(fields) => fields_of(fields, names, DEPTH_MAX),
        _ => Err(PortError::invalid(format!("a {what} is a JSON object"))),
    }
}

/// Whether an object is a value in Extended JSON rather than operators: `{"$oid": …}`.
fn is_wrapped(object: &Map<String, Value>) -> bool {
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

fn nested(json: &Value, names: Names, depth_left: usize) -> Result<Bson, PortError> {
    Ok(match json {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32),
            (None, Some(double)) => Bson::Double(double),
            (None, None) => return Err(PortError::invalid("a number is out of range")),
        },
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(values) => {
            let depth_left = deeper(depth_left)?;
            Bson::Array(values.iter().map(|value| nested(value, names, depth_left)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) if is_wrapped(fields) => wrapped(fields, depth_left)?,
        Value::Object(fields) => Bson::Document(fields_of(fields, names, depth_left)?),
    })
}

fn deeper(depth_left: usize) -> Result<usize, PortError> {
    depth_left.checked_sub(1).ok_or_else(|| {
        PortError::new(ErrorKind::Exceeded, format!("a document is nested deeper than {DEPTH_MAX} levels"))
    })
}

fn fields_of(fields: &Map<String, Value>, names: Names, depth_left: usize) -> Result<Document, PortError> {
    let depth_left = deeper(depth_left)?;
    let mut document = Document::new();
    for (name, value) in fields {
        check_name(name, names)?;
        document.insert(name.clone(), nested(value, names, depth_left)?);
    }
    Ok(document)
}

/// MongoDB lets some of these be stored, and then cannot query or update them; here they are refused at once, as the
/// embedded driver does. The three names of a reference (`DBRef`) are no such case.
fn check_name(name: &str, names: Names) -> Result<(), PortError> {
    if name.contains('\0') {
        return Err(PortError::invalid("a field name contains a NUL character"));
    }
    if names == Names::Operators {
        return Ok(());
    }
    if name.starts_with('$') && !matches!(name, "$ref" | "$id" | "$db") {
        Err(PortError::invalid(format!("the field name `{name}` begins with `$`")))
    } else if name.contains('.') {
        Err(PortError::invalid(format!("the field name `{name}` contains a dot")))
    } else {
        Ok(())
    }
}

fn wrapped(fields: &Map<String, Value>, depth_left: usize) -> Result<Bson, PortError> {
    let Some((kind, value)) = fields.iter().next() else { return Ok(Bson::Document(Document::new())) };
    let wrong = || PortError::invalid(format!("`{kind}` does not hold what Extended JSON has there"));
    let text = value.as_str();
    if let ("$code", Some(code)) = (kind.as_str(), text)
        && let Some(scope) = fields.get("$scope").filter(|_| fields.len() == 2)
    {
        let scope = scope.as_object().ok_or_else(wrong)?;
        let scope = fields_of(scope, Names::Stored, depth_left)?;
        return Ok(Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: code.to_owned(), scope }));
    }
    if fields.len() != 1 {
        return Err(wrong());
    }
    let found = match kind.as_str() {
        "$oid" => text.and_then(|text| ObjectId::parse_str(text).ok()).map(Bson::ObjectId),
        "$numberInt" => whole(value).and_then(|number| i32::try_from(number).ok()).map(Bson::Int32),
        "$numberLong" => whole(value).map(Bson::Int64),
        "$numberDouble" => text.and_then(double).map(Bson::Double),
        "$numberDecimal" => text.and_then(|text| text.parse::<Decimal128>().ok()).map(Bson::Decimal128),
        "$date" => match value {
            Value::String(text) => DateTime::parse_rfc3339_str(text).ok().map(Bson::DateTime),
            Value::Object(inner) if inner.len() == 1 => {
                inner.get("$numberLong").and_then(whole).map(|at_ms| Bson::DateTime(DateTime::from_millis(at_ms)))
            }
            _ => None,
        },
        "$binary" => binary(value),
        "$uuid" => text
            .and_then(|text| Uuid::parse_str(text).ok())
            .map(|uuid| Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: uuid.bytes().to_vec() })),
        "$timestamp" => {
            let part = |name| value.get(name).and_then(Value::as_u64).and_then(|part| u32::try_from(part).ok());
            part("t").zip(part("i")).map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment }))
        }
        "$regularExpression" => regular_expression(value),
        "$code" => text.map(|code| Bson::JavaScriptCode(code.to_owned())),
        "$symbol" => text.map(|symbol| Bson::Symbol(symbol.to_owned())),
        "$minKey" => (value == &json!(1)).then_some(Bson::MinKey),
        "$maxKey" => (value == &json!(1)).then_some(Bson::MaxKey),
        "$undefined" => (value == &json!(true)).then_some(Bson::Undefined),
        // Its parts cannot be named from outside `bson`, which reads them itself.
        _ => serde_json::from_value::<Bson>(Value::Object(fields.clone()))
            .ok()
            .filter(|value| matches!(value, Bson::DbPointer(_))),
    };
    found.ok_or_else(wrong)
}

fn whole(value: &Value) -> Option<i64> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn double(text: &str) -> Option<f64> {
    match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        // Rust reads `inf` and `nan` too, which are not Extended JSON.
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

fn binary(value: &Value) -> Option<Bson> {
    let subtype = u8::from_str_radix(value.get("subType")?.as_str()?, 16).ok()?;
    let bytes = BASE64.decode(value.get("base64")?.as_str()?).ok()?;
    (value.as_object()?.len() == 2).then_some(Bson::Binary(Binary { subtype: BinarySubtype::from(subtype), bytes }))
}

fn regular_expression(value: &Value) -> Option<Bson> {
    let (pattern, options) = (value.get("pattern")?.as_str()?, value.get("options")?.as_str()?);
    // MongoDB keeps them in this order.
    let mut options: Vec<char> = options.chars().collect();
    options.sort_unstable();
    let options = String::from_iter(options);
    let regex = Regex { pattern: pattern.to_owned().try_into().ok()?, options: options.try_into().ok()? };
    (value.as_object()?.len() == 2).then_some(Bson::RegularExpression(regex))
}

/// As plugins see it.
pub(crate) fn relaxed(value: &Bson) -> Value {
    match value {
        Bson::Null => Value::Null,
        Bson::Boolean(value) => Value::Bool(*value),
        Bson::Int32(number) => Value::from(*number),
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
        Bson::Array(values) => values.iter().map(relaxed).collect(),
        Bson::Document(document) => relaxed_document(document),
        Bson::ObjectId(id) => json!({"$oid": id.to_hex()}),
        Bson::Decimal128(number) => json!({"$numberDecimal": number.to_string()}),
        Bson::DateTime(at) => {
            let at_ms = at.timestamp_millis();
            match at.try_to_rfc3339_string() {
                Ok(text) if (0..=TEXT_DATE_MAX_MS).contains(&at_ms) => json!({"$date": text}),
                _ => json!({"$date": {"$numberLong": at_ms.to_string()}}),
            }
        }
        Bson::Binary(binary) => json!({"$binary": {
            "base64": BASE64.encode(&binary.bytes),
            "subType": format!("{:02x}", u8::from(binary.subtype)),
        }}),
        Bson::Timestamp(at) => json!({"$timestamp": {"t": at.time, "i": at.increment}}),
        Bson::RegularExpression(regex) => json!({"$regularExpression": {
            "pattern": regex.pattern.as_str(),
            "options": regex.options.as_str(),
        }}),
        Bson::JavaScriptCode(code) => json!({"$code": code}),
        Bson::JavaScriptCodeWithScope(code) => json!({"$code": code.code, "$scope": relaxed_document(&code.scope)}),
        Bson::Symbol(symbol) => json!({"$symbol": symbol}),
        Bson::MinKey => json!({"$minKey": 1}),
        Bson::MaxKey => json!({"$maxKey": 1}),
        Bson::Undefined => json!({"$undefined": true}),
        pointer @ Bson::DbPointer(_) => serde_json::to_value(pointer).unwrap_or(Value::Null),
    }
}

/// As [`relaxed`], of a document.
pub(crate) fn relaxed_document(document: &Document) -> Value {
    Value::Object(document.iter().map(|(name, value)| (name.clone(), relaxed(value))).collect())
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "a case of a test reads better as a value")]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went_in() {
        #[track_caller]
        fn check(json: Value) {
            let read = document("document", &json!({"a": json})).unwrap();
            // Through the bytes that a server would keep.
            let kept = Document::from_reader(read.to_vec().unwrap().as_slice()).unwrap();
            assert_eq!(relaxed_document(&kept), json!({"a": json}));
        }
        for json in [
            json!(null),
            json!(true),
            json!(1),
            json!(-2_147_483_649_i64),
            json!(9_223_372_036_854_775_807_i64),
            json!(1.0),
            json!(0.1),
            json!({"$numberDouble": "NaN"}),
            json!({"$numberDouble": "-Infinity"}),
            json!({"$numberDecimal": "12345678901234567890.0123456789"}),
            json!({"$numberDecimal": "-1E-6176"}),
            json!({"$numberDecimal": "0.10"}),
            json!("v\u{e4}rde \u{1f4ee}"),
            json!({"$oid": "65f0c0ffee0123456789abcd"}),
            json!({"$date": "2026-02-28T10:00:00.5Z"}),
            json!({"$date": {"$numberLong": "-1"}}),
            json!({"$date": {"$numberLong": "253402300800000"}}),
            json!({"$date": {"$numberLong": "9223372036854775807"}}),
            json!({"$binary": {"base64": "AAH/", "subType": "00"}}),
            json!({"$binary": {"base64": "AAECAwQFBgcICQoLDA0ODw==", "subType": "04"}}),
            json!({"$binary": {"base64": "AA==", "subType": "80"}}),
            json!({"$timestamp": {"t": 4_294_967_295_u32, "i": 1}}),
            json!({"$regularExpression": {"pattern": "^a", "options": "im"}}),
            json!({"$code": "f()"}),
            json!({"$code": "f()", "$scope": {"x": 1}}),
            json!({"$symbol": "s"}),
            json!({"$minKey": 1}),
            json!({"$maxKey": 1}),
            json!({"$undefined": true}),
            json!({"$dbPointer": {"$ref": "d.c", "$id": {"$oid": "65f0c0ffee0123456789abcd"}}}),
            json!({"$ref": "c", "$id": 1}),
            json!([1, [2, {"b": [null]}], {}]),
        ] {
            check(json);
        }
    }

    #[test]
    fn both_forms_are_read() {
        #[track_caller]
        fn check(json: Value, expected: &Bson) {
            assert_eq!(document("document", &json!({"a": json})).unwrap().get("a"), Some(expected));
        }
        check(json!({"$numberInt": "1"}), &Bson::Int32(1));
        check(json!({"$numberLong": "1"}), &Bson::Int64(1));
        check(json!({"$numberDouble": "1"}), &Bson::Double(1.0));
        check(json!(2_147_483_648_i64), &Bson::Int64(2_147_483_648));
        check(json!(18_446_744_073_709_551_615_u64), &Bson::Double(18_446_744_073_709_551_615.0));
        check(json!({"$date": "1970-01-01T01:00:00+01:00"}), &Bson::DateTime(DateTime::from_millis(0)));
        check(
            json!({"$uuid": "00010203-0405-0607-0809-0a0b0c0d0e0f"}),
            &Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: (0..16).collect() }),
        );
    }

    #[test]
    fn what_is_no_document_is_refused() {
        #[track_caller]
        fn check(json: Value, kind: ErrorKind) {
            let error = document("document", &json).unwrap_err();
            assert_eq!(error.kind, kind, "{json}: {error}");
        }
        for json in [
            json!([]),
            json!(1),
            json!({"$oid": "65f0c0ffee0123456789abcd"}),
            json!({"$set": {"a": 1}}),
            json!({"a": {"$gt": 1}}),
            json!({"a.b": 1}),
            json!({"a\u{0}": 1}),
            json!({"a": {"$oid": "65"}}),
            json!({"a": {"$oid": "65f0c0ffee0123456789abcd", "b": 1}}),
            json!({"a": {"$numberLong": 1}}),
            json!({"a": {"$numberInt": "2147483648"}}),
            json!({"a": {"$numberDouble": "inf"}}),
            json!({"a": {"$numberDecimal": "x"}}),
            json!({"a": {"$date": "yesterday"}}),
            json!({"a": {"$binary": {"base64": "*", "subType": "00"}}}),
            json!({"a": {"$minKey": 2}}),
            json!({"a": {"$dbPointer": 1}}),
        ] {
            check(json, ErrorKind::Invalid);
        }
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        check(nested(101), ErrorKind::Exceeded);
        document("document", &nested(100)).unwrap();
    }

    #[test]
    fn a_query_keeps_its_operators() {
        let filter = json!({"$or": [{"a.b": {"$gt": {"$date": "2026-01-01T00:00:00Z"}}}, {"c": {"$regex": "^x"}}]});
        assert_eq!(relaxed_document(&query("filter", &filter).unwrap()), filter);
        assert_eq!(query("filter", &json!([])).unwrap_err().kind, ErrorKind::Invalid);
    }
}
