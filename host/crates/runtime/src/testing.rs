//! For this crate's tests: guests of a few lines of WebAssembly text, and a host in memory to run them on.

use crate::{
    Artifacts, Deployed, Deployer, Engine, EngineConfig, GrantPolicy, Options, Refused, Registry, Scratch,
    ScratchPorts, embed,
};
use sandpost_interfaces::Ports;
use sandpost_interfaces::effects::Effects;
use sandpost_message::{Message, Outcome, PluginName};
use sandpost_ports::PortError;
use sandpost_ports::cache::Condition;
use sandpost_ports::clock::{Clock, SystemClock};
use sandpost_ports::email::{EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::{Attempt, Handler, Plugins, UnknownEffects};
use sandpost_ports::publisher::Publisher;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// How long a test waits for something before it gives up. No test waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Where the guest's answer lies, its strings, and its heap.
const PRELUDE: &str = r#"
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
"#;

/// `ok`.
pub(crate) const ACK: &str = "(i32.store8 (i32.const 1024) (i32.const 0)) (i32.const 1024)";

/// `retry`, after this time where it is given, with the text at 2048 of this length.
pub(crate) fn retry(reason_bytes: u32, after_ms: Option<u64>) -> String {
    let after = after_ms.map_or(String::new(), |after| {
        format!("(i32.store8 (i32.const 1048) (i32.const 1)) (i64.store (i32.const 1056) (i64.const {after}))")
    });
    format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 0))
         (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const {reason_bytes}))
         {after} (i32.const 1024)"
    )
}

/// `reject` with this reason.
pub(crate) fn reject(reason: &str) -> (String, String) {
    let body = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
         (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const {}))
         (i32.const 1024)",
        reason.len()
    );
    (body, data(2048, reason))
}

pub(crate) fn data(at: u32, text: &str) -> String {
    format!("(data (i32.const {at}) {text:?})")
}

/// Waits for the mail provider's answer, which tests hold back; needs the grant of [`MAIL`].
pub(crate) const QUOTA: &str = r#"(import "sandpost:plugin/email@0.1.0" "quota" (func $quota (param i32)))"#;
/// The grant for it.
pub(crate) const MAIL: &str = "[grants]\nemail = [{ from = \"default\" }]\n";

/// A handler with this body, which leaves the answer's address.
pub(crate) fn handler(imports: &str, body: &str, rest: &str) -> String {
    format!(
        "(module {imports} {PRELUDE} {rest}
           (func (export \"sandpost:plugin/handler@0.1.0#handle\") (param $message i32) (result i32) {body}))"
    )
}

/// A plugin with one template of this name that renders to this subject, or fails with it.
pub(crate) fn template(name: &str, subject: &str, fails: bool) -> String {
    let (kind, at) = if fails {
        ("(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1028) (i32.const 2))", 1032)
    } else {
        ("(i32.store8 (i32.const 1024) (i32.const 0))", 1028)
    };
    format!(
        "(module {PRELUDE} {} {} (data (i32.const 3072) \"{{}}en\")
           (func (export \"sandpost:plugin/template@0.1.0#templates\") (result i32)
             (i32.store (i32.const 1024) (i32.const 1100)) (i32.store (i32.const 1028) (i32.const 1))
             (i32.store (i32.const 1100) (i32.const 2048)) (i32.store (i32.const 1104) (i32.const {}))
             (i32.store (i32.const 1108) (i32.const 2048)) (i32.store (i32.const 1112) (i32.const 0))
             (i32.store (i32.const 1116) (i32.const 1200)) (i32.store (i32.const 1120) (i32.const 1))
             (i32.store (i32.const 1200) (i32.const 3074)) (i32.store (i32.const 1204) (i32.const 2))
             (i32.store (i32.const 1124) (i32.const 3072)) (i32.store (i32.const 1128) (i32.const 2))
             (i32.const 1024))
           (func (export \"sandpost:plugin/template@0.1.0#render\")
             (param i32 i32 i32 i32 i32 i32 i32) (result i32)
             {kind}
             (i32.store (i32.const {at}) (i32.const 2560)) (i32.store (i32.const {}) (i32.const {}))
             (i32.const 1024)))",
        data(2048, name),
        data(2560, subject),
        name.len(),
        at + 4,
        subject.len(),
    )
}

/// The component of a module, in a world of `wit/` or of `extra`.
pub(crate) fn component(module: &str, world: &str, extra: &[&str]) -> Vec<u8> {
    let mut core = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let (mut package, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../wit")).unwrap();
    for (number, text) in extra.iter().enumerate() {
        package = resolve.push_str(PathBuf::from(format!("{number}.wit")), text).unwrap();
    }
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&core).unwrap().validate(true).encode().unwrap()
}

/// A handler as a plugin file.
pub(crate) fn handler_plugin(name: &str, version: &str, module: &str, manifest: &str) -> Vec<u8> {
    plugin(name, version, &component(module, "handler-plugin", &[]), manifest)
}

/// A template as a plugin file.
pub(crate) fn template_plugin(name: &str, version: &str, module: &str) -> Vec<u8> {
    plugin(name, version, &component(module, "template-plugin", &[]), "")
}

pub(crate) fn plugin(name: &str, version: &str, component: &[u8], manifest: &str) -> Vec<u8> {
    embed(component, &format!("name = \"{name}\"\nversion = \"{version}\"\n{manifest}")).unwrap()
}

/// Always says `version` as the reason of a reject, so that a test can tell which one answered.
pub(crate) fn versioned(name: &str, version: &str) -> Vec<u8> {
    let (body, rest) = reject(version);
    handler_plugin(name, version, &handler("", &body, &rest), "")
}

/// A provider of e-mail that answers when it is let to.
pub(crate) struct Gate {
    pub(crate) open: Semaphore,
    /// How many wait or have waited.
    pub(crate) asked: AtomicUsize,
    /// The names of the threads that asked.
    pub(crate) threads: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Health for Gate {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl EmailSender for Gate {
    async fn send(&self, _: &Mail) -> Result<ProviderId, SendError> {
        Err(PortError::unsupported("sending").into())
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.threads.lock().unwrap().push(thread);
        drop(self.open.acquire().await.unwrap());
        Ok(SendingQuota { per_day: 1.0, sent_today: 0.0, per_second: 1.0 })
    }

    fn deduplicates(&self) -> bool {
        false
    }
}

struct NoHealth;

impl sandpost_interfaces::ConnectionHealth for NoHealth {
    fn connections(&self) -> Vec<(String, Result<Duration, String>)> {
        Vec::new()
    }
}

/// A host in memory.
pub(crate) struct Host {
    pub(crate) registry: Arc<Registry>,
    pub(crate) deployer: Arc<Deployer>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) folder: TempDir,
}

pub(crate) struct Setup {
    pub(crate) engine: EngineConfig,
    pub(crate) options: Options,
}

impl Default for Setup {
    fn default() -> Self {
        let mut engine = EngineConfig { threads: 2, instances_max: 8, ..EngineConfig::default() };
        engine.ceiling.memory_max_bytes = 16 * 1024 * 1024;
        engine.ceiling.cpu_max_ms = 5000;
        Self { engine, options: Options::default() }
    }
}

impl Setup {
    pub(crate) fn granting(plugin: &str, grants: &str) -> Self {
        let grants = [(plugin.parse().unwrap(), toml::from_str(grants).unwrap())].into_iter().collect();
        let options = Options { grants: GrantPolicy::Configured(grants), ..Options::default() };
        Self { options, ..Self::default() }
    }

    pub(crate) fn host(self) -> Host {
        self.host_in(tempfile::tempdir().unwrap(), None)
    }

    /// A further run of a host: with the artifacts in this folder and the services of the run before.
    pub(crate) fn host_in(self, folder: TempDir, ports: Option<(Arc<Ports>, Arc<Gate>)>) -> Host {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (ports, gate) = ports.unwrap_or_else(|| ports_in_memory(&clock));
        let engine = Arc::new(Engine::new(self.engine, Handle::current()).unwrap());
        let artifacts = Arc::new(Artifacts::open(&folder.path().join("artifacts"), engine, 1024 * 1024).unwrap());
        let registry = Registry::new(clock);
        let scratch = Arc::new(TestScratch);
        let deployer = Arc::new(Deployer::new(registry.clone(), artifacts, ports.clone(), scratch, self.options));
        Host { registry, deployer, ports, gate, folder }
    }
}

fn ports_in_memory(clock: &Arc<dyn Clock>) -> (Arc<Ports>, Arc<Gate>) {
    let store = Arc::new(
        sandpost_embedded_store::open(None, &sandpost_embedded_store::Config::default(), clock.clone()).unwrap(),
    );
    let gate = Arc::new(Gate { open: Semaphore::new(0), asked: AtomicUsize::new(0), threads: Mutex::default() });
    let io = Handle::current();
    let effects = Effects::new(store.clone(), clock.clone(), io.clone(), "test", Duration::from_secs(5));
    let ports = Ports {
        publisher: Publisher::new(store.clone(), store.clone(), clock.clone()),
        broker: store.clone(),
        state: store,
        clock: clock.clone(),
        cache: Arc::new(sandpost_embedded_cache::open(&sandpost_embedded_cache::Config::default())),
        cache_prefix: String::new(),
        cache_default_ttl: Duration::from_mins(1),
        email: gate.clone(),
        default_sender: None,
        mail_limits: sandpost_mail::Limits::default(),
        sql: BTreeMap::new(),
        documents: BTreeMap::new(),
        health: Arc::new(NoHealth),
        effects: Arc::new(effects),
        io,
    };
    (Arc::new(ports), gate)
}

/// Scratch services whose mail provider answers at once, with the cache entries that are given.
struct TestScratch;

#[async_trait::async_trait]
impl ScratchPorts for TestScratch {
    async fn open(&self, scratch: Scratch<'_>) -> Result<Arc<Ports>, PortError> {
        if let Some(given) = scratch.given.sql.first() {
            return Err(PortError::unsupported(format!("sql on `{}`", given.connection)));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (ports, gate) = ports_in_memory(&clock);
        gate.open.add_permits(1000);
        for (key, value) in &scratch.given.cache {
            let key = format!("{}{}{key}", ports.cache_prefix, scratch.cache_scope);
            ports.cache.set(&key, value.clone().into(), ports.cache_default_ttl, Condition::Always).await?;
        }
        Ok(ports)
    }
}

impl Host {
    pub(crate) async fn deploy(&self, bytes: Vec<u8>) -> Result<Deployed, Refused> {
        self.deployer.deploy(bytes, "test").await
    }

    pub(crate) fn handler(&self, plugin: &str) -> Arc<dyn Handler> {
        self.registry.handler(&plugin.parse().unwrap()).expect("a live handler")
    }

    pub(crate) async fn call(&self, plugin: &str) -> Outcome {
        self.handler(plugin).handle(attempt()).await
    }

    /// Deploys a handler of this body and calls it once.
    pub(crate) async fn outcome(&self, imports: &str, body: &str, rest: &str, manifest: &str) -> Outcome {
        self.deploy(handler_plugin("guest", "1.0.0", &handler(imports, body, rest), manifest)).await.unwrap();
        self.call("guest").await
    }

    pub(crate) fn info(&self, plugin: &str) -> sandpost_ports::plugins::PluginInfo {
        let name: PluginName = plugin.parse().unwrap();
        self.registry.list().into_iter().find(|info| info.name == name).expect("a known plugin")
    }

    pub(crate) fn version(&self, plugin: &str) -> Option<String> {
        let name: PluginName = plugin.parse().unwrap();
        Some(self.registry.list().into_iter().find(|info| info.name == name)?.live?.version)
    }
}

pub(crate) fn attempt() -> Attempt {
    Attempt {
        message: Arc::new(Message::new("orders".parse().unwrap(), "{}", 1)),
        subscription: "orders-guest".parse().unwrap(),
        attempt: 1,
        attempts_max: 5,
        unknown_effects: UnknownEffects::Hold,
    }
}

/// Polls until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}
