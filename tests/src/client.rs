//! HTTP to a host over connections that are kept, for load from several threads and for many look-ups.
//!
//! Not here: waiting and what an answer means (`Host`, the tests).

use crate::Reply;
use crate::host::PATIENCE;

/// The largest answer that is read.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// What a request that got no answer failed with.
pub type Unanswered = Box<dyn std::error::Error>;

/// One caller of one host. Threads take a clone each.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    /// For the host at `127.0.0.1:PORT`.
    pub fn new(address: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .build()
            .into();
        Self { agent, base: format!("http://{address}") }
    }

    /// Any request; an error where no whole answer came.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, Unanswered> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body.to_vec())?)?;
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let text = response.body_mut().with_config().limit(ANSWER_MAX_BYTES).read_to_string()?;
        Ok(Reply { status: response.status().as_u16(), headers, text })
    }

    /// Reads a resource.
    pub fn get(&self, path: &str) -> Result<Reply, Unanswered> {
        self.request("GET", path, &[], b"")
    }

    /// Sends a JSON body.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Reply, Unanswered> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.request("POST", path, &all, body.as_bytes())
    }
}
