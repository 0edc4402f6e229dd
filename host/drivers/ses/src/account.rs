//! What is known of the account: its quota, its rate, and whether the line stands.
//!
//! The line stands for two reasons: the account itself says that sending is off (looked at from time to time, and at once
//! after a send was refused so), or a send was refused for what concerns every mail. The second lasts a while that doubles
//! with each refusal, and is forgotten with the first mail that goes.

use crate::Config;
use crate::error::Stop;
use aws_sdk_sesv2::operation::get_account::GetAccountOutput;
use sandpost_ports::email::{SendError, SendingQuota};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The quota of an account that has none: far above what anyone sends, and still a number to calculate with.
const UNLIMITED_PER_DAY: f64 = 1e9;
/// How SES says that there is none.
const NO_QUOTA: f64 = -1.0;

/// The account as it was seen last, with what this host sent since.
pub(crate) struct Account {
    state: Mutex<State>,
    warn_share: f64,
    poll: Duration,
    pause: (Duration, Duration),
}

#[derive(Default)]
struct State {
    seen: Option<SendingQuota>,
    /// Recipients that this host handed over, since it started.
    handed: f64,
    /// The same when the account was looked at.
    handed_at_look: f64,
    /// By the account itself.
    off: Option<Stop>,
    /// By a send that was refused.
    stopped: Option<(Stop, Instant)>,
    /// How often in a row.
    strikes: u32,
    level: Level,
}

/// How much of the day's quota is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Fine,
    Warned,
    Full,
}

/// The recipients of one mail, counted against the day. Dropped without [`Counted::keep`], they are given back.
pub(crate) struct Counted<'a> {
    account: &'a Account,
    recipients: f64,
}

impl Account {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            state: Mutex::default(),
            warn_share: config.quota_warn_share,
            poll: Duration::from_millis(config.account_poll_ms),
            pause: (Duration::from_millis(config.pause_min_ms), Duration::from_millis(config.pause_max_ms)),
        }
    }

    /// Recipients per second, where the account was seen.
    pub(crate) fn per_second(&self) -> Option<f64> {
        self.lock().seen.map(|seen| seen.per_second)
    }

    /// As it was seen, with what this host sent since.
    pub(crate) fn known(&self) -> Option<SendingQuota> {
        let state = self.lock();
        state.seen.map(|seen| SendingQuota { sent_today: state.sent(&seen), ..seen })
    }

    /// What this host handed over; to be given to [`Self::saw`] with what was seen after it.
    pub(crate) fn handed(&self) -> f64 {
        self.lock().handed
    }

    /// Takes over what the account said of itself.
    pub(crate) fn saw(&self, output: &GetAccountOutput, handed_before: f64) -> SendingQuota {
        let quota = output.send_quota();
        let number = |value: Option<f64>| value.filter(|value| value.is_finite()).unwrap_or(0.0).max(0.0);
        let per_day = match quota.map(aws_sdk_sesv2::types::SendQuota::max24_hour_send) {
            Some(value) if value <= NO_QUOTA => UNLIMITED_PER_DAY,
            value => number(value),
        };
        let seen = SendingQuota {
            per_day,
            sent_today: number(quota.map(aws_sdk_sesv2::types::SendQuota::sent_last24_hours)),
            per_second: number(quota.map(aws_sdk_sesv2::types::SendQuota::max_send_rate)).max(1.0),
        };
        let off = match (output.enforcement_status(), output.sending_enabled()) {
            (Some("SHUTDOWN"), _) => Some(Stop::Suspended),
            (_, false) => Some(Stop::Paused),
            (_, true) => None,
        };
        let mut state = self.lock();
        let first = state.seen.is_none();
        state.seen = Some(seen);
        state.handed_at_look = handed_before;
        match (state.off, off) {
            (None, Some(stop)) => tracing::warn!(reason = stop.words(), "Mail is held: the account does not send."),
            (Some(_), None) => {
                state.stopped = None;
                state.strikes = 0;
                tracing::info!("The account sends again.");
            }
            _ => {}
        }
        state.off = off;
        if first {
            let SendingQuota { per_day, sent_today, per_second } = seen;
            let sandbox = !output.production_access_enabled();
            tracing::info!(per_day, sent_today, per_second, sandbox, "The account's quota is known.");
        }
        self.weigh(&mut state);
        seen
    }

    /// Whether mail is taken now; else for how long not.
    pub(crate) fn ready(&self) -> Result<(), SendError> {
        let state = self.lock();
        if let Some(stop) = state.off {
            return Err(paused(stop, self.poll));
        }
        match state.stopped {
            Some((stop, until)) if until > Instant::now() => Err(paused(stop, until - Instant::now())),
            _ => Ok(()),
        }
    }

    /// Counts the recipients against the day, or says that there is no room.
    pub(crate) fn count(&self, recipients: u32) -> Result<Counted<'_>, SendError> {
        let recipients = f64::from(recipients);
        let mut state = self.lock();
        if let Some(seen) = state.seen
            && state.sent(&seen) + recipients > seen.per_day
        {
            if state.level < Level::Full {
                state.level = Level::Full;
                tracing::warn!(per_day = seen.per_day, "Mail is held: the day's sending quota is used up.");
            }
            return Err(paused(Stop::Quota, self.poll.max(self.pause.0)));
        }
        state.handed += recipients;
        self.weigh(&mut state);
        Ok(Counted { account: self, recipients })
    }

    /// A send was refused for what concerns every mail.
    pub(crate) fn stop(&self, stop: Stop) -> SendError {
        let mut state = self.lock();
        let (least, most) = self.pause;
        let now = Instant::now();
        // Mails that were under way together are one refusal.
        if let Some((_, until)) = state.stopped
            && until > now
        {
            return paused(stop, until - now);
        }
        let factor = 1_u32.checked_shl(state.strikes).unwrap_or(u32::MAX);
        let wait = least.saturating_mul(factor).min(most);
        state.strikes = state.strikes.saturating_add(1);
        state.stopped = now.checked_add(wait).map(|until| (stop, until));
        let wait_ms = millis(wait);
        tracing::warn!(reason = stop.words(), wait_ms, "Mail is held: the provider takes none.");
        paused(stop, wait)
    }

    /// A mail went.
    pub(crate) fn went(&self) {
        let mut state = self.lock();
        if state.stopped.take().is_some() {
            tracing::info!("The provider takes mail again.");
        }
        state.strikes = 0;
    }

    /// Why no mail is taken, for health.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        let state = self.lock();
        state.off.or(state.stopped.filter(|(_, until)| *until > Instant::now()).map(|(stop, _)| stop))
    }

    /// Warns once when the quota runs low, and again only after it had not.
    fn weigh(&self, state: &mut State) {
        let Some(seen) = state.seen else { return };
        let sent = state.sent(&seen);
        if sent >= seen.per_day * self.warn_share {
            if state.level == Level::Fine {
                state.level = Level::Warned;
                tracing::warn!(sent, per_day = seen.per_day, "The day's sending quota runs low.");
            }
        } else {
            state.level = Level::Fine;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// In the last 24 hours, as far as this host knows.
    fn sent(&self, seen: &SendingQuota) -> f64 {
        seen.sent_today + (self.handed - self.handed_at_look).max(0.0)
    }
}

impl Counted<'_> {
    /// They were sent, or may have been.
    pub(crate) fn keep(mut self) {
        self.recipients = 0.0;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.account.lock().handed -= self.recipients;
    }
}

fn paused(stop: Stop, wait: Duration) -> SendError {
    SendError::Paused { reason: stop.words().to_owned(), after_ms: millis(wait).max(1) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
