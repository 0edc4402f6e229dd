//! The operations of SES v2 that Sandpost uses, as REST-JSON.

use crate::account::{Sent, State};
use crate::answer::{Answer, Failure, lost};
use crate::{Identity, Shared};
use axum::extract::{DefaultBodyLimit, Path, Query, State as Of};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Recipients of one mail.
const RECIPIENTS_MAX: usize = 50;
/// Bytes of one mail, encoded: 40 MB.
const MAIL_MAX_BYTES: usize = 40 * 1024 * 1024;
/// Entries in one page of the suppression list.
const PAGE_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v2/email/outbound-emails", post(send))
        .route("/v2/email/account", get(account))
        .route("/v2/email/suppression/addresses", get(list_suppressed).put(suppress))
        .route("/v2/email/suppression/addresses/{address}", get(suppressed).delete(unsuppress))
        .route("/v2/email/identities", get(identities).post(make_identity))
        .route("/v2/email/identities/{identity}", get(identity))
        .route("/v2/email/configuration-sets", post(make_configuration_set))
        .layer(DefaultBodyLimit::max(2 * MAIL_MAX_BYTES))
}

type Answered = Result<Json<Value>, Failure>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Send {
    from_email_address: Option<String>,
    destination: Destination,
    content: Content,
    email_tags: Vec<Tag>,
    configuration_set_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Destination {
    to_addresses: Vec<String>,
    cc_addresses: Vec<String>,
    bcc_addresses: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Content {
    raw: Option<Raw>,
    simple: Option<Simple>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Simple {
    subject: Data,
    body: Body,
    #[serde(default)]
    headers: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    text: Option<Data>,
    html: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    name: String,
    value: String,
}

async fn send(Of(shared): Of<Shared>, headers: HeaderMap, body: axum::body::Bytes) -> Response {
    let answer = {
        let mut state = shared.lock();
        state.count("SendEmail");
        state.answers.pop_front()
    };
    let by_the_book = || take(&mut shared.lock(), &headers, &body);
    match answer {
        None => respond(by_the_book()),
        Some(Answer::Fail { error, status, message }) => Failure::with_status(status, &error, message).into_response(),
        Some(Answer::LoseBefore) => lost(),
        Some(Answer::LoseAfter) => match by_the_book() {
            Ok(_) => lost(),
            Err(failure) => failure.into_response(),
        },
        Some(Answer::SilentBefore) => std::future::pending().await,
        Some(Answer::SilentAfter) => match by_the_book() {
            Ok(_) => std::future::pending().await,
            Err(failure) => failure.into_response(),
        },
        Some(Answer::Garbage) => match by_the_book() {
            Ok(_) => "{\"MessageId\": <html>".into_response(),
            Err(failure) => failure.into_response(),
        },
        Some(Answer::Delay { ms }) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            respond(by_the_book())
        }
    }
}

fn respond(taken: Result<String, Failure>) -> Response {
    match taken {
        Ok(id) => Json(json!({ "MessageId": id })).into_response(),
        Err(failure) => failure.into_response(),
    }
}

/// Takes the mail, or says why not; its id.
fn take(state: &mut State, headers: &HeaderMap, body: &[u8]) -> Result<String, Failure> {
    let access_key = authorize(state, headers)?;
    let send: Send =
        serde_json::from_slice(body).map_err(|error| Failure::new("SerializationException", error.to_string()))?;
    let Send { from_email_address: from, destination, content, email_tags, configuration_set_name } = send;
    let Destination { to_addresses: to, cc_addresses: cc, bcc_addresses: bcc } = destination;
    let recipients: Vec<String> = to.iter().chain(&cc).chain(&bcc).map(|one| bare(one)).collect();

    if state.account.enforcement_status == "SHUTDOWN" {
        return Err(Failure::new("AccountSuspendedException", "Your account's ability to send email is suspended."));
    }
    if !state.account.sending_enabled {
        return Err(Failure::new("SendingPausedException", "Email sending is disabled for this account."));
    }
    if recipients.is_empty() {
        return Err(Failure::new("BadRequestException", "Missing destination."));
    }
    if recipients.len() > RECIPIENTS_MAX {
        return Err(Failure::new("BadRequestException", "Recipient count exceeds 50."));
    }
    if let Some(name) = &configuration_set_name
        && !state.account.configuration_sets.contains(name)
    {
        return Err(Failure::new("NotFoundException", format!("Configuration set <{name}> does not exist.")));
    }
    let allowed = |text: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
        !text.is_empty() && text.len() <= 256 && text.chars().all(known)
    };
    if email_tags.len() > 50 || email_tags.iter().any(|tag| !allowed(&tag.name) || !allowed(&tag.value)) {
        return Err(Failure::new("BadRequestException", "Invalid message tag."));
    }
    let mut raw_text = None;
    let (mut subject, mut html, mut text, mut simple_headers) = (None, None, None, Vec::new());
    match (content.raw, content.simple) {
        (Some(raw), None) => {
            let data = STANDARD.decode(raw.data);
            let data = data.map_err(|error| Failure::new("SerializationException", error.to_string()))?;
            if data.len() > MAIL_MAX_BYTES {
                return Err(Failure::new("BadRequestException", "Message length is more than 41943040 bytes long."));
            }
            raw_text = Some(String::from_utf8_lossy(&data).into_owned());
        }
        (None, Some(simple)) => {
            subject = Some(simple.subject.data);
            html = simple.body.html.map(|part| part.data);
            text = simple.body.text.map(|part| part.data);
            simple_headers = simple.headers.into_iter().map(|header| (header.name, header.value)).collect();
        }
        _ => return Err(Failure::new("BadRequestException", "Content must be exactly one of Simple, Raw, Template.")),
    }
    let sender = from.clone().or_else(|| raw_text.as_deref().and_then(sender_of)).map(|from| bare(&from));
    let Some(sender) = sender else { return Err(Failure::new("BadRequestException", "Missing final '@domain'")) };
    let unverified = |address: &str| {
        let words = "Email address is not verified. The following identities failed the check in region US-EAST-1:";
        Failure::new("MessageRejected", format!("{words} {address}"))
    };
    if !state.account.is_verified(&sender) {
        return Err(unverified(&sender));
    }
    if !state.account.production_access_enabled
        && let Some(stranger) = recipients.iter().find(|address| !state.account.is_verified(address))
    {
        return Err(unverified(stranger));
    }

    let count = recipients.iter().map(|_| 1.0).sum::<f64>();
    let per_day = state.account.max_24_hour_send;
    if per_day >= 0.0 && state.account.sent_last_24_hours + count > per_day {
        return Err(Failure::new("LimitExceededException", "Daily message quota exceeded."));
    }
    if !state.takes(count) {
        return Err(Failure::new("TooManyRequestsException", "Maximum sending rate exceeded."));
    }
    state.account.sent_last_24_hours += count;
    let message_id = format!("0100{:012x}-0000-4000-8000-000000", state.sent.len() + 1);
    let suppressed = recipients.into_iter().filter(|one| state.account.suppressed.contains_key(one)).collect();
    state.sent.push(Sent {
        message_id: message_id.clone(),
        access_key,
        session_token: text_of(headers, "x-amz-security-token").map(str::to_owned),
        region: region_of(headers),
        from,
        to,
        cc,
        bcc,
        suppressed,
        raw: raw_text,
        subject,
        html,
        text,
        headers: simple_headers,
        tags: email_tags.into_iter().map(|tag| (tag.name, tag.value)).collect(),
        configuration_set: configuration_set_name,
    });
    Ok(message_id)
}

/// Counts the request, and lets it through where its credentials are known and may do this.
fn admit(state: &mut State, operation: &str, headers: &HeaderMap) -> Result<(), Failure> {
    state.count(operation);
    authorize(state, headers)?;
    if state.account.denied.contains(operation) {
        let message = format!("User is not authorized to perform: ses:{operation}");
        return Err(Failure::new("AccessDeniedException", message));
    }
    Ok(())
}

/// Whose credentials the request has, if they are known.
pub(crate) fn authorize(state: &State, headers: &HeaderMap) -> Result<String, Failure> {
    let given = text_of(headers, "authorization").unwrap_or_default();
    let key = given.strip_prefix("AWS4-HMAC-SHA256 Credential=").and_then(|rest| rest.split('/').next()).ok_or_else(
        || Failure::with_status(403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
    )?;
    match &state.account.access_keys {
        Some(known) if !known.contains(key) => {
            Err(Failure::new("UnrecognizedClientException", "The security token included in the request is invalid."))
        }
        _ => Ok(key.to_owned()),
    }
}

/// The third part of `key/date/region/service/aws4_request`.
fn region_of(headers: &HeaderMap) -> String {
    let given = text_of(headers, "authorization").unwrap_or_default();
    given.split('/').nth(2).unwrap_or_default().to_owned()
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `local@domain` of an address with or without a name, in lower case.
fn bare(address: &str) -> String {
    let inner = address.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(inner, _)| inner);
    inner.unwrap_or(address).trim().to_lowercase()
}

/// The `From` of a mail.
fn sender_of(mime: &str) -> Option<String> {
    let mut lines = mime.lines().take_while(|line| !line.is_empty());
    lines.find_map(|line| line.strip_prefix("From:")).map(str::to_owned)
}

async fn account(Of(shared): Of<Shared>, headers: HeaderMap) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "GetAccount", &headers)?;
    let account = &state.account;
    Ok(Json(json!({
        "DedicatedIpAutoWarmupEnabled": false,
        "EnforcementStatus": account.enforcement_status,
        "ProductionAccessEnabled": account.production_access_enabled,
        "SendQuota": {
            "Max24HourSend": account.max_24_hour_send,
            "MaxSendRate": account.max_send_rate,
            "SentLast24Hours": account.sent_last_24_hours,
        },
        "SendingEnabled": account.sending_enabled,
        "SuppressionAttributes": { "SuppressedReasons": ["BOUNCE", "COMPLAINT"] },
    })))
}

async fn list_suppressed(
    Of(shared): Of<Shared>,
    headers: HeaderMap,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "ListSuppressedDestinations", &headers)?;
    let from = query.get("NextToken").and_then(|token| token.parse::<usize>().ok()).unwrap_or(0);
    let size = query.get("PageSize").and_then(|size| size.parse::<usize>().ok()).unwrap_or(100).clamp(1, PAGE_MAX);
    let all = &state.account.suppressed;
    let page: Vec<Value> = all.iter().skip(from).take(size).map(|(address, one)| entry(address, one)).collect();
    let mut answer = json!({ "SuppressedDestinationSummaries": page });
    if from + size < all.len() {
        answer["NextToken"] = json!((from + size).to_string());
    }
    Ok(Json(answer))
}

fn entry(address: &str, one: &crate::Suppressed) -> Value {
    json!({ "EmailAddress": address, "Reason": one.reason, "LastUpdateTime": one.since })
}

async fn suppress(Of(shared): Of<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "PutSuppressedDestination", &headers)?;
    match (body["EmailAddress"].as_str(), body["Reason"].as_str()) {
        (Some(address), Some(reason @ ("BOUNCE" | "COMPLAINT"))) => {
            let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
            state.account.suppress(address, reason, since);
            Ok(Json(json!({})))
        }
        _ => Err(Failure::new("BadRequestException", "EmailAddress and Reason are needed.")),
    }
}

async fn suppressed(Of(shared): Of<Shared>, headers: HeaderMap, Path(address): Path<String>) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "GetSuppressedDestination", &headers)?;
    match state.account.suppressed.get(&address.to_lowercase()) {
        Some(one) => Ok(Json(json!({ "SuppressedDestination": entry(&address, one) }))),
        None => Err(missing(&address)),
    }
}

async fn unsuppress(Of(shared): Of<Shared>, headers: HeaderMap, Path(address): Path<String>) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "DeleteSuppressedDestination", &headers)?;
    match state.account.suppressed.remove(&address.to_lowercase()) {
        Some(_) => Ok(Json(json!({}))),
        None => Err(missing(&address)),
    }
}

fn missing(address: &str) -> Failure {
    let message = format!("Email address {address} does not exist on your suppression list.");
    Failure::new("NotFoundException", message)
}

async fn identities(Of(shared): Of<Shared>, headers: HeaderMap) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "ListEmailIdentities", &headers)?;
    let all: Vec<Value> = state
        .account
        .identities
        .iter()
        .map(|(name, one)| {
            json!({
                "IdentityName": name,
                "IdentityType": kind(name),
                "SendingEnabled": one.verified,
                "VerificationStatus": status(one),
            })
        })
        .collect();
    Ok(Json(json!({ "EmailIdentities": all })))
}

async fn make_identity(Of(shared): Of<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "CreateEmailIdentity", &headers)?;
    let Some(name) = body["EmailIdentity"].as_str().map(str::to_lowercase) else {
        return Err(Failure::new("BadRequestException", "EmailIdentity is needed."));
    };
    let kind = kind(&name);
    // As at the service: it is there, and not yet verified.
    state.account.identities.insert(name, Identity { verified: false, dkim: "NOT_STARTED".to_owned() });
    Ok(Json(json!({ "IdentityType": kind, "VerifiedForSendingStatus": false })))
}

async fn identity(Of(shared): Of<Shared>, headers: HeaderMap, Path(name): Path<String>) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "GetEmailIdentity", &headers)?;
    match state.account.identities.get(&name.to_lowercase()) {
        Some(one) => Ok(Json(json!({
            "IdentityType": kind(&name),
            "FeedbackForwardingStatus": true,
            "VerifiedForSendingStatus": one.verified,
            "VerificationStatus": status(one),
            "DkimAttributes": { "SigningEnabled": one.dkim == "SUCCESS", "Status": one.dkim, "Tokens": [] },
        }))),
        None => Err(Failure::new("NotFoundException", format!("Email identity {name} does not exist."))),
    }
}

fn kind(identity: &str) -> &'static str {
    if identity.contains('@') { "EMAIL_ADDRESS" } else { "DOMAIN" }
}

fn status(identity: &Identity) -> &'static str {
    if identity.verified { "SUCCESS" } else { "PENDING" }
}

async fn make_configuration_set(Of(shared): Of<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Answered {
    let mut state = shared.lock();
    admit(&mut state, "CreateConfigurationSet", &headers)?;
    match body["ConfigurationSetName"].as_str() {
        Some(name) => {
            state.account.configuration_sets.insert(name.to_owned());
            Ok(Json(json!({})))
        }
        None => Err(Failure::new("BadRequestException", "ConfigurationSetName is needed.")),
    }
}
