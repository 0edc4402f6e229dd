//! Styles: what may stay in a `style` attribute or element. Anything that runs, binds or loads another sheet goes.

use crate::link::{decode_entities, is_image_data};
use std::borrow::Cow;

/// Characters of a `data:` URL that tell its type: more than the longest allowed has.
const IMAGE_TYPE_SHOWN_CHARS: usize = 32;

/// Whether a style is harmless. `attribute` says that it stands in an attribute, where entities are decoded.
pub(crate) fn is_safe(raw: &str, attribute: bool) -> bool {
    let decoded = if attribute { decode_entities(raw) } else { Cow::Borrowed(raw) };
    // An entity that stayed could be any character; styles have no use for an ampersand elsewhere than in a URL's query.
    if attribute && has_named_entity(&decoded) {
        return false;
    }
    // With and without comments: some programs read `exp/**/ression` as one word, and what only looks like a comment
    // (inside a string) must hide nothing. Most styles have neither comment nor escape, and are the same three times.
    if !decoded.contains('\\') && !decoded.contains("/*") {
        return is_harmless(&decoded);
    }
    let unescaped = unescape(&decoded);
    [&*unescaped, &*without_comments(&unescaped), &*without_comments(&decoded)].into_iter().all(is_harmless)
}

/// Without its `@import` rules. What a trick leaves of one is for [`is_safe`] to find.
pub(crate) fn without_imports(sheet: &str) -> (String, bool) {
    if !sheet.match_indices('@').any(|(at, _)| starts_with_import(&sheet[at..])) {
        return (sheet.to_owned(), false);
    }
    let lower = sheet.to_ascii_lowercase();
    let mut out = String::with_capacity(sheet.len());
    let (mut from, mut found) = (0, false);
    while let Some(at) = lower[from..].find("@import") {
        found = true;
        out.push_str(&sheet[from..from + at]);
        from = end_of_statement(sheet, from + at);
    }
    out.push_str(&sheet[from..]);
    (out, found)
}

/// Whether it holds nothing that old mail programs and browsers run, and nothing that loads rules from elsewhere.
///
/// Looked for without white space and in any case, in one walk that stops at few characters and copies nothing: a style
/// is looked at on every element, in both passes.
fn is_harmless(text: &str) -> bool {
    // What counts as white space and as the same letter is asked of characters, once they are not all ASCII.
    let folded = if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(folded(text)) };
    let bytes = folded.as_bytes();
    let stops = |at: &usize| matches!(bytes[*at], b'-' | b'@' | b'<' | b'(' | b':');
    (0..bytes.len()).filter(stops).all(|at| is_harmless_at(&bytes[..at], &bytes[at..]))
}

// Inlined, it makes the loop that finds the stops four times as slow.
#[inline(never)]
fn is_harmless_at(before: &[u8], from: &[u8]) -> bool {
    match from {
        [b'-', ..] => !begins(from, b"-moz-binding"),
        [b'@', ..] => !begins(from, b"@import"),
        [b'<', ..] => !begins(from, b"</style"),
        [b'(', ..] => !ends(before, b"expression"),
        _ => {
            let runs = ends(before, b"javascript")
                || ends(before, b"vbscript")
                || (ends(before, b"progid") && begins(from, b":dximagetransform.microsoft.alphaimageloader"))
                || (ends(before, b"behavior") && !ends(before, b"scroll-behavior"));
            !runs && (!ends(before, b"data") || is_image_data(&format!("data{}", type_of_data(from))))
        }
    }
}

fn type_of_data(from_colon: &[u8]) -> String {
    let shown = from_colon.iter().filter(|byte| !is_hidden(**byte)).take(IMAGE_TYPE_SHOWN_CHARS);
    shown.map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

fn folded(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).flat_map(char::to_lowercase).collect()
}

/// Whether it begins with the word, which is in lower case.
fn begins(mut bytes: &[u8], word: &[u8]) -> bool {
    word.iter().all(|wanted| {
        while let [byte, rest @ ..] = bytes {
            bytes = rest;
            if !is_hidden(*byte) {
                return byte.to_ascii_lowercase() == *wanted;
            }
        }
        false
    })
}

/// Whether it ends with the word, which is in lower case.
fn ends(mut bytes: &[u8], word: &[u8]) -> bool {
    word.iter().rev().all(|wanted| {
        while let [rest @ .., byte] = bytes {
            bytes = rest;
            if !is_hidden(*byte) {
                return byte.to_ascii_lowercase() == *wanted;
            }
        }
        false
    })
}

/// White space and control characters of ASCII.
fn is_hidden(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

fn has_named_entity(text: &str) -> bool {
    text.match_indices('&').any(|(at, _)| {
        let name = &text[at + 1..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        end > 0 && name[end..].starts_with(';')
    })
}

/// CSS escapes as the characters that they stand for: `\65 xpression` is `expression`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let mut code = 0_u32;
        let mut digits = 0;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(16)) {
            if digits == 6 {
                break;
            }
            code = code * 16 + digit;
            digits += 1;
            chars.next();
        }
        if digits > 0 {
            out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            if chars.peek().is_some_and(char::is_ascii_whitespace) {
                chars.next();
            }
        }
    }
    out
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/*") {
        out.push_str(&rest[..at]);
        rest = rest[at + 2..].find("*/").map_or("", |end| &rest[at + 2 + end + 2..]);
    }
    out.push_str(rest);
    out
}

fn starts_with_import(text: &str) -> bool {
    text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("@import"))
}

/// Past the semicolon that ends the statement at `from`; semicolons in strings and brackets do not.
fn end_of_statement(sheet: &str, from: usize) -> usize {
    let (mut quote, mut depth) = (None, 0_usize);
    for (at, c) in sheet[from..].char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ';') if depth == 0 => return from + at + 1,
            (Some(_) | None, _) => {}
        }
    }
    sheet.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_or_loads_is_found_however_it_is_written() {
        for good in [
            "color: red; background: url(https://x.test/a.png?b=1&c=2)",
            "font-family: &quot;Arial&quot;",
            "scroll-behavior: smooth; overscroll-behavior: none",
            "background:url(data:image/png;base64,AA)",
            "mso-line-height-rule: exactly",
            "content: '\\2014'",
        ] {
            assert!(is_safe(good, true), "{good}");
        }
        for bad in [
            "width: expression(alert(1))",
            "width: EXPRESSION (1)",
            "width: exp/**/ression(1)",
            "width:\\65xpression(1)",
            "width: e&#120;pression(1)",
            "background: url(javascript:x)",
            "background: url( 'java\nscript:x')",
            "behavior: url(#x)",
            "-ms-behavior:url(x)",
            "-moz-binding: url(x)",
            "background:url(data:text/html,x)",
            "background:url(data:image/svg+xml,x)",
            "background:url&lpar;javascript&colon;x)",
            "width: expr\\65 ssion(1)",
        ] {
            assert!(!is_safe(bad, true), "{bad}");
        }
        assert!(!is_safe("@IMPORT 'x'", false));
        assert!(!is_safe("@\\69mport 'x'", false));
    }

    #[test]
    fn imports_go_and_the_rest_stays() {
        let (sheet, found) = without_imports(
            "@import url(https://f.test/css2?family=R:wght@400;700);\n@media (x){a{b:c}} @Import \"a;b\"; p{c:d}",
        );
        assert!(found);
        assert_eq!(sheet, "\n@media (x){a{b:c}}  p{c:d}");
        assert_eq!(without_imports("p{}"), ("p{}".to_owned(), false));
        assert_eq!(without_imports("p{} @import 'x").0, "p{} ");
    }
}
