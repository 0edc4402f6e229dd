//! Mail: a draft of any shape is refused, or becomes a MIME whose headers are those that were meant and no others.
//!
//! The input is taken apart by `arbitrary`. What comes out is read back by another library (`mailparse`).

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use mailparse::{MailHeaderMap as _, ParsedMail, parse_mail};
use sandpost_mail::{Attachment, Composed, Draft, Limits, compose};
use sandpost_ports::email::{Address, MailOrigin};

/// Headers that the host writes on the whole mail.
const OURS: [&str; 12] = [
    "date",
    "message-id",
    "from",
    "reply-to",
    "to",
    "cc",
    "subject",
    "auto-submitted",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
];

/// Texts that parsers disagree about.
const TEXTS: [&str; 36] = [
    "",
    " ",
    "Hello",
    "Olá, João",
    "日本語の件名がここにありますとても長いのでいくつかの語になります",
    "\r\nBcc: victim@example.com",
    "a\nb",
    "a\u{0}b",
    "a\u{2028}b",
    "a\u{85}b",
    "a\u{7f}b",
    "a\tb",
    "=?utf-8?Q?=0D=0ABcc:x?=",
    "a  b",
    " lead and trail ",
    "user@example.com",
    "\"quoted\"@example.com",
    "a@b@example.com",
    "a@example.com, b@example.com",
    "a@münchen.example",
    "a@[127.0.0.1]",
    "Ana <ana@example.com>",
    "<script>alert(1)</script><p onclick=x>Hi</p>",
    "<p>Hi <b>there</p><img src=\"cid:logo\"><a href=\"javascript:x\">y</a>",
    "<style>p{color:red}</style><p>Hi",
    "<table><tr><td><svg><style><!--</style><img src=x onerror=y>-->",
    ".\r\n.",
    "--=_a_0\r\n",
    "image/png",
    "text/html; charset=utf-8",
    "text/plain\r\nX-Evil: 1",
    "X-Campaign",
    "List-Unsubscribe",
    "Bcc",
    "logo.png",
    "résumé.pdf",
];

/// The bytes as a draft.
pub fn mail(data: &[u8]) {
    let Ok(draft) = draft(&mut Unstructured::new(data)) else { return };
    let limits = Limits { mail_max_bytes: 256 * 1024, html_max_bytes: 32 * 1024, ..Limits::default() };
    let answer = compose(draft.clone(), &limits);
    let Ok(composed) = answer else { return };
    let again = compose(draft.clone(), &limits).expect("what was composed once is composed again");
    assert_eq!(composed.mail.mime, again.mail.mime, "one draft gives the same bytes every time");
    check(&draft, &composed, &limits);
}

fn check(draft: &Draft, composed: &Composed, limits: &Limits) {
    let mail = &composed.mail;
    let shown = String::from_utf8_lossy(&mail.mime);
    assert!(mail.mime.len() <= limits.mail_max_bytes);
    assert!(mail.mime.is_ascii(), "{shown}");
    for line in shown.split("\r\n") {
        assert!(line.len() <= 998, "a line of {}: {shown}", line.len());
        assert!(!line.contains(['\r', '\n', '\0']), "a bare line end: {shown}");
    }

    let parsed = parse_mail(&mail.mime).expect("another library reads it");
    for header in parsed.get_headers() {
        let name = header.get_key().to_ascii_lowercase();
        let meant =
            OURS.contains(&name.as_str()) || draft.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(&name));
        assert!(meant, "a header `{name}` that nobody meant: {shown}");
        assert_eq!(parsed.headers.get_all_headers(&name).len(), 1, "`{name}` more than once: {shown}");
    }
    for name in ["from", "date", "message-id", "subject", "auto-submitted", "mime-version"] {
        assert!(parsed.headers.get_first_header(name).is_some(), "no `{name}`: {shown}");
    }
    assert_eq!(parsed.headers.get_first_value("subject").unwrap(), mail.subject, "{shown}");
    let sender = addresses(&parsed, "from");
    assert_eq!(sender, std::slice::from_ref(&mail.sender.address), "{shown}");
    for (name, list) in [("to", &mail.to), ("cc", &mail.cc)] {
        let meant: Vec<String> = list.iter().map(|address| address.address.clone()).collect();
        assert_eq!(addresses(&parsed, name), meant, "{shown}");
    }
    let mut files = 0;
    parts(&parsed, &mut |part| {
        let disposition = part.get_content_disposition();
        if disposition.params.contains_key("filename") || !part.ctype.mimetype.starts_with("text/") {
            files += 1;
        }
        for header in part.get_headers() {
            let name = header.get_key().to_ascii_lowercase();
            let meant = name.starts_with("content-") || std::ptr::eq(part, &raw const parsed);
            assert!(meant, "a part's header `{name}` that nobody meant: {shown}");
        }
    });
    assert!(files <= draft.attachments.len(), "files that nobody attached: {shown}");
    let html = mail.html.as_deref().unwrap_or_default().to_ascii_lowercase();
    for never in ["<script", "javascript:", "<iframe", "<object", " onclick=", " onerror="] {
        // In an attribute's value or a text it is what it says, not what it does.
        assert!(!html.contains(never) || html.contains("&lt;") || html.contains('"'), "{html}");
    }
    assert!(!html.contains("<script") && !html.contains("<iframe"), "{html}");
}

/// Each leaf of the mail.
fn parts<'a>(mail: &'a ParsedMail<'a>, look: &mut impl FnMut(&ParsedMail<'a>)) {
    if mail.subparts.is_empty() {
        look(mail);
    }
    for part in &mail.subparts {
        parts(part, look);
    }
}

/// The addresses of a header, without names.
fn addresses(parsed: &ParsedMail<'_>, name: &str) -> Vec<String> {
    let Some(header) = parsed.headers.get_first_header(name) else { return Vec::new() };
    let list = mailparse::addrparse_header(header).expect("another library reads the addresses");
    list.iter()
        .map(|address| match address {
            mailparse::MailAddr::Single(single) => single.addr.clone(),
            mailparse::MailAddr::Group(group) => panic!("a group that nobody meant: {group:?}"),
        })
        .collect()
}

fn draft(input: &mut Unstructured<'_>) -> Result<Draft> {
    Ok(Draft {
        key: if input.ratio(1, 8)? { text(input)? } else { "key".to_owned() },
        sender: address(input)?,
        to: list(input, address)?,
        cc: list(input, address)?,
        bcc: list(input, address)?,
        reply_to: list(input, address)?,
        subject: text(input)?,
        html: input.ratio(2, 3)?.then(|| text(input)).transpose()?,
        text: input.ratio(1, 3)?.then(|| text(input)).transpose()?,
        headers: list(input, |input| Ok((text(input)?, text(input)?)))?,
        attachments: list(input, attachment)?,
        tags: list(input, |input| Ok((text(input)?, text(input)?)))?,
        origin: MailOrigin { plugin: "mailer".parse().unwrap(), message_id: None, template: None, locale: None },
        date_ms: input.arbitrary()?,
    })
}

fn attachment(input: &mut Unstructured<'_>) -> Result<Attachment> {
    Ok(Attachment {
        filename: text(input)?,
        content_type: text(input)?,
        content: Bytes::from(text(input)?),
        content_id: input.arbitrary::<bool>()?.then(|| text(input)).transpose()?,
    })
}

fn address(input: &mut Unstructured<'_>) -> Result<Address> {
    let name = input.ratio(1, 2)?.then(|| text(input)).transpose()?;
    let address = if input.ratio(3, 4)? { "ana@example.com".to_owned() } else { text(input)? };
    Ok(Address { name, address })
}

/// Up to four.
fn list<T>(input: &mut Unstructured<'_>, each: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    let count = input.int_in_range(0..=4_usize)?;
    (0..count).map(|_| each(input)).collect()
}

/// One that is known to be of interest, several of them, or anything.
fn text(input: &mut Unstructured<'_>) -> Result<String> {
    Ok(match input.int_in_range(0..=4_u8)? {
        0 => input.arbitrary::<String>()?,
        1 => format!("{}{}", input.choose(&TEXTS)?, input.arbitrary::<String>()?),
        2 => input.choose(&TEXTS)?.repeat(input.int_in_range(1..=200)?),
        _ => (*input.choose(&TEXTS)?).to_owned(),
    })
}
