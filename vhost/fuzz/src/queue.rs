//! Arbitrary bytes as the memory of a guest with a split ring. See `rig`.
#![no_main]

mod rig;

libfuzzer_sys::fuzz_target!(|input: &[u8]| rig::run(input, false));
