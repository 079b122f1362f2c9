//! An image's name.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| sampan_runtime::fuzzing::reference(text));
