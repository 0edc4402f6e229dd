//! The `OTEL_*` variables, by their specification
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>, read August 2026): what this host keeps to.
//!
//! An empty variable is one that is not set. A value that is not supported, or cannot be read, is an error that names the
//! variable: a host that was told to export does not start without. No error holds a header's value.

use super::Export;
use percent_encoding::percent_decode_str;
use sandpost_message::{MessageId, TraceParent};
use std::fmt::Write as _;
use std::time::Duration;
use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Where a collector listens by its own default.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
/// The path of traces below an endpoint that all signals share.
const TRACES_PATH: &str = "/v1/traces";
/// As the specification has it.
const TIMEOUT_MS: u64 = 10_000;
/// A thread that waits longer than this for one answer exports nothing.
const TIMEOUT_MS_MAX: u64 = 10 * 60 * 1000;
/// Headers, and attributes of the resource: each is sent with every batch.
const PAIRS_MAX: usize = 64;
/// The random end of a trace id, which ratios are taken of.
const RANDOM_BITS: u32 = 56;

const NOT_A_URL: &str = "is not a URL with a host, as http://collector:4318";

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable that cannot be obeyed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {reason}")]
pub struct SettingError {
    variable: String,
    reason: String,
}

impl SettingError {
    fn new(variable: &str, reason: impl Into<String>) -> Self {
        Self { variable: variable.to_owned(), reason: reason.into() }
    }
}

/// A collector, and what is sent to it.
pub struct Settings {
    pub(super) endpoint: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
    /// Who may have signed the collector's certificate, where not the usual authorities.
    pub(super) authorities: Option<Vec<Certificate<'static>>>,
    pub(super) resource: Vec<(String, String)>,
    pub(super) sampler: Sampler,
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sampler {
    word: &'static str,
    /// A caller's decision, or that of an earlier span, stands.
    parent_based: bool,
    /// Below this a trace's random end is not recorded.
    rejected_below: u64,
}

impl Sampler {
    const ALL: u64 = 1 << RANDOM_BITS;

    /// Whether a span of this trace is recorded. `parent` is where it goes on.
    pub(super) fn takes(&self, trace: &TraceParent, parent: Option<&TraceParent>) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.is_sampled(),
            _ => {
                let random = trace.trace_bits() & u128::from(Self::ALL - 1);
                random >= u128::from(self.rejected_below)
            }
        }
    }

    fn read(lookup: Lookup<'_>) -> Result<Self, SettingError> {
        const VARIABLE: &str = "OTEL_TRACES_SAMPLER";
        let word = set(lookup, VARIABLE).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (word, parent_based, rejected_below) = match &*word {
            "always_on" => ("always_on", false, 0),
            "always_off" => ("always_off", false, Self::ALL),
            "traceidratio" => ("traceidratio", false, rejected(lookup)?),
            "parentbased_always_on" => ("parentbased_always_on", true, 0),
            "parentbased_always_off" => ("parentbased_always_off", true, Self::ALL),
            "parentbased_traceidratio" => ("parentbased_traceidratio", true, rejected(lookup)?),
            other => {
                let reason = format!(
                    "is {other:?}; supported are always_on, always_off, traceidratio, and each with `parentbased_` before it"
                );
                return Err(SettingError::new(VARIABLE, reason));
            }
        };
        Ok(Self { word, parent_based, rejected_below })
    }
}

/// Of [`Sampler::ALL`], how many are not recorded by the ratio in `OTEL_TRACES_SAMPLER_ARG`.
fn rejected(lookup: Lookup<'_>) -> Result<u64, SettingError> {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";
    let Some(text) = set(lookup, VARIABLE) else { return Ok(0) };
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    let ratio = ratio.ok_or_else(|| SettingError::new(VARIABLE, format!("is {text:?}; a ratio is 0 to 1")))?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "0 to 2^56, a power of two that a double holds exactly"
    )]
    let rejected = ((1.0 - ratio) * Sampler::ALL as f64).round() as u64;
    Ok(rejected)
}

/// What the variables say.
pub(super) fn read(service: &str, lookup: Lookup<'_>) -> Result<Export, SettingError> {
    let off = |because| Ok(Export::Off { because });
    if set(lookup, "OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return off("OTEL_SDK_DISABLED is true");
    }
    let exporter = set(lookup, "OTEL_TRACES_EXPORTER");
    match exporter.as_deref() {
        None | Some("otlp") => {}
        Some("none") => return off("OTEL_TRACES_EXPORTER is none"),
        Some(other) => {
            return Err(SettingError::new(
                "OTEL_TRACES_EXPORTER",
                format!("is {other:?}; supported are otlp and none"),
            ));
        }
    }
    let (variable, endpoint) =
        match (set(lookup, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), set(lookup, "OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(own), _) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own),
            (None, Some(shared)) => {
                let joined = format!("{}{TRACES_PATH}", shared.trim_end_matches('/'));
                ("OTEL_EXPORTER_OTLP_ENDPOINT", joined)
            }
            (None, None) if exporter.is_some() => ("OTEL_TRACES_EXPORTER", format!("{DEFAULT_ENDPOINT}{TRACES_PATH}")),
            (None, None) => return off("OTEL_EXPORTER_OTLP_ENDPOINT is not set"),
        };
    check_endpoint(variable, &endpoint)?;
    if let Some((variable, protocol)) = of_traces(lookup, "PROTOCOL")
        && protocol != "http/protobuf"
    {
        let reason = format!("is {protocol:?}; supported is http/protobuf alone, for which collectors have port 4318");
        return Err(SettingError::new(&variable, reason));
    }
    if let Some((variable, compression)) = of_traces(lookup, "COMPRESSION")
        && compression != "none"
    {
        return Err(SettingError::new(&variable, format!("is {compression:?}; supported is none")));
    }
    for name in ["CLIENT_KEY", "CLIENT_CERTIFICATE"] {
        if let Some((variable, _)) = of_traces(lookup, name) {
            return Err(SettingError::new(&variable, "is set; certificates of a client are not supported"));
        }
    }
    let timeout_ms = match of_traces(lookup, "TIMEOUT") {
        None => TIMEOUT_MS,
        Some((variable, text)) => text
            .parse()
            .ok()
            .filter(|timeout_ms| (1..=TIMEOUT_MS_MAX).contains(timeout_ms))
            .ok_or_else(|| SettingError::new(&variable, format!("is {text:?}; it is 1 to {TIMEOUT_MS_MAX} ms")))?,
    };
    Ok(Export::On(Box::new(Settings {
        endpoint,
        headers: headers(lookup)?,
        timeout: Duration::from_millis(timeout_ms),
        authorities: authorities(lookup)?,
        resource: resource(service, lookup)?,
        sampler: Sampler::read(lookup)?,
    })))
}

impl Settings {
    pub(super) fn describe(&self) -> String {
        let Self { endpoint, headers, timeout, authorities, resource, .. } = self;
        // A key may stand in the query.
        let endpoint = endpoint.split_once('?').map_or_else(|| endpoint.clone(), |(shown, _)| format!("{shown}?***"));
        let service = resource.iter().find(|(name, _)| name == "service.name").map_or("", |(_, value)| value);
        let mut text = format!(
            "exported to {endpoint} by http/protobuf, as `{service}`, sampler {}, at most {} ms a batch",
            self.sampler_text(),
            timeout.as_millis()
        );
        for (name, _) in headers {
            // Writing to a String cannot fail.
            let _infallible = write!(text, ", header {name}: ***");
        }
        if authorities.is_some() {
            text.push_str(", certificates checked by OTEL_EXPORTER_OTLP_CERTIFICATE");
        }
        text
    }

    fn sampler_text(&self) -> String {
        let Sampler { word, rejected_below, .. } = self.sampler;
        if !word.ends_with("ratio") {
            return word.to_owned();
        }
        #[allow(clippy::cast_precision_loss, reason = "for a person")]
        let ratio = (Sampler::ALL - rejected_below) as f64 / Sampler::ALL as f64;
        format!("{word} {ratio}")
    }
}

fn set(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// A variable of the exporter: the one for traces alone stands above the one for all signals.
fn of_traces(lookup: Lookup<'_>, name: &str) -> Option<(String, String)> {
    [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")]
        .into_iter()
        .find_map(|variable| set(lookup, &variable).map(|value| (variable, value)))
}

fn check_endpoint(variable: &str, endpoint: &str) -> Result<(), SettingError> {
    let wrong = |reason: &str| Err(SettingError::new(variable, reason));
    let Ok(uri) = endpoint.parse::<Uri>() else { return wrong(NOT_A_URL) };
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return wrong(NOT_A_URL);
    };
    if authority.as_str().contains('@') {
        return wrong("holds a user; say who exports by OTEL_EXPORTER_OTLP_HEADERS");
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(()),
        _ => wrong("is neither http nor https"),
    }
}

fn headers(lookup: Lookup<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, SettingError> {
    let Some((variable, text)) = of_traces(lookup, "HEADERS") else { return Ok(Vec::new()) };
    let pairs = pairs(&variable, &text)?.into_iter().enumerate();
    pairs
        .map(|(place, (name, value))| {
            let wrong = |what| {
                SettingError::new(&variable, format!("has {what} that HTTP does not allow at place {}", place + 1))
            };
            let name = HeaderName::try_from(name).map_err(|_| wrong("a name"))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong("a value"))?;
            value.set_sensitive(true);
            Ok((name, value))
        })
        .collect()
}

fn authorities(lookup: Lookup<'_>) -> Result<Option<Vec<Certificate<'static>>>, SettingError> {
    let Some((variable, path)) = of_traces(lookup, "CERTIFICATE") else { return Ok(None) };
    let wrong = |reason: String| SettingError::new(&variable, reason);
    let pem = std::fs::read(&path).map_err(|error| wrong(format!("names a file that cannot be read: {error}")))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) =
            item.map_err(|error| wrong(format!("names a file that is not PEM: {error}")))?
        {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(wrong("names a file without a certificate".to_owned()));
    }
    Ok(Some(found))
}

/// Who exports. What the variables say stands above what the host knows of itself.
fn resource(service: &str, lookup: Lookup<'_>) -> Result<Vec<(String, String)>, SettingError> {
    const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let mut resource = match set(lookup, VARIABLE) {
        Some(text) => pairs(VARIABLE, &text)?,
        None => Vec::new(),
    };
    if let Some(name) = set(lookup, "OTEL_SERVICE_NAME") {
        resource.retain(|(known, _)| known != "service.name");
        resource.push(("service.name".to_owned(), name));
    }
    let version = env!("CARGO_PKG_VERSION");
    for (name, value) in [
        ("service.name", service.to_owned()),
        ("service.version", version.to_owned()),
        ("service.instance.id", MessageId::new().to_string()),
        ("telemetry.sdk.language", "rust".to_owned()),
        ("telemetry.sdk.name", "sandpost".to_owned()),
        ("telemetry.sdk.version", version.to_owned()),
    ] {
        if !resource.iter().any(|(known, _)| known == name) {
            resource.push((name.to_owned(), value));
        }
    }
    Ok(resource)
}

/// `name=value,name=value`, values percent-encoded where they have to be. An error names the place, never the text.
fn pairs(variable: &str, text: &str) -> Result<Vec<(String, String)>, SettingError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (place, pair) in text.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()) {
        let wrong = || SettingError::new(variable, format!("is not NAME=VALUE at place {}", place + 1));
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(wrong());
        }
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?.into_owned();
        pairs.retain(|(known, _)| known != name);
        pairs.push((name.to_owned(), value));
        if pairs.len() > PAIRS_MAX {
            return Err(SettingError::new(variable, format!("has more than {PAIRS_MAX} entries")));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(variables: &[(&str, &str)]) -> Result<Export, SettingError> {
        read("host", &|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn on(variables: &[(&str, &str)]) -> Settings {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        match read_with(&[&[endpoint], variables].concat()) {
            Ok(Export::On(settings)) => *settings,
            Ok(Export::Off { because }) => panic!("off: {because}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn nothing_is_exported_unless_a_variable_says_where_or_by_what() {
        for (variables, because) in [
            (&[][..], "OTEL_EXPORTER_OTLP_ENDPOINT is not set"),
            (
                &[("OTEL_SERVICE_NAME", "x"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
                "OTEL_EXPORTER_OTLP_ENDPOINT is not set",
            ),
            (
                &[("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")],
                "OTEL_SDK_DISABLED is true",
            ),
            (
                &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")],
                "OTEL_TRACES_EXPORTER is none",
            ),
        ] {
            match read_with(variables) {
                Ok(Export::Off { because: said }) => assert_eq!(said, because),
                _ => panic!("{variables:?}"),
            }
        }
    }

    #[test]
    fn the_endpoint_is_of_traces_or_of_all_signals_or_the_default() {
        for (variables, endpoint) in [
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")][..], "http://c:4318/v1/traces"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp/")], "https://c/otlp/v1/traces"),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
                    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/spans"),
                ],
                "http://t:1/spans",
            ),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], "http://localhost:4318/v1/traces"),
        ] {
            match read_with(variables) {
                Ok(Export::On(settings)) => assert_eq!(settings.endpoint, endpoint),
                _ => panic!("{variables:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_supported_is_an_error_that_names_the_variable_and_no_secret() {
        for (name, value, error) in [
            (
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "grpc",
                "is \"grpc\"; supported is http/protobuf alone, for which collectors have port 4318",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "http/json",
                "is \"http/json\"; supported is http/protobuf alone, for which collectors have port 4318",
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "is \"gzip\"; supported is none"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k", "is set; certificates of a client are not supported"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "is \"0\"; it is 1 to 600000 ms"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,hunter2", "is not NAME=VALUE at place 2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2", "has a name that HTTP does not allow at place 1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0a", "has a value that HTTP does not allow at place 1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=x", "is not NAME=VALUE at place 1"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "is \"zipkin\"; supported are otlp and none"),
            (
                "OTEL_TRACES_SAMPLER",
                "jaeger_remote",
                "is \"jaeger_remote\"; supported are always_on, always_off, traceidratio, and each with `parentbased_` before it",
            ),
        ] {
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
            let said = read_with(&[endpoint, (name, value)]).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), Some(&*format!("{name} {error}")));
        }
        for (value, error) in [
            ("c:4318", NOT_A_URL),
            ("ftp://c", "is neither http nor https"),
            ("http://user:hunter2@c", "holds a user; say who exports by OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://c c", NOT_A_URL),
            ("/c", NOT_A_URL),
        ] {
            let said = read_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", value)]).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), Some(&*format!("OTEL_EXPORTER_OTLP_ENDPOINT {error}")), "{value}");
        }
    }

    #[test]
    fn headers_are_decoded_and_shown_by_name_alone() {
        let settings = on(&[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2, x-team = a=b ,")]);
        let headers: Vec<(&str, &str)> =
            settings.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x-team", "a=b")]);
        assert_eq!(
            settings.describe(),
            "exported to http://collector:4318/v1/traces by http/protobuf, as `host`, sampler parentbased_always_on, at \
             most 10000 ms a batch, header authorization: ***, header x-team: ***"
        );
        let keyed = on(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/t?key=hunter2")]);
        assert!(keyed.describe().starts_with("exported to https://c/t?*** by"), "{}", keyed.describe());
    }

    #[test]
    fn the_service_has_the_name_that_is_said_most_closely() {
        let name = |variables: &[(&str, &str)]| {
            let names: Vec<String> = on(variables)
                .resource
                .into_iter()
                .filter(|(name, _)| name == "service.name")
                .map(|(_, value)| value)
                .collect();
            assert_eq!(names.len(), 1);
            names.concat()
        };
        assert_eq!(name(&[]), "host");
        assert_eq!(name(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=a%20b,deployment.environment.name=test")]), "a b");
        assert_eq!(name(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=a"), ("OTEL_SERVICE_NAME", "b")]), "b");
    }

    #[test]
    fn samplers_obey_the_parent_where_they_say_so_and_take_their_share_of_new_traces() {
        let taken = |word: &str, ratio: &str, parent: Option<bool>| {
            let sampler = on(&[("OTEL_TRACES_SAMPLER", word), ("OTEL_TRACES_SAMPLER_ARG", ratio)]).sampler;
            let count = 4000;
            let taken = (0..count)
                .filter(|_| {
                    let trace = TraceParent::new();
                    let parent = parent.map(|sampled| trace.with_sampled(sampled));
                    sampler.takes(&trace.child(), parent.as_ref())
                })
                .count();
            (taken * 100).div_ceil(count)
        };
        assert_eq!(taken("always_on", "", Some(false)), 100);
        assert_eq!(taken("always_off", "", Some(true)), 0);
        assert_eq!(taken("parentbased_always_off", "", Some(true)), 100);
        assert_eq!(taken("parentbased_always_off", "", None), 0);
        assert_eq!(taken("parentbased_always_on", "", Some(false)), 0);
        assert_eq!(taken("traceidratio", "0", None), 0);
        assert_eq!(taken("traceidratio", "1", None), 100);
        // Of 4000 at a quarter the deviation is 0.7 %: eight of them never happen.
        assert!((19..=31).contains(&taken("traceidratio", "0.25", Some(false))));
        assert!((19..=31).contains(&taken("parentbased_traceidratio", "0.25", None)));
        assert_eq!(taken("parentbased_traceidratio", "0.25", Some(true)), 100);
    }
}
