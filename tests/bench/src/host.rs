//! The real program, started on a folder of its own and a free port, and ended by its process.

use crate::http::{self, Connection};
use crate::machine;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it looks whether something came about; short beside what is measured, rare enough not to be felt.
const LOOK: Duration = Duration::from_millis(25);

/// What is built and where.
#[derive(Debug, Clone)]
pub struct Built {
    /// The program.
    pub program: PathBuf,
    /// The same with the drivers for real services, where there is one.
    pub services_program: Option<PathBuf>,
    /// The plugins that ship.
    pub plugins: PathBuf,
    /// The benchmark's own guests.
    pub guests: PathBuf,
}

impl Built {
    /// The file of a guest, or of a plugin that ships.
    pub fn file(&self, name: &str) -> PathBuf {
        let name = format!("{name}.wasm");
        let guest = self.guests.join(&name);
        if guest.is_file() { guest } else { self.plugins.join(name) }
    }

    /// The same component under another name or version, with the rest of the manifest.
    pub fn rebuilt(&self, source: &Path, manifest: &str, out: &Path) -> PathBuf {
        let folder = tempfile::tempdir().expect("a folder for the manifest");
        std::fs::write(folder.path().join("plugin.toml"), manifest).expect("the manifest is written");
        let run = Command::new(&self.program)
            .arg("build")
            .arg(folder.path())
            .arg("--component")
            .arg(source)
            .arg("--out")
            .arg(out)
            .output()
            .expect("the program starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        PathBuf::from(String::from_utf8_lossy(&run.stdout).trim())
    }
}

/// A running host.
pub struct Host {
    child: Child,
    address: String,
    folder: PathBuf,
    /// From the start of the process to the first 200 of `/readyz`: messages are accepted.
    pub ready_after: Duration,
    /// And until all plugins of the folder are live: messages are delivered.
    pub live_after: Duration,
}

impl Host {
    /// Prepares the folder: plugins and configuration.
    pub fn prepare(folder: &Path, plugins: &[PathBuf], config: &str) {
        let into = folder.join("plugins");
        std::fs::create_dir_all(&into).expect("a folder for plugins");
        for file in plugins {
            std::fs::copy(file, into.join(file.file_name().expect("a file"))).expect("the plugin is copied");
        }
        let users: String = (0..100)
            .map(|n| format!("INSERT INTO users VALUES ('user_{n}', 'user{n}@example.com', 'Ada', 'en');"))
            .collect();
        let seed = format!("CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, name TEXT, locale TEXT);{users}");
        std::fs::write(folder.join("seed.sql"), seed).expect("the seed is written");
        let config = format!(
            "data_dir = \"data\"\n[deployment]\ndirectory = \"plugins\"\ngrants = \"requested\"\n\
             [sql.main]\ndriver = \"embedded\"\n[sql.main.embedded]\ninit_file = \"seed.sql\"\n\
             [documents.main]\ndriver = \"embedded\"\n[email]\nfrom = \"Sandpost <noreply@sandpost.example>\"\n{config}"
        );
        std::fs::write(folder.join("sandpost.toml"), config).expect("the config is written");
    }

    /// Starts the program on a prepared folder, and waits until it is ready and all plugins are live.
    pub fn start(built: &Built, folder: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = free.expect("a free port").to_string();
        let log = std::fs::File::create(folder.join("log")).expect("a file for the log");
        let since = Instant::now();
        let child = Command::new(&built.program)
            .args(["run", "--config", "sandpost.toml"])
            .current_dir(folder)
            .env_clear()
            .env("SANDPOST_LISTEN", &address)
            .env("LOG_LEVEL", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let (ready_after, live_after) = (Duration::ZERO, Duration::ZERO);
        let mut host = Self { child, address, folder: folder.to_owned(), ready_after, live_after };
        let ready = http::get("/readyz");
        loop {
            let answered = Connection::open(&host.address).and_then(|mut connection| Ok(connection.send(&ready)?.0));
            if answered.is_ok_and(|status| status == 200) {
                host.ready_after = since.elapsed();
                break;
            }
            if let Ok(Some(status)) = host.child.try_wait() {
                panic!("the host ended with {status}: {}", host.log());
            }
            assert!(since.elapsed() < PATIENCE, "the host does not get ready: {}", host.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        let plugins = std::fs::read_dir(folder.join("plugins")).expect("a folder for plugins").count();
        while host.plugins_live() < plugins {
            assert!(since.elapsed() < PATIENCE, "not all {plugins} plugins go live: {}", host.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        host.live_after = since.elapsed();
        host
    }

    fn plugins_live(&self) -> usize {
        let mut connection = Connection::open(&self.address).expect("the host accepts");
        let (_, body) = connection.send(&http::get("/v1/plugins")).expect("the host answers");
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        answer["plugins"].as_array().into_iter().flatten().filter(|plugin| !plugin["live"].is_null()).count()
    }

    /// A host on a fresh folder.
    pub fn fresh(built: &Built, folder: &Path, plugins: &[PathBuf], config: &str) -> Self {
        Self::prepare(folder, plugins, config);
        Self::start(built, folder)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The computing time it used so far.
    pub fn cpu(&self) -> Duration {
        machine::cpu_of(self.child.id())
    }

    /// Resident memory in bytes: all, and its own.
    pub fn resident_bytes(&self) -> (u64, u64) {
        machine::resident_bytes(self.child.id())
    }

    /// Puts a plugin file into the folder, whole, as a deployment does.
    pub fn deploy(&self, file: &Path) {
        let beside = self.folder.join("deploying");
        std::fs::copy(file, &beside).expect("the plugin is copied");
        std::fs::rename(&beside, self.folder.join("plugins").join(file.file_name().expect("a file")))
            .expect("the plugin is renamed");
    }

    /// How many deliveries of a subscription ended acknowledged since the start.
    pub fn acknowledged(&self, subscription: &str) -> u64 {
        let mut connection = Connection::open(&self.address).expect("the host accepts");
        let (_, body) = connection.send(&http::get("/metrics")).expect("the host answers");
        let text = String::from_utf8_lossy(body);
        let label = format!("subscription=\"{subscription}\"");
        let line = text.lines().find(|line| {
            line.starts_with("sandpost_deliveries_total{") && line.contains(&label) && line.contains("outcome=\"ack\"")
        });
        line.and_then(|line| line.rsplit(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Waits until so many are acknowledged; `seen` hears of every look.
    pub fn until_acknowledged(&self, subscription: &str, count: u64, mut seen: impl FnMut(u64)) {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let now = self.acknowledged(subscription);
            seen(now);
            if now >= count {
                return;
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            assert!(moved.elapsed() < PATIENCE, "{subscription} stays at {now} of {count}: {}", self.log());
            std::thread::sleep(LOOK);
        }
    }

    /// The last lines that it logged.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.join("\n")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
