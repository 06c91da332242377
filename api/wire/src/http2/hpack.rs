//! Headers, packed (HPACK, RFC 7541).
//!
//! The decoder is whole. What we send ourselves is packed without Huffman's code, and at most a few headers that every
//! message has are put into the other side's table ([`literal`], [`Indexing`]).

use std::collections::VecDeque;

use super::huffman;
use super::table::STATIC;

/// Size of a table where nothing else is said, in bytes as the standard counts them.
pub const DEFAULT_TABLE: usize = 4096;
/// What an entry counts for beside its texts.
const ENTRY: usize = 32;

/// What was sent is no packed header. The connection cannot go on, since the tables of both sides may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed header block")]
pub struct Malformed;

/// A name and its value.
type Field = (Box<[u8]>, Box<[u8]>);

/// One side's table, and the unpacking with it.
#[derive(Debug)]
pub struct Decoder {
    entries: VecDeque<Field>,
    size: usize,
    /// What the other side has said that it uses.
    most: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    /// With a table of [`DEFAULT_TABLE`] bytes, which is also the most that the other side may use.
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: DEFAULT_TABLE, name: Vec::new(), value: Vec::new() }
    }
}

impl Decoder {
    /// Unpacks a whole block, and hands its names and values on, in order. Blocks are to be unpacked in the order in which
    /// they come, wanted or not.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn decode(&mut self, mut block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut begun = false;
        while let Some(first) = block.first() {
            if first & 0x80 != 0 {
                let (name, value) = self.entry(integer(&mut block, 7)?)?;
                field(name, value);
            } else if first & 0xe0 == 0x20 {
                // Only in front of all headers.
                let most = integer(&mut block, 5)?;
                if begun || most > DEFAULT_TABLE {
                    return Err(Malformed);
                }
                self.most = most;
                self.shrink(0);
                continue;
            } else {
                let keep = first & 0x40 != 0;
                let index = integer(&mut block, if keep { 6 } else { 4 })?;
                let mut name = std::mem::take(&mut self.name);
                name.clear();
                match index {
                    0 => text(&mut block, &mut name)?,
                    index => name.extend_from_slice(self.entry(index)?.0),
                }
                self.name = name;
                self.value.clear();
                text(&mut block, &mut self.value)?;
                field(&self.name, &self.value);
                if keep {
                    self.keep();
                }
            }
            begun = true;
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        self.entries.get(index - STATIC.len()).map(|(name, value)| (&name[..], &value[..])).ok_or(Malformed)
    }

    /// Puts the header that was just read into the table.
    fn keep(&mut self) {
        let size = ENTRY + self.name.len() + self.value.len();
        self.shrink(size);
        // One that is larger than the table leaves it empty.
        if size <= self.most {
            self.size += size;
            self.entries.push_front((self.name[..].into(), self.value[..].into()));
        }
    }

    /// Drops the oldest entries until there is room for so many bytes.
    fn shrink(&mut self, wanted: usize) {
        while self.size + wanted > self.most
            && let Some((name, value)) = self.entries.pop_back()
        {
            self.size -= ENTRY + name.len() + value.len();
        }
    }
}

/// A number that begins in the last `bits` bits of a byte (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let (first, mut rest) = block.split_first().ok_or(Malformed)?;
    let most = (1_usize << bits) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        // Four bytes more are beyond anything that fits into a block.
        for shift in (0..).step_by(7).take(5) {
            let (byte, behind) = rest.split_first().ok_or(Malformed)?;
            rest = behind;
            if shift == 28 {
                return Err(Malformed);
            }
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(number)
}

fn text(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let coded = block.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    match coded {
        true => huffman::decode(text, out),
        false => {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}

/// Whether the other side is to remember a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// It goes into its table, where it is number 62 until the next one does.
    Keep,
    None,
}

/// Appends a header spelled out.
pub fn literal(indexing: Indexing, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(if indexing == Indexing::Keep { 0x40 } else { 0 });
    for text in [name, value] {
        put_integer(text.len(), 7, 0, out);
        out.extend_from_slice(text);
    }
}

/// Appends a header that is in the table under this number.
pub fn indexed(number: usize, out: &mut Vec<u8>) {
    put_integer(number, 7, 0x80, out);
}

/// Appends the word that the table is emptied, and not used any more.
pub fn no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

fn put_integer(number: usize, bits: u32, flags: u8, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if number < most {
        return out.push(flags | number as u8);
    }
    out.push(flags | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(String, String)>;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Malformed> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, |name, value| fields.push((text(name), text(value)))).map(|()| fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// RFC 7541, appendix C.4: requests with Huffman's code on one connection.
    #[test]
    fn the_requests_of_the_standard_are_read() {
        let mut decoder = Decoder::default();
        let common = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        let first = hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
        assert_eq!(decode(&mut decoder, &first), Ok(fields(&common)));
        assert_eq!(decoder.size, 57);
        let second = hex("8286 84be 5886 a8eb 1064 9cbf");
        let expected = [&common[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(decode(&mut decoder, &second), Ok(fields(&expected)));
        let third = hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        let expected = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decode(&mut decoder, &third), Ok(fields(&expected)));
        assert_eq!((decoder.size, decoder.entries.len()), (164, 3));
    }

    /// RFC 7541, appendix C.5, with the table of 256 bytes that it has there.
    #[test]
    fn what_is_oldest_leaves_the_table() {
        let mut decoder = Decoder::default();
        let size = hex("3fe1 01");
        assert_eq!(decode(&mut decoder, &size), Ok(vec![]));
        assert_eq!(decoder.most, 256);
        for (name, value) in [("a", "x".repeat(91)), ("b", "y".repeat(91)), ("c", "z".repeat(91))] {
            let mut block = Vec::new();
            literal(Indexing::Keep, name.as_bytes(), value.as_bytes(), &mut block);
            decode(&mut decoder, &block).unwrap();
        }
        assert_eq!((decoder.size, decoder.entries.len()), (248, 2));
        assert_eq!(decode(&mut decoder, &[0xbf]).unwrap()[0].0, "b");
        assert_eq!(decode(&mut decoder, &[0xc0]), Err(Malformed));
        let mut block = Vec::new();
        literal(Indexing::Keep, b"large", &[b'l'; 256], &mut block);
        assert_eq!(decode(&mut decoder, &block).unwrap().len(), 1);
        assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let mut decoder = Decoder::default();
        // No entry 0; none in an empty table; a table larger than allowed, or resized behind a header; texts and numbers
        // that end early; a number that does not end.
        for wrong in ["80", "be", "3fe2 1f", "82 20", "40", "40 03 6162", "00 01 61", "ff", "ffff ffff ff0f", "7f ff"] {
            assert_eq!(decode(&mut decoder, &hex(wrong)), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn what_is_kept_has_a_number() {
        let mut block = Vec::new();
        literal(Indexing::Keep, b"grpc-status", b"0", &mut block);
        indexed(62, &mut block);
        literal(Indexing::None, b"x", b"y", &mut block);
        indexed(62, &mut block);
        let mut decoder = Decoder::default();
        let status = ("grpc-status", "0");
        assert_eq!(decode(&mut decoder, &block), Ok(fields(&[status, status, ("x", "y"), status])));
        let mut cleared = Vec::new();
        no_table(&mut cleared);
        assert_eq!(decode(&mut decoder, &cleared), Ok(vec![]));
        assert_eq!(decode(&mut decoder, &[0xbe]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(block in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::default();
            let _ = decode(&mut decoder, &block);
            prop_assert!(decoder.size <= decoder.most);
        }

        #[test]
        fn headers_are_read_as_they_are_packed(
            pairs in proptest::collection::vec(("[a-z]{0,200}", "[ -~]{0,300}", any::<bool>()), 0..20)
        ) {
            let mut block = Vec::new();
            for (name, value, keep) in &pairs {
                let indexing = if *keep { Indexing::Keep } else { Indexing::None };
                literal(indexing, name.as_bytes(), value.as_bytes(), &mut block);
            }
            let expected: Fields = pairs.into_iter().map(|(name, value, _)| (name, value)).collect();
            prop_assert_eq!(decode(&mut Decoder::default(), &block), Ok(expected));
        }
    }
}
