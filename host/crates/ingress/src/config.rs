//! What the operator decides about HTTP, and the rules that the values keep.
//!
//! Not here: reading files and variables (the host), what a token may do (`auth`).

use crate::auth::{Role, TopicPattern};
use sandpost_message::limits;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The `[http]` table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen. Default `127.0.0.1:8080`. Anything but loopback needs at least one token.
    pub listen: SocketAddr,
    /// The largest request body. Default 1 048 576 (1 MiB): a notification is small, and a body is held in memory. At
    /// most 9 MiB, what the narrowest broker takes.
    pub body_max_bytes: usize,
    /// The longest that a request may take, its body included. Default 30 000.
    pub request_timeout_ms: u64,
    /// The longest that a body may take to arrive. Default 10 000.
    pub body_timeout_ms: u64,
    /// The longest that a request's head may take to arrive; also how long an idle connection is kept. Default 15 000.
    pub header_timeout_ms: u64,
    /// The longest that a client may take nothing of an answer that waits for it. Default 10 000.
    pub write_timeout_ms: u64,
    /// Connections at one time; further ones wait in the system's queue. Default 1 024.
    pub connections_max: usize,
    /// Requests at work at one time, probes aside; further ones get 503. Default 256.
    pub requests_max: usize,
    /// Headers of one request; more get 431. Default 160: every attribute that a message may have is a header of its own.
    pub headers_max: usize,
    /// Bytes of a request's head; more get 431. Default 262 144: room for every attribute at its longest.
    pub header_max_bytes: usize,
    /// The longest that one health check may take. Default 5 000, as the origin documents have it.
    pub health_timeout_ms: u64,
    /// How long the answer of the health checks is reused, so that probes cannot overload a service. Default 1 000.
    pub health_cache_ms: u64,
    /// How long an `Idempotency-Key` is known. Default 86 400 000 (24 hours).
    pub idempotency_window_ms: u64,
    /// How long a request with an `Idempotency-Key` counts as at work before another host may take it over. Default
    /// 60 000; longer than any request can take.
    pub idempotency_stale_ms: u64,
    /// How long requests at work may go on once the host stops. Default 10 000.
    pub shutdown_grace_ms: u64,
    /// Whether `/metrics` is served without a token. Default no.
    pub metrics_open: bool,
    /// Who may do what, by a name that logs show. Default none: only this machine is served, and it may do everything.
    pub tokens: BTreeMap<String, TokenConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            body_max_bytes: 1024 * 1024,
            request_timeout_ms: 30_000,
            body_timeout_ms: 10_000,
            header_timeout_ms: 15_000,
            write_timeout_ms: 10_000,
            connections_max: 1_024,
            requests_max: 256,
            headers_max: 160,
            header_max_bytes: 256 * 1024,
            health_timeout_ms: 5_000,
            health_cache_ms: 1_000,
            idempotency_window_ms: 24 * 60 * 60 * 1000,
            idempotency_stale_ms: 60_000,
            shutdown_grace_ms: 10_000,
            metrics_open: false,
            tokens: BTreeMap::new(),
        }
    }
}

/// One `[http.tokens.NAME]` table. The token itself is never written here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// What its bearer may do.
    pub role: Role,
    /// The environment variable that holds the token; at least 16 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_from_env: Option<String>,
    /// Or the sha256 of the token, in lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// For a publisher: the topics that it may publish to, each a name or a beginning followed by `*`. Empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicPattern>,
}

/// A value that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("http.{key}: {rule}")]
pub struct ConfigError {
    /// Which key, below `http`.
    pub key: String,
    /// What it has to be.
    pub rule: String,
}

impl ConfigError {
    pub(crate) fn new(key: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { key: key.into(), rule: rule.into() }
    }
}

/// hyper refuses a smaller buffer.
const HEADER_BYTES_MIN: usize = 8 * 1024;
const TOKEN_NAME_MAX_BYTES: usize = 64;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Config {
    /// Checks every rule that needs no environment; the first that is broken is the error.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::new(key, format!("is {value}; it has to be from {least} to {most}")))
            }
        };
        let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        within("body_max_bytes", bytes(self.body_max_bytes), 1, bytes(limits::BODY_MAX_BYTES))?;
        within("request_timeout_ms", self.request_timeout_ms, 1, 10 * 60 * 1000)?;
        within("body_timeout_ms", self.body_timeout_ms, 1, self.request_timeout_ms)?;
        within("header_timeout_ms", self.header_timeout_ms, 1, 10 * 60 * 1000)?;
        within("write_timeout_ms", self.write_timeout_ms, 1, 10 * 60 * 1000)?;
        within("connections_max", bytes(self.connections_max), 1, 1_000_000)?;
        within("requests_max", bytes(self.requests_max), 1, 1_000_000)?;
        within("headers_max", bytes(self.headers_max), 16, 1_000)?;
        within("header_max_bytes", bytes(self.header_max_bytes), bytes(HEADER_BYTES_MIN), 1024 * 1024)?;
        within("health_timeout_ms", self.health_timeout_ms, 1, self.request_timeout_ms)?;
        within("health_cache_ms", self.health_cache_ms, 0, 60_000)?;
        within("idempotency_window_ms", self.idempotency_window_ms, self.idempotency_stale_ms, 30 * DAY_MS)?;
        // A request that is still at work must not be taken over.
        within("idempotency_stale_ms", self.idempotency_stale_ms, self.request_timeout_ms + 1, DAY_MS)?;
        within("shutdown_grace_ms", self.shutdown_grace_ms, 0, 10 * 60 * 1000)?;
        for (name, token) in &self.tokens {
            token.validate(name)?;
        }
        if self.tokens.is_empty() && !self.listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::new(
                "listen",
                format!("is {}, which others can reach; that needs at least one token in `http.tokens`", self.listen),
            ));
        }
        Ok(())
    }
}

impl TokenConfig {
    fn validate(&self, name: &str) -> Result<(), ConfigError> {
        let key = |last: &str| format!("tokens.{name}{last}");
        let well_named = (1..=TOKEN_NAME_MAX_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
        if !well_named {
            return Err(ConfigError::new("tokens", "a name is 1 to 64 lower-case ASCII letters, digits, `-` or `_`"));
        }
        match (&self.token_from_env, &self.sha256) {
            (Some(_), None) => {}
            (None, Some(digest)) => {
                digest
                    .parse::<sandpost_message::Digest>()
                    .map_err(|_| ConfigError::new(key(".sha256"), "is not 64 lower-case hexadecimal digits"))?;
            }
            _ => return Err(ConfigError::new(key(""), "needs one of `token_from_env` and `sha256`")),
        }
        if !self.topics.is_empty() && self.role != Role::Publisher {
            return Err(ConfigError::new(key(".topics"), "narrows the role `publisher` alone"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_defaults_keep_the_rules() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert_eq!(read(""), Config::default());
    }

    #[test]
    fn the_head_has_room_for_every_attribute() {
        let config = Config::default();
        assert!(config.headers_max >= limits::ATTRIBUTES_MAX * 3 / 2);
        let longest = limits::ATTRIBUTE_KEY_MAX_BYTES + limits::ATTRIBUTE_VALUE_MAX_BYTES + 32;
        assert!(config.header_max_bytes >= limits::ATTRIBUTES_MAX * longest);
    }

    #[test]
    fn each_rule_names_its_key() {
        let digest = "0".repeat(64);
        for (text, key) in [
            ("body_max_bytes = 0", "body_max_bytes"),
            ("body_max_bytes = 99999999", "body_max_bytes"),
            ("request_timeout_ms = 0", "request_timeout_ms"),
            ("body_timeout_ms = 30001", "body_timeout_ms"),
            ("headers_max = 1", "headers_max"),
            ("header_max_bytes = 100", "header_max_bytes"),
            ("health_timeout_ms = 30001", "health_timeout_ms"),
            ("idempotency_stale_ms = 30000", "idempotency_stale_ms"),
            ("idempotency_window_ms = 1", "idempotency_window_ms"),
            ("listen = \"0.0.0.0:8080\"", "listen"),
            ("[tokens.a]\nrole = \"admin\"", "tokens.a"),
            ("[tokens.a]\nrole = \"admin\"\nsha256 = \"AB\"", "tokens.a.sha256"),
            ("[tokens.\"A b\"]\nrole = \"admin\"\ntoken_from_env = \"X\"", "tokens"),
            (&format!("[tokens.a]\nrole = \"admin\"\nsha256 = \"{digest}\"\ntopics = [\"abc\"]"), "tokens.a.topics"),
        ] {
            assert_eq!(read(text).validate().unwrap_err().key, key, "{text}");
        }
        assert!(toml::from_str::<Config>("lissen = 1").is_err());
        assert!(toml::from_str::<Config>("[tokens.a]\nrole = \"king\"\ntoken_from_env = \"X\"").is_err());
        let open_to_others = format!("listen = \"0.0.0.0:8080\"\n[tokens.a]\nrole = \"viewer\"\nsha256 = \"{digest}\"");
        assert_eq!(read(&open_to_others).validate(), Ok(()));
    }
}
