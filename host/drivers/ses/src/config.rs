//! What an operator may set, and what cannot work.
//!
//! What is left out here comes from where every program of AWS has it from: see `credentials`.

use sandpost_ports::Secret;

/// SES v2.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The region. Else `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Another address than the region's, as tests have it. Else `AWS_ENDPOINT_URL_SESV2`, `AWS_ENDPOINT_URL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<Secret>,
    /// Static keys; both or none. Else the environment's, the profile's, the container's, the instance's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<Secret>,
    /// The other half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// With temporary keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// The profile of `~/.aws/config` and `~/.aws/credentials`. Else `AWS_PROFILE`, `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The role to assume with those credentials. Else `AWS_ROLE_ARN`; with `AWS_WEB_IDENTITY_TOKEN_FILE` beside it, it is
    /// assumed with that token instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    /// Under which name the role is assumed; seen in `CloudTrail`. Default `sandpost`.
    pub role_session_name: String,
    /// The host's default sender, whose identity is looked at when the host starts (`AWS_SES_FROM_ADDRESS`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_address: Option<String>,
    /// Named with every mail; events and dedicated IPs hang on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_set: Option<String>,
    /// How a mail is handed over. Default `raw`: the MIME that the host built.
    pub content: Content,
    /// Time to connect, TLS included. Default 3000.
    pub connect_timeout_ms: u64,
    /// Time for one mail from credentials to answer; after it the outcome is unknown. Default 20 000: large mails are slow,
    /// and the host's own bound on a hand-over is 30 000.
    pub send_timeout_ms: u64,
    /// Time for one look at account, identity or suppression list. Default 5000.
    pub look_timeout_ms: u64,
    /// How often the account is looked at: quota, rate, whether sending is on. Default 60 000.
    pub account_poll_ms: u64,
    /// Recipients per second as long as the account could not be looked at. Default 1, the sandbox's.
    pub per_second_unknown: f64,
    /// Which share of the account's rate is used: by the bucket, whoever shares it. Default 1.0. Less where others send by the
    /// same account, or several hosts and they share no bucket.
    pub rate_share: f64,
    /// Which share of that this host takes while the shared bucket does not answer. Default 1.0, and SES throttles what is too
    /// much then; one divided by the number of hosts keeps them together within the rate.
    pub rate_share_alone: f64,
    /// The name of the bucket, where hosts share one. Default `ses`. Another one for another account or region.
    pub rate_bucket: String,
    /// The longest that a mail waits for its turn; with more before it, it is throttled. Default 5000: less than a handler's
    /// deadline.
    pub rate_wait_max_ms: u64,
    /// At which share of the day's quota the log warns. Default 0.8.
    pub quota_warn_share: f64,
    /// How long the line stands at first when SES says that sending is paused. Default 30 000; doubles each time.
    pub pause_min_ms: u64,
    /// And at most. Default 600 000 (10 minutes).
    pub pause_max_ms: u64,
    /// Whether recipients on the account's suppression list are left out. Default true: SES would accept the mail, not
    /// deliver it, and count it against the quota.
    pub suppression: bool,
    /// How often the list is read again. Default 900 000 (15 minutes).
    pub suppression_poll_ms: u64,
    /// Addresses of it that are kept in memory, about 100 bytes each. Default 100 000; those over it are left to SES.
    pub suppression_max: usize,
}

/// How a mail is handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// The MIME as the host built it.
    #[default]
    Raw,
    /// Subject, HTML and text as fields; SES builds the MIME. A mail with attachments, or with its own `Reply-To`, goes raw.
    Simple,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: None,
            endpoint_url: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            profile: None,
            role_arn: None,
            role_session_name: "sandpost".to_owned(),
            from_address: None,
            configuration_set: None,
            content: Content::Raw,
            connect_timeout_ms: 3_000,
            send_timeout_ms: 20_000,
            look_timeout_ms: 5_000,
            account_poll_ms: 60_000,
            per_second_unknown: 1.0,
            rate_share: 1.0,
            rate_share_alone: 1.0,
            rate_bucket: "ses".to_owned(),
            rate_wait_max_ms: 5_000,
            quota_warn_share: 0.8,
            pause_min_ms: 30_000,
            pause_max_ms: 600_000,
            suppression: true,
            suppression_poll_ms: 900_000,
            suppression_max: 100_000,
        }
    }
}

/// Of a bucket's name: it is a part of a key, and read by people.
const BUCKET_MAX_BYTES: usize = 100;

/// Why the configuration cannot work. That SES is down is not among it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// A time of zero.
    #[error("`{0}` is 0; it must be at least 1")]
    Zero(&'static str),
    /// A share outside of what a share is.
    #[error("`{0}` must be more than 0 and at most 1")]
    Share(&'static str),
    /// A rate that never lets anything through.
    #[error("`per_second_unknown` must be more than 0")]
    Rate,
    /// Half of the keys.
    #[error("`access_key_id` and `secret_access_key` are set together or not at all")]
    HalfKeys,
    /// A name of a bucket that is none.
    #[error("`rate_bucket` is not 1 to 100 letters, digits, dots, dashes or underscores")]
    Bucket,
    /// Not an address of a service.
    #[error("`endpoint_url` begins with http:// or https://")]
    Endpoint,
    /// The least is over the most.
    #[error("`pause_min_ms` is over `pause_max_ms`")]
    Pause,
}

impl Config {
    /// Whether it can work.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let times = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("send_timeout_ms", self.send_timeout_ms),
            ("look_timeout_ms", self.look_timeout_ms),
            ("account_poll_ms", self.account_poll_ms),
            ("pause_min_ms", self.pause_min_ms),
            ("suppression_poll_ms", self.suppression_poll_ms),
        ];
        if let Some((key, _)) = times.iter().find(|(_, value)| *value == 0) {
            return Err(OpenError::Zero(key));
        }
        for (key, share) in [
            ("rate_share", self.rate_share),
            ("rate_share_alone", self.rate_share_alone),
            ("quota_warn_share", self.quota_warn_share),
        ] {
            if !(share > 0.0 && share <= 1.0) {
                return Err(OpenError::Share(key));
            }
        }
        if !(self.per_second_unknown > 0.0 && self.per_second_unknown.is_finite()) {
            return Err(OpenError::Rate);
        }
        let in_name = |letter: u8| letter.is_ascii_alphanumeric() || b".-_".contains(&letter);
        if !(1..=BUCKET_MAX_BYTES).contains(&self.rate_bucket.len()) || !self.rate_bucket.bytes().all(in_name) {
            return Err(OpenError::Bucket);
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return Err(OpenError::HalfKeys);
        }
        if let Some(url) = &self.endpoint_url {
            let url = url.reveal();
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                return Err(OpenError::Endpoint);
            }
        }
        if self.pause_min_ms > self.pause_max_ms {
            return Err(OpenError::Pause);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_its_name() {
        let ok = Config::default();
        assert_eq!(ok.check(), Ok(()));
        assert_eq!(Config { send_timeout_ms: 0, ..ok.clone() }.check(), Err(OpenError::Zero("send_timeout_ms")));
        assert_eq!(Config { rate_share: 1.5, ..ok.clone() }.check(), Err(OpenError::Share("rate_share")));
        assert_eq!(Config { rate_share: f64::NAN, ..ok.clone() }.check(), Err(OpenError::Share("rate_share")));
        assert_eq!(Config { rate_share_alone: 0.0, ..ok.clone() }.check(), Err(OpenError::Share("rate_share_alone")));
        for name in ["", "a b", "{a}", &"a".repeat(101)] {
            assert_eq!(Config { rate_bucket: name.to_owned(), ..ok.clone() }.check(), Err(OpenError::Bucket), "{name}");
        }
        assert_eq!(Config { per_second_unknown: 0.0, ..ok.clone() }.check(), Err(OpenError::Rate));
        assert_eq!(Config { access_key_id: Some(Secret::new("a")), ..ok.clone() }.check(), Err(OpenError::HalfKeys));
        assert_eq!(Config { endpoint_url: Some(Secret::new("ses:1")), ..ok.clone() }.check(), Err(OpenError::Endpoint));
        assert_eq!(Config { pause_min_ms: 2, pause_max_ms: 1, ..ok }.check(), Err(OpenError::Pause));
    }
}
