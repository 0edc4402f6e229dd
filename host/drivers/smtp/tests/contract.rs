//! The port's contract on a real SMTP server, and what arrives there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{RECIPIENT, SENDER};
use sandpost_ports::Secret;
use sandpost_ports::contract::email::{check_sender, sample};
use sandpost_ports::email::EmailSender as _;
use sandpost_smtp::{Config, open};
use std::path::Path;
use std::time::{Duration, Instant};

#[tokio::test]
async fn keeps_the_email_contract() {
    let Some(server) = sandpost_services::smtp() else { return };
    let config = Config { url: Some(Secret::new(server.url())), ..Config::default() };
    let relay = open(config).unwrap();
    assert!(!relay.deduplicates());
    check_sender(relay.clone(), SENDER, RECIPIENT).await;

    let mut mail = sample(SENDER, RECIPIENT);
    let mime = String::from_utf8(mail.mime.to_vec()).unwrap();
    // A line that is a dot alone ends a mail, unless it is doubled on the way.
    mail.mime = format!("{mime}\r\n.\r\n..two\r\nthe end\r\n").into();
    relay.send(&mail).await.unwrap();
    if let Some(folder) = server.mail_folder() {
        let arrived = find(folder, &mail.key);
        assert!(arrived.contains("\n.\n..two\nthe end"), "{arrived}");
        assert!(!arrived.to_lowercase().contains("\nbcc:"), "{arrived}");
    }
    sandpost_services::checked("SMTP contract", &server);
}

/// The mail with this text in it, with bare line ends; for 10 seconds.
fn find(folder: &Path, text: &str) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        for file in std::fs::read_dir(folder.join("new")).into_iter().flatten().flatten() {
            let mail = String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()).replace("\r\n", "\n");
            if mail.contains(text) {
                return mail;
            }
        }
        assert!(Instant::now() < until, "the mail did not arrive");
        std::thread::sleep(Duration::from_millis(20));
    }
}
