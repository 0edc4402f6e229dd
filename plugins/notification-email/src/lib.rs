//! Handles `notification-created` `{notificationId, userId, type}`: finds the user, keeps the notification, sends the
//! mail, and publishes `notification-sent` `{notificationId, status, timestamp}`.
//!
//! A redelivered message does nothing twice: the user is read again, the document is written to the same state, and the
//! host knows the mail and the publish by the message.
//!
//! Not here: what the mail says. The template is named by `type`; the host takes `default` for a name it does not know.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use sandpost_sdk::documents::{Collection, ReturnDocument};
use sandpost_sdk::email::{Email, Outcome, SendError};
use sandpost_sdk::prelude::*;
use sandpost_sdk::sql::Connection;
use sandpost_sdk::{cache, config, params, pubsub, time};
use std::time::Duration;

/// The connection of both databases.
const CONNECTION: &str = "main";
const COLLECTION: &str = "notifications";
const SENT_TOPIC: &str = "notification-sent";
/// Configuration: how long a user is kept in the cache, in seconds. The host's default where it is not set.
const USER_TTL_KEY: &str = "user_ttl_seconds";

/// The message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    notification_id: String,
    user_id: String,
    /// What kind of notification it is; the template's name.
    r#type: String,
    /// For publishers that say it here, and not in the document.
    title: Option<String>,
    message: Option<String>,
}

/// As the cache holds it, and as the table has it.
#[derive(Debug, Serialize, Deserialize)]
struct User {
    email: String,
    name: Option<String>,
    locale: Option<String>,
}

/// What of the notification's document the mail needs.
#[derive(Debug, Default, Deserialize)]
struct Notification {
    title: Option<String>,
    message: Option<String>,
}

#[sandpost_sdk::handler]
fn handle(event: Json<Created>) -> Result<()> {
    let user = user(&event.user_id)?;
    let notifications = Collection::open(CONNECTION, COLLECTION)?;
    let notification = keep(&notifications, &event)?;

    let sent = Email::to(recipient(&user))
        .template(template(&event, &notification), &mail_data(&event, &user, &notification))
        .locale(user.locale.as_deref())
        .tag("type", tag_value(&event.r#type))
        .send();
    let status = match &sent {
        Ok(Outcome::Sent(_) | Outcome::AlreadySent(_)) => "sent",
        Ok(Outcome::Suppressed) => "suppressed",
        Err(SendError::Rejected(_)) => "failed",
        // Nothing is known, or nothing was done: the next attempt says more.
        Err(_) => return sent.map(|_| ()).context("sending the mail"),
    };

    let update = json!({"$set": {"status": status}, "$currentDate": {"updatedAt": true}});
    notifications.update_one(&json!({"_id": event.notification_id}), &update).context("keeping the status")?;
    sent.context("sending the mail")?;

    let body = json!({"notificationId": event.notification_id, "status": status, "timestamp": time::now()});
    pubsub::publish(SENT_TOPIC, &body).context("publishing")?;
    log::info!(notificationId = event.notification_id, userId = event.user_id, status; "Notification handled.");
    Ok(())
}

/// From the cache, else from the database, and then cached. A user that nobody knows will not be there later either.
fn user(id: &str) -> Result<User> {
    let ttl = config::parse(USER_TTL_KEY)?.map(Duration::from_secs);
    cache::get_or_set(&format!("user:{id}"), ttl, || {
        let statement = "SELECT email, name, locale FROM users WHERE id = ?";
        let rows = Connection::open(CONNECTION)?.query(statement, params![id]).context("reading the user")?;
        rows.first_as()?.or_reject(format_args!("there is no user `{id}`"))
    })
}

/// Inserts or updates the notification's document, and reads what it holds. Title and message stay as they are, unless
/// the message says them.
fn keep(notifications: &Collection, event: &Created) -> Result<Notification> {
    let mut set = json!({"userId": event.user_id, "type": event.r#type});
    for (field, value) in [("title", &event.title), ("message", &event.message)] {
        if let Some(value) = value {
            set[field] = json!(value);
        }
    }
    // A redelivered message finds the status of the first attempt, and leaves it.
    let update = json!({
        "$set": set,
        "$setOnInsert": {"read": false, "status": "pending"},
        "$currentDate": {"updatedAt": true},
    });
    let filter = json!({"_id": event.notification_id});
    let kept = notifications.find_one_and_update(&filter, &update, true, ReturnDocument::After);
    Ok(kept.context("keeping the notification")?.unwrap_or_default())
}

/// The type names the template; one that shows title and message needs both, and says so in general words without.
fn template<'a>(event: &'a Created, notification: &Notification) -> &'a str {
    let complete = notification.title.is_some() && notification.message.is_some();
    if event.r#type == "notification" && !complete { "default" } else { &event.r#type }
}

fn mail_data(event: &Created, user: &User, notification: &Notification) -> serde_json::Value {
    let mut data = json!({"notificationId": event.notification_id, "type": event.r#type});
    // What is not known is left out, so that a template that needs it says which field is missing.
    let known = [("name", &user.name), ("title", &notification.title), ("message", &notification.message)];
    for (field, value) in known {
        if let Some(value) = value {
            data[field] = json!(value);
        }
    }
    data
}

fn recipient(user: &User) -> sandpost_sdk::email::Mailbox {
    match &user.name {
        Some(name) => (name.as_str(), user.email.as_str()).into(),
        None => user.email.as_str().into(),
    }
}

/// Providers take letters, digits, `_` and `-` in a tag; a type is any text.
fn tag_value(text: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    text.chars().take(64).map(|letter| if fits(letter) { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests;
