//! What Prometheus reads of a host on embedded defaults.

use sandpost_tests::{Host, Setup};

#[test]
fn the_use_of_a_databases_pool_is_in_the_metrics() {
    let host = Host::start(Setup::shipped());
    host.eventually("the pool of `sql.main` is in the metrics", || {
        let text = host.get("/metrics").text;
        for series in [
            "sandpost_pool_connections{connection=\"sql.main\",driver=\"embedded\",state=\"in-use\"} ",
            "sandpost_pool_connections{connection=\"sql.main\",driver=\"embedded\",state=\"idle\"} ",
            "sandpost_pool_connections_max{connection=\"sql.main\",driver=\"embedded\"} 5",
        ] {
            if !text.lines().any(|line| line.starts_with(series)) {
                return Err(format!("{series} is not in\n{text}"));
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_trial_sends_publishes_and_reads_does_not_count() {
    let host = Host::start(Setup::shipped());
    let id =
        host.publish("notification-created", r#"{"notificationId": "n1", "userId": "user_123", "type": "welcome"}"#);
    host.until_step(&id, "acknowledged");
    let text = host.get("/metrics").text;
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let mails = host.get("/v1/mailbox").json()["mails"].as_array().expect("a list of mails").len();
    assert_eq!((mails, sum("sandpost_emails_total")), (1, 1.0), "{text}");
    // What was sent is told to others; a notification reads the cache once, and its user was not there.
    assert_eq!(sum("sandpost_plugin_publishes_total"), 1.0, "{text}");
    assert_eq!((sum("sandpost_cache_hits_total"), sum("sandpost_cache_misses_total")), (0.0, 1.0), "{text}");
}
