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
//! `PATH` or where the system's packages put it, what `tests/services/install.sh` built under `target/services`.
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

mod find;
mod given;
mod mariadb;
mod port;
mod postgres;
pub mod process;
mod proxy;
mod redis;
mod server;
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
    answer("Redis", given::server("SANDPOST_TEST_REDIS_URL", "Redis").unwrap_or_else(redis::single))
}

/// A Redis cluster of one node that has all slots: it speaks the cluster's protocol and refuses keys of two slots in one command.
/// URL as for [`redis`]; from outside by `SANDPOST_TEST_REDIS_CLUSTER_URL`.
pub fn redis_cluster() -> Option<Server> {
    answer(
        "Redis Cluster",
        given::server("SANDPOST_TEST_REDIS_CLUSTER_URL", "Redis Cluster").unwrap_or_else(redis::cluster),
    )
}

/// A MariaDB server with the empty database `sandpost`, where [`USER`] may do everything.
/// URL `mysql://sandpost:sandpost@127.0.0.1:PORT/sandpost`; from outside by `SANDPOST_TEST_MYSQL_URL`.
pub fn mariadb() -> Option<Server> {
    answer("MariaDB", given::server("SANDPOST_TEST_MYSQL_URL", "MySQL").unwrap_or_else(mariadb::start))
}

/// A Postgres server with the empty database `postgres`, where [`USER`] is superuser.
/// URL `postgres://sandpost:sandpost@127.0.0.1:PORT/postgres`; from outside by `SANDPOST_TEST_POSTGRES_URL`.
pub fn postgres() -> Option<Server> {
    answer("Postgres", given::server("SANDPOST_TEST_POSTGRES_URL", "Postgres").unwrap_or_else(postgres::start))
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
