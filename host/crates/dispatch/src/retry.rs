//! What follows from an attempt: pure, so that every case can be tried.
//!
//! The verdict is the plugin's, and it is obeyed; a fault counts as a retry with that reason. Three endings are no attempt
//! of the plugin's and are handed back uncounted: `stopped`, `no-instance` as long as the message is young, and a retry
//! that was postponed because a provider takes nothing for now.
//!
//! Invariants
//! - `Ack` follows from the verdict `Ack` and from nothing else.
//! - No arithmetic overflows: a policy from outside cannot make a time in the past.

use crate::config::RetryPolicy;
use sandpost_message::{FaultKind, Outcome, TimestampMs, Verdict};
use std::time::Duration;

/// The longest wait that a plugin may ask for: 24 hours. Longer plans belong into the plugin's own data, not into a queue.
pub const RETRY_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// How long a delivery waits that found no instance free: long enough for some to end, short enough not to be noticed.
pub const NO_INSTANCE_WAIT_MS: u64 = 5_000;

/// Once a message is older than this, finding no instance counts as an attempt, so that it ends even on a host that is
/// never free: 10 minutes.
pub const NO_INSTANCE_AGE_MS_MAX: u64 = 10 * 60 * 1000;

/// The bounds of how long a delivery waits that was postponed: a provider that is paused is seldom back within a second,
/// and its return should be noticed within 10 minutes.
pub const POSTPONED_WAIT_MS: std::ops::RangeInclusive<u64> = 1_000..=10 * 60 * 1000;

/// Once a message is older than this, being postponed counts as an attempt, so that it ends even if the provider never
/// comes back: 3 days, the time of a review by AWS and less than the 7 days that Pub/Sub keeps a message.
pub const POSTPONED_AGE_MS_MAX: u64 = 3 * 24 * 60 * 60 * 1000;

/// How long a delivery waits whose attempt the stop cut off: an effect that was being handed over goes on to its end, and
/// another host that came before would take its outcome for unknown.
pub const CUT_WAIT_MS: u64 = 5_000;

/// Bytes of a reason in the ledger and in a dead letter; what is over is cut.
pub const REASON_MAX_BYTES: usize = 4096;

/// One attempt, as far as the decision depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'a> {
    /// 1 for the first.
    pub attempt: u32,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// When it ended.
    pub now_ms: TimestampMs,
    /// When the message could first be delivered.
    pub due_ms: TimestampMs,
    /// Chance, from 0 to 1.
    pub random: f64,
}

/// What to do about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The end.
    Ack,
    /// Another attempt.
    RetryAt {
        /// Not before.
        at_ms: TimestampMs,
        /// Why this one did not succeed.
        reason: String,
    },
    /// Another delivery; this one does not count.
    HandBack {
        /// Not before.
        at_ms: TimestampMs,
        /// Why it was not tried, or not to its end.
        reason: String,
    },
    /// The end, for a person to look at.
    DeadLetter {
        /// Why, as a word.
        cause: Cause,
        /// Why, in words.
        reason: String,
    },
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The plugin said so.
    Rejected,
    /// The budget is used up.
    AttemptsExhausted,
    /// Nobody handles it.
    NoHandler,
    /// An effect may have happened, and the subscription says to hold.
    OutcomeUnknown,
}

impl Cause {
    /// The word in the API and in metrics. Never renamed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::NoHandler => "no-handler",
            Self::OutcomeUnknown => "outcome-unknown",
        }
    }
}

/// What follows from this attempt under this policy.
pub fn decide(policy: &RetryPolicy, tried: &Tried<'_>) -> Decision {
    let age_ms = tried.now_ms.saturating_sub(tried.due_ms);
    let (reason, after_ms) = match tried.outcome {
        Outcome::Verdict(Verdict::Ack) => return Decision::Ack,
        Outcome::Verdict(Verdict::Reject { reason }) => {
            return Decision::DeadLetter { cause: Cause::Rejected, reason: shorten(reason) };
        }
        Outcome::Held { reason } => {
            return Decision::DeadLetter { cause: Cause::OutcomeUnknown, reason: shorten(reason) };
        }
        Outcome::Verdict(Verdict::Retry { reason, after_ms }) => (shorten(reason), *after_ms),
        Outcome::Postponed { reason, after_ms } => {
            let reason = shorten(reason);
            if age_ms <= POSTPONED_AGE_MS_MAX {
                let wait_ms = (*after_ms).clamp(*POSTPONED_WAIT_MS.start(), *POSTPONED_WAIT_MS.end());
                return Decision::HandBack { at_ms: tried.now_ms.saturating_add(wait_ms), reason };
            }
            (reason, None)
        }
        Outcome::Fault(fault) => {
            let reason = shorten(&fault.to_string());
            let young = age_ms <= NO_INSTANCE_AGE_MS_MAX;
            let wait_ms = match fault.kind {
                FaultKind::Stopped => Some(CUT_WAIT_MS),
                FaultKind::NoInstance if young => Some(NO_INSTANCE_WAIT_MS),
                FaultKind::NoInstance
                | FaultKind::Trap
                | FaultKind::Exit
                | FaultKind::Deadline
                | FaultKind::Cpu
                | FaultKind::Memory
                | FaultKind::HostCalls
                | FaultKind::HostBytes
                | FaultKind::Contract
                | FaultKind::Host => None,
            };
            if let Some(wait_ms) = wait_ms {
                return Decision::HandBack { at_ms: tried.now_ms.saturating_add(wait_ms), reason };
            }
            (reason, None)
        }
    };
    if tried.attempt >= policy.attempts_max {
        return Decision::DeadLetter { cause: Cause::AttemptsExhausted, reason };
    }
    let wait_ms = match after_ms {
        Some(after_ms) => after_ms.min(RETRY_AFTER_MS_MAX),
        None => backoff_ms(policy, tried.attempt, tried.random),
    };
    Decision::RetryAt { at_ms: tried.now_ms.saturating_add(wait_ms), reason }
}

/// The wait after this attempt: doubling from the least to the longest, less some by chance.
pub fn backoff_ms(policy: &RetryPolicy, attempt: u32, random: f64) -> u64 {
    let whole_ms = step_ms(policy, attempt);
    let share = policy.jitter * random;
    // Anything outside, not-a-number included, takes nothing away.
    let share = if (0.0..=1.0).contains(&share) { share } else { 0.0 };
    let taken = Duration::from_millis(whole_ms).mul_f64(share).as_millis();
    whole_ms.saturating_sub(u64::try_from(taken).unwrap_or(0))
}

/// The longest that the back-offs of one message can take in all.
pub(crate) fn backoff_span_ms(policy: &RetryPolicy) -> u64 {
    (1..policy.attempts_max).fold(0, |sum: u64, attempt| sum.saturating_add(step_ms(policy, attempt)))
}

/// The wait after this attempt before chance takes its share.
fn step_ms(policy: &RetryPolicy, attempt: u32) -> u64 {
    let doubled = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    policy.backoff_min_ms.saturating_mul(doubled).min(policy.backoff_max_ms)
}

/// A reason within its bound, cut between characters.
fn shorten(reason: &str) -> String {
    let mut end = reason.len().min(REASON_MAX_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sandpost_message::Fault;

    const NOW_MS: TimestampMs = 1_000_000_000;

    fn after(attempt: u32, outcome: &Outcome) -> Decision {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        decide(&policy, &Tried { attempt, outcome, now_ms: NOW_MS, due_ms: NOW_MS, random: 0.5 })
    }

    fn retry(after_ms: Option<u64>) -> Outcome {
        Verdict::Retry { reason: "later".to_owned(), after_ms }.into()
    }

    #[test]
    fn back_off_doubles_up_to_its_longest() {
        let waits: Vec<u64> = (1..=8)
            .map(|attempt| backoff_ms(&RetryPolicy { jitter: 0.0, ..RetryPolicy::default() }, attempt, 1.0))
            .collect();
        assert_eq!(waits, [10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 600_000, 600_000]);
        assert_eq!(backoff_span_ms(&RetryPolicy::default()), 150_000);
    }

    #[test]
    fn the_plugin_s_own_time_is_honoured_up_to_a_day() {
        let at = |wait_ms| Decision::RetryAt { at_ms: NOW_MS + wait_ms, reason: "later".to_owned() };
        assert_eq!(after(1, &retry(Some(3))), at(3));
        assert_eq!(after(1, &retry(Some(0))), at(0));
        assert_eq!(after(1, &retry(Some(u64::MAX))), at(RETRY_AFTER_MS_MAX));
        assert_eq!(after(2, &retry(None)), at(20_000));
    }

    #[test]
    fn what_was_postponed_does_not_count_until_it_is_old() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let at = |age_ms, after_ms| {
            let outcome = Outcome::Postponed { reason: "sending is paused".to_owned(), after_ms };
            let tried = Tried { attempt: 5, outcome: &outcome, now_ms: NOW_MS, due_ms: NOW_MS - age_ms, random: 0.5 };
            decide(&policy, &tried)
        };
        let back = |wait_ms| Decision::HandBack { at_ms: NOW_MS + wait_ms, reason: "sending is paused".to_owned() };
        assert_eq!(at(0, 60_000), back(60_000));
        assert_eq!(at(POSTPONED_AGE_MS_MAX, 0), back(1_000));
        assert_eq!(at(POSTPONED_AGE_MS_MAX, u64::MAX), back(600_000));
        assert!(matches!(
            at(POSTPONED_AGE_MS_MAX + 1, 0),
            Decision::DeadLetter { cause: Cause::AttemptsExhausted, .. }
        ));
    }

    #[test]
    fn held_effects_are_dead_letters_of_their_own_kind() {
        let held = Outcome::Held { reason: "e-mail to 1 recipient".to_owned() };
        let expected =
            Decision::DeadLetter { cause: Cause::OutcomeUnknown, reason: "e-mail to 1 recipient".to_owned() };
        assert_eq!(after(1, &held), expected);
    }

    #[test]
    fn a_crowded_host_is_not_the_plugin_s_fault_until_the_message_is_old() {
        let fault: Outcome = Fault::new(FaultKind::NoInstance, "256 are at work").into();
        let policy = RetryPolicy::default();
        let tried =
            Tried { attempt: 5, outcome: &fault, now_ms: NOW_MS, due_ms: NOW_MS - NO_INSTANCE_AGE_MS_MAX, random: 0.0 };
        assert!(
            matches!(decide(&policy, &tried), Decision::HandBack { at_ms, .. } if at_ms == NOW_MS + NO_INSTANCE_WAIT_MS)
        );
        let old = Tried { due_ms: tried.due_ms - 1, ..tried };
        assert!(matches!(decide(&policy, &old), Decision::DeadLetter { cause: Cause::AttemptsExhausted, .. }));
        assert!(matches!(decide(&policy, &Tried { attempt: 1, ..old }), Decision::RetryAt { .. }));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ü".repeat(REASON_MAX_BYTES);
        let short = shorten(&format!("x{reason}"));
        assert!(short.len() <= REASON_MAX_BYTES && short.len() > REASON_MAX_BYTES - 4);
    }

    fn policies() -> impl Strategy<Value = RetryPolicy> {
        (1_u32..2_000, 0..=RETRY_AFTER_MS_MAX, 0..=RETRY_AFTER_MS_MAX, 0.0..=1.0_f64).prop_map(
            |(attempts_max, one, other, jitter)| RetryPolicy {
                attempts_max,
                backoff_min_ms: one.min(other),
                backoff_max_ms: one.max(other),
                jitter,
            },
        )
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Verdict(Verdict::Ack)),
            (".{0,40}", proptest::option::of(any::<u64>())).prop_map(|(reason, after_ms)| Verdict::Retry {
                reason,
                after_ms
            }
            .into()),
            ".{0,40}".prop_map(|reason| Verdict::Reject { reason }.into()),
            ".{0,40}".prop_map(|reason| Outcome::Held { reason }),
            (".{0,40}", any::<u64>()).prop_map(|(reason, after_ms)| Outcome::Postponed { reason, after_ms }),
            proptest::sample::select(&FaultKind::ALL[..]).prop_map(|kind| Fault::new(kind, "x").into()),
        ]
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds(policy in policies(), attempt in any::<u32>(), random in any::<f64>()) {
            let whole_ms = step_ms(&policy, attempt);
            let wait_ms = backoff_ms(&policy, attempt, random);
            prop_assert!(wait_ms <= whole_ms && whole_ms <= policy.backoff_max_ms);
            prop_assert!(whole_ms >= policy.backoff_min_ms);
            if (0.0..=1.0).contains(&random) {
                // One millisecond for rounding.
                let least = Duration::from_millis(whole_ms).mul_f64(1.0 - policy.jitter).as_millis();
                prop_assert!(u128::from(wait_ms) + 1 >= least, "{wait_ms} < {least}");
            }
        }

        #[test]
        fn waits_do_not_shrink_from_attempt_to_attempt(policy in policies(), attempt in 1_u32..200, random in 0.0..=1.0_f64) {
            prop_assert!(backoff_ms(&policy, attempt, random) <= backoff_ms(&policy, attempt + 1, random));
        }

        #[test]
        fn each_decision_follows_from_its_outcome_alone(
            policy in policies(), outcome in outcomes(), attempt in 1_u32..2_000, now_ms in any::<u64>(),
            age_ms in prop_oneof![0..2 * NO_INSTANCE_AGE_MS_MAX, 0..2 * POSTPONED_AGE_MS_MAX], random in 0.0..=1.0_f64,
        ) {
            let tried = Tried { attempt, outcome: &outcome, now_ms, due_ms: now_ms.saturating_sub(age_ms), random };
            let decision = decide(&policy, &tried);
            let uncounted = match &outcome {
                Outcome::Fault(fault) => fault.kind == FaultKind::Stopped
                    || (fault.kind == FaultKind::NoInstance && now_ms - tried.due_ms <= NO_INSTANCE_AGE_MS_MAX),
                Outcome::Postponed { .. } => now_ms - tried.due_ms <= POSTPONED_AGE_MS_MAX,
                _ => false,
            };
            let acked = matches!(outcome, Outcome::Verdict(Verdict::Ack));
            let at_once = matches!(outcome, Outcome::Verdict(Verdict::Reject { .. }) | Outcome::Held { .. });
            prop_assert_eq!(decision == Decision::Ack, acked);
            prop_assert_eq!(matches!(decision, Decision::HandBack { .. }), uncounted);
            prop_assert_eq!(
                matches!(decision, Decision::DeadLetter { .. }),
                at_once || (!acked && !uncounted && attempt >= policy.attempts_max)
            );
            if let Decision::RetryAt { at_ms, .. } | Decision::HandBack { at_ms, .. } = decision {
                prop_assert!(at_ms >= now_ms && at_ms - now_ms <= RETRY_AFTER_MS_MAX);
            }
        }
    }
}
