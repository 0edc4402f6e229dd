//! The plugin folder: every `*.wasm` in it is a plugin, and a change of a file is a deployment.
//!
//! At start all files are prepared side by side and go live templates first, because samples of handlers may render
//! them. Then the folder is watched; events only say that it is worth a look, so that none can be missed for good.
//!
//! Invariants
//! - A file is judged once it stopped changing; written on, it is judged again. A file that is half there never serves.
//!   One that was renamed into its place is whole, and is judged at once.
//! - A broken file at start falls back to the version that was live last.
//! - One plugin, one file: a second file with the same plugin is refused as long as the first is there.
//! - A file that is gone retires its plugin; what is in flight ends.
//!
//! Not here: what a deployment has to pass (`deploy`).

use crate::artifact::ArtifactError;
use crate::deploy::{Deployed, Deployer, Prepared, Refused, Step};
use futures_util::StreamExt;
use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sandpost_message::PluginName;
use sandpost_telemetry::events::runtime as events;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc};

/// Files that are looked at. More is a wrong folder.
const FILES_MAX: usize = 1000;
/// Files read and compiled side by side at start; compiling has a bound of its own.
const PREPARE_PARALLEL: usize = 4;

/// Where plugins are, and how they are watched.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FolderConfig {
    /// The folder. Default `plugins`.
    pub path: PathBuf,
    /// How long a file must not have changed before it is judged, unless it was renamed into its place. Default 75.
    pub settle_ms: u64,
    /// How often the folder is looked at without an event, for file systems that send none. Default 2000.
    pub rescan_ms: u64,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("plugins"), settle_ms: 75, rescan_ms: 2000 }
    }
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be read.
    #[error("the plugin folder `{}` cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be watched.
    #[error("the plugin folder `{}` cannot be watched", path.display())]
    Unwatchable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
}

/// A folder whose plugins are live.
pub struct Folder {
    config: FolderConfig,
    deployer: Arc<Deployer>,
    files: BTreeMap<PathBuf, File>,
    /// Ends with the folder.
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
    arrived: Arc<Arrived>,
}

/// Names of files that were renamed into the folder since they were last looked at.
#[derive(Default)]
struct Arrived {
    names: Mutex<BTreeSet<OsString>>,
    some: Notify,
}

impl Arrived {
    /// Notes what such an event names. More than can be plugins is not noted, and waits as any other file does.
    fn note(&self, event: &notify::Event) {
        if !matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))) {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < FILES_MAX {
            names.extend(event.paths.last().and_then(|path| path.file_name()).map(OsStr::to_owned));
            self.some.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<OsString> {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is known of one file.
#[derive(Default)]
struct File {
    /// As it was last seen; none where it was not there.
    seen: Option<Fingerprint>,
    /// As it was when it was judged.
    judged: Option<Fingerprint>,
    /// The plugin that is live because of it.
    plugin: Option<PluginName>,
    /// It failed its trial, which depends on the templates that are live.
    failed_trial: bool,
}

/// Changes when the file does, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    size_bytes: u64,
    modified: Option<SystemTime>,
    /// Another file in its place, even with the same time and size.
    inode: u64,
}

impl Folder {
    /// Deploys what is there, and begins to watch. Refused plugins are noted and do not keep the others from going live.
    pub async fn open(config: FolderConfig, deployer: Arc<Deployer>) -> Result<Self, FolderError> {
        let (changed, changes) = mpsc::channel(1);
        let unwatchable = |source| FolderError::Unwatchable { path: config.path.clone(), source };
        let arrived = Arc::new(Arrived::default());
        let noted = arrived.clone();
        // Before the first look, so that no change falls in between.
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event {
                // Looking at files is an event too, and so is what we do ourselves.
                if event.kind.is_access() {
                    return;
                }
                noted.note(&event);
            }
            // One is enough: full means that a look is due anyway.
            changed.try_send(()).unwrap_or_default();
        })
        .map_err(unwatchable)?;
        let found =
            look(&config.path).await.map_err(|source| FolderError::Unreadable { path: config.path.clone(), source })?;
        watcher.watch(&config.path, RecursiveMode::NonRecursive).map_err(unwatchable)?;

        let mut folder = Self { config, deployer, files: BTreeMap::new(), _watcher: watcher, changes, arrived };
        folder.start(found).await;
        Ok(folder)
    }

    /// Watches until `stop`. A deployment that is under way when it comes is given up; nothing has switched then.
    pub async fn watch(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let rescan = Duration::from_millis(self.config.rescan_ms.max(1));
        let settle = Duration::from_millis(self.config.settle_ms);
        loop {
            tokio::select! {
                () = &mut stop => return,
                _change = tokio::time::timeout(rescan, self.changes.recv()) => {}
            }
            // As long as something moves; each round begins with a rest, but for what is known to be whole.
            loop {
                tokio::select! {
                    () = &mut stop => return,
                    () = self.arrived.some.notified() => {}
                    () = tokio::time::sleep(settle) => {}
                }
                let settled = tokio::select! {
                    () = &mut stop => return,
                    settled = self.round() => settled,
                };
                if settled {
                    break;
                }
            }
        }
    }

    /// The first load: all at once, then live in order.
    async fn start(&mut self, found: BTreeMap<PathBuf, Fingerprint>) {
        let deployer = self.deployer.clone();
        let mut prepared: Vec<(PathBuf, Fingerprint, Result<Prepared, Refused>)> =
            futures_util::stream::iter(found.into_iter().map(|(path, fingerprint)| {
                let deployer = deployer.clone();
                async move {
                    let result = prepare(&deployer, &path).await;
                    (path, fingerprint, result)
                }
            }))
            .buffered(PREPARE_PARALLEL)
            .collect()
            .await;
        prepared.sort_by_key(|(_, _, result)| !result.as_ref().is_ok_and(Prepared::has_templates));
        for (path, fingerprint, result) in prepared {
            let judged = self.judge(&path, result, "start").await;
            let file = self.files.entry(path.clone()).or_default();
            file.seen = Some(fingerprint);
            file.judged = Some(fingerprint);
            if let Err(refused) = judged
                && file.plugin.is_none()
                && let Some(plugin) = refused.plugin.clone().or_else(|| name_of(&path))
                && self.deployer.registry().version(&plugin).is_none()
                && let Some(restored) = self.deployer.restore(&plugin, "last-good").await
                && restored.is_ok()
            {
                // What is live is not what is in the file: the switch took the refusal off the list, and it belongs there.
                self.deployer.list_refusal(&refused, &plugin);
                file.plugin = Some(plugin);
            }
        }
    }

    /// One look. Whether nothing moved since the last one, so that all there is to judge was judged.
    async fn round(&mut self) -> bool {
        // Before the look: what arrives behind it is seen by the next one.
        let arrived = self.arrived.take();
        let found = match look(&self.config.path).await {
            Ok(found) => found,
            Err(error) => {
                // A folder that is gone for a moment must not retire everything.
                events::FolderUnreadable { error: &error.to_string() }.emit();
                return true;
            }
        };
        let mut settled = true;
        for path in found.keys() {
            self.files.entry(path.clone()).or_default();
        }
        let paths: Vec<PathBuf> = self.files.keys().cloned().collect();
        for path in paths {
            let now = found.get(&path).copied();
            let Some(file) = self.files.get_mut(&path) else { continue };
            if std::mem::replace(&mut file.seen, now) != now {
                settled = false;
                if now.is_none() || !path.file_name().is_some_and(|name| arrived.contains(name)) {
                    continue;
                }
            }
            match now {
                None => {
                    let plugin = self.files.remove(&path).and_then(|file| file.plugin);
                    // A refusal goes with its file.
                    if let Some(name) = name_of(&path) {
                        self.deployer.registry().forgive(&name);
                    }
                    if let Some(plugin) = plugin
                        && !self.files.values().any(|file| file.plugin.as_ref() == Some(&plugin))
                    {
                        self.deployer.retire(&plugin, "file-removed").await;
                    }
                }
                Some(_) if file.judged == now => {}
                Some(_) => {
                    file.judged = now;
                    let result = prepare(&self.deployer, &path).await;
                    // A look behind the reading: what changed under it is judged when it has settled.
                    if look_at(&path).await != now {
                        if let Some(file) = self.files.get_mut(&path) {
                            file.judged = None;
                        }
                        settled = false;
                        continue;
                    }
                    let new_templates = result.as_ref().is_ok_and(Prepared::has_templates);
                    if self.judge(&path, result, "file").await.is_ok() && new_templates {
                        for file in self.files.values_mut().filter(|file| file.failed_trial) {
                            file.judged = None;
                            settled = false;
                        }
                    }
                }
            }
        }
        settled
    }

    /// Deploys what was prepared from a file, or notes why not.
    async fn judge(
        &mut self,
        path: &Path,
        result: Result<Prepared, Refused>,
        cause: &str,
    ) -> Result<Deployed, Refused> {
        let result = match result {
            Ok(prepared) => match self.other_file(path, &prepared.identity().plugin) {
                Some(other) => Err(Refused {
                    plugin: name_of(path),
                    digest: Some(prepared.identity().digest.clone()),
                    step: Step::Read,
                    reason: format!(
                        "plugin `{}` is in `{}` already; one file is one plugin",
                        prepared.identity().plugin,
                        other.display()
                    ),
                }),
                None => self.deployer.commit(prepared, cause).await,
            },
            Err(refused) => Err(refused),
        };
        let file = self.files.entry(path.to_owned()).or_default();
        match &result {
            Ok(deployed) => {
                file.failed_trial = false;
                let plugin = deployed.identity().plugin.clone();
                if let Some(stem) = name_of(path) {
                    // It may have been refused under the file's name while its manifest could not be read.
                    self.deployer.registry().forgive(&stem);
                }
                let earlier = file.plugin.replace(plugin.clone());
                // Another plugin in the same file: the earlier one has no file any more.
                if let Some(earlier) = earlier.filter(|earlier| *earlier != plugin) {
                    self.deployer.retire(&earlier, "file-replaced").await;
                }
            }
            Err(refused) => {
                file.failed_trial = refused.step == Step::Trial;
                let known = file.plugin.clone().or_else(|| name_of(path));
                self.deployer.note(refused, cause, known.as_ref());
            }
        }
        result
    }

    fn other_file(&self, path: &Path, plugin: &PluginName) -> Option<&Path> {
        self.files
            .iter()
            .find(|(other, file)| *other != path && file.seen.is_some() && file.plugin.as_ref() == Some(plugin))
            .map(|(other, _)| other.as_path())
    }
}

/// Reads a file and prepares what is in it.
async fn prepare(deployer: &Arc<Deployer>, path: &Path) -> Result<Prepared, Refused> {
    let (artifacts, path) = (deployer.artifacts().clone(), path.to_owned());
    let read = tokio::task::spawn_blocking(move || artifacts.read_file(&path)).await;
    let reason = match read {
        Ok(Ok(bytes)) => return deployer.prepare(bytes).await,
        Ok(Err(ArtifactError::Folder(error))) => format!("the file cannot be read: {error}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "reading failed".to_owned(),
    };
    Err(Refused { plugin: None, digest: None, step: Step::Read, reason })
}

/// A plugin's name as its file suggests it; for refusals of files whose manifest cannot be read.
fn name_of(path: &Path) -> Option<PluginName> {
    let stem = path.file_stem()?.to_str()?.to_ascii_lowercase();
    let mut name: String =
        stem.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(60).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "x-");
    }
    name.parse().ok()
}

async fn look(folder: &Path) -> io::Result<BTreeMap<PathBuf, Fingerprint>> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let plugin = path.extension().is_some_and(|extension| extension == "wasm") && !name.starts_with('.');
            if plugin && let Some(fingerprint) = fingerprint(&path) {
                found.insert(path, fingerprint);
            }
            if found.len() > FILES_MAX {
                return Err(io::Error::other(format!("it has more than {FILES_MAX} plugins")));
            }
        }
        Ok(found)
    })
    .await
    .unwrap_or_else(|error| Err(io::Error::other(error)))
}

async fn look_at(path: &Path) -> Option<Fingerprint> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || fingerprint(&path)).await.ok().flatten()
}

/// None where it is no file, or is gone.
fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Fingerprint { size_bytes: metadata.len(), modified: metadata.modified().ok(), inode })
}
