//! Parts that were checked, put together as MIME by lettre. Nothing is checked here a second time.
//!
//! Bodies are quoted-printable or base64, never bare: no line is over 76, and no content can hold a boundary, since
//! those begin with `=_` (RFC 2045 §6.7). They are encoded here: lettre would first look which encoding fits best, and
//! would move the rest of the text for every line of it.

use crate::header::encode_unstructured;
use crate::limits::DATE_MAX_MS;
use crate::{Attachment, ComposeError};
use base64::Engine as _;
use lettre::address::Envelope;
use lettre::message::header::{
    ContentDisposition, ContentId, ContentTransferEncoding, ContentType, HeaderName, HeaderValue,
};
use lettre::message::{Body, Mailbox, Message, MessageBuilder, MultiPart, SinglePart};
use sandpost_message::TimestampMs;
use sandpost_ports::email::Address;
use sha2::{Digest as _, Sha256};
use std::time::{Duration, UNIX_EPOCH};

/// Characters of an encoded line, its end not counted: RFC 2045 §6.7 and §6.8.
const LINE_CHARS_MAX: usize = 76;
/// What such a line of base64 holds.
const BASE64_LINE_BYTES: usize = LINE_CHARS_MAX / 4 * 3;

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
    let sender = mailbox(parts.sender)?;
    let sender_address = sender.email.clone();
    let mut builder = Message::builder()
        .date(UNIX_EPOCH + Duration::from_millis(parts.date_ms))
        .message_id(Some(format!("<{}@{domain}>", hash(&[b"message-id", parts.key.as_bytes()]))))
        .from(sender);
    for address in parts.reply_to {
        builder = builder.reply_to(mailbox(address)?);
    }
    let mut recipients = Vec::new();
    for address in parts.to {
        let mailbox = mailbox(address)?;
        recipients.push(mailbox.email.clone());
        builder = builder.to(mailbox);
    }
    for address in parts.cc {
        let mailbox = mailbox(address)?;
        recipients.push(mailbox.email.clone());
        builder = builder.cc(mailbox);
    }
    for address in parts.bcc {
        recipients.push(mailbox(address)?.email);
    }
    // Given, because lettre would else insist on a visible recipient.
    let envelope = Envelope::new(Some(sender_address), recipients).map_err(broken)?;
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
    let text = text_part(ContentType::TEXT_PLAIN, parts.text);
    let is_inline = |attachment: &&Attachment| parts.html.is_some() && attachment.content_id.is_some();
    let main = match parts.html {
        None => Part::Single(text),
        Some(html) => {
            let html = text_part(ContentType::TEXT_HTML, html);
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

fn text_part(kind: ContentType, text: &str) -> SinglePart {
    let encoded = quoted_printable(text);
    SinglePart::builder()
        .header(kind)
        .body(Body::dangerous_pre_encoded(encoded, ContentTransferEncoding::QuotedPrintable))
}

/// Quoted-printable (RFC 2045 §6.7), with the line breaks of the text as those of the mail.
fn quoted_printable(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8);
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_none() {
            quote_line(line.as_bytes(), &mut out);
        } else {
            quote_line(line.strip_suffix('\r').unwrap_or(line).as_bytes(), &mut out);
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

fn quote_line(mut rest: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    while let [byte, after @ ..] = rest {
        // Whole runs at once, but for what ends the line: that may need to be written otherwise.
        let shown = rest.iter().take(LINE_CHARS_MAX).take_while(|byte| is_plain(**byte)).count();
        let run = shown.min(rest.len() - 1).min(LINE_CHARS_MAX - 1 - column);
        if run > 0 {
            out.extend_from_slice(&rest[..run]);
            column += run;
            rest = &rest[run..];
            continue;
        }
        let is_last = after.is_empty();
        let plain = is_plain(*byte) && !(is_last && byte.is_ascii_whitespace());
        let width = if plain { 1 } else { 3 };
        // The last column of a line that goes on is for the `=` that says so.
        if column + width > LINE_CHARS_MAX - usize::from(!is_last) {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if plain {
            out.push(*byte);
        } else {
            let digit = |half: u8| b"0123456789ABCDEF"[usize::from(half)];
            out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 15)]);
        }
        column += width;
        rest = after;
    }
}

/// Whether it stands for itself, but for white space at the end of a line.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~') && byte != b'='
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
    Ok(part.body(Body::dangerous_pre_encoded(base64_lines(&attachment.content), ContentTransferEncoding::Base64)))
}

/// Base64 in full lines, the last without its end.
fn base64_lines(content: &[u8]) -> Vec<u8> {
    let mut out = String::with_capacity(content.len().div_ceil(BASE64_LINE_BYTES) * (LINE_CHARS_MAX + 2));
    for (at, line) in content.chunks(BASE64_LINE_BYTES).enumerate() {
        if at > 0 {
            out.push_str("\r\n");
        }
        base64::engine::general_purpose::STANDARD.encode_string(line, &mut out);
    }
    out.into_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(text: &str) -> String {
        String::from_utf8(quoted_printable(text)).unwrap()
    }

    #[test]
    fn lines_are_broken_where_the_rules_say() {
        for (text, expected) in [
            ("", ""),
            ("a=b é", "a=3Db =C3=A9"),
            ("a\nb\r\nc\r", "a\r\nb\r\nc=0D"),
            ("\n\n", "\r\n\r\n"),
            ("a \nb\t\n  ", "a=20\r\nb=09\r\n =20"),
        ] {
            assert_eq!(quoted(text), expected, "{text:?}");
        }
        let a = |count| "a".repeat(count);
        assert_eq!(quoted(&a(76)), a(76));
        assert_eq!(quoted(&a(77)), format!("{}=\r\naa", a(75)));
        assert_eq!(quoted(&format!("{}=", a(73))), format!("{}=3D", a(73)));
        assert_eq!(quoted(&format!("{}=b", a(73))), format!("{}=\r\n=3Db", a(73)));
        assert_eq!(quoted(&format!("{} ", a(75))), format!("{}=\r\n=20", a(75)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(text in "([a-z]{0,80}|[ \t=.é🔥\\x01]|\\r?\\n){0,12}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (kind, encoded, meant) in [
                ("quoted-printable", quoted_printable(&text), text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()),
                ("base64", base64_lines(&bytes), bytes),
            ] {
                for line in encoded.split(|byte| *byte == b'\n') {
                    prop_assert!(line.strip_suffix(b"\r").unwrap_or(line).len() <= LINE_CHARS_MAX);
                }
                let part = [format!("Content-Transfer-Encoding: {kind}\r\n\r\n").as_bytes(), &encoded].concat();
                prop_assert_eq!(mailparse::parse_mail(&part).unwrap().get_body_raw().unwrap(), meant);
            }
        }
    }
}
