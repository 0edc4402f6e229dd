//! The WIT interface `pubsub`.

use super::handler::sandpost::plugin::pubsub as wit;
use crate::error::HostError;
use crate::pubsub::Parts;

pub(crate) fn publish(topic: &str, message: Parts) -> Result<String, HostError> {
    Ok(wit::publish(topic, &outgoing(message))?)
}

pub(crate) fn publish_many(topic: &str, messages: Vec<Parts>) -> Vec<Result<String, HostError>> {
    let messages: Vec<_> = messages.into_iter().map(outgoing).collect();
    wit::publish_many(topic, &messages).into_iter().map(|answer| Ok(answer?)).collect()
}

fn outgoing(parts: Parts) -> wit::Outgoing {
    wit::Outgoing {
        body: parts.body,
        content_type: parts.content_type,
        attributes: parts.attributes,
        ordering_key: parts.ordering_key,
        dedupe_key: parts.dedupe_key,
        delay: parts.delay.map(crate::time::millis),
    }
}
