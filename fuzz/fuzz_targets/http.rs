//! libFuzzer around `sandpost_fuzz_targets::http`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandpost_fuzz_targets::http(data));
