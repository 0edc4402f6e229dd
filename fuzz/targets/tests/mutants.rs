//! The corpus, changed at random from a seed, through every target: fuzzing without a fuzzer, on stable.
//!
//! Blind where libFuzzer sees what its input reached, and yet of use: the same changes on every machine, in every build,
//! and with `SANDPOST_LONG=1` or `SANDPOST_FUZZ_SECONDS=n` for as long as one likes (30 seconds a target by `LONG`).
//! `SANDPOST_FUZZ_SEED` begins elsewhere. A failing input is kept in `fuzz/artifacts/<target>/`, and its path printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test fails by panicking")]

use sandpost_fuzz_targets::TARGETS;
use std::path::Path;
use std::time::{Duration, Instant};

/// Inputs a target in a short run.
const SHORT: u64 = 60;
/// Seconds a target in a long one.
const LONG_SECONDS: u64 = 30;
/// Changes of one input.
const CHANGES_MAX: u64 = 8;
/// Bytes of one input.
const INPUT_MAX_BYTES: usize = 8 * 1024;

/// What parsers decide by.
const TOKENS: [&str; 58] = [
    "\0",
    "\r\n",
    "\n",
    "\n%%\n",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "1.5",
    "9223372036854775807",
    "18446744073709551616",
    "$",
    "$set",
    "$unset",
    "$inc",
    "$push",
    "$pull",
    "$addToSet",
    "$rename",
    "$each",
    "$or",
    "$not",
    "$nor",
    "$elemMatch",
    "$regex",
    "$in",
    "$exists",
    "$type",
    "$size",
    "$numberLong",
    "$date",
    "$oid",
    "a.b",
    "a.0",
    "_id",
    "SELECT ",
    " UNION ",
    "?",
    ";",
    "--",
    "PRAGMA ",
    "é",
    "\u{2028}",
    "\u{feff}",
    "..",
    "*",
    "%00",
];

/// xorshift64*: small, seeded, good enough to choose by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or(usize::MAX) % bound.max(1)
    }

    /// A range of so many bytes.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let to = from + self.below((length - from).min(64) + 1);
        from..to
    }
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(8) {
        0 if !input.is_empty() => {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        1 if !input.is_empty() => {
            let at = random.below(input.len());
            input[at] = u8::try_from(random.below(256)).unwrap_or(0);
        }
        2 => {
            input.drain(random.range(input.len()));
        }
        3 => {
            let copy = input[random.range(input.len())].to_vec();
            input.splice(at..at, copy);
        }
        4 => {
            let piece = other[random.range(other.len())].to_vec();
            input.splice(at..at, piece);
        }
        5 => {
            let bytes: Vec<u8> = (0..random.below(32)).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
            input.splice(at..at, bytes);
        }
        _ => {
            let token = TOKENS[random.below(TOKENS.len())].bytes();
            input.splice(at..at, token);
        }
    }
    input.truncate(INPUT_MAX_BYTES);
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn mutants(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    let corpus = corpus(name);
    let seconds = number("SANDPOST_FUZZ_SECONDS")
        .or_else(|| std::env::var("SANDPOST_LONG").is_ok_and(|long| long == "1").then_some(LONG_SECONDS));
    let seed = number("SANDPOST_FUZZ_SEED").unwrap_or(1);
    let (since, mut done) = (Instant::now(), 0_u64);
    while seconds.map_or(done < SHORT, |seconds| since.elapsed() < Duration::from_secs(seconds)) {
        // Never 0, which xorshift does not leave.
        let mut random = Random((seed << 32 | done).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut input = corpus[random.below(corpus.len())].clone();
        let other = &corpus[random.below(corpus.len())];
        for _ in 0..=random.next() % CHANGES_MAX {
            change(&mut input, other, &mut random);
        }
        if std::panic::catch_unwind(|| target(&input)).is_err() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../artifacts").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("mutant-{seed}-{done}"));
            std::fs::write(&path, &input).unwrap();
            panic!("`{name}` fails on {}, seed {seed}, input {done}: {}", path.display(), input.escape_ascii());
        }
        done += 1;
    }
    eprintln!("{name}: {done} inputs in {:?}, seed {seed}", since.elapsed());
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            mutants(stringify!($name));
        })*
    };
}

targets!(artifact, config, documents, host_calls, http, mail, manifest, sql, words);
