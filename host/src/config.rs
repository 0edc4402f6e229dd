//! The configuration: the sum of what each layer takes, and the environment variables above it.
//!
//! Every key is documented in `sandpost.example.toml`, which a test parses and starts. Names of variables are those of
//! the origin documents where they have one.
//!
//! Not here: how a file is read and where a value came from (`load`), which services there are (`services`), what the
//! layers' keys mean (each layer).

pub(crate) mod load;
pub(crate) mod services;

use crate::exit::{Exit, Expected};
use load::{Kind, Loaded, Lookup, Variable};
use sandpost_guard::BreakerConfig;
use sandpost_interfaces::Grants;
use sandpost_message::{ConnectionLabel, PluginName};
use sandpost_ports::documents::Index;
use services::{BrokerDriver, CacheDriver, DocumentsDriver, EmailDriver, SqlDriver, StateDriver, Word as _};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The whole of `sandpost.toml`.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The name in logs.
    pub(crate) service: String,
    /// Production refuses what is fine on a laptop: no tokens, grants as requested.
    pub(crate) environment: Environment,
    /// Where the embedded drivers and compiled plugins are kept.
    pub(crate) data_dir: PathBuf,
    /// How long a stop waits for what is in flight before it hands it back.
    pub(crate) shutdown_grace_ms: u64,
    /// How long a provider may take for one effect; longer, and its outcome is unknown.
    pub(crate) effect_timeout_ms: u64,
    /// How often each connection is looked at.
    pub(crate) health_interval_ms: u64,
    /// Of every connection to a real service.
    pub(crate) breaker: BreakerConfig,
    pub(crate) log: Log,
    pub(crate) http: sandpost_ingress::Config,
    pub(crate) dispatch: sandpost_dispatch::Config,
    pub(crate) runtime: sandpost_runtime::EngineConfig,
    pub(crate) deployment: Deployment,
    /// By name.
    pub(crate) plugins: BTreeMap<PluginName, Plugin>,
    /// By name.
    pub(crate) subscriptions: sandpost_dispatch::Subscriptions,
    pub(crate) broker: Broker,
    pub(crate) state: State,
    pub(crate) cache: Cache,
    pub(crate) email: Email,
    /// By the label that plugins use.
    pub(crate) sql: BTreeMap<ConnectionLabel, Sql>,
    /// By the label that plugins use.
    pub(crate) documents: BTreeMap<ConnectionLabel, Documents>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service: "sandpost".to_owned(),
            environment: Environment::Development,
            data_dir: PathBuf::from("sandpost-data"),
            // Twice the longest handler by default, so that a stop on a healthy host cuts nothing off.
            shutdown_grace_ms: 30_000,
            effect_timeout_ms: 30_000,
            health_interval_ms: 5_000,
            breaker: BreakerConfig::default(),
            log: Log::default(),
            http: sandpost_ingress::Config::default(),
            dispatch: sandpost_dispatch::Config::default(),
            runtime: sandpost_runtime::EngineConfig::default(),
            deployment: Deployment::default(),
            plugins: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            broker: Broker::default(),
            state: State::default(),
            cache: Cache::default(),
            email: Email::default(),
            sql: BTreeMap::new(),
            documents: BTreeMap::new(),
        }
    }
}

/// How careful to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Environment {
    #[default]
    Development,
    Test,
    Staging,
    Production,
}

#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) level: sandpost_telemetry::Level,
    pub(crate) format: sandpost_telemetry::Format,
}

/// Where plugins come from, what they have to pass, and who says what they get.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Deployment {
    /// Every `*.wasm` in it is a plugin; it is watched.
    pub(crate) directory: PathBuf,
    pub(crate) grants: GrantMode,
    /// How long a file must not have changed before it is judged.
    pub(crate) settle_ms: u64,
    /// How often the folder is looked at without an event.
    pub(crate) rescan_ms: u64,
    /// The largest file that is taken.
    pub(crate) artifact_max_bytes: u64,
    /// Plugins compiled at once.
    pub(crate) compile_parallel: usize,
    /// How long all samples of a version may take together.
    pub(crate) trial_max_ms: u64,
}

impl Default for Deployment {
    fn default() -> Self {
        let folder = sandpost_runtime::FolderConfig::default();
        let options = sandpost_runtime::Options::default();
        Self {
            directory: folder.path,
            grants: GrantMode::default(),
            settle_ms: folder.settle_ms,
            rescan_ms: folder.rescan_ms,
            // Python's components are 18 MB, those of JavaScript 12; more is a mistake.
            artifact_max_bytes: 64 * 1024 * 1024,
            compile_parallel: options.compile_parallel,
            trial_max_ms: options.trial_max_ms,
        }
    }
}

/// Who says what a plugin may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GrantMode {
    /// `[plugins.NAME.grants]`; a plugin that asks for more does not go live.
    #[default]
    Configured,
    /// The plugin's own manifest. For development.
    Requested,
}

/// What the operator says about one plugin.
#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Plugin {
    pub(crate) grants: Grants,
    /// What the plugin reads through `config`.
    pub(crate) config: BTreeMap<String, String>,
    /// Put before the plugin's cache keys; the plugin's name and a colon where left out, nothing where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_scope: Option<String>,
}

#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Broker {
    pub(crate) driver: BrokerDriver,
    pub(crate) embedded: sandpost_embedded_store::Config,
    pub(crate) pubsub: services::Pubsub,
}

/// Ledger, dead letters, effects, publishers' requests, deployments.
#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct State {
    pub(crate) driver: StateDriver,
    /// The variable that holds the database's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_from_env: Option<String>,
    pub(crate) shared: services::Shared,
}

#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cache {
    pub(crate) driver: CacheDriver,
    /// The variable that holds the service's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_from_env: Option<String>,
    /// Put before every key, before the plugin's scope.
    pub(crate) key_prefix: String,
    /// The time to live of an entry whose plugin named none.
    pub(crate) default_ttl_seconds: u64,
    /// Whether publishers' requests by `Idempotency-Key` lie in the cache, where several hosts share it and no state.
    pub(crate) idempotency: bool,
    pub(crate) embedded: sandpost_embedded_cache::Config,
    pub(crate) redis: services::Redis,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            driver: CacheDriver::default(),
            url_from_env: None,
            key_prefix: String::new(),
            // As in the origin documents, `REDIS_TTL_SECONDS`.
            default_ttl_seconds: 3600,
            idempotency: true,
            embedded: sandpost_embedded_cache::Config::default(),
            redis: services::Redis::default(),
        }
    }
}

#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Email {
    pub(crate) driver: EmailDriver,
    /// Who sends where the plugin names no sender: `address`, or `Name <address>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// Who gets everybody's mail instead of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redirect_to: Option<String>,
    /// Addresses and domains, with commas between, that get their own mail; the others' is redirected or left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allowlist: Option<String>,
    pub(crate) limits: sandpost_mail::Limits,
    pub(crate) embedded: sandpost_embedded_email::Config,
    pub(crate) ses: services::Ses,
    pub(crate) smtp: services::Smtp,
}

#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sql {
    pub(crate) driver: SqlDriver,
    /// The variable that holds the database's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_from_env: Option<String>,
    pub(crate) embedded: sandpost_embedded_sql::Config,
    pub(crate) mysql: services::Mysql,
    pub(crate) postgres: services::Postgres,
}

#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Documents {
    pub(crate) driver: DocumentsDriver,
    /// The variable that holds the service's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_from_env: Option<String>,
    pub(crate) embedded: sandpost_embedded_documents::Config,
    pub(crate) mongo: services::Mongo,
    /// Indexes that are made at the start where they are missing, by collection.
    pub(crate) indexes: BTreeMap<String, Vec<Index>>,
}

/// The variables that set a key. All of them, in one place.
pub(crate) const VARIABLES: &[Variable] = &[
    Variable { name: "SANDPOST_SERVICE", key: "service", kind: Kind::Text, help: "the name in logs" },
    Variable { name: "SANDPOST_DATA_DIR", key: "data_dir", kind: Kind::Text, help: "a folder" },
    Variable { name: "SANDPOST_LISTEN", key: "http.listen", kind: Kind::Text, help: "an address, as 127.0.0.1:8080" },
    Variable { name: "SANDPOST_PLUGINS", key: "deployment.directory", kind: Kind::Text, help: "a folder" },
    Variable {
        name: "NODE_ENV",
        key: "environment",
        kind: Kind::Word,
        help: "development, test, staging or production",
    },
    Variable { name: "LOG_LEVEL", key: "log.level", kind: Kind::Word, help: "trace, debug, info, warn or error" },
    Variable { name: "REDIS_KEY_PREFIX", key: "cache.key_prefix", kind: Kind::Text, help: "put before cache keys" },
    Variable {
        name: "REDIS_TTL_SECONDS",
        key: "cache.default_ttl_seconds",
        kind: Kind::Integer,
        help: "a whole number of seconds",
    },
    Variable { name: "AWS_SES_FROM_ADDRESS", key: "email.from", kind: Kind::Text, help: "the default sender" },
    Variable {
        name: "HEALTH_TIMEOUT_MS",
        key: "http.health_timeout_ms",
        kind: Kind::Integer,
        help: "a whole number of milliseconds",
    },
    Variable {
        name: "SHUTDOWN_GRACE_MS",
        key: "shutdown_grace_ms",
        kind: Kind::Integer,
        help: "a whole number of milliseconds",
    },
];

/// The file that is read where none is named, if it is there.
const DEFAULT_FILE: &str = "sandpost.toml";

/// Reads and checks the configuration. Nothing is opened and no port is bound.
pub(crate) fn read(file: Option<&Path>, lookup: Lookup<'_>) -> Result<Loaded<Config>, Expected> {
    let file = file.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|path| path.is_file()));
    let variables: Vec<Variable> = VARIABLES.iter().chain(services::VARIABLES).copied().collect();
    let mut loaded = load::load::<Config>(file, &variables, |table| services::choose(table, lookup), lookup)?;
    services::resolve(&mut loaded.config, lookup)?;
    check(&loaded.config)?;
    let ignored = services::without_driver(lookup);
    if loaded.config.environment == Environment::Production && !ignored.is_empty() {
        let set: Vec<String> = ignored.iter().map(|(name, driver)| format!("{name} (driver `{driver}`)")).collect();
        return Err(Expected::new(
            Exit::Config,
            format!("failed to read config: {} is set, but this build has no driver for it", set.join(", ")),
        )
        .hint("unset it, or run a build that has the driver (`--features services` has all); embedded drivers must not stand in unnoticed"));
    }
    Ok(loaded)
}

/// The process's environment, as [`read`] wants it.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What is wrong with the configuration, as an error.
pub(crate) fn wrong(reason: &str) -> Expected {
    Expected::new(Exit::Config, format!("failed to read config: {reason}"))
}

fn check(config: &Config) -> Result<(), Expected> {
    let wrong = |reason: String| wrong(&reason);
    config.http.validate().map_err(|error| wrong(error.to_string()))?;
    sandpost_dispatch::validate(&config.dispatch, &config.subscriptions).map_err(|error| wrong(error.to_string()))?;
    for (key, value, least, most) in [
        ("shutdown_grace_ms", config.shutdown_grace_ms, 0, 10 * 60 * 1000),
        ("effect_timeout_ms", config.effect_timeout_ms, 100, 10 * 60 * 1000),
        ("health_interval_ms", config.health_interval_ms, 100, 60 * 60 * 1000),
        ("deployment.settle_ms", config.deployment.settle_ms, 1, 60_000),
        ("deployment.rescan_ms", config.deployment.rescan_ms, 10, 60 * 60 * 1000),
        ("deployment.trial_max_ms", config.deployment.trial_max_ms, 100, 60 * 60 * 1000),
        ("deployment.compile_parallel", config.deployment.compile_parallel as u64, 1, 64),
        ("deployment.artifact_max_bytes", config.deployment.artifact_max_bytes, 1024, 1 << 30),
        ("cache.default_ttl_seconds", config.cache.default_ttl_seconds, 1, 10 * 366 * 24 * 60 * 60),
        ("runtime.threads", config.runtime.threads as u64, 0, 1024),
        ("runtime.instances_max", config.runtime.instances_max as u64, 1, 100_000),
    ] {
        if !(least..=most).contains(&value) {
            return Err(wrong(format!("`{key}` is {value}; it must be {least} to {most}")));
        }
    }
    config.breaker.validate().map_err(|error| {
        wrong(format!("`breaker.{}` must be {} to {}", error.key, error.range.start(), error.range.end()))
    })?;
    services::check_built("broker.driver", config.broker.driver.word())?;
    services::check_built("state.driver", config.state.driver.word())?;
    services::check_built("cache.driver", config.cache.driver.word())?;
    services::check_built("email.driver", config.email.driver.word())?;
    for (label, sql) in &config.sql {
        services::check_built(&format!("sql.{label}.driver"), sql.driver.word())?;
    }
    for (label, documents) in &config.documents {
        services::check_built(&format!("documents.{label}.driver"), documents.driver.word())?;
    }
    sandpost_mail::Policy::parse(config.email.redirect_to.as_deref(), config.email.allowlist.as_deref())
        .map_err(|error| wrong(format!("`email.redirect_to` or `email.allowlist`: {error}")))?;
    if let Some(from) = &config.email.from {
        sandpost_mail::parse_address(from).map_err(|error| wrong(format!("`email.from`: {error}")))?;
    }
    if config.environment == Environment::Production {
        if config.http.tokens.is_empty() {
            return Err(wrong("in production there must be a token".to_owned())
                .hint("add [http.tokens.NAME] with `role` and `token_from_env`"));
        }
        if config.deployment.grants == GrantMode::Requested {
            return Err(wrong("in production `deployment.grants` must be `configured`".to_owned())
                .hint("give each plugin its [plugins.NAME.grants]; `sandpost explain FILE` prints what it asks for"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded<Config>, Expected> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sandpost.toml");
        std::fs::write(&path, text).unwrap();
        read(Some(&path), &|name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_valid() {
        assert!(read_text("", &[]).is_ok());
    }

    #[test]
    fn production_refuses_to_start_open() {
        let error = read_text("", &[("NODE_ENV", "production")]).unwrap_err();
        assert_eq!(error.message, "failed to read config: in production there must be a token");
        let text =
            "[http.tokens.ops]\nrole = \"admin\"\ntoken_from_env = \"T\"\n[deployment]\ngrants = \"requested\"\n";
        let error = read_text(text, &[("NODE_ENV", "production")]).unwrap_err();
        assert_eq!(error.message, "failed to read config: in production `deployment.grants` must be `configured`");
    }

    #[test]
    fn production_does_not_pass_over_a_real_service() {
        let text = "[http.tokens.ops]\nrole = \"admin\"\ntoken_from_env = \"T\"\n";
        let error = read_text(text, &[("NODE_ENV", "production"), ("RABBITMQ_URL", "amqp://h")]).unwrap_err();
        assert!(error.message.contains("RABBITMQ_URL (driver `rabbitmq`) is set"), "{}", error.message);
        assert!(!error.message.contains("amqp://"), "an address has no place in a message");
    }

    #[test]
    fn a_driver_that_this_build_lacks_is_refused_with_its_feature() {
        for (key, word, table) in [
            ("cache.driver", "redis", "[cache]"),
            ("broker.driver", "pubsub", "[broker]"),
            ("email.driver", "ses", "[email]"),
            ("email.driver", "smtp", "[email]"),
            ("sql.main.driver", "mysql", "[sql.main]"),
            ("sql.main.driver", "postgres", "[sql.main]"),
            ("documents.main.driver", "mongo", "[documents.main]"),
        ] {
            let read =
                read_text(&format!("{table}\ndriver = \"{word}\"\n[{}.{word}]\n", &table[1..table.len() - 1]), &[]);
            if services::is_built(word) {
                read.unwrap();
                continue;
            }
            let error = read.unwrap_err();
            assert!(error.message.contains(&format!("`{key}` is \"{word}\"")), "{}", error.message);
            assert!(error.hint.unwrap().contains(&format!("--features {word}")));
        }
    }

    #[test]
    fn the_example_has_every_key_of_every_driver_that_is_built() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../sandpost.example.toml");
        let loaded = read(Some(Path::new(example)), &|_| None).unwrap();
        let missing: Vec<String> = loaded
            .values()
            .unwrap()
            .into_iter()
            .filter(|(_, _, origin)| *origin == load::Origin::Default)
            .map(|(key, _, _)| key)
            .collect();
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn an_address_comes_from_a_variable_of_the_files_choice() {
        let text = "[documents.orders]\nurl_from_env = \"ORDERS_URL\"\n";
        let error = read_text(text, &[]).unwrap_err();
        assert!(error.message.contains("`documents.orders.url_from_env`"), "{}", error.message);
        assert!(read_text(text, &[("ORDERS_URL", "mongodb://h/d")]).is_ok());
    }

    /// Each variable with a text, its key, and what `doctor` shows of it.
    const LANDS: &[(&str, &str, &str, &str)] = &[
        ("SANDPOST_SERVICE", "orders", "service", "orders"),
        ("SANDPOST_DATA_DIR", "elsewhere", "data_dir", "elsewhere"),
        ("SANDPOST_LISTEN", "127.0.0.1:9", "http.listen", "127.0.0.1:9"),
        ("SANDPOST_PLUGINS", "elsewhere", "deployment.directory", "elsewhere"),
        ("NODE_ENV", "STAGING", "environment", "staging"),
        ("LOG_LEVEL", "DEBUG", "log.level", "debug"),
        ("REDIS_KEY_PREFIX", "vibe:", "cache.key_prefix", "vibe:"),
        ("REDIS_TTL_SECONDS", "77", "cache.default_ttl_seconds", "77"),
        ("AWS_SES_FROM_ADDRESS", "a@example.com", "email.from", "a@example.com"),
        ("HEALTH_TIMEOUT_MS", "777", "http.health_timeout_ms", "777"),
        ("SHUTDOWN_GRACE_MS", "777", "shutdown_grace_ms", "777"),
        ("MAIL_REDIRECT_TO", "a@example.com", "email.redirect_to", "a@example.com"),
        ("MAIL_ALLOWLIST", "example.com", "email.allowlist", "example.com"),
        ("AWS_SES_FROM_ADDRESS", "a@example.com", "email.ses.from_address", "a@example.com"),
        ("SMTP_URL", "smtp://h", "email.smtp.url", "***"),
        ("SANDPOST_STATE_URL", "mysql://h/d", "state.shared.url", "***"),
        ("REDIS_URL", "redis://h", "cache.redis.url", "***"),
        ("REDIS_PASSWORD", "p", "cache.redis.password", "***"),
        ("GOOGLE_CLOUD_PROJECT", "first", "broker.pubsub.project", "first"),
        ("PUBSUB_PROJECT_ID", "second", "broker.pubsub.project", "second"),
        ("PUBSUB_EMULATOR_HOST", "h:1", "broker.pubsub.emulator_host", "***"),
        ("MYSQL_HOST", "h", "sql.main.mysql.host", "h"),
        ("MYSQL_PORT", "3307", "sql.main.mysql.port", "3307"),
        ("MYSQL_USER", "u", "sql.main.mysql.user", "u"),
        ("MYSQL_PASSWORD", "p", "sql.main.mysql.password", "***"),
        ("MYSQL_DATABASE", "d", "sql.main.mysql.database", "d"),
        ("MYSQL_POOL_MAX_CONNECTIONS", "7", "sql.main.mysql.pool_max_connections", "7"),
        ("DATABASE_URL", "postgres://h/d", "sql.main.postgres.url", "***"),
        ("DATABASE_READ_REPLICA_URL", "postgres://r/d", "sql.main.postgres.read_replica_url", "***"),
        ("MONGODB_URL", "mongodb://h/first", "documents.main.mongo.url", "***"),
        ("MONGODB_URI", "mongodb://h/second", "documents.main.mongo.url", "***"),
        ("MONGODB_CONNECTION_POOL_SIZE", "7", "documents.main.mongo.pool_max_connections", "7"),
    ];

    #[test]
    fn each_variable_lands_in_its_key() {
        let known: Vec<(&str, &str)> =
            VARIABLES.iter().chain(services::VARIABLES).map(|variable| (variable.name, variable.key)).collect();
        let mut tried = Vec::new();
        for &(name, text, key, shown) in LANDS {
            if !key.split('.').all(services::is_built) {
                continue;
            }
            let values = read_text("", &[(name, text)]).unwrap().values().unwrap();
            let (_, value, origin) = values.iter().find(|(found, _, _)| found == key).expect(key);
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!((value.as_str(), origin), (shown, &load::Origin::Environment(name)), "{name}");
            tried.push((name, key));
        }
        assert_eq!(tried, known, "a variable has no row here");
    }

    #[test]
    fn of_two_spellings_one_wins_and_it_is_said() {
        for (taken, left, key) in [
            ("PUBSUB_PROJECT_ID", "GOOGLE_CLOUD_PROJECT", "broker.pubsub.project"),
            ("MONGODB_URI", "MONGODB_URL", "documents.main.mongo.url"),
        ] {
            let both = [(left, "mongodb://h/left"), (taken, "mongodb://h/taken")];
            let lookup = |set: &[(&str, &str)], name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(services::overruled(&|name| lookup(&both, name)), [(taken, left)]);
            for quiet in [&both[..1], &both[1..], &[(left, "same"), (taken, "same")], &[(left, ""), (taken, "x")]] {
                assert_eq!(services::overruled(&|name| lookup(quiet, name)), [], "{quiet:?}");
            }
            if !key.split('.').all(services::is_built) {
                continue;
            }
            let loaded = read_text("", &both).unwrap();
            let values = loaded.values().unwrap();
            let (_, _, origin) = values.iter().find(|(found, _, _)| found == key).expect(key);
            assert_eq!(*origin, load::Origin::Environment(taken));
            #[cfg(feature = "pubsub")]
            if key == "broker.pubsub.project" {
                assert_eq!(loaded.config.broker.pubsub.project.as_deref(), Some("mongodb://h/taken"));
            }
            #[cfg(feature = "mongo")]
            if key == "documents.main.mongo.url" {
                let main = loaded.config.documents.values().next().unwrap();
                assert_eq!(main.mongo.url.as_ref().map(sandpost_ports::Secret::reveal), Some("mongodb://h/taken"));
            }
        }
    }

    #[test]
    fn an_unknown_driver_is_refused() {
        let error = read_text("[cache]\ndriver = \"memcached\"\n", &[]).unwrap_err();
        assert!(error.message.contains("memcached"), "{}", error.message);
    }
}
