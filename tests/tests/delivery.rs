//! Delivery as configured: verdicts, retries, back-off, dead letters and what an operator does with them.

use sandpost_tests::{Host, Setup, scripted_within};
use serde_json::{Value, json};

fn steps_with_detail(host: &Host, id: &str) -> Vec<Value> {
    host.get(&format!("/v1/messages/{id}")).json()["steps"].as_array().cloned().unwrap_or_default()
}

fn only_dead_letter(host: &Host) -> Value {
    host.eventually("there is a dead letter", || {
        let body = host.get("/v1/dead-letters").json();
        match body["dead_letters"].as_array().map(Vec::as_slice) {
            Some([letter]) => Ok(letter.clone()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Milliseconds of the day of an RFC 3339 time; a test does not run over midnight for long.
fn milliseconds(time: &str) -> u64 {
    let of_day = &time["2026-01-01T".len()..];
    let number = |from: usize, length: usize| of_day[from..from + length].parse::<u64>().expect("a number");
    ((number(0, 2) * 60 + number(3, 2)) * 60 + number(6, 2)) * 1000 + number(9, 3)
}

#[test]
fn a_retry_is_tried_again_until_the_budget_ends() {
    let host = Host::start(Setup::scripted(""));
    let id = host.publish("work", r#"{"do":"retry","reason":"not yet"}"#);
    let steps = host.until_step(&id, "dead-lettered");
    let started = steps.iter().filter(|step| *step == "started").count();
    assert_eq!(started, 3, "{steps:?}");
    let letter = only_dead_letter(&host);
    assert_eq!(letter["cause"], "attempts-exhausted");
    assert_eq!(letter["attempts"], 3);
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("not yet")), "{letter}");
    assert_eq!(letter["digest"].as_str().map(str::len), Some(64));
    assert_eq!(letter["trace_id"].as_str().map(str::len), Some(32));
}

#[test]
fn a_back_off_grows_and_is_kept() {
    let host = Host::start(Setup::scripted(""));
    let id = host.publish("work", r#"{"do":"retry","reason":"later"}"#);
    host.until_step(&id, "dead-lettered");
    let starts: Vec<u64> = steps_with_detail(&host, &id)
        .iter()
        .filter(|step| step["step"] == "started")
        .map(|step| milliseconds(step["at"].as_str().expect("a time")))
        .collect();
    let waits: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 50 ms and 100 ms less a fifth of jitter at the most; the machine may make them longer.
    assert!(waits[0] >= 40 && waits[1] >= 80, "{waits:?}");
}

#[test]
fn a_reject_is_a_dead_letter_at_once() {
    let host = Host::start(Setup::scripted(""));
    let id = host.publish("work", r#"{"do":"reject","reason":"no such order"}"#);
    let steps = host.until_step(&id, "dead-lettered");
    assert_eq!(steps.iter().filter(|step| *step == "started").count(), 1);
    assert_eq!(only_dead_letter(&host)["reason"], "no such order");
}

#[test]
fn a_fault_counts_as_a_retry_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let hasty = Setup { plugins: vec![scripted_within(500, folder.path())], ..Setup::scripted("") };
    let (host, hasty) = (Host::start(Setup::scripted("")), Host::start(hasty));
    for (host, what, named) in [
        (&host, "trap", "trap"),
        (&host, "spin", "cpu"),
        (&host, "exit", "exit"),
        (&hasty, "sleep-for-ever", "deadline"),
    ] {
        let id = host.publish("work", &json!({ "do": what }).to_string());
        host.eventually(&format!("{what} is a fault named {named}"), || {
            let steps = steps_with_detail(host, &id);
            let found = steps.iter().any(|step| {
                step["step"] == "retry-planned" && step["detail"].as_str().is_some_and(|detail| detail.contains(named))
            });
            if found { Ok(()) } else { Err(format!("{steps:?}")) }
        });
    }
}

#[test]
fn a_dead_letter_can_be_replayed_and_discarded() {
    let host = Host::start(Setup::scripted(""));
    // Rejected while the cache has no such key; acknowledged once it has.
    let id = host.publish("work", r#"{"do":"reject-unless-key","key":"gate"}"#);
    host.until_step(&id, "dead-lettered");
    let letter = only_dead_letter(&host);
    let letter_id = letter["id"].as_str().expect("an id").to_owned();

    let open = host.publish("work", r#"{"do":"set-key","key":"gate"}"#);
    host.until_step(&open, "acknowledged");
    let replay = host.post(&format!("/v1/dead-letters/{letter_id}/replay"), "");
    assert_eq!(replay.status, 202, "{replay:?}");
    let steps = host.until_step(&id, "acknowledged");
    assert!(steps.iter().any(|step| step == "replayed"), "{steps:?}");
    assert_eq!(host.get(&format!("/v1/dead-letters/{letter_id}")).problem(), (404, "unknown-dead-letter".to_owned()));

    let other = host.publish("work", r#"{"do":"reject","reason":"never"}"#);
    host.until_step(&other, "dead-lettered");
    let letter_id = only_dead_letter(&host)["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.send("DELETE", &format!("/v1/dead-letters/{letter_id}"), &[], "").status, 204);
    assert!(host.steps(&other).iter().any(|step| step == "discarded"));
    assert_eq!(host.get("/v1/dead-letters").json()["dead_letters"], json!([]));
}

#[test]
fn messages_of_one_ordering_key_go_one_at_a_time_in_order() {
    let host = Host::start(Setup::scripted("concurrency = 8"));
    let messages: Vec<Value> = (0..20)
        .map(|number| {
            json!({ "body": { "do": "append", "key": "order", "value": format!("{number},") }, "ordering_key": "one" })
        })
        .collect();
    let reply = host.post("/v1/topics/work/messages:batch", &json!({ "messages": messages }).to_string());
    assert_eq!(reply.status, 202, "{reply:?}");
    let results = reply.json()["results"].as_array().cloned().expect("results");
    for result in &results {
        host.until_step(result["id"].as_str().expect("an id"), "acknowledged");
    }
    // The handler reads, waits and writes: two at once would lose a value.
    let check = host.publish("work", r#"{"do":"reject-with-key","key":"order"}"#);
    host.until_step(&check, "dead-lettered");
    let expected: String = (0..20).map(|number| format!("{number},")).collect();
    assert_eq!(only_dead_letter(&host)["reason"], expected.as_str());
}

#[test]
fn a_message_without_a_live_handler_waits_for_it() {
    let mut setup = Setup::scripted("");
    setup.plugins.clear();
    let host = Host::start(setup);
    let id = host.publish("work", r#"{"do":"ack"}"#);
    host.deploy(&sandpost_tests::guest("scripted"));
    host.until_step(&id, "acknowledged");
}
