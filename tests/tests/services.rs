//! The whole notification chain with the plugins that ship, unchanged, on real services: Redis as the cache, Pub/Sub as the
//! broker, the users in MySQL or MariaDB, the documents in MongoDB or what stands in for it, SES; each goes away in the middle of
//! work and comes back, while publishing goes on.
//!
//! Needs a host with the drivers (`cargo xtask test` builds it) and the servers; what is missing is named in the summary.
//! The host's own state is embedded here; Postgres, SMTP and a state that hosts share are in `shared_state`.
//!
//! A server in memory alone (the Pub/Sub emulator, this repository's SES) cannot be restarted without forgetting what it
//! took: a proxy takes those away, with every connection that is open. The others are killed.

mod chain;

use chain::{Doubts, Load, Observer, Records};
use sandpost_services::{Proxy, Server, checked, not_checked};
use sandpost_test_ses::Ses;
use sandpost_tests::{Host, Setup, services_program};
use sqlx::{Connection as _, Executor as _};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Runtime;

const SUITE: &str = "notification chain on real services";

/// Everything that the host speaks to, up.
struct Services {
    /// A Pub/Sub project and a document database that nobody else has.
    name: String,
    redis: Server,
    mysql: Server,
    mongo: Server,
    pubsub: Server,
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
        let (mongo, pubsub) = (sandpost_services::mongo()?, sandpost_services::pubsub_emulator(SUITE)?);
        for server in [&redis, &mysql, &mongo, &pubsub] {
            checked(SUITE, server);
        }
        let ses = io.block_on(Ses::start()).expect("SES for tests");
        let entered = io.enter();
        let (pubsub_proxy, ses_proxy) = (Proxy::before(pubsub.address()), Proxy::before(ses.address()));
        drop(entered);
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("chain-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        Some(Self { name, redis, mysql, mongo, pubsub, pubsub_proxy, ses, ses_proxy, program, io })
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
            ("PUBSUB_PROJECT_ID", self.name.clone()),
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

fn setup(services: &Services) -> Setup {
    services.io.block_on(async {
        let mut connection = sqlx::MySqlConnection::connect(&services.mysql.url()).await.expect("MariaDB answers");
        let users = sqlx::AssertSqlSafe(chain::users());
        connection.execute(sqlx::raw_sql(users)).await.expect("the users are there");
    });
    let config = r#"
        data_dir = "data"
        health_interval_ms = 500
        [http]
        request_timeout_ms = 10000
        # A key whose answer was lost with a service is asked for again after this long.
        idempotency_stale_ms = 15000
        [deployment]
        directory = "plugins"
        grants = "requested"
        [breaker]
        open_ms = 500
        [sql.main.mysql]
        connect_timeout_ms = 2000
        [documents.main.mongo]
        database = "NAME"
        server_selection_timeout_ms = 2000
        # What the emulator gives to a stream that was cut comes again after this long.
        [broker.pubsub]
        ack_deadline_s = 10
        probe_interval_ms = 500
    "#;
    Setup {
        config: format!("{}{}", config.replace("NAME", &services.name), chain::SUBSCRIPTIONS),
        whole: true,
        environment: services.variables(),
        program: Some(services.program.clone()),
        plugins: ["notification-email", "delivery-log", "transactional-templates"].map(sandpost_tests::plugin).to_vec(),
        ..Setup::default()
    }
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

/// Whether it can be taken away; where not, that is said.
fn can_restart(server: &Server, what: &str) -> bool {
    if !server.can_restart() {
        not_checked(&format!("{SUITE}: {what} goes and comes"), "the server belongs to somebody else");
    }
    server.can_restart()
}

#[test]
fn each_service_goes_and_comes_and_nothing_is_lost_and_nothing_sent_twice() {
    let Some(services) = Services::start() else { return };
    let mut observer = Observer::start(&services.pubsub, &services.name);
    let host = Host::start(setup(&services));
    until_ready(&host);
    let (load, mut doubts) = (Load::default(), Doubts::default());
    let to = [host.address()];
    load.during(&to, || load.until(&host, "acknowledged"));
    // Mails take their turns out of the bucket in Redis.
    let metrics = host.get("/metrics").text;
    assert!(metrics.contains("sandpost_email_turns_total{bucket=\"shared\"}"), "{metrics}");

    if can_restart(&services.redis, "Redis") {
        load.during(&to, || {
            load.cut(&host, || services.redis.kill());
            until_not_ready(&host, "redis");
            // Keys are in Redis: a publish with one is refused rather than doubled.
            let headers = [("content-type", "application/json"), ("idempotency-key", "\"asked-for\"")];
            let refused = host.send("POST", "/v1/topics/notification-created/messages", &headers, "{}");
            assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("idempotency-unavailable")));
            // The cache helps, and no more: the chain goes on without it.
            load.until(&host, "acknowledged");
            services.redis.start();
            until_ready(&host);
            load.until(&host, "acknowledged");
        });
    }
    if can_restart(&services.mysql, "MySQL") {
        load.during(&to, || {
            load.cut(&host, || services.mysql.kill());
            until_not_ready(&host, "mysql");
            load.until_accepted(&host, 5);
            load.until(&host, "retry-planned");
            services.mysql.start();
            until_ready(&host);
            load.until(&host, "acknowledged");
        });
    }
    if can_restart(&services.mongo, "MongoDB") {
        load.during(&to, || {
            // One that stands alone answers before a write is in its journal; the others have it in a file by then.
            let is_mongod = services.mongo.kind() == "MongoDB";
            load.cut(&host, || if is_mongod { services.mongo.stop() } else { services.mongo.kill() });
            until_not_ready(&host, "mongodb");
            load.until(&host, "retry-planned");
            services.mongo.start();
            until_ready(&host);
            load.until(&host, "acknowledged");
        });
    }
    // What is being handed over when SES or Pub/Sub goes away may have been sent: then the message is held, never sent again.
    load.during(&to, || {
        doubts.effects.extend(load.cut(&host, || {
            services.ses_proxy.refuse();
            services.ses_proxy.cut();
        }));
        until_not_ready(&host, "ses");
        load.until(&host, "retry-planned");
        services.ses_proxy.pass();
        load.until(&host, "acknowledged");
    });
    load.during(&to, || {
        doubts.effects.extend(load.cut(&host, || {
            services.pubsub_proxy.refuse();
            services.pubsub_proxy.cut();
        }));
        until_not_ready(&host, "pubsub");
        services.pubsub_proxy.pass();
        until_ready(&host);
        load.until(&host, "acknowledged");
    });
    load.finish(&host);
    let records = Records::of_database(services.io.handle(), &services.mongo, &services.name);
    load.check(&host, &mut observer, &records, || services.mails(), &doubts);
}

#[test]
fn the_host_starts_with_every_service_down_and_is_ready_when_they_come() {
    let Some(services) = Services::start() else { return };
    if [&services.redis, &services.mysql, &services.mongo].iter().any(|server| !server.can_restart()) {
        return not_checked("start with every service down", "the servers are not this test's own");
    }
    let mut observer = Observer::start(&services.pubsub, &services.name);
    let setup = setup(&services);
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
    let load = Load::default();
    load.during(&[host.address()], || load.until(&host, "acknowledged"));
    load.finish(&host);
    let records = Records::of_database(services.io.handle(), &services.mongo, &services.name);
    load.check(&host, &mut observer, &records, || services.mails(), &Doubts::default());
}
