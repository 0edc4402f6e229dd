//! The same against the embedded store, in a file and in real time: what the fakes stand for is what the store does.

use crate::fakes::ScriptedPlugins;
use crate::world::{orders, reject, retry};
use sandpost_dispatch::{Config, Dispatcher, Running, Services};
use sandpost_embedded_store::Store;
use sandpost_message::{Message, Verdict};
use sandpost_ports::broker::Broker as _;
use sandpost_ports::clock::{Clock as _, SystemClock};
use sandpost_ports::plugins::Attempt;
use sandpost_ports::state::{DeadLetterFilter, DeadLetters as _, Ledger as _, Step};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_mins(1);

fn open(path: &Path) -> Store {
    sandpost_embedded_store::open(Some(path), &sandpost_embedded_store::Config::default(), Arc::new(SystemClock))
        .unwrap()
}

async fn start(store: &Store, plugins: &Arc<ScriptedPlugins>) -> Running {
    let mut orders = orders();
    orders.retry.backoff_min_ms = 20;
    orders.retry.attempts_max = 3;
    let services = Services {
        broker: Arc::new(store.clone()),
        state: Arc::new(store.clone()),
        plugins: plugins.clone(),
        clock: Arc::new(SystemClock),
        attempts: None,
    };
    Dispatcher::start(Config::default(), crate::world::one("orders", orders), services).await.unwrap()
}

async fn publish(store: &Store, count: usize, word: &str) -> Vec<Message> {
    let now_ms = SystemClock.now_ms();
    let messages: Vec<Message> =
        (0..count).map(|_| Message::new("orders".parse().unwrap(), word.to_owned(), now_ms)).collect();
    for answer in store.publish(messages.clone()).await {
        answer.unwrap();
    }
    messages
}

async fn until_empty(store: &Store) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let backlog = store.backlog(&"orders".parse().unwrap()).await.unwrap();
        if backlog.ready + backlog.in_flight + backlog.held == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{backlog:?} after {PATIENCE:?}");
        tokio::task::yield_now().await;
    }
}

fn by_body(attempt: &Attempt) -> sandpost_message::Outcome {
    match &attempt.message.body[..] {
        b"reject" => reject(),
        b"retry" => retry(),
        b"second" if attempt.attempt == 1 => retry(),
        _ => Verdict::Ack.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_a_message_ends_in_the_store_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store.db"));
    let plugins = Arc::<ScriptedPlugins>::default();
    plugins.deploy("orders", "1.0.0", 10_000, |attempt| Box::pin(async move { by_body(&attempt) }));
    let running = start(&store, &plugins).await;
    let acked = publish(&store, 100, "ack").await;
    let second = publish(&store, 20, "second").await;
    let rejected = publish(&store, 10, "reject").await;
    let exhausted = publish(&store, 10, "retry").await;
    until_empty(&store).await;
    running.stop(PATIENCE).await;

    let steps = async |message: &Message| {
        store.history(&message.id).await.unwrap().iter().map(|entry| entry.step).collect::<Vec<_>>()
    };
    for message in &acked {
        assert_eq!(steps(message).await, [Step::Started, Step::Acknowledged]);
    }
    for message in &second {
        let expected = [Step::Started, Step::RetryPlanned, Step::Started, Step::Acknowledged];
        assert_eq!(steps(message).await, expected);
    }
    let letters = store.dead_letters(&DeadLetterFilter::default(), None, 100).await.unwrap();
    let of = |cause: &str, attempts: u32| {
        letters.iter().filter(|letter| letter.cause == cause && letter.attempts == attempts).count()
    };
    assert_eq!(of("rejected", 1), rejected.len());
    assert_eq!(of("attempts-exhausted", 3), exhausted.len());
    assert_eq!(letters.len(), rejected.len() + exhausted.len());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_the_last_stop_left_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open(&path);
    let plugins = Arc::<ScriptedPlugins>::default();
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    // Never ends: the stop has to cut it.
    plugins.deploy("orders", "1.0.0", 600_000, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    });
    let running = start(&store, &plugins).await;
    let messages = publish(&store, 40, "ack").await;
    let deadline = Instant::now() + PATIENCE;
    while begun.load(Ordering::SeqCst) < 16 {
        assert!(Instant::now() < deadline, "the attempts do not begin");
        tokio::task::yield_now().await;
    }
    let report = running.stop(Duration::ZERO).await;
    assert_eq!((report.finished, report.unsettled), (0, 0));
    assert!(report.handed_back >= 16, "{report:?}");
    store.close().await;
    drop(store);

    let store = open(&path);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    plugins.deploy("orders", "2.0.0", 10_000, move |attempt| {
        noted.lock().unwrap().push((attempt.message.id.clone(), attempt.attempt));
        Box::pin(async { Verdict::Ack.into() })
    });
    let running = start(&store, &plugins).await;
    until_empty(&store).await;
    running.stop(PATIENCE).await;
    let mut seen = seen.lock().unwrap().clone();
    let mut expected: Vec<_> = messages.iter().map(|message| (message.id.clone(), 1)).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "each once, as its first attempt");
    store.close().await;
}
