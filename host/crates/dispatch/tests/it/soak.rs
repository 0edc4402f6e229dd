//! Promise 1, by chance: whatever handlers answer and whatever fails meanwhile, each message ends in exactly one of two
//! ways. The case that fails is printed, and made smaller, by proptest.

use crate::world::{Seen, World, calm, one, orders};
use proptest::prelude::*;
use sandpost_message::{Fault, FaultKind, MessageId, Outcome, Verdict};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What may happen between two moves of the clock.
#[derive(Debug, Clone)]
enum Event {
    Publish { key: Option<u8>, answers: Vec<u8> },
    FailSettles(usize),
    FailLetters(usize),
    FailLooks(usize),
    FailPulls(usize),
    Pass(u64),
    Restart,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (proptest::option::of(0_u8..3), proptest::collection::vec(0_u8..7, 1..6))
            .prop_map(|(key, answers)| Event::Publish { key, answers }),
        1 => (1_usize..12).prop_map(Event::FailSettles),
        1 => (1_usize..12).prop_map(Event::FailLetters),
        1 => (1_usize..3).prop_map(Event::FailLooks),
        1 => (1_usize..4).prop_map(Event::FailPulls),
        3 => (1_u64..60_000).prop_map(Event::Pass),
        1 => Just(Event::Restart),
    ]
}

fn answer(word: u8) -> Outcome {
    match word {
        0 | 1 => Verdict::Ack.into(),
        2 => Verdict::Retry { reason: "r".to_owned(), after_ms: None }.into(),
        3 => Verdict::Retry { reason: "r".to_owned(), after_ms: Some(3_000) }.into(),
        4 => Verdict::Reject { reason: "x".to_owned() }.into(),
        5 => Fault::new(FaultKind::Trap, "t").into(),
        _ => Outcome::Held { reason: "h".to_owned() },
    }
}

async fn run(course: Vec<Event>) -> Result<(), TestCaseError> {
    let world = World::new();
    let acked = Arc::new(Mutex::new(HashSet::<MessageId>::new()));
    let (noted, seen) = (acked.clone(), Seen::default());
    let attempts = seen.clone();
    world.answer("orders", move |attempt| {
        attempts.lock().unwrap().push((attempt.message.id.clone(), attempt.attempt));
        let answers = &attempt.message.body;
        let outcome = answer(answers[(attempt.attempt as usize - 1).min(answers.len() - 1)]);
        if outcome == Outcome::Verdict(Verdict::Ack) {
            noted.lock().unwrap().insert(attempt.message.id.clone());
        }
        outcome
    });
    let mut subscription = orders();
    subscription.concurrency = 3;
    let mut running = world.start(one("orders", subscription.clone())).await;
    let mut published = HashSet::new();
    for event in course {
        match event {
            Event::Publish { key, answers } => {
                let message = world
                    .publish_with("orders", |message| {
                        message.ordering_key = key.map(|key| key.to_string());
                        message.body = answers.into();
                    })
                    .await;
                published.insert(message.id);
            }
            Event::FailSettles(calls) => world.broker.failing_settles.next(calls),
            Event::FailLetters(calls) => world.state.failing_letters.next(calls),
            Event::FailLooks(calls) => world.state.failing_looks.next(calls),
            Event::FailPulls(calls) => world.broker.failing_pulls.next(calls),
            Event::Pass(ms) => world.pass(ms).await,
            Event::Restart => {
                calm().await;
                running.stop(Duration::ZERO).await;
                running = world.start(one("orders", subscription.clone())).await;
            }
        }
    }
    // No more failures; everything has to end in a time that the longest course of retries and leases bounds.
    for failing in [&world.broker.failing_settles, &world.broker.failing_pulls] {
        failing.next(0);
    }
    for failing in [&world.state.failing_letters, &world.state.failing_looks] {
        failing.next(0);
    }
    for _ in 0..5_000 {
        if world.broker.left() == 0 {
            break;
        }
        world.pass(10_000).await;
    }
    prop_assert_eq!(world.broker.left(), 0, "messages that never end");
    running.stop(Duration::ZERO).await;

    let dead: Vec<MessageId> = world.letters().into_iter().map(|letter| letter.message.id).collect();
    let dead_once: HashSet<MessageId> = dead.iter().cloned().collect();
    prop_assert_eq!(dead.len(), dead_once.len(), "two dead letters for one message");
    let acked = acked.lock().unwrap();
    for id in &published {
        // A handler's `ok` whose settlement was lost may be followed by another answer: that is "at least once".
        prop_assert!(acked.contains(id) || dead_once.contains(id), "a message ended in neither way");
    }
    prop_assert!(dead_once.iter().chain(acked.iter()).all(|id| published.contains(id)));
    let budget = subscription.retry.attempts_max;
    prop_assert!(seen.lock().unwrap().iter().all(|(_, attempt)| (1..=budget).contains(attempt)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_message_ends_in_one_of_two_ways(course in proptest::collection::vec(events(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(course))?;
    }
}
