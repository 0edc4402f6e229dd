//! What no statement may do, whoever sends it: SQLite asks here while it compiles one.
//!
//! Refused are the ways out of this database (ATTACH, VACUUM INTO, extensions), the ways past its limits (PRAGMA), and
//! what would stay behind on a connection that the next caller gets (temporary objects, BEGIN and SAVEPOINT).
//!
//! Not here: read-only access, which the connection itself enforces.

use rusqlite::Connection;
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Pragmas that only answer. With a value they name a table or an index, never a setting.
const PRAGMAS_THAT_ASK: [&str; 9] = [
    "data_version",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Virtual tables that keep their data in this database. Others (`dbstat`, `csv`) look elsewhere or at the file.
const MODULES: [&str; 2] = ["fts5", "rtree"];

/// Functions that reach out of SQL.
const FUNCTIONS_REFUSED: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// What the authorizer and the one who runs statements tell each other. One per connection.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// The driver's own BEGIN, COMMIT and set-up: everything is allowed.
    own: AtomicBool,
    /// Whether the statement itself, not a trigger of it, inserts.
    inserts: AtomicBool,
    /// Whether a row with a row id was in fact inserted.
    inserted: AtomicBool,
    /// What was refused last, in words for the caller.
    refused: Mutex<Option<String>>,
}

impl Verdicts {
    /// Runs `work` with nothing refused. For the driver's own statements only.
    pub(crate) fn as_own<T>(&self, work: impl FnOnce() -> T) -> T {
        self.own.store(true, Ordering::Relaxed);
        let done = work();
        self.own.store(false, Ordering::Relaxed);
        done
    }

    /// Forgets what the statement before did.
    pub(crate) fn reset(&self) {
        self.inserts.store(false, Ordering::Relaxed);
        self.inserted.store(false, Ordering::Relaxed);
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether the statement since [`reset`](Self::reset) has inserted a row with a row id, itself and not by a trigger.
    pub(crate) fn has_inserted(&self) -> bool {
        self.inserts.load(Ordering::Relaxed) && self.inserted.load(Ordering::Relaxed)
    }

    /// What was refused since [`reset`](Self::reset).
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn decide(&self, context: AuthContext<'_>) -> Authorization {
        if self.own.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        if context.accessor.is_none() && matches!(context.action, AuthAction::Insert { .. }) {
            self.inserts.store(true, Ordering::Relaxed);
        }
        let Some(what) = refusal(context.action) else { return Authorization::Allow };
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        Authorization::Deny
    }
}

/// Puts the authorizer and its companion, the update hook, on a connection.
pub(crate) fn install(connection: &Connection) -> rusqlite::Result<Arc<Verdicts>> {
    let verdicts = Arc::new(Verdicts::default());
    let deciding = Arc::clone(&verdicts);
    connection.authorizer(Some(move |context: AuthContext<'_>| deciding.decide(context)))?;
    let noting = Arc::clone(&verdicts);
    connection.update_hook(Some(move |action: Action, _: &str, _: &str, _: i64| {
        if action == Action::SQLITE_INSERT {
            noting.inserted.store(true, Ordering::Relaxed);
        }
    }))?;
    Ok(verdicts)
}

/// Why this may not be done, or nothing where it may.
fn refusal(action: AuthAction<'_>) -> Option<String> {
    let known = |names: &[&str], name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    match action {
        AuthAction::Pragma { pragma_name, .. } if known(&PRAGMAS_THAT_ASK, pragma_name) => None,
        AuthAction::Pragma { pragma_name, .. } => Some(format!("PRAGMA {}", pragma_name.to_ascii_lowercase())),
        AuthAction::CreateVtable { module_name, .. } if known(&MODULES, module_name) => None,
        AuthAction::CreateVtable { module_name, .. } => Some(format!("a virtual table of `{module_name}`")),
        AuthAction::Function { function_name } if known(&FUNCTIONS_REFUSED, function_name) => {
            Some(format!("the function `{function_name}`"))
        }
        AuthAction::Attach { .. } => Some("ATTACH, and VACUUM, which attaches".to_owned()),
        AuthAction::Detach { .. } => Some("DETACH".to_owned()),
        AuthAction::Transaction { .. } => Some("BEGIN, COMMIT or ROLLBACK as a statement".to_owned()),
        AuthAction::Savepoint { .. } => Some("SAVEPOINT".to_owned()),
        AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. } => Some("a temporary table, view, index or trigger".to_owned()),
        AuthAction::CreateIndex { .. }
        | AuthAction::CreateTable { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::Delete { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTable { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropView { .. }
        | AuthAction::Insert { .. }
        | AuthAction::Read { .. }
        | AuthAction::Select
        | AuthAction::Update { .. }
        | AuthAction::AlterTable { .. }
        | AuthAction::Reindex { .. }
        | AuthAction::Analyze { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => None,
        // `Attach` with a computed name comes as this, and so does whatever a later SQLite adds.
        _ => Some("this statement".to_owned()),
    }
}
