//! The program `sandpost`: command line, configuration, the table of drivers, and the wiring in the order in which a
//! message meets the parts.
//!
//! Not here: anything that happens to a message; that is in the crates below `host/crates`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod app;
mod cli;
mod client;
mod commands;
mod config;
mod drivers;
mod exit;
mod health;
mod output;
mod scratch;
mod signals;
mod traces;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use exit::{Exit, Expected};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any client is made: the drivers' TLS is ring, and some of them have no other way to learn of it. A second
    // provider could only come from a driver that broke this rule.
    #[cfg(feature = "tls")]
    rustls::crypto::ring::default_provider().install_default().ok();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // A reader that went away is not an error.
            error.print().ok();
            return if wrong { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    let json = cli.json;
    match obey(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, json),
    }
}

fn obey(Cli { command, json }: Cli) -> Result<(), Expected> {
    match command {
        Command::Run(config) => commands::run::run(config.config.as_deref()),
        Command::Dev(arguments) => commands::dev::dev(&arguments),
        Command::Build(arguments) => commands::build::build(&arguments, json),
        Command::Explain(arguments) => commands::explain::explain(&arguments, json),
        Command::Publish(arguments) => commands::publish::publish(arguments, json),
        Command::Plugins(target) => commands::plugins::plugins(&target, json),
        Command::DeadLetters(arguments) => commands::dead_letters::dead_letters(arguments, json),
        Command::Doctor(config) => commands::doctor::doctor(config.config.as_deref(), json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sandpost", &mut script);
            output::data(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}
