//! Takes out of a text what a log must not hold: the local part of e-mail addresses, and bearer tokens.
//!
//! A last line of defence for texts that plugins and libraries wrote; the host's own lines do not hold such things.

use std::borrow::Cow;

/// The text with `someone@example.com` as `s***@example.com` and `Bearer abc` as `Bearer ***`.
///
/// Looks at the text once and copies it only where something has to go.
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains('@') && !contains_bearer(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut after_bearer = false;
    for piece in text.split_inclusive(|c: char| !is_word(c)) {
        let word = piece.trim_end_matches(|c: char| !is_word(c));
        let tail = &piece[word.len()..];
        if after_bearer && !word.is_empty() {
            out.push_str("***");
        } else if let Some((local, domain)) = address(word) {
            out.extend(local.chars().next());
            out.push_str("***@");
            out.push_str(domain);
        } else {
            out.push_str(word);
        }
        out.push_str(tail);
        after_bearer = if word.is_empty() { after_bearer } else { word.eq_ignore_ascii_case("bearer") };
    }
    Cow::Owned(out)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "@.!#$%&'*+/=?^_`{|}~-".contains(c)
}

fn contains_bearer(text: &str) -> bool {
    text.as_bytes().windows(6).any(|window| window.eq_ignore_ascii_case(b"bearer"))
}

fn address(word: &str) -> Option<(&str, &str)> {
    let (local, domain) = word.rsplit_once('@')?;
    (!local.is_empty() && domain.contains(|c: char| c.is_alphanumeric())).then_some((local, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_out_addresses_and_tokens_and_nothing_else() {
        for (text, expected) in [
            ("sent to ada@example.com, and bob.b@example.org.", "sent to a***@example.com, and b***@example.org."),
            ("<ada@example.com>", "<a***@example.com>"),
            ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
            ("bearer   xyz rest", "bearer   *** rest"),
            ("é@exämple.com", "é***@exämple.com"),
            ("@ alone, a@, @b", "@ alone, a@, @b"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
