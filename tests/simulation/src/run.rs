//! One run from its seed to its end: hosts come up, crash, stop and come up again; faults end; everything drains; the
//! facts are checked.

use crate::broker::Store;
use crate::check;
use crate::host::{Host, Provider, World, deploy_in_time};
use crate::plan::{ORDERS, Options, Plan};
use crate::sim::{START_MS, Sim};
use crate::state::Memory;
use sandpost_message::Message;
use sandpost_ports::state::Step;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long after the last fault everything may take in virtual time: eight attempts with the longest back-off of a plan,
/// leases of attempts that went down in between, and some.
const DRAIN_MS_MAX: u64 = 12 * 3_600_000;

/// How often the run looks whether it is over.
const LOOK_MS: u64 = 1_000;

/// The longest that a publish takes to the broker: as long as a slow call, several times over.
const ON_ITS_WAY_MS: u64 = 60_000;

/// How long a clean stop lets attempts go on.
const GRACE_MS: u64 = 5_000;

/// What a stop may take on top: "at most a few calls of 10 s each", a backstop, and effects that end by their time.
const STOP_MS_MAX: u64 = 180_000;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Points at which a host could have crashed.
    pub events: u64,
    /// Of everything that happened. Equal for equal seeds.
    pub hash: u64,
    /// What the run had in it.
    pub tally: Tally,
    /// What must not be; empty where all is well.
    pub broken: Vec<String>,
}

/// Counts, to see that runs try what they are meant to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that the broker took.
    pub stored: u64,
    /// Attempts that reached a handler.
    pub attempts: u64,
    /// Dead letters.
    pub dead: u64,
    /// Mails that left the provider.
    pub mails: u64,
    /// Hosts that came up, the first included.
    pub lives: u64,
    /// Effects that were found half handed over.
    pub unknown: u64,
}

/// Runs one seed. Single-threaded, in virtual time.
///
/// # Panics
/// Where tokio cannot make a runtime.
pub fn run(seed: u64, options: Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without threads or sockets can always be made");
    runtime.block_on(course(seed, options))
}

async fn course(seed: u64, options: Options) -> Report {
    let plan = Arc::new(Plan::new(seed, options));
    let sim = Sim::new(seed, &plan, options);
    if options.print {
        crate::say(&format!("{plan:#?}"));
    }
    let broker = Store::new(Arc::clone(&sim), plan.broker_deduplicates);
    let world = World {
        memory: Memory::new(Arc::clone(&sim), Arc::clone(&broker)),
        provider: Provider::new(Arc::clone(&sim), plan.provider_deduplicates),
        deployed: Arc::new(Notify::new()),
        sim,
        plan,
        broker,
    };
    let mut hosts = Hosts { world: world.clone(), up: Vec::new(), gone: Vec::new(), started: 0 };
    hosts.drive(options).await;
    check::check(&world, &mut world.sim.facts());
    let (events, hash) = world.sim.fingerprint();
    let facts = world.sim.facts();
    let tally = Tally {
        stored: world.broker.log(|log| log.len() as u64),
        attempts: facts.handled.len() as u64,
        dead: world.memory.kept().letters.len() as u64,
        mails: facts.mails.values().sum(),
        lives: hosts.started,
        unknown: facts.found_sending.values().sum(),
    };
    Report { events, hash, tally, broken: facts.broken.clone() }
}

struct Hosts {
    world: World,
    up: Vec<Host>,
    /// Kept to the end, with all their tasks: a crash runs no destructors.
    gone: Vec<Host>,
    started: u64,
}

impl Hosts {
    fn start(&mut self) {
        self.started += 1;
        self.up.push(Host::start(&self.world, self.started));
    }

    async fn drive(&mut self, options: Options) {
        let world = self.world.clone();
        let (sim, plan) = (Arc::clone(&world.sim), Arc::clone(&world.plan));
        for _ in 0..plan.hosts {
            self.start();
        }
        let mut crashes_left = plan.crashes_max;
        match options.only_crash_at {
            Some(0) => sim.crash_in(None),
            Some(at) => sim.crash_in(Some(at - 1)),
            None => self.arm(&mut crashes_left),
        }
        tokio::spawn(deploy_in_time(world.clone()));
        let mut stops_ms = plan.stops_ms.clone();
        stops_ms.sort_unstable_by(|one, other| other.cmp(one));
        let mut to_send: Vec<usize> = (0..plan.messages.len()).collect();
        to_send.sort_by_key(|place| (plan.messages[*place].at_ms, *place));
        to_send.reverse();

        let quiet_at_ms = if options.only_crash_at.is_some() { 130_000 } else { plan.quiet_ms.max(130_000) };
        let mut quiet = false;
        let mut sent_at_ms = 0;
        loop {
            let at_ms = sim.at_ms();
            while let Some(place) = to_send.pop_if(|place| plan.messages[*place].at_ms <= at_ms) {
                self.send(place);
                sent_at_ms = at_ms;
            }
            if stops_ms.pop_if(|stop_ms| *stop_ms <= at_ms).is_some() {
                self.stop_one().await;
            }
            self.bury(&mut crashes_left).await;
            if sim.turns_in_a_circle() {
                sim.facts().broken.push(format!("the run turns in a circle:{}", world.broker.describe()));
                return;
            }
            if !quiet && at_ms >= quiet_at_ms {
                quiet = true;
                sim.trace(format_args!("faults end"));
                sim.calm();
            }
            let undisturbed = options.only_crash_at.is_some() && to_send.is_empty() && at_ms > 130_000;
            // What was sent a moment ago may be on its way to the broker still.
            let all_sent = to_send.is_empty() && at_ms >= sent_at_ms + ON_ITS_WAY_MS;
            if (quiet || undisturbed) && all_sent && world.broker.left() == 0 {
                while !self.up.is_empty() {
                    self.stop_last().await;
                }
                // An attempt whose lease was lost may have published on its way down: that is for the next host.
                if world.broker.left() == 0 {
                    return;
                }
                self.start();
            }
            if sim.at_ms() > quiet_at_ms + DRAIN_MS_MAX {
                sim.facts().broken.push(format!("not drained in time:{}", world.broker.describe()));
                return;
            }
            let rates = sim.rates();
            if sim.chance(|c| c.in_thousand(rates.lease_lost)) {
                world.broker.lose_a_lease();
            }
            let next_ms =
                to_send.last().map_or(LOOK_MS, |place| plan.messages[*place].at_ms.saturating_sub(sim.at_ms()));
            tokio::select! {
                biased;
                () = sim.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(next_ms.clamp(1, LOOK_MS))) => {}
            }
        }
    }

    /// A crash of whichever host is at the event then.
    fn arm(&self, crashes_left: &mut u64) {
        if *crashes_left > 0 {
            *crashes_left -= 1;
            let span = self.world.plan.crash_span;
            let events = self.world.sim.chance(|c| c.below(span));
            self.world.sim.crash_in(Some(events));
        }
    }

    /// Publishes as HTTP does, through whichever host is up.
    fn send(&self, place: usize) {
        let world = self.world.clone();
        let sending = &world.plan.messages[place];
        if self.up.is_empty() {
            return;
        }
        let choice = world.sim.chance(|c| c.below(self.up.len() as u64));
        let publisher = self.up[usize::try_from(choice).unwrap_or(0)].publisher.clone();
        let now_ms = world.sim.now_ms();
        let mut message = Message::new(ORDERS.parse().unwrap(), format!("root-{place}"), now_ms);
        message.ordering_key = sending.key.map(str::to_owned);
        message.not_before_ms = if sending.delay_ms > 0 { now_ms + sending.delay_ms } else { 0 };
        tokio::spawn(async move {
            let answer = publisher.publish(vec![message.clone()], Step::Accepted, None).await.pop();
            if matches!(answer, Some(Ok(_))) {
                world.sim.trace(format_args!("accepted {}", world.sim.name("m", message.id.as_str())));
                world.sim.facts().accepted.push(message.id);
            }
        });
    }

    /// Puts up another for each that crashed.
    async fn bury(&mut self, crashes_left: &mut u64) {
        while let Some(place) = self.up.iter().position(|host| host.life.is_over()) {
            let host = self.up.remove(place);
            if self.world.plan.embedded {
                self.world.broker.forget_leases(host.life.number);
            }
            self.gone.push(host);
            let down_ms = self.world.sim.chance(|c| c.pick(&[0, 1, 500, 5_000, 60_000]));
            tokio::time::sleep(Duration::from_millis(down_ms)).await;
            self.start();
            self.arm(crashes_left);
        }
    }

    /// Stops one cleanly and puts up another.
    async fn stop_one(&mut self) {
        if self.up.iter().any(|host| !host.life.is_over()) {
            self.stop_last().await;
            self.start();
        }
    }

    /// The way of a SIGTERM: dispatch first, then the effects that are still at work. It may crash meanwhile.
    async fn stop_last(&mut self) {
        let Some(host) = self.up.pop() else { return };
        let sim = Arc::clone(&self.world.sim);
        let since_ms = sim.now_ms();
        sim.trace(format_args!("h{} is asked to stop", host.life.number));
        let running = host.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let effects = Arc::clone(&host.effects);
        let stopping = async move {
            if let Some(running) = running {
                running.stop(Duration::from_millis(GRACE_MS)).await;
            }
            effects.drain().await;
        };
        let mut stopping = Box::pin(stopping);
        let stopped = loop {
            if host.life.is_over() {
                // Crashed on its way down; what was dropped by now would not have been.
                tokio::spawn(stopping);
                break None;
            }
            tokio::select! {
                biased;
                () = &mut stopping => break Some(true),
                () = sim.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(STOP_MS_MAX)) => {
                    tokio::spawn(stopping);
                    break Some(false);
                }
            }
        };
        let number = host.life.number;
        if stopped == Some(false) {
            sim.facts().broken.push(format!("h{number} did not stop within {STOP_MS_MAX} ms"));
        }
        if stopped == Some(true) {
            let at_work = |handled: &&crate::facts::Handled| {
                handled.life.number == number && handled.until_ms.is_none() && !handled.life.is_over()
            };
            let left = sim.facts().handled.iter().filter(at_work).count();
            if left > 0 {
                sim.facts().broken.push(format!("h{number} stopped, with {left} attempts still at work"));
            }
        }
        sim.trace(format_args!("h{number} is down after {} ms", sim.now_ms() - since_ms));
        host.life.end(sim.now_ms());
        if self.world.plan.embedded {
            self.world.broker.forget_leases(number);
        }
        self.gone.push(host);
    }
}

// The start is a time of this century, as limits of a message expect.
const _: () = assert!(START_MS > 1_600_000_000_000);
