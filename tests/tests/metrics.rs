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
