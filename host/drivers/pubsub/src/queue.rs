//! What one subscription has in this host: waiting, leased, held until a time, or behind another of its key.
//!
//! The service leases messages to the host; the host leases them to its handlers. A handler's lease that ends, a back-off
//! and a hand-back are settled here, without the service: it counts what it is given back as a delivery, and delivers it
//! when it likes. The service's own lease is extended for as long as the message is here, by the vendor's library.
//!
//! Invariants
//! - A message is here once, by the service's id. Delivered again meanwhile, it brings another handle and changes nothing else.
//! - Of a key the earliest alone is ready, leased or held.
//! - A handle leaves by an acknowledgement, or is dropped, which gives the message back to the service.
//!
//! Not here: the stream (`feed`), waiting (`subscription`).

use sandpost_message::{Message, TimestampMs};
use sandpost_ports::broker::Settlement;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// How long a message's acknowledgement is remembered: the answer to it can be lost, and the service delivers it again.
const REMEMBERED_MS: u64 = 3 * 60 * 1000;

/// How many are remembered at most, about 100 bytes each.
const REMEMBERED_MAX: usize = 20_000;

/// How many handles of one message are kept: one for each time that the service lost patience.
const HANDLES_MAX: usize = 16;

/// All of it. `H` is what acknowledges at the service.
#[derive(Debug)]
pub(crate) struct Queue<H> {
    entries: BTreeMap<u64, Entry<H>>,
    by_service_id: HashMap<Arc<str>, u64>,
    keys: HashMap<String, BTreeSet<u64>>,
    ready: BTreeSet<u64>,
    /// Held and leased ones by when that ends.
    timed: BTreeSet<(TimestampMs, u64)>,
    acknowledged: HashMap<Arc<str>, TimestampMs>,
    acknowledged_order: VecDeque<(TimestampMs, Arc<str>)>,
    last: u64,
}

#[derive(Debug)]
struct Entry<H> {
    message: Arc<Message>,
    service_id: Arc<str>,
    /// Of the delivery that is next, or out.
    attempt: u32,
    tried: bool,
    lease: u64,
    state: State,
    handles: Vec<H>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Behind,
    HeldUntil(TimestampMs),
    LeasedUntil(TimestampMs),
}

/// A delivery, before it has its receipt.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) message: Arc<Message>,
    pub(crate) attempt: u32,
    pub(crate) token: String,
}

/// What became of one that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<H> {
    /// It is here now.
    New,
    /// It was here.
    Known,
    /// It was acknowledged not long ago; to be acknowledged again.
    Acknowledged(H),
}

/// Why a token settles nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not one.
    Strange,
    /// Its lease ended.
    Lost,
}

impl<H> Default for Queue<H> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            by_service_id: HashMap::new(),
            keys: HashMap::new(),
            ready: BTreeSet::new(),
            timed: BTreeSet::new(),
            acknowledged: HashMap::new(),
            acknowledged_order: VecDeque::new(),
            last: 0,
        }
    }
}

impl<H> Queue<H> {
    /// One from the service. `delivery` is the service's own count, 1 where it keeps none.
    pub(crate) fn arrive(
        &mut self,
        service_id: &str,
        message: Message,
        delivery: u32,
        handle: H,
        now_ms: TimestampMs,
    ) -> Arrival<H> {
        self.forget_acknowledged(now_ms);
        if self.acknowledged.contains_key(service_id) {
            return Arrival::Acknowledged(handle);
        }
        if let Some(entry) = self.by_service_id.get(service_id).and_then(|number| self.entries.get_mut(number)) {
            if entry.handles.len() == HANDLES_MAX {
                entry.handles.remove(0);
            }
            entry.handles.push(handle);
            return Arrival::Known;
        }
        self.last += 1;
        let (number, service_id) = (self.last, Arc::from(service_id));
        self.by_service_id.insert(Arc::clone(&service_id), number);
        let not_before_ms = message.not_before_ms;
        let first = match &message.ordering_key {
            Some(key) => {
                let numbers = self.keys.entry(key.clone()).or_default();
                numbers.insert(number);
                numbers.len() == 1
            }
            None => true,
        };
        let (message, handles) = (Arc::new(message), vec![handle]);
        let attempt = delivery.max(1);
        let state = State::Behind;
        self.entries.insert(number, Entry { message, service_id, attempt, tried: false, lease: 0, state, handles });
        if first {
            self.wait(number, not_before_ms, now_ms);
        }
        Arrival::New
    }

    /// Leases up to `max` that are ready, the earliest first.
    pub(crate) fn take(&mut self, max: usize, lease_ms: u64, now_ms: TimestampMs) -> Vec<Taken> {
        self.turn(now_ms);
        let until_ms = now_ms.saturating_add(lease_ms);
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(number) = self.ready.first().copied() else { break };
            self.set(number, State::LeasedUntil(until_ms));
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.tried = true;
            entry.lease += 1;
            taken.push(Taken {
                message: Arc::clone(&entry.message),
                attempt: entry.attempt,
                token: format!("{number}.{}", entry.lease),
            });
        }
        taken
    }

    /// Ends a lease. With [`Settlement::Done`] the handles come back, to be acknowledged.
    pub(crate) fn settle(
        &mut self,
        token: &str,
        settlement: Settlement,
        now_ms: TimestampMs,
    ) -> Result<Vec<H>, Refused> {
        let number = self.leased(token, now_ms)?;
        match settlement {
            Settlement::Done => {
                let entry = self.remove(number, now_ms).ok_or(Refused::Lost)?;
                self.acknowledged.insert(Arc::clone(&entry.service_id), now_ms);
                self.acknowledged_order.push_back((now_ms, entry.service_id));
                self.forget_acknowledged(now_ms);
                return Ok(entry.handles);
            }
            Settlement::RetryAt(at_ms) => {
                self.count(number);
                self.wait(number, at_ms, now_ms);
            }
            Settlement::HandBack(at_ms) => self.wait(number, at_ms, now_ms),
        }
        Ok(Vec::new())
    }

    pub(crate) fn extend(&mut self, token: &str, lease_ms: u64, now_ms: TimestampMs) -> Result<(), Refused> {
        let number = self.leased(token, now_ms)?;
        self.set(number, State::LeasedUntil(now_ms.saturating_add(lease_ms)));
        Ok(())
    }

    /// When something becomes ready by time alone.
    pub(crate) fn next_at_ms(&self) -> Option<TimestampMs> {
        self.timed.first().map(|(at_ms, _)| *at_ms)
    }

    /// What nobody tried yet goes back: the service delivers it again, here or elsewhere. For a stream that was lost.
    pub(crate) fn let_go_of_untried(&mut self, now_ms: TimestampMs) {
        let untried: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| !entry.tried).map(|(number, _)| *number).collect();
        for number in untried {
            self.remove(number, now_ms);
        }
    }

    /// Everything goes back.
    pub(crate) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Moves what is due.
    fn turn(&mut self, now_ms: TimestampMs) {
        while let Some((at_ms, number)) = self.timed.first().copied() {
            if at_ms > now_ms {
                break;
            }
            if matches!(self.entries.get(&number).map(|entry| entry.state), Some(State::LeasedUntil(_))) {
                self.count(number);
            }
            self.set(number, State::Ready);
        }
    }

    fn leased(&mut self, token: &str, now_ms: TimestampMs) -> Result<u64, Refused> {
        let parsed = token.split_once('.').and_then(|(one, two)| Some((one.parse().ok()?, two.parse().ok()?)));
        let (number, lease): (u64, u64) = parsed.ok_or(Refused::Strange)?;
        self.turn(now_ms);
        let entry = self.entries.get(&number).ok_or(Refused::Lost)?;
        let held = matches!(entry.state, State::LeasedUntil(_)) && entry.lease == lease;
        if held { Ok(number) } else { Err(Refused::Lost) }
    }

    fn count(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.attempt = entry.attempt.saturating_add(1);
        }
    }

    fn wait(&mut self, number: u64, at_ms: TimestampMs, now_ms: TimestampMs) {
        self.set(number, if at_ms > now_ms { State::HeldUntil(at_ms) } else { State::Ready });
    }

    /// The one place where a state changes.
    fn set(&mut self, number: u64, state: State) {
        let Some(entry) = self.entries.get_mut(&number) else {
            self.ready.remove(&number);
            return;
        };
        match std::mem::replace(&mut entry.state, state) {
            State::Ready => {
                self.ready.remove(&number);
            }
            State::HeldUntil(at_ms) | State::LeasedUntil(at_ms) => {
                self.timed.remove(&(at_ms, number));
            }
            State::Behind => {}
        }
        match state {
            State::Ready => {
                self.ready.insert(number);
            }
            State::HeldUntil(at_ms) | State::LeasedUntil(at_ms) => {
                self.timed.insert((at_ms, number));
            }
            State::Behind => {}
        }
    }

    /// Takes it out; the next of its key comes forward.
    fn remove(&mut self, number: u64, now_ms: TimestampMs) -> Option<Entry<H>> {
        self.set(number, State::Behind);
        let entry = self.entries.remove(&number)?;
        self.by_service_id.remove(&entry.service_id);
        if let Some(key) = &entry.message.ordering_key
            && let Some(numbers) = self.keys.get_mut(key)
        {
            numbers.remove(&number);
            match numbers.first().copied() {
                Some(next) => {
                    if let Some(following) = self.entries.get(&next)
                        && following.state == State::Behind
                    {
                        let not_before_ms = following.message.not_before_ms;
                        self.wait(next, not_before_ms, now_ms);
                    }
                }
                None => {
                    self.keys.remove(key);
                }
            }
        }
        Some(entry)
    }

    fn forget_acknowledged(&mut self, now_ms: TimestampMs) {
        while let Some((at_ms, service_id)) = self.acknowledged_order.front() {
            if self.acknowledged_order.len() <= REMEMBERED_MAX && at_ms.saturating_add(REMEMBERED_MS) > now_ms {
                break;
            }
            self.acknowledged.remove(service_id);
            self.acknowledged_order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: Option<&str>, body: &'static str) -> Message {
        Message { ordering_key: key.map(str::to_owned), ..Message::new("orders".parse().unwrap(), body, 0) }
    }

    fn taken(queue: &mut Queue<u8>, max: usize, now_ms: u64) -> Vec<(String, u32, String)> {
        let body = |taken: &Taken| String::from_utf8_lossy(&taken.message.body).into_owned();
        queue.take(max, 100, now_ms).iter().map(|one| (body(one), one.attempt, one.token.clone())).collect()
    }

    fn bodies(taken: &[(String, u32, String)]) -> Vec<&str> {
        taken.iter().map(|(body, ..)| body.as_str()).collect()
    }

    #[test]
    fn one_of_a_key_is_out_and_a_back_off_holds_it() {
        let mut queue = Queue::default();
        for (number, (key, body)) in [("a", "a1"), ("a", "a2"), ("b", "b1")].into_iter().enumerate() {
            queue.arrive(&number.to_string(), message(Some(key), body), 1, 0, 0);
        }
        let out = taken(&mut queue, 9, 0);
        assert_eq!(bodies(&out), ["a1", "b1"]);
        queue.settle(&out[0].2, Settlement::RetryAt(50), 10).unwrap();
        assert!(taken(&mut queue, 9, 49).is_empty());
        assert_eq!(queue.next_at_ms(), Some(50));
        let again = taken(&mut queue, 9, 50);
        assert_eq!((again[0].0.as_str(), again[0].1), ("a1", 2));
        queue.settle(&again[0].2, Settlement::HandBack(0), 60).unwrap();
        let again = taken(&mut queue, 9, 60);
        assert_eq!((again[0].0.as_str(), again[0].1), ("a1", 2));
        assert_eq!(queue.settle(&again[0].2, Settlement::Done, 70), Ok(vec![0]));
        assert_eq!(bodies(&taken(&mut queue, 9, 70)), ["a2"]);
    }

    #[test]
    fn a_lease_that_ended_settles_nothing_and_counts() {
        let mut queue = Queue::default();
        queue.arrive("1", message(None, "x"), 1, 0, 0);
        let first = taken(&mut queue, 1, 0).remove(0);
        assert_eq!(queue.settle(&first.2, Settlement::Done, 100), Err(Refused::Lost));
        let second = taken(&mut queue, 1, 100).remove(0);
        assert_eq!(second.1, 2);
        assert_eq!(queue.settle(&first.2, Settlement::Done, 100), Err(Refused::Lost));
        assert_eq!(queue.extend(&second.2, 1_000, 150), Ok(()));
        assert!(taken(&mut queue, 1, 1_149).is_empty());
        assert_eq!(queue.settle("nonsense", Settlement::Done, 0), Err(Refused::Strange));
    }

    #[test]
    fn what_the_service_delivers_again_is_one_message() {
        let mut queue = Queue::default();
        assert_eq!(queue.arrive("1", message(None, "x"), 1, 1, 0), Arrival::New);
        let out = taken(&mut queue, 1, 0).remove(0);
        assert_eq!(queue.arrive("1", message(None, "x"), 2, 2, 0), Arrival::Known);
        assert!(taken(&mut queue, 1, 0).is_empty());
        // Both handles: the service may take either for the one that counts.
        assert_eq!(queue.settle(&out.2, Settlement::Done, 10), Ok(vec![1, 2]));
        assert_eq!(queue.arrive("1", message(None, "x"), 3, 3, 20), Arrival::Acknowledged(3));
        assert_eq!(queue.arrive("1", message(None, "x"), 4, 4, 10 + REMEMBERED_MS), Arrival::New);
        assert_eq!(taken(&mut queue, 1, 10 + REMEMBERED_MS)[0].1, 4, "the service's own count is where ours begins");
    }

    #[test]
    fn a_lost_stream_lets_go_of_what_nobody_tried() {
        let mut queue = Queue::default();
        for (id, key, body) in [("1", "a", "a1"), ("2", "a", "a2"), ("3", "b", "b1")] {
            queue.arrive(id, message(Some(key), body), 1, 0, 0);
        }
        let a1 = taken(&mut queue, 1, 0).remove(0);
        queue.let_go_of_untried(0);
        assert!(taken(&mut queue, 9, 0).is_empty());
        // In their order again, behind the one that is out.
        for (id, key, body) in [("1", "a", "a1"), ("2", "a", "a2"), ("3", "b", "b1")] {
            queue.arrive(id, message(Some(key), body), 2, 0, 0);
        }
        assert_eq!(bodies(&taken(&mut queue, 9, 0)), ["b1"]);
        queue.settle(&a1.2, Settlement::Done, 1).unwrap();
        assert_eq!(bodies(&taken(&mut queue, 9, 1)), ["a2"]);
    }

    #[test]
    fn a_message_waits_for_its_time() {
        let mut queue = Queue::default();
        queue.arrive("1", Message { not_before_ms: 500, ..message(Some("a"), "later") }, 1, 0, 0);
        queue.arrive("2", message(Some("a"), "behind"), 1, 0, 0);
        assert!(taken(&mut queue, 9, 499).is_empty());
        let later = taken(&mut queue, 9, 500);
        assert_eq!((bodies(&later), later[0].1), (vec!["later"], 1));
    }
}
