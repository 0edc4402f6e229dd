//! The port's contract, and what a mail looks like when it gets there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{RECIPIENT, SENDER, config, driver, eventually, mail, mail_to};
use sandpost_ports::ErrorKind;
use sandpost_ports::contract::email::{check_sender, sample};
use sandpost_ports::email::{EmailSender as _, SendError};
use sandpost_ports::health::Health as _;
use sandpost_ses::{Config, Content, IdentityStatus};
use sandpost_test_ses::{Identity, Ses};
use std::collections::BTreeSet;

#[tokio::test]
async fn keeps_the_email_contract() {
    let server = Ses::start().await.unwrap();
    check_sender(driver(config(&server.url())).await, SENDER, RECIPIENT).await;
    assert!(server.calls_of("SendEmail") >= 3);
}

#[tokio::test]
async fn nothing_is_deduplicated_so_it_does_not_say_so() {
    let server = Ses::start().await.unwrap();
    let ses = driver(config(&server.url())).await;
    assert!(!ses.deduplicates());
    let mail = mail();
    let ids = BTreeSet::from([ses.send(&mail).await.unwrap(), ses.send(&mail).await.unwrap()]);
    assert_eq!(ids.len(), 2);
    assert_eq!(server.sent().len(), 2);
}

#[tokio::test]
async fn a_raw_mail_is_the_mime_as_it_is_and_hidden_recipients_are_in_the_envelope_alone() {
    let server = Ses::start().await.unwrap();
    server.change(|account| account.configuration_sets.insert("events".to_owned()));
    let ses = driver(Config { configuration_set: Some("events".to_owned()), ..config(&server.url()) }).await;
    let mail = sample(SENDER, RECIPIENT);
    let id = ses.send(&mail).await.unwrap();
    let sent = server.sent().remove(0);
    assert_eq!(sent.message_id, id);
    assert_eq!(sent.raw.unwrap().as_bytes(), mail.mime);
    assert_eq!(sent.from.as_deref(), Some(SENDER));
    assert_eq!((sent.to, sent.cc), (vec![RECIPIENT.to_owned()], vec!["cc@example.com".to_owned()]));
    assert_eq!(sent.bcc, ["hidden@example.com"]);
    // The name twice is what SES refuses; the first value counts.
    assert_eq!(sent.tags, [("kind".to_owned(), "welcome".to_owned())]);
    assert_eq!(sent.configuration_set.as_deref(), Some("events"));
}

#[tokio::test]
async fn a_simple_mail_has_its_parts_as_fields() {
    let server = Ses::start().await.unwrap();
    let ses = driver(Config { content: Content::Simple, ..config(&server.url()) }).await;
    let mut mail = sample(SENDER, RECIPIENT);
    let mime = String::from_utf8(mail.mime.to_vec()).unwrap();
    mail.mime = format!("List-Unsubscribe: <https://example.com/u/1>\r\n{mime}").into();
    ses.send(&mail).await.unwrap();
    let sent = server.sent().remove(0);
    assert_eq!(sent.raw, None);
    assert_eq!((sent.subject, sent.html, sent.text), (Some(mail.subject), mail.html, Some(mail.text)));
    assert_eq!(sent.headers, [("list-unsubscribe".to_owned(), "<https://example.com/u/1>".to_owned())]);
    assert_eq!(sent.from.as_deref(), Some("Sandpost <no-reply@example.com>"));
    assert!(sent.to[0].starts_with("=?utf-8?B?") && sent.to[0].ends_with("<ana@example.com>"), "{:?}", sent.to);
    assert_eq!(sent.bcc, ["hidden@example.com"]);
}

#[tokio::test]
async fn what_fields_cannot_say_goes_raw() {
    let server = Ses::start().await.unwrap();
    let ses = driver(Config { content: Content::Simple, ..config(&server.url()) }).await;
    for header in ["Reply-To: answers@example.com", "X-File: a\r\nContent-Disposition: attachment"] {
        let mut mail = mail();
        let mime = String::from_utf8(mail.mime.to_vec()).unwrap();
        mail.mime = format!("{header}\r\n{mime}").into();
        ses.send(&mail).await.unwrap();
        assert!(server.sent().pop().unwrap().raw.is_some(), "{header}");
    }
}

#[tokio::test]
async fn a_suppressed_recipient_is_left_out_before_ses_is_asked() {
    let server = Ses::start().await.unwrap();
    server.change(|account| account.suppress("Gone@Example.com", "BOUNCE", 1_767_225_600));
    let ses = driver(config(&server.url())).await;
    ses.read_suppression_list().await.unwrap();
    let answer = ses.send(&mail_to(&["gone@example.com"])).await;
    assert!(matches!(answer, Err(SendError::Suppressed)), "{answer:?}");
    assert_eq!(server.calls_of("SendEmail"), 0);
    ses.send(&mail_to(&["gone@example.com", RECIPIENT])).await.unwrap();
    assert_eq!(server.sent()[0].to, [RECIPIENT]);
    // Taken off the list, the address gets mail once the list was read again.
    server.change(|account| account.suppressed.clear());
    ses.read_suppression_list().await.unwrap();
    ses.send(&mail_to(&["gone@example.com"])).await.unwrap();
}

#[tokio::test]
async fn a_list_of_several_pages_is_read_whole_and_up_to_its_bound() {
    let server = Ses::start().await.unwrap();
    server.change(|account| {
        for number in 0..1_500 {
            account.suppress(&format!("gone-{number:04}@example.com"), "COMPLAINT", 0);
        }
    });
    // Its own reading in the background would count too.
    let config = Config { suppression: false, ..config(&server.url()) };
    let ses = driver(config.clone()).await;
    ses.read_suppression_list().await.unwrap();
    assert_eq!(server.calls_of("ListSuppressedDestinations"), 2);
    let answer = ses.send(&mail_to(&["gone-1499@example.com"])).await;
    assert!(matches!(answer, Err(SendError::Suppressed)), "{answer:?}");

    let bounded = driver(Config { suppression_max: 1_000, ..config }).await;
    bounded.read_suppression_list().await.unwrap();
    assert!(matches!(bounded.send(&mail_to(&["gone-0999@example.com"])).await, Err(SendError::Suppressed)));
    // Over the bound it is left to SES, which takes the mail and delivers nothing.
    bounded.send(&mail_to(&["gone-1499@example.com"])).await.unwrap();
    assert_eq!(server.sent().pop().unwrap().suppressed, ["gone-1499@example.com"]);
}

#[tokio::test]
async fn the_default_sender_s_identity_is_looked_at() {
    let found =
        |identity: &str, verified, dkim| IdentityStatus::Found { identity: identity.to_owned(), verified, dkim };
    let cases = [
        ("example.com", Identity::default(), found("example.com", true, true)),
        ("no-reply@mail.example.com", Identity::default(), found("no-reply@mail.example.com", true, true)),
        (
            "mail.example.com",
            Identity { verified: true, dkim: "NOT_STARTED".to_owned() },
            found("mail.example.com", true, false),
        ),
        ("example.com", Identity { verified: false, dkim: "PENDING".to_owned() }, found("example.com", false, false)),
        ("other.example", Identity::default(), IdentityStatus::Missing),
    ];
    for (name, identity, expected) in cases {
        let server = Ses::start().await.unwrap();
        server.change(|account| account.identities = [(name.to_owned(), identity)].into());
        let from_address = Some("no-reply@mail.example.com".to_owned());
        let ses = driver(Config { from_address, ..config(&server.url()) }).await;
        eventually("the identity was looked at", async || ses.identity() != IdentityStatus::Unknown).await;
        assert_eq!(ses.identity(), expected);
    }
}

#[tokio::test]
async fn credentials_that_may_send_and_not_look_send() {
    let server = Ses::start().await.unwrap();
    let looks = ["GetAccount", "GetEmailIdentity", "ListSuppressedDestinations"];
    server.change(|account| account.denied = looks.map(str::to_owned).into());
    let from_address = Some(SENDER.to_owned());
    let ses = driver(Config { from_address, per_second_unknown: 100.0, ..config(&server.url()) }).await;
    eventually("the identity was looked at", async || ses.identity() != IdentityStatus::Unknown).await;
    assert_eq!(ses.identity(), IdentityStatus::NotAllowed);
    ses.read_suppression_list().await.unwrap();
    ses.check().await.unwrap();
    assert_eq!(ses.quota().await.unwrap_err().kind, ErrorKind::Unsupported);
    ses.send(&mail()).await.unwrap();
}

#[tokio::test]
async fn what_ses_would_never_take_is_rejected_without_asking() {
    let server = Ses::start().await.unwrap();
    let ses = driver(config(&server.url())).await;
    let many: Vec<String> = (0..51).map(|number| format!("a{number}@example.com")).collect();
    let answer = ses.send(&mail_to(&many.iter().map(String::as_str).collect::<Vec<_>>())).await;
    assert!(matches!(answer, Err(SendError::Rejected { .. })), "{answer:?}");
    let mut large = mail();
    large.mime = vec![b'x'; 40_000_001].into();
    assert!(matches!(ses.send(&large).await, Err(SendError::Rejected { .. })));
    assert_eq!(server.calls_of("SendEmail"), 0);
}
