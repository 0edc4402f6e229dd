//! Postgres. It refuses to run as root, so there it runs as `nobody`.

use crate::certificate::{self, Certificate};
use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{PASSWORD, USER, find, template};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALL: &str = "apt-get install postgresql";

pub(crate) fn start(tls: bool) -> Result<Server, Missing> {
    let folders = package_folders();
    let program = find::program("postgres", &folders).ok_or_else(|| Missing::program("postgres", INSTALL))?;
    // The one beside it: two versions do not read each other's folders.
    let program = program.canonicalize()?;
    let initdb = program.with_file_name("initdb");
    let version = find::version(&program, "--version");
    let port = Port::reserve();
    let folder = folder("postgres")?;
    let data = folder.path().join("data");
    hand_over(folder.path())?;
    template::fill(&format!("postgres-{version}"), &data, |data| {
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD)?;
        hand_over(&password)?;
        let mut command = unprivileged(&initdb);
        command
            .args(["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(data);
        find::run(&mut command)
    })?;

    let certificate = tls.then(|| certificate::issue(folder.path())).transpose()?;
    if let Some(certificate) = &certificate {
        hand_over(&certificate.key)?;
    }
    let authority = certificate.as_ref().map(|certificate| certificate.authority.clone());
    let url = Url::new("postgres", &format!("{USER}:{PASSWORD}"), port.address(), "/postgres");
    let number = port.number().to_string();
    let command = move || {
        let mut command = unprivileged(&program);
        command.args(["-p", &number, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        // A process may be killed here, a machine is not: what was written is in the system's hands.
        command.args(["-c", "fsync=off", "-c", "shared_buffers=32MB", "-D"]).arg(&data);
        if let Some(Certificate { certificate, key, .. }) = &certificate {
            command.args(["-c", "ssl=on"]);
            for (setting, path) in [("ssl_cert_file", certificate), ("ssl_key_file", key)] {
                command.arg("-c").arg(format!("{setting}={}", path.display()));
            }
        }
        command
    };
    // SIGINT is its fast shutdown; on SIGTERM it waits for every client to leave.
    let recipe = Recipe { command: Box::new(command), stop: Signal::INT, ready: asks_for_the_password };
    let process = Process::start_new(port, folder, recipe)?;
    Ok(Server::started("Postgres", version, url, process).with_authority(authority))
}

/// `/usr/lib/postgresql/*/bin`, the newest first: Debian keeps the server's programs off the `PATH`.
fn package_folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))).collect()
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    // Somewhere that every user may be.
    command.current_dir("/");
    if find::is_root() {
        let (user, group) = find::nobody();
        command.uid(user).gid(group);
    }
    command
}

/// Makes a file or a folder that of the user that the server runs as.
fn hand_over(path: &Path) -> Result<(), Missing> {
    if find::is_root() {
        let (user, group) = find::nobody();
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
    }
    Ok(())
}

/// While it starts or recovers it answers with an error (`E`), afterwards with a request for the password (`R`).
fn asks_for_the_password(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut hello = vec![0, 3, 0, 0];
    hello.extend_from_slice(format!("user\0{USER}\0database\0postgres\0\0").as_bytes());
    let length = u32::try_from(hello.len() + 4).unwrap_or_default();
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&hello)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    Ok(kind == *b"R")
}
