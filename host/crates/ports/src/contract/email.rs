//! What every e-mail driver keeps, and what every mailbox keeps: run by each driver's tests.
//!
//! Keys are random. A driver that really sends gets its recipients from the test, so that nobody is written to by
//! accident.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a contract suite is a test, and a test fails by panicking"
)]

use super::random_name;
use crate::email::{Address, CaughtMail, EmailSender, Mail, MailOrigin, Mailbox};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Tasks that send the same at once.
const CROWD: usize = 50;

/// What every sender keeps. `recipient` takes a handful of mails, `sender` may send.
pub async fn check_sender(email: Arc<dyn EmailSender>, sender: &str, recipient: &str) {
    email.check().await.expect("the sender is not healthy");
    a_mail_is_taken_and_has_an_id(&*email, sender, recipient).await;
    the_quota_is_of_numbers_and_counts(&*email, sender, recipient).await;
    if email.deduplicates() {
        the_same_key_is_answered_with_the_first_id(&*email, sender, recipient).await;
        the_same_key_at_once_is_one(&email, sender, recipient).await;
    }
}

/// What a mailbox shows of what its sender took. Other tests may send to it meanwhile, but not over what it keeps.
pub async fn check_mailbox(email: Arc<dyn EmailSender>, mailbox: Arc<dyn Mailbox>) {
    let (sender, recipient) = ("no-reply@example.com", "ana@example.com");
    check_sender(Arc::clone(&email), sender, recipient).await;
    what_is_sent_is_seen_whole(&*email, &*mailbox).await;
    a_mail_with_next_to_nothing_is_seen_too(&*email, &*mailbox).await;
    the_newest_is_first_and_pages_join(&*email, &*mailbox).await;
    numbers_begin_at_one_and_go_up(&*email, &*mailbox).await;
    if email.deduplicates() {
        one_key_is_one_mail_in_the_box(&email, &*mailbox).await;
    }
}

/// A mail with everything in it, under a key of its own.
pub fn sample(sender: &str, recipient: &str) -> Mail {
    let key = random_name("mail");
    let mime = format!(
        "From: Sandpost <{sender}>\r\nTo: {recipient}\r\nCc: cc@example.com\r\nSubject: =?utf-8?B?T2zDoQ==?=\r\n\
         Message-ID: <{key}@example.com>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nOl=C3=A1\r\n"
    );
    Mail {
        key,
        sender: Address { name: Some("Sandpost".to_owned()), address: sender.to_owned() },
        to: vec![Address { name: Some("Ana \"A\" ção 🔥".to_owned()), address: recipient.to_owned() }],
        cc: vec![Address { name: None, address: "cc@example.com".to_owned() }],
        bcc: vec![Address { name: None, address: "hidden@example.com".to_owned() }],
        subject: "Olá".to_owned(),
        html: Some("<!DOCTYPE html><p>Olá \u{1F525} &amp; more</p>".to_owned()),
        text: "Olá\n".to_owned(),
        mime: Bytes::from(mime),
        tags: vec![("kind".to_owned(), "welcome".to_owned()), ("kind".to_owned(), "twice".to_owned())],
        origin: MailOrigin {
            plugin: "notification-email".parse().unwrap(),
            message_id: Some("msg-1".parse().unwrap()),
            template: Some("welcome".to_owned()),
            locale: Some("pt-PT".to_owned()),
        },
    }
}

async fn find(mailbox: &dyn Mailbox, key: &str) -> Vec<CaughtMail> {
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = mailbox.list(before, 50).await.unwrap();
        let Some(last) = page.last() else { return found };
        before = Some(last.number);
        found.extend(page.into_iter().filter(|caught| caught.mail.key == key));
    }
}

async fn a_mail_is_taken_and_has_an_id(email: &dyn EmailSender, sender: &str, recipient: &str) {
    let one = email.send(&sample(sender, recipient)).await.unwrap();
    let two = email.send(&sample(sender, recipient)).await.unwrap();
    assert!(!one.is_empty());
    assert_ne!(one, two, "two mails have one id");
}

async fn the_quota_is_of_numbers_and_counts(email: &dyn EmailSender, sender: &str, recipient: &str) {
    let before = email.quota().await.unwrap();
    assert!(before.per_day > 0.0 && before.per_second > 0.0 && before.sent_today >= 0.0, "{before:?}");
    assert!(before.per_day.is_finite() && before.per_second.is_finite() && before.sent_today.is_finite(), "{before:?}");
    email.send(&sample(sender, recipient)).await.unwrap();
    let after = email.quota().await.unwrap();
    // Providers count late, but never backwards within a minute.
    assert!(after.sent_today >= before.sent_today, "{before:?} {after:?}");
}

async fn the_same_key_is_answered_with_the_first_id(email: &dyn EmailSender, sender: &str, recipient: &str) {
    let mail = sample(sender, recipient);
    let first = email.send(&mail).await.unwrap();
    // Another mail in between, and other content under the key: the key decides.
    email.send(&sample(sender, recipient)).await.unwrap();
    let again = Mail { subject: "another".to_owned(), ..mail };
    assert_eq!(email.send(&again).await.unwrap(), first);
    let longer = Mail { key: format!("{} ", again.key), ..again };
    assert_ne!(email.send(&longer).await.unwrap(), first, "a key that only begins alike was taken for it");
}

async fn the_same_key_at_once_is_one(email: &Arc<dyn EmailSender>, sender: &str, recipient: &str) {
    let ids = crowd(email, &sample(sender, recipient)).await;
    assert_eq!(ids.len(), 1, "{ids:?}");
}

async fn what_is_sent_is_seen_whole(email: &dyn EmailSender, mailbox: &dyn Mailbox) {
    let mail = sample("no-reply@example.com", "ana@example.com");
    email.send(&mail).await.unwrap();
    let found = find(mailbox, &mail.key).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].mail, mail);
    assert!(found[0].caught_at_ms > 0);
    assert_eq!(mailbox.get(found[0].number).await.unwrap().as_ref(), Some(&found[0]));
    let mime = String::from_utf8(found[0].mail.mime.to_vec()).unwrap().to_lowercase();
    assert!(!mime.contains("bcc") && !mime.contains("hidden@"), "the hidden recipient is in the MIME");
    assert!(!found[0].mail.bcc.is_empty(), "the hidden recipient got lost");
}

async fn a_mail_with_next_to_nothing_is_seen_too(email: &dyn EmailSender, mailbox: &dyn Mailbox) {
    let full = sample("no-reply@example.com", "ana@example.com");
    let origin = MailOrigin { message_id: None, template: None, locale: None, ..full.origin.clone() };
    let bare = Mail {
        cc: vec![],
        bcc: vec![],
        subject: String::new(),
        html: None,
        text: String::new(),
        mime: Bytes::from_static(b"\0\xff\r\n"),
        tags: vec![],
        origin,
        ..full
    };
    email.send(&bare).await.unwrap();
    let found = find(mailbox, &bare.key).await;
    assert_eq!(found.into_iter().map(|caught| caught.mail).collect::<Vec<_>>(), [bare]);
}

async fn the_newest_is_first_and_pages_join(email: &dyn EmailSender, mailbox: &dyn Mailbox) {
    let mut keys = Vec::new();
    for _ in 0..7 {
        let mail = sample("no-reply@example.com", "ana@example.com");
        email.send(&mail).await.unwrap();
        keys.insert(0, mail.key);
    }
    let latest = mailbox.latest().await.unwrap().unwrap();
    let first_page = mailbox.list(None, 4).await.unwrap();
    assert_eq!(first_page.len(), 4);
    assert!(first_page[0].number >= latest.number);
    let mut seen = Vec::new();
    let mut before = None;
    while !keys.iter().all(|key| seen.contains(key)) {
        let page = mailbox.list(before, 3).await.unwrap();
        assert!(!page.is_empty() && page.len() <= 3, "the pages ended, or one was too long");
        assert!(page.windows(2).all(|pair| pair[0].number > pair[1].number), "not newest first");
        assert!(before.is_none_or(|before| page[0].number < before), "a page began again");
        before = page.last().map(|caught| caught.number);
        seen.extend(page.into_iter().map(|caught| caught.mail.key));
    }
    seen.retain(|key| keys.contains(key));
    assert_eq!(seen, keys);
    assert_eq!(mailbox.list(None, 0).await.unwrap(), []);
}

async fn numbers_begin_at_one_and_go_up(email: &dyn EmailSender, mailbox: &dyn Mailbox) {
    assert_eq!(mailbox.get(0).await.unwrap(), None);
    assert_eq!(mailbox.list(Some(1), 10).await.unwrap(), []);
    let before = mailbox.latest().await.unwrap().map_or(0, |caught| caught.number);
    let mail = sample("no-reply@example.com", "ana@example.com");
    email.send(&mail).await.unwrap();
    assert!(find(mailbox, &mail.key).await[0].number > before);
    assert_eq!(mailbox.get(u64::MAX).await.unwrap(), None);
    assert!(!mailbox.list(Some(u64::MAX), 1).await.unwrap().is_empty());
}

async fn one_key_is_one_mail_in_the_box(email: &Arc<dyn EmailSender>, mailbox: &dyn Mailbox) {
    for _ in 0..5 {
        let mail = sample("no-reply@example.com", "ana@example.com");
        assert_eq!(crowd(email, &mail).await.len(), 1);
        assert_eq!(find(mailbox, &mail.key).await.len(), 1);
    }
}

/// Sends it from many tasks; the ids that came back.
async fn crowd(email: &Arc<dyn EmailSender>, mail: &Mail) -> BTreeSet<String> {
    let mut tasks = JoinSet::new();
    for _ in 0..CROWD {
        let (email, mail) = (Arc::clone(email), mail.clone());
        tasks.spawn(async move { email.send(&mail).await.unwrap() });
    }
    tasks.join_all().await.into_iter().collect()
}
