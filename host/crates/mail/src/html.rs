//! HTML made safe: cleaned, styles inlined, cleaned again. The last pass sees the bytes that are sent.
//!
//! Elements and attributes are allow-lists; what is not on them goes, with its content where that would run or be read
//! as markup. The first pass keeps hostile input from the inliner and its parser, and counts, since a parser's work
//! grows with what is nested and left open. The last one works on what the inliner wrote, where every entity is
//! decoded and every tag closed, so that nothing hides in how parsers differ.
//!
//! Conditional comments (`<!--[if mso]> … <![endif]-->`) stay, since Outlook layouts need them; their inside goes
//! through the same pass. All other comments go.
//!
//! Not here: escaping of values in templates; that is the template's, before markup exists.

mod allowed;

use crate::error::{ComposeError, within};
use crate::limits::{CSS_BYTES_TIMES_ELEMENTS_MAX, HTML_DEPTH_MAX, HTML_FORMATTING_OPEN_MAX, Limits};
use crate::{css, link};
use allowed::Judgement;
use lol_html::html_content::{Comment, ContentType, Element, TextChunk};
use lol_html::{AsciiCompatibleEncoding, HandlerResult, HtmlRewriter, MemorySettings, RewriteStrSettings, Settings};
use lol_html::{doc_comments, element, rewrite_str, text};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// What may be sent.
#[derive(Debug)]
pub(crate) struct Safe {
    pub(crate) html: String,
    pub(crate) warnings: BTreeSet<String>,
}

/// Makes a document or a fragment into a safe document with its styles inlined.
pub(crate) fn make_safe(given: &str, limits: &Limits) -> Result<Safe, ComposeError> {
    within("HTML in bytes", given.len(), limits.html_max_bytes)?;
    if given.contains('\0') {
        return Err(ComposeError::Control { field: "HTML".to_owned() });
    }
    let first = pass(given, Place::Document, limits)?;
    let mut warnings = first.warnings;
    let inlined = inline(&first.html).unwrap_or_else(|_| {
        // Styles that cannot be parsed are a matter of looks; no mail stays unsent for them.
        warnings.insert("the styles could not be parsed and were not inlined".to_owned());
        first.html
    });
    within("HTML with styles inlined, in bytes", inlined.len(), limits.html_max_bytes)?;
    let last = pass(&inlined, Place::Document, limits)?;
    warnings.extend(last.warnings);
    let mut html = last.html;
    if !html.trim_start().get(..9).is_some_and(|start| start.eq_ignore_ascii_case("<!doctype")) {
        html.insert_str(0, "<!DOCTYPE html>");
    }
    Ok(Safe { html, warnings })
}

/// Takes out what is not shown (preheaders, `display: none`), for the text part. Takes only what [`make_safe`] gave.
pub(crate) fn without_hidden(safe: &str) -> Result<String, ComposeError> {
    let settings = RewriteStrSettings::new().append_element_content_handler(element!("[style], [hidden]", |el| {
        let style = el.get_attribute("style").map(|style| link::normalise(&style)).unwrap_or_default();
        if el.has_attribute("hidden") || style.contains("display:none") || style.contains("mso-hide:all") {
            el.remove();
        }
        Ok(())
    }));
    rewrite_str(safe, settings).map_err(refused)
}

/// Where a piece of HTML stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Document,
    /// Inside a conditional comment, for Outlook alone: its own vocabulary is allowed as well.
    Conditional,
}

#[derive(Debug, Default)]
struct Seen {
    elements: usize,
    depth: usize,
    formatting_open: usize,
    css_bytes: usize,
    sheet: String,
    warnings: BTreeSet<String>,
}

/// Why a handler stopped the pass.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stop(String);

fn pass(html: &str, place: Place, limits: &Limits) -> Result<Safe, ComposeError> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let mut out = Vec::with_capacity(html.len() + html.len() / 8);
    {
        let settings = Settings::new()
            .with_strict(true)
            // What is given is a `str`, whatever a `<meta>` in it says.
            .with_encoding(AsciiCompatibleEncoding::utf_8())
            .with_adjust_charset_on_meta_tag(false)
            .with_memory_settings(
                MemorySettings::new()
                    .with_max_allowed_memory_usage(limits.html_max_bytes.saturating_mul(4).max(1 << 20)),
            )
            .append_element_content_handler(element!("*", |el| on_element(el, &seen, place, limits)))
            .append_element_content_handler(text!("style", |chunk| {
                on_style_text(chunk, &seen);
                Ok(())
            }))
            .append_document_content_handler(doc_comments!(|comment| on_comment(comment, &seen, place, limits)));
        // Not `rewrite_str`, which looks at each of hundreds of pieces whether it is UTF-8; they are, together.
        let mut rewriter = HtmlRewriter::new(settings, |piece: &[u8]| out.extend_from_slice(piece));
        rewriter.write(html.as_bytes()).and_then(|()| rewriter.end()).map_err(refused)?;
    }
    let html =
        String::from_utf8(out).map_err(|_| ComposeError::Html { reason: "it is no text once cleaned".to_owned() })?;
    let seen = seen.take();
    if seen.css_bytes.saturating_mul(seen.elements) > CSS_BYTES_TIMES_ELEMENTS_MAX {
        return Err(ComposeError::Html {
            reason: format!(
                "{} bytes of CSS times {} elements is more than inlining may produce ({CSS_BYTES_TIMES_ELEMENTS_MAX})",
                seen.css_bytes, seen.elements
            ),
        });
    }
    Ok(Safe { html, warnings: seen.warnings })
}

fn inline(html: &str) -> Result<String, css_inline::InlineError> {
    css_inline::CSSInliner::options()
        .load_remote_stylesheets(false)
        // Dark mode and narrow screens cannot be inlined.
        .keep_at_rules(true)
        .build()
        .inline(html)
}

fn on_element(el: &mut Element<'_, '_>, seen: &Rc<RefCell<Seen>>, place: Place, limits: &Limits) -> HandlerResult {
    let name = el.tag_name();
    let formatting = allowed::is_formatting(&name);
    let nests = el.can_have_content() && !allowed::closes_itself(&name);
    count(seen, nests, formatting, limits)?;
    match allowed::element(&name, place == Place::Conditional) {
        Judgement::Keep => clean_attributes(el, &name, seen, place),
        Judgement::Unwrap => {
            if allowed::is_notable(&name) {
                warn(seen, format!("`<{name}>` was removed; its content stays"));
            }
            el.remove_and_keep_content();
        }
        Judgement::Drop => {
            warn(seen, format!("`<{name}>` was removed"));
            el.remove();
        }
    }
    if nests && let Some(handlers) = el.end_tag_handlers() {
        let seen = Rc::clone(seen);
        handlers.push(Box::new(move |end| {
            // Only a tag of its own closes it for good; a parser carries formatting on past anything else.
            if end.name() == name {
                let mut now = seen.borrow_mut();
                now.depth = now.depth.saturating_sub(1);
                now.formatting_open = now.formatting_open.saturating_sub(usize::from(formatting));
            }
            Ok(())
        }));
    }
    Ok(())
}

/// Keeps the books on what a parser would have to build, and stops at the limits.
fn count(seen: &Rc<RefCell<Seen>>, nests: bool, formatting: bool, limits: &Limits) -> HandlerResult {
    let mut now = seen.borrow_mut();
    now.elements += 1;
    if now.elements > limits.html_elements_max {
        return stop(format!("it has more than {} elements", limits.html_elements_max));
    }
    now.depth += usize::from(nests);
    if now.depth > HTML_DEPTH_MAX {
        return stop(format!("its elements are nested, or left open, more than {HTML_DEPTH_MAX} deep"));
    }
    now.formatting_open += usize::from(formatting);
    if now.formatting_open > HTML_FORMATTING_OPEN_MAX {
        return stop(format!("more than {HTML_FORMATTING_OPEN_MAX} formatting elements are open at once"));
    }
    Ok(())
}

fn clean_attributes(el: &mut Element<'_, '_>, name: &str, seen: &Rc<RefCell<Seen>>, place: Place) {
    if name == "meta" && !allowed::meta(|attribute| el.get_attribute(attribute)) {
        warn(seen, "a `<meta>` that acts on the page was removed".to_owned());
        el.remove();
        return;
    }
    // Nearly always none, and then nothing is allocated for it.
    let mut refused = Vec::new();
    for attribute in el.attributes() {
        let key = attribute.name();
        match judge(&key, || attribute.value(), place) {
            Verdict::Stays => continue,
            Verdict::Goes => {}
            Verdict::Handler => warn(seen, format!("an event handler was removed from `<{name}>`")),
            Verdict::Link => warn(
                seen,
                format!(
                    "a link was removed from `<{name}>`: only http, https, mailto, tel and cid may be linked to, and \
                     `data:` only holds images"
                ),
            ),
            Verdict::Style => warn(seen, format!("a style that runs or loads something was removed from `<{name}>`")),
        }
        refused.push(key);
    }
    for key in refused {
        el.remove_attribute(&key);
    }
}

/// What becomes of an attribute.
enum Verdict {
    Stays,
    /// Without a word: it is only not on the list.
    Goes,
    Handler,
    Link,
    Style,
}

/// The value is fetched only where it matters.
fn judge(key: &str, value: impl Fn() -> String, place: Place) -> Verdict {
    if key.starts_with("on") {
        Verdict::Handler
    } else if !allowed::attribute(key, place == Place::Conditional) {
        Verdict::Goes
    } else if allowed::is_link(key) && !link::is_safe(&value(), key != "href") {
        Verdict::Link
    } else if key == "style" && !css::is_safe(&value(), true) {
        Verdict::Style
    } else {
        Verdict::Stays
    }
}

fn on_style_text(chunk: &mut TextChunk<'_>, seen: &Rc<RefCell<Seen>>) {
    let mut now = seen.borrow_mut();
    now.sheet.push_str(chunk.as_str());
    if !chunk.last_in_text_node() {
        chunk.remove();
        return;
    }
    let sheet = std::mem::take(&mut now.sheet);
    let (mut sheet, imported) = css::without_imports(&sheet);
    if imported {
        now.warnings.insert("an `@import` was removed: nothing is loaded into a mail".to_owned());
    }
    if !css::is_safe(&sheet, false) {
        now.warnings.insert("a `<style>` that runs or loads something was removed".to_owned());
        sheet.clear();
    }
    now.css_bytes += sheet.len();
    // The text of `<style>` is raw: nothing in it is markup until its end tag, which the check excludes.
    chunk.replace(&sheet, ContentType::Html);
}

fn on_comment(comment: &mut Comment<'_>, seen: &Rc<RefCell<Seen>>, place: Place, limits: &Limits) -> HandlerResult {
    if comment.removed() {
        return Ok(());
    }
    let text = comment.text();
    if allowed::is_conditional_mark(&text) {
        return Ok(());
    }
    let Some((condition, inside)) = allowed::conditional(&text).filter(|_| place == Place::Document) else {
        comment.remove();
        return Ok(());
    };
    // For a browser this is inert; for Outlook, which has no scripts, `<noscript>` is a plain wrapper that would make
    // this pass take everything in it for text.
    let inside = without_noscript_tags(inside);
    let inner = match pass(&inside, Place::Conditional, limits) {
        Ok(inner) => inner,
        Err(error) => return Err(Box::new(Stop(error.to_string()))),
    };
    let ends_early = ["-->", "--!>", "<!--"].iter().any(|mark| inner.html.contains(mark));
    if ends_early || comment.set_text(&format!("[if {condition}]>{}<![endif]", inner.html)).is_err() {
        warn(seen, "a conditional comment was removed: it would end early".to_owned());
        comment.remove();
        return Ok(());
    }
    seen.borrow_mut().warnings.extend(inner.warnings);
    Ok(())
}

fn without_noscript_tags(html: &str) -> String {
    let lower = html.to_ascii_lowercase();
    let mut out = String::with_capacity(html.len());
    let mut from = 0;
    while from < html.len() {
        let next = ["<noscript>", "</noscript>"]
            .iter()
            .filter_map(|tag| lower[from..].find(tag).map(|at| (from + at, tag.len())))
            .min();
        let Some((at, length)) = next else { break };
        out.push_str(&html[from..at]);
        from = at + length;
    }
    out.push_str(&html[from..]);
    out
}

fn warn(seen: &Rc<RefCell<Seen>>, warning: String) {
    seen.borrow_mut().warnings.insert(warning);
}

fn stop(reason: String) -> HandlerResult {
    Err(Box::new(Stop(reason)))
}

fn refused(error: lol_html::errors::RewritingError) -> ComposeError {
    use lol_html::errors::RewritingError as E;
    let reason = match error {
        E::ContentHandlerError(stop) => stop.to_string(),
        E::MemoryLimitExceeded(_) => "a tag, an attribute or a comment in it is too long".to_owned(),
        E::ParsingAmbiguity(_) => {
            "programs would read it in different ways (a `<style>`, `<title>` or the like inside an element that may \
             not hold it)"
                .to_owned()
        }
        // The type may grow; its words are the library's own and hold no content.
        other => other.to_string(),
    };
    ComposeError::Html { reason }
}

#[cfg(test)]
mod tests;
