//! The repository's own commands: `cargo xtask dev`, `cargo xtask test`, `cargo xtask lint`,
//! `cargo xtask bench`.
//!
//! What a user of the product needs is in `sandpost`; here is only what a checkout needs: the wasm target, the builds in
//! their order, the checks. No dependencies, so that the first command answers at once.

mod tidy;
mod tools;

use std::path::Path;
use std::process::ExitCode;
use tools::{Failure, cargo, ensure_wasm_target, repository, say, step};

const HELP: &str = "\
Usage: cargo xtask <command>

  dev           build everything, run it on embedded defaults with sample data, rebuild plugins that change
  test [ARGS]   all tests: unit, contract, end to end; ARGS go to the end-to-end tests' `cargo test`
  bench [ARGS]  how fast the release build is, beside floors of the same run; ARGS go to the benchmark, see --help
  lint          formatting, clippy, and the repository's own rules
  help          this text
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match command.as_str() {
        "dev" => dev(&rest),
        "test" => test(&rest),
        "bench" => bench(&rest),
        "lint" => lint(),
        "help" | "--help" | "-h" => {
            say(HELP);
            Ok(())
        }
        other => Err(Failure::new(format!("there is no command `{other}`\n\n{HELP}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Builds the host and hands over to `sandpost dev`, which builds and watches the plugins.
fn dev(arguments: &[String]) -> Result<(), Failure> {
    ensure_wasm_target()?;
    step("Building the host");
    cargo(&["build", "--package", "sandpost"])?;
    let root = repository();
    step("Starting on embedded defaults");
    tools::become_program(
        &root.join("target/debug/sandpost"),
        &["dev".to_owned(), "--config".to_owned(), "plugins/sandpost.toml".to_owned(), "plugins".to_owned()],
        arguments,
    )
}

/// Everything that has to pass, then which servers it ran against and what was not checked.
fn test(arguments: &[String]) -> Result<(), Failure> {
    // What an earlier run, cut off, has left is not of this one.
    std::fs::remove_dir_all(repository().join("target/services/summary")).ok();
    let tested = test_all(arguments);
    step("Servers that the tests ran against, and what was not checked");
    let summarised = cargo(&["run", "--quiet", "--package", "sandpost-services", "--bin", "services-summary"]);
    tested?;
    summarised?;
    step("All tests passed");
    Ok(())
}

/// Plugins first: the end-to-end tests run them.
fn test_all(arguments: &[String]) -> Result<(), Failure> {
    ensure_wasm_target()?;
    step("Building the host with the drivers for real services");
    cargo(&["build", "--package", "sandpost", "--features", "services"])?;
    keep_aside(&repository().join("target/debug/sandpost"), &repository().join("target/services-build"))?;
    step("Building the host");
    cargo(&["build", "--package", "sandpost"])?;
    tools::build_plugins(&repository().join("target/debug/sandpost"))?;
    step("Testing the plugins natively");
    cargo(&["test", "--quiet", "--manifest-path", "plugins/Cargo.toml"])?;
    step("Testing the host, the drivers and the SDK");
    cargo(&["test", "--workspace", "--exclude", "sandpost-tests", "--all-features"])?;
    step("Testing the whole, end to end");
    let mut end_to_end = vec!["test", "--package", "sandpost-tests"];
    end_to_end.extend(arguments.iter().map(String::as_str));
    cargo(&end_to_end)
}

/// Keeps the host with all drivers aside: the lean build takes its place.
fn keep_aside(program: &Path, folder: &Path) -> Result<(), Failure> {
    // One that still runs may be deleted, but not written over.
    std::fs::remove_file(folder.join("sandpost")).ok();
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::copy(program, folder.join("sandpost")))
        .map_err(|error| Failure::new(format!("failed to keep the host with all drivers: {error}")))?;
    Ok(())
}

/// Measures the release build, whose plugins are built first. Builds go where cargo is told to build.
fn bench(arguments: &[String]) -> Result<(), Failure> {
    ensure_wasm_target()?;
    let root = repository();
    let built = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
    let program = built.join("release/sandpost");
    let kept = built.join("release-services-build");
    // Its drivers take longer to build than everything else together.
    let only = arguments.iter().position(|word| word == "--only").and_then(|place| arguments.get(place + 1));
    let real_services = only.is_none_or(|parts| parts.contains('g'));
    if real_services {
        step("Building the host with the drivers for real services");
        cargo(&["build", "--release", "--package", "sandpost", "--features", "services"])?;
        keep_aside(&program, &kept)?;
    }
    step("Building the host as it is released, and the benchmark");
    cargo(&["build", "--release", "--package", "sandpost", "--package", "sandpost-bench"])?;
    tools::build_plugins(&program)?;
    step("Measuring");
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (plugins, guests) = (root.join("target/plugins"), root.join("target/guests"));
    let mut first = vec![
        "--program".to_owned(),
        path(program),
        "--built-plugins".to_owned(),
        path(plugins),
        "--guests".to_owned(),
        path(guests),
    ];
    if real_services {
        first.extend(["--services-program".to_owned(), path(kept.join("sandpost"))]);
    }
    tools::become_program(&built.join("release/sandpost-bench"), &first, arguments)
}

fn lint() -> Result<(), Failure> {
    step("Formatting");
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--all", "--check", "--manifest-path", "plugins/Cargo.toml"])?;
    step("The repository's own rules");
    tidy::check(&repository())?;
    step("Clippy");
    cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"])?;
    cargo(&["clippy", "--manifest-path", "plugins/Cargo.toml", "--all-targets", "--", "--deny", "warnings"])
}
