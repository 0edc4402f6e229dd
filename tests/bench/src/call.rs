//! (a) One call of a handler with one host call, in a fresh instance, against the same lines run natively.
//!
//! The runtime as the host uses it, over ports in memory, called where dispatch calls it from: the guests' threads. Cores are
//! what is counted, not threads: the host's I/O threads are beside the guests' own, so that one thread means that everything
//! shares one core.

use crate::host::Built;
use crate::report::Report;
use crate::work;
use bytes::Bytes;
use sandpost_interfaces::effects::Effects;
use sandpost_interfaces::{ConnectionHealth, Ports};
use sandpost_message::{Message, Outcome, Verdict};
use sandpost_ports::PortError;
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::clock::{Clock, SystemClock};
use sandpost_ports::email::{EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::{Attempt, Handler, Plugins as _, UnknownEffects};
use sandpost_ports::publisher::Publisher;
use sandpost_runtime::{Artifacts, Deployer, Engine, EngineConfig, Options, Registry, Scratch, ScratchPorts};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio_util::context::TokioContext;

/// Bytes of a message's body.
const SIZES: [(&str, usize); 3] = [("200 B", 200), ("2 KB", 2_000), ("64 KB", 64_000)];
/// Callers at once: enough that no thread waits for another's wake-up.
const CALLERS: usize = 64;
/// How long each measurement runs, after a tenth of it to warm up.
const RUN: Duration = Duration::from_millis(1_000);
const GREETING: &[u8] = b"Good morning, and welcome back";

/// What a run came to.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Calls in a second of the clock.
    per_second: f64,
    /// Computing time of one call, all threads together, in microseconds.
    cpu_us: f64,
}

/// Measures all of it.
pub fn measure(built: &Built, report: &mut Report) {
    let guest = std::fs::read(built.file("bench-call")).expect("the guest is built");
    for (words, size) in SIZES {
        let body = body(size);
        let native = on_cores(1, || native(&body, 1));
        let native_two = on_cores(2, || self::native(&body, 2));
        let one = on_cores(1, || sandboxed(&guest, &body, 1));
        let two = on_cores(2, || sandboxed(&guest, &body, 2));
        let figure = report.figure('a', format!("{words}: computing time of one call, one core"), one.cpu_us, "us");
        figure.over("native", native.cpu_us);
        let over = report.figure('a', format!("{words}: over native, one core"), one.cpu_us - native.cpu_us, "us");
        if size == 200 {
            over.at_most(10.0);
        }
        report
            .figure('a', format!("{words}: calls a second, one core"), one.per_second, "1/s")
            .over("native", native.per_second);
        report
            .figure('a', format!("{words}: calls a second, two cores"), two.per_second, "1/s")
            .over("native", native_two.per_second);
        let scaling = report.figure('a', format!("{words}: two cores over one"), two.per_second / one.per_second, "x");
        scaling.over("native", native_two.per_second / native.per_second);
        if size == 200 {
            scaling.at_least(1.9);
        }
    }
}

/// A message of about this size.
pub fn body(size: usize) -> Bytes {
    let mut items = Vec::new();
    let mut text = String::new();
    while text.len() < size {
        items.push(
            serde_json::json!({"title": format!("An item & its \"name\" {}", items.len()), "count": items.len()}),
        );
        text = serde_json::json!({"user": "user_123", "items": items}).to_string();
    }
    text.into()
}

/// Runs on the first so many cores alone; whatever is started inside stays there.
fn on_cores(cores: usize, run: impl FnOnce() -> Pace + Send) -> Pace {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let thread = std::fs::read_link("/proc/thread-self").expect("a thread has its number");
            let number = thread.file_name().expect("a number").to_string_lossy().into_owned();
            let last = cores - 1;
            let set = Command::new("taskset").args(["-cp", &format!("0-{last}"), &number]).output();
            assert!(set.is_ok_and(|set| set.status.success()), "`taskset` (util-linux) binds threads to cores");
            run()
        });
        thread.join().expect("the measurement ends")
    })
}

fn native(body: &Bytes, threads: usize) -> Pace {
    let runtime = runtime(threads);
    let cache = Arc::new(sandpost_embedded_cache::open(&sandpost_embedded_cache::Config::default()));
    let key = "bench-call:greeting:user_123";
    let keep = cache.set(key, Bytes::from_static(GREETING), Duration::from_secs(600), Condition::Always);
    runtime.block_on(keep).expect("the cache takes it");
    let body = body.clone();
    pace(&runtime, runtime.handle(), threads, move || {
        let (cache, body) = (cache.clone(), body.clone());
        async move {
            let event = work::read(&body).expect("the body is an event");
            let key = format!("bench-call:{}", work::key(&event));
            let greeting = cache.get_many(&[key]).await.expect("the cache answers").remove(0);
            assert!(greeting.is_some());
            std::hint::black_box(work::page(&event, greeting.as_deref()));
        }
    })
}

fn sandboxed(guest: &[u8], body: &Bytes, threads: usize) -> Pace {
    let runtime = runtime(threads);
    let folder = tempfile::tempdir().expect("a folder");
    let (handler, guest_threads) = runtime.block_on(deploy(guest, folder.path(), threads));
    let message = Arc::new(Message::new("bench".parse().expect("a topic"), body.clone(), 1));
    pace(&runtime, &guest_threads, CALLERS, move || {
        let (handler, message) = (handler.clone(), message.clone());
        async move {
            let attempt = Attempt {
                message,
                subscription: "bench".parse().expect("a name"),
                attempt: 1,
                attempts_max: 5,
                unknown_effects: UnknownEffects::Hold,
            };
            let outcome = handler.handle(attempt).await;
            assert!(matches!(outcome, Outcome::Verdict(Verdict::Ack)), "{outcome:?}");
        }
    })
}

/// As many callers on these threads, each calling again and again, with the runtime's timers.
fn pace<F: Future<Output = ()> + Send>(
    runtime: &Runtime,
    threads: &Handle,
    callers: usize,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Pace {
    runtime.block_on(async {
        let begin = Instant::now() + RUN / 10;
        let end = begin + RUN;
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                let call = call.clone();
                let caller = async move {
                    let mut calls = 0_u32;
                    loop {
                        call().await;
                        let now = Instant::now();
                        calls += u32::from(now >= begin);
                        if now >= end {
                            return calls;
                        }
                        // A call that never waits would keep its thread from the other callers.
                        tokio::task::yield_now().await;
                    }
                };
                threads.spawn(TokioContext::new(caller, runtime.handle().clone()))
            })
            .collect();
        tokio::time::sleep_until(begin.into()).await;
        let cpu = own_cpu();
        let mut calls = 0;
        for caller in callers {
            calls += caller.await.expect("a caller ends");
        }
        let (cpu, calls) = (own_cpu() - cpu, f64::from(calls));
        Pace { per_second: calls / RUN.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / calls }
    })
}

/// Computing time of this process.
fn own_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

async fn deploy(guest: &[u8], folder: &Path, threads: usize) -> (Arc<dyn Handler>, Handle) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = EngineConfig { threads, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(config, Handle::current()).expect("the engine starts"));
    let guest_threads = engine.threads().expect("the engine is at work");
    let artifacts = Artifacts::open(&folder.join("artifacts"), engine, 16 << 20).expect("a folder for artifacts");
    let registry = Registry::new(clock.clone());
    let ports = ports(&clock);
    let ttl = Duration::from_secs(600);
    let key = "bench-call:greeting:user_123";
    ports.cache.set(key, Bytes::from_static(GREETING), ttl, Condition::Always).await.expect("the cache takes it");
    let deployer = Deployer::new(registry.clone(), Arc::new(artifacts), ports, Arc::new(NoScratch), Options::default());
    deployer.deploy(guest.to_vec(), "bench").await.expect("the guest goes live");
    (registry.handler(&"bench-call".parse().expect("a name")).expect("a live handler"), guest_threads)
}

fn ports(clock: &Arc<dyn Clock>) -> Arc<Ports> {
    let config = sandpost_embedded_store::Config::default();
    let store = Arc::new(sandpost_embedded_store::open(None, &config, clock.clone()).expect("a store in memory"));
    let io = Handle::current();
    let effects = Effects::new(store.clone(), clock.clone(), io.clone(), "bench", Duration::from_secs(5));
    Arc::new(Ports {
        publisher: Publisher::new(store.clone(), store.clone(), clock.clone()),
        broker: store.clone(),
        state: store,
        clock: clock.clone(),
        cache: Arc::new(sandpost_embedded_cache::open(&sandpost_embedded_cache::Config::default())),
        cache_prefix: String::new(),
        cache_default_ttl: Duration::from_secs(60),
        email: Arc::new(NoMail),
        default_sender: None,
        mail_limits: sandpost_mail::Limits::default(),
        sql: BTreeMap::new(),
        documents: BTreeMap::new(),
        health: Arc::new(NoHealth),
        effects: Arc::new(effects),
        io,
    })
}

/// The measured guest sends no mail.
struct NoMail;

#[async_trait::async_trait]
impl Health for NoMail {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl EmailSender for NoMail {
    async fn send(&self, _: &Mail) -> Result<ProviderId, SendError> {
        Err(PortError::unsupported("sending").into())
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        Err(PortError::unsupported("a quota"))
    }

    fn deduplicates(&self) -> bool {
        false
    }
}

struct NoHealth;

impl ConnectionHealth for NoHealth {
    fn connections(&self) -> Vec<(String, Result<Duration, String>)> {
        Vec::new()
    }
}

/// The measured guest has no samples.
struct NoScratch;

#[async_trait::async_trait]
impl ScratchPorts for NoScratch {
    async fn open(&self, _: Scratch<'_>) -> Result<Arc<Ports>, PortError> {
        Err(PortError::unsupported("samples"))
    }
}
