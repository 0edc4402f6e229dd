//! What a fake host holds, and which one serves this thread.

use super::sql::DatabaseState;
use super::{LogLine, Published, SentEmail, Service};
use crate::email::{Outcome, SendError};
use crate::error::HostError;
use crate::health::State as Health;
use crate::message::Message;
use crate::template::Templates;
use crate::time::Timestamp;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static CURRENT: RefCell<Option<Weak<RefCell<State>>>> = const { RefCell::new(None) };
}

/// A new id that no test has seen.
pub(super) fn unique(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn install(state: &Rc<RefCell<State>>) {
    CURRENT.with(|current| *current.borrow_mut() = Some(Rc::downgrade(state)));
}

/// Takes it away, unless a newer one has its place already.
pub(super) fn uninstall(state: &Weak<RefCell<State>>) {
    // A thread that ends may have lost its slot before the host; then there is nothing to take away.
    let _gone = CURRENT.try_with(|current| {
        let mut current = current.borrow_mut();
        if current.as_ref().is_some_and(|installed| installed.ptr_eq(state)) {
            *current = None;
        }
    });
}

/// The host of this thread, if a test made one.
pub(super) fn with<T>(work: impl FnOnce(&mut State) -> T) -> Option<T> {
    let state = CURRENT.with(|current| current.borrow().as_ref().and_then(Weak::upgrade))?;
    let mut state = state.borrow_mut();
    Some(work(&mut state))
}

/// The same, for a part that may have been told to fail.
pub(super) fn call<T>(service: Service, work: impl FnOnce(&mut State) -> Result<T, HostError>) -> Result<T, HostError> {
    let checked = |state: &mut State| match state.failing.get(&service) {
        Some(error) => Err(error.clone()),
        None => work(state),
    };
    let nobody = || Err(HostError::Other("no host on this thread: make a `testing::Host` first".to_owned()));
    with(checked).unwrap_or_else(nobody)
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) now: Timestamp,
    pub(super) cache: BTreeMap<String, Entry>,
    pub(super) published: Vec<Published>,
    pub(super) emails: Vec<SentEmail>,
    pub(super) outcomes: VecDeque<Result<Outcome, SendError>>,
    pub(super) templates: Option<Rc<Templates>>,
    pub(super) config: BTreeMap<String, String>,
    pub(super) health: BTreeMap<String, Health>,
    pub(super) failing: HashMap<Service, HostError>,
    pub(super) sql: BTreeMap<String, DatabaseState>,
    pub(super) documents: BTreeMap<(String, String), Vec<Value>>,
    pub(super) logs: Vec<LogLine>,
    /// What was done already, by key; the id of then.
    effects: HashMap<String, String>,
    attempt: Option<Attempt>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) ends: Timestamp,
}

/// The message being handled, and how many effects of each kind it asked for so far.
#[derive(Debug)]
struct Attempt {
    message: String,
    places: HashMap<String, u32>,
}

impl State {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            now,
            cache: BTreeMap::new(),
            published: Vec::new(),
            emails: Vec::new(),
            outcomes: VecDeque::new(),
            templates: None,
            config: BTreeMap::new(),
            health: BTreeMap::new(),
            failing: HashMap::new(),
            sql: BTreeMap::new(),
            documents: BTreeMap::new(),
            logs: Vec::new(),
            effects: HashMap::new(),
            attempt: None,
        }
    }

    pub(super) fn begin(&mut self, message: &Message) {
        self.attempt = Some(Attempt { message: message.id().to_owned(), places: HashMap::new() });
    }

    pub(super) fn end(&mut self) {
        self.attempt = None;
    }

    /// The key of an effect: the plugin's own, or one made of the message, what the effect is, and its place among
    /// those like it. Outside a delivery there is no message, and each call is new.
    pub(super) fn effect_key(&mut self, own: Option<&str>, what: &str) -> Option<String> {
        if let Some(own) = own {
            return Some(format!("{what}/own/{own}"));
        }
        let attempt = self.attempt.as_mut()?;
        let place = attempt.places.entry(what.to_owned()).or_default();
        *place += 1;
        Some(format!("{what}/{}/{place}", attempt.message))
    }

    /// The id that this effect was done under.
    pub(super) fn done(&self, key: Option<&str>) -> Option<String> {
        self.effects.get(key?).cloned()
    }

    pub(super) fn record(&mut self, key: Option<String>, id: &str) {
        if let Some(key) = key {
            self.effects.insert(key, id.to_owned());
        }
    }

    /// The bytes of a cache key that has not ended.
    pub(super) fn cached(&mut self, key: &str) -> Option<Vec<u8>> {
        let now = self.now;
        self.cache.retain(|_, entry| entry.ends > now);
        self.cache.get(key).map(|entry| entry.value.clone())
    }
}
