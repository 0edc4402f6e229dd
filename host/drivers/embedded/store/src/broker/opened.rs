//! The bundles that are at work, in memory: which of their messages nobody has yet, which are leased and until when, and
//! which are gone.
//!
//! Invariants
//! - What is here is what the file says, and the leases beside it, which end with the run anyway: the file only knows
//!   that there is one.
//! - A change is noted until its transaction is committed, and taken back where it fails.
//! - Of each line the bundles up to `loaded` are here, if anything is left of them; the later ones are in the file alone.
//!
//! Not here: the file (`bundle`), and what a lease means (`lease`, `settle`).

use crate::row::size_bytes;
use sandpost_message::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of messages that are kept in memory after they were stored, because most are leased right after; over all lines, and
/// of one, so that a line on which nobody waits takes no other's room. Some thousands of an ordinary size a line. What is
/// stored beyond it is read back when its turn comes.
const HELD_MAX_BYTES: u64 = 32 * 1024 * 1024;
const HELD_OF_LINE_MAX_BYTES: u64 = 2 * 1024 * 1024;

/// How one message of a bundle stands on one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// Nobody has it.
    Fresh,
    /// Somebody has it, for the first time.
    Leased {
        /// By which lease.
        lease: i64,
        /// Until when.
        until_ms: i64,
    },
    /// Settled, or with a row of its own.
    Gone,
}

/// Which message of which bundle of which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: i64,
    /// The number of the bundle's first message, and the bundle's own.
    pub(crate) first: i64,
    pub(crate) index: usize,
}

impl Place {
    pub(crate) fn seq(self) -> i64 {
        self.first + crate::row::length(self.index)
    }
}

/// A bundle as one line sees it.
pub(crate) struct Bundle {
    /// From when on it is due, which is when it was stored.
    pub(crate) at_ms: i64,
    /// A message is here until it is gone.
    members: Vec<(Member, Option<Arc<Message>>)>,
    fresh: usize,
    left: usize,
    /// No member before this one is fresh.
    fresh_from: usize,
    dirty: bool,
}

impl Bundle {
    /// As the file has it. What is gone has no message.
    pub(crate) fn new(at_ms: i64, messages: Vec<Option<Arc<Message>>>) -> Self {
        let members: Vec<_> = messages
            .into_iter()
            .map(|message| (if message.is_some() { Member::Fresh } else { Member::Gone }, message))
            .collect();
        let left = members.iter().filter(|(member, _)| *member != Member::Gone).count();
        Self { at_ms, members, fresh: left, left, fresh_from: 0, dirty: false }
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().map(|(member, _)| *member)
    }

    fn bytes(&self) -> u64 {
        self.members.iter().filter_map(|(_, message)| message.as_deref()).map(size_bytes).sum()
    }
}

/// Those of one line.
#[derive(Default)]
struct Line {
    bundles: BTreeMap<i64, Bundle>,
    /// No bundle before this one has a fresh member.
    fresh_from: i64,
    /// Up to which bundle they are here.
    loaded: i64,
    /// The last one in the file.
    newest: i64,
    held_bytes: u64,
    leased: i64,
}

/// What to take back where the transaction fails.
enum Change {
    Member { place: Place, before: Member, message: Option<Arc<Message>> },
    Opened { line: i64, first: i64, loaded_before: i64 },
    Newest { line: i64, before: i64 },
}

/// Those of all lines.
#[derive(Default)]
pub(crate) struct Opened {
    lines: HashMap<i64, Line>,
    /// When the leases end: time, line, message.
    ends: BTreeSet<(i64, i64, i64)>,
    changes: Vec<Change>,
    /// Line and bundle, where the file has yet to learn of a change.
    dirty: Vec<(i64, i64)>,
    held_bytes: u64,
}

impl Opened {
    /// The file's last bundle of a line, at the start.
    pub(crate) fn begin(&mut self, line: i64, newest: i64) {
        self.lines.entry(line).or_default().newest = newest;
    }

    /// A bundle was stored. It is kept in memory if those before it are, and there is room.
    pub(crate) fn stored(&mut self, line: i64, first: i64, at_ms: i64, messages: &[Arc<Message>]) {
        let of_line = self.lines.entry(line).or_default();
        let before = std::mem::replace(&mut of_line.newest, first);
        self.changes.push(Change::Newest { line, before });
        let room = of_line.held_bytes < HELD_OF_LINE_MAX_BYTES && self.held_bytes < HELD_MAX_BYTES;
        if of_line.loaded >= before && room {
            self.open(line, first, Bundle::new(at_ms, messages.iter().cloned().map(Some).collect()));
        }
    }

    /// A bundle comes into memory.
    pub(crate) fn open(&mut self, line: i64, first: i64, bundle: Bundle) {
        let of_line = self.lines.entry(line).or_default();
        let bytes = bundle.bytes();
        self.held_bytes += bytes;
        of_line.held_bytes += bytes;
        of_line.bundles.insert(first, bundle);
        of_line.fresh_from = of_line.fresh_from.min(first);
        let loaded_before = std::mem::replace(&mut of_line.loaded, first);
        self.changes.push(Change::Opened { line, first, loaded_before });
    }

    /// After which bundle the file has more of this line than is here; none where it has not.
    pub(crate) fn more_after(&self, line: i64) -> Option<i64> {
        self.lines.get(&line).filter(|line| line.loaded < line.newest).map(|line| line.loaded)
    }

    /// The first message that nobody has, of those that are here, and from when on it was due.
    pub(crate) fn next_fresh(&mut self, line: i64) -> Option<(Place, i64)> {
        let of_line = self.lines.get_mut(&line)?;
        let found = of_line.bundles.range_mut(of_line.fresh_from..).find(|(_, bundle)| bundle.fresh > 0);
        let Some((first, bundle)) = found else {
            of_line.fresh_from = of_line.loaded + 1;
            return None;
        };
        of_line.fresh_from = *first;
        let later = bundle.members.iter().skip(bundle.fresh_from);
        bundle.fresh_from += later.take_while(|(member, _)| *member != Member::Fresh).count();
        Some((Place { line, first: *first, index: bundle.fresh_from }, bundle.at_ms))
    }

    /// The first message of a line that is not gone, of those that are here.
    pub(crate) fn oldest(&self, line: i64) -> Option<(Place, &Message)> {
        let (first, bundle) = self.lines.get(&line)?.bundles.iter().find(|(_, bundle)| bundle.left > 0)?;
        let mut held = bundle.members.iter().enumerate();
        held.find_map(|(index, (_, message))| Some((Place { line, first: *first, index }, message.as_deref()?)))
    }

    /// How many are leased on a line until after this time.
    pub(crate) fn leased_after(&self, line: i64, now_ms: i64) -> i64 {
        let ended = self.ends.range(..(now_ms.saturating_add(1), i64::MIN, i64::MIN));
        let ended = crate::row::length(ended.filter(|(_, of, _)| *of == line).count());
        self.lines.get(&line).map_or(0, |line| line.leased) - ended
    }

    /// The lease of a message, if it is one of a bundle that is here.
    pub(crate) fn leased(&self, line: i64, seq: i64) -> Option<(Place, i64, i64)> {
        let place = self.place(line, seq)?;
        match self.member(place)?.0 {
            Member::Leased { lease, until_ms } => Some((place, lease, until_ms)),
            Member::Fresh | Member::Gone => None,
        }
    }

    /// The message at a place, while it is not gone.
    pub(crate) fn message(&self, place: Place) -> Option<Arc<Message>> {
        self.member(place)?.1.clone()
    }

    /// When the first lease ends.
    pub(crate) fn first_end_ms(&self) -> Option<i64> {
        self.ends.first().map(|(until_ms, ..)| *until_ms)
    }

    /// Who had the lease that ended first, by this time: the place, the lease, and when it ended.
    pub(crate) fn ended_by(&mut self, now_ms: i64) -> Option<(Place, i64, i64)> {
        loop {
            let end = *self.ends.first().filter(|(until_ms, ..)| *until_ms <= now_ms)?;
            match self.leased(end.1, end.2) {
                Some((place, lease, until_ms)) => return Some((place, lease, until_ms)),
                // There is none such; it must not hold up the others.
                None => self.ends.remove(&end),
            };
        }
    }

    /// Changes how a message stands; gives the message where it is gone now.
    pub(crate) fn set(&mut self, place: Place, member: Member) -> Option<Arc<Message>> {
        let (before, message) = self.member(place)?.clone();
        let kept = if member == Member::Gone { None } else { message.clone() };
        self.put(place, member, kept);
        if std::mem::discriminant(&before) != std::mem::discriminant(&member)
            && let Some(bundle) = self.bundle_mut(place.line, place.first)
            && !std::mem::replace(&mut bundle.dirty, true)
        {
            self.dirty.push((place.line, place.first));
        }
        self.changes.push(Change::Member { place, before, message: message.clone() });
        message
    }

    /// The bundles of which the file has yet to learn.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = (i64, i64, &Bundle)> {
        let bundle = |(line, first): &(i64, i64)| {
            let bundle = self.lines.get(line)?.bundles.get(first)?;
            Some((*line, *first, bundle))
        };
        self.dirty.iter().filter_map(bundle)
    }

    /// The file has learned it. Bundles of which nothing is left go.
    pub(crate) fn committed(&mut self) {
        self.changes.clear();
        for (line, first) in std::mem::take(&mut self.dirty) {
            let Some(line) = self.lines.get_mut(&line) else { continue };
            if let Some(bundle) = line.bundles.get_mut(&first) {
                bundle.dirty = false;
                if bundle.left == 0 {
                    line.bundles.remove(&first);
                }
            }
        }
    }

    /// Everything as it was before.
    pub(crate) fn rolled_back(&mut self) {
        for change in std::mem::take(&mut self.changes).into_iter().rev() {
            match change {
                Change::Member { place, before, message } => self.put(place, before, message),
                Change::Opened { line, first, loaded_before } => {
                    let Some(line) = self.lines.get_mut(&line) else { continue };
                    line.loaded = loaded_before;
                    if let Some(bundle) = line.bundles.remove(&first) {
                        let bytes = bundle.bytes();
                        self.held_bytes -= bytes;
                        line.held_bytes -= bytes;
                    }
                }
                Change::Newest { line, before } => {
                    if let Some(line) = self.lines.get_mut(&line) {
                        line.newest = before;
                    }
                }
            }
        }
        for (line, first) in std::mem::take(&mut self.dirty) {
            if let Some(bundle) = self.bundle_mut(line, first) {
                bundle.dirty = false;
            }
        }
    }

    fn place(&self, line: i64, seq: i64) -> Option<Place> {
        let (first, bundle) = self.lines.get(&line)?.bundles.range(..=seq).next_back()?;
        let index = usize::try_from(seq - first).ok().filter(|index| *index < bundle.members.len())?;
        Some(Place { line, first: *first, index })
    }

    fn member(&self, place: Place) -> Option<&(Member, Option<Arc<Message>>)> {
        self.lines.get(&place.line)?.bundles.get(&place.first)?.members.get(place.index)
    }

    fn bundle_mut(&mut self, line: i64, first: i64) -> Option<&mut Bundle> {
        self.lines.get_mut(&line)?.bundles.get_mut(&first)
    }

    fn put(&mut self, place: Place, member: Member, message: Option<Arc<Message>>) {
        let Place { line, first, index } = place;
        let Some(of_line) = self.lines.get_mut(&line) else { return };
        let Some(bundle) = of_line.bundles.get_mut(&first) else { return };
        let Some(slot) = bundle.members.get_mut(index) else { return };
        let bytes = |message: &Option<Arc<Message>>| message.as_deref().map_or(0, size_bytes);
        let now_bytes = bytes(&message);
        let (before, held) = std::mem::replace(slot, (member, message));
        for held_bytes in [&mut self.held_bytes, &mut of_line.held_bytes] {
            *held_bytes = *held_bytes + now_bytes - bytes(&held);
        }
        bundle.fresh = bundle.fresh + usize::from(member == Member::Fresh) - usize::from(before == Member::Fresh);
        bundle.left = bundle.left + usize::from(member != Member::Gone) - usize::from(before != Member::Gone);
        if let Member::Leased { until_ms, .. } = before {
            self.ends.remove(&(until_ms, line, place.seq()));
            of_line.leased -= 1;
        }
        if let Member::Leased { until_ms, .. } = member {
            self.ends.insert((until_ms, line, place.seq()));
            of_line.leased += 1;
        }
        if member == Member::Fresh {
            bundle.fresh_from = bundle.fresh_from.min(index);
            of_line.fresh_from = of_line.fresh_from.min(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(count: usize) -> Vec<Arc<Message>> {
        (0..count).map(|_| Arc::new(Message::new("orders".parse().unwrap(), "body", 1))).collect()
    }

    #[test]
    fn a_failed_transaction_leaves_everything_as_it_was() {
        let mut opened = Opened::default();
        opened.stored(1, 10, 5, &messages(3));
        opened.committed();
        let held_bytes = opened.held_bytes;
        let (place, at_ms) = opened.next_fresh(1).unwrap();
        assert_eq!((place.seq(), at_ms), (10, 5));
        opened.set(place, Member::Leased { lease: 7, until_ms: 50 });
        opened.committed();

        opened.stored(1, 20, 6, &messages(2));
        opened.set(place, Member::Gone).unwrap();
        opened.set(opened.place(1, 11).unwrap(), Member::Leased { lease: 8, until_ms: 60 });
        assert_eq!(opened.dirty().count(), 1);
        assert_eq!(opened.next_fresh(1).unwrap().0.seq(), 12);
        opened.rolled_back();

        assert_eq!(opened.leased(1, 10), Some((place, 7, 50)));
        assert_eq!(opened.next_fresh(1).unwrap().0.seq(), 11);
        assert_eq!((opened.held_bytes, opened.ends.len(), opened.dirty.len()), (held_bytes, 1, 0));
        assert_eq!((opened.more_after(1), opened.leased(1, 20)), (None, None));
        assert_eq!(opened.oldest(1).unwrap().0, place);
    }

    #[test]
    fn what_is_gone_takes_no_memory() {
        let mut opened = Opened::default();
        opened.stored(1, 10, 5, &messages(2));
        for seq in [10, 11] {
            opened.set(opened.place(1, seq).unwrap(), Member::Gone).unwrap();
        }
        opened.committed();
        assert_eq!((opened.held_bytes, opened.lines[&1].held_bytes), (0, 0));
        assert!(opened.lines[&1].bundles.is_empty() && opened.oldest(1).is_none());
    }

    #[test]
    fn a_line_on_which_nobody_waits_takes_no_others_room() {
        let mut opened = Opened::default();
        let large = Arc::new(Message::new("orders".parse().unwrap(), vec![0; 1024 * 1024], 1));
        for first in 1..100 {
            opened.stored(1, first, 5, &[Arc::clone(&large)]);
        }
        assert_eq!(opened.lines[&1].bundles.len(), 2);
        assert_eq!(opened.more_after(1), Some(2), "the rest is in the file alone");
        opened.stored(2, 100, 5, &messages(1));
        assert_eq!(opened.next_fresh(2).unwrap().0.seq(), 100);
    }

    #[test]
    fn what_has_no_room_is_left_in_the_file_and_so_is_what_comes_behind_it() {
        let mut opened = Opened { held_bytes: HELD_MAX_BYTES, ..Opened::default() };
        opened.stored(1, 10, 5, &messages(1));
        opened.held_bytes = 0;
        opened.stored(1, 20, 5, &messages(1));
        assert_eq!((opened.next_fresh(1), opened.more_after(1)), (None, Some(0)));
        opened.open(1, 10, Bundle::new(5, messages(1).into_iter().map(Some).collect()));
        assert_eq!(opened.next_fresh(1).unwrap().0.seq(), 10);
        assert_eq!(opened.more_after(1), Some(10));
    }
}
