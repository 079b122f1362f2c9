//! An archive of images, as `load` reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sampan_runtime::fuzzing::archive(bytes));
