//! The cache: values by key, each with a time to live.
//!
//! Keys are the plugin's own; the host adds the prefix and the scope. Values are JSON by serde, as the other programs
//! that share the cache write them; `…_bytes` has the bytes as they are.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::cache;
//! use std::time::Duration;
//!
//! # let host = sandpost_sdk::testing::Host::new();
//! # fn greeting() -> Result<()> {
//! let greeting: String = cache::get_or_set("greeting:1", Duration::from_secs(60), || {
//!     Ok::<_, Error>("hello".to_owned())
//! })?;
//! assert_eq!(cache::get::<String>("greeting:1")?.as_deref(), Some("hello"));
//!
//! // Of two callers, one redeems the token.
//! cache::set("token:abc", &42, Duration::from_secs(3600))?;
//! assert_eq!(cache::take::<u32>("token:abc")?, Some(42));
//! assert_eq!(cache::take::<u32>("token:abc")?, None);
//! # Ok(()) }
//! # greeting().unwrap();
//! ```

use crate::error::HostError;
use crate::json;
use crate::sys::{self, Condition};
use crate::time::millis;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

type Result<T> = std::result::Result<T, HostError>;

/// The value of `key`. [`HostError::Decode`] where it is there but is no `T`.
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    get_bytes(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// The values of `keys`, in their order, in one call.
pub fn get_many<T: DeserializeOwned>(keys: &[String]) -> Result<Vec<Option<T>>> {
    let found = sys::cache::get_many(keys)?;
    keys.iter().zip(found).map(|(key, bytes)| bytes.map(|bytes| decode(key, &bytes)).transpose()).collect()
}

/// The bytes of `key`, as they are.
pub fn get_bytes(key: &str) -> Result<Option<Vec<u8>>> {
    sys::cache::get(key)
}

/// Writes the value. Without a time to live it has the host's default, not for ever.
pub fn set<T: Serialize + ?Sized>(key: &str, value: &T, ttl: impl Into<Option<Duration>>) -> Result<()> {
    write(key, value, ttl.into(), Condition::Always).map(|_| ())
}

/// Writes the value where there is none; whether it did. Of two callers, one does.
pub fn set_if_absent<T: Serialize + ?Sized>(key: &str, value: &T, ttl: impl Into<Option<Duration>>) -> Result<bool> {
    write(key, value, ttl.into(), Condition::IfAbsent)
}

/// Writes the value where there is one already; whether it did.
pub fn set_if_present<T: Serialize + ?Sized>(key: &str, value: &T, ttl: impl Into<Option<Duration>>) -> Result<bool> {
    write(key, value, ttl.into(), Condition::IfPresent)
}

/// Writes several values, in one call.
pub fn set_many<'a, T: Serialize + 'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a T)>,
    ttl: impl Into<Option<Duration>>,
) -> Result<()> {
    let entries = entries.into_iter().map(|(key, value)| Ok((key.to_owned(), encode(key, value)?)));
    sys::cache::set_many(&entries.collect::<Result<Vec<_>>>()?, ttl.into().map(millis))
}

/// Writes the bytes as they are.
pub fn set_bytes(key: &str, value: &[u8], ttl: impl Into<Option<Duration>>) -> Result<()> {
    sys::cache::set(key, value, ttl.into().map(millis), Condition::Always).map(|_| ())
}

/// The value of `key`, or what `make` returns, which is then kept for `ttl`.
///
/// The cache only helps here: while it is down, or where it holds something that is no `T`, `make` is asked and a
/// warning is logged. A grant that is missing is an error all the same.
pub fn get_or_set<T, E>(
    key: &str,
    ttl: impl Into<Option<Duration>>,
    make: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E>
where
    T: Serialize + DeserializeOwned,
    E: From<HostError>,
{
    match get(key) {
        Ok(Some(value)) => return Ok(value),
        Ok(None) => {}
        Err(error) => pass_over(key, error)?,
    }
    let value = make()?;
    match set(key, &value, ttl) {
        Ok(()) => {}
        Err(error) => pass_over(key, error)?,
    }
    Ok(value)
}

/// Reads and deletes in one step: of two callers, one gets the value.
pub fn take<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    sys::cache::take(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// Deletes `key`; whether it was there.
pub fn delete(key: &str) -> Result<bool> {
    sys::cache::delete(&[key.to_owned()]).map(|count| count > 0)
}

/// Deletes all of `keys`; how many there were.
pub fn delete_many(keys: &[String]) -> Result<u64> {
    sys::cache::delete(keys)
}

/// Deletes what begins with `prefix`; how many. An empty prefix is refused.
pub fn delete_prefix(prefix: &str) -> Result<u64> {
    sys::cache::delete_prefix(prefix)
}

/// Whether `key` is there.
pub fn exists(key: &str) -> Result<bool> {
    sys::cache::exists(key)
}

/// Gives `key` a new time to live; whether it was there.
pub fn expire(key: &str, ttl: Duration) -> Result<bool> {
    sys::cache::expire(key, millis(ttl))
}

/// How long `key` still lives; none where it is not there.
pub fn ttl(key: &str) -> Result<Option<Duration>> {
    Ok(sys::cache::ttl(key)?.map(Duration::from_millis))
}

/// Adds `by` and returns the sum, in one step. `ttl` counts only where this call made the key.
pub fn increment(key: &str, by: i64, ttl: impl Into<Option<Duration>>) -> Result<i64> {
    sys::cache::increment(key, by, ttl.into().map(millis))
}

fn write<T: Serialize + ?Sized>(key: &str, value: &T, ttl: Option<Duration>, condition: Condition) -> Result<bool> {
    sys::cache::set(key, &encode(key, value)?, ttl.map(millis), condition)
}

fn encode<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Vec<u8>> {
    json::encode(value, format_args!("the value for cache key `{key}`"))
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    json::decode(bytes, format_args!("cache key `{key}`"))
}

/// Logs what the cache could not do, unless it is a fault of the plugin or its grants.
fn pass_over(key: &str, error: HostError) -> Result<()> {
    match error {
        HostError::Denied(_) | HostError::Invalid(_) => Err(error),
        error => {
            log::warn!("The cache is passed over for `{key}`: {error}.");
            Ok(())
        }
    }
}
