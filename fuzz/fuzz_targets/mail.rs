//! libFuzzer around `sandpost_fuzz_targets::mail`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandpost_fuzz_targets::mail(data));
