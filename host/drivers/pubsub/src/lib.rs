//! Google Pub/Sub as the broker.
