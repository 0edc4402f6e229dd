//! (g) Side by side in one run, on the same Redis, MariaDB and mail server: the worker in Node that teams write today, and
//! the host with the plugins that ship.
//!
//! Invariants
//! - Both do the same steps (see `tests/bench/worker`), send to the same mail server, and are counted by what they leave
//!   behind: a figure is made of when each notification was published and when its delivery was recorded.
//! - Never both at once. Each is warm before it is measured: users cached, connections open, code compiled.
//! - Every notification led to exactly one welcome mail, or the benchmark fails.
//! - The pace at which latency is taken is the same for all: half of what the worker does as its teams have it.

use crate::host::Built;
use crate::http;
use crate::real::{self, Real, Setup, Users, Work};
use crate::report::Report;
use crate::sink::Sink;
use crate::worker::{self, Worker};
use sandpost_services::Server;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Users in the database; notifications are dealt out among them.
pub const USERS: usize = 100;
/// Before anything is measured.
const WARM: usize = 500;
/// The longest that a pace is kept up.
const PACED_SECONDS: f64 = 60.0;
/// The pace where there is no worker to take half of.
const PACE_ALONE: f64 = 100.0;
/// The worker as it is measured: processes, and jobs at once in each. The first is the origin documents' own; the second
/// is what more could be had from two cores.
const WORKERS: [(usize, usize); 2] = [(1, 5), (2, 50)];
/// How many times the worker's notifications a second the host should handle.
const TARGET: f64 = 3.0;

/// What both sides speak to.
pub struct Services {
    /// The cache of both, and the worker's queues.
    pub redis: Server,
    /// The worker's database; the host's where it has a driver for it.
    pub mariadb: Server,
    /// Where mail goes.
    pub sink: Sink,
}

impl Services {
    /// What Redis and MariaDB computed so far, where they are this benchmark's own.
    fn cpu(&self) -> Duration {
        let own = [&self.redis, &self.mariadb].into_iter().filter(|server| server.can_restart());
        own.filter_map(Server::pid).map(crate::machine::cpu_of).sum()
    }
}

/// One way to handle notifications, up and running.
pub trait Side {
    /// Publishes this many notifications `PREFIX0`, `PREFIX1`, …, and waits until each has its delivery recorded. All at
    /// once and in batches of [`crate::delivery::BATCH`], or one by one at a rate. When each was published, in
    /// milliseconds of the machine's clock.
    fn publish(&mut self, prefix: &str, count: usize, per_second: Option<f64>) -> Vec<f64>;
    /// What its own processes computed so far.
    fn cpu(&self) -> Duration;
    /// Ends it. When each delivery was recorded, by its notification.
    fn end(self) -> HashMap<String, f64>;
}

/// What one side came to.
struct Run {
    /// Published as fast as it goes.
    load: Times,
    /// Published at a pace.
    paced: Times,
    per_second: f64,
    /// Computing time of one notification under load: its own, and Redis's and MariaDB's.
    cpu: Duration,
    cpu_of_services: Duration,
    mail_bytes: u64,
}

/// When notifications were published and recorded, in milliseconds.
struct Times(Vec<(f64, f64)>);

impl Times {
    fn of(prefix: &str, published: &[f64], recorded: &HashMap<String, f64>) -> Self {
        let ended = |n: usize| recorded.get(&format!("{prefix}{n}")).expect("a delivery of each notification");
        Self(published.iter().enumerate().map(|(n, at)| (*at, *ended(n))).collect())
    }

    /// From the first that was published to the last that was recorded.
    fn per_second(&self) -> f64 {
        let first = self.0.iter().map(|(published, _)| *published).fold(f64::INFINITY, f64::min);
        let last = self.0.iter().map(|(_, recorded)| *recorded).fold(f64::NEG_INFINITY, f64::max);
        self.0.len() as f64 * 1e3 / (last - first)
    }

    /// In milliseconds.
    fn percentile(&self, share: f64) -> f64 {
        // The database's clock has whole milliseconds, rounded down: what took less may seem to have taken nothing.
        let took = |(published, recorded): &(f64, f64)| Duration::from_secs_f64((recorded - published).max(0.0) / 1e3);
        let mut all: Vec<Duration> = self.0.iter().map(took).collect();
        http::percentile(&mut all, share).as_secs_f64() * 1e3
    }
}

/// (g), with this many notifications on each side.
pub fn measure(built: &Built, folder: &Path, count: usize, report: &mut Report) {
    let (Some(redis), Some(mariadb)) = (sandpost_services::redis(), sandpost_services::mariadb()) else {
        report.left_out.push("(g): Redis or MariaDB is not there; tests/services/install.sh brings them".to_owned());
        return;
    };
    let services = Services { redis, mariadb, sink: Sink::start().expect("a free port") };

    let mut workers = Vec::new();
    match worker::missing() {
        Some(why) => report.left_out.push(format!("(g) the Node worker: {why}")),
        None => {
            worker::tables(&services);
            for (processes, concurrency) in WORKERS {
                let folder = folder.join(format!("worker-{processes}-{concurrency}"));
                std::fs::create_dir_all(&folder).expect("a folder");
                let pace = workers.first().map(|run: &Run| run.per_second / 2.0);
                let words = format!("Node, {processes}×{concurrency}");
                let run = run(Worker::start(&services, &folder, processes, concurrency), &services, count, pace);
                show(report, &words, &run);
                workers.push(run);
            }
        }
    }
    let pace = workers.first().map_or(PACE_ALONE, |run| run.per_second / 2.0);
    let best = workers.iter().map(|run| run.per_second).reduce(f64::max);

    if let Some(why) = real::missing(built) {
        report.left_out.push(format!("(g) the host on real services: {why}"));
        return;
    }
    let users = Users::of(built, !workers.is_empty());
    if users == Users::Embedded {
        report.left_out.push("(g) users of the host in MariaDB: they are in SQLite, embedded".to_owned());
    }
    for setup in Setup::ALL {
        let name = setup.name();
        let pubsub = match setup.pubsub() {
            Ok(pubsub) => pubsub,
            Err(why) => {
                report.left_out.push(format!("(g) the host, {name}: {why}"));
                continue;
            }
        };
        let folder = folder.join(setup.folder());
        let words = format!("host, {name}");
        let host = Real::start(built, &services, (setup, users), pubsub.as_ref(), Work::Chain, &folder.join("chain"));
        let run = run(host, &services, count, Some(pace));
        show_against(report, &words, &run, workers.first(), best);
        let ack =
            Real::start(built, &services, (setup, users), pubsub.as_ref(), Work::Acknowledge, &folder.join("ack"));
        real::acknowledged(&ack, count, &words, report);
    }
}

/// Warms a side up, loads it, paces it and ends it.
fn run(mut side: impl Side, services: &Services, count: usize, pace: Option<f64>) -> Run {
    let before = services.sink.taken();
    let warm = WARM.min(count);
    side.publish("warm-", warm, None);

    let (cpu, cpu_of_services, since) = (side.cpu(), services.cpu(), Instant::now());
    let load = side.publish("load-", count, None);
    let took = since.elapsed();
    let each = |spent: Duration| Duration::from_secs_f64(spent.as_secs_f64() / count as f64);
    let (cpu, cpu_of_services) = (each(side.cpu() - cpu), each(services.cpu() - cpu_of_services));

    let pace = pace.unwrap_or(count as f64 / took.as_secs_f64() / 2.0);
    let paced_count = count.min((pace * PACED_SECONDS) as usize).max(1);
    let paced = side.publish("paced-", paced_count, Some(pace));

    let taken = services.sink.taken();
    let mails = taken.mails - before.mails;
    assert_eq!(mails, (warm + count + paced_count) as u64, "each notification is one mail");
    assert_eq!(taken.other, before.other, "every mail is the welcome mail");
    let recorded = side.end();
    let load = Times::of("load-", &load, &recorded);
    Run {
        per_second: load.per_second(),
        load,
        paced: Times::of("paced-", &paced, &recorded),
        cpu,
        cpu_of_services,
        mail_bytes: (taken.bytes - before.bytes) / mails,
    }
}

fn show(report: &mut Report, who: &str, run: &Run) {
    show_against(report, who, run, None, None);
}

/// The figures of a side; held against the worker as its teams have it, and against the best that was had from it.
fn show_against(report: &mut Report, who: &str, run: &Run, worker: Option<&Run>, best: Option<f64>) {
    let figure = report.figure('g', format!("{who}: notifications"), run.per_second, "1/s");
    if let Some(worker) = worker {
        figure.over("the worker", worker.per_second).at_least((TARGET * worker.per_second).round());
    }
    if let Some(best) = best {
        report.figure('g', format!("{who}: over the best of the worker"), run.per_second / best, "x");
    }
    for (words, times, of_worker) in [
        ("at half the worker's rate", &run.paced, worker.map(|worker| &worker.paced)),
        ("all at once", &run.load, worker.map(|worker| &worker.load)),
    ] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let took = times.percentile(share);
            let figure = report.figure('g', format!("{who}: {words}: {name}"), took, "ms");
            if let Some(of_worker) = of_worker.map(|times| times.percentile(share)) {
                figure.over("the worker", of_worker);
                if share > 0.9 {
                    figure.at_most((of_worker * 100.0).round() / 100.0);
                }
            }
        }
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    report.figure('g', format!("{who}: computing time of one notification"), micros(run.cpu), "us");
    let of_services = micros(run.cpu_of_services);
    report.figure('g', format!("{who}: the same of Redis and MariaDB"), of_services, "us");
    report.figure('g', format!("{who}: size of a mail"), run.mail_bytes as f64, "B");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_from_the_first_published_to_the_last_recorded() {
        let recorded = HashMap::from([("n0".to_owned(), 30.0), ("n1".to_owned(), 1010.0)]);
        let times = Times::of("n", &[10.0, 20.0], &recorded);
        assert!((times.per_second() - 2.0).abs() < 1e-9);
        assert!((times.percentile(0.5) - 990.0).abs() < 1e-9);
        assert!((times.percentile(0.0) - 20.0).abs() < 1e-9);
    }
}
