//! The documents port over SQLite: a stated subset of MongoDB's query and update language, with MongoDB's meaning.
//!
//! What there is
//! - Filters: `$eq $ne $gt $gte $lt $lte $in $nin $exists $type $regex $options $all $size $elemMatch $not $and $or
//!   $nor`, implicit equality, dotted paths through arrays.
//! - Updates: `$set $unset $inc $mul $min $max $rename $push` (with `$each $position $slice`) `$pull $addToSet` (with
//!   `$each`) `$currentDate $setOnInsert`, upserts, replacements.
//! - Sort, projection by inclusion or exclusion, skip, limit.
//! - Pipelines: `$match $sort $skip $limit $group` (`$sum $avg $min $max $first $last $push $addToSet $count`) `$project
//!   $count`.
//! - Plain and unique indexes, compound too. They serve equality and `$in`.
//!
//! Invariants
//! - What is not in the list is refused by name; what is in it means what it means in MongoDB.
//! - A call that changes something is one SQLite transaction. Only `insert` of several keeps what came before a failure,
//!   as MongoDB does.
//! - Everything is bounded: documents looked at, memory of sorts and groups, size and depth of a document.
//!
//! The language (`value` to `aggregate`) is pure: no I/O, no clock. Not here: which collections a plugin may use
//! (`interfaces`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]
#![cfg_attr(test, allow(clippy::needless_pass_by_value, reason = "the rows of a table of cases are values"))]

mod config;
mod driver;

mod collection;
mod store;

mod value;

mod extjson;
mod path;

mod filter;
mod regex;

mod update;

mod projection;
mod sort;

mod aggregate;

#[cfg(test)]
mod tests;

pub use config::{Config, OpenError};
pub use driver::{SqliteDocuments, open};
