//! A mail server that accepts every mail, counts it and forgets it, so that both sides of (g) send to the same one and
//! what is measured is who sends.
//!
//! As little of SMTP as a client needs that asks for nothing: no TLS, no login, no pipelining. A client that breaks the
//! protocol is hung up on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Of one mail, and of one command before it: many times what the welcome mail has.
const BUFFER_MAX_BYTES: usize = 1 << 20;

/// Room for one read: a mail in few of them.
const READ_BYTES: usize = 16 << 10;

/// What the mails of this benchmark have; one without it was not rendered.
const SUBJECT: &[u8] = b"Subject: Welcome to Sandpost!\r\n";

/// The server. It ends with this.
pub struct Sink {
    address: SocketAddr,
    counts: Arc<Counts>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Counts {
    mails: AtomicU64,
    bytes: AtomicU64,
    other: AtomicU64,
}

/// What it took so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Welcome mails.
    pub mails: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Mails of another kind.
    pub other: u64,
}

impl Sink {
    /// Starts it on a free port and a thread of its own.
    pub fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (address, counts) = (listener.local_addr()?, Arc::<Counts>::default());
        let counting = counts.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(session(stream, counting.clone()));
            }
        });
        Ok(Self { address, counts, _runtime: runtime })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it took so far.
    pub fn taken(&self) -> Taken {
        let Counts { mails, bytes, other } = &*self.counts;
        let [mails, bytes, other] = [mails, bytes, other].map(|count| count.load(Ordering::Relaxed));
        Taken { mails, bytes, other }
    }
}

/// One client, until it goes.
async fn session(mut stream: TcpStream, counts: Arc<Counts>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    stream.write_all(b"220 sink ESMTP\r\n").await.ok()?;
    let mut buffer = Vec::new();
    loop {
        let line = until(&mut stream, &mut buffer, b"\r\n").await?;
        let command = String::from_utf8_lossy(&line).to_ascii_uppercase();
        let answer: &[u8] = match command.split([' ', ':', '\r']).next().unwrap_or_default() {
            "EHLO" => b"250-sink\r\n250 8BITMIME\r\n",
            "HELO" | "MAIL" | "RCPT" | "RSET" | "NOOP" => b"250 ok\r\n",
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                count(&counts, &until(&mut stream, &mut buffer, b"\r\n.\r\n").await?);
                b"250 taken\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await.ok()?;
                return None;
            }
            _ => b"502 not here\r\n",
        };
        stream.write_all(answer).await.ok()?;
    }
}

fn count(counts: &Counts, mail: &[u8]) {
    if mail.windows(SUBJECT.len()).any(|part| part == SUBJECT) {
        counts.mails.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(mail.len() as u64, Ordering::Relaxed);
    } else {
        counts.other.fetch_add(1, Ordering::Relaxed);
    }
}

/// What comes up to and with this end; what follows stays in the buffer. None where the client goes or sends too much.
async fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    let mut looked = 0_usize;
    loop {
        // The end may have begun in what was there before.
        let from = looked.saturating_sub(end.len());
        if let Some(at) = buffer[from..].windows(end.len()).position(|part| part == end) {
            let rest = buffer.split_off(from + at + end.len());
            return Some(std::mem::replace(buffer, rest));
        }
        looked = buffer.len();
        buffer.reserve(READ_BYTES);
        acknowledge_at_once(stream);
        if looked > BUFFER_MAX_BYTES || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Neither client turns Nagle's algorithm off: each would wait with the end of a mail until this end's delayed acknowledgement
/// of its beginning, 40 ms, which is the system's and not theirs. The system forgets it after some packets.
fn acknowledge_at_once(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    stream.set_quickack(true).ok();
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};

    /// Says each line and waits for an answer that begins with this code.
    fn talk(sink: &Sink, dialogue: &[(&str, &str)]) {
        let stream = std::net::TcpStream::connect(sink.address()).expect("it listens");
        let mut lines = BufReader::new(stream.try_clone().expect("two ends")).lines();
        let mut said = &stream;
        assert!(lines.next().expect("a greeting").expect("text").starts_with("220 "));
        for (line, code) in dialogue {
            said.write_all(line.as_bytes()).expect("it reads");
            let answer = loop {
                let answer = lines.next().expect("an answer").expect("text");
                if answer.as_bytes().get(3) == Some(&b' ') {
                    break answer;
                }
            };
            assert!(answer.starts_with(code), "{line}: {answer}");
        }
    }

    #[test]
    fn welcome_mails_are_counted_and_others_apart() {
        let sink = Sink::start().expect("a free port");
        talk(
            &sink,
            &[
                ("EHLO me\r\n", "250"),
                ("MAIL FROM:<a@example.com>\r\n", "250"),
                ("RCPT TO:<b@example.com>\r\n", "250"),
                ("DATA\r\n", "354"),
                ("From: a\r\nSubject: Welcome to Sandpost!\r\n\r\n..\r\n.\r\n", "250"),
                ("RSET\r\n", "250"),
                ("DATA\r\n", "354"),
                ("Subject: Welcome to nowhere\r\n\r\ntext\r\n.\r\n", "250"),
                ("STARTTLS\r\n", "502"),
                ("QUIT\r\n", "221"),
            ],
        );
        assert_eq!(sink.taken(), Taken { mails: 1, bytes: 49, other: 1 });
    }
}
