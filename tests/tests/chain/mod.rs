//! The notification chain under load: publishing while services and hosts go away and come back, and what became of each
//! notification in the end.
//!
//! A notification is a number: user, mail address, key and id are made from it, so that whatever is found at the end of the
//! chain says which one it is of.
//!
//! What is counted, and where
//! - Accepted: what was answered with 202, under a key or without one.
//! - Mails: at the provider, by the recipient.
//! - `notification-sent`: at the broker, by a subscription of the test's own ([`Observer`]); no host is asked what it sent.
//! - What `delivery-log` keeps: in MongoDB ([`Records`]).
//! - Why a message is held: its ledger.
//!
//! Not here: which services there are and what is done to them.

mod observer;
mod records;

pub use observer::Observer;
pub use records::Records;

use sandpost_tests::{Client, Host};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Where the chain begins.
pub const CREATED: &str = "notification-created";
/// Where it goes on.
pub const SENT: &str = "notification-sent";

/// The emulator goes on delivering to streams that were cut, and misses each of those deliveries only when its ack deadline
/// is over, several times in a row where it is unlucky.
const EMULATOR_PATIENCE: Duration = Duration::from_secs(200);

/// Between two publishes of a thread, and between later ones: what nobody can work off is tried again and again, in the way
/// of what is new.
const PACE: Duration = Duration::from_millis(100);
const PACE_LATER: Duration = Duration::from_secs(1);

/// So many publishes of a thread go at the first pace while one service is away.
const QUICK: usize = 25;

/// How many notifications a test publishes at most, and so how many users there are.
const NOTIFICATIONS_MAX: usize = 4_000;

/// The number's user.
pub fn user(number: usize) -> String {
    format!("user_{number}")
}

/// Where the number's mail goes.
pub fn address(number: usize) -> String {
    format!("user{number}@example.com")
}

/// The number's notification.
pub fn notification(number: usize) -> String {
    format!("n{number}")
}

/// The users, as SQL that both MySQL and Postgres take.
pub fn users() -> String {
    let rows: Vec<String> = (0..NOTIFICATIONS_MAX)
        .map(|number| format!("('{}', '{}', 'Ada', 'en')", user(number), address(number)))
        .collect();
    format!(
        "DROP TABLE IF EXISTS users;
         CREATE TABLE users (id VARCHAR(64) PRIMARY KEY, email TEXT, name TEXT, locale TEXT);
         INSERT INTO users VALUES {};",
        rows.join(", ")
    )
}

/// The subscriptions of the chain. No attempt is the last one: what is away may be away for long on a busy machine.
pub const SUBSCRIPTIONS: &str = r#"
    [subscriptions.notification-email]
    topic = "notification-created"
    plugin = "notification-email"
    [subscriptions.notification-email.retry]
    attempts_max = 1000
    backoff_min_ms = 200
    backoff_max_ms = 5000
    [subscriptions.delivery-log]
    topic = "notification-sent"
    plugin = "delivery-log"
    [subscriptions.delivery-log.retry]
    attempts_max = 1000
    backoff_min_ms = 200
    backoff_max_ms = 5000
"#;

/// Everything that a test publishes.
#[derive(Debug, Default)]
pub struct Load {
    /// All below it were tried.
    next: AtomicUsize,
    books: Mutex<Books>,
    /// Known to have come to their end.
    ended: Mutex<BTreeSet<usize>>,
}

#[derive(Debug, Default)]
struct Books {
    /// With the id that 202 came with.
    accepted: BTreeMap<usize, String>,
    /// Under a key and not accepted so far: to be asked for again.
    pending: Vec<usize>,
}

/// What a service or a host that went away leaves in doubt.
#[derive(Debug, Default)]
pub struct Doubts {
    /// These may be held, because nobody knows whether an effect of theirs happened.
    pub effects: BTreeSet<usize>,
    /// Steps of these may be missing in the ledger.
    pub ledger: BTreeSet<usize>,
}

impl Load {
    /// Publishes for as long as `meanwhile` runs, from two threads: one under keys, which asks for each message until it is
    /// accepted; one without, which cannot ask twice and goes on to the next. Both go to the first of the hosts until it
    /// does not answer any more, then to the next one.
    pub fn during<T>(&self, hosts: &[&str], meanwhile: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Also where it panics: the scope waits for its threads.
            let _ends = Ends(&over);
            for keyed in [true, false] {
                let over = &over;
                scope.spawn(move || self.publish(hosts, keyed, over));
            }
            meanwhile()
        })
    }

    /// Asks once more for what was published under a key and not accepted.
    pub fn finish(&self, host: &Host) {
        let client = Client::new(host.address());
        for number in std::mem::take(&mut self.books().pending) {
            host.eventually("a key is answered", || match self.offer(&client, number, true) {
                Offered::Accepted => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }

    /// Waits until one of the messages that are published from now on comes to this step.
    pub fn until(&self, host: &Host, step: &str) {
        let from = self.tried();
        host.eventually_within(EMULATOR_PATIENCE, &format!("a new message comes to `{step}`"), || {
            // The oldest of them have come the farthest.
            let of: Vec<(usize, String)> =
                self.books().accepted.range(from..).take(8).map(|(number, id)| (*number, id.clone())).collect();
            let seen: Vec<_> = of.iter().map(|(number, id)| (number, host.steps(id))).collect();
            let is_there = seen.iter().any(|(_, steps)| steps.iter().any(|one| one == step));
            if is_there { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }

    /// Waits until this many more were accepted.
    pub fn until_accepted(&self, host: &Host, more: usize) {
        let wanted = self.books().accepted.len() + more;
        host.eventually("publishing goes on", || {
            let count = self.books().accepted.len();
            if count >= wanted { Ok(()) } else { Err(format!("{count} of {wanted}")) }
        });
    }

    /// Waits until a message was accepted and has not ended, and cuts then, in the middle of work; which messages may have
    /// been at work at that moment.
    pub fn cut(&self, host: &Host, cut: impl FnOnce()) -> BTreeSet<usize> {
        let ended = self.ended(host);
        host.eventually("a message is at work", || {
            let newest = self.books().accepted.last_key_value().map(|(_, id)| id.clone()).ok_or("none")?;
            let steps = host.steps(&newest);
            if steps.is_empty() || has_ended(&steps) { Err(format!("{steps:?}")) } else { Ok(()) }
        });
        cut();
        // What is not answered yet may be at work all the same.
        (0..self.tried()).filter(|number| !ended.contains(number)).collect()
    }

    /// How many were tried: all numbers below.
    pub fn tried(&self) -> usize {
        self.next.load(Ordering::SeqCst).min(NOTIFICATIONS_MAX)
    }

    /// Waits until every accepted notification is through the chain or held, and checks that nothing was lost and nothing
    /// done twice.
    ///
    /// `mails` counts what each address got.
    pub fn check(
        &self,
        host: &Host,
        observer: &mut Observer,
        records: &Records,
        mails: impl Fn() -> BTreeMap<String, usize>,
        doubts: &Doubts,
    ) {
        let accepted = self.books().accepted.clone();
        assert!(!accepted.is_empty(), "nothing was accepted");
        let mut held = BTreeMap::new();
        for (number, id) in &accepted {
            let (number, what) = (*number, format!("notification {number}, message {id}, ends"));
            let unknown = host.eventually_within(EMULATOR_PATIENCE, &what, || {
                let steps = ledger(host, id);
                let is_there = |step: &str| steps.iter().any(|one| one["step"] == step);
                if is_there("dead-lettered") {
                    let unknown = steps.iter().find(|one| one["step"] == "effect-unknown");
                    return Ok(Some(unknown.map(|step| step["detail"].as_str().unwrap_or_default().to_owned())));
                }
                let is_recorded = is_there("acknowledged") || doubts.ledger.contains(&number);
                let record = records.of(&notification(number));
                if is_recorded && record.is_some() { Ok(None) } else { Err(format!("{record:?}, {steps:?}")) }
            });
            if let Some(unknown) = unknown {
                assert!(doubts.effects.contains(&number), "{number} ({id}) is held, and was not at work: {unknown:?}");
                let unknown = unknown.unwrap_or_else(|| {
                    assert!(doubts.ledger.contains(&number), "{number} ({id}) is held for something else");
                    String::new()
                });
                held.insert(number, unknown);
            }
        }

        // What was refused and stored all the same may still be on its way.
        let sent = host.eventually("there is a record of everything that was sent", || {
            let (sent, records) = (observer.seen(host), records.all());
            let twice = sent.iter().find(|(_, ids)| ids.len() > 1);
            assert!(twice.is_none(), "sent twice: {twice:?}");
            let sent: BTreeMap<String, String> =
                sent.into_iter().flat_map(|(about, ids)| ids.into_iter().map(move |id| (about.clone(), id))).collect();
            if sent == records { Ok(sent) } else { Err(format!("{} sent, {} records", sent.len(), records.len())) }
        });
        let mails = mails();
        for number in 0..self.tried() {
            let mails = mails.get(&address(number)).copied().unwrap_or_default();
            let sent = usize::from(sent.contains_key(&notification(number)));
            let found = format!("{number}: {mails} mails, {sent} times `{SENT}`");
            assert!(mails <= 1, "sent twice: {found}");
            match held.get(&number) {
                None if accepted.contains_key(&number) => assert_eq!((mails, sent), (1, 1), "lost: {found}"),
                // Refused, and stored perhaps all the same.
                None => assert!(sent <= mails, "{found}"),
                Some(unknown) if unknown.starts_with("email") => assert_eq!(sent, 0, "{found}"),
                Some(unknown) if unknown.starts_with("publish") => assert_eq!(mails, 1, "{found}"),
                Some(_) => {}
            }
        }
        let own: BTreeSet<String> = (0..self.tried()).map(notification).collect();
        let foreign = sent.keys().find(|about| !own.contains(*about));
        assert!(foreign.is_none(), "nobody asked for {foreign:?}");
        println!("{} accepted of {}, {} held", accepted.len(), self.tried(), held.len());
    }

    fn publish(&self, hosts: &[&str], keyed: bool, over: &AtomicBool) {
        let clients: Vec<Client> = hosts.iter().map(|host| Client::new(host)).collect();
        let mut clients = clients.iter().cycle();
        let Some(mut client) = clients.next() else { return };
        let mut again = None;
        for turn in 0.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let pending = || if keyed { self.books().pending.pop() } else { None };
            let Some(number) = again.take().or_else(pending).or_else(|| self.take()) else { return };
            match self.offer(client, number, keyed) {
                Offered::Accepted => {}
                refused => {
                    again = keyed.then_some(number);
                    if refused == Offered::Unanswered {
                        client = clients.next().expect("there is a host");
                    }
                }
            }
            std::thread::sleep(if turn < QUICK { PACE } else { PACE_LATER });
        }
        self.books().pending.extend(again);
    }

    fn offer(&self, client: &Client, number: usize, keyed: bool) -> Offered {
        let body = json!({ "notificationId": notification(number), "userId": user(number), "type": "welcome" });
        let key = format!("\"publish-{number}\"");
        let headers = [("idempotency-key", key.as_str())];
        let headers = &headers[..usize::from(keyed)];
        let Ok(reply) = client.post(&format!("/v1/topics/{CREATED}/messages"), headers, &body.to_string()) else {
            return Offered::Unanswered;
        };
        if reply.status == 202 {
            let id = reply.json()["id"].as_str().expect("an id").to_owned();
            self.books().accepted.insert(number, id);
            return Offered::Accepted;
        }
        // Of a host that did not answer in time and is still at it; of one whose services are away.
        assert!(matches!(reply.status, 409 | 503 | 504), "{reply:?}");
        Offered::Refused
    }

    fn take(&self) -> Option<usize> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        (number < NOTIFICATIONS_MAX).then_some(number)
    }

    /// Those whose ledger says so.
    fn ended(&self, host: &Host) -> BTreeSet<usize> {
        let accepted = self.books().accepted.clone();
        let mut ended = self.ended.lock().expect("who ended");
        for (number, id) in accepted {
            if !ended.contains(&number) && has_ended(&host.steps(&id)) {
                ended.insert(number);
            }
        }
        ended.clone()
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().expect("the books")
    }
}

/// What came of one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offered {
    Accepted,
    Refused,
    Unanswered,
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn has_ended(steps: &[String]) -> bool {
    steps.iter().any(|step| step == "acknowledged" || step == "dead-lettered")
}

fn ledger(host: &Host, id: &str) -> Vec<Value> {
    let reply = host.get(&format!("/v1/messages/{id}"));
    if reply.status == 200 { reply.json()["steps"].as_array().cloned().unwrap_or_default() } else { Vec::new() }
}
