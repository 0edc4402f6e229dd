//! What the crate promises, with guests of a few lines.

mod calls;
mod deploying;
mod folder;
mod swapping;
