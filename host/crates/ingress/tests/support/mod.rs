//! Services in memory behind an ingress, and a client that speaks to its router.
//!
//! The fakes keep what the ports promise as far as HTTP shows it; the real stores have the ports' contract suites.

#![allow(dead_code, reason = "each test file uses its own part")]

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use sandpost_ingress::{Check, Config, Ingress, Parts, Peer, Tokens};
use sandpost_message::{Digest, Message, MessageId, PluginName, SubscriptionName, Topic};
use sandpost_ports::broker::{Backlog, Broker, Published, Subscription};
use sandpost_ports::cache::{CacheFigures, CacheServer};
use sandpost_ports::clock::{Clock, ManualClock};
use sandpost_ports::email::{Address, CaughtMail, Mail, MailOrigin, Mailbox};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::{Handler, LivePlugin, PluginInfo, Plugins, Refusal};
use sandpost_ports::publisher::Publisher;
use sandpost_ports::state::*;
use sandpost_ports::{ErrorKind, PortError};
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tower::ServiceExt as _;

pub(crate) const NOW_MS: u64 = 1_795_166_790_007;
pub(crate) const NOW: &str = "2026-11-20T09:26:30.007Z";

/// One topic, `orders`; everything published to it.
#[derive(Default)]
pub(crate) struct FakeBroker {
    pub(crate) stored: Mutex<Vec<Message>>,
    pub(crate) fail: Mutex<Option<ErrorKind>>,
    /// Waits for this before it stores, where it is set.
    pub(crate) hold: Mutex<Option<Arc<Notify>>>,
    pub(crate) entered: Notify,
}

#[async_trait::async_trait]
impl Health for FakeBroker {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Broker for FakeBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        self.entered.notify_one();
        let hold = self.hold.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        let fail = *self.fail.lock().unwrap();
        let mut stored = self.stored.lock().unwrap();
        messages
            .into_iter()
            .map(|message| {
                if let Some(kind) = fail {
                    // These words are for the caller.
                    let words = match kind {
                        ErrorKind::Unsupported => "the service refuses the request",
                        _ => "the disk at 10.0.0.1 is in flames",
                    };
                    return Err(PortError::new(kind, words).because("secret-cause"));
                }
                if message.topic.as_str() != "orders" {
                    return Err(PortError::invalid("no subscription"));
                }
                let known =
                    stored.iter().find(|old| message.dedupe_key.is_some() && old.dedupe_key == message.dedupe_key);
                if let Some(known) = known {
                    return Ok(Published { id: known.id.clone(), duplicate: true });
                }
                let id = message.id.clone();
                stored.push(message);
                Ok(Published { id, duplicate: false })
            })
            .collect()
    }

    async fn subscribe(&self, _: &SubscriptionName, _: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        Err(PortError::unsupported("subscriptions"))
    }

    async fn backlog(&self, _: &SubscriptionName) -> Result<Backlog, PortError> {
        Ok(Backlog::default())
    }

    fn deduplicates(&self) -> bool {
        true
    }
}

type Recorded = (RecordedRequest, Option<Vec<u8>>);

#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) entries: Mutex<Vec<LedgerEntry>>,
    pub(crate) letters: Mutex<Vec<DeadLetter>>,
    pub(crate) requests: Mutex<HashMap<String, Recorded>>,
    pub(crate) resolved: Mutex<Vec<bool>>,
    /// Answers of requests cannot be kept, as if the host had died right after publishing.
    pub(crate) forgetful: Mutex<bool>,
    /// Requests cannot be asked for.
    pub(crate) away: Mutex<Option<ErrorKind>>,
}

#[async_trait::async_trait]
impl Health for FakeState {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Ledger for FakeState {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        self.entries.lock().unwrap().extend(entries);
        Ok(())
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        Ok(self.entries.lock().unwrap().iter().filter(|entry| entry.message_id == *message).cloned().collect())
    }

    async fn forget_before(&self, _: u64, _: usize) -> Result<u64, PortError> {
        Ok(0)
    }
}

#[async_trait::async_trait]
impl DeadLetters for FakeState {
    async fn add_dead_letter(&self, letter: DeadLetter) -> Result<(), PortError> {
        self.letters.lock().unwrap().push(letter);
        Ok(())
    }

    async fn held_dead_letter(&self, _: &MessageId, _: &SubscriptionName) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PortError> {
        let letters = self.letters.lock().unwrap();
        let matches = |letter: &&DeadLetter| {
            filter.subscription.as_ref().is_none_or(|asked| *asked == letter.subscription)
                && filter.topic.as_ref().is_none_or(|asked| *asked == letter.message.topic)
                && filter.cause.as_ref().is_none_or(|asked| *asked == letter.cause)
                && before.is_none_or(|before| letter.id.as_str() < before)
        };
        Ok(letters.iter().rev().filter(matches).take(limit).cloned().collect())
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, PortError> {
        Ok(self.letters.lock().unwrap().iter().find(|letter| letter.id == id).cloned())
    }

    async fn set_dead_letter_status(&self, id: &str, status: DeadLetterStatus) -> Result<bool, PortError> {
        let mut letters = self.letters.lock().unwrap();
        let found = letters.iter_mut().find(|letter| letter.id == id);
        Ok(found.map(|letter| letter.status = status).is_some())
    }

    async fn remove_dead_letter(&self, id: &str) -> Result<bool, PortError> {
        let mut letters = self.letters.lock().unwrap();
        let before = letters.len();
        letters.retain(|letter| letter.id != id);
        Ok(letters.len() < before)
    }

    async fn count_dead_letters(&self) -> Result<Vec<(SubscriptionName, u64)>, PortError> {
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl Effects for FakeState {
    async fn claim(
        &self,
        _: &EffectKey,
        _: &Owner,
        _: &MessageId,
        _: &SubscriptionName,
        _: u64,
    ) -> Result<Claim, PortError> {
        Ok(Claim::Ours)
    }

    async fn advance(&self, _: &EffectKey, _: &Owner, _: EffectState) -> Result<(), PortError> {
        Ok(())
    }

    async fn release(&self, _: &EffectKey, _: &Owner) -> Result<(), PortError> {
        Ok(())
    }

    async fn effects_of(
        &self,
        _: &MessageId,
        _: &SubscriptionName,
    ) -> Result<Vec<(EffectKey, EffectState)>, PortError> {
        Ok(Vec::new())
    }

    async fn resolve_unknown(&self, _: &MessageId, _: &SubscriptionName, done: bool) -> Result<u64, PortError> {
        self.resolved.lock().unwrap().push(done);
        Ok(1)
    }

    async fn forget_effects_before(&self, _: u64, _: usize) -> Result<u64, PortError> {
        Ok(0)
    }
}

#[async_trait::async_trait]
impl Requests for FakeState {
    async fn claim_request(&self, key: &str, request: RecordedRequest, now_ms: u64) -> Result<RequestClaim, PortError> {
        if let Some(kind) = *self.away.lock().unwrap() {
            return Err(PortError::new(kind, "the store at 10.0.0.1 is away"));
        }
        let mut requests = self.requests.lock().unwrap();
        let Some((known, answer)) = requests.get_mut(key).filter(|(known, _)| known.expires_at_ms > now_ms) else {
            requests.insert(key.to_owned(), (request, None));
            return Ok(RequestClaim::Fresh);
        };
        if known.fingerprint != request.fingerprint {
            return Ok(RequestClaim::Mismatch);
        }
        if let Some(answer) = answer {
            return Ok(RequestClaim::Answered(answer.clone()));
        }
        if known.stale_at_ms > now_ms {
            return Ok(RequestClaim::InFlight);
        }
        known.stale_at_ms = request.stale_at_ms;
        Ok(RequestClaim::Resumed { plan: known.plan.clone() })
    }

    async fn answer_request(&self, key: &str, answer: Vec<u8>) -> Result<(), PortError> {
        if *self.forgetful.lock().unwrap() {
            return Err(PortError::new(ErrorKind::Unavailable, "gone"));
        }
        self.requests.lock().unwrap().get_mut(key).unwrap().1 = Some(answer);
        Ok(())
    }

    async fn abandon_request(&self, key: &str) -> Result<(), PortError> {
        self.requests.lock().unwrap().remove(key);
        Ok(())
    }

    async fn forget_requests(&self, _: u64, _: usize) -> Result<u64, PortError> {
        Ok(0)
    }
}

#[async_trait::async_trait]
impl Deployments for FakeState {
    async fn record_deployment(&self, _: Deployment) -> Result<(), PortError> {
        Ok(())
    }

    async fn deployments(&self, _: &PluginName, _: usize) -> Result<Vec<Deployment>, PortError> {
        Ok(Vec::new())
    }

    async fn live_deployments(&self) -> Result<Vec<Deployment>, PortError> {
        Ok(Vec::new())
    }
}

/// A cache's server with one figure in each section, or away.
pub(crate) struct FakeServer(pub(crate) Option<ErrorKind>);

#[async_trait::async_trait]
impl CacheServer for FakeServer {
    async fn figures(&self) -> Result<CacheFigures, PortError> {
        if let Some(kind) = self.0 {
            return Err(PortError::new(kind, "a cluster has no figures").because("at 10.0.0.1"));
        }
        let one = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        Ok(CacheFigures {
            stats: one("keyspace_hits", "7"),
            memory: one("used_memory_human", "1.00M"),
            clients: one("connected_clients", "2"),
        })
    }
}

pub(crate) struct FakePlugins;

#[async_trait::async_trait]
impl Plugins for FakePlugins {
    fn handler(&self, _: &PluginName) -> Option<Arc<dyn Handler>> {
        None
    }

    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    fn list(&self) -> Vec<PluginInfo> {
        vec![PluginInfo {
            name: "mailer".parse().unwrap(),
            live: Some(LivePlugin {
                version: "1.2.0".into(),
                digest: Digest::from_bytes([0xab; 32]),
                deployed_at_ms: NOW_MS,
                handler: true,
                templates: vec!["welcome".into()],
                grants: vec!["email: send from `default`".into()],
                in_flight: 3,
            }),
            refused: Some(Refusal { digest: None, refused_at_ms: NOW_MS, reason: "not a component".into() }),
        }]
    }
}

pub(crate) struct FakeMailbox(pub(crate) Vec<CaughtMail>);

#[async_trait::async_trait]
impl Mailbox for FakeMailbox {
    async fn list(&self, before: Option<u64>, limit: usize) -> Result<Vec<CaughtMail>, PortError> {
        let before = before.unwrap_or(u64::MAX);
        Ok(self.0.iter().rev().filter(|mail| mail.number < before).take(limit).cloned().collect())
    }

    async fn get(&self, number: u64) -> Result<Option<CaughtMail>, PortError> {
        Ok(self.0.iter().find(|mail| mail.number == number).cloned())
    }

    async fn latest(&self) -> Result<Option<CaughtMail>, PortError> {
        Ok(self.0.last().cloned())
    }
}

pub(crate) fn mail(number: u64, html: Option<&str>) -> CaughtMail {
    let address = |name: Option<&str>, address: &str| Address { name: name.map(Into::into), address: address.into() };
    CaughtMail {
        number,
        caught_at_ms: NOW_MS,
        mail: Mail {
            key: format!("key-{number}"),
            sender: address(Some("Sandpost"), "no-reply@example.com"),
            to: vec![address(None, "ana@example.com")],
            cc: vec![],
            bcc: vec![],
            subject: "Olá".into(),
            html: html.map(Into::into),
            text: "Olá!".into(),
            mime: Bytes::from_static(b"Subject: hi\r\n\r\nhi"),
            tags: vec![("type".into(), "welcome".into())],
            origin: MailOrigin {
                plugin: "mailer".parse().unwrap(),
                message_id: Some("m-1".parse().unwrap()),
                template: Some("welcome".into()),
                locale: None,
            },
        },
    }
}

/// Answers as it is told, and counts.
#[derive(Default)]
pub(crate) struct FakeService {
    pub(crate) error: Mutex<Option<&'static str>>,
    pub(crate) hangs: Mutex<bool>,
    pub(crate) asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Health for FakeService {
    async fn check(&self) -> Result<(), PortError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let hangs = *self.hangs.lock().unwrap();
        if hangs {
            std::future::pending::<()>().await;
        }
        let error = *self.error.lock().unwrap();
        error.map_or(Ok(()), |words| Err(PortError::new(ErrorKind::Unavailable, words)))
    }
}

pub(crate) struct World {
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) state: Arc<FakeState>,
    pub(crate) clock: ManualClock,
    pub(crate) ingress: Ingress,
}

/// A secret for each role, and one publisher for the topics `mails-*` alone.
pub(crate) const TOKENS: &str = r#"
[tokens.pub]
role = "publisher"
token_from_env = "publisher"
[tokens.narrow]
role = "publisher"
token_from_env = "narrow"
topics = ["mails-*"]
[tokens.view]
role = "viewer"
token_from_env = "viewer"
[tokens.ops]
role = "operator"
token_from_env = "operator"
[tokens.root]
role = "admin"
token_from_env = "admin"
"#;

pub(crate) fn secret(role: &str) -> String {
    format!("secret-of-the-{role}")
}

impl World {
    pub(crate) fn open() -> Self {
        Self::with("", Vec::new(), true)
    }

    pub(crate) fn guarded() -> Self {
        Self::with(TOKENS, Vec::new(), true)
    }

    pub(crate) fn with(config: &str, checks: Vec<Check>, mailbox: bool) -> Self {
        Self::before(config, checks, mailbox, None)
    }

    pub(crate) fn before(
        config: &str,
        checks: Vec<Check>,
        mailbox: bool,
        cache_server: Option<Arc<dyn CacheServer>>,
    ) -> Self {
        let config: Config = toml::from_str(config).unwrap();
        config.validate().unwrap();
        let tokens = Tokens::resolve(&config, |name| Some(secret(name))).unwrap();
        let (broker, state) = (Arc::new(FakeBroker::default()), Arc::new(FakeState::default()));
        let clock = ManualClock::at(NOW_MS);
        let as_clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let mailbox: Option<Arc<dyn Mailbox>> =
            mailbox.then(|| Arc::new(FakeMailbox(vec![mail(1, Some("<p>Olá</p>")), mail(2, None)])) as _);
        let ingress = Ingress::new(Parts {
            config,
            tokens,
            service: "sandpost".into(),
            publisher: Publisher::new(broker.clone(), state.clone(), as_clock.clone()),
            state: state.clone(),
            requests: state.clone(),
            plugins: Arc::new(FakePlugins),
            handlers: Vec::new(),
            mailbox,
            cache_server,
            checks,
            clock: as_clock,
            render_metrics: Arc::new(|| "sandpost_up 1\n".to_owned()),
        });
        Self { broker, state, clock, ingress }
    }

    pub(crate) fn stored(&self) -> Vec<Message> {
        self.broker.stored.lock().unwrap().clone()
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let local: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        if request.extensions().get::<Peer>().is_none() {
            request.extensions_mut().insert(Peer(local));
        }
        request.headers_mut().entry("host").or_insert("localhost".parse().unwrap());
        let response = self.ingress.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// POST with headers written as `name: value`.
    pub(crate) async fn post(&self, path: &str, headers: &[&str], body: impl Into<Body>) -> Answer {
        let mut request = Request::post(path);
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn publish(&self, headers: &[&str], body: &str) -> Answer {
        self.post("/v1/topics/orders/messages", headers, body.to_owned()).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that it is this problem, whole and well-formed.
    pub(crate) fn is_problem(&self, status: u16, code: &str, detail: &str) {
        let json = self.json();
        assert_eq!((self.status.as_u16(), json["code"].as_str().unwrap()), (status, code), "{json}");
        assert_eq!(json["detail"], detail, "{json}");
        assert_eq!(json["status"], status);
        assert_eq!(json["type"], format!("urn:sandpost:problem:{code}"));
        assert!(!json["title"].as_str().unwrap().is_empty());
        assert_eq!(json["request_id"], self.header("x-request-id"));
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.header("x-content-type-options"), "nosniff");
    }
}

pub(crate) fn dead_letter(id: &str, cause: &str, content_type: &str, body: &'static [u8]) -> DeadLetter {
    let mut message = Message::new("orders".parse().unwrap(), body, NOW_MS);
    message.id = format!("m-{id}").parse().unwrap();
    message.content_type = content_type.into();
    DeadLetter {
        id: id.into(),
        trace_id: message.trace.trace_id(),
        message,
        subscription: "orders-mailer".parse().unwrap(),
        dead_at_ms: NOW_MS,
        cause: cause.into(),
        reason: "no such user".into(),
        attempts: 5,
        plugin: "mailer".parse().unwrap(),
        version: Some("1.2.0".into()),
        digest: None,
        status: DeadLetterStatus::Held,
    }
}
