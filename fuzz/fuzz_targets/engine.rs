//! Any bytes as a sequence of commands and crashes, on the engine and on a naive model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kelson_engine::fuzz::engine(data));
