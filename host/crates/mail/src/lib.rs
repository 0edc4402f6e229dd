//! The one place where a mail is built and made safe, and where it is decided whether it goes to whom it was meant for.
//! Pure: no I/O of its own, no clock, no randomness.
//!
//! A plugin hands over parts; [`compose`] checks every one of them, makes the HTML safe, inlines its styles, makes the
//! text part where there is none, and builds the MIME. Drivers send what comes out and need no check of their own.
//!
//! Invariants
//! - Nothing with a line break or another control character reaches a header: it is an error that names the field,
//!   never neutralised in silence.
//! - The plugin's headers are an allow-list; the host writes `From`, `To`, `Cc`, `Subject`, `Date`, `Message-ID` and
//!   `Auto-Submitted`. `Bcc` is never in the MIME.
//! - What is sent as HTML went through the cleaning pass last, after every tool that rewrites HTML.
//! - One draft gives the same bytes every time: `Message-ID` and boundaries come from its content.
//! - Work and memory are bounded by [`Limits`] before a parser builds a tree. Composing the largest mail that is
//!   allowed takes CPU for tens of milliseconds and more: call it where that blocks nobody.
//!
//! Not here: who may send from where (`interfaces::email`), once per key (`interfaces::effects`), sending (`drivers`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod address;
mod attachment;
mod css;
mod detour;
mod error;
mod header;
mod html;
mod limits;
mod link;
mod mime;
mod text;

pub use address::{AddressError, check_address, parse_address};
pub use attachment::REFUSED_EXTENSIONS;
pub use detour::{Detour, Discard, Policy};
pub use error::ComposeError;
pub use limits::Limits;

use bytes::Bytes;
use sandpost_message::TimestampMs;
use sandpost_ports::email::{Address, Mail, MailOrigin};

/// What a plugin asks to be sent, with what the host adds to it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// One key is sent once; the `Message-ID` is made from it.
    pub key: String,
    /// Who sends it; already granted.
    pub sender: Address,
    /// The visible recipients.
    pub to: Vec<Address>,
    /// The visible copies.
    pub cc: Vec<Address>,
    /// The invisible copies.
    pub bcc: Vec<Address>,
    /// Where answers go, if not to the sender.
    pub reply_to: Vec<Address>,
    /// As plain text.
    pub subject: String,
    /// A document or a fragment. Blank counts as none.
    pub html: Option<String>,
    /// Made from the HTML where it is none or blank.
    pub text: Option<String>,
    /// Only `List-*`, `References`, `In-Reply-To` and `X-*`; each once.
    pub headers: Vec<(String, String)>,
    /// In the order in which they are shown.
    pub attachments: Vec<Attachment>,
    /// Counted and searched by. The alphabet is that of SES message tags.
    pub tags: Vec<(String, String)>,
    /// What it came from; goes through unchanged.
    pub origin: MailOrigin,
    /// The `Date` of the mail.
    pub date_ms: TimestampMs,
}

/// A file in a mail.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// What it is saved as; at most 255 characters.
    pub filename: String,
    /// `type/subtype`, with parameters if need be.
    pub content_type: String,
    /// As it is, not encoded.
    pub content: Bytes,
    /// Named in the HTML as `cid:…`; inline where set. At most 78 characters.
    pub content_id: Option<String>,
}

/// A finished mail, with what its author should know.
#[derive(Debug, Clone)]
pub struct Composed {
    /// Ready for a driver.
    pub mail: Mail,
    /// What was taken out of the HTML, or will not look as it was meant to. Sentences without addresses or content.
    pub warnings: Vec<String>,
}

/// Over this many bytes of HTML there is a warning: Gmail cuts a mail off at 102 KB, its headers included.
pub const HTML_WARN_BYTES: usize = 90 * 1024;

/// Checks the draft and builds the mail.
pub fn compose(draft: Draft, limits: &Limits) -> Result<Composed, ComposeError> {
    header::check_text("key", &draft.key)?;
    error::within("key in bytes", draft.key.len(), limits::KEY_MAX_BYTES)?;
    if draft.key.is_empty() {
        return Err(ComposeError::Empty { what: "key" });
    }
    let sender = address::check_field("sender", &draft.sender)?;
    let to = address::check_fields("to", &draft.to)?;
    let cc = address::check_fields("cc", &draft.cc)?;
    let bcc = address::check_fields("bcc", &draft.bcc)?;
    let reply_to = address::check_fields("reply_to", &draft.reply_to)?;
    let recipients = to.len() + cc.len() + bcc.len();
    if recipients == 0 {
        return Err(ComposeError::Empty { what: "list of recipients" });
    }
    error::within("number of recipients", recipients, limits.recipients_max)?;
    error::within("number of reply-to addresses", reply_to.len(), limits::REPLY_TO_MAX)?;

    header::check_text("subject", &draft.subject)?;
    let subject = draft.subject.trim().to_owned();
    error::within("subject in bytes", subject.len(), limits.subject_max_bytes)?;
    header::check_all(&draft.headers, limits)?;
    header::check_tags(&draft.tags)?;
    attachment::check_all(&draft.attachments, limits)?;

    let given_html = draft.html.filter(|html| !html.trim().is_empty());
    let given_text = draft.text.filter(|text| !text.trim().is_empty());
    let mut warnings = Vec::new();
    let html = match given_html {
        Some(html) => {
            let safe = html::make_safe(&html, limits)?;
            warnings.extend(safe.warnings);
            if safe.html.len() > HTML_WARN_BYTES {
                warnings.push(format!(
                    "the HTML is {} bytes with its styles inlined; Gmail clips at 102 KB",
                    safe.html.len()
                ));
            }
            warnings.extend(attachment::compare_content_ids(&safe.html, &draft.attachments));
            Some(safe.html)
        }
        None => None,
    };
    let text = match (given_text, &html) {
        (Some(text), _) => {
            error::within("text in bytes", text.len(), limits.text_max_bytes)?;
            if text.contains('\0') {
                return Err(ComposeError::Control { field: "text".to_owned() });
            }
            text
        }
        (None, Some(html)) => text::from_html(html, limits)?,
        (None, None) => return Err(ComposeError::Empty { what: "body" }),
    };

    let parts = mime::Parts {
        key: &draft.key,
        sender: &sender,
        to: &to,
        cc: &cc,
        bcc: &bcc,
        reply_to: &reply_to,
        subject: &subject,
        html: html.as_deref(),
        text: &text,
        headers: &draft.headers,
        attachments: &draft.attachments,
        date_ms: draft.date_ms,
    };
    let mime = mime::build(&parts)?;
    error::within("mail in bytes, encoded", mime.len(), limits.mail_max_bytes)?;
    let mail = Mail {
        key: draft.key,
        sender,
        to,
        cc,
        bcc,
        subject,
        html,
        text,
        mime: mime.into(),
        tags: draft.tags,
        origin: draft.origin,
    };
    Ok(Composed { mail, warnings })
}

#[cfg(test)]
mod tests;
