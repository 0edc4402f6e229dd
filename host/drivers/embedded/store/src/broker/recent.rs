//! Messages that were stored a moment ago: most are leased right after, and need not be read back.
//!
//! Invariants
//! - What is here is what the file holds under that number; a transaction that fails takes all of it away, and a message
//!   that is deleted goes with its row.
//! - Bounded in bytes; the oldest go first.

use crate::row::size_bytes;
use sandpost_message::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of messages, with what is around them. Some ten thousand of an ordinary size: more than is stored between two
/// leases.
const RECENT_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// By their numbers, of which a later message has a larger one.
#[derive(Default)]
pub(crate) struct Recent {
    messages: BTreeMap<i64, Arc<Message>>,
    bytes: u64,
}

impl Recent {
    pub(crate) fn get(&self, seq: i64) -> Option<Arc<Message>> {
        self.messages.get(&seq).cloned()
    }

    pub(crate) fn add(&mut self, seq: i64, message: &Arc<Message>) {
        self.bytes += size_bytes(message);
        if let Some(before) = self.messages.insert(seq, Arc::clone(message)) {
            self.bytes -= size_bytes(&before);
        }
        while self.bytes > RECENT_MAX_BYTES
            && let Some((_, oldest)) = self.messages.pop_first()
        {
            self.bytes -= size_bytes(&oldest);
        }
    }

    pub(crate) fn remove(&mut self, seq: i64) {
        if let Some(message) = self.messages.remove(&seq) {
            self.bytes -= size_bytes(&message);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_bytes_are_right() {
        let mut recent = Recent::default();
        let message = Arc::new(Message::new("orders".parse().unwrap(), vec![0; 5 * 1024 * 1024], 1));
        (1..=4).for_each(|seq| recent.add(seq, &message));
        // A message comes once for each line on which it has a row.
        recent.add(4, &message);
        assert_eq!((recent.get(1).is_some(), recent.get(2).is_some()), (false, true));
        (1..=4).for_each(|seq| recent.remove(seq));
        assert_eq!(recent.bytes, 0);
    }
}
