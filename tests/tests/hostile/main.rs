//! Hostile guests: one component a behaviour, in the real program, each on its own topic. Each ends with its named reason
//! within its stated bounds of time, computing and memory, leaves no memory behind, and another topic's messages keep flowing
//! beside it.
//!
//! In CI (about 20 s): ends, bounds, memory over two series, progress of another topic. With `SANDPOST_LONG=1` also that
//! topic's latency alone and beside each guest, as a table on standard output (`--nocapture`); see
//! `docs/reliability.md`.

mod table;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sandpost_tests::component::Workshop;
use sandpost_tests::{Client, Host, Setup};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use table::{CPU_MAX_MS, End, Guest, MEMORY_MAX_BYTES, guests, source};

/// What a guest that computes without end may compute beyond its `cpu_max_ms`. It is a tick of 2 ms and what the host does
/// for it where the clock that interrupts guests gets its turn; the rest is for a machine where that has to wait.
const CPU_MARGIN_MS: u64 = 100;
/// Beyond the deadline of its call a guest gets the host's own grace of a second; the rest is for a machine at work.
const GRACE_MS: u64 = 1000 + 1500;
/// A deployment that is refused is refused within this: the look at the folder, compiling, the guest's own limits in the
/// trial, all other refused files before it.
const REFUSED_WITHIN: Duration = Duration::from_secs(120);
/// What the process may be larger after the second series than after the first: the allocator's own keeping, and what the
/// logs and caches of a young process still take.
const MEMORY_MARGIN_BYTES: u64 = 24 << 20;
/// Another topic comes at least this far beside all guests at once, of what it does alone.
const PROGRESS_SHARE: usize = 10;
/// How many messages of a guest may wait: as many as are at work at once, so that it is never idle unless it rests.
const WAITING_MAX: usize = 4;
/// How many messages a call may publish, by default (`publishes_max`).
const PUBLISHES_MAX: usize = 100;
/// How often each guest runs in one series.
const MESSAGES: usize = 2;

/// A host with every guest that goes live, `steady` for another topic, and `quiet` for what guests publish.
fn host(workshop: &Workshop, guests: &[Guest], folder: &tempfile::TempDir) -> Host {
    let mut setup = Setup { grants_configured: true, ..Setup::default() };
    let config = &mut setup.config;
    config.push_str("[sql.second]\ndriver = \"embedded\"\n[email]\nfrom = \"noreply@example.com\"\n");
    let mut subscribe = |name: &str, plugin: &str, concurrency: usize| {
        write!(
            config,
            "[subscriptions.\"{name}\"]\ntopic = \"{name}\"\nplugin = \"{plugin}\"\nconcurrency = {concurrency}\n\
             [subscriptions.\"{name}\".retry]\nattempts_max = 1\n"
        )
        .expect("a string takes everything");
    };
    subscribe("steady", "steady", 4);
    for topic in ["quiet"].iter().chain(table::PROBED_TOPICS) {
        subscribe(topic, "steady", 1);
    }
    for guest in guests {
        subscribe(guest.name, guest.name, if matches!(guest.end, End::Endless) { 1 } else { 4 });
    }
    let steady = "cache = [{ prefix = \"\", access = \"read-write\" }]";
    write!(config, "[plugins.steady.grants]\n{steady}\n").expect("a string takes everything");
    for guest in guests {
        write!(config, "[plugins.{}.grants]\n{}\n", guest.name, guest.given).expect("a string takes everything");
    }
    let put = |name: &str, bytes: Vec<u8>| {
        let file = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&file, bytes).expect("the file is written");
        file
    };
    let component = workshop.component(&source("tame"), sandpost_tests::component::World::Handler, &[]);
    let manifest = format!("name = \"steady\"\nversion = \"1.0.0\"\n[grants]\n{steady}\n");
    setup.plugins.push(put("steady", sandpost_tests::component::with_manifest(&component, &manifest)));
    for guest in guests {
        let file = put(guest.name, guest.file(workshop));
        if guest.runs() {
            setup.plugins.push(file);
        }
    }
    Host::start(setup)
}

#[test]
fn every_guest_has_a_row_and_every_row_a_guest() {
    let texts: BTreeSet<String> = std::fs::read_dir(table::folder())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let guests = guests();
    let mut rows: BTreeSet<String> = guests.iter().map(|guest| guest.source.to_owned()).collect();
    rows.insert("tame".to_owned());
    assert_eq!(texts, rows, "texts in tests/hostile/ and rows of tests/tests/hostile/table.rs");
    let names: BTreeSet<&str> = guests.iter().map(|guest| guest.name).collect();
    assert_eq!(names.len(), guests.len(), "two rows have one name");
}

#[test]
fn each_ends_with_its_named_reason_inside_its_bound_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let guests = guests();
    let host = host(&Workshop::default(), &guests, &folder);
    let mut failures = Vec::new();
    let mut memory = Vec::new();
    for _series in 0..2 {
        refuse_all(&host, &guests, &folder, &mut failures);
        for guest in guests.iter().filter(|guest| guest.runs() && !matches!(guest.end, End::Endless)) {
            let before = Spent::so_far(&host);
            let ids: Vec<String> = (0..MESSAGES).map(|_| host.publish(guest.name, "{}")).collect();
            for id in ids {
                if let Err(what) = ends(&host, guest, &id) {
                    failures.push(format!("{}: {what}", guest.name));
                }
            }
            if let Err(what) = Spent::so_far(&host).is_inside(&before, guest) {
                failures.push(format!("{}: {what}", guest.name));
            }
        }
        let id = host.publish("steady", "{}");
        host.until_step(&id, "acknowledged");
        memory.push(status_bytes(&host, "VmRSS:"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(memory[1] <= memory[0] + MEMORY_MARGIN_BYTES, "resident bytes after each series: {memory:?}");
    println!("resident MiB after each series: {:?}", memory.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>());

    let flood: usize = (host.log().iter().map(Value::to_string))
        .filter(|line| line.contains("log-flood") && line.contains("xxxxxxxx"))
        .map(|line| line.len())
        .sum();
    let most = 2 * MESSAGES * (64 * 1024 + 4096);
    assert!(flood > 0 && flood <= most, "the flood of log lines came to {flood} bytes; at most {most}");
    // What `publish-flood` may publish, and not one message by a probe.
    let stored = sum(&host, "sandpost_plugin_publishes_total", "outcome=\"stored\"");
    assert_eq!(stored, (2 * MESSAGES * PUBLISHES_MAX) as f64, "messages that plugins published");
}

#[test]
fn a_probe_sees_a_name_that_gets_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let guests = table::granted_probes();
    let host = host(&Workshop::default(), &guests, &folder);
    for guest in &guests {
        let id = host.publish(guest.name, "{}");
        ends(&host, guest, &id).unwrap_or_else(|what| panic!("{}: {what}", guest.name));
    }
}

/// Of the samples of a metric that have this label.
fn sum(host: &Host, name: &str, label: &str) -> f64 {
    let metrics = host.get("/metrics").text;
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Puts every file that must not serve into the folder, and waits until each is refused for its reason.
fn refuse_all(host: &Host, guests: &[Guest], folder: &tempfile::TempDir, failures: &mut Vec<String>) {
    let refusals = || -> BTreeMap<String, (String, String)> {
        let plugins = host.get("/v1/plugins").json()["plugins"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let refused = plugins.iter().filter(|plugin| plugin["refused"].is_object());
        refused
            .map(|plugin| {
                let refused = &plugin["refused"];
                (text(&plugin["name"]), (text(&refused["refused_at"]), text(&refused["reason"])))
            })
            .collect()
    };
    let before = refusals();
    let since = Instant::now();
    for guest in guests.iter().filter(|guest| !guest.runs()) {
        host.deploy(&folder.path().join(format!("{}.wasm", guest.name)));
    }
    for guest in guests {
        let End::Refused(step, part) = guest.end else { continue };
        let reason = loop {
            let now = refusals();
            match now.get(guest.name) {
                Some((at, reason)) if before.get(guest.name).is_none_or(|(before, _)| before != at) => {
                    break reason.clone();
                }
                _ if since.elapsed() > REFUSED_WITHIN => break "not refused in time".to_owned(),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if !(reason.starts_with(&format!("{step}: ")) && reason.contains(part)) {
            failures.push(format!("{}: expected {step}, …{part}…; got: {reason}", guest.name));
        }
    }
    let plugins = host.get("/v1/plugins").json();
    for plugin in plugins["plugins"].as_array().into_iter().flatten() {
        let name = plugin["name"].as_str().unwrap_or_default();
        if guests.iter().any(|guest| guest.name == name && !guest.runs()) && plugin["live"].is_object() {
            failures.push(format!("{name}: is live"));
        }
    }
}

/// Waits for the message's end; what is wrong about it.
fn ends(host: &Host, guest: &Guest, id: &str) -> Result<(), String> {
    let steps = host.eventually(&format!("{} ends", guest.name), || {
        let reply = host.get(&format!("/v1/messages/{id}"));
        let steps = if reply.status == 200 { reply.json()["steps"].as_array().cloned() } else { None };
        let steps = steps.unwrap_or_default();
        if find(&steps, &["acknowledged", "dead-lettered"]).is_some() { Ok(steps) } else { Err(format!("{steps:?}")) }
    });
    let last = find(&steps, &["acknowledged", "dead-lettered"]).ok_or("no end")?;
    let detail = last["detail"].as_str().unwrap_or_default();
    let began = find(&steps, &["started"]).ok_or("it never started")?;
    let took_ms = milliseconds(last).saturating_sub(milliseconds(began));
    if took_ms > guest.deadline_ms + GRACE_MS {
        return Err(format!("took {took_ms} ms; its deadline is {} ms", guest.deadline_ms));
    }
    let fits = match guest.end {
        End::Acknowledges => last["step"] == "acknowledged",
        End::Rejects(part) => detail.starts_with("rejected: ") && detail.contains(part),
        End::Fault(kind, part) => detail.starts_with(&format!("attempts-exhausted: {kind}: ")) && detail.contains(part),
        End::Refused(..) | End::Endless => false,
    };
    if fits { Ok(()) } else { Err(format!("expected {:?}; got {} {detail}", guest.end, last["step"])) }
}

/// What the system says that a host has used. By its clocks, not by the host's own meter; and computing, not time, so that it
/// means the same on a machine that does other things.
struct Spent {
    /// Computed by the threads that guests run on.
    computed_ms: u64,
    resident_bytes: u64,
    /// The most that was resident at once since the look before this one.
    peak_bytes: u64,
}

impl Spent {
    fn so_far(host: &Host) -> Self {
        let process = PathBuf::from(format!("/proc/{}", host.pid()));
        let tasks = std::fs::read_dir(process.join("task")).expect("the process");
        let computed_ns: u64 = tasks.flatten().filter_map(|task| computed_by_guests_ns(&task.path())).sum();
        let spent = Self {
            computed_ms: computed_ns / 1_000_000,
            resident_bytes: status_bytes(host, "VmRSS:"),
            peak_bytes: status_bytes(host, "VmHWM:"),
        };
        // The peak begins anew.
        std::fs::write(process.join("clear_refs"), "5").expect("the peak is reset");
        spent
    }

    /// What is wrong about what a guest's messages took since then.
    fn is_inside(&self, before: &Self, guest: &Guest) -> Result<(), String> {
        let computed_ms = self.computed_ms.saturating_sub(before.computed_ms);
        let grown_bytes = self.peak_bytes.saturating_sub(before.resident_bytes);
        if let End::Fault("cpu", _) = guest.end {
            let least_ms = MESSAGES as u64 * CPU_MAX_MS;
            let most_ms = MESSAGES as u64 * (CPU_MAX_MS + CPU_MARGIN_MS);
            if !(least_ms..=most_ms).contains(&computed_ms) {
                return Err(format!("computed for {computed_ms} ms; at least {least_ms} and at most {most_ms}"));
            }
        }
        let most_bytes = MESSAGES as u64 * MEMORY_MAX_BYTES + MEMORY_MARGIN_BYTES;
        // Else nothing would be measured: it has all of its memory before it is ended.
        let least_bytes = if guest.name == "touched-allocation" { MEMORY_MAX_BYTES / 2 } else { 0 };
        if !(least_bytes..=most_bytes).contains(&grown_bytes) {
            return Err(format!("took {grown_bytes} bytes; at least {least_bytes} and at most {most_bytes}"));
        }
        Ok(())
    }
}

/// What a thread has computed, if guests run on it.
fn computed_by_guests_ns(thread: &Path) -> Option<u64> {
    let name = std::fs::read_to_string(thread.join("comm")).ok()?;
    if !matches!(name.trim_end(), "sandpost-guest" | "sandpost-long") {
        return None;
    }
    std::fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
}

fn find<'a>(steps: &'a [Value], any: &[&str]) -> Option<&'a Value> {
    steps.iter().find(|step| step["step"].as_str().is_some_and(|step| any.contains(&step)))
}

/// Milliseconds of the day of a step.
fn milliseconds(step: &Value) -> u64 {
    let time = step["at"].as_str().expect("a time");
    let of_day = &time["2026-01-01T".len()..];
    let number = |from: usize, length: usize| of_day[from..from + length].parse::<u64>().expect("a number");
    ((number(0, 2) * 60 + number(3, 2)) * 60 + number(6, 2)) * 1000 + number(9, 3)
}

/// A number of the host's process, in bytes.
fn status_bytes(host: &Host, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).expect("the process");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line of this name");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") * 1024
}

/// Publishes to `steady` one after the other, each once the one before is acknowledged, for this long: how long each took
/// from the request to the acknowledgement that was seen.
fn flow(host: &Host, during: Duration) -> Vec<Duration> {
    let client = Client::new(host.address());
    let end = Instant::now() + during;
    let mut took = Vec::new();
    while Instant::now() < end {
        let since = Instant::now();
        let reply = client.post("/v1/topics/steady/messages", &[], "{}").expect("an answer");
        assert_eq!(reply.status, 202, "{reply:?}");
        let path = format!("/v1/messages/{}", reply.json()["id"].as_str().expect("an id"));
        loop {
            let history = client.get(&path).expect("an answer");
            if history.text.contains("\"acknowledged\"") {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{history:?}");
        }
        took.push(since.elapsed());
    }
    took
}

/// Keeps guests at work until it is told to stop: a message for each every 100 ms, but never more than a few that wait. Returns
/// how many there were, once all of them have ended.
fn torment(host: &Host, names: &[&str], stop: &AtomicBool) -> usize {
    let client = Client::new(host.address());
    let mut published = 0;
    let mut waiting: Vec<VecDeque<String>> = names.iter().map(|_| VecDeque::new()).collect();
    let ended = |id: &String| {
        let history = client.get(&format!("/v1/messages/{id}")).expect("an answer").text;
        history.contains("\"acknowledged\"") || history.contains("\"dead-lettered\"")
    };
    while !stop.load(Ordering::Relaxed) {
        for (name, waiting) in names.iter().zip(&mut waiting) {
            if waiting.len() >= WAITING_MAX && waiting.front().is_some_and(ended) {
                waiting.pop_front();
            }
            if waiting.len() < WAITING_MAX {
                let reply = client.post(&format!("/v1/topics/{name}/messages"), &[], "{}").expect("an answer");
                assert_eq!(reply.status, 202, "{reply:?}");
                waiting.push_back(reply.json()["id"].as_str().expect("an id").to_owned());
                published += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for (name, waiting) in names.iter().zip(waiting) {
        for id in waiting {
            host.eventually(&format!("{name} ends"), || if ended(&id) { Ok(()) } else { Err(id.clone()) });
        }
    }
    published
}

/// What flows beside these guests.
fn flow_beside(host: &Host, names: &[&str], during: Duration) -> (Vec<Duration>, usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tormenting = scope.spawn(|| torment(host, names, &stop));
        let took = flow(host, during);
        stop.store(true, Ordering::Relaxed);
        (took, tormenting.join().expect("the publisher ends"))
    })
}

/// Beside as many messages as `publish-flood` publishes, from a publisher outside: what such traffic costs whoever sends it.
fn flow_beside_publishes(host: &Host, during: Duration) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let client = Client::new(host.address());
            while !stop.load(Ordering::Relaxed) {
                let next = Instant::now() + Duration::from_millis(100);
                for _ in 0..PUBLISHES_MAX {
                    let reply = client.post("/v1/topics/quiet/messages", &[], "{}").expect("an answer");
                    assert_eq!(reply.status, 202, "{reply:?}");
                }
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        let took = flow(host, during);
        stop.store(true, Ordering::Relaxed);
        publishing.join().expect("the publisher ends");
        took
    })
}

#[test]
fn another_topic_flows_beside_all_of_them_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let guests: Vec<Guest> = guests().into_iter().filter(Guest::runs).collect();
    let host = host(&Workshop::default(), &guests, &folder);
    let names: Vec<&str> =
        guests.iter().filter(|guest| !matches!(guest.end, End::Endless)).map(|guest| guest.name).collect();
    let window = Duration::from_millis(1500);
    flow(&host, Duration::from_millis(200));
    let before = flow(&host, window).len();
    let (beside, published) = flow_beside(&host, &names, window);
    // What the machine did otherwise meanwhile is in one of both, and the smaller one counts.
    let alone = before.min(flow(&host, window).len());
    println!("alone {alone} messages, beside {published} hostile ones {}", beside.len());
    assert!(published >= names.len(), "every guest ran");
    assert!(beside.len() * PROGRESS_SHARE >= alone, "{} messages beside, {alone} alone", beside.len());
}

/// The operator's answer: another version of the same plugin, which takes what waits and acknowledges it.
fn replace_by_a_tame_one(host: &Host, workshop: &Workshop, folder: &tempfile::TempDir, name: &str) {
    let tame = workshop.component(
        "(module ;; @answers\n ;; @heap\n (func (export \"sandpost:plugin/handler@0.1.0#handle\") (param i32) (result i32) (call $ack)))",
        sandpost_tests::component::World::Handler,
        &[],
    );
    let file = folder.path().join(format!("{name}.wasm"));
    let manifest = format!("name = \"{name}\"\nversion = \"2.0.0\"\n");
    std::fs::write(&file, sandpost_tests::component::with_manifest(&tame, manifest)).expect("the file is written");
    host.deploy(&file);
}

#[test]
fn who_computes_and_fails_rests_and_its_messages_wait_uncounted() {
    let folder = tempfile::tempdir().expect("a folder");
    let guests: Vec<Guest> = guests().into_iter().filter(|guest| guest.name == "endless-loop").collect();
    let workshop = Workshop::default();
    let host = host(&workshop, &guests, &folder);
    let ids: Vec<String> = (0..10).map(|_| host.publish("endless-loop", "{}")).collect();
    let mut started_ms: Vec<u64> = Vec::new();
    for id in &ids {
        ends(&host, &guests[0], id).expect("each ends as if it were alone");
        let steps = host.get(&format!("/v1/messages/{id}")).json()["steps"].as_array().cloned().expect("its steps");
        let started: Vec<&Value> = steps.iter().filter(|step| step["step"] == "started").collect();
        assert_eq!(started.len(), 1, "{steps:?}");
        started_ms.push(milliseconds(started[0]));
    }
    started_ms.sort_unstable();
    // When the last began the nine before it had wasted 100 ms each, of which two calls' worth is allowed; for the rest a version
    // waits ten times as long.
    let spread_ms = started_ms[9] - started_ms[0];
    assert!(spread_ms >= 6_900, "ten calls that only loop began within {spread_ms} ms");
    let metrics = host.get("/metrics").text;
    let rests = metrics.lines().find(|line| line.starts_with("sandpost_plugin_rests_total{plugin=\"endless-loop\"}"));
    assert!(rests.is_some(), "the rests are not counted");
    assert!(host.log().iter().any(|line| line.to_string().contains("its messages wait, uncounted")), "nor said");

    for _ in 0..3 {
        host.publish("endless-loop", "{}");
    }
    replace_by_a_tame_one(&host, &workshop, &folder, "endless-loop");
    let last = host.publish("endless-loop", "{}");
    host.until_step(&last, "acknowledged");
}

#[test]
fn what_publishes_to_itself_is_seen_and_ended_by_a_swap() {
    let folder = tempfile::tempdir().expect("a folder");
    let endless = guests().into_iter().filter(|guest| matches!(guest.end, End::Endless));
    // So many in a row that no test would see the end of it.
    let guests: Vec<Guest> = endless.map(|guest| guest.limits("[limits.call]\nhops_max = 64")).collect();
    let workshop = Workshop::default();
    let host = host(&workshop, &guests, &folder);
    host.publish("publish-to-itself", "{}");
    let backlog = |least: f64| {
        let metrics = host.get("/metrics").text;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("sandpost_backlog") && line.contains("publish-to-itself"))
            .unwrap_or_default()
            .to_owned();
        let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(-1.0);
        if value >= least { Ok(value) } else { Err(line) }
    };
    host.eventually("the backlog shows", || backlog(3.0));
    let id = host.publish("steady", "{}");
    host.until_step(&id, "acknowledged");
    replace_by_a_tame_one(&host, &workshop, &folder, "publish-to-itself");
    let last = host.publish("publish-to-itself", "{}");
    host.until_step(&last, "acknowledged");
}

#[test]
fn a_chain_of_plugins_that_publish_ends_at_its_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let endless = guests().into_iter().filter(|guest| matches!(guest.end, End::Endless));
    let guests: Vec<Guest> = endless.map(|guest| guest.limits("[limits.call]\nhops_max = 4")).collect();
    let host = host(&Workshop::default(), &guests, &folder);
    host.publish("publish-to-itself", "{}");
    // 1, 2, 4, 8 and 16 messages, of which the last publish nothing: two refusals each.
    host.eventually("the chain ends", || {
        let (stored, refused) = (
            sum(&host, "sandpost_plugin_publishes_total", "outcome=\"stored\""),
            sum(&host, "sandpost_plugin_publishes_total", "outcome=\"exceeded\""),
        );
        let handled = sum(&host, "sandpost_deliveries_total", "subscription=\"publish-to-itself\"");
        let found = (stored, refused, handled);
        if found == (30.0, 32.0, 31.0) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn the_other_topics_latency() {
    if std::env::var_os("SANDPOST_LONG").is_none() {
        return;
    }
    // `SANDPOST_GUESTS=endless-loop,exit` for some of them.
    let some = std::env::var("SANDPOST_GUESTS").unwrap_or_default();
    let wanted = |guest: &Guest| some.is_empty() || some.split(',').any(|name| name == guest.name);
    let folder = tempfile::tempdir().expect("a folder");
    let guests: Vec<Guest> = guests()
        .into_iter()
        .filter(|guest| guest.runs() && !matches!(guest.end, End::Endless) && wanted(guest))
        .collect();
    let host = host(&Workshop::default(), &guests, &folder);
    flow(&host, Duration::from_secs(3));
    let rounds = std::env::var("SANDPOST_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let (mut floor, mut tame, mut published_from_outside) = (Paired::default(), Paired::default(), Paired::default());
    let mut rows: Vec<(Paired, usize)> = guests.iter().map(|_| (Paired::default(), 0)).collect();
    // Short windows in turns, so that what the machine does otherwise falls on all of them. Half of the time alone comes before
    // and half after, so that what grows or wanes does not look like the guest.
    for _round in 0..rounds {
        for (guest, (pairs, published)) in guests.iter().zip(&mut rows) {
            let mut alone = flow(&host, ALONE_WINDOW);
            let (beside, count) = flow_beside(&host, &[guest.name], BESIDE_WINDOW);
            alone.append(&mut flow(&host, ALONE_WINDOW));
            let native = NativeLoop::start();
            floor.push(alone.clone(), flow(&host, FLOOR_WINDOW));
            drop(native);
            // A guest that acknowledges: what any other traffic costs.
            tame.push(alone.clone(), flow_beside(&host, &["quiet"], BESIDE_WINDOW).0);
            if guest.name == "publish-flood" {
                published_from_outside.push(alone.clone(), flow_beside_publishes(&host, BESIDE_WINDOW));
            }
            pairs.push(alone, beside);
            *published += count;
        }
    }
    println!(
        "| beside | hostile messages | messages | p50 ms | p99 ms | p99 alone ms | p99 against alone | 95 % interval |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let line = |name: &str, published: usize, pairs: &Paired| {
        let (mut alone, mut beside) = pairs.whole();
        let ((_, alone_p99, _), (p50, p99, count)) = (percentiles(&mut alone), percentiles(&mut beside));
        let change = (p99 / alone_p99 - 1.0) * 100.0;
        let (least, most) = pairs.interval();
        println!(
            "| {name} | {published} | {count} | {p50:.2} | {p99:.2} | {alone_p99:.2} | {change:+.0} % | {least:+.0} to {most:+.0} % |"
        );
    };
    line("a native loop of the lowest priority", 0, &floor);
    line("a tame guest with as many messages", 0, &tame);
    if !published_from_outside.0.is_empty() {
        line("what `publish-flood` publishes, published over HTTP", 0, &published_from_outside);
    }
    let mut all = Paired::default();
    let mut all_published = 0;
    for (guest, (pairs, published)) in guests.iter().zip(rows) {
        line(guest.name, published, &pairs);
        all.0.extend(pairs.0);
        all_published += published;
    }
    // The row that chance has least to do with.
    line("each of them, together", all_published, &all);
}

/// How often each guest has its window; `SANDPOST_ROUNDS` for another number.
const ROUNDS: usize = 3;
const BESIDE_WINDOW: Duration = Duration::from_secs(3);
const ALONE_WINDOW: Duration = Duration::from_millis(1500);
const FLOOR_WINDOW: Duration = Duration::from_millis(300);

/// For each round the times alone and the times beside, taken one right after the other.
#[derive(Default)]
struct Paired(Vec<(Vec<Duration>, Vec<Duration>)>);

impl Paired {
    fn push(&mut self, alone: Vec<Duration>, beside: Vec<Duration>) {
        self.0.push((alone, beside));
    }

    fn whole(&self) -> (Vec<Duration>, Vec<Duration>) {
        self.pick(0..self.0.len())
    }

    fn pick(&self, rounds: impl Iterator<Item = usize>) -> (Vec<Duration>, Vec<Duration>) {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for (one, other) in rounds.map(|round| &self.0[round]) {
            alone.extend_from_slice(one);
            beside.extend_from_slice(other);
        }
        (alone, beside)
    }

    /// Where 95 % of the changes of p99 in per cent lie when rounds are drawn anew from these (a bootstrap over whole rounds,
    /// because the machine disturbs many messages at once). The same for the same rounds.
    fn interval(&self) -> (f64, f64) {
        let mut random = StdRng::seed_from_u64(1);
        let mut changes: Vec<f64> = (0..DRAWS)
            .map(|_| {
                let (mut alone, mut beside) =
                    self.pick((0..self.0.len()).map(|_| random.random_range(0..self.0.len())));
                (percentiles(&mut beside).1 / percentiles(&mut alone).1 - 1.0) * 100.0
            })
            .collect();
        changes.sort_unstable_by(f64::total_cmp);
        (changes[DRAWS / 40], changes[DRAWS - 1 - DRAWS / 40])
    }
}

const DRAWS: usize = 400;

/// The floor: a process beside the host that computes without end, as far back as the system puts it. What it costs others is
/// the system's and the machine's, not the host's.
struct NativeLoop(std::process::Child);

impl NativeLoop {
    fn start() -> Self {
        let arguments = ["-n", "19", "sh", "-c", "while :; do :; done"];
        Self(std::process::Command::new("nice").args(arguments).spawn().expect("`nice` and `sh` are there"))
    }
}

impl Drop for NativeLoop {
    fn drop(&mut self) {
        self.0.kill().expect("it runs until it is ended");
        self.0.wait().expect("it ends");
    }
}

/// Median and 99th percentile in milliseconds, and how many there were.
fn percentiles(took: &mut [Duration]) -> (f64, f64, usize) {
    let count = took.len();
    let mut at = |share: usize| {
        let (_, value, _) = took.select_nth_unstable((count * share / 100).min(count - 1));
        value.as_secs_f64() * 1000.0
    };
    (at(50), at(99), count)
}
