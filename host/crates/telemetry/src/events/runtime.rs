//! What `runtime` reports.
