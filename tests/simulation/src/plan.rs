//! What one run does, made from its seed alone: subscriptions, messages, handlers, faults.
//!
//! Sizes are small on purpose: a run has few messages and many faults, so that a failure can be read.

use crate::chance::Chance;
use sandpost_dispatch::{Config, RetryPolicy, SubscriptionConfig, Subscriptions};
use sandpost_ports::plugins::UnknownEffects;

/// What a run is asked for, beside its seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Prints every event as it happens.
    pub print: bool,
    /// No fault but one crash, before this event; 0 for no crash at all.
    pub only_crash_at: Option<u64>,
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) messages: Vec<Sending>,
    pub(crate) rates: Rates,
    /// Hosts side by side.
    pub(crate) hosts: u64,
    /// As the embedded store is: in the host's process, so that a crash takes leases and requests on the way with it.
    pub(crate) embedded: bool,
    pub(crate) broker_deduplicates: bool,
    pub(crate) provider_deduplicates: bool,
    /// How long one hand-over may take.
    pub(crate) effect_timeout_ms: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) crashes_max: u64,
    /// The longest stretch of events between a start and a crash.
    pub(crate) crash_span: u64,
    /// Clean stops, by when.
    pub(crate) stops_ms: Vec<u64>,
    /// When no handler is live: from, until.
    pub(crate) absent_ms: Option<(u64, u64)>,
    /// When faults end.
    pub(crate) quiet_ms: u64,
}

/// One message of the plan.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    pub(crate) at_ms: u64,
    pub(crate) delay_ms: u64,
    pub(crate) key: Option<&'static str>,
    pub(crate) mails: u64,
    pub(crate) publishes: u64,
    /// The handler gives its own keys.
    pub(crate) own_keys: bool,
    /// Publishes in one call.
    pub(crate) batch: bool,
}

/// How often things go wrong, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    /// Refused, nothing done.
    pub(crate) refused: u64,
    /// The answer is lost.
    pub(crate) reply_lost: u64,
    /// The request is lost.
    pub(crate) request_lost: u64,
    /// No answer ever comes; half of these are done.
    pub(crate) silent: u64,
    /// The same for the provider of e-mail, all kinds together.
    pub(crate) provider: u64,
    /// Takes its time, up to `slow_ms`.
    pub(crate) slow: u64,
    pub(crate) slow_ms: u64,
    /// A lease of a message without a key is lost, of a thousand looks.
    pub(crate) lease_lost: u64,
    /// An attempt does not acknowledge.
    pub(crate) unwilling: u64,
}

pub(crate) const MAIL: &str = "orders-mail";
pub(crate) const AUDIT: &str = "orders-audit";
pub(crate) const SINK: &str = "events-sink";
pub(crate) const ORDERS: &str = "orders";
pub(crate) const EVENTS: &str = "events";
pub(crate) const PLUGIN: &str = "mailer";

/// The longest that a request of the model is on its way; less than any time after which callers give up.
const SLOW_MS_MAX: u64 = 3_000;

impl Plan {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut chance = Chance::new(seed ^ 0x5a4d_706f_7374_0001);
        let c = &mut chance;
        let calm = options.only_crash_at.is_some();
        let embedded = c.in_thousand(500);
        let rates = if calm {
            Rates { unwilling: c.pick(&[0, 200]), slow: c.pick(&[0, 200]), slow_ms: 50, ..Rates::default() }
        } else {
            let much = c.pick(&[0, 10, 30, 100]);
            Rates {
                refused: c.below(much + 1),
                reply_lost: c.below(much + 1),
                request_lost: c.below(much + 1),
                silent: c.below(much / 3 + 1),
                provider: c.pick(&[0, 50, 200, 500]),
                slow: c.pick(&[0, 100, 500]),
                slow_ms: c.between(1, SLOW_MS_MAX),
                lease_lost: if embedded { 0 } else { c.pick(&[0, 0, 50, 300]) },
                unwilling: c.pick(&[0, 100, 400, 800]),
            }
        };
        let mut subscriptions = Subscriptions::new();
        for (name, topic) in [(MAIL, ORDERS), (AUDIT, ORDERS), (SINK, EVENTS)] {
            if name == AUDIT && c.in_thousand(600) {
                continue;
            }
            let backoff_min_ms = c.pick(&[0, 100, 1_000, 10_000]);
            let retry = RetryPolicy {
                attempts_max: u32::try_from(c.pick(&[1, 2, 3, 5, 8])).unwrap_or(5),
                backoff_min_ms,
                backoff_max_ms: backoff_min_ms * c.pick(&[1, 4, 60]),
                // Chance of its own would make runs differ. Its share is tried by properties in `dispatch::retry`.
                jitter: 0.0,
            };
            let unknown_effects = c.pick(&[UnknownEffects::Hold, UnknownEffects::Hold, UnknownEffects::SendAgain]);
            let base = SubscriptionConfig::new(topic.parse().unwrap(), PLUGIN.parse().unwrap());
            let config = SubscriptionConfig {
                concurrency: usize::try_from(c.pick(&[1, 2, 8])).unwrap_or(1),
                handler_grace_ms: c.pick(&[1_000, 60_000, 600_000]),
                unknown_effects,
                retry,
                ..base
            };
            subscriptions.insert(name.parse().unwrap(), config);
        }
        let count = if calm { c.between(1, 3) } else { c.between(1, 10) };
        let keys = [None, None, Some("red"), Some("blue")];
        let keyless = c.in_thousand(300);
        let span_ms = c.pick(&[1, 10_000, 120_000]);
        let messages = (0..count)
            .map(|_| Sending {
                at_ms: c.below(span_ms),
                delay_ms: if c.in_thousand(150) { c.between(1, 90_000) } else { 0 },
                key: if keyless { None } else { c.pick(&keys) },
                mails: c.pick(&[0, 1, 1, 2]),
                publishes: c.pick(&[0, 0, 1, 3]),
                own_keys: c.in_thousand(150),
                batch: c.in_thousand(300),
            })
            .collect();
        let quiet_ms = c.between(60_000, 900_000);
        let absent_ms = (!calm && c.in_thousand(150)).then(|| {
            let from_ms = c.below(quiet_ms);
            (from_ms, from_ms + c.between(1_000, 900_000))
        });
        Self {
            config: Config {
                concurrency_max: usize::try_from(c.pick(&[1, 2, 4, 64])).unwrap_or(1),
                metrics_interval_ms: c.pick(&[60_000, 600_000]),
                housekeeping_interval_ms: c.pick(&[60_000, 600_000]),
                effects_keep_ms: c.pick(&[12, 12, 240]) * 3_600_000,
                ..Config::default()
            },
            subscriptions,
            messages,
            rates,
            hosts: if embedded || calm { 1 } else { c.pick(&[1, 1, 2]) },
            embedded,
            broker_deduplicates: c.in_thousand(500),
            provider_deduplicates: c.in_thousand(300),
            // Longer than any request can take, as a host's has to be.
            effect_timeout_ms: c.pick(&[4_000, 30_000]),
            deadline_ms: c.pick(&[1_000, 10_000, 40_000]),
            crashes_max: if calm { 1 } else { c.pick(&[0, 1, 3, 6]) },
            crash_span: c.pick(&[60, 200, 800]),
            stops_ms: if calm { Vec::new() } else { (0..c.pick(&[0, 0, 1, 2])).map(|_| c.below(quiet_ms)).collect() },
            absent_ms,
            quiet_ms,
        }
    }
}
