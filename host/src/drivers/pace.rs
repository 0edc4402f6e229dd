//! SES paced by a bucket in the cache's Redis: the one place where the two drivers meet.
//!
//! Invariants
//! - A mail never waits for Redis longer than [`ANSWER_MAX`], and not at all while the bucket's circuit breaker is open: the
//!   driver then paces itself alone. The breaker is the bucket's own, so that its shorter patience takes no cache away.
//! - Every taking is counted, by whether it was shared. That sharing ended or is there again is a line of the driver's.

use sandpost_guard::Connection;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_redis::Bucket;
use sandpost_ses::{Pace, Turn};
use sandpost_telemetry::events::connections::{Operation, TurnTaken};
use std::sync::Arc;
use std::time::Duration;

/// The longest that a mail waits for the bucket's answer. Redis answers within a millisecond; whoever has waited this long
/// for a turn is better off with one of this host's own.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// The bucket, behind its guard.
pub(super) struct SharedPace {
    bucket: Bucket,
    connection: Arc<Connection>,
    operation: Operation,
}

impl SharedPace {
    /// Takes turns from this bucket behind this guard.
    pub(super) fn new(bucket: Bucket, connection: Arc<Connection>) -> Self {
        let operation = connection.operation("take-turn");
        Self { bucket, connection, operation }
    }
}

#[async_trait::async_trait]
impl Pace for SharedPace {
    async fn take(&self, recipients: u32, per_second: f64, wait_max: Duration) -> Result<Turn, PortError> {
        let taking = async {
            match tokio::time::timeout(ANSWER_MAX, self.bucket.take(recipients, per_second, wait_max)).await {
                Ok(answer) => answer,
                Err(_) => Err(PortError::new(ErrorKind::UnknownOutcome, "the bucket did not answer in time")),
            }
        };
        let answer = self.connection.call(&self.operation, taking).await;
        TurnTaken { shared: answer.is_ok() }.emit();
        Ok(match answer? {
            sandpost_redis::Turn::After(wait) => Turn::After(wait),
            sandpost_redis::Turn::NotBefore(wait) => Turn::NotBefore(wait),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::services::EmailDriver;
    use crate::drivers::{Opening, redis, ses};
    use sandpost_ports::email::{Address, EmailSender as _, Mail, MailOrigin};
    use sandpost_ports::{PortError, Secret};
    use sandpost_services::Proxy;
    use sandpost_ses::{Pace, Turn};
    use sandpost_test_ses::Ses;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    /// A pace that counts the turns it could not give, which the host then takes alone.
    struct Counting {
        pace: Arc<dyn Pace>,
        alone: Arc<AtomicU32>,
    }

    #[async_trait::async_trait]
    impl Pace for Counting {
        async fn take(&self, recipients: u32, per_second: f64, wait_max: Duration) -> Result<Turn, PortError> {
            let answer = self.pace.take(recipients, per_second, wait_max).await;
            if answer.is_err() {
                self.alone.fetch_add(1, Ordering::SeqCst);
            }
            answer
        }
    }

    /// One host that sends by this account, with the Redis at this address. `alone` counts the turns that it takes alone.
    async fn host(redis_url: String, bucket: &str, account: &Ses, alone: &Arc<AtomicU32>) -> Arc<sandpost_ses::Ses> {
        let mut config = Config::default();
        config.cache.redis.url = Some(Secret::new(redis_url));
        config.cache.redis.connect_timeout_ms = 5_000;
        config.cache.redis.response_timeout_ms = 5_000;
        config.cache.key_prefix = "vibe:".to_owned();
        config.email.driver = EmailDriver::Ses;
        config.email.ses = sandpost_ses::Config {
            endpoint_url: Some(Secret::new(account.url())),
            access_key_id: Some(Secret::new("AKIATEST")),
            secret_access_key: Some(Secret::new("secret")),
            rate_bucket: bucket.to_owned(),
            rate_wait_max_ms: 10_000,
            ..sandpost_ses::Config::default()
        };
        let opening = Opening { config: &config, checks: Vec::new(), watched: Vec::new() };
        let pace = redis::open(&config, &opening).unwrap().pace.expect("Redis and SES are configured");
        ses(&config, Some(Arc::new(Counting { pace, alone: alone.clone() }))).await.unwrap()
    }

    fn mail() -> Mail {
        let address = |address: &str| Address { name: None, address: address.to_owned() };
        Mail {
            key: "key".to_owned(),
            sender: address("no-reply@example.com"),
            to: vec![address("ana@example.com")],
            cc: Vec::new(),
            bcc: Vec::new(),
            subject: "Hello".to_owned(),
            html: None,
            text: "Hello".to_owned(),
            tags: Vec::new(),
            mime: b"Subject: Hello\r\n\r\nHello".to_vec().into(),
            origin: MailOrigin { plugin: "mailer".parse().unwrap(), message_id: None, template: None, locale: None },
        }
    }

    async fn send(hosts: &[Arc<sandpost_ses::Ses>], each: usize) -> Vec<String> {
        let mut tasks = tokio::task::JoinSet::new();
        for host in hosts.iter().flat_map(|host| std::iter::repeat_n(host, each)) {
            let host = host.clone();
            tasks.spawn(async move { host.send(&mail()).await });
        }
        let answers = tasks.join_all().await;
        answers.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hosts_together_keep_to_the_accounts_rate() {
        let Some(server) = sandpost_services::redis() else { return };
        let account = Ses::start().await.unwrap();
        // Room for mails that a busy machine sends late, and then close together. Paced each by itself, the hosts would be
        // at 1.9 times the rate, and be refused.
        account.change(|account| (account.max_send_rate, account.rate_is_enforced, account.burst) = (20.0, true, 1.6));
        let alone = Arc::new(AtomicU32::new(0));
        let hosts = [
            Box::pin(host(server.url(), "two", &account, &alone)).await,
            Box::pin(host(server.url(), "two", &account, &alone)).await,
        ];
        // To connect takes time that is not the pace's.
        let refused = send(&hosts, 1).await;
        assert!(refused.is_empty(), "{refused:?}");
        alone.store(0, Ordering::SeqCst);
        let begun = Instant::now();
        let refused = send(&hosts, 20).await;
        assert!(refused.is_empty(), "{refused:?}");
        // 39 turns at 95 % of 20 a second, but for a few that Redis answered too late.
        let alone = alone.load(Ordering::SeqCst);
        assert!(alone <= 4, "{alone} turns were taken alone");
        let turns = 39 - alone;
        let least = Duration::from_micros(52_570) * turns;
        assert!(begun.elapsed() >= least, "{turns} shared turns took {:?}", begun.elapsed());
        assert_eq!(account.sent().len(), 42);
        sandpost_services::checked("mail paced by two hosts", &server);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn mail_goes_on_while_redis_is_away() {
        let Some(server) = sandpost_services::redis() else { return };
        let account = Ses::start().await.unwrap();
        let proxy = Proxy::before(server.address());
        let host = Box::pin(host(server.url_at(proxy.address()), "away", &account, &Arc::default())).await;
        let mut sent = 0;
        for fault in [Proxy::pass, Proxy::black_hole, Proxy::refuse, Proxy::hold_answers, Proxy::pass] {
            fault(&proxy);
            for _ in 0..8 {
                let begun = Instant::now();
                host.send(&mail()).await.unwrap();
                // Though a command has 5 s here.
                assert!(begun.elapsed() < Duration::from_secs(3), "a mail took {:?}", begun.elapsed());
                sent += 1;
            }
        }
        assert_eq!(account.sent().len(), sent);
        sandpost_services::checked("mail paced while Redis is away", &server);
    }
}
