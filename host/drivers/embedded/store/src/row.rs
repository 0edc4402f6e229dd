//! Between rows and the host's words.
//!
//! Not here: the statements; each is beside the code that runs it.

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, Type};
use rusqlite::{Row, ToSql};
use sandpost_message::{Message, TimestampMs, Topic, TraceParent};
use std::error::Error;
use std::str::FromStr;

/// A message's columns, in the order in which [`message`] reads them. The topic is not among them: it comes with the
/// subscription, or has a column of its own.
macro_rules! message_columns {
    () => {
        "message_id, content_type, attributes, ordering_key, published_at_ms, not_before_ms, dedupe_key, \
         only_subscription, trace, body"
    };
}
pub(crate) use message_columns;

/// How many [`message_columns`] there are.
pub(crate) const MESSAGE_COLUMNS: usize = 10;

/// Reads a message from its columns, of which the first is at `first`.
pub(crate) fn message(row: &Row<'_>, first: usize, topic: Topic) -> rusqlite::Result<Message> {
    let attributes = match row.get_ref(first + 2)?.as_str_or_null()? {
        None => Vec::new(),
        Some(json) => serde_json::from_str(json).map_err(|error| unreadable(first + 2, error))?,
    };
    let trace = row.get_ref(first + 8)?.as_str()?;
    let trace = TraceParent::parse(trace).ok_or_else(|| unreadable(first + 8, "not a traceparent"))?;
    Ok(Message {
        id: name(row, first)?,
        topic,
        content_type: row.get(first + 1)?,
        attributes,
        ordering_key: row.get(first + 3)?,
        published_at_ms: time(row.get(first + 4)?),
        not_before_ms: time(row.get(first + 5)?),
        dedupe_key: row.get(first + 6)?,
        only: maybe_name(row, first + 7)?,
        // Of `messages` alone; a dead letter that is replayed begins anew.
        hops: 0,
        trace,
        body: Bytes::from(row.get::<_, Vec<u8>>(first + 9)?),
    })
}

/// Attributes as they are kept: nothing, or pairs in JSON.
pub(crate) struct Attributes<'a>(pub(crate) &'a [(String, String)]);

impl ToSql for Attributes<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        if self.0.is_empty() {
            return Ok(ToSqlOutput::from(rusqlite::types::Null));
        }
        let json =
            serde_json::to_string(self.0).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(ToSqlOutput::from(json))
    }
}

/// About how many bytes a message takes on disk, its rows and their places in the indexes included.
pub(crate) fn size_bytes(message: &Message) -> u64 {
    const ROWS_BYTES: usize = 512;
    let attributes: usize = message.attributes.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let keys =
        message.ordering_key.as_ref().map_or(0, String::len) + message.dedupe_key.as_ref().map_or(0, String::len);
    u64::try_from(message.body.len() + attributes + 4 * keys + ROWS_BYTES).unwrap_or(u64::MAX)
}

/// Reads a name.
pub(crate) fn name<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error: T::Err| unreadable(column, error))
}

/// Reads a name that need not be there.
pub(crate) fn maybe_name<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(|text| text.parse().map_err(|error: T::Err| unreadable(column, error))).transpose()
}

/// Something in the file that this program did not write.
pub(crate) fn unreadable(column: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}

/// A time, or any other count, for SQLite, whose numbers have a sign. What does not fit is further off than anybody waits.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The same for a length or a limit.
pub(crate) fn length(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back.
pub(crate) fn time(value: i64) -> TimestampMs {
    u64::try_from(value).unwrap_or(0)
}
