//! The state ports on the store, a file each. What is written goes through the writer, what is only shown through the
//! reader.

mod dead_letters;
mod deployments;
mod effects;
pub(crate) mod ledger;
mod requests;
