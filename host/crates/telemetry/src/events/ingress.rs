//! What `ingress` reports.
