//! Addresses: what every provider takes. Local parts are ASCII dot-atoms (SES has no SMTPUTF8), domains Punycode.
//!
//! Not here: quoted local parts and address literals (`"a b"@x`, `a@[127.0.0.1]`): legal, refused by many servers,
//! and a classic way around checks.

use crate::error::ComposeError;
use crate::header::{has_control, looks_encoded};
use crate::limits::NAME_MAX_BYTES;
use sandpost_ports::email::Address;

/// Bytes of a local part: RFC 5321 §4.5.3.1.1.
const LOCAL_PART_MAX_BYTES: usize = 64;
/// Bytes of an address: RFC 5321 §4.5.3.1.3, without the angle brackets.
const ADDRESS_MAX_BYTES: usize = 254;

/// Why a text is not an address. The text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A line break, NUL or another control character.
    #[error("it contains a line break or another control character")]
    Control,
    /// No `@`, or nothing on one side of it.
    #[error("it is not of the form `local@domain`")]
    Form,
    /// The local part is empty, too long, or not an ASCII dot-atom.
    #[error("its local part is not 1 to 64 ASCII letters, digits or !#$%&'*+-/=?^_`{{|}}~, with single dots between")]
    LocalPart,
    /// The domain cannot be resolved by any server.
    #[error("its domain is not a valid host name")]
    Domain,
    /// Over 254 bytes.
    #[error("it is longer than 254 bytes")]
    TooLong,
    /// The name beside it is too long, or would be read as something else.
    #[error("the name beside it is longer than 256 bytes, overrides text direction, or reads as an encoded word")]
    Name,
}

/// Parses `local@domain`, `Name <local@domain>` or `"Name" <local@domain>`; the domain becomes Punycode.
pub fn parse_address(text: &str) -> Result<Address, AddressError> {
    if has_control(text) {
        return Err(AddressError::Control);
    }
    let text = text.trim();
    let Some(inner) = text.strip_suffix('>') else {
        return check_address(&Address { name: None, address: text.to_owned() });
    };
    let (name, address) = inner.rsplit_once('<').ok_or(AddressError::Form)?;
    let name = name.trim();
    let name = match name.strip_prefix('"') {
        Some(quoted) => unquote(quoted.strip_suffix('"').ok_or(AddressError::Form)?)?,
        // What the grammar gives a meaning to must be quoted: `a@b.c, Name <x@y.z>` is two addresses, not a name.
        None if name.contains(['"', '<', '>', ',', ';', ':', '@', '\\']) => return Err(AddressError::Form),
        None => name.to_owned(),
    };
    check_address(&Address { name: Some(name), address: address.trim().to_owned() })
}

/// Checks an address that came in parts; the answer has its domain in Punycode and no empty name.
pub fn check_address(given: &Address) -> Result<Address, AddressError> {
    let name = match &given.name {
        Some(name) if has_control(name) => return Err(AddressError::Control),
        Some(name) if name.trim().is_empty() => None,
        Some(name) if name.len() > NAME_MAX_BYTES || looks_encoded(name) || overrides_direction(name) => {
            return Err(AddressError::Name);
        }
        Some(name) => Some(name.trim().to_owned()),
        None => None,
    };
    if has_control(&given.address) {
        return Err(AddressError::Control);
    }
    let (local, domain) = given.address.rsplit_once('@').ok_or(AddressError::Form)?;
    if local.is_empty() || domain.is_empty() {
        return Err(AddressError::Form);
    }
    let atom = |part: &str| !part.is_empty() && part.bytes().all(is_atext);
    if local.len() > LOCAL_PART_MAX_BYTES || !local.split('.').all(atom) {
        return Err(AddressError::LocalPart);
    }
    // The strict variant keeps to letters, digits and hyphens, and to the lengths of DNS.
    let domain = idna::domain_to_ascii_strict(domain).map_err(|_| AddressError::Domain)?;
    let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    if !domain.split('.').all(label) || !domain.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        return Err(AddressError::Domain);
    }
    let address = format!("{local}@{domain}");
    if address.len() > ADDRESS_MAX_BYTES {
        return Err(AddressError::TooLong);
    }
    Ok(Address { name, address })
}

/// The same, naming the part of the draft.
pub(crate) fn check_field(field: &str, given: &Address) -> Result<Address, ComposeError> {
    check_address(given).map_err(|source| match source {
        AddressError::Control => ComposeError::Control { field: format!("{field} address") },
        source => ComposeError::Address { field: format!("{field} address"), source },
    })
}

/// All of a list; the error says which of them, counted from 1.
pub(crate) fn check_fields(field: &str, given: &[Address]) -> Result<Vec<Address>, ComposeError> {
    given.iter().enumerate().map(|(at, address)| check_field(&format!("{field} {}", at + 1), address)).collect()
}

/// Characters that make text read backwards: `exe.gpj` shown as `jpg.exe`.
pub(crate) fn overrides_direction(text: &str) -> bool {
    text.contains(['\u{202a}', '\u{202b}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}'])
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn unquote(quoted: &str) -> Result<String, AddressError> {
    let mut out = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().ok_or(AddressError::Form)?),
            '"' => return Err(AddressError::Form),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn domains_become_punycode_and_local_parts_stay() {
        for (given, name, address) in [
            ("a@example.com", None, "a@example.com"),
            ("Ana <Ana.B+c@Example.COM>", Some("Ana"), "Ana.B+c@example.com"),
            ("\"Ana, \\\"B\\\"\" <a@x.test>", Some("Ana, \"B\""), "a@x.test"),
            ("São <a@bücher.example>", Some("São"), "a@xn--bcher-kva.example"),
            ("dev@localhost", None, "dev@localhost"),
            (" < a@x.test > ", None, "a@x.test"),
        ] {
            let parsed = parse_address(given).unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!((parsed.name.as_deref(), parsed.address.as_str()), (name, address), "{given}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "a",
            "@",
            "a@",
            "@b",
            "a b@x.test",
            "a@x test",
            "a@@x.test",
            "ã@x.test",
            "a..b@x.test",
            ".a@x.test",
            "a.@x.test",
            "\"a b\"@x.test",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@-x.test",
            "a@x-.test",
            "a@x..test",
            "a@.x",
            "a@x.",
            "a,b@x.test",
            "a@x.test, b@y.test",
            "b@y.test, N <a@x.test>",
            "N <a@x.test",
            "a@x_y.test",
            "a@x.test\r\nBcc: b@y.test",
            "a@x.test\n",
            "N\r\nBcc: x <a@x.test>",
            "a\0@x.test",
            "<<a@x.test>>",
            "a@xn--zzzzzz---.test",
            "\"N\" x\" <a@x.test>",
            "=?utf-8?q?x?= <a@x.test>",
            "N\u{202e} <a@x.test>",
        ] {
            assert!(parse_address(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_address(&format!("{}@x.test", "a".repeat(65))), Err(AddressError::LocalPart));
        assert!(parse_address(&format!("a@{}.test", "a".repeat(64))).is_err());
        assert!(parse_address(&format!("a@{}test", "abcdefg.".repeat(40))).is_err());
    }

    proptest! {
        #[test]
        fn a_checked_address_is_plain_ascii_and_stays(text in "\\PC{0,20}@\\PC{1,20}", name in ".{0,20}") {
            if let Ok(checked) = check_address(&Address { name: Some(name), address: text }) {
                prop_assert!(checked.address.is_ascii());
                prop_assert!(!checked.address.contains([' ', '\r', '\n', '<', '>', ',', ';', '"']));
                prop_assert_eq!(check_address(&checked), Ok(checked));
            }
        }
    }
}
