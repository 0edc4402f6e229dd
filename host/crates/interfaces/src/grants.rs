//! Grants: what a plugin may touch, down to the verb and the name. The only place where they are checked.
//!
//! The manifest asks and the configuration gives, in the same words, so that one can be held against the other
//! ([`Grants::covers`]). A grant's own text is checked when it is read: one that could never match, or that matches more
//! than it seems to, is refused with its reason.
//!
//! Invariants
//! - Names are compared byte by byte, after they were validated; nothing is normalised, folded or decoded.
//! - Only a grant has wildcards, one `*` at its very end. A `*` in a plugin's name is a character like any other.
//! - A check answers with the grant that would be needed, in words, and never with what is granted.
//!
//! Not here: whether a connection exists (`sql`, `documents`), scopes of cache keys (`cache`).

mod imports;
mod pattern;

pub use imports::{Needs, needs};
pub use pattern::{PatternError, Sender, Wildcard};

use sandpost_message::{ConnectionLabel, Topic};
use sandpost_ports::sql::Access;

/// Everything a plugin may touch. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Keys of the cache, by prefix.
    pub cache: Vec<CacheGrant>,
    /// Topics that it may publish to.
    pub publish: Vec<TopicGrant>,
    /// Senders that it may send e-mail from. The body may be any template; that needs no further grant.
    pub email: Vec<EmailGrant>,
    /// Relational databases.
    pub sql: Vec<SqlGrant>,
    /// Collections of document databases.
    pub documents: Vec<DocumentsGrant>,
    /// Whether it may have templates rendered for itself.
    pub templates: bool,
    /// Whether it may see the health of the host's connections.
    pub health: bool,
}

/// Keys that begin with `prefix`, in the plugin's scope.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheGrant {
    /// The empty one is the whole scope.
    pub prefix: String,
    /// What may be done with them.
    pub access: Access,
}

/// A topic, or all whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicGrant(Wildcard);

/// Senders of e-mail.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailGrant {
    /// Which.
    pub from: Sender,
}

/// A relational database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlGrant {
    /// Its label.
    pub connection: ConnectionLabel,
    /// What statements may do.
    pub access: Access,
}

/// Collections of a document database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentsGrant {
    /// Its label.
    pub connection: ConnectionLabel,
    /// A name, or a prefix and `*`.
    pub collection: CollectionGrant,
    /// What may be done with them.
    pub access: Access,
}

/// A collection, or all whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectionGrant(Wildcard);

impl TryFrom<String> for TopicGrant {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let pattern: Wildcard = text.parse()?;
        // A prefix has to be able to begin a topic.
        let probe = if pattern.is_exact() { pattern.literal().to_owned() } else { format!("{}xxx", pattern.literal()) };
        probe.parse::<Topic>().map_err(|_| PatternError { what: "topic", rule: Topic::RULE })?;
        Ok(Self(pattern))
    }
}

impl From<TopicGrant> for String {
    fn from(grant: TopicGrant) -> Self {
        grant.0.to_string()
    }
}

impl TryFrom<String> for CollectionGrant {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let pattern: Wildcard = text.parse()?;
        let probe = if pattern.is_exact() { pattern.literal().to_owned() } else { format!("{}x", pattern.literal()) };
        if !is_collection(&probe) {
            return Err(PatternError { what: "collection", rule: COLLECTION_RULE });
        }
        Ok(Self(pattern))
    }
}

impl From<CollectionGrant> for String {
    fn from(grant: CollectionGrant) -> Self {
        grant.0.to_string()
    }
}

/// Bytes of a cache key as the plugin names it.
pub const CACHE_KEY_MAX_BYTES: usize = 512;

/// What a collection is called, in words.
pub const COLLECTION_RULE: &str =
    "1 to 120 ASCII letters, digits, `-`, `_` or `.`, beginning with a letter or `_`, not with `system.`, no `..`";

/// Whether this can be a collection's name. Narrower than `MongoDB`, which takes `$`, spaces and its own `system.`.
pub fn is_collection(name: &str) -> bool {
    (1..=120).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !name.starts_with("system.")
        && !name.contains("..")
        && !name.ends_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether this can be a cache key, or a prefix of one.
pub fn is_cache_key(key: &str) -> bool {
    (1..=CACHE_KEY_MAX_BYTES).contains(&key.len()) && !key.contains(char::is_control)
}

/// Checks. `Err` is the grant that would be needed, in words.
impl Grants {
    /// Reading this key.
    pub fn may_read_cache(&self, key: &str) -> Result<(), String> {
        self.may_use_cache(key, Access::ReadOnly)
    }

    /// Writing or deleting this key, or all keys with this prefix: every key that begins with it begins with what the
    /// grant says too.
    pub fn may_write_cache(&self, key: &str) -> Result<(), String> {
        self.may_use_cache(key, Access::ReadWrite)
    }

    fn may_use_cache(&self, key: &str, access: Access) -> Result<(), String> {
        let granted = self.cache.iter().any(|grant| allows(grant.access, access) && key.starts_with(&grant.prefix));
        granted.then_some(()).ok_or_else(|| format!("cache, {} keys that begin as this one", word(access)))
    }

    /// Publishing to this topic.
    pub fn may_publish(&self, topic: &Topic) -> Result<(), String> {
        let granted = self.publish.iter().any(|grant| grant.0.matches(topic.as_str()));
        granted.then_some(()).ok_or_else(|| format!("publish to topic `{topic}`"))
    }

    /// Sending from this address; none is the host's default sender.
    pub fn may_send_from(&self, address: Option<&str>) -> Result<(), String> {
        let granted = self.email.iter().any(|grant| match address {
            Some(address) => grant.from.matches(address),
            None => grant.from == Sender::Default,
        });
        granted.then_some(()).ok_or_else(|| match address {
            Some(_) => "email from this sender's address".to_owned(),
            None => "email from `default`".to_owned(),
        })
    }

    /// Knowing the provider's quota: whoever may send from anywhere.
    pub fn may_send_at_all(&self) -> Result<(), String> {
        (!self.email.is_empty()).then_some(()).ok_or_else(|| "email from any sender".to_owned())
    }

    /// Opening this database; what statements on it may do.
    pub fn may_open_sql(&self, label: &ConnectionLabel) -> Result<Access, String> {
        strongest(self.sql.iter().filter(|grant| grant.connection == *label).map(|grant| grant.access))
            .ok_or_else(|| format!("sql on connection `{label}`"))
    }

    /// Opening this collection; what may be done with it.
    pub fn may_open_collection(&self, label: &ConnectionLabel, name: &str) -> Result<Access, String> {
        let granted =
            self.documents.iter().filter(|grant| grant.connection == *label && grant.collection.0.matches(name));
        strongest(granted.map(|grant| grant.access)).ok_or_else(|| {
            if is_collection(name) {
                format!("documents on connection `{label}`, collection `{name}`")
            } else {
                format!("documents on connection `{label}`, this collection")
            }
        })
    }

    /// Rendering templates for itself.
    pub fn may_render(&self) -> Result<(), String> {
        self.templates.then_some(()).ok_or_else(|| "templates".to_owned())
    }

    /// Seeing the host's connections.
    pub fn may_see_health(&self) -> Result<(), String> {
        self.health.then_some(()).ok_or_else(|| "health".to_owned())
    }
}

/// A request held against what is given.
impl Grants {
    /// What of `requested` is not covered, a line each; empty where all of it is.
    pub fn covers(&self, requested: &Self) -> Vec<String> {
        let mut missing = Vec::new();
        for want in &requested.cache {
            if !self.cache.iter().any(|have| allows(have.access, want.access) && want.prefix.starts_with(&have.prefix))
            {
                missing.push(want.line());
            }
        }
        for want in &requested.publish {
            if !self.publish.iter().any(|have| have.0.covers(&want.0)) {
                missing.push(want.line());
            }
        }
        for want in &requested.email {
            if !self.email.iter().any(|have| have.from.covers(&want.from)) {
                missing.push(want.line());
            }
        }
        for want in &requested.sql {
            if !self.sql.iter().any(|have| have.connection == want.connection && allows(have.access, want.access)) {
                missing.push(want.line());
            }
        }
        for want in &requested.documents {
            let covered = self.documents.iter().any(|have| {
                have.connection == want.connection
                    && have.collection.0.covers(&want.collection.0)
                    && allows(have.access, want.access)
            });
            if !covered {
                missing.push(want.line());
            }
        }
        if requested.templates && !self.templates {
            missing.push("templates".to_owned());
        }
        if requested.health && !self.health {
            missing.push("health".to_owned());
        }
        missing
    }

    /// A line a grant, for `sandpost explain` and the log.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.cache.iter().map(CacheGrant::line).collect();
        lines.extend(self.publish.iter().map(TopicGrant::line));
        lines.extend(self.email.iter().map(EmailGrant::line));
        lines.extend(self.sql.iter().map(SqlGrant::line));
        lines.extend(self.documents.iter().map(DocumentsGrant::line));
        lines.extend(self.templates.then(|| "templates".to_owned()));
        lines.extend(self.health.then(|| "health".to_owned()));
        lines
    }

    /// What a component imports and no grant here lets it use, a line each, with the reason. Empty where every import
    /// is of use.
    pub fn missing_for<'a>(&self, imports: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        imports
            .into_iter()
            .filter_map(|import| {
                // The component's own text.
                let shown = import.escape_debug();
                match needs(import) {
                    Needs::Nothing => None,
                    Needs::Grant(section) if self.has(section) => None,
                    Needs::Grant(section) => Some(format!("import `{shown}` needs a grant in `{section}`")),
                    Needs::Nobody(reason) => Some(format!("import `{shown}` is not offered: {reason}")),
                }
            })
            .collect()
    }

    fn has(&self, section: &str) -> bool {
        match section {
            "cache" => !self.cache.is_empty(),
            "publish" => !self.publish.is_empty(),
            "email" => !self.email.is_empty(),
            "sql" => !self.sql.is_empty(),
            "documents" => !self.documents.is_empty(),
            "templates" => self.templates,
            "health" => self.health,
            _ => false,
        }
    }
}

impl CacheGrant {
    fn line(&self) -> String {
        let Self { prefix, access } = self;
        if prefix.is_empty() {
            format!("cache: {} all keys of its scope", word(*access))
        } else {
            format!("cache: {} keys that begin with `{}`", word(*access), prefix.escape_debug())
        }
    }
}

impl TopicGrant {
    fn line(&self) -> String {
        format!("publish: to `{}`", self.0)
    }
}

impl EmailGrant {
    fn line(&self) -> String {
        format!("email: send from `{}`", self.from)
    }
}

impl SqlGrant {
    fn line(&self) -> String {
        format!("sql: {} connection `{}`", word(self.access), self.connection)
    }
}

impl DocumentsGrant {
    fn line(&self) -> String {
        format!("documents: {} `{}` on connection `{}`", word(self.access), self.collection.0, self.connection)
    }
}

fn allows(have: Access, want: Access) -> bool {
    have == Access::ReadWrite || want == Access::ReadOnly
}

fn strongest(granted: impl Iterator<Item = Access>) -> Option<Access> {
    granted.reduce(|one, other| if allows(one, other) { one } else { other })
}

fn word(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "read",
        Access::ReadWrite => "read and write",
    }
}

#[cfg(test)]
mod tests;
