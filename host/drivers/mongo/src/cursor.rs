//! A result on the server, read in batches that are bounded in documents and in bytes.
//!
//! Invariants
//! - A document that no longer fits a batch waits here for the next one; none is skipped, none comes twice.
//! - A cursor that failed, or whose reading was given up, says so for ever: it does not know where it stands.
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
    /// Read, and not given out.
    held: VecDeque<Held>,
    is_at_end: bool,
}

struct Held {
    document: Value,
    bytes: usize,
}

impl MongoCursor {
    pub(crate) fn new(connection: Arc<Connection>, cursor: Cursor<Document>) -> Self {
        Self { connection, cursor: Mutex::new(Some(cursor)), held: VecDeque::new(), is_at_end: false }
    }

    /// Reads on until as many documents or bytes are held as one batch takes, or the end.
    async fn fill(&mut self, documents_max: usize, batch_max_bytes: usize) -> Result<(), PortError> {
        let is_enough = |held: &VecDeque<Held>| {
            held.len() >= documents_max || held.iter().map(|held| held.bytes).sum::<usize>() > batch_max_bytes
        };
        if self.is_at_end || is_enough(&self.held) {
            return Ok(());
        }
        let Some(mut cursor) = self.cursor.get_mut().ok().and_then(Option::take) else {
            return Err(PortError::invalid("the cursor has been given up, or has failed before"));
        };
        let held = &mut self.held;
        let read = self.connection.run(Work::Read, |_| async {
            while !is_enough(held) {
                if !cursor.advance().await? {
                    return Ok(true);
                }
                let document = Document::try_from(cursor.current())?;
                let document = extjson::relaxed_document(&document);
                held.push_back(Held { bytes: text_bytes(&document), document });
            }
            Ok(false)
        });
        match read.await {
            Ok(is_at_end) => self.is_at_end = is_at_end,
            Err(error) => {
                self.held.clear();
                return Err(error);
            }
        }
        self.cursor = Mutex::new(Some(cursor));
        Ok(())
    }
}

#[async_trait::async_trait]
impl DocumentCursor for MongoCursor {
    async fn next(&mut self, documents_max: usize, batch_max_bytes: usize) -> Result<Vec<Value>, PortError> {
        if documents_max == 0 {
            return Err(PortError::invalid("a batch takes at least one document"));
        }
        self.fill(documents_max, batch_max_bytes).await?;
        let mut batch = Vec::new();
        let mut left_bytes = batch_max_bytes;
        while batch.len() < documents_max
            && let Some(first) = self.held.front()
            && (batch.is_empty() || first.bytes <= left_bytes)
            && let Some(first) = self.held.pop_front()
        {
            left_bytes = left_bytes.saturating_sub(first.bytes);
            batch.push(first.document);
        }
        Ok(batch)
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
