//! Real servers for tests: Redis, MariaDB, Postgres and what else the drivers speak to, each started by the test itself.
//!
//! A test asks for a server by one function and gets it ready to answer, or `None` where this machine has none:
//!
//! ```no_run
//! let Some(server) = sandpost_services::redis() else { return };
//! let url = server.url(); // redis://:sandpost@127.0.0.1:24718
//! ```
//!
//! Where it comes from, in this order: an address in the environment (`SANDPOST_TEST_REDIS_URL`, …), a program on the
//! `PATH` or where the system's packages put it, what `tests/services/install.sh` built under `target/services`, a service of
//! `docker-compose.yml` where a Docker engine answers.
//!
//! Invariants
//! - A server listens on 127.0.0.1 alone, on a port that nobody else of this harness has, with a data folder of its own.
//!   It asks for a password ([`PASSWORD`]) wherever it can, so that a wrong one can be tried.
//! - It ends with its [`Server`], by its PID; and with the test process, however that one ends ([`process`]).
//! - What was checked and what was not is on record: `None` leaves a row with the reason, which the table at the end of
//!   `cargo xtask test` shows ([`summary`]). Nothing is skipped in silence.
//! - Every call blocks and is bounded in time. From asynchronous code a start holds its thread for as long as it takes.
//!
//! Not here: databases, topics or keys. A test makes its own, under a name of its own, so that tests can share a server.

mod certificate;
mod compose;
mod find;
mod given;
mod http;
mod mariadb;
mod mongo;
mod moto;
mod port;
mod postgres;
pub mod process;
mod proxy;
mod pubsub;
mod python;
mod redis;
mod server;
mod smtp;
pub mod summary;
mod template;

pub use proxy::Proxy;
pub use server::Server;
pub use summary::{checked, not_checked};

use server::Missing;

/// The user of every server that has users.
pub const USER: &str = "sandpost";

/// The password of every server that has one.
pub const PASSWORD: &str = "sandpost";

/// A Redis server with a password, which keeps what it acknowledged over [`Server::kill`].
/// URL `redis://:sandpost@127.0.0.1:PORT`; from outside by `SANDPOST_TEST_REDIS_URL`.
pub fn redis() -> Option<Server> {
    first_of("SANDPOST_TEST_REDIS_URL", "Redis", redis::single, ("redis", "redis://127.0.0.1:6379"))
}

/// A Redis cluster of one node that has all slots: it speaks the cluster's protocol and refuses keys of two slots in one command.
/// URL as for [`redis`]; from outside by `SANDPOST_TEST_REDIS_CLUSTER_URL`.
pub fn redis_cluster() -> Option<Server> {
    answer(
        "Redis Cluster",
        given::server("SANDPOST_TEST_REDIS_CLUSTER_URL", "Redis Cluster").unwrap_or_else(redis::cluster),
    )
}

/// A Redis server that speaks TLS, with a certificate for `localhost` from [`Server::authority`]. Otherwise as [`redis`].
/// URL `rediss://:sandpost@localhost:PORT`. [`Server::address`] is that of the port without TLS.
pub fn redis_with_tls() -> Option<Server> {
    answer("Redis (TLS)", redis::with_tls())
}

/// The nodes of a Redis cluster: three masters that share the slots, and then a replica of the first, which takes its place some
/// seconds after it is gone. URLs as for [`redis`].
pub fn redis_cluster_of_four() -> Option<Vec<Server>> {
    match redis::cluster_of_four() {
        Ok(nodes) => {
            nodes.iter().for_each(summary::used);
            Some(nodes)
        }
        Err(missing) => {
            summary::missing("Redis Cluster", &missing.to_string());
            None
        }
    }
}

/// A MariaDB server with the empty database `sandpost`, where [`USER`] may do everything.
/// URL `mysql://sandpost:sandpost@127.0.0.1:PORT/sandpost`; from outside by `SANDPOST_TEST_MYSQL_URL`.
pub fn mariadb() -> Option<Server> {
    first_of(
        "SANDPOST_TEST_MYSQL_URL",
        "MySQL",
        || mariadb::start(false),
        ("mysql", "mysql://root:sandpost@127.0.0.1:3306/sandpost"),
    )
}

/// A [`mariadb`] that offers TLS, with a certificate for `localhost` from [`Server::authority`].
pub fn mariadb_with_tls() -> Option<Server> {
    answer("MySQL (TLS)", mariadb::start(true))
}

/// A Postgres server with the empty database `postgres`, where [`USER`] is superuser.
/// URL `postgres://sandpost:sandpost@127.0.0.1:PORT/postgres`; from outside by `SANDPOST_TEST_POSTGRES_URL`.
pub fn postgres() -> Option<Server> {
    first_of(
        "SANDPOST_TEST_POSTGRES_URL",
        "Postgres",
        || postgres::start(false),
        ("postgres", "postgres://sandpost:sandpost@127.0.0.1:5432/sandpost"),
    )
}

/// A [`postgres`] that offers TLS, with a certificate for `localhost` from [`Server::authority`].
pub fn postgres_with_tls() -> Option<Server> {
    answer("Postgres (TLS)", postgres::start(true))
}

/// Google Pub/Sub: the emulator of the Google Cloud CLI, else [`pstest`]. Everything is in its memory: gone after a restart.
/// [`Server::url`] is `127.0.0.1:PORT`, as in `PUBSUB_EMULATOR_HOST`; from outside by `SANDPOST_TEST_PUBSUB_URL`.
pub fn pubsub() -> Option<Server> {
    first_of("SANDPOST_TEST_PUBSUB_URL", "Pub/Sub", pubsub::start, ("pubsub", "127.0.0.1:8085"))
}

/// [`pubsub`] for a suite that runs a host on it, which `pstest` cannot serve: it speaks gRPC alone, and topics and
/// subscriptions are asked for by REST. Where there is nothing else, the suite is on record as not checked.
pub fn pubsub_emulator(suite: &str) -> Option<Server> {
    let server = pubsub()?;
    if server.kind().contains("pstest") {
        not_checked(suite, "pstest has no REST, by which Google's crate manages topics");
        return None;
    }
    Some(server)
}

/// The in-memory Pub/Sub server of Google's own Go client, for what the emulator gets wrong: with an ordered subscription
/// that has a dead-letter policy, the emulator fails for ever after the last attempt. As [`pubsub`] otherwise.
pub fn pstest() -> Option<Server> {
    answer("Pub/Sub (pstest)", pubsub::start_pstest())
}

/// MongoDB, else FerretDB, else `nx-27017`: [`Server::kind`] says which. No user, no password.
/// URL `mongodb://127.0.0.1:PORT/?directConnection=true`; from outside by `SANDPOST_TEST_MONGO_URL`.
pub fn mongo() -> Option<Server> {
    first_of(
        "SANDPOST_TEST_MONGO_URL",
        "MongoDB",
        mongo::start,
        ("mongodb", "mongodb://127.0.0.1:27017/?directConnection=true"),
    )
}

/// FerretDB over TLS, with a certificate for `localhost` from [`Server::authority`], which the URL names.
/// URL `mongodb://localhost:PORT/?directConnection=true&tls=true&tlsCAFile=…`.
pub fn mongo_with_tls() -> Option<Server> {
    answer("MongoDB (TLS)", mongo::with_tls())
}

/// `nx-27017` whatever else there is: it takes transactions, which FerretDB over SQLite refuses. As [`mongo`] otherwise.
pub fn nx_27017() -> Option<Server> {
    answer("nx-27017", mongo::start_nx())
}

/// moto, an emulator of AWS in memory that takes any credentials. URL `http://127.0.0.1:PORT`, the endpoint of every
/// service; from outside by `SANDPOST_TEST_MOTO_URL`.
pub fn moto() -> Option<Server> {
    answer("moto", given::server("SANDPOST_TEST_MOTO_URL", "moto").unwrap_or_else(moto::start))
}

/// A mail server with STARTTLS and AUTH, needing neither, that delivers everything to [`Server::mails`]. Its certificate is
/// for `localhost` and `127.0.0.1`, from [`Server::authority`]. Recipients make it fail: `answer-452@…` is answered so at
/// `RCPT TO`, `data-554@…` after the mail.
/// URL `smtp://sandpost:sandpost@127.0.0.1:PORT`; from outside by `SANDPOST_TEST_SMTP_URL`.
pub fn smtp() -> Option<Server> {
    answer("SMTP", given::server("SANDPOST_TEST_SMTP_URL", "SMTP").unwrap_or_else(|| smtp::start(false)))
}

/// [`smtp`] with TLS from the first byte. URL `smtps://…`; from outside by `SANDPOST_TEST_SMTPS_URL`.
pub fn smtps() -> Option<Server> {
    answer("SMTPS", given::server("SANDPOST_TEST_SMTPS_URL", "SMTPS").unwrap_or_else(|| smtp::start(true)))
}

/// What the environment names, else what can be started here, else what Docker Compose brings.
fn first_of(
    variable: &str,
    kind: &str,
    start: impl FnOnce() -> Result<Server, Missing>,
    composed: (&str, &str),
) -> Option<Server> {
    let outcome = given::server(variable, kind).unwrap_or_else(|| {
        start().or_else(|missing| {
            compose::start(composed.0, kind, composed.1).map_err(|docker| Missing::new(format!("{missing}; {docker}")))
        })
    });
    answer(kind, outcome)
}

/// Puts on record what came of it: the server for this test binary, or why there is none.
fn answer(kind: &str, outcome: Result<Server, Missing>) -> Option<Server> {
    match outcome {
        Ok(server) => {
            summary::used(&server);
            Some(server)
        }
        Err(missing) => {
            summary::missing(kind, &missing.to_string());
            None
        }
    }
}
