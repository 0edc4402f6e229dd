//! Every function that a plugin can call, in any order with any arguments: no panic, no call past a grant or a limit,
//! and no word of what the operator alone may read.
//!
//! The input is taken apart by `arbitrary` into calls. They go through the traits that are generated from the contract,
//! as a guest's do, over ports that watch what reaches them (`memory`). The state is the embedded store, in memory.

use crate::block_on;
use crate::memory::{SECRET, Watch, WatchedBroker, WatchedCache, WatchedDocuments, WatchedEmail, WatchedSql};
use arbitrary::{Arbitrary, Result, Unstructured};
use sandpost_interfaces::bindings::template::{Content, RenderError, Request};
use sandpost_interfaces::bindings::{cache, config, documents, email, health, log, pubsub, sql, templates};
use sandpost_interfaces::effects::Effects;
use sandpost_interfaces::{Call, CallLimits, ConnectionHealth, Context, Grants, Ports, RenderScope, Templates};
use sandpost_message::{Digest, Fault, Message};
use sandpost_ports::clock::{Clock, ManualClock};
use sandpost_ports::email::Address;
use sandpost_ports::plugins::{Attempt, Identity, UnknownEffects};
use sandpost_ports::publisher::Publisher;
use sandpost_ports::sql::Access;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wasmtime::component::{Resource, ResourceTableError};

/// Calls of one input.
const CALLS_MAX: usize = 64;
/// A fixed time.
const NOW_MS: u64 = 1_795_166_790_007;

/// What the plugin may touch; the watched ports know the same by heart.
const GRANTS: &str = r#"
    cache     = [{ prefix = "user:", access = "read-write" }, { prefix = "shared:", access = "read-only" }]
    publish   = ["orders", "mail-*"]
    email     = [{ from = "noreply@example.com" }, { from = "*@news.example.com" }]
    sql       = [{ connection = "main", access = "read-only" }, { connection = "books", access = "read-write" }]
    templates = true
    documents = [
        { connection = "main", collection = "notifications", access = "read-write" },
        { connection = "main", collection = "log-*", access = "read-only" },
    ]
"#;

/// Names that are granted, that nearly are, and that no port should ever see; JSON of every kind.
const TEXTS: [&str; 62] = [
    "",
    "user:1",
    "user:",
    "user",
    "User:1",
    "shared:x",
    "shared:",
    "other",
    "..",
    "../user:1",
    "user:\u{0}",
    "us\u{435}r:1",
    "*",
    "user:*",
    "orders",
    "orders2",
    "Orders",
    "orders*",
    "mail-welcome",
    "mail-",
    "mail",
    "mail-../x",
    "noreply@example.com",
    "NoReply@Example.com",
    "noreply@EXAMPLE.com",
    "\"noreply\"@example.com",
    "noreply@example.com.evil.com",
    "x@news.example.com",
    "x@sub.news.example.com",
    "x@news.example.com@evil.com",
    "x@NEWS.example.com",
    "evil@evil.com",
    "ana@example.com",
    "main",
    "books",
    "secret",
    "Main",
    "notifications",
    "log-2026",
    "log-",
    "log",
    "secrets",
    "log-x$cmd",
    "system.users",
    "SELECT ?",
    "{}",
    "{\"_id\":1}",
    "{\"a\":{\"$where\":\"1\"}}",
    "{\"$match\":{\"a\":1}}",
    "{\"$lookup\":{\"from\":\"x\"}}",
    "{\"$facet\":{\"a\":[{\"$out\":\"x\"}]}}",
    "{\"$\\u006dat\\u0063h\":{}}",
    "{\"$o\\u0075t\":\"x\"}",
    "{\"a\":[[[[[[1]]]]]]}",
    "[1]",
    "null",
    "1e999",
    "{\"$set\":{\"a\":1}}",
    "welcome",
    "<p>Hello</p>",
    "a\r\nb",
    "X-Y",
];

/// The bytes as calls.
pub fn host_calls(data: &[u8]) {
    // Bytes that are too few for a call end the sequence; they are no finding.
    block_on(run(Unstructured::new(data))).ok();
}

async fn run(mut input: Unstructured<'_>) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW_MS));
    let store = sandpost_embedded_store::open(None, &sandpost_embedded_store::Config::default(), clock.clone());
    let store = Arc::new(store.unwrap());
    let watch = Arc::new(Watch::default());
    let effects =
        Effects::new(store.clone(), clock.clone(), tokio::runtime::Handle::current(), "run-1", Duration::from_secs(30));
    let effects = Arc::new(effects);
    let limits = limits(&mut input)?;
    let attempt = input.arbitrary::<bool>()?.then(|| Attempt {
        message: Arc::new(Message::new("orders".parse().unwrap(), "{}", NOW_MS)),
        subscription: "orders-mail".parse().unwrap(),
        attempt: 1,
        attempts_max: 5,
        unknown_effects: UnknownEffects::Hold,
    });
    let database =
        |granted| Arc::new(WatchedSql { watch: watch.clone(), granted }) as Arc<dyn sandpost_ports::sql::Sql>;
    let collections = |granted| {
        Arc::new(WatchedDocuments { watch: watch.clone(), granted }) as Arc<dyn sandpost_ports::documents::Documents>
    };
    let broker = Arc::new(WatchedBroker(watch.clone()));
    let ports = Ports {
        publisher: Publisher::new(broker.clone(), store.clone(), clock.clone()),
        broker,
        state: store.clone(),
        clock,
        cache: Arc::new(WatchedCache {
            watch: watch.clone(),
            cache: sandpost_embedded_cache::open(&sandpost_embedded_cache::Config::default()),
        }),
        cache_prefix: "host:".into(),
        cache_default_ttl: Duration::from_mins(1),
        email: Arc::new(WatchedEmail(watch.clone())),
        default_sender: Some(Address { name: None, address: "host@example.com".into() }),
        mail_limits: sandpost_mail::Limits { html_max_bytes: 32 * 1024, ..sandpost_mail::Limits::default() },
        sql: BTreeMap::from([
            ("main".parse().unwrap(), database(Some(Access::ReadOnly))),
            ("books".parse().unwrap(), database(Some(Access::ReadWrite))),
            ("secret".parse().unwrap(), database(None)),
        ]),
        documents: BTreeMap::from([
            ("main".parse().unwrap(), collections(true)),
            ("secret".parse().unwrap(), collections(false)),
        ]),
        health: Arc::new(NoHealth),
        effects: effects.clone(),
        io: tokio::runtime::Handle::current(),
    };
    let context = Context {
        identity: Identity {
            plugin: "mailer".parse().unwrap(),
            version: "1.0.0".into(),
            digest: Digest::from_bytes([1; 32]),
        },
        grants: toml::from_str::<Grants>(GRANTS).unwrap(),
        config: vec![("greeting".into(), "hello".into())],
        cache_scope: "mailer:".into(),
        limits: limits.clone(),
        ports: Arc::new(ports),
        templates: Arc::new(OneTemplate),
        trial: false,
    };
    let call = Call::new(Arc::new(context), attempt, NOW_MS + 10_000);
    let mut guest =
        Guest { call, watch, connections: vec![], transactions: vec![], collections: vec![], cursors: vec![] };

    let mut ended = Ok(());
    for _ in 0..CALLS_MAX {
        ended = guest.one(&mut input).await;
        if ended.is_err() {
            break;
        }
    }
    let (published, sent) = (guest.watch.published.load(Ordering::Relaxed), guest.watch.sent.load(Ordering::Relaxed));
    assert!(published <= limits.publishes_max, "{published} published; the limit is {}", limits.publishes_max);
    assert!(sent <= limits.emails_max, "{sent} sent; the limit is {}", limits.emails_max);
    let report = guest.call.finish();
    assert!(report.host_calls <= limits.host_calls_max, "{report:?}");
    effects.drain().await;
    store.close().await;
    ended
}

/// Those of a real plugin, or ones that are soon reached.
fn limits(input: &mut Unstructured<'_>) -> Result<CallLimits> {
    if input.ratio(1, 2)? {
        return Ok(CallLimits::default());
    }
    let mut few = || input.int_in_range(0..=6_usize);
    Ok(CallLimits {
        host_calls_max: 40,
        host_bytes_max: 4096,
        log_max_bytes: 64,
        cache_keys_max: few()?,
        cache_value_max_bytes: few()?,
        rows_max: 1 + few()?,
        parameters_max: few()?,
        result_max_bytes: few()?,
        documents_batch_max: few()?,
        find_max: 1,
        document_max_bytes: 32,
        document_depth_max: few()?,
        resources_max: few()?,
        publishes_max: few()? as u64,
        emails_max: few()? as u64,
        effects_parallel: few()?,
        ..CallLimits::default()
    })
}

struct NoHealth;

impl ConnectionHealth for NoHealth {
    fn connections(&self) -> Vec<(String, std::result::Result<Duration, String>)> {
        panic!("the health of connections was not granted");
    }
}

struct OneTemplate;

#[async_trait::async_trait]
impl Templates for OneTemplate {
    async fn render(&self, request: Request, _: RenderScope) -> std::result::Result<Content, RenderError> {
        match request.name.as_str() {
            "welcome" => Ok(Content { subject: "Welcome".into(), html: request.data, text: request.locale }),
            other => Err(RenderError::UnknownTemplate(other.to_owned())),
        }
    }
}

/// What a guest holds.
struct Guest {
    call: Call,
    watch: Arc<Watch>,
    connections: Vec<u32>,
    transactions: Vec<u32>,
    collections: Vec<u32>,
    cursors: Vec<u32>,
}

/// What a call came to: the next may follow, or the guest was ended. `Err` where the input is used up.
type Step = Result<Option<()>>;

impl Guest {
    async fn one(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        // Failures of services come and go.
        if input.ratio(1, 8)? {
            self.watch.failing.fetch_not(Ordering::Relaxed);
        }
        let step = match input.int_in_range(0..=7_u8)? {
            0 => self.cache(input).await?,
            1 => self.pubsub(input).await?,
            2 => self.email(input).await?,
            3 | 4 => self.sql(input).await?,
            5 | 6 => self.documents(input).await?,
            _ => self.rest(input).await?,
        };
        step.ok_or(arbitrary::Error::NotEnoughData)
    }

    async fn cache(&mut self, input: &mut Unstructured<'_>) -> Step {
        use cache::Host;
        let key = text(input)?;
        let ttl = input.arbitrary()?;
        let call = &mut self.call;
        Ok(match input.int_in_range(0..=10_u8)? {
            0 => seen(Host::get(call, key).await),
            1 => seen(call.get_many(list(input, text)?).await),
            2 => {
                let condition = *input.choose(&[
                    cache::Condition::Always,
                    cache::Condition::IfAbsent,
                    cache::Condition::IfPresent,
                ])?;
                seen(call.set(key, bytes(input)?, ttl, condition).await)
            }
            3 => seen(call.set_many(list(input, |input| Ok((text(input)?, bytes(input)?)))?, ttl).await),
            4 => seen(call.take(key).await),
            5 => seen(Host::delete(call, list(input, text)?).await),
            6 => seen(call.delete_prefix(key).await),
            7 => seen(call.exists(key).await),
            8 => seen(call.expire(key, ttl.unwrap_or(u64::MAX)).await),
            9 => seen(call.ttl(key).await),
            _ => seen(call.increment(key, input.arbitrary()?, ttl).await),
        })
    }

    async fn pubsub(&mut self, input: &mut Unstructured<'_>) -> Step {
        use pubsub::Host as _;
        let topic = text(input)?;
        if input.arbitrary()? {
            return Ok(seen(self.call.publish(topic, outgoing(input)?).await));
        }
        let messages = list(input, outgoing)?;
        let count = messages.len();
        let answers = self.call.publish_many(topic, messages).await;
        if let Ok(answers) = &answers {
            assert_eq!(answers.len(), count, "one answer a message");
        }
        Ok(seen(answers))
    }

    async fn email(&mut self, input: &mut Unstructured<'_>) -> Step {
        use email::Host as _;
        Ok(match input.int_in_range(0..=4_u8)? {
            0 => seen(self.call.quota().await),
            1 => {
                let emails = list(input, |input| Ok((envelope(input)?, body(input)?)))?;
                let count = emails.len();
                let answers = self.call.send_many(emails).await;
                if let Ok(answers) = &answers {
                    assert_eq!(answers.len(), count, "one answer a mail");
                }
                seen(answers)
            }
            _ => seen(self.call.send(envelope(input)?, body(input)?).await),
        })
    }

    async fn sql(&mut self, input: &mut Unstructured<'_>) -> Step {
        use sql::{HostConnection, HostTransaction};
        let operation = input.int_in_range(0..=9_u8)?;
        let (statement, parameters) = (text(input)?, list(input, value)?);
        let call = &mut self.call;
        let connection = pick(input, &self.connections)?;
        let transaction = pick(input, &self.transactions)?;
        Ok(match (operation, connection, transaction) {
            (1, Some(at), _) => {
                seen(HostConnection::query(call, borrow(self.connections[at]), statement, parameters).await)
            }
            (2, Some(at), _) => {
                seen(HostConnection::execute(call, borrow(self.connections[at]), statement, parameters).await)
            }
            (3, Some(at), _) => opened(call.begin(borrow(self.connections[at])).await, &mut self.transactions),
            (4, Some(at), _) => {
                seen(HostConnection::drop(call, Resource::new_own(self.connections.swap_remove(at))).await)
            }
            (5, _, Some(at)) => {
                seen(HostTransaction::query(call, borrow(self.transactions[at]), statement, parameters).await)
            }
            (6, _, Some(at)) => {
                seen(HostTransaction::execute(call, borrow(self.transactions[at]), statement, parameters).await)
            }
            (7, _, Some(at)) => seen(call.commit(Resource::new_own(self.transactions.swap_remove(at))).await),
            (8, _, Some(at)) => seen(call.rollback(Resource::new_own(self.transactions.swap_remove(at))).await),
            (9, _, Some(at)) => {
                seen(HostTransaction::drop(call, Resource::new_own(self.transactions.swap_remove(at))).await)
            }
            _ => opened(HostConnection::open(call, statement).await, &mut self.connections),
        })
    }

    async fn documents(&mut self, input: &mut Unstructured<'_>) -> Step {
        use documents::{HostCollection, HostCursor};
        let operation = input.int_in_range(0..=15_u8)?;
        let (one, two, flag) = (text(input)?, text(input)?, input.arbitrary::<bool>()?);
        let options = documents::FindOptions {
            projection: input.ratio(1, 4)?.then(|| text(input)).transpose()?,
            sort: input.ratio(1, 4)?.then(|| text(input)).transpose()?,
            skip: input.arbitrary()?,
            limit: input.arbitrary()?,
        };
        let call = &mut self.call;
        if let (0 | 1, Some(at)) = (operation, pick(input, &self.cursors)?) {
            return Ok(if operation == 0 {
                seen(HostCursor::next(call, borrow(self.cursors[at])).await)
            } else {
                seen(HostCursor::drop(call, Resource::new_own(self.cursors.swap_remove(at))).await)
            });
        }
        let Some(at) = pick(input, &self.collections)? else {
            return Ok(opened(HostCollection::open(call, one, two).await, &mut self.collections));
        };
        let this = borrow::<documents::Collection>(self.collections[at]);
        Ok(match operation {
            2 => seen(call.insert_one(this, one).await),
            3 => seen(call.insert_many(this, list(input, text)?).await),
            4 => seen(call.find_one(this, one, options).await),
            5 => opened(call.find(this, one, options).await, &mut self.cursors),
            6 => seen(call.update_one(this, one, two, flag).await),
            7 => seen(call.update_many(this, one, two).await),
            8 => seen(call.replace_one(this, one, two, flag).await),
            9 => {
                let returned = if flag { documents::ReturnDocument::Before } else { documents::ReturnDocument::After };
                seen(call.find_one_and_update(this, one, two, flag, returned).await)
            }
            10 => seen(call.delete_one(this, one).await),
            11 => seen(call.delete_many(this, one).await),
            12 => seen(call.count(this, one).await),
            13 => opened(call.aggregate(this, list(input, text)?).await, &mut self.cursors),
            14 => seen(HostCollection::drop(call, Resource::new_own(self.collections.swap_remove(at))).await),
            _ => opened(HostCollection::open(call, one, two).await, &mut self.collections),
        })
    }

    async fn rest(&mut self, input: &mut Unstructured<'_>) -> Step {
        let call = &mut self.call;
        Ok(match input.int_in_range(0..=4_u8)? {
            0 => {
                let fields = list(input, |input| Ok((text(input)?, text(input)?)))?;
                seen(log::Host::log(call, log::Level::Trace, text(input)?, fields).await)
            }
            1 => seen(config::Host::get(call, text(input)?).await),
            2 => seen(config::Host::all(call).await),
            3 => seen(health::Host::connections(call).await),
            _ => seen(templates::Host::render(call, request(input)?).await),
        })
    }
}

/// Looks at an answer: a guest that was ended was ended for a named reason, and nobody reads the operator's words.
fn seen<T: Debug>(answer: wasmtime::Result<T>) -> Option<()> {
    match answer {
        Ok(answer) => {
            let shown = format!("{answer:?}");
            assert!(!shown.contains(SECRET), "{shown}");
            Some(())
        }
        Err(error) => {
            let named = error.downcast_ref::<Fault>().is_some() || error.downcast_ref::<ResourceTableError>().is_some();
            assert!(named, "ended without a named reason: {error:?}");
            None
        }
    }
}

fn opened<T: 'static, E: Debug>(
    answer: wasmtime::Result<std::result::Result<Resource<T>, E>>,
    kept: &mut Vec<u32>,
) -> Option<()> {
    if let Ok(Ok(resource)) = &answer {
        kept.push(resource.rep());
    }
    seen(answer.map(|answer| answer.map(|_| ())))
}

fn borrow<T: 'static>(rep: u32) -> Resource<T> {
    Resource::new_borrow(rep)
}

/// One of those that are open.
fn pick(input: &mut Unstructured<'_>, kept: &[u32]) -> Result<Option<usize>> {
    if kept.is_empty() { Ok(None) } else { Ok(Some(input.choose_index(kept.len())?)) }
}

fn text(input: &mut Unstructured<'_>) -> Result<String> {
    Ok(match input.int_in_range(0..=5_u8)? {
        0 => String::arbitrary(input)?,
        1 => format!("{}{}", input.choose(&TEXTS)?, String::arbitrary(input)?),
        _ => (*input.choose(&TEXTS)?).to_owned(),
    })
}

fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let byte = input.arbitrary::<u8>()?;
    Ok(vec![byte; usize::from(input.arbitrary::<u8>()?)])
}

/// Up to five.
fn list<T>(input: &mut Unstructured<'_>, each: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    let count = input.int_in_range(0..=5_usize)?;
    (0..count).map(|_| each(input)).collect()
}

fn maybe(input: &mut Unstructured<'_>) -> Result<Option<String>> {
    if input.ratio(1, 3)? { Ok(Some(text(input)?)) } else { Ok(None) }
}

fn outgoing(input: &mut Unstructured<'_>) -> Result<pubsub::Outgoing> {
    Ok(pubsub::Outgoing {
        body: bytes(input)?,
        content_type: maybe(input)?,
        attributes: list(input, |input| Ok((text(input)?, text(input)?)))?,
        ordering_key: maybe(input)?,
        dedupe_key: maybe(input)?,
        delay: input.arbitrary()?,
    })
}

fn mailbox(input: &mut Unstructured<'_>) -> Result<email::Mailbox> {
    let address = if input.ratio(1, 2)? { "ana@example.com".to_owned() } else { text(input)? };
    Ok(email::Mailbox { name: maybe(input)?, address })
}

fn envelope(input: &mut Unstructured<'_>) -> Result<email::Envelope> {
    let sender = match input.int_in_range(0..=3_u8)? {
        0 => None,
        1 => Some(email::Mailbox { name: None, address: text(input)? }),
        _ => Some(email::Mailbox { name: None, address: "noreply@example.com".to_owned() }),
    };
    let plain = input.ratio(1, 2)?;
    Ok(email::Envelope {
        sender,
        to: list(input, mailbox)?,
        cc: if plain { vec![] } else { list(input, mailbox)? },
        bcc: if plain { vec![] } else { list(input, mailbox)? },
        reply_to: if plain { vec![] } else { list(input, mailbox)? },
        headers: if plain { vec![] } else { list(input, |input| Ok((text(input)?, text(input)?)))? },
        tags: if plain { vec![] } else { list(input, |input| Ok((text(input)?, text(input)?)))? },
        idempotency_key: maybe(input)?,
    })
}

fn body(input: &mut Unstructured<'_>) -> Result<email::Body> {
    Ok(if input.arbitrary()? {
        email::Body::Template(request(input)?)
    } else {
        email::Body::Parts(email::Parts {
            subject: text(input)?,
            html: maybe(input)?,
            text: maybe(input)?,
            attachments: if input.ratio(1, 4)? { list(input, attachment)? } else { vec![] },
        })
    })
}

fn attachment(input: &mut Unstructured<'_>) -> Result<email::Attachment> {
    Ok(email::Attachment {
        filename: text(input)?,
        content_type: text(input)?,
        content: bytes(input)?,
        content_id: maybe(input)?,
    })
}

fn request(input: &mut Unstructured<'_>) -> Result<Request> {
    let name = if input.ratio(3, 4)? { "welcome".to_owned() } else { text(input)? };
    Ok(Request { name, locale: maybe(input)?, data: text(input)? })
}

fn value(input: &mut Unstructured<'_>) -> Result<sql::Value> {
    Ok(match input.int_in_range(0..=12_u8)? {
        0 => sql::Value::Null,
        1 => sql::Value::Boolean(input.arbitrary()?),
        2 => sql::Value::Int64(input.arbitrary()?),
        3 => sql::Value::Uint64(input.arbitrary()?),
        4 => sql::Value::Float64(input.arbitrary()?),
        5 => sql::Value::Decimal(text(input)?),
        6 => sql::Value::Text(text(input)?),
        7 => sql::Value::Bytes(bytes(input)?),
        8 => sql::Value::Date(text(input)?),
        9 => sql::Value::Time(text(input)?),
        10 => sql::Value::Datetime(text(input)?),
        11 => sql::Value::Timestamp(text(input)?),
        _ => sql::Value::Json(text(input)?),
    })
}
