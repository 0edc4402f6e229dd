//! What the export of traces reports of itself. Lines come rarely: the collector's troubles are not the host's.
//!
//! Metrics
//! - `sandpost_spans_exported_total`: taken by the collector.
//! - `sandpost_spans_lost_total{reason}`: not exported: `queue-full`, `refused`, `stopped`, or a kind of failure.
//! - `sandpost_span_export_failures_total{kind}`: requests that failed: `unreachable`, `timeout`, `tls`, `unavailable`,
//!   `rejected`.

use metrics::counter;

/// The part of the host that a line names.
const TARGET: &str = "sandpost::traces";

/// The collector took spans.
pub struct SpansExported {
    /// How many.
    pub count: u64,
}

impl SpansExported {
    /// Counts them.
    pub fn emit(self) {
        counter!("sandpost_spans_exported_total").increment(self.count);
    }
}

/// Spans were dropped.
pub struct SpansLost {
    /// Why.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

impl SpansLost {
    /// Counts them; [`ExportFailed`] says it now and then.
    pub fn emit(self) {
        counter!("sandpost_spans_lost_total", "reason" => self.reason).increment(self.count);
    }
}

/// The collector did not take a request.
pub struct ExportFailed<'a> {
    /// A word of a closed list.
    pub kind: &'static str,
    /// In words; no header.
    pub error: &'a str,
    /// How many spans were lost since the start.
    pub lost: u64,
    /// Whether a line is due.
    pub line: bool,
}

impl ExportFailed<'_> {
    /// Counts it, and says so where that is due.
    pub fn emit(self) {
        let Self { kind, error, lost, line } = self;
        counter!("sandpost_span_export_failures_total", "kind" => kind).increment(1);
        if line {
            tracing::warn!(
                target: TARGET, kind, error, lost,
                "Traces are not exported as they should be; messages are not affected. Said once a minute at most."
            );
        }
    }
}

/// The collector takes spans again.
pub struct ExportResumed {
    /// How many were lost since the start.
    pub lost: u64,
}

impl ExportResumed {
    /// Says so.
    pub fn emit(self) {
        tracing::info!(target: TARGET, lost = self.lost, "Traces are exported again.");
    }
}
