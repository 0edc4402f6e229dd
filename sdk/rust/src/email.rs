//! Sending e-mail. The host builds the mail, makes its HTML safe and adds a text part where there is none.
//!
//! One key is sent once, however often the message is redelivered. Without [`Email::idempotency_key`] the host makes
//! the key of the message, the recipients and the template.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::email::{Email, Outcome};
//!
//! # let host = sandpost_sdk::testing::Host::new();
//! # fn send() -> Result<()> {
//! let outcome = Email::to(("Ana", "ana@example.com"))
//!     .template("welcome", &json!({"name": "Ana"}))
//!     .locale("pt-BR")
//!     .tag("kind", "welcome")
//!     .send()?;
//! assert!(matches!(outcome, Outcome::Sent(_)));
//!
//! Email::to("ops@example.com").subject("Done").text("The import is done.").send()?;
//! # Ok(()) }
//! # send().unwrap();
//! # assert_eq!(host.emails().len(), 2);
//! ```

use crate::error::HostError;
use crate::template::Request;
use crate::{json, sys};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// A mail to send.
#[derive(Debug, Clone)]
#[must_use = "it goes nowhere before `send`"]
pub struct Email {
    envelope: Envelope,
    parts: Parts,
    template: Option<Request>,
    locale: Option<String>,
    /// Data that is not JSON shows at `send`, so that the builder stays a chain.
    fault: Option<HostError>,
}

/// What became of a mail. None of these is an error: a redelivered message finds its mail sent, and goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is with the provider, under this id.
    Sent(String),
    /// This key was sent before; the id of then.
    AlreadySent(String),
    /// All recipients are on the suppression list; nothing was sent.
    Suppressed,
}

impl Outcome {
    /// The provider's id, whenever it was sent.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Sent(id) | Self::AlreadySent(id) => Some(id),
            Self::Suppressed => None,
        }
    }
}

/// Why a mail was not sent, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The provider will never take this one.
    Rejected(String),
    /// Over the provider's rate or quota; nothing was sent.
    Throttled(Option<Duration>),
    /// The template failed; nothing was sent.
    Render(String),
    /// The host did not do it.
    Host(HostError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "the mail was refused: {reason}"),
            Self::Throttled(_) => f.write_str("over the provider's rate or quota"),
            Self::Render(reason) => write!(f, "the template failed: {reason}"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SendError {}

impl From<HostError> for SendError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

/// What the provider still allows. Recipients count, not mails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// In 24 hours.
    pub per_day: f64,
    /// In the last 24 hours.
    pub sent_today: f64,
    /// In a second.
    pub per_second: f64,
}

/// What the provider still allows.
pub fn quota() -> Result<Quota, HostError> {
    sys::email::quota()
}

/// Sends several mails in one call, some at a time. One answer each, in order.
pub fn send_many(emails: impl IntoIterator<Item = Email>) -> Vec<Result<Outcome, SendError>> {
    // Mails with a fault keep their place in the answers, but are not handed over.
    let mut ready = Vec::new();
    let mut faults = Vec::new();
    for email in emails {
        let (envelope, body, fault) = email.finish();
        if fault.is_none() {
            ready.push((envelope, body));
        }
        faults.push(fault);
    }
    let mut answers = if ready.is_empty() { Vec::new() } else { sys::email::send_many(ready) }.into_iter();
    let missing = || Err(SendError::Host(HostError::Other("the host gave no answer for this mail".to_owned())));
    faults
        .into_iter()
        .map(|fault| fault.map_or_else(|| answers.next().unwrap_or_else(missing), |fault| Err(fault.into())))
        .collect()
}

/// An address, and the name that a mail program shows beside it. Made `from` an address or a `(name, address)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The name to show.
    pub name: Option<String>,
    /// `local@domain`.
    pub address: String,
}

impl From<&str> for Mailbox {
    fn from(address: &str) -> Self {
        Self { name: None, address: address.to_owned() }
    }
}

impl From<&String> for Mailbox {
    fn from(address: &String) -> Self {
        Self { name: None, address: address.clone() }
    }
}

impl From<String> for Mailbox {
    fn from(address: String) -> Self {
        Self { name: None, address }
    }
}

impl<N: Into<String>, A: Into<String>> From<(N, A)> for Mailbox {
    fn from((name, address): (N, A)) -> Self {
        Self { name: Some(name.into()), address: address.into() }
    }
}

/// A file that goes with the mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// As the recipient sees it.
    pub filename: String,
    /// A MIME type.
    pub content_type: String,
    /// The file.
    pub content: Vec<u8>,
    /// Named in the HTML as `cid:…`; inline where set.
    pub content_id: Option<String>,
}

/// Who sends it, who gets it, and under which key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) sender: Option<Mailbox>,
    pub(crate) to: Vec<Mailbox>,
    pub(crate) cc: Vec<Mailbox>,
    pub(crate) bcc: Vec<Mailbox>,
    pub(crate) reply_to: Vec<Mailbox>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) idempotency_key: Option<String>,
}

/// What it says: parts of one's own, or a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Parts(Parts),
    Template(Request),
}

/// What a mail without a template says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) subject: String,
    pub(crate) html: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) attachments: Vec<Attachment>,
}

impl Email {
    /// A mail to this recipient, still empty.
    pub fn to(recipient: impl Into<Mailbox>) -> Self {
        let envelope = Envelope { to: vec![recipient.into()], ..Envelope::default() };
        Self { envelope, parts: Parts::default(), template: None, locale: None, fault: None }
    }

    /// One more recipient that all can see.
    pub fn and_to(mut self, recipient: impl Into<Mailbox>) -> Self {
        self.envelope.to.push(recipient.into());
        self
    }

    /// One more visible copy.
    pub fn cc(mut self, recipient: impl Into<Mailbox>) -> Self {
        self.envelope.cc.push(recipient.into());
        self
    }

    /// One more invisible copy.
    pub fn bcc(mut self, recipient: impl Into<Mailbox>) -> Self {
        self.envelope.bcc.push(recipient.into());
        self
    }

    /// The sender, where it is not the host's default.
    pub fn sender(mut self, sender: impl Into<Mailbox>) -> Self {
        self.envelope.sender = Some(sender.into());
        self
    }

    /// Where answers go.
    pub fn reply_to(mut self, mailbox: impl Into<Mailbox>) -> Self {
        self.envelope.reply_to.push(mailbox.into());
        self
    }

    /// A header: only `List-*`, `References`, `In-Reply-To` and `X-*` may be set.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envelope.headers.push((name.into(), value.into()));
        self
    }

    /// A tag, to count and search by.
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envelope.tags.push((name.into(), value.into()));
        self
    }

    /// One key is sent once; instead of the key that the host makes.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.envelope.idempotency_key = Some(key.into());
        self
    }

    /// Rendered by the template plugin that is live, with `data` as a JSON object. What [`subject`](Email::subject),
    /// [`html`](Email::html), [`text`](Email::text) and [`attachment`](Email::attachment) say is left out then.
    pub fn template<T: Serialize + ?Sized>(mut self, name: impl Into<String>, data: &T) -> Self {
        match json::encode_text(data, "the template's data") {
            Ok(data) => self.template = Some(Request { name: name.into(), locale: None, data }),
            Err(fault) => self.fault = Some(fault),
        }
        self
    }

    /// The language that the template is asked for (BCP 47), where it is known; the template falls back by its own
    /// chain.
    pub fn locale<'a>(mut self, locale: impl Into<Option<&'a str>>) -> Self {
        self.locale = locale.into().map(str::to_owned);
        self
    }

    /// The subject of a mail without a template.
    pub fn subject(mut self, text: impl Into<String>) -> Self {
        self.parts.subject = text.into();
        self
    }

    /// The HTML of a mail without a template.
    pub fn html(mut self, text: impl Into<String>) -> Self {
        self.parts.html = Some(text.into());
        self
    }

    /// The plain text of a mail without a template.
    pub fn text(mut self, plain: impl Into<String>) -> Self {
        self.parts.text = Some(plain.into());
        self
    }

    /// A file with a mail without a template.
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.parts.attachments.push(attachment);
        self
    }

    /// Sends it.
    pub fn send(self) -> Result<Outcome, SendError> {
        match self.finish() {
            (_, _, Some(fault)) => Err(fault.into()),
            (envelope, body, None) => sys::email::send(envelope, body),
        }
    }

    fn finish(self) -> (Envelope, Body, Option<HostError>) {
        let locale = self.locale;
        let body = match self.template {
            Some(request) => Body::Template(Request { locale, ..request }),
            None => Body::Parts(self.parts),
        };
        (self.envelope, body, self.fault)
    }
}
