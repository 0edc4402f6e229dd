//! Dispatch against a broker, a state and plugins in memory, under a clock that the tests move.
//!
//! But for `embedded`, everything runs on one thread and no test waits for real time: a test moves the clock, and looks until what it expects
//! has happened or a bounded number of turns is over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod embedded;
mod failures;
mod fakes;
mod flow;
mod housekeeping;
mod resting;
mod routing;
mod soak;
mod spans;
mod stopping;
mod verdicts;
mod world;
