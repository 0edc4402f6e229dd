//! What Prometheus reads of a host.

use sandpost_services::not_checked;
use sandpost_test_ses::Ses;
use sandpost_tests::{Host, Setup, services_program};

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

#[test]
fn the_use_of_the_mail_accounts_quota_is_in_the_metrics() {
    let Some(program) = services_program() else {
        return not_checked("quota in the metrics", "there is no host with the driver; `cargo xtask test` builds it");
    };
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let ses = io.block_on(Ses::start()).expect("SES for tests");
    ses.change(|account| (account.max_24_hour_send, account.max_send_rate) = (200.0, 14.0));
    let environment = [
        ("MAIL_TRANSPORT", "ses"),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("AWS_ENDPOINT_URL_SESV2", &ses.url()),
        ("AWS_SES_FROM_ADDRESS", "noreply@example.com"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let mut setup = Setup::shipped();
    setup.config.insert_str(0, "health_interval_ms = 200\n");
    let host = Host::start(Setup { environment, program: Some(program), ..setup });
    let until = |used: u32| {
        let labels = "{connection=\"email\",driver=\"ses\"}";
        let series = [
            format!("sandpost_email_quota_recipients{labels} 200"),
            format!("sandpost_email_quota_used_recipients{labels} {used}"),
            format!("sandpost_email_rate_recipients_per_second{labels} 14"),
        ];
        host.eventually(&format!("{used} recipients of the quota are used"), || {
            let text = host.get("/metrics").text;
            let missing = series.iter().find(|series| !text.lines().any(|line| line == *series));
            missing.map_or(Ok(()), |series| Err(format!("{series} is not in\n{text}")))
        });
    };
    until(0);
    let id =
        host.publish("notification-created", r#"{"notificationId": "n1", "userId": "user_123", "type": "welcome"}"#);
    host.until_step(&id, "acknowledged");
    until(1);
}
