//! Every file of `fuzz/corpus` through its target, on stable. What a fuzzer found once is looked at in every build.
//!
//! A file is added by naming a finding's bytes `fuzz/corpus/<target>/<what-it-was>`; `fuzz/README.md` has the commands.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_fuzz_targets::TARGETS;
use std::path::{Path, PathBuf};

/// The whole corpus is small, so that it is kept and replayed with everything else.
const CORPUS_MAX_BYTES: u64 = 1024 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A fuzzer's inputs, one after the other; the failing one is named.
fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    let files = files(&corpus().join(name));
    assert!(files.len() >= 5, "the corpus of `{name}` has only {} files", files.len());
    for file in files {
        let input = std::fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| target(&input));
        assert!(outcome.is_ok(), "`{name}` fails on {}", file.display());
    }
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed_and_every_folder_has_a_target() {
            let replayed = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|(name, _)| name), replayed);
            for folder in files(&corpus()) {
                let name = folder.file_name().unwrap().to_str().unwrap();
                assert!(replayed.contains(&name), "fuzz/corpus/{name} belongs to no target");
                let fuzzer = corpus().join(format!("../fuzz_targets/{name}.rs"));
                assert!(fuzzer.is_file(), "{} is missing", fuzzer.display());
            }
        }
    };
}

targets!(artifact, config, documents, host_calls, http, mail, manifest, sql, words);

#[test]
fn the_corpus_is_small() {
    let all: Vec<PathBuf> = files(&corpus()).iter().flat_map(|folder| files(folder)).collect();
    let bytes: u64 = all.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= CORPUS_MAX_BYTES, "{} files of {bytes} bytes", all.len());
}
