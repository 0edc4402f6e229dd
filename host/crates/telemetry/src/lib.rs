//! Logs and metrics: how the host says what it does.
//!
//! The only crate that knows the names of metrics and the shape of a log line. Others make an event and emit it.

pub mod events;
