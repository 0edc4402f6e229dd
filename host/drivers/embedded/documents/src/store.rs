//! Documents and index entries in SQLite: keeping them together, and finding those that an equality leaves.
//!
//! Invariants
//! - A document, its index entries and its unique keys change in one transaction.
//! - The entries of an index hold, for each path, everything that a filter would see there. So an equality never misses a
//!   document through an index, and what the index finds is still put to the filter.
//! - A document keeps its `seq` for life, and no `seq` is used twice: a cursor goes on after the last one it has read.
//!
//! Not here: what a filter or an update means.

use crate::config::{Config, OpenError};
use crate::extjson;
use crate::filter::Filter;
use crate::path::{self, Path};
use crate::value::{Bson, Document};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use sandpost_ports::documents::Index;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Version of the tables, in SQLite's header field for it.
const SCHEMA_VERSION: i64 = 1;

/// Marks a file as ours ("Sdoc" in ASCII).
const APPLICATION_ID: i64 = 0x5364_6f63;

const SCHEMA: &str = "
    CREATE TABLE documents (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        collection TEXT NOT NULL,
        id_key BLOB NOT NULL,
        body TEXT NOT NULL,
        UNIQUE (collection, id_key)
    );
    CREATE INDEX documents_in_order ON documents (collection, seq);
    CREATE TABLE indexes (
        id INTEGER PRIMARY KEY,
        collection TEXT NOT NULL,
        keys TEXT NOT NULL,
        is_unique INTEGER NOT NULL,
        UNIQUE (collection, keys)
    );
    CREATE TABLE entries (
        index_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (index_id, key, seq)
    ) WITHOUT ROWID;
    CREATE INDEX entries_of ON entries (seq);
    CREATE TABLE uniques (
        index_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (index_id, key)
    ) WITHOUT ROWID;
    CREATE INDEX uniques_of ON uniques (seq);
";

/// Most entries of one document in one index: arrays at several of its paths multiply.
const ENTRIES_MAX: usize = 100_000;

/// Most keys that one filter is looked up by; a longer `$in` is not served by an index.
const LOOKUPS_MAX: usize = 1_000;

/// Documents read at once in a scan, and bytes of them.
const PAGE_DOCUMENTS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// Pages of SQLite's default size, by which [`Config::size_max_bytes`] is counted.
const SQLITE_PAGE_BYTES: u64 = 4_096;

const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";

/// Prepared statements that are kept; there are fewer.
const STATEMENTS_KEPT: usize = 64;

/// Pages in the log before it is written back. More than SQLite's 1000: a checkpoint syncs twice.
const CHECKPOINT_PAGES: i64 = 4_000;

/// A database of collections, on one connection.
pub(crate) struct Store {
    connection: Connection,
    indexes: HashMap<String, Vec<StoredIndex>>,
    pub(crate) scan_max_documents: usize,
    pub(crate) memory_max_bytes: usize,
    /// Set once nobody waits for the call that runs.
    pub(crate) given_up: Arc<AtomicBool>,
    /// Whether calls are parts of one transaction, and not each one of its own.
    together: bool,
}

#[derive(Debug, Clone)]
struct StoredIndex {
    id: i64,
    paths: Vec<Path>,
    is_unique: bool,
}

/// Where to look for documents, and how far that has come. Holds nothing of the database between calls.
#[derive(Debug)]
pub(crate) enum Source {
    /// All of the collection after this `seq`.
    Scan { after: i64, page: VecDeque<(i64, Document)> },
    /// These, from a place on.
    Listed { seqs: Vec<i64>, at: usize },
}

impl Source {
    pub(crate) fn listed(seqs: Vec<i64>) -> Self {
        Self::Listed { seqs, at: 0 }
    }

    /// Lets the next call of [`Store::next`] begin with this document, which was the last.
    pub(crate) fn unread(&mut self, seq: i64) {
        match self {
            Self::Scan { after, .. } => *after = seq - 1,
            Self::Listed { at, .. } => *at = at.saturating_sub(1),
        }
        self.forget();
    }

    /// Drops what was read ahead.
    pub(crate) fn forget(&mut self) {
        if let Self::Scan { page, .. } = self {
            page.clear();
        }
    }
}

impl Store {
    pub(crate) fn open(config: &Config) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Database { path: config.path.clone(), source };
        let connection = match &config.path {
            Some(path) => Connection::open(path),
            None => Connection::open_in_memory(),
        }
        .map_err(failed)?;
        Self::set_up(&connection, config).map_err(failed)?;

        let read = |pragma| connection.query_row(pragma, [], |row| row.get::<_, i64>(0)).map_err(failed);
        let objects = read("SELECT count(*) FROM sqlite_schema")?;
        let known = (read("PRAGMA application_id")?, read("PRAGMA user_version")?);
        if objects == 0 {
            let header = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};");
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} {header} COMMIT;")).map_err(failed)?;
        } else if known != (APPLICATION_ID, SCHEMA_VERSION) {
            return Err(OpenError::Foreign { path: config.path.clone().unwrap_or_default() });
        }
        let mut store = Self {
            connection,
            indexes: HashMap::new(),
            scan_max_documents: config.scan_max_documents,
            memory_max_bytes: config.memory_max_bytes,
            given_up: Arc::default(),
            together: false,
        };
        store.indexes = store.read_indexes().map_err(failed)?;
        Ok(store)
    }

    fn set_up(connection: &Connection, config: &Config) -> rusqlite::Result<()> {
        connection.busy_timeout(Duration::from_millis(config.wait_max_ms))?;
        if config.path.is_some() {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        let pages = i64::try_from(config.size_max_bytes / SQLITE_PAGE_BYTES).unwrap_or(i64::MAX);
        connection.pragma_update(None, "max_page_count", pages)
    }

    fn read_indexes(&self) -> rusqlite::Result<HashMap<String, Vec<StoredIndex>>> {
        let mut statement =
            self.connection.prepare("SELECT collection, id, keys, is_unique FROM indexes ORDER BY id")?;
        let mut rows = statement.query([])?;
        let mut indexes: HashMap<String, Vec<StoredIndex>> = HashMap::new();
        while let Some(row) = rows.next()? {
            // Directions do not matter for equality; paths have been through `Path::parse` when they were written.
            let keys: Vec<(String, i8)> = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
            let paths = keys.iter().map(|(path, _)| Path(path.split('.').map(str::to_owned).collect())).collect();
            indexes.entry(row.get(0)?).or_default().push(StoredIndex {
                id: row.get(1)?,
                paths,
                is_unique: row.get(3)?,
            });
        }
        Ok(indexes)
    }

    /// One round trip.
    pub(crate) fn check(&self) -> Result<(), PortError> {
        self.connection.query_row("SELECT count(*) FROM indexes", [], |_| Ok(())).map_err(failed)
    }

    /// Runs `work` as one transaction, or as one part of it among others.
    pub(crate) fn write<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, PortError>) -> Result<T, PortError> {
        if self.together { self.step(work) } else { self.within([BEGIN, COMMIT, "ROLLBACK"], work) }
    }

    /// Begins a transaction of several calls: one sync of the disk for all of them.
    pub(crate) fn begin_together(&mut self) -> Result<(), PortError> {
        self.run(BEGIN)?;
        self.together = true;
        Ok(())
    }

    /// Ends it. `Err` where nothing of it is kept.
    pub(crate) fn end_together(&mut self) -> Result<(), PortError> {
        self.together = false;
        let committed = if self.is_within() {
            self.run(COMMIT)
        } else {
            Err(PortError::new(ErrorKind::Unavailable, "the disk failed another call; nothing has been done"))
        };
        if committed.is_err() {
            if self.is_within() {
                self.connection.execute_batch("ROLLBACK").ok();
            }
            // One that was made in it is gone with it.
            if let Ok(indexes) = self.read_indexes() {
                self.indexes = indexes;
            }
        }
        committed
    }

    /// Runs `work` as a part of a transaction that fails by itself.
    pub(crate) fn step<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, PortError>) -> Result<T, PortError> {
        self.within(["SAVEPOINT step", "RELEASE step", "ROLLBACK TO step; RELEASE step"], work)
    }

    fn within<T>(
        &mut self,
        [open, close, undo]: [&str; 3],
        work: impl FnOnce(&mut Self) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        self.run(open)?;
        let done = work(self).and_then(|done| self.run(close).map(|()| done));
        if done.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch(undo).map_err(failed)?;
        }
        done
    }

    /// One statement that is kept: each call of a plugin has some of them.
    fn run(&self, statement: &str) -> Result<(), PortError> {
        self.connection.prepare_cached(statement).and_then(|mut kept| kept.execute([])).map(drop).map_err(failed)
    }

    /// Whether a transaction is still open: after some errors, a full disk for one, SQLite has rolled it back.
    pub(crate) fn is_within(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Puts a document in, which has its `_id` first.
    pub(crate) fn insert(&mut self, collection: &str, document: &Document) -> Result<(), PortError> {
        let id = document.get("_id").ok_or_else(|| PortError::invalid("a document has no `_id`"))?;
        self.connection
            .prepare_cached("INSERT INTO documents (collection, id_key, body) VALUES (?, ?, ?)")
            .and_then(|mut insert| insert.execute(params![collection, encoded(id), extjson::stored(document)]))
            .map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => PortError::new(
                    ErrorKind::Conflict,
                    format!("`{collection}` has a document with this `_id` already"),
                ),
                _ => failed(error),
            })?;
        self.index(collection, self.connection.last_insert_rowid(), document)
    }

    /// Puts another state of a document, with the same `_id`, in its place.
    pub(crate) fn replace(&mut self, collection: &str, seq: i64, document: &Document) -> Result<(), PortError> {
        self.connection
            .prepare_cached("UPDATE documents SET body = ? WHERE seq = ?")
            .and_then(|mut update| update.execute(params![extjson::stored(document), seq]))
            .map_err(failed)?;
        self.unindex(collection, seq)?;
        self.index(collection, seq, document)
    }

    pub(crate) fn delete(&mut self, collection: &str, seq: i64) -> Result<(), PortError> {
        self.connection
            .prepare_cached("DELETE FROM documents WHERE seq = ?")
            .and_then(|mut delete| delete.execute([seq]))
            .map_err(failed)?;
        self.unindex(collection, seq)
    }

    /// Deletes all of a collection, without looking at it; its indexes stay.
    pub(crate) fn clear(&mut self, collection: &str) -> Result<u64, PortError> {
        for statement in [
            "DELETE FROM entries WHERE index_id IN (SELECT id FROM indexes WHERE collection = ?)",
            "DELETE FROM uniques WHERE index_id IN (SELECT id FROM indexes WHERE collection = ?)",
        ] {
            self.connection.execute(statement, [collection]).map_err(failed)?;
        }
        let deleted =
            self.connection.execute("DELETE FROM documents WHERE collection = ?", [collection]).map_err(failed)?;
        Ok(deleted as u64)
    }

    /// How many documents a collection has, without looking at them.
    pub(crate) fn count(&self, collection: &str) -> Result<u64, PortError> {
        self.connection
            .query_row("SELECT count(*) FROM documents WHERE collection = ?", [collection], |row| row.get(0))
            .map(|count: i64| u64::try_from(count).unwrap_or(0))
            .map_err(failed)
    }

    /// Makes an index and fills it; nothing where it is there.
    pub(crate) fn ensure_index(&mut self, collection: &str, index: &Index) -> Result<(), PortError> {
        let paths = index.keys.iter().map(|(path, _)| Path::parse(path)).collect::<Result<Vec<_>, _>>()?;
        let keys = serde_json::to_string(&index.keys)
            .map_err(|error| PortError::invalid("the keys of an index").because(error))?;
        let present: Option<bool> = self
            .connection
            .query_row(
                "SELECT is_unique FROM indexes WHERE collection = ? AND keys = ?",
                params![collection, keys],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        match present {
            Some(is_unique) if is_unique == index.unique => return Ok(()),
            Some(_) => {
                return Err(PortError::new(
                    ErrorKind::Conflict,
                    format!("`{collection}` has this index already, with another `unique`"),
                ));
            }
            None => {}
        }
        self.write(|store| {
            store
                .connection
                .execute(
                    "INSERT INTO indexes (collection, keys, is_unique) VALUES (?, ?, ?)",
                    params![collection, keys, index.unique],
                )
                .map_err(failed)?;
            let made = StoredIndex { id: store.connection.last_insert_rowid(), paths, is_unique: index.unique };
            let mut after = 0;
            loop {
                let page = store.page(collection, after)?;
                let Some((last, _)) = page.back() else { return Ok(()) };
                after = *last;
                for (seq, document) in &page {
                    store.add_entries(&made, *seq, document)?;
                }
            }
        })?;
        self.indexes = self.read_indexes().map_err(failed)?;
        Ok(())
    }

    fn index(&self, collection: &str, seq: i64, document: &Document) -> Result<(), PortError> {
        self.indexes.get(collection).into_iter().flatten().try_for_each(|index| self.add_entries(index, seq, document))
    }

    fn unindex(&self, collection: &str, seq: i64) -> Result<(), PortError> {
        if !self.indexes.contains_key(collection) {
            return Ok(());
        }
        ["DELETE FROM entries WHERE seq = ?", "DELETE FROM uniques WHERE seq = ?"].into_iter().try_for_each(
            |statement| {
                self.connection
                    .prepare_cached(statement)
                    .and_then(|mut delete| delete.execute([seq]))
                    .map(|_| ())
                    .map_err(failed)
            },
        )
    }

    fn add_entries(&self, index: &StoredIndex, seq: i64, document: &Document) -> Result<(), PortError> {
        let names = || index.paths.iter().map(Path::text).collect::<Vec<_>>().join("`, `");
        let arrays: Vec<&[String]> = index
            .paths
            .iter()
            .filter_map(|path| path::first_array(document, path).map(|depth| &path.0[..depth]))
            .collect();
        if arrays.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(PortError::invalid(format!("the index of `{}` cannot hold parallel arrays", names())));
        }
        // Where a filter would see nothing at all, the other paths still need their entry.
        let values = index.paths.iter().map(|path| match path::seen(document, path) {
            seen if seen.is_empty() => vec![None],
            seen => seen.into_iter().map(Some).collect(),
        });
        let mut insert = self
            .connection
            .prepare_cached("INSERT OR IGNORE INTO entries (index_id, key, seq) VALUES (?, ?, ?)")
            .map_err(failed)?;
        for key in product(values)? {
            insert.execute(params![index.id, key, seq]).map_err(failed)?;
        }
        if !index.is_unique {
            return Ok(());
        }
        if arrays.len() > 1 {
            return Err(PortError::unsupported(format!(
                "the unique index of `{}` over several fields of one array",
                names()
            )));
        }
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO uniques (index_id, key, seq) VALUES (?, ?, ?)")
            .map_err(failed)?;
        for key in product(index.paths.iter().map(|path| path::keys(document, path)))? {
            insert.execute(params![index.id, key, seq]).map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => PortError::new(
                    ErrorKind::Conflict,
                    format!("the unique index of `{}` has these values already", names()),
                ),
                _ => failed(error),
            })?;
        }
        Ok(())
    }

    /// Where to look for what matches: the `_id` or an index where the filter asks for an equality there, or everywhere.
    pub(crate) fn source(&self, collection: &str, filter: &Filter) -> Result<Source, PortError> {
        let equalities = filter.equalities();
        let values_of = |path: &Path| {
            let of_path = equalities.iter().filter(|(known, _)| *known == path).map(|(_, values)| values);
            of_path.min_by_key(|values| values.len()).filter(|values| values.len() <= LOOKUPS_MAX)
        };
        let mut seqs = Vec::new();
        if let Some(ids) = values_of(&Path(vec!["_id".to_owned()])) {
            let mut select = self
                .connection
                .prepare_cached("SELECT seq FROM documents WHERE collection = ? AND id_key = ?")
                .map_err(failed)?;
            for id in ids {
                let seq =
                    select.query_row(params![collection, encoded(id)], |row| row.get(0)).optional().map_err(failed)?;
                seqs.extend::<Option<i64>>(seq);
            }
        } else {
            let covered = |index: &StoredIndex| index.paths.iter().take_while(|path| values_of(path).is_some()).count();
            let Some(index) = self
                .indexes
                .get(collection)
                .and_then(|indexes| indexes.iter().max_by_key(|index| (covered(index), index.is_unique)))
                .filter(|index| covered(index) > 0)
            else {
                return Ok(Source::Scan { after: 0, page: VecDeque::new() });
            };
            let mut prefixes = vec![Vec::new()];
            for values in index.paths.iter().map_while(values_of) {
                if prefixes.len() * values.len() > LOOKUPS_MAX {
                    break;
                }
                let extended = |prefix: &Vec<u8>| {
                    let prefix = prefix.clone();
                    values.iter().map(move |value| {
                        let mut key = prefix.clone();
                        value.encode_key(&mut key);
                        key
                    })
                };
                prefixes = prefixes.iter().flat_map(extended).collect();
            }
            let mut select = self
                .connection
                .prepare_cached("SELECT seq FROM entries WHERE index_id = ? AND key >= ? AND key < ?")
                .map_err(failed)?;
            for prefix in prefixes {
                let mut rows = select.query(params![index.id, prefix, after_prefix(&prefix)]).map_err(failed)?;
                while let Some(row) = rows.next().map_err(failed)? {
                    if seqs.len() >= self.scan_max_documents {
                        return Err(self.scanned_too_many());
                    }
                    seqs.push(row.get(0).map_err(failed)?);
                }
            }
        }
        seqs.sort_unstable();
        seqs.dedup();
        Ok(Source::listed(seqs))
    }

    /// The next document of a source that the filter matches. `scanned` counts those that were looked at.
    pub(crate) fn next(
        &self,
        collection: &str,
        source: &mut Source,
        filter: &Filter,
        scanned: &mut usize,
    ) -> Result<Option<(i64, Document)>, PortError> {
        loop {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(PortError::new(ErrorKind::Unavailable, "nobody waits for the answer any more"));
            }
            let found = match source {
                Source::Scan { after, page } => {
                    if page.is_empty() {
                        *page = self.page(collection, *after)?;
                    }
                    let Some((seq, document)) = page.pop_front() else { return Ok(None) };
                    *after = seq;
                    Some((seq, document))
                }
                Source::Listed { seqs, at } => {
                    let Some(seq) = seqs.get(*at) else { return Ok(None) };
                    *at += 1;
                    self.fetch(*seq)?.map(|document| (*seq, document))
                }
            };
            *scanned += 1;
            if *scanned > self.scan_max_documents {
                return Err(self.scanned_too_many());
            }
            match found {
                Some((seq, document)) if filter.matches(&document) => return Ok(Some((seq, document))),
                // Deleted since it was listed, or no match.
                _ => {}
            }
        }
    }

    fn scanned_too_many(&self) -> PortError {
        PortError::new(
            ErrorKind::Exceeded,
            format!(
                "more than {} documents to look at; an index on a field of the filter would help",
                self.scan_max_documents
            ),
        )
    }

    fn fetch(&self, seq: i64) -> Result<Option<Document>, PortError> {
        self.connection
            .prepare_cached("SELECT body FROM documents WHERE seq = ?")
            .and_then(|mut select| select.query_row([seq], |row| row.get::<_, String>(0)).optional())
            .map_err(failed)?
            .map(|body| parse(&body))
            .transpose()
    }

    fn page(&self, collection: &str, after: i64) -> Result<VecDeque<(i64, Document)>, PortError> {
        let mut select = self
            .connection
            .prepare_cached("SELECT seq, body FROM documents WHERE collection = ? AND seq > ? ORDER BY seq")
            .map_err(failed)?;
        let mut rows = select.query(params![collection, after]).map_err(failed)?;
        let (mut page, mut size_bytes) = (VecDeque::new(), 0);
        while page.len() < PAGE_DOCUMENTS && size_bytes < PAGE_BYTES {
            let Some(row) = rows.next().map_err(failed)? else { break };
            let body = row.get_ref(1).and_then(|body| Ok(body.as_str()?)).map_err(failed)?;
            size_bytes += body.len();
            page.push_back((row.get(0).map_err(failed)?, parse(body)?));
        }
        Ok(page)
    }
}

fn parse(body: &str) -> Result<Document, PortError> {
    let broken = || PortError::new(ErrorKind::Other, "a document in the database cannot be read");
    let json = serde_json::from_str(body).map_err(|error| broken().because(error))?;
    extjson::document(&json).map_err(|error| broken().because(error))
}

fn encoded(value: &Bson) -> Vec<u8> {
    let mut key = Vec::new();
    value.encode_key(&mut key);
    key
}

/// The keys of all combinations of one value for each path. What is not even null (an empty array) is a byte of its own.
fn product(values: impl Iterator<Item = Vec<Option<Bson>>>) -> Result<Vec<Vec<u8>>, PortError> {
    let mut keys = vec![Vec::new()];
    for values in values {
        if keys.len().saturating_mul(values.len()) > ENTRIES_MAX {
            return Err(PortError::new(ErrorKind::Exceeded, "a document has too many entries in an index"));
        }
        let mut longer = Vec::with_capacity(keys.len() * values.len());
        for key in &keys {
            for value in &values {
                let mut key = key.clone();
                match value {
                    Some(value) => value.encode_key(&mut key),
                    None => key.push(0),
                }
                longer.push(key);
            }
        }
        keys = longer;
    }
    Ok(keys)
}

/// The first key that does not begin like this. There is one: keys begin with a bracket, which is no 255.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut after = prefix.to_vec();
    while let Some(last) = after.last_mut() {
        if let Some(next) = last.checked_add(1) {
            *last = next;
            break;
        }
        after.pop();
    }
    after
}

/// What an error of SQLite means where none was to be expected.
fn failed(error: rusqlite::Error) -> PortError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::TooBig) => {
            PortError::new(ErrorKind::Exceeded, "the database is full").because(error)
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            PortError::new(ErrorKind::Unavailable, "the database is busy; nothing has been done").because(error)
        }
        _ => PortError::new(ErrorKind::Other, "the database failed").because(error),
    }
}
