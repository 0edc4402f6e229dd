//! The port's contract on a real SMTP server, and what arrives there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{RECIPIENT, SENDER, kind};
use sandpost_ports::contract::email::{check_sender, sample};
use sandpost_ports::email::{EmailSender as _, SendError};
use sandpost_ports::health::Health as _;
use sandpost_ports::{ErrorKind, Secret};
use sandpost_services::Server;
use sandpost_smtp::{Config, open};
use std::time::{Duration, Instant};

fn config(server: &Server, url: String) -> Config {
    Config { url: Some(Secret::new(url)), ca_file: server.authority().map(Into::into), ..Config::default() }
}

#[tokio::test]
async fn keeps_the_email_contract_after_starttls_and_with_tls_from_the_first_byte() {
    for server in [sandpost_services::smtp(), sandpost_services::smtps()] {
        let Some(server) = server else { continue };
        let relay = open(config(&server, server.url())).unwrap();
        assert!(!relay.deduplicates());
        check_sender(relay.clone(), SENDER, RECIPIENT).await;
        what_is_sent_arrives_whole(&server, &relay).await;
        sandpost_services::checked("SMTP contract", &server);
    }
}

async fn what_is_sent_arrives_whole(server: &Server, relay: &sandpost_smtp::Relay) {
    let mut mail = sample(SENDER, RECIPIENT);
    let mime = String::from_utf8(mail.mime.to_vec()).unwrap();
    // A line that is a dot alone ends a mail, unless it is doubled on the way.
    mail.mime = format!("{mime}\r\n.\r\n..two\r\nthe end\r\n").into();
    relay.send(&mail).await.unwrap();
    if server.authority().is_none() {
        return sandpost_services::not_checked(
            "SMTP: what arrives",
            "the mails of a server from outside cannot be read",
        );
    }
    let arrived: Vec<String> = server.mails().into_iter().filter(|arrived| arrived.contains(&mail.key)).collect();
    assert_eq!(arrived.len(), 1);
    let arrived = arrived[0].replace("\r\n", "\n");
    assert!(arrived.contains("\n.\n..two\nthe end"), "{arrived}");
    for recipient in [RECIPIENT, "cc@example.com", "hidden@example.com"] {
        assert!(arrived.contains(&format!("X-Envelope-To: {recipient}\n")), "{arrived}");
    }
    assert!(!arrived.to_lowercase().contains("\nbcc:"), "{arrived}");
}

#[tokio::test]
async fn answers_of_a_real_server_are_of_their_class() {
    let Some(server) = sandpost_services::smtp() else { return };
    if server.authority().is_none() {
        return sandpost_services::not_checked("SMTP: answers", "a server from outside does not fail when asked");
    }
    let relay = open(config(&server, server.url())).unwrap();
    for (recipient, rejected) in [
        ("answer-550@example.com", true),
        ("answer-451@example.com", false),
        ("data-554@example.com", true),
        ("data-452@example.com", false),
    ] {
        let answer = relay.send(&sample(SENDER, recipient)).await;
        match &answer {
            Err(SendError::Rejected { reason, .. }) if rejected => assert!(reason.contains("refused"), "{reason}"),
            Err(SendError::Throttled { .. }) if !rejected => {}
            _ => panic!("{recipient}: {answer:?}"),
        }
    }
    relay.send(&sample(SENDER, RECIPIENT)).await.unwrap();
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn a_wrong_password_holds_mail() {
    let Some(server) = sandpost_services::smtp() else { return };
    let relay = open(config(&server, server.url_with_wrong_password())).unwrap();
    let answer = relay.send(&sample(SENDER, RECIPIENT)).await;
    assert!(matches!(answer, Err(SendError::Paused { .. })), "{answer:?}");
    assert_eq!(relay.check().await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_restart_under_load_loses_no_answer_and_doubles_no_mail() {
    let Some(server) = sandpost_services::smtp() else { return };
    if !server.can_restart() {
        return sandpost_services::not_checked("SMTP: restart", "a server from outside is not restarted");
    }
    let relay = open(Config { connections_max: 4, ..config(&server, server.url()) }).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let relay = relay.clone();
        tasks.spawn(async move {
            let mail = sample(SENDER, RECIPIENT);
            (mail.key.clone(), relay.send(&mail).await)
        });
    }
    let mut answers: Vec<_> = Vec::new();
    while answers.len() < 20 {
        answers.push(tasks.join_next().await.unwrap().unwrap());
    }
    // Blocking: the tasks are on this thread too, and stand meanwhile.
    server.kill();
    while answers.len() < 60 {
        answers.push(tasks.join_next().await.unwrap().unwrap());
    }
    server.start();
    answers.extend(tasks.join_all().await);

    let mails = server.mails();
    let mut went = 0;
    for (key, answer) in &answers {
        let arrived = mails.iter().filter(|mail| mail.contains(key.as_str())).count();
        match (answer, kind(answer)) {
            (Ok(_), _) => {
                assert_eq!(arrived, 1, "a mail that was taken");
                went += 1;
            }
            (_, Some(ErrorKind::UnknownOutcome)) => assert!(arrived <= 1),
            (_, Some(ErrorKind::Unavailable)) => assert_eq!(arrived, 0, "a mail that was not handed over"),
            _ => panic!("{answer:?}"),
        }
    }
    assert!(went >= 20, "{went} went");
    let until = Instant::now() + Duration::from_secs(10);
    while relay.send(&sample(SENDER, RECIPIENT)).await.is_err() {
        assert!(Instant::now() < until, "mail does not go again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
