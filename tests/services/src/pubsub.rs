//! Google Pub/Sub: the emulator of the Google Cloud CLI, else `pstest`, the in-memory server of Google's own Go client.
//!
//! Both keep everything in memory: topics and subscriptions are gone after a restart.

use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{find, http};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

const INSTALL: &str =
    "install the package google-cloud-cli-pubsub-emulator and Java, or Go and run tests/services/install.sh";

/// Below the folder of the Google Cloud CLI.
const EMULATOR: &str = "platform/pubsub-emulator/bin/cloud-pubsub-emulator";

/// Names the emulator's program where nothing else leads to it.
const VARIABLE: &str = "SANDPOST_TEST_PUBSUB_EMULATOR";

pub(crate) fn start() -> Result<Server, Missing> {
    match emulator() {
        Some(program) if find::program("java", &[]).is_some() => start_emulator(program),
        _ => start_pstest(),
    }
}

pub(crate) fn start_pstest() -> Result<Server, Missing> {
    let program = find::services_folder().join("bin/pstest");
    if !program.is_file() {
        return Err(Missing::program("a Pub/Sub emulator", INSTALL));
    }
    let version = find::version(&program, "-version");
    let port = Port::reserve();
    let number = port.number().to_string();
    let command = move || {
        let mut command = Command::new(&program);
        command.args(["-host", "127.0.0.1", "-port", &number]);
        command
    };
    run(
        "Pub/Sub (pstest)",
        version,
        port,
        Recipe { command: Box::new(command), stop: Signal::TERM, ready: speaks_http2 },
    )
}

fn start_emulator(program: PathBuf) -> Result<Server, Missing> {
    let port = Port::reserve();
    let number = port.number();
    let version = emulator_version(&program);
    let command = move || {
        let mut command = Command::new(&program);
        command.args(["--host=127.0.0.1".to_owned(), format!("--port={number}")]);
        command
    };
    run("Pub/Sub emulator", version, port, Recipe { command: Box::new(command), stop: Signal::TERM, ready: says_ok })
}

fn run(kind: &str, version: String, port: Port, recipe: Recipe) -> Result<Server, Missing> {
    let url = Url::new("", "", port.address(), "");
    Ok(Server::started(kind, version, url, Process::start_new(port, folder("pubsub")?, recipe)?))
}

/// Its script: as the environment names it, on the `PATH`, or in the folder of a Google Cloud CLI.
fn emulator() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Some(named.into());
    }
    let beside_gcloud = find::program("gcloud", &[])
        .and_then(|gcloud| gcloud.canonicalize().ok())
        .and_then(|gcloud| Some(gcloud.parent()?.parent()?.join(EMULATOR)));
    find::program("cloud-pubsub-emulator", &[])
        .into_iter()
        .chain([PathBuf::from("/usr/lib/google-cloud-sdk").join(EMULATOR)])
        .chain(beside_gcloud)
        .find(|file| file.is_file())
}

/// From the name of its archive, `cloud-pubsub-emulator-0.8.20-all.jar`: the program does not say it.
fn emulator_version(program: &std::path::Path) -> String {
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let library = program.parent().and_then(|bin| Some(bin.parent()?.join("lib"))).unwrap_or_default();
    let entries = std::fs::read_dir(library).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with("cloud-pubsub-emulator"))
        .and_then(|name| find::dotted_number(&name))
        .unwrap_or_else(|| "of unknown version".to_owned())
}

/// Its first frame after the client's preface is its settings (type 4).
fn speaks_http2(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame)?;
    Ok(frame[3] == 4)
}

fn says_ok(stream: &mut TcpStream) -> std::io::Result<bool> {
    http::answers(stream, "/")
}
