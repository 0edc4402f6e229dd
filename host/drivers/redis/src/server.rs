//! The connection to one server: made when it is first needed, and made again, for ever, once it was lost.
//!
//! Invariants
//! - One try at a time, however many call. The waits between them grow in steps, and begin anew with each loss.
//! - A call waits for a connection as long as one has been away for less than making one may take. After that it is told at once,
//!   by what the last try came to; so it is with what the server itself answers to a try (a wrong password).
//! - A connection on which an answer did not come in time is given up too: it may be dead and not know it. Calls that are under
//!   way on it go on.
//! - The tries end with whoever wanted them.
//!
//! Redis's client has a manager that makes connections anew. It is not used: it tries for calls alone and fails the next one
//! with what came of a try long ago, its waits begin anew with each call, and from outside nobody can tell whether a command
//! that failed was sent.

use crate::config::Config;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) struct Server {
    client: Client,
    settings: AsyncConnectionConfig,
    /// How long a call waits, from when the connection was lost.
    patience: Duration,
    steps: Steps,
    /// Where the connections live, whoever calls.
    runtime: Handle,
    state: watch::Sender<State>,
}

enum State {
    /// Nobody wanted it yet.
    Unneeded,
    /// With what the last try came to.
    Away { since: Instant, why: Option<RedisError> },
    /// Each has a number, so that a loss is noticed once.
    There { number: u64, connection: MultiplexedConnection },
}

/// The waits between tries.
#[derive(Clone, Copy)]
struct Steps {
    step: Duration,
    max: Duration,
}

impl Server {
    pub(crate) fn new(client: Client, settings: AsyncConnectionConfig, config: &Config) -> Arc<Self> {
        Arc::new(Self {
            client,
            settings,
            patience: config.connect_timeout(),
            steps: Steps {
                step: Duration::from_millis(config.reconnect_min_ms),
                max: Duration::from_millis(config.reconnect_max_ms),
            },
            runtime: Handle::current(),
            state: watch::Sender::new(State::Unneeded),
        })
    }

    /// The connection and its number, or why there is none. An error means that nothing was sent.
    pub(crate) async fn connection(self: &Arc<Self>) -> RedisResult<(u64, MultiplexedConnection)> {
        if let State::There { number, connection } = &*self.state.borrow() {
            return Ok((*number, connection.clone()));
        }
        let mut state = self.state.subscribe();
        loop {
            let left = match &*state.borrow_and_update() {
                State::There { number, connection } => return Ok((*number, connection.clone())),
                State::Unneeded => None,
                State::Away { since, why } => {
                    let left = self.patience.saturating_sub(since.elapsed());
                    match why {
                        Some(error) if left.is_zero() || !is_gone(error) => return Err(error.clone()),
                        None if left.is_zero() => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                        _ => Some(left),
                    }
                }
            };
            match left {
                None => self.replace(0),
                Some(left) => drop(tokio::time::timeout(left, state.changed()).await),
            }
        }
    }

    /// The connection of this number is of no use any more: another is made, unless somebody saw to that before. 0 is the one
    /// that there was before the first.
    pub(crate) fn replace(self: &Arc<Self>, number: u64) {
        let begins = self.state.send_if_modified(|state| {
            let is_last = match state {
                State::Unneeded => number == 0,
                State::Away { .. } => false,
                State::There { number: last, .. } => number == *last,
            };
            if is_last {
                *state = State::Away { since: Instant::now(), why: None };
            }
            is_last
        });
        if begins {
            self.runtime.spawn(connect(Arc::downgrade(self), number + 1));
        }
    }
}

/// Whether an error says that the connection, or the way to it, is gone. One that the server sent does not.
pub(crate) fn is_gone(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() || error.is_timeout()
}

/// Tries until it is there or nobody wants it any more.
async fn connect(wanted: Weak<Server>, number: u64) {
    for tries in 1.. {
        let Some(server) = wanted.upgrade() else { return };
        let error = match server.client.get_multiplexed_async_connection_with_config(&server.settings).await {
            Ok(connection) => {
                server.state.send_replace(State::There { number, connection });
                return;
            }
            Err(error) => error,
        };
        server.state.send_modify(|state| {
            if let State::Away { why, .. } = state {
                *why = Some(error);
            }
        });
        let wait = server.steps.after(tries);
        drop(server);
        tokio::time::sleep(wait).await;
    }
}

impl Steps {
    /// The wait after so many tries that came to nothing.
    fn after(self, tries: u32) -> Duration {
        self.step.saturating_mul(tries).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_by_a_step_each_up_to_the_longest() {
        let Config { reconnect_min_ms, reconnect_max_ms, .. } = Config::default();
        let [step, max] = [reconnect_min_ms, reconnect_max_ms].map(Duration::from_millis);
        // The origin documents' `Math.min(times * 50, 2000)`.
        for (tries, wait_ms) in [(1, 50), (2, 100), (3, 150), (39, 1_950), (40, 2_000), (41, 2_000), (u32::MAX, 2_000)]
        {
            assert_eq!(Steps { step, max }.after(tries), Duration::from_millis(wait_ms), "after {tries} tries");
        }
    }
}
