//! From a subscription to the handler that is live at this moment, and what to do where none is.
//!
//! A handler that is missing is waited for, without pulling, up to the subscription's grace. Past it messages are pulled
//! and become dead letters, until a handler is live: then they are handled again at once. The grace counts from when this
//! host first found no handler.
//!
//! A handler that rests is waited for as well: nothing is pulled that would not be begun.

use crate::context::Shared;
use sandpost_message::{PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::plugins::{Admission, Handler, Plugins};
use sandpost_telemetry::events::dispatch::{HandlerChanged, HandlerPresence};
use std::sync::{Arc, Mutex, PoisonError};

/// A subscription's way to its handler.
pub(crate) struct Route {
    subscription: SubscriptionName,
    plugin: PluginName,
    grace_ms: u64,
    plugins: Arc<dyn Plugins>,
    phase: Mutex<Phase>,
}

/// What was found.
pub(crate) enum Found {
    /// This one handles.
    Live(Arc<dyn Handler>),
    /// None yet; wait for one until then.
    Awaited {
        /// The end of the grace.
        until_ms: TimestampMs,
    },
    /// None came in time.
    Missing,
}

/// Whether to pull, and what for.
pub(crate) enum Ready {
    /// To handle.
    Handle {
        /// The handler's deadline.
        deadline_ms: u64,
        /// One message at a time.
        one: bool,
    },
    /// To make dead letters of it.
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    Awaited { since_ms: TimestampMs },
    Missing,
}

impl Route {
    pub(crate) fn new(
        subscription: SubscriptionName,
        plugin: PluginName,
        grace_ms: u64,
        plugins: Arc<dyn Plugins>,
    ) -> Self {
        Self { subscription, plugin, grace_ms, plugins, phase: Mutex::new(Phase::Live) }
    }

    /// The handler of this moment, or how long to wait for one.
    pub(crate) fn look(&self, now_ms: TimestampMs) -> Found {
        let handler = self.plugins.handler(&self.plugin);
        let (before, after) = {
            let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            let before = *phase;
            *phase = before.next(handler.is_some(), now_ms, self.grace_ms);
            (before, *phase)
        };
        if std::mem::discriminant(&before) != std::mem::discriminant(&after) {
            let presence = match after {
                Phase::Live => HandlerPresence::Live,
                Phase::Awaited { .. } => HandlerPresence::Awaited { grace_ms: self.grace_ms },
                Phase::Missing => HandlerPresence::Missing,
            };
            HandlerChanged { subscription: &self.subscription, plugin: &self.plugin, presence }.emit();
        }
        match (handler, after) {
            (Some(handler), _) => Found::Live(handler),
            (None, Phase::Awaited { since_ms }) => Found::Awaited { until_ms: since_ms.saturating_add(self.grace_ms) },
            (None, Phase::Live | Phase::Missing) => Found::Missing,
        }
    }

    /// Waits until there is a reason to pull; none once the stop has begun.
    pub(crate) async fn ready(&self, shared: &Shared) -> Option<Ready> {
        loop {
            let changed = self.plugins.changed();
            tokio::pin!(changed);
            // Polled before the look, so that a deployment in between is not missed.
            let already = futures_util::poll!(changed.as_mut()).is_ready();
            let until_ms = match self.look(shared.now_ms()) {
                Found::Live(handler) => match handler.admission() {
                    Admission::Free => return Some(Ready::Handle { deadline_ms: handler.deadline_ms(), one: false }),
                    Admission::One => return Some(Ready::Handle { deadline_ms: handler.deadline_ms(), one: true }),
                    Admission::Rest { wait_ms } => shared.now_ms().saturating_add(wait_ms),
                },
                Found::Missing => return Some(Ready::GiveUp),
                Found::Awaited { until_ms } => until_ms,
            };
            if already {
                continue;
            }
            shared
                .until_stop(async {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = shared.services.clock.sleep_until(until_ms) => {}
                    }
                })
                .await?;
        }
    }
}

impl Phase {
    fn next(self, live: bool, now_ms: TimestampMs, grace_ms: u64) -> Self {
        if live {
            return Self::Live;
        }
        let since_ms = match self {
            Self::Missing => return Self::Missing,
            Self::Live => now_ms,
            // A clock that was set back must not make the wait longer than the grace.
            Self::Awaited { since_ms } => since_ms.min(now_ms),
        };
        if now_ms.saturating_sub(since_ms) >= grace_ms { Self::Missing } else { Self::Awaited { since_ms } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Over any course of deployments: live as soon as a handler is, missing once the grace has passed since the
        /// first look that found none, awaited in between.
        #[test]
        fn the_phase_follows_from_when_a_handler_was_last_live(
            grace_ms in 0_u64..5_000,
            looks in proptest::collection::vec((any::<bool>(), 0_u64..2_000), 1..60),
        ) {
            let (mut phase, mut now_ms, mut since) = (Phase::Live, 1_000, None);
            for (live, wait_ms) in looks {
                now_ms += wait_ms;
                phase = phase.next(live, now_ms, grace_ms);
                if live { since = None } else { since = since.or(Some(now_ms)) }
                let expected = match since {
                    None => Phase::Live,
                    Some(since_ms) if now_ms - since_ms >= grace_ms => Phase::Missing,
                    Some(since_ms) => Phase::Awaited { since_ms },
                };
                prop_assert_eq!(phase, expected);
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_does_not_lengthen_the_grace() {
        let awaited = Phase::Live.next(false, 10_000, 1_000);
        let back = awaited.next(false, 2_000, 1_000);
        assert_eq!(back, Phase::Awaited { since_ms: 2_000 });
        assert_eq!(back.next(false, 3_000, 1_000), Phase::Missing);
    }
}
