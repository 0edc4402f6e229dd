//! Encryption: from the first byte, after the greeting, and whom it trusts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Scripted, Tls, config, kind, mail};
use sandpost_ports::ErrorKind;
use sandpost_ports::email::EmailSender as _;
use sandpost_smtp::{Config, open};

#[tokio::test]
async fn mail_and_password_go_encrypted_to_a_relay_whose_authority_is_trusted() {
    for (tls, scheme, query) in
        [(Tls::Wrapped, "smtps", ""), (Tls::Starttls, "smtp", ""), (Tls::Starttls, "smtp", "?tls=required")]
    {
        let (server, authority) = Scripted::with_tls(tls).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("authority.pem");
        std::fs::write(&ca_file, authority).unwrap();
        let url = format!("{scheme}://user:word@localhost:{}{query}", server.port());
        let relay = open(Config { ca_file: Some(ca_file), ..config(&url) }).unwrap();
        relay.send(&mail()).await.unwrap();
        relay.send(&mail()).await.unwrap();
        assert_eq!(server.taken().len(), 2);
        assert_eq!(server.connections(), 1);
        let heard = server.heard();
        let login = heard.iter().position(|line| line.starts_with("AUTH")).unwrap();
        let encrypted = heard.iter().position(|line| line == "STARTTLS");
        assert!(tls == Tls::Wrapped || encrypted.is_some_and(|at| at < login), "{heard:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_or_for_another_name_is_refused() {
    for (tls, scheme, host, trusted) in [
        (Tls::Wrapped, "smtps", "localhost", false),
        (Tls::Wrapped, "smtps", "127.0.0.1", true),
        (Tls::Starttls, "smtp", "localhost", false),
    ] {
        let (server, authority) = Scripted::with_tls(tls).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authority.pem");
        std::fs::write(&path, authority).unwrap();
        let url = format!("{scheme}://user:word@{host}:{}", server.port());
        let relay = open(Config { ca_file: trusted.then_some(path), ..config(&url) }).unwrap();
        let answer = relay.send(&mail()).await;
        assert_eq!(kind(&answer), Some(ErrorKind::Unavailable), "{host}: {answer:?}");
        assert_eq!(server.taken(), []);
        assert!(!server.heard().iter().any(|line| line.starts_with("AUTH")), "the password went out");
    }
}
