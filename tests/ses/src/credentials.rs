//! Where temporary credentials come from: STS, the container's endpoint, the instance metadata.
//!
//! A key id says how it was got: `ASIAROLE…`, `ASIAWEB…`, `ASIACONTAINER…`, `ASIAINSTANCE…`, with a number that goes up.

use crate::Shared;
use crate::answer::Failure;
use crate::email::authorize;
use axum::extract::{Path, State as Of};
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Form, Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the metadata wants to see again.
const METADATA_TOKEN: &str = "metadata-token";
/// The only role of the instance.
const INSTANCE_ROLE: &str = "instance-role";

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", post(sts))
        .route("/container-credentials", get(container))
        .route("/latest/api/token", put(metadata_token))
        .route("/latest/meta-data/iam/security-credentials/", get(instance_roles))
        .route("/latest/meta-data/iam/security-credentials/{role}", get(instance))
}

struct Session {
    key: String,
    expires: String,
}

/// Gives out a key that is known from now on.
fn session(shared: &Shared, kind: &str) -> Session {
    let mut state = shared.lock();
    state.sessions += 1;
    let key = format!("ASIA{kind}{:04}", state.sessions);
    if let Some(known) = &mut state.account.access_keys {
        known.insert(key.clone());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Session { key, expires: rfc3339(now + state.account.session_seconds) }
}

async fn sts(Of(shared): Of<Shared>, headers: HeaderMap, Form(form): Form<BTreeMap<String, String>>) -> Response {
    let action = form.get("Action").map(String::as_str).unwrap_or_default().to_owned();
    shared.lock().count(&action);
    let role = form.get("RoleArn").cloned().unwrap_or_default();
    let kind = match action.as_str() {
        "AssumeRole" => {
            // The base credentials have to be known; those of the web identity are its token.
            if let Err(failure) = authorize(&shared.lock(), &headers) {
                return failure.into_response();
            }
            "ROLE"
        }
        "AssumeRoleWithWebIdentity" if form.get("WebIdentityToken").is_some_and(|token| !token.is_empty()) => "WEB",
        _ => return Failure::new("InvalidAction", "no such action").into_response(),
    };
    let Session { key, expires } = session(&shared, kind);
    let xml = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         <AssumedRoleUser><Arn>{role}/session</Arn><AssumedRoleId>AROA:session</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>{expires}</Expiration></Credentials></{action}Result>\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
    );
    ([(CONTENT_TYPE, "text/xml")], xml).into_response()
}

async fn container(Of(shared): Of<Shared>) -> Json<Value> {
    shared.lock().count("ContainerCredentials");
    Json(json_of(&session(&shared, "CONTAINER")))
}

async fn metadata_token(Of(shared): Of<Shared>) -> Response {
    shared.lock().count("MetadataToken");
    ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], METADATA_TOKEN).into_response()
}

async fn instance_roles(headers: HeaderMap) -> Response {
    if has_token(&headers) { INSTANCE_ROLE.into_response() } else { StatusCode::UNAUTHORIZED.into_response() }
}

async fn instance(Of(shared): Of<Shared>, headers: HeaderMap, Path(role): Path<String>) -> Response {
    if !has_token(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if role != INSTANCE_ROLE {
        return StatusCode::NOT_FOUND.into_response();
    }
    shared.lock().count("InstanceCredentials");
    let mut answer = json_of(&session(&shared, "INSTANCE"));
    answer["Code"] = json!("Success");
    answer["Type"] = json!("AWS-HMAC");
    answer["LastUpdated"] = json!("2026-01-01T00:00:00Z");
    Json(answer).into_response()
}

fn has_token(headers: &HeaderMap) -> bool {
    headers.get("x-aws-ec2-metadata-token").is_some_and(|token| token == METADATA_TOKEN)
}

fn json_of(Session { key, expires }: &Session) -> Value {
    json!({ "AccessKeyId": key, "SecretAccessKey": "secret", "Token": "token", "Expiration": expires })
}

/// Seconds since 1970 as `2026-01-01T00:00:00Z`.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, counted in eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn a_time_is_written_as_aws_does() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
