//! A segment: what one transaction recorded of many messages, in one row.
//!
//! Its bytes are records, one after another, by message id and then in the order of recording: 16 bytes of message id,
//! 16 of trace id, 4 that say how many bytes follow (the lowest first), and these: the steps, as a row of one message has
//! them.
//!
//! Not here: which records make a segment (`pending`).

use super::packed::Packed;
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Type};

/// How far apart the ids of one segment are at most, by the time in them: where a message is looked for, no segment is
/// looked at that begins earlier than this before it. Part of the file's format: it must never be lowered.
pub(super) const SPAN_MS: u64 = 1_000;

/// What stands before the steps of a record.
pub(super) const HEAD_BYTES: usize = 16 + 16 + 4;

/// When a UUID of version 7 was made: its first 48 bits. Any other has some number there, which does as well.
pub(super) fn made_at_ms(id: &[u8; 16]) -> u64 {
    id[..6].iter().fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
}

/// The earliest id with which a segment can begin that has this one; none where it can be in none.
pub(super) fn earliest_from(id: &Packed) -> Option<[u8; 16]> {
    let ms = made_at_ms(id.bytes()?).saturating_sub(SPAN_MS);
    let mut from = [0; 16];
    from[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    Some(from)
}

/// What a segment says of one message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) message_id: &'a [u8; 16],
    pub(super) trace_id: &'a [u8; 16],
    pub(super) steps: &'a str,
}

/// A segment that is being made.
#[derive(Default)]
pub(super) struct Segment(Vec<u8>);

impl Segment {
    /// Appends a record, whose steps are these parts in a row.
    pub(super) fn push<'a>(
        &mut self,
        message_id: &[u8; 16],
        trace_id: &[u8; 16],
        steps: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> rusqlite::Result<()> {
        let length: usize = steps.clone().map(<[u8]>::len).sum();
        let length = u32::try_from(length).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        self.0.extend_from_slice(message_id);
        self.0.extend_from_slice(trace_id);
        self.0.extend_from_slice(&length.to_le_bytes());
        steps.for_each(|part| self.0.extend_from_slice(part));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ToSql for Segment {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

/// The records of a segment. One that is cut short is an error, and the end.
pub(super) struct Records<'a>(pub(super) &'a [u8]);

impl<'a> Records<'a> {
    fn take(&mut self) -> Option<Record<'a>> {
        let (message_id, rest) = self.0.split_first_chunk()?;
        let (trace_id, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (steps, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        self.0 = rest;
        Some(Record { message_id, trace_id, steps: str::from_utf8(steps).ok()? })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = rusqlite::Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.take().ok_or_else(|| {
            self.0 = &[];
            rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, "not a segment of the ledger".into())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_and_a_cut_one_is_an_error() {
        let mut segment = Segment::default();
        for n in 0..3 {
            segment.push(&[n; 16], &[n + 100; 16], [&b"[1"[..], b",2]"].into_iter().take(n.into())).unwrap();
        }
        let records: Vec<_> = Records(&segment.0).map(Result::unwrap).collect();
        let record = |n: usize, steps| Record {
            message_id: &[[0; 16], [1; 16], [2; 16]][n],
            trace_id: &[[100; 16], [101; 16], [102; 16]][n],
            steps,
        };
        assert_eq!(records, [record(0, ""), record(1, "[1"), record(2, "[1,2]")]);
        let whole = [HEAD_BYTES, 2 * HEAD_BYTES + 2, 3 * HEAD_BYTES + 7];
        for length in 1..=segment.0.len() {
            let read: Vec<_> = Records(&segment.0[..length]).collect();
            let (errors, good): (Vec<_>, Vec<_>) = read.iter().partition(|record| record.is_err());
            assert_eq!(good.len(), whole.iter().filter(|end| **end <= length).count());
            assert_eq!(errors.len(), usize::from(!whole.contains(&length)));
        }
    }

    #[test]
    fn a_segment_begins_no_earlier_than_its_span_before_any_id_in_it() {
        let at = |ms: u64| {
            let mut id = [0xff; 16];
            id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
            id
        };
        assert_eq!(made_at_ms(&at(1_700_000_000_123)), 1_700_000_000_123);
        let from = |ms| made_at_ms(&earliest_from(&Packed::Bytes(at(ms))).unwrap());
        assert_eq!(from(1_700_000_000_123), 1_700_000_000_123 - SPAN_MS);
        assert_eq!(from(3), 0);
        assert_eq!(earliest_from(&Packed::Text("an id".into())), None);
    }
}
