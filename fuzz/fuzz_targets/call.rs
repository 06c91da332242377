//! Any bytes as the body of a call, in any pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kelson_etcd::fuzz::call(data));
