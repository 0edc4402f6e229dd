//! The registry: which version of each plugin is live, and which templates there are. The pointer that a swap moves.
//!
//! Invariants
//! - Readers see one whole set of versions; a switch replaces the set.
//! - A template's name belongs to one live plugin.
//!
//! Not here: what has to be right before a switch (`deploy`).

use crate::version::Version;
use arc_swap::ArcSwap;
use sandpost_interfaces::bindings::{Content, RenderError, Request};
use sandpost_interfaces::{RenderScope, Templates};
use sandpost_message::{PluginName, TimestampMs};
use sandpost_ports::clock::Clock;
use sandpost_ports::plugins::{Handler, PluginInfo, Plugins, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// The template that stands in for names that nobody has.
const DEFAULT_TEMPLATE: &str = "default";
/// Refusals that are remembered; further names are in the log alone.
const REFUSALS_MAX: usize = 1000;

/// The plugins of a host.
pub struct Registry {
    live: ArcSwap<Live>,
    /// Held while the set is replaced, so that two switches do not lose one another.
    switching: Mutex<()>,
    refusals: Mutex<BTreeMap<PluginName, Refusal>>,
    changes: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

#[derive(Default, Clone)]
struct Live {
    plugins: BTreeMap<PluginName, Arc<Entry>>,
    templates: BTreeMap<String, Arc<Version>>,
}

struct Entry {
    version: Arc<Version>,
    templates: Vec<String>,
    deployed_at_ms: TimestampMs,
}

impl Registry {
    /// With no plugins.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            live: ArcSwap::default(),
            switching: Mutex::default(),
            refusals: Mutex::default(),
            changes: watch::Sender::new(0),
            clock,
        })
    }

    /// What plugins render with. It does not keep the registry alive: live versions hold it themselves.
    pub(crate) fn templates(self: &Arc<Self>) -> Arc<dyn Templates> {
        Arc::new(LiveTemplates(Arc::downgrade(self)))
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn version(&self, plugin: &PluginName) -> Option<Arc<Version>> {
        self.live.load().plugins.get(plugin).map(|entry| entry.version.clone())
    }

    /// The artifacts of all that is live.
    pub(crate) fn digests(&self) -> Vec<sandpost_message::Digest> {
        self.live.load().plugins.values().map(|entry| entry.version.identity().digest.clone()).collect()
    }

    /// Which of these templates belongs to another live plugin, and to which.
    pub(crate) fn template_taken(&self, plugin: &PluginName, templates: &[String]) -> Option<(String, PluginName)> {
        taken(&self.live.load(), plugin, templates)
    }

    /// Moves the pointer. `Err` where a template's name was taken meanwhile.
    pub(crate) fn switch(
        &self,
        version: &Arc<Version>,
        templates: Vec<String>,
        deployed_at_ms: TimestampMs,
    ) -> Result<Option<Arc<Version>>, (String, PluginName)> {
        let plugin = version.identity().plugin.clone();
        let replaced = {
            let _switching = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
            let mut live = Live::clone(&self.live.load());
            if let Some(taken) = taken(&live, &plugin, &templates) {
                return Err(taken);
            }
            live.templates.retain(|_, owner| owner.identity().plugin != plugin);
            live.templates.extend(templates.iter().map(|name| (name.clone(), version.clone())));
            let entry = Arc::new(Entry { version: version.clone(), templates, deployed_at_ms });
            let replaced = live.plugins.insert(plugin.clone(), entry);
            self.live.store(Arc::new(live));
            replaced
        };
        self.forgive(&plugin);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(replaced.map(|entry| entry.version.clone()))
    }

    /// Takes a plugin out; what is in flight ends.
    pub(crate) fn remove(&self, plugin: &PluginName) -> Option<Arc<Version>> {
        let removed = {
            let _switching = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
            let mut live = Live::clone(&self.live.load());
            let removed = live.plugins.remove(plugin)?;
            live.templates.retain(|_, owner| owner.identity().plugin != *plugin);
            self.live.store(Arc::new(live));
            removed
        };
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Some(removed.version.clone())
    }

    /// Remembers why a plugin's newest version did not go live.
    pub(crate) fn refuse(&self, plugin: PluginName, refusal: Refusal) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < REFUSALS_MAX || refusals.contains_key(&plugin) {
            refusals.insert(plugin, refusal);
        }
    }

    /// Forgets it: the newest version is live, or its file is gone.
    pub(crate) fn forgive(&self, plugin: &PluginName) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(plugin);
    }

    /// Renders with whichever plugin has the template now.
    async fn render(&self, mut request: Request, wait: Duration) -> Result<Content, RenderError> {
        let version = {
            let live = self.live.load();
            live.templates.get(&request.name).cloned().or_else(|| {
                let stand_in = live.templates.get(DEFAULT_TEMPLATE).cloned()?;
                DEFAULT_TEMPLATE.clone_into(&mut request.name);
                Some(stand_in)
            })
        };
        match version {
            Some(version) => version.render(request, wait).await,
            None => Err(RenderError::UnknownTemplate(request.name)),
        }
    }
}

fn taken(live: &Live, plugin: &PluginName, templates: &[String]) -> Option<(String, PluginName)> {
    templates.iter().find_map(|name| {
        let owner = &live.templates.get(name)?.identity().plugin;
        (owner != plugin).then(|| (name.clone(), owner.clone()))
    })
}

#[async_trait::async_trait]
impl Plugins for Registry {
    fn handler(&self, plugin: &PluginName) -> Option<Arc<dyn Handler>> {
        let version = self.version(plugin)?;
        version.program.handler.is_some().then_some(version as Arc<dyn Handler>)
    }

    async fn changed(&self) {
        // The sender is ours: it is not gone while we wait.
        let _gone = self.changes.subscribe().changed().await;
    }

    fn list(&self) -> Vec<PluginInfo> {
        let live = self.live.load();
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names: BTreeSet<&PluginName> = live.plugins.keys().chain(refusals.keys()).collect();
        names
            .into_iter()
            .map(|name| PluginInfo {
                name: name.clone(),
                live: live
                    .plugins
                    .get(name)
                    .map(|entry| entry.version.describe(&entry.templates, entry.deployed_at_ms)),
                refused: refusals.get(name).cloned(),
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl Templates for Registry {
    async fn render(&self, request: Request, scope: RenderScope) -> Result<Content, RenderError> {
        let left_ms = scope.deadline_at_ms.saturating_sub(self.clock.now_ms());
        Self::render(self, request, Duration::from_millis(left_ms)).await
    }
}

struct LiveTemplates(Weak<Registry>);

#[async_trait::async_trait]
impl Templates for LiveTemplates {
    async fn render(&self, request: Request, scope: RenderScope) -> Result<Content, RenderError> {
        match self.0.upgrade() {
            Some(registry) => Templates::render(&*registry, request, scope).await,
            None => Err(RenderError::Failed("the host is stopping".to_owned())),
        }
    }
}
