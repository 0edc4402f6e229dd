//! One struct per event; its `emit` writes the log line and counts the metric from the same fields, so that the two
//! cannot disagree. A file for each crate that reports.
//!
//! Metric names begin with `sandpost_` and end with their unit or `_total`; labels are names of the configuration
//! (topic, subscription, plugin, connection) or words of a closed list, never ids: their number is bounded.

pub mod connections;
pub mod dispatch;
pub mod ingress;
pub mod interfaces;
pub mod runtime;
#[cfg(feature = "otlp")]
pub mod traces;
