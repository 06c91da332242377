//! Any bytes as the body of a request to the JSON gateway.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kelson_etcd::fuzz::json(data));
