//! What goes wrong with a database, and what must come of it: the same for both, each on its own server.
//!
//! Every check bounds its time, and looks at the server by a connection of its own.

use sandpost_ports::contract::sql::{Dialect, check};
use sandpost_ports::sql::{Access, Rows, StatementLimits, Value};
use sandpost_ports::{ErrorKind, PortError, Secret};
use sandpost_services::{Proxy, Server};
use sandpost_sql::{Config, Database, OpenError, Tls};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub(crate) const AMPLE: StatementLimits =
    StatementLimits { rows_max: 1_000, result_max_bytes: 1 << 20, timeout_ms: 10_000 };

/// Longest that one call below may take: its own bounds and some air.
const BOUND: Duration = Duration::from_secs(8);

/// A connection past the driver, for looking and for meddling.
pub(crate) trait Admin: Sized {
    /// Sleeps for half a minute; `{}` is a name by which it is found.
    const SLOW: &'static str;
    /// How many statements with this text are at work.
    const AT_WORK: &'static str;
    /// Ends such a statement, and its connection.
    const END_STATEMENT: &'static str;
    const END_CONNECTION: &'static str;

    fn open(config: &Config) -> Result<Arc<dyn Database>, OpenError>;
    async fn connect(url: &str) -> Self;
    async fn run(&mut self, sql: &str);
    async fn number(&mut self, sql: &str) -> i64;
}

/// A database behind the driver, and a table of its own in it.
pub(crate) struct Subject<'s, A> {
    pub(crate) server: &'s Server,
    pub(crate) admin: A,
    pub(crate) table: String,
}

pub(crate) fn random_name(prefix: &str) -> String {
    format!("{prefix}_{:016x}", RandomState::new().build_hasher().finish())
}

fn short(url: &str) -> Config {
    Config {
        url: Some(Secret::new(url)),
        acquire_timeout_ms: Some(1_000),
        connect_timeout_ms: 1_500,
        control_timeout_ms: 1_500,
        ..Config::default()
    }
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, PortError>) -> ErrorKind {
    result.unwrap_err().kind
}

/// Polls until it is so, for half a minute at most.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A connection is tidied after its caller has the answer, and until then the next caller gets another one.
async fn given_back(database: &dyn Database) {
    until("no connection is in use", async || database.pool().unwrap().in_use == 0).await;
}

async fn within<T>(bound: Duration, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(bound, call).await.expect("it ends in its bounds")
}

pub(crate) async fn execute(
    database: &dyn Database,
    statement: &str,
    parameters: Vec<Value>,
) -> Result<u64, PortError> {
    database.execute(Access::ReadWrite, statement, parameters, AMPLE).await.map(|done| done.affected)
}

pub(crate) async fn query(database: &dyn Database, statement: &str) -> Result<Rows, PortError> {
    database.query(Access::ReadOnly, statement, vec![], AMPLE).await
}

/// The contract over TLS, and none of it with a server that nobody vouches for. `cipher` asks with what a session is encrypted.
pub(crate) async fn encrypted<A: Admin>(server: &Server, dialect: Dialect, cipher: &str) {
    // As the program does. Another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let open = |host: &str, trusted: bool| {
        let tls_ca_file = server.authority().filter(|_| trusted).map(Into::into);
        let url = server.url().replace("127.0.0.1", host);
        A::open(&Config { tls: Some(Tls::VerifyFull), tls_ca_file, ..short(&url) }).unwrap()
    };
    let database = open("localhost", true);
    check(&*database, dialect).await;
    let found = query(&*database, cipher).await.unwrap();
    assert!(matches!(&found.rows[0][0], Value::Text(cipher) if !cipher.is_empty()), "{found:?}");
    database.close().await;
    for (host, trusted) in [("localhost", false), ("127.0.0.1", true)] {
        let database = open(host, trusted);
        let answer = within(BOUND, query(&*database, "SELECT 1")).await;
        assert_eq!(kind(answer), ErrorKind::Unavailable, "{host}, authority known: {trusted}");
        database.close().await;
    }
}

impl<'s, A: Admin> Subject<'s, A> {
    pub(crate) async fn new(server: &'s Server) -> Self {
        let mut admin = A::connect(&server.url()).await;
        let table = random_name("faults");
        admin.run(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, number BIGINT)")).await;
        admin.run(&format!("INSERT INTO {table} VALUES (1, 0)")).await;
        Self { server, admin, table }
    }

    fn open(&self) -> Arc<dyn Database> {
        A::open(&short(&self.server.url())).unwrap()
    }

    fn behind_a_proxy(&self) -> (Proxy, Arc<dyn Database>) {
        let proxy = Proxy::before(self.server.address());
        let database = A::open(&short(&self.server.url_at(proxy.address()))).unwrap();
        (proxy, database)
    }

    fn read(&self) -> String {
        format!("SELECT number FROM {} WHERE id = 1", self.table)
    }

    fn add(&self) -> String {
        format!("UPDATE {} SET number = number + 1 WHERE id = 1", self.table)
    }

    /// Past the driver.
    async fn number(&mut self) -> i64 {
        let sql = self.read();
        self.admin.number(&sql).await
    }

    async fn at_work(&mut self, marker: &str) -> i64 {
        self.admin.number(&A::AT_WORK.replace("{}", marker)).await
    }

    pub(crate) async fn every_fault(&mut self) {
        self.refused().await;
        self.cut_in_the_middle().await;
        self.no_answer().await;
        self.an_answer_to_a_commit_that_is_lost().await;
        self.slow_answers().await;
        self.wrong_password().await;
        self.a_full_pool().await;
        self.ended_by_the_server().await;
        self.a_call_that_is_given_up_ends_on_the_server().await;
        self.a_statement_that_takes_too_long_leaves_its_connection_whole().await;
        self.transactions_have_bounds().await;
        self.a_failed_statement_undoes_itself_alone().await;
        self.more_callers_than_connections().await;
        self.a_closed_database_is_unavailable().await;
        self.a_restart().await;
        let drop = format!("DROP TABLE {}", self.table);
        self.admin.run(&drop).await;
    }

    async fn refused(&mut self) {
        let (proxy, database) = self.behind_a_proxy();
        proxy.refuse();
        assert_eq!(kind(within(BOUND, query(&*database, &self.read())).await), ErrorKind::Unavailable);
        assert_eq!(kind(within(BOUND, execute(&*database, &self.add(), vec![])).await), ErrorKind::Unavailable);
        assert_eq!(kind(within(BOUND, database.check()).await), ErrorKind::Unavailable);
        assert_eq!(
            within(BOUND, database.begin(Access::ReadWrite)).await.err().map(|error| error.kind),
            Some(ErrorKind::Unavailable)
        );
        proxy.pass();
        // Nothing had to be noticed first: the next call connects.
        within(BOUND, database.check()).await.unwrap();
        query(&*database, &self.read()).await.unwrap();
        // A connection of before is found dead, and another made.
        given_back(&*database).await;
        assert!(database.pool().unwrap().idle > 0, "something lies idle");
        proxy.refuse();
        proxy.pass();
        within(BOUND, execute(&*database, &self.add(), vec![])).await.unwrap();
        assert_eq!(self.number().await, 1);
    }

    async fn cut_in_the_middle(&mut self) {
        let (proxy, database) = self.behind_a_proxy();
        let marker = random_name("cut");
        let before = self.number().await;
        let slow = A::SLOW.replace("{}", &marker);
        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        let running = tokio::spawn({
            let database = Arc::clone(&database);
            async move { database.query(Access::ReadWrite, &slow, vec![], AMPLE).await }
        });
        until("the statement is at work", async || self.at_work(&marker).await == 1).await;
        proxy.cut();
        let error = within(BOUND, running).await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert_eq!(kind(within(BOUND, transaction.query(&self.read(), vec![], AMPLE)).await), ErrorKind::Unavailable);
        let again = transaction.query(&self.read(), vec![], AMPLE).await.unwrap_err();
        assert!(again.message.contains("not open any more"), "{again}");
        drop(transaction);
        until("the server was told to end it", async || self.at_work(&marker).await == 0).await;
        // Not kept from anybody by a lock, and undone.
        within(BOUND, execute(&*database, &self.add(), vec![])).await.unwrap();
        assert_eq!(self.number().await, before + 1);
    }

    async fn no_answer(&mut self) {
        let (proxy, database) = self.behind_a_proxy();
        query(&*database, &self.read()).await.unwrap();
        let before = self.number().await;
        proxy.black_hole();
        let calls: Vec<_> = (0..15)
            .map(|_| {
                let (database, add) = (Arc::clone(&database), self.add());
                tokio::spawn(async move { execute(&*database, &add, vec![]).await })
            })
            .collect();
        for call in calls {
            assert_eq!(kind(within(BOUND, call).await.unwrap()), ErrorKind::Unavailable);
        }
        assert_eq!(kind(within(BOUND, database.check()).await), ErrorKind::Unavailable);
        proxy.cut();
        proxy.pass();
        until("it goes on", async || query(&*database, &self.read()).await.is_ok()).await;
        assert_eq!(self.number().await, before, "nothing was done");
    }

    async fn an_answer_to_a_commit_that_is_lost(&mut self) {
        let (proxy, database) = self.behind_a_proxy();
        let before = self.number().await;
        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        proxy.hold_answers();
        assert_eq!(kind(within(BOUND, transaction.commit()).await), ErrorKind::UnknownOutcome);
        until("the commit went through", async || self.number().await == before + 1).await;
        proxy.cut();
        proxy.pass();

        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        proxy.hold_answers();
        let (outcome, ()) = tokio::join!(within(BOUND, transaction.commit()), async {
            until("the commit went through", async || self.number().await == before + 2).await;
            proxy.cut();
        });
        assert_eq!(kind(outcome), ErrorKind::UnknownOutcome);
        proxy.pass();
    }

    async fn slow_answers(&mut self) {
        let (proxy, database) = self.behind_a_proxy();
        let before = self.number().await;
        // What is slow are the answers; to connect takes many of them.
        query(&*database, &self.read()).await.unwrap();
        given_back(&*database).await;
        proxy.delay(Duration::from_millis(40));
        within(BOUND, execute(&*database, &self.add(), vec![])).await.unwrap();
        given_back(&*database).await;
        assert_eq!(within(BOUND, query(&*database, &self.read())).await.unwrap().rows, [[Value::Int64(before + 1)]]);
        // Longer than a statement may take, and its answers come in pieces.
        let limits = StatementLimits { timeout_ms: 100, ..AMPLE };
        proxy.delay(Duration::from_millis(700));
        let late = within(BOUND, database.query(Access::ReadOnly, &self.read(), vec![], limits)).await;
        assert_eq!(kind(late), ErrorKind::Unavailable);
        proxy.trickle(16, Duration::from_millis(1));
        until("it goes on", async || query(&*database, &self.read()).await.is_ok()).await;
    }

    async fn wrong_password(&mut self) {
        let config = Config { password: Some(Secret::new("hunter2")), ..short(&self.server.url()) };
        let database = A::open(&config).unwrap();
        for error in [
            within(BOUND, query(&*database, &self.read())).await.unwrap_err(),
            within(BOUND, database.check()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Other, "{error}");
            assert_eq!(error.message, "the database does not accept the host's account");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    async fn a_full_pool(&mut self) {
        let config = Config { pool_max_connections: Some(2), ..short(&self.server.url()) };
        let database = A::open(&config).unwrap();
        let held = [database.begin(Access::ReadOnly).await.unwrap(), database.begin(Access::ReadWrite).await.unwrap()];
        let usage = database.pool().unwrap();
        assert_eq!((usage.in_use, usage.idle, usage.max), (2, 0, 2));
        let error = within(BOUND, query(&*database, &self.read())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.message.contains("in use"), "{error}");
        let read = self.read();
        let (freed, ()) = tokio::join!(query(&*database, &read), async { drop(held) });
        freed.unwrap();
        until("both lie idle", async || database.pool().unwrap().idle == 2).await;
        assert_eq!(database.pool().unwrap().in_use, 0);
    }

    async fn ended_by_the_server(&mut self) {
        let database = self.open();
        for (words, end) in [("ended by the server", A::END_STATEMENT), ("connection was lost", A::END_CONNECTION)] {
            let marker = random_name("ended");
            let slow = A::SLOW.replace("{}", &marker);
            let running = tokio::spawn({
                let database = Arc::clone(&database);
                async move { database.query(Access::ReadWrite, &slow, vec![], AMPLE).await }
            });
            until("the statement is at work", async || self.at_work(&marker).await == 1).await;
            let end = end.replace("{}", &marker);
            until("it is ended", async || {
                if !running.is_finished() {
                    self.admin.run(&end).await;
                }
                running.is_finished()
            })
            .await;
            let error = running.await.unwrap().unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.message.contains(words), "{error}");
            within(BOUND, query(&*database, &self.read())).await.unwrap();
        }
    }

    async fn a_call_that_is_given_up_ends_on_the_server(&mut self) {
        let config = Config { pool_max_connections: Some(1), ..short(&self.server.url()) };
        let database = A::open(&config).unwrap();
        let marker = random_name("given_up");
        let slow = A::SLOW.replace("{}", &marker);
        let limits = StatementLimits { timeout_ms: 60_000, ..AMPLE };
        let running = tokio::spawn({
            let database = Arc::clone(&database);
            async move { database.query(Access::ReadOnly, &slow, vec![], limits).await }
        });
        until("the statement is at work", async || self.at_work(&marker).await == 1).await;
        running.abort();
        until("it is ended there", async || self.at_work(&marker).await == 0).await;
        within(BOUND, query(&*database, &self.read())).await.unwrap();
        // Dropped in a transaction, it takes the transaction with it.
        let before = self.number().await;
        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        let marker = random_name("given_up");
        let slow = A::SLOW.replace("{}", &marker);
        let given_up = tokio::time::timeout(Duration::from_millis(100), transaction.query(&slow, vec![], limits)).await;
        assert!(given_up.is_err(), "it is slow");
        assert_eq!(kind(transaction.commit().await), ErrorKind::Unavailable, "there is nothing to commit");
        within(BOUND, execute(&*database, &self.add(), vec![])).await.unwrap();
        assert_eq!(self.number().await, before + 1);
        // Postgres lets go of the locks first.
        within(BOUND, until("it is ended there", async || self.at_work(&marker).await == 0)).await;
    }

    /// A busy machine may take so long to end a statement that its connection is dropped after all, in one round or
    /// another. A driver that drops it at each timeout never has one alone.
    async fn a_statement_that_takes_too_long_leaves_its_connection_whole(&mut self) {
        let mut connections = Vec::new();
        while !connections.contains(&1) {
            assert!(connections.len() < 3, "one connection serves for all of it, not {connections:?}");
            connections.push(self.connections_for_statements_that_take_too_long().await);
        }
    }

    async fn connections_for_statements_that_take_too_long(&mut self) -> usize {
        let (proxy, database) = self.behind_a_proxy();
        query(&*database, &self.read()).await.unwrap();
        given_back(&*database).await;
        let limits = StatementLimits { timeout_ms: 100, ..AMPLE };
        let slow = A::SLOW.replace("{}", &random_name("slow"));
        for _ in 0..3 {
            let error = within(BOUND, database.query(Access::ReadOnly, &slow, vec![], limits)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.message.contains("longer than it may"), "{error}");
            given_back(&*database).await;
        }
        // The time of one statement is not that of the next, in a transaction neither.
        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        assert_eq!(kind(transaction.query(&slow, vec![], limits).await), ErrorKind::Unavailable);
        transaction.query(&self.read(), vec![], AMPLE).await.unwrap();
        transaction.commit().await.unwrap();
        given_back(&*database).await;
        proxy.accepted()
    }

    async fn transactions_have_bounds(&mut self) {
        let before = self.number().await;
        for (idle_ms, whole_ms) in [(200, 60_000), (60_000, 200)] {
            let config = Config {
                transaction_idle_max_ms: idle_ms,
                transaction_max_ms: whole_ms,
                pool_max_connections: Some(1),
                ..short(&self.server.url())
            };
            let database = A::open(&config).unwrap();
            let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
            transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
            until("it is rolled back", async || database.pool().unwrap().idle == 1).await;
            let error = transaction.query(&self.read(), vec![], AMPLE).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.message.contains("open for too long"), "{error}");
            let error = transaction.commit().await.unwrap_err();
            assert!(error.message.contains("open for too long"), "{error}");
        }
        assert_eq!(self.number().await, before);
    }

    async fn a_failed_statement_undoes_itself_alone(&mut self) {
        let database = self.open();
        let before = self.number().await;
        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        let twice = format!("INSERT INTO {} VALUES (7, 7), (1, 1)", self.table);
        assert_eq!(kind(transaction.execute(&twice, vec![], AMPLE).await), ErrorKind::Conflict);
        assert_eq!(kind(transaction.query("SELECT nothing_at_all", vec![], AMPLE).await), ErrorKind::Invalid);
        assert_eq!(kind(transaction.execute("COMMIT", vec![], AMPLE).await), ErrorKind::Unsupported);
        assert_eq!(kind(transaction.query("SELECT ?", vec![], AMPLE).await), ErrorKind::Invalid);
        let few = StatementLimits { rows_max: 2, ..AMPLE };
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT i FROM n";
        assert_eq!(kind(transaction.query(many, vec![], few).await), ErrorKind::Exceeded);
        let read = transaction.query(&self.read(), vec![], AMPLE).await.unwrap();
        assert_eq!(read.rows, [[Value::Int64(before + 1)]], "the first is still done");
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(self.number().await, before + 2);
        let seven = format!("SELECT COUNT(*) FROM {} WHERE id = 7", self.table);
        assert_eq!(self.admin.number(&seven).await, 0);
    }

    async fn more_callers_than_connections(&mut self) {
        let before = self.number().await;
        let config =
            Config { pool_max_connections: Some(3), acquire_timeout_ms: Some(30_000), ..short(&self.server.url()) };
        let database = A::open(&config).unwrap();
        let calls: Vec<_> = (0..60)
            .map(|at| {
                let (database, add, read) = (Arc::clone(&database), self.add(), self.read());
                tokio::spawn(async move {
                    if at % 3 == 0 {
                        query(&*database, &read).await.map(drop)
                    } else {
                        execute(&*database, &add, vec![]).await.map(drop)
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(self.number().await, before + 40);
        assert!(database.pool().unwrap().max == 3);
    }

    async fn a_closed_database_is_unavailable(&mut self) {
        let database = self.open();
        query(&*database, &self.read()).await.unwrap();
        within(BOUND, database.close()).await;
        assert_eq!(kind(within(BOUND, query(&*database, &self.read())).await), ErrorKind::Unavailable);
        assert_eq!(database.pool().unwrap().idle, 0);
    }

    async fn a_restart(&mut self) {
        if !self.server.can_restart() {
            return;
        }
        let database = self.open();
        query(&*database, &self.read()).await.unwrap();
        let before = self.number().await;
        let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
        transaction.execute(&self.add(), vec![], AMPLE).await.unwrap();
        tokio::task::block_in_place(|| self.server.kill());
        assert_eq!(kind(within(BOUND, query(&*database, &self.read())).await), ErrorKind::Unavailable);
        assert_eq!(kind(within(BOUND, database.check()).await), ErrorKind::Unavailable);
        tokio::task::block_in_place(|| self.server.start());
        within(BOUND, execute(&*database, &self.add(), vec![])).await.unwrap();
        let outcome = kind(within(BOUND, transaction.commit()).await);
        assert!(matches!(outcome, ErrorKind::Unavailable | ErrorKind::UnknownOutcome), "{outcome}");
        self.admin = A::connect(&self.server.url()).await;
        assert_eq!(self.number().await, before + 1, "what was not committed is gone");
    }

    /// Another database of the same server stands in as the replica: it is told apart by what is in it.
    pub(crate) async fn a_replica(&mut self, name: &str) {
        let (at, rest) = self.server.url().rsplit_once('/').map(|(at, rest)| (at.to_owned(), rest.to_owned())).unwrap();
        let options = rest.split_once('?').map(|(_, options)| format!("?{options}")).unwrap_or_default();
        let mut other = A::connect(&format!("{at}/{name}{options}")).await;
        let table = &self.table;
        other.run(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, number BIGINT)")).await;
        other.run(&format!("INSERT INTO {table} VALUES (1, 777)")).await;

        let proxy = Proxy::before(self.server.address());
        let through = self.server.url_at(proxy.address());
        let (at, _) = through.rsplit_once('/').unwrap();
        let config = Config {
            read_replica_url: Some(Secret::new(format!("{at}/{name}{options}"))),
            ..short(&self.server.url())
        };
        let database = A::open(&config).unwrap();
        let here = self.number().await;
        let read = self.read();
        let of_replica = [[Value::Int64(777)]];
        assert_eq!(query(&*database, &read).await.unwrap().rows, of_replica);
        let writer = database.query(Access::ReadWrite, &read, vec![], AMPLE).await.unwrap();
        assert_eq!(writer.rows, [[Value::Int64(here)]], "who may write reads what it wrote");
        let mut transaction = database.begin(Access::ReadOnly).await.unwrap();
        let within_it = transaction.query(&read, vec![], AMPLE).await.unwrap();
        assert_eq!(within_it.rows, [[Value::Int64(here)]], "a transaction is in one place");
        transaction.rollback().await.unwrap();
        assert_eq!(kind(database.query(Access::ReadOnly, &self.add(), vec![], AMPLE).await), ErrorKind::Invalid);

        proxy.refuse();
        assert_eq!(query(&*database, &read).await.unwrap().rows, [[Value::Int64(here)]], "the first server is read");
        database.check().await.unwrap();
        proxy.pass();
        until("the replica is read again", async || query(&*database, &read).await.unwrap().rows == of_replica).await;
        assert_eq!(database.pool().unwrap().max, 20);
    }
}
