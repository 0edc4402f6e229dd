//! The handle: how callers reach the two threads, and how these end.
//!
//! Invariants
//! - A future that is dropped while it waits for its answer leaves the command to happen or not; it holds no lock.
//! - The last handle that is dropped waits for the threads, but not longer than [`Config::close_wait_ms`](crate::Config).

use crate::reader::Read;
use crate::trouble::{Refusal, Trouble, closed, unanswered};
use crate::writer::{Call, Command, Work};
use rusqlite::Connection;
use sandpost_ports::PortError;
use sandpost_ports::health::Health;
use sandpost_ports::state::Keep;
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The broker and the state of one host. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// Dropped in this order: a thread's channel first, then the wait for the thread.
pub(crate) struct Inner {
    pub(crate) reads: Option<mpsc::Sender<Read>>,
    pub(crate) _reader: Option<Thread>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) _writer: Thread,
    /// In KiB, because a semaphore counts no further than 32 bits.
    pub(crate) queue_room_kib: Arc<Semaphore>,
    pub(crate) queue_max_kib: u32,
    pub(crate) keep: Keep,
}

impl Store {
    /// Finishes what waits, writes everything into the one file, and frees it. Later calls are refused as
    /// [`ErrorKind::Unavailable`](sandpost_ports::ErrorKind); a second `close` returns at once.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if let Some(reads) = &self.inner.reads
            && reads.send(Read::Close(done)).await.is_ok()
        {
            // The sender is dropped, not used: an error is the answer.
            ended.await.ok();
        }
        let (done, ended) = oneshot::channel();
        if self.inner.commands.send(Command::Close(done)).await.is_ok() {
            ended.await.ok();
        }
    }

    /// Runs a command in the writer's next transaction. It may run twice: the first time undone.
    pub(crate) async fn write<T, F>(&self, run: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnMut(&mut Work) -> Result<T, Refusal> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { run, outcome: None, reply };
        self.inner.commands.send(Command::Job(Box::new(call))).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// The same for a command that holds so many bytes of messages while it waits.
    pub(crate) async fn write_sized<T, F>(&self, bytes: u64, mut run: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnMut(&mut Work) -> Result<T, Refusal> + Send + 'static,
    {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(self.inner.queue_max_kib);
        let room = Arc::clone(&self.inner.queue_room_kib).acquire_many_owned(kib).await.map_err(|_| closed())?;
        self.write(move |work| {
            let _held_while_it_waits = &room;
            run(work)
        })
        .await
    }

    /// Looks something up, on the reader where there is one.
    pub(crate) async fn read<T, F>(&self, mut run: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(reads) = &self.inner.reads else {
            return self.write(move |work| Ok(run(&work.conn)?)).await;
        };
        let (reply, answer) = oneshot::channel();
        let job = move |conn: &Connection| {
            let found = run(conn).map_err(|error| Trouble::before_commit(error).error());
            // Who no longer waits does not want the answer.
            reply.send(found).ok();
        };
        reads.send(Read::Job(Box::new(job))).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

#[async_trait::async_trait]
impl Health for Store {
    async fn check(&self) -> Result<(), PortError> {
        // A write, because a disk that is full, failing or mounted read-only still answers reads.
        self.write(|work| {
            work.conn.prepare_cached("UPDATE meta SET value = value + 1 WHERE name = 'health'")?.execute([])?;
            Ok(())
        })
        .await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// A thread that ends when its channel closes.
pub(crate) struct Thread {
    handle: Option<JoinHandle<()>>,
    /// Disconnected when the thread has ended. Locked only to be shareable; only dropping uses it.
    ended: Mutex<std_mpsc::Receiver<()>>,
    wait: Duration,
}

impl Thread {
    /// Starts it.
    pub(crate) fn start(
        name: &str,
        wait: Duration,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<Self, std::io::Error> {
        let (end, ended) = std_mpsc::sync_channel(0);
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _dropped_at_the_end: std_mpsc::SyncSender<()> = end;
            run();
        })?;
        Ok(Self { handle: Some(handle), ended: Mutex::new(ended), wait })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ended.recv_timeout(self.wait) != Err(std_mpsc::RecvTimeoutError::Timeout)
            && let Some(handle) = self.handle.take()
        {
            handle.join().ok();
        }
    }
}
