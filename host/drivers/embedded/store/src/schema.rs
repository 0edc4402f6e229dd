//! The tables, and how a file of an older program becomes one of this program.
//!
//! Invariants
//! - `user_version` is the number of migrations that the file has seen. One that has seen more is not touched.
//! - A migration that was released is never edited; a change is a further one.
//! - Times are milliseconds since 1970, names are texts, and everything that is looked up has an index.

use rusqlite::Connection;
use rusqlite::backup::Backup;
use std::sync::{Mutex, PoisonError};

/// Marks the file as ours: `SPst` in ASCII.
pub(crate) const APPLICATION_ID: i64 = 0x5350_7374;

/// In the order in which they are applied.
pub(crate) const MIGRATIONS: &[&str] = &[FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH];

const FIRST: &str = "
-- Numbers of the store itself: up to where ids were given out.
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('ids', 1), ('health', 0);

CREATE TABLE subscriptions (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, topic TEXT NOT NULL);

-- A message while any subscription has yet to settle it. The body is last: the other columns are read without it.
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    content_type TEXT NOT NULL,
    attributes TEXT,
    published_at_ms INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    dedupe_key TEXT,
    only_subscription TEXT,
    trace TEXT NOT NULL,
    body BLOB NOT NULL
);

-- One row for each subscription that has yet to settle the message. `visible_at_ms` alone decides when it is delivered:
-- for a fresh one it is when it was published or its not-before, for a leased one the end of the lease, in a back-off the
-- time of the next attempt; none while an earlier message of its ordering key is unsettled. `lease` is 0 or the lease.
CREATE TABLE deliveries (
    subscription INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    visible_at_ms INTEGER,
    lease INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    ordering_key TEXT,
    PRIMARY KEY (subscription, seq)
) WITHOUT ROWID;
-- The rest of the primary key, `seq`, is in both indexes by itself, as their last column.
CREATE INDEX deliveries_due ON deliveries (subscription, visible_at_ms) WHERE visible_at_ms IS NOT NULL;
CREATE INDEX deliveries_keys ON deliveries (subscription, ordering_key) WHERE ordering_key IS NOT NULL;

CREATE TABLE dedupe (
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    message_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, key)
) WITHOUT ROWID;
CREATE INDEX dedupe_age ON dedupe (at_ms);

CREATE TABLE ledger (
    message_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    step TEXT NOT NULL,
    subscription TEXT,
    attempt INTEGER,
    plugin TEXT,
    version TEXT,
    digest TEXT,
    trace_id TEXT NOT NULL,
    detail TEXT,
    PRIMARY KEY (message_id, n)
) WITHOUT ROWID;
CREATE INDEX ledger_age ON ledger (at_ms);

CREATE TABLE dead_letters (
    id TEXT PRIMARY KEY,
    subscription TEXT NOT NULL,
    topic TEXT NOT NULL,
    dead_at_ms INTEGER NOT NULL,
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    plugin TEXT NOT NULL,
    version TEXT,
    digest TEXT,
    trace_id TEXT NOT NULL,
    replaying INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    content_type TEXT NOT NULL,
    attributes TEXT,
    ordering_key TEXT,
    published_at_ms INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    dedupe_key TEXT,
    only_subscription TEXT,
    trace TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX dead_letters_message ON dead_letters (message_id, subscription);
CREATE INDEX dead_letters_subscription ON dead_letters (subscription, id);

-- `state`: 0 claimed, 1 sending, 2 sent.
CREATE TABLE effects (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    state INTEGER NOT NULL,
    sent_id TEXT,
    message_id TEXT NOT NULL,
    subscription TEXT NOT NULL,
    claimed_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX effects_message ON effects (message_id, subscription);
CREATE INDEX effects_age ON effects (claimed_at_ms);

CREATE TABLE requests (
    key TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    plan BLOB NOT NULL,
    stale_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    answer BLOB
);
CREATE INDEX requests_age ON requests (expires_at_ms);

CREATE TABLE deployments (
    n INTEGER PRIMARY KEY,
    plugin TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    deployed_at_ms INTEGER NOT NULL,
    cause TEXT NOT NULL
);
CREATE INDEX deployments_plugin ON deployments (plugin, n);
";

/// The ledger is most of what is written: a row is appended where it was put between others, says in a number who was at
/// work, and has ids and traces as the bytes that they are. What was written before stays as it is, in text.
const SECOND: &str = "
ALTER TABLE ledger RENAME TO ledger_before;

-- Who was at work: few, and the same in row after row.
CREATE TABLE ledger_actors (id INTEGER PRIMARY KEY, subscription TEXT, plugin TEXT, version TEXT, digest TEXT);

-- No type is named where a value may be bytes or text.
CREATE TABLE ledger (
    n INTEGER PRIMARY KEY,
    message_id NOT NULL,
    at_ms INTEGER NOT NULL,
    step TEXT NOT NULL,
    actor INTEGER NOT NULL,
    attempt INTEGER,
    trace_id NOT NULL,
    detail TEXT
);

INSERT INTO ledger_actors (subscription, plugin, version, digest)
SELECT DISTINCT subscription, plugin, version, digest FROM ledger_before;
INSERT INTO ledger (n, message_id, at_ms, step, actor, attempt, trace_id, detail)
SELECT b.n, b.message_id, b.at_ms, b.step, a.id, b.attempt, b.trace_id, b.detail
FROM ledger_before AS b JOIN ledger_actors AS a
ON a.subscription IS b.subscription AND a.plugin IS b.plugin AND a.version IS b.version AND a.digest IS b.digest;
DROP TABLE ledger_before;

CREATE INDEX ledger_message ON ledger (message_id);
CREATE INDEX ledger_age ON ledger (at_ms);
";

/// Three rows for a message that goes straight through, each with two places in indexes, were most of what the writer did.
/// A row is what one transaction recorded of one message now, and age is known of what was written together.
const THIRD: &str = "
ALTER TABLE ledger RENAME TO ledger_before;
DROP INDEX ledger_message;
DROP INDEX ledger_age;

-- `steps`: an array of [step, at_ms, actor, attempt, detail]. No type is named where a value may be bytes or text.
CREATE TABLE ledger (n INTEGER PRIMARY KEY, message_id NOT NULL, trace_id NOT NULL, steps TEXT NOT NULL);

-- The rows from `first` to `last` were written together; `from_ms` is the earliest time in them.
CREATE TABLE ledger_batches (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, from_ms INTEGER NOT NULL);

INSERT INTO ledger (n, message_id, trace_id, steps)
SELECT n, message_id, trace_id, json_array(json_array(step, at_ms, actor, attempt, detail)) FROM ledger_before;
INSERT INTO ledger_batches (first, last, from_ms)
SELECT min(n), max(n), min(at_ms) FROM ledger_before GROUP BY n / 1000;
DROP TABLE ledger_before;

CREATE INDEX ledger_message ON ledger (message_id);
CREATE INDEX ledger_batches_age ON ledger_batches (from_ms);
";

/// A row and a place in an index for each message were still much of what the writer did. What a transaction recorded of
/// many messages is one row now. What it recorded of one alone, and what was there before, are rows of `ledger` as ever.
const FOURTH: &str = "
-- What was recorded of messages from `from_id` to `until_id`, whose times are a second apart at most. `steps` has a
-- record of each, by id: 16 bytes of message id, 16 of trace id, 4 that say how many follow (the lowest first), and as
-- many of the text that `ledger` has as `steps`. Numbers and batches are shared with `ledger`.
CREATE TABLE ledger_segments (
    n INTEGER PRIMARY KEY,
    from_id BLOB NOT NULL,
    until_id BLOB NOT NULL,
    steps BLOB NOT NULL
);

-- Both ids, so that a segment that does not have a message is not read.
CREATE INDEX ledger_segments_ids ON ledger_segments (from_id, until_id);
";

/// A message that can be delivered at once needs no rows of its own: what one transaction accepts is one row, and how it
/// stands on a line one more.
const FIFTH: &str = "
-- `first` is the number of the first of its messages, which are numbered one after the other. They come last: the other
-- columns are read without them.
CREATE TABLE bundles (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    published_at_ms INTEGER NOT NULL,
    messages BLOB NOT NULL
);

-- One row for each subscription that has yet to settle any of them. `marks` has a byte for each: 0 nobody has it, 1
-- somebody has it for the first time, 2 it is settled or has a row in `deliveries`; none where nobody has any.
CREATE TABLE bundle_deliveries (
    subscription INTEGER NOT NULL,
    first INTEGER NOT NULL,
    remaining INTEGER NOT NULL,
    marks BLOB,
    PRIMARY KEY (subscription, first)
) WITHOUT ROWID;
";

/// How many handlers' publishes lead to a message. It comes after what is large, and is read only together with it.
const SIXTH: &str = "
ALTER TABLE messages ADD COLUMN hops INTEGER NOT NULL DEFAULT 0;

-- A byte for each message; none where all are 0, which is what services publish.
ALTER TABLE bundles ADD COLUMN hops BLOB;
";

/// Which file this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Empty, or ours with this many migrations.
    Ours(usize),
    /// Ours, of a newer program.
    Newer(i64),
    /// A database of somebody else.
    Foreign,
}

/// Looks without changing anything.
pub(crate) fn inspect(conn: &Connection) -> rusqlite::Result<Found> {
    let application: i64 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID {
        let empty = application == 0 && version == 0 && objects == 0;
        return Ok(if empty { Found::Ours(0) } else { Found::Foreign });
    }
    Ok(match usize::try_from(version) {
        Ok(seen) if seen <= MIGRATIONS.len() => Found::Ours(seen),
        _ => Found::Newer(version),
    })
}

/// Applies what the file has not seen, each migration in a transaction of its own.
pub(crate) fn migrate(conn: &mut Connection, seen: usize) -> rusqlite::Result<()> {
    for (place, migration) in MIGRATIONS.iter().enumerate().skip(seen) {
        let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i64::try_from(place + 1).unwrap_or(i64::MAX))?;
        transaction.commit()?;
    }
    Ok(())
}

/// Makes an empty database one that has seen all migrations, by copying one that has: for stores in memory, of which every
/// sample of a plugin has one. The migrations take longer than most samples.
pub(crate) fn fill(empty: &mut Connection) -> rusqlite::Result<()> {
    static MIGRATED: Mutex<Option<Connection>> = Mutex::new(None);
    let mut migrated = MIGRATED.lock().unwrap_or_else(PoisonError::into_inner);
    let migrated = match &mut *migrated {
        Some(migrated) => migrated,
        none => {
            let mut made = Connection::open_in_memory()?;
            migrate(&mut made, 0)?;
            none.insert(made)
        }
    };
    // All pages in one step: nobody else has either of the two. Were it cut short, the other would be empty still, and migrated.
    Backup::new(migrated, empty)?.step(-1).map(drop)
}
