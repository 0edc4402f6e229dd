//! Deployment: the one way for a version to go live, at the first start as at the hundredth swap.
//!
//! read → manifest → limits → imports held against grants → compile → contract → trial → switch → record. A version that
//! fails a step never serves; what was live goes on, and the refusal is kept for [`Registry`]'s list.
//!
//! Invariants
//! - The same digest as the one that is live is no deployment.
//! - One trial and switch at a time, so that two deployments of a plugin cannot overtake each other.
//! - The artifact's bytes are kept before the switch: whatever was live can be had again.
//!
//! Not here: where files come from (`folder`, or whoever calls).

use crate::Limits;
use crate::artifact::{ArtifactError, Artifacts, digest_of};
use crate::explain::{NO_EXPORT, Surface, missing};
use crate::instance::Program;
use crate::manifest::{self, Manifest};
use crate::pace::Pace;
use crate::plugins::Registry;
use crate::trial::{self, ScratchPorts};
use crate::version::Version;
use crate::waste::Waste;
use sandpost_interfaces::bindings::{HandlerPluginIndices, TemplatePluginIndices};
use sandpost_interfaces::{Context, Grants, Ports};
use sandpost_message::{Digest, PluginName};
use sandpost_ports::plugins::{Identity, Refusal};
use sandpost_ports::state::Deployment;
use sandpost_telemetry::events::runtime as events;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore};

/// Deployments of each plugin whose artifacts are kept, the live one included: how far a roll-back can go.
const KEPT_DEPLOYMENTS: usize = 10;
/// Bytes of a refusal's reason.
const REASON_MAX_BYTES: usize = 4096;

/// Who decides what plugins may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantPolicy {
    /// Every request is granted, with a line in the log. For development.
    RequestedAreGiven,
    /// The configuration: a plugin that is not named here has no grant.
    Configured(BTreeMap<PluginName, Grants>),
}

/// What the operator set for one plugin, grants aside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What its `config` interface shows.
    pub config: BTreeMap<String, String>,
    /// Put before its cache keys; `"<plugin>:"` where left out. Empty shares the cache with other plugins.
    pub cache_scope: Option<String>,
}

/// How deployments go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Who decides on grants.
    pub grants: GrantPolicy,
    /// Per plugin.
    pub settings: BTreeMap<PluginName, Settings>,
    /// Components compiled at once; each uses all cores as it can. Default 2.
    pub compile_parallel: usize,
    /// How long all samples of a version may take together. Default 60 000.
    pub trial_max_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grants: GrantPolicy::RequestedAreGiven,
            settings: BTreeMap::new(),
            compile_parallel: 2,
            trial_max_ms: 60_000,
        }
    }
}

/// The steps of a deployment, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file was read.
    Read,
    /// The manifest was read.
    Manifest,
    /// The limits that it asks for are under the ceiling.
    Limits,
    /// What it asks for and imports is granted.
    Grants,
    /// It was compiled.
    Compile,
    /// It imports and exports what the contract has.
    Contract,
    /// It passed its samples.
    Trial,
    /// The pointer was moved.
    Switch,
}

impl Step {
    /// The word in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Manifest => "manifest",
            Self::Limits => "limits",
            Self::Grants => "grants",
            Self::Compile => "compile",
            Self::Contract => "contract",
            Self::Trial => "trial",
            Self::Switch => "switch",
        }
    }
}

/// Why a version did not go live.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", step.word())]
pub struct Refused {
    /// Which plugin, as far as its manifest could be read.
    pub plugin: Option<PluginName>,
    /// Which artifact, as far as it could be read.
    pub digest: Option<Digest>,
    /// Where it failed.
    pub step: Step,
    /// Why.
    pub reason: String,
}

/// What a deployment came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployed {
    /// This version serves now.
    Live(Identity),
    /// It had served already.
    Unchanged(Identity),
}

impl Deployed {
    /// Which version.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Live(identity) | Self::Unchanged(identity) => identity,
        }
    }
}

/// A version that is compiled and granted, and not tried yet.
pub struct Prepared {
    version: Arc<Version>,
    bytes: Vec<u8>,
    since: Instant,
}

impl Prepared {
    /// Which version.
    pub fn identity(&self) -> &Identity {
        self.version.identity()
    }

    /// Whether it exports templates. Those go first: samples of handlers may render them.
    pub fn has_templates(&self) -> bool {
        self.version.program.template.is_some()
    }
}

/// Deploys. One a host.
pub struct Deployer {
    registry: Arc<Registry>,
    artifacts: Arc<Artifacts>,
    ports: Arc<Ports>,
    scratch: Arc<dyn ScratchPorts>,
    options: Options,
    compiling: Semaphore,
    switching: Mutex<()>,
}

impl Deployer {
    /// Over these; `ports` is what live plugins use, `scratch` what their samples use.
    pub fn new(
        registry: Arc<Registry>,
        artifacts: Arc<Artifacts>,
        ports: Arc<Ports>,
        scratch: Arc<dyn ScratchPorts>,
        options: Options,
    ) -> Self {
        let compiling = Semaphore::new(options.compile_parallel.max(1));
        Self { registry, artifacts, ports, scratch, options, compiling, switching: Mutex::new(()) }
    }

    /// Where versions go live.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Where artifacts are kept.
    pub fn artifacts(&self) -> &Arc<Artifacts> {
        &self.artifacts
    }

    /// The whole way. `cause` is for the history: `start`, `file`, `rollback`, …
    pub async fn deploy(&self, bytes: Vec<u8>, cause: &str) -> Result<Deployed, Refused> {
        let result = match self.prepare(bytes).await {
            Ok(prepared) => self.commit(prepared, cause).await,
            Err(refused) => Err(refused),
        };
        result.inspect_err(|refused| self.note(refused, cause, None))
    }

    /// Every step up to the trial: touches nothing that serves, and can be done for many files at once. The refusal is
    /// not noted; see [`Self::note`].
    pub async fn prepare(&self, bytes: Vec<u8>) -> Result<Prepared, Refused> {
        let since = Instant::now();
        let limit_bytes = self.artifacts.artifact_max_bytes();
        if bytes.len() as u64 > limit_bytes {
            let reason = ArtifactError::TooLarge { limit_bytes }.to_string();
            return Err(Refused { plugin: None, digest: None, step: Step::Read, reason });
        }
        // Hashing and reading large files takes long enough to hold up whoever shares the thread.
        let (bytes, digest, manifest, surface) = tokio::task::spawn_blocking(move || {
            let (digest, manifest, surface) = (digest_of(&bytes), manifest::read(&bytes), Surface::of(&bytes));
            (bytes, digest, manifest, surface)
        })
        .await
        .map_err(|_| Refused {
            plugin: None,
            digest: None,
            step: Step::Read,
            reason: "looking into the file failed".to_owned(),
        })?;
        let refuse = |plugin: Option<&PluginName>, step, reason: String| Refused {
            plugin: plugin.cloned(),
            digest: Some(digest.clone()),
            step,
            reason: bounded(reason),
        };
        let manifest = manifest.map_err(|error| refuse(None, Step::Manifest, error.to_string()))?;
        let name = manifest.name.clone();
        let surface = surface.map_err(|error| refuse(Some(&name), Step::Read, error.to_string()))?;
        let engine = self.artifacts.engine().clone();
        let limits = Limits::resolve(&manifest.limits, &engine.config().ceiling)
            .map_err(|error| refuse(Some(&name), Step::Limits, error.to_string()))?;
        let grants = self.grants(&manifest);
        let missing = missing(&surface, &manifest.grants, &grants);
        if !missing.is_empty() {
            return Err(refuse(Some(&name), Step::Grants, format!("not granted: {}", missing.join("; "))));
        }
        let absent = self.absent(&manifest.grants);
        if !absent.is_empty() {
            return Err(refuse(Some(&name), Step::Grants, format!("this host has no {}", absent.join(", "))));
        }
        if !surface.handler && !surface.template {
            return Err(refuse(Some(&name), Step::Contract, NO_EXPORT.to_owned()));
        }

        let (program, bytes) = {
            // Never closed.
            let _turn = self.compiling.acquire().await.ok();
            let (artifacts, digest, surface) = (self.artifacts.clone(), digest.clone(), surface.clone());
            tokio::task::spawn_blocking(move || {
                compile(&artifacts, &digest, &surface, &bytes).map(|program| (program, bytes))
            })
            .await
            .unwrap_or_else(|_| Err((Step::Compile, "the compiler failed".to_owned())))
            .map_err(|(step, reason)| refuse(Some(&name), step, reason))?
        };

        let settings = self.options.settings.get(&name).cloned().unwrap_or_default();
        let context = Context {
            identity: Identity { plugin: name.clone(), version: manifest.version.clone(), digest: digest.clone() },
            grants,
            config: settings.config.into_iter().collect(),
            cache_scope: settings.cache_scope.unwrap_or_else(|| format!("{name}:")),
            limits: limits.call.clone(),
            ports: self.ports.clone(),
            templates: self.registry.templates(),
            trial: false,
        };
        let render_context = Context {
            identity: context.identity.clone(),
            grants: Grants::default(),
            config: context.config.clone(),
            cache_scope: context.cache_scope.clone(),
            limits: context.limits.clone(),
            ports: self.ports.clone(),
            templates: self.registry.templates(),
            trial: false,
        };
        let waste = Waste::new(Duration::from_millis(limits.cpu_max_ms));
        let version = Arc::new(Version {
            manifest,
            limits: Arc::new(limits),
            context: Arc::new(context),
            render_context: Arc::new(render_context),
            engine,
            program: Arc::new(program),
            in_flight: AtomicU64::new(0),
            waste,
        });
        Ok(Prepared { version, bytes, since })
    }

    /// Tries a prepared version, and moves the pointer to it. The refusal is not noted; see [`Self::note`].
    pub async fn commit(&self, prepared: Prepared, cause: &str) -> Result<Deployed, Refused> {
        let Prepared { version, bytes, since } = prepared;
        let identity = version.identity().clone();
        let refuse = |step, reason: String| Refused {
            plugin: Some(identity.plugin.clone()),
            digest: Some(identity.digest.clone()),
            step,
            reason: bounded(reason),
        };
        let _switching = self.switching.lock().await;
        if self.registry.version(&identity.plugin).is_some_and(|live| live.identity().digest == identity.digest) {
            self.registry.forgive(&identity.plugin);
            return Ok(Deployed::Unchanged(identity));
        }

        let templates = tokio::time::timeout(
            Duration::from_millis(self.options.trial_max_ms),
            trial::run(
                &version,
                &version.manifest.samples,
                &*self.scratch,
                &self.registry.templates(),
                &**self.registry.clock(),
            ),
        )
        .await
        .unwrap_or_else(|_| Err(format!("took longer than {} ms (trial_max_ms)", self.options.trial_max_ms)))
        .map_err(|reason| refuse(Step::Trial, reason))?;
        let taken = |(template, owner): (String, PluginName)| {
            refuse(Step::Switch, format!("template `{template}` belongs to the live plugin `{owner}`"))
        };
        if let Some(found) = self.registry.template_taken(&identity.plugin, &templates) {
            return Err(taken(found));
        }

        let (artifacts, digest) = (self.artifacts.clone(), identity.digest.clone());
        tokio::task::spawn_blocking(move || artifacts.keep(&digest, &bytes))
            .await
            .map_err(|_| refuse(Step::Switch, "keeping the artifact failed".to_owned()))?
            .map_err(|error| refuse(Step::Switch, format!("the artifact cannot be kept: {error}")))?;

        let deployed_at_ms = self.registry.clock().now_ms();
        let replaced = self.registry.switch(&version, templates, deployed_at_ms).map_err(taken)?;
        if self.options.grants == GrantPolicy::RequestedAreGiven {
            let grants = version.context.grants.lines().join("; ");
            events::GrantsAssumed { plugin: identity.plugin.as_str(), grants: &grants }.emit();
        }
        events::PluginDeployed {
            plugin: identity.plugin.as_str(),
            version: &identity.version,
            digest: identity.digest.short(),
            cause,
            replaced: replaced.as_ref().map(|version| version.identity().version.as_str()),
            duration: since.elapsed(),
        }
        .emit();
        self.record(&identity, deployed_at_ms, cause).await;
        Ok(Deployed::Live(identity))
    }

    /// Remembers a refusal for the list, and says so. `file` names it where its manifest could not be read.
    pub fn note(&self, refused: &Refused, cause: &str, file: Option<&PluginName>) {
        let name = refused.plugin.as_ref().or(file);
        events::PluginRefused {
            plugin: name.map_or("unknown", PluginName::as_str),
            digest: refused.digest.as_ref().map(Digest::short),
            cause,
            step: refused.step.word(),
            reason: &refused.reason,
        }
        .emit();
        if let Some(name) = name {
            self.list_refusal(refused, name);
        }
    }

    /// Puts a refusal on the list, without a word.
    pub(crate) fn list_refusal(&self, refused: &Refused, plugin: &PluginName) {
        let refusal = Refusal {
            digest: refused.digest.clone(),
            refused_at_ms: self.registry.clock().now_ms(),
            reason: refused.to_string(),
        };
        self.registry.refuse(plugin.clone(), refusal);
    }

    /// Takes a plugin out of service; what is in flight ends. Whether it was live.
    pub async fn retire(&self, plugin: &PluginName, cause: &str) -> bool {
        let _switching = self.switching.lock().await;
        self.registry.forgive(plugin);
        let Some(version) = self.registry.remove(plugin) else { return false };
        events::PluginRetired { plugin: plugin.as_str(), version: &version.identity().version, cause }.emit();
        true
    }

    /// Deploys the artifact that was live last, as far as the history and the artifacts know it. None where there is
    /// none to go back to.
    pub async fn restore(&self, plugin: &PluginName, cause: &str) -> Option<Result<Deployed, Refused>> {
        let last = self.ports.state.deployments(plugin, 1).await.ok()?.into_iter().next()?;
        let (artifacts, digest) = (self.artifacts.clone(), last.digest);
        let bytes = tokio::task::spawn_blocking(move || artifacts.kept(&digest)).await.ok()?.ok()??;
        Some(match self.prepare(bytes).await {
            Ok(prepared) => self.commit(prepared, cause).await,
            Err(refused) => Err(refused),
        })
    }

    /// Deletes artifacts that no live version and no recent deployment refers to. Where the history cannot be read,
    /// nothing is deleted.
    pub async fn prune(&self) -> Result<(), ArtifactError> {
        let failed = |error: sandpost_ports::PortError| ArtifactError::Folder(std::io::Error::other(error));
        let mut keep = HashSet::new();
        for live in self.ports.state.live_deployments().await.map_err(failed)? {
            let history = self.ports.state.deployments(&live.plugin, KEPT_DEPLOYMENTS).await.map_err(failed)?;
            keep.extend(history.into_iter().map(|deployment| deployment.digest));
        }
        keep.extend(self.registry.digests());
        let artifacts = self.artifacts.clone();
        tokio::task::spawn_blocking(move || artifacts.prune(&keep))
            .await
            .unwrap_or_else(|error| Err(ArtifactError::Folder(std::io::Error::other(error))))
    }

    /// Connections that a plugin asks for and the host does not have: a version that could not work does not go live.
    fn absent(&self, asked: &Grants) -> Vec<String> {
        let sql =
            asked.sql.iter().map(|grant| ("SQL", &grant.connection, self.ports.sql.contains_key(&grant.connection)));
        let documents = asked
            .documents
            .iter()
            .map(|grant| ("document", &grant.connection, self.ports.documents.contains_key(&grant.connection)));
        let absent: BTreeSet<String> = sql
            .chain(documents)
            .filter(|(_, _, there)| !there)
            .map(|(kind, label, _)| format!("{kind} connection `{label}`"))
            .collect();
        absent.into_iter().collect()
    }

    fn grants(&self, manifest: &Manifest) -> Grants {
        match &self.options.grants {
            GrantPolicy::RequestedAreGiven => manifest.grants.clone(),
            GrantPolicy::Configured(given) => given.get(&manifest.name).cloned().unwrap_or_default(),
        }
    }

    /// Enters the deployment in the history, unless its newest entry says the same: a restart is no deployment.
    async fn record(&self, identity: &Identity, deployed_at_ms: u64, cause: &str) {
        let newest = self.ports.state.deployments(&identity.plugin, 1).await;
        if newest.is_ok_and(|newest| newest.first().is_some_and(|newest| newest.digest == identity.digest)) {
            return;
        }
        let deployment = Deployment {
            plugin: identity.plugin.clone(),
            version: identity.version.clone(),
            digest: identity.digest.clone(),
            deployed_at_ms,
            cause: cause.to_owned(),
        };
        if let Err(error) = self.ports.state.record_deployment(deployment).await {
            let error = error.to_string();
            events::DeploymentUnrecorded {
                plugin: identity.plugin.as_str(),
                digest: identity.digest.short(),
                error: &error,
            }
            .emit();
        }
    }
}

/// Compiles, links, and holds the exports against the contract.
fn compile(artifacts: &Artifacts, digest: &Digest, surface: &Surface, bytes: &[u8]) -> Result<Program, (Step, String)> {
    let component = artifacts.component(digest, bytes).map_err(|error| (Step::Compile, error.to_string()))?;
    let contract = |error: wasmtime::Error| (Step::Contract, crate::artifact::one_line(&format!("{error:#}")));
    let pre = artifacts.engine().linker().instantiate_pre(&component).map_err(contract)?;
    let handler = surface.handler.then(|| HandlerPluginIndices::new(&pre)).transpose().map_err(contract)?;
    let template = surface.template.then(|| TemplatePluginIndices::new(&pre)).transpose().map_err(contract)?;
    Ok(Program { pre, handler, template, handling: Pace::default(), rendering: Pace::default() })
}

fn bounded(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_MAX_BYTES));
    reason
}
