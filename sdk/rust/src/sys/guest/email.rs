//! The WIT interface `email`.

use super::handler::sandpost::plugin::email as wit;
use crate::email::{Attachment, Body, Envelope, Mailbox, Outcome, Quota, SendError};
use crate::error::HostError;
use std::time::Duration;

pub(crate) fn send(envelope: Envelope, body: Body) -> Result<Outcome, SendError> {
    answer(wit::send(&convert_envelope(envelope), &convert_body(body)))
}

pub(crate) fn send_many(emails: Vec<(Envelope, Body)>) -> Vec<Result<Outcome, SendError>> {
    let emails: Vec<_> =
        emails.into_iter().map(|(envelope, body)| (convert_envelope(envelope), convert_body(body))).collect();
    wit::send_many(&emails).into_iter().map(answer).collect()
}

pub(crate) fn quota() -> Result<Quota, HostError> {
    let quota = wit::quota()?;
    Ok(Quota { per_day: quota.per_day, sent_today: quota.sent_today, per_second: quota.per_second })
}

fn answer(answer: Result<wit::Outcome, wit::SendError>) -> Result<Outcome, SendError> {
    match answer {
        Ok(wit::Outcome::Sent(id)) => Ok(Outcome::Sent(id)),
        Ok(wit::Outcome::AlreadySent(id)) => Ok(Outcome::AlreadySent(id)),
        Ok(wit::Outcome::Suppressed) => Ok(Outcome::Suppressed),
        Err(wit::SendError::Rejected(reason)) => Err(SendError::Rejected(reason)),
        Err(wit::SendError::Throttled(after)) => Err(SendError::Throttled(after.map(Duration::from_millis))),
        Err(wit::SendError::Render(reason)) => Err(SendError::Render(reason)),
        Err(wit::SendError::Host(error)) => Err(SendError::Host(error.into())),
    }
}

fn convert_envelope(envelope: Envelope) -> wit::Envelope {
    wit::Envelope {
        sender: envelope.sender.map(mailbox),
        to: mailboxes(envelope.to),
        cc: mailboxes(envelope.cc),
        bcc: mailboxes(envelope.bcc),
        reply_to: mailboxes(envelope.reply_to),
        headers: envelope.headers,
        tags: envelope.tags,
        idempotency_key: envelope.idempotency_key,
    }
}

fn convert_body(body: Body) -> wit::Body {
    match body {
        Body::Parts(parts) => wit::Body::Parts(wit::Parts {
            subject: parts.subject,
            html: parts.html,
            text: parts.text,
            attachments: parts.attachments.into_iter().map(attachment).collect(),
        }),
        Body::Template(request) => wit::Body::Template(super::templates::request(request)),
    }
}

fn mailboxes(mailboxes: Vec<Mailbox>) -> Vec<wit::Mailbox> {
    mailboxes.into_iter().map(mailbox).collect()
}

fn mailbox(mailbox: Mailbox) -> wit::Mailbox {
    wit::Mailbox { name: mailbox.name, address: mailbox.address }
}

fn attachment(attachment: Attachment) -> wit::Attachment {
    wit::Attachment {
        filename: attachment.filename,
        content_type: attachment.content_type,
        content: attachment.content,
        content_id: attachment.content_id,
    }
}
