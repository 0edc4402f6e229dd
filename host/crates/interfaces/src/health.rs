//! `health`: what the host last saw of its connections. Labels and times alone; the reason of a failure is one word or
//! sentence that the host's own checks made fit for a plugin.

use crate::bindings::health::{Host, State};
use crate::call::{Call, sum};

const HEALTH: &str = "health";

impl Host for Call {
    async fn connections(&mut self) -> wasmtime::Result<Vec<(String, State)>> {
        let entered = self.enter(HEALTH, "connections", 0)?;
        // The interface has no error: without a grant there is nothing to be seen.
        if let Err(grant) = self.scope.grants().may_see_health() {
            self.report(&entered, &crate::call::CallError::Denied(grant));
            self.leave_as(entered, "denied", 0)?;
            return Ok(Vec::new());
        }
        let seen: Vec<_> = self
            .scope
            .ports()
            .health
            .connections()
            .into_iter()
            .map(|(label, state)| {
                let state = match state {
                    Ok(took) => State::Ok(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                    Err(reason) => State::Failed(reason),
                };
                (label, state)
            })
            .collect();
        self.leave_as(entered, "ok", sum(seen.iter().map(|(label, _)| label.len())))?;
        Ok(seen)
    }
}
