//! Who was at work in a step, each of them a number in the ledger's rows.
//!
//! Invariant: all of them are forgotten where a transaction fails, because their rows are gone with it.

use rusqlite::{Connection, OptionalExtension, params};
use sandpost_message::{Digest, PluginName, SubscriptionName};
use sandpost_ports::state::LedgerEntry;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Actors in memory: every deployment of every subscription makes one. Past it they are looked up afresh.
const ACTORS_KNOWN_MAX: usize = 4096;

/// By their hash, so that looking one up copies no name. One that shares another's hash is looked up in the file.
#[derive(Default)]
pub(crate) struct Actors {
    known: HashMap<u64, (Actor, i64)>,
    hasher: RandomState,
}

struct Actor {
    subscription: Option<SubscriptionName>,
    plugin: Option<PluginName>,
    version: Option<String>,
    digest: Option<Digest>,
}

impl Actor {
    fn is_of(&self, entry: &LedgerEntry) -> bool {
        self.subscription == entry.subscription
            && self.plugin == entry.plugin
            && self.version == entry.version
            && self.digest == entry.digest
    }
}

impl Actors {
    pub(crate) fn rolled_back(&mut self) {
        self.known.clear();
    }

    /// The number of who was at work in this step, a new one where it is the first.
    pub(super) fn number(&mut self, conn: &Connection, entry: &LedgerEntry) -> rusqlite::Result<i64> {
        let hash = self.hasher.hash_one((&entry.subscription, &entry.plugin, &entry.version, &entry.digest));
        if let Some((actor, number)) = self.known.get(&hash)
            && actor.is_of(entry)
        {
            return Ok(*number);
        }
        let columns = params![
            entry.subscription.as_ref().map(SubscriptionName::as_str),
            entry.plugin.as_ref().map(PluginName::as_str),
            entry.version,
            entry.digest.as_ref().map(Digest::as_str),
        ];
        let known = conn
            .prepare_cached(
                "SELECT id FROM ledger_actors
                 WHERE subscription IS ?1 AND plugin IS ?2 AND version IS ?3 AND digest IS ?4",
            )?
            .query_row(columns, |row| row.get(0))
            .optional()?;
        let number = match known {
            Some(number) => number,
            None => conn
                .prepare_cached(
                    "INSERT INTO ledger_actors (subscription, plugin, version, digest) VALUES (?1, ?2, ?3, ?4)",
                )?
                .insert(columns)?,
        };
        if self.known.len() >= ACTORS_KNOWN_MAX {
            self.known.clear();
        }
        let actor = Actor {
            subscription: entry.subscription.clone(),
            plugin: entry.plugin.clone(),
            version: entry.version.clone(),
            digest: entry.digest.clone(),
        };
        self.known.insert(hash, (actor, number));
        Ok(number)
    }
}
