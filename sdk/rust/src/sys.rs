//! What every module calls the host through: the generated bindings in a plugin, the fakes everywhere else.
//!
//! Both sides have the same functions; nothing outside this folder and `testing` knows which one it is.

#[cfg(target_arch = "wasm32")]
pub(crate) mod guest;
#[cfg(target_arch = "wasm32")]
pub(crate) use guest::*;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::fakes::*;

/// When `cache::set` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    IfAbsent,
    IfPresent,
}
