//! Sending e-mail: one built, checked mail goes to a provider, at most once by its key.
//!
//! The mail is finished here: addresses checked, HTML made safe, MIME built (`mail`). A driver may send the MIME as it
//! is, or the parts where its provider prefers them; both say the same.
//!
//! Not here: who may send what (`interfaces::email`), once per key on providers without it (`interfaces::effects`).

use crate::health::Health;
use crate::{BoxError, PortError};
use bytes::Bytes;
use sandpost_message::{MessageId, PluginName, TimestampMs};

/// One provider.
#[async_trait::async_trait]
pub trait EmailSender: Health {
    /// Hands the mail over; the provider's id. One attempt: the host decides about others.
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError>;

    /// What the provider still allows.
    async fn quota(&self) -> Result<SendingQuota, PortError>;

    /// The same as it was seen last, with what this host sent since; asks nobody. None where it was not seen yet, or the
    /// provider has none.
    fn quota_seen(&self) -> Option<SendingQuota> {
        None
    }

    /// Whether a second send with the same `key` is answered with the first one's id and sends nothing. Where not, the
    /// outcome of a send that was cut off is unknown.
    fn deduplicates(&self) -> bool;
}

/// The provider's id of a mail.
pub type ProviderId = String;

/// A finished mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// One key is sent once.
    pub key: String,
    /// Who sends it.
    pub sender: Address,
    /// The visible recipients.
    pub to: Vec<Address>,
    /// The visible copies.
    pub cc: Vec<Address>,
    /// The invisible ones: in the envelope, never in the MIME.
    pub bcc: Vec<Address>,
    /// As plain text, unencoded.
    pub subject: String,
    /// Safe, with its styles inlined; none for a mail of text alone.
    pub html: Option<String>,
    /// Never missing: made from the HTML where the plugin gave none.
    pub text: String,
    /// The whole mail as RFC 5322 and MIME have it, without `Bcc`.
    pub mime: Bytes,
    /// Counted and searched by.
    pub tags: Vec<(String, String)>,
    /// What it came from.
    pub origin: MailOrigin,
}

/// What a mail came from, for the catcher and the operator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MailOrigin {
    /// The plugin that asked for it.
    pub plugin: PluginName,
    /// The message that it was handling.
    pub message_id: Option<MessageId>,
    /// The template that it was rendered by.
    pub template: Option<String>,
    /// The locale that was asked for.
    pub locale: Option<String>,
}

/// An e-mail address with the name to show. The domain is ASCII (Punycode where need be).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Address {
    /// What a mail program shows beside it.
    pub name: Option<String>,
    /// `local@domain`.
    pub address: String,
}

/// What the provider still allows. Recipients count, not mails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SendingQuota {
    /// In 24 hours.
    pub per_day: f64,
    /// In the last 24 hours.
    pub sent_today: f64,
    /// In a second.
    pub per_second: f64,
}

/// Why a mail was not sent, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The provider will never take this one.
    #[error("the provider refused the mail: {reason}")]
    Rejected {
        /// In words for the plugin.
        reason: String,
        /// The provider's answer.
        #[source]
        source: Option<BoxError>,
    },
    /// Over rate or quota; nothing was sent.
    #[error("over the provider's rate or quota")]
    Throttled {
        /// When it may be tried again, if the provider said so.
        after_ms: Option<u64>,
    },
    /// The provider takes no mail at all for now: the account is paused or suspended, or the day's quota is used up.
    /// Nothing was sent. The host holds the message without counting the attempt.
    #[error("the provider takes no mail for now: {reason}")]
    Paused {
        /// In words for the plugin and the ledger.
        reason: String,
        /// When it may be worth another look.
        after_ms: u64,
    },
    /// All recipients are on the suppression list; nothing was sent.
    #[error("every recipient is on the suppression list")]
    Suppressed,
    /// Anything that is not about this mail; the kind says whether it may have been sent.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A mailbox that keeps what was "sent" and shows it. The embedded driver offers it; a real provider does not.
#[async_trait::async_trait]
pub trait Mailbox: Send + Sync {
    /// Newest first; at most `limit`, from before `before` where that is given.
    async fn list(&self, before: Option<u64>, limit: usize) -> Result<Vec<CaughtMail>, PortError>;

    /// One mail by its number.
    async fn get(&self, number: u64) -> Result<Option<CaughtMail>, PortError>;

    /// The newest.
    async fn latest(&self) -> Result<Option<CaughtMail>, PortError>;
}

/// A mail in the catcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaughtMail {
    /// Counted from 1 in the order of arrival.
    pub number: u64,
    /// When it was "sent".
    pub caught_at_ms: TimestampMs,
    /// The mail, as a provider would have got it.
    pub mail: Mail,
}
