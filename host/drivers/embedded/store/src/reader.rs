//! The thread that reads histories and lists, on a connection that cannot write.
//!
//! It sees everything that was answered before it was asked, because answers come after the commit.
//!
//! Not here: reads that decide about a write; they are part of a command (`writer`).

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// What the reader is asked for.
pub(crate) enum Read {
    /// To look something up, and answer by itself.
    Job(Box<dyn FnOnce(&Connection) + Send>),
    /// To end. Dropped when the connection is closed.
    Close(oneshot::Sender<()>),
}

/// Serves until it is told to close, or nobody is left to ask.
pub(crate) fn run(conn: Connection, mut asked: mpsc::Receiver<Read>) {
    let mut told = None;
    while let Some(read) = asked.blocking_recv() {
        match read {
            Read::Job(job) => job(&conn),
            Read::Close(done) => {
                asked.close();
                told = Some(done);
            }
        }
    }
    drop(conn);
    drop(told);
}
