//! What every store of the host's state keeps: run by each driver's tests against a real instance.
//!
//! Each check uses random names, so the suite runs on a store in use. Times are arguments of the port, so nothing waits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a contract suite is a test, and a test fails by panicking"
)]

mod dead_letters;
mod deployments;
mod effects;
mod ledger;
pub mod requests;

use super::random_name;
use crate::state::State;
use sandpost_message::{MessageId, SubscriptionName};
use std::sync::Arc;

/// A moment that the checks count from: 2026-01-01T00:00:00Z.
const T0_MS: u64 = 1_767_225_600_000;

/// How many try at once where one may win.
const RIVALS: usize = 16;

/// Runs all checks.
pub async fn check(state: Arc<dyn State>) {
    state.check().await.expect("a store that is there is healthy");
    ledger::steps_are_kept_in_order(&*state).await;
    ledger::old_steps_are_forgotten(&*state).await;
    dead_letters::the_first_stays_while_it_is_held(&*state).await;
    dead_letters::one_that_is_replayed_gives_way(&*state).await;
    dead_letters::a_list_is_filtered_and_paged(&*state).await;
    effects::an_effect_goes_its_way(&*state).await;
    effects::an_effect_can_begin_in_one_step(&*state).await;
    effects::a_claim_goes_over_until_something_was_handed_over(&*state).await;
    effects::one_of_many_gets_to_send(&state).await;
    effects::an_operator_decides_what_is_unknown(&*state).await;
    effects::old_effects_are_forgotten(&*state).await;
    requests::check(state.clone(), requests::Forgets::WhenAsked).await;
    deployments::the_newest_is_live(&*state).await;
}

fn subscription() -> SubscriptionName {
    random_name("subscription").parse().unwrap()
}

fn message_id() -> MessageId {
    MessageId::new()
}
