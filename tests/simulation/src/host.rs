//! One host of a run: production's dispatch, effects and publisher, wired to the simulated services.

use crate::broker::{SimBroker, Store};
use crate::handler::SimPlugins;
use crate::plan::{PLUGIN, Plan};
use crate::sim::{Life, START_MS, Sim, SimClock};
use crate::state::{Memory, SimState};
use async_trait::async_trait;
use bytes::Bytes;
use sandpost_dispatch::{Dispatcher, Running, Services};
use sandpost_interfaces::bindings::template::{Content, RenderError, Request};
use sandpost_interfaces::effects::Effects;
use sandpost_interfaces::{CallLimits, ConnectionHealth, Context, Ports, RenderScope, Templates};
use sandpost_message::Digest;
use sandpost_ports::PortError;
use sandpost_ports::broker::Broker;
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::clock::Clock;
use sandpost_ports::email::{Address, EmailSender, Mail, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::Identity;
use sandpost_ports::publisher::Publisher;
use sandpost_ports::state::State;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The services of a run; outlive every host.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) sim: Arc<Sim>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) broker: Arc<Store>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) provider: Arc<Provider>,
    pub(crate) deployed: Arc<Notify>,
}

/// What the parts of one host share.
pub(crate) struct Wiring {
    pub(crate) sim: Arc<Sim>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) life: Arc<Life>,
    pub(crate) deployed: Arc<Notify>,
}

impl Wiring {
    pub(crate) fn is_absent(&self) -> bool {
        let at_ms = self.sim.at_ms();
        self.plan.absent_ms.is_some_and(|(from_ms, until_ms)| (from_ms..until_ms).contains(&at_ms))
    }
}

/// One host at work.
pub(crate) struct Host {
    pub(crate) life: Arc<Life>,
    pub(crate) publisher: Publisher,
    pub(crate) effects: Arc<Effects>,
    /// Kept after a crash: dropped, it would still tell its tasks to end.
    pub(crate) running: Arc<Mutex<Option<Running>>>,
}

impl Host {
    /// Starts it. Dispatch comes up on its own task, as far as the host lives.
    pub(crate) fn start(world: &World, number: u64) -> Self {
        let life = Life::new(number);
        let sim = Arc::clone(&world.sim);
        sim.trace(format_args!("h{number} starts"));
        let clock: Arc<dyn Clock> = Arc::new(SimClock { sim: Arc::clone(&sim), life: Arc::clone(&life) });
        let broker: Arc<dyn Broker> = Arc::new(SimBroker { store: Arc::clone(&world.broker), life: Arc::clone(&life) });
        let state: Arc<dyn State> = Arc::new(SimState { memory: Arc::clone(&world.memory), life: Arc::clone(&life) });
        let publisher = Publisher::new(Arc::clone(&broker), Arc::clone(&state), Arc::clone(&clock));
        let io = tokio::runtime::Handle::current();
        let timeout = Duration::from_millis(world.plan.effect_timeout_ms);
        let run_id = format!("run-{number}");
        let effects = Arc::new(Effects::new(Arc::clone(&state), Arc::clone(&clock), io.clone(), run_id, timeout));
        let wiring = Arc::new(Wiring {
            sim: Arc::clone(&sim),
            plan: Arc::clone(&world.plan),
            life: Arc::clone(&life),
            deployed: Arc::clone(&world.deployed),
        });
        let email = Arc::new(SimEmail { provider: Arc::clone(&world.provider), life: Arc::clone(&life) });
        let ports = Ports {
            publisher: publisher.clone(),
            broker: Arc::clone(&broker),
            state: Arc::clone(&state),
            clock: Arc::clone(&clock),
            cache: Arc::new(Nothing),
            cache_prefix: String::new(),
            cache_default_ttl: Duration::from_mins(1),
            email,
            default_sender: Some(Address { name: None, address: "noreply@example.com".into() }),
            mail_limits: sandpost_mail::Limits::default(),
            sql: BTreeMap::new(),
            documents: BTreeMap::new(),
            health: Arc::new(Nothing),
            effects: Arc::clone(&effects),
            io,
        };
        let identity = Identity {
            plugin: PLUGIN.parse().unwrap(),
            version: "1.0.0".to_owned(),
            digest: Digest::from_bytes([1; 32]),
        };
        let grants = r#"{ "publish": ["*"], "email": [{ "from": "default" }] }"#;
        let context = Context {
            identity,
            grants: serde_json::from_str(grants).unwrap(),
            config: Vec::new(),
            cache_scope: String::new(),
            limits: CallLimits::default(),
            ports: Arc::new(ports),
            templates: Arc::new(Nothing),
            trial: false,
        };
        let plugins = Arc::new(SimPlugins { wiring, context: Arc::new(context) });
        let running = Arc::new(Mutex::new(None));
        let (slot, plan) = (Arc::clone(&running), Arc::clone(&world.plan));
        tokio::spawn(async move {
            let services = Services { broker, state, plugins, clock, attempts: None };
            match Dispatcher::start(plan.config.clone(), plan.subscriptions.clone(), services).await {
                Ok(started) => *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(started),
                Err(error) => sim.facts().broken.push(format!("dispatch did not start: {error}")),
            }
        });
        Self { life, publisher, effects, running }
    }
}

/// The provider of e-mail; outlives every host.
pub(crate) struct Provider {
    sim: Arc<Sim>,
    deduplicates: bool,
    known: Mutex<HashMap<String, String>>,
}

impl Provider {
    pub(crate) fn new(sim: Arc<Sim>, deduplicates: bool) -> Arc<Self> {
        Arc::new(Self { sim, deduplicates, known: Mutex::default() })
    }

    fn send(&self, key: &str, address: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let what = address.trim_end_matches("@example.org").to_owned();
        if let Some(id) = known.get(key).filter(|_| self.deduplicates) {
            self.sim.trace(format_args!("provider knows {what}"));
            return id.clone();
        }
        self.sim.trace(format_args!("provider sends {what}"));
        let id = format!("mail-{}", known.len() + 1);
        let id = self.sim.chance(|c| format!("{id}-{}", c.below(1 << 40)));
        known.insert(key.to_owned(), id.clone());
        let mut facts = self.sim.facts();
        *facts.mails.entry(what.clone()).or_default() += 1;
        facts.keys.entry(what).or_default().insert(key.to_owned());
        facts.provided.insert(id.clone());
        id
    }
}

struct SimEmail {
    provider: Arc<Provider>,
    life: Arc<Life>,
}

#[async_trait]
impl Health for SimEmail {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl EmailSender for SimEmail {
    async fn send(&self, mail: &Mail) -> Result<String, SendError> {
        let provider = Arc::clone(&self.provider);
        let rates = provider.sim.rates();
        let refused = provider.sim.chance(|c| c.in_thousand(rates.provider / 4).then(|| c.below(3)));
        match refused {
            Some(0) => return Err(SendError::Throttled { after_ms: Some(10) }),
            Some(1) => return Err(SendError::Suppressed),
            Some(_) => return Err(SendError::Rejected { reason: "no such domain".to_owned(), source: None }),
            None => {}
        }
        let (key, address) = (mail.key.clone(), mail.to[0].address.clone());
        Ok(self.provider.sim.provide(&self.life, "send", move || provider.send(&key, &address)).await?)
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        nothing()
    }

    fn deduplicates(&self) -> bool {
        self.provider.deduplicates
    }
}

/// When the handlers come back, for those who wait for them.
pub(crate) async fn deploy_in_time(world: World) {
    let Some((from_ms, until_ms)) = world.plan.absent_ms else { return };
    for at_ms in [from_ms, until_ms] {
        let wait_ms = (START_MS + at_ms).saturating_sub(world.sim.now_ms());
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        world.sim.trace(format_args!("the deployment changes"));
        world.deployed.notify_waiters();
    }
}

/// The ports that no run uses.
struct Nothing;

fn nothing<T>() -> Result<T, PortError> {
    Err(PortError::unsupported("not in a run"))
}

impl ConnectionHealth for Nothing {
    fn connections(&self) -> Vec<(String, Result<Duration, String>)> {
        Vec::new()
    }
}

#[async_trait]
impl Templates for Nothing {
    async fn render(&self, _: Request, _: RenderScope) -> Result<Content, RenderError> {
        Err(RenderError::Failed("not in a run".to_owned()))
    }
}

#[async_trait]
impl Health for Nothing {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Cache for Nothing {
    async fn get_many(&self, _: &[String]) -> Result<Vec<Option<Bytes>>, PortError> {
        nothing()
    }

    async fn set(&self, _: &str, _: Bytes, _: Duration, _: Condition) -> Result<bool, PortError> {
        nothing()
    }

    async fn set_many(&self, _: Vec<(String, Bytes)>, _: Duration) -> Result<(), PortError> {
        nothing()
    }

    async fn take(&self, _: &str) -> Result<Option<Bytes>, PortError> {
        nothing()
    }

    async fn delete(&self, _: &[String]) -> Result<u64, PortError> {
        nothing()
    }

    async fn delete_prefix(&self, _: &str) -> Result<u64, PortError> {
        nothing()
    }

    async fn exists(&self, _: &str) -> Result<bool, PortError> {
        nothing()
    }

    async fn expire(&self, _: &str, _: Duration) -> Result<bool, PortError> {
        nothing()
    }

    async fn ttl(&self, _: &str) -> Result<Option<Duration>, PortError> {
        nothing()
    }

    async fn increment(&self, _: &str, _: i64, _: Duration) -> Result<i64, PortError> {
        nothing()
    }
}
