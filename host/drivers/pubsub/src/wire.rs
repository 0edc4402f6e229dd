//! A message as Pub/Sub carries it: the body as it is, the publisher's attributes under their own names, and what else the
//! host knows of it under names that begin with `sandpost-`, which no publisher of the host may use.
//!
//! | attribute | what | left out where |
//! | --- | --- | --- |
//! | `sandpost-id` | the message's id | never |
//! | `sandpost-traceparent` | the trace, as W3C `traceparent` | never |
//! | `sandpost-published-at-ms` | when the host accepted it, ms since 1970 | never |
//! | `sandpost-content-type` | MIME type | `application/json` |
//! | `sandpost-not-before-ms` | not to be delivered before, ms since 1970 | at once |
//! | `sandpost-dedupe-key` | the publisher's key | none |
//! | `sandpost-only` | the one subscription that it is for | all of them |
//! | `sandpost-hops` | how many handlers' publishes lead to it | 0 |
//! | `sandpost-attribute-order` | the place of each attribute among the sorted names | they are sorted |
//!
//! A message that somebody else published has none of them: its id is the service's, its time the service's, its content
//! type its attribute `content-type` or JSON, its trace its attribute `traceparent` or `googclient_traceparent`, or a new one.

use google_cloud_pubsub::model::Message as Carried;
use sandpost_message::{Message, MessageId, TimestampMs, Topic, TraceParent, limits};
use std::collections::HashMap;

const PREFIX: &str = "sandpost-";
const ID: &str = "sandpost-id";
const TRACE: &str = "sandpost-traceparent";
const PUBLISHED_AT: &str = "sandpost-published-at-ms";
const CONTENT_TYPE: &str = "sandpost-content-type";
const NOT_BEFORE: &str = "sandpost-not-before-ms";
const DEDUPE_KEY: &str = "sandpost-dedupe-key";
pub(crate) const ONLY: &str = "sandpost-only";
const HOPS: &str = "sandpost-hops";
const ORDER: &str = "sandpost-attribute-order";

pub(crate) fn encode(message: &Message) -> Carried {
    let mut attributes: HashMap<String, String> = message.attributes.iter().cloned().collect();
    let mut add = |name: &str, value: String| attributes.insert(name.to_owned(), value);
    add(ID, message.id.to_string());
    add(TRACE, message.trace.to_string());
    add(PUBLISHED_AT, message.published_at_ms.to_string());
    if message.content_type != Message::DEFAULT_CONTENT_TYPE {
        add(CONTENT_TYPE, message.content_type.clone());
    }
    if message.not_before_ms > 0 {
        add(NOT_BEFORE, message.not_before_ms.to_string());
    }
    if let Some(key) = &message.dedupe_key {
        add(DEDUPE_KEY, key.clone());
    }
    if let Some(only) = &message.only {
        add(ONLY, only.to_string());
    }
    if message.hops > 0 {
        add(HOPS, message.hops.to_string());
    }
    if let Some(order) = order_of(&message.attributes) {
        add(ORDER, order);
    }
    let carried = Carried::new().set_data(message.body.clone()).set_attributes(attributes);
    match &message.ordering_key {
        Some(key) => carried.set_ordering_key(key.clone()),
        None => carried,
    }
}

/// What is malformed in it is as if it were not there: a message is never lost for its envelope.
pub(crate) fn decode(topic: &Topic, carried: Carried, now_ms: TimestampMs) -> Message {
    let sent_at_ms = carried.publish_time.map_or(now_ms, |time| {
        let ms = time.seconds().saturating_mul(1000).saturating_add(i64::from(time.nanos() / 1_000_000));
        u64::try_from(ms).unwrap_or_default()
    });
    let of_ours = |name: &str| carried.attributes.get(name);
    let content_type = of_ours(CONTENT_TYPE).or_else(|| {
        let foreign = !carried.attributes.contains_key(ID);
        let named = || carried.attributes.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if foreign { named().map(|(_, value)| value) } else { None }
    });
    let trace = [TRACE, "traceparent", "googclient_traceparent"]
        .into_iter()
        .find_map(|name| TraceParent::parse(carried.attributes.get(name)?));
    Message {
        id: of_ours(ID)
            .and_then(|id| id.parse().ok())
            .or_else(|| carried.message_id.parse().ok())
            .unwrap_or_else(MessageId::new),
        topic: topic.clone(),
        content_type: content_type
            .filter(|text| !text.is_empty() && text.len() <= limits::CONTENT_TYPE_MAX_BYTES)
            .cloned()
            .unwrap_or_else(|| Message::DEFAULT_CONTENT_TYPE.to_owned()),
        published_at_ms: of_ours(PUBLISHED_AT).and_then(|ms| ms.parse().ok()).unwrap_or(sent_at_ms),
        not_before_ms: of_ours(NOT_BEFORE).and_then(|ms| ms.parse().ok()).unwrap_or_default(),
        dedupe_key: of_ours(DEDUPE_KEY).cloned(),
        only: of_ours(ONLY).and_then(|name| name.parse().ok()),
        hops: of_ours(HOPS).and_then(|hops| hops.parse().ok()).unwrap_or_default(),
        trace: trace.unwrap_or_default(),
        attributes: in_order(&carried.attributes),
        ordering_key: (!carried.ordering_key.is_empty()).then_some(carried.ordering_key),
        body: carried.data,
    }
}

/// None where they are sorted already. At most three characters an attribute, which fits a value.
fn order_of(attributes: &[(String, String)]) -> Option<String> {
    if attributes.is_sorted_by(|one, two| one.0 <= two.0) {
        return None;
    }
    let mut sorted: Vec<&str> = attributes.iter().map(|(name, _)| name.as_str()).collect();
    sorted.sort_unstable();
    let place = |name: &str| sorted.binary_search(&name).unwrap_or_default().to_string();
    Some(attributes.iter().map(|(name, _)| place(name)).collect::<Vec<_>>().join(","))
}

/// The publisher's attributes: without the host's, and without the service's own, which begin with `goog`.
fn in_order(attributes: &HashMap<String, String>) -> Vec<(String, String)> {
    let kept = |name: &str| !name.is_empty() && !name.starts_with(PREFIX) && !name.starts_with("goog");
    let mut sorted: Vec<(&String, &String)> = attributes.iter().filter(|(name, _)| kept(name)).collect();
    sorted.sort_unstable();
    let places: Option<Vec<usize>> =
        attributes.get(ORDER).and_then(|order| order.split(',').map(|place| place.parse().ok()).collect());
    let is_permutation = |places: &Vec<usize>| {
        let mut seen = vec![false; sorted.len()];
        places.len() == sorted.len()
            && places.iter().all(|&place| seen.get_mut(place).is_some_and(|seen| !std::mem::replace(seen, true)))
    };
    let places = places.filter(is_permutation).unwrap_or_else(|| (0..sorted.len()).collect());
    places.into_iter().filter_map(|place| sorted.get(place)).map(|(k, v)| ((*k).clone(), (*v).clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        "orders".parse().unwrap()
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let plain = Message::new(topic(), vec![0, 255, 7], 17);
        let full = Message {
            content_type: "text/plain".to_owned(),
            attributes: vec![pair("z", ""), pair("a", "1"), pair("traceparent", "mine"), pair("b", "2")],
            ordering_key: Some("key".to_owned()),
            not_before_ms: 99,
            dedupe_key: Some("once".to_owned()),
            only: Some("mailer".parse().unwrap()),
            hops: 3,
            ..plain.clone()
        };
        for message in [plain, full] {
            let carried = encode(&message);
            assert_eq!(carried.data, message.body);
            assert_eq!(decode(&topic(), carried, 1), message);
        }
    }

    #[test]
    fn a_strangers_message_gets_what_it_lacks() {
        let trace = TraceParent::new();
        let carried = Carried::new().set_data("{}").set_message_id("1234567").set_attributes([
            ("b", "2"),
            ("a", "1"),
            ("Content-Type", "text/csv"),
            ("googclient_schemaencoding", "JSON"),
            ("googclient_traceparent", trace.to_string().as_str()),
        ]);
        let message = decode(&topic(), carried, 42);
        assert_eq!((message.id.as_str(), message.published_at_ms), ("1234567", 42));
        assert_eq!((message.content_type.as_str(), message.trace), ("text/csv", trace));
        let names: Vec<&str> = message.attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Content-Type", "a", "b"]);
        assert_eq!(message.validate(), Ok(()));
    }

    #[test]
    fn a_forged_envelope_does_no_harm() {
        let carried = Carried::new().set_message_id("7").set_attributes([
            (ID, "no id / at all"),
            (TRACE, "nonsense"),
            (PUBLISHED_AT, "-1"),
            (NOT_BEFORE, "soon"),
            (ONLY, "?"),
            (HOPS, "300"),
            (CONTENT_TYPE, ""),
            (ORDER, "0,0,9"),
            ("x", "1"),
        ]);
        let message = decode(&topic(), carried, 42);
        assert_eq!((message.id.as_str(), message.published_at_ms, message.not_before_ms), ("7", 42, 0));
        assert_eq!((message.only.clone(), message.content_type.as_str()), (None, "application/json"));
        assert_eq!(message.hops, 0);
        assert_eq!(message.attributes, [("x".to_owned(), "1".to_owned())]);
    }
}
