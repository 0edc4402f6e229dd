//! A result on the server, read in batches that are bounded in documents and in bytes.
//!
//! Invariants
//! - A document that no longer fits a batch waits here for the next one; none is skipped, none comes twice.
//! - A cursor that failed, or whose reading was given up, gives what it had read and then errors for ever: it does not
//!   know where it stands.
//! - Dropping it ends it on the server.

use crate::connection::Connection;
use crate::errors::Work;
use crate::extjson;
use mongodb::Cursor;
use mongodb::bson::Document;
use sandpost_ports::PortError;
use sandpost_ports::documents::DocumentCursor;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// A cursor of the server.
pub(crate) struct MongoCursor {
    connection: Arc<Connection>,
    /// Not there while a batch is being read, and after a call that was dropped or failed. The lock is never taken: it
    /// makes the client's cursor, which one thread at a time may use, fit for a port that is shared.
    cursor: Mutex<Option<Cursor<Document>>>,
    held: Held,
    is_at_end: bool,
    /// What ended it, until it is told: what was read before comes first.
    failure: Option<PortError>,
}

impl MongoCursor {
    pub(crate) fn new(connection: Arc<Connection>, cursor: Cursor<Document>) -> Self {
        Self { connection, cursor: Mutex::new(Some(cursor)), held: Held::default(), is_at_end: false, failure: None }
    }

    /// Reads on until as many documents or bytes are held as one batch takes, or the end, or a failure.
    async fn fill(&mut self, documents_max: usize, batch_max_bytes: usize) {
        let is_enough = |held: &Held| held.documents.len() >= documents_max || held.bytes > batch_max_bytes;
        if self.is_at_end || is_enough(&self.held) {
            return;
        }
        let Some(mut cursor) = self.cursor.get_mut().ok().and_then(Option::take) else { return };
        let held = &mut self.held;
        let read = self.connection.run(Work::Read, |_| async {
            while !is_enough(held) {
                if !cursor.advance().await? {
                    return Ok(true);
                }
                held.push(extjson::relaxed_document(&Document::try_from(cursor.current())?));
            }
            Ok(false)
        });
        match read.await {
            Ok(is_at_end) => {
                self.is_at_end = is_at_end;
                self.cursor = Mutex::new(Some(cursor));
            }
            Err(error) => self.failure = Some(error),
        }
    }
}

#[async_trait::async_trait]
impl DocumentCursor for MongoCursor {
    async fn next(&mut self, documents_max: usize, batch_max_bytes: usize) -> Result<Vec<Value>, PortError> {
        if documents_max == 0 {
            return Err(PortError::invalid("a batch takes at least one document"));
        }
        self.fill(documents_max, batch_max_bytes).await;
        if self.held.documents.is_empty() && !self.is_at_end {
            let before = || PortError::invalid("the cursor has been given up, or has failed before");
            return Err(self.failure.take().unwrap_or_else(before));
        }
        let mut batch = Vec::new();
        let mut left_bytes = batch_max_bytes;
        while batch.len() < documents_max {
            let Some((document, bytes)) = self.held.pop(if batch.is_empty() { usize::MAX } else { left_bytes }) else {
                break;
            };
            left_bytes = left_bytes.saturating_sub(bytes);
            batch.push(document);
        }
        Ok(batch)
    }
}

/// Documents that were read and not given out, each with the length of its text.
#[derive(Default)]
struct Held {
    documents: VecDeque<(Value, usize)>,
    bytes: usize,
}

impl Held {
    fn push(&mut self, document: Value) {
        let bytes = text_bytes(&document);
        self.bytes = self.bytes.saturating_add(bytes);
        self.documents.push_back((document, bytes));
    }

    /// The first, if it has no more bytes than this.
    fn pop(&mut self, bytes_max: usize) -> Option<(Value, usize)> {
        self.documents.front().filter(|(_, bytes)| *bytes <= bytes_max)?;
        let first = self.documents.pop_front()?;
        self.bytes = self.bytes.saturating_sub(first.1);
        Some(first)
    }
}

/// The length of a document's JSON text.
fn text_bytes(document: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting does not fail; a document that could not be written would have no length.
    serde_json::to_writer(&mut count, document).map_or(usize::MAX, |()| count.0)
}
