//! Styles: what may stay in a `style` attribute or element. Anything that runs, binds or loads another sheet goes.

use crate::link::{decode_entities, is_image_data};
use std::borrow::Cow;

/// What old mail programs and browsers run, or what loads rules from elsewhere. Looked for without white space.
const FORBIDDEN: [&str; 7] = [
    "expression(",
    "javascript:",
    "vbscript:",
    "-moz-binding",
    "@import",
    "</style",
    "progid:dximagetransform.microsoft.alphaimageloader",
];

/// Whether a style is harmless. `attribute` says that it stands in an attribute, where entities are decoded.
pub(crate) fn is_safe(raw: &str, attribute: bool) -> bool {
    let decoded = if attribute { Cow::Owned(decode_entities(raw)) } else { Cow::Borrowed(raw) };
    // An entity that stayed could be any character; styles have no use for an ampersand elsewhere than in a URL's query.
    if attribute && has_named_entity(&decoded) {
        return false;
    }
    // With and without comments: some programs read `exp/**/ression` as one word, and what only looks like a comment
    // (inside a string) must hide nothing. Most styles have neither comment nor escape, and are the same three times.
    if !decoded.contains('\\') && !decoded.contains("/*") {
        return is_harmless(&squeezed(&decoded));
    }
    let unescaped = unescape(&decoded);
    [squeezed(&unescaped), squeezed(&without_comments(&unescaped)), squeezed(&without_comments(&decoded))]
        .iter()
        .all(|text| is_harmless(text))
}

/// Without its `@import` rules. What a trick leaves of one is for [`is_safe`] to find.
pub(crate) fn without_imports(sheet: &str) -> (String, bool) {
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

/// Lower case, without white space and control characters.
fn squeezed(text: &str) -> String {
    if text.is_ascii() {
        let shown = text.bytes().filter(u8::is_ascii_graphic);
        return shown.map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    }
    text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).flat_map(char::to_lowercase).collect()
}

fn is_harmless(squeezed: &str) -> bool {
    if FORBIDDEN.iter().any(|word| squeezed.contains(word)) {
        return false;
    }
    let behaviour_is_scrolling = squeezed.match_indices("behavior:").all(|(at, _)| squeezed[..at].ends_with("scroll-"));
    let data_is_an_image = squeezed.match_indices("data:").all(|(at, _)| is_image_data(&squeezed[at..]));
    behaviour_is_scrolling && data_is_an_image
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
