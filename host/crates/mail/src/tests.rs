//! Drafts into mails, read back by another library's parser.

use super::*;
use mailparse::{MailHeaderMap as _, ParsedMail, parse_mail};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn address(text: &str) -> Address {
    Address { name: None, address: text.to_owned() }
}

fn named(name: &str, text: &str) -> Address {
    Address { name: Some(name.to_owned()), address: text.to_owned() }
}

fn draft() -> Draft {
    Draft {
        key: "msg-1/mail".to_owned(),
        sender: named("Sandpost", "no-reply@example.com"),
        to: vec![address("ana@example.com")],
        cc: vec![],
        bcc: vec![],
        reply_to: vec![],
        subject: "Hello".to_owned(),
        html: Some("<p>Hi</p>".to_owned()),
        text: None,
        headers: vec![],
        attachments: vec![],
        tags: vec![],
        origin: MailOrigin { plugin: "p".parse().unwrap(), message_id: None, template: None, locale: None },
        date_ms: 1_767_225_600_000,
    }
}

fn file(filename: &str, content_type: &str, content: &[u8], content_id: Option<&str>) -> Attachment {
    Attachment {
        filename: filename.to_owned(),
        content_type: content_type.to_owned(),
        content: Bytes::copy_from_slice(content),
        content_id: content_id.map(str::to_owned),
    }
}

fn mail(draft: Draft) -> Mail {
    compose(draft, &Limits::default()).unwrap().mail
}

fn header_names(mail: &ParsedMail<'_>) -> BTreeSet<String> {
    let names: Vec<String> = mail.headers.iter().map(|header| header.get_key().to_ascii_lowercase()).collect();
    let set: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(set.len(), names.len(), "a header is there twice: {names:?}");
    set
}

fn shape(mail: &ParsedMail<'_>) -> String {
    let inside: Vec<String> = mail.subparts.iter().map(shape).collect();
    let kind = &mail.ctype.mimetype;
    if inside.is_empty() { kind.clone() } else { format!("{kind}({})", inside.join(" ")) }
}

fn assert_lines(mime: &[u8]) {
    let text = std::str::from_utf8(mime).unwrap();
    assert!(text.is_ascii());
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a bare CR or LF");
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "{} bytes: {line}", line.len());
    }
}

#[test]
fn a_plain_mail_is_what_it_was_meant_to_be() {
    let mail = mail(draft());
    assert_lines(&mail.mime);
    let parsed = parse_mail(&mail.mime).unwrap();
    let expected = ["from", "to", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type"];
    assert_eq!(header_names(&parsed), expected.map(str::to_owned).into());
    assert_eq!(shape(&parsed), "multipart/alternative(text/plain text/html)");
    assert_eq!(parsed.headers.get_first_value("Date").unwrap(), "Thu, 01 Jan 2026 00:00:00 +0000");
    assert_eq!(parsed.headers.get_first_value("Auto-Submitted").unwrap(), "auto-generated");
    assert_eq!(parsed.subparts[0].get_body().unwrap().trim_end(), "Hi");
    assert_eq!(parsed.subparts[1].get_body().unwrap().trim_end(), mail.html.unwrap());
    assert_eq!(mail.text, "Hi\n");
}

#[test]
fn the_same_draft_gives_the_same_bytes_and_another_key_another_id() {
    assert_eq!(mail(draft()), mail(draft()));
    let id = |key: &str| {
        let mail = mail(Draft { key: key.to_owned(), ..draft() });
        parse_mail(&mail.mime).unwrap().headers.get_first_value("Message-ID").unwrap()
    };
    assert_ne!(id("a"), id("b"));
    assert!(id("a").ends_with("@example.com>"), "{}", id("a"));
}

#[test]
fn shapes_follow_the_parts() {
    let text_only = Draft { html: None, text: Some("Hi".to_owned()), ..draft() };
    let logo = file("logo.png", "image/png", b"png", Some("logo"));
    let pdf = file("bill.pdf", "application/pdf", b"pdf", None);
    let with_logo = || Some("<img src=\"cid:logo\">".to_owned());
    for (draft, expected) in [
        (text_only.clone(), "text/plain"),
        (Draft { attachments: vec![pdf.clone()], ..text_only }, "multipart/mixed(text/plain application/pdf)"),
        (
            Draft { html: with_logo(), attachments: vec![logo.clone()], ..draft() },
            "multipart/alternative(text/plain multipart/related(text/html image/png))",
        ),
        (
            Draft { html: with_logo(), attachments: vec![pdf.clone(), logo], ..draft() },
            "multipart/mixed(multipart/alternative(text/plain multipart/related(text/html image/png)) application/pdf)",
        ),
        (
            Draft { attachments: vec![pdf], ..draft() },
            "multipart/mixed(multipart/alternative(text/plain text/html) application/pdf)",
        ),
    ] {
        let composed = compose(draft, &Limits::default()).unwrap();
        assert!(composed.warnings.is_empty(), "{:?}", composed.warnings);
        assert_lines(&composed.mail.mime);
        assert_eq!(shape(&parse_mail(&composed.mail.mime).unwrap()), expected);
    }
}

#[test]
fn files_come_back_as_they_were() {
    let bytes: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    let name = "relatório \"março\" 2026; x=y 🔥.pdf";
    let mail = mail(Draft {
        html: Some("<img src='cid:a.b@x'>".to_owned()),
        attachments: vec![
            file(name, "application/pdf; version=1", &bytes, None),
            file("a.png", "image/png", b"x", Some("a.b@x")),
        ],
        ..draft()
    });
    assert_lines(&mail.mime);
    let parsed = parse_mail(&mail.mime).unwrap();
    let pdf = &parsed.subparts[1];
    assert_eq!(pdf.get_body_raw().unwrap(), bytes);
    let disposition = pdf.get_content_disposition();
    assert_eq!(disposition.params.get("filename").map(String::as_str), Some(name));
    let image = &parsed.subparts[0].subparts[1].subparts[1];
    assert_eq!(image.headers.get_first_value("Content-ID").unwrap(), "<a.b@x>");
    assert_eq!(image.get_content_disposition().disposition, mailparse::DispositionType::Inline);
}

#[test]
fn bcc_is_in_the_mail_and_never_in_the_mime() {
    let mail = mail(Draft { to: vec![], bcc: vec![named("Hidden One", "hidden@example.com")], ..draft() });
    assert_eq!(mail.bcc[0].address, "hidden@example.com");
    let mime = String::from_utf8_lossy(&mail.mime).to_lowercase();
    assert!(!mime.contains("bcc") && !mime.contains("hidden"), "{mime}");
}

#[test]
fn subjects_and_names_of_any_script_come_back() {
    for text in [
        "Olá, a tua encomenda está a caminho 🔥",
        "Hello",
        "two  spaces",
        "=?utf-8?q?Bcc=3A_x?=",
        &"ã".repeat(300),
        &"word ".repeat(190),
        &"a".repeat(998),
        "مرحبا بالعالم",
        "日本語の件名がここに入ります。とても長い件名なので折り返されます。",
    ] {
        let mail = mail(Draft { subject: text.to_owned(), ..draft() });
        assert_lines(&mail.mime);
        let parsed = parse_mail(&mail.mime).unwrap();
        assert_eq!(parsed.headers.get_first_value("Subject").unwrap(), text.trim(), "{text}");
        let head = String::from_utf8_lossy(&mail.mime);
        for line in head.split("\r\n\r\n").next().unwrap().split("\r\n").filter(|line| line.contains("=?utf-8?B?")) {
            assert!(line.len() <= 76, "{}: {line}", line.len());
            assert!(line.split(' ').all(|word| word.len() <= 75), "{line}");
        }
    }
    for name in ["Ana", "São João", "Doe, \"J\" (x) <y>", "🔥", "a\\b", &"long name ".repeat(25)] {
        let mail = mail(Draft { to: vec![named(name, "ana@bücher.example")], ..draft() });
        assert_lines(&mail.mime);
        let parsed = parse_mail(&mail.mime).unwrap();
        let list = mailparse::addrparse_header(parsed.headers.get_first_header("To").unwrap()).unwrap();
        let single = list.extract_single_info().unwrap();
        assert_eq!(single.addr, "ana@xn--bcher-kva.example");
        assert_eq!(single.display_name.as_deref(), Some(name.trim()), "{name}");
    }
}

type Breaking = fn(&mut Draft, &str);

#[test]
fn line_breaks_and_controls_are_refused_in_every_field_by_its_name() {
    let fields: [(&str, Breaking); 16] = [
        ("key", |d, x| d.key = x.into()),
        ("subject", |d, x| d.subject = x.into()),
        ("sender address", |d, x| d.sender = address(&format!("a@x.test{x}"))),
        ("sender address", |d, x| d.sender = named(x, "a@x.test")),
        ("to 2 address", |d, x| d.to.push(address(&format!("{x}a@x.test")))),
        ("to 2 address", |d, x| d.to.push(named(x, "a@x.test"))),
        ("cc 1 address", |d, x| d.cc.push(address(&format!("a@x{x}.test")))),
        ("bcc 1 address", |d, x| d.bcc.push(named(x, "a@x.test"))),
        ("reply_to 1 address", |d, x| d.reply_to.push(named(x, "a@x.test"))),
        ("name of header 1", |d, x| d.headers.push((format!("X-A{x}"), "v".into()))),
        ("value of header 1", |d, x| d.headers.push(("X-A".into(), x.into()))),
        ("value of header 1", |d, x| d.headers.push(("List-Unsubscribe".into(), format!("<https://x.test>{x}")))),
        ("value of header 1", |d, x| d.headers.push(("References".into(), x.into()))),
        ("file name of attachment 1", |d, x| d.attachments.push(file(&format!("a{x}.pdf"), "text/plain", b"", None))),
        ("content type of attachment 1", |d, x| d.attachments.push(file("a", &format!("text/plain{x}"), b"", None))),
        ("content id of attachment 1", |d, x| d.attachments.push(file("a", "text/plain", b"", Some(x)))),
    ];
    for (field, break_it) in fields {
        for payload in [
            "a\r\nBcc: evil@evil.test",
            "a\nBcc: evil@evil.test",
            "a\rBcc: evil@evil.test",
            "a\r\n\r\n<p>body",
            "\r\n",
            "a\0b",
            "a\tb",
            "a\u{b}b",
            "a\u{7f}b",
            "a\u{85}b",
            "a\u{2028}Bcc: x",
            "a\u{2029}b",
            "a\u{1b}[0m",
            "\n",
            "a\r\n b",
        ] {
            let mut broken = draft();
            break_it(&mut broken, payload);
            match compose(broken, &Limits::default()) {
                Err(ComposeError::Control { field: named }) => assert_eq!(named, field, "{payload:?}"),
                other => panic!("{field} with {payload:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn only_the_listed_headers_may_be_set() {
    for good in ["List-Unsubscribe", "list-id", "References", "IN-REPLY-TO", "X-Entity-Ref-ID", "x-a"] {
        let mail = mail(Draft { headers: vec![(good.to_owned(), "<a@x.test>".to_owned())], ..draft() });
        let parsed = parse_mail(&mail.mime).unwrap();
        assert_eq!(parsed.headers.get_first_value(good).unwrap(), "<a@x.test>");
    }
    for bad in [
        "From",
        "To",
        "Cc",
        "Bcc",
        "bcc",
        "Subject",
        "Date",
        "Message-ID",
        "Return-Path",
        "Sender",
        "Reply-To",
        "DKIM-Signature",
        "Received",
        "Content-Type",
        "Content-Transfer-Encoding",
        "MIME-Version",
        "Auto-Submitted",
        "Resent-To",
        "ARC-Seal",
        "Authentication-Results",
        "",
        "X-",
        "List-",
        "X A",
        "X-A:",
        "X-A: b",
        "X-ã",
        " X-A",
        "X-SES-SOURCE-ARN",
        "x-ses-configuration-set",
        "X-SMTPAPI",
        "X-MC-Track",
        "Disposition-Notification-To",
        "Priority",
    ] {
        let result = compose(Draft { headers: vec![(bad.to_owned(), "v".to_owned())], ..draft() }, &Limits::default());
        assert!(matches!(result, Err(ComposeError::HeaderRefused { number: 1 })), "{bad}: {result:?}");
    }
    let twice = vec![("X-A".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())];
    let result = compose(Draft { headers: twice, ..draft() }, &Limits::default());
    assert!(matches!(result, Err(ComposeError::HeaderRefused { number: 2 })), "{result:?}");
}

#[test]
fn long_and_foreign_header_values_are_folded_or_refused() {
    let references =
        (0..40).map(|i| format!("<message-{i}@a-long-enough-host.example.com>")).collect::<Vec<_>>().join(" ");
    let mail = mail(Draft {
        headers: vec![("References".to_owned(), references.clone()), ("X-City".to_owned(), "São Paulo".to_owned())],
        ..draft()
    });
    assert_lines(&mail.mime);
    let parsed = parse_mail(&mail.mime).unwrap();
    assert_eq!(parsed.headers.get_first_value("References").unwrap(), references);
    assert_eq!(parsed.headers.get_first_value("X-City").unwrap(), "São Paulo");
    for (name, value) in [
        ("X-A", "a".repeat(901)),
        ("X-A", "a ".repeat(3_000)),
        ("X-A", "  ".to_owned()),
        ("List-Id", "São".to_owned()),
        ("References", "=?utf-8?q?x?=".to_owned()),
    ] {
        let result = compose(Draft { headers: vec![(name.to_owned(), value.clone())], ..draft() }, &Limits::default());
        assert!(result.is_err(), "{name}: {value}");
    }
}

#[test]
fn what_providers_refuse_is_refused_here() {
    let pe = {
        let mut bytes = vec![0_u8; 0x90];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes
    };
    let bad_files = [
        file("a.exe", "application/pdf", b"", None),
        file("a.EXE", "application/pdf", b"", None),
        file("a.pdf.vbs", "application/pdf", b"", None),
        file("a.exe. ", "application/pdf", b"", None),
        file("a.exe:b.txt", "application/pdf", b"", None),
        file("a.js", "text/plain", b"", None),
        file("../a.pdf", "application/pdf", b"", None),
        file("a\\b.pdf", "application/pdf", b"", None),
        file("gpj.\u{202e}exe.jpg", "image/jpeg", b"", None),
        file("", "application/pdf", b"", None),
        file(&"a".repeat(256), "application/pdf", b"", None),
        file("a.pdf", "application/pdf", b"\x7fELF\x02", None),
        file("a.pdf", "application/pdf", &pe, None),
        file("a.pdf", "pdf", b"", None),
        file("a.pdf", "multipart/mixed; boundary=x", b"", None),
        file("a.eml", "message/rfc822", b"", None),
        file("a.pdf", "application/pdf; name=\u{e3}", b"", None),
        file("a.png", "image/png", b"", Some("")),
        file("a.png", "image/png", b"", Some("a b")),
        file("a.png", "image/png", b"", Some("<a>")),
        file("a.png", "image/png", b"", Some(&"a".repeat(79))),
    ];
    for bad in bad_files {
        let result = compose(Draft { attachments: vec![bad.clone()], ..draft() }, &Limits::default());
        assert!(matches!(result, Err(ComposeError::Invalid { .. })), "{bad:?}: {result:?}");
    }
    for extension in REFUSED_EXTENSIONS {
        let bad = file(&format!("x.{extension}"), "text/plain", b"", None);
        assert!(compose(Draft { attachments: vec![bad], ..draft() }, &Limits::default()).is_err(), "{extension}");
    }
    let good = file(&format!("{}.pdf", "ã".repeat(251)), "application/pdf", b"MZ is how this text begins", None);
    assert!(compose(Draft { attachments: vec![good], ..draft() }, &Limits::default()).is_ok());
    let twins = vec![file("a", "image/png", b"", Some("x")), file("b", "image/png", b"", Some("x"))];
    assert!(compose(Draft { attachments: twins, ..draft() }, &Limits::default()).is_err());
}

#[test]
fn every_limit_holds() {
    let many = |count| (0..count).map(|i| address(&format!("a{i}@x.test"))).collect::<Vec<_>>();
    let fifty = Draft { to: many(20), cc: many(20), bcc: many(10), ..draft() };
    let made = mail(fifty.clone());
    assert_lines(&made.mime);
    let big = |bytes| vec![file("a.bin", "application/octet-stream", &vec![7; bytes], None)];
    let cases: [(&str, Draft); 13] = [
        ("51 recipients", Draft { bcc: many(11), ..fifty }),
        ("no recipient", Draft { to: vec![], ..draft() }),
        ("no body", Draft { html: None, ..draft() }),
        ("blank body", Draft { html: Some(" \n".to_owned()), text: Some(String::new()), ..draft() }),
        ("empty key", Draft { key: String::new(), ..draft() }),
        ("long key", Draft { key: "k".repeat(513), ..draft() }),
        ("long subject", Draft { subject: "s".repeat(999), ..draft() }),
        ("long text", Draft { text: Some("t".repeat(1024 * 1024 + 1)), ..draft() }),
        ("NUL in text", Draft { text: Some("a\0b".to_owned()), ..draft() }),
        ("NUL in HTML", Draft { html: Some("a\0b".to_owned()), ..draft() }),
        ("large file", Draft { attachments: big(8 * 1024 * 1024), ..draft() }),
        ("tag", Draft { tags: vec![("a b".to_owned(), "c".to_owned())], ..draft() }),
        ("year 10000", Draft { date_ms: 253_402_300_800_000, ..draft() }),
    ];
    for (name, broken) in cases {
        assert!(compose(broken, &Limits::default()).is_err(), "{name}");
    }
    assert!(compose(Draft { attachments: big(7 * 1024 * 1024), ..draft() }, &Limits::default()).is_ok());
    // Nearly at the limit by the files alone, and over it with line breaks and headers: the whole counts.
    assert!(compose(Draft { attachments: big(10 * 1024 * 1024 / 4 * 3 - 30), ..draft() }, &Limits::default()).is_err());
}

#[test]
fn the_author_is_warned_of_what_will_not_look_as_meant() {
    let warned = |draft: Draft| compose(draft, &Limits::default()).unwrap().warnings.join("\n");
    assert!(warned(Draft { html: Some("a".repeat(HTML_WARN_BYTES + 1)), ..draft() }).contains("Gmail"));
    assert!(warned(Draft { html: Some("<img src=cid:nothing>".to_owned()), ..draft() }).contains("names a content id"));
    let unnamed = vec![file("a.png", "image/png", b"", Some("x"))];
    assert!(warned(Draft { attachments: unnamed, ..draft() }).contains("does not name"));
    assert!(warned(draft()).is_empty());
}

#[test]
fn a_text_that_tries_to_end_its_part_stays_text() {
    let first = mail(Draft { text: Some("x".to_owned()), ..draft() });
    let mime = String::from_utf8_lossy(&first.mime).into_owned();
    let boundary = mime.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let hostile = format!(
        "a\r\n--{boundary}--\r\n\r\n--{boundary}\r\nContent-Type: text/html\r\n\r\n<script>x</script>\r\n.\r\n"
    );
    let second = mail(Draft { text: Some(hostile.clone()), ..draft() });
    let parsed = parse_mail(&second.mime).unwrap();
    assert_eq!(shape(&parsed), "multipart/alternative(text/plain text/html)");
    assert_eq!(parsed.subparts[0].get_body().unwrap().trim_end(), hostile.trim_end());
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        any::<String>(),
        prop::sample::select(vec!["a\r\nBcc: x@y.test", "\r\n\r\n", "Bcc: x", "=?utf-8?q?=0D=0A?=", "a@b.test", ""])
            .prop_map(str::to_owned),
    ]
}

fn any_address() -> impl Strategy<Value = Address> {
    let text = prop_oneof![Just("a@x.test".to_owned()), "[a-z.+]{1,8}@[a-z.ü-]{1,12}", any_text()];
    (prop::option::of(any_text()), text).prop_map(|(name, address)| Address { name, address })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_draft_panics_and_no_header_appears_that_was_not_meant(
        key in "[a-z]{1,8}",
        sender in any_address(),
        to in prop::collection::vec(any_address(), 0..3),
        cc in prop::collection::vec(any_address(), 0..2),
        bcc in prop::collection::vec(any_address(), 0..2),
        reply_to in prop::collection::vec(any_address(), 0..2),
        subject in any_text(),
        html in prop::option::of(any_text()),
        text in prop::option::of(any_text()),
        headers in prop::collection::vec((prop_oneof!["X-[A-Za-z]{1,6}", "List-[A-Z]", any_text()], any_text()), 0..3),
        filename in any_text(),
        attach in any::<bool>(),
        date_ms in any::<u64>(),
    ) {
        let attachments = if attach { vec![file(&filename, "application/pdf", b"x", None)] } else { vec![] };
        let draft = Draft {
            key, sender, to, cc, bcc, reply_to, subject, html, text, headers, attachments, date_ms, ..draft()
        };
        let meant = {
            let mut meant: BTreeSet<String> =
                ["from", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type"].map(str::to_owned).into();
            meant.extend(draft.headers.iter().map(|(name, _)| name.to_ascii_lowercase()));
            for (name, list) in [("to", &draft.to), ("cc", &draft.cc), ("reply-to", &draft.reply_to)] {
                if !list.is_empty() { meant.insert(name.to_owned()); }
            }
            if draft.html.as_deref().is_none_or(|html| html.trim().is_empty()) && !attach {
                meant.insert("content-transfer-encoding".to_owned());
            }
            meant
        };
        let subject = draft.subject.trim().to_owned();
        if let Ok(composed) = compose(draft, &Limits::default()) {
            let mail = composed.mail;
            assert_lines(&mail.mime);
            let parsed = parse_mail(&mail.mime).unwrap();
            prop_assert_eq!(header_names(&parsed), meant);
            prop_assert_eq!(parsed.headers.get_first_value("Subject").unwrap_or_default(), subject);
            let seen = parsed.headers.get_first_header("To").map_or(0, |to| mailparse::addrparse_header(to).unwrap().count_addrs());
            prop_assert_eq!(seen, mail.to.len());
        }
    }

    #[test]
    fn subjects_round_trip(subject in "[ -~ãé🔥]{0,120}") {
        let mail = mail(Draft { subject: subject.clone(), ..draft() });
        assert_lines(&mail.mime);
        let parsed = parse_mail(&mail.mime).unwrap();
        prop_assert_eq!(parsed.headers.get_first_value("Subject").unwrap_or_default(), subject.trim());
    }
}
