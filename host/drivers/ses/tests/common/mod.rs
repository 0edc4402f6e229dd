//! What the tests of this driver share.

#![allow(dead_code, reason = "each test binary uses its part")]

use sandpost_ports::Secret;
use sandpost_ports::contract::email::sample;
use sandpost_ports::email::{EmailSender as _, Mail, SendError};
use sandpost_ports::{ErrorKind, PortError};
use sandpost_ses::{Config, Ses, open};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const SENDER: &str = "no-reply@example.com";
pub(crate) const RECIPIENT: &str = "ana@example.com";

/// Of a server at this address, with short times, so that a test that waits does not wait long.
pub(crate) fn config(url: &str) -> Config {
    Config {
        endpoint_url: Some(Secret::new(url)),
        access_key_id: Some(Secret::new("AKIATEST")),
        secret_access_key: Some(Secret::new("secret")),
        connect_timeout_ms: 500,
        send_timeout_ms: 1_500,
        look_timeout_ms: 1_000,
        account_poll_ms: 200,
        pause_min_ms: 200,
        pause_max_ms: 400,
        ..Config::default()
    }
}

pub(crate) async fn driver(config: Config) -> Arc<Ses> {
    open(config, None).await.unwrap()
}

/// To one recipient: one unit of quota and rate.
pub(crate) fn mail() -> Mail {
    mail_to(&[RECIPIENT])
}

pub(crate) fn mail_to(recipients: &[&str]) -> Mail {
    let mut mail = sample(SENDER, recipients[0]);
    mail.to = recipients
        .iter()
        .map(|address| sandpost_ports::email::Address { name: None, address: (*address).to_owned() })
        .collect();
    mail.cc.clear();
    mail.bcc.clear();
    mail
}

/// Asks again until it is so, for 10 seconds.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is_so().await {
        assert!(Instant::now() < until, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The kind of an error that is not about the mail.
pub(crate) fn kind(answer: &Result<String, SendError>) -> Option<ErrorKind> {
    match answer {
        Err(SendError::Port(PortError { kind, .. })) => Some(*kind),
        _ => None,
    }
}

/// How long the line stands, where it does.
pub(crate) fn paused_ms(answer: &Result<String, SendError>) -> Option<u64> {
    match answer {
        Err(SendError::Paused { after_ms, .. }) => Some(*after_ms),
        _ => None,
    }
}

pub(crate) fn is_throttled(answer: &Result<String, SendError>) -> bool {
    matches!(answer, Err(SendError::Throttled { .. }))
}

/// Sends until it goes.
pub(crate) async fn goes_again(ses: &Ses) {
    eventually("mail goes again", async || ses.send(&mail()).await.is_ok()).await;
}
