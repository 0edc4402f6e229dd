//! One call of one guest: a fresh instance, its limits, and how it ended.
//!
//! The guest runs where it is called from, if that is one of the threads for quick guests, and is a task there otherwise;
//! once it has computed for longer than most, it is a task on the threads for long ones, and where its version is known for
//! that, or for calls that come to nothing (`pace`), it begins there. Its deadline is a timer of the I/O runtime around it, so
//! that even then what the call left behind is known.
//!
//! Invariants
//! - One instance, one call: nothing of it is used again.
//! - Every ending is a verdict or one named fault. A panic of host code in the guest is a fault of kind `host`, and ends
//!   that call alone.
//! - Dropping the returned future ends the guest, at its next tick at the latest; its place in the pool is free once it has
//!   ended.
//! - A guest that another's host call runs (a template) is on its own meter alone.
//! - What a call left open is dropped inside the I/O runtime's context, whoever ends it.
//!
//! Not here: what is linked to the guest (`interfaces`), who calls (`version`).

use crate::Limits;
use crate::engine::{self, Engine, Purpose, QUICK};
use crate::guest::{Capture, CpuMeter, Guest, Output};
use crate::pace::Pace;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sandpost_interfaces::bindings::{HandlerPluginIndices, TemplatePluginIndices};
use sandpost_interfaces::{Call, Context, Postponed};
use sandpost_message::{Fault, FaultKind};
use sandpost_ports::plugins::Attempt;
use sandpost_telemetry::events::runtime as events;
use std::fmt::Write as _;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::Instrument;
use wasmtime::component::{Instance, InstancePre};
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// How much longer than its deadline a call is waited for: a guest gives its thread away every 2 ms, so that only a host
/// in trouble takes as long.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// No call is waited for longer, whatever an operator allows: more than this is no time that a clock can show.
const DEADLINE_MAX: Duration = Duration::from_hours(365 * 24);
/// Bytes of a fault's detail.
const DETAIL_MAX_BYTES: usize = 1024;
/// Frames of a trap that its detail shows.
const FRAMES_SHOWN: usize = 6;
/// Bytes of the guest's last words on its standard error that a trap's detail shows: a panic's message is there.
const LAST_WORDS_MAX_BYTES: usize = 400;
/// What a guest may hand over in one host call before it is counted, beside `host_bytes_max`: lists and records take more
/// on the host's side than in the guest.
const LIFT_FLOOR_BYTES: usize = 1024 * 1024;

/// An artifact, ready to be instantiated.
pub(crate) struct Program {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) handler: Option<HandlerPluginIndices>,
    pub(crate) template: Option<TemplatePluginIndices>,
    /// Of calls with messages, and of a trial's start.
    pub(crate) handling: Pace,
    /// Of calls for templates, which may be of another kind in the same plugin.
    pub(crate) rendering: Pace,
}

impl Program {
    fn pace(&self, purpose: Purpose) -> &Pace {
        match purpose {
            Purpose::Handle => &self.handling,
            Purpose::Render => &self.rendering,
        }
    }
}

/// What one call needs beside the program.
pub(crate) struct Plan {
    pub(crate) context: Arc<Context>,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) purpose: Purpose,
    /// From the moment that there is a place for an instance; waiting for a processor counts.
    pub(crate) deadline: Duration,
}

/// How a call ended.
pub(crate) struct Ended<R> {
    pub(crate) answer: Result<R, Fault>,
    /// What the guest computed.
    pub(crate) computed: Duration,
    /// An effect whose outcome is unknown, and which is not to be done again.
    pub(crate) held: Option<String>,
    /// A provider that takes nothing for now.
    pub(crate) postponed: Option<Postponed>,
}

impl<R> Ended<R> {
    fn fault(&self) -> Option<FaultKind> {
        self.answer.as_ref().err().map(|fault| fault.kind)
    }
}

impl<R> From<Fault> for Ended<R> {
    fn from(fault: Fault) -> Self {
        Self { answer: Err(fault), computed: Duration::ZERO, held: None, postponed: None }
    }
}

/// What to do with the instance.
pub(crate) type Work<R> = Box<
    dyn for<'a> FnOnce(&'a mut Store<Guest>, &'a Program, Instance, u64) -> BoxFuture<'a, wasmtime::Result<R>> + Send,
>;

/// Makes an instance, does the work, and ends it.
pub(crate) async fn run<R: Send + 'static>(
    engine: &Arc<Engine>,
    program: &Arc<Program>,
    plan: Plan,
    work: Work<R>,
) -> Ended<R> {
    let slot = match engine.slot(plan.purpose, plan.deadline).await {
        Ok(slot) => slot,
        Err(fault) => return fault.into(),
    };
    let (Some(quick), Some(long)) = (engine.quick(), engine.long()) else {
        return Fault::new(FaultKind::Stopped, "the engine has stopped").into();
    };
    let deadline = plan.deadline.min(DEADLINE_MAX);
    let ends_at = Instant::now() + deadline;
    let pace = program.pace(plan.purpose);
    let output = Output::new(plan.limits.output_max_bytes);
    let meter = CpuMeter::new();
    let guest = Contained::new(engine.io().clone(), meter.clone(), {
        let (engine, program, output, meter) = (engine.clone(), program.clone(), output.clone(), meter.clone());
        async move {
            let ended = inside(&engine, &program, plan, ends_at, output, meter, work).await;
            drop(slot);
            ended
        }
    });
    let running = async {
        let begins_long = pace.is_long();
        let guest = if begins_long {
            guest
        } else {
            let first = FirstSlice(Some(guest));
            let slice = if engine::is_quick_thread() {
                AssertUnwindSafe(first).catch_unwind().await.map_err(|_panic| Lost::Panicked)?
            } else {
                EndOnDrop(quick.spawn(first.in_current_span())).await?
            };
            match slice {
                Slice::Ended(ended) => {
                    pace.note(meter.spent(), ended.fault());
                    return Ok(ended);
                }
                Slice::Longer(guest) => {
                    // Known already, and calls that begin until it ends should know too.
                    pace.note(meter.spent(), None);
                    guest
                }
            }
        };
        let ended = EndOnDrop(long.spawn(guest.in_current_span())).await?;
        if begins_long {
            pace.note(meter.spent(), ended.fault());
        }
        Ok(ended)
    };
    let ended = match tokio::time::timeout_at(ends_at + GRACE, running).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(Lost::Panicked)) => Fault::new(FaultKind::Host, "the host's own code failed in this call").into(),
        Ok(Err(Lost::Stopped)) => Fault::new(FaultKind::Stopped, "the host stopped").into(),
        Err(_elapsed) => deadline_fault(deadline).into(),
    };
    Ended { computed: meter.spent(), ..ended }
}

/// Why a guest has no end of its own.
enum Lost {
    Panicked,
    Stopped,
}

impl From<tokio::task::JoinError> for Lost {
    fn from(error: tokio::task::JoinError) -> Self {
        if error.is_panic() { Self::Panicked } else { Self::Stopped }
    }
}

/// What runs on the guests' threads.
async fn inside<R>(
    engine: &Engine,
    program: &Program,
    plan: Plan,
    ends_at: Instant,
    output: Output,
    meter: CpuMeter,
    work: Work<R>,
) -> Ended<R> {
    let Plan { context, attempt, limits, deadline, .. } = plan;
    let ids = Ids::of(&context, attempt.as_ref());
    let now_ms = context.ports.clock.now_ms();
    let left = ends_at.saturating_duration_since(Instant::now());
    let deadline_at_ms = now_ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    let host_bytes_max = usize::try_from(limits.call.host_bytes_max).unwrap_or(usize::MAX);
    let call = Call::new(context, attempt, deadline_at_ms);

    let mut store = Store::new(engine.wasmtime(), Guest::new(call, &limits, output.clone()));
    store.limiter(|guest| &mut guest.ceiling);
    store.set_hostcall_fuel(host_bytes_max.max(LIFT_FLOOR_BYTES));
    store.set_epoch_deadline(1);
    let cpu_max_ns = limits.cpu_max_ms.saturating_mul(1_000_000);
    let cpu_max_ms = limits.cpu_max_ms;
    store.epoch_deadline_callback(move |_| {
        if meter.now_ns() > cpu_max_ns {
            return Err(Fault::new(FaultKind::Cpu, format!("computed for {cpu_max_ms} ms (cpu_max_ms)")).into());
        }
        Ok(UpdateDeadline::Yield(1))
    });

    let answer = tokio::time::timeout_at(ends_at, async {
        let instance = program.pre.instantiate_async(&mut store).await?;
        work(&mut store, program, instance, deadline_at_ms).await
    })
    .await;
    let answer = match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(fault_of(&error, &output.stderr)),
        Err(_elapsed) => Err(deadline_fault(deadline)),
    };
    let report = store.into_data().call.finish();
    ids.say(&output, answer.as_ref().err());
    // The meter runs until this poll is over; who waits for it reads it.
    Ended { answer, computed: Duration::ZERO, held: report.held, postponed: report.postponed }
}

fn deadline_fault(deadline: Duration) -> Fault {
    Fault::new(FaultKind::Deadline, format!("did not end within {} ms (deadline_ms)", deadline.as_millis()))
}

/// A guest's task: polled and dropped inside the I/O runtime's context, its polls measured.
struct Contained<F> {
    future: Option<Pin<Box<F>>>,
    io: Handle,
    meter: CpuMeter,
}

impl<F: Future> Contained<F> {
    fn new(io: Handle, meter: CpuMeter, future: F) -> Self {
        Self { future: Some(Box::pin(future)), io, meter }
    }
}

impl<F: Future> Future for Contained<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<F::Output> {
        let Self { future, io, meter } = &mut *self;
        let Some(future) = future else { return Poll::Pending };
        let _inside = io.enter();
        let _measured = meter.begin();
        future.as_mut().poll(context)
    }
}

impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        let _inside = self.io.enter();
        drop(self.future.take());
    }
}

/// A guest until it has ended, or has computed for longer than a quick one.
struct FirstSlice<F>(Option<Contained<F>>);

/// What came of the first slice.
enum Slice<F: Future> {
    Ended(F::Output),
    /// To be polled on where it is in nobody's way.
    Longer(Contained<F>),
}

impl<F: Future> Future for FirstSlice<F> {
    type Output = Slice<F>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Slice<F>> {
        let Some(guest) = &mut self.0 else { return Poll::Pending };
        if let Poll::Ready(ended) = Pin::new(&mut *guest).poll(context) {
            return Poll::Ready(Slice::Ended(ended));
        }
        if guest.meter.spent() < QUICK {
            return Poll::Pending;
        }
        self.0.take().map_or(Poll::Pending, |guest| Poll::Ready(Slice::Longer(guest)))
    }
}

/// Ends the task when nobody waits for it any more.
struct EndOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Future for EndOnDrop<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for EndOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whose call it is, for log lines after the call itself is gone.
struct Ids {
    context: Arc<Context>,
    message: Option<Arc<sandpost_message::Message>>,
}

impl Ids {
    fn of(context: &Arc<Context>, attempt: Option<&Attempt>) -> Self {
        Self { context: context.clone(), message: attempt.map(|attempt| attempt.message.clone()) }
    }

    /// Puts into the log what the guest wrote, and that it failed.
    fn say(&self, output: &Output, fault: Option<&Fault>) {
        let identity = &self.context.identity;
        let (plugin, version) = (identity.plugin.as_str(), identity.version.as_str());
        let message_id = self.message.as_ref().map(|message| message.id.as_str());
        let trace_id = || self.message.as_ref().map(|message| message.trace.trace_id());
        for (stream, capture) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let (text, cut) = capture.text();
            if !text.is_empty() {
                let trace_id = trace_id();
                events::PluginOutput { plugin, version, message_id, trace_id, stream, text: &text, cut }.emit();
            }
        }
        if let Some(Fault { kind, detail }) = fault {
            let (kind, trace_id) = (*kind, trace_id());
            events::PluginFault { plugin, version, message_id, trace_id, kind, detail }.emit();
        }
    }
}

/// The named reason for an error that ended a guest.
fn fault_of(error: &wasmtime::Error, stderr: &Capture) -> Fault {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.clone();
    }
    if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        return Fault::new(FaultKind::Exit, format!("the guest called exit with status {status}"));
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return Fault::new(FaultKind::NoInstance, "the pool of instances has no room for it (instances_max)");
    }
    let (kind, mut detail) = if let Some(trap) = error.downcast_ref::<Trap>() {
        (FaultKind::Trap, trap.to_string())
    } else {
        let cause = error.root_cause().to_string();
        // wasmtime keeps the type to itself; the tests would tell if the words changed.
        let kind =
            if cause.contains("fuel allocated for hostcalls") { FaultKind::HostBytes } else { FaultKind::Contract };
        (kind, crate::artifact::one_line(&cause))
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for (number, frame) in backtrace.frames().iter().take(FRAMES_SHOWN).enumerate() {
            let name = frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), str::to_owned);
            // Writing to a String cannot fail.
            let _infallible = write!(detail, "{}{name}", if number == 0 { "; in " } else { " < " });
        }
    }
    let (words, _) = stderr.text();
    let words = words.trim();
    if kind == FaultKind::Trap && !words.is_empty() {
        let from = words.ceil_char_boundary(words.len().saturating_sub(LAST_WORDS_MAX_BYTES));
        let _infallible = write!(detail, "; its last words: {}", crate::artifact::one_line(&words[from..]));
    }
    detail.truncate(detail.floor_char_boundary(DETAIL_MAX_BYTES));
    Fault::new(kind, detail)
}
