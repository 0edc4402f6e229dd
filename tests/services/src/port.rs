//! Ports that a server can come back on: reserved for as long as their owner lives.
//!
//! They lie below the range from which the system takes ports for connections and for listeners on port 0, so that
//! nobody gets one between a server's stop and its next start. Other processes of this harness are kept off by a lock
//! on a file of the port's number; the system lets go of it when the process ends, however it ends.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 that nothing listened on when it was taken. Free again for others when dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: Option<File>,
}

impl Port {
    /// Takes the next free one, in an order of this process's own.
    pub(crate) fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = std::process::id().wrapping_mul(97);
        let folder = std::env::temp_dir().join("sandpost-services-ports");
        // Where the folder cannot be made, only the other processes' ports are no longer known.
        drop(std::fs::create_dir_all(&folder));
        loop {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let offset = u16::try_from(start.wrapping_add(step) % u32::from(COUNT)).unwrap_or_default();
            let number = FIRST + offset;
            let lock = File::create(folder.join(number.to_string()));
            if lock.as_ref().is_ok_and(|file| file.try_lock().is_err()) {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _lock: lock.ok() };
            }
        }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
