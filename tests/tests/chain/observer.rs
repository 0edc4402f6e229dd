//! What is published to `notification-sent`, by a subscription of the test's own at the Pub/Sub emulator, over REST.
//!
//! It is there before the hosts are, past every proxy, and forgets nothing: two publishes of one notification are two ids here.

use super::SENT;
use base64::Engine as _;
use sandpost_services::Server;
use sandpost_tests::{Client, Host};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Pulls in a row that bring nothing, after which there is nothing.
const EMPTY_MAX: usize = 5;

/// The test's own subscription.
pub struct Observer {
    client: Client,
    subscription: String,
    /// The host's id of each message, by the notification that it is about.
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl Observer {
    /// From now on, in this project.
    pub fn start(emulator: &Server, project: &str) -> Self {
        let client = Client::new(&emulator.address().to_string());
        let topic = format!("projects/{project}/topics/{SENT}");
        let subscription = format!("projects/{project}/subscriptions/observer");
        let of = json!({ "topic": topic, "ackDeadlineSeconds": 600 });
        for (path, body) in [(&topic, json!({})), (&subscription, of)] {
            let json = [("content-type", "application/json")];
            let made = client.request("PUT", &format!("/v1/{path}"), &json, body.to_string().as_bytes());
            let made = made.expect("the emulator answers");
            assert_eq!(made.status, 200, "{path}: {made:?}");
        }
        Self { client, subscription, seen: BTreeMap::new() }
    }

    /// Everything that was published so far.
    pub fn seen(&mut self, host: &Host) -> BTreeMap<String, BTreeSet<String>> {
        let mut empty = 0;
        host.eventually("the observer has everything", || {
            empty = if self.pull() == 0 { empty + 1 } else { 0 };
            if empty >= EMPTY_MAX { Ok(()) } else { Err(format!("{} so far", self.seen.len())) }
        });
        self.seen.clone()
    }

    fn pull(&mut self) -> usize {
        let pulled = self.ask("pull", &json!({ "maxMessages": 1000, "returnImmediately": true }));
        let messages = pulled["receivedMessages"].as_array().cloned().unwrap_or_default();
        let mut receipts = Vec::new();
        for received in &messages {
            let message = &received["message"];
            let body = base64::prelude::BASE64_STANDARD.decode(message["data"].as_str().expect("a body"));
            let body: Value = serde_json::from_slice(&body.expect("base64")).expect("a body in JSON");
            let about = body["notificationId"].as_str().expect("a notification").to_owned();
            let id = message["attributes"]["sandpost-id"].as_str().expect("the host's id").to_owned();
            self.seen.entry(about).or_default().insert(id);
            receipts.push(received["ackId"].clone());
        }
        if !receipts.is_empty() {
            self.ask("acknowledge", &json!({ "ackIds": receipts }));
        }
        messages.len()
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        let answer = self.client.post(&format!("/v1/{}:{what}", self.subscription), &[], &body.to_string());
        let answer = answer.expect("the emulator answers");
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        answer.json()
    }
}
