//! Region, endpoint and credentials, by the vendor's own crate: read as every program of AWS reads them, on our TLS stack.
//!
//! Credentials, the first that is there: the configuration's own keys; the environment (`AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`); the profile (`AWS_PROFILE`, `~/.aws/config`, `~/.aws/credentials`); a web
//! identity (`AWS_WEB_IDENTITY_TOKEN_FILE` with `AWS_ROLE_ARN`); the container's endpoint
//! (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, `…_FULL_URI`); the instance metadata, version 2. `AWS_ROLE_ARN` without a web
//! identity is assumed with what was found. They are fetched on first use, kept, and fetched anew before they expire.

use crate::Config;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sesv2::Client;
use aws_sdk_sesv2::config::retry::RetryConfig;
use aws_sdk_sesv2::config::timeout::TimeoutConfig;
use aws_sdk_sesv2::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, tls};
use std::time::Duration;

/// Where SES is when nobody says it.
const REGION: &str = "us-east-1";

/// A client by the configuration. Reads the environment and profiles; opens no connection.
pub(crate) async fn client(config: &Config) -> Client {
    let shared = shared(config).await;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .operation_timeout(Duration::from_millis(config.send_timeout_ms))
        .build();
    let mut builder =
        aws_sdk_sesv2::config::Builder::from(&shared).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
    if let Some(url) = &config.endpoint_url {
        builder = builder.endpoint_url(url.reveal());
    }
    Client::from_conf(builder.build())
}

async fn shared(config: &Config) -> SdkConfig {
    let http = Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut profile_region = ProfileFileRegionProvider::builder();
    if let Some(profile) = &config.profile {
        profile_region = profile_region.profile_name(profile);
    }
    let region = RegionProviderChain::first_try(config.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile_region.build())
        .or_else(REGION);
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).region(region);
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        let token = config.session_token.as_ref().map(|token| token.reveal().to_owned());
        loader = loader.credentials_provider(Credentials::new(id.reveal(), secret.reveal(), token, None, "sandpost"));
    }
    let shared = loader.load().await;
    match role(config) {
        None => shared,
        Some(role) => {
            let role = AssumeRoleProvider::builder(role)
                .configure(&shared)
                .session_name(&config.role_session_name)
                .build()
                .await;
            shared.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build()
        }
    }
}

/// The role to assume with other credentials; none where a web identity assumes it by itself.
fn role(config: &Config) -> Option<String> {
    if config.role_arn.is_some() {
        return config.role_arn.clone();
    }
    let is_set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match is_set("AWS_WEB_IDENTITY_TOKEN_FILE") {
        Some(_) => None,
        None => is_set("AWS_ROLE_ARN"),
    }
}
