//! What the operator set for this plugin: texts by key.

use crate::sys;
use std::fmt;
use std::str::FromStr;

/// A value that does not fit the type that was asked for. `?` retries the message: the operator can mend it meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    key: String,
    reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration key `{}` is not as expected: {}", self.key, self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// The text of one key.
pub fn get(key: &str) -> Option<String> {
    sys::config_get(key)
}

/// The value of one key, as a number, an address, whatever parses.
///
/// ```
/// # let host = sandpost_sdk::testing::Host::new();
/// # host.config("batch", "20");
/// use sandpost_sdk::config;
///
/// let batch: u32 = config::parse("batch")?.unwrap_or(10);
/// assert_eq!(batch, 20);
/// # Ok::<_, config::ConfigError>(())
/// ```
pub fn parse<T: FromStr<Err: fmt::Display>>(key: &str) -> Result<Option<T>, ConfigError> {
    let fault = |reason: T::Err| ConfigError { key: key.to_owned(), reason: reason.to_string() };
    get(key).map(|text| text.trim().parse().map_err(fault)).transpose()
}

/// All that is set.
pub fn all() -> Vec<(String, String)> {
    sys::config_all()
}
