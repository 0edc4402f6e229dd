//! A server's process: started, asked until it answers, ended by its PID.
//!
//! Invariants
//! - Nothing outlives the test process. Beside each server runs a watchdog, a shell that waits for the end of a pipe
//!   whose other end only the test process holds: when that one ends without having said so (a panic with `abort`, a
//!   SIGKILL, Ctrl-C, a server in a `static`), the watchdog ends the server and removes its folder.
//! - Server and watchdog are process groups of their own: Ctrl-C reaches the test alone, and a server's children end with it.
//! - A start that fails leaves nothing behind and says what the server printed last.
//!
//! Not the parent-death signal of Linux: it is bound to the *thread* that started the child, and a test's thread ends
//! long before the binary does.

use crate::find::last_lines;
use crate::port::Port;
use crate::server::Missing;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take until it answers: a Java program on a machine that compiles beside it.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to end in order before it is killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How long a server that ends by itself is started again: the children of one that was killed may hold what it needs.
const AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at something that has no event.
const POLL: Duration = Duration::from_millis(20);

/// How long one question whether it is ready may take.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// What the shell beside each server does: `$1` is the server's PID, `$2` its folder.
const WATCHDOG: &str = r#"read -r word; [ "$word" = ended ] && exit 0; kill -s KILL -- "-$1"; rm -rf -- "$2""#;

/// Whether the server at the other end is ready. An error or `false` is asked again.
pub(crate) type Ready = fn(&mut TcpStream) -> std::io::Result<bool>;

/// How a server is started, each time anew.
pub(crate) struct Recipe {
    /// The same each time: port and data folder are in it.
    pub(crate) command: Box<dyn Fn() -> Command + Send>,
    /// What ends it in order.
    pub(crate) stop: Signal,
    pub(crate) ready: Ready,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Recipe").field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// One server of ours, running or not.
#[derive(Debug)]
pub(crate) struct Process {
    recipe: Recipe,
    running: Option<Running>,
    port: Port,
    // After `running`: the folder goes when nobody writes into it any more.
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    watchdog: Child,
    /// Its end is what the watchdog waits for.
    leash: ChildStdin,
}

/// A folder for one server, readable by the user that it runs as. Removed with the server.
pub(crate) fn folder(kind: &str) -> Result<TempDir, Missing> {
    Ok(tempfile::Builder::new().prefix(&format!("sandpost-{kind}-")).tempdir()?)
}

impl Process {
    /// Starts it and waits until it answers.
    pub(crate) fn start_new(port: Port, folder: TempDir, recipe: Recipe) -> Result<Self, Missing> {
        let mut process = Self { recipe, running: None, port, folder };
        process.start()?;
        Ok(process)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    pub(crate) fn start(&mut self) -> Result<(), Missing> {
        if self.running.is_some() {
            return Ok(());
        }
        let begin = Instant::now();
        loop {
            let mut running = self.spawn()?;
            match self.wait_until_ready(&mut running, begin + START_WITHIN) {
                Ok(()) => {
                    self.running = Some(running);
                    return Ok(());
                }
                Err(missing) => {
                    let ended_itself = running.child.try_wait().is_ok_and(|status| status.is_some());
                    running.end(Signal::KILL, Duration::ZERO);
                    if !ended_itself || begin.elapsed() > AGAIN_WITHIN {
                        return Err(missing);
                    }
                    std::thread::sleep(POLL * 10);
                }
            }
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end(self.recipe.stop, STOP_WITHIN);
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.end(Signal::KILL, Duration::ZERO);
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn spawn(&self) -> Result<Running, Missing> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = (self.recipe.command)();
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| Missing::new(format!("{program} does not start: {error}")))?;
        match watchdog(child.id(), self.folder.path()) {
            Ok((watchdog, leash)) => Ok(Running { child, watchdog, leash }),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                Err(Missing::new(format!("no watchdog for {program}: {error}")))
            }
        }
    }

    fn wait_until_ready(&self, running: &mut Running, deadline: Instant) -> Result<(), Missing> {
        loop {
            if let Some(status) = running.child.try_wait()? {
                return Err(Missing::new(format!("it ended with {status}: {}", self.last_words())));
            }
            if self.is_ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Missing::new(format!(
                    "it does not answer within {} s: {}",
                    START_WITHIN.as_secs(),
                    self.last_words()
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    fn is_ready(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.address(), ASK_WITHIN)?;
            stream.set_read_timeout(Some(ASK_WITHIN))?;
            stream.set_write_timeout(Some(ASK_WITHIN))?;
            (self.recipe.ready)(&mut stream)
        };
        ask().unwrap_or(false)
    }

    fn last_words(&self) -> String {
        last_lines(&String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its data goes with it: nothing to end in order for.
        self.kill();
    }
}

impl Running {
    /// Sends the signal, waits so long for the end, then makes it one.
    fn end(mut self, signal: Signal, patience: Duration) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // A child that was not waited for keeps its PID, so this reaches nobody else.
        if let Some(group) = group.filter(|_| self.child.try_wait().is_ok_and(|status| status.is_none())) {
            if signal == Signal::KILL {
                _ = kill_process_group(group, signal);
            } else {
                // In order: the server tells its children itself.
                _ = rustix::process::kill_process(group, signal);
                let deadline = Instant::now() + patience;
                while self.child.try_wait().is_ok_and(|status| status.is_none()) {
                    if Instant::now() > deadline {
                        _ = kill_process_group(group, Signal::KILL);
                        break;
                    }
                    std::thread::sleep(POLL);
                }
            }
        }
        drop(self.child.wait());
        drop(self.leash.write_all(b"ended\n"));
        drop(self.leash);
        drop(self.watchdog.wait());
    }
}

/// Starts the shell that ends what is left of the server when this process is gone.
fn watchdog(pid: u32, folder: &Path) -> std::io::Result<(Child, ChildStdin)> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", WATCHDOG, "sandpost-watchdog"])
        .arg(pid.to_string())
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let leash = child.stdin.take().ok_or_else(|| std::io::Error::other("it has no standard input"))?;
    Ok((child, leash))
}
