//! The last resort: a service of the repository's `docker-compose.yml`, where a Docker engine answers.
//!
//! Such a server stays when the test ends, with its data, for the next one; `docker compose down` ends it. It cannot be
//! restarted from here.

use crate::server::{Missing, Server};
use crate::{find, given};
use std::path::Path;
use std::process::Command;

/// Starts the service and waits until its health check passes. The URL is the one that the file gives it.
pub(crate) fn start(service: &str, kind: &str, url: &str) -> Result<Server, Missing> {
    let docker = find::program("docker", &[]).ok_or_else(|| Missing::new("there is no Docker either"))?;
    start_with(&docker, service, kind, url)
}

fn start_with(docker: &Path, service: &str, kind: &str, url: &str) -> Result<Server, Missing> {
    find::run(Command::new(docker).args(["info", "--format", "{{.ServerVersion}}"]))
        .map_err(|_| Missing::new("no Docker engine answers either"))?;
    let file = find::repository().join("docker-compose.yml");
    find::run(Command::new(docker).arg("compose").arg("--file").arg(file).args(["up", "--detach", "--wait", service]))?;
    given::connect("docker-compose.yml", kind, url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `docker` that writes down how it is called and answers so.
    fn docker(folder: &Path, answer: &str) -> std::path::PathBuf {
        let program = folder.join("docker");
        let calls = folder.join("calls");
        let text = folder.join("docker.sh");
        std::fs::write(&text, format!("#!/bin/sh\necho \"$@\" >>{}\n{answer}\n", calls.display())).expect("written");
        // Not written by this process: a program that is open for writing, in a child of another test too, does not start.
        find::run(Command::new("install").args(["-m", "755"]).arg(&text).arg(&program)).expect("a program");
        program
    }

    #[test]
    fn a_service_is_brought_up_and_found_at_its_address() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let docker = docker(folder.path(), "exit 0");
        let server = start_with(&docker, "redis", "Redis", &format!("redis://{address}")).expect("a server");
        assert_eq!((server.address(), server.can_restart()), (address, false));
        let calls = std::fs::read_to_string(folder.path().join("calls")).expect("its calls");
        assert!(calls.ends_with("docker-compose.yml up --detach --wait redis\n"), "{calls}");
    }

    #[test]
    fn without_an_engine_nothing_is_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        let docker = docker(folder.path(), "exit 1");
        let missing = start_with(&docker, "redis", "Redis", "redis://127.0.0.1:1").expect_err("no server");
        assert_eq!(missing.to_string(), "no Docker engine answers either");
        let calls = std::fs::read_to_string(folder.path().join("calls")).expect("its calls");
        assert_eq!(calls.lines().count(), 1, "{calls}");
    }
}
