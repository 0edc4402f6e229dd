//! What the operator says about dispatch: the tables `[dispatch]` and `[subscriptions.NAME]`.
//!
//! Invariant: what [`validate`] let through needs no further check at run time.

use crate::retry::{RETRY_AFTER_MS_MAX, backoff_span_ms};
use sandpost_message::{PluginName, SubscriptionName, Topic};
use sandpost_ports::plugins::UnknownEffects;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The subscriptions by name.
pub type Subscriptions = BTreeMap<SubscriptionName, SubscriptionConfig>;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// More at once than this is more than one host can hold in memory with the largest bodies.
const CONCURRENCY_LIMITS: RangeInclusive<usize> = 1..=4096;
const ATTEMPTS_LIMITS: RangeInclusive<u32> = 1..=1000;
const GRACE_MS_LIMITS: RangeInclusive<u64> = 0..=7 * DAY_MS;
const INTERVAL_MS_LIMITS: RangeInclusive<u64> = 100..=DAY_MS;
const KEEP_MS_LIMITS: RangeInclusive<u64> = MINUTE_MS..=10 * 365 * DAY_MS;

const EFFECTS_KEEP_MS_DEFAULT: u64 = 7 * DAY_MS;

/// What holds for all subscriptions of this host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Deliveries at work in this host at once, over all subscriptions. Default 256.
    pub concurrency_max: usize,
    /// How often the gauges of backlog and dead letters are refreshed. Default 5 000.
    pub metrics_interval_ms: u64,
    /// How often old records are looked for. Default 60 000.
    pub housekeeping_interval_ms: u64,
    /// How long the ledger remembers a step. Default 604 800 000 (7 days).
    pub ledger_keep_ms: u64,
    /// How long it is known that an effect happened. Default 604 800 000 (7 days).
    ///
    /// Effects of messages that are still on their way are never forgotten, however old. A dead letter that is replayed
    /// later than this may do its effects again.
    pub effects_keep_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency_max: 256,
            metrics_interval_ms: 5_000,
            housekeeping_interval_ms: MINUTE_MS,
            ledger_keep_ms: 7 * DAY_MS,
            effects_keep_ms: EFFECTS_KEEP_MS_DEFAULT,
        }
    }
}

/// A topic bound to a handler plugin.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionConfig {
    /// Which topic. A subscription keeps its topic for good.
    pub topic: Topic,
    /// Which plugin handles it.
    pub plugin: PluginName,
    /// Deliveries at work at once in this host. Default 16.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// How long messages wait where no version of the plugin is live, before they become dead letters. Counted from when
    /// this host saw it. Default 600 000 (10 minutes).
    #[serde(default = "default_handler_grace_ms")]
    pub handler_grace_ms: u64,
    /// What is done about an effect that was being handed over when a host died. Default `hold`.
    #[serde(default)]
    pub unknown_effects: UnknownEffects,
    /// How often a message is tried, and when again.
    #[serde(default)]
    pub retry: RetryPolicy,
}

impl SubscriptionConfig {
    /// This topic to this plugin, with the defaults.
    pub fn new(topic: Topic, plugin: PluginName) -> Self {
        Self {
            topic,
            plugin,
            concurrency: default_concurrency(),
            handler_grace_ms: default_handler_grace_ms(),
            unknown_effects: UnknownEffects::default(),
            retry: RetryPolicy::default(),
        }
    }
}

/// The one retry budget of a message on a subscription.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. Default 5.
    pub attempts_max: u32,
    /// The wait after the first attempt, before jitter; it doubles with each one. Default 10 000.
    pub backoff_min_ms: u64,
    /// The longest wait. Default 600 000. A plugin that names a time of its own may ask for up to 24 hours.
    pub backoff_max_ms: u64,
    /// Which share of a wait is left to chance, 0 to 1, so that messages that failed together do not come back together.
    /// Takes away, never adds. Default 0.2.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RETRY_DEFAULT
    }
}

const RETRY_DEFAULT: RetryPolicy =
    RetryPolicy { attempts_max: 5, backoff_min_ms: 10_000, backoff_max_ms: 600_000, jitter: 0.2 };

// An effect that is forgotten while its message is still tried would be done twice.
const _: () = assert!(EFFECTS_KEEP_MS_DEFAULT > RETRY_DEFAULT.backoff_max_ms * RETRY_DEFAULT.attempts_max as u64);

fn default_concurrency() -> usize {
    16
}

fn default_handler_grace_ms() -> u64 {
    10 * MINUTE_MS
}

/// A key whose value cannot be. Reads on after "failed to read the configuration: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {rule}")]
pub struct ConfigError {
    /// The key, whole: `subscriptions.orders.concurrency`.
    pub key: String,
    /// What it has to be.
    pub rule: String,
}

/// Checks all of it; the first key that is wrong is the error.
pub fn validate(config: &Config, subscriptions: &Subscriptions) -> Result<(), ConfigError> {
    let host = |key: &str| format!("dispatch.{key}");
    within(host("concurrency_max"), &config.concurrency_max, &CONCURRENCY_LIMITS)?;
    within(host("metrics_interval_ms"), &config.metrics_interval_ms, &INTERVAL_MS_LIMITS)?;
    within(host("housekeeping_interval_ms"), &config.housekeeping_interval_ms, &INTERVAL_MS_LIMITS)?;
    within(host("ledger_keep_ms"), &config.ledger_keep_ms, &KEEP_MS_LIMITS)?;
    within(host("effects_keep_ms"), &config.effects_keep_ms, &KEEP_MS_LIMITS)?;

    for (name, subscription) in subscriptions {
        let key = |key: &str| format!("subscriptions.{name}.{key}");
        let retry = &subscription.retry;
        within(key("concurrency"), &subscription.concurrency, &CONCURRENCY_LIMITS)?;
        within(key("handler_grace_ms"), &subscription.handler_grace_ms, &GRACE_MS_LIMITS)?;
        within(key("retry.attempts_max"), &retry.attempts_max, &ATTEMPTS_LIMITS)?;
        within(key("retry.backoff_max_ms"), &retry.backoff_max_ms, &(0..=RETRY_AFTER_MS_MAX))?;
        if retry.backoff_min_ms > retry.backoff_max_ms {
            let rule = "is over `retry.backoff_max_ms`; it must not be".to_owned();
            return Err(ConfigError { key: key("retry.backoff_min_ms"), rule });
        }
        within(key("retry.jitter"), &retry.jitter, &(0.0..=1.0))?;
        let span_ms = backoff_span_ms(retry);
        if config.effects_keep_ms <= span_ms {
            let rule = format!(
                "is {}; it must be longer than the retries of `{name}` can take, which is {span_ms}, or effects would \
                 be done twice",
                config.effects_keep_ms
            );
            return Err(ConfigError { key: host("effects_keep_ms"), rule });
        }
    }
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Display>(
    key: String,
    value: &T,
    limits: &RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if limits.contains(value) {
        return Ok(());
    }
    let rule = format!("is {value}; it must be {} to {}", limits.start(), limits.end());
    Err(ConfigError { key, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Subscriptions {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_subscription_needs_topic_and_plugin_alone() {
        let subscriptions = parse("[orders]\ntopic = \"orders\"\nplugin = \"order-email\"");
        let orders = &subscriptions["orders"];
        assert_eq!(orders, &SubscriptionConfig::new("orders".parse().unwrap(), "order-email".parse().unwrap()));
        assert_eq!((orders.concurrency, orders.handler_grace_ms), (16, 600_000));
        assert_eq!(
            (orders.retry.attempts_max, orders.retry.backoff_min_ms, orders.retry.backoff_max_ms),
            (5, 10_000, 600_000)
        );
        assert_eq!(validate(&Config::default(), &subscriptions), Ok(()));
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in
            ["topic = \"orders\"\nplugin = \"p\"\nretries = 3", "topic = \"orders\"\nplugin = \"p\"\n[retry]\nmax = 3"]
        {
            assert!(toml::from_str::<SubscriptionConfig>(text).is_err(), "{text}");
        }
        assert!(toml::from_str::<Config>("concurency_max = 1").is_err());
    }

    #[test]
    fn an_error_names_the_key_and_its_rule() {
        let check = |line: &str, key: &str| {
            let subscriptions = parse(&format!("[orders]\ntopic = \"orders\"\nplugin = \"p\"\n{line}"));
            let error = validate(&Config::default(), &subscriptions).unwrap_err();
            assert_eq!(error.key, format!("subscriptions.orders.{key}"), "{error}");
            assert!(error.to_string().contains("must"), "{error}");
        };
        check("concurrency = 0", "concurrency");
        check("handler_grace_ms = 99999999999", "handler_grace_ms");
        check("retry.attempts_max = 0", "retry.attempts_max");
        check("retry.backoff_min_ms = 700000", "retry.backoff_min_ms");
        check("retry.backoff_max_ms = 99999999999", "retry.backoff_max_ms");
        check("retry.jitter = 1.5", "retry.jitter");
        check("retry.jitter = nan", "retry.jitter");
    }

    #[test]
    fn effects_are_kept_longer_than_retries_take() {
        let subscriptions = parse("[orders]\ntopic = \"orders\"\nplugin = \"p\"\nretry = { attempts_max = 200 }");
        let config = Config { effects_keep_ms: DAY_MS, ..Config::default() };
        let error = validate(&config, &subscriptions).unwrap_err();
        assert_eq!(error.key, "dispatch.effects_keep_ms");
        assert_eq!(validate(&Config::default(), &subscriptions), Ok(()));
    }

    #[test]
    fn an_interval_of_nothing_is_refused() {
        let config = Config { metrics_interval_ms: 0, ..Config::default() };
        assert_eq!(validate(&config, &Subscriptions::new()).unwrap_err().key, "dispatch.metrics_interval_ms");
    }
}
