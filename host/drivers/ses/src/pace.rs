//! Recipients per second: one bucket, in this process or shared between hosts.
//!
//! Turns are spread evenly: a mail to *n* recipients takes *n* / rate seconds of the line, and the next one goes after it.
//! So no second has more than the rate and one mail, and a mail to more recipients than the rate goes too.

use sandpost_ports::PortError;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A bucket. Shared by all hosts where it lies in a store that they share.
#[async_trait::async_trait]
pub trait Pace: Send + Sync {
    /// Takes `recipients` out of a bucket that fills with `per_second`, if their turn comes within `wait_max`. Where the
    /// store does not answer this host paces itself alone.
    async fn take(&self, recipients: u32, per_second: f64, wait_max: Duration) -> Result<Turn, PortError>;
}

/// When it is a mail's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// After this wait. Taken: what is not sent then is lost to others.
    After(Duration),
    /// Not within what it would wait; nothing was taken. Worth another try after this long.
    NotBefore(Duration),
}

/// A bucket of this process alone.
#[derive(Debug, Default)]
pub struct LocalPace {
    /// When the line is free; none as long as it was never used.
    free_at: Mutex<Option<Instant>>,
}

impl LocalPace {
    /// The same without waiting for a store.
    pub fn take_now(&self, recipients: u32, per_second: f64, wait_max: Duration) -> Turn {
        let now = Instant::now();
        let takes = Duration::try_from_secs_f64(f64::from(recipients) / per_second).unwrap_or(Duration::MAX);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn_at = free_at.map_or(now, |at| at.max(now));
        let wait = turn_at - now;
        if wait > wait_max {
            return Turn::NotBefore(wait);
        }
        *free_at = turn_at.checked_add(takes).or(*free_at);
        Turn::After(wait)
    }
}

#[async_trait::async_trait]
impl Pace for LocalPace {
    async fn take(&self, recipients: u32, per_second: f64, wait_max: Duration) -> Result<Turn, PortError> {
        Ok(self.take_now(recipients, per_second, wait_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn after(ms: u64) -> Turn {
        Turn::After(Duration::from_millis(ms))
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_spread_evenly_and_recipients_count() {
        let pace = LocalPace::default();
        assert_eq!(pace.take_now(1, 10.0, LONG), after(0));
        assert_eq!(pace.take_now(1, 10.0, LONG), after(100));
        assert_eq!(pace.take_now(50, 10.0, LONG), after(200));
        assert_eq!(pace.take_now(1, 10.0, LONG), after(5_200));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(pace.take_now(1, 10.0, LONG), after(0), "what was not used is not saved up");
        assert_eq!(pace.take_now(1, 10.0, LONG), after(100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_takes_nothing() {
        let pace = LocalPace::default();
        let short = Duration::from_secs(1);
        assert_eq!(pace.take_now(3, 1.0, short), after(0));
        assert_eq!(pace.take_now(1, 1.0, short), Turn::NotBefore(Duration::from_secs(3)));
        assert_eq!(pace.take_now(1, 1.0, short), Turn::NotBefore(Duration::from_secs(3)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pace.take_now(1, 1.0, short), after(1_000));
    }
}
