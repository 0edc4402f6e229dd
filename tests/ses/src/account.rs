//! What the server knows: the account, the identities, the suppression list, and what was sent.

use crate::Answer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Everything.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) account: Account,
    pub(crate) sent: Vec<Sent>,
    pub(crate) answers: VecDeque<Answer>,
    pub(crate) calls: BTreeMap<String, u64>,
    /// When how many recipients were taken, for the rate.
    pub(crate) taken: VecDeque<(Instant, f64)>,
    /// Temporary keys that were given out.
    pub(crate) sessions: u64,
}

/// The account in its region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    /// Recipients in 24 hours; -1 where there is no limit.
    pub max_24_hour_send: f64,
    /// Recipients in a second. Enforced where `rate_is_enforced`.
    pub max_send_rate: f64,
    /// Whether going faster is refused.
    pub rate_is_enforced: bool,
    /// How many times the rate one second may have: a short burst is let through, as at the service. Default 1.2.
    pub burst: f64,
    /// In the last 24 hours; goes up with each mail.
    pub sent_last_24_hours: f64,
    /// Out of the sandbox.
    pub production_access_enabled: bool,
    /// Sending is not paused.
    pub sending_enabled: bool,
    /// `HEALTHY`, `PROBATION` or `SHUTDOWN`.
    pub enforcement_status: String,
    /// Addresses and domains.
    pub identities: BTreeMap<String, Identity>,
    /// Names that exist.
    pub configuration_sets: BTreeSet<String>,
    /// By address, in lower case.
    pub suppressed: BTreeMap<String, Suppressed>,
    /// Access key ids that are known; every one where left out. Temporary ones that were given out here always are.
    pub access_keys: Option<BTreeSet<String>>,
    /// Operations beside sending that nobody's credentials may do, by their names: `GetEmailIdentity`.
    pub denied: BTreeSet<String>,
    /// How long temporary credentials last.
    pub session_seconds: u64,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            max_24_hour_send: 50_000.0,
            max_send_rate: 1_000.0,
            rate_is_enforced: false,
            burst: 1.2,
            sent_last_24_hours: 0.0,
            production_access_enabled: true,
            sending_enabled: true,
            enforcement_status: "HEALTHY".to_owned(),
            identities: BTreeMap::from([("example.com".to_owned(), Identity::default())]),
            configuration_sets: BTreeSet::new(),
            suppressed: BTreeMap::new(),
            access_keys: None,
            denied: BTreeSet::new(),
            session_seconds: 3_600,
        }
    }
}

/// A domain or an address that may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Whether it may.
    pub verified: bool,
    /// `SUCCESS`, `PENDING`, `NOT_STARTED`, …
    pub dkim: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self { verified: true, dkim: "SUCCESS".to_owned() }
    }
}

/// Why an address gets no mail, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// `BOUNCE` or `COMPLAINT`.
    pub reason: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// One mail that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// The id that it was answered with, or would have been.
    pub message_id: String,
    /// Whose credentials it came with.
    pub access_key: String,
    /// What goes with temporary ones.
    pub session_token: Option<String>,
    /// The region that it was signed for.
    pub region: String,
    /// The sender.
    pub from: Option<String>,
    /// The visible recipients.
    pub to: Vec<String>,
    /// The copies.
    pub cc: Vec<String>,
    /// The hidden copies.
    pub bcc: Vec<String>,
    /// Of the recipients those that it was not delivered to.
    pub suppressed: Vec<String>,
    /// The MIME, where it was raw.
    pub raw: Option<String>,
    /// The subject, where it was simple.
    pub subject: Option<String>,
    /// The HTML, where it was simple.
    pub html: Option<String>,
    /// The text, where it was simple.
    pub text: Option<String>,
    /// Of the simple one.
    pub headers: Vec<(String, String)>,
    /// Name and value.
    pub tags: Vec<(String, String)>,
    /// By name.
    pub configuration_set: Option<String>,
}

impl Account {
    /// Whether this address, or its domain, may send.
    pub fn is_verified(&self, address: &str) -> bool {
        let address = address.to_lowercase();
        let domain = address.rsplit('@').next().unwrap_or_default();
        [address.as_str(), domain].iter().any(|name| self.identities.get(*name).is_some_and(|found| found.verified))
    }

    /// Puts an address on the suppression list.
    pub fn suppress(&mut self, address: &str, reason: &str, since: u64) {
        self.suppressed.insert(address.to_lowercase(), Suppressed { reason: reason.to_owned(), since });
    }
}

impl State {
    pub(crate) fn count(&mut self, operation: &str) {
        *self.calls.entry(operation.to_owned()).or_default() += 1;
    }

    /// Whether so many more recipients fit into this second; counted if so.
    pub(crate) fn takes(&mut self, recipients: f64) -> bool {
        let now = Instant::now();
        while self.taken.front().is_some_and(|(at, _)| now.duration_since(*at) > Duration::from_secs(1)) {
            self.taken.pop_front();
        }
        let in_the_second: f64 = self.taken.iter().map(|(_, count)| count).sum();
        let most = self.account.max_send_rate * self.account.burst;
        if self.account.rate_is_enforced && in_the_second + recipients > most {
            return false;
        }
        self.taken.push_back((now, recipients));
        true
    }
}
