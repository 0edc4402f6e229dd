//! The port's values in MySQL's binary protocol, and back, with every digit: read and written here, because the client
//! library's own types round decimals and refuse what has no type of theirs.
//! <https://dev.mysql.com/doc/dev/mysql-server/8.4.6/page_protocol_binary_resultset.html>
//!
//! Decided here
//! - An unsigned column comes as an unsigned value, whatever its width; `TINYINT(1)` as a boolean where it is 0 or 1.
//! - A date of zeros comes as it is: `0000-00-00`.
//! - MariaDB's JSON is a LONGTEXT of binary order, and told so to nobody: such a text comes as JSON where it is JSON.

use crate::fault::Fault;
use crate::shape::{self, Clock, Date};
use sandpost_ports::PortError;
use sandpost_ports::sql::Value;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlRow, MySqlTypeInfo};
use sqlx::types::time::{Date as DateType, PrimitiveDateTime, Time as TimeType};
use sqlx::{Arguments as _, Decode, MySql, Row as _, Type, TypeInfo as _};

/// Digits of a decimal, and those of them after the point (<https://dev.mysql.com/doc/refman/8.4/en/fixed-point-types.html>).
const DECIMAL_DIGITS_MAX: usize = 65;
const DECIMAL_SCALE_MAX: usize = 30;

/// Hours of a TIME.
const TIME_HOURS_MAX: u16 = 838;

/// Bytes of a text that MariaDB keeps JSON in, as the client library shows them of a column.
const LONGTEXT: &str = "max_size: Some(4294967295)";

/// How a column's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Null,
    /// Of this many bytes, signed or not.
    Signed(usize),
    Unsigned(usize),
    Boolean(bool),
    Float,
    Double,
    Decimal,
    Date,
    DateTime,
    Timestamp,
    Time,
    Bits,
    Json,
    Text,
    TextOrJson,
    Bytes,
}

impl Plan {
    pub(super) fn of(info: &MySqlTypeInfo, is_mariadb: bool) -> Self {
        let is_unsigned = <u64 as Type<MySql>>::compatible(info);
        let whole = |bytes| if is_unsigned { Self::Unsigned(bytes) } else { Self::Signed(bytes) };
        match info.name() {
            "NULL" => Self::Null,
            "BOOLEAN" => Self::Boolean(is_unsigned),
            "YEAR" => Self::Signed(2),
            name if name.starts_with("TINYINT") => whole(1),
            name if name.starts_with("SMALLINT") => whole(2),
            // On the wire as wide as INT.
            name if name.starts_with("MEDIUMINT") || name.starts_with("INT") => whole(4),
            name if name.starts_with("BIGINT") => whole(8),
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "DECIMAL" => Self::Decimal,
            "DATE" => Self::Date,
            "DATETIME" => Self::DateTime,
            "TIMESTAMP" => Self::Timestamp,
            "TIME" => Self::Time,
            "BIT" => Self::Bits,
            "JSON" => Self::Json,
            "ENUM" | "SET" => Self::Text,
            name if <str as Type<MySql>>::compatible(info) => {
                let is_json = is_mariadb && name.ends_with("BLOB") && format!("{info:?}").contains(LONGTEXT);
                if is_json { Self::TextOrJson } else { Self::Text }
            }
            _ => Self::Bytes,
        }
    }
}

/// The database's word for a column's type. The client library calls a text of binary order by the name of its bytes.
pub(super) fn kind(info: &MySqlTypeInfo) -> &str {
    let name = info.name();
    if !<str as Type<MySql>>::compatible(info) {
        return name;
    }
    match name {
        "BINARY" => "CHAR",
        "VARBINARY" => "VARCHAR",
        "TINYBLOB" => "TINYTEXT",
        "BLOB" => "TEXT",
        "MEDIUMBLOB" => "MEDIUMTEXT",
        "LONGBLOB" => "LONGTEXT",
        name => name,
    }
}

/// The value of one column of a row.
pub(super) fn read(row: &MySqlRow, at: usize, plan: Plan) -> Result<Value, PortError> {
    let raw = row.try_get_raw(at).map_err(unreadable)?;
    // A date of zeros is no NULL, although the client library says so: only one without bytes is.
    let Ok(bytes) = <&[u8] as Decode<MySql>>::decode(raw) else { return Ok(Value::Null) };
    value(bytes, plan).ok_or_else(|| unreadable(format!("{} bytes as {plan:?}", bytes.len())))?
}

fn unreadable(error: impl Into<sandpost_ports::BoxError>) -> PortError {
    PortError::new(sandpost_ports::ErrorKind::Other, "the database sent a value that cannot be read").because(error)
}

/// Nothing where the bytes are not of the plan's form.
fn value(bytes: &[u8], plan: Plan) -> Option<Result<Value, PortError>> {
    let text = || {
        String::from_utf8(bytes.to_vec())
            .map_err(|_| PortError::invalid("a column holds text that is not UTF-8; select it as a BLOB"))
    };
    Some(Ok(match plan {
        Plan::Null => Value::Null,
        Plan::Signed(width) => Value::Int64(signed(bytes, width)?),
        Plan::Unsigned(width) => Value::UInt64(unsigned(bytes, width)?),
        Plan::Boolean(is_unsigned) => match *bytes.first()? {
            byte @ (0 | 1) => Value::Boolean(byte == 1),
            byte if is_unsigned => Value::UInt64(byte.into()),
            byte => Value::Int64(byte.cast_signed().into()),
        },
        Plan::Float => Value::Float64(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        Plan::Double => Value::Float64(f64::from_le_bytes(bytes.try_into().ok()?)),
        Plan::Decimal => return Some(text().map(Value::Decimal)),
        Plan::Date => {
            let (year, month, day) = date_parts(body(bytes)?)?;
            Value::Date(shape::write_date(year, month, day))
        }
        Plan::DateTime => Value::DateTime(datetime(body(bytes)?)?),
        Plan::Timestamp => Value::Timestamp(datetime(body(bytes)?)? + "Z"),
        Plan::Time => Value::Time(time(body(bytes)?)?),
        Plan::Bits if bytes.len() <= 8 => {
            Value::UInt64(bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
        }
        Plan::Bits | Plan::Bytes => Value::Bytes(bytes.to_vec()),
        Plan::Json => return Some(text().map(Value::Json)),
        Plan::Text => return Some(text().map(Value::Text)),
        Plan::TextOrJson => {
            return Some(text().map(|text| if shape::is_json(&text) { Value::Json(text) } else { Value::Text(text) }));
        }
    }))
}

fn unsigned(bytes: &[u8], width: usize) -> Option<u64> {
    (bytes.len() == width).then(|| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn signed(bytes: &[u8], width: usize) -> Option<i64> {
    let unused = u32::try_from(64 - width * 8).ok()?;
    // The sign is moved to the top and back.
    unsigned(bytes, width).map(|number| (number << unused).cast_signed() >> unused)
}

/// What follows the length that stands before it.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let (length, body) = bytes.split_first()?;
    (body.len() == usize::from(*length)).then_some(body)
}

fn date_parts(body: &[u8]) -> Option<(u16, u8, u8)> {
    match *body {
        [] => Some((0, 0, 0)),
        [low, high, month, day, ..] => Some((u16::from_le_bytes([low, high]), month, day)),
        _ => None,
    }
}

fn datetime(body: &[u8]) -> Option<String> {
    let (year, month, day) = date_parts(body)?;
    let clock = clock(body.get(4..).unwrap_or_default(), 0)?;
    Some(format!("{}T{clock}", shape::write_date(year, month, day)))
}

/// Hours, minutes and seconds, with or without micros, or nothing at all.
fn clock(body: &[u8], days: u32) -> Option<String> {
    let (clock, micros) = body.split_at_checked(3).unwrap_or((&[0, 0, 0], body));
    let micros = if micros.is_empty() { 0 } else { u32::from_le_bytes(micros.try_into().ok()?) };
    let [hours, minutes, seconds] = <[u8; 3]>::try_from(clock).ok()?;
    Some(shape::write_clock(days.checked_mul(24)?.checked_add(hours.into())?, minutes, seconds, micros))
}

fn time(body: &[u8]) -> Option<String> {
    let Some((sign, rest)) = body.split_first() else { return clock(&[], 0) };
    let (days, rest) = rest.split_at_checked(4)?;
    let clock = clock(rest, u32::from_le_bytes(days.try_into().ok()?))?;
    Some(if *sign == 0 { clock } else { format!("-{clock}") })
}

/// A value in its wire form, of the type that it says.
struct Wire {
    info: MySqlTypeInfo,
    bytes: Vec<u8>,
}

impl Type<MySql> for Wire {
    fn type_info() -> MySqlTypeInfo {
        <[u8] as Type<MySql>>::type_info()
    }
}

impl Encode<'_, MySql> for Wire {
    fn encode_by_ref(&self, buffer: &mut Vec<u8>) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<MySqlTypeInfo> {
        Some(self.info.clone())
    }
}

/// What is bound for the parameters; refuses what the server would not keep as it is.
pub(super) fn arguments(parameters: &[Value]) -> Result<MySqlArguments, Fault> {
    let mut arguments = MySqlArguments::default();
    for parameter in parameters {
        add(&mut arguments, parameter).map_err(Fault::Refused)?;
    }
    Ok(arguments)
}

fn add(arguments: &mut MySqlArguments, value: &Value) -> Result<(), PortError> {
    let added =
        match value {
            Value::Null => arguments.add(None::<&str>),
            Value::Boolean(value) => arguments.add(*value),
            Value::Int64(value) => arguments.add(*value),
            Value::UInt64(value) => arguments.add(*value),
            Value::Float64(value) if !value.is_finite() => {
                return Err(PortError::unsupported("MySQL has no float that is infinite or not a number"));
            }
            Value::Float64(value) => arguments.add(*value),
            Value::Text(text) => arguments.add(text.as_str()),
            Value::Bytes(bytes) => arguments.add(bytes.as_slice()),
            Value::Json(text) => {
                shape::json(text)?;
                arguments.add(text.as_str())
            }
            Value::Decimal(text) => {
                arguments.add(Wire { info: <sqlx::types::Decimal as Type<MySql>>::type_info(), bytes: decimal(text)? })
            }
            Value::Date(text) => arguments
                .add(Wire { info: <DateType as Type<MySql>>::type_info(), bytes: date_wire(shape::date(text)?) }),
            Value::Time(text) => arguments
                .add(Wire { info: <TimeType as Type<MySql>>::type_info(), bytes: time_wire(shape::time(text)?)? }),
            Value::DateTime(text) => arguments.add(of_datetime(shape::datetime(text)?)),
            // The session's zone is UTC.
            Value::Timestamp(text) => arguments.add(of_datetime(shape::timestamp(text)?)),
        };
    added.map_err(|error| PortError::invalid("a parameter cannot be sent").because(error))
}

fn decimal(text: &str) -> Result<Vec<u8>, PortError> {
    let decimal = shape::decimal(text)?;
    let scale = decimal.fraction.trim_end_matches('0').len();
    if scale > DECIMAL_SCALE_MAX || decimal.whole.len() + decimal.fraction.len() > DECIMAL_DIGITS_MAX {
        return Err(PortError::unsupported(format!(
            "a decimal of more than {DECIMAL_DIGITS_MAX} digits, or {DECIMAL_SCALE_MAX} after the point, would be rounded; \
             send it as text"
        )));
    }
    // Shorter than 251 bytes, so its length is one byte.
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 251);
    let length =
        length.ok_or_else(|| PortError::unsupported("a decimal with so many zeros before it; send it as text"))?;
    Ok([&[length], text.as_bytes()].concat())
}

fn of_datetime((date, clock): (Date, Clock)) -> Wire {
    let mut bytes = vec![11];
    bytes.extend_from_slice(&date_wire(date)[1..]);
    // Less than 24.
    bytes.extend_from_slice(&[clock.hours.to_le_bytes()[0], clock.minutes, clock.seconds]);
    bytes.extend_from_slice(&clock.micros.to_le_bytes());
    Wire { info: <PrimitiveDateTime as Type<MySql>>::type_info(), bytes }
}

fn date_wire(date: Date) -> Vec<u8> {
    let [low, high] = date.year.to_le_bytes();
    vec![4, low, high, date.month, date.day]
}

fn time_wire(clock: Clock) -> Result<Vec<u8>, PortError> {
    if clock.hours > TIME_HOURS_MAX {
        return Err(PortError::unsupported(format!("a time of more than {TIME_HOURS_MAX} hours")));
    }
    let (days, hours) = (u32::from(clock.hours / 24), (clock.hours % 24).to_le_bytes()[0]);
    let mut bytes = vec![12, u8::from(clock.is_negative)];
    bytes.extend_from_slice(&days.to_le_bytes());
    bytes.extend_from_slice(&[hours, clock.minutes, clock.seconds]);
    bytes.extend_from_slice(&clock.micros.to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_values() {
        #[track_caller]
        fn check(bytes: &[u8], plan: Plan, expected: Value) {
            assert_eq!(value(bytes, plan).unwrap().ok(), Some(expected), "{plan:?}");
        }
        check(&[0xff], Plan::Signed(1), Value::Int64(-1));
        check(&[0xff], Plan::Unsigned(1), Value::UInt64(255));
        check(&i64::MIN.to_le_bytes(), Plan::Signed(8), Value::Int64(i64::MIN));
        check(&u64::MAX.to_le_bytes(), Plan::Unsigned(8), Value::UInt64(u64::MAX));
        check(&[2], Plan::Boolean(false), Value::Int64(2));
        check(&[1], Plan::Boolean(false), Value::Boolean(true));
        check(&[0], Plan::Date, Value::Date("0000-00-00".into()));
        check(&[4, 0xe8, 7, 2, 29], Plan::Date, Value::Date("2024-02-29".into()));
        check(&[4, 0xe8, 7, 2, 29], Plan::DateTime, Value::DateTime("2024-02-29T00:00:00".into()));
        check(&[7, 0xe8, 7, 2, 29, 1, 2, 3], Plan::Timestamp, Value::Timestamp("2024-02-29T01:02:03Z".into()));
        check(&[0], Plan::Time, Value::Time("00:00:00".into()));
        check(&[8, 1, 34, 0, 0, 0, 22, 59, 59], Plan::Time, Value::Time("-838:59:59".into()));
        check(&[1, 0], Plan::Bits, Value::UInt64(256));
        check(b"{}", Plan::TextOrJson, Value::Json("{}".into()));
        check(b"{", Plan::TextOrJson, Value::Text("{".into()));
        assert!(value(&[3, 1], Plan::Date).is_none() && value(&[1, 2], Plan::Signed(1)).is_none());
        assert!(value(&[0xff], Plan::Text).unwrap().is_err());
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        #[track_caller]
        fn check(value: &Value, word: &str) {
            assert_eq!(add(&mut MySqlArguments::default(), value).unwrap_err().kind.word(), word, "{value:?}");
        }
        check(&Value::Float64(f64::NAN), "unsupported");
        check(&Value::Decimal("1".repeat(66)), "unsupported");
        check(&Value::Decimal(format!("0.{}1", "0".repeat(30))), "unsupported");
        check(&Value::Decimal("1e5".into()), "invalid");
        check(&Value::Time("839:00:00".into()), "unsupported");
        check(&Value::Date("2026-02-30".into()), "invalid");
        check(&Value::Json("{".into()), "invalid");
    }
}
