//! MongoDB, or the best there is that speaks its protocol: `mongod`, else FerretDB over SQLite, else `nx-27017`.
//!
//! [`crate::Server::kind`] says which one it is. What the other two cannot do as MongoDB does is in `docs/services`.

use crate::certificate::{self, Certificate};
use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{find, python};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALL: &str = "install mongod, or Go or Python and run tests/services/install.sh";

pub(crate) fn start() -> Result<Server, Missing> {
    let ferretdb = ferretdb();
    if let Some(program) = find::program("mongod", &[]) {
        let version = find::version(&program, "--version");
        run("MongoDB", version, move |port, folder| {
            let mut command = Command::new(&program);
            command.args(["--bind_ip", "127.0.0.1", "--port", port, "--dbpath"]).arg(folder);
            command
        })
    } else if ferretdb.is_file() {
        run("FerretDB", ferretdb_version(), move |port, folder| ferretdb_on(&ferretdb, port, folder))
    } else {
        start_nx()
    }
}

/// TLS is on a port of its own: the other one tells when it is ready.
pub(crate) fn with_tls() -> Result<Server, Missing> {
    let program = ferretdb();
    if !program.is_file() {
        return Err(Missing::program("FerretDB", INSTALL));
    }
    let (tls, certificates) = (Port::reserve(), folder("mongo-tls")?);
    let Certificate { authority, certificate, key } = certificate::issue(certificates.path())?;
    let address = tls.address();
    let server = run("FerretDB", ferretdb_version(), move |port, folder| {
        let mut command = ferretdb_on(&program, port, folder);
        let files = [("--listen-tls-cert-file", &certificate), ("--listen-tls-key-file", &key)];
        command.arg(format!("--listen-tls={address}"));
        command.args(files.map(|(option, path)| format!("{option}={}", path.display())));
        // Theirs as long as it may be started again.
        let _kept = &certificates;
        command
    })?;
    let rest = format!("/?directConnection=true&tls=true&tlsCAFile={}", authority.display());
    let url = Url::new("mongodb", "", address, &rest);
    Ok(server
        .with_authority(Some(authority))
        .with_url(Url { host_and_port: format!("localhost:{}", tls.number()), ..url }))
}

fn ferretdb() -> PathBuf {
    find::services_folder().join("bin/ferretdb")
}

fn ferretdb_on(program: &Path, port: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--handler=sqlite", "--telemetry=disable", "--debug-addr=-", "--log-level=warn"])
        .arg(format!("--listen-addr=127.0.0.1:{port}"))
        .arg(format!("--sqlite-url=file:{}/", folder.display()))
        .arg(format!("--state-dir={}", folder.display()));
    command
}

pub(crate) fn start_nx() -> Result<Server, Missing> {
    let program = python::program("nx-27017").ok_or_else(|| Missing::program("a MongoDB server", INSTALL))?;
    run("nx-27017", python::version("nx-27017"), move |port, folder| {
        let mut command = Command::new(&program);
        // By default it is one for the whole machine; one that a SIGKILL left keeps the next start off.
        let pid_file = folder.join("pid");
        drop(std::fs::remove_file(&pid_file));
        command.args(["--host", "127.0.0.1", "-p", port, "--db"]).arg(folder.join("documents.db"));
        command.arg("--pid-file").arg(pid_file);
        command
    })
}

fn run(
    kind: &str,
    version: String,
    command: impl Fn(&str, &Path) -> Command + Send + 'static,
) -> Result<Server, Missing> {
    let port = Port::reserve();
    let folder = folder("mongo")?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    let url = Url::new("mongodb", "", port.address(), "/?directConnection=true");
    let number = port.number().to_string();
    let recipe =
        Recipe { command: Box::new(move || command(&number, &data)), stop: Signal::TERM, ready: answers_hello };
    Ok(Server::started(kind, version, url, Process::start_new(port, folder, recipe)?))
}

/// The one that `tests/services/ferretdb` is built from: built from its module, the program does not know it.
fn ferretdb_version() -> String {
    let modules = std::fs::read_to_string(find::repository().join("tests/services/ferretdb/go.mod"));
    let modules = modules.unwrap_or_default();
    let line = modules.lines().find(|line| line.contains("github.com/FerretDB/FerretDB v"));
    line.and_then(find::dotted_number).unwrap_or_else(|| "of unknown version".to_owned())
}

/// An OP_MSG with `{hello: 1, $db: "admin"}` is answered with an OP_MSG.
fn answers_hello(stream: &mut TcpStream) -> std::io::Result<bool> {
    const OP_MSG: [u8; 4] = 2013_u32.to_le_bytes();
    const HELLO: &[u8] = b"\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
    let length = u32::try_from(16 + 4 + 1 + HELLO.len()).unwrap_or_default();
    let mut message = length.to_le_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(&OP_MSG);
    message.extend_from_slice(&[0; 5]);
    message.extend_from_slice(HELLO);
    stream.write_all(&message)?;
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    Ok(head[12..] == OP_MSG)
}
