//! (e) Start to ready, and memory: idle, for each plugin, for each instance at work. And (f): messages and notifications with
//! many plugins.

use crate::delivery::{self, BATCH, CONNECTIONS, Notifications};
use crate::host::{Built, Host};
use crate::http;
use crate::report::Report;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Starts of each kind; the median is the figure.
const ROUNDS: usize = 5;
/// Instances at work at once for the measure of one.
const AT_WORK: usize = 200;
/// How long each of them works, and after how long it is looked at.
const WORK_MS: u64 = 1_900;
const LOOK: Duration = Duration::from_millis(1_000);
/// How long a started host is left alone before its memory is read.
const IDLE: Duration = Duration::from_millis(500);

/// With one plugin and with `many`; `messages` are handled by one of them, and `notifications` by the three that ship.
pub fn measure(built: &Built, folder: &Path, many: usize, messages: usize, notifications: usize, report: &mut Report) {
    let bare_ms = process(built);
    let few = folder.join("one");
    Host::prepare(&few, &[built.file("bench-ack")], delivery::ACK);
    // The first start compiles.
    drop(Host::start(built, &few));
    let one = idle(built, &few);
    report.figure('e', "start to ready, 1 cached plugin", one.ready_ms, "ms").over(PROCESS, bare_ms).at_most(100.0);
    report.figure('e', "start to live, 1 cached plugin", one.live_ms, "ms").over(PROCESS, bare_ms).at_most(100.0);
    report.figure('e', "idle resident memory, 1 plugin", one.resident_mb, "MB").at_most(60.0);
    report.figure('e', "of which not a file's", one.own_mb, "MB");
    let one_rate = rate(built, &few, messages);

    let lots = folder.join("many");
    let mut plugins = copies(built, folder, many.saturating_sub(1));
    plugins.push(built.file("bench-ack"));
    Host::prepare(&lots, &plugins, delivery::ACK);
    let first = Host::start(built, &lots).live_after;
    report.figure('e', format!("start to live, {many} plugins not cached"), millis(first), "ms");
    let full = idle(built, &lots);
    for (words, after_ms) in [("ready", full.ready_ms), ("live", full.live_ms)] {
        let figure = report.figure('e', format!("start to {words}, {many} cached plugins"), after_ms, "ms");
        figure.over(PROCESS, bare_ms);
        if many <= 100 {
            figure.at_most(100.0);
        }
    }
    let resident = report.figure('e', format!("idle resident memory, {many} plugins"), full.resident_mb, "MB");
    if many <= 100 {
        resident.at_most(60.0);
    }
    let more = many.saturating_sub(1).max(1) as f64;
    report.figure('e', "memory of one idle plugin", (full.resident_mb - one.resident_mb) * 1024.0 / more, "KiB");

    let many_rate = rate(built, &lots, messages);
    report
        .figure('f', format!("published to acknowledged with {many} plugins"), many_rate, "1/s")
        .over("with 1 plugin", one_rate);
    report.figure('f', format!("with {many} plugins over 1"), many_rate / one_rate, "x").at_least(0.8);

    let chain = |more: &[PathBuf], folder: &Path| {
        let host = Host::fresh(built, folder, &[&delivery::shipped(built), more].concat(), delivery::CHAIN);
        Notifications::warm(&host).run(&host, notifications).0
    };
    let (few, lots) = (chain(&[], &folder.join("chain-alone")), chain(&plugins, &folder.join("chain-many")));
    report.figure('f', format!("notifications with {many} more plugins"), lots, "1/s").over("without them", few);
    report.figure('f', format!("notifications, with {many} more over without"), lots / few, "x").at_least(0.8);

    at_work(built, &folder.join("at-work"), report);
}

const PROCESS: &str = "a process that says its version";

/// From its start to its end, the median in milliseconds: what the system takes before the program does anything.
fn process(built: &Built) -> f64 {
    let mut took: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let since = Instant::now();
            let run = Command::new(&built.program).arg("--version").output().expect("the program starts");
            assert!(run.status.success(), "{run:?}");
            millis(since.elapsed())
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[ROUNDS / 2]
}

struct Idle {
    ready_ms: f64,
    live_ms: f64,
    resident_mb: f64,
    own_mb: f64,
}

/// The median of some starts, and the memory after the last.
fn idle(built: &Built, folder: &Path) -> Idle {
    let (mut ready, mut live) = (Vec::new(), Vec::new());
    let mut memory = (0, 0);
    for _ in 0..ROUNDS {
        let host = Host::start(built, folder);
        ready.push(millis(host.ready_after));
        live.push(millis(host.live_after));
        if ready.len() == ROUNDS {
            std::thread::sleep(IDLE);
            memory = host.resident_bytes();
        }
    }
    ready.sort_by(f64::total_cmp);
    live.sort_by(f64::total_cmp);
    Idle {
        ready_ms: ready[ROUNDS / 2],
        live_ms: live[ROUNDS / 2],
        resident_mb: megabytes(memory.0),
        own_mb: megabytes(memory.1),
    }
}

/// The same component under so many names.
fn copies(built: &Built, folder: &Path, count: usize) -> Vec<PathBuf> {
    let source = built.file("bench-ack");
    let out = folder.join("copies");
    (0..count).map(|n| built.rebuilt(&source, &format!("name = \"copy-{n}\"\nversion = \"1.0.0\"\n"), &out)).collect()
}

/// Published to acknowledged, messages a second.
fn rate(built: &Built, folder: &Path, count: usize) -> f64 {
    let host = Host::start(built, folder);
    let requests = vec![delivery::batch(&vec![delivery::plain_body(); BATCH], "bench"); count.div_ceil(BATCH)];
    let since = Instant::now();
    http::drive(host.address(), CONNECTIONS, &requests);
    host.until_acknowledged("bench", (requests.len() * BATCH) as u64, |_| {});
    let count = (requests.len() * BATCH) as f64;
    count / since.elapsed().as_secs_f64()
}

/// Memory while many guests are in the middle of their work.
fn at_work(built: &Built, folder: &Path, report: &mut Report) {
    let config = format!("[subscriptions.work]\ntopic = \"work\"\nplugin = \"scripted\"\nconcurrency = {AT_WORK}\n");
    let host = Host::fresh(built, folder, &[built.file("scripted")], &config);
    std::thread::sleep(IDLE);
    let before = megabytes(host.resident_bytes().0);
    let body = format!(r#"{{"do":"sleep","ms":{}}}"#, WORK_MS);
    http::drive(host.address(), 1, &[delivery::batch(&vec![body; AT_WORK], "work")]);
    std::thread::sleep(LOOK);
    let during = megabytes(host.resident_bytes().0);
    let each = (during - before) * 1024.0 / AT_WORK as f64;
    report.figure('e', "memory of one instance at work", each, "KiB");
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
