//! What happens to the state when the database or the network goes wrong: each ends in the right error or goes on, in bounded
//! time, and nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Held, end_connections, on_each, open_with, prefix, until};
use sandpost_message::{Message, MessageId, SubscriptionName};
use sandpost_ports::health::Health as _;
use sandpost_ports::state::{Claim, EffectState, Effects as _, Ledger as _, LedgerEntry, Step};
use sandpost_ports::{ErrorKind, Secret};
use sandpost_services::{Proxy, Server};
use sandpost_shared_state::{Config, SharedState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Longest that one call below may take: its own bounds and some air.
const BOUND: Duration = Duration::from_secs(8);

fn short(config: &mut Config) {
    config.acquire_timeout_ms = 1_000;
    config.operation_timeout_ms = 1_500;
    config.lock_timeout_ms = 1_000;
    config.reconnect_max_ms = 500;
}

fn behind_a_proxy(server: &Server) -> (Proxy, Arc<SharedState>) {
    let proxy = Proxy::before(server.address());
    let state = open_with(&server.url_at(proxy.address()), &prefix(), short);
    (proxy, state)
}

async fn record(state: &SharedState, message: &MessageId) -> Result<(), ErrorKind> {
    let mut message_of = Message::new("orders".parse().unwrap(), Vec::new(), 1);
    message_of.id = message.clone();
    let entry = LedgerEntry::of(&message_of, Step::Accepted, 1, None);
    state.record(vec![entry]).await.map_err(|error| error.kind)
}

fn orders() -> SubscriptionName {
    "orders".parse().unwrap()
}

async fn count(state: &SharedState, message: &MessageId) -> Result<usize, ErrorKind> {
    state.history(message).await.map(|steps| steps.len()).map_err(|error| error.kind)
}

/// Until the connections are back in the pool: the next call takes one of them, and makes none.
async fn rested(state: &SharedState) {
    until("the connections rest", async || {
        let pool = state.pool().unwrap();
        pool.in_use == 0 && pool.idle > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_unavailable_until_it_comes() {
    on_each(async |server| {
        let proxy = Proxy::before(server.address());
        proxy.refuse();
        let state = open_with(&server.url_at(proxy.address()), &prefix(), short);
        let message = MessageId::new();
        let started = Instant::now();
        assert_eq!(state.check().await.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(record(&state, &message).await, Err(ErrorKind::Unavailable));
        assert!(started.elapsed() < 2 * BOUND, "{:?}", started.elapsed());
        proxy.pass();
        // The tables are made behind its back, and then it works.
        until("it is well", async || state.check().await.is_ok()).await;
        assert_eq!(count(&state, &message).await, Ok(0), "nothing was done");
        // A connection of the pool that was made while it was refused is found dead first.
        until("it takes a step", async || record(&state, &message).await.is_ok()).await;

        proxy.refuse();
        until("it is known to be away", async || state.check().await.is_err()).await;
        assert_eq!(record(&state, &message).await, Err(ErrorKind::Unavailable));
        proxy.pass();
        until("it is back", async || matches!(count(&state, &message).await, Ok(1..))).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_unknown() {
    on_each(async |server| {
        let proxy = Proxy::before(server.address());
        let tables = prefix();
        // One connection, on which the statement is prepared: what is cut off is the answer to it and to nothing else.
        let state = open_with(&server.url_at(proxy.address()), &tables, |config| {
            short(config);
            config.pool_max_connections = 1;
        });
        // Past the proxy, which holds its answers: sees when the request has gone through.
        let direct = open_with(&server.url(), &tables, short);
        until("both are well", async || state.check().await.is_ok() && direct.check().await.is_ok()).await;
        let (before, cut, unanswered) = (MessageId::new(), MessageId::new(), MessageId::new());
        record(&state, &before).await.unwrap();
        rested(&state).await;
        proxy.hold_answers();
        let (outcome, ()) = tokio::join!(record(&state, &cut), async {
            until("the request went through", async || count(&direct, &cut).await == Ok(1)).await;
            proxy.cut();
            proxy.pass();
        });
        assert_eq!(outcome, Err(ErrorKind::UnknownOutcome));
        until("it goes on", async || count(&state, &before).await == Ok(1)).await;
        assert_eq!(count(&state, &cut).await, Ok(1), "the request went through; only the answer was lost");

        record(&state, &MessageId::new()).await.unwrap();
        rested(&state).await;
        proxy.hold_answers();
        let started = Instant::now();
        assert_eq!(record(&state, &unanswered).await, Err(ErrorKind::UnknownOutcome));
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
        let started = Instant::now();
        assert_eq!(count(&state, &before).await, Err(ErrorKind::Unavailable), "a read changes nothing");
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
        proxy.cut();
        proxy.pass();
        until("it goes on", async || count(&state, &before).await == Ok(1)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_unknown_and_all_or_nothing() {
    on_each(async |server| {
        let (proxy, state) = behind_a_proxy(server);
        let steps = || {
            let message = Message::new("orders".parse().unwrap(), Vec::new(), 1);
            let entries: Vec<_> = (0..200).map(|at| LedgerEntry::of(&message, Step::Started, at, None)).collect();
            (message.id, entries)
        };
        state.record(steps().1).await.unwrap();
        let mut undone = Vec::new();
        for wait_ms in [0_u64, 2, 5, 10, 20, 40] {
            // A message of its own: what was unknown in one round may still come to be in the next.
            let (message, entries) = steps();
            let (outcome, ()) = tokio::join!(state.record(entries), async {
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                proxy.cut();
            });
            let found = AtomicUsize::new(0);
            // More than one connection was cut, and each is found out by whoever takes it first.
            until("it goes on", async || {
                let now = count(&state, &message).await;
                now.map(|now| found.store(now, Ordering::Relaxed)).is_ok()
            })
            .await;
            let now = found.into_inner();
            match outcome.map_err(|error| error.kind) {
                Ok(()) => assert_eq!(now, 200),
                Err(ErrorKind::Unavailable) => {
                    assert_eq!(now, 0, "nothing was done");
                    undone.push(message);
                }
                Err(ErrorKind::UnknownOutcome) => assert!(now == 0 || now == 200, "{now}"),
                Err(other) => panic!("{other}"),
            }
        }
        for message in undone {
            until("it did not come later", async || count(&state, &message).await == Ok(0)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_gone_is_bounded_and_leaves_no_connection_behind() {
    on_each(async |server| {
        let (proxy, state) = behind_a_proxy(server);
        let message = MessageId::new();
        record(&state, &message).await.unwrap();
        proxy.black_hole();
        let started = Instant::now();
        let calls: Vec<_> = (0..30)
            .map(|_| {
                let (state, message) = (Arc::clone(&state), message.clone());
                tokio::spawn(async move { count(&state, &message).await })
            })
            .collect();
        // Many statements' worth, and one that is under way.
        let other = MessageId::new();
        let records = (0..1_000).map(|_| record(&state, &other));
        for outcome in futures_util::future::join_all(records).await {
            let error = outcome.unwrap_err();
            assert!(matches!(error, ErrorKind::Unavailable | ErrorKind::UnknownOutcome), "{error}");
        }
        for call in calls {
            assert_eq!(call.await.unwrap(), Err(ErrorKind::Unavailable));
        }
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
        proxy.cut();
        proxy.pass();
        until("it goes on", async || count(&state, &message).await == Ok(1)).await;
        assert_eq!(state.pool().unwrap().max, 10);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_loses_nothing() {
    on_each(async |server| {
        if !server.can_restart() {
            let why = "the server was given, and is not the test's to restart";
            return sandpost_services::not_checked("state restart", why);
        }
        let state = open_with(&server.url(), &prefix(), short);
        state.check().await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let answered: Arc<[AtomicUsize; 4]> = Arc::default();
        let writers: Vec<_> = (0..answered.len())
            .map(|writer| {
                let (state, stop, answered) = (Arc::clone(&state), Arc::clone(&stop), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut kept = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let message = MessageId::new();
                        if record(&state, &message).await.is_ok() {
                            kept.push(message);
                            answered[writer].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    kept
                })
            })
            .collect();
        until("each is at work", async || answered.iter().all(|count| count.load(Ordering::Relaxed) > 0)).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.start();
        });
        until("it goes on", async || record(&state, &MessageId::new()).await.is_ok()).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let kept = writer.await.unwrap();
            assert!(!kept.is_empty());
            for message in kept {
                assert_eq!(count(&state, &message).await, Ok(1), "what was answered is there");
            }
        }
    })
    .await;
}

/// The database undoes a statement that waits too long for a lock; it is tried again, so often and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_holds_is_waited_for_and_given_up() {
    on_each(async |server| {
        let tables = prefix();
        let state = open_with(&server.url(), &tables, |config| {
            short(config);
            // The lock's time ends a try, and not that of the whole call.
            config.operation_timeout_ms = 5_000;
            config.retries_max = 2;
        });
        let (key, owner, message) = ("key".to_owned(), "owner".to_owned(), MessageId::new());
        let subscription = "orders".parse().unwrap();
        assert_eq!(state.claim(&key, &owner, &message, &subscription, 1).await.unwrap(), Claim::Ours);

        let held = Held::take(server, &format!("SELECT state FROM {tables}effects FOR UPDATE")).await;
        let started = Instant::now();
        let error = state.advance(&key, &owner, EffectState::Sending).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(2_500) && took < BOUND, "three tries of a second each, not {took:?}");
        let of = state.effects_of(&message, &subscription).await.unwrap();
        assert_eq!(of, [(key.clone(), EffectState::Claimed)], "nothing was done");

        let (outcome, ()) = tokio::join!(state.advance(&key, &owner, EffectState::Sending), async {
            tokio::time::sleep(Duration::from_millis(1_300)).await;
            held.let_go().await;
        });
        outcome.unwrap();
        let of = state.effects_of(&message, &subscription).await.unwrap();
        assert_eq!(of, [(key, EffectState::Sending)], "the second try got it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_are_waited_for_and_those_that_are_too_slow_are_unknown() {
    on_each(async |server| {
        let proxy = Proxy::before(server.address());
        let tables = prefix();
        // One connection, on which the statements are prepared: what is slow are the answers.
        let state = open_with(&server.url_at(proxy.address()), &tables, |config| {
            config.pool_max_connections = 1;
            config.operation_timeout_ms = 5_000;
        });
        let direct = open_with(&server.url(), &tables, short);
        until("both are well", async || state.check().await.is_ok() && direct.check().await.is_ok()).await;
        let owner = "owner".to_owned();
        let begin = async |key: &str, message: &MessageId| {
            state.begin(&key.to_owned(), &owner, message, &orders(), 1).await.map_err(|error| error.kind)
        };
        let effects = async |message: &MessageId| direct.effects_of(message, &orders()).await.unwrap();
        let (in_time, late) = (MessageId::new(), MessageId::new());
        record(&state, &MessageId::new()).await.unwrap();
        begin("warm", &MessageId::new()).await.unwrap();
        rested(&state).await;

        proxy.delay(Duration::from_millis(50));
        assert_eq!(record(&state, &in_time).await, Ok(()));
        assert_eq!(begin("in time", &in_time).await, Ok(Claim::Ours));
        assert_eq!(count(&state, &in_time).await, Ok(1));
        assert_eq!(effects(&in_time).await, [("in time".to_owned(), EffectState::Sending)]);

        // There and back takes longer than a call may.
        rested(&state).await;
        proxy.delay(Duration::from_secs(3));
        let started = Instant::now();
        assert_eq!(record(&state, &late).await, Err(ErrorKind::UnknownOutcome));
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
        until("the request went through", async || count(&direct, &late).await == Ok(1)).await;
        proxy.pass();
        until("it goes on", async || count(&state, &late).await.is_ok()).await;
        begin("warm again", &MessageId::new()).await.unwrap();
        rested(&state).await;
        proxy.delay(Duration::from_secs(3));
        assert_eq!(begin("late", &late).await, Err(ErrorKind::UnknownOutcome));
        until("the request went through", async || effects(&late).await.len() == 1).await;
        proxy.pass();
        // Whoever comes after that is told that somebody was at it.
        until("it goes on", async || count(&state, &late).await.is_ok()).await;
        assert_eq!(begin("late", &late).await, Ok(Claim::Sending { owner: owner.clone() }));
        assert_eq!(count(&direct, &late).await, Ok(1), "nothing was recorded twice");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_unavailable_and_does_nothing() {
    on_each(async |server| {
        let tables = prefix();
        let state = open_with(&server.url(), &tables, |config| {
            config.pool_max_connections = 2;
            config.acquire_timeout_ms = 500;
            config.operation_timeout_ms = 30_000;
            config.lock_timeout_ms = 30_000;
        });
        let (owner, message) = ("owner".to_owned(), MessageId::new());
        let keys = ["first", "second"].map(str::to_owned);
        for key in &keys {
            assert_eq!(state.claim(key, &owner, &message, &orders(), 1).await.unwrap(), Claim::Ours);
        }
        let held = Held::take(server, &format!("SELECT state FROM {tables}effects FOR UPDATE")).await;
        let waiting = keys.clone().map(|key| {
            let (state, owner) = (Arc::clone(&state), owner.clone());
            tokio::spawn(async move { state.advance(&key, &owner, EffectState::Sending).await })
        });
        until("both connections are in use", async || state.pool().unwrap().in_use == 2).await;
        let refused = MessageId::new();
        let started = Instant::now();
        let error = state.history(&refused).await.unwrap_err();
        assert!(error.kind == ErrorKind::Unavailable && error.message.contains("in use"), "{error}");
        assert_eq!(record(&state, &refused).await, Err(ErrorKind::Unavailable));
        let claim = state.claim(&"third".to_owned(), &owner, &refused, &orders(), 1).await;
        assert_eq!(claim.unwrap_err().kind, ErrorKind::Unavailable);
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
        held.let_go().await;
        for waiting in waiting {
            waiting.await.unwrap().unwrap();
        }
        let sending = keys.map(|key| (key, EffectState::Sending));
        assert_eq!(state.effects_of(&message, &orders()).await.unwrap(), sending);
        assert_eq!(count(&state, &refused).await, Ok(0), "nothing was done");
        assert_eq!(state.effects_of(&refused, &orders()).await.unwrap(), []);
        assert_eq!(record(&state, &refused).await, Ok(()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_ends_in_the_middle_of_a_write_is_unknown() {
    on_each(async |server| {
        let tables = prefix();
        let state = open_with(&server.url(), &tables, |config| {
            config.operation_timeout_ms = 30_000;
            config.lock_timeout_ms = 30_000;
        });
        let (key, owner, message) = ("key".to_owned(), "owner".to_owned(), MessageId::new());
        assert_eq!(state.claim(&key, &owner, &message, &orders(), 1).await.unwrap(), Claim::Ours);
        let held = Held::take(server, &format!("SELECT state FROM {tables}effects FOR UPDATE")).await;
        let waiting = tokio::spawn({
            let (state, key, owner) = (Arc::clone(&state), key.clone(), owner.clone());
            async move { state.advance(&key, &owner, EffectState::Sending).await }
        });
        until("it is ended", async || {
            end_connections(server, &format!("UPDATE {tables}effects")).await;
            waiting.is_finished()
        })
        .await;
        assert_eq!(waiting.await.unwrap().unwrap_err().kind, ErrorKind::UnknownOutcome);
        held.let_go().await;
        // It was not done, and does not come later.
        let of = state.effects_of(&message, &orders()).await.unwrap();
        assert_eq!(of, [(key.clone(), EffectState::Claimed)]);
        state.advance(&key, &owner, EffectState::Sending).await.unwrap();
        assert_eq!(state.effects_of(&message, &orders()).await.unwrap(), [(key, EffectState::Sending)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_ends_under_load_lose_nothing_and_double_nothing() {
    on_each(async |server| {
        if !server.can_restart() {
            let why = "the server was given, and has connections of others";
            return sandpost_services::not_checked("state whose connections are ended", why);
        }
        let state = open_with(&server.url(), &prefix(), short);
        state.check().await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (state, stop, answered) = (Arc::clone(&state), Arc::clone(&stop), Arc::clone(&answered));
                tokio::spawn(async move {
                    let (owner, mut outcomes) = (format!("writer {writer}"), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let message = MessageId::new();
                        let key = format!("effect of {}", message.as_str());
                        let recorded = record(&state, &message).await;
                        let begun = state.begin(&key, &owner, &message, &orders(), 1).await;
                        let begun = begun.map(|claim| assert_eq!(claim, Claim::Ours)).map_err(|error| error.kind);
                        answered.fetch_add(usize::from(recorded.is_ok() && begun.is_ok()), Ordering::Relaxed);
                        outcomes.push((message, recorded, begun));
                    }
                    outcomes
                })
            })
            .collect();
        for _ in 0..10 {
            let before = answered.load(Ordering::Relaxed);
            until("the load goes on", async || answered.load(Ordering::Relaxed) > before + 10).await;
            end_connections(server, "").await;
        }
        let before = answered.load(Ordering::Relaxed);
        until("the load goes on", async || answered.load(Ordering::Relaxed) > before + 10).await;
        stop.store(true, Ordering::Relaxed);
        let fits = |outcome: &Result<(), ErrorKind>, there: usize| match outcome {
            Ok(()) => there == 1,
            Err(ErrorKind::UnknownOutcome) => there <= 1,
            Err(ErrorKind::Unavailable) => there == 0,
            Err(_) => false,
        };
        let mut failed = 0;
        for writer in writers {
            for (message, recorded, begun) in writer.await.unwrap() {
                let steps = count(&state, &message).await.unwrap();
                assert!(fits(&recorded, steps), "{steps} steps where it was {recorded:?}");
                let effects = state.effects_of(&message, &orders()).await.unwrap();
                assert!(fits(&begun, effects.len()), "{effects:?} where it was {begun:?}");
                failed += usize::from(recorded.is_err()) + usize::from(begun.is_err());
            }
        }
        assert!(failed > 0, "no end was noticed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_without_showing_it() {
    on_each(async |server| {
        let state = open_with(&server.url(), &prefix(), |config| {
            short(config);
            config.password = Some(Secret::new("hunter2"));
        });
        let error = state.check().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
        assert!(error.message.contains("does not accept the account"), "{error}");
        assert!(!format!("{error} {error:?} {state:?}").contains("hunter2"));
    })
    .await;
}
