//! Which services there are: the words for drivers, the Cargo feature behind each, and the variables of the origin
//! documents that set their keys and choose them.
//!
//! Invariant: a word is known in every build, so that a file means the same everywhere; what a build lacks is an error
//! that names the feature, never another driver in its place.
//!
//! Not here: how a driver is opened (`drivers`).

use super::Config;
use super::load::{Chosen, Kind, Lookup, Variable};
use crate::exit::{Exit, Expected};
use sandpost_ports::Secret;
use toml::{Table, Value};

#[cfg(not(feature = "mongo"))]
pub(crate) use absent::Absent as Mongo;
#[cfg(not(feature = "mysql"))]
pub(crate) use absent::Absent as Mysql;
#[cfg(not(feature = "postgres"))]
pub(crate) use absent::Absent as Postgres;
#[cfg(not(feature = "pubsub"))]
pub(crate) use absent::Absent as Pubsub;
#[cfg(not(feature = "redis"))]
pub(crate) use absent::Absent as Redis;
#[cfg(not(feature = "ses"))]
pub(crate) use absent::Absent as Ses;
#[cfg(not(feature = "shared"))]
pub(crate) use absent::Absent as Shared;
#[cfg(not(feature = "smtp"))]
pub(crate) use absent::Absent as Smtp;
#[cfg(feature = "mongo")]
pub(crate) use sandpost_mongo::Config as Mongo;
#[cfg(feature = "pubsub")]
pub(crate) use sandpost_pubsub::Config as Pubsub;
#[cfg(feature = "redis")]
pub(crate) use sandpost_redis::Config as Redis;
#[cfg(feature = "ses")]
pub(crate) use sandpost_ses::Config as Ses;
#[cfg(feature = "shared")]
pub(crate) use sandpost_shared_state::Config as Shared;
#[cfg(feature = "smtp")]
pub(crate) use sandpost_smtp::Config as Smtp;
#[cfg(feature = "mysql")]
pub(crate) use sandpost_sql::Config as Mysql;
#[cfg(feature = "postgres")]
pub(crate) use sandpost_sql::Config as Postgres;

/// Each service with whether this build can speak to it. The word is the driver's and the feature's.
pub(crate) const BUILT: &[(&str, bool)] = &[
    ("redis", cfg!(feature = "redis")),
    ("pubsub", cfg!(feature = "pubsub")),
    ("ses", cfg!(feature = "ses")),
    ("smtp", cfg!(feature = "smtp")),
    ("mysql", cfg!(feature = "mysql")),
    ("postgres", cfg!(feature = "postgres")),
    ("mongo", cfg!(feature = "mongo")),
    ("shared", cfg!(feature = "shared")),
];

/// Whether this build has the driver. The embedded ones are in every build.
pub(crate) fn is_built(word: &str) -> bool {
    BUILT.iter().find(|(service, _)| *service == word).is_none_or(|(_, built)| *built)
}

/// The drivers of this build, for a person.
pub(crate) fn built() -> String {
    let mut words = vec!["embedded"];
    words.extend(BUILT.iter().filter(|(_, built)| *built).map(|(word, _)| *word));
    words.join(", ")
}

/// What stands behind the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BrokerDriver {
    #[default]
    Embedded,
    Pubsub,
}

/// What stands behind the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CacheDriver {
    #[default]
    Embedded,
    Redis,
}

/// Who takes mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EmailDriver {
    /// The mail catcher.
    #[default]
    #[serde(alias = "catch")]
    Embedded,
    Ses,
    Smtp,
    /// Nobody: every mail is thrown away.
    Null,
}

/// Where the host's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StateDriver {
    /// In a file of this host.
    #[default]
    Embedded,
    /// In a MySQL or Postgres database, shared by all hosts.
    Shared,
}

/// What stands behind a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SqlDriver {
    #[default]
    Embedded,
    Mysql,
    Postgres,
}

/// What stands behind a document database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DocumentsDriver {
    #[default]
    Embedded,
    Mongo,
}

/// The word of a driver, as in the configuration.
pub(crate) trait Word {
    fn word(self) -> &'static str;
}

impl Word for BrokerDriver {
    fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Pubsub => "pubsub",
        }
    }
}

impl Word for CacheDriver {
    fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
        }
    }
}

impl Word for EmailDriver {
    fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Ses => "ses",
            Self::Smtp => "smtp",
            Self::Null => "null",
        }
    }
}

impl Word for StateDriver {
    fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Shared => "shared",
        }
    }
}

impl Word for SqlDriver {
    fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Mysql => "mysql",
            Self::Postgres => "postgres",
        }
    }
}

impl Word for DocumentsDriver {
    fn word(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Mongo => "mongo",
        }
    }
}

#[cfg(not(all(
    feature = "mongo",
    feature = "mysql",
    feature = "postgres",
    feature = "pubsub",
    feature = "redis",
    feature = "ses",
    feature = "shared",
    feature = "smtp"
)))]
mod absent {
    /// The table of a driver that this build lacks: taken, so that one file serves every build, and not looked at.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Absent(());

    impl<'de> serde::Deserialize<'de> for Absent {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self(()))
        }
    }

    impl serde::Serialize for Absent {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap as _;
            serializer.serialize_map(Some(0))?.end()
        }
    }
}

const fn text(name: &'static str, key: &'static str, help: &'static str) -> Variable {
    Variable { name, key, kind: Kind::Text, help }
}

#[cfg(any(feature = "mongo", feature = "mysql"))]
const fn integer(name: &'static str, key: &'static str, help: &'static str) -> Variable {
    Variable { name, key, kind: Kind::Integer, help }
}

/// The variables that set keys of services which this build can speak to. Of two that set one key the later wins.
pub(crate) const VARIABLES: &[Variable] = &[
    text("MAIL_REDIRECT_TO", "email.redirect_to", "one address"),
    text("MAIL_ALLOWLIST", "email.allowlist", "addresses and domains, with commas between"),
    #[cfg(feature = "ses")]
    text("AWS_SES_FROM_ADDRESS", "email.ses.from_address", "the default sender"),
    #[cfg(feature = "smtp")]
    text("SMTP_URL", "email.smtp.url", "smtp://user:password@host:port"),
    #[cfg(feature = "shared")]
    text("SANDPOST_STATE_URL", "state.shared.url", "mysql://… or postgres://user:password@host:port/database"),
    #[cfg(feature = "redis")]
    text("REDIS_URL", "cache.redis.url", "redis://host:port"),
    #[cfg(feature = "redis")]
    text("REDIS_PASSWORD", "cache.redis.password", "over that of the URL"),
    #[cfg(feature = "pubsub")]
    text("GOOGLE_CLOUD_PROJECT", "broker.pubsub.project", "a project's id"),
    #[cfg(feature = "pubsub")]
    text("PUBSUB_PROJECT_ID", "broker.pubsub.project", "a project's id"),
    #[cfg(feature = "pubsub")]
    text("PUBSUB_EMULATOR_HOST", "broker.pubsub.emulator_host", "host:port"),
    #[cfg(feature = "mysql")]
    text("MYSQL_HOST", "sql.main.mysql.host", "a host name or an address"),
    #[cfg(feature = "mysql")]
    integer("MYSQL_PORT", "sql.main.mysql.port", "a whole number"),
    #[cfg(feature = "mysql")]
    text("MYSQL_USER", "sql.main.mysql.user", "a user of the database"),
    #[cfg(feature = "mysql")]
    text("MYSQL_PASSWORD", "sql.main.mysql.password", "the user's"),
    #[cfg(feature = "mysql")]
    text("MYSQL_DATABASE", "sql.main.mysql.database", "the name of the database"),
    #[cfg(feature = "mysql")]
    integer("MYSQL_POOL_MAX_CONNECTIONS", "sql.main.mysql.pool_max_connections", "a whole number"),
    #[cfg(feature = "postgres")]
    text("DATABASE_URL", "sql.main.postgres.url", "postgres://user:password@host:port/database"),
    #[cfg(feature = "postgres")]
    text(
        "DATABASE_READ_REPLICA_URL",
        "sql.main.postgres.read_replica_url",
        "postgres://user:password@host:port/database",
    ),
    #[cfg(feature = "mongo")]
    text("MONGODB_URL", "documents.main.mongo.url", "mongodb://host:port/database"),
    #[cfg(feature = "mongo")]
    text("MONGODB_URI", "documents.main.mongo.url", "mongodb://host:port/database"),
    #[cfg(feature = "mongo")]
    integer("MONGODB_CONNECTION_POOL_SIZE", "documents.main.mongo.pool_max_connections", "a whole number"),
];

/// Two spellings of one thing in the origin documents. The first is taken.
const SPELLINGS: &[(&str, &str)] = &[("PUBSUB_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"), ("MONGODB_URI", "MONGODB_URL")];

/// Those of them that are both set and differ.
pub(crate) fn overruled(lookup: Lookup<'_>) -> Vec<(&'static str, &'static str)> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let differ = |taken: &str, left: &str| set(taken).zip(set(left)).is_some_and(|(taken, left)| taken != left);
    SPELLINGS.iter().copied().filter(|(taken, left)| differ(taken, left)).collect()
}

/// A variable that names a real service, and the driver that it needs.
const NAMES_A_SERVICE: &[(&str, &str)] = &[
    ("REDIS_URL", "redis"),
    ("SANDPOST_STATE_URL", "shared"),
    ("PUBSUB_EMULATOR_HOST", "pubsub"),
    ("PUBSUB_PROJECT_ID", "pubsub"),
    ("GOOGLE_CLOUD_PROJECT", "pubsub"),
    ("AWS_ACCESS_KEY_ID", "ses"),
    ("AWS_ROLE_ARN", "ses"),
    ("SMTP_URL", "smtp"),
    ("MYSQL_HOST", "mysql"),
    ("DATABASE_URL", "postgres"),
    ("DATABASE_READ_REPLICA_URL", "postgres"),
    ("MONGODB_URL", "mongo"),
    ("MONGODB_URI", "mongo"),
];

/// The variables that name a service which this build cannot speak to, each with the driver that it lacks.
pub(crate) fn without_driver(lookup: Lookup<'_>) -> Vec<(&'static str, String)> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let mut lacking: Vec<(&'static str, String)> = NAMES_A_SERVICE
        .iter()
        .filter(|(name, driver)| set(name).is_some() && !is_built(driver))
        .map(|(name, driver)| (*name, (*driver).to_owned()))
        .collect();
    if set("RABBITMQ_URL").is_some() {
        lacking.push(("RABBITMQ_URL", "rabbitmq".to_owned()));
    }
    if let Some(transport) = set("MAIL_TRANSPORT").map(|word| word.to_ascii_lowercase())
        && !is_built(&transport)
    {
        lacking.push(("MAIL_TRANSPORT", transport));
    }
    lacking
}

/// The drivers that variables choose, where the file names none.
pub(crate) fn choose(file: &Table, lookup: Lookup<'_>) -> Result<Vec<Chosen>, Expected> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let named = |table: &[&str]| {
        let mut at = Some(file);
        for part in table {
            at = at.and_then(|table| table.get(*part)).and_then(Value::as_table);
        }
        at.is_some_and(|table| table.contains_key("driver"))
    };
    let first = |names: &[&'static str]| names.iter().copied().find(|name| set(name).is_some());
    let mut chosen = Vec::new();
    let mut choose = |key: &'static str, word: &str, by: &'static str| {
        if is_built(word) {
            chosen.push(Chosen { key, value: Value::String(word.to_owned()), by });
        }
    };
    if !named(&["cache"])
        && let Some(by) = first(&["REDIS_URL"])
    {
        choose("cache.driver", "redis", by);
    }
    if !named(&["state"])
        && let Some(by) = first(&["SANDPOST_STATE_URL"])
    {
        choose("state.driver", "shared", by);
    }
    if !named(&["broker"])
        && let Some(by) = first(&["PUBSUB_EMULATOR_HOST", "PUBSUB_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"])
    {
        choose("broker.driver", "pubsub", by);
    }
    if !named(&["email"]) {
        if let Some(transport) = set("MAIL_TRANSPORT") {
            choose("email.driver", &transport.to_ascii_lowercase(), "MAIL_TRANSPORT");
        } else if let Some(by) = first(&["AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN"]) {
            choose("email.driver", "ses", by);
        } else if let Some(by) = first(&["SMTP_URL"]) {
            choose("email.driver", "smtp", by);
        }
    }
    if !named(&["sql", "main"]) {
        match (first(&["MYSQL_HOST"]), first(&["DATABASE_URL"])) {
            (Some(by), None) => choose("sql.main.driver", "mysql", by),
            (None, Some(by)) => choose("sql.main.driver", "postgres", by),
            // Which of them plugins mean by `main` is not this program's to guess.
            (Some(mysql), Some(postgres)) => {
                return Err(Expected::new(
                    Exit::Config,
                    format!("failed to read config: {mysql} and {postgres} both name the database `main`"),
                )
                .hint("unset one, or say `driver = \"mysql\"` or `driver = \"postgres\"` in [sql.main]"));
            }
            (None, None) => {}
        }
    }
    if !named(&["documents", "main"])
        && let Some(by) = first(&["MONGODB_URI", "MONGODB_URL"])
    {
        choose("documents.main.driver", "mongo", by);
    }
    Ok(chosen)
}

/// Reads the addresses that the file leaves to variables of its own choice (`url_from_env`).
pub(crate) fn resolve(config: &mut Config, lookup: Lookup<'_>) -> Result<(), Expected> {
    let read = |key: &str, variable: &str| {
        lookup(variable).filter(|value| !value.is_empty()).map(Secret::new).ok_or_else(|| {
            Expected::new(
                Exit::Config,
                format!("failed to read config: `{key}` names the variable {variable}, which is not set"),
            )
        })
    };
    if let Some(variable) = &config.cache.url_from_env {
        let url = read("cache.url_from_env", variable)?;
        match config.cache.driver {
            CacheDriver::Embedded => {}
            CacheDriver::Redis => config.cache.redis.set_url(url),
        }
    }
    if let Some(variable) = &config.state.url_from_env {
        let url = read("state.url_from_env", variable)?;
        match config.state.driver {
            StateDriver::Embedded => {}
            StateDriver::Shared => config.state.shared.set_url(url),
        }
    }
    for (label, sql) in &mut config.sql {
        let Some(variable) = &sql.url_from_env else { continue };
        let url = read(&format!("sql.{label}.url_from_env"), variable)?;
        match sql.driver {
            SqlDriver::Embedded => {}
            SqlDriver::Mysql => sql.mysql.set_url(url),
            SqlDriver::Postgres => sql.postgres.set_url(url),
        }
    }
    for (label, documents) in &mut config.documents {
        let Some(variable) = &documents.url_from_env else { continue };
        let url = read(&format!("documents.{label}.url_from_env"), variable)?;
        match documents.driver {
            DocumentsDriver::Embedded => {}
            DocumentsDriver::Mongo => documents.mongo.set_url(url),
        }
    }
    Ok(())
}

/// A driver whose address is one URL.
trait SetUrl {
    fn set_url(&mut self, url: Secret);
}

#[cfg(feature = "mongo")]
impl SetUrl for Mongo {
    fn set_url(&mut self, url: Secret) {
        self.url = Some(url);
    }
}

#[cfg(feature = "redis")]
impl SetUrl for Redis {
    fn set_url(&mut self, url: Secret) {
        self.url = Some(url);
    }
}

#[cfg(feature = "shared")]
impl SetUrl for Shared {
    fn set_url(&mut self, url: Secret) {
        self.url = Some(url);
    }
}

/// Of either database.
#[cfg(any(feature = "mysql", feature = "postgres"))]
impl SetUrl for sandpost_sql::Config {
    fn set_url(&mut self, url: Secret) {
        self.url = Some(url);
    }
}

/// Not there to be told; that it is missing is said next.
#[cfg(not(all(feature = "mongo", feature = "mysql", feature = "postgres", feature = "redis", feature = "shared")))]
impl SetUrl for absent::Absent {
    fn set_url(&mut self, _: Secret) {}
}

/// A driver that the configuration names must be in the build.
pub(crate) fn check_built(key: &str, word: &str) -> Result<(), Expected> {
    if is_built(word) {
        return Ok(());
    }
    Err(Expected::new(
        Exit::Config,
        format!("failed to read config: `{key}` is \"{word}\", and this build has no such driver"),
    )
    .hint(format!(
        "build the host with `--features {word}`, or with `--features services` for all; this one has: {}",
        built()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(file: &str, environment: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let lookup =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let chosen = choose(&file.parse().unwrap(), &lookup).unwrap_or_default();
        chosen.into_iter().map(|one| (one.key, one.value.as_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn a_variable_chooses_what_the_file_does_not_and_the_build_has() {
        for (variable, value, key, word) in [
            ("REDIS_URL", "redis://h", "cache.driver", "redis"),
            ("SANDPOST_STATE_URL", "mysql://h/d", "state.driver", "shared"),
            ("PUBSUB_EMULATOR_HOST", "h:1", "broker.driver", "pubsub"),
            ("PUBSUB_PROJECT_ID", "p", "broker.driver", "pubsub"),
            ("GOOGLE_CLOUD_PROJECT", "p", "broker.driver", "pubsub"),
            ("MAIL_TRANSPORT", "SES", "email.driver", "ses"),
            ("MAIL_TRANSPORT", "smtp", "email.driver", "smtp"),
            ("MAIL_TRANSPORT", "null", "email.driver", "null"),
            ("MAIL_TRANSPORT", "catch", "email.driver", "catch"),
            ("AWS_ACCESS_KEY_ID", "k", "email.driver", "ses"),
            ("AWS_ROLE_ARN", "r", "email.driver", "ses"),
            ("SMTP_URL", "smtp://h", "email.driver", "smtp"),
            ("MYSQL_HOST", "h", "sql.main.driver", "mysql"),
            ("DATABASE_URL", "postgres://h/d", "sql.main.driver", "postgres"),
            ("MONGODB_URI", "mongodb://h", "documents.main.driver", "mongo"),
            ("MONGODB_URL", "mongodb://h", "documents.main.driver", "mongo"),
        ] {
            let expected: Vec<_> = is_built(word).then(|| (key, word.to_owned())).into_iter().collect();
            assert_eq!(chosen("", &[(variable, value)]), expected, "{variable}");
            let (table, _) = key.rsplit_once('.').unwrap();
            let file = format!("[{table}]\ndriver = \"embedded\"\n");
            assert_eq!(chosen(&file, &[(variable, value)]), Vec::new(), "the file stands above {variable}");
        }
    }

    #[test]
    fn a_catcher_is_asked_for_even_where_there_are_keys() {
        let both = [("MAIL_TRANSPORT", "catch"), ("AWS_ACCESS_KEY_ID", "k")];
        assert_eq!(chosen("", &both), [("email.driver", "catch".to_owned())]);
    }

    #[test]
    fn two_databases_that_would_both_be_main_are_for_a_person_to_decide() {
        let both = |name: &str| match name {
            "MYSQL_HOST" => Some("h".to_owned()),
            "DATABASE_URL" => Some("postgres://h/d".to_owned()),
            _ => None,
        };
        let error = choose(&Table::new(), &both).unwrap_err();
        assert!(error.message.contains("MYSQL_HOST and DATABASE_URL"), "{}", error.message);
        let file = "[sql.main]\ndriver = \"mysql\"".parse().unwrap();
        assert!(choose(&file, &both).is_ok_and(|chosen| chosen.is_empty()));
    }

    #[test]
    fn a_missing_driver_is_named_with_its_feature() {
        for (word, built) in BUILT {
            let checked = check_built("cache.driver", word);
            assert_eq!(checked.is_ok(), *built);
            if let Err(error) = checked {
                assert!(error.hint.unwrap().contains(&format!("--features {word}")));
            }
        }
        assert!(check_built("email.driver", "null").is_ok());
    }
}
