//! Handles `notification-sent` `{notificationId, status, timestamp}`: one record for each notification, its last status.
//!
//! Messages may come again and out of order: an older one does not overwrite a newer one.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use sandpost_sdk::documents::Collection;
use sandpost_sdk::prelude::*;

const CONNECTION: &str = "main";
const COLLECTION: &str = "deliveries";

/// The message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    notification_id: String,
    status: String,
    /// RFC 3339, UTC: compares as text.
    timestamp: String,
}

/// What of an earlier record matters.
#[derive(Debug, Deserialize)]
struct Earlier {
    timestamp: String,
}

#[sandpost_sdk::handler]
fn handle(message: Message, event: Json<Sent>) -> Result<()> {
    let deliveries = Collection::open(CONNECTION, COLLECTION)?;
    let filter = json!({"_id": event.notification_id});
    let earlier: Option<Earlier> = deliveries.find_one(&filter).context("reading the record")?;
    if earlier.is_some_and(|earlier| earlier.timestamp > event.timestamp) {
        log::info!(notificationId = event.notification_id; "An older status came late and is left out.");
        return Ok(());
    }
    let update = json!({
        "$set": {
            "notificationId": event.notification_id,
            "status": event.status,
            "timestamp": event.timestamp,
            "messageId": message.id(),
        },
        "$currentDate": {"recordedAt": true},
    });
    deliveries.upsert_one(&filter, &update).context("writing the record")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_sdk::testing::{self, Host};

    fn sent(status: &str, timestamp: &str) -> Message {
        let body = json!({"notificationId": "notif_1", "status": status, "timestamp": timestamp});
        testing::message("notification-sent", body)
    }

    #[test]
    fn one_record_for_each_notification() {
        let host = Host::new();
        let message = sent("sent", "2024-01-15T10:30:00.000Z");
        host.deliver(handle, &message).unwrap();
        host.deliver(handle, &testing::again(&message)).unwrap();
        let records = host.documents("main", "deliveries");
        assert_eq!(records.len(), 1);
        assert_eq!((&records[0]["_id"], &records[0]["status"]), (&json!("notif_1"), &json!("sent")));
        assert_eq!(records[0]["messageId"], message.id());
    }

    #[test]
    fn an_older_status_does_not_overwrite_a_newer_one() {
        let host = Host::new();
        host.deliver(handle, &sent("sent", "2024-01-15T10:30:01.000Z")).unwrap();
        host.deliver(handle, &sent("suppressed", "2024-01-15T10:30:00.000Z")).unwrap();
        assert_eq!(host.documents("main", "deliveries")[0]["status"], "sent");
        host.deliver(handle, &sent("bounced", "2024-01-15T10:30:02.000Z")).unwrap();
        assert_eq!(host.documents("main", "deliveries")[0]["status"], "bounced");
    }

    #[test]
    fn a_body_of_another_shape_is_rejected() {
        let host = Host::new();
        let error =
            host.deliver(handle, &testing::message("notification-sent", json!({"status": "sent"}))).unwrap_err();
        assert_eq!(error.verdict(), Verdict::Reject);
        assert!(error.reason().contains("notificationId"), "{error}");
    }
}
