//! Dead letters.

use super::{T0_MS, message_id, random_name, subscription};
use crate::state::{DeadLetter, DeadLetterFilter, DeadLetterStatus, State};
use sandpost_message::{Digest, Message, SubscriptionName};

fn letter(subscription: &SubscriptionName) -> DeadLetter {
    let message = Message {
        attributes: vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())],
        ordering_key: Some("key".to_owned()),
        dedupe_key: Some("dedupe".to_owned()),
        not_before_ms: T0_MS + 9,
        ..Message::new(random_name("topic").parse().unwrap(), vec![0, 255, 7], T0_MS)
    };
    DeadLetter {
        id: message_id().to_string(),
        trace_id: message.trace.trace_id(),
        message,
        subscription: subscription.clone(),
        dead_at_ms: T0_MS + 1,
        cause: "rejected".to_owned(),
        reason: "no such user".to_owned(),
        attempts: 5,
        plugin: "notification-email".parse().unwrap(),
        version: Some("1.0.0".to_owned()),
        digest: Some(Digest::from_bytes([9; 32])),
        status: DeadLetterStatus::Held,
    }
}

pub(super) async fn the_first_stays_while_it_is_held(state: &dyn State) {
    let here = subscription();
    let first = letter(&here);
    let message = &first.message.id;
    assert_eq!(state.held_dead_letter(message, &here).await.unwrap(), None);
    state.add_dead_letter(first.clone()).await.unwrap();
    assert_eq!(state.dead_letter(&first.id).await.unwrap().as_ref(), Some(&first));
    assert_eq!(state.held_dead_letter(message, &here).await.unwrap().as_ref(), Some(&first.id));

    let second = DeadLetter { message: first.message.clone(), version: None, digest: None, ..letter(&here) };
    state.add_dead_letter(second.clone()).await.unwrap();
    state.add_dead_letter(first.clone()).await.unwrap();
    assert_eq!(state.dead_letter(&second.id).await.unwrap(), None, "the first one stays");
    assert_eq!(state.dead_letter(&first.id).await.unwrap().as_ref(), Some(&first));

    // The same message elsewhere is another letter.
    let there = subscription();
    let other = DeadLetter { subscription: there.clone(), ..second };
    state.add_dead_letter(other.clone()).await.unwrap();
    assert_eq!(state.dead_letter(&other.id).await.unwrap().as_ref(), Some(&other));

    assert!(state.remove_dead_letter(&first.id).await.unwrap());
    assert!(!state.remove_dead_letter(&first.id).await.unwrap());
    assert_eq!(state.held_dead_letter(message, &here).await.unwrap(), None);
    assert_eq!(state.held_dead_letter(message, &there).await.unwrap(), Some(other.id));
}

pub(super) async fn one_that_is_replayed_gives_way(state: &dyn State) {
    let here = subscription();
    let first = letter(&here);
    state.add_dead_letter(first.clone()).await.unwrap();
    assert!(state.set_dead_letter_status(&first.id, DeadLetterStatus::Replaying).await.unwrap());
    assert_eq!(state.held_dead_letter(&first.message.id, &here).await.unwrap(), None, "it may be tried again");
    assert_eq!(state.dead_letter(&first.id).await.unwrap().unwrap().status, DeadLetterStatus::Replaying);
    assert!(state.set_dead_letter_status(&first.id, DeadLetterStatus::Held).await.unwrap());
    assert!(state.set_dead_letter_status(&first.id, DeadLetterStatus::Replaying).await.unwrap());

    let again = DeadLetter { message: first.message.clone(), ..letter(&here) };
    state.add_dead_letter(again.clone()).await.unwrap();
    assert!(!state.remove_dead_letter(&first.id).await.unwrap(), "the old id is gone");
    assert_eq!(state.held_dead_letter(&first.message.id, &here).await.unwrap().as_ref(), Some(&again.id));
    assert_eq!(state.dead_letter(&again.id).await.unwrap(), Some(again));
    assert!(!state.set_dead_letter_status(&first.id, DeadLetterStatus::Held).await.unwrap());
}

pub(super) async fn a_list_is_filtered_and_paged(state: &dyn State) {
    let (here, there) = (subscription(), subscription());
    let mut letters = Vec::new();
    for number in 0..7 {
        let mut letter = letter(if number == 3 { &there } else { &here });
        if number % 2 == 1 {
            "no-handler".clone_into(&mut letter.cause);
        }
        state.add_dead_letter(letter.clone()).await.unwrap();
        letters.push(letter);
    }
    let of = |filter: DeadLetterFilter, before: Option<String>, limit| async move {
        let found = state.dead_letters(&filter, before.as_deref(), limit).await.unwrap();
        found.into_iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    let ids = |places: &[usize]| places.iter().map(|place| letters[*place].id.clone()).collect::<Vec<_>>();
    let on_here = DeadLetterFilter { subscription: Some(here.clone()), ..DeadLetterFilter::default() };

    assert_eq!(of(on_here.clone(), None, 100).await, ids(&[6, 5, 4, 2, 1, 0]), "newest first");
    assert_eq!(of(on_here.clone(), None, 2).await, ids(&[6, 5]));
    assert_eq!(of(on_here.clone(), Some(letters[5].id.clone()), 2).await, ids(&[4, 2]));
    assert_eq!(of(on_here.clone(), Some(letters[0].id.clone()), 2).await, ids(&[]));
    let unhandled = DeadLetterFilter { cause: Some("no-handler".to_owned()), ..on_here.clone() };
    assert_eq!(of(unhandled, None, 100).await, ids(&[5, 1]));
    let topic = DeadLetterFilter { topic: Some(letters[4].message.topic.clone()), ..DeadLetterFilter::default() };
    assert_eq!(of(topic.clone(), None, 100).await, ids(&[4]));
    assert_eq!(of(DeadLetterFilter { subscription: Some(there.clone()), ..topic }, None, 100).await, ids(&[]));
    assert_eq!(of(DeadLetterFilter::default(), None, 1).await.len(), 1);
    let listed = state.dead_letters(&on_here, None, 1).await.unwrap();
    assert_eq!(listed, [letters[6].clone()], "whole, with its body");

    let counts = state.count_dead_letters().await.unwrap();
    let count = |name| counts.iter().find(|(counted, _)| counted == name).map(|(_, count)| *count);
    assert_eq!((count(&here), count(&there), count(&subscription())), (Some(6), Some(1), None));
}
