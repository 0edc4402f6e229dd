//! Dispatch and effects under a seeded simulation: the production code of `sandpost-dispatch` and of the effects in
//! `sandpost-interfaces`, in virtual time, over services that lose answers, refuse, keep silent, are slow, forget leases
//! and deliver twice, on hosts that crash between any two events.
//!
//! The seed decides everything; the same seed gives the same trace. What comes of a run is held against what the services
//! saw, not against what the host says.
//!
//! Not here: the embedded store (its threads are not the simulation's; `tests/tests/kill.rs` kills it), wasmtime.
//!
//! Reading order: [`run`], `plan`, `sim`, `host`, `handler`, the services, `facts`, `check`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod broker;
mod chance;
mod check;
mod facts;
mod handler;
mod host;
mod plan;
mod run;
mod sim;
mod state;

pub use plan::Options;
pub use run::{Report, Tally, run};

/// A line for the person who replays a seed.
#[allow(clippy::print_stdout, reason = "the trace of a seed is what was asked for")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
