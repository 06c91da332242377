//! The one message of a unary call, gathered from the pieces in which it comes.

use bytes::{Bytes, BytesMut};
use tonic::Status;

use crate::call::PREFIX;

/// What has come of a request's message.
///
/// One that comes in one piece is not copied. Further messages are looked at and passed over, as Go's library does.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    first: First,
    prefix: [u8; PREFIX],
    /// Bytes of a prefix at hand.
    have: usize,
    /// Bytes of a message that are still to come.
    left: usize,
    /// Messages that began, and the bytes of messages that came.
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
enum First {
    #[default]
    Nothing,
    Part(BytesMut),
    Whole(Bytes),
}

impl Gather {
    /// Takes a piece of a request's body, where messages may have `most` bytes.
    ///
    /// # Errors
    /// For messages that are compressed or too large: the status of the call.
    pub(crate) fn push(&mut self, mut data: Bytes, most: usize) -> Result<(), Status> {
        while !data.is_empty() {
            if self.left > 0 {
                let part = data.split_to(self.left.min(data.len()));
                self.left -= part.len();
                self.bytes += part.len() as u64;
                self.keep(part);
                continue;
            }
            if self.have == 0 && data.len() >= PREFIX {
                self.prefix.copy_from_slice(&data.split_to(PREFIX));
            } else {
                let part = data.split_to((PREFIX - self.have).min(data.len()));
                self.prefix[self.have..self.have + part.len()].copy_from_slice(&part);
                self.have += part.len();
                if self.have < PREFIX {
                    break;
                }
                self.have = 0;
            }
            self.begin(most)?;
        }
        Ok(())
    }

    /// A message begins, of which the prefix is there.
    fn begin(&mut self, most: usize) -> Result<(), Status> {
        self.messages += 1;
        let [flag, length @ ..] = self.prefix;
        match flag {
            0 => {}
            1 => {
                return Err(Status::internal(
                    "protocol error: received message with compressed-flag but no grpc-encoding was specified",
                ));
            }
            flag => {
                return Err(Status::internal(format!(
                    "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1), \
                     while sending request"
                )));
            }
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > most {
            let text = format!("grpc: received message larger than max ({length} vs. {most})");
            return Err(Status::resource_exhausted(text));
        }
        self.left = length;
        if length == 0 && matches!(self.first, First::Nothing) {
            self.first = First::Whole(Bytes::new());
        }
        Ok(())
    }

    /// Keeps a piece if it is the first message's.
    fn keep(&mut self, part: Bytes) {
        match &mut self.first {
            First::Whole(_) => {}
            First::Nothing if self.left == 0 => self.first = First::Whole(part),
            // Room is made for what is there, not for what is promised.
            First::Nothing => self.first = First::Part(BytesMut::from(&part[..])),
            First::Part(parts) => {
                parts.extend_from_slice(&part);
                if self.left == 0 {
                    self.first = First::Whole(std::mem::take(parts).freeze());
                }
            }
        }
    }

    /// Bytes that are held in copies.
    pub(crate) fn held(&self) -> usize {
        match &self.first {
            First::Part(parts) => parts.len(),
            _ => 0,
        }
    }

    /// Messages that began, and bytes of messages that came.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// The message, at the end of the body.
    ///
    /// # Errors
    /// The status of a call whose body ended too early.
    pub(crate) fn end(&mut self) -> Result<Bytes, Status> {
        if self.left > 0 || self.have > 0 {
            return Err(Status::internal("Unexpected EOF decoding stream."));
        }
        match std::mem::take(&mut self.first) {
            First::Whole(message) => Ok(message),
            _ => Err(Status::internal("Missing request message.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let frame = |message: &&[u8]| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        messages.iter().flat_map(frame).collect()
    }

    fn gather(body: &[u8], size: usize) -> Result<(Bytes, (u64, u64)), Status> {
        let mut gather = Gather::default();
        for piece in body.chunks(size.max(1)) {
            gather.push(Bytes::copy_from_slice(piece), 1000)?;
        }
        let counted = gather.counted();
        gather.end().map(|message| (message, counted))
    }

    #[test]
    fn the_first_message_is_found_wherever_pieces_are_cut() {
        for messages in [&[&b"hello"[..]][..], &[b""], &[b"", b"x"], &[b"one", b"two", b""], &[&[7; 1000]]] {
            let body = framed(messages);
            let bytes: usize = messages.iter().map(|message| message.len()).sum();
            for size in 1..=body.len() {
                let (message, counted) = gather(&body, size).unwrap();
                assert_eq!((&message[..], counted), (messages[0], (messages.len() as u64, bytes as u64)));
            }
        }
    }

    #[test]
    fn what_comes_in_one_piece_is_not_copied() {
        let body = Bytes::from(framed(&[b"hello"]));
        let mut gather = Gather::default();
        gather.push(body.clone(), 1000).unwrap();
        assert_eq!(gather.end().unwrap().as_ptr(), body[PREFIX..].as_ptr());
    }

    #[test]
    fn only_what_has_come_takes_memory() {
        let mut gather = Gather::default();
        let promised = 1 << 30;
        gather.push([&[0][..], &(promised as u32).to_be_bytes(), b"abc"].concat().into(), promised).unwrap();
        assert_eq!(gather.held(), 3);
        let First::Part(parts) = &gather.first else { panic!("a part") };
        assert!(parts.capacity() < 1000);
    }

    #[test]
    fn what_is_wrong_is_told_as_by_grpc() {
        let told = |body: &[u8]| {
            (1..=body.len().max(1)).for_each(|size| assert!(gather(body, size).is_err()));
            let status = gather(body, 100_000).unwrap_err();
            (status.code(), status.message().to_owned())
        };
        assert_eq!(told(b""), (Code::Internal, "Missing request message.".to_owned()));
        for early in [&b"\0"[..], b"\0\0\0\0\x02x", b"\0\0\0\0\0\0\0"] {
            assert_eq!(told(early), (Code::Internal, "Unexpected EOF decoding stream.".to_owned()));
        }
        let large = "grpc: received message larger than max (1001 vs. 1000)".to_owned();
        assert_eq!(told(b"\0\0\0\x03\xe9"), (Code::ResourceExhausted, large));
        assert!(told(b"\x01\0\0\0\0").1.contains("no grpc-encoding was specified"));
        assert!(told(b"\x02\0\0\0\0").1.contains("invalid compression flag: 2"));
    }
}
