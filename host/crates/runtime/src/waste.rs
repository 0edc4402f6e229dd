//! What a version's calls computed in vain, and how it rests for that.
//!
//! A call that ends by a fault computed for nothing. Where that goes on and on (a loop, a flood, a limit that is too low), every
//! other plugin pays for it with its share of the processors, and every message of the subscription with its attempts. So a
//! version may waste a tenth of one processor over time, and what it computes to some end beside that. Past its allowance it
//! rests: its messages wait in the broker, not counted, and then each subscription tries one at a time.
//!
//! Invariants
//! - A rest is ten times as long as what is over the allowance took to compute, and a minute at most. So the tenth holds up to six
//!   seconds in vain at once. What is more than that, by many calls at work together or by one that may compute for long, is not
//!   remembered, and such a version wastes more than a tenth.
//! - It ends earlier once calls in flight end well and have computed as much, and at once with a swap, because waste is a
//!   version's own.
//! - Two calls in vain are no habit: nothing happens before more is wasted than two calls may compute.
//! - What is at work is let alone, and so is what the broker was asked for before the rest began.
//!
//! Not here: who waits (`dispatch::route`), the limit of one call (`instance`), renderings, which are part of the call that
//! asked for them and fail that.

use sandpost_message::FaultKind;
use sandpost_ports::plugins::Admission;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of one processor's time, one part in so many may be wasted: felt by nobody else, and enough to see soon that it is over.
const SHARE: u32 = 10;
/// How many calls that reach their limit a version may waste before it rests: one bad message and its next attempt.
const CALLS: u32 = 2;
/// No rest is longer, whatever one call may compute: a person who mended the cause elsewhere should not wait for it.
const REST_MAX: Duration = Duration::from_mins(1);
/// How soon to ask again during a rest: what ends it earlier is seen soon, and asking costs nothing.
const LOOK: Duration = Duration::from_millis(100);

/// The memory of one version.
pub(crate) struct Waste {
    /// What one call may compute.
    call_max: Duration,
    /// Whether there is anything in `debt`, so that who never failed takes no lock. Written under the lock.
    any: AtomicBool,
    debt: Mutex<Debt>,
}

struct Debt {
    /// Computed in vain, and not paid back by `at`.
    wasted: Duration,
    at: Instant,
    /// More than the allowance was wasted, and neither has a call ended well since then nor all been paid back.
    doubted: bool,
}

impl Waste {
    pub(crate) fn new(call_max: Duration) -> Self {
        let debt = Debt { wasted: Duration::ZERO, at: Instant::now(), doubted: false };
        Self { call_max, any: AtomicBool::new(false), debt: Mutex::new(debt) }
    }

    /// Remembers a call that ended by a fault of its own. The rest that begins with it, if one does.
    pub(crate) fn failed(&self, computed: Duration, now: Instant) -> Option<Duration> {
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(true, Ordering::Relaxed);
        debt.pay(now);
        let rested = self.rest(&debt).is_some();
        let most = self.allowance().saturating_add(REST_MAX / SHARE);
        debt.wasted = debt.wasted.saturating_add(computed).min(most);
        let rest = self.rest(&debt);
        debt.doubted |= rest.is_some();
        rest.filter(|_| !rested)
    }

    /// Remembers a call that ended with a verdict: what it computed makes up for as much that was wasted.
    pub(crate) fn succeeded(&self, computed: Duration, now: Instant) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        debt.pay(now);
        debt.wasted = debt.wasted.saturating_sub(computed);
        debt.doubted &= self.rest(&debt).is_some();
        self.any.store(!debt.wasted.is_zero(), Ordering::Relaxed);
    }

    /// What may begin now.
    pub(crate) fn admission(&self, now: Instant) -> Admission {
        if !self.any.load(Ordering::Relaxed) {
            return Admission::Free;
        }
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        debt.pay(now);
        match (self.rest(&debt), debt.doubted) {
            (Some(rest), _) => {
                // Rounded up: less than a millisecond is no time to wait.
                let wait_ms = rest.min(LOOK).as_nanos().div_ceil(1_000_000);
                Admission::Rest { wait_ms: u64::try_from(wait_ms).unwrap_or(u64::MAX) }
            }
            (None, true) => Admission::One,
            (None, false) => Admission::Free,
        }
    }

    fn allowance(&self) -> Duration {
        self.call_max.saturating_mul(CALLS)
    }

    /// Until what is over the allowance is paid back. Less than a millisecond is none.
    fn rest(&self, debt: &Debt) -> Option<Duration> {
        let rest = debt.wasted.saturating_sub(self.allowance()).saturating_mul(SHARE);
        (rest >= Duration::from_millis(1)).then_some(rest)
    }
}

impl Debt {
    /// Time pays back.
    fn pay(&mut self, now: Instant) {
        self.wasted = self.wasted.saturating_sub(now.saturating_duration_since(self.at) / SHARE);
        self.at = self.at.max(now);
        self.doubted &= !self.wasted.is_zero();
    }
}

/// Whether a call that ended so computed in vain: not where the host ended it, or never began it.
pub(crate) fn is_own(kind: FaultKind) -> bool {
    match kind {
        FaultKind::Trap
        | FaultKind::Exit
        | FaultKind::Deadline
        | FaultKind::Cpu
        | FaultKind::Memory
        | FaultKind::HostCalls
        | FaultKind::HostBytes
        | FaultKind::Contract => true,
        FaultKind::NoInstance | FaultKind::Stopped | FaultKind::Host => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALL: Duration = Duration::from_millis(100);

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn two_calls_in_vain_are_let_pass_and_the_third_is_paid_back_tenfold() {
        let (waste, now) = (Waste::new(CALL), Instant::now());
        assert_eq!(waste.admission(now), Admission::Free);
        assert_eq!((waste.failed(CALL, now), waste.failed(CALL, now)), (None, None));
        assert_eq!(waste.admission(now), Admission::Free);
        assert_eq!(waste.failed(CALL, now), Some(CALL * 10));
        assert_eq!(waste.admission(now), Admission::Rest { wait_ms: 100 });
        assert_eq!(waste.admission(now + milliseconds(950)), Admission::Rest { wait_ms: 50 });
        assert_eq!(waste.admission(now + CALL * 10), Admission::One);
    }

    #[test]
    fn after_a_rest_one_call_at_a_time_begins_until_one_ends_well() {
        let (waste, now) = (Waste::new(CALL), Instant::now());
        for _ in 0..3 {
            waste.failed(CALL, now);
        }
        let rested = now + CALL * 10;
        assert_eq!(waste.admission(rested), Admission::One);
        assert_eq!(waste.failed(CALL, rested), Some(CALL * 10));
        let again = rested + CALL * 10;
        assert_eq!(waste.admission(again), Admission::One);
        waste.succeeded(Duration::ZERO, again);
        assert_eq!(waste.admission(again), Admission::Free);
        // The allowance is not made whole by one success.
        assert_eq!(waste.failed(CALL, again), Some(CALL * 10));
    }

    #[test]
    fn what_is_computed_to_some_end_makes_up_for_as_much_waste() {
        let (waste, now) = (Waste::new(CALL), Instant::now());
        for _ in 0..1_000 {
            waste.succeeded(CALL, now);
            assert_eq!(waste.failed(CALL, now), None);
        }
    }

    #[test]
    fn a_burst_is_paid_back_in_full_up_to_a_minute() {
        let (waste, now) = (Waste::new(CALL), Instant::now());
        // Sixteen at work together; the rest begins with the third.
        let rests: Vec<_> = (0..16).map(|_| waste.failed(CALL, now)).collect();
        assert_eq!(rests.iter().flatten().count(), 1);
        assert_eq!(rests[2], Some(CALL * 10));
        assert_eq!(waste.admission(now + CALL * 139), Admission::Rest { wait_ms: 100 });
        assert_eq!(waste.admission(now + CALL * 140), Admission::One);
        for _ in 0..1_000 {
            waste.failed(CALL, now + CALL * 140);
        }
        let again = now + CALL * 140;
        assert_eq!(waste.admission(again + CALL * 599), Admission::Rest { wait_ms: 100 });
        assert_eq!(waste.admission(again + CALL * 600), Admission::One, "a minute later");
    }

    #[test]
    fn a_success_of_the_same_burst_does_not_end_the_rest_and_computing_to_some_end_does() {
        let (waste, now) = (Waste::new(CALL), Instant::now());
        for _ in 0..4 {
            waste.failed(CALL, now);
        }
        waste.succeeded(Duration::ZERO, now);
        assert_eq!(waste.admission(now), Admission::Rest { wait_ms: 100 });
        assert_eq!(waste.admission(now + CALL * 20), Admission::One, "one success did not take the doubt away");
        waste.succeeded(CALL * 2, now);
        assert_eq!(waste.admission(now), Admission::Free);
    }

    #[test]
    fn doubt_ends_when_all_is_paid_back() {
        let (waste, now) = (Waste::new(CALL), Instant::now());
        for _ in 0..3 {
            waste.failed(CALL, now);
        }
        assert_eq!(waste.admission(now + CALL * 29), Admission::One);
        assert_eq!(waste.admission(now + CALL * 30), Admission::Free);
    }

    #[test]
    fn a_flood_of_quick_failures_is_no_rest() {
        let (waste, begin) = (Waste::new(CALL), Instant::now());
        for number in 0..100_000 {
            // A tenth of the time.
            let now = begin + Duration::from_micros(100 * number);
            assert_eq!(waste.failed(Duration::from_micros(10), now), None);
        }
    }

    proptest! {
        /// Whatever the calls compute, one at a time and each as soon as it may begin: never more in vain than the allowance,
        /// a tenth of the time, and one call.
        #[test]
        fn who_fails_always_wastes_a_tenth(computed in proptest::collection::vec(0_u64..=100, 1..200)) {
            let (waste, begin) = (Waste::new(CALL), Instant::now());
            let (mut now, mut wasted) = (begin, Duration::ZERO);
            for computed in computed {
                while let Admission::Rest { wait_ms } = waste.admission(now) {
                    now += milliseconds(wait_ms);
                }
                now += milliseconds(computed);
                wasted += milliseconds(computed);
                waste.failed(milliseconds(computed), now);
                prop_assert!(wasted <= CALL * 2 + CALL + (now - begin) / SHARE + milliseconds(1), "{wasted:?}");
            }
        }
    }
}
