//! Swaps under load: a plugin file is replaced every 100 ms while messages flow, every fifth time by one that is broken.
//!
//! Each message is handled by exactly one version, none is lost, those in flight end on the version that they began with,
//! and no broken version ever serves. 30 swaps in CI (about 10 s); `SANDPOST_LONG=1` for 10 000, or
//! `SANDPOST_SWAPS=N` for so many.
//!
//! What handled a message is asked twice: the ledger says which version it routed to, and the guest rejects some messages,
//! those that it was at for long among them, with the version that is written into its own code.

use sandpost_tests::component::{Workshop, World, with_manifest};
use sandpost_tests::{Client, Host, Setup};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SWAPS: usize = 30;
const SWAPS_LONG: usize = 10_000;
/// From one swap to the next.
const PACE: Duration = Duration::from_millis(100);
/// Every so many swaps the file is a broken one.
const BROKEN_EACH: usize = 5;
/// Between two messages of a publisher: enough that some are always in flight, few enough that a long run can look at each
/// one's history.
const PUBLISH_PACE: Duration = Duration::from_millis(15);
const PUBLISHERS: usize = 2;

/// Does what the body begins with: `s` sleeps for 60 ms, `w` waits for a key in the cache, `g` sets it. All but the last, and `r`,
/// reject with the version then; everything else is acknowledged.
const TEXT: &str = r#"(module
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $timer (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop-timer (param i32)))
  (import "sandpost:plugin/cache@0.1.0" "exists" (func $exists (param i32 i32 i32)))
  (import "sandpost:plugin/cache@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32 i32)))
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "1.0.100000")
  (data (i32.const 2064) "go")
  (func $sleep (param $ns i64) (local $it i32)
    (local.set $it (call $timer (local.get $ns))) (call $block (local.get $it)) (call $drop-timer (local.get $it)))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $first i32)
    (local.set $first (i32.load8_u (i32.load (i32.add (local.get $message) (i32.const 16)))))
    (if (i32.eq (local.get $first) (i32.const 103)) (then
      (call $set (i32.const 2064) (i32.const 2) (i32.const 2064) (i32.const 2)
        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 4096))))
    (if (i32.eq (local.get $first) (i32.const 115)) (then (call $sleep (i64.const 60000000))))
    (if (i32.eq (local.get $first) (i32.const 119)) (then
      (loop $again
        (call $sleep (i64.const 20000000))
        (call $exists (i32.const 2064) (i32.const 2) (i32.const 4096))
        ;; An error, or not there yet.
        (br_if $again (i32.or (i32.load8_u (i32.const 4096)) (i32.eqz (i32.load8_u (i32.const 4100))))))))
    (if (i32.or (i32.eq (local.get $first) (i32.const 114))
          (i32.or (i32.eq (local.get $first) (i32.const 115)) (i32.eq (local.get $first) (i32.const 119))))
      (then (return (call $reject (i32.const 2048) (i32.const 10)))))
    (call $ack)))"#;
/// The version in the text; others are as long, so that they can take its place in the component's bytes.
const FIRST: usize = 100_000;

fn version(number: usize) -> String {
    format!("1.0.{}", FIRST + number)
}

/// Makes versions of one plugin without compiling it again.
struct Versions {
    component: Vec<u8>,
    place: usize,
    trapping: Vec<u8>,
}

impl Versions {
    fn new() -> Self {
        let workshop = Workshop::default();
        let component = workshop.component(TEXT, World::Handler, &[]);
        let first = version(0);
        let place = component.windows(first.len()).position(|bytes| bytes == first.as_bytes());
        let trapping = TEXT.replace("(func (export", "(func $begin unreachable) (start $begin) (func (export");
        Self {
            place: place.expect("the version is in the component"),
            component,
            trapping: workshop.component(&trapping, World::Handler, &[]),
        }
    }

    fn file(&self, number: usize) -> Vec<u8> {
        self.with(&self.component, number, "ack")
    }

    fn with(&self, component: &[u8], number: usize, expect: &str) -> Vec<u8> {
        let version = version(number);
        let mut component = component.to_vec();
        if component.len() == self.component.len() {
            component[self.place..self.place + version.len()].copy_from_slice(version.as_bytes());
        }
        let manifest = format!(
            "name = \"swapped\"\nversion = \"{version}\"\n\
             [grants]\ncache = [{{ prefix = \"\", access = \"read-write\" }}]\n\
             [limits]\ndeadline_ms = 60000\n[limits.call]\nhost_calls_max = 10000\n\
             [[samples]]\ntopic = \"work\"\nbody = \"a\"\nexpect = \"{expect}\"\n"
        );
        with_manifest(&component, manifest)
    }

    /// A file that must never serve, of one kind after the other.
    fn broken(&self, number: usize) -> Vec<u8> {
        let good = self.file(number);
        match number / BROKEN_EACH % 4 {
            0 => good[..good.len() * 2 / 3].to_vec(),
            1 => self.with(&self.component, number, "retry"),
            2 => self.with(&self.trapping, number, "ack"),
            _ => version(number).into_bytes(),
        }
    }
}

/// One message, and what it asked for.
struct Sent {
    id: String,
    rejects: bool,
}

/// A host with the first version, which is written to this file.
fn host(versions: &Versions, file: &Path) -> Host {
    std::fs::write(file, versions.file(0)).expect("the first version is written");
    Host::start(Setup {
        config: "[subscriptions.swapped]\ntopic = \"work\"\nplugin = \"swapped\"\nconcurrency = 16\n".to_owned(),
        plugins: vec![file.to_owned()],
        environment: vec![("LOG_LEVEL".to_owned(), "info".to_owned())],
        ..Setup::default()
    })
}

#[test]
fn who_is_at_work_over_swaps_ends_on_the_version_that_it_began_with() {
    let versions = Versions::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("swapped.wasm");
    let host = host(&versions, &file);
    let client = Client::new(host.address());
    let mut at_work = Vec::new();
    for number in 1..=3 {
        for _ in 0..3 {
            let id = send(&client, "wait");
            host.until_step(&id, "started");
            at_work.push((id, version(number - 1)));
        }
        swap_to(&client, &host, &versions, &file, number);
    }
    // They wait for a version that came after theirs, so that none can have ended before the swaps.
    let last = send(&client, "go");
    assert_eq!(handled_by(&host, &client, &last, false).version, version(3));
    for (id, began_with) in &at_work {
        assert_eq!(handled_by(&host, &client, id, true).version, *began_with, "the ledger's version of message {id}");
    }
    let letters = dead_letters(&client);
    for (id, began_with) in &at_work {
        assert_eq!(letters[id].1, *began_with, "the version in the code that ended message {id}");
    }
}

#[test]
fn every_message_is_handled_by_one_version_while_versions_come_and_go() {
    let swaps = match std::env::var("SANDPOST_SWAPS").ok().and_then(|count| count.parse().ok()) {
        Some(count) => count,
        None if std::env::var_os("SANDPOST_LONG").is_some() => SWAPS_LONG,
        None => SWAPS,
    };
    let versions = Versions::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("swapped.wasm");
    let host = host(&versions, &file);

    let stop = AtomicBool::new(false);
    let (Swaps { broken, live_at, took }, sent) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS).map(|_| scope.spawn(|| publish(&host, &stop))).collect();
        let done = swap(&host, &versions, &file, swaps);
        stop.store(true, Ordering::Relaxed);
        let sent: Vec<Sent> = publishers.into_iter().flat_map(|one| one.join().expect("a publisher ends")).collect();
        (done, sent)
    });

    let client = Client::new(host.address());
    let mut by_version: BTreeMap<String, usize> = BTreeMap::new();
    let mut in_flight = 0;
    for Sent { id, rejects } in &sent {
        let Handled { version, began_at, ended_at } = handled_by(&host, &client, id, *rejects);
        assert!(!broken.contains(&version), "message {id} was handled by the broken version {version}");
        *by_version.entry(version).or_default() += 1;
        let next_swap = live_at.get(live_at.partition_point(|swap_at| *swap_at <= began_at));
        in_flight += usize::from(next_swap.is_some_and(|swap_at| *swap_at < ended_at));
    }
    let letters = dead_letters(&client);
    for Sent { id, .. } in sent.iter().filter(|sent| sent.rejects) {
        let (by, said) = letters.get(id).unwrap_or_else(|| panic!("message {id} has no dead letter"));
        assert_eq!(by, said, "the ledger's version and the one in the code that ran, of message {id}");
    }
    assert_eq!(letters.len(), sent.iter().filter(|sent| sent.rejects).count(), "only those that asked for it");
    assert!(in_flight > 0, "no message was in flight over any of {swaps} swaps");
    assert!(by_version.len() > swaps / 2, "most versions served: {} of {swaps}", by_version.len());

    let (p50, p99, most) = percentiles(took);
    println!(
        "{swaps} swaps, {} of them broken; {} messages on {} versions, {in_flight} of them in flight over a swap; from file to \
         serving p50 {p50} ms, p99 {p99} ms, at most {most} ms; {} files in the data folder",
        broken.len(),
        sent.len(),
        by_version.len(),
        files_below(&host.folder().join("data")),
    );
}

/// Publishes until it is told to stop.
fn publish(host: &Host, stop: &AtomicBool) -> Vec<Sent> {
    let client = Client::new(host.address());
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let body = match sent.len() % 10 {
            0 => "reject",
            1 | 2 => "sleep",
            _ => "ack",
        };
        sent.push(Sent { id: send(&client, body), rejects: body != "ack" });
        std::thread::sleep(PUBLISH_PACE);
    }
    sent
}

fn send(client: &Client, body: &str) -> String {
    let reply = client
        .request("POST", "/v1/topics/work/messages", &[("content-type", "text/plain")], body.as_bytes())
        .expect("an answer");
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.json()["id"].as_str().expect("an id").to_owned()
}

/// What came of putting one version after the other in place.
#[derive(Default)]
struct Swaps {
    broken: BTreeSet<String>,
    /// When each good one went live, as the host says it.
    live_at: Vec<String>,
    /// How long each good one took to go live.
    took: Vec<Duration>,
}

fn swap(host: &Host, versions: &Versions, file: &Path, swaps: usize) -> Swaps {
    let client = Client::new(host.address());
    let mut done = Swaps::default();
    let mut live = version(0);
    for number in 1..=swaps {
        let since = Instant::now();
        if number % BROKEN_EACH == 0 {
            refuse(&client, host, versions, file, number, &live);
            done.broken.insert(version(number));
        } else {
            done.live_at.push(swap_to(&client, host, versions, file, number));
            done.took.push(since.elapsed());
            live = version(number);
        }
        std::thread::sleep(PACE.saturating_sub(since.elapsed()));
    }
    done
}

/// Puts a good version in place, and waits until it is live; since when it is.
fn swap_to(client: &Client, host: &Host, versions: &Versions, file: &Path, number: usize) -> String {
    std::fs::write(file, versions.file(number)).expect("the version is written");
    host.deploy(file);
    let live = until(client, number, |plugin| plugin["live"]["version"] == version(number))["live"].clone();
    live["deployed_at"].as_str().expect("a time").to_owned()
}

/// Puts a broken version in place, and waits until it is refused; this one stays live.
fn refuse(client: &Client, host: &Host, versions: &Versions, file: &Path, number: usize, live: &str) {
    let before = plugin(client)["refused"]["refused_at"].clone();
    std::fs::write(file, versions.broken(number)).expect("the version is written");
    host.deploy(file);
    until(client, number, |plugin| {
        assert_eq!(plugin["live"]["version"], live, "a broken version changes nothing");
        plugin["refused"]["refused_at"].is_string() && plugin["refused"]["refused_at"] != before
    });
}

fn until(client: &Client, number: usize, is_so: impl Fn(&Value) -> bool) -> Value {
    let since = Instant::now();
    loop {
        let now = plugin(client);
        if is_so(&now) {
            return now;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "swap {number} does not happen: {now}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn plugin(client: &Client) -> Value {
    client.get("/v1/plugins").expect("an answer").json()["plugins"][0].clone()
}

/// What the ledger says of a message that went once its way.
struct Handled {
    version: String,
    began_at: String,
    ended_at: String,
}

/// The one version that handled the message from its beginning to its end.
fn handled_by(host: &Host, client: &Client, id: &str, rejects: bool) -> Handled {
    let end = if rejects { "dead-lettered" } else { "acknowledged" };
    let steps = host.eventually(&format!("message {id} is {end}"), || {
        let reply = client.get(&format!("/v1/messages/{id}")).map_err(|error| error.to_string())?;
        let steps = reply.json()["steps"].as_array().cloned().unwrap_or_default();
        if steps.iter().any(|step| step["step"] == end) { Ok(steps) } else { Err(format!("{steps:?}")) }
    });
    let of = |word: &str| -> Vec<&Value> { steps.iter().filter(|step| step["step"] == word).collect() };
    let (began, ended) = (of("started"), of(end));
    assert!(began.len() == 1 && ended.len() == 1 && steps.len() == 3, "message {id} went once its way: {steps:?}");
    assert_eq!(began[0]["digest"], ended[0]["digest"], "message {id} ended on the version that it began with");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Handled { version: text(&ended[0]["version"]), began_at: text(&began[0]["at"]), ended_at: text(&ended[0]["at"]) }
}

/// Of each dead letter's message: the version that the host says handled it, and the one that the guest said it is.
fn dead_letters(client: &Client) -> BTreeMap<String, (String, String)> {
    let mut letters = BTreeMap::new();
    let mut path = "/v1/dead-letters?limit=100".to_owned();
    loop {
        let page = client.get(&path).expect("an answer").json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for letter in page["dead_letters"].as_array().expect("a list") {
            letters.insert(text(&letter["message"]["id"]), (text(&letter["version"]), text(&letter["reason"])));
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/dead-letters?limit=100&before={next}"),
            None => return letters,
        }
    }
}

fn files_below(folder: &Path) -> usize {
    let entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    entries.iter().map(|path| if path.is_dir() { files_below(path) } else { 1 }).sum()
}

/// Median, 99th percentile and the most, in milliseconds.
fn percentiles(mut took: Vec<Duration>) -> (u128, u128, u128) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_millis();
    (at(50), at(99), at(100))
}
