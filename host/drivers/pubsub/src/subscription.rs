//! One subscription: what dispatch asks of it, answered from the queue that the stream fills.

use crate::feed::Handle;
use crate::queue::{Queue, Refused};
use google_cloud_pubsub::subscriber::handler::Handler;
use sandpost_message::{SubscriptionName, Topic};
use sandpost_ports::broker::{Delivery, Receipt, Settlement, Subscription};
use sandpost_ports::clock::Clock;
use sandpost_ports::{ErrorKind, PortError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a wait is where nothing is due by time.
const LOOK_MS: u64 = 60_000;

pub(crate) struct Line {
    pub(crate) name: SubscriptionName,
    pub(crate) topic: Topic,
    pub(crate) clock: Arc<dyn Clock>,
    /// The time for an acknowledgement that the service confirms.
    pub(crate) call_timeout: Duration,
    queue: Mutex<Queue<Handle>>,
    changed: Notify,
    /// What the stream ended with, until somebody was told.
    fault: Mutex<Option<PortError>>,
    closing: watch::Sender<bool>,
}

impl Line {
    pub(crate) fn new(name: SubscriptionName, topic: Topic, clock: Arc<dyn Clock>, call_timeout: Duration) -> Self {
        Self {
            name,
            topic,
            clock,
            call_timeout,
            queue: Mutex::default(),
            changed: Notify::new(),
            fault: Mutex::default(),
            closing: watch::Sender::new(false),
        }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue<Handle>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who waits.
    pub(crate) fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// The next caller hears of it; none: all is well again.
    pub(crate) fn set_fault(&self, fault: Option<PortError>) {
        let there = fault.is_some();
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        if there {
            self.changed();
        }
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(crate) fn begin_close(&self) {
        self.closing.send_replace(true);
        self.changed();
    }

    fn take_fault(&self) -> Option<PortError> {
        if *self.closing.borrow() {
            return Some(PortError::new(ErrorKind::Unavailable, "the connection is closed"));
        }
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait::async_trait]
impl Subscription for Line {
    async fn next(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, PortError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that nothing in between is missed.
            changed.as_mut().enable();
            let now_ms = self.clock.now_ms();
            let (taken, next_at_ms) = {
                let mut queue = self.queue();
                (queue.take(max.max(1), lease_ms, now_ms), queue.next_at_ms())
            };
            if !taken.is_empty() {
                let delivery = |taken: crate::queue::Taken| Delivery {
                    message: taken.message,
                    attempt: taken.attempt,
                    receipt: Receipt::new(taken.token),
                };
                return Ok(taken.into_iter().map(delivery).collect());
            }
            if let Some(fault) = self.take_fault() {
                return Err(fault);
            }
            let look_ms = next_at_ms.unwrap_or(u64::MAX).min(now_ms.saturating_add(LOOK_MS));
            tokio::select! {
                () = changed => {}
                () = self.clock.sleep_until(look_ms) => {}
            }
        }
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), PortError> {
        let handles = self.queue().settle(receipt.token(), settlement, self.clock.now_ms()).map_err(refused)?;
        // A key that is free, or a time that is sooner than what is waited for.
        self.changed();
        let mut confirmed = Ok(());
        for handle in handles {
            confirmed = match handle.0 {
                Handler::ExactlyOnce(handler) => {
                    match tokio::time::timeout(self.call_timeout, handler.confirmed_ack()).await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(error)) => Err(not_confirmed().because(error)),
                        Err(elapsed) => Err(not_confirmed().because(elapsed)),
                    }
                }
                other => {
                    other.ack();
                    Ok(())
                }
            };
        }
        confirmed
    }

    async fn extend(&self, receipt: &Receipt, lease_ms: u64) -> Result<(), PortError> {
        self.queue().extend(receipt.token(), lease_ms, self.clock.now_ms()).map_err(refused)
    }
}

/// The handle is used up: nobody can try again.
fn not_confirmed() -> PortError {
    PortError::new(ErrorKind::Conflict, "the service did not confirm the acknowledgement; it may deliver again")
}

fn refused(refused: Refused) -> PortError {
    match refused {
        Refused::Strange => PortError::invalid("the receipt is none of this broker's"),
        Refused::Lost => PortError::new(ErrorKind::Conflict, "the lease ended"),
    }
}
