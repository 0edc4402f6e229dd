//! What is remembered of a version's calls: whether they compute for long, or for nothing.
//!
//! A guest that computes for longer than [`QUICK`] leaves the quick ones' threads, but until then it has its share of them
//! as they have. Where a version computes for long again and again, that share is what others feel of it, and nobody has to
//! wait to know: its next call begins among the long ones. So it is with calls that break their limits or the contract: what
//! they do until then is worth nothing to anybody, however soon it is over.
//!
//! Invariants
//! - A call counts by its own computing time and its own ending, not by how busy the machine is.
//! - It decides where a call waits for a processor, and nothing else: no limit and no ending depends on it.
//! - It is a version's own: a swap begins anew, with what its trial showed.

use crate::engine::QUICK;
use crate::waste;
use sandpost_message::FaultKind;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How many quick calls one long call outweighs: two in a row make a version long, or more than one in five on average.
const LONG_WEIGHS: u8 = 4;
/// From here on a call begins among the long ones. One long call alone can be a cold one.
const LONG_FROM: u8 = 2 * LONG_WEIGHS;
/// No more is remembered; after nine quick calls in a row it is over.
const WEIGHT_MAX: u8 = 4 * LONG_WEIGHS;

/// The memory of one version, for one purpose.
#[derive(Default)]
pub(crate) struct Pace(AtomicU8);

impl Pace {
    /// Whether the next call should begin among the long ones.
    pub(crate) fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LONG_FROM
    }

    /// Remembers a call by what it computed, and by the fault that it ended with, if it did.
    pub(crate) fn note(&self, computed: Duration, fault: Option<FaultKind>) {
        let quick = computed < QUICK && !fault.is_some_and(is_for_nothing);
        let step = |weight: u8| match (quick, weight) {
            (true, weight) => weight.checked_sub(1),
            (false, WEIGHT_MAX) => None,
            (false, weight) => Some(weight.saturating_add(LONG_WEIGHS).min(WEIGHT_MAX)),
        };
        // Refused where there is nothing to change, which is the rule: then nothing is written.
        let _unchanged = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }
}

/// Whether the plugin alone is the reason, whatever the machine and the services do: standing back must not bring about what
/// it stands back for.
fn is_for_nothing(kind: FaultKind) -> bool {
    kind != FaultKind::Deadline && waste::is_own(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);

    fn after(calls: impl IntoIterator<Item = Duration>) -> bool {
        let pace = Pace::default();
        calls.into_iter().for_each(|computed| pace.note(computed, None));
        pace.is_long()
    }

    #[test]
    fn a_single_long_call_is_no_habit_and_two_are() {
        assert!(!after([]));
        assert!(!after([QUICK]));
        assert!(after([QUICK, QUICK]));
        assert!(!after([QUICK, SHORT, QUICK]));
    }

    #[test]
    fn it_is_over_after_nine_quick_calls_whatever_came_before() {
        let long = || std::iter::repeat_n(QUICK, 1_000);
        assert!(after(long().chain([SHORT; 8])));
        assert!(!after(long().chain([SHORT; 9])));
    }

    #[test]
    fn evenly_spaced_one_long_call_in_five_is_no_habit_and_one_in_four_becomes_one() {
        let one_in = |every: usize| (0..1_000).map(move |at| if at % every == 0 { QUICK } else { SHORT });
        assert!(!after(one_in(5)));
        assert!(after(one_in(4)));
    }

    #[test]
    fn what_is_soon_over_and_for_nothing_is_long_and_what_waited_is_not() {
        let after = |fault| {
            let pace = Pace::default();
            pace.note(SHORT, Some(fault));
            pace.note(SHORT, Some(fault));
            pace.is_long()
        };
        assert!(after(FaultKind::Trap));
        assert!(after(FaultKind::HostBytes));
        assert!(!after(FaultKind::Deadline));
        assert!(!after(FaultKind::NoInstance));
    }
}
