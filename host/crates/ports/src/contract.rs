//! The contract suites: what every driver of a port keeps, one file a port.
//!
//! A driver's tests call `contract::<port>::check` on a real instance of it. A suite makes all that it needs under
//! random names, so it runs in parallel, again and on a service in use.
//!
//! Not here: what only one driver does; that is tested beside it.

pub mod broker;
pub mod cache;
pub mod documents;
pub mod email;
pub mod sql;
pub mod state;

use std::hash::{BuildHasher, Hasher, RandomState};

/// A name that nobody else has: letters, digits and `_`, at most 40 characters.
pub(crate) fn random_name(prefix: &str) -> String {
    // `RandomState` is seeded by the system; that is random enough for a name, and needs no dependency.
    format!("{prefix}_{:016x}", RandomState::new().build_hasher().finish())
}
