//! The command line: what there is to say, as types. What it does is in `commands/*`.

use crate::client::Target;
use crate::config::services;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::sync::LazyLock;

/// Runs notification handlers and e-mail templates as sandboxed WebAssembly plugins, and swaps them while messages flow
#[derive(Debug, Parser)]
#[command(
    name = "sandpost",
    version,
    long_version = long_version(),
    after_help = "Exit codes: 0 done · 1 the host refused · 64 wrong command line · 65 a plugin was refused · \
                  69 not reachable · 70 a fault of this program · 78 wrong configuration\n\
                  Data goes to standard output, everything else to standard error.",
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The version with the drivers that this build has.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{}\ndrivers: {}", env!("CARGO_PKG_VERSION"), services::built()));
    &TEXT
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the host until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Build plugins from source, run the host on them, and rebuild what changes
    Dev(Dev),
    /// Build a plugin into one file: the component with its manifest inside
    Build(Build),
    /// Show what a plugin exports, imports and asks for, against what it is granted
    Explain(Explain),
    /// Publish a message to a running host
    Publish(Publish),
    /// List the plugins of a running host
    Plugins(Target),
    /// List, read, replay or discard dead letters of a running host
    DeadLetters(DeadLetters),
    /// Show the configuration in force with its origins, and check what can be checked
    Doctor(ConfigFile),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file; without it `sandpost.toml` of this folder if there is one, else defaults
    #[arg(long, env = "SANDPOST_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Folders with a `plugin.toml`, or folders of such folders
    #[arg(default_value = "plugins", value_name = "FOLDER")]
    pub(crate) sources: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// The folder with `plugin.toml`
    #[arg(default_value = ".", value_name = "FOLDER")]
    pub(crate) source: PathBuf,
    /// Take this component instead of building one with Cargo: for plugins in other languages
    #[arg(long, value_name = "FILE")]
    pub(crate) component: Option<PathBuf>,
    /// Where to put NAME.wasm
    #[arg(long, short, default_value = ".", value_name = "FOLDER")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The plugin file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Where to
    pub(crate) topic: String,
    /// The body; standard input where it is left out or `-`
    pub(crate) body: Option<String>,
    /// Its MIME type
    #[arg(long, default_value = "application/json", value_name = "TYPE")]
    pub(crate) content_type: String,
    /// An attribute; may be repeated
    #[arg(long = "attribute", short = 'a', value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) attributes: Vec<(String, String)>,
    /// Messages that share a key are handled one at a time, in order
    #[arg(long, value_name = "KEY")]
    pub(crate) ordering_key: Option<String>,
    /// Not before this much time
    #[arg(long, value_name = "MS")]
    pub(crate) delay_ms: Option<u64>,
    /// Publishing again with the same key answers the first answer
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) action: DeadLetterAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterAction {
    /// Newest first
    List {
        /// Of this subscription
        #[arg(long)]
        subscription: Option<String>,
        /// Of this topic
        #[arg(long)]
        topic: Option<String>,
        /// With this cause: rejected, attempts-exhausted, no-handler, outcome-unknown
        #[arg(long)]
        cause: Option<String>,
        /// At most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One, with its message
    Show {
        /// Which
        id: String,
    },
    /// Send one back to its subscription
    Replay {
        /// Which
        id: String,
        /// What became of an effect whose outcome is unknown
        #[arg(long, value_enum)]
        unknown_effects: Option<UnknownEffects>,
    },
    /// Delete one
    Discard {
        /// Which
        id: String,
    },
}

/// An operator's word about an effect that nobody knows about.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum UnknownEffects {
    /// It did not happen: do it again
    SendAgain,
    /// It happened: do not do it again
    TreatAsDone,
}

impl UnknownEffects {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::SendAgain => "send-again",
            Self::TreatAsDone => "treat-as-done",
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_attribute_is_a_pair() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("a").is_err());
        assert!(pair("=a").is_err());
    }
}
