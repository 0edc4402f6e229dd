//! SIGKILL at random moments under load: what was answered with 202 ends acknowledged or in the dead letters, once.
//!
//! Each round publishes from several threads, one message a request and in batches, some under an `Idempotency-Key`, while
//! the host works off what earlier rounds left; then it is killed, sometimes again while it starts. After the last round
//! everything that got no answer under a key is sent again, the host works off the rest, and every message is looked at.
//!
//! How much of each kind: 30 rounds, about a minute. `SANDPOST_LONG=1` makes it 1,000 (`SANDPOST_ROUNDS` any number);
//! `SANDPOST_SEED` repeats the throws of a failed run, though not the machine's timing. `SANDPOST_TEST_PROGRAM` names a
//! build that stays as it is meanwhile.
//!
//! What is counted, and where
//! - The end of a message: its ledger and the list of dead letters; of messages that plugins published too.
//! - Mails: the mailbox, by the recipient, whose address is one message's alone.
//! - Publishes by plugins: each downstream message is rejected, and its dead letter names the message it came from.
//! - Documents: the delivery log's collection, once the host has stopped; one of each notification, by its downstream message.

use sandpost_ports::documents::{Documents as _, FindOptions};
use sandpost_tests::{Client, Dice, Host, Reply, Setup, guest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 30;
const ROUNDS_LONG: u64 = 1_000;
const THREADS: u64 = 4;
/// Messages that one round publishes at most, so that what is left at the end can be worked off.
const PUBLISHED_PER_ROUND: u64 = 60;
/// How long after it serves a host is killed at the latest.
const ALIVE_MS: u64 = 500;
/// The same while no more was accepted than one message a round: on a busy machine the moment is too short for any load.
const ALIVE_MAX: Duration = Duration::from_secs(60);
/// How long a request may take, and its body too.
const REQUEST_MS: u64 = 3_000;
/// How long after its start a host is killed where that comes before it serves.
const STARTING_MS: u64 = 300;
/// How long everything may take that is left after the last round.
const DRAIN: Duration = Duration::from_secs(600);

/// What the handler is told to do, and what has to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ack,
    Retry,
    Reject,
    Mail,
    MailThenRetry,
    Publish,
    PublishThenRetry,
    Notification,
}

impl Kind {
    const SCRIPTED: [Self; 7] =
        [Self::Ack, Self::Retry, Self::Reject, Self::Mail, Self::MailThenRetry, Self::Publish, Self::PublishThenRetry];

    fn topic(self) -> &'static str {
        if self == Self::Notification { "notification-created" } else { "work" }
    }

    fn body(self, tag: &str) -> Value {
        let to = format!("{tag}@example.com");
        // The downstream handler rejects, with the tag as its reason: a dead letter that can be counted.
        let downstream = json!({ "do": "reject", "reason": tag });
        match self {
            Self::Ack => json!({ "do": "ack" }),
            Self::Retry => json!({ "do": "retry-until-attempt", "attempt": 2 }),
            Self::Reject => json!({ "do": "reject", "reason": tag }),
            Self::Mail => json!({ "do": "mail", "to": to, "then": "ok" }),
            Self::MailThenRetry => json!({ "do": "mail", "to": to, "then": "retry" }),
            Self::Publish => json!({ "do": "publish", "topic": "elsewhere", "body": downstream }),
            Self::PublishThenRetry => {
                json!({ "do": "publish", "topic": "elsewhere", "body": downstream, "then": "retry" })
            }
            Self::Notification => json!({ "notificationId": tag, "userId": tag, "type": "welcome" }),
        }
    }

    fn mails(self) -> bool {
        matches!(self, Self::Mail | Self::MailThenRetry | Self::Notification)
    }

    fn publishes(self) -> bool {
        matches!(self, Self::Publish | Self::PublishThenRetry | Self::Notification)
    }

    /// What its ledger has to show.
    fn promise(self, repeated: bool) -> Promise {
        Promise {
            subscription: if self == Self::Notification { "notification-email" } else { "scripted" },
            end: if self == Self::Reject { REJECTED } else { ACKNOWLEDGED },
            effects: usize::from(self.mails()) + usize::from(self.publishes()),
            repeated,
        }
    }
}

const ACKNOWLEDGED: &str = "acknowledged";
const REJECTED: &str = "dead-lettered";

/// What the ledger of a message has to show on one of its subscriptions.
#[derive(Debug, Clone, Copy)]
struct Promise {
    subscription: &'static str,
    end: &'static str,
    /// Mails and publishes.
    effects: usize,
    /// Whether it may have been published more than once under its key.
    repeated: bool,
}

/// One message that was sent, whatever came of it.
#[derive(Debug, Clone)]
struct Sent {
    tag: String,
    kind: Kind,
    /// Where it was answered with 202.
    id: Option<String>,
    /// Whether it went out more than once under its key.
    repeated: bool,
}

/// One request that got no answer and carries a key.
#[derive(Debug, Clone)]
struct Pending {
    path: String,
    key: String,
    body: String,
    messages: Vec<Sent>,
}

/// What all threads of all rounds have done.
#[derive(Default)]
struct Books {
    sent: Vec<Sent>,
    pending: Vec<Pending>,
}

impl Books {
    /// How many messages were answered with 202.
    fn answered(&self) -> u64 {
        self.sent.iter().filter(|sent| sent.id.is_some()).count() as u64
    }
}

/// The ids in the answer of a publish; none where it is not an acceptance.
fn accepted(reply: &Reply) -> Option<Vec<String>> {
    if reply.status != 202 {
        return None;
    }
    let body = reply.json();
    let id = |value: &Value| value["id"].as_str().expect("202 comes with ids").to_owned();
    Some(body["results"].as_array().map_or_else(|| vec![id(&body)], |results| results.iter().map(id).collect()))
}

/// Sends one request and notes what came of it; whether there was an answer.
fn send(client: &Client, books: &Mutex<Books>, mut request: Pending) -> bool {
    let key = [("idempotency-key", request.key.as_str())];
    let headers = if request.key.is_empty() { &[][..] } else { &key[..] };
    let asked = Instant::now();
    let answer = client.post(&request.path, headers, &request.body);
    let ids = answer.as_ref().ok().and_then(accepted);
    if let Some(reply) = answer.as_ref().ok().filter(|_| ids.is_none()) {
        // In flight, of a host that is gone; or a host that is busy or just going down; or this thread stood still between
        // head and body for as long as the host waits for one. Nothing else is right.
        let late_body = reply.status == 408 && asked.elapsed() >= Duration::from_millis(REQUEST_MS);
        assert!(late_body || matches!(reply.status, 409 | 503 | 504), "{reply:?} to {request:?}");
    }
    let mut books = books.lock().expect("the books");
    match ids {
        Some(ids) => {
            assert_eq!(ids.len(), request.messages.len());
            for (message, id) in request.messages.iter_mut().zip(ids) {
                message.id = Some(id);
            }
            books.sent.append(&mut request.messages);
        }
        None if request.key.is_empty() => books.sent.append(&mut request.messages),
        None => {
            for message in &mut request.messages {
                message.repeated = true;
            }
            books.pending.push(request);
        }
    }
    answer.is_ok()
}

/// A request of chance: one message or a batch, with a key or without.
fn request(dice: &mut Dice, number: &AtomicU64) -> Pending {
    let next = |kind: Kind| {
        let tag = format!("m{}", number.fetch_add(1, Ordering::Relaxed));
        Sent { tag, kind, id: None, repeated: false }
    };
    let kind = |dice: &mut Dice| Kind::SCRIPTED[usize::try_from(dice.below(7)).expect("seven")];
    let key = |dice: &mut Dice| if dice.below(2) == 0 { format!("key-{}", dice.throw()) } else { String::new() };
    match dice.below(6) {
        0 => {
            let messages: Vec<Sent> = (0..2 + dice.below(8)).map(|_| next(kind(dice))).collect();
            let bodies: Vec<Value> =
                messages.iter().map(|message| json!({ "body": message.kind.body(&message.tag) })).collect();
            let (path, body) = ("/v1/topics/work/messages:batch".to_owned(), json!({ "messages": bodies }).to_string());
            Pending { path, key: key(dice), body, messages }
        }
        other => {
            let message = next(if other < 3 { Kind::Notification } else { kind(dice) });
            let path = format!("/v1/topics/{}/messages", message.kind.topic());
            Pending { path, key: key(dice), body: message.kind.body(&message.tag).to_string(), messages: vec![message] }
        }
    }
}

/// Publishes until the host does not answer any more, or the round has enough.
fn publish(client: &Client, books: &Mutex<Books>, dice: &mut Dice, number: &AtomicU64, until: u64) {
    while number.load(Ordering::Relaxed) < until {
        if !send(client, books, request(dice, number)) {
            return;
        }
    }
}

/// Sends again what got no answer under a key.
fn repeat(client: &Client, books: &Mutex<Books>) {
    let pending = std::mem::take(&mut books.lock().expect("the books").pending);
    for request in pending {
        send(client, books, request);
    }
}

fn setup(users: u64) -> Setup {
    let shipped = Setup::shipped();
    let subscription = |name: &str, topic: &str, plugin: &str| {
        // A kill counts as an attempt, and no message shall end because of it. A retry comes soon, and
        // late enough for a kill between the effect and the next attempt.
        format!(
            "[subscriptions.{name}]\ntopic = \"{topic}\"\nplugin = \"{plugin}\"\n\
             [subscriptions.{name}.retry]\nattempts_max = 1000\nbackoff_min_ms = 200\nbackoff_max_ms = 400\n"
        )
    };
    let stale_ms = REQUEST_MS + 1;
    let config = format!(
        "[http]\nrequest_timeout_ms = {REQUEST_MS}\nbody_timeout_ms = {REQUEST_MS}\nhealth_timeout_ms = 2000\n\
         idempotency_stale_ms = {stale_ms}\n\
         [dispatch]\nmetrics_interval_ms = 200\n\
         [email]\nfrom = \"Sandpost <noreply@sandpost.example>\"\n\
         [email.embedded]\nmails_max = 4000000\nmails_max_bytes = 8589934592\nkeys_max = 4000000\n{}{}{}{}{}",
        subscription("scripted", "work", "scripted"),
        subscription("downstream", "elsewhere", "scripted"),
        subscription("notification-email", "notification-created", "notification-email"),
        subscription("delivery-log", "notification-sent", "delivery-log"),
        // Cannot read a notification and rejects it: that counts the publishes of the shipped plugin.
        subscription("twin", "notification-sent", "scripted"),
    );
    let sql = format!(
        "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, name TEXT, locale TEXT);
         WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {users})
         INSERT INTO users SELECT 'm' || n, 'm' || n || '@example.com', 'User ' || n, 'en' FROM numbers;"
    );
    let plugins = shipped.plugins.into_iter().chain([guest("scripted")]).collect();
    Setup { config, sql, plugins, ..Setup::default() }
}

/// Everything of a list that comes in pages.
fn pages(client: &Client, path: &str, name: &str) -> Vec<Value> {
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("{path}?limit=500{before}")).expect("a page").json();
        all.extend(page[name].as_array().expect("a list").iter().cloned());
        match &page["next"] {
            Value::Null => return all,
            Value::String(next) => before = format!("&before={next}"),
            next => before = format!("&before={next}"),
        }
    }
}

/// How many deliveries are not settled, by the host's own gauge.
fn backlog(client: &Client) -> Option<f64> {
    let metrics = client.get("/metrics").ok()?.text;
    let counts: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with("sandpost_backlog{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Waits until nothing is on its way and no request under a key is open.
fn drain(client: &Client, books: &Mutex<Books>) {
    let deadline = Instant::now() + DRAIN;
    // The gauge is a moment old, and a message that ends may have published another: it has to stay at nothing.
    let mut quiet = 0;
    while quiet < 5 {
        let left = backlog(client);
        let pending = books.lock().expect("the books").pending.len();
        assert!(Instant::now() < deadline, "not worked off: {left:?} deliveries, {pending} requests without an answer");
        quiet = if left == Some(0.0) && pending == 0 { quiet + 1 } else { 0 };
        repeat(client, books);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What is wrong with the ledger of this message; nothing where it is as promised.
fn wrong_steps(client: &Client, id: &str, promise: Promise) -> Option<String> {
    let reply = client.get(&format!("/v1/messages/{id}")).expect("a ledger");
    let history = if reply.status == 200 { reply.json() } else { Value::Null };
    let all = history["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_this = |step: &&Value| step["subscription"].as_str().is_none_or(|name| name == promise.subscription);
    let steps: Vec<(&str, u64)> = (all.iter().filter(of_this))
        .map(|step| (step["step"].as_str().unwrap_or(""), step["attempt"].as_u64().unwrap_or(0)))
        .collect();
    let count = |name: &str| steps.iter().filter(|(step, _)| *step == name).count();
    let wrong = |what: &str| Some(format!("{promise:?} {what}: {steps:?}"));

    // A publish that was cut off between its commit and the ledger is found again under its key as one that was known.
    let accepted = count("accepted");
    if accepted > 1 || (accepted == 0 && !(promise.repeated && count("deduplicated") > 0)) {
        return wrong("not accepted exactly once");
    }
    let end = promise.end;
    let other = if end == REJECTED { ACKNOWLEDGED } else { REJECTED };
    if count(end) == 0 || count(other) > 0 {
        return wrong(&format!("does not end {end} alone"));
    }
    // An end that the broker was not told of before the kill comes again, in a later attempt and after a start of its own
    // (a dead letter is found kept, without another start).
    let mut attempts = BTreeSet::new();
    for (place, (step, attempt)) in steps.iter().enumerate().filter(|(_, (step, _))| *step == end) {
        if !attempts.insert(attempt) {
            return wrong("ended twice in one attempt");
        }
        let mut starts = steps[..place].iter().filter(|(earlier, _)| *earlier == "started");
        let started = starts.any(|(_, of)| of == attempt || *step == REJECTED);
        if !started {
            return wrong("ended without a start");
        }
    }
    let starts: Vec<u64> = steps.iter().filter(|(step, _)| *step == "started").map(|(_, attempt)| *attempt).collect();
    if starts.windows(2).any(|pair| pair[0] >= pair[1]) {
        return wrong("one attempt was started twice");
    }
    let last = steps.last().map(|(step, _)| *step);
    if last == Some("started") || last == Some("retry-planned") {
        return wrong("goes on after its end");
    }
    // `sent` may be missing where the kill came between the hand-over and its note; it is never there twice.
    if count("effect-sent") > promise.effects {
        return wrong("an effect was sent twice");
    }
    None
}

/// Looks at every message; what is wrong, a line each. And the notifications that were logged: by their tag the downstream message.
fn audit(client: &Client, books: &Books) -> (Vec<String>, BTreeMap<String, String>) {
    let mut wrong = Vec::new();
    let (mut mails, mut downstream, mut rejected) =
        (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for mail in pages(client, "/v1/mailbox", "mails") {
        let to = mail["to"][0]["address"].as_str().expect("a recipient");
        *mails.entry(to.trim_end_matches("@example.com").to_owned()).or_default() += 1;
    }
    let mut logged = BTreeMap::new();
    let published = |subscription, end| Promise { subscription, end, effects: 0, repeated: true };
    let letters = pages(client, "/v1/dead-letters", "dead_letters");
    for letter in &letters {
        let id = letter["id"].as_str().expect("an id");
        let message = letter["message"]["id"].as_str().expect("the message's id");
        let reason = letter["reason"].as_str().expect("a reason").to_owned();
        let mut promises = Vec::new();
        match (letter["subscription"].as_str(), letter["cause"].as_str()) {
            (Some("scripted"), Some("rejected")) => *rejected.entry(reason).or_default() += 1,
            (Some("downstream"), Some("rejected")) => {
                *downstream.entry(reason).or_default() += 1;
                promises = vec![published("downstream", REJECTED)];
            }
            (Some("twin"), Some("rejected")) => {
                let whole = client.get(&format!("/v1/dead-letters/{id}")).expect("a dead letter").json();
                let tag = whole["message"]["body"]["notificationId"].as_str().expect("a notification").to_owned();
                logged.insert(tag.clone(), message.to_owned());
                *downstream.entry(tag).or_default() += 1;
                promises = vec![published("twin", REJECTED), published("delivery-log", ACKNOWLEDGED)];
            }
            _ => wrong.push(format!("an end that nobody asked for: {letter}")),
        }
        wrong.extend(promises.into_iter().filter_map(|promise| {
            wrong_steps(client, message, promise).map(|what| format!("downstream message {message}: {what}"))
        }));
    }

    for sent in &books.sent {
        let count = |counts: &BTreeMap<String, usize>| counts.get(&sent.tag).copied().unwrap_or(0);
        let counted = [
            ("mails", count(&mails), usize::from(sent.kind.mails())),
            ("messages downstream", count(&downstream), usize::from(sent.kind.publishes())),
            ("dead letters", count(&rejected), usize::from(sent.kind == Kind::Reject)),
        ];
        for (what, found, wanted) in counted {
            // What got no answer may be there or not. Everything is there at most once.
            let lost = sent.id.is_some() && found < wanted;
            if lost || found > wanted {
                wrong.push(format!("{found} {what} instead of {wanted} of {sent:?}"));
            }
        }
        if let Some(id) = &sent.id
            && let Some(what) = wrong_steps(client, id, sent.kind.promise(sent.repeated))
        {
            wrong.push(format!("{sent:?} {what}"));
        }
    }
    let mut ids: Vec<&String> = books.sent.iter().filter_map(|sent| sent.id.as_ref()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != all {
        wrong.push(format!("{} ids were given to two messages", all - ids.len()));
    }
    (wrong, logged)
}

/// What is wrong with the delivery log's documents, of a host that has stopped: each of these notifications has one, by its own
/// message, and there are no others.
fn audit_documents(path: PathBuf, logged: &BTreeMap<String, String>) -> Vec<String> {
    assert!(path.is_file(), "{} is where documents are", path.display());
    let config = sandpost_embedded_documents::Config {
        path: Some(path),
        scan_max_documents: usize::MAX,
        ..sandpost_embedded_documents::Config::default()
    };
    let documents = sandpost_embedded_documents::open(&config).expect("the documents open");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let found = runtime.block_on(async {
        let mut cursor = documents.find("deliveries", json!({}), FindOptions::default()).await.expect("a cursor");
        let mut found = Vec::new();
        loop {
            match cursor.next(1_000, 1 << 20).await.expect("documents") {
                batch if batch.is_empty() => return found,
                batch => found.extend(batch),
            }
        }
    });
    let mut wrong = Vec::new();
    let mut missing: BTreeSet<&String> = logged.keys().collect();
    for document in &found {
        let tag = document["notificationId"].as_str().unwrap_or_default().to_owned();
        if !missing.remove(&tag) || document["messageId"].as_str() != logged.get(&tag).map(String::as_str) {
            wrong.push(format!("a document that nobody asked for, or twice: {document}"));
        }
    }
    wrong.extend(missing.into_iter().map(|tag| format!("no document of notification {tag}")));
    wrong
}

fn rounds() -> u64 {
    let long = std::env::var_os("SANDPOST_LONG").is_some_and(|value| value == "1");
    let stated = std::env::var("SANDPOST_ROUNDS").ok().map(|text| text.parse().expect("SANDPOST_ROUNDS is a number"));
    stated.unwrap_or(if long { ROUNDS_LONG } else { ROUNDS })
}

#[test]
fn sigkill_under_load_loses_nothing_and_does_nothing_twice() {
    let (seed, rounds) = (Dice::seed(), rounds());
    let begun = Instant::now();
    let mut dice = Dice::new(seed);
    let number = Arc::new(AtomicU64::new(0));
    let books = Arc::new(Mutex::new(Books::default()));
    // A batch and four threads may overshoot what a round has.
    let mut host = Host::start(setup(rounds * (PUBLISHED_PER_ROUND + THREADS * 10)));
    for round in 1..=rounds {
        let client = Client::new(host.address());
        let until = number.load(Ordering::Relaxed) + PUBLISHED_PER_ROUND;
        let mut threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (client, books, number, mut dice) = (client.clone(), books.clone(), number.clone(), dice.fork());
                std::thread::spawn(move || publish(&client, &books, &mut dice, &number, until))
            })
            .collect();
        let (client, kept) = (client.clone(), books.clone());
        threads.push(std::thread::spawn(move || repeat(&client, &kept)));
        std::thread::sleep(Duration::from_millis(dice.below(ALIVE_MS)));
        let deadline = Instant::now() + ALIVE_MAX;
        // A publisher that failed with the books in its hands is reported below.
        let too_few = || books.lock().is_ok_and(|books| books.answered() <= round);
        while too_few() && Instant::now() < deadline && threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        host.kill();
        for thread in threads {
            thread.join().unwrap_or_else(|_| panic!("a publisher failed; seed {seed}"));
        }
        if dice.below(4) == 0 {
            host.restart_and_kill(Duration::from_millis(dice.below(STARTING_MS)));
        }
        host.restart();
    }

    let client = Client::new(host.address());
    let load_s = begun.elapsed().as_secs();
    drain(&client, &books);
    let books = books.lock().expect("the books");
    let answered = books.answered();
    assert!(answered > rounds, "only {answered} messages were accepted: that is no load; seed {seed}");
    let (mut wrong, logged) = audit(&client, &books);
    assert!(host.terminate().success(), "the host stops");
    wrong.extend(audit_documents(host.folder().join("data/documents-main.sqlite"), &logged));
    let (total, shown) = (wrong.len(), wrong.iter().take(20).collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{total} of {answered} messages; seed {seed}, {rounds} rounds; the first: {shown:#?}");
    let repeated = books.sent.iter().filter(|sent| sent.repeated).count();
    println!(
        "{rounds} rounds, seed {seed}: {} messages sent, {answered} answered with 202 ({repeated} of them after a kill, \
         under their key); {load_s} s of rounds, {} s in all",
        books.sent.len(),
        begun.elapsed().as_secs(),
    );
}
