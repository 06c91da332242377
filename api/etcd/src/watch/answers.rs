//! What a stream has to say, as the bytes that go out: whole messages, several to a piece.
//!
//! Events are encoded once for all watches of the stream that tell them at the same time.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kelson_engine::{Event, EventKind};
use kelson_wire::pb::etcdserverpb::WatchResponse;
use kelson_wire::pb::mvccpb;
use prost::Message;

use crate::call::PREFIX;
use crate::convert;

/// Bytes of a piece, about: one message may be larger.
const PIECE: usize = 64 << 10;

/// The largest message that gRPC's libraries take.
const MOST: usize = i32::MAX as usize;

/// The number of a [`WatchResponse`]'s field of events.
const EVENTS: u32 = 11;

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

/// The events that some watch has told last, as they were encoded.
#[derive(Default)]
pub(super) struct Encoded {
    events: Vec<Arc<Event>>,
    /// Which of them tell their previous version: those of a later revision, if any.
    previous_after: Option<i64>,
    bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    ends: Vec<usize>,
}

impl Encoded {
    /// Encodes the events, unless they are the same as the last time. Events behind the revision `previous_after`
    /// tell what was there before.
    pub(super) fn encode(&mut self, events: Vec<Arc<Event>>, previous_after: Option<i64>) {
        let same = self.events.len() == events.len() && self.events.iter().zip(&events).all(|(a, b)| Arc::ptr_eq(a, b));
        if same && self.previous_after == previous_after {
            return;
        }
        self.bytes.clear();
        self.ends.clear();
        for event in &events {
            let tells = previous_after.is_some_and(|revision| event.revision() > revision);
            prost::encoding::message::encode(EVENTS, &pb_event(event, tells), &mut self.bytes);
            self.ends.push(self.bytes.len());
        }
        (self.events, self.previous_after) = (events, previous_after);
    }

    /// All of them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of them in parts of less than `most` bytes, or of one event each.
    pub(super) fn parts(&self, most: usize) -> impl Iterator<Item = &[u8]> {
        let mut ends = self.ends.iter().copied().peekable();
        let mut from = 0;
        std::iter::from_fn(move || {
            let mut to = ends.next()?;
            while let Some(end) = ends.next_if(|end| end - from < most) {
                to = end;
            }
            Some(&self.bytes[std::mem::replace(&mut from, to)..to])
        })
    }
}

/// Events are shared: one knows its previous version as soon as any watch wanted it.
fn pb_event(event: &Event, prev_kv: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(convert::key_value(event.kv.clone())),
        prev_kv: event.prev_kv().filter(|_| prev_kv).cloned().map(convert::key_value),
    }
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
        let encoded = Encoded { bytes: (0..31).collect(), ends, ..Encoded::default() };
        for most in 0..40 {
            let parts: Vec<_> = encoded.parts(most).collect();
            assert_eq!(parts.concat(), encoded.bytes());
            let mut end = 0;
            for part in &parts {
                end += part.len();
                assert!(encoded.ends.contains(&end), "an event was cut");
                let single = encoded.ends.windows(2).any(|pair| pair[1] - pair[0] == part.len()) || part.len() == 3;
                assert!(part.len() < most || single, "{} of {most}", part.len());
            }
        }
    }
}
