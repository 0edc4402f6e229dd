//! The handlers: they perform their message's effects through the production code, and decide by chance.
//!
//! How many attempts it admits is chance as well. What a handler does for a message is the same in every attempt; whether it gets there is not. One that acknowledges
//! though an effect failed is marked as such, and nothing is asked of its effects.

use crate::facts::{End, Handled};
use crate::host::Wiring;
use crate::plan::{EVENTS, PLUGIN, Sending};
use async_trait::async_trait;
use sandpost_interfaces::bindings::email::{Body, Envelope, Host as _, Mailbox, Outcome as Sent, Parts};
use sandpost_interfaces::bindings::pubsub::{Host as _, Outgoing};
use sandpost_interfaces::{Call, Context};
use sandpost_message::{Fault, FaultKind, Outcome, PluginName, Verdict};
use sandpost_ports::plugins::{Admission, Attempt, Handler, Identity, PluginInfo, Plugins};
use std::sync::Arc;
use std::time::Duration;

/// The plugins of one host.
pub(crate) struct SimPlugins {
    pub(crate) wiring: Arc<Wiring>,
    pub(crate) context: Arc<Context>,
}

#[async_trait]
impl Plugins for SimPlugins {
    fn handler(&self, plugin: &PluginName) -> Option<Arc<dyn Handler>> {
        if plugin.as_str() != PLUGIN || self.wiring.is_absent() {
            return None;
        }
        Some(Arc::new(SimHandler { wiring: Arc::clone(&self.wiring), context: Arc::clone(&self.context) }))
    }

    async fn changed(&self) {
        let deployed = self.wiring.deployed.notified();
        tokio::pin!(deployed);
        // Counts from this call's first poll.
        deployed.as_mut().enable();
        self.wiring.life.live(deployed).await;
    }

    fn list(&self) -> Vec<PluginInfo> {
        Vec::new()
    }
}

struct SimHandler {
    wiring: Arc<Wiring>,
    context: Arc<Context>,
}

/// Marks the end of an attempt that the host dropped.
struct AtWork<'a> {
    wiring: &'a Wiring,
    place: usize,
    end: End,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if self.wiring.life.is_over() {
            return;
        }
        let now_ms = self.wiring.sim.now_ms();
        let mut facts = self.wiring.sim.facts();
        let turn = facts.turn();
        let handled = &mut facts.handled[self.place];
        handled.until_ms = Some(now_ms);
        handled.until_turn = Some(turn);
        handled.end = self.end;
    }
}

#[async_trait]
impl Handler for SimHandler {
    fn identity(&self) -> &Identity {
        &self.context.identity
    }

    fn deadline_ms(&self) -> u64 {
        self.wiring.plan.deadline_ms
    }

    fn admission(&self) -> Admission {
        self.wiring.sim.chance(|c| match c.below(20) {
            0 => Admission::Rest { wait_ms: c.between(1, 3_000) },
            1..=3 => Admission::One,
            _ => Admission::Free,
        })
    }

    async fn handle(&self, attempt: Attempt) -> Outcome {
        self.wiring.life.live(self.attempt(attempt)).await
    }
}

impl SimHandler {
    async fn attempt(&self, attempt: Attempt) -> Outcome {
        let (wiring, sim) = (&*self.wiring, &*self.wiring.sim);
        let spot = (attempt.message.id.clone(), attempt.subscription.clone());
        let name = sim.name("m", attempt.message.id.as_str());
        let (number, subscription) = (attempt.attempt, attempt.subscription.clone());
        sim.trace(format_args!("h{} handles {name} on {subscription}, attempt {number}", wiring.life.number));
        let place = {
            let (life, from_ms) = (Arc::clone(&wiring.life), sim.now_ms());
            let mut facts = sim.facts();
            let from_turn = facts.turn();
            let begun = Handled {
                spot,
                attempt: number,
                life,
                from_ms,
                until_ms: None,
                from_turn,
                until_turn: None,
                end: End::Cut,
            };
            facts.handled.push(begun);
            facts.handled.len() - 1
        };
        let mut at_work = AtWork { wiring, place, end: End::Cut };

        let deadline_ms = wiring.plan.deadline_ms;
        let mut call = Call::new(Arc::clone(&self.context), Some(attempt.clone()), sim.now_ms() + deadline_ms);
        let work = self.work(&mut call, &attempt);
        let answer = tokio::time::timeout(Duration::from_millis(deadline_ms), work).await;
        // As the runtime does it: a hold counts for more than the verdict.
        let held = call.finish().held;
        let (outcome, end): (Outcome, End) = match (held, answer) {
            (Some(reason), _) => (Outcome::Held { reason }, End::Held),
            (None, Err(_elapsed)) => {
                (Fault::new(FaultKind::Deadline, "too slow").into(), End::Fault(FaultKind::Deadline))
            }
            (None, Ok((outcome, end))) => (outcome, end),
        };
        sim.trace(format_args!("h{} ends {name} on {subscription}, attempt {number}: {end:?}", wiring.life.number));
        at_work.end = end;
        outcome
    }

    async fn work(&self, call: &mut Call, attempt: &Attempt) -> (Outcome, End) {
        let sim = &*self.wiring.sim;
        let rates = sim.rates();
        let body = String::from_utf8_lossy(&attempt.message.body).into_owned();
        let sending = body.strip_prefix("root-").and_then(|n| n.parse::<usize>().ok());
        let sending = sending.and_then(|place| self.wiring.plan.messages.get(place));
        let spun_ms = sim.chance(|c| if c.in_thousand(200) { c.between(1, 2_000) } else { 0 });
        if spun_ms > 0 {
            tokio::time::sleep(Duration::from_millis(spun_ms)).await;
        }
        let mut sound = true;
        if let Some(sending) = sending {
            sound = self.effects(call, attempt, &body, sending).await;
        }
        let unwilling = sim.chance(|c| c.in_thousand(rates.unwilling));
        let careless = sim.chance(|c| c.in_thousand(50));
        if !unwilling && (sound || careless) {
            return (Verdict::Ack.into(), End::Ack { sound });
        }
        let later = |after_ms| {
            let retry = Verdict::Retry { reason: "not now".to_owned(), after_ms };
            (retry.into(), End::Retry { after_ms })
        };
        if !unwilling {
            return later(None);
        }
        match sim.chance(|c| c.below(12)) {
            0..=3 => later(None),
            4 | 5 => later(Some(sim.chance(|c| c.pick(&[0, 1, 5_000, 300_000])))),
            6 => (Verdict::Reject { reason: "never".to_owned() }.into(), End::Reject),
            7 => (Fault::new(FaultKind::NoInstance, "all are at work").into(), End::Fault(FaultKind::NoInstance)),
            // Longer than any deadline of a plan, and than the backstop after it.
            8 => {
                tokio::time::sleep(Duration::from_hours(1)).await;
                later(None)
            }
            n => {
                let kind = [FaultKind::Trap, FaultKind::Memory, FaultKind::Host][usize::try_from(n % 3).unwrap_or(0)];
                (Fault::new(kind, "by chance").into(), End::Fault(kind))
            }
        }
    }

    /// Performs all of them; whether all were answered as done.
    async fn effects(&self, call: &mut Call, attempt: &Attempt, body: &str, sending: &Sending) -> bool {
        let sim = &*self.wiring.sim;
        let mut sound = true;
        let what = |n: u64, kind: &str| format!("{}.{body}.{kind}{n}", attempt.subscription);
        for n in 0..sending.mails {
            let mut tries = sim.chance(|c| c.between(1, 2));
            let done = loop {
                let (envelope, parts) = mail(&what(n, "mail"), sending.own_keys);
                let answer = call.send(envelope, Body::Parts(parts)).await;
                tries -= 1;
                let done = matches!(answer, Ok(Ok(Sent::Sent(_) | Sent::AlreadySent(_))));
                if done || tries == 0 {
                    break done;
                }
            };
            sound &= done;
        }
        let outgoing: Vec<Outgoing> =
            (0..sending.publishes).map(|n| message(&what(n, "event"), sending.own_keys)).collect();
        if sending.batch && !outgoing.is_empty() {
            let answers = call.publish_many(EVENTS.to_owned(), outgoing).await;
            return sound && answers.is_ok_and(|answers| answers.iter().all(Result::is_ok));
        }
        for outgoing in outgoing {
            // One that failed does not keep the others from going.
            sound &= matches!(call.publish(EVENTS.to_owned(), outgoing).await, Ok(Ok(_)));
        }
        sound
    }
}

fn mail(what: &str, own_key: bool) -> (Envelope, Parts) {
    let envelope = Envelope {
        sender: None,
        to: vec![Mailbox { name: None, address: format!("{what}@example.org") }],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: Vec::new(),
        headers: Vec::new(),
        tags: Vec::new(),
        idempotency_key: own_key.then(|| what.to_owned()),
    };
    let parts =
        Parts { subject: "News".into(), html: None, text: Some("There are news.".into()), attachments: Vec::new() };
    (envelope, parts)
}

fn message(what: &str, own_key: bool) -> Outgoing {
    Outgoing {
        body: what.as_bytes().to_vec(),
        content_type: None,
        attributes: Vec::new(),
        ordering_key: None,
        dedupe_key: own_key.then(|| what.to_owned()),
        delay: None,
    }
}
