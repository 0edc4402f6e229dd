//! The port's values in Postgres's binary formats, and back, with every digit: read and written here, by the types' numbers.
//!
//! Decided here
//! - A value is sent as the type that the server found for its place. A number in the place of a text is sent as its digits, and a
//!   text as whatever it reads as; what does not fit is an error, never rounded.
//! - What has no value of the port's but a form of its own (UUID, INTERVAL, bits) comes as text. Arrays, ranges, records and types
//!   of extensions are refused with the way out: a CAST.
//! - Dates before the year 1 and after 9999, and infinite ones, come as text in the server's words.

use super::numeric::{self, Number};
use crate::shape::{self, Clock, Date};
use sandpost_ports::sql::Value;
use sandpost_ports::{BoxError, ErrorKind, PortError};
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments as _, Row as _, Type, TypeInfo as _, ValueRef as _};

/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
const EPOCH_DAYS: i64 = 10_957;
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// A type, as far as values depend on it. The numbers never change:
/// <https://github.com/postgres/postgres/blob/REL_17_STABLE/src/include/catalog/pg_type.dat>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Boolean,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Bytes,
    Date,
    Time,
    TimeZoned,
    DateTime,
    Timestamp,
    Interval,
    Json,
    Jsonb,
    Uuid,
    Bits,
    Void,
}

impl Plan {
    /// Of a column.
    pub(super) fn of(info: &PgTypeInfo, column: &str) -> Result<Self, PortError> {
        Self::find(info).ok_or_else(|| {
            let kind = info.name();
            PortError::unsupported(format!(
                "column `{column}` is {kind}, which has no value here: CAST it to text or json"
            ))
        })
    }

    fn find(info: &PgTypeInfo) -> Option<Self> {
        Some(match info.oid()?.0 {
            16 => Self::Boolean,
            17 => Self::Bytes,
            // "char", name, text, unknown, xml, char(n), varchar(n)
            18 | 19 | 25 | 705 | 142 | 1042 | 1043 => Self::Text,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            26 => Self::Oid,
            114 => Self::Json,
            3802 => Self::Jsonb,
            700 => Self::Float4,
            701 => Self::Float8,
            1082 => Self::Date,
            1083 => Self::Time,
            1266 => Self::TimeZoned,
            1114 => Self::DateTime,
            1184 => Self::Timestamp,
            1186 => Self::Interval,
            1560 | 1562 => Self::Bits,
            1700 => Self::Numeric,
            2278 => Self::Void,
            2950 => Self::Uuid,
            _ => match info.kind() {
                PgTypeKind::Enum(_) => Self::Text,
                PgTypeKind::Domain(of) => return Self::find(of),
                _ => return None,
            },
        })
    }
}

/// The value of one column of a row.
pub(super) fn read(row: &PgRow, at: usize, plan: Plan) -> Result<Value, PortError> {
    let raw = row.try_get_raw(at).map_err(unreadable)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let bytes = raw.as_bytes().map_err(unreadable)?;
    value(bytes, plan).ok_or_else(|| unreadable(format!("{} bytes as {plan:?}", bytes.len())))
}

fn unreadable(error: impl Into<BoxError>) -> PortError {
    PortError::new(ErrorKind::Other, "the database sent a value that cannot be read").because(error)
}

/// Nothing where the bytes are not of the plan's form.
fn value(bytes: &[u8], plan: Plan) -> Option<Value> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(match plan {
        Plan::Boolean => Value::Boolean(*bytes.first()? != 0),
        Plan::Int2 => Value::Int64(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Plan::Int4 => Value::Int64(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Plan::Int8 => Value::Int64(int8(bytes)?),
        Plan::Oid => Value::Int64(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        Plan::Float4 => Value::Float64(f32::from_be_bytes(bytes.try_into().ok()?).into()),
        Plan::Float8 => Value::Float64(f64::from_be_bytes(bytes.try_into().ok()?)),
        Plan::Numeric => match numeric::read(bytes)? {
            Number::Digits(digits) => Value::Decimal(digits),
            Number::Special(value) => Value::Float64(value),
        },
        Plan::Text => Value::Text(text(bytes)?),
        Plan::Bytes => Value::Bytes(bytes.to_vec()),
        Plan::Date => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            match days {
                i32::MAX | i32::MIN => Value::Text(infinite(days > 0)),
                days => {
                    let (date, is_common) = date(i64::from(days));
                    if is_common { Value::Date(date) } else { Value::Text(date) }
                }
            }
        }
        Plan::Time => Value::Time(clock(int8(bytes)?)?),
        Plan::TimeZoned => {
            let (micros, west_s) = bytes.split_at_checked(8)?;
            let east_s = -i64::from(i32::from_be_bytes(west_s.try_into().ok()?));
            let (sign, zone_s) = (if east_s < 0 { '-' } else { '+' }, east_s.abs());
            Value::Text(format!("{}{sign}{:02}:{:02}", clock(int8(micros)?)?, zone_s / 3_600, zone_s / 60 % 60))
        }
        Plan::DateTime => moment(int8(bytes)?, "", Value::DateTime)?,
        Plan::Timestamp => moment(int8(bytes)?, "Z", Value::Timestamp)?,
        Plan::Interval => {
            let (micros, rest) = bytes.split_at_checked(8)?;
            let (days, months) = rest.split_at_checked(4)?;
            let number = |bytes: &[u8]| Some(i32::from_be_bytes(bytes.try_into().ok()?));
            Value::Text(interval(number(months)?, number(days)?, int8(micros)?))
        }
        Plan::Json => Value::Json(text(bytes)?),
        // A version stands before it.
        Plan::Jsonb => Value::Json(text(bytes.strip_prefix(&[1])?)?),
        Plan::Uuid => Value::Text(uuid(bytes)?),
        Plan::Bits => {
            let (count, bits) = bytes.split_at_checked(4)?;
            let count = usize::try_from(i32::from_be_bytes(count.try_into().ok()?)).ok()?;
            let bit = |at: usize| Some(if bits.get(at / 8)? >> (7 - at % 8) & 1 == 1 { '1' } else { '0' });
            Value::Text((0..count.min(bits.len() * 8)).map(bit).collect::<Option<String>>()?)
        }
        Plan::Void => Value::Null,
    })
}

fn int8(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

fn infinite(is_positive: bool) -> String {
    if is_positive { "infinity" } else { "-infinity" }.to_owned()
}

/// A day of the calendar, counted from Postgres's first; and whether it is of a year of four digits.
/// The arithmetic is Howard Hinnant's `civil_from_days`: <https://howardhinnant.github.io/date_algorithms.html>.
fn date(days: i64) -> (String, bool) {
    let shifted = days + EPOCH_DAYS + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year >= 1 {
        (format!("{year:04}-{month:02}-{day:02}"), year <= 9_999)
    } else {
        (format!("{:04}-{month:02}-{day:02} BC", 1 - year), false)
    }
}

/// The other way: `days_from_civil`.
fn days(date: Date) -> i64 {
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468 - EPOCH_DAYS
}

/// Micros of one day.
fn clock(micros: i64) -> Option<String> {
    let seconds = micros.div_euclid(1_000_000);
    let micros = u32::try_from(micros.rem_euclid(1_000_000)).ok()?;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    Some(shape::write_clock(
        u32::try_from(hours).ok()?,
        u8::try_from(minutes).ok()?,
        u8::try_from(seconds).ok()?,
        micros,
    ))
}

fn moment(micros: i64, zone: &str, of: fn(String) -> Value) -> Option<Value> {
    if micros == i64::MAX || micros == i64::MIN {
        return Some(Value::Text(infinite(micros > 0)));
    }
    let (date, is_common) = date(micros.div_euclid(DAY_MICROS));
    let clock = clock(micros.rem_euclid(DAY_MICROS))?;
    Some(match date.strip_suffix(" BC") {
        Some(date) => Value::Text(format!("{date}T{clock}{zone} BC")),
        None if is_common => of(format!("{date}T{clock}{zone}")),
        None => Value::Text(format!("{date}T{clock}{zone}")),
    })
}

/// As ISO 8601 has it: `P1Y2M3DT4H5M6.7S`.
fn interval(months: i32, days: i32, micros: i64) -> String {
    let part = |number: i64, letter: char| if number == 0 { String::new() } else { format!("{number}{letter}") };
    let (hours, minutes) = (micros / 3_600_000_000, micros / 60_000_000 % 60);
    let (seconds, fraction) = (micros / 1_000_000 % 60, (micros % 1_000_000).abs());
    let sign = if micros % 60_000_000 < 0 { "-" } else { "" };
    let seconds = match (seconds.abs(), fraction) {
        (0, 0) => String::new(),
        (seconds, 0) => format!("{sign}{seconds}S"),
        (seconds, fraction) => format!("{sign}{seconds}.{}S", format!("{fraction:06}").trim_end_matches('0')),
    };
    let of_date = format!(
        "{}{}{}",
        part(i64::from(months / 12), 'Y'),
        part(i64::from(months % 12), 'M'),
        part(i64::from(days), 'D')
    );
    let of_day = format!("{}{}{seconds}", part(hours, 'H'), part(minutes, 'M'));
    match (of_date.is_empty(), of_day.is_empty()) {
        (true, true) => "PT0S".to_owned(),
        (_, true) => format!("P{of_date}"),
        (_, false) => format!("P{of_date}T{of_day}"),
    }
}

fn uuid(bytes: &[u8]) -> Option<String> {
    use std::fmt::Write as _;
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string does not fail.
        _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

/// A value in its wire form; none for NULL.
struct Wire {
    info: PgTypeInfo,
    bytes: Option<Vec<u8>>,
}

impl Type<sqlx::Postgres> for Wire {
    fn type_info() -> PgTypeInfo {
        <[u8] as Type<sqlx::Postgres>>::type_info()
    }
}

impl Encode<'_, sqlx::Postgres> for Wire {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let Some(bytes) = &self.bytes else { return Ok(IsNull::Yes) };
        buffer.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }
}

/// What is bound for the parameters, each as the type of its place.
pub(super) fn arguments(parameters: &[Value], types: &[PgTypeInfo]) -> Result<PgArguments, PortError> {
    let mut arguments = PgArguments::default();
    for (at, (value, info)) in parameters.iter().zip(types).enumerate() {
        let bytes = if *value == Value::Null {
            None
        } else {
            let plan = Plan::find(info).ok_or_else(|| {
                let (at, kind) = (at + 1, info.name());
                PortError::unsupported(format!(
                    "parameter {at} is {kind} by its place: write CAST(CAST(? AS text) AS {kind})"
                ))
            })?;
            Some(wire(value, plan).map_err(|refused| refused.of(at + 1, info.name()))?)
        };
        let added = arguments.add(Wire { info: info.clone(), bytes });
        added.map_err(|error| PortError::invalid("a parameter cannot be sent").because(error))?;
    }
    Ok(arguments)
}

/// Why a value cannot be sent.
#[derive(Debug)]
enum Refused {
    /// It is of another type than its place.
    Kind(&'static str),
    /// It would be altered.
    Lossy,
    Port(PortError),
}

impl From<PortError> for Refused {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl Refused {
    fn of(self, at: usize, kind: &str) -> PortError {
        match self {
            Self::Kind(value) => {
                PortError::invalid(format!("parameter {at} is {kind} by its place, and {value} was given"))
            }
            Self::Lossy => PortError::invalid(format!("parameter {at} does not fit into {kind}")),
            Self::Port(error) => error,
        }
    }
}

fn wire(value: &Value, plan: Plan) -> Result<Vec<u8>, Refused> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Boolean(value) => match plan {
            Plan::Boolean => Ok(vec![u8::from(*value)]),
            Plan::Text => Ok(value.to_string().into_bytes()),
            _ => Err(Refused::Kind("a boolean")),
        },
        Value::Int64(value) => whole(i128::from(*value), plan),
        Value::UInt64(value) => whole(i128::from(*value), plan),
        Value::Float64(value) => float(*value, plan),
        Value::Decimal(text) => match plan {
            Plan::Numeric => digits(text),
            Plan::Text => {
                shape::decimal(text)?;
                Ok(text.clone().into_bytes())
            }
            Plan::Float4 | Plan::Float8 => {
                shape::decimal(text)?;
                float(text.parse().map_err(|_| Refused::Lossy)?, plan)
            }
            Plan::Int2 | Plan::Int4 | Plan::Int8 | Plan::Oid => {
                let decimal = shape::decimal(text)?;
                let is_whole = decimal.fraction.bytes().all(|digit| digit == b'0');
                let whole_text = format!("{}{:0>1}", if decimal.is_negative { "-" } else { "" }, decimal.whole);
                whole(whole_text.parse().ok().filter(|_| is_whole).ok_or(Refused::Lossy)?, plan)
            }
            _ => Err(Refused::Kind("a decimal")),
        },
        Value::Text(text) => of_text(text, plan),
        Value::Bytes(bytes) => match plan {
            Plan::Bytes => Ok(bytes.clone()),
            _ => Err(Refused::Kind("bytes")),
        },
        Value::Date(text) => {
            let date = shape::date(text)?;
            match plan {
                Plan::Text => Ok(text.clone().into_bytes()),
                Plan::Date => Ok(i32::try_from(days(date)).map_err(|_| Refused::Lossy)?.to_be_bytes().to_vec()),
                Plan::DateTime | Plan::Timestamp => Ok((days(date) * DAY_MICROS).to_be_bytes().to_vec()),
                _ => Err(Refused::Kind("a date")),
            }
        }
        Value::Time(text) => {
            let clock = shape::time(text)?;
            match plan {
                Plan::Text => Ok(text.clone().into_bytes()),
                Plan::Time if (0..=DAY_MICROS).contains(&clock.total_micros()) => {
                    Ok(clock.total_micros().to_be_bytes().to_vec())
                }
                Plan::Time => Err(Refused::Lossy),
                Plan::Interval => Ok([&clock.total_micros().to_be_bytes()[..], &[0; 8]].concat()),
                _ => Err(Refused::Kind("a time")),
            }
        }
        // The session's zone is UTC.
        Value::DateTime(text) => of_moment(text, shape::datetime(text)?, plan),
        Value::Timestamp(text) => of_moment(text, shape::timestamp(text)?, plan),
        Value::Json(text) => {
            shape::json(text)?;
            match plan {
                Plan::Json | Plan::Text => without_nul(text),
                Plan::Jsonb => Ok([&[1], text.as_bytes()].concat()),
                _ => Err(Refused::Kind("JSON")),
            }
        }
    }
}

fn whole(number: i128, plan: Plan) -> Result<Vec<u8>, Refused> {
    fn fit<T: TryFrom<i128>>(number: i128) -> Result<T, Refused> {
        T::try_from(number).map_err(|_| Refused::Lossy)
    }
    Ok(match plan {
        Plan::Int2 => fit::<i16>(number)?.to_be_bytes().to_vec(),
        Plan::Int4 => fit::<i32>(number)?.to_be_bytes().to_vec(),
        Plan::Int8 => fit::<i64>(number)?.to_be_bytes().to_vec(),
        Plan::Oid => fit::<u32>(number)?.to_be_bytes().to_vec(),
        Plan::Numeric => digits(&number.to_string())?,
        Plan::Text => number.to_string().into_bytes(),
        Plan::Float4 | Plan::Float8 => {
            // Of a whole number every digit has to be there.
            let most = if plan == Plan::Float4 { 1 << 24 } else { 1 << 53 };
            if number.abs() > most {
                return Err(Refused::Lossy);
            }
            float(number.to_string().parse().map_err(|_| Refused::Lossy)?, plan)?
        }
        _ => return Err(Refused::Kind("a whole number")),
    })
}

fn float(value: f64, plan: Plan) -> Result<Vec<u8>, Refused> {
    Ok(match plan {
        Plan::Float8 => value.to_be_bytes().to_vec(),
        Plan::Float4 => {
            #[allow(clippy::cast_possible_truncation, reason = "the column keeps no more of a binary fraction")]
            let narrow = value as f32;
            if narrow.is_infinite() && value.is_finite() {
                return Err(Refused::Lossy);
            }
            narrow.to_be_bytes().to_vec()
        }
        Plan::Numeric if !value.is_finite() => numeric::write_special(value),
        // The shortest digits that are this number and no other.
        Plan::Numeric => digits(&value.to_string())?,
        Plan::Text => value.to_string().into_bytes(),
        _ => return Err(Refused::Kind("a float")),
    })
}

fn digits(text: &str) -> Result<Vec<u8>, Refused> {
    numeric::write(&shape::decimal(text)?).ok_or(Refused::Lossy)
}

fn without_nul(text: &str) -> Result<Vec<u8>, Refused> {
    if text.contains('\0') {
        return Err(PortError::unsupported("Postgres keeps no NUL character in a text; send bytes").into());
    }
    Ok(text.as_bytes().to_vec())
}

fn of_text(text: &str, plan: Plan) -> Result<Vec<u8>, Refused> {
    let not = || Refused::Kind("a text that is none");
    match plan {
        Plan::Text => without_nul(text),
        Plan::Json | Plan::Jsonb => wire(&Value::Json(text.to_owned()), plan),
        Plan::Uuid => {
            let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
            let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let is_uuid = digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit);
            digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>().filter(|_| is_uuid).ok_or_else(not)
        }
        Plan::Int2 | Plan::Int4 | Plan::Int8 | Plan::Oid => whole(text.parse().map_err(|_| not())?, plan),
        Plan::Float4 | Plan::Float8 => float(text.parse().map_err(|_| not())?, plan),
        Plan::Numeric => digits(text),
        Plan::Date => wire(&Value::Date(text.to_owned()), plan),
        Plan::Time => wire(&Value::Time(text.to_owned()), plan),
        Plan::DateTime => wire(&Value::DateTime(text.to_owned()), plan),
        Plan::Timestamp => wire(&Value::Timestamp(text.to_owned()), plan),
        Plan::Boolean | Plan::Bytes | Plan::TimeZoned | Plan::Interval | Plan::Bits | Plan::Void => {
            Err(Refused::Kind("a text"))
        }
    }
}

fn of_moment(text: &str, (date, clock): (Date, Clock), plan: Plan) -> Result<Vec<u8>, Refused> {
    match plan {
        Plan::Text => Ok(text.as_bytes().to_vec()),
        Plan::DateTime | Plan::Timestamp => Ok((days(date) * DAY_MICROS + clock.total_micros()).to_be_bytes().to_vec()),
        _ => Err(Refused::Kind("a date with a time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        #[track_caller]
        fn check(given: Value, plan: Plan) {
            assert_eq!(value(&wire(&given, plan).unwrap(), plan), Some(given));
        }
        check(Value::Boolean(true), Plan::Boolean);
        check(Value::Int64(i64::MIN), Plan::Int8);
        check(Value::Int64(-1), Plan::Int2);
        check(Value::Float64(-0.1), Plan::Float8);
        check(Value::Float64(0.5), Plan::Float4);
        check(Value::Decimal("-12345678901234567890.0123456789".into()), Plan::Numeric);
        check(Value::Float64(f64::INFINITY), Plan::Numeric);
        for date in ["0001-01-01", "1970-01-01", "2000-02-29", "2024-02-29", "9999-12-31"] {
            check(Value::Date(date.into()), Plan::Date);
            check(Value::DateTime(format!("{date}T23:59:59.999999")), Plan::DateTime);
            check(Value::Timestamp(format!("{date}T00:00:00Z")), Plan::Timestamp);
        }
        check(Value::Time("23:59:59.000001".into()), Plan::Time);
        check(Value::Json(r#"{"a":1}"#.into()), Plan::Jsonb);
        check(Value::Text("0190b0c4-5b1e-7c3a-8f00-000000000001".into()), Plan::Uuid);
        check(Value::Bytes(vec![0, 255]), Plan::Bytes);
    }

    #[test]
    fn what_is_beyond_the_ports_forms_comes_as_text() {
        #[track_caller]
        fn check(bytes: &[u8], plan: Plan, expected: &str) {
            assert_eq!(value(bytes, plan), Some(Value::Text(expected.to_owned())));
        }
        check(&i32::MAX.to_be_bytes(), Plan::Date, "infinity");
        check(&i64::MIN.to_be_bytes(), Plan::Timestamp, "-infinity");
        check(&(-730_120_i32).to_be_bytes(), Plan::Date, "0001-12-31 BC");
        check(&(-730_120 * DAY_MICROS).to_be_bytes(), Plan::DateTime, "0001-12-31T00:00:00 BC");
        check(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 14], Plan::Interval, "P1Y2M3D");
        let negative = [&(-1_500_000_i64).to_be_bytes()[..], &[0; 8]].concat();
        check(&negative, Plan::Interval, "PT-1.5S");
        check(&[0; 16], Plan::Interval, "PT0S");
        check(&[0, 0, 0, 3, 0b1010_0000], Plan::Bits, "101");
        check(&[&0_i64.to_be_bytes()[..], &(-7_200_i32).to_be_bytes()].concat(), Plan::TimeZoned, "00:00:00+02:00");
        assert_eq!(value(&[1, 2], Plan::Int8), None);
    }

    #[test]
    fn a_value_goes_into_its_place_or_is_refused() {
        #[track_caller]
        fn refused(value: &Value, plan: Plan) {
            assert!(wire(value, plan).is_err(), "{value:?} as {plan:?}");
        }
        assert_eq!(wire(&Value::Int64(5), Plan::Text).unwrap(), b"5");
        assert_eq!(wire(&Value::Text("5".into()), Plan::Int4).unwrap(), 5_i32.to_be_bytes());
        assert_eq!(wire(&Value::Decimal("7.00".into()), Plan::Int2).unwrap(), 7_i16.to_be_bytes());
        refused(&Value::Int64(40_000), Plan::Int2);
        refused(&Value::UInt64(u64::MAX), Plan::Int8);
        refused(&Value::Int64((1 << 53) + 1), Plan::Float8);
        refused(&Value::Decimal("7.5".into()), Plan::Int8);
        refused(&Value::Float64(1e300), Plan::Float4);
        refused(&Value::Boolean(true), Plan::Int4);
        refused(&Value::Bytes(vec![1]), Plan::Text);
        refused(&Value::Text("a\0".into()), Plan::Text);
        refused(&Value::Text("0190".into()), Plan::Uuid);
        refused(&Value::Time("24:00:01".into()), Plan::Time);
        refused(&Value::Date("2026-02-30".into()), Plan::Date);
    }
}
