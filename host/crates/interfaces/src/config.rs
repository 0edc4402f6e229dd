//! `config`: what the operator set for this plugin. Needs no grant; secrets reach a plugin by no other way.

use crate::bindings::config::Host;
use crate::call::{Call, sum};

const CONFIG: &str = "config";

impl Host for Call {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        let entered = self.enter(CONFIG, "get", key.len())?;
        let value = self.scope.context.config.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
        self.leave_as(entered, "ok", value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    async fn all(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        let entered = self.enter(CONFIG, "all", 0)?;
        let all = self.scope.context.config.clone();
        self.leave_as(entered, "ok", sum(all.iter().map(|(name, value)| name.len() + value.len())))?;
        Ok(all)
    }
}
