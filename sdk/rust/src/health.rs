//! What the host last saw of each connection.

use crate::sys;
use std::time::Duration;

/// The state of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It answered, within this time.
    Ok(Duration),
    /// It did not, and why.
    Failed(String),
}

/// Every connection by its label.
pub fn connections() -> Vec<(String, State)> {
    sys::connections()
}
