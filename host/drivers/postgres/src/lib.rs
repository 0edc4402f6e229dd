//! Postgres as an SQL database.
