//! What goes wrong in the dialogue, step by step: each ends in the right error, in bounded time, and no mail is sent twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Do, RECIPIENT, SENDER, Scripted, Taken, config, kind, mail};
use sandpost_ports::ErrorKind;
use sandpost_ports::email::{EmailSender as _, SendError};
use sandpost_ports::health::{Health as _, PoolUse};
use sandpost_services::Proxy;
use sandpost_smtp::{Config, open};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_mail_goes_whole_to_all_of_its_recipients_and_has_the_relay_s_id() {
    let server = Scripted::start().await;
    let relay = open(config(&server.url())).unwrap();
    let mail = mail();
    assert_eq!(relay.send(&mail).await.unwrap(), "Q1");
    assert_eq!(relay.send(&mail).await.unwrap(), "Q2");
    let expected = Taken {
        from: SENDER.to_owned(),
        to: [RECIPIENT, "cc@example.com", "hidden@example.com"].map(str::to_owned).to_vec(),
        content: format!("{}\r\n", String::from_utf8(mail.mime.to_vec()).unwrap()),
    };
    assert_eq!(server.taken(), [expected.clone(), expected]);
    assert_eq!(server.connections(), 1, "the connection was not kept");
    assert_eq!(relay.pool(), Some(PoolUse { in_use: 0, idle: 1, max: 10 }));
}

#[tokio::test]
async fn what_the_relay_never_takes_is_rejected_and_the_connection_goes_on() {
    let server = Scripted::start().await;
    let relay = open(config(&server.url())).unwrap();
    for verb in ["MAIL", "RCPT", "DATA", "CONTENT"] {
        server.next(verb, Do::Say("550 5.1.1 no such user"));
        match relay.send(&mail()).await {
            Err(SendError::Rejected { reason, .. }) => assert!(reason.contains("no such user"), "{verb}: {reason}"),
            other => panic!("{verb}: {other:?}"),
        }
    }
    assert_eq!(server.taken(), []);
    relay.send(&mail()).await.unwrap();
    assert_eq!(server.connections(), 1);
    assert_eq!(server.taken()[0].to.len(), 3, "something was left of a refused mail");
}

#[tokio::test]
async fn what_it_may_take_later_is_throttled() {
    let server = Scripted::start().await;
    let relay = open(config(&server.url())).unwrap();
    for verb in ["MAIL", "RCPT", "DATA", "CONTENT"] {
        for said in ["450 4.2.0 greylisted", "451 4.7.1 too fast", "452 4.3.1 disk full"] {
            server.next(verb, Do::Say(said));
            let answer = relay.send(&mail()).await;
            assert!(matches!(answer, Err(SendError::Throttled { after_ms: None })), "{verb} {said}: {answer:?}");
        }
    }
    assert_eq!(server.taken(), []);
}

#[tokio::test]
async fn before_the_content_a_lost_connection_is_unavailable() {
    let server = Scripted::start().await;
    for verb in ["EHLO", "MAIL", "RCPT", "DATA"] {
        for order in [Do::Close, Do::Hang, Do::Say("421 4.3.2 closing down")] {
            let relay = open(config(&server.url())).unwrap();
            server.next(verb, order.clone());
            let begun = Instant::now();
            let answer = relay.send(&mail()).await;
            assert_eq!(kind(&answer), Some(ErrorKind::Unavailable), "{verb} {order:?}: {answer:?}");
            assert!(begun.elapsed() < Duration::from_secs(2), "{verb} {order:?} took {:?}", begun.elapsed());
        }
    }
    assert_eq!(server.taken(), []);
    open(config(&server.url())).unwrap().send(&mail()).await.unwrap();
}

#[tokio::test]
async fn after_the_content_a_lost_answer_is_an_unknown_outcome_and_is_not_tried_again() {
    let server = Scripted::start().await;
    let relay = open(config(&server.url())).unwrap();
    for (order, taken) in [(Do::Close, 0), (Do::TakeAndClose, 1), (Do::Hang, 2), (Do::Say("what?"), 2)] {
        server.next("CONTENT", order.clone());
        let begun = Instant::now();
        let answer = relay.send(&mail()).await;
        assert_eq!(kind(&answer), Some(ErrorKind::UnknownOutcome), "{order:?}: {answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{order:?} took {:?}", begun.elapsed());
        assert_eq!(server.taken().len(), taken, "{order:?}");
    }
    relay.send(&mail()).await.unwrap();
    assert_eq!(server.taken().len(), 3);
}

#[tokio::test]
async fn a_connection_that_the_relay_closed_meanwhile_is_replaced() {
    let server = Scripted::start().await;
    let relay = open(config(&server.url())).unwrap();
    relay.send(&mail()).await.unwrap();
    for order in [Do::Close, Do::Say("421 4.4.2 idle for too long")] {
        server.next("MAIL", order);
        relay.send(&mail()).await.unwrap();
    }
    assert_eq!(server.taken().len(), 3);
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_refused_login_holds_mail_without_asking_again_and_again() {
    let server = Scripted::with_login().await;
    let url = server.url().replace("smtp://", "smtp://user:hunter2@");
    // Long enough that all that is asked below falls into it.
    let relay = open(Config { pause_ms: 2_000, ..config(&url) }).unwrap();
    server.next("AUTH", Do::Say("535 5.7.8 wrong"));
    let answer = relay.send(&mail()).await;
    assert!(matches!(answer, Err(SendError::Paused { .. })), "{answer:?}");
    for _ in 0..5 {
        match relay.send(&mail()).await {
            Err(SendError::Paused { reason, after_ms }) => {
                assert!(after_ms <= 2_000 && !reason.contains("hunter2"), "{after_ms} {reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.connections(), 1);
    let until = Instant::now() + Duration::from_secs(10);
    while relay.send(&mail()).await.is_err() {
        assert!(Instant::now() < until, "mail does not go again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // `\0user\0hunter2`, as PLAIN has it.
    assert!(server.heard().iter().any(|line| line == "AUTH PLAIN AHVzZXIAaHVudGVyMg=="), "{:?}", server.heard());
}

#[tokio::test]
async fn a_relay_that_wants_a_login_and_gets_none_holds_mail() {
    let server = Scripted::start().await;
    let relay = open(config(&server.url())).unwrap();
    server.next("MAIL", Do::Say("530 5.7.0 authentication required"));
    assert!(matches!(relay.send(&mail()).await, Err(SendError::Paused { .. })));
}

#[tokio::test]
async fn no_more_connections_than_allowed_and_who_waits_too_long_is_told() {
    let server = Scripted::start().await;
    // The time for a mail includes its wait for a connection, here behind up to 39 others.
    let patient = Config { connection_wait_ms: 10_000, send_timeout_ms: 30_000, ..config(&server.url()) };
    let relay = open(Config { connections_max: 2, ..patient }).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let relay = relay.clone();
        tasks.spawn(async move { relay.send(&mail()).await.is_ok() });
    }
    assert!(tasks.join_all().await.into_iter().all(|went| went));
    assert!(server.open_most() <= 2, "{} at once", server.open_most());

    let full = open(Config { connections_max: 1, connection_wait_ms: 100, ..config(&server.url()) }).unwrap();
    server.next("CONTENT", Do::Hang);
    let hanging = tokio::spawn({
        let full = full.clone();
        async move { full.send(&mail()).await }
    });
    let until = Instant::now() + Duration::from_secs(5);
    while server.taken().len() < 41 {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = full.send(&mail()).await;
    assert_eq!(kind(&answer), Some(ErrorKind::Unavailable), "{answer:?}");
    assert!(answer.unwrap_err().to_string().contains("busy"));
    assert_eq!(kind(&hanging.await.unwrap()), Some(ErrorKind::UnknownOutcome));
    full.send(&mail()).await.unwrap();
}

#[tokio::test]
async fn opening_does_not_connect_and_a_relay_that_comes_later_is_found() {
    let server = Scripted::start().await;
    let address: SocketAddr = server.url().trim_start_matches("smtp://").parse().unwrap();
    let proxy = Proxy::before(address);
    proxy.refuse();
    let relay = open(config(&format!("smtp://{}", proxy.address()))).unwrap();
    let answer = relay.send(&mail()).await;
    assert_eq!(kind(&answer), Some(ErrorKind::Unavailable), "{answer:?}");
    assert!(!answer.unwrap_err().to_string().contains("127.0.0.1"));
    assert!(relay.check().await.is_err());
    proxy.pass();
    relay.send(&mail()).await.unwrap();
    relay.check().await.unwrap();

    proxy.black_hole();
    let begun = Instant::now();
    assert_eq!(kind(&relay.send(&mail()).await), Some(ErrorKind::Unavailable));
    assert!(relay.check().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    proxy.pass();
    relay.send(&mail()).await.unwrap();

    proxy.cut();
    relay.send(&mail()).await.unwrap();
    proxy.delay(Duration::from_millis(20));
    relay.send(&mail()).await.unwrap();
    proxy.trickle(256, Duration::from_millis(2));
    relay.send(&mail()).await.unwrap();
    assert_eq!(server.taken().len(), 5);
}

#[tokio::test]
async fn a_relay_that_has_to_encrypt_and_does_not_gets_no_mail() {
    let server = Scripted::start().await;
    let relay = open(config(&format!("{}?tls=required", server.url()))).unwrap();
    let answer = relay.send(&mail()).await;
    assert_eq!(kind(&answer), Some(ErrorKind::Unavailable), "{answer:?}");
    assert!(answer.unwrap_err().to_string().contains("TLS"));
    assert!(!server.heard().iter().any(|line| line.starts_with("MAIL")));
}
