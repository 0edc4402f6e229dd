//! MariaDB, in the place of MySQL: the same protocol, from the system's packages.

use crate::certificate::{self, Certificate};
use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{PASSWORD, USER, find, template};
use rustix::process::Signal;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

const INSTALL: &str = "apt-get install mariadb-server";

/// Kept small: a test writes little, and each server has a copy.
const LOG_FILE: &str = "--innodb-log-file-size=8M";

pub(crate) fn start(tls: bool) -> Result<Server, Missing> {
    let program = find::program("mariadbd", &[]).ok_or_else(|| Missing::program("mariadbd", INSTALL))?;
    let install_db =
        find::program("mariadb-install-db", &[]).ok_or_else(|| Missing::program("mariadb-install-db", INSTALL))?;
    let version = find::version(&program, "--version");
    let port = Port::reserve();
    let folder = folder("mariadb")?;
    let data = folder.path().join("data");
    template::fill(&format!("mariadb-{version}"), &data, |data| {
        let mut command = Command::new(&install_db);
        command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", LOG_FILE]);
        command.arg(joined("--datadir=", data)).args(as_root());
        find::run(&mut command)
    })?;

    // Run at each start before the first connection is taken.
    let first = folder.path().join("first.sql");
    std::fs::write(
        &first,
        format!(
            "CREATE DATABASE IF NOT EXISTS sandpost CHARACTER SET utf8mb4;\n\
             CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        ),
    )?;

    let certificate = tls.then(|| certificate::issue(folder.path())).transpose()?;
    let authority = certificate.as_ref().map(|certificate| certificate.authority.clone());
    let url = Url::new("mysql", &format!("{USER}:{PASSWORD}"), port.address(), "/sandpost");
    let (number, root) = (port.number(), folder.path().to_owned());
    let command = move || {
        let mut command = Command::new(&program);
        command
            .args([
                "--no-defaults",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--character-set-server=utf8mb4",
            ])
            // Handed to the system at each commit, so that it is there after a SIGKILL; synced once a second.
            .args(["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M", LOG_FILE])
            .arg(format!("--port={number}"))
            .arg(joined("--datadir=", &data))
            .arg(joined("--socket=", &root.join("s.sock")))
            .arg(joined("--pid-file=", &root.join("pid")))
            .arg(joined("--init-file=", &first))
            .args(as_root());
        if let Some(Certificate { authority, certificate, key }) = &certificate {
            let tls = [("--ssl-ca=", authority), ("--ssl-cert=", certificate), ("--ssl-key=", key)];
            command.args(tls.map(|(option, path)| joined(option, path)));
        }
        command
    };
    let recipe = Recipe { command: Box::new(command), stop: Signal::TERM, ready: greets };
    let process = Process::start_new(port, folder, recipe)?;
    Ok(Server::started("MariaDB", version, url, process).with_authority(authority))
}

/// It refuses root unless it is told so.
fn as_root() -> Option<&'static str> {
    find::is_root().then_some("--user=root")
}

fn joined(option: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(option);
    argument.push(path);
    argument
}

/// Its first packet is the greeting of protocol 10.
fn greets(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    Ok(head[4] == 10)
}
