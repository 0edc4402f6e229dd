//! One running host.

use crate::{Client, Reply, repository};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. No test is about this time: it is for a machine that is full, where the
/// compiler and guests that compute for long stand behind everybody else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Names another build of the program, a release or a copy that stays as it is over a long run.
const PROGRAM: &str = "SANDPOST_TEST_PROGRAM";

/// The program under test.
pub fn program() -> PathBuf {
    let path = std::env::var_os(PROGRAM).map_or_else(|| repository().join("target/debug/sandpost"), PathBuf::from);
    assert!(path.is_file(), "{} is missing; `cargo xtask test` builds it", path.display());
    path
}

/// Names the build that has the drivers for real services; else the one that `cargo xtask test` leaves.
const SERVICES_PROGRAM: &str = "SANDPOST_TEST_SERVICES_PROGRAM";

/// The program with the drivers for real services, where it was built.
pub fn services_program() -> Option<PathBuf> {
    let path = std::env::var_os(SERVICES_PROGRAM)
        .map_or_else(|| repository().join("target/services-build/sandpost"), PathBuf::from);
    path.is_file().then_some(path)
}

/// Runs the program to its end, in an empty environment but for what is given.
pub fn run_program(arguments: &[String], environment: &[(&str, &str)]) -> Output {
    run_build(&program(), arguments, environment)
}

/// The same with another build, as [`services_program`].
pub fn run_build(program: &Path, arguments: &[String], environment: &[(&str, &str)]) -> Output {
    command_behind(&[], program).args(arguments).envs(environment.iter().copied()).output().expect("the program starts")
}

/// The program with nothing from outside that configures it, behind another that starts it where one is given.
fn command_behind(wrapper: &[String], program: &Path) -> Command {
    let mut command = match wrapper.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// What a host is started with.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// More of `sandpost.toml`; address, folders and log are the harness's own.
    pub config: String,
    /// Plugin files that lie in the folder at the start.
    pub plugins: Vec<PathBuf>,
    /// Variables on top.
    pub environment: Vec<(String, String)>,
    /// SQL that the database `main` begins with.
    pub sql: String,
    /// `config` is the whole file, and nothing is added to it.
    pub whole: bool,
    /// Grants come from `config` alone, not from what the plugins ask for.
    pub grants_configured: bool,
    /// A program with its arguments that becomes the host by `exec`, so that the PID stays: `env --ignore-signal=XFSZ`.
    pub wrapper: Vec<String>,
    /// Another build than [`program`].
    pub program: Option<PathBuf>,
}

impl Setup {
    /// The plugins that ship, bound as the origin documents have it, with a user for each language.
    pub fn shipped() -> Self {
        let plugins = ["notification-email", "delivery-log", "transactional-templates"].map(crate::plugin).to_vec();
        let config = r#"
            [email]
            from = "Sandpost <noreply@sandpost.example>"
            [subscriptions.notification-email]
            topic = "notification-created"
            plugin = "notification-email"
            [subscriptions.delivery-log]
            topic = "notification-sent"
            plugin = "delivery-log"
        "#;
        let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, name TEXT, locale TEXT);
            INSERT INTO users VALUES ('user_123', 'ada@example.com', 'Ada', 'en'),
                ('user_456', 'joao@example.com', 'João', 'pt-BR'), ('user_789', 'eve@example.com', '<b>Eve</b>', 'en');";
        Self { config: config.to_owned(), plugins, sql: sql.to_owned(), ..Self::default() }
    }

    /// One guest, `scripted`, that does what the message's body says, on topic `work`; with a retry policy that a test
    /// can wait for.
    pub fn scripted(subscription: &str) -> Self {
        let config = format!(
            "[subscriptions.scripted]\ntopic = \"work\"\nplugin = \"scripted\"\n{subscription}\n\
             [subscriptions.scripted.retry]\nattempts_max = 3\nbackoff_min_ms = 50\nbackoff_max_ms = 200\n"
        );
        Self { config, plugins: vec![crate::guest("scripted")], ..Self::default() }
    }
}

/// A running host with its folder.
pub struct Host {
    setup: Setup,
    folder: tempfile::TempDir,
    child: Child,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// Starts the program and waits until it serves.
    pub fn start(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the host");
        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).expect("a folder for plugins");
        for file in &setup.plugins {
            std::fs::copy(file, plugins.join(file.file_name().expect("a file"))).expect("the plugin is copied");
        }
        std::fs::write(folder.path().join("seed.sql"), &setup.sql).expect("the seed is written");
        let config = format!(
            "data_dir = \"data\"\n{}\n[deployment]\ndirectory = \"plugins\"\ngrants = \"{}\"\n[sql.main]\ndriver = \"embedded\"\n\
             [sql.main.embedded]\ninit_file = \"seed.sql\"\n[documents.main]\ndriver = \"embedded\"\n",
            setup.config,
            if setup.grants_configured { "configured" } else { "requested" },
        );
        let config = if setup.whole { setup.config.clone() } else { config };
        std::fs::write(folder.path().join("sandpost.toml"), config).expect("the config is written");
        let (child, address, log) = spawn(&setup, folder.path());
        Self { setup, folder, child, address, log }
    }

    /// Starts again on the same folder, after [`Self::terminate`] or [`Self::kill`].
    pub fn restart(&mut self) {
        let (child, address, log) = spawn(&self.setup, self.folder.path());
        self.child = child;
        self.address = address;
        self.log = log;
    }

    /// Starts on the same folder and kills it after this time, whether it serves by then or not.
    pub fn restart_and_kill(&mut self, after: Duration) {
        let mut child = launch(&self.setup, self.folder.path());
        let mut errors = child.stderr.take().expect("standard error is piped");
        // Ends with the program; an unread pipe would stop it.
        let draining = std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        std::thread::sleep(after);
        child.kill().expect("the host is killed");
        child.wait().expect("the host ends");
        draining.join().expect("the reader ends").ok();
    }

    /// Starts again where that may fail; how it ended and what it said where it did.
    pub fn try_restart(&mut self) -> Result<(), (ExitStatus, String)> {
        let (child, address, log) = try_spawn(&self.setup, self.folder.path())?;
        (self.child, self.address, self.log) = (child, address, log);
        Ok(())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The base of every URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder that it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where it looks for plugins.
    pub fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// Puts a plugin file into the folder, whole, as a deployment does.
    pub fn deploy(&self, file: &Path) {
        let name = file.file_name().expect("a file");
        let beside = self.folder.path().join("deploying");
        std::fs::copy(file, &beside).expect("the plugin is copied");
        std::fs::rename(&beside, self.plugins().join(name)).expect("the plugin is renamed");
    }

    /// What it logged since it started.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.log.lock().expect("the log");
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Reads a resource.
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    /// Sends a JSON body.
    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body)
    }

    /// Any request.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
        self.try_send(method, path, headers, body.as_ref()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Any request, where the host may be gone.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, Box<dyn std::error::Error>> {
        Client::new(&self.address).request(method, path, headers, body)
    }

    /// Publishes; the id.
    pub fn publish(&self, topic: &str, body: &str) -> String {
        let reply = self.post(&format!("/v1/topics/{topic}/messages"), body);
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The steps of a message, each as `step` alone, in order.
    pub fn steps(&self, id: &str) -> Vec<String> {
        let reply = self.get(&format!("/v1/messages/{id}"));
        if reply.status != 200 {
            return Vec::new();
        }
        let steps = reply.json()["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().filter_map(|step| step["step"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until the message has come to this step; all its steps.
    pub fn until_step(&self, id: &str, step: &str) -> Vec<String> {
        self.eventually(&format!("message {id} comes to {step}"), || {
            let steps = self.steps(id);
            if steps.iter().any(|seen| seen == step) { Ok(steps) } else { Err(format!("{steps:?}")) }
        })
    }

    /// Polls until `look` has an answer; fails with what it saw last.
    pub fn eventually<T>(&self, what: &str, look: impl FnMut() -> Result<T, String>) -> T {
        self.eventually_within(PATIENCE, what, look)
    }

    /// The same for what is known to take longer.
    pub fn eventually_within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if Instant::now() > deadline => {
                    panic!("gave up waiting until {what}; seen last: {seen}\nlog: {:#?}", self.log())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// SIGKILL, then waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("the host is killed");
        self.child.wait().expect("the host ends");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the host is a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the host did not end; log: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn launch(setup: &Setup, folder: &Path) -> Child {
    command_behind(&setup.wrapper, &setup.program.clone().unwrap_or_else(program))
        .args(["run", "--config", "sandpost.toml"])
        .current_dir(folder)
        .env("SANDPOST_LISTEN", "127.0.0.1:0")
        .env("LOG_LEVEL", "debug")
        .envs(setup.environment.iter().cloned())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

type Spawned = (Child, String, Arc<Mutex<Vec<String>>>);

fn spawn(setup: &Setup, folder: &Path) -> Spawned {
    try_spawn(setup, folder).unwrap_or_else(|(status, log)| panic!("the host ended with {status}; log: {log}"))
}

fn try_spawn(setup: &Setup, folder: &Path) -> Result<Spawned, (ExitStatus, String)> {
    let mut child = launch(setup, folder);
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
    let into = Arc::clone(&log);
    // Ends with the program: the pipe closes.
    let reading = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            into.lock().expect("the log").push(line);
        }
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let address = log.lock().expect("the log").iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "Ready.").then_some(())?;
            line["metadata"]["address"].as_str().map(str::to_owned)
        });
        if let Some(address) = address {
            return Ok((child, address, log));
        }
        if let Some(status) = child.try_wait().expect("the host is a child") {
            reading.join().expect("the reader ends");
            return Err((status, log.lock().expect("the log").join("\n")));
        }
        if Instant::now() > deadline {
            // Nobody has it yet who would end it.
            child.kill().ok();
            child.wait().ok();
            panic!("the host does not serve; log: {:#?}", log.lock().expect("the log"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
