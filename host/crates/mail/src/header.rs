//! Headers that a plugin may set, and how unstructured text is written into one.
//!
//! Not here: structured headers (`From`, `To` …), which lettre writes from checked addresses (`mime`).

use crate::error::{ComposeError, within};
use crate::limits::{HEADER_NAME_MAX_BYTES, HEADER_VALUE_MAX_BYTES, HEADER_WORD_MAX_BYTES, Limits};
use crate::limits::{TAG_MAX_CHARS, TAGS_MAX};
use base64::Engine as _;

/// Prefixes of `X-` headers by which providers and relays take orders: recipients, configuration sets, another
/// account's identity. SES (`X-SES-SOURCE-ARN` …), `SendGrid`, Mandrill, Mailgun, Postmark, Mailjet, and the host's own.
const PROVIDER_PREFIXES: [&str; 8] =
    ["x-ses-", "x-smtpapi", "x-mc-", "x-mailgun-", "x-pm-", "x-mj-", "x-mailjet-", "x-sandpost-"];

/// Bytes of text in one encoded word: 75 characters (RFC 2047 §2) less `=?utf-8?B?` and `?=`, three quarters of it.
const ENCODED_WORD_TEXT_BYTES: usize = 45;

/// Whether there is a character that ends a line somewhere, or that no header may hold.
pub(crate) fn has_control(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Whether a mail program would decode it as RFC 2047 and show something else.
pub(crate) fn looks_encoded(text: &str) -> bool {
    text.contains("=?")
}

pub(crate) fn check_text(field: &str, text: &str) -> Result<(), ComposeError> {
    if has_control(text) { Err(ComposeError::Control { field: field.to_owned() }) } else { Ok(()) }
}

/// Checks names, values, count and lengths of the plugin's headers.
pub(crate) fn check_all(headers: &[(String, String)], limits: &Limits) -> Result<(), ComposeError> {
    within("number of headers", headers.len(), limits.headers_max)?;
    for (at, (name, value)) in headers.iter().enumerate() {
        let number = at + 1;
        check_text(&format!("name of header {number}"), name)?;
        check_text(&format!("value of header {number}"), value)?;
        let repeated = headers[..at].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name));
        if repeated || !may_be_set(name) {
            return Err(ComposeError::HeaderRefused { number });
        }
        within("header value in bytes", value.len(), HEADER_VALUE_MAX_BYTES)?;
        if value.split(' ').any(|word| word.len() > HEADER_WORD_MAX_BYTES) {
            return Err(ComposeError::Invalid {
                field: format!("value of header {number}"),
                rule: "has more than 900 bytes without a space, which no mail line can hold",
            });
        }
        let structured = !starts_with(name, "x-");
        if structured && (!value.is_ascii() || looks_encoded(value)) {
            return Err(ComposeError::Invalid {
                field: format!("value of header {number}"),
                rule: "is not plain ASCII; only X-* headers may hold other text",
            });
        }
        if value.trim().is_empty() {
            return Err(ComposeError::Invalid { field: format!("value of header {number}"), rule: "is empty" });
        }
    }
    Ok(())
}

/// The alphabet of SES, so that a tag works on every provider.
pub(crate) fn check_tags(tags: &[(String, String)]) -> Result<(), ComposeError> {
    within("number of tags", tags.len(), TAGS_MAX)?;
    for (at, (name, value)) in tags.iter().enumerate() {
        let fits = |text: &str, more: &[u8]| {
            (1..=TAG_MAX_CHARS).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b) || more.contains(&b))
        };
        if !fits(name, b"") || !fits(value, b".@") {
            return Err(ComposeError::Invalid {
                field: format!("tag {}", at + 1),
                rule: "is not 1 to 256 ASCII letters, digits, `_` or `-` (in its value also `.` and `@`) on each side",
            });
        }
    }
    Ok(())
}

/// Text as the value of an unstructured header, folded: as it is where that is safe, else in encoded words, all of it,
/// so that no reader has to know how words and text mix.
pub(crate) fn encode_unstructured(name: &str, text: &str) -> String {
    let plain = text.is_ascii()
        && !looks_encoded(text)
        && !text.contains("  ")
        && text.split(' ').all(|word| word.len() <= HEADER_WORD_MAX_BYTES);
    let mut out = String::with_capacity(text.len() + 16);
    if plain {
        let mut column = name.len() + 2;
        for (at, word) in text.split(' ').enumerate() {
            if at > 0 {
                // RFC 5322 §2.1.1 asks for lines of at most 78.
                if column + 1 + word.len() > 78 {
                    out.push_str("\r\n");
                    column = 0;
                }
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += word.len();
        }
        return out;
    }
    let mut rest = text;
    while !rest.is_empty() {
        // The first line also holds the name, so its word is shorter (RFC 2047 §2: lines of at most 76).
        let room = if out.is_empty() {
            ENCODED_WORD_TEXT_BYTES.saturating_sub((name.len() + 2).div_ceil(4) * 3).max(4)
        } else {
            ENCODED_WORD_TEXT_BYTES
        };
        let end = floor_char_boundary(rest, room);
        let (chunk, after) = rest.split_at(end);
        if !out.is_empty() {
            out.push_str("\r\n ");
        }
        out.push_str("=?utf-8?B?");
        base64::engine::general_purpose::STANDARD.encode_string(chunk, &mut out);
        out.push_str("?=");
        rest = after;
    }
    out
}

fn may_be_set(name: &str) -> bool {
    let token = !name.is_empty()
        && name.len() <= HEADER_NAME_MAX_BYTES
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let named = name.eq_ignore_ascii_case("references")
        || name.eq_ignore_ascii_case("in-reply-to")
        || (starts_with(name, "list-") && name.len() > "list-".len())
        || (starts_with(name, "x-") && name.len() > "x-".len());
    token && named && !PROVIDER_PREFIXES.iter().any(|prefix| starts_with(name, prefix))
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The last boundary at or before `at`; never 0 for a text that is not empty, as no character is over 4 bytes.
fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}
