//! One version of a plugin, ready to serve: what a handler or a template is to the rest of the host.
//!
//! Invariants
//! - Whoever holds a version ends its work on it; it goes when the last one lets go.
//! - A template sees nothing but its log and its configuration, whatever else its plugin was granted: a rendering that
//!   rendered again would have no end.
//!
//! Not here: which version is live (`plugins`).

use crate::engine::{Engine, Purpose};
use crate::instance::{Ended, GRACE, Plan, Program, run};
use crate::waste::{self, Waste};
use crate::{Limits, Manifest};
use sandpost_interfaces::bindings::{self, Content, Failure, RenderError, Request, TemplateInfo};
use sandpost_interfaces::{Context, Postponed};
use sandpost_message::{Fault, FaultKind, Outcome, TimestampMs, Verdict};
use sandpost_ports::plugins::{Admission, Attempt, Handler, Identity, LivePlugin};
use sandpost_telemetry::events::runtime as events;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A version of a plugin.
pub(crate) struct Version {
    pub(crate) manifest: Manifest,
    pub(crate) limits: Arc<Limits>,
    /// Of messages.
    pub(crate) context: Arc<Context>,
    /// Of templates.
    pub(crate) render_context: Arc<Context>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) program: Arc<Program>,
    pub(crate) in_flight: AtomicU64,
    /// Of calls with messages.
    pub(crate) waste: Waste,
}

impl Version {
    pub(crate) fn identity(&self) -> &Identity {
        &self.context.identity
    }

    /// Makes an instance, holds its exports' types against the contract, and ends it: what the smallest trial shows.
    pub(crate) async fn start(&self) -> Result<(), Fault> {
        let plan = self.plan(self.render_context.clone(), None, Purpose::Handle, self.deadline());
        run(
            &self.engine,
            &self.program,
            plan,
            Box::new(|store, program, instance, _| {
                Box::pin(async move {
                    if let Some(handler) = &program.handler {
                        handler.load(&mut *store, &instance)?;
                    }
                    if let Some(template) = &program.template {
                        template.load(&mut *store, &instance)?;
                    }
                    Ok(())
                })
            }),
        )
        .await
        .answer
    }

    /// Handles one message. `context` is the version's own, or that of a trial.
    pub(crate) async fn attempt(&self, context: Arc<Context>, attempt: Attempt) -> Outcome {
        let plan = self.plan(context, Some(attempt.clone()), Purpose::Handle, self.deadline());
        let reason_max_bytes = self.limits.reason_max_bytes;
        let Ended { answer, computed, held, postponed } = run(
            &self.engine,
            &self.program,
            plan,
            Box::new(move |store, program, instance, deadline_at_ms| {
                Box::pin(async move {
                    let Some(handler) = &program.handler else {
                        return Err(Fault::new(FaultKind::Contract, "exports no handler").into());
                    };
                    let handler = handler.load(&mut *store, &instance)?;
                    let message = message_of(&attempt, deadline_at_ms);
                    let answer = handler.sandpost_plugin_handler().call_handle(&mut *store, &message).await?;
                    Ok(verdict_of(answer, reason_max_bytes)?)
                })
            }),
        )
        .await;
        if let Some(reason) = held {
            return Outcome::Held { reason };
        }
        let outcome = match answer {
            Ok(verdict) => postpone(verdict, postponed),
            Err(fault) => fault.into(),
        };
        self.account(&outcome, computed);
        outcome
    }

    /// The templates that it says it has.
    pub(crate) async fn templates(&self) -> Result<Vec<TemplateInfo>, Fault> {
        let plan = self.plan(self.render_context.clone(), None, Purpose::Render, self.deadline());
        let infos = run(
            &self.engine,
            &self.program,
            plan,
            Box::new(|store, program, instance, _| {
                Box::pin(async move {
                    let Some(template) = &program.template else {
                        return Err(Fault::new(FaultKind::Contract, "exports no template").into());
                    };
                    let template = template.load(&mut *store, &instance)?;
                    template.sandpost_plugin_template().call_templates(&mut *store).await
                })
            }),
        )
        .await
        .answer?;
        Ok(infos
            .into_iter()
            .map(|info| TemplateInfo {
                name: info.name,
                description: info.description,
                locales: info.locales,
                sample: info.sample,
            })
            .collect())
    }

    /// Renders one template, within `wait` and the plugin's own deadline. A fault is a failed rendering.
    pub(crate) async fn render(&self, request: Request, wait: Duration) -> Result<Content, RenderError> {
        let since = Instant::now();
        let plan = self.plan(self.render_context.clone(), None, Purpose::Render, self.deadline().min(wait));
        let ended = run(
            &self.engine,
            &self.program,
            plan,
            Box::new(move |store, program, instance, _| {
                Box::pin(async move {
                    let Some(template) = &program.template else {
                        return Err(Fault::new(FaultKind::Contract, "exports no template").into());
                    };
                    let template = template.load(&mut *store, &instance)?;
                    template.sandpost_plugin_template().call_render(&mut *store, &request.into()).await
                })
            }),
        )
        .await;
        let (outcome, answer) = match ended.answer {
            Ok(Ok(content)) => ("ok", Ok(content.into())),
            Ok(Err(error)) => {
                let error = RenderError::from(error);
                let word = match &error {
                    RenderError::UnknownTemplate(_) => "unknown-template",
                    RenderError::InvalidData(_) => "invalid-data",
                    RenderError::Failed(_) => "failed",
                };
                (word, Err(error))
            }
            Err(fault) => ("fault", Err(RenderError::Failed(format!("the template plugin failed: {fault}")))),
        };
        let plugin = self.identity().plugin.as_str();
        events::TemplateEnded { plugin, outcome, duration: since.elapsed() }.emit();
        answer
    }

    /// For people.
    pub(crate) fn describe(&self, templates: &[String], deployed_at_ms: TimestampMs) -> LivePlugin {
        let identity = self.identity();
        LivePlugin {
            version: identity.version.clone(),
            digest: identity.digest.clone(),
            deployed_at_ms,
            handler: self.program.handler.is_some(),
            templates: templates.to_vec(),
            grants: self.context.grants.lines(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(self.limits.deadline_ms)
    }

    fn plan(&self, context: Arc<Context>, attempt: Option<Attempt>, purpose: Purpose, deadline: Duration) -> Plan {
        Plan { context, attempt, limits: self.limits.clone(), purpose, deadline }
    }

    /// What the call computed was wasted, or makes up for waste.
    fn account(&self, outcome: &Outcome, computed: Duration) {
        let now = Instant::now();
        match outcome {
            Outcome::Verdict(_) | Outcome::Postponed { .. } => self.waste.succeeded(computed, now),
            Outcome::Fault(fault) if waste::is_own(fault.kind) => {
                if let Some(rest) = self.waste.failed(computed, now) {
                    let Identity { plugin, version, .. } = self.identity();
                    events::PluginRests { plugin: plugin.as_str(), version, rest }.emit();
                }
            }
            Outcome::Fault(_) | Outcome::Held { .. } => {}
        }
    }
}

#[async_trait::async_trait]
impl Handler for Version {
    fn identity(&self) -> &Identity {
        &self.context.identity
    }

    fn deadline_ms(&self) -> u64 {
        let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
        self.limits.deadline_ms.saturating_add(self.engine.config().instance_wait_ms).saturating_add(grace_ms)
    }

    fn admission(&self) -> Admission {
        self.waste.admission(Instant::now())
    }

    async fn handle(&self, attempt: Attempt) -> Outcome {
        let since = Instant::now();
        let _counted = InFlight::new(&self.in_flight);
        let outcome = self.attempt(self.context.clone(), attempt).await;
        events::HandlerEnded { plugin: self.identity().plugin.as_str(), duration: since.elapsed() }.emit();
        outcome
    }
}

/// Counts an attempt as long as it lives.
struct InFlight<'a>(&'a AtomicU64);

impl<'a> InFlight<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the guest answered; a fault where its reason is longer than it may be.
fn verdict_of(answer: Result<(), Failure>, reason_max_bytes: u64) -> Result<Verdict, Fault> {
    let verdict = match answer {
        Ok(()) => Verdict::Ack,
        Err(Failure::Retry(advice)) => Verdict::Retry { reason: advice.reason, after_ms: advice.after },
        Err(Failure::Reject(reason)) => Verdict::Reject { reason },
    };
    if let Verdict::Retry { reason, .. } | Verdict::Reject { reason } = &verdict
        && reason.len() as u64 > reason_max_bytes
    {
        let detail =
            format!("gave a reason of {} bytes; at most {reason_max_bytes} are taken (reason_max_bytes)", reason.len());
        return Err(Fault::new(FaultKind::Contract, detail));
    }
    Ok(verdict)
}

/// A retry that a provider is the reason of, which takes nothing for now, is no attempt. Every other verdict is obeyed.
fn postpone(verdict: Verdict, postponed: Option<Postponed>) -> Outcome {
    match (verdict, postponed) {
        (Verdict::Retry { .. }, Some(Postponed { reason, after_ms })) => Outcome::Postponed { reason, after_ms },
        (verdict, _) => verdict.into(),
    }
}

fn message_of(attempt: &Attempt, deadline_at_ms: TimestampMs) -> bindings::Message {
    let message = &attempt.message;
    bindings::Message {
        id: message.id.to_string(),
        topic: message.topic.to_string(),
        body: message.body.to_vec(),
        content_type: message.content_type.clone(),
        attributes: message.attributes.clone(),
        ordering_key: message.ordering_key.clone(),
        published_at: message.published_at_ms,
        attempt: attempt.attempt,
        max_attempts: attempt.attempts_max,
        deadline: deadline_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_retry_is_postponed() {
        let postponed = || Some(Postponed { reason: "sending is paused".to_owned(), after_ms: 30_000 });
        let retry = || Verdict::Retry { reason: "later".to_owned(), after_ms: Some(1) };
        let expected = Outcome::Postponed { reason: "sending is paused".to_owned(), after_ms: 30_000 };
        assert_eq!(postpone(retry(), postponed()), expected);
        assert_eq!(postpone(retry(), None), retry().into());
        for obeyed in [Verdict::Ack, Verdict::Reject { reason: "never".to_owned() }] {
            assert_eq!(postpone(obeyed.clone(), postponed()), obeyed.into());
        }
    }
}
