//! A key and its value as they stand in a range's answer: what prost would write, without a message in between.

use kelson_engine::Head;
use prost::encoding::encoded_len_varint;

/// Tags: of a range answer's keys; of a key's fields in their order, whose numbers are all small.
const KVS: u8 = 2 << 3 | 2;
const KEY: u8 = 1 << 3 | 2;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// Bytes of a tag and the longest number behind it.
const FIELD: usize = 11;

/// Bytes that [`encode`] writes for a value of that length.
pub(crate) fn length(head: &Head, value: usize) -> usize {
    let inner = inner(head, value);
    1 + encoded_len_varint(inner as u64) + inner
}

/// The same without what stands before it.
fn inner(head: &Head, value: usize) -> usize {
    let number = |number: i64| if number == 0 { 0 } else { 1 + encoded_len_varint(number as u64) };
    let bytes = |length: usize| if length == 0 { 0 } else { 1 + encoded_len_varint(length as u64) + length };
    let numbers = [head.create_revision, head.mod_revision, head.version, head.lease];
    bytes(head.key.len()) + bytes(value) + numbers.into_iter().map(number).sum::<usize>()
}

pub(super) fn encode(head: &Head, value: &[u8], out: &mut Vec<u8>) {
    let mut small = Small { bytes: [0; 4 * FIELD], length: 0 };
    small.field(KVS, inner(head, value.len()) as u64);
    small.unless_zero(KEY, head.key.len() as u64);
    small.write(out);
    out.extend_from_slice(head.key);
    small.unless_zero(CREATE_REVISION, head.create_revision as u64);
    small.unless_zero(MOD_REVISION, head.mod_revision as u64);
    small.unless_zero(VERSION, head.version as u64);
    small.unless_zero(VALUE, value.len() as u64);
    small.write(out);
    out.extend_from_slice(value);
    small.unless_zero(LEASE, head.lease as u64);
    small.write(out);
}

/// Fields that are written together: at most four.
struct Small {
    bytes: [u8; 4 * FIELD],
    length: usize,
}

impl Small {
    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn field(&mut self, tag: u8, mut number: u64) {
        self.push(tag);
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    /// A field of its type's default is left out.
    fn unless_zero(&mut self, tag: u8, number: u64) {
        if number != 0 {
            self.field(tag, number);
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.length]);
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use kelson_wire::pb::etcdserverpb::RangeResponse;
    use kelson_wire::pb::mvccpb::KeyValue;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// Numbers of every length, negative ones too.
    fn number() -> impl Strategy<Value = i64> {
        (any::<i64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
    }

    proptest! {
        #[test]
        fn it_is_what_prost_writes(
            key in prop::collection::vec(any::<u8>(), 0..200),
            value in prop::collection::vec(any::<u8>(), 0..20_000),
            numbers in [number(), number(), number(), number()],
        ) {
            let [create_revision, mod_revision, version, lease] = numbers;
            let head = Head { key: &key, create_revision, mod_revision, version, lease };
            let mut written = b"before".to_vec();
            encode(&head, &value, &mut written);
            let kv = KeyValue { key: key.clone().into(), value: value.clone().into(), create_revision, mod_revision, version, lease };
            let expected = RangeResponse { kvs: vec![kv], ..RangeResponse::default() }.encode_to_vec();
            prop_assert_eq!(&written[6..], &expected[..]);
            prop_assert_eq!(length(&head, value.len()), expected.len());
        }
    }
}
