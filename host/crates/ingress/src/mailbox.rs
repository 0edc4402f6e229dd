//! `GET /v1/mailbox…`: the mail that was caught, as JSON, HTML, text, or whole.
//!
//! Not here: catching it (the embedded e-mail driver).

use crate::App;
use crate::read::{Asked, Segment};
use crate::reject::{Reject, Thing};
use crate::stamp::rfc3339;
use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse as _, Response};
use sandpost_ports::email::{Address, CaughtMail, Mailbox};
use std::sync::Arc;

/// A caught page of mail runs nothing, loads nothing, and belongs to no site.
const MAIL_POLICY: &str = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; \
     frame-ancestors 'self'";
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;

/// Which mails.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    limit: Option<usize>,
    before: Option<u64>,
}

/// A page of the mailbox, newest first.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Mails {
    mails: Vec<MailSummary>,
    /// The next page's `before`; none at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

/// A mail without its content.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct MailSummary {
    /// Counted from 1.
    number: u64,
    /// RFC 3339, UTC, milliseconds.
    caught_at: String,
    sender: AddressView,
    to: Vec<AddressView>,
    subject: String,
    /// The plugin that sent it.
    plugin: String,
    /// The message that it was handling.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<String>,
}

/// A whole mail.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct MailView {
    /// Counted from 1.
    number: u64,
    /// RFC 3339, UTC, milliseconds.
    caught_at: String,
    sender: AddressView,
    to: Vec<AddressView>,
    cc: Vec<AddressView>,
    bcc: Vec<AddressView>,
    subject: String,
    /// None for a mail of text alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<String>,
    text: String,
    tags: Vec<TagView>,
    /// The key under which it was sent once.
    key: String,
    /// The plugin that sent it.
    plugin: String,
    /// The message that it was handling.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<String>,
}

/// An address with the name to show.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct AddressView {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    address: String,
}

/// A tag.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct TagView {
    name: String,
    value: String,
}

impl From<Address> for AddressView {
    fn from(address: Address) -> Self {
        Self { name: address.name, address: address.address }
    }
}

fn addresses(from: Vec<Address>) -> Vec<AddressView> {
    from.into_iter().map(AddressView::from).collect()
}

impl From<CaughtMail> for MailSummary {
    fn from(caught: CaughtMail) -> Self {
        let (mail, origin) = (caught.mail, caught.number);
        Self {
            number: origin,
            caught_at: rfc3339(caught.caught_at_ms),
            sender: mail.sender.into(),
            to: addresses(mail.to),
            subject: mail.subject,
            plugin: mail.origin.plugin.into(),
            message_id: mail.origin.message_id.map(String::from),
            template: mail.origin.template,
            locale: mail.origin.locale,
        }
    }
}

impl From<CaughtMail> for MailView {
    fn from(caught: CaughtMail) -> Self {
        let mail = caught.mail;
        Self {
            number: caught.number,
            caught_at: rfc3339(caught.caught_at_ms),
            sender: mail.sender.into(),
            to: addresses(mail.to),
            cc: addresses(mail.cc),
            bcc: addresses(mail.bcc),
            subject: mail.subject,
            html: mail.html,
            text: mail.text,
            tags: mail.tags.into_iter().map(|(name, value)| TagView { name, value }).collect(),
            key: mail.key,
            plugin: mail.origin.plugin.into(),
            message_id: mail.origin.message_id.map(String::from),
            template: mail.origin.template,
            locale: mail.origin.locale,
        }
    }
}

/// List the mail that was caught
#[utoipa::path(
    get, path = "/v1/mailbox", tag = "mailbox",
    params(
        ("limit" = Option<usize>, Query, description = "Default 50", minimum = 1, maximum = 500),
        ("before" = Option<u64>, Query, description = "Only mails with a lower number"),
    ),
    responses((status = 200, description = "Newest first", body = Mails)),
)]
pub(crate) async fn list(State(app): State<App>, Asked(query): Asked<ListQuery>) -> Result<Json<Mails>, Reject> {
    let limit = page_limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    if let Some(before) = query.before.filter(|before| i64::try_from(*before).is_err()) {
        return Err(Reject::InvalidQuery(format!("`before` is {before}; numbers go up to {}", i64::MAX)));
    }
    let mails = mailbox(&app)?.list(query.before, limit).await?;
    let next = (mails.len() >= limit).then(|| mails.last().map(|mail| mail.number)).flatten();
    Ok(Json(Mails { mails: mails.into_iter().map(MailSummary::from).collect(), next }))
}

/// Show one mail
///
/// `latest` or a number; alone as JSON, with `.html`, `.txt` or `.eml` behind it in that form. The HTML comes with a
/// policy under which a browser runs and loads nothing of it.
#[utoipa::path(
    get, path = "/v1/mailbox/{mail}", tag = "mailbox",
    params(("mail" = String, Path, description = "`latest` or a number, with `.html`, `.txt`, `.eml` or nothing behind it")),
    responses((status = 200, description = "The mail", content(
        (MailView = "application/json"), (String = "text/html"), (String = "text/plain"), (String = "message/rfc822"),
    ))),
)]
pub(crate) async fn one(State(app): State<App>, Segment(mail): Segment) -> Result<Response, Reject> {
    let (which, form) = mail.split_once('.').map_or((mail.as_str(), None), |(which, form)| (which, Some(form)));
    if form.is_some_and(|form| !["html", "txt", "eml"].contains(&form)) {
        return Err(Reject::NotFound);
    }
    let mailbox = mailbox(&app)?;
    let caught = if which == "latest" {
        mailbox.latest().await?
    } else {
        let number = which.parse().map_err(|_| Reject::Unknown(Thing::Mail))?;
        mailbox.get(number).await?
    };
    let caught = caught.ok_or(Reject::Unknown(Thing::Mail))?;
    Ok(match form {
        Some("html") => {
            let html = caught.mail.html.ok_or(Reject::Unknown(Thing::MailPart("HTML")))?;
            let headers = [
                (CONTENT_TYPE, "text/html; charset=utf-8"),
                (CONTENT_SECURITY_POLICY, MAIL_POLICY),
                (REFERRER_POLICY, "no-referrer"),
            ];
            (headers, html).into_response()
        }
        Some("txt") => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], caught.mail.text).into_response(),
        Some(_) => {
            let name = format!("attachment; filename=\"mail-{}.eml\"", caught.number);
            let headers = [(CONTENT_TYPE, "message/rfc822".to_owned()), (CONTENT_DISPOSITION, name)];
            (headers, caught.mail.mime).into_response()
        }
        None => Json(MailView::from(caught)).into_response(),
    })
}

fn mailbox(app: &App) -> Result<&Arc<dyn Mailbox>, Reject> {
    app.mailbox.as_ref().ok_or(Reject::Unknown(Thing::Mailbox))
}

/// How many of a list.
pub(crate) fn page_limit(asked: Option<usize>, default: usize, most: usize) -> Result<usize, Reject> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(limit) => Err(Reject::InvalidQuery(format!("`limit` is {limit}; 1 to {most} are accepted"))),
    }
}
