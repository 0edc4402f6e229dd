//! The tables, once, and how each database is told to make them.
//!
//! Invariants
//! - A migration that was released is never edited; a change is a further one, and none destroys what is there.
//! - Every statement can be run again: MySQL commits each by itself, and a host may die between two of them.
//! - Times are milliseconds since 1970. Names are ASCII and compared by their bytes. What others chose freely and is compared
//!   (keys, owners) is kept as bytes. Everything that is looked up has an index.

use crate::config::Dialect;
use std::fmt::Write as _;

/// In the order in which they are applied; the first is number 1.
pub(crate) const MIGRATIONS: &[&[Table]] = &[FIRST];

/// Where it is kept which of them were applied.
pub(crate) const APPLIED: Table = Table {
    name: "migrations",
    columns: "number BIGINT NOT NULL PRIMARY KEY, applied_at_ms BIGINT NOT NULL",
    indexes: &[],
};

/// A table in words for both; `{…}` stands for a type.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    columns: &'static str,
    indexes: &'static [Index],
}

struct Index {
    name: &'static str,
    columns: &'static str,
    is_unique: bool,
}

const fn index(name: &'static str, columns: &'static str) -> Index {
    Index { name, columns, is_unique: false }
}

const FIRST: &[Table] = &[
    Table {
        name: "ledger",
        columns: "n {number}, message_id {name} NOT NULL, at_ms BIGINT NOT NULL, step {name} NOT NULL, \
                  subscription {name}, attempt BIGINT, plugin {name}, version {text}, digest {name}, \
                  trace_id {name} NOT NULL, detail {text}",
        indexes: &[index("message", "message_id, n"), index("age", "at_ms")],
    },
    Table {
        name: "dead_letters",
        columns: "id {name} NOT NULL PRIMARY KEY, subscription {name} NOT NULL, topic {name} NOT NULL, \
                  dead_at_ms BIGINT NOT NULL, cause {word} NOT NULL, reason {text} NOT NULL, attempts BIGINT NOT NULL, \
                  plugin {name} NOT NULL, version {text}, digest {name}, trace_id {name} NOT NULL, \
                  replaying BIGINT NOT NULL, message_id {name} NOT NULL, content_type {text} NOT NULL, attributes {text}, \
                  ordering_key {key}, published_at_ms BIGINT NOT NULL, not_before_ms BIGINT NOT NULL, dedupe_key {key}, \
                  only_subscription {name}, trace {name} NOT NULL, body {bytes} NOT NULL",
        indexes: &[
            Index { name: "message", columns: "message_id, subscription", is_unique: true },
            index("subscription", "subscription, id"),
            index("topic", "topic, id"),
            index("cause", "cause, id"),
        ],
    },
    // `state`: 0 claimed, 1 sending, 2 sent.
    Table {
        name: "effects",
        columns: "effect_key {key} NOT NULL PRIMARY KEY, owner {key} NOT NULL, state BIGINT NOT NULL, sent_id {text}, \
                  message_id {name} NOT NULL, subscription {name} NOT NULL, claimed_at_ms BIGINT NOT NULL",
        indexes: &[index("message", "message_id, subscription"), index("age", "claimed_at_ms")],
    },
    Table {
        name: "requests",
        columns: "request_key {key} NOT NULL PRIMARY KEY, fingerprint {bytes} NOT NULL, plan {bytes} NOT NULL, \
                  stale_at_ms BIGINT NOT NULL, expires_at_ms BIGINT NOT NULL, answer {bytes}",
        indexes: &[index("age", "expires_at_ms")],
    },
    Table {
        name: "deployments",
        columns: "n {number}, plugin {name} NOT NULL, version {text} NOT NULL, digest {name} NOT NULL, \
                  deployed_at_ms BIGINT NOT NULL, cause {word} NOT NULL",
        indexes: &[index("plugin", "plugin, n")],
    },
];

/// Longest key, owner, ordering key and dedupe key; the ports' own bounds are within it.
pub(crate) const KEY_MAX_BYTES: usize = 1024;

impl Table {
    /// The statements that make it, where it is not there.
    pub(crate) fn statements(&self, dialect: Dialect, prefix: &str) -> Vec<String> {
        let Self { name, columns, indexes } = self;
        let types: [(&str, &str); 6] = match dialect {
            Dialect::Mysql => [
                ("{number}", "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"),
                ("{name}", "VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin"),
                ("{word}", "VARCHAR(191)"),
                ("{text}", "MEDIUMTEXT"),
                ("{key}", "VARBINARY(1024)"),
                ("{bytes}", "LONGBLOB"),
            ],
            Dialect::Postgres => [
                ("{number}", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
                ("{name}", "VARCHAR(255) COLLATE \"C\""),
                ("{word}", "VARCHAR(191) COLLATE \"C\""),
                ("{text}", "TEXT"),
                ("{key}", "BYTEA"),
                ("{bytes}", "BYTEA"),
            ],
        };
        let columns = types.iter().fold((*columns).to_owned(), |sql, (name, of)| sql.replace(name, of));
        match dialect {
            Dialect::Mysql => {
                let mut sql = format!("CREATE TABLE IF NOT EXISTS {prefix}{name} ({columns}");
                for Index { name, columns, is_unique } in *indexes {
                    let unique = if *is_unique { "UNIQUE " } else { "" };
                    // Writing to a string does not fail.
                    write!(sql, ", {unique}KEY by_{name} ({columns})").ok();
                }
                sql.push_str(") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC");
                vec![sql]
            }
            Dialect::Postgres => {
                let mut all = vec![format!("CREATE TABLE IF NOT EXISTS {prefix}{name} ({columns})")];
                for Index { name: by, columns, is_unique } in *indexes {
                    let unique = if *is_unique { "UNIQUE " } else { "" };
                    all.push(format!(
                        "CREATE {unique}INDEX IF NOT EXISTS {prefix}{name}_by_{by} ON {prefix}{name} ({columns})"
                    ));
                }
                all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_known_to_both_and_every_name_fits() {
        let longest = "p".repeat(32);
        for dialect in [Dialect::Mysql, Dialect::Postgres] {
            for table in MIGRATIONS.iter().copied().flatten().chain([&APPLIED]) {
                for sql in table.statements(dialect, &longest) {
                    assert!(!sql.contains('{'), "{sql}");
                    assert!(sql.split([' ', '(']).all(|word| word.len() <= 63), "{sql}");
                }
            }
        }
    }
}
