//! The worker in Node of `tests/bench/worker`, started as a team starts it, and published to by a process of its own.

use crate::machine;
use crate::side_by_side::{Services, Side, USERS};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Why it cannot be run here, or none. Nothing is installed.
pub fn missing() -> Option<String> {
    if !folder().join("node_modules/bullmq").is_dir() {
        return Some("`npm ci` was not run in tests/bench/worker".to_owned());
    }
    let node = Command::new("node").arg("--version").output();
    node.err().map(|error| format!("node does not start: {error}"))
}

/// Makes its tables anew, with users in them.
pub fn tables(services: &Services) {
    drive(services, &["tables", &USERS.to_string()]);
}

/// Its processes. They end with this.
pub struct Worker<'a> {
    services: &'a Services,
    processes: Vec<Child>,
}

impl<'a> Worker<'a> {
    /// Starts it; what it logs goes into the folder. What was recorded by an earlier one is forgotten.
    pub fn start(services: &'a Services, logs: &Path, processes: usize, concurrency: usize) -> Self {
        tables(services);
        let start = |n: usize| {
            let log = std::fs::File::create(logs.join(format!("{n}.log"))).expect("a file for the log");
            let mut command = node(services, "worker.mjs");
            command.env("WORKER_CONCURRENCY", concurrency.to_string());
            command.stderr(log.try_clone().expect("one more handle")).stdout(log);
            command.spawn().expect("node starts")
        };
        Self { services, processes: (0..processes).map(start).collect() }
    }
}

impl Side for Worker<'_> {
    fn publish(&mut self, prefix: &str, count: usize, per_second: Option<f64>) -> Vec<f64> {
        let per_second = per_second.unwrap_or(0.0).to_string();
        let printed = drive(self.services, &["publish", prefix, &count.to_string(), &per_second]);
        serde_json::from_slice(&printed).expect("the times of publishing")
    }

    fn cpu(&self) -> Duration {
        self.processes.iter().map(|process| machine::cpu_of(process.id())).sum()
    }

    fn end(self) -> HashMap<String, f64> {
        let printed = drive(self.services, &["recorded"]);
        let rows: Vec<(String, f64)> = serde_json::from_slice(&printed).expect("the times of the records");
        rows.into_iter().collect()
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// Runs `drive.mjs` to its end; what it printed.
fn drive(services: &Services, arguments: &[&str]) -> Vec<u8> {
    let run = node(services, "drive.mjs").args(arguments).output().expect("node starts");
    assert!(run.status.success(), "drive.mjs {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

fn node(services: &Services, script: &str) -> Command {
    let Mysql { address, user, password, database } = Mysql::of(services);
    let mut command = Command::new("node");
    command
        .arg(script)
        .current_dir(folder())
        .stdin(Stdio::null())
        .env("NODE_ENV", "production")
        .env("REDIS_URL", services.redis.url())
        .env("MYSQL_HOST", address.ip().to_string())
        .env("MYSQL_PORT", address.port().to_string())
        .env("MYSQL_USER", user)
        .env("MYSQL_PASSWORD", password)
        .env("MYSQL_DATABASE", database)
        .env("SMTP_HOST", services.sink.address().ip().to_string())
        .env("SMTP_PORT", services.sink.address().port().to_string());
    command
}

/// The parts of `mysql://user:password@host:port/database`, which is what the variables have.
struct Mysql {
    address: SocketAddr,
    user: String,
    password: String,
    database: String,
}

impl Mysql {
    fn of(services: &Services) -> Self {
        let url = services.mariadb.url();
        let rest = url.strip_prefix("mysql://").unwrap_or(&url);
        let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let database = place.split_once('/').map_or("", |(_, database)| database);
        let database = database.split('?').next().unwrap_or_default();
        Self {
            address: services.mariadb.address(),
            user: user.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("worker")
}
