//! What teams use today, beside (b): a trivial BullMQ worker on a Redis without persistence. Nothing is installed here.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JOBS: u32 = 50_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Jobs a second, or why there is no figure.
pub fn measure(folder: &Path) -> Result<f64, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bullmq");
    if !script.join("node_modules/bullmq").is_dir() {
        return Err("BullMQ: `npm ci` was not run in tests/bench/bullmq".to_owned());
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = free.map_err(|error| format!("BullMQ: no free port: {error}"))?.port();
    let redis = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("BullMQ: redis-server does not start: {error}"))?;
    let _redis = Ended(redis);
    let since = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if since.elapsed() > PATIENCE {
            return Err("BullMQ: redis-server does not listen".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let run = Command::new("node")
        .args(["bench.mjs", &port.to_string(), &JOBS.to_string()])
        .current_dir(script)
        .output()
        .map_err(|error| format!("BullMQ: node does not start: {error}"))?;
    let answer: serde_json::Value = serde_json::from_slice(&run.stdout)
        .map_err(|_| format!("BullMQ: the script failed: {}", String::from_utf8_lossy(&run.stderr)))?;
    answer["jobs_per_second"].as_f64().ok_or_else(|| "BullMQ: the script gave no figure".to_owned())
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
