//! The WIT interface `cache`.

use super::handler::sandpost::plugin::cache as wit;
use crate::error::HostError;
use crate::sys::Condition;

pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, HostError> {
    Ok(wit::get(key)?)
}

pub(crate) fn get_many(keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, HostError> {
    Ok(wit::get_many(keys)?)
}

pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>, condition: Condition) -> Result<bool, HostError> {
    let condition = match condition {
        Condition::Always => wit::Condition::Always,
        Condition::IfAbsent => wit::Condition::IfAbsent,
        Condition::IfPresent => wit::Condition::IfPresent,
    };
    Ok(wit::set(key, value, ttl_ms, condition)?)
}

pub(crate) fn set_many(entries: &[(String, Vec<u8>)], ttl_ms: Option<u64>) -> Result<(), HostError> {
    Ok(wit::set_many(entries, ttl_ms)?)
}

pub(crate) fn take(key: &str) -> Result<Option<Vec<u8>>, HostError> {
    Ok(wit::take(key)?)
}

pub(crate) fn delete(keys: &[String]) -> Result<u64, HostError> {
    Ok(wit::delete(keys)?)
}

pub(crate) fn delete_prefix(prefix: &str) -> Result<u64, HostError> {
    Ok(wit::delete_prefix(prefix)?)
}

pub(crate) fn exists(key: &str) -> Result<bool, HostError> {
    Ok(wit::exists(key)?)
}

pub(crate) fn expire(key: &str, ttl_ms: u64) -> Result<bool, HostError> {
    Ok(wit::expire(key, ttl_ms)?)
}

pub(crate) fn ttl(key: &str) -> Result<Option<u64>, HostError> {
    Ok(wit::ttl(key)?)
}

pub(crate) fn increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, HostError> {
    Ok(wit::increment(key, by, ttl_ms)?)
}
