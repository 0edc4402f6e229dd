//! `sandpost dev`: builds plugins from source, runs the host on them, and rebuilds what changes.
//!
//! A rebuilt plugin takes the way of every deployment: its file is replaced in the folder that the host watches. A build
//! that fails leaves the last good version live.
//!
//! Not here: building one plugin (`build`), deploying it (`runtime::folder`).

use crate::app::Serving;
use crate::cli::Dev;
use crate::commands::build;
use crate::config::{self, Config, GrantMode};
use crate::exit::{Exit, Expected};
use crate::output;
use notify::{RecursiveMode, Watcher as _};
use sandpost_dispatch::SubscriptionConfig;
use sandpost_message::SubscriptionName;
use sandpost_runtime::Expected as Expectation;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Editors write a file in several steps; a build begins when they are done.
const QUIET: Duration = Duration::from_millis(150);
/// Who sends, where nothing is configured. The name is reserved (RFC 2606): such a mail reaches nobody.
const DEFAULT_SENDER: &str = "Sandpost <noreply@sandpost.example>";
/// Changes that wait while a build is under way. More are one build all the same.
const CHANGES_MAX: usize = 1024;

pub(crate) fn dev(arguments: &Dev) -> Result<(), Expected> {
    let loaded = config::read(arguments.config.config.as_deref(), &config::environment)?;
    let from_file = loaded.file.is_some();
    let mut config = loaded.config;
    let sources = sources(&arguments.sources)?;
    // Built files are the program's own, apart from what an operator put into `deployment.directory`.
    let folder = config.data_dir.join("dev-plugins");
    config.deployment.directory.clone_from(&folder);
    if !from_file {
        config.deployment.grants = GrantMode::Requested;
    }
    let mut examples = BTreeMap::new();
    for source in &sources {
        let built = build::plugin(source, None, &folder)?;
        if !from_file {
            suggest(&mut config, &built.manifest);
        }
        for sample in built.manifest.samples.iter().filter(|sample| sample.expect == Expectation::Ack) {
            let body = || String::from_utf8_lossy(&sample.body()).into_owned();
            examples.entry(sample.topic.to_string()).or_insert_with(body);
        }
    }
    super::run::host(config, move |serving| watch(serving, sources, folder, examples))
}

/// Without a configuration a handler listens to the topics that its manifest suggests, and the connections that it asks
/// for are there, empty.
fn suggest(config: &mut Config, manifest: &sandpost_runtime::Manifest) {
    config.email.from.get_or_insert_with(|| DEFAULT_SENDER.to_owned());
    for grant in &manifest.grants.sql {
        config.sql.entry(grant.connection.clone()).or_default();
    }
    for grant in &manifest.grants.documents {
        config.documents.entry(grant.connection.clone()).or_default();
    }
    for topic in &manifest.topics {
        let name = format!("{}.{topic}", manifest.name);
        if let Ok(name) = name.parse::<SubscriptionName>() {
            config.subscriptions.insert(name, SubscriptionConfig::new(topic.clone(), manifest.name.clone()));
        }
    }
}

/// Folders with a manifest: those that were named, or those inside the ones that were named.
fn sources(named: &[PathBuf]) -> Result<Vec<PathBuf>, Expected> {
    let has_manifest = |path: &PathBuf| path.join("plugin.toml").is_file();
    let mut found = BTreeSet::new();
    for folder in named {
        if has_manifest(folder) {
            found.insert(folder.clone());
            continue;
        }
        let entries = std::fs::read_dir(folder).map_err(|error| {
            Expected::new(Exit::Usage, format!("failed to look for plugins: {error}"))
                .detail(format!("--> {}", folder.display()))
                .hint("name folders that hold a `plugin.toml`")
        })?;
        found.extend(entries.flatten().map(|entry| entry.path()).filter(has_manifest));
    }
    if found.is_empty() {
        return Err(Expected::new(Exit::Usage, "failed to look for plugins: no folder here holds a `plugin.toml`"));
    }
    Ok(found.into_iter().collect())
}

/// Says what to try, then rebuilds until the host stops.
async fn watch(
    serving: Serving,
    sources: Vec<PathBuf>,
    out: PathBuf,
    examples: BTreeMap<String, String>,
) -> Result<(), Expected> {
    greet(&serving, &sources, &examples);
    let (changed, mut changes) = mpsc::channel(CHANGES_MAX);
    let failed = |error: notify::Error| Expected::new(Exit::Bug, format!("failed to watch the sources: {error}"));
    let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
        if let Ok(event) = event
            && !matches!(event.kind, notify::EventKind::Access(_))
        {
            for path in event.paths {
                // A full queue means that a build follows anyway.
                changed.try_send(path).ok();
            }
        }
    })
    .map_err(failed)?;
    for source in &sources {
        watcher.watch(source, RecursiveMode::Recursive).map_err(failed)?;
    }
    while let Some(first) = changes.recv().await {
        let mut paths = vec![first];
        while let Ok(Some(path)) = tokio::time::timeout(QUIET, changes.recv()).await {
            paths.push(path);
        }
        for source in changed_sources(&sources, &paths) {
            let (of, into) = (source.clone(), out.clone());
            let built = tokio::task::spawn_blocking(move || build::plugin(&of, None, &into)).await;
            match built {
                Ok(Ok(built)) => {
                    output::note(&format!("Rebuilt {} ({} bytes).", built.manifest.name, built.size_bytes));
                }
                Ok(Err(error)) => output::note(&format!("{}\nThe last good version goes on.", error.render())),
                Err(error) => output::note(&format!("the build of {} ended early: {error}", source.display())),
            }
        }
    }
    Ok(())
}

/// Which plugins the changes belong to. What Cargo itself writes is not a change.
fn changed_sources<'a>(sources: &'a [PathBuf], paths: &[PathBuf]) -> BTreeSet<&'a PathBuf> {
    let generated =
        |path: &Path| path.components().any(|part| part.as_os_str() == "target" || part.as_os_str() == "Cargo.lock");
    let absolute: Vec<(&PathBuf, PathBuf)> =
        sources.iter().map(|source| (source, source.canonicalize().unwrap_or_else(|_| source.clone()))).collect();
    paths
        .iter()
        .filter(|path| !generated(path))
        .flat_map(|path| {
            absolute
                .iter()
                .filter(move |(source, whole)| path.starts_with(source) || path.starts_with(whole))
                .map(|(source, _)| *source)
        })
        .collect()
}

/// What to try next, with the plugins' own samples as messages.
fn greet(serving: &Serving, sources: &[PathBuf], examples: &BTreeMap<String, String>) {
    let base = format!("http://{}", serving.address);
    let watched = if sources.len() == 1 { "1 plugin".to_owned() } else { format!("{} plugins", sources.len()) };
    output::note("");
    output::note(&format!("Sandpost is up at {base} and watches the sources of {watched}. Try:"));
    for topic in &serving.topics {
        let body = examples.get(topic).map_or("{}", String::as_str).replace('\'', "'\\''");
        output::note(&format!(
            "  curl {base}/v1/topics/{topic}/messages -H 'content-type: application/json' -d '{body}'"
        ));
    }
    output::note(&format!("  curl {base}/v1/mailbox/latest          the last mail"));
    output::note(&format!("  curl {base}/v1/messages/ID             what happened to a message"));
    output::note(&format!("  curl {base}/v1/plugins                 what is live"));
    output::note("Save a file of a plugin to rebuild and swap it. Ctrl-C stops.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_belongs_to_its_plugin_and_a_build_is_no_change() {
        let sources = [PathBuf::from("plugins/a"), PathBuf::from("plugins/b")];
        let paths = [
            PathBuf::from("plugins/a/src/lib.rs"),
            PathBuf::from("plugins/b/target/x.wasm"),
            PathBuf::from("plugins/Cargo.lock"),
        ];
        let changed: Vec<&PathBuf> = changed_sources(&sources, &paths).into_iter().collect();
        assert_eq!(changed, [&sources[0]]);
    }

    #[test]
    fn sources_are_folders_with_a_manifest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(sources(&[folder.path().to_owned()]).unwrap_err().exit, Exit::Usage);
        let plugin = folder.path().join("p");
        std::fs::create_dir(&plugin).unwrap();
        std::fs::write(plugin.join("plugin.toml"), "").unwrap();
        assert_eq!(sources(&[folder.path().to_owned()]).unwrap(), std::slice::from_ref(&plugin));
        assert_eq!(sources(std::slice::from_ref(&plugin)).unwrap(), [plugin]);
    }
}
