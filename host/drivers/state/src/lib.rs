//! The host's state on MySQL or Postgres, shared by all hosts.
