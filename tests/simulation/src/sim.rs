//! The world that a run happens in: virtual time, chance, the trace, and the ways of requests between a host and its
//! services.
//!
//! One thread, tokio's paused time, one source of chance: the same seed gives the same trace.
//!
//! Invariants
//! - Every event at a port is a point at which a host may crash. A crashed host does nothing more: none of its futures
//!   that touch a port or the clock is ever polled again. What it had on the way arrives or does not.
//! - A request is on its way for less time than any caller waits, so that what a caller gave up either happened by then or
//!   never does.

use crate::chance::Chance;
use crate::facts::Facts;
use crate::plan::{Options, Plan, Rates};
use sandpost_message::TimestampMs;
use sandpost_ports::clock::Clock;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(crate) const START_MS: TimestampMs = 1_700_000_000_000;

/// Events after which a run that is not over turns in a circle.
const EVENTS_MAX: u64 = 400_000;

/// One life of one host, from its start to its crash or stop.
pub(crate) struct Life {
    pub(crate) number: u64,
    ended: AtomicBool,
    ended_at_ms: AtomicU64,
}

impl Life {
    pub(crate) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self { number, ended: AtomicBool::new(false), ended_at_ms: AtomicU64::new(u64::MAX) })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn ended_at_ms(&self) -> TimestampMs {
        self.ended_at_ms.load(Ordering::SeqCst)
    }

    /// The end, however it came.
    pub(crate) fn end(&self, now_ms: TimestampMs) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.ended_at_ms.store(now_ms, Ordering::SeqCst);
        }
    }

    /// The work, as long as the host lives; after that nothing, for ever.
    pub(crate) async fn live<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.is_over() {
                return Poll::Pending;
            }
            match work.as_mut().poll(context) {
                Poll::Ready(done) if !self.is_over() => Poll::Ready(done),
                Poll::Ready(_) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

struct Inner {
    chance: Chance,
    hash: u64,
    print: bool,
    names: HashMap<String, String>,
    counts: HashMap<&'static str, u64>,
    events: u64,
    crash_in: Option<u64>,
    rates: Rates,
    faulty: bool,
}

/// The world.
pub(crate) struct Sim {
    since: Instant,
    inner: Mutex<Inner>,
    facts: Mutex<Facts>,
    /// Hosts end by themselves where this is set.
    pub(crate) embedded: bool,
    /// A host crashed, or the run turns in a circle.
    pub(crate) changed: Notify,
}

/// What becomes of one request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    Refused,
    ReplyLost,
    RequestLost,
    Silent { done: bool },
}

impl Sim {
    pub(crate) fn new(seed: u64, plan: &Plan, options: Options) -> Arc<Self> {
        Arc::new(Self {
            since: Instant::now(),
            inner: Mutex::new(Inner {
                chance: Chance::new(seed),
                hash: 0xcbf2_9ce4_8422_2325,
                print: options.print,
                names: HashMap::new(),
                counts: HashMap::new(),
                events: 0,
                crash_in: None,
                rates: plan.rates,
                faulty: options.only_crash_at.is_none(),
            }),
            facts: Mutex::default(),
            embedded: plan.embedded,
            changed: Notify::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now_ms(&self) -> TimestampMs {
        START_MS + u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Since the start of the run.
    pub(crate) fn at_ms(&self) -> u64 {
        self.now_ms() - START_MS
    }

    pub(crate) fn chance<T>(&self, choose: impl FnOnce(&mut Chance) -> T) -> T {
        choose(&mut self.inner().chance)
    }

    pub(crate) fn rates(&self) -> Rates {
        let inner = self.inner();
        if inner.faulty { inner.rates } else { Rates { unwilling: inner.rates.unwilling.min(400), ..Rates::default() } }
    }

    /// The same name for the same thing in every run of a seed; ids themselves differ.
    pub(crate) fn name(&self, kind: &'static str, id: &str) -> String {
        let mut inner = self.inner();
        if let Some(name) = inner.names.get(id) {
            return name.clone();
        }
        let count = inner.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("{kind}{count}");
        inner.names.insert(id.to_owned(), name.clone());
        name
    }

    /// A line of the trace. Holds names, never ids.
    pub(crate) fn trace(&self, line: fmt::Arguments<'_>) {
        let line = format!("{:>9} {line}", self.at_ms());
        let mut inner = self.inner();
        // FNV-1a.
        for byte in line.bytes() {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if inner.print {
            crate::say(&line);
        }
    }

    /// How many events there were, and the hash of the trace.
    pub(crate) fn fingerprint(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.events, inner.hash)
    }

    pub(crate) fn turns_in_a_circle(&self) -> bool {
        self.inner().events > EVENTS_MAX
    }

    /// From now on nothing fails.
    pub(crate) fn calm(&self) {
        let mut inner = self.inner();
        inner.faulty = false;
        inner.crash_in = None;
    }

    pub(crate) fn crash_in(&self, events: Option<u64>) {
        self.inner().crash_in = events;
    }

    /// One event of this host: here it may crash.
    pub(crate) fn event(&self, life: &Life) {
        let crash = {
            let mut inner = self.inner();
            inner.events += 1;
            if inner.events == EVENTS_MAX {
                self.changed.notify_one();
            }
            if life.is_over() {
                return;
            }
            match &mut inner.crash_in {
                Some(0) => {
                    inner.crash_in = None;
                    true
                }
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            }
        };
        if crash {
            life.end(self.now_ms());
            self.trace(format_args!("h{} crashes", life.number));
            self.changed.notify_one();
        }
    }

    /// Lets others go first, or time pass, by chance.
    pub(crate) async fn pause(&self) {
        let rates = self.rates();
        let (turns, wait_ms) =
            self.chance(|c| if c.in_thousand(rates.slow) { (0, c.between(1, rates.slow_ms)) } else { (c.below(4), 0) });
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn fate(&self) -> Fate {
        let rates = self.rates();
        self.chance(|c| {
            if c.in_thousand(rates.refused) {
                Fate::Refused
            } else if c.in_thousand(rates.reply_lost) {
                Fate::ReplyLost
            } else if c.in_thousand(rates.request_lost) {
                Fate::RequestLost
            } else if c.in_thousand(rates.silent) {
                Fate::Silent { done: c.in_thousand(500) }
            } else {
                Fate::Well
            }
        })
    }

    /// One request of a host to a service: on its way on its own, whatever becomes of who waits for it.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        life: &Arc<Life>,
        operation: &'static str,
        execute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let fate = self.fate();
        self.call_with(life, operation, fate, execute).await
    }

    async fn call_with<T: Send + 'static>(
        self: &Arc<Self>,
        life: &Arc<Life>,
        operation: &'static str,
        fate: Fate,
        execute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let (answer, answered) = oneshot::channel();
        let (sim, host) = (Arc::clone(self), Arc::clone(life));
        let goes_on = self.chance(|c| c.in_thousand(500));
        life.live(async {
            tokio::spawn(async move {
                sim.pause().await;
                sim.event(&host);
                let cut = (host.is_over() && (sim.embedded || !goes_on)) || (answer.is_closed() && !goes_on);
                if cut {
                    sim.trace(format_args!("h{} {operation}: cut off on its way", host.number));
                    return;
                }
                let done = match fate {
                    Fate::Well | Fate::ReplyLost | Fate::Silent { done: true } => Some(execute()),
                    Fate::Refused | Fate::RequestLost | Fate::Silent { done: false } => None,
                };
                sim.event(&host);
                sim.pause().await;
                let told = match (fate, done) {
                    (Fate::Well, Some(done)) => Ok(done),
                    (Fate::Silent { .. }, _) => {
                        sim.trace(format_args!("h{} {operation}: silence", host.number));
                        pending::<()>().await;
                        return;
                    }
                    (Fate::Refused, _) => Err(PortError::new(ErrorKind::Unavailable, "refused")),
                    (_, _) => Err(PortError::new(ErrorKind::UnknownOutcome, "the connection broke")),
                };
                if let Err(error) = &told {
                    sim.trace(format_args!("h{} {operation}: {error}", host.number));
                }
                // Whoever asked may be gone.
                answer.send(told).ok();
            });
            match answered.await {
                Ok(told) => told,
                Err(_cut) => pending().await,
            }
        })
        .await
    }

    /// The same to the provider of e-mail, with its own rate of faults.
    pub(crate) async fn provide<T: Send + 'static>(
        self: &Arc<Self>,
        life: &Arc<Life>,
        operation: &'static str,
        execute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let rates = self.rates();
        let fate = self.chance(|c| {
            if c.in_thousand(rates.provider) {
                c.pick(&[
                    Fate::Refused,
                    Fate::Refused,
                    Fate::ReplyLost,
                    Fate::RequestLost,
                    Fate::Silent { done: true },
                    Fate::Silent { done: false },
                ])
            } else {
                Fate::Well
            }
        });
        self.call_with(life, operation, fate, execute).await
    }
}

/// The clock of one host.
pub(crate) struct SimClock {
    pub(crate) sim: Arc<Sim>,
    pub(crate) life: Arc<Life>,
}

/// Waits for longer than this are for ever: no run lasts as long.
const EVER_MS: u64 = 1_000 * 3_600_000;

#[async_trait::async_trait]
impl Clock for SimClock {
    fn now_ms(&self) -> TimestampMs {
        self.sim.now_ms()
    }

    async fn sleep_until(&self, at_ms: TimestampMs) {
        let wait_ms = at_ms.saturating_sub(self.sim.now_ms());
        self.life
            .live(async {
                if wait_ms > EVER_MS {
                    pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            })
            .await;
    }
}
