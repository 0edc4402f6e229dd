//! What an operator can set about the store.
//!
//! Not here: where the file lies; the host decides that for all of its data.

use sandpost_ports::state::Keep;

/// Bounds of the store. Every one has a default that suits a single machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The most that the file may grow to, in bytes. At seven eighths of it the oldest steps of the ledger give way to
    /// what is new; where none are left, publishing is refused, so that the last eighth takes the deliveries, dead letters
    /// and effects of what was accepted before. Default 10 737 418 240 (10 GiB); at least 1 048 576.
    pub disk_max_bytes: u64,
    /// Commands that wait for the writer; further callers are held until there is room. Default 10 000.
    pub queue_max: usize,
    /// Bytes of messages that wait for the writer; further publishers are held. A single command that is larger waits
    /// until it is alone. Default 268 435 456 (256 MiB).
    pub queue_max_bytes: u64,
    /// Commands of one transaction. More make the disk's sync cheaper for each, and each of them wait longer. Default 512.
    pub batch_max: usize,
    /// How long a dedupe key is known, in milliseconds. Default 86 400 000 (24 hours), what the broker port promises.
    pub dedupe_window_ms: u64,
    /// Which steps the ledger keeps. Default `all`.
    pub ledger: Keep,
    /// How long dropping the last handle waits for the writer to finish, in milliseconds. Default 5 000.
    pub close_wait_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disk_max_bytes: 10 * 1024 * 1024 * 1024,
            queue_max: 10_000,
            queue_max_bytes: 256 * 1024 * 1024,
            batch_max: 512,
            dedupe_window_ms: 24 * 60 * 60 * 1000,
            ledger: Keep::All,
            close_wait_ms: 5_000,
        }
    }
}

impl Config {
    /// The least that [`Config::disk_max_bytes`] may be: the empty schema and some room to work in.
    pub const DISK_MIN_BYTES: u64 = 1024 * 1024;

    /// The most that may be counted by one channel or semaphore.
    const COUNT_MAX: usize = 1_000_000_000;

    /// What is out of range, in words.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.disk_max_bytes < Self::DISK_MIN_BYTES {
            return Some("`disk_max_bytes` is less than 1048576");
        }
        if !(1..=Self::COUNT_MAX).contains(&self.queue_max) {
            return Some("`queue_max` is not between 1 and 1000000000");
        }
        if self.queue_max_bytes == 0 {
            return Some("`queue_max_bytes` is 0");
        }
        if !(1..=Self::COUNT_MAX).contains(&self.batch_max) {
            return Some("`batch_max` is not between 1 and 1000000000");
        }
        None
    }

    /// From how many bytes on nothing new is accepted.
    pub(crate) fn accept_max_bytes(&self) -> u64 {
        self.disk_max_bytes - self.disk_max_bytes / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_and_missing_ones_have_defaults() {
        let some: Config = serde_json::from_str(r#"{"batch_max": 7, "ledger": "failures"}"#).unwrap();
        assert_eq!(some, Config { batch_max: 7, ledger: Keep::Failures, ..Config::default() });
        assert!(serde_json::from_str::<Config>(r#"{"batch_maximum": 7}"#).is_err());
    }

    #[test]
    fn each_bound_is_checked() {
        assert_eq!(Config::default().fault(), None);
        for broken in [
            Config { disk_max_bytes: 1, ..Config::default() },
            Config { queue_max: 0, ..Config::default() },
            Config { queue_max: usize::MAX, ..Config::default() },
            Config { queue_max_bytes: 0, ..Config::default() },
            Config { batch_max: 0, ..Config::default() },
        ] {
            assert!(broken.fault().is_some(), "{broken:?}");
        }
    }
}
