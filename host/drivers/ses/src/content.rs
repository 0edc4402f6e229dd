//! A mail as SES takes it: the MIME as it is, or its parts as fields where they say all of it.

use crate::Content;
use aws_sdk_sesv2::error::BuildError;
use aws_sdk_sesv2::primitives::Blob;
use aws_sdk_sesv2::types::{
    Body, Content as Part, Destination, EmailContent, Message, MessageHeader, MessageTag, RawMessage,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandpost_ports::email::{Address, Mail};
use std::collections::HashSet;

/// Bytes of a name in one encoded word, so that the word stays within 75 characters (RFC 2047 §2).
const WORD_MAX_BYTES: usize = 42;
/// Tags that SES takes with one mail.
const TAGS_MAX: usize = 50;
/// Headers that are SES's own to write, or are fields of the request.
const NOT_PASSED_ON: [&str; 10] = [
    "from",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
];

/// What of the request depends on the mail.
pub(crate) struct Request {
    pub(crate) from: String,
    pub(crate) destination: Destination,
    pub(crate) content: EmailContent,
    pub(crate) tags: Vec<MessageTag>,
}

/// The request for these of the mail's recipients.
pub(crate) fn request(mail: &Mail, wanted: Content, keep: impl Fn(&Address) -> bool) -> Result<Request, BuildError> {
    let simple = match wanted {
        Content::Raw => None,
        Content::Simple => simple(mail)?,
    };
    // In the MIME the names are there already.
    let with_names = simple.is_some();
    let content = if let Some(message) = simple {
        EmailContent::builder().simple(message).build()
    } else {
        let raw = RawMessage::builder().data(Blob::new(mail.mime.clone())).build()?;
        EmailContent::builder().raw(raw).build()
    };
    let write = |address: &Address| if with_names { shown(address) } else { address.address.clone() };
    let write_all = |addresses: &[Address]| {
        let kept: Vec<String> = addresses.iter().filter(|address| keep(address)).map(write).collect();
        (!kept.is_empty()).then_some(kept)
    };
    Ok(Request {
        from: write(&mail.sender),
        destination: Destination::builder()
            .set_to_addresses(write_all(&mail.to))
            .set_cc_addresses(write_all(&mail.cc))
            .set_bcc_addresses(write_all(&mail.bcc))
            .build(),
        content,
        tags: tags(mail)?,
    })
}

/// The mail as fields; none where they cannot say all of it.
fn simple(mail: &Mail) -> Result<Option<Message>, BuildError> {
    let Some(headers) = headers(&mail.mime) else { return Ok(None) };
    let value_of = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let kind = value_of("content-type").unwrap_or("text/plain").to_ascii_lowercase();
    let is_plain = ["text/plain", "text/html", "multipart/alternative"].iter().any(|known| kind.starts_with(known));
    if !is_plain || value_of("reply-to").is_some() || has_files(&mail.mime) {
        return Ok(None);
    }
    let part = |data: &str| Part::builder().data(data).charset("UTF-8").build();
    let html = mail.html.as_deref().map(part).transpose()?;
    let body = Body::builder().text(part(&mail.text)?).set_html(html).build();
    let mut message = Message::builder().subject(part(&mail.subject)?).body(body);
    for (name, value) in headers {
        if !NOT_PASSED_ON.contains(&name.as_str()) {
            message = message.headers(MessageHeader::builder().name(name).value(value).build()?);
        }
    }
    Ok(Some(message.build()))
}

/// Whether a part of it is a file, inline or attached. The host writes this header for files alone; a text that holds these
/// words only makes the mail go raw.
fn has_files(mime: &[u8]) -> bool {
    const MARK: &[u8] = b"Content-Disposition:";
    mime.windows(MARK.len()).any(|window| window.eq_ignore_ascii_case(MARK))
}

/// The mail's own headers, unfolded, with their names in lower case. None where they are not ASCII lines.
fn headers(mime: &[u8]) -> Option<Vec<(String, String)>> {
    let end = mime.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&mime[..end]).ok().filter(|text| text.is_ascii())?;
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in text.split("\r\n") {
        if line.starts_with([' ', '\t']) {
            let (_, value) = headers.last_mut()?;
            value.push(' ');
            value.push_str(line.trim());
        } else {
            let (name, value) = line.split_once(':')?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    Some(headers)
}

/// `name <address>`, the name quoted or encoded as it needs.
fn shown(Address { name, address }: &Address) -> String {
    let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { return address.clone() };
    if name.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ') {
        return format!("{name} <{address}>");
    }
    if name.chars().all(|c| c.is_ascii() && !c.is_ascii_control()) {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        return format!("\"{quoted}\" <{address}>");
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for c in name.chars() {
        if word.len() + c.len_utf8() > WORD_MAX_BYTES {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    format!("{} <{address}>", words.join(" "))
}

/// SES takes each name once; of several values the first is kept.
fn tags(mail: &Mail) -> Result<Vec<MessageTag>, BuildError> {
    let mut seen = HashSet::new();
    mail.tags
        .iter()
        .filter(|(name, _)| seen.insert(name.as_str()))
        .take(TAGS_MAX)
        .map(|(name, value)| MessageTag::builder().name(name).value(value).build())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str) -> String {
        shown(&Address { name: Some(name.to_owned()), address: "a@example.com".to_owned() })
    }

    #[test]
    fn names_are_quoted_or_encoded_as_they_need() {
        assert_eq!(address("Ana Costa"), "Ana Costa <a@example.com>");
        assert_eq!(address("Ana \"A\", Costa"), "\"Ana \\\"A\\\", Costa\" <a@example.com>");
        assert_eq!(address("Olá"), "=?utf-8?B?T2zDoQ==?= <a@example.com>");
        let long = address(&"🔥".repeat(40));
        assert!(long.split(' ').all(|word| word.len() <= 75), "{long}");
        assert_eq!(shown(&Address { name: None, address: "a@example.com".to_owned() }), "a@example.com");
    }

    #[test]
    fn headers_are_unfolded() {
        let found = headers(b"From: a\r\nX-Long: one\r\n two\r\n\r\nbody: no").unwrap();
        assert_eq!(found, [("from".to_owned(), "a".to_owned()), ("x-long".to_owned(), "one two".to_owned())]);
        assert_eq!(headers(b"no end"), None);
    }
}
