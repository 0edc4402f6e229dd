//! Ids of messages and of traces as the 16 bytes that they mostly are.
//!
//! Invariant: only what is written back as it was is packed; any other text stays a text.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// Where a UUID has its dashes, and where the pairs of digits begin.
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];
const UUID_PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
/// Where they begin in digits alone.
const DIGIT_PAIRS: [usize; 16] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// What a letter is worth as a digit. Every step has two ids, so that a letter is one look into a table.
const WORTH: [u8; 256] = worth();
const NO_DIGIT: u8 = 0xff;

/// Hexadecimal digits as the bytes that they are; any other text as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Packed {
    Bytes([u8; 16]),
    Text(Box<str>),
}

impl Packed {
    /// 32 digits in lower case.
    pub(super) fn digits(text: &str) -> Self {
        <[u8; 32]>::try_from(text.as_bytes())
            .ok()
            .and_then(|text| bytes(&text, &DIGIT_PAIRS))
            .map_or_else(|| Self::Text(text.into()), Self::Bytes)
    }

    /// A UUID as it is written in lower case.
    pub(super) fn uuid(text: &str) -> Self {
        <[u8; 36]>::try_from(text.as_bytes())
            .ok()
            .filter(|text| UUID_DASHES.iter().all(|place| text[*place] == b'-'))
            .and_then(|text| bytes(&text, &UUID_PAIRS))
            .map_or_else(|| Self::Text(text.into()), Self::Bytes)
    }

    /// The bytes, where it has any.
    pub(super) fn bytes(&self) -> Option<&[u8; 16]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Text(_) => None,
        }
    }
}

/// The bytes that pairs of digits are; none where a letter is no digit in lower case.
fn bytes<const LENGTH: usize>(text: &[u8; LENGTH], pairs: &[usize; 16]) -> Option<[u8; 16]> {
    let mut all = 0;
    let bytes = pairs.map(|place| {
        let (high, low) = (WORTH[usize::from(text[place])], WORTH[usize::from(text[place + 1])]);
        all |= high | low;
        (high << 4) | low
    });
    (all != NO_DIGIT).then_some(bytes)
}

const fn worth() -> [u8; 256] {
    let mut worth = [NO_DIGIT; 256];
    let mut digit = 0_u8;
    while (digit as usize) < DIGITS.len() {
        worth[DIGITS[digit as usize] as usize] = digit;
        digit += 1;
    }
    worth
}

impl ToSql for Packed {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Bytes(bytes) => ToSqlOutput::from(&bytes[..]),
            Self::Text(text) => ToSqlOutput::from(&**text),
        })
    }
}

/// The way back of [`Packed::digits`].
pub(super) fn unpacked(value: ValueRef<'_>) -> rusqlite::Result<String> {
    match value {
        ValueRef::Blob(bytes) => Ok(hexadecimal(bytes)),
        text => Ok(text.as_str()?.to_owned()),
    }
}

/// Two digits a byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::{Packed, UUID_DASHES, hexadecimal};
    use sandpost_message::MessageId;

    #[test]
    fn only_what_can_be_written_back_is_packed() {
        let id = MessageId::new();
        let packed = Packed::uuid(id.as_str());
        assert_eq!(packed.bytes().map(|bytes| hexadecimal(bytes)), Some(id.as_str().replace('-', "")));
        assert_eq!(Packed::digits("0123456789abcdef0123456789abcdef").bytes().unwrap()[..2], [0x01, 0x23]);
        let upper = id.as_str().to_uppercase();
        for text in
            ["", "short", &upper, &"-".repeat(32 + UUID_DASHES.len()), &"0".repeat(36), &id.as_str().replace('-', "0")]
        {
            assert!(matches!(Packed::uuid(text), Packed::Text(_)), "{text}");
        }
        for letter in ["g", "`", "/", ":", "F", "-", "\u{0}"] {
            let mut text = id.to_string();
            text.replace_range(35.., letter);
            assert_eq!(Packed::uuid(&text), Packed::Text(text.clone().into()), "{text}");
        }
        assert!(matches!(Packed::digits(&"0af7651916cd43dd8448eb211c80319c".to_uppercase()), Packed::Text(_)));
    }
}
