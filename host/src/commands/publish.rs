//! `sandpost publish`: one message over HTTP, as any service would.

use crate::cli::Publish;
use crate::exit::{Exit, Expected};
use crate::output;
use std::io::Read as _;

/// The most that is read from standard input; the host's own limit answers long before.
const BODY_MAX_BYTES: u64 = 64 * 1024 * 1024;

pub(crate) fn publish(arguments: Publish, json: bool) -> Result<(), Expected> {
    let body = match arguments.body.as_deref() {
        Some(body) if body != "-" => body.as_bytes().to_vec(),
        _ => standard_input()?,
    };
    let mut headers = vec![("content-type".to_owned(), arguments.content_type)];
    for (name, value) in arguments.attributes {
        headers.push((format!("sandpost-attribute-{name}"), value));
    }
    headers.extend(arguments.ordering_key.map(|key| ("sandpost-ordering-key".to_owned(), key)));
    headers.extend(arguments.delay_ms.map(|delay_ms| ("sandpost-delay-ms".to_owned(), delay_ms.to_string())));
    headers.extend(arguments.idempotency_key.map(|key| ("idempotency-key".to_owned(), key)));

    let path = format!("/v1/topics/{}/messages", super::path_segment(&arguments.topic));
    let answer = arguments.target.post(&path, &headers, body)?;
    if json {
        output::json(&answer.body);
    } else {
        output::data(answer.body.get("id").and_then(serde_json::Value::as_str).unwrap_or_default());
    }
    Ok(())
}

fn standard_input() -> Result<Vec<u8>, Expected> {
    let mut body = Vec::new();
    std::io::stdin()
        .lock()
        .take(BODY_MAX_BYTES)
        .read_to_end(&mut body)
        .map_err(|error| Expected::new(Exit::Usage, format!("failed to read the body: {error}")))?;
    Ok(body)
}
