//! `sandpost doctor` where the configuration names Google Pub/Sub: what it says, and how it exits.
//!
//! Needs a host with the driver (`cargo xtask test` builds it), and the emulator for what is there and has drifted.

use sandpost_services::{checked, not_checked};
use sandpost_tests::{Client, run_build, services_program};
use serde_json::{Value, json};
use std::path::PathBuf;

const SUITE: &str = "doctor and Pub/Sub";

/// A configuration in a folder of its own.
struct Doctor {
    program: PathBuf,
    folder: tempfile::TempDir,
}

/// What it found: each check with whether it is well.
struct Found {
    code: Option<i32>,
    checks: Vec<(String, bool, String)>,
    all: String,
}

impl Doctor {
    fn new(pubsub: &str) -> Option<Self> {
        let Some(program) = services_program() else {
            not_checked(SUITE, "there is no host with the driver; `cargo xtask test` builds it");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "data_dir = {:?}\n[deployment]\ndirectory = {:?}\n[broker.pubsub]\n{pubsub}\n\
             [subscriptions.mailer]\ntopic = \"orders\"\nplugin = \"mailer\"\n",
            folder.path().join("data"),
            folder.path().join("plugins"),
        );
        std::fs::write(folder.path().join("sandpost.toml"), config).expect("the config is written");
        Some(Self { program, folder })
    }

    fn run(&self, environment: &[(&str, &str)]) -> Found {
        let file = self.folder.path().join("sandpost.toml").display().to_string();
        let arguments = ["doctor", "--json", "--config", &file].map(str::to_owned);
        let output = run_build(&self.program, &arguments, environment);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
        let checks = found["checks"].as_array().expect("checks").iter().map(|check| {
            let text = |key: &str| check[key].as_str().expect("a text").to_owned();
            (text("check"), check["ok"].as_bool().expect("yes or no"), text("detail"))
        });
        Found { code: output.status.code(), checks: checks.collect(), all: format!("{out}\n{err}") }
    }
}

impl Found {
    fn says(&self, check: &str, ok: bool, words: &str) -> bool {
        self.checks.iter().any(|(what, well, detail)| what == check && *well == ok && detail.contains(words))
    }
}

#[test]
fn a_subscription_that_drifted_is_said_and_dead_letters_that_would_be_lost_are_an_error() {
    let Some(server) = sandpost_services::pubsub() else { return };
    if server.kind().contains("pstest") {
        return not_checked(SUITE, "pstest has no REST, by which Google's crate manages topics");
    }
    let pubsub = "manage = \"verify\"\ndead_letter_topic = \"orders-dead\"";
    let Some(doctor) = Doctor::new(pubsub) else { return };
    checked(SUITE, &server);
    let make = |kind: &str, name: &str, body: Value| {
        let path = format!("/v1/projects/doctor/{kind}/{name}");
        let headers = [("content-type", "application/json")];
        let address = server.address().to_string();
        let reply =
            Client::new(&address).request("PUT", &path, &headers, body.to_string().as_bytes()).expect("an answer");
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    let address = server.address().to_string();
    let environment = [("PUBSUB_EMULATOR_HOST", address.as_str()), ("PUBSUB_PROJECT_ID", "doctor")];
    make("topics", "orders", json!({}));
    let missing = doctor.run(&environment);
    assert_eq!(missing.code, Some(78), "{}", missing.all);
    assert!(missing.says("broker", true, "answered within"), "{}", missing.all);
    assert!(missing.says("broker.pubsub", false, "`mailer`: the subscription is not there"), "{}", missing.all);

    make("topics", "orders-dead", json!({}));
    make("subscriptions", "mailer", json!({ "topic": "projects/doctor/topics/orders", "ackDeadlineSeconds": 15 }));
    let drifted = doctor.run(&environment);
    assert_eq!(drifted.code, Some(78), "{}", drifted.all);
    let words = "drift: `mailer`: the ack deadline is 15 s, wanted 60";
    assert!(drifted.says("broker.pubsub", true, words), "{}", drifted.all);
    let words = "`orders-dead`: a dead-letter topic without a subscription";
    assert!(drifted.says("broker.pubsub", false, words), "{}", drifted.all);

    // Drift alone is said, and is no error.
    make("subscriptions", "orders-kept", json!({ "topic": "projects/doctor/topics/orders-dead" }));
    let drifted = doctor.run(&environment);
    assert_eq!(drifted.code, Some(0), "{}", drifted.all);
    assert!(drifted.says("broker.pubsub", true, "drift: `mailer`"), "{}", drifted.all);
}

#[test]
fn credentials_that_are_broken_are_refused_in_words_and_no_key_is_shown() {
    let Some(doctor) = Doctor::new("call_timeout_ms = 5000") else { return };
    let file = doctor.folder.path().join("credentials.json");
    let path = file.display().to_string();
    let environment = [("PUBSUB_PROJECT_ID", "doctor"), ("GOOGLE_APPLICATION_CREDENTIALS", path.as_str())];
    let account = |key: &str| {
        json!({
            "type": "service_account", "project_id": "doctor", "private_key_id": "SECRET-ID", "private_key": key,
            "client_email": "host@example.com", "client_id": "1", "token_uri": "http://127.0.0.1:1/token",
        })
        .to_string()
    };
    let unreadable = "the application default credentials cannot be read";
    let cases = [
        (None, unreadable),
        (Some("SECRET-KEY is no JSON".to_owned()), unreadable),
        (Some("{\"private_key\": \"SECRET-KEY\"}".to_owned()), unreadable),
        (Some("{\"type\": \"service_account\", \"private_key\": \"SECRET-KEY\"}".to_owned()), unreadable),
        (Some(account("SECRET-KEY")), "the credentials cannot be used"),
        (
            Some(account("-----BEGIN PRIVATE KEY-----\nU0VDUkVULUtFWQ==\n-----END PRIVATE KEY-----\n")),
            "the credentials cannot be used",
        ),
    ];
    for (text, words) in cases {
        if let Some(text) = &text {
            std::fs::write(&file, text).expect("written");
        }
        let found = doctor.run(&environment);
        assert_eq!(found.code, Some(78), "{}", found.all);
        assert!(found.says("broker", false, words), "{text:?}: {}", found.all);
        for secret in ["SECRET", "U0VDUkVU"] {
            assert!(!found.all.contains(secret), "{}", found.all);
        }
    }
}
