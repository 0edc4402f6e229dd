//! What plugins import: each WIT interface over the port behind it, a file an interface.
//!
//! A host call is checked in this order: the call's own limits (a fault ends the guest), the grant (`denied`), the
//! arguments (`invalid`), then the port. Ports know nothing of plugins, and plugins nothing of ports.
//!
//! Invariants
//! - Grants are checked in [`grants`] and nowhere else.
//! - An effect is handed over once for its key ([`effects`]), whatever becomes of the guest that asked for it.
//! - What the operator alone may read (a port error's source) goes to the log, never to the guest.
//! - Nothing of one call is seen by another: resources, counts and budgets live in its [`Call`].
//!
//! Not here: engine, instances, memory and time of a guest (`runtime`); what a verdict leads to (`dispatch`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

pub mod bindings;
mod cache;
mod call;
mod config;
mod documents;
pub mod effects;
mod email;
pub mod grants;
mod health;
mod log;
mod pubsub;
mod sql;
mod templates;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use call::{Call, CallLimits, CallReport, ConnectionHealth, Context, Ports, Postponed};
pub use grants::{Grants, Needs};
pub use templates::{RenderScope, Templates};

use wasmtime::component::{HasSelf, Linker};

/// Links every interface of world `imports`, once an engine. `get` finds the [`Call`] in the store's data.
///
/// All are linked whatever a plugin was granted: a call without a grant is answered with `denied`, and
/// [`grants::needs`] tells before a deployment what will be.
pub fn add_to_linker<T: Send + 'static>(linker: &mut Linker<T>, get: fn(&mut T) -> &mut Call) -> wasmtime::Result<()> {
    use bindings::{cache, config, documents, email, health, log, pubsub, sql, templates};
    log::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    config::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    health::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    cache::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    pubsub::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    email::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    sql::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    documents::add_to_linker::<T, HasSelf<Call>>(linker, get)?;
    templates::add_to_linker::<T, HasSelf<Call>>(linker, get)
}
