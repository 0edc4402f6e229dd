//! What a component's imports ask for: which section of the grants, or nothing that anybody has.

/// The package of the contract, and the line of versions that this host speaks.
const PACKAGE: &str = "sandpost:plugin/";
const VERSION_LINE: &str = "0.1.";

/// WASI packages that every component may import: with nothing behind them but clocks, randomness, and standard streams
/// that go to the log. `filesystem` has no folder in it.
const WASI: [&str; 5] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/"];

/// What an import needs before it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: everybody has it.
    Nothing,
    /// At least one grant in this section.
    Grant(&'static str),
    /// Nobody has it; why.
    Nobody(&'static str),
}

/// What this import of a component needs; its name as the component has it, `sandpost:plugin/cache@0.1.0`.
pub fn needs(import: &str) -> Needs {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    if let Some(interface) = name.strip_prefix(PACKAGE) {
        if !version.starts_with(VERSION_LINE) {
            return Needs::Nobody("this host speaks version 0.1 of sandpost:plugin");
        }
        return match interface {
            // `template` is imported for its types alone.
            "types" | "log" | "config" | "template" => Needs::Nothing,
            "cache" => Needs::Grant("cache"),
            "pubsub" => Needs::Grant("publish"),
            "email" => Needs::Grant("email"),
            "sql" => Needs::Grant("sql"),
            "documents" => Needs::Grant("documents"),
            "templates" => Needs::Grant("templates"),
            "health" => Needs::Grant("health"),
            _ => Needs::Nobody("sandpost:plugin has no such interface"),
        };
    }
    if WASI.iter().any(|package| name.starts_with(package)) {
        return if version.starts_with("0.2.") {
            Needs::Nothing
        } else {
            Needs::Nobody("this host speaks version 0.2 of WASI")
        };
    }
    if name.starts_with("wasi:sockets/") || name.starts_with("wasi:http/") {
        return Needs::Nobody("plugins have no network; the host's interfaces are the way out");
    }
    Needs::Nobody("unknown package")
}
