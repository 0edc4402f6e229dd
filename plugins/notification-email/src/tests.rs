//! The handler against the SDK's fakes.

use super::*;
use sandpost_sdk::rows;
use sandpost_sdk::testing::{self, Host, Service};

fn host() -> Host {
    let host = Host::new();
    let ana = rows![{"email": "ana@example.com", "name": "Ana", "locale": "pt-BR"}];
    let users = "FROM users WHERE id = ?";
    host.sql("main").when(users).returns(rows![]);
    host.sql("main").when(users).with(params!["user_1"]).returns(ana);
    host
}

fn created(kind: &str) -> Message {
    testing::message("notification-created", json!({"notificationId": "notif_1", "userId": "user_1", "type": kind}))
}

#[test]
fn the_mail_goes_out_and_is_announced() {
    let host = host();
    host.deliver(handle, &created("welcome")).unwrap();

    let emails = host.emails();
    assert_eq!(emails.len(), 1);
    assert_eq!((emails[0].to[0].name.as_deref(), emails[0].to[0].address.as_str()), (Some("Ana"), "ana@example.com"));
    let template = emails[0].template.clone().unwrap();
    assert_eq!((template.name.as_str(), template.locale.as_deref()), ("welcome", Some("pt-BR")));
    assert_eq!(template.data["name"], "Ana");

    let published = host.published();
    assert_eq!(published[0].topic, "notification-sent");
    let expected = json!({"notificationId": "notif_1", "status": "sent", "timestamp": "2024-01-15T10:30:00.000Z"});
    assert_eq!(published[0].json(), expected);

    let document = &host.documents("main", "notifications")[0];
    assert_eq!(document["_id"], "notif_1");
    assert_eq!((&document["userId"], &document["type"]), (&json!("user_1"), &json!("welcome")));
    assert_eq!((&document["status"], &document["read"]), (&json!("sent"), &json!(false)));
    assert!(document["updatedAt"].is_object());
}

#[test]
fn a_redelivery_does_nothing_twice() {
    let host = host();
    let message = created("welcome");
    host.deliver(handle, &message).unwrap();
    let first = host.documents("main", "notifications");
    host.deliver(handle, &testing::again(&message)).unwrap();
    assert_eq!((host.emails().len(), host.published().len()), (1, 1));
    assert_eq!(host.documents("main", "notifications"), first);
}

#[test]
fn an_attempt_that_failed_halfway_is_finished_by_the_next() {
    let host = host();
    let message = created("welcome");
    host.fail(Service::Pubsub, HostError::Unavailable("down".into()));
    let error = host.deliver(handle, &message).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Retry { after: None });
    host.mend(Service::Pubsub);
    host.deliver(handle, &testing::again(&message)).unwrap();
    assert_eq!((host.emails().len(), host.published().len()), (1, 1));
}

#[test]
fn the_user_is_cached_for_as_long_as_is_configured() {
    let host = host();
    host.config("user_ttl_seconds", "60");
    for _ in 0..2 {
        host.deliver(handle, &created("welcome")).unwrap();
    }
    assert_eq!(host.sql("main").statements().len(), 1);
    assert_eq!(host.cached("user:user_1").unwrap()["locale"], "pt-BR");
    host.advance(Duration::from_secs(61));
    host.deliver(handle, &created("welcome")).unwrap();
    assert_eq!(host.sql("main").statements().len(), 2);
}

#[test]
fn a_cache_that_is_down_does_not_stop_the_mail() {
    let host = host();
    host.fail(Service::Cache, HostError::Unavailable("down".into()));
    host.deliver(handle, &created("welcome")).unwrap();
    assert_eq!(host.emails().len(), 1);
}

#[test]
fn an_unknown_user_is_rejected() {
    let host = host();
    let body = json!({"notificationId": "notif_1", "userId": "nobody", "type": "welcome"});
    let error = host.deliver(handle, &testing::message("notification-created", body)).unwrap_err();
    assert_eq!((error.verdict(), error.reason()), (Verdict::Reject, "there is no user `nobody`"));
    assert!(host.emails().is_empty() && host.published().is_empty());
}

#[test]
fn a_body_of_another_shape_is_rejected_and_says_where() {
    let host = host();
    let body = json!({"notificationId": 7, "userId": "user_1", "type": "welcome"});
    let error = host.deliver(handle, &testing::message("notification-created", body)).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Reject);
    assert!(error.reason().contains("`notificationId`"), "{error}");
}

#[test]
fn the_documents_title_and_message_reach_the_mail_and_stay() {
    let host = host();
    host.insert("main", "notifications", json!({"_id": "notif_1", "title": "Bill", "message": "Due.", "read": true}));
    host.deliver(handle, &created("notification")).unwrap();
    let data = host.emails()[0].template.clone().unwrap().data;
    assert_eq!((&data["title"], &data["message"]), (&json!("Bill"), &json!("Due.")));
    let document = &host.documents("main", "notifications")[0];
    assert_eq!((&document["title"], &document["read"]), (&json!("Bill"), &json!(true)));
}

#[test]
fn a_suppressed_recipient_is_announced_as_such() {
    let host = host();
    host.next_email(Ok(Outcome::Suppressed));
    host.deliver(handle, &created("welcome")).unwrap();
    assert_eq!(host.published()[0].json()["status"], "suppressed");
    assert_eq!(host.documents("main", "notifications")[0]["status"], "suppressed");
}

#[test]
fn a_mail_that_the_provider_refuses_is_rejected_and_kept_as_failed() {
    let host = host();
    host.next_email(Err(SendError::Rejected("no such domain".into())));
    let error = host.deliver(handle, &created("welcome")).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Reject);
    assert_eq!(host.documents("main", "notifications")[0]["status"], "failed");
    assert!(host.published().is_empty());
}

#[test]
fn a_throttled_mail_waits_as_long_as_the_provider_says() {
    let host = host();
    let after = Some(Duration::from_secs(9));
    host.next_email(Err(SendError::Throttled(after)));
    let error = host.deliver(handle, &created("welcome")).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Retry { after });
    assert_eq!(host.documents("main", "notifications")[0]["status"], "pending");
}

#[test]
fn tags_keep_to_what_providers_take() {
    assert_eq!(tag_value("order/paid now"), "order_paid_now");
    assert_eq!(tag_value(&"x".repeat(100)).len(), 64);
}
