//! `docker-compose.yml` as Docker Compose itself reads it, where it is installed.

use std::path::Path;
use std::process::{Command, Stdio};

fn compose(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.arg("compose").args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

#[test]
fn the_file_is_what_docker_compose_takes() {
    let version = compose(&["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        sandpost_services::not_checked("docker-compose.yml", "`docker compose` is not installed");
        return;
    }
    let output = compose(&["--profile", "*", "config", "--quiet"]).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
