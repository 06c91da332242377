//! Any bytes as an engine command.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kelson_engine::fuzz::command(data));
