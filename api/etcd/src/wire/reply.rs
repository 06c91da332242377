//! Answers as they go out: encoded once, large values not copied.

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use kelson_wire::pb::etcdserverpb::RangeResponse;
use kelson_wire::pb::mvccpb::KeyValue;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Status;
use tonic::body::Body;

use crate::call::PREFIX;

/// Values from so many bytes on are sent from where they lie.
pub(super) const APART: usize = 16 << 10;

/// Numbers of fields: a [`RangeResponse`]'s keys, and a [`KeyValue`]'s value.
const KVS: u32 = 2;
const VALUE: u32 = 5;

/// The answer to a call.
pub(super) enum Reply {
    /// A message behind its prefix.
    Whole(Bytes),
    /// The same in pieces.
    Pieces(Vec<Bytes>),
    /// One that is too large to be made at once; with its trailers.
    Body(Body),
}

/// A failure, which is all in the headers.
pub(super) fn failure(status: Status) -> Response<()> {
    status.into_http::<()>()
}

/// A message behind its prefix.
pub(super) fn whole(message: &impl Message) -> Reply {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    prefix(&mut out, length);
    message.encode_raw(&mut out);
    Reply::Whole(out.freeze())
}

/// Appends a message of a known length behind its prefix.
pub(super) fn put(message: &impl Message, length: usize, out: &mut Vec<u8>) {
    prefix(out, length);
    message.encode_raw(out);
}

/// Messages of the direct path are bounded by [`crate::large`], far below what a length can say.
fn prefix(out: &mut impl BufMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// A range; see [`APART`].
pub(super) fn range(mut answer: RangeResponse) -> Reply {
    if answer.kvs.iter().all(|kv| kv.value.len() < APART) {
        return whole(&answer);
    }
    let length = answer.encoded_len();
    let kvs = std::mem::take(&mut answer.kvs);
    let rest = RangeResponse { header: answer.header.take(), ..Default::default() };
    let mut out = BytesMut::with_capacity(IN_FRONT);
    prefix(&mut out, length);
    rest.encode_raw(&mut out);
    let mut pieces = Vec::new();
    for mut kv in kvs {
        if kv.value.len() < APART {
            prost::encoding::message::encode(KVS, &kv, &mut out);
            continue;
        }
        encode_key(KVS, WireType::LengthDelimited, &mut out);
        encode_varint(kv.encoded_len() as u64, &mut out);
        let value = std::mem::take(&mut kv.value);
        let lease = KeyValue { lease: std::mem::take(&mut kv.lease), ..Default::default() };
        kv.encode_raw(&mut out);
        encode_key(VALUE, WireType::LengthDelimited, &mut out);
        encode_varint(value.len() as u64, &mut out);
        pieces.extend([out.split().freeze(), value]);
        lease.encode_raw(&mut out);
    }
    answer.encode_raw(&mut out);
    pieces.push(out.freeze());
    Reply::Pieces(pieces)
}

/// A guess of what comes in front of a value that lies apart.
const IN_FRONT: usize = 512;

#[cfg(test)]
mod tests {
    use kelson_wire::pb::etcdserverpb::ResponseHeader;

    use super::*;

    fn answer(sizes: &[usize]) -> RangeResponse {
        let kv = |(i, size): (usize, &usize)| KeyValue {
            key: format!("key-{i}").into(),
            create_revision: 3 + i as i64,
            mod_revision: 300 + i as i64,
            version: i as i64,
            value: vec![i as u8; *size].into(),
            lease: if i % 2 == 0 { 0 } else { 7 },
        };
        RangeResponse {
            header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 300, raft_term: 4 }),
            kvs: sizes.iter().enumerate().map(kv).collect(),
            more: true,
            count: 12_345,
        }
    }

    #[test]
    fn ranges_in_pieces_are_the_same_message() {
        for sizes in [&[][..], &[0], &[1024], &[APART], &[10, APART, 20, 3 * APART, APART + 1], &[APART, APART, 5]] {
            let expected = answer(sizes);
            let large = sizes.iter().filter(|size| **size >= APART).count();
            let sent = match range(expected.clone()) {
                Reply::Whole(bytes) if large == 0 => bytes,
                Reply::Pieces(pieces) if large > 0 => {
                    assert_eq!(pieces.len(), 2 * large + 1);
                    let apart = expected.kvs.iter().filter(|kv| kv.value.len() >= APART);
                    assert!(apart.zip(pieces.iter().skip(1).step_by(2)).all(|(kv, piece)| kv.value == piece));
                    pieces.concat().into()
                }
                _ => panic!("{sizes:?}"),
            };
            assert_eq!(sent[..PREFIX], [&[0][..], &((sent.len() - PREFIX) as u32).to_be_bytes()].concat());
            assert_eq!(RangeResponse::decode(sent.slice(PREFIX..)).unwrap(), expected);
        }
    }

    #[test]
    fn values_apart_are_not_copied() {
        let whole = answer(&[APART]);
        let lies = whole.kvs[0].value.as_ptr();
        let Reply::Pieces(pieces) = range(whole) else { panic!("pieces") };
        assert_eq!(pieces[1].as_ptr(), lies);
    }

    #[test]
    fn failures_have_no_body() {
        let refused = failure(Status::not_found("no such thing"));
        assert_eq!(
            (&refused.headers()["grpc-status"], &refused.headers()["grpc-message"]),
            (&"5".parse().unwrap(), &"no%20such%20thing".parse().unwrap())
        );
        assert_eq!(refused.headers()["content-type"], "application/grpc");
    }
}
