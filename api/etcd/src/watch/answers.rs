//! What a stream has to say, as the bytes that go out: whole messages, several to a piece.
//!
//! Events are encoded once for all watches, of all streams, that tell them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kelson_engine::{Encoded, Event, EventKind, KeyValue};
use kelson_wire::pb::etcdserverpb::WatchResponse;
use kelson_wire::pb::mvccpb;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, int32, int64, key_len};

use crate::call::PREFIX;

/// Bytes of a piece, about: one message may be larger.
const PIECE: usize = 64 << 10;

/// The largest message that gRPC's libraries take.
const MOST: usize = i32::MAX as usize;

/// Numbers of fields: a [`WatchResponse`]'s events, and an event's own.
const EVENTS: u32 = 11;
const KIND: u32 = 1;
const KV: u32 = 2;
const PREV_KV: u32 = 3;

/// Answers that wait to be sent.
#[derive(Default)]
pub(super) struct Answers {
    bytes: BytesMut,
}

/// A message that is larger than any may be, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub(super) usize);

impl Answers {
    /// Adds an answer with these encoded events behind it; its own are none.
    pub(super) fn push(&mut self, answer: &WatchResponse, events: &[u8]) -> Result<(), TooLarge> {
        let length = answer.encoded_len() + events.len();
        if length > MOST {
            return Err(TooLarge(length));
        }
        self.bytes.reserve(PREFIX + length);
        self.bytes.put_u8(0);
        self.bytes.put_u32(length as u32);
        // There is room for it, which is all that could be missing.
        let _ = answer.encode(&mut self.bytes);
        self.bytes.put_slice(events);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether there is enough for a piece.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= PIECE
    }

    /// Takes what there is.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        (!self.is_empty()).then(|| self.bytes.split().freeze())
    }
}

/// Events as they go out, each with its key and length. Events behind the revision `previous_after` tell what was there
/// before; others know it as well as soon as any watch wanted it.
pub(super) fn encode(events: &[Arc<Event>], previous_after: Option<i64>) -> Encoded {
    let mut encoded = Encoded { ends: Vec::with_capacity(events.len()), previous_after, ..Encoded::default() };
    for event in events {
        let tells = previous_after.is_some_and(|revision| event.revision() > revision);
        put_event(event, event.prev_kv().filter(|_| tells), &mut encoded.bytes);
        encoded.ends.push(encoded.bytes.len());
    }
    encoded
}

/// All of them in parts of less than `most` bytes, or of one event each.
pub(super) fn parts(encoded: &Encoded, most: usize) -> impl Iterator<Item = &[u8]> {
    let mut ends = encoded.ends.iter().copied().peekable();
    let mut from = 0;
    std::iter::from_fn(move || {
        let mut to = ends.next()?;
        while let Some(end) = ends.next_if(|end| end - from < most) {
            to = end;
        }
        Some(&encoded.bytes[std::mem::replace(&mut from, to)..to])
    })
}

/// Writes one event as a [`WatchResponse`]'s field: from where it lies, for a message of its own would count references
/// to each key and value.
fn put_event(event: &Event, previous: Option<&KeyValue>, out: &mut Vec<u8>) {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    } as i32;
    let field = |length: usize| key_len(KV) + encoded_len_varint(length as u64) + length;
    let kind_length = if kind == 0 { 0 } else { int32::encoded_len(KIND, &kind) };
    let (own, before) = (kv_length(&event.kv), previous.map(kv_length));
    let length = kind_length + field(own) + before.map_or(0, field);
    out.reserve(field(length));
    encode_key(EVENTS, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
    if kind != 0 {
        int32::encode(KIND, &kind, out);
    }
    put_kv(KV, own, &event.kv, out);
    if let Some((kv, length)) = previous.zip(before) {
        put_kv(PREV_KV, length, kv, out);
    }
}

fn put_kv(number: u32, length: usize, kv: &KeyValue, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
    let texts = |number, text: &Bytes, out: &mut Vec<u8>| {
        if !text.is_empty() {
            prost::encoding::bytes::encode(number, text, out);
        }
    };
    texts(1, &kv.key, out);
    for (number, value) in numbers(kv) {
        int64::encode(number, &value, out);
    }
    texts(5, &kv.value, out);
    if kv.lease != 0 {
        int64::encode(6, &kv.lease, out);
    }
}

/// What lies between key and value; nothing is said of a 0.
fn numbers(kv: &KeyValue) -> impl Iterator<Item = (u32, i64)> {
    let numbers = [(2, kv.create_revision), (3, kv.mod_revision), (4, kv.version)];
    numbers.into_iter().filter(|(_, value)| *value != 0)
}

fn kv_length(kv: &KeyValue) -> usize {
    let texts = [(1, &kv.key), (5, &kv.value)].into_iter().filter(|(_, text)| !text.is_empty());
    let numbers = numbers(kv).chain((kv.lease != 0).then_some((6, kv.lease)));
    texts.map(|(number, text)| prost::encoding::bytes::encoded_len(number, text)).sum::<usize>()
        + numbers.map(|(number, value)| int64::encoded_len(number, &value)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_come_out_in_the_order_they_went_in() {
        let mut answers = Answers::default();
        assert!(answers.take().is_none());
        let event = mvccpb::Event { r#type: 1, ..Default::default() };
        let mut events = Vec::new();
        prost::encoding::message::encode(EVENTS, &event, &mut events);
        prost::encoding::message::encode(EVENTS, &event, &mut events);
        let told = |watch_id| WatchResponse { watch_id, ..Default::default() };
        answers.push(&told(7), &events).unwrap();
        answers.push(&told(8), &[]).unwrap();
        let mut piece = answers.take().unwrap();
        assert!(answers.is_empty());
        for expected in [WatchResponse { events: vec![event.clone(), event], ..told(7) }, told(8)] {
            let prefix = piece.split_to(PREFIX);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            assert_eq!(WatchResponse::decode(piece.split_to(length as usize)), Ok(expected));
        }
        assert!(piece.is_empty());
    }

    #[test]
    fn parts_are_less_than_most_and_leave_nothing_out() {
        let ends = vec![3, 5, 9, 30, 31];
        let encoded = Encoded { bytes: (0..31).collect(), ends, previous_after: None };
        for most in 0..40 {
            let parts: Vec<_> = parts(&encoded, most).collect();
            assert_eq!(parts.concat(), encoded.bytes);
            let mut end = 0;
            for part in &parts {
                end += part.len();
                assert!(encoded.ends.contains(&end), "an event was cut");
                let single = encoded.ends.windows(2).any(|pair| pair[1] - pair[0] == part.len()) || part.len() == 3;
                assert!(part.len() < most || single, "{} of {most}", part.len());
            }
        }
    }

    /// Events of an engine, so that they have all that events have; every second one knows its previous version.
    fn events() -> Vec<Arc<Event>> {
        use kelson_engine::command::{Command, DeleteRange, KeyRange, Put};
        use kelson_engine::{Applied, Engine, MemoryBackend, WatchPoll, WatchSpec};
        let mut engine = Engine::open(Arc::new(MemoryBackend::default())).unwrap();
        let all = KeyRange { start: "\0".into(), end: "\0".into() };
        let put = |key: &'static str, length: usize, lease| {
            Command::Put(Put { key: key.into(), value: vec![7; length].into(), lease, ..Put::default() })
        };
        let commands = [
            Command::LeaseGrant { id: i64::MAX, ttl: 60 },
            put("a", 0, 0),
            put("b", 127, i64::MAX),
            put("b", 128, 0),
            put("a", 70_000, 0),
            Command::DeleteRange(DeleteRange { range: all.clone(), prev_kv: false }),
            put("a", 1, 0),
        ];
        engine.apply(Applied { term: 1, node: 1, index: 1 }, &commands, &[]).unwrap();
        let spec = WatchSpec { range: all, start_revision: 1, no_put: false, no_delete: false, prev_kv: true };
        let mut watcher = engine.reader().watch(spec);
        match watcher.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()), 100) {
            WatchPoll::Events { events, .. } => events.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_encoded_as_the_definitions_say() {
        let events = events();
        assert_eq!(events.len(), 7);
        let kv = |kv: &KeyValue| crate::convert::key_value(kv.clone());
        for previous_after in [None, Some(0), Some(3), Some(5)] {
            let encoded = encode(&events, previous_after);
            let told = WatchResponse::decode(&encoded.bytes[..]).unwrap();
            let expected = events.iter().map(|event| mvccpb::Event {
                r#type: i32::from(event.kind == EventKind::Delete),
                kv: Some(kv(&event.kv)),
                prev_kv: event.prev_kv().filter(|_| previous_after < Some(event.revision())).map(kv),
            });
            let mut expected: Vec<mvccpb::Event> = expected.collect();
            if previous_after.is_none() {
                expected.iter_mut().for_each(|event| event.prev_kv = None);
            }
            assert_eq!(told.events, expected);
            assert_eq!(encoded.bytes, WatchResponse { events: expected, ..Default::default() }.encode_to_vec());
            assert_eq!((encoded.ends.len(), encoded.ends.last()), (7, Some(&encoded.bytes.len())));
        }
    }
}
