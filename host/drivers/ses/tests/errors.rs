//! Every error of SES by its class: later, never, or the line stops; and the quota and the rate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{config, driver, eventually, goes_again, is_throttled, kind, mail, mail_to, paused_ms};
use sandpost_ports::email::{EmailSender as _, SendError, SendingQuota};
use sandpost_ports::health::Health as _;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_ses::{Config, Pace, Turn};
use sandpost_test_ses::{Answer, ERRORS, Ses};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[tokio::test]
async fn each_error_has_its_class_and_is_one_request() {
    for (name, _) in ERRORS {
        let server = Ses::start().await.unwrap();
        let ses = driver(Config { account_poll_ms: 60_000, ..config(&server.url()) }).await;
        server.next(Answer::error(name));
        let answer = ses.send(&mail()).await;
        let as_it_should = match name {
            "TooManyRequestsException" | "LimitExceededException" | "ThrottlingException" => is_throttled(&answer),
            "MessageRejected" | "BadRequestException" | "MailFromDomainNotVerifiedException" | "NotFoundException" => {
                matches!(&answer, Err(SendError::Rejected { reason, .. }) if reason.starts_with(name))
            }
            "InternalServiceErrorException" | "ServiceUnavailable" | "TransientFailure" | "RequestTimeout" => {
                kind(&answer) == Some(ErrorKind::Unavailable)
            }
            _ => paused_ms(&answer).is_some(),
        };
        assert!(as_it_should, "{name}: {answer:?}");
        assert_eq!(server.calls_of("SendEmail"), 1, "{name} was tried again by the SDK");
        assert!(server.sent().is_empty());
    }
}

#[tokio::test]
async fn an_error_that_nobody_knows_goes_by_its_status() {
    let server = Ses::start().await.unwrap();
    let ses = driver(config(&server.url())).await;
    let fail = |status| {
        server.next(Answer::Fail { error: "NewException".to_owned(), status, message: "new".to_owned() });
    };
    for (status, expected) in [
        (400, ErrorKind::Other),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
        (502, ErrorKind::UnknownOutcome),
        (504, ErrorKind::UnknownOutcome),
    ] {
        fail(status);
        let answer = ses.send(&mail()).await;
        assert_eq!(kind(&answer), Some(expected), "{status}: {answer:?}");
    }
    fail(429);
    assert!(is_throttled(&ses.send(&mail()).await));
}

#[tokio::test]
async fn a_paused_account_stops_the_line_and_the_end_of_the_pause_starts_it() {
    for (off, words) in [("paused", "sending is paused"), ("shut down", "the account is suspended")] {
        let server = Ses::start().await.unwrap();
        let ses = driver(config(&server.url())).await;
        ses.send(&mail()).await.unwrap();
        let set = |on: bool| {
            server.change(|account| match off {
                "paused" => account.sending_enabled = on,
                _ => account.enforcement_status = if on { "HEALTHY" } else { "SHUTDOWN" }.to_owned(),
            });
        };
        set(false);
        let answer = ses.send(&mail()).await;
        assert!(matches!(&answer, Err(SendError::Paused { reason, .. }) if reason.contains(words)), "{answer:?}");
        // As long as the account says so, nobody asks.
        eventually("the account was looked at", async || ses.check().await.is_err()).await;
        let asked = server.calls_of("SendEmail");
        let until = Instant::now() + Duration::from_millis(600);
        while Instant::now() < until {
            assert!(paused_ms(&ses.send(&mail()).await).is_some());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.calls_of("SendEmail"), asked);
        set(true);
        goes_again(&ses).await;
        ses.check().await.unwrap();
        assert_eq!(server.sent().len(), 2);
    }
}

#[tokio::test]
async fn a_pause_that_the_account_does_not_show_ends_by_itself_and_doubles() {
    let server = Ses::start().await.unwrap();
    let ses = driver(Config { pause_min_ms: 500, pause_max_ms: 1_300, ..config(&server.url()) }).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        server.next(Answer::error("SendingPausedException"));
        let wait = paused_ms(&ses.send(&mail()).await).unwrap();
        waits.push(wait);
        let asked = server.calls_of("SendEmail");
        assert!(paused_ms(&ses.send(&mail()).await).is_some());
        assert_eq!(server.calls_of("SendEmail"), asked, "the line did not stand");
        tokio::time::sleep(Duration::from_millis(wait + 1)).await;
    }
    assert_eq!(waits, [500, 1_000, 1_300]);
    ses.send(&mail()).await.unwrap();
    server.next(Answer::error("AccountSuspendedException"));
    assert_eq!(paused_ms(&ses.send(&mail()).await), Some(500), "a mail that went ends the row");
}

#[tokio::test]
async fn refused_keys_stop_the_line_and_are_no_fault_of_the_mail() {
    let server = Ses::start().await.unwrap();
    server.change(|account| account.access_keys = Some(["OTHER".to_owned()].into()));
    let ses = driver(config(&server.url())).await;
    let answer = ses.send(&mail()).await;
    assert!(matches!(&answer, Err(SendError::Paused { reason, .. }) if reason.contains("credentials")), "{answer:?}");
    let error = ses.check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.to_string().contains("AKIATEST"), "{error}");
    server.change(|account| account.access_keys = None);
    goes_again(&ses).await;
}

#[tokio::test]
async fn the_day_s_quota_holds_mail_and_room_lets_it_go() {
    let server = Ses::start().await.unwrap();
    server.change(|account| (account.max_24_hour_send, account.sent_last_24_hours) = (200.0, 197.0));
    let ses = driver(config(&server.url())).await;
    ses.send(&mail_to(&["a@example.com", "b@example.com"])).await.unwrap();
    // Known without asking. A look in the middle of that sending may have missed it; the next one does not.
    let seen = Some(SendingQuota { per_day: 200.0, sent_today: 199.0, per_second: 1_000.0 });
    eventually("what was sent is seen", async || ses.quota_seen() == seen).await;
    // Recipients count: two do not fit any more, and nobody asks SES; one does.
    let asked = server.calls_of("SendEmail");
    let answer = ses.send(&mail_to(&["a@example.com", "b@example.com"])).await;
    assert!(matches!(&answer, Err(SendError::Paused { reason, .. }) if reason.contains("quota")), "{answer:?}");
    assert_eq!(server.calls_of("SendEmail"), asked);
    ses.send(&mail()).await.unwrap();
    assert!(paused_ms(&ses.send(&mail()).await).is_some());
    assert_eq!(ses.quota().await.unwrap(), SendingQuota { per_day: 200.0, sent_today: 200.0, per_second: 1_000.0 });
    server.change(|account| account.sent_last_24_hours = 10.0);
    goes_again(&ses).await;
}

#[tokio::test]
async fn the_day_s_quota_in_ses_s_own_words_stops_the_line_too() {
    let server = Ses::start().await.unwrap();
    let ses = driver(config(&server.url())).await;
    for name in ["LimitExceededException", "TooManyRequestsException"] {
        server.next(Answer::error(name).saying("Daily message quota exceeded."));
        let answer = ses.send(&mail()).await;
        assert!(matches!(&answer, Err(SendError::Paused { reason, .. }) if reason.contains("quota")), "{answer:?}");
        goes_again(&ses).await;
    }
}

#[tokio::test]
async fn no_quota_at_all_is_a_large_number() {
    let server = Ses::start().await.unwrap();
    server.change(|account| account.max_24_hour_send = -1.0);
    let ses = driver(config(&server.url())).await;
    assert!(ses.quota().await.unwrap().per_day > 1e8);
    ses.send(&mail()).await.unwrap();
}

#[tokio::test]
async fn mail_is_paced_to_the_account_s_rate_instead_of_failing() {
    let server = Ses::start().await.unwrap();
    server.change(|account| (account.max_send_rate, account.rate_is_enforced) = (20.0, true));
    let patient = Config { rate_wait_max_ms: 10_000, look_timeout_ms: 10_000, ..config(&server.url()) };
    let ses = driver(Config { send_timeout_ms: 10_000, ..patient }).await;
    // From here on the account's rate is known.
    ses.send(&mail()).await.unwrap();
    // A busy machine may hold up paced mails until too many arrive together, in one round or another. Without pacing it
    // is so in each: there are 30 at once, and the server takes 24 in a second.
    let mut refused = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let ses = Arc::clone(&ses);
            tasks.spawn(async move { ses.send(&mail()).await });
        }
        let went = tasks.join_all().await.into_iter().flatten().count();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(1_400), "30 recipients at 20 a second took {took:?}");
        if went == 30 {
            return;
        }
        refused.push(30 - went);
        // The server counts over a second of the real clock: until it is over, this round counts against the next.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    panic!("in each round some were not paced but refused: {refused:?}");
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_when_to_come_back() {
    let server = Ses::start().await.unwrap();
    server.change(|account| account.max_send_rate = 1.0);
    let ses = driver(Config { rate_wait_max_ms: 500, ..config(&server.url()) }).await;
    ses.send(&mail_to(&["a@example.com", "b@example.com", "c@example.com"])).await.unwrap();
    match ses.send(&mail()).await {
        Err(SendError::Throttled { after_ms: Some(after_ms) }) => assert!((2_000..=3_200).contains(&after_ms)),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.calls_of("SendEmail"), 1);
}

/// A bucket that the test fills, and that can fail.
#[derive(Default)]
struct Shared {
    taken: AtomicU32,
    fails: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl Pace for Shared {
    async fn take(&self, recipients: u32, _per_second: f64, _wait_max: Duration) -> Result<Turn, PortError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(PortError::new(ErrorKind::Unavailable, "the store is down"));
        }
        self.taken.fetch_add(recipients, Ordering::SeqCst);
        Ok(Turn::After(Duration::ZERO))
    }
}

#[tokio::test]
async fn alone_a_host_takes_its_share_of_the_rate() {
    let server = Ses::start().await.unwrap();
    server.change(|account| account.max_send_rate = 1.0);
    let pace = Arc::new(Shared::default());
    pace.fails.store(true, Ordering::SeqCst);
    // The rate of an account that is not known is another one, so that it is told apart; and the first look has time.
    let patient = Config { per_second_unknown: 100.0, look_timeout_ms: 10_000, ..config(&server.url()) };
    let config = Config { rate_share_alone: 0.25, rate_wait_max_ms: 1, ..patient };
    let ses = sandpost_ses::open(config, Some(pace)).await.unwrap();
    let since = Instant::now();
    ses.send(&mail()).await.unwrap();
    // 95 % of the account's 1 a second, a quarter of that: a turn is 4 210 ms, less what went by since the one before.
    match ses.send(&mail()).await {
        Err(SendError::Throttled { after_ms: Some(after_ms) }) => {
            let gone_ms = u64::try_from(since.elapsed().as_millis()).unwrap();
            // Both are cut to whole milliseconds.
            assert!(after_ms <= 4_210 && after_ms + gone_ms + 1 >= 4_210, "{after_ms} after {gone_ms}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_shared_bucket_is_used_and_its_absence_survived() {
    let server = Ses::start().await.unwrap();
    let pace = Arc::new(Shared::default());
    let ses = sandpost_ses::open(config(&server.url()), Some(pace.clone())).await.unwrap();
    ses.send(&mail_to(&["a@example.com", "b@example.com"])).await.unwrap();
    assert_eq!(pace.taken.load(Ordering::SeqCst), 2);
    pace.fails.store(true, Ordering::SeqCst);
    ses.send(&mail()).await.unwrap();
    pace.fails.store(false, Ordering::SeqCst);
    ses.send(&mail()).await.unwrap();
    assert_eq!(pace.taken.load(Ordering::SeqCst), 3);
}
