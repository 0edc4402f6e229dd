//! The broker port on the store.
//!
//! The model is that of SQS: a delivery is a row with the time from which it may be leased, and everything that holds it
//! back (a delay, a lease, a back-off) is that time. Only ordering keys add to it: of a key's rows one has a time, the
//! earliest, and settling it gives the next one its own.
//!
//! Not here: retry budgets, dead letters.

pub(crate) mod lease;
pub(crate) mod lines;
mod publish;
mod settle;

use crate::row::size_bytes;
use crate::store::Store;
use crate::trouble::{closed, unanswered};
use crate::writer::Command;
use lease::Waiter;
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::PortError;
use sandpost_ports::broker::{Backlog, Broker, Delivery, Published, Receipt, Settlement, Subscription};
use settle::Token;
use std::sync::Arc;
use tokio::sync::oneshot;

#[async_trait::async_trait]
impl Broker for Store {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let count = messages.len();
        let bytes = messages.iter().map(size_bytes).sum();
        let stored = self.write_sized(bytes, move |work| Ok(publish::publish(work, &messages)?)).await;
        match stored {
            Ok(answers) => answers,
            Err(error) => (0..count).map(|_| Err(copy(&error))).collect(),
        }
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
