//! Reads configuration: a file, then environment variables above it, with the origin of every value kept.
//!
//! Unknown keys and wrong values are errors that name the key, the place and the nearest known key. Generic over what
//! is being read, so that the rules are in one place and the keys in another (`config`).

use crate::exit::{Exit, Expected};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// An environment variable that sets a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    /// The dotted key.
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

/// How a variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// One of a closed list; upper case is the same.
    Word,
    Integer,
}

/// A value that a variable chose without being it: a driver, because its service's address is set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    /// The dotted key.
    pub(crate) key: &'static str,
    pub(crate) value: Value,
    /// The variable.
    pub(crate) by: &'static str,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File,
    Environment(&'static str),
}

/// A configuration with the origin of each of its values.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    pub(crate) config: T,
    pub(crate) file: Option<PathBuf>,
    in_file: Table,
    from_environment: BTreeMap<&'static str, &'static str>,
}

/// Looks a variable up; empty counts as not set, because the origin documents' files have lines like `X=`.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads `file`, then the variables. `choose` sees what is in the file, and adds what follows from variables.
pub(crate) fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    variables: &[Variable],
    choose: impl FnOnce(&Table) -> Result<Vec<Chosen>, Expected>,
    lookup: Lookup<'_>,
) -> Result<Loaded<T>, Expected> {
    let text = match file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Expected::new(Exit::Config, format!("failed to read config: {error}"))
                .detail(format!("--> {}", path.display()))
                .hint("name another file with --config, or leave it out to run on defaults")
        })?,
    };
    // Once with the text alone, for errors with their place; once more below with the variables above it.
    toml::from_str::<T>(&text).map_err(|error| in_file(&error, file, &text))?;
    let in_file: Table = toml::from_str(&text).map_err(|error| in_file(&error, file, &text))?;

    let mut merged = in_file.clone();
    let mut from_environment = BTreeMap::new();
    for variable in variables {
        let Some(text) = lookup(variable.name).filter(|text| !text.is_empty()) else { continue };
        let value = match variable.kind {
            Kind::Text => Value::String(text),
            Kind::Word => Value::String(text.to_ascii_lowercase()),
            Kind::Integer => Value::Integer(text.parse().map_err(|_| {
                Expected::new(Exit::Config, format!("failed to read config: {} is not a whole number", variable.name))
                    .hint(variable.help)
            })?),
        };
        put(&mut merged, variable.key, value);
        from_environment.insert(variable.key, variable.name);
    }
    for Chosen { key, value, by } in choose(&in_file)? {
        put(&mut merged, key, value);
        from_environment.insert(key, by);
    }
    let config = T::deserialize(merged).map_err(|error| {
        let names: Vec<&str> = from_environment.values().copied().collect();
        Expected::new(Exit::Config, format!("failed to read config: {}", error.message()))
            .detail(format!("set by one of these environment variables: {}", names.join(", ")))
    })?;
    Ok(Loaded { config, file: file.map(Path::to_owned), in_file, from_environment })
}

impl<T: Serialize> Loaded<T> {
    /// Every value in force as `(dotted key, value, origin)`, sorted by key. Keys that hold no value are left out.
    pub(crate) fn values(&self) -> Result<Vec<(String, Value, Origin)>, Expected> {
        let whole = Value::try_from(&self.config)
            .map_err(|error| Expected::new(Exit::Bug, format!("failed to show config: {error}")))?;
        let mut flat = Vec::new();
        flatten("", &whole, &mut flat);
        flat.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(flat
            .into_iter()
            .map(|(key, value)| {
                let origin = self.origin(&key);
                (key, value, origin)
            })
            .collect())
    }

    fn origin(&self, key: &str) -> Origin {
        if let Some(variable) = self.from_environment.get(key) {
            return Origin::Environment(variable);
        }
        let mut table = &self.in_file;
        for part in key.split('.') {
            match table.get(part) {
                Some(Value::Table(inner)) => table = inner,
                Some(_) => return Origin::File,
                None => return Origin::Default,
            }
        }
        Origin::File
    }
}

fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, inner) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, inner, into);
            }
        }
        Value::Table(_) => {}
        other => into.push((prefix.to_owned(), other.clone())),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Turns a TOML error into place, reason, known keys and the nearest of them.
pub(crate) fn in_file(error: &toml::de::Error, file: Option<&Path>, text: &str) -> Expected {
    let message = error.message().trim_end();
    let mut expected = match unknown_key(message) {
        None => Expected::new(Exit::Config, format!("failed to read config: {}", message.replace('\n', " "))),
        Some((key, _)) => Expected::new(Exit::Config, format!("failed to read config: unknown key `{key}`")),
    };
    if let (Some(path), Some(span)) = (file, error.span()) {
        let line = text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
        expected = expected.detail(format!("--> {}:{line}", path.display()));
    }
    if let Some((key, known)) = unknown_key(message) {
        if !known.is_empty() {
            expected = expected.detail(format!("known keys: {}", known.join(", ")));
        }
        if let Some(nearest) = nearest(&key, &known) {
            expected = expected.hint(format!("did you mean `{nearest}`?"));
        }
    }
    expected
}

/// Reads serde's "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2).map(str::to_owned);
    let key = quoted.next()?;
    Some((key, quoted.collect()))
}

/// The known key that is near enough to be what was meant.
pub(crate) fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a String> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(key.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize, Serialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        service: String,
        http: Http,
    }

    #[derive(Debug, Default, serde::Deserialize, Serialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Http {
        listen: String,
        deadline_ms: u64,
    }

    const VARIABLES: &[Variable] = &[
        Variable { name: "LISTEN", key: "http.listen", kind: Kind::Text, help: "" },
        Variable { name: "DEADLINE_MS", key: "http.deadline_ms", kind: Kind::Integer, help: "milliseconds" },
    ];

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Loaded<Sample>, Expected> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sandpost.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), VARIABLES, |_| Ok(Vec::new()), &|name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_stand_above_the_file_and_origins_are_kept() {
        let loaded = read("[http]\nlisten = \"a\"\ndeadline_ms = 1\n", &[("LISTEN", "b")]).unwrap();
        assert_eq!(loaded.config.http, Http { listen: "b".into(), deadline_ms: 1 });
        let origins: Vec<(String, Origin)> =
            loaded.values().unwrap().into_iter().map(|(key, _, origin)| (key, origin)).collect();
        assert_eq!(
            origins,
            [
                ("http.deadline_ms".to_owned(), Origin::File),
                ("http.listen".to_owned(), Origin::Environment("LISTEN")),
                ("service".to_owned(), Origin::Default),
            ]
        );
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        assert_eq!(read("", &[("LISTEN", "")]).unwrap().config, Sample::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
        let error = read("service = \"x\"\n[http]\ndead_line_ms = 4\n", &[]).unwrap_err();
        assert_eq!(error.message, "failed to read config: unknown key `dead_line_ms`");
        assert!(error.details[0].ends_with("sandpost.toml:3"), "{:?}", error.details);
        assert_eq!(error.details[1], "known keys: listen, deadline_ms");
        assert_eq!(error.hint.as_deref(), Some("did you mean `deadline_ms`?"));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = read("", &[("DEADLINE_MS", "soon")]).unwrap_err();
        assert_eq!(error.message, "failed to read config: DEADLINE_MS is not a whole number");
    }

    #[test]
    fn broken_toml_has_a_place() {
        let error = read("service = \"x\"\n[http\n", &[]).unwrap_err();
        assert!(error.details[0].ends_with("sandpost.toml:2"), "{:?}", error.details);
    }
}
