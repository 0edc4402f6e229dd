//! The engine: one wasmtime engine and one linker for all plugins, the clock that interrupts guests, and the threads
//! that guests run on.
//!
//! The configuration is the one that was measured as both safe and fast: a fresh instance for every call out of a
//! pooling allocator with copy-on-write. Memory is reset by scanning the page map where the kernel can; where it cannot,
//! nothing is kept resident, because a large value then keeps whole pools in memory.
//!
//! Invariants
//! - Guests run on the guest threads alone, which have neither timers nor sockets: whatever a guest waits for belongs to
//!   the I/O runtime, whose context each of its polls is in. A spinning guest starves no timer.
//! - An attempt that runs on those threads too ([`Engine::threads`]) calls its guest in place: handing every message over
//!   to another thread and back costs more than running it.
//! - Epochs advance every [`TICK`]; a guest that computes gives its thread away at each.
//! - Compiling stands behind quick guests too, on threads of its own: a swap is little felt by those that serve.
//! - A guest that computed for longer than [`QUICK`] goes on among the long ones, on threads of their own and of lower
//!   priority: however many compute without end, the quick ones wait behind none of them. Versions whose calls are like
//!   that, or come to nothing, begin there (`pace`).
//! - At most `instances_max` calls are at work, and beside them a share for templates that they render: a call that
//!   waits for a template cannot be what the template waits for.
//!
//! Not here: what a single call may cost (`limits`), how it ends (`instance`).

use crate::Limits;
use crate::guest::Guest;
use crate::priority::step_back;
use sandpost_interfaces::Call;
use sandpost_message::{Fault, FaultKind};
use sandpost_telemetry::events::runtime as events;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often guests are interrupted. Long enough to cost nothing, short enough that sharing a thread is not felt: a quick
/// handler that comes behind one that has just begun to spin waits no longer than this.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// What a guest may compute among the quick ones. Handlers that wait for services take a fraction of it; more than a tick
/// cannot be noticed earlier.
pub(crate) const QUICK: Duration = TICK;
/// How much further back long guests stand in the system's queue for a processor, from 0 to 19. At 19 a thread gets a
/// seventieth of what a quick one gets where both want all of it, and all of it where nobody else wants it. Linux has a class
/// below (`SCHED_IDLE`), but a thread in it that holds a lock of the host's would wait for ever on a busy machine.
const LONG_NICE: i32 = 19;
/// The same of the compiler, which would else take every processor for a fifth of a second: a third of what a quick guest gets.
/// Further back, a swap on a machine that is full would take very long.
const COMPILE_NICE: i32 = 5;

/// Linear memory that a slot keeps between two calls, where the page map can be scanned. Measured: over it resets are
/// system calls again, and two threads are no faster than one.
const MEMORY_KEEP_RESIDENT_BYTES: usize = 1024 * 1024;
/// The same of a table; what a component of some hundred functions touches.
const TABLE_KEEP_RESIDENT_BYTES: usize = 64 * 1024;
/// Memories and tables of one component: what linked components have, and not more, because each reserves address space.
const MEMORIES_PER_COMPONENT: u32 = 2;
const TABLES_PER_COMPONENT: u32 = 8;
/// Beside what the guest's own frames may take, for the host's functions on the same stack.
const HOST_STACK_BYTES: usize = 1024 * 1024;
/// Frames of a trap that are kept; the detail of a fault shows fewer.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);
/// One in so many instances is kept for templates.
const RENDER_SHARE: usize = 4;

/// The engine's table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Threads that guests run on, and as many again for those that compute for long; 0 for one a core. Default 0.
    pub threads: usize,
    /// Calls at work at once. Each reserves address space, and memory once it was used. Default 1000.
    pub instances_max: usize,
    /// How long a call waits for its turn before it ends as `no-instance`. Default 1000.
    pub instance_wait_ms: u64,
    /// Stack of a guest. Default 1 048 576 (1 MiB).
    pub stack_max_bytes: usize,
    /// The most that a plugin may ask for.
    pub ceiling: Limits,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            instances_max: 1000,
            instance_wait_ms: 1000,
            stack_max_bytes: 1024 * 1024,
            ceiling: Limits::ceiling(),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A number that cannot be.
    #[error("{0}")]
    Config(&'static str),
    /// wasmtime does not take the configuration: most often the system's limit of address space.
    #[error(
        "the WebAssembly engine does not start with {instances} instances; is address space limited (`ulimit -v`)?"
    )]
    Create {
        /// How many were asked for.
        instances: usize,
        /// What wasmtime said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread could not be started.
    #[error("the guest threads do not start")]
    Threads(#[source] std::io::Error),
    /// A thread of the compiler could not be started.
    #[error("the compiler's threads do not start")]
    Compilers(#[source] rayon::ThreadPoolBuildError),
}

/// One a host. Guests at work keep it alive, each until its deadline at most; then its threads end.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    linker: Linker<Guest>,
    config: EngineConfig,
    calls: Arc<Semaphore>,
    renders: Arc<Semaphore>,
    io: Handle,
    guests: Option<Lanes>,
    compilers: rayon::ThreadPool,
    _ticker: Ticker,
}

/// Where guests run.
struct Lanes {
    quick: Runtime,
    long: Runtime,
}

thread_local! {
    static QUICK_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is one of the threads for quick guests, of whichever engine.
pub(crate) fn is_quick_thread() -> bool {
    QUICK_THREAD.get()
}

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A message, or a trial of one.
    Handle,
    /// A template.
    Render,
}

/// A place in the pool. Held as long as the instance lives.
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        events::InstanceEnded.emit();
    }
}

impl Engine {
    /// Starts it. `io` is the runtime whose timers and sockets guests' host calls use.
    pub fn new(config: EngineConfig, io: Handle) -> Result<Self, EngineError> {
        if config.instances_max == 0 || config.instances_max > INSTANCES_CEILING {
            return Err(EngineError::Config("`instances_max` is between 1 and 100000"));
        }
        if config.threads > THREADS_CEILING {
            return Err(EngineError::Config("`threads` is at most 1024"));
        }
        if config.stack_max_bytes < STACK_FLOOR_BYTES {
            return Err(EngineError::Config("`stack_max_bytes` is at least 65536"));
        }
        let renders = (config.instances_max / RENDER_SHARE).max(1);
        let slots = config.instances_max + renders;
        let failed =
            |source: wasmtime::Error| EngineError::Create { instances: config.instances_max, source: source.into() };
        let wasmtime = wasmtime::Engine::new(&wasmtime_config(&config, slots)).map_err(failed)?;
        let mut linker = Linker::new(&wasmtime);
        sandpost_interfaces::add_to_linker(&mut linker, |guest: &mut Guest| -> &mut Call { &mut guest.call })
            .map_err(failed)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;

        let guests = Lanes {
            quick: threads(&config, "sandpost-guest")
                .on_thread_start(|| QUICK_THREAD.set(true))
                .build()
                .map_err(EngineError::Threads)?,
            long: threads(&config, "sandpost-long")
                .on_thread_start(|| step_back(LONG_NICE))
                .build()
                .map_err(EngineError::Threads)?,
        };
        let compilers = rayon::ThreadPoolBuilder::new()
            .thread_name(|n| format!("sandpost-compile-{n}"))
            .start_handler(|_| step_back(COMPILE_NICE))
            .build()
            .map_err(EngineError::Compilers)?;
        let ticker = Ticker::start(wasmtime.weak()).map_err(EngineError::Threads)?;
        Ok(Self {
            wasmtime,
            linker,
            calls: Arc::new(Semaphore::new(config.instances_max)),
            renders: Arc::new(Semaphore::new(renders)),
            config,
            io,
            guests: Some(guests),
            compilers,
            _ticker: ticker,
        })
    }

    /// What it was started with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// Compiles a component, on all processors as far as others leave them. Blocks until it is done.
    pub(crate) fn compile(&self, bytes: &[u8]) -> wasmtime::Result<Component> {
        self.compilers.install(|| Component::new(&self.wasmtime, bytes))
    }

    pub(crate) fn linker(&self) -> &Linker<Guest> {
        &self.linker
    }

    pub(crate) fn io(&self) -> &Handle {
        &self.io
    }

    /// The threads for quick guests, for whoever handles messages: a call from one of them is not handed over. They have
    /// no timers and no sockets; what needs them is polled in another runtime's context.
    pub fn threads(&self) -> Option<Handle> {
        self.quick().cloned()
    }

    /// Where guests begin that are not known to be long; none while the engine is being dropped.
    pub(crate) fn quick(&self) -> Option<&Handle> {
        self.guests.as_ref().map(|lanes| lanes.quick.handle())
    }

    /// Where guests go on that have computed for longer than [`QUICK`], and where those begin whose version is known for it;
    /// none while the engine is being dropped.
    pub(crate) fn long(&self) -> Option<&Handle> {
        self.guests.as_ref().map(|lanes| lanes.long.handle())
    }

    /// Waits for a place in the pool, `wait` at most and never longer than `instance_wait_ms`.
    pub(crate) async fn slot(&self, purpose: Purpose, wait: Duration) -> Result<Slot, Fault> {
        let semaphore = match purpose {
            Purpose::Handle => &self.calls,
            Purpose::Render => &self.renders,
        };
        let wait = wait.min(Duration::from_millis(self.config.instance_wait_ms));
        match tokio::time::timeout(wait, semaphore.clone().acquire_owned()).await {
            Ok(Ok(permit)) => {
                events::InstanceStarted.emit();
                Ok(Slot { _permit: permit })
            }
            Ok(Err(_closed)) => Err(Fault::new(FaultKind::Stopped, "the engine has stopped")),
            Err(_elapsed) => Err(Fault::new(
                FaultKind::NoInstance,
                format!("all instances were at work for {} ms (instances_max)", wait.as_millis()),
            )),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Waiting for guests here could block an I/O thread; they end at their next yield.
        if let Some(Lanes { quick, long }) = self.guests.take() {
            quick.shutdown_background();
            long.shutdown_background();
        }
    }
}

/// Over it the reservation of address space cannot be had on any machine.
const INSTANCES_CEILING: usize = 100_000;
/// More than any machine has cores; each has a stack of its own.
const THREADS_CEILING: usize = 1024;
/// Less than this and no compiled language's start-up code runs.
const STACK_FLOOR_BYTES: usize = 64 * 1024;

/// A runtime without timers and sockets.
fn threads(config: &EngineConfig, name: &str) -> Builder {
    let mut threads = Builder::new_multi_thread();
    threads.thread_name(name);
    if config.threads > 0 {
        threads.worker_threads(config.threads);
    }
    threads
}

fn wasmtime_config(config: &EngineConfig, slots: usize) -> Config {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let ceiling = &config.ceiling;
    let core_instances = u32::try_from(ceiling.core_instances_max).unwrap_or(u32::MAX);

    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(core_instances))
        .total_memories(slots.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(slots.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(slots)
        .max_core_instances_per_component(core_instances)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memory_size(usize::try_from(ceiling.memory_max_bytes).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(ceiling.table_elements_max).unwrap_or(usize::MAX));
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT_BYTES)
            .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
    }

    let mut wasmtime = Config::new();
    wasmtime
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .epoch_interruption(true)
        .max_wasm_stack(config.stack_max_bytes)
        .async_stack_size(config.stack_max_bytes.saturating_add(HOST_STACK_BYTES))
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX));
    wasmtime
}

/// The thread that advances the epoch.
struct Ticker {
    /// Dropped to end the thread.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: wasmtime::EngineWeak) -> std::io::Result<Self> {
        let (running, stopped) = channel();
        let thread = std::thread::Builder::new().name("sandpost-ticker".to_owned()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
            }
        })?;
        Ok(Self { running: Some(running), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: it ended.
            drop(thread.join());
        }
    }
}
