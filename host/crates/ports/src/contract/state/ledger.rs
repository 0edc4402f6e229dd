//! The ledger.

use super::{T0_MS, message_id, subscription};
use crate::state::{LedgerEntry, State, Step};
use sandpost_message::{Digest, MessageId};

fn entry(message: &MessageId, step: Step, at_ms: u64) -> LedgerEntry {
    LedgerEntry {
        message_id: message.clone(),
        at_ms,
        step,
        subscription: None,
        attempt: None,
        plugin: None,
        version: None,
        digest: None,
        trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        detail: None,
    }
}

pub(super) async fn steps_are_kept_in_order(state: &dyn State) {
    let (one, two) = (message_id(), message_id());
    assert!(state.history(&one).await.unwrap().is_empty());
    let full = LedgerEntry {
        subscription: Some(subscription()),
        attempt: Some(3),
        plugin: Some("notification-email".parse().unwrap()),
        version: Some("1.2.3".to_owned()),
        digest: Some(Digest::from_bytes([7; 32])),
        detail: Some("zurück, \u{1f4ee}\n".to_owned()),
        ..entry(&one, Step::RetryPlanned, T0_MS + 2)
    };
    // In the order of recording, whatever the times say.
    let steps = vec![entry(&one, Step::Accepted, T0_MS + 5), entry(&one, Step::Started, T0_MS + 1), full];
    state.record(vec![steps[0].clone(), entry(&two, Step::Accepted, T0_MS)]).await.unwrap();
    state.record(steps[1..].to_vec()).await.unwrap();
    state.record(Vec::new()).await.unwrap();
    assert_eq!(state.history(&one).await.unwrap(), steps);
    assert_eq!(state.history(&two).await.unwrap().len(), 1);

    let every = [
        Step::Accepted,
        Step::Deduplicated,
        Step::Started,
        Step::Acknowledged,
        Step::RetryPlanned,
        Step::HandedBack,
        Step::DeadLettered,
        Step::Replayed,
        Step::Discarded,
        Step::EffectClaimed,
        Step::EffectSending,
        Step::EffectSent,
        Step::EffectRepeated,
        Step::EffectFailed,
        Step::EffectUnknown,
    ];
    let three = message_id();
    state.record(every.iter().map(|step| entry(&three, *step, T0_MS)).collect()).await.unwrap();
    let kept: Vec<Step> = state.history(&three).await.unwrap().iter().map(|entry| entry.step).collect();
    assert_eq!(kept, every);
}

pub(super) async fn old_steps_are_forgotten(state: &dyn State) {
    let message = message_id();
    // Times that nobody else has, so that only this check's entries are old.
    let steps: Vec<_> = (1..=5).map(|at_ms| entry(&message, Step::Started, at_ms)).collect();
    state.record(steps).await.unwrap();
    let forgotten = state.forget_before(4, 2).await.unwrap();
    assert!(forgotten <= 2, "asked for two at most, {forgotten} went");
    while state.forget_before(4, 2).await.unwrap() > 0 {}
    let left: Vec<u64> = state.history(&message).await.unwrap().iter().map(|entry| entry.at_ms).collect();
    assert_eq!(left, [4, 5]);
    while state.forget_before(6, 100).await.unwrap() > 0 {}
    assert!(state.history(&message).await.unwrap().is_empty());
}
