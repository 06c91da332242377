//! gRPC's message framing: one byte of flags, four of length, the message.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes before each message.
const PREFIX: usize = 5;

/// A message as it goes on the wire, encoded once.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

/// How much of an answer the caller wants back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The whole message.
    Whole,
    /// The last bytes of it, this many at most: what a load client reads of an answer too large to be worth a copy.
    Tail(usize),
}

/// Puts a message together from the DATA frames that it came in.
pub struct Assembly {
    keep: Keep,
    first: Bytes,
    rest: BytesMut,
}

impl Assembly {
    /// An empty one.
    pub fn new(keep: Keep) -> Assembly {
        Assembly { keep, first: Bytes::new(), rest: BytesMut::new() }
    }

    /// The next part of the body.
    pub fn push(&mut self, part: Bytes) {
        if let Keep::Tail(length) = self.keep
            && part.len() >= length
        {
            // Nothing of what came before it is wanted, and nothing of it is copied.
            self.first = part.slice(part.len() - length..);
            self.rest.clear();
            return;
        }
        if self.first.is_empty() && self.rest.is_empty() {
            // Most answers come in one part, which is passed on as it is.
            self.first = part;
            return;
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&self.first);
        }
        self.rest.extend_from_slice(&part);
        if let Keep::Tail(length) = self.keep
            && self.rest.len() > 2 * length + part.len()
        {
            let _ = self.rest.split_to(self.rest.len() - length);
        }
    }

    /// The message, or its tail. A body without a message is an empty one.
    pub fn finish(self) -> Bytes {
        let whole = self.rest.is_empty();
        let body = if whole { self.first } else { self.rest.freeze() };
        match self.keep {
            Keep::Whole => body.slice(PREFIX.min(body.len())..),
            Keep::Tail(length) => body.slice(body.len().saturating_sub(length)..),
        }
    }
}

/// Cuts a stream's body into its messages. Those that lie within one part are not copied.
#[derive(Default)]
pub struct Cutter {
    /// A message of which a part is there.
    begun: BytesMut,
    /// What comes behind it.
    part: Bytes,
}

impl Cutter {
    /// The next part of the body; to be called when there is no whole message left.
    pub fn push(&mut self, part: Bytes) {
        if !self.part.is_empty() {
            self.begun.extend_from_slice(&self.part);
        }
        self.part = part;
    }

    /// The next whole message, if one is there.
    pub fn next(&mut self) -> Option<Bytes> {
        if self.begun.is_empty() {
            let end = end(&self.part)?;
            return (self.part.len() >= end).then(|| self.part.split_to(end).slice(PREFIX..));
        }
        self.fill(PREFIX);
        let end = end(&self.begun)?;
        self.fill(end);
        (self.begun.len() == end).then(|| self.begun.split().freeze().slice(PREFIX..))
    }

    /// Takes of the part what the message that has begun lacks of `length` bytes.
    fn fill(&mut self, length: usize) {
        let lacking = length.saturating_sub(self.begun.len());
        self.begun.reserve(lacking);
        self.begun.extend_from_slice(&self.part.split_to(lacking.min(self.part.len())));
    }
}

/// Where the message ends that begins here, if that can be told.
fn end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..PREFIX)?.try_into().ok().map(u32::from_be_bytes)?;
    Some(PREFIX + usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use kelson_wire::pb::etcdserverpb::PutRequest;

    use super::*;

    fn put(value: &'static str) -> PutRequest {
        PutRequest { key: "key".into(), value: value.into(), ..PutRequest::default() }
    }

    #[test]
    fn a_frame_is_prefix_and_message() {
        let framed = frame(&put("value"));
        assert_eq!(framed[..PREFIX], [0, 0, 0, 0, u8::try_from(put("value").encoded_len()).unwrap()]);
        assert_eq!(PutRequest::decode(framed.slice(PREFIX..)).unwrap(), put("value"));
    }

    #[test]
    fn messages_are_found_wherever_the_parts_end() {
        let body = [frame(&put("one")), frame(&put("")), frame(&put("three"))].concat();
        for step in 1..body.len() {
            let (mut cutter, mut found) = (Cutter::default(), Vec::new());
            for part in body.chunks(step) {
                cutter.push(Bytes::copy_from_slice(part));
                found.extend(std::iter::from_fn(|| cutter.next()).map(|bytes| PutRequest::decode(bytes).unwrap()));
            }
            assert_eq!(found, [put("one"), put(""), put("three")], "parts of {step}");
        }
    }

    #[test]
    fn an_answer_in_parts_is_the_answer() {
        let body = frame(&put("a value of some length"));
        for step in 1..=body.len() {
            let mut whole = Assembly::new(Keep::Whole);
            let mut tail = Assembly::new(Keep::Tail(4));
            for part in body.chunks(step) {
                whole.push(Bytes::copy_from_slice(part));
                tail.push(Bytes::copy_from_slice(part));
            }
            assert_eq!(whole.finish(), body.slice(PREFIX..), "parts of {step}");
            assert_eq!(tail.finish(), body.slice(body.len() - 4..), "parts of {step}");
        }
        assert!(Assembly::new(Keep::Whole).finish().is_empty());
    }
}
