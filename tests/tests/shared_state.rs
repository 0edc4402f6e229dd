//! Hosts that share their state: Postgres as the state and as the plugins' database, SMTP for mail, Pub/Sub as the broker and
//! MongoDB or what stands in for it. One of two hosts is killed in the middle of work, the other one carries on, and then its
//! services go away under it.
//!
//! Needs a host with the drivers (`cargo xtask test` builds it) and the servers; what is missing is named in the summary.
//! Hosts that share a Redis alone are in `shared_redis`; how many of one state get a claim is the driver's own test.

mod chain;

use chain::{CREATED, Doubts, Load, Observer, Records};
use sandpost_services::{Server, checked, not_checked};
use sandpost_tests::{Host, Setup, services_program};
use sqlx::{Connection as _, Executor as _};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Runtime;

const SUITE: &str = "hosts that share a state";

/// Everything that the hosts speak to, up.
struct Services {
    /// A Pub/Sub project, databases: nobody else has them.
    name: String,
    postgres: Server,
    smtp: Server,
    mongo: Server,
    pubsub: Server,
    program: PathBuf,
    io: Runtime,
}

impl Services {
    fn start() -> Option<Self> {
        let Some(program) = services_program() else {
            not_checked(SUITE, "there is no host with the drivers for real services; `cargo xtask test` builds it");
            return None;
        };
        let (postgres, smtp) = (sandpost_services::postgres()?, sandpost_services::smtp()?);
        let (mongo, pubsub) = (sandpost_services::mongo()?, sandpost_services::pubsub_emulator(SUITE)?);
        if smtp.mail_folder().is_none() {
            not_checked(SUITE, "the mail server was given, and does not show what it delivers");
            return None;
        }
        for server in [&postgres, &smtp, &mongo, &pubsub] {
            checked(SUITE, server);
        }
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("shared-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        Some(Self { name, postgres, smtp, mongo, pubsub, program, io })
    }

    /// With two databases, of which one has the users and the other nothing yet.
    fn setup(&self) -> Setup {
        self.io.block_on(async {
            let execute = async |url: &str, sql: String| {
                let mut connection = sqlx::PgConnection::connect(url).await.expect("Postgres answers");
                connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.expect("it is done");
            };
            for of in ["users", "state"] {
                execute(&self.postgres.url(), format!("CREATE DATABASE \"{}-{of}\"", self.name)).await;
            }
            execute(&self.database("users"), chain::users()).await;
        });
        let authority = self.smtp.authority().expect("it offers TLS").display();
        let config = format!(
            r#"
            data_dir = "data"
            health_interval_ms = 500
            [http]
            request_timeout_ms = 10000
            # A key whose host is gone is asked for again after this long.
            idempotency_stale_ms = 15000
            [deployment]
            directory = "plugins"
            grants = "requested"
            [breaker]
            open_ms = 500
            [sql.main]
            driver = "postgres"
            [documents.main.mongo]
            database = "{}"
            server_selection_timeout_ms = 2000
            # What a host had that is gone comes again after this long.
            [broker.pubsub]
            ack_deadline_s = 10
            retry_min_s = 0
            retry_max_s = 0
            probe_interval_ms = 500
            [email]
            from = "noreply@example.com"
            [email.smtp]
            ca_file = "{authority}"
            {}"#,
            self.name,
            chain::SUBSCRIPTIONS
        );
        let environment = [
            ("SANDPOST_STATE_URL", self.database("state")),
            ("DATABASE_URL", self.database("users")),
            ("MAIL_TRANSPORT", "smtp".to_owned()),
            ("SMTP_URL", self.smtp.url()),
            ("MONGODB_URI", self.mongo.url()),
            ("PUBSUB_EMULATOR_HOST", self.pubsub.address().to_string()),
            ("PUBSUB_PROJECT_ID", self.name.clone()),
        ];
        Setup {
            config,
            whole: true,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            program: Some(self.program.clone()),
            plugins: ["notification-email", "delivery-log", "transactional-templates"]
                .map(sandpost_tests::plugin)
                .to_vec(),
            ..Setup::default()
        }
    }

    /// Its address, of a database of this test's own.
    fn database(&self, of: &str) -> String {
        let url = self.postgres.url();
        let (server, _) = url.rsplit_once('/').expect("a database");
        format!("{server}/{}-{of}", self.name)
    }

    fn records(&self) -> Records {
        Records::of_database(self.io.handle(), &self.mongo, &self.name)
    }

    /// How many mails each address got.
    fn mails(&self) -> BTreeMap<String, usize> {
        let mut mails = BTreeMap::new();
        for mail in self.smtp.mails() {
            for to in mail.lines().filter_map(|line| line.strip_prefix("X-Envelope-To: ")) {
                *mails.entry(to.to_owned()).or_default() += 1;
            }
        }
        mails
    }
}

/// `/readyz` says that all is well, mail included, which does not decide readiness.
fn until_well(host: &Host) {
    host.eventually("the host is ready", || {
        let reply = host.get("/readyz?verbose=1");
        if reply.status == 200 && !reply.text.contains("\"error\"") { Ok(()) } else { Err(reply.text) }
    });
}

fn until_away(host: &Host, kinds: &[&str]) {
    host.eventually(&format!("the host says that {kinds:?} are away"), || {
        let reply = host.get("/readyz?verbose=1");
        let checks = &reply.json()["checks"];
        if kinds.iter().all(|kind| checks[kind]["status"] == "error") { Ok(()) } else { Err(reply.text) }
    });
}

/// A key cannot be asked for while the state is away, and nothing was stored.
fn keys_are_refused(host: &Host) {
    let headers = [("content-type", "application/json"), ("idempotency-key", "\"asked-for\"")];
    let refused = host.send("POST", &format!("/v1/topics/{CREATED}/messages"), &headers, "{}");
    assert_eq!(refused.problem(), (503, "idempotency-unavailable".to_owned()));
}

fn until_it_handles(host: &Host) {
    host.eventually("the host handles messages", || {
        let metrics = host.get("/metrics").text;
        let handled =
            metrics.lines().any(|line| line.starts_with("sandpost_deliveries_total{") && !line.ends_with(" 0"));
        if handled { Ok(()) } else { Err(metrics) }
    });
}

#[test]
fn one_of_two_hosts_is_killed_then_the_services_under_the_other_and_nothing_is_lost_and_nothing_sent_twice() {
    let Some(services) = Services::start() else { return };
    let mut observer = Observer::start(&services.pubsub, &services.name);
    let setup = services.setup();
    // Both at once: one of them makes the tables.
    let (mut first, second) = (Host::start(setup.clone()), Host::start(setup));
    until_well(&first);
    until_well(&second);
    let hosts = [&first, &second].map(|host| host.address().to_owned());
    let hosts = hosts.each_ref().map(String::as_str);
    let (load, mut doubts) = (Load::default(), Doubts::default());
    load.during(&hosts, || {
        until_it_handles(&first);
        until_it_handles(&second);
        load.until(&second, "acknowledged");
    });

    load.during(&hosts, || {
        let at_work = load.cut(&second, || first.kill());
        doubts.effects.extend(&at_work);
        doubts.ledger.extend(&at_work);
        load.until(&second, "acknowledged");
    });
    if services.postgres.can_restart() {
        load.during(&hosts[1..], || {
            let from = load.tried();
            let at_work = load.cut(&second, || services.postgres.kill());
            doubts.effects.extend(&at_work);
            doubts.ledger.extend(&at_work);
            until_away(&second, &["mysql", "state"]);
            keys_are_refused(&second);
            // Without a key nothing was promised about repetitions: the broker has it.
            load.until_accepted(&second, 5);
            services.postgres.start();
            until_well(&second);
            doubts.ledger.extend(from..load.tried());
            load.until(&second, "acknowledged");
        });
    } else {
        not_checked(&format!("{SUITE}: Postgres goes and comes"), "the server belongs to somebody else");
    }
    load.during(&hosts[1..], || {
        doubts.effects.extend(load.cut(&second, || services.smtp.kill()));
        until_away(&second, &["ses"]);
        load.until(&second, "retry-planned");
        services.smtp.start();
        until_well(&second);
        load.until(&second, "acknowledged");
    });
    // The one that died takes its part again.
    first.restart();
    until_well(&first);
    load.during(&[first.address()], || {
        until_it_handles(&first);
        load.until(&first, "acknowledged");
    });
    load.finish(&first);
    load.check(&second, &mut observer, &services.records(), || services.mails(), &doubts);
}

#[test]
fn a_host_starts_with_state_database_and_mail_down_and_is_ready_when_they_come() {
    let Some(services) = Services::start() else { return };
    if !services.postgres.can_restart() {
        return not_checked(&format!("{SUITE}: start with all down"), "the servers are not this test's own");
    }
    let mut observer = Observer::start(&services.pubsub, &services.name);
    let setup = services.setup();
    services.postgres.stop();
    services.smtp.stop();
    let host = Host::start(setup);
    assert_eq!(host.get("/healthz").status, 200);
    let unready = host.get("/readyz?verbose=1");
    assert_eq!(unready.status, 503, "{}", unready.text);
    for kind in ["mysql", "state", "ses"] {
        assert_eq!(unready.json()["checks"][kind]["status"], "error", "{kind}: {}", unready.text);
    }
    keys_are_refused(&host);
    // Mail that cannot go is tried again, and does not keep a host from being ready.
    services.postgres.start();
    let ready = host.eventually("the host is ready", || {
        let reply = host.get("/readyz?verbose=1");
        if reply.status == 200 { Ok(reply) } else { Err(reply.text) }
    });
    assert_eq!(ready.json()["checks"]["ses"]["status"], "error", "{}", ready.text);
    let load = Load::default();
    load.during(&[host.address()], || {
        load.until(&host, "retry-planned");
        services.smtp.start();
        load.until(&host, "acknowledged");
    });
    load.finish(&host);
    until_well(&host);
    load.check(&host, &mut observer, &services.records(), || services.mails(), &Doubts::default());
}
