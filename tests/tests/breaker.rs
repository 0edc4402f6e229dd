//! The circuit breaker of a running host, where an operator sees it: `/readyz?verbose=1`, `/metrics`, the log.
//!
//! Needs a host with the drivers (`cargo xtask test` builds it) and a Redis. When it opens and closes is tested in `guard`.

use sandpost_services::{Proxy, checked, not_checked};
use sandpost_tests::{Host, Setup, services_program};
use std::collections::BTreeSet;

const SUITE: &str = "circuit breaker of a running host";

/// Of the connection `cache`, closed and open.
const CLOSED: &str = "sandpost_breaker_state{connection=\"cache\",driver=\"redis\"} 0";
const OPEN: &str = "sandpost_breaker_state{connection=\"cache\",driver=\"redis\"} 2";

#[test]
fn a_breaker_that_opens_and_closes_is_seen_in_readiness_in_metrics_and_in_the_log() {
    let Some(program) = services_program() else {
        return not_checked(SUITE, "there is no host with the driver; `cargo xtask test` builds it");
    };
    let Some(redis) = sandpost_services::redis() else { return };
    checked(SUITE, &redis);
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let entered = io.enter();
    let proxy = Proxy::before(redis.address());
    drop(entered);
    proxy.refuse();

    let mut setup = Setup::shipped();
    // It stays open until a look at the service closes it: no call goes through to see meanwhile.
    setup.config.push_str("[breaker]\nfailures = 2\nopen_ms = 600000\n");
    setup.environment = vec![("REDIS_URL".to_owned(), redis.url_at(proxy.address()))];
    let host = Host::start(Setup { program: Some(program), ..setup });
    let metric = |line: &str| {
        host.eventually(&format!("`{line}` is in the metrics"), || {
            let text = host.get("/metrics").text;
            if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
        });
    };
    metric(CLOSED);

    // Each reads the cache, and does without it while it is away.
    let notify = |number: u32| {
        let body = format!("{{\"notificationId\":\"n{number}\",\"userId\":\"user_123\",\"type\":\"welcome\"}}");
        let id = host.publish("notification-created", &body);
        host.until_step(&id, "acknowledged");
    };
    notify(0);
    notify(1);
    metric(OPEN);
    metric("sandpost_breaker_opened_total{connection=\"cache\",driver=\"redis\"} 1");
    host.eventually("readiness says that the breaker is open", || {
        let reply = host.get("/readyz?verbose=1");
        let finding = reply.json()["checks"]["redis"].clone();
        let message = finding["message"].as_str().unwrap_or_default().to_owned();
        let is_open = reply.status == 503 && finding["status"] == "error" && message.contains("breaker is open");
        if is_open { Ok(()) } else { Err(reply.text) }
    });

    proxy.pass();
    host.eventually("the host is ready", || {
        let reply = host.get("/readyz?verbose=1");
        let is_ready = reply.status == 200 && reply.json()["checks"]["redis"]["status"] == "ok";
        if is_ready { Ok(()) } else { Err(reply.text) }
    });
    // It is half-open until a call has gone through.
    notify(2);
    metric(CLOSED);
    let said: BTreeSet<(String, String)> = host
        .log()
        .into_iter()
        .filter(|line| line["metadata"]["connection"] == "cache" && line["metadata"]["driver"] == "redis")
        .filter_map(|line| Some((line["level"].as_str()?.to_owned(), line["message"].as_str()?.to_owned())))
        .filter(|(_, message)| message.contains("circuit breaker"))
        .collect();
    let expected = [
        ("info", "The circuit breaker is closed: calls go through."),
        ("warn", "Calls in a row failed: the circuit breaker is open, and further calls are refused at once."),
    ];
    assert_eq!(
        said,
        expected.map(|(level, message)| (level.to_owned(), message.to_owned())).into(),
        "{:#?}",
        host.log()
    );
}
