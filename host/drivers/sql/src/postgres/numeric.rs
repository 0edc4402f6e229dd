//! Postgres's NUMERIC in its binary form, with every digit: groups of four, most significant first.
//! `numeric_send` and `numeric_recv` in <https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/utils/adt/numeric.c>.

use crate::shape::Decimal;
use std::fmt::Write as _;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITE: u16 = 0xd000;
const INFINITE_NEGATIVE: u16 = 0xf000;

/// What a column of it holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Number {
    Digits(String),
    /// Not a number, or infinite.
    Special(f64),
}

/// Nothing where the bytes are none.
pub(super) fn read(bytes: &[u8]) -> Option<Number> {
    let (head, groups) = bytes.split_at_checked(8)?;
    let part = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (count, weight, sign, scale) = (usize::from(part(0)), part(2).cast_signed(), part(4), usize::from(part(6)));
    match sign {
        NAN => return Some(Number::Special(f64::NAN)),
        INFINITE => return Some(Number::Special(f64::INFINITY)),
        INFINITE_NEGATIVE => return Some(Number::Special(f64::NEG_INFINITY)),
        0 | NEGATIVE => {}
        _ => return None,
    }
    if groups.len() != count * 2 {
        return None;
    }
    // The group of this weight: 0 for ones, 1 for ten thousands, -1 for what follows the point.
    let group = |of: i32| {
        let at = usize::try_from(i32::from(weight) - of).ok()?;
        groups.get(at * 2..at * 2 + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    };
    let mut text = String::new();
    for of in (0..=i32::from(weight)).rev() {
        // Writing to a string does not fail.
        _ = write!(text, "{:04}", group(of).unwrap_or(0));
    }
    let whole = text.trim_start_matches('0');
    let mut text = format!("{}{}", if sign == NEGATIVE { "-" } else { "" }, if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let mut fraction = String::new();
        let mut of = -1;
        while fraction.len() < scale {
            _ = write!(fraction, "{:04}", group(of).unwrap_or(0));
            of -= 1;
        }
        fraction.truncate(scale);
        text.push('.');
        text.push_str(&fraction);
    }
    Some(Number::Digits(text))
}

/// Nothing where it has more digits than Postgres takes.
pub(super) fn write(decimal: &Decimal) -> Option<Vec<u8>> {
    let group = |digits: &[u8]| digits.iter().fold(0_u16, |number, digit| number * 10 + u16::from(digit - b'0'));
    let mut groups = Vec::new();
    // The first group has what is left over.
    let (first, rest) = decimal.whole.as_bytes().split_at(decimal.whole.len() % 4);
    if !first.is_empty() {
        groups.push(group(first));
    }
    groups.extend(rest.chunks(4).map(group));
    let mut weight = i16::try_from(groups.len()).ok()? - 1;
    for chunk in decimal.fraction.as_bytes().chunks(4) {
        let missing = u32::try_from(4 - chunk.len()).ok()?;
        groups.push(group(chunk) * 10_u16.pow(missing));
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= i16::try_from(leading).ok()?;
    if groups.is_empty() {
        weight = 0;
    }
    let sign = if decimal.is_negative && !groups.is_empty() { NEGATIVE } else { 0 };
    let scale = u16::try_from(decimal.fraction.len()).ok()?;
    let mut bytes = Vec::with_capacity(8 + groups.len() * 2);
    bytes.extend(u16::try_from(groups.len()).ok()?.to_be_bytes());
    bytes.extend(weight.to_be_bytes());
    bytes.extend(sign.to_be_bytes());
    bytes.extend(scale.to_be_bytes());
    bytes.extend(groups.into_iter().flat_map(u16::to_be_bytes));
    Some(bytes)
}

/// Not a number, or infinite.
pub(super) fn write_special(value: f64) -> Vec<u8> {
    let sign = if value.is_nan() {
        NAN
    } else if value > 0.0 {
        INFINITE
    } else {
        INFINITE_NEGATIVE
    };
    [[0, 0], [0, 0], sign.to_be_bytes(), [0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;

    #[test]
    fn every_digit_comes_back() {
        for digits in [
            "0",
            "1",
            "-1",
            "10000",
            "9999",
            "0.0001",
            "0.00001",
            "-12345678901234567890.0123456789",
            "1.50",
            "100000000.00000000",
            "0.00",
            "123456789.1",
            "10000.0001",
        ] {
            let bytes = write(&shape::decimal(digits).unwrap()).unwrap();
            assert_eq!(read(&bytes), Some(Number::Digits(digits.to_owned())), "{bytes:?}");
        }
        let long = format!("{}.{}", "9".repeat(1_000), "1".repeat(1_000));
        assert_eq!(read(&write(&shape::decimal(&long).unwrap()).unwrap()), Some(Number::Digits(long)));
    }

    #[test]
    fn the_bytes_are_the_servers() {
        // SELECT numeric_send(12345.678)
        let bytes = [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c];
        assert_eq!(read(&bytes), Some(Number::Digits("12345.678".into())));
        assert_eq!(write(&shape::decimal("12345.678").unwrap()).unwrap(), bytes);
        assert!(matches!(read(&write_special(f64::NAN)), Some(Number::Special(value)) if value.is_nan()));
        assert_eq!(read(&write_special(f64::NEG_INFINITY)), Some(Number::Special(f64::NEG_INFINITY)));
        assert_eq!(read(&[0, 9, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(read(&[]), None);
    }
}
