//! JSON of a plugin, read into a value with a bound on its depth.
//!
//! Not `serde_json`'s own reading of a `Value`: with its feature `raw_value`, which others in the program switch on, an
//! object with a certain private key has its string parsed as JSON once more, past any bound.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Reads a text of at most `depth_max` levels of arrays and objects. Of a repeated key the last one counts.
pub(super) fn parse(text: &str, depth_max: usize) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Level { left: depth_max }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// How many levels are left.
#[derive(Clone, Copy)]
struct Level {
    left: usize,
}

impl Level {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        let left = self.left.checked_sub(1).ok_or_else(|| E::custom("it has too many levels"))?;
        Ok(Self { left })
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key.contains('\0') {
                return Err(A::Error::custom("a key contains NUL"));
            }
            map.insert(key, entries.next_value_seed(below)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn levels_are_counted_outside_of_strings() {
        for (text, fits) in [
            ("1", true),
            ("[[1]]", true),
            ("[[[1]]]", false),
            ("[\"[[[[\", \"\\\"[[[[\"]", true),
            ("[[],[],[]]", true),
            ("{\"a\":{\"b\":{}}}", false),
            ("{\"a\":[1]}", true),
        ] {
            assert_eq!(parse(text, 2).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "{}x", "[1,]", "{a:1}", "NaN", "1e999", "'x'", "{\"a\\u0000\":1}"] {
            assert!(parse(text, 8).is_err(), "{text}");
        }
    }

    #[test]
    fn a_string_is_never_parsed_again() {
        let inner = json!({ "$serde_json::private::RawValue": "[[[[[[[[1]]]]]]]]" });
        assert_eq!(parse(&inner.to_string(), 1).unwrap()["$serde_json::private::RawValue"], "[[[[[[[[1]]]]]]]]");
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was_written(number in any::<i64>(), float in -1e9..1e9f64, text in "\\PC{0,16}") {
            let value = json!({ "n": number, "f": float, "t": [text, null, true, { "u": u64::MAX }] });
            prop_assert_eq!(parse(&value.to_string(), 4).unwrap(), value);
        }
    }
}
