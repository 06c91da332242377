//! Any bytes as a request of the API.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kelson_etcd::fuzz::request(data));
