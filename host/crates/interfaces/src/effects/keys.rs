//! What an effect is known by: what it is, not when it was called.
//!
//! A second attempt at the same message makes the same keys, so that what the first one did is not done again. Keys are
//! hashed: bounded whatever a plugin puts in, and without an address in the store. Before the hash stands the beginning of
//! the message's id, which is its time: keys that are made together stand together in a store's index, where hashes alone
//! would have each of them in a page of its own.
//!
//! Invariants
//! - Parts are joined with their lengths, so that no two lists of parts make one text.
//! - A key that a plugin gave is in its plugin's name alone: the same over messages, versions and attempts.

use sandpost_message::{PluginName, Topic};
use sandpost_ports::plugins::Attempt;
use sandpost_ports::state::EffectKey;
use sha2::{Digest as _, Sha256};

/// Put before every hash: what it is, and the version of how it is made. A changed recipe needs a new number, or
/// messages that are in flight over an update would be done twice under both.
const EMAIL: &str = "e2-";
const PUBLISH: &str = "p2-";

/// Characters of a message's id before the hash: in the ids that hosts make (UUID version 7) they are all of the time.
const ID_CHARS: usize = 13;

/// The key of an e-mail: message, subscription, recipients, and what it is (its template's name, or a hash of its parts).
pub(crate) fn email(attempt: &Attempt, mut recipients: Vec<&str>, what: &str) -> EffectKey {
    recipients.sort_unstable();
    recipients.dedup();
    let mut parts = vec![attempt.message.id.as_str(), attempt.subscription.as_str(), what];
    parts.extend(recipients);
    hash(&made(EMAIL, attempt), "made", &parts)
}

/// The key of a publish: message, subscription, topic, and the place of the call.
pub(crate) fn publish(attempt: &Attempt, topic: &Topic, place: u64) -> EffectKey {
    let place = place.to_string();
    let parts = [attempt.message.id.as_str(), attempt.subscription.as_str(), topic.as_str(), &place];
    hash(&made(PUBLISH, attempt), "made", &parts)
}

/// The key of an e-mail for which the plugin gave one.
pub(crate) fn given_email(plugin: &PluginName, key: &str) -> EffectKey {
    hash(EMAIL, "given", &[plugin.as_str(), key])
}

/// The key of a publish for which the plugin gave one. Keys belong to a topic, as they do for every publisher.
pub(crate) fn given_publish(plugin: &PluginName, topic: &Topic, key: &str) -> EffectKey {
    hash(PUBLISH, "given", &[plugin.as_str(), topic.as_str(), key])
}

/// A name for an e-mail's own parts, where no template names it.
pub(crate) fn parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    hash("parts-", "made", &parts.into_iter().collect::<Vec<_>>())
}

fn made(prefix: &str, attempt: &Attempt) -> String {
    // Ids are ASCII; one that came from elsewhere may be shorter.
    let id = attempt.message.id.as_str();
    format!("{prefix}{}-", id.get(..ID_CHARS).unwrap_or(id))
}

fn hash(prefix: &str, kind: &str, parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in std::iter::once(&kind).chain(parts) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    format!("{prefix}{}", sandpost_message::Digest::from_bytes(hasher.finalize().into()))
}
