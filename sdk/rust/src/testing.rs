//! Tests without a host: every module of the SDK works against fakes, thread by thread.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::sql::Connection;
//! use sandpost_sdk::{params, rows, testing};
//!
//! #[derive(Deserialize)]
//! struct Created {
//!     user: String,
//! }
//!
//! #[sandpost_sdk::handler]
//! fn handle(event: Json<Created>) -> Result<()> {
//!     let rows = Connection::open("main")?.query("SELECT email FROM users WHERE id = ?", params![&event.user])?;
//!     let (email,): (String,) = rows.first_as()?.or_reject("there is no such user")?;
//!     sandpost_sdk::email::Email::to(email).template("welcome", &json!({})).send()?;
//!     Ok(())
//! }
//!
//! # fn main() {
//! // In a `#[test]`:
//! let host = testing::Host::new();
//! host.sql("main").when("SELECT email FROM users").with(params!["u1"]).returns(rows![{"email": "ana@example.com"}]);
//!
//! let message = testing::message("created", json!({"user": "u1"}));
//! host.deliver(handle, &message).unwrap();
//! assert_eq!(host.emails()[0].to[0].address, "ana@example.com");
//!
//! // The same message once more: the mail is not sent twice.
//! host.deliver(handle, &testing::again(&message)).unwrap();
//! assert_eq!(host.emails().len(), 1);
//!
//! let error = host.deliver(handle, &testing::message("created", json!({"usr": "u1"}))).unwrap_err();
//! assert_eq!(error.verdict(), Verdict::Reject);
//! # }
//! ```
//!
//! A fake is the host's contract in small, not a database: what it does not know it answers as unsupported, by name.

use crate::email::{Attachment, Mailbox, Outcome, SendError};
use crate::error::{Error, HostError, Result};
use crate::handler::Handler;
use crate::health::State as Health;
use crate::json;
use crate::message::{Message, Parts};
use crate::template::{Content, RenderError, Request, Templates};
use crate::time::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use state::State;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(crate) mod documents;
pub(crate) mod fakes;
pub(crate) mod sql;
mod state;

pub use sql::{Database, Script};

/// How long a fake attempt may take, from the fake time of the message.
const DEADLINE: Duration = Duration::from_secs(10);
/// As the host's own default retry budget.
const ATTEMPTS_MAX: u32 = 5;
/// The fake time that a new host begins at: 2024-01-15T10:30:00Z.
const BEGIN: Timestamp = Timestamp::from_millis(1_705_314_600_000);

/// A host for the test that makes it: a cache, a mailbox, databases and the rest, all empty. It serves the thread that
/// made it until it is dropped; a newer one takes its place.
#[derive(Debug, Clone)]
pub struct Host {
    state: Rc<RefCell<State>>,
    // The last clone uninstalls the host.
    _installed: Rc<Installed>,
}

#[derive(Debug)]
struct Installed(std::rc::Weak<RefCell<State>>);

impl Drop for Installed {
    fn drop(&mut self) {
        state::uninstall(&self.0);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// A part of the host that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// `cache`
    Cache,
    /// `pubsub`
    Pubsub,
    /// `email`
    Email,
    /// `sql`
    Sql,
    /// `documents`
    Documents,
}

/// A message that was published.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The id that the plugin was answered.
    pub id: String,
    /// Where to.
    pub topic: String,
    /// The bytes.
    pub body: Vec<u8>,
    /// `application/json` where the plugin named none.
    pub content_type: String,
    /// In order.
    pub attributes: Vec<(String, String)>,
    /// If there is one.
    pub ordering_key: Option<String>,
    /// If the plugin gave one.
    pub dedupe_key: Option<String>,
    /// If there is one.
    pub delay: Option<Duration>,
}

impl Published {
    /// The body as JSON; `null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A mail that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct SentEmail {
    /// The id that the plugin was answered.
    pub id: String,
    /// Where the plugin gave one.
    pub sender: Option<Mailbox>,
    /// The visible recipients.
    pub to: Vec<Mailbox>,
    /// The visible copies.
    pub cc: Vec<Mailbox>,
    /// The invisible ones.
    pub bcc: Vec<Mailbox>,
    /// Where answers go.
    pub reply_to: Vec<Mailbox>,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// In order.
    pub tags: Vec<(String, String)>,
    /// Where the plugin gave one.
    pub idempotency_key: Option<String>,
    /// The template that was asked for; none for a mail with parts of its own.
    pub template: Option<TemplateUse>,
    /// Its own parts, or what the test's templates made ([`Host::templates`]).
    pub content: Option<SentContent>,
}

/// Which template a mail asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateUse {
    /// Its name.
    pub name: String,
    /// The language that was asked for.
    pub locale: Option<String>,
    /// The data.
    pub data: Value,
}

/// What a mail says.
#[derive(Debug, Clone, PartialEq)]
pub struct SentContent {
    /// The subject.
    pub subject: String,
    /// The HTML, where there is some.
    pub html: Option<String>,
    /// The text, where there is some.
    pub text: Option<String>,
    /// The files.
    pub attachments: Vec<Attachment>,
}

/// A line that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its level.
    pub level: log::Level,
    /// Its text.
    pub message: String,
    /// Its key-values.
    pub fields: Vec<(String, String)>,
}

impl Host {
    /// A host that is empty, on this thread.
    pub fn new() -> Self {
        crate::logger::init();
        let state = Rc::new(RefCell::new(State::new(BEGIN)));
        state::install(&state);
        let installed = Rc::new(Installed(Rc::downgrade(&state)));
        Self { state, _installed: installed }
    }

    /// Runs the handler on one delivery, as the host does: what it publishes and sends without a key of its own is done
    /// once for a message, however often that is delivered.
    #[expect(clippy::needless_pass_by_value, reason = "a function is named, not borrowed")]
    pub fn deliver<A>(&self, handler: impl Handler<A>, message: &Message) -> Result<(), Error> {
        self.state.borrow_mut().begin(message);
        let result = crate::entry::handle(&handler, message);
        self.state.borrow_mut().end();
        result
    }

    /// What was published, in order.
    pub fn published(&self) -> Vec<Published> {
        self.state.borrow().published.clone()
    }

    /// What was sent, in order.
    pub fn emails(&self) -> Vec<SentEmail> {
        self.state.borrow().emails.clone()
    }

    /// What was logged, in order.
    pub fn logs(&self) -> Vec<LogLine> {
        self.state.borrow().logs.clone()
    }

    /// What becomes of the next mail, instead of [`Outcome::Sent`]; several are taken in turn.
    pub fn next_email(&self, outcome: impl Into<Result<Outcome, SendError>>) {
        self.state.borrow_mut().outcomes.push_back(outcome.into());
    }

    /// The templates that mails and `templates::render` are rendered with. Without them, a mail keeps its data alone.
    pub fn templates(&self, templates: Templates) {
        self.state.borrow_mut().templates = Some(Rc::new(templates));
    }

    /// Sets a configuration key.
    pub fn config(&self, key: &str, value: &str) {
        self.state.borrow_mut().config.insert(key.to_owned(), value.to_owned());
    }

    /// Sets the state of a connection, as `health` shows it.
    pub fn health(&self, label: &str, health: Health) {
        self.state.borrow_mut().health.insert(label.to_owned(), health);
    }

    /// Every call of this part fails with this error, until [`Host::mend`].
    pub fn fail(&self, service: Service, error: HostError) {
        self.state.borrow_mut().failing.insert(service, error);
    }

    /// This part works again.
    pub fn mend(&self, service: Service) {
        self.state.borrow_mut().failing.remove(&service);
    }

    /// Lets time pass: cache entries end, `time::now` goes on.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.state.borrow_mut();
        state.now = Timestamp::from_millis(state.now.as_millis() + crate::time::millis(duration));
    }

    /// The fake time.
    pub fn now(&self) -> Timestamp {
        self.state.borrow().now
    }

    /// The value of a cache key as JSON, as [`cache::get`](crate::cache::get) would read it.
    pub fn cached(&self, key: &str) -> Option<Value> {
        serde_json::from_slice(&self.state.borrow_mut().cached(key)?).ok()
    }

    /// A database to script: what it answers to which statement.
    pub fn sql(&self, label: &str) -> Database {
        Database::new(self.state.clone(), label)
    }

    /// Every document of a collection, in the order of insertion.
    pub fn documents(&self, label: &str, collection: &str) -> Vec<Value> {
        let key = (label.to_owned(), collection.to_owned());
        self.state.borrow().documents.get(&key).cloned().unwrap_or_default()
    }

    /// Puts a document there.
    pub fn insert(&self, label: &str, collection: &str, document: Value) {
        let key = (label.to_owned(), collection.to_owned());
        self.state.borrow_mut().documents.entry(key).or_default().push(document);
    }
}

/// A first delivery of a message with `body` as JSON.
pub fn message(topic: &str, body: impl Serialize) -> Message {
    delivery(topic, body).message()
}

/// The next delivery of the same message.
pub fn again(message: &Message) -> Message {
    let mut delivery = Delivery(Parts {
        id: message.id().to_owned(),
        topic: message.topic().to_owned(),
        body: message.body().to_vec(),
        content_type: message.content_type().to_owned(),
        attributes: message.attributes().to_vec(),
        ordering_key: message.ordering_key().map(str::to_owned),
        published_at: message.published_at(),
        attempt: message.attempt(),
        max_attempts: message.max_attempts(),
        deadline: message.deadline(),
    });
    delivery.0.attempt += 1;
    delivery.message()
}

/// A delivery to put together: attributes, attempt and the rest.
pub fn delivery(topic: &str, body: impl Serialize) -> Delivery {
    // A body that is no JSON shows in the test as an empty one, which no handler takes.
    Delivery::new(topic, json::encode(&body, "the body").unwrap_or_default())
}

/// See [`delivery`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Delivery(Parts);

impl Delivery {
    /// A first delivery with these bytes as its body.
    pub fn new(topic: &str, body: impl Into<Vec<u8>>) -> Self {
        let published_at = state::with(|state| state.now).unwrap_or(BEGIN);
        Self(Parts {
            id: state::unique("msg"),
            topic: topic.to_owned(),
            body: body.into(),
            content_type: "application/json".to_owned(),
            attributes: Vec::new(),
            ordering_key: None,
            published_at,
            attempt: 1,
            max_attempts: ATTEMPTS_MAX,
            deadline: Timestamp::from_millis(published_at.as_millis() + crate::time::millis(DEADLINE)),
        })
    }

    /// Its id.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.0.id);
        self
    }

    /// One more attribute.
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.0.attributes.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Its content type.
    pub fn content_type(mut self, mime: &str) -> Self {
        mime.clone_into(&mut self.0.content_type);
        self
    }

    /// Its ordering key.
    pub fn ordering_key(mut self, key: &str) -> Self {
        self.0.ordering_key = Some(key.to_owned());
        self
    }

    /// Which attempt it is, of how many.
    pub fn attempt(mut self, attempt: u32, of: u32) -> Self {
        (self.0.attempt, self.0.max_attempts) = (attempt, of);
        self
    }

    /// The message.
    pub fn message(self) -> Message {
        Message::new(self.0)
    }
}

/// Renders one template, as the host would ask for it.
pub fn render<'a>(
    templates: &Templates,
    name: &str,
    locale: impl Into<Option<&'a str>>,
    data: &(impl Serialize + ?Sized),
) -> Result<Content, RenderError> {
    let data = json::encode_text(data, "the data").map_err(|error| RenderError::InvalidData(error.to_string()))?;
    templates.render(&Request { name: name.to_owned(), locale: locale.into().map(str::to_owned), data })
}

/// Renders every template's sample in each of its languages, as the trial before a swap does; the first that fails.
pub fn render_samples(templates: &Templates) -> Result<(), RenderError> {
    for info in templates.infos() {
        let sample: Value = read(&info.sample)?;
        for locale in &info.locales {
            let content = render(templates, &info.name, locale.as_str(), &sample)?;
            if content.subject.trim().is_empty() || content.html.trim().is_empty() {
                return Err(RenderError::Failed(format!("`{}` is empty in `{locale}`", info.name)));
            }
        }
    }
    Ok(())
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, RenderError> {
    serde_json::from_str(text).map_err(RenderError::from)
}

/// Rows for a scripted database: objects with the columns as keys.
///
/// ```
/// use sandpost_sdk::rows;
///
/// let rows = rows![{"id": "u1", "age": 7}, {"id": "u2", "age": null}];
/// assert_eq!(rows.len(), 2);
/// ```
#[macro_export]
macro_rules! rows {
    ($($row:tt),* $(,)?) => {
        $crate::testing::rows_of(&[$($crate::serde_json::json!($row)),*] as &[$crate::serde_json::Value])
    };
}

#[doc(hidden)]
pub use sql::rows_of;
