//! One value of a database, without loss, and what becomes one.

/// One value, without loss.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A signed integer.
    Int64(i64),
    /// An unsigned one.
    UInt64(u64),
    /// A binary fraction.
    Float64(f64),
    /// Digits as they are, no rounding.
    Decimal(String),
    /// UTF-8.
    Text(String),
    /// Anything.
    Bytes(Vec<u8>),
    /// `YYYY-MM-DD`
    Date(String),
    /// `[-]HHH:MM:SS[.ffffff]`
    Time(String),
    /// `YYYY-MM-DDTHH:MM:SS[.ffffff]`, no zone
    DateTime(String),
    /// RFC 3339, UTC
    Timestamp(String),
    /// JSON text.
    Json(String),
}

macro_rules! from {
    ($($variant:ident: $($from:ty),+;)+) => {
        $($(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })+)+
    };
}

from! {
    Boolean: bool;
    Int64: i8, i16, i32, i64, u8, u16, u32;
    UInt64: u64;
    Float64: f32, f64;
    Text: String, &str, &String;
    Bytes: Vec<u8>, &[u8];
}

impl From<crate::time::Timestamp> for Value {
    fn from(moment: crate::time::Timestamp) -> Self {
        Self::Timestamp(moment.to_string())
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        Self::Json(json.to_string())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
