//! Whether a server answers HTTP, for those that do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// Whether `GET` of this path is answered with 200.
pub(crate) fn answers(stream: &mut TcpStream, path: &str) -> std::io::Result<bool> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head.starts_with(b"HTTP/1.") && head.ends_with(b" 200"))
}
