//! (d) From a plugin's file to the first message that the new version began, and what others feel of it.
//!
//! Times end by the ledger: the host's clock in milliseconds. A swap's begins before its file is copied, by the same clock.

use crate::delivery;
use crate::host::{Built, Host};
use crate::http::{self, Connection};
use crate::report::Report;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Swaps of each kind; the median is the figure. The p99 of others needs some hundred messages.
const ROUNDS: usize = 15;
/// Between two messages that look for the new version.
const PROBE: Duration = Duration::from_millis(2);
/// Between two messages of the topic beside.
const BESIDE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures swaps of the plugin that ships, cached and not.
pub fn measure(built: &Built, folder: &Path, report: &mut Report) {
    let config = format!(
        "{}[subscriptions.notification-email]\ntopic = \"notification-created\"\nplugin = \"notification-email\"\n\
         [subscriptions.delivery-log]\ntopic = \"notification-sent\"\nplugin = \"delivery-log\"\n",
        delivery::ACK
    );
    let mut plugins = delivery::shipped(built);
    plugins.push(built.file("bench-ack"));
    let host = Host::fresh(built, folder, &plugins, &config);
    let versions = versions(built, folder);

    let alone = beside(&host, || std::thread::sleep(Duration::from_secs(2)));
    let mut uncached = Vec::new();
    let during_uncached = beside(&host, || {
        uncached = versions.iter().enumerate().map(|(n, file)| swap(&host, file, &version(n))).collect();
    });
    let mut cached = Vec::new();
    let during_cached = beside(&host, || {
        cached = versions.iter().enumerate().map(|(n, file)| swap(&host, file, &version(n))).collect();
    });
    let mut unchanged: Vec<f64> = (0..ROUNDS).map(|_| first_begun(&host, &version(ROUNDS - 1), now_ms())).collect();
    unchanged.sort_by(f64::total_cmp);
    let unchanged = unchanged[ROUNDS / 2].max(1.0);
    uncached.sort_by(f64::total_cmp);
    cached.sort_by(f64::total_cmp);
    report
        .figure('d', "swap of notification-email, not cached, to first message", uncached[ROUNDS / 2], "ms")
        .over("a message without a swap", unchanged)
        .at_most(250.0);
    report
        .figure('d', "swap of notification-email, cached, to first message", cached[ROUNDS / 2], "ms")
        .over("a message without a swap", unchanged)
        .at_most(20.0);
    for (words, p99) in [("not cached", during_uncached), ("cached", during_cached)] {
        report
            .figure('d', format!("p99 of another topic, published to acknowledged, in swaps {words}"), p99, "ms")
            .over("without swaps", alone.max(1.0))
            .at_most(alone + 5.0);
    }
}

fn version(round: usize) -> String {
    format!("1.0.{round}")
}

/// The plugin under a version for each round, so that none was compiled before.
fn versions(built: &Built, folder: &Path) -> Vec<PathBuf> {
    let source = built.file("notification-email");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/notification-email/plugin.toml");
    let manifest = std::fs::read_to_string(manifest).expect("the manifest of the plugin that ships");
    (0..ROUNDS)
        .map(|round| {
            let line = manifest.lines().find(|line| line.starts_with("version")).expect("a version");
            let text = manifest.replacen(line, &format!("version = \"{}\"", version(round)), 1);
            built.rebuilt(&source, &text, &folder.join(format!("version-{round}")))
        })
        .collect()
}

/// Swaps, and publishes until a message began on the new version; how long that took in milliseconds.
fn swap(host: &Host, file: &Path, version: &str) -> f64 {
    let since_ms = now_ms();
    host.deploy(file);
    first_begun(host, version, since_ms)
}

/// Publishes until a message began on this version; milliseconds since then.
fn first_begun(host: &Host, version: &str, since_ms: f64) -> f64 {
    let mut connection = Connection::open(host.address()).expect("the host accepts");
    let deadline = Instant::now() + PATIENCE;
    for n in 0_u64.. {
        // The handler rejects it at once: when it began is what is asked, and a mail each 2 ms would be more of a load than
        // its dead letter is.
        let body = format!(r#"{{"userId":"swap_{version}_{n}"}}"#);
        let request = http::post("/v1/topics/notification-created/messages", body.as_bytes());
        let id = id_of(connection.send(&request).expect("the host answers").1);
        let began = loop {
            let steps = steps(&mut connection, &id);
            if let Some(began) = steps.iter().find(|step| step["step"] == "started") {
                break began.clone();
            }
            assert!(Instant::now() < deadline, "message {id} does not begin: {steps:?}");
            std::thread::sleep(PROBE / 4);
        };
        if began["version"] == version {
            return at_ms(&began) - since_ms;
        }
        assert!(Instant::now() < deadline, "version {version} does not begin to serve");
        std::thread::sleep(PROBE);
    }
    unreachable!("the loop ends by returning")
}

/// The p99, in milliseconds, of messages of another topic while `what` goes on.
fn beside(host: &Host, what: impl FnOnce()) -> f64 {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut connection = Connection::open(host.address()).expect("the host accepts");
            let request = http::post("/v1/topics/bench/messages", b"{}");
            let mut ids = Vec::new();
            while !over.load(Ordering::Relaxed) {
                ids.push(id_of(connection.send(&request).expect("the host answers").1));
                std::thread::sleep(BESIDE);
            }
            ids
        });
        what();
        over.store(true, Ordering::Relaxed);
        let ids = publishing.join().expect("the publisher ends");
        let mut connection = Connection::open(host.address()).expect("the host accepts");
        let mut ages: Vec<f64> = ids
            .iter()
            .filter_map(|id| {
                let steps = steps(&mut connection, id);
                let at = |word: &str| steps.iter().find(|step| step["step"] == word).map(at_ms);
                Some(at("acknowledged")? - at("accepted")?)
            })
            .collect();
        ages.sort_by(f64::total_cmp);
        ages.get(ages.len() * 99 / 100).copied().unwrap_or(f64::NAN)
    })
}

fn steps(connection: &mut Connection, id: &str) -> Vec<Value> {
    let (_, body) = connection.send(&http::get(&format!("/v1/messages/{id}"))).expect("the host answers");
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    answer["steps"].as_array().cloned().unwrap_or_default()
}

fn id_of(body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).expect("JSON");
    answer["id"].as_str().expect("an id").to_owned()
}

fn at_ms(step: &Value) -> f64 {
    let at = step["at"].as_str().expect("a step has its time");
    let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).expect("a time");
    at.unix_timestamp_nanos() as f64 / 1e6
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}
