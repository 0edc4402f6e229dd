//! What `dispatch` reports.
