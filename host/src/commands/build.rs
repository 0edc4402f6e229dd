//! `sandpost build`: a folder with `plugin.toml` becomes one file, the component with its manifest inside.
//!
//! Rust plugins are built with Cargo for `wasm32-wasip2`; a component of any other language is given by `--component`.
//!
//! Not here: what a manifest may say (`runtime::manifest`).

use crate::cli::Build;
use crate::exit::{Exit, Expected};
use crate::output;
use sandpost_runtime::Manifest;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Rust target of a plugin.
const TARGET: &str = "wasm32-wasip2";

pub(crate) fn build(arguments: &Build, json: bool) -> Result<(), Expected> {
    let built = plugin(&arguments.source, arguments.component.as_deref(), &arguments.out)?;
    if json {
        output::json(&serde_json::json!({
            "plugin": built.manifest.name, "version": built.manifest.version, "file": built.file,
            "size_bytes": built.size_bytes,
        }));
    } else {
        output::data(&built.file.display().to_string());
    }
    Ok(())
}

/// A plugin file that was made.
pub(crate) struct Built {
    pub(crate) manifest: Manifest,
    pub(crate) file: PathBuf,
    pub(crate) size_bytes: usize,
}

/// Builds the plugin in `source` into `out`. The file appears whole or not at all.
pub(crate) fn plugin(source: &Path, component: Option<&Path>, out: &Path) -> Result<Built, Expected> {
    let manifest_path = source.join("plugin.toml");
    let text = std::fs::read_to_string(&manifest_path).map_err(|error| {
        Expected::new(Exit::Plugin, format!("failed to read the manifest: {error}"))
            .detail(format!("--> {}", manifest_path.display()))
            .hint("a plugin's folder holds `plugin.toml`; see the README of the SDK")
    })?;
    let manifest = Manifest::parse(&text).map_err(|error| {
        Expected::new(Exit::Plugin, format!("failed to read the manifest: {error}"))
            .detail(format!("--> {}", manifest_path.display()))
    })?;

    let component = match component {
        Some(path) => path.to_owned(),
        None => cargo(source)?,
    };
    let bytes = std::fs::read(&component).map_err(|error| {
        Expected::new(Exit::Plugin, format!("failed to read the component: {error}"))
            .detail(format!("--> {}", component.display()))
    })?;
    let whole = sandpost_runtime::embed(&bytes, &text).map_err(|error| {
        Expected::new(Exit::Plugin, format!("failed to put the manifest into the component: {error}"))
            .detail(format!("--> {}", component.display()))
    })?;
    let file = out.join(format!("{}.wasm", manifest.name));
    write(&file, &whole)?;
    Ok(Built { manifest, file, size_bytes: whole.len() })
}

fn cargo(source: &Path) -> Result<PathBuf, Expected> {
    let cargo_toml = source.join("Cargo.toml");
    if !cargo_toml.is_file() {
        return Err(Expected::new(Exit::Plugin, "failed to build: there is no Cargo.toml beside plugin.toml")
            .detail(format!("--> {}", cargo_toml.display()))
            .hint("for a plugin in another language build its component first and pass it with --component"));
    }
    output::progress(&format!("Building {}", source.display()));
    let run = Command::new("cargo")
        .args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(&cargo_toml)
        .args(if output::watched() { &[] as &[&str] } else { &["--quiet"] })
        // A target folder that was set for the host's own build is not the plugin's.
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            Expected::new(Exit::Plugin, format!("failed to start cargo: {error}"))
                .hint("install Rust: https://rustup.rs")
        })?;
    if !run.status.success() {
        let error = Expected::new(Exit::Plugin, "failed to build: cargo's own words are above")
            .detail(format!("--> {}", cargo_toml.display()));
        return Err(if has_target() { error } else { error.hint(format!("rustup target add {TARGET}")) });
    }
    component_of(&run.stdout).ok_or_else(|| {
        Expected::new(Exit::Plugin, "failed to build: cargo made no .wasm file")
            .hint("a plugin's Cargo.toml needs `[lib] crate-type = [\"cdylib\"]`")
    })
}

/// Whether the standard library for plugins is installed, as far as the compiler can tell.
fn has_target() -> bool {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    libraries.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// The last `.wasm` that cargo reports: the package itself comes after what it depends on.
fn component_of(messages: &[u8]) -> Option<PathBuf> {
    String::from_utf8_lossy(messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

/// Written beside and renamed, so that a host that watches the folder never sees half a file.
fn write(file: &Path, bytes: &[u8]) -> Result<(), Expected> {
    let failed = |error: std::io::Error| {
        Expected::new(Exit::Plugin, format!("failed to write the plugin: {error}"))
            .detail(format!("--> {}", file.display()))
    };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    beside.write_all(bytes).map_err(failed)?;
    beside.persist(file).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_last_wasm_that_cargo_names() {
        let messages = br#"{"reason":"compiler-artifact","filenames":["/t/deps/libserde.rlib"]}
{"reason":"compiler-artifact","filenames":["/t/dep.wasm"]}
{"reason":"compiler-artifact","filenames":["/t/plugin.wasm"]}
{"reason":"build-finished","success":true}"#;
        assert_eq!(component_of(messages), Some(PathBuf::from("/t/plugin.wasm")));
    }

    #[test]
    fn a_folder_without_manifest_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let error = plugin(folder.path(), None, folder.path()).err().unwrap();
        assert_eq!(error.exit, Exit::Plugin);
        assert!(error.details[0].ends_with("plugin.toml"));
    }
}
