//! The text part, made from the HTML where the plugin gave none: what a person would read, links as footnotes.

use crate::error::{ComposeError, within};
use crate::html::without_hidden;
use crate::limits::{Limits, TEXT_WIDTH};

/// From HTML that is already safe. Lines are at most 78 columns where words allow it.
pub(crate) fn from_html(safe: &str, limits: &Limits) -> Result<String, ComposeError> {
    let shown = without_hidden(safe)?;
    let text = html2text::config::plain()
        // Tables in mails are layout: a cell is a block, and no borders are drawn.
        .raw_mode(true)
        // A broken link is no link.
        .no_link_wrapping()
        .allow_width_overflow()
        .string_from_read(shown.as_bytes(), TEXT_WIDTH)
        .map_err(|error| ComposeError::Html { reason: format!("no text can be made from it: {error}") })?;
    let mut out = String::with_capacity(text.len());
    let mut blank_before = true;
    for line in text.lines() {
        let line: String = line.trim_end().chars().filter(|c| !c.is_control()).collect();
        let blank = line.is_empty();
        if !(blank && blank_before) {
            out.push_str(&line);
            out.push('\n');
        }
        blank_before = blank;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    within("text in bytes", out.len(), limits.text_max_bytes)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_a_person_would_write_it() {
        let html = "<!DOCTYPE html><html><head><title>no</title><style>@media x{a{}}</style></head><body>\
            <div style=\"display: none\">preheader</div><table><tr><td><h1>Olá</h1></td></tr><tr><td>\
            <p>Go <a href=\"https://x.test/a?b=c\">here</a> now &amp; then.</p></td></tr></table></body></html>";
        let text = from_html(html, &Limits::default()).unwrap();
        assert_eq!(text, "# Olá\nGo [here][1] now & then.\n\n[1]: https://x.test/a?b=c\n");
    }

    #[test]
    fn lines_fit_and_deep_tables_end() {
        let html = format!("<p>{}</p>{}x", "word ".repeat(200), "<table><tr><td>".repeat(90));
        let started = std::time::Instant::now();
        let text = from_html(&html, &Limits::default()).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= TEXT_WIDTH));
        assert!(text.ends_with("x\n"));
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}
