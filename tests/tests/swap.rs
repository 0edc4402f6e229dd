//! Swapping: a plugin file is replaced while messages flow, and a version that fails any check never serves.

use sandpost_tests::{Host, Setup, guest, rebuilt, repository};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

fn manifest(version: &str) -> String {
    let text = std::fs::read_to_string(repository().join("tests/guests/scripted/plugin.toml")).expect("the manifest");
    text.replace("version = \"1.0.0\"", &format!("version = \"{version}\""))
}

fn live_version(host: &Host) -> String {
    let plugins = host.get("/v1/plugins").json();
    plugins["plugins"][0]["live"]["version"].as_str().unwrap_or("none").to_owned()
}

/// The versions that took part in a message.
fn versions(host: &Host, id: &str) -> Vec<String> {
    let steps = host.get(&format!("/v1/messages/{id}")).json()["steps"].as_array().cloned().unwrap_or_default();
    let mut seen: Vec<String> = steps.iter().filter_map(|step| step["version"].as_str().map(str::to_owned)).collect();
    seen.dedup();
    seen
}

#[test]
fn a_file_is_replaced_while_messages_flow() {
    let host = Host::start(Setup::scripted(""));
    let folder = tempfile::tempdir().expect("a folder");
    let next: Vec<_> = (2..=6)
        .map(|number| {
            let version = format!("{number}.0.0");
            let out = folder.path().join(&version);
            (rebuilt(&guest("scripted"), &manifest(&version), &out), version)
        })
        .collect();

    let stop = AtomicBool::new(false);
    let ids = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut ids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                ids.push(host.publish("work", r#"{"do":"sleep","ms":2}"#));
            }
            ids
        });
        for (file, version) in &next {
            host.deploy(file);
            host.eventually(&format!("version {version} is live"), || {
                let live = live_version(&host);
                if live == *version { Ok(()) } else { Err(live) }
            });
        }
        stop.store(true, Ordering::Relaxed);
        publisher.join().expect("the publisher ends")
    });

    let mut by_version: BTreeMap<String, usize> = BTreeMap::new();
    for id in &ids {
        host.until_step(id, "acknowledged");
        let seen = versions(&host, id);
        assert_eq!(seen.len(), 1, "message {id} was handled by {seen:?}");
        *by_version.entry(seen[0].clone()).or_default() += 1;
    }
    assert!(by_version.len() > 1, "messages flowed over at least one swap: {by_version:?}");
    assert_eq!(host.get("/v1/dead-letters").json()["dead_letters"], Value::Array(Vec::new()));
}

#[test]
fn a_broken_file_never_serves() {
    let host = Host::start(Setup::scripted(""));
    let folder = tempfile::tempdir().expect("a folder");
    let good = std::fs::read(guest("scripted")).expect("the guest");
    let failing_sample = manifest("9.0.0").replace("expect = \"ack\"", "expect = \"reject\"");
    let ungranted = manifest("9.1.0").replace("cache = [{ prefix = \"\", access = \"read-write\" }]\n", "");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not wasm", b"this is not wasm".to_vec()),
        ("cut off", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        (
            "fails its sample",
            std::fs::read(rebuilt(&guest("scripted"), &failing_sample, &folder.path().join("a"))).expect("built"),
        ),
        (
            "imports what it does not ask for",
            std::fs::read(rebuilt(&guest("scripted"), &ungranted, &folder.path().join("b"))).expect("built"),
        ),
    ];
    for (what, bytes) in cases {
        let file = folder.path().join("scripted.wasm");
        std::fs::write(&file, bytes).expect("the broken file is written");
        let before = refused_at(&host);
        host.deploy(&file);
        host.eventually(&format!("a file that is {what} is refused"), || {
            let now = refused_at(&host);
            if now.is_some() && now != before { Ok(()) } else { Err(format!("{now:?}")) }
        });
        assert_eq!(live_version(&host), "1.0.0", "{what}");
        let id = host.publish("work", r#"{"do":"ack"}"#);
        host.until_step(&id, "acknowledged");
        assert_eq!(versions(&host, &id), ["1.0.0"], "{what}");
    }
}

fn refused_at(host: &Host) -> Option<String> {
    host.get("/v1/plugins").json()["plugins"][0]["refused"]["refused_at"].as_str().map(str::to_owned)
}

#[test]
fn a_file_that_broke_while_the_host_was_down_leaves_the_last_good_version_live() {
    let mut host = Host::start(Setup::scripted(""));
    assert_eq!(live_version(&host), "1.0.0");
    host.terminate();
    std::fs::write(host.plugins().join("scripted.wasm"), b"torn").expect("the file is torn");
    host.restart();
    assert_eq!(live_version(&host), "1.0.0");
    let id = host.publish("work", r#"{"do":"ack"}"#);
    host.until_step(&id, "acknowledged");
}

#[test]
fn grants_are_the_operators_where_they_are_configured() {
    let mut setup = Setup::scripted("");
    setup.grants_configured = true;
    setup.config.push_str("[plugins.scripted.grants]\ncache = [{ prefix = \"\", access = \"read-write\" }]\n");
    let host = Host::start(setup);
    let plugins = host.get("/v1/plugins").json();
    let reason = plugins["plugins"][0]["refused"]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("publish") && reason.contains("email"), "the missing grants are named: {plugins}");
    assert_eq!(live_version(&host), "none");
}
