//! The main job, with the plugins that ship: a notification becomes a mail, in the user's language, once.

use sandpost_tests::{Host, Setup};
use serde_json::{Value, json};

fn notify(host: &Host, notification: &str, user: &str, kind: &str) -> String {
    let body = json!({ "notificationId": notification, "userId": user, "type": kind }).to_string();
    host.publish("notification-created", &body)
}

fn mails(host: &Host) -> Vec<Value> {
    host.get("/v1/mailbox").json()["mails"].as_array().cloned().expect("a list of mails")
}

#[test]
fn a_notification_becomes_a_mail_and_a_delivery_record() {
    let host = Host::start(Setup::shipped());
    let id = notify(&host, "notif_123", "user_123", "welcome");
    let steps = host.until_step(&id, "acknowledged");
    assert_eq!(steps.first().map(String::as_str), Some("accepted"), "{steps:?}");
    for step in ["started", "effect-claimed", "effect-sending", "effect-sent"] {
        assert!(steps.iter().any(|seen| seen == step), "{step} is missing in {steps:?}");
    }

    let mail = host.get("/v1/mailbox/latest").json();
    assert_eq!(mail["to"][0]["address"], "ada@example.com", "{mail}");
    assert_eq!(mail["sender"]["address"], "noreply@sandpost.example");
    assert!(mail["subject"].as_str().is_some_and(|subject| subject.starts_with("Welcome to ")), "{mail}");
    assert_eq!(mail["message_id"], id.as_str());
    let html = host.get("/v1/mailbox/latest.html");
    assert!(html.text.contains("Ada"), "{}", html.text);
    assert!(html.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    assert!(host.get("/v1/mailbox/latest.txt").text.contains("Ada"));
    let eml = host.get("/v1/mailbox/latest.eml").text;
    assert!(eml.contains("multipart/alternative") && eml.contains("\r\nTo: "), "{eml}");

    // `notification-sent` was published within the same trace, handled, and left its record.
    let trace = host.get(&format!("/v1/messages/{id}")).json()["trace_id"].clone();
    host.eventually("the delivery log has handled notification-sent", || {
        let handled = host.log().into_iter().any(|line| {
            line["metadata"]["subscription"] == "delivery-log"
                && line["metadata"]["trace_id"] == trace
                && line["metadata"]["outcome"] == "ack"
        });
        handled.then_some(()).ok_or_else(|| "no such line".to_owned())
    });
}

#[test]
fn the_mail_is_in_the_users_language() {
    let host = Host::start(Setup::shipped());
    let id = notify(&host, "notif_1", "user_456", "welcome");
    host.until_step(&id, "acknowledged");
    let mail = host.get("/v1/mailbox/latest").json();
    assert!(
        mail["subject"].as_str().is_some_and(|subject| subject.contains("Boas-vindas") || subject.contains("vindo"))
    );
    assert!(host.get("/v1/mailbox/latest.html").text.contains("João"));
}

#[test]
fn what_a_user_wrote_is_escaped() {
    let host = Host::start(Setup::shipped());
    let id = notify(&host, "notif_1", "user_789", "welcome");
    host.until_step(&id, "acknowledged");
    let html = host.get("/v1/mailbox/latest.html").text;
    assert!(html.contains("&lt;b&gt;Eve"), "{html}");
    assert!(!html.contains("<b>Eve"), "{html}");
}

#[test]
fn an_unknown_type_falls_to_the_default_template() {
    let host = Host::start(Setup::shipped());
    let id = notify(&host, "notif_1", "user_123", "something-else");
    host.until_step(&id, "acknowledged");
    assert_eq!(mails(&host).len(), 1);
}

#[test]
fn a_message_that_comes_again_sends_nothing_again() {
    let mut host = Host::start(Setup::shipped());
    let id = notify(&host, "notif_1", "user_123", "welcome");
    host.until_step(&id, "acknowledged");
    assert_eq!(mails(&host).len(), 1);

    // The same notification under the same message: a redelivery as after a lost acknowledgement. The host is killed
    // before it could settle, as often as it takes to be in the middle of an attempt.
    for round in 0..5 {
        let id = notify(&host, &format!("notif_again_{round}"), "user_123", "welcome");
        host.kill();
        host.restart();
        host.until_step(&id, "acknowledged");
    }
    let sent: Vec<Value> = mails(&host);
    let mut origins: Vec<&str> = sent.iter().filter_map(|mail| mail["message_id"].as_str()).collect();
    let all = origins.len();
    origins.sort_unstable();
    origins.dedup();
    assert_eq!((all, origins.len()), (6, 6), "one mail a message: {sent:#?}");
}

#[test]
fn an_unknown_user_is_a_dead_letter_with_its_reason() {
    let host = Host::start(Setup::shipped());
    let id = notify(&host, "notif_1", "nobody", "welcome");
    host.until_step(&id, "dead-lettered");
    let letters = host.get("/v1/dead-letters").json();
    let letter = &letters["dead_letters"][0];
    assert_eq!(letter["cause"], "rejected", "{letters}");
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("nobody")), "{letter}");
    assert_eq!(letter["plugin"], "notification-email");
    assert_eq!(letter["attempts"], 1);
    assert!(mails(&host).is_empty());
}
