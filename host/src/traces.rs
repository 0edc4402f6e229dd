//! Where traces go, by the `OTEL_*` variables: nowhere, unless one of them says where.
//!
//! Not here: what the variables mean, and the export (`telemetry::traces`).

use crate::config::Config;
use crate::config::load::Lookup;
use crate::exit::{Exit, Expected};
use sandpost_telemetry::traces::{BUILT, Export};

/// Each of these asks for export by itself.
const ASKING: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// What the variables say; the host's own name where they give none.
pub(crate) fn read(config: &Config, lookup: Lookup<'_>) -> Result<Export, Expected> {
    Export::read(&config.service, lookup)
        .map_err(|error| Expected::new(Exit::Config, format!("failed to read config: {error}")))
}

/// The variable that asks for what this build cannot do.
pub(crate) fn in_vain(lookup: Lookup<'_>) -> Option<&'static str> {
    ASKING.into_iter().find(|name| !BUILT && lookup(name).is_some_and(|value| !value.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_in_vain_only_where_the_build_has_no_export() {
        let lookup = |name: &str| (name == ASKING[0]).then(|| "http://collector:4318".to_owned());
        assert_eq!(in_vain(&lookup), (!BUILT).then_some(ASKING[0]));
        assert_eq!(in_vain(&|_| None), None);
    }
}
