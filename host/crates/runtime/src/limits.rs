//! What one instance may cost: the plugin's wish under the operator's ceiling.
//!
//! Invariants
//! - A plugin that asks for more than the ceiling is refused with a sentence; it is not given less than it said it needs.
//! - What a plugin did not ask for is the default, or the ceiling where that is lower.
//!
//! Not here: who enforces them (`guest`, `instance`, `interfaces::call`); the stack, which is one size for an engine
//! (`engine`).

use sandpost_interfaces::CallLimits;
use serde_json::Value;

/// Limits for one instance. One instance serves one message, or renders one template.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Wall clock of the whole call, host calls included. Default 10 000.
    pub deadline_ms: u64,
    /// The guest's own computing time, waiting for host calls not included; kept to within a tick of 2 ms.
    /// Default 1000.
    pub cpu_max_ms: u64,
    /// Linear memory of the instance, all memories together. Default 67 108 864 (64 MiB).
    pub memory_max_bytes: u64,
    /// Elements of one table. Default 20 000.
    pub table_elements_max: u64,
    /// Core instances inside the component: Python's have more than 20. Default 64.
    pub core_instances_max: u64,
    /// Bytes of a reason in a verdict. Default 4096.
    pub reason_max_bytes: u64,
    /// Bytes that the plugin's standard output and error put into the log, each. Default 16 384.
    pub output_max_bytes: u64,
    /// What it may ask of the host.
    pub call: CallLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline_ms: 10_000,
            cpu_max_ms: 1000,
            memory_max_bytes: 64 * 1024 * 1024,
            table_elements_max: 20_000,
            core_instances_max: 64,
            reason_max_bytes: 4096,
            output_max_bytes: 16 * 1024,
            call: CallLimits::default(),
        }
    }
}

/// Why a plugin's limits are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A key that is none, or a value of the wrong kind.
    #[error("limits: {0}")]
    Invalid(String),
    /// Over the ceiling.
    #[error("asks for limits.{key} = {wish}; the operator's ceiling is {ceiling}")]
    OverCeiling {
        /// Which one.
        key: String,
        /// What was asked.
        wish: u64,
        /// What may be.
        ceiling: u64,
    },
    /// Nothing would run.
    #[error("asks for limits.{0} = 0, with which nothing runs")]
    Zero(String),
}

impl Limits {
    /// The ceiling where the operator set none: what a plugin may ask for without a word to anybody.
    pub fn ceiling() -> Self {
        let call = CallLimits::default();
        Self {
            deadline_ms: 60_000,
            cpu_max_ms: 10_000,
            memory_max_bytes: 256 * 1024 * 1024,
            table_elements_max: 100_000,
            core_instances_max: 64,
            reason_max_bytes: 16 * 1024,
            output_max_bytes: 64 * 1024,
            call: CallLimits {
                host_calls_max: 10 * call.host_calls_max,
                host_bytes_max: 4 * call.host_bytes_max,
                log_max_bytes: 4 * call.log_max_bytes,
                cache_keys_max: call.cache_keys_max,
                cache_value_max_bytes: 4 * call.cache_value_max_bytes,
                rows_max: 10 * call.rows_max,
                parameters_max: call.parameters_max,
                result_max_bytes: 4 * call.result_max_bytes,
                statement_timeout_ms: 30_000,
                documents_batch_max: 10 * call.documents_batch_max,
                find_max: 10 * call.find_max,
                document_max_bytes: 4 * call.document_max_bytes,
                document_depth_max: call.document_depth_max,
                resources_max: 4 * call.resources_max,
                publishes_max: 10 * call.publishes_max,
                hops_max: 4 * call.hops_max,
                emails_max: 10 * call.emails_max,
                effects_parallel: 4 * call.effects_parallel,
            },
        }
    }

    /// What a plugin gets that asks for `wish` where `ceiling` is the most.
    pub fn resolve(wish: &toml::Table, ceiling: &Self) -> Result<Self, LimitsError> {
        Self::check_words(wish)?;
        let invalid = |error: serde_json::Error| LimitsError::Invalid(error.to_string());
        let mut limits = serde_json::to_value(Self::default()).map_err(invalid)?;
        let ceiling = serde_json::to_value(ceiling).map_err(invalid)?;
        let wish = serde_json::to_value(wish).map_err(invalid)?;
        settle("", &mut limits, &wish, &ceiling)?;
        serde_json::from_value(limits).map_err(invalid)
    }

    /// Whether every key is one and every value a number of its kind.
    pub(crate) fn check_words(wish: &toml::Table) -> Result<(), LimitsError> {
        let wish = wish.clone();
        wish.try_into::<Self>()
            .map(drop)
            .map_err(|error| LimitsError::Invalid(error.to_string().trim_end().replace('\n', ", ")))
    }
}

/// Walks the three alike: every limit is a number, and more of it is more.
fn settle(path: &str, limit: &mut Value, wish: &Value, ceiling: &Value) -> Result<(), LimitsError> {
    if let Value::Object(limits) = limit {
        for (key, limit) in limits {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            settle(&path, limit, &wish[key], &ceiling[key])?;
        }
        return Ok(());
    }
    let ceiling = ceiling.as_u64().unwrap_or(u64::MAX);
    *limit = match wish.as_u64() {
        Some(0) if !path.starts_with("call.") && path != "output_max_bytes" => {
            return Err(LimitsError::Zero(path.to_owned()));
        }
        Some(wish) if wish > ceiling => {
            return Err(LimitsError::OverCeiling { key: path.to_owned(), wish, ceiling });
        }
        Some(wish) => wish.into(),
        None => limit.as_u64().unwrap_or_default().min(ceiling).into(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_asked_is_the_default_or_the_ceiling_where_that_is_lower() {
        assert_eq!(Limits::resolve(&wish(""), &Limits::ceiling()), Ok(Limits::default()));
        let low = Limits { cpu_max_ms: 50, ..Limits::ceiling() };
        assert_eq!(Limits::resolve(&wish(""), &low), Ok(Limits { cpu_max_ms: 50, ..Limits::default() }));
    }

    #[test]
    fn asking_for_more_than_the_ceiling_is_refused_by_name() {
        let asked = wish("deadline_ms = 20000\n[call]\nhost_calls_max = 5000");
        let given = Limits::resolve(&asked, &Limits::ceiling()).unwrap();
        assert_eq!((given.deadline_ms, given.call.host_calls_max), (20_000, 5000));
        let error = Limits::resolve(&wish("[call]\nhost_calls_max = 10001"), &Limits::ceiling()).unwrap_err();
        assert_eq!(error.to_string(), "asks for limits.call.host_calls_max = 10001; the operator's ceiling is 10000");
        assert!(matches!(Limits::resolve(&wish("cpu_max_ms = 0"), &Limits::ceiling()), Err(LimitsError::Zero(_))));
        assert!(matches!(Limits::resolve(&wish("cpu_max_ms = -1"), &Limits::ceiling()), Err(LimitsError::Invalid(_))));
        assert!(matches!(Limits::resolve(&wish("cpu = 1"), &Limits::ceiling()), Err(LimitsError::Invalid(_))));
    }

    #[test]
    fn no_default_is_over_the_ceiling() {
        let defaults = toml::Table::try_from(Limits::default()).unwrap();
        assert_eq!(Limits::resolve(&defaults, &Limits::ceiling()), Ok(Limits::default()));
    }
}
