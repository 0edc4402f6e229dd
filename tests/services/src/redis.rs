//! Redis, alone or as a cluster of one node.

use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{PASSWORD, find};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

const INSTALL: &str = "apt-get install redis-server";

pub(crate) fn single() -> Result<Server, Missing> {
    start("Redis", answers_ping, &[])
}

pub(crate) fn cluster() -> Result<Server, Missing> {
    let bus = Port::reserve();
    let more = [
        "--cluster-enabled".to_owned(),
        "yes".to_owned(),
        "--cluster-announce-ip".to_owned(),
        "127.0.0.1".to_owned(),
        "--cluster-port".to_owned(),
        bus.number().to_string(),
    ];
    // Its own lock on the bus's port goes here: another process that takes the number finds it in use.
    start("Redis Cluster", has_all_slots, &more)
}

fn start(kind: &str, ready: crate::process::Ready, more: &[String]) -> Result<Server, Missing> {
    let program = find::program("redis-server", &[]).ok_or_else(|| Missing::program("redis-server", INSTALL))?;
    let version = find::version(&program, "--version");
    let port = Port::reserve();
    let folder = folder("redis")?;
    let url = Url::new("redis", &format!(":{PASSWORD}"), port.address(), "");
    let (number, data, more) = (port.number().to_string(), folder.path().to_owned(), more.to_vec());
    let command = move || {
        let mut command = Command::new(&program);
        command
            .args(["--port", &number, "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", ""])
            // Written before each answer, so that what was acknowledged is there after a SIGKILL.
            .args(["--appendonly", "yes", "--appendfsync", "no", "--dir"])
            .arg(&data)
            .args(&more);
        command
    };
    let recipe = Recipe { command: Box::new(command), stop: Signal::TERM, ready };
    Ok(Server::started(kind, version, url, Process::start_new(port, folder, recipe)?))
}

/// PONG comes only after the data was read back.
fn answers_ping(stream: &mut TcpStream) -> std::io::Result<bool> {
    Ok(ask(stream, "PING")?.starts_with("+PONG"))
}

/// A new node is given all slots; one that comes back has them.
fn has_all_slots(stream: &mut TcpStream) -> std::io::Result<bool> {
    if ask(stream, "CLUSTER INFO")?.contains("cluster_state:ok") {
        return Ok(true);
    }
    ask(stream, "CLUSTER ADDSLOTSRANGE 0 16383")?;
    Ok(false)
}

/// One command after the password; answers of one piece only.
fn ask(stream: &mut TcpStream, command: &str) -> std::io::Result<String> {
    let mut answer = [0; 4096];
    stream.write_all(format!("AUTH {PASSWORD}\r\n").as_bytes())?;
    let length = stream.read(&mut answer)?;
    if !answer[..length].starts_with(b"+OK") {
        return Ok(String::new());
    }
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
