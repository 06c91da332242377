//! The headers of answers as they go out. Those of nearly all answers are two that the client learns once.

use http::{HeaderMap, StatusCode};
use kelson_wire::http2::DEFAULT_FRAME;
use kelson_wire::http2::frame::{Head, flag, kind};
use kelson_wire::http2::hpack::{self, Indexing};

/// The number of the newest entry of a client's table.
const NEWEST: usize = 62;
/// `:status: 200` in the table that every client has.
const STATUS_OK: u8 = 0x88;

const CONTENT_TYPE: (&[u8], &[u8]) = (b"content-type", b"application/grpc");
const GRPC_STATUS: (&[u8], &[u8]) = (b"grpc-status", b"0");

/// What one client has been told.
#[derive(Debug)]
pub(super) struct Heads {
    /// Whether it keeps a table of the size that everybody has.
    table: bool,
    /// Whether it is yet to hear that its table is not used.
    disuse: bool,
    /// Entries of its table, and when those for a good answer were put there.
    entries: usize,
    content_type: Option<usize>,
    grpc_status: Option<usize>,
    block: Vec<u8>,
}

impl Default for Heads {
    fn default() -> Self {
        Self { table: true, disuse: false, entries: 0, content_type: None, grpc_status: None, block: Vec::new() }
    }
}

impl Heads {
    /// The client wants a table of so many bytes.
    pub(super) fn resize(&mut self, bytes: u32) {
        // A smaller one is not worth the trouble.
        if (bytes as usize) < hpack::DEFAULT_TABLE && self.table {
            (self.table, self.disuse) = (false, true);
        }
    }

    fn begin(&mut self) {
        self.block.clear();
        if std::mem::take(&mut self.disuse) {
            hpack::no_table(&mut self.block);
        }
    }

    /// A header that many answers have; returns when it was put into the client's table.
    fn common(&mut self, (name, value): (&[u8], &[u8]), known: Option<usize>) -> Option<usize> {
        match known {
            Some(at) if self.table => {
                hpack::indexed(NEWEST + self.entries - 1 - at, &mut self.block);
                known
            }
            None if self.table => {
                hpack::literal(Indexing::Keep, name, value, &mut self.block);
                self.entries += 1;
                Some(self.entries - 1)
            }
            _ => {
                hpack::literal(Indexing::None, name, value, &mut self.block);
                known
            }
        }
    }

    /// The frame of headers in front of a good answer.
    pub(super) fn good(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.begin();
        self.block.push(STATUS_OK);
        self.content_type = self.common(CONTENT_TYPE, self.content_type);
        write(&self.block, flag::END_HEADERS, stream, DEFAULT_FRAME, out);
    }

    /// The frame of headers behind it.
    pub(super) fn end(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.begin();
        self.grpc_status = self.common(GRPC_STATUS, self.grpc_status);
        write(&self.block, flag::END_HEADERS | flag::END_STREAM, stream, DEFAULT_FRAME, out);
    }

    /// Any headers: with a status in front of an answer, without one behind it.
    pub(super) fn any(
        &mut self,
        stream: u32,
        status: Option<StatusCode>,
        headers: &HeaderMap,
        ended: bool,
        most: usize,
        out: &mut Vec<u8>,
    ) {
        self.begin();
        match status {
            None => {}
            Some(StatusCode::OK) => self.block.push(STATUS_OK),
            Some(other) => hpack::literal(Indexing::None, b":status", other.as_str().as_bytes(), &mut self.block),
        }
        for (name, value) in headers {
            hpack::literal(Indexing::None, name.as_str().as_bytes(), value.as_bytes(), &mut self.block);
        }
        write(&self.block, if ended { flag::END_STREAM } else { 0 } | flag::END_HEADERS, stream, most, out);
    }
}

/// A block in as many frames as it takes.
fn write(block: &[u8], flags: u8, stream: u32, most: usize, out: &mut Vec<u8>) {
    let (mut rest, mut kind, mut first) = (block, kind::HEADERS, flags & flag::END_STREAM);
    loop {
        let (part, behind) = rest.split_at(rest.len().min(most));
        let last = if behind.is_empty() { flag::END_HEADERS } else { 0 };
        out.extend_from_slice(&Head { length: part.len(), kind, flags: first | last, stream }.bytes());
        out.extend_from_slice(part);
        if behind.is_empty() {
            return;
        }
        (rest, kind, first) = (behind, kind::CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use kelson_wire::http2::{Decoder, frame};

    use super::*;

    type Heard = Vec<(u8, u8, Vec<(String, String)>)>;

    /// What a client makes of frames of headers.
    fn heard(decoder: &mut Decoder, mut frames: &[u8]) -> Heard {
        let mut heard = Heard::new();
        let mut block = Vec::new();
        let mut begun = None;
        while let Some(head) = Head::read(frames) {
            let (payload, rest) = frames[frame::HEAD..].split_at(head.length);
            frames = rest;
            block.extend_from_slice(payload);
            let (kind, flags) = *begun.get_or_insert((head.kind, head.flags));
            assert_eq!(head.kind == kind::CONTINUATION, block.len() > payload.len());
            if head.has(flag::END_HEADERS) {
                let mut fields = Vec::new();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                decoder.decode(&block, |name, value| fields.push((text(name), text(value)))).unwrap();
                heard.push((kind, flags | head.flags, fields));
                block.clear();
                begun = None;
            }
        }
        assert!(frames.is_empty() && block.is_empty());
        heard
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn good_answers_shrink_and_are_heard_the_same() {
        for resize in [None, Some(0), Some(1)] {
            let (mut heads, mut decoder) = (Heads::default(), Decoder::default());
            let mut sizes = Vec::new();
            for round in 0..4 {
                if resize == Some(round) {
                    heads.resize(100);
                    heads.resize(4096);
                }
                let mut out = Vec::new();
                if round == 1 {
                    heads.any(1, Some(StatusCode::NOT_FOUND), &HeaderMap::new(), false, 100, &mut out);
                    let other = heard(&mut decoder, &out);
                    assert_eq!(other, [(kind::HEADERS, flag::END_HEADERS, vec![pair(":status", "404")])]);
                    out.clear();
                }
                heads.good(1, &mut out);
                heads.end(1, &mut out);
                sizes.push(out.len());
                let head = vec![pair(":status", "200"), pair("content-type", "application/grpc")];
                let expected = [
                    (kind::HEADERS, flag::END_HEADERS, head),
                    (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, vec![pair("grpc-status", "0")]),
                ];
                assert_eq!(heard(&mut decoder, &out), expected);
            }
            assert_eq!(sizes[3], if resize.is_none() { 2 * frame::HEAD + 3 } else { sizes[2] });
        }
    }

    #[test]
    fn headers_go_on_where_a_frame_ends() {
        let value = "v".repeat(500);
        let headers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_str(&value).unwrap())]);
        for (status, ended) in [(Some(StatusCode::OK), false), (None, true)] {
            let mut out = Vec::new();
            Heads::default().any(3, status, &headers, ended, 100, &mut out);
            let [(kind, flags, fields)] = &heard(&mut Decoder::default(), &out)[..] else { panic!("one block") };
            assert_eq!((*kind, flags & flag::END_STREAM == flag::END_STREAM), (kind::HEADERS, ended));
            assert_eq!(fields.last(), Some(&pair("etag", &value)));
        }
    }
}
