//! What an operator may set, and what cannot work. The variables that set these keys are the host's (`config::services`);
//! `GOOGLE_APPLICATION_CREDENTIALS` is read by Google's own library.

use sandpost_ports::Secret;
use std::time::Duration;

/// Google Pub/Sub.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The project that topics and subscriptions are in. Else `PUBSUB_PROJECT_ID`, `GOOGLE_CLOUD_PROJECT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// `host:port` of an emulator, spoken to in plain text and without credentials. Else `PUBSUB_EMULATOR_HOST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator_host: Option<Secret>,
    /// Another address of the service than the global one, `https://…`: a region's, for ordering keys. Not with an emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Secret>,
    /// What is done about topics and subscriptions. Default: `create` on an emulator, `verify` otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manage: Option<Manage>,
    /// Where the service puts what it delivered too often: a backstop behind the host's own dead letters. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// After how many deliveries. Default 100, the service's most (5 to 100): the host gives up long before.
    pub dead_letter_attempts_max: u32,
    /// The service's own back-off after a stop or a crash, at least. Default 10 (0 to 600).
    pub retry_min_s: u32,
    /// And at most. Default 600 (0 to 600).
    pub retry_max_s: u32,
    /// Whether subscriptions keep the order of an ordering key. Default true; cannot be changed on one that is there.
    pub ordering: bool,
    /// How long the service waits for a host that is gone. Default 60 (10 to 600); extended for as long as the host is there.
    pub ack_deadline_s: u32,
    /// How long the service keeps a message that nobody acknowledged. Default 604 800, seven days (600 to 2 678 400). A
    /// message that is not to be delivered before that time minus an hour is refused.
    pub retention_s: u32,
    /// Messages of one subscription in this host, waiting, at work or held for a retry. Default 1000.
    pub outstanding_messages_max: u32,
    /// Their bytes. Default 104 857 600 (100 MiB).
    pub outstanding_bytes_max: u32,
    /// Messages of one publish request. Default 100 (1 to 1000).
    pub batch_messages_max: u32,
    /// Their bytes. Default 1 000 000 (1 to 10 000 000).
    pub batch_bytes_max: u32,
    /// The time for publishing, tries again included. Default 5000.
    pub publish_timeout_ms: u64,
    /// The time for anything else that is asked of the service. Default 5000: less than dispatch waits for a subscription.
    pub call_timeout_ms: u64,
    /// How often the connection is looked at. Default 10 000.
    pub probe_interval_ms: u64,
    /// How long it is taken for known which subscriptions a topic has. Default 30 000.
    pub subscriptions_cache_ms: u64,
}

/// What is done about topics and subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manage {
    /// What is missing is made; what is there is left as it is. For development.
    Create,
    /// Nothing is made. For production, where they are somebody's infrastructure.
    Verify,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            project: None,
            emulator_host: None,
            endpoint: None,
            manage: None,
            dead_letter_topic: None,
            dead_letter_attempts_max: 100,
            retry_min_s: 10,
            retry_max_s: 600,
            ordering: true,
            ack_deadline_s: 60,
            retention_s: 7 * 24 * 60 * 60,
            outstanding_messages_max: 1000,
            outstanding_bytes_max: 100 * 1024 * 1024,
            batch_messages_max: 100,
            batch_bytes_max: 1_000_000,
            publish_timeout_ms: 5_000,
            call_timeout_ms: 5_000,
            probe_interval_ms: 10_000,
            subscriptions_cache_ms: 30_000,
        }
    }
}

/// Why the configuration cannot work. That the service is down is not among it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No project, or not one.
    #[error("no project: set `project`, PUBSUB_PROJECT_ID or GOOGLE_CLOUD_PROJECT")]
    NoProject,
    /// The project's name has other characters than it can have.
    #[error("the project is not one: letters, digits, `-`, `.`, `:` and `_`")]
    Project,
    /// An emulator and another endpoint.
    #[error("`emulator_host` and `endpoint` exclude each other")]
    TwoAddresses,
    /// An address that is not one.
    #[error("`{0}` is not an address")]
    Address(&'static str),
    /// A name that the service would not take.
    #[error("`dead_letter_topic` is not a topic: {0}")]
    DeadLetterTopic(#[source] sandpost_message::NameError),
    /// A number out of its range.
    #[error("`{key}` is {found}; it is {range}")]
    Range {
        /// Which one.
        key: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        range: &'static str,
    },
    /// The application default credentials are not usable.
    #[error("the application default credentials cannot be read")]
    Credentials(#[source] sandpost_ports::BoxError),
    /// Opened outside of a runtime.
    #[error("no runtime to keep the connection in")]
    NoRuntime,
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let project = self.project.as_deref().ok_or(OpenError::NoProject)?;
        if project.is_empty() || !project.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:_".contains(&b)) {
            return Err(OpenError::Project);
        }
        if self.emulator_host.is_some() && self.endpoint.is_some() {
            return Err(OpenError::TwoAddresses);
        }
        let misses_port = |host: &Secret| {
            host.reveal().rsplit_once(':').is_none_or(|(name, port)| name.is_empty() || port.parse::<u16>().is_err())
        };
        if self.emulator_host.as_ref().is_some_and(misses_port) {
            return Err(OpenError::Address("emulator_host"));
        }
        if self.endpoint.as_ref().is_some_and(|endpoint| !endpoint.reveal().starts_with("https://")) {
            return Err(OpenError::Address("endpoint"));
        }
        if let Some(topic) = &self.dead_letter_topic {
            topic.parse::<sandpost_message::Topic>().map_err(OpenError::DeadLetterTopic)?;
        }
        let ranges: [(&'static str, u64, std::ops::RangeInclusive<u64>, &'static str); 12] = [
            ("dead_letter_attempts_max", self.dead_letter_attempts_max.into(), 5..=100, "5 to 100"),
            ("retry_max_s", self.retry_max_s.into(), 0..=600, "0 to 600"),
            ("retry_min_s", self.retry_min_s.into(), 0..=self.retry_max_s.into(), "0 to `retry_max_s`"),
            ("ack_deadline_s", self.ack_deadline_s.into(), 10..=600, "10 to 600"),
            ("retention_s", self.retention_s.into(), 600..=2_678_400, "600 to 2678400"),
            ("outstanding_messages_max", self.outstanding_messages_max.into(), 1..=100_000, "1 to 100000"),
            ("outstanding_bytes_max", self.outstanding_bytes_max.into(), 10_000_000..=u64::MAX, "10000000 or more"),
            ("batch_messages_max", self.batch_messages_max.into(), 1..=1000, "1 to 1000"),
            ("batch_bytes_max", self.batch_bytes_max.into(), 1..=10_000_000, "1 to 10000000"),
            ("publish_timeout_ms", self.publish_timeout_ms, 1..=600_000, "1 to 600000"),
            ("call_timeout_ms", self.call_timeout_ms, 1..=600_000, "1 to 600000"),
            ("probe_interval_ms", self.probe_interval_ms, 100..=600_000, "100 to 600000"),
        ];
        for (key, found, allowed, range) in ranges {
            if !allowed.contains(&found) {
                return Err(OpenError::Range { key, found, range });
            }
        }
        Ok(())
    }

    pub(crate) fn manage(&self) -> Manage {
        self.manage.unwrap_or(if self.emulator_host.is_some() { Manage::Create } else { Manage::Verify })
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout_ms)
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!("projects/{}/{kind}/{name}", self.project.as_deref().unwrap_or_default())
    }

    pub(crate) fn topic_path(&self, name: &str) -> String {
        self.path("topics", name)
    }

    pub(crate) fn subscription_path(&self, name: &str) -> String {
        self.path("subscriptions", name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Config {
        Config { project: Some("demo".to_owned()), ..Config::default() }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(valid().validate().is_ok());
        let cases: [fn(&mut Config); 9] = [
            |c| c.project = None,
            |c| c.project = Some("a/b".to_owned()),
            |c| c.emulator_host = Some(Secret::new("localhost")),
            |c| c.endpoint = Some(Secret::new("http://example.test")),
            |c| c.dead_letter_topic = Some("x".to_owned()),
            |c| c.ack_deadline_s = 9,
            |c| (c.retry_min_s, c.retry_max_s) = (20, 10),
            |c| c.retention_s = 599,
            |c| c.batch_messages_max = 0,
        ];
        for (number, spoil) in cases.into_iter().enumerate() {
            let mut config = valid();
            spoil(&mut config);
            assert!(config.validate().is_err(), "case {number}");
        }
    }

    #[test]
    fn on_an_emulator_alone_what_is_missing_is_made() {
        let on_emulator = Config { emulator_host: Some(Secret::new("localhost:8085")), ..valid() };
        assert_eq!((on_emulator.manage(), valid().manage()), (Manage::Create, Manage::Verify));
    }

    #[test]
    fn no_key_is_unknown() {
        assert!(serde_json::from_str::<Config>("{\"projekt\": \"demo\"}").is_err());
        let config: Config = serde_json::from_str("{\"project\": \"demo\", \"manage\": \"verify\"}").unwrap();
        assert_eq!(config, Config { manage: Some(Manage::Verify), ..valid() });
    }
}
