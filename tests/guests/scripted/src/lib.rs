//! A handler that does what the body of its message says, so that a test can ask for any end.

use sandpost_sdk::email::Email;
use sandpost_sdk::prelude::*;
use sandpost_sdk::{cache, pubsub};
use serde::Deserialize;
use std::time::Duration;

/// Long enough for a second handler of the same key to be seen between a read and a write.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Order {
    Ack,
    Retry { reason: String },
    RetryAfter { after_ms: u64 },
    Reject { reason: String },
    RetryUntilAttempt { attempt: u32 },
    Trap,
    Exit,
    Spin,
    Sleep { ms: u64 },
    SleepForEver,
    SetKey { key: String },
    RejectUnlessKey { key: String },
    RejectWithKey { key: String },
    Append { key: String, value: String },
    /// Publishes the body, or an order to acknowledge, and then ends as `then` says in the first attempt.
    Publish {
        topic: String,
        body: Option<serde_json::Value>,
        #[serde(default)]
        then: String,
    },
    Mail { to: String, then: String },
}

#[sandpost_sdk::handler]
fn handle(message: Message, order: Json<Order>) -> Result<()> {
    match order.0 {
        Order::Ack => Ok(()),
        Order::Retry { reason } => Err(Error::retry(reason)),
        Order::RetryAfter { after_ms } if message.attempt() == 1 => {
            Err(Error::retry_after(Duration::from_millis(after_ms), "in a while"))
        }
        Order::RetryAfter { .. } => Ok(()),
        Order::Reject { reason } => Err(Error::reject(reason)),
        Order::RetryUntilAttempt { attempt } if message.attempt() < attempt => Err(Error::retry("not this attempt")),
        Order::RetryUntilAttempt { .. } => Ok(()),
        Order::Trap => panic!("as the message asked"),
        Order::Exit => std::process::exit(3),
        Order::Spin => loop {
            std::hint::black_box(());
        },
        Order::Sleep { ms } => {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        }
        Order::SleepForEver => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        Order::SetKey { key } => Ok(cache::set(&key, "set", None)?),
        Order::RejectUnlessKey { key } => match cache::get::<String>(&key)? {
            Some(_) => Ok(()),
            None => Err(Error::reject("the key is not there")),
        },
        Order::RejectWithKey { key } => Err(Error::reject(cache::get::<String>(&key)?.unwrap_or_default())),
        Order::Append { key, value } => {
            let before: String = cache::get(&key)?.unwrap_or_default();
            std::thread::sleep(PAUSE);
            Ok(cache::set(&key, &(before + &value), None)?)
        }
        Order::Publish { topic, body, then } => {
            pubsub::publish(&topic, &body.unwrap_or_else(|| json!({ "do": "ack" })))?;
            if message.attempt() == 1 && then == "retry" { Err(Error::retry("after the publish")) } else { Ok(()) }
        }
        Order::Mail { to, then } => {
            Email::to(to.as_str()).subject("A mail").text("Once, and only once.").send()?;
            if message.attempt() == 1 && then == "retry" { Err(Error::retry("after the mail")) } else { Ok(()) }
        }
    }
}
