//! The commands' way to a running host: its HTTP API, with a bearer token.
//!
//! Not here: what the answers mean (`commands/*`).

use crate::exit::{Exit, Expected};
use serde_json::Value;
use std::time::Duration;

/// Longer than the host's own bound on a request, so that the host's answer is seen.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The most that an answer may be.
const ANSWER_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Where the host is, and as whom to speak.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The host's address
    #[arg(long, env = "SANDPOST_URL", default_value = "http://127.0.0.1:8080", global = true, value_name = "URL")]
    pub(crate) url: String,
    /// The variable that holds the bearer token
    #[arg(long, default_value = "SANDPOST_TOKEN", global = true, value_name = "VARIABLE")]
    pub(crate) token_from_env: String,
}

/// An answer that is not an error.
pub(crate) struct Answer {
    pub(crate) body: Value,
}

impl Target {
    /// Reads a resource.
    pub(crate) fn get(&self, path: &str) -> Result<Answer, Expected> {
        self.send(ureq::http::Method::GET, path, &[], Vec::new())
    }

    /// Sends a body with these headers.
    pub(crate) fn post(&self, path: &str, headers: &[(String, String)], body: Vec<u8>) -> Result<Answer, Expected> {
        self.send(ureq::http::Method::POST, path, headers, body)
    }

    /// Deletes a resource.
    pub(crate) fn delete(&self, path: &str) -> Result<Answer, Expected> {
        self.send(ureq::http::Method::DELETE, path, &[], Vec::new())
    }

    fn send(
        &self,
        method: ureq::http::Method,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Result<Answer, Expected> {
        if !["http://", "https://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            return Err(Expected::new(Exit::Usage, format!("`{}` is not the address of a host", self.url))
                .hint("give it as http://HOST:PORT, by --url or SANDPOST_URL"));
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.trim_end_matches('/')))
            .header("user-agent", concat!("sandpost/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Ok(token) = std::env::var(&self.token_from_env) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).map_err(|error| {
            Expected::new(Exit::Usage, format!("failed to make the request: {error}"))
                .hint("check --url and the values that became headers")
        })?;
        let mut response = agent.run(request).map_err(|error| {
            Expected::new(Exit::Unavailable, format!("failed to reach the host: {error}"))
                .detail(format!("--> {}", self.url))
                .hint("is `sandpost run` up there? --url or SANDPOST_URL names another address")
        })?;
        let status = response.status();
        let text =
            response.body_mut().with_config().limit(ANSWER_MAX_BYTES).read_to_string().map_err(|error| {
                Expected::new(Exit::Unavailable, format!("failed to read the host's answer: {error}"))
            })?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if status.is_success() { Ok(Answer { body }) } else { Err(refused(status.as_u16(), &body, self)) }
    }
}

/// A problem document as an error of the command line.
fn refused(status: u16, problem: &Value, target: &Target) -> Expected {
    let text = |key: &str| problem.get(key).and_then(Value::as_str);
    let reason = text("detail").or_else(|| text("title")).unwrap_or("it gave no reason");
    let error = Expected::new(Exit::Failure, format!("the host refused: {reason}"))
        .detail(format!("status {status}, code `{}`", text("code").unwrap_or("unknown")));
    match status {
        401 => error.hint(format!("put a token into the variable {}", target.token_from_env)),
        _ => error,
    }
}
