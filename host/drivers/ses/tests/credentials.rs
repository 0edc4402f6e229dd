//! Where credentials come from, as every program of AWS finds them. Each case is a process of its own: this binary once
//! more, with an environment that holds nothing but the case.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{config, driver, mail};
use sandpost_ports::email::EmailSender as _;
use sandpost_ses::Config;
use sandpost_test_ses::Ses;
use std::path::Path;
use std::process::Stdio;

/// Set for the process that only sends.
const CHILD: &str = "SANDPOST_TEST_SES_CHILD";
const ROLE: &str = "arn:aws:iam::123456789012:role/sender";

/// Not a test by itself: sends one mail with what it finds around it.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    // Ample: the times of the other tests are too short for a process that begins on a busy machine.
    let config = Config {
        access_key_id: None,
        secret_access_key: None,
        connect_timeout_ms: 5_000,
        send_timeout_ms: 10_000,
        look_timeout_ms: 10_000,
        ..config(&url)
    };
    let ses = driver(config).await;
    ses.send(&mail()).await.unwrap();
}

/// Whose key the mail came with that a process with this environment sent.
async fn key(server: &Ses, variables: &[(&str, &str)]) -> String {
    let before = server.sent().len();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env_clear()
        .env(CHILD, server.url())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let sent = server.sent();
    assert_eq!(sent.len(), before + 1);
    sent[before].access_key.clone()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn from_the_environment_a_profile_a_container_an_instance_and_by_roles() {
    let server = Ses::start().await.unwrap();
    let url = server.url();
    let folder = tempfile::tempdir().unwrap();
    let credentials = write(
        folder.path(),
        "credentials",
        "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s\n\
         [mail]\naws_access_key_id = AKIAMAIL\naws_secret_access_key = s\n",
    );
    let token = write(folder.path(), "token", "a-token");
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let config = write(
        folder.path(),
        "config",
        "[default]\nregion = eu-south-2\n\
         [profile in-config]\nregion = eu-north-1\naws_access_key_id = AKIACONFIG\naws_secret_access_key = s\n\
         [profile role]\nrole_arn = arn:aws:iam::123456789012:role/sender\nsource_profile = in-config\n",
    );
    let files = ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_str());
    let sts = ("AWS_ENDPOINT_URL_STS", url.as_str());

    assert_eq!(key(&server, &keys).await, "AKIAENV");
    assert_eq!(key(&server, &[files]).await, "AKIADEFAULT");
    assert_eq!(key(&server, &[files, ("AWS_PROFILE", "mail")]).await, "AKIAMAIL");
    assert_eq!(key(&server, &[keys[0], keys[1], ("AWS_ROLE_ARN", ROLE), sts]).await, "ASIAROLE0001");
    let web = [("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()), sts];
    assert_eq!(key(&server, &web).await, "ASIAWEB0002");
    let container = format!("{url}/container-credentials");
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str())];
    assert_eq!(key(&server, &container).await, "ASIACONTAINER0003");
    let instance = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
    assert_eq!(key(&server, &instance).await, "ASIAINSTANCE0004");
    assert_eq!(server.calls_of("MetadataToken"), 1, "version 2 of the metadata");

    // Another place of the configuration, with the keys, the region and the role that a profile of it has.
    let place = ("AWS_CONFIG_FILE", config.as_str());
    assert_eq!(key(&server, &[place, ("AWS_PROFILE", "in-config")]).await, "AKIACONFIG");
    assert_eq!(server.sent().pop().unwrap().region, "eu-north-1");
    assert_eq!(key(&server, &[place, files]).await, "AKIADEFAULT");
    assert_eq!(server.sent().pop().unwrap().region, "eu-south-2");
    assert_eq!(key(&server, &[place, ("AWS_PROFILE", "role"), sts]).await, "ASIAROLE0005");
}

#[tokio::test]
async fn temporary_keys_go_with_their_token_and_lasting_ones_without() {
    let server = Ses::start().await.unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", "ASIAENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    assert_eq!(key(&server, &[keys[0], keys[1], ("AWS_SESSION_TOKEN", "of-the-session")]).await, "ASIAENV");
    key(&server, &keys).await;
    let container = format!("{}/container-credentials", server.url());
    key(&server, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str())]).await;
    let tokens: Vec<Option<String>> = server.sent().into_iter().map(|sent| sent.session_token).collect();
    assert_eq!(tokens, [Some("of-the-session".to_owned()), None, Some("token".to_owned())]);
}

#[tokio::test]
async fn the_region_of_the_environment_is_the_one_that_is_signed_for() {
    let server = Ses::start().await.unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    key(&server, &keys).await;
    key(&server, &[keys[0], keys[1], ("AWS_REGION", "eu-west-1")]).await;
    let regions: Vec<String> = server.sent().into_iter().map(|sent| sent.region).collect();
    assert_eq!(regions, ["us-east-1", "eu-west-1"]);
}

#[tokio::test]
async fn keys_of_a_role_are_fetched_anew_before_they_expire() {
    let server = Ses::start().await.unwrap();
    // Shorter than the time before their end at which they are renewed: each send fetches new ones.
    server.change(|account| account.session_seconds = 5);
    let url = server.url();
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAENV"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_ROLE_ARN", ROLE)];
    let variables = [keys[0], keys[1], keys[2], ("AWS_ENDPOINT_URL_STS", url.as_str())];
    key(&server, &variables).await;
    assert!(server.calls_of("AssumeRole") >= 2, "looking at the account and sending used the same, expiring keys");
}
