//! The host of (g): the release build with its drivers for real services, and the plugins that ship, on Redis, the mail
//! server, and the brokers and states that [`Setup`] names.
//!
//! Everything that is not said is the host's default. Documents are embedded; when a delivery was recorded is read from
//! them after the host has ended.

use crate::delivery::{self, BATCH, CONNECTIONS};
use crate::host::{Built, Host};
use crate::http::{self, Connection};
use crate::report::Report;
use crate::side_by_side::{Services, Side, USERS};
use sandpost_embedded_documents::Config as DocumentsConfig;
use sandpost_ports::documents::{Documents as _, FindOptions};
use sandpost_services::Server;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Between two looks; what is measured is in the records, not in when they are seen.
const LOOK: Duration = Duration::from_millis(100);
/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections of a paced client: as many as may wait for an answer at once.
const PACED_CONNECTIONS: usize = 32;
/// Single publishes of the trivial handler.
const SINGLES: usize = 500;
const TOPIC: &str = "notification-created";
const PATH: &str = "/v1/topics/notification-created/messages";
const ACK_PATH: &str = "/v1/topics/bench/messages";
/// How much of a refusal is shown.
const SHOWN_BYTES: usize = 500;
/// The chain, each subscription with as many at work at once as in (c).
const CHAIN: &str = "[subscriptions.notification-email]\ntopic = \"notification-created\"\nplugin = \"notification-email\"\n\
    concurrency = 64\n[subscriptions.delivery-log]\ntopic = \"notification-sent\"\nplugin = \"delivery-log\"\nconcurrency = 64\n";
/// Documents read at once.
const PART: usize = 1000;
const PART_MAX_BYTES: usize = 64 << 20;

/// What topics and the host's own state are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Both on the host's disk, each publish synced.
    Embedded,
    /// Topics on Pub/Sub.
    Pubsub,
    /// As several hosts side by side have it: topics on Pub/Sub, state in MariaDB.
    Shared,
}

impl Setup {
    /// In the order of measuring.
    pub const ALL: [Self; 3] = [Self::Embedded, Self::Pubsub, Self::Shared];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded broker",
            Self::Pubsub => "Pub/Sub emulator",
            Self::Shared => "Pub/Sub emulator, state in MariaDB",
        }
    }

    /// For its files.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Pubsub => "pubsub",
            Self::Shared => "shared",
        }
    }

    /// The server that it needs beside the others, new for each so that no backlog of another is in it.
    pub fn pubsub(self) -> Result<Option<Server>, String> {
        if self == Self::Embedded {
            return Ok(None);
        }
        let server = sandpost_services::pubsub();
        server.map(Some).ok_or_else(|| "no Pub/Sub emulator; tests/services/install.sh says what is missing".to_owned())
    }
}

/// Why the host cannot be run so, or none.
pub fn missing(built: &Built) -> Option<String> {
    let Some(program) = &built.services_program else {
        return Some("no `--services-program`; `cargo xtask bench` builds it".to_owned());
    };
    let lacking: Vec<&str> =
        ["redis", "smtp", "pubsub", "shared"].into_iter().filter(|driver| !drivers(program).contains(driver)).collect();
    (!lacking.is_empty()).then(|| format!("the program was built without {}", lacking.join(", ")))
}

/// The drivers that the program says it has, each between commas.
fn drivers(program: &Path) -> String {
    let run = Command::new(program).arg("--version").output().expect("the program starts");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("drivers: ")).unwrap_or_default().to_owned()
}

/// Where the host reads users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// In SQLite.
    Embedded,
    /// In the worker's own table.
    Mariadb,
}

impl Users {
    /// In MariaDB, where the host has a driver for it and the worker has made its tables.
    pub fn of(built: &Built, has_tables: bool) -> Self {
        let has_driver = built.services_program.as_deref().is_some_and(|program| drivers(program).contains("mysql"));
        if has_driver && has_tables { Self::Mariadb } else { Self::Embedded }
    }
}

/// A host, running.
pub struct Real {
    host: Host,
    folder: PathBuf,
    work: Work,
    /// Messages published so far.
    published: u64,
}

/// What runs on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The plugins that ship, on the notification chain.
    Chain,
    /// The trivial handler.
    Acknowledge,
}

impl Real {
    /// Starts it on a folder of its own and waits until it is ready.
    pub fn start(
        built: &Built,
        services: &Services,
        (setup, users): (Setup, Users),
        pubsub: Option<&Server>,
        work: Work,
        folder: &Path,
    ) -> Self {
        let plugins = folder.join("plugins");
        std::fs::create_dir_all(&plugins).expect("a folder for plugins");
        let files = match work {
            Work::Chain => delivery::shipped(built),
            Work::Acknowledge => vec![built.file("bench-ack")],
        };
        for file in files {
            std::fs::copy(&file, plugins.join(file.file_name().expect("a file"))).expect("the plugin is copied");
        }
        let config = config(services, setup, users, pubsub, work);
        std::fs::write(folder.join("sandpost.toml"), config).expect("the configuration is written");
        std::fs::write(folder.join("seed.sql"), seed()).expect("the seed is written");
        let program = built.services_program.clone().expect("`missing` was asked");
        let host = Host::start(&Built { program, ..built.clone() }, folder);
        let mut real = Self { host, folder: folder.to_owned(), work, published: 0 };
        real.until_taken();
        real
    }

    /// Publishes one message, again and again until the topic takes it, and waits until it is handled: on Pub/Sub a ready
    /// host may not have seen its own subscriptions yet.
    fn until_taken(&mut self) {
        let (path, body) = match self.work {
            Work::Chain => (PATH, bodies("first-", 1).remove(0)),
            Work::Acknowledge => (ACK_PATH, delivery::plain_body()),
        };
        let request = http::post(path, body.as_bytes());
        let mut connection = Connection::open(self.host.address()).expect("the host accepts");
        let since = Instant::now();
        while connection.send(&request).expect("the host answers").0 != 202 {
            assert!(since.elapsed() < PATIENCE, "{path} takes no message: {}", self.host.log());
            std::thread::sleep(LOOK);
        }
        self.published += 1;
        self.until_acknowledged(self.published);
    }

    /// Waits until so many deliveries of the last subscription are acknowledged.
    fn until_acknowledged(&self, count: u64) {
        let subscription = match self.work {
            Work::Chain => "delivery-log",
            Work::Acknowledge => "bench",
        };
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let now = self.host.acknowledged(subscription);
            if now >= count {
                return;
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            assert!(moved.elapsed() < PATIENCE, "{subscription} stays at {now} of {count}: {}", self.host.log());
            std::thread::sleep(LOOK);
        }
    }
}

impl Side for Real {
    fn publish(&mut self, prefix: &str, count: usize, per_second: Option<f64>) -> Vec<f64> {
        let published = match per_second {
            None => in_bulk(self.host.address(), &bodies(prefix, count)),
            Some(per_second) => paced(self.host.address(), &bodies(prefix, count), per_second),
        };
        self.published += count as u64;
        self.until_acknowledged(self.published);
        published
    }

    fn cpu(&self) -> Duration {
        self.host.cpu()
    }

    fn end(self) -> HashMap<String, f64> {
        let Self { host, folder, .. } = self;
        drop(host);
        recorded(&folder.join("data/documents-main.sqlite"))
    }
}

/// Published to acknowledged with the trivial handler: single publishes, then this many messages by batch.
pub fn acknowledged(real: &Real, count: usize, words: &str, report: &mut Report) {
    let one = http::post(ACK_PATH, delivery::plain_body().as_bytes());
    let (mut latencies, _) = http::drive(real.host.address(), 1, &vec![one; SINGLES]);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let took = http::percentile(&mut latencies, share).as_secs_f64() * 1e3;
        report.figure('g', format!("{words}: single publish, one connection: {name}"), took, "ms");
    }
    let before = real.published + SINGLES as u64;
    real.until_acknowledged(before);
    let requests = vec![delivery::batch(&vec![delivery::plain_body(); BATCH], "bench"); count.div_ceil(BATCH)];
    let count = requests.len() * BATCH;
    let since = Instant::now();
    http::drive(real.host.address(), CONNECTIONS, &requests);
    // Looked at often: the time is taken here.
    real.host.until_acknowledged("bench", before + count as u64, |_| {});
    let rate = count as f64 / since.elapsed().as_secs_f64();
    report.figure('g', format!("{words}: trivial handler, published to acknowledged"), rate, "1/s");
}

fn config(services: &Services, setup: Setup, users: Users, pubsub: Option<&Server>, work: Work) -> String {
    let mut config = format!(
        "data_dir = \"data\"\n[deployment]\ndirectory = \"plugins\"\ngrants = \"requested\"\n\
         [cache]\ndriver = \"redis\"\nkey_prefix = \"{folder}:\"\n[cache.redis]\nurl = \"{redis}\"\n\
         [email]\ndriver = \"smtp\"\nfrom = \"Sandpost <noreply@sandpost.example>\"\n\
         [email.smtp]\nurl = \"smtp://{sink}\"\n\
         [sql.main]\n{sql}\
         [documents.main]\ndriver = \"embedded\"\n",
        folder = setup.folder(),
        redis = services.redis.url(),
        sink = services.sink.address(),
        sql = match users {
            Users::Embedded => "driver = \"embedded\"\n[sql.main.embedded]\ninit_file = \"seed.sql\"\n".to_owned(),
            Users::Mariadb => format!("driver = \"mysql\"\n[sql.main.mysql]\nurl = \"{}\"\n", services.mariadb.url()),
        },
    );
    let (name, subscriptions) = match work {
        Work::Chain => ("chain", CHAIN),
        Work::Acknowledge => ("ack", delivery::ACK),
    };
    config.push_str(subscriptions);
    if let Some(pubsub) = pubsub {
        let host = pubsub.url();
        write!(
            config,
            "[broker]\ndriver = \"pubsub\"\n[broker.pubsub]\nproject = \"bench-{name}\"\nemulator_host = \"{host}\"\n"
        )
        .expect("text");
    }
    if setup == Setup::Shared {
        let url = services.mariadb.url();
        write!(
            config,
            "[state]\ndriver = \"shared\"\n[state.shared]\nurl = \"{url}\"\ntable_prefix = \"bench_{name}_\"\n"
        )
        .expect("text");
    }
    config
}

/// The users, for a host that keeps them itself.
fn seed() -> String {
    let mut seed = "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, name TEXT, locale TEXT);".to_owned();
    for n in 0..USERS {
        write!(seed, "INSERT INTO users VALUES ('user_{n}', 'user{n}@example.com', 'Ada', 'en');").expect("text");
    }
    seed
}

fn bodies(prefix: &str, count: usize) -> Vec<String> {
    let body = |n| format!(r#"{{"notificationId":"{prefix}{n}","userId":"user_{}","type":"welcome"}}"#, n % USERS);
    (0..count).map(body).collect()
}

/// This machine's clock in milliseconds, as databases have it too.
fn clock_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

/// Publishes in batches as fast as it goes; when each was handed over.
fn in_bulk(address: &str, bodies: &[String]) -> Vec<f64> {
    let requests: Vec<(usize, Vec<u8>)> =
        bodies.chunks(BATCH).map(|part| (part.len(), delivery::batch(part, TOPIC))).collect();
    let lanes = each_lane(address, CONNECTIONS, requests.len(), |connection, n| {
        let (count, request) = &requests[n];
        let at = clock_ms();
        accepted(connection, request);
        vec![at; *count]
    });
    lanes.into_iter().flatten().collect()
}

/// Publishes one by one at a rate, whether or not earlier ones were answered; when each was due. A client that is late
/// counts against the host.
fn paced(address: &str, bodies: &[String], per_second: f64) -> Vec<f64> {
    let requests: Vec<Vec<u8>> = bodies.iter().map(|body| http::post(PATH, body.as_bytes())).collect();
    let (start, start_ms) = (Instant::now(), clock_ms());
    each_lane(address, PACED_CONNECTIONS, requests.len(), |connection, n| {
        let due = Duration::from_secs_f64(n as f64 / per_second);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        accepted(connection, &requests[n]);
        start_ms + due.as_secs_f64() * 1e3
    })
}

/// Deals the numbers up to `count` out to this many connections, each on a thread of its own; what came of each, in order.
fn each_lane<T: Send>(
    address: &str,
    lanes: usize,
    count: usize,
    each: impl Fn(&mut Connection, usize) -> T + Sync,
) -> Vec<T> {
    let each = &each;
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes.min(count))
            .map(|lane| {
                scope.spawn(move || {
                    let mut connection = Connection::open(address).expect("the host accepts");
                    let numbers = (lane..count).step_by(lanes);
                    numbers.map(|n| (n, each(&mut connection, n))).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a lane of the client")).collect()
    });
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, made)| made).collect()
}

fn accepted(connection: &mut Connection, request: &[u8]) {
    let (status, body) = connection.send(request).expect("the host answers");
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]));
}

/// When each delivery was recorded, from the document store that a host has left behind.
fn recorded(store: &Path) -> HashMap<String, f64> {
    let config =
        DocumentsConfig { path: Some(store.to_owned()), scan_max_documents: usize::MAX, ..DocumentsConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let documents = sandpost_embedded_documents::open(&config).expect("the host's documents");
        let options = FindOptions::default();
        let mut cursor = documents.find("deliveries", serde_json::json!({}), options).await.expect("the deliveries");
        let mut recorded = HashMap::new();
        loop {
            let part = cursor.next(PART, PART_MAX_BYTES).await.expect("some deliveries");
            if part.is_empty() {
                return recorded;
            }
            recorded.extend(part.iter().map(|document| {
                let id = document["_id"].as_str().expect("a notification's id");
                let at = document["recordedAt"]["$date"].as_str().expect("a date");
                let at = OffsetDateTime::parse(at, &Rfc3339).expect("a date as RFC 3339 has it");
                (id.to_owned(), at.unix_timestamp_nanos() as f64 / 1e6)
            }));
        }
    })
}
