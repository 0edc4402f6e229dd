//! What the transaction under way has recorded, until it is written in as few rows as it takes.
//!
//! A step costs no look-up and no row of its own: it is text in one buffer. At the end the steps are put together by
//! message, and messages by the time of their ids into segments.
//!
//! Invariants
//! - Steps go with their transaction where it fails.
//! - Rows are numbered in the order in which the steps of one message were recorded.
//! - Every row is in one batch, which knows the earliest time in it: what is old is found without an index over all
//!   rows.

use super::packed::Packed;
use super::segment::{HEAD_BYTES, SPAN_MS, Segment, made_at_ms};
use super::{Noted, json_into};
use crate::row::int;
use crate::writer::Work;
use rusqlite::types::ValueRef;
use rusqlite::{ToSql, params};
use sandpost_message::TimestampMs;
use sandpost_ports::state::LedgerEntry;
use std::borrow::Cow;
use std::ops::Range;

/// The most of one segment, unless one record alone is larger. So large that rows are few, so small that a look at one
/// message reads little beside it, and forgetting a part writes little again.
pub(super) const SEGMENT_MAX_BYTES: usize = 32 * 1024;

/// The steps of the transaction under way, in the order of recording.
#[derive(Default)]
pub(crate) struct Pending {
    steps: Vec<Step>,
    /// The JSON of all of them.
    text: Vec<u8>,
}

struct Step {
    message_id: Packed,
    trace_id: Packed,
    at_ms: TimestampMs,
    text: Range<usize>,
}

impl Step {
    fn is_with(&self, other: &Self) -> bool {
        self.message_id == other.message_id && self.trace_id == other.trace_id
    }

    /// The ids of what can be in a segment.
    fn packed(&self) -> Option<(&[u8; 16], &[u8; 16])> {
        self.message_id.bytes().zip(self.trace_id.bytes())
    }
}

impl Pending {
    pub(crate) fn rolled_back(&mut self) {
        *self = Self::default();
    }
}

/// Puts a step to what the transaction writes at its end.
pub(super) fn note(work: &mut Work, entry: &LedgerEntry) -> rusqlite::Result<()> {
    let actor = work.actors.number(&work.conn, entry)?;
    let Pending { steps, text } = &mut work.pending;
    let from = text.len();
    let detail = entry.detail.as_deref().map(Cow::Borrowed);
    json_into(text, &Noted(entry.step, entry.at_ms, actor, entry.attempt, detail))?;
    steps.push(Step {
        message_id: Packed::uuid(entry.message_id.as_str()),
        trace_id: Packed::digits(&entry.trace_id),
        at_ms: entry.at_ms,
        text: from..text.len(),
    });
    Ok(())
}

/// Writes what the transaction has recorded. Called once, at its end.
pub(crate) fn write(work: &mut Work) -> rusqlite::Result<()> {
    let Pending { mut steps, text } = std::mem::take(&mut work.pending);
    let Some(from_ms) = steps.iter().map(|step| step.at_ms).min() else { return Ok(()) };
    // Stable: the steps of one message stay in their order.
    steps.sort_by(|one, other| one.message_id.cmp(&other.message_id));
    let mut numbers: Option<(i64, i64)> = None;
    let mut rest = &steps[..];
    while !rest.is_empty() {
        let row;
        (row, rest) = rest.split_at(row_length(rest));
        let n = work.ids.take(&work.conn, 1)?;
        write_row(work, n, row, &text)?;
        numbers = Some((numbers.map_or(n, |(first, _)| first), n));
    }
    if let Some((first, last)) = numbers {
        work.conn
            .prepare_cached("INSERT INTO ledger_batches (first, last, from_ms) VALUES (?1, ?2, ?3)")?
            .execute([first, last, int(from_ms)])?;
    }
    Ok(())
}

/// How many of the first steps make a row together: a whole record at least.
fn row_length(steps: &[Step]) -> usize {
    let (mut length, mut bytes, mut from_ms) = (0, 0, None);
    for record in steps.chunk_by(Step::is_with) {
        let ids = record.first().and_then(Step::packed);
        bytes += HEAD_BYTES + record.iter().map(|step| step.text.len() + 1).sum::<usize>() + 1;
        let fits = match (ids, from_ms) {
            (Some((id, _)), Some(from_ms)) => {
                made_at_ms(id).saturating_sub(from_ms) <= SPAN_MS && bytes <= SEGMENT_MAX_BYTES
            }
            _ => length == 0,
        };
        if !fits {
            break;
        }
        length += record.len();
        let Some((id, _)) = ids else { break };
        from_ms = from_ms.or(Some(made_at_ms(id)));
    }
    length
}

/// One message has a row that a person with `sqlite3` can read; several have a segment.
fn write_row(work: &Work, n: i64, row: &[Step], text: &[u8]) -> rusqlite::Result<()> {
    let (Some(first), Some(last)) = (row.first(), row.last()) else { return Ok(()) };
    if row.iter().all(|step| step.is_with(first)) {
        let steps = array(row, text).collect::<Vec<_>>().concat();
        return work
            .conn
            .prepare_cached("INSERT INTO ledger (n, message_id, trace_id, steps) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![n, first.message_id, first.trace_id, Text(&steps)])
            .map(drop);
    }
    let mut segment = Segment::default();
    for record in row.chunk_by(Step::is_with) {
        if let Some((message_id, trace_id)) = record.first().and_then(Step::packed) {
            segment.push(message_id, trace_id, array(record, text))?;
        }
    }
    work.conn
        .prepare_cached("INSERT INTO ledger_segments (n, from_id, until_id, steps) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![n, first.message_id, last.message_id, segment])
        .map(drop)
}

/// The parts of the array that a record is.
fn array<'a>(record: &'a [Step], text: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
    let parts = record.iter().enumerate().flat_map(|(place, step)| {
        let before: &[u8] = if place == 0 { b"[" } else { b"," };
        [before, &text[step.text.clone()]]
    });
    parts.chain([&b"]"[..]])
}

/// JSON as SQLite's text, without looking at it once more.
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}
