//! HTTP/1.1 as cheap as a client can be: raw requests over kept connections, so that what is measured is the server. And
//! the floor: a server that answers without doing anything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends a whole request, and reads status and body of the answer.
    pub fn send(&mut self, request: &[u8]) -> std::io::Result<(u16, &[u8])> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let (status, head, length) = loop {
            if let Some(found) = head_of(&self.buffer) {
                break found;
            }
            self.more()?;
        };
        while self.buffer.len() < head + length {
            self.more()?;
        }
        Ok((status, &self.buffer[head..head + length]))
    }

    fn more(&mut self) -> std::io::Result<()> {
        let at = self.buffer.len();
        self.buffer.resize(at + 16 * 1024, 0);
        let read = self.stream.read(&mut self.buffer[at..])?;
        self.buffer.truncate(at + read);
        if read == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Status, length of the head, length of the body; none while the head is not there yet.
fn head_of(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().unwrap_or(0);
    let length = head
        .lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    Some((status, end, length))
}

/// A POST as bytes.
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A GET as bytes.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").into_bytes()
}

/// Sends the requests over so many connections at once, dealt out in turn; how long each took, and all together.
pub fn drive(address: &str, connections: usize, requests: &[Vec<u8>]) -> (Vec<Duration>, Duration) {
    let since = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|lane| {
                scope.spawn(move || {
                    let mut connection = Connection::open(address).expect("the server accepts");
                    let mut latencies = Vec::new();
                    for request in requests.iter().skip(lane).step_by(connections) {
                        let since = Instant::now();
                        let (status, body) = connection.send(request).expect("the server answers");
                        assert_eq!(status, 202, "{}", String::from_utf8_lossy(body));
                        latencies.push(since.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a lane of the client")).collect()
    });
    (latencies, since.elapsed())
}

/// Starts the floor's server on a free port; it lasts as long as the process. Its address.
pub fn start_echo() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(stream));
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream) -> Option<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 45\r\n\r\n\
        {\"id\":\"0190f3a2-7b1c-7def-8a3b-1c2d3e4f5a6b\"}";
    stream.set_nodelay(true).ok()?;
    let (mut buffer, mut part) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        // A request's head has the same shape as an answer's for what is read of it here.
        match head_of(&buffer) {
            Some((_, head, length)) if buffer.len() >= head + length => {
                buffer.drain(..head + length);
                stream.write_all(ANSWER).ok()?;
            }
            _ => {
                let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
                buffer.extend_from_slice(&part[..read]);
            }
        }
    }
}

/// The value below which this share of them lies.
pub fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let place = (share * values.len() as f64) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
