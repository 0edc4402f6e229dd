//! From the port's values to SQLite's five storage classes, and back by the type that a column was declared with.
//!
//! SQLite has no booleans, decimals or times: they are integers and texts, and the declared type says which is meant.
//! A value that does not have the shape of its column's type comes back as what it is (text as text), never altered.

use rusqlite::types::{ToSqlOutput, Value as Stored, ValueRef};
use sandpost_ports::PortError;
use sandpost_ports::sql::Value;

/// Decimal digits that survive a column of NUMERIC affinity (<https://sqlite.org/datatype3.html>, §3.1).
const DECIMAL_DIGITS_MAX: usize = 15;

/// What a column was declared as, as far as values depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    Boolean,
    /// With its scale: the 2 of `DECIMAL(10, 2)`.
    Decimal(usize),
    Unsigned,
    Date,
    Time,
    DateTime,
    Timestamp,
    Json,
    Other,
}

impl Declared {
    /// Reads a declared type. An unknown one, or none, is [`Declared::Other`].
    pub(crate) fn of(kind: &str) -> Self {
        let kind = kind.to_ascii_uppercase();
        let (word, rest) = kind.split_once(['(', ' ']).unwrap_or((&kind, ""));
        match word {
            "BOOL" | "BOOLEAN" => Self::Boolean,
            "DECIMAL" | "NUMERIC" => {
                let scale = rest.split_once(',').map_or("", |(_, scale)| scale);
                Self::Decimal(scale.trim_end_matches(')').trim().parse().unwrap_or(0).min(DECIMAL_DIGITS_MAX))
            }
            "DATE" => Self::Date,
            "TIME" => Self::Time,
            "DATETIME" => Self::DateTime,
            "TIMESTAMP" | "TIMESTAMPTZ" => Self::Timestamp,
            "JSON" | "JSONB" => Self::Json,
            _ if kind.ends_with("UNSIGNED") => Self::Unsigned,
            _ => Self::Other,
        }
    }
}

/// What is bound for a parameter; refuses what SQLite would not give back as it was.
pub(crate) fn to_stored(value: Value) -> Result<ToSqlOutput<'static>, PortError> {
    let temporal = |text: String, is: fn(&str) -> bool, shape: &str| {
        if is(&text) {
            Ok(Stored::Text(text))
        } else {
            Err(PortError::invalid(format!("a parameter is not of the form {shape}")))
        }
    };
    let stored = match value {
        Value::Null => Stored::Null,
        Value::Boolean(value) => Stored::Integer(value.into()),
        Value::Int64(value) => Stored::Integer(value),
        Value::UInt64(value) => Stored::Integer(i64::try_from(value).map_err(|_| {
            PortError::unsupported("an unsigned integer above 9223372036854775807 would be rounded; send it as text")
        })?),
        Value::Float64(value) if value.is_nan() => {
            return Err(PortError::unsupported("a float that is not a number would become NULL"));
        }
        Value::Float64(value) => Stored::Real(value),
        Value::Decimal(digits) => {
            if !is_decimal(&digits) {
                return Err(PortError::invalid("a parameter is not a decimal number"));
            }
            if digits.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').count() > DECIMAL_DIGITS_MAX
            {
                return Err(PortError::unsupported(format!(
                    "a decimal of more than {DECIMAL_DIGITS_MAX} digits would be rounded; send it as text"
                )));
            }
            Stored::Text(digits)
        }
        Value::Text(text) => Stored::Text(text),
        Value::Bytes(bytes) => Stored::Blob(bytes),
        Value::Date(text) => temporal(text, is_date, "YYYY-MM-DD")?,
        Value::Time(text) => temporal(text, is_time, "[-]HHH:MM:SS[.ffffff]")?,
        Value::DateTime(text) => temporal(text, is_datetime, "YYYY-MM-DDTHH:MM:SS[.ffffff]")?,
        Value::Timestamp(text) => temporal(text, is_timestamp, "YYYY-MM-DDTHH:MM:SS[.ffffff]Z")?,
        Value::Json(text) => {
            if !is_json(&text) {
                return Err(PortError::invalid("a parameter is not JSON"));
            }
            Stored::Text(text)
        }
    };
    Ok(ToSqlOutput::Owned(stored))
}

/// The port's value for a stored one. Nothing where a text is not UTF-8.
pub(crate) fn from_stored(stored: ValueRef<'_>, declared: Declared) -> Result<Value, std::str::Utf8Error> {
    Ok(match stored {
        ValueRef::Null => Value::Null,
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Integer(number) => match declared {
            Declared::Boolean if number == 0 || number == 1 => Value::Boolean(number == 1),
            Declared::Decimal(scale) => Value::Decimal(with_scale(number.to_string(), scale)),
            Declared::Unsigned => u64::try_from(number).map_or(Value::Int64(number), Value::UInt64),
            // A JSON column has NUMERIC affinity: the text `12` was stored as a number.
            Declared::Json => Value::Json(number.to_string()),
            _ => Value::Int64(number),
        },
        ValueRef::Real(number) => match declared {
            Declared::Decimal(scale) if number.is_finite() => Value::Decimal(with_scale(number.to_string(), scale)),
            Declared::Json if number.is_finite() => Value::Json(number.to_string()),
            _ => Value::Float64(number),
        },
        ValueRef::Text(text) => of_text(std::str::from_utf8(text)?, declared),
    })
}

fn of_text(text: &str, declared: Declared) -> Value {
    // SQLite's own functions write a space where the port has a T.
    let with_t = || text.replacen(' ', "T", 1);
    match declared {
        Declared::Decimal(_) if is_decimal(text) => Value::Decimal(text.to_owned()),
        Declared::Date if is_date(text) => Value::Date(text.to_owned()),
        Declared::Time if is_time(text) => Value::Time(text.to_owned()),
        Declared::DateTime if is_datetime(&with_t()) => Value::DateTime(with_t()),
        Declared::DateTime | Declared::Timestamp if is_timestamp(&with_t()) => Value::Timestamp(with_t()),
        // CURRENT_TIMESTAMP is UTC and does not say so.
        Declared::Timestamp if is_datetime(&with_t()) => Value::Timestamp(with_t() + "Z"),
        Declared::Json if is_json(text) => Value::Json(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

/// The digits with the zeros that the declared scale asks for; a column of NUMERIC affinity has dropped them.
fn with_scale(digits: String, scale: usize) -> String {
    let given = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    if given >= scale {
        return digits;
    }
    let point = if given == 0 { "." } else { "" };
    format!("{digits}{point}{}", "0".repeat(scale - given))
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    is_digits(whole, 1..=1_000) && is_digits(fraction, 1..=1_000)
}

fn is_digits(text: &str, count: std::ops::RangeInclusive<usize>) -> bool {
    count.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_number(text: &str, digits: usize, range: std::ops::RangeInclusive<u32>) -> bool {
    is_digits(text, digits..=digits) && text.parse().is_ok_and(|number| range.contains(&number))
}

fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    year.is_some_and(|year| is_number(year, 4, 0..=9_999))
        && month.is_some_and(|month| is_number(month, 2, 1..=12))
        && day.is_some_and(|day| is_number(day, 2, 1..=31))
        && parts.next().is_none()
}

fn is_clock(text: &str, hours: impl Fn(&str) -> bool) -> bool {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let (hour, minute, second) = (parts.next(), parts.next(), parts.next());
    hour.is_some_and(hours)
        && minute.is_some_and(|minute| is_number(minute, 2, 0..=59))
        && second.is_some_and(|second| is_number(second, 2, 0..=59))
        && parts.next().is_none()
        && is_digits(fraction, 1..=6)
}

fn is_time(text: &str) -> bool {
    is_clock(text.strip_prefix('-').unwrap_or(text), |hours| is_digits(hours, 2..=3))
}

fn is_datetime(text: &str) -> bool {
    text.split_once('T')
        .is_some_and(|(date, clock)| is_date(date) && is_clock(clock, |hour| is_number(hour, 2, 0..=23)))
}

fn is_timestamp(text: &str) -> bool {
    text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).is_some_and(is_datetime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_as_its_column_was_declared_if_it_has_the_shape() {
        #[track_caller]
        fn check(kind: &str, text: &str, expected: Value) {
            let value = from_stored(ValueRef::Text(text.as_bytes()), Declared::of(kind)).unwrap();
            assert_eq!(value, expected, "{text} in {kind}");
        }
        check("DATE", "2026-02-28", Value::Date("2026-02-28".into()));
        check("DATE", "2026-02-32", Value::Text("2026-02-32".into()));
        check("DATE", "yesterday", Value::Text("yesterday".into()));
        check("time", "-838:59:59.5", Value::Time("-838:59:59.5".into()));
        check("TIME", "12:60:00", Value::Text("12:60:00".into()));
        check("DATETIME", "2026-02-28 10:00:00", Value::DateTime("2026-02-28T10:00:00".into()));
        check("DATETIME(6)", "2026-02-28T10:00:00.123456", Value::DateTime("2026-02-28T10:00:00.123456".into()));
        check("DATETIME", "2026-02-28T10:00:00Z", Value::Timestamp("2026-02-28T10:00:00Z".into()));
        check("TIMESTAMP", "2026-02-28 10:00:00", Value::Timestamp("2026-02-28T10:00:00Z".into()));
        check("TIMESTAMP", "2026-02-28T10:00:00+02:00", Value::Text("2026-02-28T10:00:00+02:00".into()));
        check("DECIMAL(20,2)", "-1.50", Value::Decimal("-1.50".into()));
        check("NUMERIC", "1e5", Value::Text("1e5".into()));
        check("JSON", r#"{"a":[1]}"#, Value::Json(r#"{"a":[1]}"#.into()));
        check("JSON", "{", Value::Text("{".into()));
        check("VARCHAR(10)", "2026-02-28", Value::Text("2026-02-28".into()));
        check("", "2026-02-28", Value::Text("2026-02-28".into()));
    }

    #[test]
    fn a_number_comes_back_as_its_column_was_declared() {
        #[track_caller]
        fn check(kind: &str, stored: ValueRef<'_>, expected: Value) {
            assert_eq!(from_stored(stored, Declared::of(kind)).unwrap(), expected, "{stored:?} in {kind}");
        }
        check("BOOLEAN", ValueRef::Integer(1), Value::Boolean(true));
        check("BOOLEAN", ValueRef::Integer(2), Value::Int64(2));
        check("DECIMAL(10,2)", ValueRef::Real(10.5), Value::Decimal("10.50".into()));
        check("DECIMAL(10, 2)", ValueRef::Integer(-7), Value::Decimal("-7.00".into()));
        check("DECIMAL(10,2)", ValueRef::Real(0.125), Value::Decimal("0.125".into()));
        check("NUMERIC", ValueRef::Integer(7), Value::Decimal("7".into()));
        check("BIGINT UNSIGNED", ValueRef::Integer(7), Value::UInt64(7));
        check("BIGINT UNSIGNED", ValueRef::Integer(-7), Value::Int64(-7));
        check("INTEGER", ValueRef::Integer(1), Value::Int64(1));
        check("REAL", ValueRef::Real(1.0), Value::Float64(1.0));
        check("JSON", ValueRef::Integer(12), Value::Json("12".into()));
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        #[track_caller]
        fn check(value: Value, word: &str) {
            assert_eq!(to_stored(value.clone()).unwrap_err().kind.word(), word, "{value:?}");
        }
        check(Value::UInt64(u64::MAX), "unsupported");
        check(Value::Float64(f64::NAN), "unsupported");
        check(Value::Decimal("1234567890.1234567".into()), "unsupported");
        check(Value::Decimal("1,5".into()), "invalid");
        check(Value::Date("28.02.2026".into()), "invalid");
        check(Value::DateTime("2026-02-28 10:00:00".into()), "invalid");
        check(Value::Timestamp("2026-02-28T10:00:00".into()), "invalid");
        check(Value::Json("{".into()), "invalid");
        assert!(to_stored(Value::Decimal("000000000000000000.10".into())).is_ok());
    }
}
