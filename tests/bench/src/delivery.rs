//! (b) Published to acknowledged with the trivial handler, (c) the whole notification chain, and (f) how both hold as the
//! backlog grows: (b) over a backlog of its own, (c) and single publishes beside that of another subscription.

use crate::floors::Floors;
use crate::host::{Built, Host};
use crate::http;
use crate::report::Report;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Messages of one batch.
pub const BATCH: usize = 500;
/// Connections of the client.
pub const CONNECTIONS: usize = 4;
/// Connections of single publishes: enough for commits to be shared.
const SINGLE_CONNECTIONS: usize = 32;
/// Single publishes on one connection, and on many.
const SINGLES_ONE: usize = 2_000;
const SINGLES: usize = 10_000;
/// The rates of a growing backlog are held against each other over this many parts of it.
const PARTS: usize = 10;

/// The body of the plain message, about 200 bytes.
pub fn plain_body() -> String {
    format!(r#"{{"notificationId":"notif_123","userId":"user_123","type":"welcome","text":"{}"}}"#, "x".repeat(120))
}

/// The configuration of `bench-ack` on topic `bench`.
pub const ACK: &str = "[subscriptions.bench]\ntopic = \"bench\"\nplugin = \"bench-ack\"\nconcurrency = 256\n";
/// The configuration of the chain.
pub const CHAIN: &str = "[subscriptions.notification-email]\ntopic = \"notification-created\"\nplugin = \"notification-email\"\n\
    concurrency = 64\n[subscriptions.delivery-log]\ntopic = \"notification-sent\"\nplugin = \"delivery-log\"\nconcurrency = 64\n";

/// The plugins of the chain.
pub fn shipped(built: &Built) -> Vec<PathBuf> {
    ["notification-email", "delivery-log", "transactional-templates"].map(|name| built.file(name)).to_vec()
}

/// (b), with this many messages by batch.
pub fn publish(built: &Built, folder: &Path, floors: &Floors, bullmq: Option<f64>, count: usize, report: &mut Report) {
    let host = Host::fresh(built, folder, &[built.file("bench-ack")], ACK);
    let one = http::post("/v1/topics/bench/messages", plain_body().as_bytes());

    let (mut latencies, _) = http::drive(host.address(), 1, &vec![one.clone(); SINGLES_ONE]);
    let floor_us = micros(floors.append_one + floors.echo_one);
    for (words, share) in [("p50", 0.5), ("p99", 0.99)] {
        let took = http::percentile(&mut latencies, share);
        let figure = report.figure('b', format!("single publish, one connection: {words}"), micros(took), "us");
        if share < 0.9 {
            figure.over("SQLite append and HTTP echo, p50", floor_us);
        }
    }
    host.until_acknowledged("bench", SINGLES_ONE as u64, |_| {});
    let since = Instant::now();
    let (mut latencies, took) = http::drive(host.address(), SINGLE_CONNECTIONS, &vec![one.clone(); SINGLES]);
    let before = (SINGLES_ONE + SINGLES) as u64;
    host.until_acknowledged("bench", before, |_| {});
    let acknowledged = since.elapsed();
    report
        .figure('b', format!("single publish, {SINGLE_CONNECTIONS} connections: accepted"), rate(SINGLES, took), "1/s")
        .over("HTTP echo", floors.echo_per_second);
    let words = format!("single publish, {SINGLE_CONNECTIONS} connections: published to acknowledged");
    report.figure('b', words, rate(SINGLES, acknowledged), "1/s").over("HTTP echo", floors.echo_per_second);
    for (words, share) in [("p50", 0.5), ("p99", 0.99)] {
        let took = http::percentile(&mut latencies, share);
        report.figure('b', format!("single publish, {SINGLE_CONNECTIONS} connections: {words}"), micros(took), "us");
    }

    let requests = vec![batch(&vec![plain_body(); BATCH], "bench"); count.div_ceil(BATCH)];
    let count = requests.len() * BATCH;
    let (cpu, since) = (host.cpu(), Instant::now());
    let (_, accepted) = http::drive(host.address(), CONNECTIONS, &requests);
    host.until_acknowledged("bench", before + count as u64, |_| {});
    let acknowledged = since.elapsed();
    let cpu = host.cpu() - cpu;
    report
        .figure('b', format!("batches of {BATCH}: accepted while others are handled"), rate(count, accepted), "1/s")
        .over("SQLite append", floors.append_per_second);
    let figure =
        report.figure('b', format!("batches of {BATCH}: published to acknowledged"), rate(count, acknowledged), "1/s");
    figure.at_least(40_000.0);
    match bullmq {
        Some(jobs) => figure.over("BullMQ, not durable", jobs),
        None => figure.over("SQLite append", floors.append_per_second),
    };
    report.figure('b', "computing time of one message in the host", micros(cpu) / count as f64, "us");
}

/// (c), with this many notifications.
pub fn chain(built: &Built, folder: &Path, floors: &Floors, count: usize, report: &mut Report) {
    let host = Host::fresh(built, folder, &shipped(built), CHAIN);
    let mut notifications = Notifications::warm(&host);
    let (per_second, cpu) = notifications.run(&host, count);
    report
        .figure('c', "notifications: published to delivery written", per_second, "1/s")
        .over("SQLite append", floors.append_per_second)
        .at_least(5_000.0);
    report.figure('c', "computing time of one notification in the host", micros(cpu) / count as f64, "us");
}

/// Notifications on one host, each with a number of its own.
pub struct Notifications(usize);

impl Notifications {
    /// The first ones fill the cache and the pools.
    pub fn warm(host: &Host) -> Self {
        let mut notifications = Self(0);
        notifications.run(host, BATCH);
        notifications
    }

    /// Publishes so many more and waits until each delivery is written: how many a second, and what the host computed.
    pub fn run(&mut self, host: &Host, count: usize) -> (f64, Duration) {
        let requests = notifications(self.0, count);
        self.0 += count;
        let (cpu, since) = (host.cpu(), Instant::now());
        http::drive(host.address(), CONNECTIONS, &requests);
        host.until_acknowledged("delivery-log", self.0 as u64, |_| {});
        (rate(count, since.elapsed()), host.cpu() - cpu)
    }
}

/// (f) A backlog is published while nobody handles it, then worked off. Before and while it is there, this many notifications.
pub fn backlog(built: &Built, folder: &Path, count: usize, notifications: usize, report: &mut Report) {
    let config =
        format!("{ACK}handler_grace_ms = 86400000\n{CHAIN}[broker.embedded]\ndisk_max_bytes = 1000000000000\n");
    let host = Host::fresh(built, folder, &shipped(built), &config);
    let mut chain = Notifications::warm(&host);
    let (chain_alone, _) = chain.run(&host, notifications);
    let requests = vec![batch(&vec![plain_body(); BATCH], "bench"); count.div_ceil(BATCH * PARTS)];
    let part = requests.len() * BATCH;
    let accepted: Vec<f64> =
        (0..PARTS).map(|_| rate(part, http::drive(host.address(), CONNECTIONS, &requests).1)).collect();
    let (chain_beside, _) = chain.run(&host, notifications);
    let one = http::post("/v1/topics/bench/messages", plain_body().as_bytes());
    let (mut singles, _) = http::drive(host.address(), 1, &vec![one; SINGLES_ONE]);
    host.deploy(&built.file("bench-ack"));
    let mut marks: Vec<(u64, Instant)> = Vec::new();
    host.until_acknowledged("bench", (part * PARTS + SINGLES_ONE) as u64, |now| {
        if now > 0 {
            marks.push((now, Instant::now()));
        }
    });
    let handled = |from: usize, to: usize| {
        let at = |share: usize| marks.iter().find(|(count, _)| *count >= (share * part) as u64).or(marks.last());
        let (Some((from, begin)), Some((to, end))) = (at(from), at(to)) else { return 0.0 };
        rate(usize::try_from(to - from).unwrap_or(0), end.duration_since(*begin))
    };
    let words = format!("backlog of {}", part * PARTS);
    let (first, last) = (accepted[1], accepted[PARTS - 1]);
    report.figure('f', format!("{words}: accepted, last tenth"), last, "1/s").over("the second tenth", first);
    report.figure('f', format!("{words}: accepting, last tenth over second"), last / first, "x").at_least(0.8);
    let (full, empty) = (handled(1, 3), handled(PARTS - 3, PARTS - 1));
    report
        .figure('f', format!("{words}: handled while it is full"), full, "1/s")
        .over("while it is nearly empty", empty);
    report.figure('f', format!("{words}: handling, full over nearly empty"), full / empty, "x").at_least(0.8);
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let took = micros(http::percentile(&mut singles, share));
        report.figure('f', format!("{words}: single publish over it, one connection: {name}"), took, "us");
    }
    report.figure('f', format!("{words}: notifications beside it"), chain_beside, "1/s").over("before it", chain_alone);
    let ratio = chain_beside / chain_alone;
    report.figure('f', format!("{words}: notifications, beside it over before it"), ratio, "x").at_least(0.8);
}

/// Requests for this many notifications, numbered from `first`.
fn notifications(first: usize, count: usize) -> Vec<Vec<u8>> {
    let bodies: Vec<String> = (first..first + count)
        .map(|n| format!(r#"{{"notificationId":"notif_{n}","userId":"user_{}","type":"welcome"}}"#, n % 100))
        .collect();
    bodies.chunks(BATCH).map(|bodies| batch(bodies, "notification-created")).collect()
}

/// A batch as a request.
pub fn batch(bodies: &[String], topic: &str) -> Vec<u8> {
    let items: Vec<String> = bodies.iter().map(|body| format!("{{\"body\":{body}}}")).collect();
    http::post(
        &format!("/v1/topics/{topic}/messages:batch"),
        format!("{{\"messages\":[{}]}}", items.join(",")).as_bytes(),
    )
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
