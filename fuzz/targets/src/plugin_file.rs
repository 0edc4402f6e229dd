//! Plugin files: their manifests as text, and the components that carry them.

use sandpost_interfaces::Grants;
use sandpost_runtime::{Manifest, embed, explain, read};

/// A component with nothing in it.
const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// The least that a manifest says.
const SMALLEST: &str = "name = \"a\"\nversion = \"1.0.0\"\n";

/// The bytes as `plugin.toml`: what parses can be put into a component, read from it and tried.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(manifest) = Manifest::parse(text) else {
        assert!(embed(EMPTY_COMPONENT, text).is_err(), "what does not parse is not embedded");
        return;
    };
    for sample in &manifest.samples {
        assert_eq!(sample.message(0).validate(), Ok(()));
        assert!(sample.given.documents.iter().all(|given| given.json().is_some()));
    }
    let component = embed(EMPTY_COMPONENT, text).expect("what parses is embedded");
    // As text, because a manifest may hold a NaN.
    assert_eq!(format!("{:?}", read(&component).expect("what is embedded is read")), format!("{manifest:?}"));
    assert_eq!(embed(&component, text).as_ref(), Ok(&component), "embedding again changes nothing");
    let explained = explain(&component, None).expect("the component is valid");
    assert_eq!(explained.name.as_deref(), Some(manifest.name.as_str()));
    assert!(explained.grants_missing.is_empty(), "what asks for itself lacks nothing: {:?}", explained.grants_missing);
    assert!(!explained.problems.is_empty(), "a component without exports never goes live");
    let given_nothing = explain(&component, Some(&Grants::default())).expect("the component is valid");
    assert_eq!(given_nothing.grants_missing.len(), manifest.grants.lines().len());
}

/// The bytes as an artifact: it is explained or refused, and a manifest goes in only where it comes out again.
pub fn artifact(data: &[u8]) {
    let explained = explain(data, None);
    let found = read(data);
    if let Ok(explained) = &explained {
        assert_eq!(explained.size_bytes, data.len() as u64);
        assert_eq!(explained.name.is_some(), found.is_ok(), "{:?}", explained.problems);
        // What goes live has no problem, and so a manifest and an export.
        assert!(!explained.problems.is_empty() || (found.is_ok() && (explained.handler || explained.template)));
    }
    let Ok(embedded) = embed(data, SMALLEST) else { return };
    let manifest = read(&embedded).expect("what was embedded is read");
    assert_eq!(manifest.name.as_str(), "a");
    if let Ok(before) = explained {
        let after = explain(&embedded, None).expect("a manifest keeps a component valid");
        assert_eq!((after.exports, after.imports), (before.exports, before.imports));
    }
}
