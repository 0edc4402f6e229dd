//! The whole notification chain with the plugins that ship, unchanged, on real services: Redis as the cache, Pub/Sub as the
//! broker, the users in MySQL or MariaDB, the documents in MongoDB or what stands in for it, SES; each goes away in the middle of
//! work and comes back.
//!
//! Needs a host with the drivers (`cargo xtask test` builds it) and the servers; what is missing is named in the summary.
//! The host's own state is embedded here.
//!
//! A server in memory alone (the Pub/Sub emulator, this repository's SES) cannot be restarted without forgetting what it
//! took: a proxy takes those away, with every connection that is open.

use sandpost_services::{Proxy, Server, checked, not_checked};
use sandpost_test_ses::Ses;
use sandpost_tests::{Host, Setup, services_program};
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

const SUITE: &str = "notification chain on real services";

/// The emulator goes on delivering to streams that were cut, and misses each of those deliveries only when its ack deadline
/// is over, several times in a row where it is unlucky.
const EMULATOR_PATIENCE: Duration = Duration::from_secs(200);

/// Published while a service is away, and again once it is back.
const EACH: usize = 6;

/// Everything that the host speaks to, up.
struct Services {
    redis: Server,
    mysql: Server,
    mongo: Server,
    _pubsub: Server,
    pubsub_proxy: Proxy,
    ses: Ses,
    ses_proxy: Proxy,
    program: PathBuf,
    // Last: proxies and SES live on it.
    io: Runtime,
}

impl Services {
    fn start() -> Option<Self> {
        let Some(program) = services_program() else {
            not_checked(SUITE, "there is no host with the drivers for real services; `cargo xtask test` builds it");
            return None;
        };
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (redis, mysql) = (sandpost_services::redis()?, sandpost_services::mariadb()?);
        let (mongo, pubsub) = (sandpost_services::mongo()?, sandpost_services::pubsub()?);
        for server in [&redis, &mysql, &mongo, &pubsub] {
            checked(SUITE, server);
        }
        let ses = io.block_on(Ses::start()).expect("SES for tests");
        let entered = io.enter();
        let (pubsub_proxy, ses_proxy) = (Proxy::before(pubsub.address()), Proxy::before(ses.address()));
        drop(entered);
        Some(Self { redis, mysql, mongo, _pubsub: pubsub, pubsub_proxy, ses, ses_proxy, program, io })
    }

    fn variables(&self) -> Vec<(String, String)> {
        let proxied = |address: SocketAddr| format!("http://{address}");
        let mongo = self.mongo.url();
        let account = Account::of(&self.mysql);
        [
            ("REDIS_URL", self.redis.url()),
            ("MYSQL_HOST", self.mysql.address().ip().to_string()),
            ("MYSQL_PORT", self.mysql.address().port().to_string()),
            ("MYSQL_USER", account.user),
            ("MYSQL_PASSWORD", account.password),
            ("MYSQL_DATABASE", account.database),
            ("PUBSUB_EMULATOR_HOST", self.pubsub_proxy.address().to_string()),
            ("PUBSUB_PROJECT_ID", "sandpost-chain".to_owned()),
            ("MONGODB_URI", mongo),
            ("MAIL_TRANSPORT", "ses".to_owned()),
            ("AWS_REGION", "eu-west-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "example".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_ENDPOINT_URL_SESV2", proxied(self.ses_proxy.address())),
            ("AWS_SES_FROM_ADDRESS", "noreply@example.com".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// How many mails each address got.
    fn mails(&self) -> BTreeMap<String, usize> {
        let mut mails = BTreeMap::new();
        for sent in self.ses.sent() {
            for to in sent.to {
                *mails.entry(to).or_default() += 1;
            }
        }
        mails
    }
}

/// What the variables have in parts, out of `mysql://user:password@host:port/database`.
struct Account {
    user: String,
    password: String,
    database: String,
}

impl Account {
    fn of(server: &Server) -> Self {
        let url = server.url();
        let (_, rest) = url.split_once("://").expect("a scheme");
        let (account, rest) = rest.rsplit_once('@').expect("an account");
        let (user, password) = account.split_once(':').expect("a password");
        let (_, database) = rest.split_once('/').expect("a database");
        let database = database.split('?').next().unwrap_or_default();
        Self { user: user.to_owned(), password: password.to_owned(), database: database.to_owned() }
    }
}

/// As many users as messages: a mail's recipient says which message it is of.
fn setup(services: &Services, users: usize) -> Setup {
    let mut sql = "DROP TABLE IF EXISTS users; \
                   CREATE TABLE users (id VARCHAR(64) PRIMARY KEY, email TEXT, name TEXT, locale TEXT);\n"
        .to_owned();
    for user in 0..users {
        writeln!(sql, "INSERT INTO users VALUES ('user_{user}', 'user{user}@example.com', 'Ada', 'en');")
            .expect("text");
    }
    services.io.block_on(async {
        let mut connection = sqlx::MySqlConnection::connect(&services.mysql.url()).await.expect("MariaDB answers");
        connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.expect("the users are there");
    });
    let config = r#"
        data_dir = "data"
        health_interval_ms = 500
        [deployment]
        directory = "plugins"
        grants = "requested"
        [breaker]
        open_ms = 500
        [sql.main.mysql]
        connect_timeout_ms = 2000
        [documents.main.mongo]
        database = "chain"
        server_selection_timeout_ms = 2000
        # What the emulator gives to a stream that was cut comes again after this long.
        [broker.pubsub]
        ack_deadline_s = 10
        probe_interval_ms = 500
        [subscriptions.notification-email]
        topic = "notification-created"
        plugin = "notification-email"
        [subscriptions.notification-email.retry]
        attempts_max = 50
        backoff_min_ms = 200
        backoff_max_ms = 1000
        [subscriptions.delivery-log]
        topic = "notification-sent"
        plugin = "delivery-log"
        [subscriptions.delivery-log.retry]
        attempts_max = 50
        backoff_min_ms = 200
        backoff_max_ms = 1000
    "#;
    Setup {
        config: config.to_owned(),
        whole: true,
        environment: services.variables(),
        program: Some(services.program.clone()),
        plugins: ["notification-email", "delivery-log", "transactional-templates"].map(sandpost_tests::plugin).to_vec(),
        ..Setup::default()
    }
}

/// Publishes for the next users; waits where the broker is away, as a publisher does, under a key that makes it safe.
fn notify(host: &Host, next: &mut usize, ids: &mut Vec<(String, String)>) {
    notify_with(host, next, ids, true);
}

/// The same, and without a key where nobody could say whether it was used.
fn notify_with(host: &Host, next: &mut usize, ids: &mut Vec<(String, String)>, is_keyed: bool) {
    for _ in 0..EACH {
        let user = *next;
        *next += 1;
        let body = json!({ "notificationId": format!("n{user}"), "userId": format!("user_{user}"), "type": "welcome" });
        let key = format!("\"publish-{user}\"");
        let id = host.eventually("a message is accepted", || {
            let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
            let headers = if is_keyed { &headers[..] } else { &headers[..1] };
            let reply = host.send("POST", "/v1/topics/notification-created/messages", headers, body.to_string());
            if reply.status == 202 {
                Ok(reply.json()["id"].as_str().expect("an id").to_owned())
            } else {
                Err(reply.text)
            }
        });
        ids.push((id, format!("user{user}@example.com")));
    }
}

/// As [`notify`], just before a service is cut off, so that this comes in the middle of work. `in_work` gets what may be
/// handed over then: whatever was published and has not ended.
fn notify_before_cut(host: &Host, next: &mut usize, ids: &mut Vec<(String, String)>, in_work: &mut BTreeSet<String>) {
    // These looks take time, so they come before what shall still be in work.
    in_work.extend(ids.iter().map(|(id, _)| id.clone()).filter(|id| !has_ended(&host.steps(id))));
    let before = ids.len();
    notify(host, next, ids);
    in_work.extend(ids[before..].iter().map(|(id, _)| id.clone()));
}

fn has_ended(steps: &[String]) -> bool {
    steps.iter().any(|step| step == "acknowledged" || step == "dead-lettered")
}

fn until_ready(host: &Host) {
    host.eventually("the host is ready", || {
        let reply = host.get("/readyz?verbose=1");
        if reply.status == 200 { Ok(()) } else { Err(reply.text) }
    });
}

fn until_not_ready(host: &Host, kind: &str) {
    host.eventually(&format!("the host says that `{kind}` is away"), || {
        let reply = host.get("/readyz?verbose=1");
        let status = reply.json()["checks"][kind]["status"].clone();
        if status == "error" { Ok(()) } else { Err(reply.text) }
    });
}

#[test]
fn each_service_goes_and_comes_and_nothing_is_lost_and_nothing_sent_twice() {
    let Some(services) = Services::start() else { return };
    let host = Host::start(setup(&services, 200));
    until_ready(&host);
    let (mut next, mut ids) = (0, Vec::new());
    notify(&host, &mut next, &mut ids);
    for (id, _) in &ids {
        host.until_step(id, "acknowledged");
    }
    // Mails take their turns out of the bucket in Redis.
    let metrics = host.get("/metrics").text;
    assert!(metrics.contains("sandpost_email_turns_total{bucket=\"shared\"}"), "{metrics}");

    if services.redis.can_restart() {
        services.redis.kill();
        until_not_ready(&host, "redis");
        // Keys are in Redis: a publish with one is refused rather than doubled.
        let headers = [("content-type", "application/json"), ("idempotency-key", "\"asked-for\"")];
        let refused = host.send("POST", "/v1/topics/notification-created/messages", &headers, "{}");
        assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("idempotency-unavailable")));
        notify_with(&host, &mut next, &mut ids, false);
        services.redis.start();
        until_ready(&host);
        notify(&host, &mut next, &mut ids);
    }
    if services.mysql.can_restart() {
        services.mysql.kill();
        until_not_ready(&host, "mysql");
        notify(&host, &mut next, &mut ids);
        services.mysql.start();
        until_ready(&host);
        notify(&host, &mut next, &mut ids);
    }
    if services.mongo.can_restart() {
        services.mongo.stop();
        until_not_ready(&host, "mongodb");
        notify(&host, &mut next, &mut ids);
        services.mongo.start();
        until_ready(&host);
        notify(&host, &mut next, &mut ids);
    }
    let mut in_work = BTreeSet::new();
    notify_before_cut(&host, &mut next, &mut ids, &mut in_work);
    services.ses_proxy.refuse();
    services.ses_proxy.cut();
    until_not_ready(&host, "ses");
    notify(&host, &mut next, &mut ids);
    services.ses_proxy.pass();
    until_ready(&host);
    notify_before_cut(&host, &mut next, &mut ids, &mut in_work);

    services.pubsub_proxy.refuse();
    services.pubsub_proxy.cut();
    until_not_ready(&host, "pubsub");
    services.pubsub_proxy.pass();
    until_ready(&host);
    notify(&host, &mut next, &mut ids);

    // What was being handed over when SES or Pub/Sub went away may have been sent: then the message is held, never sent
    // again.
    for (id, address) in &ids {
        let steps = host.eventually_within(EMULATOR_PATIENCE, &format!("message {id} ends"), || {
            let steps = host.steps(id);
            if has_ended(&steps) { Ok(steps) } else { Err(format!("{steps:?}")) }
        });
        let mails = services.mails().get(address).copied().unwrap_or_default();
        if steps.iter().any(|step| step == "dead-lettered") {
            assert!(steps.iter().any(|step| step == "effect-unknown"), "{id}: {steps:?}");
            assert!(mails <= 1, "{id}: {mails} mails");
            assert!(in_work.contains(id), "{id} is held, and was not in work when a service went away: {steps:?}");
        } else {
            assert_eq!(mails, 1, "{id}: {steps:?}");
        }
    }
}

#[test]
fn the_host_starts_with_every_service_down_and_is_ready_when_they_come() {
    let Some(services) = Services::start() else { return };
    if [&services.redis, &services.mysql, &services.mongo].iter().any(|server| !server.can_restart()) {
        return not_checked("start with every service down", "the servers are not this test's own");
    }
    let setup = setup(&services, 20);
    services.redis.stop();
    services.mysql.stop();
    services.mongo.stop();
    services.ses_proxy.refuse();
    services.pubsub_proxy.refuse();
    let host = Host::start(setup);
    assert_eq!(host.get("/healthz").status, 200);
    let unready = host.get("/readyz?verbose=1");
    assert_eq!(unready.status, 503, "{}", unready.text);
    for kind in ["redis", "mysql", "mongodb", "pubsub", "ses"] {
        assert_eq!(unready.json()["checks"][kind]["status"], "error", "{kind}: {}", unready.text);
    }
    services.redis.start();
    services.mysql.start();
    services.mongo.start();
    services.ses_proxy.pass();
    services.pubsub_proxy.pass();
    until_ready(&host);
    let (mut next, mut ids) = (0, Vec::new());
    notify(&host, &mut next, &mut ids);
    for (id, address) in &ids {
        host.until_step(id, "acknowledged");
        assert_eq!(services.mails().get(address), Some(&1));
    }
}
