//! The requests as a public emulator of SES reads them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{SENDER, config, driver, mail};
use sandpost_ports::contract::email::sample;
use sandpost_ports::email::{EmailSender as _, SendError};
use sandpost_ses::{Config, Content};

#[tokio::test]
async fn moto_takes_raw_and_simple_mails_and_refuses_who_is_not_verified() {
    let Some(server) = sandpost_services::moto() else { return };
    let config = Config { region: Some("us-east-1".to_owned()), ..config(&server.url()) };
    let ses = driver(config.clone()).await;
    let answer = ses.send(&mail()).await;
    assert!(
        matches!(&answer, Err(SendError::Rejected { reason, .. }) if reason.contains("MessageRejected")),
        "{answer:?}"
    );

    // Its own way to say that an address is verified: making the identity is enough.
    let shared = aws_sdk_sesv2::Config::builder()
        .behavior_version(aws_sdk_sesv2::config::BehaviorVersion::latest())
        .region(aws_sdk_sesv2::config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_sesv2::config::Credentials::new("AKIATEST", "secret", None, None, "test"))
        .http_client(
            aws_smithy_http_client::Builder::new()
                .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                    aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
                ))
                .build_https(),
        )
        .endpoint_url(server.url())
        .build();
    let admin = aws_sdk_sesv2::Client::from_conf(shared);
    admin.create_email_identity().email_identity(SENDER).send().await.unwrap();

    let raw = ses.send(&sample(SENDER, "ana@example.com")).await.unwrap();
    let simple = driver(Config { content: Content::Simple, ..config }).await;
    let simple = simple.send(&sample(SENDER, "ana@example.com")).await.unwrap();
    assert!(!raw.is_empty() && raw != simple);
    sandpost_services::checked("SES wire format", &server);
}
