//! Publishing as the host does it, whoever asks: checked, stored durably, entered in the ledger.
//!
//! Three callers: HTTP (`ingress::publish`), plugins (`interfaces::pubsub`), replay of dead letters
//! (`ingress::dead_letters`).

use crate::broker::{Broker, Published, RecordedBroker};
use crate::clock::Clock;
use crate::state::{LedgerEntry, State, Step};
use crate::{ErrorKind, PortError};
use sandpost_message::Message;
use std::sync::Arc;

/// The broker with the ledger beside it.
#[derive(Clone)]
pub struct Publisher {
    broker: Arc<dyn Broker>,
    state: Arc<dyn State>,
    clock: Arc<dyn Clock>,
    recorded: Option<Arc<dyn RecordedBroker>>,
}

impl Publisher {
    /// Over these.
    pub fn new(broker: Arc<dyn Broker>, state: Arc<dyn State>, clock: Arc<dyn Clock>) -> Self {
        Self { broker, state, clock, recorded: None }
    }

    /// Lets the broker write the ledger with the message, where both are one store: half as many commits.
    #[must_use]
    pub fn recorded_by(mut self, both: Arc<dyn RecordedBroker>) -> Self {
        self.recorded = Some(both);
        self
    }

    /// Publishes each message; one answer a message, in order. `Ok` only once the message is durable.
    ///
    /// A message outside the limits is [`ErrorKind::Invalid`] and does not keep the others from going. `step` is what
    /// the ledger says of those that were stored; `detail` goes with it.
    pub async fn publish(
        &self,
        messages: Vec<Message>,
        step: Step,
        detail: Option<&str>,
    ) -> Vec<Result<Published, PortError>> {
        let now_ms = self.clock.now_ms();
        let mut answers: Vec<Option<Result<Published, PortError>>> = messages.iter().map(|_| None).collect();
        let (mut valid, mut entries, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, message) in messages.into_iter().enumerate() {
            match message.validate() {
                Ok(()) => {
                    entries.push(LedgerEntry::of(&message, step, now_ms, detail));
                    valid.push(message);
                    places.push(place);
                }
                Err(error) => answers[place] = Some(Err(PortError::invalid(error.to_string()))),
            }
        }

        let stored = match &self.recorded {
            _ if valid.is_empty() => Vec::new(),
            Some(both) => both.publish_recorded(valid, step, detail, now_ms).await,
            None => self.broker.publish(valid).await,
        };
        let mut recorded = Vec::with_capacity(entries.len());
        for ((place, outcome), mut entry) in places.into_iter().zip(stored).zip(entries) {
            if let Ok(published) = &outcome
                && self.recorded.is_none()
            {
                entry.message_id = published.id.clone();
                entry.step = if published.duplicate { Step::Deduplicated } else { step };
                recorded.push(entry);
            }
            answers[place] = Some(outcome);
        }
        // After the broker's answer, because only that tells a new message from a known one. A failure here is not the
        // publisher's: its message is safe, and an error would make it send the message again.
        if !recorded.is_empty() {
            self.state.record(recorded).await.ok();
        }
        let unanswered = || PortError::new(ErrorKind::UnknownOutcome, "the broker gave fewer answers than messages");
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered()))).collect()
    }
}
