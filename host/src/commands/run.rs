//! `sandpost run`: the host until a signal.

use crate::app::{self, Stopped};
use crate::config::{self, Config};
use crate::exit::{Exit, Expected};
use crate::output;
use crate::traces;
use std::path::Path;

pub(crate) fn run(file: Option<&Path>) -> Result<(), Expected> {
    let config = config::read(file, &config::environment)?.config;
    host(config, |_| async { Ok(()) })
}

/// Runs the host; `beside` runs with it and ends with it.
pub(crate) fn host<F>(config: Config, beside: impl FnOnce(app::Serving) -> F + Send + 'static) -> Result<(), Expected>
where
    F: Future<Output = Result<(), Expected>> + Send + 'static,
{
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Expected::new(Exit::Bug, format!("failed to start {what}: {error}"))
    };
    let export = traces::read(&config, &config::environment)?;
    let traces =
        sandpost_telemetry::init(&config.service, config.log.level, config.log.format, output::watched(), export)
            .map_err(|error| failed("logging", &error))?;
    let metrics = sandpost_telemetry::Metrics::install().map_err(|error| failed("metrics", &error))?;
    let io = tokio::runtime::Builder::new_multi_thread()
        .thread_name("sandpost-io")
        .enable_all()
        .build()
        .map_err(|error| failed("the I/O runtime", &error))?;
    let stopped = io.block_on(app::run(config, metrics, beside));
    // What still blocks a thread must not keep the process: everything that matters was closed.
    io.shutdown_timeout(std::time::Duration::from_secs(1));
    if !matches!(stopped, Ok(Stopped::AtOnce)) {
        traces.flush();
    }
    match stopped? {
        Stopped::Gracefully => Ok(()),
        Stopped::AtOnce => Err(Expected::new(Exit::Failure, "stopped at once by a second signal")
            .hint("nothing that was accepted is lost; what was at work is delivered again at the next start")),
    }
}
