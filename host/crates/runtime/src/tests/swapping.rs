//! Swaps while calls are at work, and templates asked for from the other side.

use crate::testing::*;
use sandpost_interfaces::bindings::{RenderError, Request};
use sandpost_interfaces::{RenderScope, Templates};
use sandpost_message::{Outcome, Verdict};
use sandpost_ports::plugins::Plugins;
use std::sync::atomic::Ordering;

/// Waits for the provider, then rejects with its version.
fn waiting(version: &str) -> Vec<u8> {
    let (body, rest) = reject(version);
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {body}"), &rest);
    handler_plugin("guest", version, &module, &format!("{MAIL}[limits]\ndeadline_ms = 60000\n"))
}

fn said(outcome: Outcome) -> String {
    match outcome {
        Outcome::Verdict(Verdict::Reject { reason }) => reason,
        other => panic!("not the plugin's own words: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_in_flight_ends_on_the_old_version_and_what_comes_starts_on_the_new() {
    let host = Setup::default().host();
    host.deploy(waiting("1.0.0")).await.unwrap();
    let old: Vec<_> = (0..4)
        .map(|_| {
            let guest = host.handler("guest");
            tokio::spawn(async move { guest.handle(attempt()).await })
        })
        .collect();
    eventually("four calls wait", || host.gate.asked.load(Ordering::SeqCst) == 4).await;
    assert_eq!(host.info("guest").live.unwrap().in_flight, 4);

    let changed = host.registry.changed();
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    host.deploy(versioned("guest", "2.0.0")).await.unwrap();
    changed.await;
    assert_eq!(said(host.call("guest").await), "2.0.0");

    host.gate.open.add_permits(4);
    for call in old {
        assert_eq!(said(call.await.unwrap()), "1.0.0");
    }
}

#[tokio::test]
async fn under_load_every_call_ends_on_one_version_or_the_other() {
    let host = Setup::default().host();
    host.deploy(versioned("guest", "1.0.0")).await.unwrap();
    let registry = host.registry.clone();
    let load = tokio::spawn(async move {
        let mut counts = std::collections::BTreeMap::new();
        loop {
            let guest = registry.handler(&"guest".parse().unwrap()).expect("never without a version");
            let version = guest.identity().version.clone();
            let answer = said(guest.handle(attempt()).await);
            assert_eq!(answer, version);
            *counts.entry(answer.clone()).or_insert(0) += 1;
            if answer == "4.0.0" {
                return counts;
            }
        }
    });
    let broken = handler_plugin("guest", "2.5.0", &handler("", ACK, "(func $start unreachable) (start $start)"), "");
    for (version, bytes) in [
        ("2.0.0", versioned("guest", "2.0.0")),
        ("2.0.0", broken),
        ("3.0.0", versioned("guest", "3.0.0")),
        ("1.0.0", versioned("guest", "1.0.0")),
        ("4.0.0", versioned("guest", "4.0.0")),
    ] {
        // The result of the broken one is the list's.
        drop(host.deploy(bytes).await);
        assert_eq!(host.version("guest").as_deref(), Some(version));
        tokio::task::yield_now().await;
    }
    let counts = load.await.unwrap();
    assert!(!counts.contains_key("2.5.0"), "{counts:?}");
}

fn request(name: &str) -> Request {
    Request { name: name.to_owned(), locale: None, data: "{}".to_owned() }
}

#[tokio::test]
async fn templates_are_found_by_name_and_default_stands_in() {
    let host = Setup::default().host();
    let scope = || RenderScope { deadline_at_ms: host.ports.clock.now_ms() + 60_000, trace: None };
    let render = async |name: &str| Templates::render(&*host.registry, request(name), scope()).await;
    assert!(matches!(render("welcome").await, Err(RenderError::UnknownTemplate(name)) if name == "welcome"));
    host.deploy(template_plugin("mails", "1.0.0", &template("welcome", "Hello", false))).await.unwrap();
    host.deploy(template_plugin("fallback", "1.0.0", &template("default", "News", false))).await.unwrap();
    assert_eq!(render("welcome").await.unwrap().subject, "Hello");
    assert_eq!(render("unheard-of").await.unwrap().subject, "News");
    host.deploy(template_plugin("mails", "1.1.0", &template("welcome", "Welcome", false))).await.unwrap();
    assert_eq!(render("welcome").await.unwrap().subject, "Welcome");
    // A new version that lacks a template gives its name free.
    host.deploy(template_plugin("mails", "2.0.0", &template("goodbye", "Bye", false))).await.unwrap();
    assert_eq!(render("welcome").await.unwrap().subject, "News");
    host.deployer.retire(&"fallback".parse().unwrap(), "test").await;
    assert!(matches!(render("welcome").await, Err(RenderError::UnknownTemplate(_))));
}

#[tokio::test]
async fn a_handler_renders_while_it_holds_the_only_instance() {
    let mut setup = Setup::default();
    setup.engine.instances_max = 1;
    setup.engine.threads = 1;
    let host = setup.host();
    host.deploy(template_plugin("mails", "1.0.0", &template("welcome", "Hello", false))).await.unwrap();
    let import = r#"(import "sandpost:plugin/templates@0.1.0" "render"
        (func $render (param i32 i32 i32 i32 i32 i32 i32 i32)))"#;
    // Acknowledges where the answer is `ok`.
    let body = format!(
        "(call $render (i32.const 2048) (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 2060) (i32.const 2) (i32.const 4096))
         (if (i32.load8_u (i32.const 4096)) (then unreachable)) {ACK}"
    );
    let rest = format!("{}{}", data(2048, "welcome"), data(2060, "{}"));
    assert_eq!(host.outcome(import, &body, &rest, "[grants]\ntemplates = true\n").await, Verdict::Ack.into());
}

#[tokio::test]
async fn a_retired_plugin_handles_nothing_more() {
    let host = Setup::default().host();
    host.deploy(versioned("guest", "1.0.0")).await.unwrap();
    let held = host.handler("guest");
    let plugin = "guest".parse().unwrap();
    assert!(host.deployer.retire(&plugin, "test").await);
    assert!(host.registry.handler(&plugin).is_none());
    assert!(host.registry.list().is_empty());
    assert_eq!(said(held.handle(attempt()).await), "1.0.0");
    assert!(!host.deployer.retire(&plugin, "test").await);
}
