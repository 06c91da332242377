//! A request that is a stream: JSON objects one after the other, each a message as soon as it is complete.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use prost_reflect::MessageDescriptor;
use tonic::Status;

use super::json;
use crate::call::Source;

/// A body, and how far it has been looked through.
pub(super) struct Objects {
    body: Source,
    kind: MessageDescriptor,
    most: usize,
    cut: Cut,
}

impl Objects {
    /// Reads messages of a kind, each of `most` bytes of JSON at most.
    pub(super) fn new(body: Source, kind: MessageDescriptor, most: usize) -> Self {
        Self { body, kind, most, cut: Cut::default() }
    }

    /// The messages. The first failure is the last item.
    pub(super) fn messages(self) -> impl Stream<Item = Result<Vec<u8>, Status>> + Send {
        stream::unfold(Some(self), |open| async move {
            let mut objects = open?;
            match objects.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(objects))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        loop {
            if let Some(object) = self.cut.next().map_err(Status::invalid_argument)? {
                return json::to_message(&self.kind, &object).map(Some);
            }
            if self.cut.held() > self.most {
                return Err(super::too_large(self.most));
            }
            match self.body.frame().await {
                None if self.cut.held() == 0 => return Ok(None),
                None => return Err(Status::invalid_argument("unexpected EOF")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.cut.push(&data);
                    }
                }
                Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
            }
        }
    }
}

/// Cuts a text into its outermost objects, looking at each byte once.
#[derive(Default)]
struct Cut {
    held: BytesMut,
    /// Bytes of `held` that were looked at.
    seen: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Cut {
    fn push(&mut self, data: &[u8]) {
        self.held.extend_from_slice(data);
    }

    /// Bytes that belong to no object yet.
    fn held(&self) -> usize {
        self.held.len()
    }

    /// The next object, if it is there to its end.
    fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.depth == 0 {
            let blank = self.held.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let _ = self.held.split_to(blank);
            match self.held.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => {
                    return Err(format!("invalid character {:?} looking for beginning of value", char::from(*other)));
                }
            }
        }
        while let Some(byte) = self.held.get(self.seen) {
            self.seen += 1;
            match byte {
                _ if std::mem::take(&mut self.escaped) => {}
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' if !self.in_text => self.depth += 1,
                b'}' if !self.in_text => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Ok(Some(self.held.split_to(std::mem::take(&mut self.seen)).freeze()));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The outermost objects of a text that comes in pieces of this size, and whether it ends in something else.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn cut(text: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let (mut cut, mut objects) = (Cut::default(), Vec::new());
    for piece in text.chunks(piece) {
        cut.push(piece);
        loop {
            match cut.next() {
                Ok(Some(object)) => objects.push(object),
                Ok(None) => break,
                Err(_) => return (objects, true),
            }
        }
    }
    (objects, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_cut_wherever_pieces_end() {
        let text = br#" {"a":{"b":"}\"{\\"}}{} {"c":1}
"#;
        for size in 1..text.len() {
            let (mut cut, mut objects) = (Cut::default(), Vec::new());
            for piece in text.chunks(size) {
                cut.push(piece);
                while let Some(object) = cut.next().unwrap() {
                    objects.push(object);
                }
            }
            assert_eq!(objects, [&br#"{"a":{"b":"}\"{\\"}}"#[..], b"{}", br#"{"c":1}"#], "pieces of {size}");
            assert_eq!(cut.held(), 0);
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in [&b"xx"[..], b"[{}]", b"} {", b"1"] {
            let mut cut = Cut::default();
            cut.push(text);
            assert!(cut.next().is_err(), "{text:?}");
        }
    }
}
