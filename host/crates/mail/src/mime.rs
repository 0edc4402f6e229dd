//! Parts that were checked, put together as MIME by lettre. Nothing is checked here a second time.
//!
//! Bodies are quoted-printable or base64, never bare: no line is over 76, and no content can hold a boundary, since
//! those begin with `=_` (RFC 2045 §6.7).

use crate::header::encode_unstructured;
use crate::limits::DATE_MAX_MS;
use crate::{Attachment, ComposeError};
use lettre::address::Envelope;
use lettre::message::header::{
    ContentDisposition, ContentId, ContentTransferEncoding, ContentType, HeaderName, HeaderValue,
};
use lettre::message::{Body, Mailbox, Message, MessageBuilder, MultiPart, SinglePart};
use sandpost_message::TimestampMs;
use sandpost_ports::email::Address;
use sha2::{Digest as _, Sha256};
use std::time::{Duration, UNIX_EPOCH};

/// What goes into the MIME.
pub(crate) struct Parts<'a> {
    pub(crate) key: &'a str,
    pub(crate) sender: &'a Address,
    pub(crate) to: &'a [Address],
    pub(crate) cc: &'a [Address],
    pub(crate) bcc: &'a [Address],
    pub(crate) reply_to: &'a [Address],
    pub(crate) subject: &'a str,
    pub(crate) html: Option<&'a str>,
    pub(crate) text: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) attachments: &'a [Attachment],
    pub(crate) date_ms: TimestampMs,
}

/// The whole mail. `bcc` goes into lettre's envelope only, which is not written.
pub(crate) fn build(parts: &Parts<'_>) -> Result<Vec<u8>, ComposeError> {
    if parts.date_ms > DATE_MAX_MS {
        return Err(ComposeError::Invalid { field: "date".to_owned(), rule: "is past the year 9999" });
    }
    let domain = parts.sender.address.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let mut builder = Message::builder()
        .date(UNIX_EPOCH + Duration::from_millis(parts.date_ms))
        .message_id(Some(format!("<{}@{domain}>", hash(&[b"message-id", parts.key.as_bytes()]))))
        .from(mailbox(parts.sender)?);
    for address in parts.reply_to {
        builder = builder.reply_to(mailbox(address)?);
    }
    let mut recipients = Vec::new();
    for address in parts.to {
        recipients.push(mailbox(address)?);
        builder = builder.to(mailbox(address)?);
    }
    for address in parts.cc {
        recipients.push(mailbox(address)?);
        builder = builder.cc(mailbox(address)?);
    }
    for address in parts.bcc {
        recipients.push(mailbox(address)?);
    }
    // Given, because lettre would else insist on a visible recipient.
    let recipients = recipients.into_iter().map(|mailbox| mailbox.email).collect();
    let envelope = Envelope::new(Some(mailbox(parts.sender)?.email), recipients).map_err(broken)?;
    builder = builder.envelope(envelope);
    builder = unstructured(builder, "Subject", parts.subject)?;
    builder = unstructured(builder, "Auto-Submitted", "auto-generated")?;
    for (name, value) in parts.headers {
        builder = unstructured(builder, name, value.trim())?;
    }
    let message = match body(parts)? {
        Part::Single(part) => builder.singlepart(part),
        Part::Multi(part) => builder.multipart(part),
    };
    Ok(message.map_err(broken)?.formatted())
}

enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

/// mixed( alternative( text, related( html, inline… ) ), files… ), leaving out what has one child.
fn body(parts: &Parts<'_>) -> Result<Part, ComposeError> {
    let seed = seed(parts);
    let boundary = |which: &str| format!("=_{which}_{}", hash(&[which.as_bytes(), seed.as_bytes()]));
    let text = text_part(ContentType::TEXT_PLAIN, parts.text)?;
    let is_inline = |attachment: &&Attachment| parts.html.is_some() && attachment.content_id.is_some();
    let main = match parts.html {
        None => Part::Single(text),
        Some(html) => {
            let html = text_part(ContentType::TEXT_HTML, html)?;
            let mut inline = parts.attachments.iter().filter(is_inline).peekable();
            let alternative = MultiPart::alternative().boundary(boundary("a")).singlepart(text);
            Part::Multi(if inline.peek().is_none() {
                alternative.singlepart(html)
            } else {
                let mut related = MultiPart::related().boundary(boundary("r")).singlepart(html);
                for attachment in inline {
                    related = related.singlepart(file_part(attachment, true)?);
                }
                alternative.multipart(related)
            })
        }
    };
    let mut files = parts.attachments.iter().filter(|attachment| !is_inline(attachment)).peekable();
    if files.peek().is_none() {
        return Ok(main);
    }
    let mixed = MultiPart::mixed().boundary(boundary("m"));
    let mut mixed = match main {
        Part::Single(part) => mixed.singlepart(part),
        Part::Multi(part) => mixed.multipart(part),
    };
    for attachment in files {
        mixed = mixed.singlepart(file_part(attachment, false)?);
    }
    Ok(Part::Multi(mixed))
}

fn text_part(kind: ContentType, text: &str) -> Result<SinglePart, ComposeError> {
    Ok(SinglePart::builder().header(kind).body(encoded(text.to_owned(), ContentTransferEncoding::QuotedPrintable)?))
}

fn file_part(attachment: &Attachment, inline: bool) -> Result<SinglePart, ComposeError> {
    let disposition = if inline {
        ContentDisposition::inline_with_name(&attachment.filename)
    } else {
        ContentDisposition::attachment(&attachment.filename)
    };
    let mut part =
        SinglePart::builder().header(ContentType::parse(&attachment.content_type).map_err(broken)?).header(disposition);
    if let Some(id) = &attachment.content_id {
        part = part.header(ContentId::from(format!("<{id}>")));
    }
    Ok(part.body(encoded(attachment.content.to_vec(), ContentTransferEncoding::Base64)?))
}

fn encoded(
    content: impl Into<lettre::message::MaybeString>,
    encoding: ContentTransferEncoding,
) -> Result<Body, ComposeError> {
    // Never refused for these two encodings; lettre's type says it may be.
    Body::new_with_encoding(content, encoding).map_err(|_| ComposeError::Mime { source: "encoding refused".into() })
}

fn unstructured(builder: MessageBuilder, name: &str, value: &str) -> Result<MessageBuilder, ComposeError> {
    let header = HeaderName::new_from_ascii(name.to_owned()).map_err(broken)?;
    let encoded = encode_unstructured(name, value);
    Ok(builder.raw_header(HeaderValue::dangerous_new_pre_encoded(header, value.to_owned(), encoded)))
}

fn mailbox(address: &Address) -> Result<Mailbox, ComposeError> {
    Ok(Mailbox::new(address.name.clone(), address.address.parse().map_err(broken)?))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> ComposeError {
    ComposeError::Mime { source: Box::new(error) }
}

/// Of everything that a boundary must not occur in, so that nobody who writes one of them can know the boundary.
fn seed(parts: &Parts<'_>) -> String {
    let mut pieces: Vec<&[u8]> =
        vec![parts.key.as_bytes(), parts.text.as_bytes(), parts.html.unwrap_or_default().as_bytes()];
    pieces.extend(parts.attachments.iter().map(|attachment| attachment.content.as_ref()));
    hash(&pieces)
}

/// 128 bits in hexadecimal, of pieces with their lengths.
fn hash(pieces: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    for piece in pieces {
        sha.update(piece.len().to_le_bytes());
        sha.update(piece);
    }
    sha.finalize().iter().take(16).fold(String::with_capacity(32), |mut hex, byte| {
        for digit in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        hex
    })
}
