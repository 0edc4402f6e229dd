//! moto, the public emulator of AWS: whether the wire format of the SES driver is what others take for SES's.
//!
//! It keeps everything in memory, and takes any credentials.

use crate::port::Port;
use crate::process::{Process, Recipe, folder};
use crate::server::{Missing, Server, Url};
use crate::{http, python};
use rustix::process::Signal;
use std::net::TcpStream;
use std::process::Command;

pub(crate) fn start() -> Result<Server, Missing> {
    let program = python::program("moto_server")
        .ok_or_else(|| Missing::program("moto", "install Python and run tests/services/install.sh"))?;
    let port = Port::reserve();
    let url = Url::new("http", "", port.address(), "");
    let number = port.number().to_string();
    let command = move || {
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &number]);
        command
    };
    let recipe = Recipe { command: Box::new(command), stop: Signal::TERM, ready: serves };
    Ok(Server::started("moto", python::version("moto"), url, Process::start_new(port, folder("moto")?, recipe)?))
}

/// Its own page, which no service of AWS answers.
fn serves(stream: &mut TcpStream) -> std::io::Result<bool> {
    http::answers(stream, "/moto-api/data.json")
}
