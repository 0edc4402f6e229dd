//! What the store of one instance holds: the host's side of the call, limits on memory, the meter of computing time, and
//! WASI with nothing behind it.
//!
//! Invariants
//! - WASI is built when the guest first asks for it; most guests never do. It has no arguments, no environment, no
//!   folders and no network.
//! - What a guest writes to its standard streams goes to the log, bounded.
//! - Over its memory a guest is ended by name: a refused growth would end most guests anyway, without saying why.

use crate::Limits;
use rustix::time::ClockId;
use sandpost_interfaces::Call;
use sandpost_message::{Fault, FaultKind};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// WASI resources (streams, pollables) open at once.
const WASI_RESOURCES_MAX: usize = 256;
/// Random bytes of one request; languages seed their hash tables with some dozens.
const RANDOM_MAX_BYTES: u64 = 64 * 1024;
/// What a stream says it takes at once; over its bound it takes and drops.
const STREAM_WRITE_BYTES: usize = 64 * 1024;

/// The store's data.
pub(crate) struct Guest {
    pub(crate) call: Call,
    pub(crate) ceiling: MemoryLimits,
    wasi: Option<WasiCtx>,
    wasi_table: ResourceTable,
    output: Output,
}

impl Guest {
    pub(crate) fn new(call: Call, limits: &Limits, output: Output) -> Self {
        let mut wasi_table = ResourceTable::new();
        wasi_table.set_max_capacity(WASI_RESOURCES_MAX);
        Self { call, ceiling: MemoryLimits::new(limits), wasi: None, wasi_table, output }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let output = &self.output;
        let ctx = self.wasi.get_or_insert_with(|| {
            WasiCtxBuilder::new()
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .allow_blocking_current_thread(false)
                .max_random_size(RANDOM_MAX_BYTES)
                .stdout(output.stdout.clone())
                .stderr(output.stderr.clone())
                .build()
        });
        WasiCtxView { ctx, table: &mut self.wasi_table }
    }
}

/// Memory and tables of one instance.
pub(crate) struct MemoryLimits {
    memory_max_bytes: usize,
    memory_bytes: usize,
    growing_bytes: usize,
    table_elements_max: usize,
    core_instances_max: usize,
}

impl MemoryLimits {
    fn new(limits: &Limits) -> Self {
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            memory_max_bytes: size(limits.memory_max_bytes),
            memory_bytes: 0,
            growing_bytes: 0,
            table_elements_max: size(limits.table_elements_max),
            core_instances_max: size(limits.core_instances_max),
        }
    }
}

impl wasmtime::ResourceLimiter for MemoryLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.growing_bytes = desired.saturating_sub(current);
        let wanted = self.memory_bytes.saturating_add(self.growing_bytes);
        if wanted > self.memory_max_bytes {
            let detail =
                format!("asked for {wanted} bytes of memory; it may have {} (memory_max_bytes)", self.memory_max_bytes);
            return Err(Fault::new(FaultKind::Memory, detail).into());
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory_bytes = self.memory_bytes.saturating_sub(std::mem::take(&mut self.growing_bytes));
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.table_elements_max {
            let detail = format!(
                "asked for a table of {desired} elements; it may have {} (table_elements_max)",
                self.table_elements_max
            );
            return Err(Fault::new(FaultKind::Memory, detail).into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.core_instances_max
    }
}

/// What a guest computed, in nanoseconds of its threads' own clocks: waiting, being displaced by other processes, and what
/// another guest computed inside its host call do not count.
///
/// The system is asked for such a clock only where it matters, since asking takes as long as a short host call. A poll of at
/// most [`SHORT_NS`] counts as long as it took. One that took longer counts what its thread computed meanwhile, and at most
/// [`SHORT_NS`] of what the thread computed before.
#[derive(Clone)]
pub(crate) struct CpuMeter(Arc<CpuCounts>);

/// Far below what anybody is ended for, and far above what most polls take.
const SHORT_NS: u64 = 100_000;

#[expect(clippy::struct_field_names, reason = "each is in nanoseconds")]
struct CpuCounts {
    spent_ns: AtomicU64,
    /// When the poll that is under way began.
    began_ns: AtomicU64,
    /// The thread's clock at that time, or shortly before.
    since_cpu_ns: AtomicU64,
}

thread_local! {
    /// What guests inside of the poll under way on this thread computed.
    static INNER_NS: Cell<u64> = const { Cell::new(0) };
    /// This thread's clock when it was last asked for.
    static KNOWN: Cell<Known> = const { Cell::new(Known { cpu_ns: 0, at_ns: 0 }) };
}

#[derive(Clone, Copy)]
struct Known {
    cpu_ns: u64,
    at_ns: u64,
}

impl CpuMeter {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self(Arc::new(CpuCounts { spent_ns: zero(), began_ns: zero(), since_cpu_ns: zero() }))
    }

    /// So far. Only inside a poll, on its thread.
    pub(crate) fn now_ns(&self) -> u64 {
        self.with(self.polled_ns())
    }

    /// In all polls that have ended.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.0.spent_ns.load(Ordering::Relaxed))
    }

    /// A poll begins on this thread; it ends with what is returned, also where it panics.
    pub(crate) fn begin(&self) -> Measured<'_> {
        let now_ns = clock_ns(ClockId::Monotonic);
        let known = KNOWN.get();
        let since_cpu_ns =
            if now_ns.saturating_sub(known.at_ns) <= SHORT_NS { known.cpu_ns } else { ask_this_thread(now_ns) };
        self.0.began_ns.store(now_ns, Ordering::Relaxed);
        self.0.since_cpu_ns.store(since_cpu_ns, Ordering::Relaxed);
        Measured { meter: self, outer_ns: INNER_NS.replace(0) }
    }

    /// What the poll under way has computed, with what guests inside of it have.
    fn polled_ns(&self) -> u64 {
        let now_ns = clock_ns(ClockId::Monotonic);
        let took_ns = now_ns.saturating_sub(self.0.began_ns.load(Ordering::Relaxed));
        if took_ns <= SHORT_NS {
            return took_ns;
        }
        took_ns.min(ask_this_thread(now_ns).saturating_sub(self.0.since_cpu_ns.load(Ordering::Relaxed)))
    }

    fn with(&self, polled_ns: u64) -> u64 {
        self.0.spent_ns.load(Ordering::Relaxed).saturating_add(polled_ns.saturating_sub(INNER_NS.get()))
    }
}

/// A poll that is being measured.
pub(crate) struct Measured<'a> {
    meter: &'a CpuMeter,
    /// What had been computed by others inside of the poll around this one.
    outer_ns: u64,
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let polled_ns = self.meter.polled_ns();
        self.meter.0.spent_ns.store(self.meter.with(polled_ns), Ordering::Relaxed);
        INNER_NS.set(self.outer_ns.saturating_add(polled_ns));
    }
}

fn ask_this_thread(now_ns: u64) -> u64 {
    let cpu_ns = clock_ns(ClockId::ThreadCPUTime);
    KNOWN.set(Known { cpu_ns, at_ns: now_ns });
    cpu_ns
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let (seconds, nanos) =
        (u64::try_from(now.tv_sec).unwrap_or_default(), u64::try_from(now.tv_nsec).unwrap_or_default());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// What a guest wrote to its standard streams.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) stdout: Capture,
    pub(crate) stderr: Capture,
}

impl Output {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Self { stdout: Capture::new(max), stderr: Capture::new(max) }
    }
}

/// One stream: keeps its beginning and drops the rest. The writer is never told: a guest that cannot print does not fail.
#[derive(Clone)]
pub(crate) struct Capture {
    kept: Arc<Mutex<Kept>>,
    max_bytes: usize,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    dropped: bool,
}

impl Capture {
    fn new(max_bytes: usize) -> Self {
        Self { kept: Arc::default(), max_bytes }
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.max_bytes.saturating_sub(kept.bytes.len()).min(bytes.len());
        kept.bytes.extend_from_slice(&bytes[..room]);
        kept.dropped |= room < bytes.len();
    }

    /// What was written so far, and whether more was dropped.
    pub(crate) fn text(&self) -> (String, bool) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (String::from_utf8_lossy(&kept.bytes).into_owned(), kept.dropped)
    }
}

impl IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Capture {
    async fn ready(&mut self) {}
}

impl OutputStream for Capture {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STREAM_WRITE_BYTES)
    }
}

impl AsyncWrite for Capture {
    fn poll_write(self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::ResourceLimiter;

    #[test]
    fn a_stream_keeps_its_beginning() {
        let capture = Capture::new(5);
        capture.push(b"abc");
        capture.push(b"def");
        assert_eq!(capture.text(), ("abcde".to_owned(), true));
    }

    #[test]
    fn memories_are_counted_together_and_a_failed_growth_is_given_back() {
        let mut limits = MemoryLimits::new(&Limits { memory_max_bytes: 100, ..Limits::default() });
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.memory_growing(0, 40, None).unwrap());
        limits.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert!(limits.memory_growing(60, 100, None).unwrap());
        let error = limits.memory_growing(0, 1, None).unwrap_err();
        assert_eq!(error.downcast_ref::<Fault>().unwrap().kind, FaultKind::Memory);
    }

    fn compute(meter: &CpuMeter, until: Duration) {
        while meter.now_ns() < u64::try_from(until.as_nanos()).unwrap() {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn waiting_is_not_computing() {
        let meter = CpuMeter::new();
        let measured = meter.begin();
        std::thread::sleep(Duration::from_millis(30));
        drop(measured);
        assert!(meter.spent() < Duration::from_millis(20));
        let measured = meter.begin();
        compute(&meter, Duration::from_millis(25));
        drop(measured);
        assert!(meter.spent() >= Duration::from_millis(25));
    }

    #[test]
    fn what_its_thread_computed_before_is_not_the_guests() {
        let (other, meter) = (CpuMeter::new(), CpuMeter::new());
        for _ in 0..2 {
            let measured = other.begin();
            compute(&other, other.spent() + Duration::from_millis(20));
            drop(measured);
            let measured = meter.begin();
            // As if it were displaced for that long.
            std::thread::sleep(Duration::from_millis(30));
            drop(measured);
        }
        assert!(meter.spent() < Duration::from_millis(15), "{:?}", meter.spent());
    }

    #[test]
    fn many_short_polls_add_up() {
        let meter = CpuMeter::new();
        let began = std::time::Instant::now();
        for _ in 0..2_000 {
            let measured = meter.begin();
            let end_ns = clock_ns(ClockId::Monotonic) + SHORT_NS / 10;
            while clock_ns(ClockId::Monotonic) < end_ns {
                std::hint::spin_loop();
            }
            drop(measured);
        }
        assert!(meter.spent() >= Duration::from_millis(20) && meter.spent() <= began.elapsed(), "{:?}", meter.spent());
    }

    #[test]
    fn what_a_guest_inside_computes_is_its_own() {
        let (outer, first, second) = (CpuMeter::new(), CpuMeter::new(), CpuMeter::new());
        let measured = outer.begin();
        for inner in [&first, &second] {
            let measured = inner.begin();
            compute(inner, Duration::from_millis(30));
            drop(measured);
        }
        compute(&outer, Duration::from_millis(5));
        drop(measured);
        assert!(first.spent() >= Duration::from_millis(30) && second.spent() >= Duration::from_millis(30));
        let own = outer.spent();
        assert!(own >= Duration::from_millis(5) && own < Duration::from_millis(25), "{own:?}");
    }
}
