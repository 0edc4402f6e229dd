//! Stopping and starting again: gracefully, at once, and by SIGKILL. Nothing accepted is lost.

use sandpost_tests::{Host, Setup};

#[test]
fn sigterm_lets_what_is_at_work_end() {
    let mut host = Host::start(Setup::scripted(""));
    let id = host.publish("work", r#"{"do":"sleep","ms":700}"#);
    host.until_step(&id, "started");
    assert!(host.terminate().success());
    host.restart();
    let steps = host.steps(&id);
    assert_eq!(steps.iter().filter(|step| *step == "started").count(), 1, "{steps:?}");
    assert_eq!(steps.last().map(String::as_str), Some("acknowledged"), "{steps:?}");
}

#[test]
fn what_does_not_end_within_the_grace_is_handed_back_and_not_counted() {
    let mut setup = Setup::scripted("");
    setup.environment.push(("SHUTDOWN_GRACE_MS".into(), "100".into()));
    let mut host = Host::start(setup);
    let id = host.publish("work", r#"{"do":"sleep","ms":5000}"#);
    host.until_step(&id, "started");
    assert!(host.terminate().success());
    host.restart();
    let steps = host.until_step(&id, "acknowledged");
    assert!(steps.iter().any(|step| step == "handed-back"), "{steps:?}");
    let message = host.get(&format!("/v1/messages/{id}")).json();
    let last = message["steps"].as_array().and_then(|steps| steps.last()).cloned().expect("a last step");
    assert_eq!(last["attempt"], 1, "the attempt that was cut off does not count: {message}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut host = Host::start(Setup::scripted(""));
    let id = host.publish("work", r#"{"do":"sleep-for-ever"}"#);
    host.until_step(&id, "started");
    host.signal("TERM");
    host.eventually("the stop has begun", || {
        let begun = host.log().iter().any(|line| line["metadata"]["signal"] == "SIGTERM");
        begun.then_some(()).ok_or_else(|| "no such line".to_owned())
    });
    host.signal("INT");
    assert!(!host.wait().success());
}

#[test]
fn a_backlog_outlives_sigkill() {
    let mut setup = Setup::scripted("concurrency = 1");
    setup.plugins.clear();
    let mut host = Host::start(setup);
    // Nobody handles yet: all of it waits on disk.
    let ids: Vec<String> = (0..50).map(|_| host.publish("work", r#"{"do":"ack"}"#)).collect();
    host.kill();
    host.deploy(&sandpost_tests::guest("scripted"));
    host.restart();
    for id in &ids {
        let steps = host.until_step(id, "acknowledged");
        assert_eq!(steps.iter().filter(|step| *step == "accepted").count(), 1, "{steps:?}");
    }
}

#[test]
fn an_effect_before_sigkill_is_not_done_again() {
    let mut setup = Setup::scripted("");
    setup.config.push_str("[email]\nfrom = \"a@sandpost.example\"\n");
    let mut host = Host::start(setup);
    let id = host.publish("work", r#"{"do":"mail","to":"ada@example.com","then":"retry"}"#);
    host.until_step(&id, "retry-planned");
    host.kill();
    host.restart();
    let steps = host.until_step(&id, "acknowledged");
    assert_eq!(steps.iter().filter(|step| *step == "effect-sent").count(), 1, "{steps:?}");
    assert!(steps.iter().any(|step| step == "effect-repeated"), "{steps:?}");
    assert_eq!(host.get("/v1/mailbox").json()["mails"].as_array().map(Vec::len), Some(1));
}
