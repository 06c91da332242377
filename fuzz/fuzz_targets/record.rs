//! Any bytes as a record of the raft log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kelson_raft::fuzz::record(data));
