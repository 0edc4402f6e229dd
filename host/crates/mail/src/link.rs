//! Links in HTML: which schemes may stay. Reads a value as the most lenient browser would, and refuses what it cannot
//! read.

use std::borrow::Cow;

/// What may be linked to.
const SCHEMES: [&str; 5] = ["http", "https", "mailto", "tel", "cid"];
/// What may be shown from inside the mail. No SVG: it is a document, and can hold scripts.
const IMAGE_TYPES: [&str; 8] = ["png", "gif", "jpeg", "jpg", "webp", "bmp", "avif", "x-icon"];

/// Whether an attribute's value, as it stands in the source, leads only where a mail may lead. `image` allows
/// `data:` with an image in it.
pub(crate) fn is_safe(raw: &str, image: bool) -> bool {
    let text = normalise(raw);
    let head = &text[..text.find(['/', '?', '#', '\\']).unwrap_or(text.len())];
    match head.split_once(':') {
        Some((scheme, _)) if SCHEMES.contains(&scheme) => true,
        Some(("data", _)) if image => is_image_data(&text),
        Some(_) => false,
        // An entity that was not decoded could be a colon.
        None => !head.contains('&'),
    }
}

/// Lower case, entities decoded, without white space, control and invisible characters: browsers skip some of them,
/// and a scheme has none.
pub(crate) fn normalise(raw: &str) -> String {
    let decoded = decode_entities(raw);
    if decoded.is_ascii() {
        let mut out = String::with_capacity(decoded.len());
        out.extend(decoded.bytes().filter(u8::is_ascii_graphic).map(|byte| char::from(byte.to_ascii_lowercase())));
        return out;
    }
    decoded
        .chars()
        .filter(|c| {
            !c.is_whitespace()
                && !c.is_control()
                && !matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        })
        .flat_map(char::to_lowercase)
        .collect()
}

/// Decodes numeric references, with or without their semicolon, and the named ones that serialisers write. Others
/// stay, ampersand and all, for the caller to refuse.
pub(crate) fn decode_entities(raw: &str) -> Cow<'_, str> {
    if !raw.contains('&') {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(number) = rest.strip_prefix('#') {
            let (radix, digits) = match number.strip_prefix(['x', 'X']) {
                Some(hex) => (16, hex),
                None => (10, number),
            };
            let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
            if end > 0 {
                let code = u32::from_str_radix(&digits[..end], radix).unwrap_or(u32::MAX);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = digits[end..].strip_prefix(';').unwrap_or(&digits[end..]);
                continue;
            }
        }
        let known = [("amp;", '&'), ("quot;", '"'), ("lt;", '<'), ("gt;", '>'), ("apos;", '\''), ("nbsp;", '\u{a0}')];
        match known.iter().find_map(|(name, c)| rest.strip_prefix(name).map(|after| (*c, after))) {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether a normalised `data:` URL holds an image that is only an image.
pub(crate) fn is_image_data(text: &str) -> bool {
    let Some(kind) = text.strip_prefix("data:image/") else { return false };
    let end = kind.find([';', ',']).unwrap_or(kind.len());
    IMAGE_TYPES.contains(&&kind[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_schemes_stay_however_they_are_written() {
        for good in [
            "https://x.test/a?b=javascript:1&c",
            "HTTP://X.test",
            " https://x.test",
            "mailto:a@x.test?subject=a&amp;b",
            "tel:+351",
            "cid:logo@x",
            "#top",
            "",
            "/path",
            "//x.test/a",
            "page.html",
            "https&#58;//x.test",
            "?a=b:c",
        ] {
            assert!(is_safe(good, false), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            " javascript:alert(1)",
            "\u{1}javascript:x",
            "java\tscript:x",
            "java\nscript:x",
            "java&#115;cript:x",
            "java&#x73;cript:x",
            "&#106;avascript:x",
            "&#0000106avascript:x",
            "javascript&colon;alert(1)",
            "javascript&#58;x",
            "java&Tab;script:x",
            "java&NewLine;script:x",
            "vbscript:x",
            "data:text/html,<script>",
            "data:image/png;base64,AA",
            "file:///etc/passwd",
            "ftp://x",
            "blob:x",
            "intent:x",
            "\u{feff}javascript:x",
            "java\u{200b}script:x",
            "about:blank",
            "view-source:https://x",
            "https&colon;//x",
        ] {
            assert!(!is_safe(bad, false), "{bad}");
        }
        assert!(is_safe("data:image/png;base64,AA==", true));
        assert!(is_safe("cid:logo", true));
        for bad in ["data:image/svg+xml,<svg onload=x>", "data:text/html,x", "data:,x", "javascript:x", "data:image/"] {
            assert!(!is_safe(bad, true), "{bad}");
        }
    }
}
