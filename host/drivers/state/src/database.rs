//! The pool, what makes it ready in the background, and the way of each statement through it.

use crate::config::{Dialect, Settings, Target};
use crate::engine::{self, Done, Work};
use crate::migrate::{self, Failed};
use crate::statement::{Row, Statement};
use crate::trouble::Trouble;
use futures_util::future::BoxFuture;
use sandpost_ports::health::PoolUse;
use sandpost_ports::{ErrorKind, PortError};
use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sqlx::{Connection as _, Executor as _, MySql, MySqlConnection, PgConnection, Postgres};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// A connection that has been idle for longer is asked whether it lives before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// The first wait before a statement that the database undid is tried again; each further one doubles.
const UNDONE_WAIT: Duration = Duration::from_millis(3);

/// How the tables stand.
#[derive(Debug, Clone)]
enum Phase {
    /// Not looked at yet.
    Starting,
    Ready,
    /// The last try failed; which one it was, and what callers hear.
    Failed {
        tries: u64,
        kind: ErrorKind,
        message: String,
    },
}

#[derive(Debug)]
enum Pool {
    Mysql(sqlx::Pool<MySql>),
    Postgres(sqlx::Pool<Postgres>),
}

#[derive(Debug)]
pub(crate) struct Database {
    pool: Pool,
    prefix: String,
    pool_max: u32,
    operation_timeout: Duration,
    call_timeout: Duration,
    retries_max: u32,
    phase: watch::Receiver<Phase>,
    /// Somebody waits for the tables: try now.
    wanted: Arc<Notify>,
    link: Arc<Link>,
}

impl Database {
    pub(crate) fn open(settings: Settings, runtime: &tokio::runtime::Handle) -> Arc<Self> {
        let link =
            Arc::new(Link { opened: Instant::now(), is_up: AtomicBool::new(false), lost_at_ms: AtomicU64::new(0) });
        let pool = match &settings.target {
            Target::Mysql(options) => Pool::Mysql(mysql_options(&settings, &link).connect_lazy_with(options.clone())),
            Target::Postgres(options) => {
                Pool::Postgres(postgres_options(&settings, &link).connect_lazy_with(options.clone()))
            }
        };
        let (told, phase) = watch::channel(Phase::Starting);
        let database = Arc::new(Self {
            pool,
            prefix: settings.prefix.clone(),
            pool_max: settings.pool_max_connections,
            operation_timeout: settings.operation_timeout,
            call_timeout: settings.acquire_timeout + settings.operation_timeout,
            retries_max: settings.retries_max,
            phase,
            wanted: Arc::new(Notify::new()),
            link,
        });
        let weak = Arc::downgrade(&database);
        let wanted = Arc::clone(&database.wanted);
        // Ends with the last handle, or once the tables are there.
        drop(runtime.spawn(make_ready(weak, wanted, told, settings)));
        database
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.pool {
            Pool::Mysql(_) => Dialect::Mysql,
            Pool::Postgres(_) => Dialect::Postgres,
        }
    }

    /// How many rows it touched; on both databases those that it found, changed or not.
    pub(crate) async fn execute(&self, statement: Statement) -> Result<u64, PortError> {
        let work = Work::Write(statement.render(self.dialect(), &self.prefix));
        Ok(self.run(&work).await?.map_err(Trouble::into_error)?.affected)
    }

    /// Inserts a row; whether no unique key had it.
    pub(crate) async fn insert_new(&self, mut statement: Statement) -> Result<bool, PortError> {
        if self.dialect() == Dialect::Postgres {
            statement.sql.push_str(" ON CONFLICT DO NOTHING");
        }
        let work = Work::Write(statement.render(self.dialect(), &self.prefix));
        match self.run(&work).await? {
            Ok(done) => Ok(done.affected > 0),
            Err(trouble) if trouble.is_duplicate() => Ok(false),
            Err(trouble) => Err(trouble.into_error()),
        }
    }

    pub(crate) async fn query(&self, statement: Statement) -> Result<Vec<Row>, PortError> {
        let work = Work::Read(statement.render(self.dialect(), &self.prefix));
        Ok(self.run(&work).await?.map_err(Trouble::into_error)?.rows)
    }

    /// All of them or none.
    pub(crate) async fn transaction(&self, statements: Vec<Statement>) -> Result<(), PortError> {
        let rendered = statements.into_iter().map(|one| one.render(self.dialect(), &self.prefix)).collect();
        self.run(&Work::Transaction(rendered)).await?.map_err(Trouble::into_error).map(drop)
    }

    /// Once the tables are there; again where the database undid it, as often as may be.
    async fn run(&self, work: &Work) -> Result<Result<Done, Trouble>, PortError> {
        self.ready().await?;
        let mut tries = 0;
        loop {
            let trouble = match self.attempt(work).await {
                Ok(done) => {
                    self.link.is_there();
                    return Ok(Ok(done));
                }
                Err(trouble) => trouble,
            };
            if trouble.is_loss() {
                self.link.is_lost();
            }
            if !trouble.is_undone() || tries >= self.retries_max {
                return Ok(Err(trouble));
            }
            tries += 1;
            tracing::debug!(target: "sandpost_shared_state", tries, "the database undid a statement; again");
            tokio::time::sleep(apart(UNDONE_WAIT * 2_u32.saturating_pow(tries.min(8)))).await;
        }
    }

    async fn attempt(&self, work: &Work) -> Result<Done, Trouble> {
        match &self.pool {
            Pool::Mysql(pool) => engine::mysql::attempt(pool, work, self.operation_timeout).await,
            Pool::Postgres(pool) => engine::postgres::attempt(pool, work, self.operation_timeout).await,
        }
    }

    /// Waits for the tables: for one try of the background task, no longer.
    async fn ready(&self) -> Result<(), PortError> {
        let mut phase = self.phase.clone();
        let seen = match &*phase.borrow_and_update() {
            Phase::Ready => return Ok(()),
            Phase::Starting => 0,
            Phase::Failed { tries, .. } => *tries,
        };
        self.wanted.notify_one();
        let is_told = |phase: &Phase| match phase {
            Phase::Ready => true,
            Phase::Starting => false,
            Phase::Failed { tries, .. } => *tries > seen,
        };
        let answer = tokio::time::timeout(self.call_timeout, phase.wait_for(is_told)).await;
        match answer {
            Ok(Ok(phase)) => match &*phase {
                Phase::Ready => Ok(()),
                Phase::Failed { kind, message, .. } => Err(PortError::new(*kind, message.clone())),
                Phase::Starting => Err(not_ready()),
            },
            Ok(Err(_)) | Err(_) => Err(not_ready()),
        }
    }

    /// How long one try of a call may take: to a connection, and to the answer.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(crate) fn pool(&self) -> PoolUse {
        let (size, idle) = match &self.pool {
            Pool::Mysql(pool) => (pool.size(), pool.num_idle()),
            Pool::Postgres(pool) => (pool.size(), pool.num_idle()),
        };
        let idle = u64::try_from(idle).unwrap_or(0);
        PoolUse { in_use: u64::from(size).saturating_sub(idle), idle, max: u64::from(self.pool_max) }
    }

    pub(crate) async fn close(&self) {
        match &self.pool {
            Pool::Mysql(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
    }

    async fn migrate(&self, limit: Duration) -> Result<(), Failed> {
        match &self.pool {
            Pool::Mysql(pool) => migrate::mysql(pool, &self.prefix, limit).await,
            Pool::Postgres(pool) => migrate::postgres(pool, &self.prefix, limit).await,
        }
    }
}

fn not_ready() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the state's tables are not there yet")
}

/// Brings the tables up to date, however long the database takes to come.
async fn make_ready(weak: Weak<Database>, wanted: Arc<Notify>, told: watch::Sender<Phase>, settings: Settings) {
    let mut wait = settings.reconnect_min;
    let mut tries = 0;
    loop {
        let Some(database) = weak.upgrade() else { return };
        let outcome = database.migrate(settings.migrate_timeout).await;
        drop(database);
        let failed = match outcome {
            Ok(()) => {
                tracing::info!(target: "sandpost_shared_state", "the tables are up to date");
                told.send_replace(Phase::Ready);
                return;
            }
            Err(failed) => failed,
        };
        tries += 1;
        let error = failed.into_error();
        let cause = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            target: "sandpost_shared_state",
            reason = error.message,
            cause,
            again_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "the state is not ready"
        );
        told.send_replace(Phase::Failed { tries, kind: error.kind, message: error.message });
        tokio::select! {
            () = tokio::time::sleep(apart(wait)) => {}
            // Whoever waits is told of a try of now; many that wait are not many tries.
            () = async { wanted.notified().await; tokio::time::sleep(settings.reconnect_min).await } => {}
        }
        wait = (wait * 2).min(settings.reconnect_max);
    }
}

/// A wait between half of it and all of it, so that hosts that failed together do not come again together.
fn apart(wait: Duration) -> Duration {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    // The standard library's hasher has keys of chance; that is random enough for a wait.
    let dice = u32::try_from(RandomState::new().build_hasher().finish() % 512).unwrap_or(0);
    wait * (512 + dice) / 1024
}

/// What was last seen of the database, so that each change is said once and no connection from before a loss is trusted.
#[derive(Debug)]
struct Link {
    opened: Instant,
    is_up: AtomicBool,
    /// Since `opened`; 0 for never.
    lost_at_ms: AtomicU64,
}

impl Link {
    fn is_there(&self) {
        if !self.is_up.load(Ordering::Relaxed) && !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!(target: "sandpost_shared_state", "connected");
        }
    }

    fn is_lost(&self) {
        // Rounded up: a connection that rested since the same millisecond is from before it.
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        self.lost_at_ms.store(now_ms, Ordering::Relaxed);
        if self.is_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(target: "sandpost_shared_state", "connection lost; the next call connects again");
        }
    }

    fn trusts(&self, idle_for: Duration) -> bool {
        let lost_at = Duration::from_millis(self.lost_at_ms.load(Ordering::Relaxed));
        let since_loss = self.opened.elapsed().saturating_sub(lost_at);
        idle_for < TRUSTED_FOR && (lost_at.is_zero() || idle_for < since_loss)
    }
}

fn options<DB: sqlx::Database>(settings: &Settings, link: &Arc<Link>) -> PoolOptions<DB> {
    let link = Arc::clone(link);
    PoolOptions::new()
        .max_connections(settings.pool_max_connections)
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(settings.idle_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection: &mut DB::Connection, seen: PoolConnectionMetadata| {
            let is_trusted = link.trusts(seen.idle_for);
            Box::pin(async move { Ok(is_trusted || connection.ping().await.is_ok()) }) as BoxFuture<'_, _>
        })
}

fn mysql_options(settings: &Settings, link: &Arc<Link>) -> PoolOptions<MySql> {
    let lock_timeout_s = settings.lock_timeout.as_secs().max(1);
    options(settings, link).after_connect(move |connection: &mut MySqlConnection, _| {
        Box::pin(async move {
            connection.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'").await?;
            // Each statement sees what is committed, and no gap between rows is locked.
            connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
            let wait = format!("SET SESSION innodb_lock_wait_timeout = {lock_timeout_s}");
            connection.execute(sqlx::AssertSqlSafe(wait)).await?;
            tracing::debug!(target: "sandpost_shared_state", "a connection was made");
            Ok(())
        })
    })
}

fn postgres_options(settings: &Settings, link: &Arc<Link>) -> PoolOptions<Postgres> {
    let (lock_ms, statement_ms) = (settings.lock_timeout.as_millis(), settings.operation_timeout.as_millis());
    options(settings, link).after_connect(move |connection: &mut PgConnection, _| {
        Box::pin(async move {
            let session = format!(
                "SET lock_timeout = {lock_ms}; SET statement_timeout = {statement_ms}; \
                 SET default_transaction_isolation = 'read committed'; SET client_min_messages = warning"
            );
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(session))).await?;
            tracing::debug!(target: "sandpost_shared_state", "a connection was made");
            Ok(())
        })
    })
}
