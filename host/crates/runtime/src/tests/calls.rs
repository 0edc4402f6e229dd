//! Every way in which a call can end, and that none of them concerns another call.

use crate::testing::*;
use crate::{Engine, EngineConfig, EngineError};
use sandpost_message::{FaultKind, Outcome, Verdict};
use sandpost_ports::plugins::Handler;
use std::sync::atomic::Ordering;

/// Calls a guest once; the fault that it ended with.
async fn fault(imports: &str, body: &str, rest: &str, manifest: &str) -> (FaultKind, String) {
    let host = Setup::default().host();
    match host.outcome(imports, body, rest, manifest).await {
        Outcome::Fault(fault) => {
            // Whatever it was, the next call has a whole instance of its own.
            host.deploy(versioned("other", "1.0.0")).await.unwrap();
            assert!(matches!(host.call("other").await, Outcome::Verdict(Verdict::Reject { .. })));
            (fault.kind, fault.detail)
        }
        other => panic!("no fault: {other:?}"),
    }
}

#[tokio::test]
async fn verdicts_are_the_plugins() {
    let host = Setup::default().host();
    assert_eq!(host.outcome("", ACK, "", "").await, Verdict::Ack.into());
    let why = data(2048, "later");
    let cases = [(None, None), (Some(1500), Some(1500))];
    for (after_ms, expected) in cases {
        let outcome = host.outcome("", &retry(5, after_ms), &why, "").await;
        assert_eq!(outcome, Verdict::Retry { reason: "later".to_owned(), after_ms: expected }.into());
    }
    let (body, rest) = reject("never");
    assert_eq!(host.outcome("", &body, &rest, "").await, Verdict::Reject { reason: "never".to_owned() }.into());
}

#[tokio::test]
async fn a_trap_is_a_trap_and_names_its_place() {
    let (kind, detail) = fault("", "(call $deep) unreachable", "(func $deep unreachable)", "").await;
    assert_eq!(kind, FaultKind::Trap);
    assert!(detail.contains("unreachable") && detail.contains("deep"), "{detail}");
}

#[tokio::test]
async fn a_stack_that_has_no_end_is_a_trap() {
    let (kind, detail) = fault("", "(call $down) unreachable", "(func $down (call $down))", "").await;
    assert_eq!(kind, FaultKind::Trap);
    assert!(detail.contains("stack"), "{detail}");
}

#[tokio::test]
async fn an_endless_loop_ends_by_its_own_computing_time() {
    let (kind, detail) =
        fault("", "(loop $again (br $again)) unreachable", "", "[limits]\ncpu_max_ms = 20\ndeadline_ms = 60000\n")
            .await;
    assert_eq!(kind, FaultKind::Cpu, "{detail}");
    assert!(detail.contains("cpu_max_ms"), "{detail}");
}

#[tokio::test]
async fn waiting_for_the_host_ends_at_the_deadline_and_is_not_computing() {
    let manifest = format!("{MAIL}[limits]\ndeadline_ms = 1000\ncpu_max_ms = 100\n");
    let (kind, detail) = fault(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "", &manifest).await;
    assert_eq!(kind, FaultKind::Deadline, "{detail}");
    assert!(detail.contains("deadline_ms"), "{detail}");
}

#[tokio::test]
async fn a_loop_within_its_computing_time_still_ends_at_the_deadline() {
    let limits = "[limits]\ncpu_max_ms = 5000\ndeadline_ms = 1000\n";
    let (kind, _) = fault("", "(loop $again (br $again)) unreachable", "", limits).await;
    assert_eq!(kind, FaultKind::Deadline);
}

#[tokio::test]
async fn memory_over_the_limit_ends_by_name() {
    let grab = "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable";
    let (kind, detail) = fault("", grab, "", "[limits]\nmemory_max_bytes = 8000000\n").await;
    assert_eq!(kind, FaultKind::Memory, "{detail}");
    assert!(detail.contains("8000000"), "{detail}");
}

#[tokio::test]
async fn a_flood_of_host_calls_ends_by_name() {
    let log = r#"(import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))"#;
    let call = "(call $log (i32.const 0) (i32.const 0) (i32.const LEN) (i32.const 0) (i32.const 0))";
    let flood = format!("(loop $more {} (br $more)) unreachable", call.replace("LEN", "0"));
    let (kind, detail) = fault(log, &flood, "", "[limits.call]\nhost_calls_max = 20\n").await;
    assert_eq!(kind, FaultKind::HostCalls, "{detail}");
    let large = format!("(loop $more {} (br $more)) unreachable", call.replace("LEN", "1000"));
    let (kind, detail) = fault(log, &large, "", "[limits.call]\nhost_bytes_max = 5500\n").await;
    assert_eq!(kind, FaultKind::HostBytes, "{detail}");
}

#[tokio::test]
async fn a_list_that_would_be_larger_on_the_host_than_in_the_guest_is_host_bytes() {
    // 300 000 empty fields: nothing by their own count, 14 MB as the host's strings.
    let log = r#"(import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))"#;
    let body = "(drop (memory.grow (i32.const 128)))
        (call $log (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 131072) (i32.const 300000)) unreachable";
    let (kind, detail) = fault(log, body, "", "[limits.call]\nhost_bytes_max = 1000\n").await;
    assert_eq!(kind, FaultKind::HostBytes, "{detail}");
}

#[tokio::test]
async fn answers_that_break_the_contract_are_faults() {
    let (kind, detail) = fault("", &retry(2, None), "(data (i32.const 2048) \"\\ff\\fe\")", "").await;
    assert_eq!(kind, FaultKind::Contract, "{detail}");
    assert!(detail.contains("utf-8"), "{detail}");
    let (kind, detail) = fault("", &retry(5000, None), "", "").await;
    assert_eq!(kind, FaultKind::Contract, "{detail}");
    assert!(detail.contains("reason_max_bytes"), "{detail}");
    let (kind, detail) = fault("", "(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)", "", "").await;
    assert_eq!(kind, FaultKind::Contract, "{detail}");
    let (kind, detail) = fault("", "(i32.const -8)", "", "").await;
    assert_eq!(kind, FaultKind::Contract, "{detail}");
}

/// A world with a part of WASI beside the handler.
fn wasi(package: &str, version: &str, interface: &str) -> [String; 2] {
    let name = interface.split([' ', '{']).next().unwrap().to_owned();
    [
        format!("package {package}@{version}; interface {interface}"),
        format!(
            "package test:guest; world guest {{ include sandpost:plugin/handler-plugin@0.1.0; import {package}/{name}@{version}; }}"
        ),
    ]
}

pub(crate) fn with_wasi(module: &str, package: &str, version: &str, interface: &str, manifest: &str) -> Vec<u8> {
    let extra = wasi(package, version, interface);
    plugin("guest", "1.0.0", &component(module, "guest", &[&extra[0], &extra[1]]), manifest)
}

#[tokio::test]
async fn exit_is_an_exit_even_with_success() {
    let import = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
    for (status, word) in [(0, "status 0"), (1, "status 1")] {
        let module = handler(import, &format!("(call $exit (i32.const {status})) unreachable"), "");
        let host = Setup::default().host();
        host.deploy(with_wasi(&module, "wasi:cli", "0.2.0", "exit { exit: func(status: result); }", "")).await.unwrap();
        let Outcome::Fault(fault) = host.call("guest").await else { panic!("no fault") };
        assert_eq!(fault.kind, FaultKind::Exit);
        assert!(fault.detail.contains(word), "{}", fault.detail);
    }
}

#[tokio::test]
async fn wasi_is_there_with_nothing_behind_it() {
    let import = r#"(import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))"#;
    // The answer's length tells how many variables there are; the trap tells the test.
    let body =
        format!("(call $environment (i32.const 4096)) (if (i32.load (i32.const 4100)) (then unreachable)) {ACK}");
    let interface = "environment { get-environment: func() -> list<tuple<string, string>>; }";
    let host = Setup::default().host();
    host.deploy(with_wasi(&handler(import, &body, ""), "wasi:cli", "0.2.0", interface, "")).await.unwrap();
    assert_eq!(host.call("guest").await, Verdict::Ack.into());
}

#[tokio::test]
async fn a_trap_tells_what_the_guest_wrote_last() {
    let io = "package wasi:io@0.2.0; interface error { resource error; }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream {
                blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            }
        }";
    let cli = "package wasi:cli@0.2.0;
        interface stderr { use wasi:io/streams@0.2.0.{output-stream}; get-stderr: func() -> output-stream; }";
    let world = "package test:guest; world guest {
        include sandpost:plugin/handler-plugin@0.1.0; import wasi:io/streams@0.2.0; import wasi:cli/stderr@0.2.0; }";
    let imports = r#"(import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
        (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
            (func $write (param i32 i32 i32 i32)))"#;
    let said = "panicked at src/lib.rs:7";
    let body = format!(
        "(call $write (call $stderr) (i32.const 2048) (i32.const {}) (i32.const 4096))
         (if (i32.load8_u (i32.const 4096)) (then (return (i32.const -8)))) unreachable",
        said.len()
    );
    let module = handler(imports, &body, &data(2048, said));
    let bytes = plugin("guest", "1.0.0", &component(&module, "guest", &[io, cli, world]), "");
    let host = Setup::default().host();
    host.deploy(bytes).await.unwrap();
    let Outcome::Fault(fault) = host.call("guest").await else { panic!("no fault") };
    assert_eq!(fault.kind, FaultKind::Trap);
    assert!(fault.detail.ends_with("its last words: panicked at src/lib.rs:7"), "{}", fault.detail);
}

#[tokio::test]
async fn an_engine_of_the_default_size_starts() {
    Engine::new(EngineConfig::default(), tokio::runtime::Handle::current()).unwrap();
    let none = EngineConfig { instances_max: 0, ..EngineConfig::default() };
    assert!(matches!(Engine::new(none, tokio::runtime::Handle::current()), Err(EngineError::Config(_))));
}

#[tokio::test]
async fn a_spinning_guest_does_not_hold_up_another_on_the_same_thread() {
    let mut setup = Setup::default();
    setup.engine.threads = 1;
    let host = setup.host();
    let spin = handler("", "(loop $again (br $again)) unreachable", "");
    let manifest = "[limits]\ncpu_max_ms = 5000\ndeadline_ms = 60000\n";
    host.deploy(handler_plugin("spinner", "1.0.0", &spin, manifest)).await.unwrap();
    host.deploy(versioned("quick", "1.0.0")).await.unwrap();
    let spinning = tokio::spawn({
        let spinner = host.handler("spinner");
        async move { spinner.handle(attempt()).await }
    });
    eventually("the spinner is at work", || host.info("spinner").live.unwrap().in_flight == 1).await;
    // Each costs the spinner a tick or two of its own time: thirty of them fit well into its five seconds.
    for _ in 0..30 {
        assert!(matches!(host.call("quick").await, Outcome::Verdict(_)));
    }
    assert!(!spinning.is_finished(), "the quick calls had to wait for the spinner's end");
    // How it would have ended has a test of its own.
    spinning.abort();
}

#[tokio::test]
async fn a_full_pool_is_named_and_frees_itself() {
    let mut setup = Setup::default();
    setup.engine.instances_max = 1;
    setup.engine.instance_wait_ms = 50;
    let host = setup.host();
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "");
    host.deploy(handler_plugin("guest", "1.0.0", &module, MAIL)).await.unwrap();
    let guest = host.handler("guest");
    let first = tokio::spawn({
        let guest = guest.clone();
        async move { guest.handle(attempt()).await }
    });
    eventually("the first call waits", || host.gate.asked.load(Ordering::SeqCst) == 1).await;
    let Outcome::Fault(fault) = guest.handle(attempt()).await else { panic!("no fault") };
    assert_eq!(fault.kind, FaultKind::NoInstance);
    host.gate.open.add_permits(1);
    assert_eq!(first.await.unwrap(), Verdict::Ack.into());
    assert_eq!(guest.handle(attempt()).await, Verdict::Ack.into());
}

#[tokio::test]
async fn a_dropped_call_ends_its_guest() {
    let mut setup = Setup::default();
    setup.engine.instances_max = 1;
    let host = setup.host();
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "");
    host.deploy(handler_plugin("guest", "1.0.0", &module, MAIL)).await.unwrap();
    let call = tokio::spawn({
        let guest = host.handler("guest");
        async move { guest.handle(attempt()).await }
    });
    eventually("the call waits", || host.gate.asked.load(Ordering::SeqCst) == 1).await;
    call.abort();
    // The only instance is free again, and the host call of the first is gone.
    host.deploy(versioned("other", "1.0.0")).await.unwrap();
    assert!(matches!(host.call("other").await, Outcome::Verdict(_)));
    eventually("nothing is in flight", || host.info("guest").live.unwrap().in_flight == 0).await;
}

#[tokio::test]
async fn a_panic_of_the_hosts_own_code_ends_that_call_alone() {
    let host = Setup::default().host();
    // A closed gate is what the tests' provider panics about.
    host.gate.open.close();
    let outcome = host.outcome(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "", MAIL).await;
    let Outcome::Fault(fault) = outcome else { panic!("no fault") };
    assert_eq!(fault.kind, FaultKind::Host);
    host.deploy(versioned("other", "1.0.0")).await.unwrap();
    assert!(matches!(host.call("other").await, Outcome::Verdict(_)));
    assert_eq!(host.info("guest").live.unwrap().in_flight, 0);
}

#[tokio::test]
async fn nothing_is_left_for_the_next_call() {
    // Acknowledges where its memory is fresh, and soils it.
    let body =
        format!("(if (i32.load (i32.const 8192)) (then unreachable)) (i32.store (i32.const 8192) (i32.const 1)) {ACK}");
    let host = Setup::default().host();
    for _ in 0..20 {
        assert_eq!(host.outcome("", &body, "", "").await, Verdict::Ack.into());
    }
}

#[tokio::test]
async fn a_handler_says_how_long_it_can_take() {
    let host = Setup::default().host();
    let manifest = "[limits]\ndeadline_ms = 2000\n";
    host.deploy(handler_plugin("guest", "1.0.0", &handler("", ACK, ""), manifest)).await.unwrap();
    let deadline_ms = Handler::deadline_ms(&*host.handler("guest"));
    assert!(deadline_ms > 2000 + 1000, "the wait for an instance counts: {deadline_ms}");
}

/// Asks the host, computes for some ticks, asks again: the host's side runs on the guest's own thread.
fn long_between_two_host_calls() -> String {
    format!(
        "(local $left i32) (call $quota (i32.const 4096)) (local.set $left (i32.const 20000000))
         (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         (call $quota (i32.const 4096)) {ACK}"
    )
}

#[tokio::test]
async fn who_computes_for_long_goes_on_where_quick_guests_are_not_and_begins_there_once_it_is_known_for_it() {
    let host = Setup::default().host();
    host.gate.open.add_permits(1000);
    let limits = format!("{MAIL}[limits]\ncpu_max_ms = 5000\ndeadline_ms = 60000\n");
    let module = handler(QUOTA, &long_between_two_host_calls(), "");
    host.deploy(handler_plugin("guest", "1.0.0", &module, &limits)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(host.call("guest").await, Verdict::Ack.into());
    }
    let (quick, long) = ("sandpost-guest", "sandpost-long");
    // Where the second call begins depends on whether the trial, on a slow machine, was a long one already.
    let threads = std::mem::take(&mut *host.gate.threads.lock().unwrap());
    assert_eq!(
        (&*threads[0], &*threads[1], &*threads[3], &threads[4..]),
        (quick, long, long, &[long.to_owned(), long.to_owned()][..])
    );
    // Others begin where they always did, and so does the next version.
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "");
    for name in ["other", "guest"] {
        host.deploy(handler_plugin(name, "2.0.0", &module, MAIL)).await.unwrap();
        assert_eq!(host.call(name).await, Verdict::Ack.into());
    }
    assert_eq!(*host.gate.threads.lock().unwrap(), [quick, quick]);
}
