//! A bucket that several hosts take from: so many a second, all of them together.
//!
//! It is a line and no store of tokens: turns are spread evenly, and what was not used is not saved up. So no second has more
//! than the rate and one taking, and a taking of more than the rate goes too.
//!
//! Invariants
//! - Taking is one step on the server, by the server's clock: hosts' clocks do not matter.
//! - The key ends by itself a second after the line is free.
//! - A taking whose answer is lost may have taken; its turn is then nobody's. Nothing is sent twice here.
//!
//! Not here: what is paced, and what a host does while Redis is away.

use crate::errors::Effect;
use crate::link::Link;
use redis::Script;
use sandpost_ports::PortError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How much of the line one taking may be. A longer one is taken as this long, so that a rate near zero cannot keep the line
/// for ever.
const TAKING_MAX: Duration = Duration::from_hours(24);

/// `KEYS[1]` holds when the line is free and when that was written, in microseconds. Should the server's clock have gone
/// back since (it was set, or a replica took over), the line moves back with it. A script's numbers are exact below 2^53,
/// which is the year 2255 here.
const TAKE: &str = r"
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
    local free = now
    local at, written = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
    if at then
        free = tonumber(at) - math.max(tonumber(written) - now, 0)
    end
    local wait = math.max(free - now, 0)
    if wait > tonumber(ARGV[2]) then
        return {0, wait}
    end
    local takes = wait + tonumber(ARGV[1])
    local kept = string.format('%.0f %.0f', now + takes, now)
    redis.call('SET', KEYS[1], kept, 'PX', string.format('%.0f', math.ceil(takes / 1000) + 1000))
    return {1, wait}";

/// A bucket under one key.
pub struct Bucket {
    link: Arc<Link>,
    key: String,
    take: Script,
}

/// When it is one's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// After this wait. Taken: what is not used then is lost to others.
    After(Duration),
    /// Not within what one would wait; nothing was taken. Worth another try after this long.
    NotBefore(Duration),
}

impl Bucket {
    pub(crate) fn new(link: Arc<Link>, key: String) -> Self {
        Self { link, key, take: Script::new(TAKE) }
    }

    /// Takes `amount` out of a bucket that fills with `per_second`, if their turn comes within `wait_max`. Whoever shares
    /// the bucket should name the same rate; each taking goes by its own.
    pub async fn take(&self, amount: u32, per_second: f64, wait_max: Duration) -> Result<Turn, PortError> {
        if !(per_second > 0.0 && per_second.is_finite()) {
            return Err(PortError::invalid("a bucket fills with more than nothing a second"));
        }
        let takes = Duration::try_from_secs_f64(f64::from(amount) / per_second).unwrap_or(TAKING_MAX).min(TAKING_MAX);
        let (taken, wait_us): (bool, u64) = self
            .link
            .call(Effect::Writes, async |mut line| {
                let mut call = self.take.prepare_invoke();
                call.key(&self.key).arg(micros(takes)).arg(micros(wait_max));
                call.invoke_async(&mut line).await
            })
            .await?;
        let wait = Duration::from_micros(wait_us);
        Ok(if taken { Turn::After(wait) } else { Turn::NotBefore(wait) })
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A wait past 2^53 microseconds (285 years) is as good as that.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(1 << 53)
}
