//! `$regex`: from the patterns that MongoDB takes (PCRE) to ones that run in linear time.
//!
//! Where the two languages differ, the pattern is translated (ASCII classes, `[` inside a class, `$` before a last
//! newline) or refused (look-around, back-references, `\Q`, `\Z`, `\B`); it never means something else.

use sandpost_ports::PortError;

/// Longest pattern, in bytes; MongoDB's own limit is 32 764.
const PATTERN_MAX_BYTES: usize = 32_764;

/// Memory of a compiled pattern.
const COMPILED_MAX_BYTES: usize = 1 << 20;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    regex: regex::Regex,
    /// Whether `$` may stand before a newline that ends the text.
    ends_before_newline: bool,
}

impl Pattern {
    /// Compiles a pattern with the options `i`, `m`, `s` and `x`.
    pub(crate) fn new(pattern: &str, options: &str) -> Result<Self, PortError> {
        if pattern.len() > PATTERN_MAX_BYTES {
            return Err(PortError::invalid(format!("a $regex has more than {PATTERN_MAX_BYTES} bytes")));
        }
        if let Some(unknown) = options.chars().find(|option| !"imsx".contains(*option)) {
            return Err(PortError::invalid(format!("$options has `{unknown}`; it may have i, m, s and x")));
        }
        let has = |option| options.contains(option);
        let regex = regex::RegexBuilder::new(&translate(pattern, has('x'))?)
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .ignore_whitespace(has('x'))
            .size_limit(COMPILED_MAX_BYTES)
            .dfa_size_limit(COMPILED_MAX_BYTES)
            .build()
            .map_err(|error| PortError::unsupported("a $regex that this driver cannot run").because(error))?;
        Ok(Self { regex, ends_before_newline: !has('m') && pattern.contains('$') })
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
            || (self.ends_before_newline && text.strip_suffix('\n').is_some_and(|without| self.regex.is_match(without)))
    }
}

/// White space and `#`, which a spaced pattern would lose inside a class.
fn ascii_hex(spaced: char) -> &'static str {
    match spaced {
        '\t' => "09",
        '\n' => "0A",
        '#' => "23",
        _ => "20",
    }
}

fn translate(pattern: &str, is_spaced: bool) -> Result<String, PortError> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut in_class = false;
    let mut class_start = 0;
    let mut chars = pattern.chars().peekable();
    while let Some(next) = chars.next() {
        match next {
            '\\' => {
                let Some(escaped) = chars.next() else {
                    return Err(PortError::invalid("a $regex ends in a backslash"));
                };
                match (escaped, in_class) {
                    // Without options of its own, PCRE knows these for ASCII only.
                    ('d', false) => out.push_str("[0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('s', false) => out.push_str(r"[\t\n\x0B\f\r\x20]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('S', _) => out.push_str(r"[^\t\n\x0B\f\r\x20]"),
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\x0B\f\r\x20"),
                    ('b', false) => out.push_str(r"(?-u:\b)"),
                    ('b', true) => out.push_str(r"\x08"),
                    ('B' | 'p' | 'P' | 'x' | 'u' | 'U' | '<' | '>' | '0'..='9', _) => {
                        return Err(PortError::unsupported(format!("`\\{escaped}` in a $regex")));
                    }
                    _ => {
                        out.push('\\');
                        out.push(escaped);
                    }
                }
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket that comes first is one of the class.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str(r"\]");
                }
                class_start = out.len();
            }
            '[' if chars.peek() == Some(&':') => {
                out.push_str("[:");
                chars.next();
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // These mean something inside a class here, and not in PCRE.
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(next);
            }
            '-' if in_class && (out.len() == class_start || chars.peek() == Some(&']')) => out.push_str(r"\-"),
            ' ' | '\t' | '\n' | '#' if in_class && is_spaced => {
                out.extend([r"\x", ascii_hex(next)]);
            }
            _ => out.push(next),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_mongodb() {
        #[track_caller]
        fn check(pattern: &str, options: &str, text: &str, expected: bool) {
            assert_eq!(
                Pattern::new(pattern, options).unwrap().matches(text),
                expected,
                "/{pattern}/{options} on {text:?}"
            );
        }
        check("^ab", "", "abc", true);
        check("^ab", "", "ABC", false);
        check("^ab", "i", "ABC", true);
        check("^É", "i", "éa", true);
        check("b$", "", "ab\n", true);
        check("b$", "", "ab\nc", false);
        check("b$", "m", "ab\nc", true);
        check("a.c", "", "a\nc", false);
        check("a.c", "s", "a\nc", true);
        check("a b # c", "x", "ab", true);
        check("[ ]b", "x", "a b", true);
        check(r"^\d+$", "", "12", true);
        check(r"^\d+$", "", "\u{0661}", false);
        check(r"^\w+$", "", "é", false);
        check(r"^[\w-]+$", "", "a-b", true);
        check(r"^[[]$", "", "[", true);
        check(r"^[]a]+$", "", "a]", true);
        check(r"^[a&&b]+$", "", "&", true);
        check(r"^[[:alpha:]]+$", "", "ab", true);
        check(r"a&b~c", "", "a&b~c", true);
        check(r"\bcat\b", "", "a cat.", true);
        check(r"^[a-]$", "", "-", true);
    }

    #[test]
    fn what_cannot_run_is_refused() {
        #[track_caller]
        fn check(pattern: &str, options: &str, word: &str) {
            assert_eq!(Pattern::new(pattern, options).unwrap_err().kind.word(), word, "/{pattern}/{options}");
        }
        check(r"(?=a)", "", "unsupported");
        check(r"(a)\1", "", "unsupported");
        check(r"\p{L}", "", "unsupported");
        check(r"a\Z", "", "unsupported");
        check("(((a{1000}){1000}){1000})", "", "unsupported");
        check("a", "g", "invalid");
        check("a\\", "", "invalid");
        check(&"a".repeat(40_000), "", "invalid");
    }
}
