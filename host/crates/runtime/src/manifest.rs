//! `plugin.toml`: what a plugin says of itself, carried inside the component as a custom section.
//!
//! Invariants
//! - One section of this name, at the top level of the component; embedding replaces it.
//! - Unknown keys are errors, with the nearest known one named.
//! - A manifest asks. What it gets is the operator's decision (`deploy`).
//!
//! Not here: whether the component imports what it asks for (`explain`, `deploy`).

use sandpost_interfaces::Grants;
use sandpost_message::{ConnectionLabel, Message, PluginName, Topic, limits as message_limits};
use std::collections::BTreeMap;
use wasmparser::{Encoding, Parser, Payload};

/// The custom section's name.
pub const SECTION: &str = "sandpost:plugin";
/// What WebAssembly begins with.
const MAGIC: &[u8] = b"\0asm";
/// Bytes of a manifest: samples with whole messages fit, and nobody has to read more at every start.
pub(crate) const MANIFEST_MAX_BYTES: usize = 256 * 1024;
/// Samples of one manifest. Each is a call at every deployment.
pub(crate) const SAMPLES_MAX: usize = 32;
/// Bytes of a description.
const DESCRIPTION_MAX_BYTES: usize = 1024;
/// Topics that a manifest suggests.
const TOPICS_MAX: usize = 64;

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name; one live version a name.
    pub name: PluginName,
    /// Semantic versioning, for people: the host goes by the digest.
    pub version: String,
    /// What it does, in a sentence or two.
    #[serde(default)]
    pub description: String,
    /// Topics that it is made for; a suggestion to the operator.
    #[serde(default)]
    pub topics: Vec<Topic>,
    /// What it asks to touch.
    #[serde(default)]
    pub grants: Grants,
    /// Limits other than the defaults, in the words of [`Limits`](crate::Limits).
    #[serde(default)]
    pub limits: toml::Table,
    /// Messages to try a new version of a handler on, before it serves.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// A message with what is there when it comes, and how it must end.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Where it was published to.
    pub topic: Topic,
    /// A text is the body as it is; anything else is written as JSON.
    pub body: toml::Value,
    /// The message's attributes.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The verdict that it must end with. Default `ack`.
    #[serde(default)]
    pub expect: Expected,
    /// What the services hold when the message comes.
    #[serde(default)]
    pub given: Given,
}

/// A verdict without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// Done.
    #[default]
    Ack,
    /// Try again.
    Retry,
    /// Never again.
    Reject,
}

impl Expected {
    /// The word in the manifest.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry => "retry",
            Self::Reject => "reject",
        }
    }
}

/// What is put into the scratch services before a sample.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Scripts, in order.
    pub sql: Vec<GivenScript>,
    /// Entries of the plugin's own cache scope.
    pub cache: BTreeMap<String, String>,
    /// Documents, in order.
    pub documents: Vec<GivenDocument>,
}

/// Statements that make tables and rows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenScript {
    /// On this database.
    pub connection: ConnectionLabel,
    /// In SQL that the embedded database understands, with semicolons between.
    pub script: String,
}

/// A document that is there.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenDocument {
    /// On this database.
    pub connection: ConnectionLabel,
    /// In this collection.
    pub collection: String,
    /// A table, or a text of Extended JSON.
    pub document: toml::Value,
}

impl Sample {
    /// The message's body.
    pub fn body(&self) -> Vec<u8> {
        match &self.body {
            toml::Value::String(text) => text.clone().into_bytes(),
            other => serde_json::to_vec(other).unwrap_or_default(),
        }
    }

    /// The sample as a message that was published at this time.
    pub fn message(&self, published_at_ms: u64) -> Message {
        let mut message = Message::new(self.topic.clone(), self.body(), published_at_ms);
        message.attributes = self.attributes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        message
    }
}

impl GivenDocument {
    /// The document as JSON; none where its text is none.
    pub fn json(&self) -> Option<serde_json::Value> {
        match &self.document {
            toml::Value::String(text) => serde_json::from_str(text).ok(),
            other => serde_json::to_value(other).ok(),
        }
    }
}

/// Why a plugin's manifest cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no component.
    #[error("not a WebAssembly component: {0}")]
    NotComponent(String),
    /// There is no section.
    #[error("the component carries no plugin.toml; build it with `sandpost build`")]
    Missing,
    /// There are two sections.
    #[error("the component carries two manifests")]
    Twice,
    /// It is over [`MANIFEST_MAX_BYTES`].
    #[error("plugin.toml is {size_bytes} bytes; at most {MANIFEST_MAX_BYTES} are read")]
    TooLarge {
        /// What it is.
        size_bytes: usize,
    },
    /// It does not read as a manifest.
    #[error("plugin.toml: {0}")]
    Invalid(String),
}

impl Manifest {
    /// Reads the text of a `plugin.toml` and checks what can be checked without the component.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_MAX_BYTES {
            return Err(ManifestError::TooLarge { size_bytes: text.len() });
        }
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            ManifestError::Invalid(format!("line {line}: {}", with_nearest(error.message())))
        })?;
        manifest.validate().map_err(ManifestError::Invalid)?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), String> {
        semver::Version::parse(&self.version)
            .map_err(|error| format!("version `{}` is not a semantic version: {error}", self.version.escape_debug()))?;
        if self.description.len() > DESCRIPTION_MAX_BYTES {
            return Err(format!("the description is over {DESCRIPTION_MAX_BYTES} bytes"));
        }
        if self.topics.len() > TOPICS_MAX {
            return Err(format!("more than {TOPICS_MAX} topics"));
        }
        if self.samples.len() > SAMPLES_MAX {
            return Err(format!("more than {SAMPLES_MAX} samples"));
        }
        crate::Limits::check_words(&self.limits).map_err(|error| with_nearest(&error.to_string()))?;
        for (number, sample) in (1..).zip(&self.samples) {
            sample.message(0).validate().map_err(|error| format!("sample {number}: {error}"))?;
            if let Some(document) = sample.given.documents.iter().find(|given| given.json().is_none()) {
                return Err(format!("sample {number}: a document of `{}` is not JSON", document.collection));
            }
        }
        Ok(())
    }
}

// A manifest that fits cannot hold a sample that no broker would take.
const _: () = assert!(MANIFEST_MAX_BYTES < message_limits::BODY_MAX_BYTES);

/// Puts the manifest into the component, in the place of one that is there. The manifest is checked first.
pub fn embed(component: &[u8], manifest: &str) -> Result<Vec<u8>, ManifestError> {
    Manifest::parse(manifest)?;
    let mut embedded = Vec::with_capacity(component.len() + manifest.len() + 32);
    let mut copied_to = 0;
    for (range, _) in sections(component)? {
        embedded.extend_from_slice(&component[copied_to..range.start]);
        copied_to = range.end;
    }
    embedded.extend_from_slice(&component[copied_to..]);

    let mut payload = Vec::with_capacity(manifest.len() + 24);
    leb128(&mut payload, SECTION.len());
    payload.extend_from_slice(SECTION.as_bytes());
    payload.extend_from_slice(manifest.as_bytes());
    embedded.push(0);
    leb128(&mut embedded, payload.len());
    embedded.extend_from_slice(&payload);
    // A last section that claims more bytes than the file has would swallow ours, and whatever else is appended.
    match text(&embedded) {
        Ok(found) if found == manifest => Ok(embedded),
        _ => Err(ManifestError::NotComponent("its last section is longer than the file".to_owned())),
    }
}

/// The manifest's text inside a component.
pub(crate) fn text(component: &[u8]) -> Result<&str, ManifestError> {
    let mut sections = sections(component)?.into_iter();
    let Some((_, data)) = sections.next() else { return Err(ManifestError::Missing) };
    if sections.next().is_some() {
        return Err(ManifestError::Twice);
    }
    if data.len() > MANIFEST_MAX_BYTES {
        return Err(ManifestError::TooLarge { size_bytes: data.len() });
    }
    std::str::from_utf8(data).map_err(|_| ManifestError::Invalid("not UTF-8".to_owned()))
}

/// Reads the manifest inside a component.
pub fn read(component: &[u8]) -> Result<Manifest, ManifestError> {
    Manifest::parse(text(component)?)
}

/// A section of ours: the bytes that it takes, header included, and its data.
type Found<'a> = (std::ops::Range<usize>, &'a [u8]);

/// Each section of ours at the top level.
fn sections(component: &[u8]) -> Result<Vec<Found<'_>>, ManifestError> {
    let (mut depth, mut found, mut end_of_last) = (0_usize, Vec::new(), 0);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|error| broken(component, &error))? {
            Payload::Version { encoding, range, .. } => {
                if depth == 0 && encoding != Encoding::Component {
                    return Err(ManifestError::NotComponent(
                        "it is a core module; turn it into a component first".to_owned(),
                    ));
                }
                if depth == 0 {
                    end_of_last = range.end;
                }
            }
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                depth += 1;
                if depth == 1 {
                    end_of_last = unchecked_range.end;
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 => {
                if section.name() == SECTION {
                    found.push((end_of_last..section.range().end, section.data()));
                }
                end_of_last = section.range().end;
            }
            other => {
                if depth == 0
                    && let Some((_, range)) = other.as_section()
                {
                    end_of_last = range.end;
                }
            }
        }
    }
    Ok(found)
}

/// Why these bytes are no component, where the parser stopped at this: its words for a file of another kind are about numbers.
pub(crate) fn broken(bytes: &[u8], error: &wasmparser::BinaryReaderError) -> ManifestError {
    ManifestError::NotComponent(if bytes.is_empty() {
        "the file is empty".to_owned()
    } else if !bytes.starts_with(MAGIC) {
        "it does not begin as WebAssembly does".to_owned()
    } else {
        crate::artifact::one_line(&error.to_string())
    })
}

/// Unsigned LEB128.
fn leb128(into: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            into.push(low);
            return;
        }
        into.push(low | 0x80);
    }
}

/// An error about an unknown key, with the nearest known one named. serde lists them between back-ticks: the unknown one
/// first.
fn with_nearest(message: &str) -> String {
    let message = message.trim_end();
    if !message.contains("unknown field") && !message.contains("unknown variant") {
        return message.to_owned();
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(unknown) = words.next() else { return message.to_owned() };
    match words
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .max_by(|one, other| one.0.total_cmp(&other.0))
    {
        Some((similarity, known)) if similarity > NEAREST_MIN => format!("{message}; did you mean `{known}`?"),
        _ => message.to_owned(),
    }
}

/// Below this, two words are not the same word mistyped.
const NEAREST_MIN: f64 = 0.75;

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest component: a header and nothing else.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    const PLAIN: &str = "name = \"hello\"\nversion = \"1.2.3\"\n";

    #[test]
    fn what_is_embedded_is_read_and_replaced() {
        let with_other = [EMPTY, &[0, 5, 3, b'a', b'b', b'c', 7]].concat();
        let one = embed(&with_other, PLAIN).unwrap();
        assert_eq!(read(&one).unwrap().version, "1.2.3");
        let two = embed(&one, "name = \"hello\"\nversion = \"2.0.0\"\n").unwrap();
        assert_eq!(read(&two).unwrap().version, "2.0.0");
        assert_eq!(two.len(), one.len());
        assert_eq!(&two[..with_other.len()], with_other);
        assert_eq!(read(&with_other), Err(ManifestError::Missing));
    }

    #[test]
    fn bytes_that_are_no_component_are_refused() {
        for bytes in [&b""[..], b"hello", &EMPTY[..6], b"\0asm\x01\0\0\0", &[EMPTY, &[0, 200]].concat()] {
            assert!(matches!(read(bytes), Err(ManifestError::NotComponent(_))), "{bytes:?}: {:?}", read(bytes));
        }
    }

    #[test]
    fn why_bytes_are_no_component_is_told_in_words() {
        for (bytes, why) in [
            (&b""[..], "the file is empty"),
            (b"#!/bin/sh\n", "it does not begin as WebAssembly does"),
            (&EMPTY[..6], "unexpected end-of-file (at offset 0x"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.starts_with(&format!("not a WebAssembly component: {why}")), "{error}");
        }
    }

    #[test]
    fn a_section_that_is_longer_than_the_file_does_not_swallow_the_manifest() {
        // A nested module whose section says 9 bytes where 8 are left: found by fuzzing.
        let torn = b"\0asm\x0d\0\x01\0\x01\x09\0asm\x01\0\0\0";
        let error = embed(torn, PLAIN).unwrap_err();
        assert_eq!(error, ManifestError::NotComponent("its last section is longer than the file".to_owned()));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (text, nearest) in [
            ("nmae = \"x\"\nversion = \"1.0.0\"", "name"),
            ("name = \"x\"\nversion = \"1.0.0\"\n[grants]\npublsh = []", "publish"),
            ("name = \"x\"\nversion = \"1.0.0\"\n[limits]\ndead_line_ms = 1", "deadline_ms"),
            (
                "name = \"x\"\nversion = \"1.0.0\"\n[[samples]]\ntopic = \"abc\"\nbody = \"\"\nexpect = \"rejected\"",
                "reject",
            ),
        ] {
            let error = Manifest::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("did you mean `{nearest}`?")), "{error}");
        }
    }

    #[test]
    fn a_manifest_is_checked_as_far_as_it_can_be() {
        for (text, part) in [
            ("name = \"x\"\nversion = \"one\"", "semantic version"),
            ("name = \"X\"\nversion = \"1.0.0\"", "lower-case"),
            ("name = \"x\"\nversion = \"1.0.0\"\n[limits]\ndeadline_ms = \"soon\"", "deadline_ms"),
            (
                "name = \"x\"\nversion = \"1.0.0\"\n[[samples]]\ntopic = \"abc\"\nbody = \"\"\nattributes = { goog = \"1\" }",
                "sample 1",
            ),
        ] {
            let error = Manifest::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let long = format!("{PLAIN}#{}", "x".repeat(MANIFEST_MAX_BYTES));
        assert!(matches!(Manifest::parse(&long), Err(ManifestError::TooLarge { .. })));
    }

    #[test]
    fn a_sample_body_is_text_or_json() {
        let text = format!(
            "{PLAIN}[[samples]]\ntopic = \"abc\"\nbody = {{ a = 1 }}\n[[samples]]\ntopic = \"abc\"\nbody = \"as it is\"\n"
        );
        let manifest = Manifest::parse(&text).unwrap();
        assert_eq!(manifest.samples[0].body(), b"{\"a\":1}");
        assert_eq!(manifest.samples[1].body(), b"as it is");
        assert_eq!(manifest.samples[0].expect, Expected::Ack);
    }
}
