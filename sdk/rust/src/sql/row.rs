//! A row as a serde value: the struct's fields are the columns' names.
//!
//! Lenient only where databases disagree about one type: booleans, decimals, JSON kept as text, binary kept as text.

use super::{Column, Value};
use crate::error::HostError;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::fmt::Display;

/// One row as a `T`.
pub(super) fn read<T: DeserializeOwned>(columns: &[Column], row: &[Value]) -> Result<T, HostError> {
    T::deserialize(Row { columns, row }).map_err(|error| HostError::Decode(format!("a row: {error}")))
}

struct Row<'a> {
    columns: &'a [Column],
    row: &'a [Value],
}

impl<'a> Row<'a> {
    fn cells(&self) -> impl Iterator<Item = Cell<'a>> + use<'a> {
        self.columns.iter().zip(self.row).map(|(column, value)| Cell { column: &column.name, value })
    }
}

impl<'de> Deserializer<'de> for Row<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(MapDeserializer::new(self.cells().map(|cell| (cell.column, cell))))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(SeqDeserializer::new(self.cells()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        // More columns than the tuple has are left out, as with a struct: no `SeqDeserializer::end`.
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        tuple_struct map struct enum identifier ignored_any
    }
}

/// One value, with its column's name for errors.
struct Cell<'a> {
    column: &'a str,
    value: &'a Value,
}

impl<'de> IntoDeserializer<'de, Error> for Cell<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Cell<'de> {
    fn fault(&self, reason: impl Display) -> Error {
        Error::custom(format_args!("column `{}`: {reason}", self.column))
    }

    fn visit<V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Int64(value) => visitor.visit_i64(*value),
            Value::UInt64(value) => visitor.visit_u64(*value),
            Value::Float64(value) => visitor.visit_f64(*value),
            Value::Decimal(text)
            | Value::Text(text)
            | Value::Date(text)
            | Value::Time(text)
            | Value::DateTime(text)
            | Value::Timestamp(text) => visitor.visit_borrowed_str(text),
            Value::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Value::Json(text) => return self.json(text, visitor),
        }
        .map_err(|error: Error| self.fault(error))
    }

    fn json<V: Visitor<'de>>(&self, text: &'de str, visitor: V) -> Result<V::Value, Error> {
        serde_json::Deserializer::from_str(text).deserialize_any(visitor).map_err(|error| self.fault(error))
    }

    /// A number out of digits, where a number is asked for.
    fn number<V: Visitor<'de>>(&self, text: &str, visitor: V) -> Result<V::Value, Error> {
        let visited = if let Ok(value) = text.parse::<i64>() {
            visitor.visit_i64(value)
        } else if let Ok(value) = text.parse::<u64>() {
            visitor.visit_u64(value)
        } else {
            visitor.visit_f64(text.parse::<f64>().map_err(|error| self.fault(error))?)
        };
        visited.map_err(|error: Error| self.fault(error))
    }
}

macro_rules! numbers {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                Value::Decimal(digits) => self.number(digits, visitor),
                _ => self.visit(visitor),
            }
        })+
    };
}

macro_rules! texts {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                // Asked for as text, JSON is the text as it is.
                Value::Json(text) => visitor.visit_borrowed_str(text),
                Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => visitor.visit_borrowed_str(text),
                    Err(error) => Err(self.fault(error)),
                },
                _ => self.visit(visitor),
            }
        })+
    };
}

impl<'de> Deserializer<'de> for Cell<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Int64(0) | Value::UInt64(0) => visitor.visit_bool(false),
            Value::Int64(1) | Value::UInt64(1) => visitor.visit_bool(true),
            _ => self.visit(visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    texts! { deserialize_str deserialize_string deserialize_char deserialize_identifier }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.value, Value::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let fault = |error: &dyn Display| self.fault(error);
        match self.value {
            Value::Text(text) => {
                let word: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
                word.deserialize_enum(name, variants, visitor).map_err(|error| fault(&error))
            }
            Value::Json(text) => serde_json::Deserializer::from_str(text)
                .deserialize_enum(name, variants, visitor)
                .map_err(|error| fault(&error)),
            _ => Err(fault(&"a text is needed for an enum")),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Text(text) => visitor.visit_borrowed_bytes(text.as_bytes()),
            _ => self.visit(visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // `Vec<u8>` asks for a sequence.
            Value::Bytes(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
            Value::Text(text) => self.json(text, visitor),
            _ => self.visit(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // SQLite keeps JSON as text.
            Value::Text(text) => self.json(text, visitor),
            _ => self.visit(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    forward_to_deserialize_any! { unit unit_struct tuple_struct ignored_any }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Plan {
        Free,
        Pro,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Tags {
        tags: Vec<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct User {
        id: u32,
        active: bool,
        plan: Plan,
        balance: f64,
        price: String,
        nick: Option<String>,
        settings: Tags,
        more: serde_json::Value,
        photo: Vec<u8>,
    }

    fn cells() -> (Vec<Column>, Vec<Value>) {
        let cells = [
            ("id", Value::Int64(7)),
            ("active", Value::Int64(1)),
            ("plan", Value::Text("pro".into())),
            ("balance", Value::Decimal("12.50".into())),
            ("price", Value::Decimal("0.10".into())),
            ("nick", Value::Null),
            ("settings", Value::Text(r#"{"tags":["a"]}"#.into())),
            ("more", Value::Json("[1]".into())),
            ("photo", Value::Bytes(vec![0, 255])),
            ("unasked", Value::Date("2024-01-01".into())),
        ];
        let column = |name: &str| Column { name: name.to_owned(), kind: String::new() };
        cells.into_iter().map(|(name, value)| (column(name), value)).unzip()
    }

    #[test]
    fn a_row_reads_into_a_struct() {
        let (columns, row) = cells();
        let user: User = read(&columns, &row).unwrap();
        let settings = Tags { tags: vec!["a".into()] };
        let expected = User {
            id: 7,
            active: true,
            plan: Plan::Pro,
            balance: 12.5,
            price: "0.10".into(),
            nick: None,
            settings,
            more: serde_json::json!([1]),
            photo: vec![0, 255],
        };
        assert_eq!(user, expected);
    }

    #[test]
    fn a_row_reads_into_a_tuple() {
        let (columns, row) = cells();
        assert_eq!(read::<(i64, bool)>(&columns, &row).unwrap(), (7, true));
    }

    #[test]
    fn an_error_names_the_column() {
        let (columns, mut row) = cells();
        row[0] = Value::Text("seven".into());
        let error = read::<User>(&columns, &row).unwrap_err().to_string();
        assert!(error.contains("column `id`") && error.contains("seven"), "{error}");
        row[0] = Value::Int64(-1);
        assert!(read::<User>(&columns, &row).unwrap_err().to_string().contains("column `id`"));
    }

    #[test]
    fn a_missing_column_is_named() {
        let (columns, row) = cells();
        let error = read::<User>(&columns[1..], &row[1..]).unwrap_err().to_string();
        assert!(error.contains("missing field `id`"), "{error}");
    }
}
