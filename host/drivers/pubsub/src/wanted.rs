//! The subscriptions that this host was asked for, from that moment on, whether the service could be asked or not.
//!
//! Their topics are known ones: a publish waits for the subscription, it is not refused for good. And until the last of
//! them is set up the broker is not well.
//!
//! Invariants
//! - What is wanted stays wanted: no error ends it, because whoever asked asks again.
//! - A name is wanted for one topic.

use crate::errors::not_set_up;
use sandpost_message::{SubscriptionName, Topic};
use sandpost_ports::{ErrorKind, PortError};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is said before the first answer.
const NOT_YET: &str = "it is being set up";

/// All of them; as many as the configuration has subscriptions.
#[derive(Default)]
pub(crate) struct Wanted(Mutex<BTreeMap<SubscriptionName, One>>);

struct One {
    topic: Topic,
    /// Set up and open, or why not yet.
    open: Result<(), String>,
}

impl Wanted {
    /// Notes it, before anything is asked. [`ErrorKind::Conflict`] where the name is wanted for another topic.
    pub(crate) fn want(&self, name: &SubscriptionName, topic: &Topic) -> Result<(), PortError> {
        let mut all = self.lock();
        let new = || One { topic: topic.clone(), open: Err(NOT_YET.to_owned()) };
        if all.entry(name.clone()).or_insert_with(new).topic == *topic {
            return Ok(());
        }
        let words = format!("subscription `{name}` is bound to another topic than `{topic}`");
        Err(PortError::new(ErrorKind::Conflict, words))
    }

    /// What setting it up came to, or looking for it after it was gone.
    pub(crate) fn came_to(&self, name: &SubscriptionName, outcome: &Result<(), PortError>) {
        if let Some(one) = self.lock().get_mut(name) {
            one.open = outcome.as_ref().copied().map_err(|error| error.message.clone());
        }
    }

    /// Those that a message of this topic is for, each with whether it is open: all, or `only` one.
    pub(crate) fn of(&self, topic: &Topic, only: Option<&SubscriptionName>) -> Vec<(SubscriptionName, bool)> {
        let all = self.lock();
        let meant = all.iter().filter(|(name, one)| one.topic == *topic && only.is_none_or(|only| only == *name));
        meant.map(|(name, one)| (name.clone(), one.open.is_ok())).collect()
    }

    /// Whether all are open.
    pub(crate) fn check(&self) -> Result<(), PortError> {
        let all = self.lock();
        let mut missing = all.iter().filter_map(|(name, one)| Some((name, one.open.as_ref().err()?)));
        let Some((name, why)) = missing.next() else { return Ok(()) };
        let more = match missing.count() {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        Err(not_set_up(format!("subscription `{name}` is not set up yet{more}: {why}")))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SubscriptionName, One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_missed_until_it_is_open() {
        let wanted = Wanted::default();
        assert!(wanted.check().is_ok(), "nothing is wanted");
        let (one, two): (SubscriptionName, SubscriptionName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let (topic, other): (Topic, Topic) = ("orders".parse().unwrap(), "other".parse().unwrap());
        wanted.want(&one, &topic).unwrap();
        wanted.want(&two, &topic).unwrap();
        assert_eq!(wanted.want(&one, &other).unwrap_err().kind, ErrorKind::Conflict);
        let error = wanted.check().unwrap_err();
        assert_eq!(error.message, "subscription `one` is not set up yet (and 1 more): it is being set up");

        wanted.came_to(&two, &Ok(()));
        wanted.came_to(&one, &Err(PortError::new(ErrorKind::Unavailable, "no answer")));
        wanted.want(&one, &topic).unwrap();
        assert_eq!(wanted.check().unwrap_err().message, "subscription `one` is not set up yet: no answer");
        assert_eq!(wanted.of(&topic, None), [(one.clone(), false), (two.clone(), true)]);
        assert_eq!(wanted.of(&topic, Some(&two)), [(two, true)]);
        assert_eq!(wanted.of(&other, None), [], "a name that was refused listens to nothing");

        wanted.came_to(&one, &Ok(()));
        assert!(wanted.check().is_ok());
    }
}
