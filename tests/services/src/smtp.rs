//! A mail server that delivers everything into a Maildir: `tests/services/smtp/server.py`, over aiosmtpd.
//!
//! It offers STARTTLS, or TLS from the first byte, and AUTH for [`USER`]; recipients make it answer with an error, see its
//! first lines.

use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{PASSWORD, USER, find, python};
use rustix::process::Signal;
use std::io::Read as _;
use std::net::TcpStream;
use std::process::Command;

pub(crate) fn start(implicit_tls: bool) -> Result<Server, Missing> {
    let python = python::program("python3")
        .filter(|_| python::program("aiosmtpd").is_some())
        .ok_or_else(|| Missing::program("aiosmtpd", "install Python and run tests/services/install.sh"))?;
    let script = find::repository().join("tests/services/smtp/server.py");
    let port = Port::reserve();
    let folder = folder("smtp")?;
    let (data, number) = (folder.path().to_owned(), port.number().to_string());
    let scheme = if implicit_tls { "smtps" } else { "smtp" };
    let url = Url::new(scheme, &format!("{USER}:{PASSWORD}"), port.address(), "");
    let (mails, authority) = (data.join("mail"), data.join("ca.pem"));
    let command = move || {
        let mut command = Command::new(&python);
        command.arg(&script).args(["--port", &number, "--folder"]).arg(&data);
        command.args(implicit_tls.then_some("--implicit-tls"));
        command
    };
    let ready = if implicit_tls { takes_connections } else { greets };
    let recipe = Recipe { command: Box::new(command), stop: Signal::TERM, ready };
    let process = Process::start_new(port, folder, recipe)?;
    Ok(Server::started("aiosmtpd", python::version("aiosmtpd"), url, process)
        .with_mails(mails)
        .with_authority(Some(authority)))
}

fn greets(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut code = [0; 4];
    stream.read_exact(&mut code)?;
    Ok(code == *b"220 ")
}

/// Without TLS there is no more to ask: who took the connection, serves.
#[expect(clippy::unnecessary_wraps, reason = "it is asked like any other server")]
fn takes_connections(_: &mut TcpStream) -> std::io::Result<bool> {
    Ok(true)
}
