//! `sandpost explain`: what a plugin file exports, imports and asks for, against what it is granted. Nothing is run.

use crate::cli::Explain;
use crate::config;
use crate::exit::{Exit, Expected, chain};
use crate::output;
use sandpost_runtime::Explanation;

pub(crate) fn explain(arguments: &Explain, json: bool) -> Result<(), Expected> {
    let config = config::read(arguments.config.config.as_deref(), &config::environment)?.config;
    let refused = |reason: String| {
        Expected::new(Exit::Plugin, format!("failed to read the plugin: {reason}"))
            .detail(format!("--> {}", arguments.file.display()))
    };
    let bytes = std::fs::read(&arguments.file).map_err(|error| refused(error.to_string()))?;
    let explanation = against(&config, &bytes).map_err(refused)?;
    if json {
        output::json(&serde_json::to_value(&explanation).unwrap_or_default());
    } else {
        print(&explanation);
    }
    let mut wrong = explanation.problems;
    wrong.extend(explanation.grants_missing.iter().map(|grant| format!("not granted: {grant}")));
    if wrong.is_empty() {
        return Ok(());
    }
    let mut error = Expected::new(Exit::Plugin, "this plugin would not go live");
    for line in wrong {
        error = error.detail(line);
    }
    Err(error)
}

/// The explanation under this configuration's grants.
pub(super) fn against(config: &config::Config, bytes: &[u8]) -> Result<Explanation, String> {
    let asked = sandpost_runtime::explain(bytes, None).map_err(|error| chain(&error))?;
    let given = asked.name.as_ref().and_then(|name| name.parse().ok()).and_then(|name| super::granted(config, &name));
    match given {
        None => Ok(asked),
        Some(given) => sandpost_runtime::explain(bytes, Some(&given)).map_err(|error| chain(&error)),
    }
}

fn print(explanation: &Explanation) {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    output::data(&format!("{} {}", text(&explanation.name), text(&explanation.version)));
    if let Some(description) = explanation.description.as_ref().filter(|text| !text.is_empty()) {
        output::data(description);
    }
    output::data(&format!("digest {}, {} bytes", explanation.digest, explanation.size_bytes));
    let topics: Vec<String> = explanation.topics.iter().map(ToString::to_string).collect();
    for (title, lines) in [
        ("exports", &explanation.exports),
        ("imports", &explanation.imports),
        ("made for topics", &topics),
        ("asks for", &explanation.grants_requested),
        ("is not granted", &explanation.grants_missing),
    ] {
        if !lines.is_empty() {
            output::data(&format!("\n{title}"));
            for line in lines {
                output::data(&format!("  {line}"));
            }
        }
    }
    if let Some(limits) = &explanation.limits {
        output::data(&format!(
            "\nlimits of one call\n  {} ms in all, {} ms computing, {} bytes of memory, {} host calls",
            limits.deadline_ms, limits.cpu_max_ms, limits.memory_max_bytes, limits.call.host_calls_max
        ));
    }
    output::data(&format!("\nsamples: {}", explanation.samples));
}
