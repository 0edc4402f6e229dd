//! The trial: a new version does its samples beside the old one, with the real limits, before it serves.
//!
//! A handler's samples run against scratch services that hold what each sample says and nothing else, so that a trial
//! touches no real table and sends no real mail. Templates are rendered in every locale that they claim.
//!
//! Not here: how scratch services are made (the host, over its embedded drivers); the switch (`deploy`).

use crate::manifest::{Expected, Given, Sample};
use crate::version::Version;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use sandpost_interfaces::bindings::{RenderError, Request};
use sandpost_interfaces::{Context, Grants, Ports, Templates};
use sandpost_message::{Outcome, PluginName, SubscriptionName, Verdict};
use sandpost_ports::PortError;
use sandpost_ports::clock::Clock;
use sandpost_ports::plugins::{Attempt, UnknownEffects};
use std::collections::BTreeSet;
use std::sync::Arc;
use tracing::Instrument as _;

/// Templates of one plugin.
const TEMPLATES_MAX: usize = 256;
/// Locales of one template.
const LOCALES_MAX: usize = 64;
/// Bytes of a template's name.
const TEMPLATE_NAME_MAX_BYTES: usize = 128;
/// Samples whose stores are opened at the same time, while an earlier one is tried. Opening them takes longer than trying.
const OPENED_AHEAD: usize = 2;
/// On whose behalf samples are handled.
const SUBSCRIPTION: &str = "trial-of-samples";
/// The retry budget that a sample is told of; it is tried once.
const ATTEMPTS_MAX: u32 = 5;

/// Services for one sample.
#[async_trait::async_trait]
pub trait ScratchPorts: Send + Sync {
    /// Makes services in memory, with the connections that the grants name, and puts into them what is given. They are
    /// dropped after the sample. An error refuses the deployment.
    async fn open(&self, scratch: Scratch<'_>) -> Result<Arc<Ports>, PortError>;
}

/// What scratch services are for.
#[derive(Debug, Clone, Copy)]
pub struct Scratch<'a> {
    /// Whose sample.
    pub plugin: &'a PluginName,
    /// Which connections it may open.
    pub grants: &'a Grants,
    /// Put before the plugin's cache keys, after `Ports::cache_prefix`.
    pub cache_scope: &'a str,
    /// What they hold.
    pub given: &'a Given,
}

/// Tries a version. The templates that it has, or why it is refused.
pub(crate) async fn run<'a>(
    version: &'a Version,
    samples: &'a [Sample],
    scratch: &'a dyn ScratchPorts,
    live: &'a Arc<dyn Templates>,
    clock: &'a dyn Clock,
) -> Result<Vec<String>, String> {
    version.start().await.map_err(|fault| format!("does not start: {fault}"))?;
    let templates = if version.program.template.is_some() { templates(version).await? } else { Vec::new() };
    if version.program.handler.is_some() {
        let own = &version.context;
        let opening: Vec<BoxFuture<'a, _>> = samples
            .iter()
            .map(|sample| {
                let (plugin, grants) = (&own.identity.plugin, &own.grants);
                scratch.open(Scratch { plugin, grants, cache_scope: &own.cache_scope, given: &sample.given })
            })
            .collect();
        // One guest at a time: they have the places of those that serve.
        let mut opened = futures_util::stream::iter(opening).buffered(OPENED_AHEAD);
        for (number, sample) in (1..).zip(samples) {
            let ports = opened.next().await.unwrap_or_else(|| Err(PortError::invalid("nothing was made")));
            let tried = handler(version, sample, ports, live, clock).await;
            tried.map_err(|reason| format!("sample {number} (`{}`): {reason}", sample.topic))?;
        }
    } else if !samples.is_empty() {
        return Err("has samples of messages, but exports no handler".to_owned());
    }
    Ok(templates)
}

async fn templates(version: &Version) -> Result<Vec<String>, String> {
    let infos = version.templates().await.map_err(|fault| format!("`templates` failed: {fault}"))?;
    if infos.len() > TEMPLATES_MAX {
        return Err(format!("has {} templates; at most {TEMPLATES_MAX} are taken", infos.len()));
    }
    let mut names = BTreeSet::new();
    for info in infos {
        let name = info.name;
        if name.is_empty() || name.len() > TEMPLATE_NAME_MAX_BYTES || name.contains(char::is_control) {
            return Err(format!(
                "a template's name is 1 to {TEMPLATE_NAME_MAX_BYTES} bytes of text; not `{}`",
                name.escape_debug()
            ));
        }
        if info.locales.len() > LOCALES_MAX {
            return Err(format!(
                "template `{name}` has {} locales; at most {LOCALES_MAX} are taken",
                info.locales.len()
            ));
        }
        // A template without locales is rendered as a caller renders it who names none.
        let locales: Vec<Option<String>> =
            if info.locales.is_empty() { vec![None] } else { info.locales.into_iter().map(Some).collect() };
        for locale in locales {
            let place = locale.as_ref().map(|locale| format!(" in `{}`", locale.escape_debug())).unwrap_or_default();
            let request = Request { name: name.clone(), locale, data: info.sample.clone() };
            version.render(request, std::time::Duration::MAX).await.map_err(|error| {
                let reason = match error {
                    RenderError::UnknownTemplate(name) => format!("says that it has no template `{name}`"),
                    RenderError::InvalidData(what) => format!("its own sample is invalid: {what}"),
                    RenderError::Failed(what) => what,
                };
                format!("template `{name}`{place}: {reason}")
            })?;
        }
        if let Some(name) = names.replace(name) {
            return Err(format!("has template `{name}` twice"));
        }
    }
    Ok(names.into_iter().collect())
}

async fn handler(
    version: &Version,
    sample: &Sample,
    ports: Result<Arc<Ports>, PortError>,
    live: &Arc<dyn Templates>,
    clock: &dyn Clock,
) -> Result<(), String> {
    let own = &version.context;
    let ports = ports.map_err(|error| format!("what it is given cannot be made: {}", chain(&error)))?;
    let context = Arc::new(Context {
        identity: own.identity.clone(),
        grants: own.grants.clone(),
        config: own.config.clone(),
        cache_scope: own.cache_scope.clone(),
        limits: own.limits.clone(),
        ports,
        templates: live.clone(),
        trial: true,
    });
    let subscription: SubscriptionName = SUBSCRIPTION.parse().map_err(|error| format!("{error}"))?;
    let attempt = Attempt {
        message: Arc::new(sample.message(clock.now_ms())),
        subscription,
        attempt: 1,
        attempts_max: ATTEMPTS_MAX,
        unknown_effects: UnknownEffects::default(),
    };
    // What the plugin logs meanwhile is not about a message that anybody published; its lines say so.
    let tried = version.attempt(context, attempt).instrument(tracing::info_span!("trial", trial = true));
    let (ended, said) = match tried.await {
        Outcome::Verdict(Verdict::Ack) => (Expected::Ack, String::new()),
        Outcome::Verdict(Verdict::Retry { reason, .. }) | Outcome::Postponed { reason, .. } => {
            (Expected::Retry, reason)
        }
        Outcome::Verdict(Verdict::Reject { reason }) => (Expected::Reject, reason),
        Outcome::Fault(fault) => return Err(format!("expected {}, but it ended with {fault}", sample.expect.word())),
        Outcome::Held { reason } => return Err(format!("expected {}, but it is held: {reason}", sample.expect.word())),
    };
    if ended == sample.expect {
        return Ok(());
    }
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(format!("expected {}, got {}{said}", sample.expect.word(), ended.word()))
}

/// An error with what lies underneath: a trial's reader is the plugin's author, and scratch services have no secret.
fn chain(error: &PortError) -> String {
    match &error.source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
