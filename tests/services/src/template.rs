//! Data folders that take seconds to make are made once for a version, kept under `target/services/templates`, and copied.

use crate::find;
use crate::server::Missing;
use std::path::Path;
use std::process::Command;

/// Fills `folder`, which does not exist yet, with what `make` puts into it, or with a copy of what it put there before.
/// The copy keeps owners and rights.
pub(crate) fn fill(name: &str, folder: &Path, make: impl FnOnce(&Path) -> Result<(), Missing>) -> Result<(), Missing> {
    let templates = find::services_folder().join("templates");
    let template = templates.join(name);
    if template.is_dir() {
        return copy(&template, folder);
    }
    make(folder)?;
    // Without a template the next one only takes longer. It appears by one rename, complete or not at all, and the
    // process that comes second finds the name taken.
    let keep = || -> Result<(), Missing> {
        std::fs::create_dir_all(&templates)?;
        let draft = tempfile::tempdir_in(&templates)?;
        copy(folder, &draft.path().join("data"))?;
        Ok(std::fs::rename(draft.path().join("data"), &template)?)
    };
    drop(keep());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Missing> {
    find::run(Command::new("cp").arg("-a").arg(from).arg(to))
}
