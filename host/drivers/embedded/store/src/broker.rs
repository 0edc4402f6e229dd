//! The broker port on the store.
//!
//! The model is that of SQS: a delivery has a time from which it may be leased, and everything that holds it back (a delay,
//! a lease, a back-off) is that time. Only ordering keys add to it: of a key's deliveries one has a time, the earliest, and
//! settling it gives the next one its own. What is due as soon as it is stored is in bundles, everything else in rows.
//!
//! Not here: retry budgets, dead letters.

pub(crate) mod bundle;
pub(crate) mod lease;
pub(crate) mod lines;
pub(crate) mod opened;
pub(crate) mod publish;
pub(crate) mod recent;
mod settle;

use crate::row::size_bytes;
use crate::state::ledger;
use crate::store::Store;
use crate::trouble::{closed, unanswered};
use crate::writer::{Command, Work};
use lease::Waiter;
use sandpost_message::{Message, SubscriptionName, TimestampMs, Topic};
use sandpost_ports::PortError;
use sandpost_ports::broker::{Backlog, Broker, Delivery, Published, Receipt, RecordedBroker, Settlement, Subscription};
use sandpost_ports::state::{LedgerEntry, Step};
use settle::Token;
use std::sync::Arc;
use tokio::sync::oneshot;

#[async_trait::async_trait]
impl Broker for Store {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        self.publish_and(messages, |_, _, _| Ok(())).await
    }

    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        let (name, topic) = (name.clone(), topic.clone());
        let line = self.write(move |work| lines::subscribe(work, &name, &topic)).await?;
        Ok(Arc::new(Handle { store: self.clone(), line }))
    }

    async fn backlog(&self, name: &SubscriptionName) -> Result<Backlog, PortError> {
        let name = name.clone();
        self.write(move |work| lines::backlog(work, &name)).await
    }

    fn deduplicates(&self) -> bool {
        true
    }
}

#[async_trait::async_trait]
impl RecordedBroker for Store {
    async fn publish_recorded(
        &self,
        messages: Vec<Message>,
        step: Step,
        detail: Option<&str>,
        at_ms: TimestampMs,
    ) -> Vec<Result<Published, PortError>> {
        let (keep, detail) = (self.inner.keep, detail.map(str::to_owned));
        self.publish_and(messages, move |work, messages, answers| {
            for (message, answer) in messages.iter().zip(answers) {
                let Ok(published) = answer else { continue };
                let step = if published.duplicate { Step::Deduplicated } else { step };
                if keep.admits(step) {
                    let entry = LedgerEntry::of(message, step, at_ms, detail.as_deref());
                    ledger::add(work, &LedgerEntry { message_id: published.id.clone(), ..entry })?;
                }
            }
            Ok(())
        })
        .await
    }
}

impl Store {
    /// Stores messages, and does something more in the same transaction.
    async fn publish_and<F>(&self, messages: Vec<Message>, mut more: F) -> Vec<Result<Published, PortError>>
    where
        F: FnMut(&mut Work, &[Arc<Message>], &[Result<Published, PortError>]) -> rusqlite::Result<()> + Send + 'static,
    {
        if messages.is_empty() {
            return Vec::new();
        }
        let count = messages.len();
        let bytes = messages.iter().map(size_bytes).sum();
        let messages: Vec<_> = messages.into_iter().map(Arc::new).collect();
        let stored = self.write_sized(bytes, move |work| {
            let answers = publish::publish(work, &messages)?;
            more(work, &messages, &answers)?;
            Ok(answers)
        });
        match stored.await {
            Ok(answers) => answers,
            Err(error) => (0..count).map(|_| Err(copy(&error))).collect(),
        }
    }
}

/// A subscription that was opened.
struct Handle {
    store: Store,
    line: i64,
}

#[async_trait::async_trait]
impl Subscription for Handle {
    async fn next(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, PortError> {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { max: max.max(1), lease_ms: lease_ms.max(1), reply };
        self.store.inner.commands.send(Command::Next(self.line, waiter)).await.map_err(|_| closed())?;
        // From the answer on there is no await: either the deliveries are dropped unseen, and go back, or they are taken.
        let leases = answer.await.unwrap_or_else(|_| Err(unanswered()))?;
        Ok(leases.take())
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), PortError> {
        let token = Token::read(&receipt, self.line)?;
        self.store.write(move |work| settle::settle(work, token, settlement)).await
    }

    async fn extend(&self, receipt: &Receipt, lease_ms: u64) -> Result<(), PortError> {
        let token = Token::read(receipt, self.line)?;
        self.store.write(move |work| settle::extend(work, token, lease_ms)).await
    }
}

/// The same error for another message of the batch. What lies underneath stays with the first chain that is printed:
/// its text is repeated as the source.
fn copy(error: &PortError) -> PortError {
    let copy = PortError::new(error.kind, error.message.clone());
    match &error.source {
        Some(source) => copy.because(source.to_string()),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, open};
    use sandpost_message::Message;
    use sandpost_ports::broker::{Broker, RecordedBroker};
    use sandpost_ports::clock::ManualClock;
    use sandpost_ports::state::{Keep, Ledger, Step};
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_published_is_in_the_ledger_by_the_same_commit() {
        for (ledger, kept) in [(Keep::All, true), (Keep::Failures, false)] {
            let store = open(None, &Config { ledger, ..Config::default() }, Arc::new(ManualClock::at(1_000))).unwrap();
            let topic: sandpost_message::Topic = "orders".parse().unwrap();
            store.subscribe(&"orders-handler".parse().unwrap(), &topic).await.unwrap();
            let known = || Message { dedupe_key: Some("k".to_owned()), ..Message::new(topic.clone(), "body", 1_000) };
            let nowhere = Message::new("nobody".parse().unwrap(), "body", 1_000);
            let refused = nowhere.id.clone();
            let mut answers =
                store.publish_recorded(vec![known(), nowhere, known()], Step::Accepted, Some("here"), 7).await;
            let again = answers.pop().unwrap().unwrap();
            assert!(answers.pop().unwrap().is_err());
            let first = answers.pop().unwrap().unwrap();
            assert_eq!((&first.id, first.duplicate, again.duplicate), (&again.id, false, true));
            let steps = store.history(&first.id).await.unwrap();
            let seen: Vec<_> = steps.iter().map(|entry| (entry.step, entry.at_ms, entry.detail.as_deref())).collect();
            let all = [(Step::Accepted, 7, Some("here")), (Step::Deduplicated, 7, Some("here"))];
            assert_eq!(seen, if kept { &all[..] } else { &[] });
            assert!(store.history(&refused).await.unwrap().is_empty());
        }
    }
}
