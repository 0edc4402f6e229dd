//! What the machine can do at all, in the same run: SQLite appending the same bytes durably, and HTTP without work.

use crate::http;
use std::path::Path;
use std::time::{Duration, Instant};

/// The floors that others are held against.
#[derive(Debug, Clone, Copy)]
pub struct Floors {
    /// Rows a second, appended and synced in batches.
    pub append_per_second: f64,
    /// One row appended and synced.
    pub append_one: Duration,
    /// Requests a second over the client's connections.
    pub echo_per_second: f64,
    /// One request on one connection.
    pub echo_one: Duration,
}

/// Measures them.
pub fn measure(folder: &Path, body: &[u8], batch: usize, connections: usize) -> Floors {
    let (append_per_second, append_one) = append(folder, body, batch).expect("SQLite works");
    let address = http::start_echo().expect("a free port");
    let requests = vec![http::post("/v1/topics/bench/messages", body); 20_000];
    let (_, took) = http::drive(&address, connections, &requests);
    let (mut latencies, _) = http::drive(&address, 1, &requests[..5_000]);
    let echo_per_second = requests.len() as f64 / took.as_secs_f64();
    Floors { append_per_second, append_one, echo_per_second, echo_one: http::percentile(&mut latencies, 0.5) }
}

fn append(folder: &Path, body: &[u8], batch: usize) -> rusqlite::Result<(f64, Duration)> {
    const BATCHES: u32 = 100;
    const SINGLES: u32 = 500;
    let conn = rusqlite::Connection::open(folder.join("floor.sqlite"))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch("CREATE TABLE rows (body BLOB NOT NULL)")?;
    let mut insert = conn.prepare("INSERT INTO rows (body) VALUES (?1)")?;
    let since = Instant::now();
    for _ in 0..BATCHES {
        conn.execute_batch("BEGIN")?;
        for _ in 0..batch {
            insert.execute([body])?;
        }
        conn.execute_batch("COMMIT")?;
    }
    let rows = f64::from(BATCHES) * batch as f64;
    let per_second = rows / since.elapsed().as_secs_f64();
    let mut singles = Vec::new();
    for _ in 0..SINGLES {
        let since = Instant::now();
        insert.execute([body])?;
        singles.push(since.elapsed());
    }
    Ok((per_second, http::percentile(&mut singles, 0.5)))
}
