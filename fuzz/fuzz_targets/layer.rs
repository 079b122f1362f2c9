//! A layer's archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sampan_runtime::fuzzing::layer(bytes));
