//! The port itself: a thread that has the connection, and calls that wait for their turn at it.
//!
//! Invariants
//! - Calls run one after the other, whole; so each change is atomic to everybody. Those that wait together share a
//!   transaction, each a part that fails by itself, and are answered once it is on disk. Where several did, the next ones are
//!   waited for a moment: a sync of the disk costs the processor as much as several calls do.
//! - A call that nobody waits for does not begin, and one that has begun stops and is undone.
//! - A cursor holds a position and never a transaction.

use crate::collection::{self, Cursor};
use crate::config::{Config, OpenError};
use crate::store::Store;
use sandpost_ports::documents::{
    DocumentCursor, Documents, FindOptions, Index, ReturnDocument, UpdateOptions, Updated,
};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for the thread. More wait outside, and no longer than [`Config::wait_max_ms`].
const QUEUE_MAX: usize = 256;

/// Calls of one transaction, and after how long no more are begun in it: what is done waits for the others' end.
const TOGETHER_MAX: usize = 64;
const TOGETHER: Duration = Duration::from_millis(5);

/// From how many calls in one transaction on more are waited for before the next, and for how long at most; else for as long
/// as the transaction before took.
const GATHER_CALLS_MIN: usize = 3;
const GATHER_MAX: Duration = Duration::from_millis(2);

/// Does its part, and answers once it is told whether that is kept.
type Job = Box<dyn FnOnce(&mut Store) -> Answer + Send>;

/// Told the kind of failure where nothing is kept.
type Answer = Box<dyn FnOnce(Result<(), ErrorKind>)>;

/// A document database in SQLite.
pub struct SqliteDocuments {
    calls: Calls,
}

/// Opens the database, and creates it where it is not there.
///
/// Blocks for as long as the disk does; meant for the start of the program.
pub fn open(config: &Config) -> Result<Arc<SqliteDocuments>, OpenError> {
    let mut store = Store::open(config)?;
    let (jobs, mut receiver) = mpsc::channel::<Job>(QUEUE_MAX);
    // Ends when the last sender, in the database or in a cursor, is gone.
    std::thread::Builder::new()
        .name("documents".to_owned())
        .spawn(move || {
            let mut gather = Duration::ZERO;
            while let Some(first) = receiver.blocking_recv() {
                std::thread::sleep(gather);
                let mut jobs = VecDeque::from([first]);
                while jobs.len() < TOGETHER_MAX
                    && let Ok(job) = receiver.try_recv()
                {
                    jobs.push_back(job);
                }
                let (several, since) = (jobs.len() >= GATHER_CALLS_MIN, Instant::now());
                while !jobs.is_empty() {
                    serve(&mut store, &mut jobs);
                }
                gather = if several { since.elapsed().min(GATHER_MAX) } else { Duration::ZERO };
            }
        })
        .map_err(OpenError::Thread)?;
    let wait_max = Duration::from_millis(config.wait_max_ms);
    Ok(Arc::new(SqliteDocuments { calls: Calls { jobs, wait_max } }))
}

/// Runs some of them as one transaction, at least the first.
fn serve(store: &mut Store, jobs: &mut VecDeque<Job>) {
    let since = Instant::now();
    if jobs.len() == 1 || store.begin_together().is_err() {
        // The call itself says what is wrong with the file.
        if let Some(job) = jobs.pop_front() {
            job(store)(Ok(()));
        }
        return;
    }
    let mut answers = Vec::with_capacity(jobs.len());
    while store.is_within()
        && (answers.is_empty() || since.elapsed() < TOGETHER)
        && let Some(job) = jobs.pop_front()
    {
        answers.push(job(store));
    }
    let kept = store.end_together().map_err(|error| error.kind);
    for answer in answers {
        answer(kept);
    }
}

#[derive(Clone)]
struct Calls {
    jobs: mpsc::Sender<Job>,
    wait_max: Duration,
}

impl Calls {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let waiting = GiveUpOnDrop::default();
        let given_up = Arc::clone(&waiting.0);
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |store| {
            if given_up.load(Ordering::Relaxed) {
                return Box::new(|_kept| {});
            }
            store.given_up = given_up;
            let done = work(store);
            Box::new(move |kept| {
                let undone = |kind| PortError::new(kind, "the transaction that it was a part of failed");
                // Nobody waits any more: there is nobody to tell.
                reply.send(done.and_then(|done| kept.map(|()| done).map_err(undone))).ok();
            })
        });
        match tokio::time::timeout(self.wait_max, self.jobs.reserve()).await {
            Ok(Ok(place)) => place.send(job),
            Ok(Err(_)) => return Err(PortError::new(ErrorKind::Unavailable, "the database connection has ended")),
            Err(_) => {
                return Err(PortError::new(ErrorKind::Unavailable, "the database is busy; nothing has been done"));
            }
        }
        answer.await.map_err(|_| PortError::new(ErrorKind::UnknownOutcome, "the database connection has ended"))?
    }

    async fn on<T: Send + 'static>(
        &self,
        collection: &str,
        work: impl FnOnce(&mut Store, &str) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        collection::check_name(collection)?;
        let collection = collection.to_owned();
        self.run(move |store| work(store, &collection)).await
    }
}

#[derive(Debug, Default)]
struct GiveUpOnDrop(Arc<AtomicBool>);

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Documents for SqliteDocuments {
    async fn insert(&self, collection: &str, documents: Vec<Value>) -> Result<Vec<Value>, PortError> {
        self.calls.on(collection, move |store, name| collection::insert(store, name, &documents)).await
    }

    async fn find(
        &self,
        collection: &str,
        filter: Value,
        options: FindOptions,
    ) -> Result<Box<dyn DocumentCursor>, PortError> {
        let found =
            self.calls.on(collection, move |store, name| collection::find(store, name, &filter, &options)).await?;
        Ok(self.cursor(found))
    }

    async fn update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        options: UpdateOptions,
    ) -> Result<Updated, PortError> {
        self.calls.on(collection, move |store, name| collection::update(store, name, &filter, &update, options)).await
    }

    async fn replace_one(
        &self,
        collection: &str,
        filter: Value,
        replacement: Value,
        upsert: bool,
    ) -> Result<Updated, PortError> {
        self.calls
            .on(collection, move |store, name| collection::replace_one(store, name, &filter, &replacement, upsert))
            .await
    }

    async fn find_one_and_update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<Value>, PortError> {
        self.calls
            .on(collection, move |store, name| {
                collection::find_one_and_update(store, name, &filter, &update, upsert, returned)
            })
            .await
    }

    async fn delete(&self, collection: &str, filter: Value, many: bool) -> Result<u64, PortError> {
        self.calls.on(collection, move |store, name| collection::delete(store, name, &filter, many)).await
    }

    async fn count(&self, collection: &str, filter: Value) -> Result<u64, PortError> {
        self.calls.on(collection, move |store, name| collection::count(store, name, &filter)).await
    }

    async fn aggregate(&self, collection: &str, pipeline: Vec<Value>) -> Result<Box<dyn DocumentCursor>, PortError> {
        let computed =
            self.calls.on(collection, move |store, name| collection::aggregate(store, name, &pipeline)).await?;
        Ok(self.cursor(computed))
    }

    async fn ensure_index(&self, collection: &str, index: &Index) -> Result<(), PortError> {
        let index = index.clone();
        self.calls.on(collection, move |store, name| collection::ensure_index(store, name, &index)).await
    }
}

impl SqliteDocuments {
    fn cursor(&self, cursor: Cursor) -> Box<dyn DocumentCursor> {
        Box::new(SqliteCursor { calls: self.calls.clone(), cursor: Some(cursor) })
    }
}

#[async_trait::async_trait]
impl Health for SqliteDocuments {
    async fn check(&self) -> Result<(), PortError> {
        self.calls.run(|store| store.check()).await
    }
}

/// A cursor; its state goes to the thread and comes back with every batch.
struct SqliteCursor {
    calls: Calls,
    /// Not there while a batch is being read, and after a call that was dropped or failed.
    cursor: Option<Cursor>,
}

#[async_trait::async_trait]
impl DocumentCursor for SqliteCursor {
    async fn next(&mut self, documents_max: usize, batch_max_bytes: usize) -> Result<Vec<Value>, PortError> {
        let Some(mut cursor) = self.cursor.take() else {
            return Err(PortError::invalid("the cursor has been given up, or has failed before"));
        };
        let read = move |store: &mut Store| {
            let batch = collection::next(store, &mut cursor, documents_max, batch_max_bytes)?;
            Ok((batch, cursor))
        };
        let (batch, cursor) = self.calls.run(read).await?;
        self.cursor = Some(cursor);
        Ok(batch)
    }
}
