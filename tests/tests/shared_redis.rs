//! Hosts that share a Redis and nothing else: publishers' keys, and what an operator is shown of it. And a plugin's keys, as others
//! find them there.
//!
//! Needs a host with the drivers (`cargo xtask test` builds it) and a Redis. Mail that they pace together is in `services`.

use sandpost_services::{Proxy, Server, checked, not_checked};
use sandpost_tests::{Host, Reply, Setup, services_program};
use serde_json::Value;
use std::path::PathBuf;

const SUITE: &str = "hosts that share a Redis";

const ADMIN: (&str, &str) = ("authorization", "Bearer secret-of-the-admin");
const VIEWER: (&str, &str) = ("authorization", "Bearer secret-of-the-viewer");

fn setup(redis: &str, program: PathBuf, more: &str) -> Setup {
    // No plugin: what is accepted waits for its handler.
    let config = format!(
        "[cache]\nkey_prefix = \"vibe:\"\n{more}\n\
         [cache.redis]\nconnect_timeout_ms = 5000\nresponse_timeout_ms = 5000\n\
         [breaker]\nopen_ms = 200\n\
         [http.tokens.admin]\nrole = \"admin\"\ntoken_from_env = \"ADMIN_TOKEN\"\n\
         [http.tokens.viewer]\nrole = \"viewer\"\ntoken_from_env = \"VIEWER_TOKEN\"\n\
         [subscriptions.handler]\ntopic = \"work\"\nplugin = \"handler\"\n"
    );
    let environment =
        [("REDIS_URL", redis), ("ADMIN_TOKEN", "secret-of-the-admin"), ("VIEWER_TOKEN", "secret-of-the-viewer")];
    Setup {
        config,
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        program: Some(program),
        ..Setup::default()
    }
}

fn start() -> Option<(Server, PathBuf)> {
    let Some(program) = services_program() else {
        not_checked(SUITE, "there is no host with the drivers for real services; `cargo xtask test` builds it");
        return None;
    };
    Some((sandpost_services::redis()?, program))
}

fn publish(host: &Host, key: Option<&str>, body: &str) -> Reply {
    let mut headers = vec![("content-type", "application/json"), ADMIN];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    host.send("POST", "/v1/topics/work/messages", &headers, body)
}

fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.json()["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_key_that_one_host_took_is_known_to_the_other() {
    let Some((redis, program)) = start() else { return };
    let proxy = Proxy::before(redis.address());
    let near = Host::start(setup(&redis.url_at(proxy.address()), program.clone(), ""));
    let other = Host::start(setup(&redis.url(), program.clone(), ""));
    let first = publish(&near, Some("k-1"), "{\"n\":1}");
    let again = publish(&other, Some("k-1"), "{\"n\":1}");
    assert_eq!((id(&first), again.header("idempotency-replayed")), (id(&again), Some("true")));
    assert_eq!(publish(&other, Some("k-1"), "{\"n\":2}").problem(), (422, "idempotency-mismatch".to_owned()));

    // Away: a key cannot be asked for, and is refused rather than doubled. Without one nothing was promised.
    proxy.refuse();
    proxy.cut();
    for key in ["k-1", "k-2"] {
        let refused = publish(&near, Some(key), "{\"n\":1}");
        assert_eq!(refused.problem(), (503, "idempotency-unavailable".to_owned()));
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    id(&publish(&near, None, "{}"));
    proxy.pass();
    let back = near.eventually("the key is known again", || {
        let reply = publish(&near, Some("k-1"), "{\"n\":1}");
        if reply.status == 202 { Ok(reply) } else { Err(reply.text) }
    });
    assert_eq!((id(&back), back.header("idempotency-replayed")), (id(&first), Some("true")));
    // What was refused was not begun.
    assert_eq!(publish(&other, Some("k-2"), "{\"n\":2}").header("idempotency-replayed"), None);

    // A host that dies leaves its keys to the others, and takes them up again.
    let (mut near, last) = (near, publish(&other, Some("k-3"), "{}"));
    near.kill();
    near.restart();
    assert_eq!(id(&publish(&near, Some("k-3"), "{}")), id(&last));

    // An operator who wants them in the host's own state has them there.
    let apart = Host::start(setup(&redis.url(), program, "idempotency = false"));
    assert_ne!(id(&publish(&apart, Some("k-3"), "{}")), id(&last));
    checked(SUITE, &redis);
}

#[test]
fn an_admin_sees_what_redis_counts() {
    let Some((redis, program)) = start() else { return };
    let host = Host::start(setup(&redis.url(), program, ""));
    let stats = |who| host.send("GET", "/api/admin/redis/stats", &[who], "");
    let shown = stats(ADMIN);
    assert_eq!(shown.status, 200, "{shown:?}");
    let shown = shown.json();
    let sections: Vec<&String> = shown.as_object().expect("an object").keys().collect();
    assert_eq!(sections, ["stats", "memory", "clients"]);
    for (section, field) in [("stats", "keyspace_hits"), ("memory", "used_memory"), ("clients", "connected_clients")] {
        let value = shown[section][field].as_str().unwrap_or_else(|| panic!("{section}.{field}: {shown}"));
        assert!(value.parse::<u64>().is_ok(), "{section}.{field} is {value}");
    }
    assert!(shown["stats"].as_object().expect("a map").values().all(Value::is_string));
    assert_eq!(stats(VIEWER).problem(), (403, "forbidden".to_owned()));
    if redis.can_restart() {
        redis.stop();
        let away = stats(ADMIN);
        assert_eq!(away.problem(), (503, "unavailable".to_owned()));
        assert!(!away.text.contains("127.0.0.1"), "{}", away.text);
        redis.start();
        host.eventually("the figures are there again", || match stats(ADMIN) {
            Reply { status: 200, .. } => Ok(()),
            reply => Err(reply.text),
        });
    }
    checked(SUITE, &redis);
}

/// By the origin documents' variables, and no scope: the names that other programs have for the same entries.
#[test]
fn a_plugins_keys_are_named_and_end_as_the_variables_say() {
    let Some((redis, program)) = start() else { return };
    let mut setup = Setup { program: Some(program), ..Setup::scripted("") };
    setup.config.push_str("[plugins.scripted]\ncache_scope = \"\"\n");
    let url = redis.url();
    let variables = [("REDIS_URL", &*url), ("REDIS_KEY_PREFIX", "zyva:"), ("REDIS_TTL_SECONDS", "120")];
    setup.environment.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let host = Host::start(setup);
    let mut connection = redis::Client::open(url).expect("an address").get_connection().expect("Redis answers");
    let key = "zyva:cache:user:42";
    redis::cmd("DEL").arg(key).exec(&mut connection).expect("Redis answers");
    let message = host.publish("work", r#"{"do":"set-key","key":"cache:user:42"}"#);
    host.until_step(&message, "acknowledged");
    let value: Option<String> = redis::cmd("GET").arg(key).query(&mut connection).expect("Redis answers");
    assert_eq!(value.as_deref(), Some("\"set\""));
    let left_ms: i64 = redis::cmd("PTTL").arg(key).query(&mut connection).expect("Redis answers");
    assert!((1..=120_000).contains(&left_ms), "{left_ms} ms");
    checked("a plugin's keys by the variables", &redis);
}
