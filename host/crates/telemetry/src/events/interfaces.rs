//! What `interfaces` reports.
