//! Effects.

use super::{RIVALS, T0_MS, message_id, random_name, subscription};
use crate::ErrorKind;
use crate::state::{Claim, EffectState, Effects, State};
use sandpost_message::{MessageId, SubscriptionName};
use std::sync::Arc;

/// One effect, and where it belongs.
#[derive(Clone)]
struct Effect {
    key: String,
    message: MessageId,
    subscription: SubscriptionName,
}

impl Effect {
    fn new() -> Self {
        Self { key: random_name("effect"), message: message_id(), subscription: subscription() }
    }

    async fn claim(&self, state: &(impl Effects + ?Sized), owner: &str) -> Claim {
        state.claim(&self.key, &owner.to_owned(), &self.message, &self.subscription, T0_MS).await.unwrap()
    }

    async fn begin(&self, state: &(impl Effects + ?Sized), owner: &str) -> Claim {
        state.begin(&self.key, &owner.to_owned(), &self.message, &self.subscription, T0_MS).await.unwrap()
    }

    async fn advance(&self, state: &(impl Effects + ?Sized), owner: &str, to: EffectState) -> Result<(), ErrorKind> {
        state.advance(&self.key, &owner.to_owned(), to).await.map_err(|error| error.kind)
    }

    async fn release(&self, state: &(impl Effects + ?Sized), owner: &str) -> Result<(), ErrorKind> {
        state.release(&self.key, &owner.to_owned()).await.map_err(|error| error.kind)
    }

    async fn all(&self, state: &(impl Effects + ?Sized)) -> Vec<(String, EffectState)> {
        state.effects_of(&self.message, &self.subscription).await.unwrap()
    }
}

fn sent() -> EffectState {
    EffectState::Sent("provider-id".to_owned())
}

pub(super) async fn an_effect_goes_its_way(state: &dyn State) {
    let effect = Effect::new();
    assert!(effect.all(state).await.is_empty());
    assert_eq!(effect.advance(state, "one", EffectState::Sending).await, Err(ErrorKind::Conflict), "not claimed");
    assert_eq!(effect.claim(state, "one").await, Claim::Ours);
    assert_eq!(effect.all(state).await, [(effect.key.clone(), EffectState::Claimed)]);
    assert_eq!(effect.advance(state, "one", EffectState::Sending).await, Ok(()));
    assert_eq!(effect.all(state).await, [(effect.key.clone(), EffectState::Sending)]);
    assert_eq!(effect.claim(state, "two").await, Claim::Sending { owner: "one".to_owned() });
    assert_eq!(effect.advance(state, "two", sent()).await, Err(ErrorKind::Conflict));
    assert_eq!(effect.advance(state, "one", sent()).await, Ok(()));
    assert_eq!(effect.all(state).await, [(effect.key.clone(), sent())]);
    for owner in ["one", "two"] {
        assert_eq!(effect.claim(state, owner).await, Claim::Sent("provider-id".to_owned()));
        assert_eq!(effect.release(state, owner).await, Err(ErrorKind::Conflict), "what was sent stays known");
    }
    assert_eq!(effect.advance(state, "one", EffectState::Sending).await, Err(ErrorKind::Conflict));

    // What a provider refused can be claimed afresh.
    let refused = Effect::new();
    assert_eq!(refused.release(state, "one").await, Ok(()), "nothing is there to release");
    assert_eq!(refused.claim(state, "one").await, Claim::Ours);
    assert_eq!(refused.advance(state, "one", EffectState::Sending).await, Ok(()));
    assert_eq!(refused.release(state, "two").await, Err(ErrorKind::Conflict));
    assert_eq!(refused.release(state, "one").await, Ok(()));
    assert!(refused.all(state).await.is_empty());
    assert_eq!(refused.claim(state, "two").await, Claim::Ours);
}

pub(super) async fn an_effect_can_begin_in_one_step(state: &dyn State) {
    let effect = Effect::new();
    assert_eq!(effect.claim(state, "one").await, Claim::Ours, "a claim goes over to who begins");
    assert_eq!(effect.begin(state, "two").await, Claim::Ours);
    assert_eq!(effect.all(state).await, [(effect.key.clone(), EffectState::Sending)]);
    assert_eq!(effect.advance(state, "one", EffectState::Sending).await, Err(ErrorKind::Conflict));
    for owner in ["two", "three"] {
        assert_eq!(effect.begin(state, owner).await, Claim::Sending { owner: "two".to_owned() });
    }
    assert_eq!(effect.advance(state, "two", sent()).await, Ok(()));
    assert_eq!(effect.begin(state, "three").await, Claim::Sent("provider-id".to_owned()));

    let nothing_done = Effect::new();
    assert_eq!(nothing_done.begin(state, "one").await, Claim::Ours);
    assert_eq!(nothing_done.release(state, "one").await, Ok(()));
    assert_eq!(nothing_done.begin(state, "two").await, Claim::Ours);
}

pub(super) async fn a_claim_goes_over_until_something_was_handed_over(state: &dyn State) {
    let effect = Effect::new();
    assert_eq!(effect.claim(state, "one").await, Claim::Ours);
    assert_eq!(effect.claim(state, "one").await, Claim::Ours);
    assert_eq!(effect.claim(state, "two").await, Claim::Ours);
    assert_eq!(effect.advance(state, "one", EffectState::Sending).await, Err(ErrorKind::Conflict), "it went over");
    assert_eq!(effect.release(state, "one").await, Err(ErrorKind::Conflict));
    assert_eq!(effect.advance(state, "two", EffectState::Sending).await, Ok(()));
    // Back, because nothing was handed over after all.
    assert_eq!(effect.advance(state, "two", EffectState::Claimed).await, Ok(()));
    assert_eq!(effect.claim(state, "three").await, Claim::Ours);
}

/// A claim goes over, so that many may hear `Ours`; but only one gets past it.
pub(super) async fn one_of_many_gets_to_send(state: &Arc<dyn State>) {
    for _ in 0..8 {
        let effect = Effect::new();
        let rivals: Vec<_> = (0..RIVALS)
            .map(|number| {
                let (state, effect) = (Arc::clone(state), effect.clone());
                tokio::spawn(async move {
                    let owner = format!("owner-{number}");
                    let ours = effect.claim(&*state, &owner).await == Claim::Ours;
                    ours && effect.advance(&*state, &owner, EffectState::Sending).await.is_ok()
                })
            })
            .collect();
        let mut sending = 0;
        for rival in rivals {
            sending += usize::from(rival.await.unwrap());
        }
        assert_eq!(sending, 1, "exactly one of {RIVALS} hands it over");
    }
}

pub(super) async fn an_operator_decides_what_is_unknown(state: &dyn State) {
    for done in [true, false] {
        let unknown = Effect::new();
        let claimed = Effect { key: random_name("effect"), ..unknown.clone() };
        let elsewhere = Effect { key: random_name("effect"), subscription: subscription(), ..unknown.clone() };
        for effect in [&unknown, &claimed, &elsewhere] {
            assert_eq!(effect.claim(state, "gone").await, Claim::Ours);
        }
        assert_eq!(unknown.advance(state, "gone", EffectState::Sending).await, Ok(()));
        assert_eq!(elsewhere.advance(state, "gone", EffectState::Sending).await, Ok(()));

        assert_eq!(state.resolve_unknown(&unknown.message, &unknown.subscription, done).await.unwrap(), 1);
        assert_eq!(state.resolve_unknown(&unknown.message, &unknown.subscription, done).await.unwrap(), 0);
        let claim = unknown.claim(state, "next").await;
        if done {
            assert!(matches!(claim, Claim::Sent(_)), "{claim:?}");
        } else {
            assert_eq!(claim, Claim::Ours);
        }
        assert_eq!(claimed.claim(state, "next").await, Claim::Ours, "what was only claimed is not touched");
        assert!(matches!(elsewhere.claim(state, "next").await, Claim::Sending { .. }), "nor is another subscription's");
    }
}

pub(super) async fn old_effects_are_forgotten(state: &dyn State) {
    let effects = [Effect::new(), Effect::new(), Effect::new()];
    let owner = "one".to_owned();
    for (at_ms, effect) in (1..).zip(&effects) {
        state.claim(&effect.key, &owner, &effect.message, &effect.subscription, at_ms).await.unwrap();
    }
    assert!(state.forget_effects_before(3, 1).await.unwrap() <= 1);
    while state.forget_effects_before(3, 1).await.unwrap() > 0 {}
    assert!(effects[0].all(state).await.is_empty());
    assert!(effects[1].all(state).await.is_empty());
    assert_eq!(effects[2].all(state).await.len(), 1);
    while state.forget_effects_before(4, 10).await.unwrap() > 0 {}
    assert!(effects[2].all(state).await.is_empty());
}
