//! Ending a lease.
//!
//! Invariants
//! - Only the lease that the receipt names is ended, and only while it lasts.
//! - A message goes with its last delivery, or with its bundle; the next of an ordering key is freed in the same transaction.

use crate::broker::bundle;
use crate::broker::opened::Member;
use crate::row::int;
use crate::trouble::Refusal;
use crate::writer::Work;
use rusqlite::{OptionalExtension, params};
use sandpost_ports::broker::{Receipt, Settlement};
use sandpost_ports::{ErrorKind, PortError};
use std::fmt;

/// What a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: i64,
    pub(crate) seq: i64,
    /// Never given twice, over restarts too.
    pub(crate) lease: i64,
    /// Whether the message has an ordering key, which somebody may wait behind.
    pub(crate) keyed: bool,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.line, self.seq, self.lease, u8::from(self.keyed))
    }
}

impl Token {
    /// Reads a receipt of this subscription.
    pub(crate) fn read(receipt: &Receipt, line: i64) -> Result<Self, PortError> {
        Self::parse(receipt.token())
            .filter(|token| token.line == line)
            .ok_or_else(|| PortError::invalid("the receipt is not one of this subscription"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next()?.parse().ok();
        let (line, seq, lease, keyed): (i64, i64, i64, i64) = (number()?, number()?, number()?, number()?);
        Some(Self { line, seq, lease, keyed: keyed != 0 })
    }
}

/// Ends the lease.
pub(crate) fn settle(work: &mut Work, token: Token, settlement: Settlement) -> Result<(), Refusal> {
    let now_ms = int(work.now_ms);
    if let Some((place, lease, until_ms)) = work.opened.leased(token.line, token.seq) {
        if lease != token.lease || until_ms <= now_ms {
            return Err(late());
        }
        return Ok(bundle::settle(work, place, settlement)?);
    }
    let lease = [token.line, token.seq, token.lease, now_ms];
    match settlement {
        Settlement::Done => done(work, token),
        Settlement::RetryAt(at_ms) => {
            let changed = work
                .conn
                .prepare_cached(
                    "UPDATE deliveries SET visible_at_ms = max(?5, ?4), lease = 0
                     WHERE subscription = ?1 AND seq = ?2 AND lease = ?3 AND visible_at_ms > ?4",
                )?
                .execute(params![lease[0], lease[1], lease[2], lease[3], int(at_ms)])?;
            ended(work, token, changed)
        }
        Settlement::HandBack(at_ms) => {
            let changed = work
                .conn
                .prepare_cached(
                    "UPDATE deliveries SET visible_at_ms = max(?5, ?4), lease = 0, attempt = attempt - 1
                     WHERE subscription = ?1 AND seq = ?2 AND lease = ?3 AND visible_at_ms > ?4",
                )?
                .execute(params![lease[0], lease[1], lease[2], lease[3], int(at_ms)])?;
            ended(work, token, changed)
        }
    }
}

/// Holds the lease from now on for this long.
pub(crate) fn extend(work: &mut Work, token: Token, lease_ms: u64) -> Result<(), Refusal> {
    let until_ms = int(work.now_ms.saturating_add(lease_ms.max(1)));
    if let Some((place, lease, lasted_until_ms)) = work.opened.leased(token.line, token.seq) {
        if lease != token.lease || lasted_until_ms <= int(work.now_ms) {
            return Err(late());
        }
        work.opened.set(place, Member::Leased { lease, until_ms });
        work.lines.count(token.line, 0, 0);
        return Ok(());
    }
    let changed = work
        .conn
        .prepare_cached(
            "UPDATE deliveries SET visible_at_ms = ?5
             WHERE subscription = ?1 AND seq = ?2 AND lease = ?3 AND visible_at_ms > ?4",
        )?
        .execute(params![token.line, token.seq, token.lease, int(work.now_ms), until_ms])?;
    // A shorter lease than before may be what a waiter should now wake for.
    ended(work, token, changed)
}

fn ended(work: &mut Work, token: Token, changed: usize) -> Result<(), Refusal> {
    if changed == 0 {
        return Err(late());
    }
    work.lines.count(token.line, 0, 0);
    Ok(())
}

fn done(work: &mut Work, token: Token) -> Result<(), Refusal> {
    let lease = [token.line, token.seq, token.lease, int(work.now_ms)];
    let key: Option<String> = if token.keyed {
        work.conn
            .prepare_cached("SELECT ordering_key FROM deliveries WHERE subscription = ?1 AND seq = ?2")?
            .query_row([token.line, token.seq], |row| row.get(0))
            .optional()?
            .flatten()
    } else {
        None
    };
    let changed = work
        .conn
        .prepare_cached(
            "DELETE FROM deliveries WHERE subscription = ?1 AND seq = ?2 AND lease = ?3 AND visible_at_ms > ?4",
        )?
        .execute(lease)?;
    if changed == 0 {
        return Err(late());
    }
    let freed = match key {
        Some(key) => free(work, token.line, &key)?,
        None => 0,
    };
    work.lines.count(token.line, -1, -freed);

    for sibling in work.lines.siblings(token.line) {
        let held = work
            .conn
            .prepare_cached("SELECT 1 FROM deliveries WHERE subscription = ?1 AND seq = ?2")?
            .exists([sibling, token.seq])?;
        if held {
            return Ok(());
        }
    }
    work.conn.prepare_cached("DELETE FROM messages WHERE seq = ?1")?.execute([token.seq])?;
    work.recent.remove(token.seq);
    if !token.keyed {
        bundle::released(work, token.line, token.seq)?;
    }
    Ok(())
}

/// Gives the next of this key the time that it would have had alone, so that it does not queue a second time.
fn free(work: &Work, line: i64, key: &str) -> rusqlite::Result<i64> {
    let freed = work
        .conn
        .prepare_cached(
            "UPDATE deliveries SET visible_at_ms =
             (SELECT max(not_before_ms, min(published_at_ms, ?3)) FROM messages WHERE messages.seq = deliveries.seq)
             WHERE subscription = ?1 AND seq =
             (SELECT seq FROM deliveries INDEXED BY deliveries_keys
              WHERE subscription = ?1 AND ordering_key = ?2 ORDER BY seq LIMIT 1)",
        )?
        .execute(params![line, key, int(work.now_ms)])?;
    Ok(i64::try_from(freed).unwrap_or(0))
}

fn late() -> Refusal {
    PortError::new(ErrorKind::Conflict, "the lease of this delivery has ended").into()
}
