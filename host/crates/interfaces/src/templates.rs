//! `templates`: a plugin asks for a template to be rendered by whichever template plugin is live.
//!
//! The runtime does it ([`Templates`]); e-mails with a template for a body go the same way (`email`).

use crate::bindings::template::{Content, RenderError, Request};
use crate::bindings::templates::Host;
use crate::call::{Call, CallError, Scope, len};
use sandpost_message::{TimestampMs, TraceParent};

const TEMPLATES: &str = "templates";

/// Renders with the live template plugins; the runtime's part.
#[async_trait::async_trait]
pub trait Templates: Send + Sync {
    /// Renders by the deadline of the call that asks. A fault of the template plugin is [`RenderError::Failed`]: the
    /// caller's own call goes on.
    async fn render(&self, request: Request, scope: RenderScope) -> Result<Content, RenderError>;
}

/// On whose behalf something is rendered.
#[derive(Debug, Clone)]
pub struct RenderScope {
    /// When the caller's call ends; rendering must have ended by then.
    pub deadline_at_ms: TimestampMs,
    /// The trace that the caller is in.
    pub trace: Option<TraceParent>,
}

impl Scope {
    /// Renders on behalf of this call.
    pub(crate) async fn render(&self, request: Request) -> Result<Content, RenderError> {
        let scope = RenderScope {
            deadline_at_ms: self.deadline_at_ms,
            trace: self.attempt.as_ref().map(|attempt| attempt.message.trace),
        };
        self.context.templates.render(request, scope).await
    }
}

impl Host for Call {
    async fn render(&mut self, request: Request) -> wasmtime::Result<Result<Content, RenderError>> {
        let bytes = request.name.len() + len(request.locale.as_ref()) + request.data.len();
        let entered = self.enter(TEMPLATES, "render", bytes)?;
        if let Err(grant) = self.scope.grants().may_render() {
            let error = CallError::Denied(grant);
            self.report(&entered, &error);
            self.leave_as(entered, "denied", 0)?;
            return Ok(Err(RenderError::Failed(crate::bindings::Error::from(error).to_string())));
        }
        let scope = self.scope.clone();
        let answer = scope.render(request).await;
        let (outcome, bytes) = match &answer {
            Ok(content) => ("ok", content.subject.len() + content.html.len() + len(content.text.as_ref())),
            Err(RenderError::UnknownTemplate(text)) => ("unknown-template", text.len()),
            Err(RenderError::InvalidData(text)) => ("invalid-data", text.len()),
            Err(RenderError::Failed(text)) => ("failed", text.len()),
        };
        self.leave_as(entered, outcome, bytes)?;
        Ok(answer)
    }
}
