//! `email`: a plugin sends mail, once by its key, from the senders that it was granted.
//!
//! In this order: sender and grant, the body (rendered by the live template plugin where it is a template), the mail
//! built and made safe (`sandpost-mail`), then the hand-over, once ([`crate::effects`]).
//!
//! Invariants
//! - The grant is held against the very address that is put into the mail.
//! - A mail that was sent under its key is answered with the id of then, and nothing goes out.
//!
//! Not here: what a mail may look like (`mail`), the provider (`drivers`).

use crate::bindings::Error;
use crate::bindings::email::{Body, Envelope, Host, Mailbox, Outcome, Parts, SendError, SendingQuota};
use crate::bindings::template::{RenderError, Request};
use crate::call::{Call, CallError, Entered, Postponed, Scope, len, sum};
use crate::effects::{Effect, Ended, Handed, keys};
use bytes::Bytes;
use futures_util::future::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use sandpost_mail::{Attachment, ComposeError, Composed, Draft, check_address, compose};
use sandpost_message::{MessageId, limits::DEDUPE_KEY_MAX_BYTES};
use sandpost_ports::email::{self as port, Address, EmailSender, Mail, MailOrigin};
use sandpost_ports::plugins::Attempt;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::interfaces as events;
use std::sync::Arc;

const EMAIL: &str = "email";

impl Host for Call {
    async fn send(&mut self, envelope: Envelope, body: Body) -> wasmtime::Result<Result<Outcome, SendError>> {
        let entered = self.enter(EMAIL, "send", size(&envelope, &body))?;
        let answer = match self.may_send(1) {
            Ok(()) => self.scope.clone().send(envelope, body).await,
            Err(error) => Err(error.into()),
        };
        let answer = self.settle(&entered, answer);
        self.leave_as(entered, word(&answer), answer_size(&answer))?;
        Ok(answer)
    }

    async fn send_many(&mut self, emails: Vec<(Envelope, Body)>) -> wasmtime::Result<Vec<Result<Outcome, SendError>>> {
        let bytes = sum(emails.iter().map(|(envelope, body)| size(envelope, body)));
        let entered = self.enter(EMAIL, "send-many", bytes)?;
        let count = emails.len();
        if let Err(error) = self.may_send(count) {
            self.report(&entered, &error);
            let word = error.word();
            (0..count).for_each(|_| self.count_email(word));
            let error = SendError::Host(Error::from(error));
            self.leave_as(entered, word, 0)?;
            return Ok(vec![Err(error); count]);
        }
        let parallel = self.scope.limits().effects_parallel.max(1);
        let each = emails.into_iter().map(|(envelope, body)| self.scope.clone().send(envelope, body));
        let answers: Vec<_> = stream::iter(each).buffered(parallel).collect().await;
        let answers: Vec<_> = answers.into_iter().map(|answer| self.settle(&entered, answer)).collect();
        let worst = answers.iter().find(|answer| answer.is_err()).map_or("ok", word);
        self.leave_as(entered, worst, sum(answers.iter().map(answer_size)))?;
        Ok(answers)
    }

    async fn quota(&mut self) -> wasmtime::Result<Result<SendingQuota, Error>> {
        let entered = self.enter(EMAIL, "quota", 0)?;
        let scope = self.scope.clone();
        let answer = match scope.grants().may_send_at_all() {
            Ok(()) => scope.on_io(scope.ports().email.quota()).await.map_err(CallError::from),
            Err(grant) => Err(CallError::Denied(grant)),
        };
        let answer = answer.map(|port::SendingQuota { per_day, sent_today, per_second }| SendingQuota {
            per_day,
            sent_today,
            per_second,
        });
        self.leave(entered, answer, |_| 0)
    }
}

/// Why a mail was not sent, or may not have been.
enum Unsent {
    Rejected(String),
    Throttled(Option<u64>),
    /// Nobody's mail is taken for now.
    Paused(Postponed),
    Render(String),
    Host {
        error: CallError,
        /// Set where the whole message has to be held for an operator.
        held: Option<String>,
    },
}

impl From<CallError> for Unsent {
    fn from(error: CallError) -> Self {
        Self::Host { error, held: None }
    }
}

impl From<PortError> for Unsent {
    fn from(error: PortError) -> Self {
        CallError::from(error).into()
    }
}

impl From<ComposeError> for Unsent {
    fn from(error: ComposeError) -> Self {
        match error {
            // A fault of the host; everything else is wrong with this mail, and stays wrong.
            ComposeError::Mime { .. } => PortError::from(error).into(),
            error => Self::Rejected(error.to_string()),
        }
    }
}

impl From<RenderError> for Unsent {
    fn from(error: RenderError) -> Self {
        match error {
            // The same data will not do next time either; the other two a deployment can mend.
            RenderError::InvalidData(what) => Self::Rejected(format!("the template's data is not valid: {what}")),
            RenderError::UnknownTemplate(name) => Self::Render(format!("no live plugin has template `{name}`")),
            RenderError::Failed(what) => Self::Render(what),
        }
    }
}

impl Call {
    /// Whether so many more mails may be sent.
    fn may_send(&mut self, count: usize) -> Result<(), CallError> {
        let limit = self.scope.limits().emails_max;
        let after = self.budget.emails.saturating_add(count as u64);
        if after > limit {
            return Err(CallError::exceeded(format!("{after} e-mails in one call; at most {limit}")));
        }
        self.budget.emails = after;
        Ok(())
    }

    /// Counts and reports how one mail ended, and turns it into the guest's answer.
    fn settle(&mut self, entered: &Entered, answer: Result<Outcome, Unsent>) -> Result<Outcome, SendError> {
        let answer = answer.map_err(|unsent| match unsent {
            Unsent::Rejected(reason) => SendError::Rejected(reason),
            Unsent::Throttled(after_ms) => SendError::Throttled(after_ms),
            Unsent::Paused(postponed) => {
                let after_ms = postponed.after_ms;
                self.postponed.get_or_insert(postponed);
                SendError::Throttled(Some(after_ms))
            }
            Unsent::Render(reason) => SendError::Render(reason),
            Unsent::Host { error, held } => {
                self.report(entered, &error);
                self.held = held.or(self.held.take());
                SendError::Host(error.into())
            }
        });
        self.count_email(word(&answer));
        answer
    }

    fn count_email(&self, outcome: &'static str) {
        if !self.scope.context.trial {
            events::EmailEnded { outcome }.emit();
        }
    }
}

impl Scope {
    async fn send(self: Arc<Self>, envelope: Envelope, body: Body) -> Result<Outcome, Unsent> {
        let sender = self.sender(envelope.sender.as_ref())?;
        let key = self.email_key(&envelope, &body)?;
        let template = match &body {
            Body::Template(request) => Some(request.clone()),
            Body::Parts(_) => None,
        };
        let parts = match body {
            Body::Parts(parts) => parts,
            Body::Template(request) => {
                let content = self.render(request).await?;
                Parts {
                    subject: content.subject,
                    html: Some(content.html),
                    text: content.text,
                    attachments: Vec::new(),
                }
            }
        };
        let recipients = envelope.to.len() + envelope.cc.len() + envelope.bcc.len();
        let mail = self.in_turns(|| self.compose(key, sender, envelope, parts, template.as_ref())).await?;
        let Some(attempt) = &self.attempt else {
            return match self.on_io(self.ports().email.send(&mail)).await {
                Ok(id) => Ok(Outcome::Sent(id)),
                Err(error) => refused(error),
            };
        };
        let what = match &template {
            Some(request) => format!("template {}, {recipients} recipients", bounded(&request.name)),
            None => format!("{recipients} recipients"),
        };
        self.send_once(attempt.clone(), mail, what).await
    }

    async fn send_once(&self, attempt: Attempt, mail: Mail, what: String) -> Result<Outcome, Unsent> {
        let provider = self.ports().email.clone();
        let effect = Effect {
            key: mail.key.clone(),
            kind: EMAIL,
            what,
            attempt,
            identity: self.context.identity.clone(),
            repeatable: provider.deduplicates(),
            deadline_at_ms: self.deadline_at_ms,
        };
        match self.ports().effects.once(effect, move || hand_over(provider, mail).boxed()).await? {
            Ended::Done(id) => Ok(Outcome::Sent(id)),
            Ended::Repeated(id) => Ok(Outcome::AlreadySent(id)),
            Ended::Nothing(error) => refused(error),
            Ended::Unknown(error) => Err(match error {
                Some(port::SendError::Port(error)) => error,
                _ => {
                    PortError::new(ErrorKind::UnknownOutcome, "no answer came; the mail may or may not have been sent")
                }
            }
            .into()),
            Ended::Held(reason) => Err(Unsent::Host {
                error: PortError::new(ErrorKind::UnknownOutcome, reason.clone()).into(),
                held: Some(reason),
            }),
        }
    }

    /// Who sends it, as the mail will have it, if the plugin may.
    fn sender(&self, asked: Option<&Mailbox>) -> Result<Address, Unsent> {
        let Some(asked) = asked else {
            self.grants().may_send_from(None).map_err(CallError::Denied)?;
            let default = self.ports().default_sender.clone();
            return default.ok_or_else(|| CallError::invalid("this host has no default sender; name one").into());
        };
        let sender =
            check_address(&address(asked)).map_err(|error| Unsent::Rejected(format!("the sender: {error}")))?;
        self.grants().may_send_from(Some(&sender.address)).map_err(CallError::Denied)?;
        Ok(sender)
    }

    fn email_key(&self, envelope: &Envelope, body: &Body) -> Result<String, Unsent> {
        if let Some(key) = &envelope.idempotency_key {
            if key.is_empty() || key.len() > DEDUPE_KEY_MAX_BYTES {
                let message = format!("an idempotency key is 1 to {DEDUPE_KEY_MAX_BYTES} bytes");
                return Err(CallError::invalid(message).into());
            }
            return Ok(keys::given_email(&self.context.identity.plugin, key));
        }
        let Some(attempt) = &self.attempt else {
            return Ok(format!("trial-{}", MessageId::new()));
        };
        let Envelope { to, cc, bcc, .. } = envelope;
        let recipients = to.iter().chain(cc).chain(bcc).map(|mailbox| mailbox.address.as_str()).collect();
        let what = match body {
            Body::Template(request) => format!("template-{}", request.name),
            Body::Parts(Parts { subject, html, text, attachments }) => {
                let bodies = [subject.as_str(), html.as_deref().unwrap_or(""), text.as_deref().unwrap_or("")];
                keys::parts(bodies.into_iter().chain(attachments.iter().map(|file| file.filename.as_str())))
            }
        };
        Ok(keys::email(attempt, recipients, &what))
    }

    fn compose(
        &self,
        key: String,
        sender: Address,
        envelope: Envelope,
        parts: Parts,
        template: Option<&Request>,
    ) -> Result<Mail, Unsent> {
        let identity = &self.context.identity;
        let draft = Draft {
            key,
            sender,
            to: envelope.to.iter().map(address).collect(),
            cc: envelope.cc.iter().map(address).collect(),
            bcc: envelope.bcc.iter().map(address).collect(),
            reply_to: envelope.reply_to.iter().map(address).collect(),
            subject: parts.subject,
            html: parts.html,
            text: parts.text,
            headers: envelope.headers,
            attachments: parts
                .attachments
                .into_iter()
                .map(|file| Attachment {
                    filename: file.filename,
                    content_type: file.content_type,
                    content: Bytes::from(file.content),
                    content_id: file.content_id,
                })
                .collect(),
            tags: envelope.tags,
            origin: MailOrigin {
                plugin: identity.plugin.clone(),
                message_id: self.attempt.as_ref().map(|attempt| attempt.message.id.clone()),
                template: template.map(|request| request.name.clone()),
                locale: template.and_then(|request| request.locale.clone()),
            },
            date_ms: self.ports().clock.now_ms(),
        };
        let Composed { mail, warnings } = compose(draft, &self.ports().mail_limits)?;
        if !warnings.is_empty() {
            let (plugin, version, message_id, trace_id) = self.ids();
            let template = template.map(|request| request.name.as_str());
            events::EmailWarned { plugin, version, message_id, trace_id, template, warnings: &warnings }.emit();
        }
        Ok(mail)
    }
}

/// One hand-over to the provider, sorted by what is known after it.
async fn hand_over(provider: Arc<dyn EmailSender>, mail: Mail) -> Handed<port::SendError> {
    match provider.send(&mail).await {
        Ok(id) => Handed::Done(id),
        Err(port::SendError::Port(error)) if error.kind == ErrorKind::UnknownOutcome => Handed::Unknown(error.into()),
        Err(error) => Handed::Nothing(error),
    }
}

/// What the provider said of a mail that it did not send.
fn refused(error: port::SendError) -> Result<Outcome, Unsent> {
    match error {
        port::SendError::Suppressed => Ok(Outcome::Suppressed),
        port::SendError::Rejected { reason, .. } => Err(Unsent::Rejected(reason)),
        port::SendError::Throttled { after_ms } => Err(Unsent::Throttled(after_ms)),
        port::SendError::Paused { reason, after_ms } => Err(Unsent::Paused(Postponed { reason, after_ms })),
        port::SendError::Port(error) => Err(error.into()),
    }
}

fn address(mailbox: &Mailbox) -> Address {
    Address { name: mailbox.name.clone(), address: mailbox.address.clone() }
}

/// A name for the ledger: at most 64 characters of it, in one line.
fn bounded(name: &str) -> String {
    name.chars().take(64).filter(|character| !character.is_control()).collect()
}

fn word(answer: &Result<Outcome, SendError>) -> &'static str {
    match answer {
        Ok(Outcome::Sent(_)) => "sent",
        Ok(Outcome::AlreadySent(_)) => "already-sent",
        Ok(Outcome::Suppressed) => "suppressed",
        Err(SendError::Rejected(_)) => "rejected",
        Err(SendError::Throttled(_)) => "throttled",
        Err(SendError::Render(_)) => "render",
        Err(SendError::Host(error)) => match error {
            Error::Denied(_) => "denied",
            Error::Invalid(_) => "invalid",
            Error::Conflict(_) => "conflict",
            Error::Unavailable(_) => "unavailable",
            Error::UnknownOutcome(_) => "unknown-outcome",
            Error::Exceeded(_) => "exceeded",
            Error::Unsupported(_) => "unsupported",
            Error::Other(_) => "other",
        },
    }
}

fn answer_size(answer: &Result<Outcome, SendError>) -> usize {
    match answer {
        Ok(Outcome::Sent(text) | Outcome::AlreadySent(text))
        | Err(SendError::Rejected(text) | SendError::Render(text)) => text.len(),
        Ok(Outcome::Suppressed) | Err(SendError::Throttled(_) | SendError::Host(_)) => 0,
    }
}

fn size(envelope: &Envelope, body: &Body) -> usize {
    let mailbox = |mailbox: &Mailbox| len(mailbox.name.as_ref()).saturating_add(mailbox.address.len());
    let pairs = |pairs: &[(String, String)]| sum(pairs.iter().map(|(name, value)| name.len() + value.len()));
    let Envelope { sender, to, cc, bcc, reply_to, headers, tags, idempotency_key } = envelope;
    let mailboxes = sum(sender.iter().chain(to).chain(cc).chain(bcc).chain(reply_to).map(mailbox));
    let body = match body {
        Body::Template(Request { name, locale, data }) => sum([name.len(), len(locale.as_ref()), data.len()]),
        Body::Parts(Parts { subject, html, text, attachments }) => {
            let files = attachments.iter().map(|file| {
                sum([file.filename.len(), file.content_type.len(), file.content.len(), len(file.content_id.as_ref())])
            });
            sum([subject.len(), len(html.as_ref()), len(text.as_ref()), sum(files)])
        }
    };
    sum([mailboxes, pairs(headers), pairs(tags), len(idempotency_key.as_ref()), body])
}
