//! A Dockerfile.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| sampan_runtime::fuzzing::dockerfile(text));
