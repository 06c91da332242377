//! What the fuzz target of this crate checks, as a function of any bytes. It panics where something is wrong.
//!
//! `fuzz/` runs it under libFuzzer; the test here runs it on the seed corpus and on random bytes.

use std::fmt::Debug;

use bytes::Bytes;
use openraft::EntryPayload;

use crate::codec;

/// The first byte chooses a kind of log record and whether the rest is the record or what lies behind a right checksum.
/// It decodes or is an error, and what decodes is encoded and decoded to the same again; commands in it likewise.
pub fn record(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let record = if kind & 0x80 == 0 { codec::sealed(rest) } else { Bytes::copy_from_slice(rest) };
    match kind % 5 {
        0 => {
            let Some(entry) = again(&record, codec::decode_entry, codec::encode_entry) else { return };
            if let EntryPayload::Normal(batch) = entry.payload {
                let _ = batch.take_commands();
            }
        }
        1 => _ = again(&record, codec::decode_vote, codec::encode_vote),
        2 => _ = again(&record, codec::decode_log_id, codec::encode_log_id),
        3 => _ = again(&record, codec::decode_identity, |identity| codec::encode_identity(*identity)),
        _ => _ = again(&record, codec::decode_stored_membership, codec::encode_stored_membership),
    }
}

fn again<T: PartialEq + Debug>(
    record: &Bytes,
    decode: impl Fn(&Bytes) -> Result<T, String>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Option<T> {
    let value = decode(record).ok()?;
    let encoded = Bytes::from(encode(&value));
    assert_eq!(decode(&encoded).as_ref(), Ok(&value));
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRng, TestRunner};

    /// The committed seeds, then random bytes, always the same ones.
    #[test]
    fn records() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/record");
        let seeds: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|seed| seed.unwrap().path()).collect();
        assert!(!seeds.is_empty(), "{} is empty", corpus.display());
        seeds.iter().for_each(|seed| super::record(&std::fs::read(seed).unwrap()));
        let config = Config { cases: 10_000, failure_persistence: None, ..Config::default() };
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        let check = |bytes: Vec<u8>| {
            super::record(&bytes);
            Ok(())
        };
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(Default::default())).run(&bytes, check).unwrap();
    }
}
