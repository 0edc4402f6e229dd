//! `sandpost.toml`, as far as the layers read it: each takes its own table, refuses or understands it, and writes it
//! back the same.
//!
//! Not here: the program's own few keys and the environment variables above them (`host/src/config.rs`).

use sandpost_interfaces::Grants;
use sandpost_runtime::{EngineConfig, Limits};
use std::collections::BTreeMap;

/// The layers' tables, by the names that the program gives them.
#[derive(Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
struct Layers {
    http: sandpost_ingress::Config,
    dispatch: sandpost_dispatch::Config,
    runtime: EngineConfig,
    limits: toml::Table,
    grants: BTreeMap<String, Grants>,
    subscriptions: sandpost_dispatch::Subscriptions,
    broker: sandpost_embedded_store::Config,
    cache: sandpost_embedded_cache::Config,
    email: sandpost_embedded_email::Config,
    mail: sandpost_mail::Limits,
    sql: sandpost_embedded_sql::Config,
    documents: sandpost_embedded_documents::Config,
}

/// The bytes as configuration.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(layers) = toml::from_str::<Layers>(text) else { return };
    if layers.http.validate().is_ok() {
        let environment = |name: &str| (name != "UNSET").then(|| format!("token-in-the-variable-{name}"));
        // Refused where a variable is not set or two tokens are the same; never a panic.
        if let Ok(tokens) = sandpost_ingress::Tokens::resolve(&layers.http, environment) {
            assert_eq!(tokens.is_open(), layers.http.tokens.is_empty());
        }
    }
    if sandpost_dispatch::validate(&layers.dispatch, &layers.subscriptions).is_ok() {
        for subscription in layers.subscriptions.values() {
            delays(subscription);
        }
    }
    if let Ok(limits) = Limits::resolve(&layers.limits, &Limits::ceiling()) {
        assert!(limits.deadline_ms > 0 && limits.memory_max_bytes <= Limits::ceiling().memory_max_bytes);
    }
    for grants in layers.grants.values() {
        assert!(grants.covers(grants).is_empty(), "grants cover themselves: {grants:?}");
        if !grants.lines().is_empty() {
            assert!(!Grants::default().covers(grants).is_empty(), "nothing covers something: {grants:?}");
        }
    }
    let written = toml::to_string(&layers).expect("what was read can be written");
    let again: Layers = toml::from_str(&written).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{layers:?}"));
}

/// A valid policy gives a bounded delay for every attempt.
fn delays(subscription: &sandpost_dispatch::SubscriptionConfig) {
    let policy = &subscription.retry;
    for attempt in [1, 2, 3, 31, 32, 63, 64, 65, 1000, u32::MAX] {
        for random in [0.0, 0.5, 0.999_999] {
            let delay_ms = sandpost_dispatch::retry::backoff_ms(policy, attempt, random);
            assert!(delay_ms <= policy.backoff_max_ms, "{policy:?}: attempt {attempt}, {delay_ms} ms");
        }
    }
}
