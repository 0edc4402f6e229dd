//! Plugins over wasmtime: one file is compiled once, checked against its grants, tried on its samples beside the old
//! version, switched to, and run within limits, a fresh instance for every message.
//!
//! The way in is [`Deployer`]; the way out is [`Registry`], which the rest of the host knows as
//! [`Plugins`](sandpost_ports::plugins::Plugins) and plugins as [`Templates`](sandpost_interfaces::Templates).
//!
//! Invariants
//! - A version that failed any step never serves; what was live before goes on.
//! - Whoever holds a handler ends its work on that version, whatever is deployed meanwhile.
//! - A guest runs on the guest threads alone, and is ended by the I/O runtime's timers; it can end neither the host nor
//!   another guest, and ends with one of the reasons of [`FaultKind`](sandpost_message::FaultKind).
//! - No state of one call is seen by another.
//!
//! Not here: what a plugin may import (`interfaces`), what follows from a verdict (`dispatch`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod artifact;
mod deploy;
mod engine;
mod explain;
mod folder;
mod guest;
mod instance;
mod limits;
mod manifest;
mod pace;
mod plugins;
mod priority;
mod trial;
mod version;
mod waste;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use artifact::{ArtifactError, Artifacts, digest_of};
pub use deploy::{Deployed, Deployer, GrantPolicy, Options, Prepared, Refused, Settings, Step};
pub use engine::{Engine, EngineConfig, EngineError};
pub use explain::{Explanation, explain};
pub use folder::{Folder, FolderConfig, FolderError};
pub use limits::{Limits, LimitsError};
pub use manifest::{
    Expected, Given, GivenDocument, GivenScript, Manifest, ManifestError, SECTION, Sample, embed, read,
};
pub use plugins::Registry;
pub use trial::{Scratch, ScratchPorts};
