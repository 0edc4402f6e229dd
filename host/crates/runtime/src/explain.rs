//! What a component is, from its bytes alone: exports, imports, the grants it asks for and lacks, limits, size, digest.
//!
//! Nothing is compiled and nothing is run, so it is quick and safe on any file.
//!
//! Not here: whether the samples pass (`trial`).

use crate::artifact::digest_of;
use crate::manifest::{self, ManifestError, broken};
use crate::{Limits, Manifest};
use sandpost_interfaces::Grants;
use sandpost_message::{Digest, Topic};
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

/// The interfaces that make a component a plugin, without their version.
const HANDLER: &str = "sandpost:plugin/handler@";
const TEMPLATE: &str = "sandpost:plugin/template@";

/// Imports and exports of a component together; of the plugins that ship, `notification-email` has the most: 25. They are
/// listed, and refused by name.
const NAMES_MAX: usize = 1000;
/// Bytes of one of those names.
const NAME_MAX_BYTES: usize = 1024;

/// What `sandpost explain` shows.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Explanation {
    /// The manifest's name.
    pub name: Option<String>,
    /// The manifest's version.
    pub version: Option<String>,
    /// The manifest's description.
    pub description: Option<String>,
    /// The file's sha256.
    pub digest: Digest,
    /// The file's size.
    pub size_bytes: u64,
    /// Whether it handles messages.
    pub handler: bool,
    /// Whether it holds templates.
    pub template: bool,
    /// All that it exports, as the component names it.
    pub exports: Vec<String>,
    /// All that it imports.
    pub imports: Vec<String>,
    /// Topics that it is made for.
    pub topics: Vec<Topic>,
    /// What it asks to touch, a line each.
    pub grants_requested: Vec<String>,
    /// What it would lack, a line each: what it asks for and was not given, and what it imports without a grant.
    pub grants_missing: Vec<String>,
    /// What one call of it may cost, if it gets what it asks for.
    pub limits: Option<Limits>,
    /// How many samples it brings.
    pub samples: usize,
    /// Why it would not go live, as far as can be told without running it.
    pub problems: Vec<String>,
}

/// Explains a component. `given` is what the operator grants; where it is none, all that it asks for is taken as granted.
pub fn explain(bytes: &[u8], given: Option<&Grants>) -> Result<Explanation, ManifestError> {
    let surface = Surface::of(bytes)?;
    Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).map_err(|error| broken(bytes, &error))?;
    let mut problems = Vec::new();
    let manifest = manifest::read(bytes).map_err(|error| problems.push(error.to_string())).ok();
    if !surface.handler && !surface.template {
        problems.push(NO_EXPORT.to_owned());
    }
    let nothing = Grants::default();
    let requested = manifest.as_ref().map_or(&nothing, |manifest| &manifest.grants);
    let limits = manifest.as_ref().and_then(|manifest| {
        Limits::resolve(&manifest.limits, &Limits::ceiling()).map_err(|error| problems.push(error.to_string())).ok()
    });
    Ok(Explanation {
        digest: digest_of(bytes),
        size_bytes: bytes.len() as u64,
        handler: surface.handler,
        template: surface.template,
        grants_requested: requested.lines(),
        grants_missing: missing(&surface, requested, given.unwrap_or(requested)),
        limits,
        problems,
        exports: surface.exports,
        imports: surface.imports,
        name: manifest.as_ref().map(|manifest| manifest.name.to_string()),
        version: manifest.as_ref().map(|manifest| manifest.version.clone()),
        description: manifest.as_ref().map(|Manifest { description, .. }| description.clone()),
        topics: manifest.as_ref().map(|manifest| manifest.topics.clone()).unwrap_or_default(),
        samples: manifest.as_ref().map_or(0, |manifest| manifest.samples.len()),
    })
}

/// What keeps a component from being a plugin at all.
pub(crate) const NO_EXPORT: &str = "exports neither `handler` nor `template` of sandpost:plugin";

/// What a plugin lacks: what it asks for and is not given, and what it imports without asking.
pub(crate) fn missing(surface: &Surface, requested: &Grants, given: &Grants) -> Vec<String> {
    let mut missing = given.covers(requested);
    // Held against the request: an import that plugin.toml is silent about has no grant, whatever the operator gives.
    missing.extend(requested.missing_for(surface.imports.iter().map(String::as_str)));
    missing
}

/// A name of an import or export behind so many others, if both are within their bounds.
fn name_after(others: usize, name: &str) -> Result<String, ManifestError> {
    let why = if name.len() > NAME_MAX_BYTES {
        format!("the name of an import or export is over {NAME_MAX_BYTES} bytes")
    } else if others >= NAMES_MAX {
        format!("it has more than {NAMES_MAX} imports and exports")
    } else {
        return Ok(name.to_owned());
    };
    Err(ManifestError::NotComponent(why))
}

/// The outside of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surface {
    pub(crate) exports: Vec<String>,
    pub(crate) imports: Vec<String>,
    pub(crate) handler: bool,
    pub(crate) template: bool,
}

impl Surface {
    /// Reads it. Whether what lies between is valid is for whoever compiles it, and takes longer.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (mut exports, mut imports, mut depth) = (Vec::new(), Vec::new(), 0_usize);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| broken(bytes, &error))? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err(ManifestError::NotComponent(
                        "it is a core module; turn it into a component first".to_owned(),
                    ));
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        let import = import.map_err(|error| broken(bytes, &error))?;
                        imports.push(name_after(imports.len() + exports.len(), import.name.name)?);
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export.map_err(|error| broken(bytes, &error))?;
                        exports.push(name_after(imports.len() + exports.len(), export.name.name)?);
                    }
                }
                _ => {}
            }
        }
        let exported = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
        Ok(Self { handler: exported(HANDLER), template: exported(TEMPLATE), exports, imports })
    }
}
