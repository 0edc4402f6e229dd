//! Redis: alone, with TLS, as a cluster of one node or of several.

use crate::certificate::{self, Certificate};
use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{PASSWORD, find};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const INSTALL: &str = "apt-get install redis-server";

/// Nodes meet by gossip, once a second.
const CLUSTER_WITHIN: Duration = Duration::from_mins(1);

pub(crate) fn single() -> Result<Server, Missing> {
    start("Redis", answers_ping, |_| Ok(Vec::new()))
}

/// TLS is on a port of its own: the other one tells when it is ready.
pub(crate) fn with_tls() -> Result<Server, Missing> {
    let tls = Port::reserve();
    let mut authority = None;
    let server = start("Redis", answers_ping, |folder| {
        let Certificate { authority: trusted, certificate, key } = certificate::issue(folder)?;
        let path = |path: &Path| path.display().to_string();
        let more = [
            ("--tls-port", tls.number().to_string()),
            ("--tls-cert-file", path(&certificate)),
            ("--tls-key-file", path(&key)),
            ("--tls-ca-cert-file", path(&trusted)),
            ("--tls-auth-clients", "no".to_owned()),
        ];
        authority = Some(trusted);
        Ok(more.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
    })?;
    let url = Url::new("rediss", &format!(":{PASSWORD}"), tls.address(), "");
    Ok(server.with_authority(authority).with_url(Url { host_and_port: format!("localhost:{}", tls.number()), ..url }))
}

pub(crate) fn cluster() -> Result<Server, Missing> {
    let bus = Port::reserve();
    start("Redis Cluster", has_all_slots, |_| Ok(as_node(&bus)))
}

/// Three masters and a replica of the first. Each of them knows the others when this returns.
pub(crate) fn cluster_of_four() -> Result<Vec<Server>, Missing> {
    let node = || {
        let bus = Port::reserve();
        start("Redis Cluster", answers_ping, |_| {
            let more = ["--masterauth", PASSWORD, "--cluster-node-timeout", "5000"].map(str::to_owned);
            Ok(as_node(&bus).into_iter().chain(more).collect())
        })
    };
    let nodes = [node()?, node()?, node()?, node()?];
    for (node, slots) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
        tell(node, &format!("CLUSTER ADDSLOTSRANGE {slots}"))?;
    }
    let first = nodes[0].address();
    for other in &nodes[1..] {
        // The bus's port is not the usual one, so the node is told its own, and whom to meet by both.
        let bus = bus_of(&nodes[0])?;
        tell(other, &format!("CLUSTER MEET {} {} {bus}", first.ip(), first.port()))?;
    }
    let id = tell(&nodes[0], "CLUSTER MYID")?;
    let id = id.lines().nth(1).unwrap_or_default().to_owned();
    until("the nodes know each other", || {
        let known = |node: &Server| tell(node, "CLUSTER INFO").is_ok_and(|info| info.contains("cluster_known_nodes:4"));
        nodes.iter().all(known)
    })?;
    // Once: said again, it begins anew.
    tell(&nodes[3], &format!("CLUSTER REPLICATE {id}"))?;
    until("the replica follows", || {
        tell(&nodes[3], "INFO replication").is_ok_and(|info| info.contains("master_link_status:up"))
            && nodes.iter().all(|node| tell(node, "CLUSTER INFO").is_ok_and(|info| info.contains("cluster_state:ok")))
    })?;
    Ok(nodes.into())
}

/// A node's own options. The lock on the bus's port goes once the node has it: another process that takes the number then finds
/// it in use.
fn as_node(bus: &Port) -> Vec<String> {
    let bus = bus.number().to_string();
    let options = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--cluster-port", &bus];
    options.map(str::to_owned).into()
}

/// `more` are options, which may need the server's folder.
fn start(
    kind: &str,
    ready: crate::process::Ready,
    more: impl FnOnce(&Path) -> Result<Vec<String>, Missing>,
) -> Result<Server, Missing> {
    let program = find::program("redis-server", &[]).ok_or_else(|| Missing::program("redis-server", INSTALL))?;
    let version = find::version(&program, "--version");
    let port = Port::reserve();
    let folder = folder("redis")?;
    let url = Url::new("redis", &format!(":{PASSWORD}"), port.address(), "");
    let (number, data, more) = (port.number().to_string(), folder.path().to_owned(), more(folder.path())?);
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

/// The port on which other nodes of the cluster speak to this one.
fn bus_of(node: &Server) -> Result<u16, Missing> {
    // `id host:port@bus flags …`, of the node itself.
    let nodes = tell(node, "CLUSTER NODES")?;
    let own = nodes.lines().find(|line| line.contains("myself")).and_then(|line| line.split(['@', ' ', ',']).nth(2));
    own.and_then(|bus| bus.parse().ok()).ok_or_else(|| Missing::new("a node does not say where its bus is".to_owned()))
}

/// One command to a node, and its answer.
fn tell(node: &Server, command: &str) -> Result<String, Missing> {
    let mut stream = TcpStream::connect(node.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let answer = ask(&mut stream, command)?;
    if answer.starts_with('-') {
        return Err(Missing::new(format!("`{command}` is answered by {}", answer.trim())));
    }
    Ok(answer)
}

fn until(what: &str, so: impl Fn() -> bool) -> Result<(), Missing> {
    let end = Instant::now() + CLUSTER_WITHIN;
    while !so() {
        if Instant::now() > end {
            return Err(Missing::new(format!("not within {} s: {what}", CLUSTER_WITHIN.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
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
