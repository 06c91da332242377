//! Any bytes decode to a command or to an error; what decodes encodes to the same bytes again.
#![no_main]

use bytes::Bytes;
use kelson_engine::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(command) = Command::decode(&Bytes::copy_from_slice(data)) {
        let mut encoded = Vec::new();
        command.encode(&mut encoded);
        assert_eq!(Command::decode(&encoded.into()), Ok(command));
    }
});
