//! What happened in a run, as the world saw it. The checks are made on this, never on what the host says of itself.

use sandpost_message::{FaultKind, MessageId, SubscriptionName, TimestampMs};
use sandpost_ports::broker::Settlement;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::sim::Life;

/// A message on a subscription.
pub(crate) type Spot = (MessageId, SubscriptionName);

#[derive(Default)]
pub(crate) struct Facts {
    /// Answered with `Ok`.
    pub(crate) accepted: Vec<MessageId>,
    pub(crate) handled: Vec<Handled>,
    pub(crate) settled: Vec<Settled>,
    /// By what the mail is (its address), each hand-over that left the provider.
    pub(crate) mails: BTreeMap<String, u64>,
    /// The same of published messages, by their bodies.
    pub(crate) published: BTreeMap<String, u64>,
    /// How often a key was found half handed over, by what it is.
    pub(crate) found_sending: HashMap<String, u64>,
    /// A key was released after it had been found half handed over: the release was on its way when its host gave up
    /// waiting, or went down.
    pub(crate) released_late: HashSet<Spot>,
    /// The keys of what was handed over.
    pub(crate) keys: BTreeMap<String, BTreeSet<String>>,
    /// Ids that the provider and the broker gave.
    pub(crate) provided: HashSet<String>,
    /// A lease was lost while it lasted: two attempts may have been at work at once.
    pub(crate) loose: HashSet<Spot>,
    /// Entries of the ledger whose writing failed or was cut off are no longer asked for.
    pub(crate) ledger_gaps: bool,
    /// What must not be.
    pub(crate) broken: Vec<String>,
    turns: u64,
}

impl Facts {
    /// The next place in the order of events.
    pub(crate) fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// The attempt that this settlement is about; none where the delivery was not tried.
    pub(crate) fn tried_under(&self, settled: &Settled) -> Option<&Handled> {
        let before = |other: &&Settled| other.spot == settled.spot && other.turn < settled.turn;
        let since = self.settled.iter().filter(before).map(|other| other.turn).max().unwrap_or(0);
        self.handled.iter().rfind(|h| {
            h.spot == settled.spot
                && h.attempt == settled.attempt
                && h.from_turn > since
                && h.until_turn.is_some_and(|until| until < settled.turn)
        })
    }
}

/// One attempt, as the handler saw it.
pub(crate) struct Handled {
    pub(crate) spot: Spot,
    pub(crate) attempt: u32,
    pub(crate) life: Arc<Life>,
    pub(crate) from_ms: TimestampMs,
    pub(crate) until_ms: Option<TimestampMs>,
    /// Its place among all beginnings, ends and settlements; many happen within one millisecond.
    pub(crate) from_turn: u64,
    pub(crate) until_turn: Option<u64>,
    pub(crate) end: End,
}

impl Handled {
    /// When it was over, at the latest.
    pub(crate) fn over_ms(&self) -> TimestampMs {
        self.until_ms.unwrap_or(u64::MAX).min(self.life.ended_at_ms())
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The host ended it, or went down.
    Cut,
    /// Acknowledged; whether all its effects were answered as done.
    Ack {
        sound: bool,
    },
    Retry {
        after_ms: Option<u64>,
    },
    Reject,
    Held,
    Fault(FaultKind),
}

/// One lease that ended by a settlement.
pub(crate) struct Settled {
    pub(crate) spot: Spot,
    pub(crate) attempt: u32,
    pub(crate) at_ms: TimestampMs,
    pub(crate) turn: u64,
    pub(crate) settlement: Settlement,
}
