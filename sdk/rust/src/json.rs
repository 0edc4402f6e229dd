//! JSON in and out, with errors that say where.

use crate::error::HostError;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

/// Where a text does not fit, and why.
#[derive(Debug)]
pub(crate) struct Fault {
    path: String,
    reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path == "." { f.write_str(&self.reason) } else { write!(f, "`{}`: {}", self.path, self.reason) }
    }
}

/// Reads one JSON text, to its end.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Fault> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| Fault { path: error.path().to_string(), reason: error.inner().to_string() })?;
    deserializer.end().map_err(|error| Fault { path: ".".to_owned(), reason: error.to_string() })?;
    Ok(value)
}

/// Reads what the host answered; `what` says which answer, in the error.
pub(crate) fn decode<T: DeserializeOwned>(text: &[u8], what: impl fmt::Display) -> Result<T, HostError> {
    from_slice(text).map_err(|fault| HostError::Decode(format!("{what}: {fault}")))
}

/// Writes what the host is given.
pub(crate) fn encode(value: &(impl Serialize + ?Sized), what: impl fmt::Display) -> Result<Vec<u8>, HostError> {
    serde_json::to_vec(value).map_err(|error| HostError::Invalid(format!("{what} is not JSON: {error}")))
}

/// The same, as text.
pub(crate) fn encode_text(value: &(impl Serialize + ?Sized), what: impl fmt::Display) -> Result<String, HostError> {
    serde_json::to_string(value).map_err(|error| HostError::Invalid(format!("{what} is not JSON: {error}")))
}
