//! What outlives a restart, a kill and a full disk, and which files are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_embedded_store::{Config, OpenError, Store, open};
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::broker::{Broker, Settlement, Subscription};
use sandpost_ports::clock::{Clock, ManualClock, SystemClock};
use sandpost_ports::health::Health;
use sandpost_ports::state::{DeadLetter, DeadLetterStatus, DeadLetters, Keep, Ledger, LedgerEntry, Step};
use sandpost_ports::{ErrorKind, PortError};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LONG_MS: u64 = 3_600_000;
const NOW_MS: u64 = 1_000_000_000;

fn topic() -> Topic {
    "orders".parse().unwrap()
}

fn name() -> SubscriptionName {
    "orders-handler".parse().unwrap()
}

fn at(path: &Path, clock: &ManualClock) -> Store {
    open(Some(path), &Config::default(), Arc::new(clock.clone())).unwrap()
}

fn message(body: &str) -> Message {
    Message::new(topic(), body.to_owned(), NOW_MS)
}

async fn publish(store: &Store, message: Message) -> Result<bool, PortError> {
    store.publish(vec![message]).await.remove(0).map(|published| published.duplicate)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it came within 30 seconds")
}

async fn next(subscription: &Arc<dyn Subscription>) -> sandpost_ports::broker::Delivery {
    within(subscription.next(1, LONG_MS)).await.unwrap().remove(0)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_run_stopped() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOW_MS));
    let store = at(&folder.path(), &clock);
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let keyed = |body: &str| Message { ordering_key: Some("k".to_owned()), hops: 3, ..message(body) };
    publish(&store, message("settled")).await.unwrap();
    publish(&store, message("leased")).await.unwrap();
    publish(&store, keyed("first of its key")).await.unwrap();
    publish(&store, keyed("second of its key")).await.unwrap();
    publish(&store, Message { not_before_ms: NOW_MS + 500, ..message("later") }).await.unwrap();
    publish(&store, Message { dedupe_key: Some("d".to_owned()), ..message("once") }).await.unwrap();
    let settled = next(&subscription).await;
    subscription.settle(settled.receipt, Settlement::Done).await.unwrap();
    let leased = next(&subscription).await;
    assert_eq!(leased.message.body, "leased");
    store.close().await;
    let refused = publish(&store, message("too late")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    store.close().await;

    let store = at(&folder.path(), &clock);
    // The first run's handles are still there, and stay closed.
    assert_eq!(subscription.next(1, LONG_MS).await.unwrap_err().kind, ErrorKind::Unavailable);
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    assert!(publish(&store, Message { dedupe_key: Some("d".to_owned()), ..message("twice") }).await.unwrap());
    let mut seen = Vec::new();
    for _ in 0..4 {
        let delivery = next(&subscription).await;
        assert_eq!(delivery.message.hops, if delivery.message.ordering_key.is_some() { 3 } else { 0 });
        seen.push((String::from_utf8(delivery.message.body.to_vec()).unwrap(), delivery.attempt));
        if delivery.message.body == "leased" {
            // A receipt of the last run fits nothing of this one.
            let stale = sandpost_ports::broker::Receipt::new(leased.receipt.token());
            let refused = subscription.settle(stale, Settlement::Done).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Conflict);
        }
        subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
    }
    seen.sort();
    let expected = [("first of its key", 1), ("leased", 2), ("once", 1), ("second of its key", 1)];
    assert_eq!(seen, expected.map(|(body, attempt)| (body.to_owned(), attempt)));
    let backlog = store.backlog(&name()).await.unwrap();
    assert_eq!((backlog.ready, backlog.in_flight, backlog.held), (0, 0, 1));
    clock.advance(500);
    assert_eq!(next(&subscription).await.message.body, "later");
}

#[tokio::test]
async fn a_second_host_is_refused_and_a_later_one_is_not() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOW_MS));
    let first = at(&folder.path(), &clock);
    let link = folder.0.path().join("link.db");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    for path in [folder.path(), link] {
        let error = open(Some(&path), &Config::default(), Arc::new(clock.clone())).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        assert!(error.to_string().ends_with("is in use by another host"), "{error}");
    }
    // Dropping the last handle is enough.
    drop(first.clone());
    drop(first);
    at(&folder.path(), &clock).close().await;
}

#[tokio::test]
async fn a_newer_or_a_foreign_file_is_refused_and_left_alone() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOW_MS));
    at(&folder.path(), &clock).close().await;
    let conn = rusqlite::Connection::open(folder.path()).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let error = open(Some(&folder.path()), &Config::default(), Arc::new(clock.clone())).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, known: 6, .. }), "{error}");

    let foreign = folder.0.path().join("foreign.db");
    let conn = rusqlite::Connection::open(&foreign).unwrap();
    conn.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(conn);
    let before = std::fs::read(&foreign).unwrap();
    let error = open(Some(&foreign), &Config::default(), Arc::new(clock.clone())).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&foreign).unwrap(), before);

    let text = folder.0.path().join("notes.txt");
    std::fs::write(&text, "not a database, and longer than a header of one would be: ".repeat(20)).unwrap();
    let error = open(Some(&text), &Config::default(), Arc::new(clock)).unwrap_err();
    assert!(matches!(error, OpenError::Sqlite { .. }), "{error}");
}

fn small() -> Config {
    Config { disk_max_bytes: Config::DISK_MIN_BYTES, ..Config::default() }
}

#[tokio::test]
async fn the_bound_on_disk_refuses_new_messages_and_lets_the_old_ones_through() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOW_MS));
    let store = open(Some(&folder.path()), &small(), Arc::new(clock)).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let body = "x".repeat(50_000);
    let mut accepted: u64 = 0;
    let refused = loop {
        match publish(&store, message(&body)).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100, "the bound is one MiB");
    };
    assert_eq!(refused.kind, ErrorKind::Exceeded, "{refused}");
    assert!(accepted > 8, "seven eighths are there to be used, not {accepted} messages");
    // Of a batch, what fits is taken.
    let answers = store.publish(vec![message(&body), message("small")]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().kind, ErrorKind::Exceeded);
    assert!(answers[1].is_ok());
    store.check().await.unwrap();
    for _ in 0..=accepted {
        let delivery = next(&subscription).await;
        subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
    }
    publish(&store, message(&body)).await.expect("there is room again");
    store.close().await;
    let size = std::fs::metadata(folder.path()).unwrap().len();
    assert!(size <= Config::DISK_MIN_BYTES, "the file has {size} bytes");
}

#[tokio::test]
async fn the_oldest_history_gives_way_to_new_messages_and_the_newest_is_kept() {
    let store = open(None, &small(), Arc::new(ManualClock::at(NOW_MS))).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let mut ids = Vec::new();
    // Three steps each: their history alone is several times what the store may take.
    for _ in 0..5_000 {
        let message = message("body");
        for step in [Step::Accepted, Step::Started, Step::Acknowledged] {
            store.record(vec![LedgerEntry::of(&message, step, NOW_MS, None)]).await.expect("the newest step is kept");
        }
        ids.push(message.id.clone());
        publish(&store, message).await.expect("nothing waits, so there is room");
        let delivery = next(&subscription).await;
        subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
    }
    assert_eq!(store.history(&ids[0]).await.unwrap(), []);
    assert_eq!(store.history(ids.last().unwrap()).await.unwrap().len(), 3);
}

fn letter(body: &str) -> DeadLetter {
    let message = message(body);
    DeadLetter {
        id: message.id.to_string(),
        trace_id: message.trace.trace_id(),
        message,
        subscription: name(),
        dead_at_ms: NOW_MS,
        cause: "rejected".to_owned(),
        reason: String::new(),
        attempts: 1,
        plugin: "handler".parse().unwrap(),
        version: None,
        digest: None,
        status: DeadLetterStatus::Held,
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_fails_what_needs_room_and_nothing_else() {
    let store = open(None, &small(), Arc::new(ManualClock::at(NOW_MS))).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    for body in ["one", "two"] {
        publish(&store, message(&body.repeat(10_000))).await.unwrap();
    }
    let leased = within(subscription.next(2, LONG_MS)).await.unwrap();
    let mut kept = BTreeSet::new();
    let refused = loop {
        let letter = letter(&"x".repeat(20_000));
        let id = letter.id.clone();
        match store.add_dead_letter(letter).await {
            Ok(()) => kept.insert(id),
            Err(error) => break error,
        };
        assert!(kept.len() < 100, "the bound is one MiB");
    };
    assert_eq!(refused.kind, ErrorKind::Exceeded, "{refused}");
    // At once, so that they meet in one transaction: the one that does not fit must not fail the others.
    let (one, two, too_large, small) = {
        let mut leased = leased.into_iter();
        let mut settle = || subscription.settle(leased.next().unwrap().receipt, Settlement::Done);
        tokio::join!(settle(), settle(), store.add_dead_letter(letter(&"x".repeat(900_000))), store.check())
    };
    one.unwrap();
    two.unwrap();
    small.unwrap();
    assert_eq!(too_large.unwrap_err().kind, ErrorKind::Exceeded);
    for id in &kept {
        assert!(store.dead_letter(id).await.unwrap().is_some(), "what was answered with Ok is there");
    }
    assert_eq!(store.count_dead_letters().await.unwrap(), [(name(), u64::try_from(kept.len()).unwrap())]);
    for id in &kept {
        assert!(store.remove_dead_letter(id).await.unwrap());
    }
    publish(&store, message("after")).await.expect("there is room again");
    assert_eq!(next(&subscription).await.message.body, "after");
}

#[tokio::test]
async fn the_ledger_keeps_what_it_is_told_to() {
    let config = Config { ledger: Keep::Failures, ..Config::default() };
    let store = open(None, &config, Arc::new(ManualClock::at(NOW_MS))).unwrap();
    let id = sandpost_message::MessageId::new();
    let entry = |step| LedgerEntry {
        message_id: id.clone(),
        at_ms: NOW_MS,
        step,
        subscription: None,
        attempt: None,
        plugin: None,
        version: None,
        digest: None,
        trace_id: String::new(),
        detail: None,
    };
    store.record([Step::Accepted, Step::RetryPlanned, Step::Acknowledged].map(entry).to_vec()).await.unwrap();
    let steps: Vec<Step> = store.history(&id).await.unwrap().iter().map(|entry| entry.step).collect();
    assert_eq!(steps, [Step::RetryPlanned]);
}

#[tokio::test]
async fn a_dedupe_key_is_forgotten_after_its_window() {
    let clock = ManualClock::at(NOW_MS);
    let store = open(None, &Config { dedupe_window_ms: 1_000, ..Config::default() }, Arc::new(clock.clone())).unwrap();
    let _subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let once = || Message { dedupe_key: Some("d".to_owned()), ..message("once") };
    assert!(!publish(&store, once()).await.unwrap());
    clock.advance(999);
    assert!(publish(&store, once()).await.unwrap());
    clock.advance(1);
    assert!(!publish(&store, once()).await.unwrap());
    clock.advance(999);
    assert!(publish(&store, once()).await.unwrap());
}

/// A clock that is set, as an operator or NTP sets a machine's.
#[derive(Clone, Default)]
struct SetClock(Arc<AtomicU64>);

#[async_trait::async_trait]
impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    async fn sleep_until(&self, _at_ms: u64) {
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn what_was_due_stays_due_when_the_clock_is_set_back() {
    let folder = Folder::new();
    let clock = SetClock(Arc::new(AtomicU64::new(NOW_MS)));
    let store = open(Some(&folder.path()), &Config::default(), Arc::new(clock.clone())).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    publish(&store, message("before")).await.unwrap();
    publish(&store, message("before the restart")).await.unwrap();
    clock.0.store(NOW_MS - LONG_MS, Ordering::SeqCst);
    let delivery = next(&subscription).await;
    assert_eq!(delivery.message.body, "before");
    subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
    store.close().await;

    clock.0.store(NOW_MS - 3 * LONG_MS, Ordering::SeqCst);
    let store = open(Some(&folder.path()), &Config::default(), Arc::new(clock.clone())).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let delivery = next(&subscription).await;
    assert_eq!(delivery.message.body, "before the restart");
}

#[tokio::test]
async fn a_waiting_next_ends_when_the_store_is_closed() {
    let store = open(None, &Config::default(), Arc::new(SystemClock)).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let (ended, ()) = within(async { tokio::join!(subscription.next(1, LONG_MS), store.close()) }).await;
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Unavailable);
}

const CHILD_FILE: &str = "SANDPOST_STORE_TEST_FILE";

/// Not a test of its own: what [`a_kill_loses_nothing_that_was_answered`] starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_is_killed() {
    let Some(path) = std::env::var_os(CHILD_FILE) else { return };
    let store = open(Some(Path::new(&path)), &Config::default(), Arc::new(SystemClock)).unwrap();
    let subscription = store.subscribe(&name(), &topic()).await.unwrap();
    let say = |word: &str, id: &str| {
        // One write a line, and no buffer that could be lost with the process.
        std::io::stdout().lock().write_all(format!("\n@{word} {id}\n").as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
    };
    let publisher = async {
        loop {
            let batch: Vec<Message> = (0..5).map(|_| message("a body")).collect();
            for published in store.publish(batch).await {
                say("published", published.unwrap().id.as_str());
            }
        }
    };
    let consumer = async {
        loop {
            for (place, delivery) in subscription.next(4, LONG_MS).await.unwrap().into_iter().enumerate() {
                if place % 2 == 0 {
                    say("settling", delivery.message.id.as_str());
                    subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
                    say("settled", delivery.message.id.as_str());
                } else {
                    say("leased", delivery.message.id.as_str());
                }
            }
        }
    };
    tokio::join!(publisher, consumer);
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_answered() {
    for lines_before_the_kill in [1, 40, 700] {
        let folder = Folder::new();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env(CHILD_FILE, folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let [mut published, mut settling, mut settled, mut leased] = [const { BTreeSet::new() }; 4];
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((word, id)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) else { continue };
            match word {
                "published" => published.insert(id.to_owned()),
                "settling" => settling.insert(id.to_owned()),
                "settled" => settled.insert(id.to_owned()),
                _ => leased.insert(id.to_owned()),
            };
            lines += 1;
            if lines == lines_before_the_kill {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lines >= lines_before_the_kill, "the child ended by itself");

        let store = open(Some(&folder.path()), &Config::default(), Arc::new(SystemClock)).unwrap();
        let subscription = store.subscribe(&name(), &topic()).await.unwrap();
        let mut left = store.backlog(&name()).await.unwrap();
        assert_eq!((left.in_flight, left.held), (0, 0), "all leases have ended");
        let mut delivered = BTreeSet::new();
        while left.ready > 0 {
            for delivery in within(subscription.next(100, LONG_MS)).await.unwrap() {
                let id = delivery.message.id.to_string();
                assert!(!settled.contains(&id), "what was settled does not come again");
                if leased.contains(&id) {
                    assert_eq!(delivery.attempt, 2, "an attempt that took the host down counts");
                }
                assert!(delivered.insert(id));
                left.ready -= 1;
            }
        }
        // The one settlement that was asked for and not answered may have happened: that is the consumer's to bear.
        assert!(settling.difference(&settled).count() <= 1);
        let lost: Vec<_> = published.iter().filter(|id| !settling.contains(*id) && !delivered.contains(*id)).collect();
        assert!(lost.is_empty(), "{} of {} were lost", lost.len(), published.len());
    }
}
