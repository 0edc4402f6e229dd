//! `sandpost doctor`: the configuration in force with the origin of every value, what can be checked without starting
//! anything, and what each real service answers.
//!
//! Invariant: no secret is printed. Tokens are never in the configuration; addresses and passwords of services are of a
//! type that shows stars; what a plugin is configured with is shown by its key alone where the key sounds like a secret.

use crate::config::load::Origin;
use crate::config::{self, Config};
use crate::drivers;
use crate::exit::{Exit, Expected};
use crate::output;
use crate::traces;
use serde_json::json;
use std::path::{Path, PathBuf};

pub(crate) fn doctor(file: Option<&Path>, json: bool) -> Result<(), Expected> {
    let loaded = config::read(file, &config::environment)?;
    let values: Vec<(String, String, String)> = loaded
        .values()?
        .into_iter()
        .map(|(key, value, origin)| {
            let shown = if is_secret(&key) { "***".to_owned() } else { value.to_string() };
            (key, shown, name_of(&origin, loaded.file.as_deref()))
        })
        .collect();
    let mut checks = checks(&loaded.config);
    checks.extend(services(&loaded.config)?);
    if json {
        let values: Vec<_> =
            values.iter().map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin })).collect();
        let checks: Vec<_> = checks
            .iter()
            .map(|check| json!({ "check": check.what, "ok": check.outcome.is_ok(), "detail": check.detail() }))
            .collect();
        output::json(&json!({ "config": values, "checks": checks }));
    } else {
        let mut rows = vec![["KEY", "VALUE", "FROM"].map(str::to_owned).to_vec()];
        rows.extend(values.into_iter().map(|(key, value, origin)| vec![key, value, origin]));
        output::table(&rows);
        output::data("");
        for check in &checks {
            let mark = if check.outcome.is_ok() { "ok   " } else { "wrong" };
            output::data(&format!("{mark} {}: {}", check.what, check.detail()));
        }
    }
    let wrong = checks.iter().filter(|check| check.outcome.is_err()).count();
    if wrong == 0 {
        return Ok(());
    }
    Err(Expected::new(Exit::Config, format!("{wrong} of {} checks failed; they are named above", checks.len())))
}

struct Check {
    what: String,
    outcome: Result<String, String>,
}

impl Check {
    fn detail(&self) -> &str {
        match &self.outcome {
            Ok(detail) | Err(detail) => detail,
        }
    }
}

fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![
        Check { what: "data folder".into(), outcome: writable(&config.data_dir) },
        Check { what: "tokens".into(), outcome: tokens(config) },
        Check { what: "drivers".into(), outcome: Ok(real_services()) },
        Check { what: "traces".into(), outcome: traces(config) },
    ];
    for (label, one) in &config.sql {
        if let Some(file) = &one.embedded.init_file {
            let outcome = match file.metadata() {
                Ok(_) => Ok(file.display().to_string()),
                Err(error) => Err(format!("{}: {error}", file.display())),
            };
            checks.push(Check { what: format!("sql.{label}.embedded.init_file"), outcome });
        }
    }
    let files = plugin_files(&config.deployment.directory);
    checks.push(Check {
        what: "plugin folder".into(),
        outcome: match &files {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(format!("{} is made at the start", config.deployment.directory.display()))
            }
            Ok(files) => Ok(format!("{} plugins in {}", files.len(), config.deployment.directory.display())),
            Err(error) => Err(format!("{}: {error}", config.deployment.directory.display())),
        },
    });
    for file in files.unwrap_or_default() {
        checks.push(Check { what: file.display().to_string(), outcome: plugin(config, &file) });
    }
    checks
}

fn writable(folder: &Path) -> Result<String, String> {
    // The nearest folder that exists decides: the rest is made at the start.
    let existing = folder.ancestors().find(|path| path.exists() || path.as_os_str().is_empty()).unwrap_or(folder);
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    match tempfile::tempfile_in(existing) {
        Ok(_) => Ok(format!("{} can be written", folder.display())),
        Err(error) => Err(format!("{} cannot be written: {error}", existing.display())),
    }
}

fn tokens(config: &Config) -> Result<String, String> {
    sandpost_ingress::Tokens::resolve(&config.http, config::environment)
        .map(|_| match config.http.tokens.len() {
            0 => "none: only this machine is served".to_owned(),
            count => format!("{count}, all with a value"),
        })
        .map_err(|error| error.to_string())
}

/// In production the configuration would not have been read with a variable set that this build has no driver for.
fn real_services() -> String {
    let lacking = config::services::without_driver(&config::environment);
    let built = config::services::built();
    if lacking.is_empty() {
        return format!("this build has the drivers {built}");
    }
    let set: Vec<String> = lacking.iter().map(|(name, driver)| format!("{name} (driver `{driver}`)")).collect();
    format!("{} is set and not used: this build has the drivers {built}", set.join(", "))
}

/// What is in force, and whether the collector answers.
fn traces(config: &Config) -> Result<String, String> {
    let export = traces::read(config, &config::environment).map_err(|error| error.message)?;
    let described = export.describe();
    match (export.probe(), traces::in_vain(&config::environment)) {
        (Some(answer), _) => answer,
        (None, Some(variable)) => Ok(format!("{described}; {variable} is set in vain")),
        (None, None) => Ok(described),
    }
}

/// Asks every real service.
fn services(config: &Config) -> Result<Vec<Check>, Expected> {
    let io = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Expected::new(Exit::Bug, format!("failed to start the I/O runtime: {error}")))?;
    let findings = io.block_on(drivers::probe(config));
    io.shutdown_background();
    Ok(findings.into_iter().map(|(what, outcome)| Check { what, outcome }).collect())
}

fn plugin_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    files.sort();
    Ok(files)
}

fn plugin(config: &Config, file: &Path) -> Result<String, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let explanation = super::explain::against(config, &bytes)?;
    let mut wrong = explanation.problems;
    wrong.extend(explanation.grants_missing.iter().map(|grant| format!("not granted: {grant}")));
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    Ok(format!("{} {}", explanation.name.unwrap_or_default(), explanation.version.unwrap_or_default()))
}

fn name_of(origin: &Origin, file: Option<&Path>) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::Environment(variable) => format!("variable {variable}"),
        Origin::File => file.map(|path| path.display().to_string()).unwrap_or_default(),
    }
}

fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    last == "sha256"
        || (key.contains(".config.")
            && ["key", "secret", "token", "pass", "credential", "dsn", "url"].iter().any(|word| last.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sounds_like_a_secret_is_masked() {
        for (key, secret) in [
            ("plugins.mail.config.api_key", true),
            ("plugins.mail.config.product_name", false),
            ("http.tokens.ops.sha256", true),
            ("http.tokens.ops.token_from_env", false),
            ("cache.key_prefix", false),
        ] {
            assert_eq!(is_secret(key), secret, "{key}");
        }
    }
}
